"""The Fréchet Inception Distance as a Keras metric."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fid.extractors.extractor import Extractor, check_interface
from fid.extractors.inception import Inception
from fid.files import InputError
from fid.measure import check_extractor, compute_statistics
from fid.metrics.frechet import Frechet, frechet_distance
from fid.sources.images import is_statistics, open_images
from fid.sources.pixels import ValueRange, range_name, with_channels
from fid.statistics import Moments, Statistics

__all__ = ["FrechetInceptionDistance"]

_OUTSIDE = (
    "FrechetInceptionDistance works on NumPy arrays and eager tensors, outside of a "
    "compiled step; call {name} from your own loop or a callback, or compile the model "
    "with run_eagerly=True. While training, tf_ttur.FrechetDistance is the callback."
)


class FrechetInceptionDistance(keras.metrics.Metric):
    """Fréchet distance between real and generated images, as a Keras metric.

    The state is two `fid.Moments`, in float64 on the host, so the distance is that of
    `fid.compute` on the same images in whatever batches they come. The distance is the
    FID where the extractor is the 2015 graph, as it is by default. Estimates from few
    images are biased upwards: use 10,000 or more.

    `update_state` and `result` are for outside of a compiled step. Inside of a
    `tf.function` they raise an error which says so.

    Args:
        reference: The real images, once and for all: a `Statistics`, the path of an
            `.npz` of them, or a source of images as `fid.compute_statistics` takes.
            None means that real images come through `update_state`.
        extractor: Maps images to features; None means the 2015 graph.
        inception: Where that graph is; None looks where
            `fid.extractors.download.find_graph` does.
        value_range: What float images span: "-1,1", "0,1" or "0,255", or the two
            numbers. None means [0, 255], checked. Images of bytes are never judged.
        quantize: How float images are rounded: "none", "truncate" or "round".
        reset_real: Whether `reset_state` also forgets the real images that came
            through `update_state`.
        name: By default "fid" for the 2015 graph and "frechet_<extractor>" otherwise.

    Raises:
        InputError: The graph or the reference cannot be used.

    Example:
        >>> import keras, numpy as np
        >>> from fid import FrechetInceptionDistance, KerasExtractor
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
        >>> metric = FrechetInceptionDistance(extractor=KerasExtractor(model, "colour"))
        >>> real = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
        >>> metric.update_state(real[:10], real[10:])
        >>> metric.update_state(real[10:], real[:10])
        >>> metric.name, round(metric.result(), 9)
        ('frechet_colour', 0.0)
    """

    def __init__(
        self,
        reference: Any = None,
        *,
        extractor: Extractor | None = None,
        inception: str | os.PathLike[str] | None = None,
        value_range: ValueRange | None = None,
        quantize: str = "none",
        reset_real: bool = True,
        name: str | None = None,
    ):
        if extractor is not None and inception is not None:
            raise InputError(
                "extractor and inception were both given; the graph is an extractor of "
                "its own: leave one out."
            )
        # A name is what a model's file can hold.
        value_range = range_name(value_range)
        self._config = {
            "reference": reference,
            "extractor": extractor,
            "inception": inception,
            "value_range": value_range,
            "quantize": quantize,
            "reset_real": reset_real,
            "name": name,
        }
        extractor = extractor or Inception(inception)
        check_interface(extractor)
        super().__init__(name=name or Frechet.metric_name(extractor.name))
        self.extractor = extractor
        self.reset_real = reset_real
        self._images = {"value_range": value_range, "quantize": quantize}
        self._reference = None
        if reference is not None:
            self._reference = _statistics(reference, extractor, self._images)
        self._real = Moments(extractor.dimension)
        self._generated = Moments(extractor.dimension)

    def update_state(self, *images: Any, sample_weight: None = None) -> None:
        """Adds real and generated images; with a reference, generated ones only.

        Args:
            *images: Arrays or eager tensors (n, H, W, C), of any n. The two sets need
                not be of one size; either may be None where there are no such images.
            sample_weight: Only None, which Keras passes on.

        Raises:
            InputError: The images cannot be used.
            RuntimeError: This is a compiled step.
        """
        if tf.inside_function() or any(map(tf.is_symbolic_tensor, images)):
            raise RuntimeError(_OUTSIDE.format(name="update_state"))
        if sample_weight is not None:
            raise InputError(
                f"{self.name} was given sample_weight; every image counts once: leave "
                "it out."
            )
        kinds = ("real_images", "generated_images")[self._reference is not None :]
        if len(images) != len(kinds):
            raise InputError(
                f"update_state was given {len(images)} sets of images; with"
                f"{'out' if self._reference is None else ''} a reference, call "
                f"update_state({', '.join(kinds)})."
            )
        features = [None if each is None else self._features(each) for each in images]
        # Nothing is added before all of them are known to be good.
        for moments, found in zip(
            (self._real, self._generated)[-len(kinds) :], features, strict=True
        ):
            if found is not None:
                moments.update(found)

    def result(self) -> float:
        """Returns the distance of all images so far.

        Returns:
            The distance, >= 0.

        Raises:
            InputError: There are fewer than two images on a side.
            RuntimeError: This is a compiled step.
        """
        if tf.inside_function():
            raise RuntimeError(_OUTSIDE.format(name="result"))
        sides = {"generated": self._generated}
        if self._reference is None:
            sides = {"real": self._real, **sides}
        for side, moments in sides.items():
            if moments.n < 2:
                raise InputError(
                    f"{self.name} needs at least 2 {side} images; {moments.n} came "
                    "since the last reset_state."
                )
        real = self._reference or self._real.statistics()
        return frechet_distance(self._generated.statistics(), real)

    def reset_state(self) -> None:
        """Forgets the generated images, and the real ones unless `reset_real=False`."""
        self._generated.reset()
        if self.reset_real:
            self._real.reset()

    def merge_state(self, metrics: Iterable[FrechetInceptionDistance]) -> None:
        """Adds everything other metrics have seen, of other shards for instance.

        Args:
            metrics: Metrics with the same extractor, and with a reference if this one
                has one; they are left as they are.

        Raises:
            InputError: They have another extractor, or another reference.
        """
        metrics = list(metrics)
        for other in metrics:
            if other.extractor.fingerprint != self.extractor.fingerprint:
                raise InputError(
                    f"{other.name} has features of other weights than {self.name}; "
                    "only metrics with the same extractor merge."
                )
            if not _same(self._reference, other._reference):
                raise InputError(
                    f"{other.name} and {self.name} do not have the same reference; "
                    "make both with the same one."
                )
        for other in metrics:
            self._real.merge(other._real)
            self._generated.merge(other._generated)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, where all of them are paths, texts and flags.

        Raises:
            InputError: The metric was made from objects, which no file can hold.
        """
        config = {
            key: os.fspath(value) if isinstance(value, os.PathLike) else value
            for key, value in self._config.items()
        }
        for key, value in config.items():
            if not isinstance(value, str | bool | None):
                raise InputError(
                    f"{self.name} was made with {key}={type(value).__name__}, which "
                    "cannot be written into a model's file; give a path, or do not "
                    "compile the metric into the model."
                )
        return config

    def _features(self, images: Any) -> np.ndarray:
        source = open_images(np.asarray(images), **self._images)
        batches = []
        for batch in source.batches(source.count):
            batches.append(
                self.extractor(with_channels(batch, self.extractor.channels))
            )
        return np.concatenate(batches)


def _statistics(
    reference: Any, extractor: Extractor, images: dict[str, Any]
) -> Statistics:
    if not isinstance(reference, Statistics):
        if not is_statistics(reference):
            return compute_statistics(reference, extractor, **images)
        reference = Statistics.load(reference)
    check_extractor(reference, extractor)
    return reference


def _same(one: Statistics | None, two: Statistics | None) -> bool:
    if one is None or two is None:
        return one is two
    return np.array_equal(one.mu, two.mu) and np.array_equal(one.sigma, two.sigma)

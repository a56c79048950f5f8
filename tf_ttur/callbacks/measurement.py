"""Measuring a model as it is trained: when, at what cost, and what if it fails."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from fid import measure
from fid.extractors.extractor import Extractor, check_interface
from fid.files import InputError
from fid.metrics import choose, needs_of
from fid.metrics.metric import Measured
from fid.sources.images import GeneratorSource
from fid.statistics import Statistics
from fid.values import Between, Count, Step, checked
from tf_ttur import termination
from tf_ttur.callbacks.steps import Diverged, StepCallback

__all__ = ["FrechetDistance", "Measurement"]

_log = logging.getLogger(__name__)
# A mean of float32 features leaves variances of about 1e-14 of it where there are none.
_NO_SPREAD = 1e-12
_KINDS = {
    "every": Count,
    "num_samples": Annotated[int, Between(2)],
    "batch_size": Count,
    "last": Step | None,
}


class Measurement(StepCallback):
    """Measures a model during training; a subclass says what of it.

    The value goes into the epoch's logs under `key`. What it is going to cost is said
    once in the log, from a try on one batch.

    Args:
        key: Name of the value in logs and files.
        title: Its name in figures and reports.
        every: Steps from one measurement to the next.
        num_samples: Samples to generate for each.
        batch_size: Samples at a time.
        last: A step to measure at, too, such as the last one of the run.

    Attributes:
        values: (step, value) of each measurement during `fit`.
        further: What else the last measurement found, numbers by their names in the
            logs.
        seconds: Seconds spent in measuring so far, the try included.
    """

    #: What samples are called.
    unit = "samples"
    #: Which further values a figure shows beside the value.
    beside: tuple[str, ...] = ()

    def __init__(
        self,
        key: str,
        title: str,
        every: int,
        num_samples: int,
        batch_size: int,
        last: int | None = None,
    ):
        super().__init__()
        every, num_samples, batch_size, last = checked(
            _KINDS,
            every=every,
            num_samples=num_samples,
            batch_size=batch_size,
            last=last,
        ).values()
        self.key, self.title = key, title
        self.every, self.num_samples = every, num_samples
        self.batch_size, self.last = batch_size, last
        self.values: list[tuple[int, float]] = []
        self.further: dict[str, float] = {}
        self.seconds = 0.0
        self._announced = False

    def observe(self, gan: Any, count: int) -> Any:
        """Gathers what is to be known of samples, without touching training's state.

        Args:
            gan: The model.
            count: Samples to generate.

        Returns:
            What `compare` takes.
        """
        raise NotImplementedError

    def compare(self, observed: Any) -> float:
        """Returns the value, the lower the better.

        Args:
            observed: What `observe` returned.
        """
        raise NotImplementedError

    @property
    def facts(self) -> dict[str, Any]:
        """What a value rests on, for best.json and summary.json."""
        return {"num_samples": self.num_samples}

    def measure(self, gan: Any) -> float:
        """Measures the model as it is now.

        Args:
            gan: A `GAN`.

        Returns:
            The value, finite.

        Raises:
            Diverged: Its samples cannot be measured; the message names the step.
            InputError: Measuring failed in another way, likewise.
        """
        with self._trying(gan):
            value = self.compare(self.observe(gan, self.num_samples))
            if not math.isfinite(value):
                raise InputError(f"it came to {value}.")
        return value

    def announce(self, gan: Any) -> None:
        """Says in the log, once, what measuring is going to cost.

        A batch is measured twice. The first time compiles the programs that `measure`
        uses; the second one is timed.

        Args:
            gan: A `GAN`.
        """
        if self._announced:
            return
        self._announced = True
        count = min(self.num_samples, max(2, self.batch_size))
        with self._trying(gan):
            self.observe(gan, count)
            begin = time.monotonic()
            self.observe(gan, count)
            minutes = (time.monotonic() - begin) / 60 * self.num_samples / count
        _log.info(
            "Measuring %s: %s %s, about %.2g minutes, every %s steps%s.",
            self.key,
            f"{self.num_samples:,}",
            self.unit,
            minutes,
            f"{self.every:,}",
            self._in_all(gan.steps, minutes),
        )

    def _in_all(self, step: int, minutes: float) -> str:
        if self.last is None:
            return ""
        count = self.last // self.every - step // self.every
        count += bool(self.last % self.every)
        return (
            f"; {count} up to step {self.last:,}, about {count * minutes:.2g} minutes"
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Says what measuring is going to cost."""
        self.announce(self.model)

    def on_steps(self, before: int, now: int, logs: dict[str, float]) -> None:
        """Measures when a multiple of `every`, or `last`, has been reached."""
        if before // self.every != now // self.every or now == self.last:
            self.values.append((now, self.measure(self.model)))
            _log.debug("step %d: %s = %.4f", now, self.key, self.values[-1][1])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the epoch's last value to its logs."""
        if logs is not None and self.values and self.values[-1][0] > self._epoch_start:
            logs |= {self.key: self.values[-1][1], **self.further}

    @contextlib.contextmanager
    def _trying(self, gan: Any) -> Iterator[None]:
        """Counts the time, and makes of any failure one error that names the step."""
        begin, failed = time.monotonic(), f"{self.key} cannot be measured at step "
        try:
            with termination.at_once():
                yield
        except MemoryError:
            raise
        except InputError as error:
            raise Diverged(f"{failed}{gan.steps}: {error}", gan.steps) from error
        except Exception as error:
            text = " ".join(str(error).split())[:2000]
            raise InputError(
                f"{failed}{gan.steps}: {type(error).__name__}: {text}"
            ) from error
        finally:
            self.seconds += time.monotonic() - begin


class FrechetDistance(Measurement):
    """Measures the Fréchet distance between generated and real images during training.

    The value goes into the epoch's logs under `fid` for the 2015 graph and
    `frechet_<extractor>` for any other extractor. Latents are drawn from `seed` each
    time, so that values differ only by the generator, and training's own random state
    is not touched. `fit` stops where it cannot be measured, with an error that names
    the step; no number ever stands for a failure.

    Callbacks of Keras that read the value come after this one in the list, and are told
    that smaller is better: `EarlyStopping(monitor="fid", mode="min")`. They read it at
    the end of an epoch, so an epoch (`steps_per_epoch`) is to have `every` steps.

    Other metrics may be measured from the same images, beside the distance or in its
    place. The first is the value, the lower the better, so that `best/` is kept by it;
    the numbers of the others go into the epoch's logs under their names in JSON.

    Args:
        reference: Statistics of the real images: a `fid.Statistics`, or the path of an
            `.npz` of them, or a source of images as `fid.compute_statistics` takes.
        every: Steps from one measurement to the next. With several steps per execution
            it is taken at the first end of one that has reached or passed a multiple.
        num_samples: Images to generate for each (the paper: 50,000).
        extractor: Maps images to features; None means the 2015 graph.
        seed: Seed of the latents.
        quantize: How generated images are rounded: `none`, `truncate` or `round`.
        batch_size: Images at a time.
        last: A step to measure at, too, such as the last one of the run.
        metrics: Which of `fid.metrics.METRICS`, one key or several.
        options: Options of the metrics by name, such as `{"kid_subsets": 0}`; see
            `fid.compare`.

    Attributes:
        values: (step, distance) of each measurement during `fit`.
        further: Numbers of the last measurement beside the value, by name.
        seconds: Seconds spent in measuring so far.

    Raises:
        InputError: The reference or the extractor lacks what a metric needs, or a
            larger value of the first metric is a better one.
    """

    unit = "images"

    def __init__(
        self,
        reference: Any,
        every: int,
        num_samples: int = 10_000,
        extractor: Extractor | None = None,
        seed: int = 0,
        quantize: str = "none",
        batch_size: int = 250,
        last: int | None = None,
        metrics: str | Sequence[str] = ("fid",),
        options: Mapping[str, Any] | None = None,
    ):
        chosen = choose(metrics, options or {})
        first = metrics if isinstance(metrics, str) else metrics[0]
        # The value is of the first one that was named.
        self._metrics = sorted(chosen, key=lambda metric: metric.key != first)
        better = self._metrics[0].larger_is_better
        if better is not False:
            which = "larger" if better else "neither larger nor smaller"
            raise InputError(
                f"metrics begins with {first}, of which {which} values are better; the "
                "first one must be one to be made small, such as fid."
            )
        if extractor is None:
            from fid.extractors.inception import Inception

            extractor = Inception()
        check_interface(extractor)
        super().__init__(
            self._metrics[0].metric_name(extractor.name),
            self._metrics[0].title(extractor.name),
            every,
            num_samples,
            batch_size,
            last,
        )
        self.extractor = extractor
        self._real = self._measure_reference(reference)
        self.reference = self._real.statistics
        self.seed = seed
        self.quantize = quantize

    @property
    def facts(self) -> dict[str, Any]:
        """What a distance rests on: counts of images, and the extractor."""
        return {
            **super().facts,
            "reference_images": self.reference.n,
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.fingerprint,
        }

    def observe(self, gan: Any, count: int) -> Measured:
        """Returns what is to be known of generated images."""
        label = f"generator at step {gan.steps}"
        source = GeneratorSource(gan, count, self.seed, self.quantize, label)
        needs, _ = needs_of(self._metrics)
        return measure.measure(
            source, self.extractor, batch_size=self.batch_size, needs=needs
        )

    def compare(self, observed: Measured) -> float:
        """Returns their distance from the real ones."""
        found: dict[str, float] = {}
        for metric in self._metrics:
            result = metric(observed, self._real)
            found |= metric.values(result, metric.metric_name(self.extractor.name))
        value = next(iter(found.values()))
        self.further = {k: v for k, v in found.items() if k != self.key}
        for name, number in self.further.items():
            if not math.isfinite(number):
                raise InputError(f"{name} came to {number}.")
        mu, sigma = observed.statistics.mu, observed.statistics.sigma
        if np.trace(sigma) <= _NO_SPREAD * (mu @ mu):
            _log.warning(
                "All %s images of the %s have the same features: it has collapsed. "
                "%s, %.4g, is that of one point.",
                f"{observed.statistics.n:,}",
                observed.statistics.label,
                self.key,
                value,
            )
        return value

    def _measure_reference(self, reference: Any) -> Measured:
        opened = measure.open_set(reference)
        # This stands for the model, which is not known yet.
        generated = GeneratorSource(np.asarray, self.num_samples, latent=1)
        for metric in self._metrics:
            metric.check_extractor(self.extractor)
            metric.check([generated, opened])
        if isinstance(opened, Statistics):
            measure.check_extractor(opened, self.extractor)
            return Measured.of(opened)
        _, needs = needs_of(self._metrics)
        found = measure.measure(opened, self.extractor, needs=needs)
        for warning in found.warnings:
            _log.warning("%s", warning)
        return found

"""What a feature extractor offers, and how any Keras model becomes one."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fid.files import InputError

__all__ = [
    "INCEPTION",
    "Extractor",
    "KerasExtractor",
    "check_interface",
    "pixel_extractor",
    "weights_sha256",
]

INCEPTION = "inception_2015"
"""The name that the 2015 graph has as an extractor; only its distance is called FID."""


class Extractor(Protocol):
    """Maps images to feature vectors.

    Attributes:
        name: Short name, part of the metric's name: `frechet_<name>`. The 2015 graph's
            is `inception_2015`, and only its distance is called FID.
        dimension: Number of features, d.
        channels: Channels of the images it looks at; grey is repeated for 3.
        fingerprint: SHA-256 of what determines the features.
        protocol: JSON-able facts that numbers depend on, such as the resize rule.
    """

    name: str
    dimension: int
    channels: int
    fingerprint: str
    protocol: dict[str, Any]

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Returns float32 features (n, d).

        Args:
            images: (n, H, W, C), or n arrays (H, W, C) of several sizes; uint8 or
                float in [0, 255].
        """


def check_interface(extractor: Any) -> None:
    """Refuses what is no `Extractor`, before anything is measured with it.

    Args:
        extractor: What was given as one.

    Raises:
        InputError: It lacks something, or has it of another kind.

    Example:
        >>> check_interface(len)
        Traceback (most recent call last):
        fid.files.InputError: The extractor is a builtin_function_or_method without \
name, dimension, channels, fingerprint and protocol; expected those of \
fid.extractors.extractor.Extractor. A Keras model becomes one by \
fid.KerasExtractor(model, "name").
    """
    if isinstance(extractor, type):
        raise InputError(
            f"The extractor is the class {extractor.__name__}; give an object of it, "
            f"{extractor.__name__}(...)."
        )
    kind = type(extractor).__name__
    values = {name: _value(extractor, kind, name) for name in Extractor.__annotations__}
    missing = [name for name, value in values.items() if value is None]
    if not callable(extractor):
        missing.append("__call__")
    if missing:
        *others, last = missing
        names = f"{', '.join(others)} and {last}" if others else last
        raise InputError(
            f"The extractor is a {kind} without {names}; expected those of "
            "fid.extractors.extractor.Extractor. A Keras model becomes one by "
            'fid.KerasExtractor(model, "name").'
        )
    for name, is_good, expected in (
        ("name", _is_line, "a text of one line, which becomes part of the key"),
        ("dimension", _is_count, "a number of features, >= 1"),
        ("channels", lambda value: _is_count(value) and value in (1, 3), "1 or 3"),
        ("fingerprint", _is_line, "a text of one line"),
        ("protocol", _is_json, "a dict that JSON can hold"),
    ):
        if not is_good(values[name]):
            raise InputError(
                f"The {name} of the extractor, a {kind}, is {values[name]!r}; "
                f"expected {expected}."
            )


def _value(extractor: Any, kind: str, name: str) -> Any:
    try:
        return getattr(extractor, name, None)
    except MemoryError:
        raise
    except Exception as error:  # A property may do anything.
        raise InputError(
            f"The {name} of the extractor, a {kind}, cannot be read "
            f"({type(error).__name__}: {error}); correct the extractor."
        ) from error


def _is_line(value: Any) -> bool:
    # It is printed, and the name becomes part of the metric's name.
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_count(value: Any) -> bool:
    # To Python, True is the number 1.
    return (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and value >= 1
    )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict)


class KerasExtractor:
    """A Keras model as a feature extractor, compiled by XLA.

    Args:
        model: Maps float32 images (n, H, W, C) to features (n, d).
        name: Name of the extractor.
        scale: The model is given `images * scale + offset`, images being in [0, 255].
        offset: See `scale`. The defaults give the model images in [-1, 1].
        batch_size: Images at a time.

    Example:
        >>> import keras, numpy as np
        >>> from fid import KerasExtractor
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
        >>> KerasExtractor(model, "pixels")(np.zeros((2, 8, 8, 3), "uint8")).shape
        (2, 192)
    """

    def __init__(
        self,
        model: Any,
        name: str,
        scale: float = 1 / 127.5,
        offset: float = -1.0,
        batch_size: int = 256,
    ):
        import tensorflow as tf

        self.name = name
        self.image_shape = tuple(model.input_shape[1:])
        self.dimension = int(model.output_shape[-1])
        self.channels = self.image_shape[-1]
        digest = hashlib.sha256(weights_sha256(model).encode())
        for layer in model.layers:
            digest.update(f"{type(layer).__name__} {_settings(layer)}\n".encode())
        digest.update(f"{scale!r} {offset!r}".encode())
        self.fingerprint = digest.hexdigest()
        self.protocol = {"resize": "none", "dtype": "float32"}
        self._batch_size = batch_size

        @tf.function(jit_compile=True)
        def features(images: tf.Tensor) -> tf.Tensor:
            images = tf.cast(images, tf.float32) * scale + offset
            return tf.cast(model(images, training=False), tf.float32)

        self._features = features

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Returns float32 features (n, d); see `Extractor`.

        Raises:
            InputError: An image has another shape than the model takes.
        """
        if not len(images):
            return np.zeros((0, self.dimension), np.float32)
        for image in images:
            if not _fits(image.shape, self.image_shape):
                raise InputError(
                    f"An image has shape {image.shape}; the extractor {self.name} "
                    f"takes {self.image_shape}."
                )
        if len({image.shape for image in images}) > 1:
            raise InputError(
                f"The extractor {self.name} was given images of several sizes; give it "
                "those of one size, or resize them."
            )
        images = np.asarray(images)
        size = self._batch_size
        found = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # Padding spares the last batch a compiled program of its own.
            padding = [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)]
            found.append(self._features(np.pad(batch, padding)).numpy()[: len(batch)])
        return np.concatenate(found)


def pixel_extractor(image_shape: tuple[int, int, int], side: int = 8) -> KerasExtractor:
    """Makes an extractor whose features are the pixels of a small version of an image.

    A stand-in where there is no network that knows the images: its distance sees
    colours, layout and coarse shapes, and nothing of what an image shows.

    Args:
        image_shape: (H, W, C) of the images, multiples of `side`.
        side: Height and width of the small version: means of squares of pixels.

    Returns:
        The extractor, `pixels_8x8` for the default side, of side * side * C features.

    Raises:
        InputError: `side` does not divide the images.

    Example:
        >>> import numpy as np
        >>> from fid.extractors.extractor import pixel_extractor
        >>> white = np.full((1, 64, 64, 3), 255, "uint8")
        >>> pixel_extractor((64, 64, 3))(white)[0, :3].round(3)
        array([1., 1., 1.], dtype=float32)
    """
    import keras

    height, width, _ = image_shape
    if height % side or width % side:
        raise InputError(
            f"Images of {width}x{height} pixels have no small version of "
            f"{side}x{side}: both must be multiples of {side}."
        )
    layers = [
        keras.Input(image_shape),
        keras.layers.AveragePooling2D((height // side, width // side)),
        keras.layers.Flatten(),
    ]
    return KerasExtractor(keras.Sequential(layers), f"pixels_{side}x{side}")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    # A model without layers that need to know it takes any height and width.
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _settings(layer: Any) -> str:
    # Names are left out, because Keras numbers them anew in each process.
    config = {k: v for k, v in layer.get_config().items() if k != "name"}
    return json.dumps(config, sort_keys=True, default=str)


def weights_sha256(model: Any) -> str:
    """Returns the SHA-256 of a Keras model's weights: shapes and values, in order.

    Args:
        model: A built Keras model.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        value = weight.numpy()
        # Names are left out, because Keras numbers them anew in each process.
        digest.update(f"{value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()

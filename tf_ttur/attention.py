"""Self-attention between the pixels of an image, as in SAGAN and BigGAN.

Each pixel asks a question, and takes the mean of what all others have to say, weighted
by how well their keys answer it (Zhang et al. 2019). As in the code of both, keys and
values are the largest of 2x2 pixels, which the paper does not mention, and there is no
scaling by the root of the keys' length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_ttur.phases import max_pool
from tf_ttur.spectral import SpectralConv2D
from tf_ttur.xla import precise

__all__ = ["PixelAttention", "SelfAttention"]

_PARTS = ("queries", "keys", "values", "outputs")


@keras.saving.register_keras_serializable("tf_ttur")
class SelfAttention(keras.layers.Layer):
    """Adds to every pixel what it attends to, times a gain that starts at 0.

    Queries and keys have an eighth of the channels, and values half of them. All four
    maps are 1x1 convolutions of spectral norm 1 without a bias.

    Args:
        kernel_initializers: Initialisers of the kernels of queries, keys, values and
            outputs.
        vector_initializers: Likewise of the vectors of their power iterations.
        epsilon: As for `SpectralConv2D`.
        **kwargs: As for `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.attention import SelfAttention
        >>> images = np.ones((2, 4, 4, 16), "float32")
        >>> bool(np.all(SelfAttention()(images) == images))
        True
    """

    def __init__(
        self,
        kernel_initializers: Sequence[Any] = ("orthogonal",) * 4,
        vector_initializers: Sequence[Any] = (None,) * 4,
        epsilon: float = 1e-12,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kernel_initializers = [*map(keras.initializers.get, kernel_initializers)]
        self.vector_initializers = [*map(keras.initializers.get, vector_initializers)]
        self.epsilon = epsilon

    def build(self, input_shape: Sequence[int]) -> None:
        """Makes the four convolutions, and the gain."""
        channels = input_shape[-1]
        if channels < 8:
            raise ValueError(
                f"The images have {channels} channels; self-attention gives an eighth "
                "of them to queries and keys, and so needs at least 8."
            )
        if any(size is None or size % 2 for size in input_shape[1:3]):
            raise ValueError(
                f"The images are {tuple(input_shape[1:3])}; self-attention takes the "
                "largest of 2x2 pixels and needs an even height and width."
            )
        widths = (channels // 8, channels // 8, channels // 2, channels)
        for part, width, kernel, vector in zip(
            _PARTS,
            widths,
            self.kernel_initializers,
            self.vector_initializers,
            strict=True,
        ):
            convolution = SpectralConv2D(
                width,
                1,
                use_bias=False,
                kernel_initializer=kernel,
                vector_initializer=vector,
                epsilon=self.epsilon,
                dtype=self.dtype_policy,
                name=part,
            )
            inputs = channels // 2 if part == "outputs" else channels
            convolution.build((*input_shape[:-1], inputs))
            setattr(self, part, convolution)
        self.gain = self.add_weight(shape=(), initializer="zeros", name="gain")

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Attends."""
        _, height, width, channels = inputs.shape
        queries = _rows(self.queries(inputs, training=training))
        keys = _rows(max_pool(self.keys(inputs, training=training)))
        values = _rows(max_pool(self.values(inputs, training=training)))
        scores = tf.matmul(queries, keys, transpose_b=True)
        weights = tf.cast(tf.nn.softmax(precise(scores)), values.dtype)
        attended = tf.reshape(weights @ values, [-1, height, width, channels // 2])
        gain = tf.convert_to_tensor(self.gain)
        return inputs + gain * self.outputs(attended, training=training)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the images."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "kernel_initializers": [*map(serialize, self.kernel_initializers)],
            "vector_initializers": [*map(serialize, self.vector_initializers)],
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable("tf_ttur")
class PixelAttention(keras.layers.Layer):
    """Dot-product attention between the pixels of an image, without weights.

    Each pixel takes the mean of all pixels' values, weighted by the softmax of its
    query's products with their keys, over the root of their length (Vaswani et al.
    2017). Each head does so with channels of its own. Whatever makes queries, keys and
    values is another layer.

    Args:
        heads: How many; they divide the channels.
        **kwargs: As for `keras.layers.Layer`.

    The inputs are queries, keys and values, (n, h, w, c) each, of known size but for n;
    the result is of their shape. Scores are of float32 at least.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.attention import PixelAttention
        >>> queries, keys = np.zeros((2, 1, 4, 4, 6), "float32")
        >>> values = np.arange(96, dtype="float32").reshape(1, 4, 4, 6)
        >>> found = PixelAttention(heads=2)([queries, keys, values])
        >>> bool(np.allclose(found, values.mean((1, 2), keepdims=True)))
        True
    """

    def __init__(self, heads: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: Sequence[Sequence[int]]) -> None:
        """Checks the number of channels."""
        channels = input_shape[0][-1]
        if self.heads < 1 or channels % self.heads:
            raise ValueError(
                f"{channels} channels cannot be split evenly into {self.heads} heads."
            )

    def call(self, inputs: Sequence[Any]) -> Any:
        """Attends."""
        _, height, width, channels = inputs[0].shape
        queries, keys, values = map(self._split, inputs)
        queries *= (channels // self.heads) ** -0.5
        scores = tf.matmul(queries, keys, transpose_b=True)
        weights = tf.cast(tf.nn.softmax(precise(scores)), values.dtype)
        attended = weights @ values
        if self.heads > 1:
            attended = tf.transpose(attended, [0, 2, 1, 3])
        return tf.reshape(attended, [-1, height, width, channels])

    def compute_output_shape(
        self, input_shape: Sequence[Sequence[int]]
    ) -> tuple[int, ...]:
        """Returns the shape of the queries."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "heads": self.heads}

    def _split(self, images: tf.Tensor) -> tf.Tensor:
        """Makes (n, heads, h w, c / heads) of (n, h, w, c); of one head without it."""
        rows = _rows(images)
        if self.heads == 1:
            return rows
        _, pixels, channels = rows.shape
        rows = tf.reshape(rows, [-1, pixels, self.heads, channels // self.heads])
        return tf.transpose(rows, [0, 2, 1, 3])


def _rows(images: tf.Tensor) -> tf.Tensor:
    """Puts the pixels of each image in a row: (n, h, w, c) -> (n, h w, c)."""
    _, height, width, channels = images.shape
    return tf.reshape(images, [-1, height * width, channels])

"""Layers whose weight is divided by its largest singular value (Miyato et al. 2018).

A linear map with a largest singular value of 1 lengthens nothing, so a network of such
layers changes at most as fast as its other layers do. The value is estimated by power
iteration: a vector u is kept beside the weight W, and each forward pass in training
takes one step of it,

    v = W' u / |W' u|,    u = W v / |W v|,    norm = u' W v,

with W as a matrix whose rows are the outputs (Miyato et al., algorithm 1). The weight
is differentiated through the norm, with u and v constants. In inference the step is
taken likewise and u is left as it is, which is what the code of BigGAN does (Brock et
al. 2019; https://github.com/ajbrock/BigGAN-PyTorch).

All of it is done in the precision of the variables, so in float32 under mixed
precision. Replicas start with the same W and u, and so come to the same new u.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_ttur import layers

__all__ = [
    "SpectralConv2D",
    "SpectralConvMeanPool2D",
    "SpectralDense",
    "SpectralEmbedding",
    "SpectralUpsampleConv2D",
    "spectral_norm",
]

_serializable = keras.saving.register_keras_serializable("tf_ttur")


def spectral_norm(
    matrix: tf.Tensor, vector: tf.Tensor, epsilon: float = 1e-12
) -> tuple[tf.Tensor, tf.Tensor]:
    """Estimates the largest singular value by one step of power iteration.

    Args:
        matrix: W', (inputs, outputs).
        vector: u, (outputs,), of any length but 0.
        epsilon: The least number that a vector's length is taken for.

    Returns:
        The norm, a scalar that is linear in the matrix; and the next u, of length 1 and
        not differentiated.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.spectral import spectral_norm
        >>> norm, vector = spectral_norm(tf.constant([[3.0, 0.0], [0.0, 0.0]]),
        ...     tf.constant([1.0, 1.0]))
        >>> float(norm), vector.numpy().tolist()
        (3.0, [1.0, 0.0])
    """
    vector = tf.stop_gradient(vector)
    right = _unit(tf.linalg.matvec(tf.stop_gradient(matrix), vector), epsilon)
    products = tf.linalg.matvec(matrix, right, transpose_a=True)
    left = _unit(tf.stop_gradient(products), epsilon)
    return tf.reduce_sum(left * products), left


def _unit(vector: tf.Tensor, epsilon: float) -> tf.Tensor:
    return vector / tf.maximum(tf.norm(vector), epsilon)


class _Spectral:
    """Divides the weight of the layer that it is mixed into by its spectral norm."""

    def __init__(
        self,
        *args: Any,
        epsilon: float = 1e-12,
        vector_initializer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if vector_initializer is None:
            vector_initializer = keras.initializers.RandomNormal(stddev=1.0)
        self.epsilon = epsilon
        self.vector_initializer = keras.initializers.get(vector_initializer)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Keeps the weight that is normalised from being cast before it is."""
        if kwargs.get("name") in ("kernel", "embeddings"):
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        """Makes the layer's weights, and the vector of the power iteration."""
        super().build(input_shape)
        self.vector = self.add_weight(
            name="vector",
            shape=(self._matrix(self._weight()).shape[1],),
            initializer=self.vector_initializer,
            trainable=False,
            autocast=False,
        )

    def _weight(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.kernel)

    def _matrix(self, weight: tf.Tensor) -> tf.Tensor:
        return tf.reshape(weight, [-1, weight.shape[-1]])

    def normalized(self, training: Any) -> tf.Tensor:
        """Returns the weight divided by its norm, in the type that is computed in.

        Args:
            training: Whether the vector moves by the step that is taken.
        """
        weight = self._weight()
        norm, vector = spectral_norm(
            self._matrix(weight), tf.convert_to_tensor(self.vector), self.epsilon
        )
        if training and self.trainable:
            self.vector.assign(vector)
        return tf.cast(weight / norm, self.compute_dtype)

    # Keras's convolutions, dense layers and tables save their own weights only.

    def save_own_variables(self, store: Any) -> None:
        """Saves all variables, with the vector."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "vector_initializer": keras.initializers.serialize(self.vector_initializer),
        }


class _SpectralConvolution(_Spectral):
    def call(self, inputs: Any, training: Any = None) -> Any:
        """Computes what the layer computes, with the kernel normalised."""
        return self.convolved(inputs, self.normalized(training))


@_serializable
class SpectralConv2D(_SpectralConvolution, layers.SameConv2D):
    """`layers.SameConv2D` with a kernel of spectral norm 1.

    The kernel counts as the matrix of what one pixel of the result is made of:
    (filters, rows x columns x channels).

    Args:
        *args: As for `layers.SameConv2D`.
        epsilon: The least number that the length of the power iteration's vectors is
            taken for.
        vector_initializer: Of the first of these vectors; by default standard normal.
        **kwargs: As for `layers.SameConv2D`.

    Example:
        >>> import keras, numpy as np
        >>> from tf_ttur.spectral import SpectralConv2D
        >>> layer = SpectralConv2D(8, 3, use_bias=False)
        >>> images = np.zeros((1, 4, 4, 3), "float32")
        >>> for _ in range(100):
        ...     _ = layer(images, training=True)
        >>> kernel = np.reshape(layer.normalized(training=False), (-1, 8))
        >>> f"{np.linalg.norm(kernel, 2):.3f}"
        '1.000'
    """


@_serializable
class SpectralUpsampleConv2D(_SpectralConvolution, layers.UpsampleConv2D):
    """`layers.UpsampleConv2D` with a kernel of spectral norm 1.

    Args:
        *args: As for `layers.UpsampleConv2D`.
        **kwargs: Likewise, and as for `SpectralConv2D`.
    """


@_serializable
class SpectralConvMeanPool2D(_SpectralConvolution, layers.ConvMeanPool2D):
    """`layers.ConvMeanPool2D` with a kernel of spectral norm 1.

    Args:
        *args: As for `layers.ConvMeanPool2D`.
        **kwargs: Likewise, and as for `SpectralConv2D`.
    """


@_serializable
class SpectralDense(_Spectral, keras.layers.Dense):
    """`keras.layers.Dense` with a kernel of spectral norm 1.

    Args:
        *args: As for `keras.layers.Dense`.
        **kwargs: Likewise, and as for `SpectralConv2D`.
    """

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Computes what the layer computes, with the kernel normalised."""
        outputs = keras.ops.matmul(inputs, self.normalized(training))
        if self.use_bias:
            outputs = keras.ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


@_serializable
class SpectralEmbedding(_Spectral, layers.Embedding):
    """`layers.Embedding` with a table of spectral norm 1.

    The table is a matrix with a row for each symbol, and so is u a vector with a number
    for each.

    Args:
        *args: As for `layers.Embedding`.
        **kwargs: Likewise, and as for `SpectralConv2D`.
    """

    def _weight(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.embeddings)

    def _matrix(self, weight: tf.Tensor) -> tf.Tensor:
        return tf.transpose(weight)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Looks rows of the normalised table up."""
        return layers.look_up(self.normalized(training), inputs)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the rows."""
        return (*input_shape, self.output_dim)

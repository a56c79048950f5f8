"""The WGAN-GP networks for lines of characters, and `TextGAN`, which trains them.

Spec of the released code (`gan_language_JSD.py`): residual blocks of two convolutions
along the line, without normalisation. A line is one distribution over the vocabulary
for each position: one-hot if it is real, a softmax if it is generated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ttur.datasets.text import LENGTH, Vocabulary
from tf_ttur.gan import GAN

__all__ = ["TextGAN", "discriminator", "generator"]

_BLOCKS = 5
_Initializer = Callable[[], keras.initializers.Initializer]


def generator(
    vocabulary_size: int,
    width: int = 512,
    length: int = LENGTH,
    latent_dimension: int = 128,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator: a linear layer and five residual blocks.

    Args:
        vocabulary_size: Number of token ids.
        width: Channels of the blocks (the paper: 512).
        length: Symbols in a line (the paper: 32).
        latent_dimension: Length of the latent vector (the paper: 128, normal).
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> probabilities of the
        tokens, float32 (n, length, vocabulary_size), whose sums over the last axis are
        one.
    """
    _check(vocabulary_size, width, length)
    glorot, he = _initializers(1000 * seed)
    latents = keras.Input((latent_dimension,), name="latents")
    x = keras.layers.Dense(length * width, kernel_initializer=glorot(), name="linear")(
        latents
    )
    # The original has channels before positions: the same but for the order in which
    # the linear layer's columns stand.
    x = keras.layers.Reshape((length, width), name="reshape")(x)
    for index in range(1, _BLOCKS + 1):
        x = _block(x, he, f"block_{index}")
    x = _conv(vocabulary_size, 1, he, "conv")(x)
    # Under mixed precision the probabilities still come out in float32.
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(latents, probabilities, name=name)


def discriminator(
    vocabulary_size: int,
    width: int = 512,
    length: int = LENGTH,
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the critic: five residual blocks and a linear layer.

    Args:
        vocabulary_size: Number of token ids.
        width: Channels of the blocks (the paper: 512).
        length: Symbols in a line (the paper: 32).
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: probabilities of the tokens, float32 (n, length,
        vocabulary_size) -> scores, float32 (n, 1).
    """
    _check(vocabulary_size, width, length)
    glorot, he = _initializers(1000 * seed + 500)
    probabilities = keras.Input((length, vocabulary_size), name="probabilities")
    x = _conv(width, 1, he, "conv")(probabilities)
    for index in range(1, _BLOCKS + 1):
        x = _block(x, he, f"block_{index}")
    x = keras.layers.Flatten(name="flatten")(x)
    scores = keras.layers.Dense(
        1, kernel_initializer=glorot(), dtype="float32", name="scores"
    )(x)
    return keras.Model(probabilities, scores, name=name)


@keras.saving.register_keras_serializable("tf_ttur")
class TextGAN(GAN):
    """A GAN of lines of text: real data are token ids, generated ones probabilities.

    Arguments are those of `GAN`, for networks such as those of this module. `generate`
    gives probabilities; `generate_tokens` and `generate_text` the likeliest symbols, as
    the paper's divergences use them.

    Example:
        >>> import tf_ttur
        >>> from tf_ttur import datasets
        >>> from tf_ttur.networks import text
        >>> data = datasets.text.load()
        >>> size = len(data.vocabulary)
        >>> gan = text.TextGAN(
        ...     text.generator(size, width=8), text.discriminator(size, width=8),
        ...     latent=tf_ttur.NormalLatent(128))
        >>> real = gan.prepare_real(next(iter(data.training(batch_size=16, seed=0))))
        >>> tuple(real.shape) == (16, 32, size)
        True
        >>> [len(line) for line in gan.generate_text(2, data.vocabulary, seed=0)]
        [32, 32]
    """

    def prepare_real(self, data: Any) -> tf.Tensor:
        """Makes one-hot vectors of what the data set yields.

        Args:
            data: Token ids, integers (n, length), or a tuple that starts with them.

        Returns:
            Float32 (n, length, vocabulary size).

        Raises:
            ValueError: They have another shape than the generator's lines, or are no
                integers.
        """
        tokens = data[0] if isinstance(data, tuple | list) else data
        length, vocabulary_size = self.sample_shape
        if not tokens.dtype.is_integer or not tokens.shape[1:].is_compatible_with(
            (length,)
        ):
            raise ValueError(
                f"Real lines are {tokens.dtype.name} {tuple(tokens.shape)}; TextGAN "
                f"needs integer token ids (n, {length})."
            )
        return tf.one_hot(tokens, vocabulary_size, dtype=tf.float32)

    def generate_tokens(
        self, count: int, seed: int | None = None, batch_size: int = 256
    ) -> np.ndarray:
        """Generates lines, at each position the likeliest symbol.

        Args:
            count: How many.
            seed: Seed of the latents; equal seeds give equal lines. None draws one.
            batch_size: Lines at a time.

        Returns:
            int32 array (count, length) of token ids.
        """
        batches = self.generate_batches(count, seed, batch_size)
        return np.concatenate([x.argmax(-1).astype(np.int32) for x in batches])

    def generate_text(
        self,
        count: int,
        vocabulary: Vocabulary,
        seed: int | None = None,
        batch_size: int = 256,
    ) -> list[str]:
        """As `generate_tokens`, as text.

        Args:
            count: How many.
            vocabulary: The symbols of the text that the model was trained on.
            seed: Seed of the latents.
            batch_size: Lines at a time.

        Returns:
            As many strings, padding included.

        Raises:
            ValueError: The vocabulary has another size than the model's.
        """
        if len(vocabulary) != self.sample_shape[-1]:
            raise ValueError(
                f"The vocabulary has {len(vocabulary)} token ids; the model was made "
                f"for {self.sample_shape[-1]}."
            )
        return vocabulary.decode(self.generate_tokens(count, seed, batch_size))


def _block(x: Any, initializer: _Initializer, name: str) -> Any:
    width = x.shape[-1]
    y = x
    for index in (1, 2):
        y = keras.layers.ReLU(name=f"{name}_relu_{index}")(y)
        y = _conv(width, 5, initializer, f"{name}_conv_{index}")(y)
    y = keras.layers.Rescaling(0.3, name=f"{name}_scale")(y)
    return keras.layers.Add(name=name)([x, y])


def _conv(filters: int, size: int, initializer: _Initializer, name: str) -> Any:
    return keras.layers.Conv1D(
        filters, size, padding="same", kernel_initializer=initializer(), name=name
    )


def _initializers(seed: int) -> tuple[_Initializer, _Initializer]:
    """Returns the original's uniform weights, Glorot's and of twice their variance.

    The first is for linear layers, the second for convolutions. Each call of either
    gives an initializer with a seed of its own.
    """
    seeds = itertools.count(seed + 1)

    def uniform(scale: float) -> keras.initializers.Initializer:
        return keras.initializers.VarianceScaling(
            scale, "fan_avg", "uniform", seed=next(seeds)
        )

    return lambda: uniform(1.0), lambda: uniform(2.0)


def _check(vocabulary_size: int, width: int, length: int) -> None:
    if vocabulary_size < 2 or width < 1 or length < 1:
        raise ValueError(
            f"vocabulary_size {vocabulary_size} must be at least 2, width {width} and "
            f"length {length} at least 1."
        )

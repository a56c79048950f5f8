"""Latent distributions: where the generator's input comes from."""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras

__all__ = ["NormalLatent", "UniformLatent"]


class _Latent:
    """A distribution over vectors of `dimension` independent coordinates."""

    def __init__(self, dimension: int):
        number = isinstance(dimension, numbers.Real) and math.isfinite(dimension)
        if not number or int(dimension) != dimension or dimension < 1:
            raise ValueError(
                f"A latent needs a dimension, a whole number >= 1; got {dimension!r}."
            )
        self.dimension = int(dimension)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return {"dimension": self.dimension}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Latent:
        """Makes the distribution again from `get_config`'s answer."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dimension})"


@keras.saving.register_keras_serializable("tf_ttur")
class NormalLatent(_Latent):
    """Standard normal latents, N(0, 1) in every coordinate (WGAN-GP in the paper).

    Args:
        dimension: Number of coordinates.

    Example:
        >>> import tf_ttur
        >>> tuple(tf_ttur.NormalLatent(128)(64, seed=0).shape)
        (64, 128)
    """

    def __call__(self, count: int, seed: Any) -> Any:
        """Draws latents.

        Args:
            count: How many.
            seed: An integer, or a `keras.random.SeedGenerator` to advance.

        Returns:
            A float32 tensor of shape (count, dimension).
        """
        return keras.random.normal((count, self.dimension), dtype="float32", seed=seed)


@keras.saving.register_keras_serializable("tf_ttur")
class UniformLatent(_Latent):
    """Uniform latents on [-1, 1) in every coordinate (DCGAN and BEGAN in the paper).

    Args:
        dimension: Number of coordinates.
    """

    def __call__(self, count: int, seed: Any) -> Any:
        """Draws latents.

        Args:
            count: How many.
            seed: An integer, or a `keras.random.SeedGenerator` to advance.

        Returns:
            A float32 tensor of shape (count, dimension).
        """
        return keras.random.uniform(
            (count, self.dimension), -1.0, 1.0, dtype="float32", seed=seed
        )

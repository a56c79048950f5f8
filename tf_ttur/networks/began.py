"""BEGAN, boundary equilibrium GAN: its networks and its training (paper, appendix A5).

The discriminator is an autoencoder, and what it minimises are reconstruction errors
(Berthelot et al. 2017). The networks are those of the released code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_ttur.gan import GAN
from tf_ttur.layers import Conv2D, UpsampleConv2D

__all__ = ["BEGAN", "discriminator", "generator"]

# The decoder starts with a map of this height and width.
_BASE_SIZE = 8


def generator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 128,
    latent_dimension: int = 64,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator, which has the form of the discriminator's decoder.

    A linear layer to 8x8 maps, then stages of two 3x3 convolutions with ELU, the map
    doubled between stages, and a linear convolution. No normalisation.

    Args:
        image_size: Height and width of the images: 8 times a power of 2 (the paper:
            64).
        channels: Channels of the images.
        width: Channels of every map (the paper: 128).
        latent_dimension: Length of the latent vector (the paper: 64, uniform).
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> images float32
        (n, image_size, image_size, channels). Nothing bounds them; `BEGAN` clips what
        it samples to [-1, 1].
    """
    stages = _count_stages(image_size, channels, width)
    latents = keras.Input((latent_dimension,), name="latents")
    images = _decode(latents, stages, channels, width, _seeds(1000 * seed))
    return keras.Model(latents, images, name=name)


def discriminator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 128,
    latent_dimension: int = 64,
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator: an autoencoder of images.

    Args:
        image_size: Height and width of the images: 8 times a power of 2.
        channels: Channels of the images.
        width: Channels of the first stage's maps; those of stage i are i times as many.
        latent_dimension: Length of the code in the middle.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) -> their
        reconstructions, likewise.
    """
    stages = _count_stages(image_size, channels, width)
    seeds = _seeds(1000 * seed + 500)
    images = keras.Input((image_size, image_size, channels), name="images")
    x = _conv(width, seeds, "encoder_conv")(images)
    for stage in range(1, stages + 1):
        for index in (1, 2):
            x = _conv(stage * width, seeds, f"encoder_{stage}_conv_{index}")(x)
        if stage < stages:
            x = _conv(stage * width, seeds, f"encoder_{stage}_down", strides=2)(x)
    x = keras.layers.Flatten(name="encoder_flatten")(x)
    code = keras.layers.Dense(
        latent_dimension, kernel_initializer=_glorot(seeds), name="code"
    )(x)
    reconstructions = _decode(code, stages, channels, width, seeds)
    return keras.Model(images, reconstructions, name=name)


@keras.saving.register_keras_serializable("tf_ttur")
class BEGAN(GAN):
    """A boundary equilibrium GAN (Berthelot et al. 2017).

    With L(v) = mean |D(v) - v| over pixels and images, the discriminator minimises
    L(x) - k L(G(z)), the generator L(G(z)), and after each step k moves by
    lambda_k (gamma L(x) - L(G(z))), clipped to [0, 1]. k and the convergence measure
    L(x) + |gamma L(x) - L(G(z))| are logged.

    The released code updates both networks at once and k in a second pass, on a fresh
    minibatch. Here the generator's update sees the discriminator already updated, as
    in every `GAN`, and k takes the two errors that those updates have computed: the
    same quantities up to one step of the weights, without a second pass.

    Args:
        generator: Keras model, latents -> images; see `generator`.
        discriminator: Keras model, images -> reconstructions; see `discriminator`.
        latent: Distribution of the latents; the paper: `UniformLatent(64)`.
        gamma: Ratio of the two errors at equilibrium, in [0, 1].
        lambda_k: Rate of k, positive.
        **kwargs: As for `GAN`.

    Attributes:
        k: Weight of the generated images' error in the discriminator's loss; saved with
            the weights.

    Example:
        >>> import numpy as np, tf_ttur
        >>> from tf_ttur.networks import began
        >>> gan = began.BEGAN(
        ...     began.generator(16, width=4), began.discriminator(16, width=4),
        ...     latent=tf_ttur.UniformLatent(64))
        >>> gan.compile(
        ...     **tf_ttur.ttur(discriminator=6e-5, generator=4e-5, beta_1=0.9),
        ...     jit_compile=False)
        >>> history = gan.fit(np.zeros((8, 16, 16, 3), "float32"), batch_size=4,
        ...     verbose=0)
        >>> sorted(history.history)
        ['convergence', 'd_loss', 'd_lr', 'g_loss', 'g_lr', 'k']
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latent: Any,
        gamma: float = 0.5,
        lambda_k: float = 0.001,
        **kwargs: Any,
    ):
        if kwargs.get("num_classes") is not None:
            raise ValueError("BEGAN takes no labels; leave num_classes out.")
        super().__init__(generator, discriminator, latent, **kwargs)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1]; got {gamma}.")
        if lambda_k <= 0:
            raise ValueError(f"lambda_k must be positive; got {lambda_k}.")
        self.gamma, self.lambda_k = float(gamma), float(lambda_k)
        self.k = self._scalar("k")
        # `after_step` reads the errors of the updates just made from these.
        self._real_error = self._scalar("real_error")
        self._fake_error = self._scalar("fake_error")

    def _scalar(self, name: str) -> keras.Variable:
        return self.add_weight(
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation="mean",
            name=name,
        )

    def compile(
        self, *, loss: Any = "wasserstein", reuse_latents: bool = True, **settings: Any
    ) -> None:
        """Sets how the two networks are trained; see `GAN.compile`.

        Args:
            loss: `"wasserstein"`, of which BEGAN's is a form: the score of an image is
                minus its error, and k weighs the generated ones.
            reuse_latents: As for `GAN.compile`; True as in the released code.
            **settings: As for `GAN.compile`.

        Raises:
            ValueError: Another loss, or a gradient penalty, was asked for.
        """
        if loss != "wasserstein" and getattr(loss, "name", "") != "wasserstein":
            raise ValueError(
                f"BEGAN has a loss of its own, a form of 'wasserstein'; got {loss!r}."
            )
        if settings.get("gradient_penalty"):
            raise ValueError("BEGAN has no gradient penalty; leave it at 0.")
        super().compile(loss=loss, reuse_latents=reuse_latents, **settings)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the scalars that are logged."""
        return ("d_loss", "g_loss", "convergence", "k")

    def discriminator_loss(self, real: tf.Tensor, fake: tf.Tensor) -> dict[str, Any]:
        """Computes L(x) - k L(G(z)).

        Args:
            real: Real images, float32 (n, H, W, C).
            fake: Generated images, likewise.

        Returns:
            `"d_loss"`, and `"k"` to be logged.
        """
        images = tf.concat([real, fake], 0)
        real_error, fake_error = map(
            tf.reduce_mean, tf.split(self._absolute_error(images), 2)
        )
        self._real_error.assign(self.global_mean(real_error, real))
        k = tf.convert_to_tensor(self.k)
        return {"d_loss": real_error - k * fake_error, "k": k}

    def generator_loss(self, real: tf.Tensor, fake: tf.Tensor) -> dict[str, Any]:
        """Computes L(G(z)), whose gradient flows into both sides of the difference.

        Args:
            real: The last real minibatch; not used.
            fake: Generated images, differentiable.

        Returns:
            `"g_loss"`, and `"convergence"` to be logged.
        """
        error = tf.reduce_mean(self._absolute_error(fake))
        self._fake_error.assign(self.global_mean(error, fake))
        measure = tf.convert_to_tensor(self._real_error) + tf.abs(self._balance())
        return {"g_loss": error, "convergence": measure}

    def after_step(self, real: tf.Tensor, fake: tf.Tensor) -> None:
        """Moves k.

        Args:
            real: The step's last real minibatch; its error is known already.
            fake: The generated minibatch; likewise.
        """
        k = tf.convert_to_tensor(self.k) + self.lambda_k * self._balance()
        self.k.assign(tf.clip_by_value(k, 0.0, 1.0))

    def call(self, latents: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Runs the generator that samples.

        Args:
            latents: Float32 (n, latent.dimension).
            training: As for `GAN.call`.

        Returns:
            Images, float32 (n, H, W, C), clipped to [-1, 1].
        """
        return tf.clip_by_value(super().call(latents, training), -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialised."""
        return super().get_config() | {"gamma": self.gamma, "lambda_k": self.lambda_k}

    def _absolute_error(self, images: tf.Tensor) -> tf.Tensor:
        return tf.abs(self._logits(images) - images)

    def _balance(self) -> tf.Tensor:
        return self.gamma * self._real_error - self._fake_error


def _decode(
    code: Any, stages: int, channels: int, width: int, seeds: Iterator[int]
) -> Any:
    x = keras.layers.Dense(
        _BASE_SIZE * _BASE_SIZE * width,
        kernel_initializer=_glorot(seeds),
        name="decoder_linear",
    )(code)
    x = keras.layers.Reshape((_BASE_SIZE, _BASE_SIZE, width), name="decoder_reshape")(x)
    for stage in range(1, stages + 1):
        # All stages but the first start by doubling the map.
        first = _conv if stage == 1 else _upsampling_conv
        x = first(width, seeds, f"decoder_{stage}_conv_1")(x)
        x = _conv(width, seeds, f"decoder_{stage}_conv_2")(x)
    # Under mixed precision the images still come out in float32.
    return Conv2D(
        channels,
        3,
        padding="same",
        kernel_initializer=_glorot(seeds),
        dtype="float32",
        name="decoder_conv",
    )(x)


def _conv(
    filters: int, seeds: Iterator[int], name: str, strides: int = 1
) -> keras.layers.Layer:
    return Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        activation="elu",
        kernel_initializer=_glorot(seeds),
        name=name,
    )


def _upsampling_conv(
    filters: int, seeds: Iterator[int], name: str
) -> keras.layers.Layer:
    return UpsampleConv2D(
        filters, 3, activation="elu", kernel_initializer=_glorot(seeds), name=name
    )


def _glorot(seeds: Iterator[int]) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=next(seeds))


def _seeds(first: int) -> Iterator[int]:
    return iter(range(first, first + 500))


def _count_stages(image_size: int, channels: int, width: int) -> int:
    """Returns how often the map is doubled, plus one; checks the sizes."""
    doublings = max(image_size // _BASE_SIZE, 1).bit_length() - 1
    if image_size != _BASE_SIZE << doublings:
        raise ValueError(
            f"image_size is {image_size}; BEGAN doubles maps of "
            f"{_BASE_SIZE}x{_BASE_SIZE} and needs 8 times a power of 2, such as 32 or "
            "64."
        )
    if channels < 1 or width < 1:
        raise ValueError(f"channels {channels} and width {width} must be at least 1.")
    return doublings + 1

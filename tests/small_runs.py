"""Runs of the digits whose networks are small: DCGAN takes longer to trace."""

import types

import keras

from tf_ttur.gan import GAN
from tf_ttur.tasks.images import Images


def generator(size, channels, width, latent_dimension, seed):
    initializer = keras.initializers.RandomNormal(stddev=0.1, seed=seed)
    return keras.Sequential(
        [
            keras.Input((latent_dimension,)),
            keras.layers.Dense(width, kernel_initializer=initializer),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(
                size * size * channels, "tanh", kernel_initializer=initializer
            ),
            keras.layers.Reshape((size, size, channels)),
        ]
    )


def discriminator(size, channels, width, seed):
    initializer = keras.initializers.RandomNormal(stddev=0.1, seed=seed)
    return keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer=initializer),
        ]
    )


class Small(Images):
    """GANs of the digits, with networks that are no DCGAN."""

    def networks(self, shape):
        networks = types.SimpleNamespace(
            generator=generator, discriminator=discriminator
        )
        return networks, GAN, (shape[0], shape[2])

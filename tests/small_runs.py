"""Runs whose networks are small: those of the paper take longer to trace."""

import shutil
import types

import keras

from tf_ttur.gan import GAN
from tf_ttur.networks.text import TextGAN
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.images import Images
from tf_ttur.tasks.text import Text


def _drawn(seed):
    return keras.initializers.RandomNormal(stddev=0.1, seed=seed)


def generator(size, channels, width, latent_dimension, seed):
    initializer = _drawn(seed)
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
    initializer = _drawn(seed)
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


LENGTH = 32
"""Symbols in a line."""


def text_generator(vocabulary_size, width, latent_dimension, seed):
    return keras.Sequential(
        [
            generator(LENGTH, 1, width, latent_dimension, seed),
            keras.layers.Reshape((LENGTH, LENGTH)),
            keras.layers.Dense(
                vocabulary_size, "softmax", kernel_initializer=_drawn(seed)
            ),
        ]
    )


def text_discriminator(vocabulary_size, width, seed):
    return keras.Sequential(
        [
            keras.Input((LENGTH, vocabulary_size)),
            keras.layers.Flatten(),
            keras.layers.Dense(width, "tanh", kernel_initializer=_drawn(seed)),
            keras.layers.Dense(1, kernel_initializer=_drawn(seed + 1)),
        ]
    )


class SmallText(Text):
    """GANs of text, with networks that have no residual blocks."""

    def networks(self, shape):
        networks = types.SimpleNamespace(
            generator=text_generator, discriminator=text_discriminator
        )
        return networks, TextGAN, (shape[1],)


def cut_before_the_end(whole, cut):
    """A copy of a finished run of 4 steps, as a kill after step 2 leaves it."""
    shutil.copytree(whole.path, cut)
    (cut / "summary.json").unlink()
    for part in ("checkpoints", "best"):
        for path in (cut / part).glob("step_00000004.keras"):
            path.unlink()
    if not any((cut / "best").glob("*.keras")):
        shutil.rmtree(cut / "best")
    return RunFolder(cut)

"""A GAN of 4x4 images that trains in a moment, its data, and a quick extractor."""

import keras
import numpy as np

import fid
import tf_ttur

SHAPE = (4, 4, 1)


class Means:
    """An extractor with four features: the means of an image's rows."""

    name, dimension, fingerprint, channels = "means", 4, "0" * 64, 1
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __call__(self, images):
        return np.asarray(images, "float32").mean(axis=(2, 3))


def images(n=64):
    return np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE)).astype("float32")


def small_gan(**options):
    generator = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(16, "tanh", kernel_initializer="ones"),
            keras.layers.Reshape(SHAPE),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(2))
    defaults = tf_ttur.ttur(discriminator=1e-3, generator=1e-3)
    defaults |= {"loss": "wasserstein", "jit_compile": False}
    gan.compile(**defaults | options)
    return gan


def pixels():
    return (images() + 1) * 127.5


def reference():
    return fid.compute_statistics(pixels(), Means())


def distance(every, **options):
    return tf_ttur.FrechetDistance(
        reference(), every=every, num_samples=40, extractor=Means(), **options
    )

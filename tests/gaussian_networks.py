"""Networks of diffusion models whose best form is known: images are Gaussian.

An image has two numbers, (1, 1, 2), and noise is that of flow matching. For images of
N(m, C) the mean of x_0 given x_t is m + a C (a^2 C + s^2 I)^-1 (x_t - a m).
"""

import keras
import numpy as np
import tensorflow as tf

ANCHORS = 4
MEAN = np.array([0.5, -0.25])
COVARIANCE = np.array([[0.30, 0.12], [0.12, 0.20]])


def posterior(x, t, mean, covariance):
    """The mean of x_0 given x_t, by NumPy, of rows x (n, 2) at one time."""
    a, s = 1 - t, t
    spread = a * a * covariance + s * s * np.eye(2)
    gain = a * covariance @ np.linalg.inv(spread)
    return mean + (x - a * mean) @ gain.T


class Exact(keras.layers.Layer):
    """Says the flow e - x_0 of the Gaussian with its weights' mean and factor."""

    def build(self, shapes):
        self.mean = self.add_weight(shape=(2,), initializer="zeros", name="mean")
        self.factor = self.add_weight(shape=(2, 2), initializer="zeros", name="factor")

    def call(self, inputs):
        images, condition = inputs
        t = tf.reshape(condition, (-1, 1, 1)) / 1000.0
        x = tf.reshape(images, (-1, 2, 1))
        covariance = tf.matmul(self.factor, self.factor, transpose_b=True)[tf.newaxis]
        spread = (1 - t) ** 2 * covariance + t**2 * tf.eye(2)
        away = x - (1 - t) * self.mean[:, tf.newaxis]
        # Two by two, by hand, so that XLA needs no solver.
        a, b = spread[:, 0, 0], spread[:, 0, 1]
        c, d = spread[:, 1, 0], spread[:, 1, 1]
        turned = tf.stack([tf.stack([d, -b], -1), tf.stack([-c, a], -1)], -2)
        inverse = turned / (a * d - b * c)[:, tf.newaxis, tf.newaxis]
        clean = self.mean[:, tf.newaxis] + (1 - t) * covariance @ (inverse @ away)
        return tf.reshape((x - clean) / t, tf.shape(images))


class Affine(keras.layers.Layer):
    """Says the flow of x_0 = A_j x_t + b_j, with weights of its own for each anchor."""

    def build(self, shapes):
        self.matrix = self.add_weight(
            shape=(ANCHORS, 2, 2),
            initializer=lambda shape, dtype: 0.5 * tf.eye(2, batch_shape=shape[:1]),
            name="matrix",
        )
        self.offset = self.add_weight(
            shape=(ANCHORS, 2), initializer="zeros", name="offset"
        )

    def call(self, inputs):
        images, condition = inputs
        t = condition / 1000.0
        index = tf.cast(tf.round((1.0 - t) * ANCHORS), tf.int32)
        index = tf.clip_by_value(index, 0, ANCHORS - 1)
        x = tf.reshape(images, (-1, 2, 1))
        matrix = tf.gather(tf.convert_to_tensor(self.matrix), index)
        offset = tf.gather(tf.convert_to_tensor(self.offset), index)
        clean = matrix @ x + offset[:, :, tf.newaxis]
        found = (x - clean) / tf.reshape(t, (-1, 1, 1))
        return tf.reshape(found, tf.shape(images))


def network(layer):
    images, condition = keras.Input((1, 1, 2)), keras.Input(())
    return keras.Model([images, condition], layer([images, condition]))


def exact(mean=MEAN, covariance=COVARIANCE):
    made = network(Exact())
    made.set_weights([mean, np.linalg.cholesky(covariance)])
    return made


def affine():
    return network(Affine())


def heads():
    """A discriminator that is not used, and what it would look at."""
    images = keras.Input((1, 1, 2))
    encoder = keras.Model(images, [keras.layers.Flatten()(images)])
    maps = keras.Input((2,))
    return encoder, keras.Model([maps], [keras.layers.Dense(1)(maps)])

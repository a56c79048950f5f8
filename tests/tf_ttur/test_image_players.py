"""What `ImagePlayers` takes and refuses, by a game of one network.

What a GAN takes is tested in test_gan.py and test_labels.py.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ttur import replicas
from tf_ttur.image_players import ImagePlayers
from tf_ttur.labels import Labelled

SHAPE = (4, 4, 1)


class Blur(ImagePlayers):
    """Learns to give an image back."""

    called = "Blur"
    loss_names = ("error",)

    def __init__(self, network, **options):
        super().__init__({"network": network}, sample_shape=SHAPE, **options)
        self.seen = []

    def compile(self, *, network_optimizer, **options):
        super().compile(optimizers={"network": network_optimizer}, **options)

    def one_step(self, data):
        real = self.prepared(data)
        self.seen.append(real)
        images = real.images if isinstance(real, Labelled) else real
        share = replicas.share(images)
        with tf.GradientTape() as tape:
            error = tf.reduce_mean((self.network(images) - images) ** 2)
            loss = self.objective(error, "network", share)
        self.apply(tape, loss, "network")
        self.track({"error": error}, share)


def made(**options):
    network = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(1, 1)])
    players = Blur(network, **options)
    players.compile(network_optimizer="sgd", run_eagerly=True)
    return players


def images(count=4):
    return np.random.default_rng(0).uniform(-1, 1, (count, *SHAPE)).astype("float32")


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: tf.data.Dataset.from_tensors(x),
        lambda x, y: tf.data.Dataset.from_tensors((x, y)),
        lambda x, y: tf.data.Dataset.from_tensors({"image": x}),
        lambda x, y: tf.data.Dataset.from_tensors(({"image": x}, y)),
    ],
)
def test_images_are_found_in_what_pipelines_yield(data):
    players = made()
    x = images()
    players.fit(data(x, np.arange(4)), verbose=0)
    np.testing.assert_array_equal(players.seen[0], x)


def test_labels_come_beside_the_images():
    players = made(num_classes=4)
    x, y = images(), np.array([3, 0, 1, 2])
    players.fit(tf.data.Dataset.from_tensors({"image": x, "label": y}), verbose=0)
    np.testing.assert_array_equal(players.seen[0].labels, y)
    assert players.seen[0].labels.dtype == tf.int32


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({}, images() * 127, "span .*; Blur needs floats in"),
        ({}, (images() * 127).astype("int32"), "int32; Blur needs floats"),
        ({}, images() * np.nan, "NaN or infinite"),
        ({}, images()[:, :2], r"shape \(2, 4, 1\); the network makes \(4, 4, 1\)"),
        ({"num_classes": 3}, images(), "no labels; a Blur with num_classes=3"),
        ({}, list(images()), "list of 4 images"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(options, x, message):
    with pytest.raises(ValueError, match=message):
        made(**options).fit(x, verbose=0)


def test_latents_may_have_any_range_and_are_finite():
    players = made(pixels=False)
    players.fit(tf.data.Dataset.from_tensors(images() * 127), verbose=0)
    np.testing.assert_array_equal(players.seen[0], images() * 127)
    assert players.get_config()["pixels"] is False
    assert "pixels" not in made().get_config()
    with pytest.raises(ValueError, match="NaN or infinite"):
        players.fit(images() * np.nan, verbose=0)
    with pytest.raises(ValueError, match="pixels"):
        made(pixels="no")


def test_the_number_of_classes_is_a_number():
    with pytest.raises(ValueError, match="num_classes"):
        made(num_classes=0)

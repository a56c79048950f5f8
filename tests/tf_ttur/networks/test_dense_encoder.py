"""The dense encoder: its targets against scikit-image, its maps, and how it is kept."""

import numpy as np
import pytest
import tensorflow as tf
from skimage.filters import sobel, threshold_otsu

from fid.files import InputError
from tf_ttur import datasets
from tf_ttur.networks import dense_encoder as module
from tf_ttur.networks.dense_encoder import dense_encoder, dense_targets, untrained


@pytest.fixture(scope="module")
def digits():
    return np.concatenate(list(datasets.load("digits", image_size=16).images()))


def test_the_foreground_is_otsus_class_with_less_of_the_border(digits):
    found = dense_targets(digits[:60])[..., 0]
    assert set(np.unique(found)) == {0, 1}
    shares = []
    for image, ours in zip(digits[:60, ..., 0], found, strict=True):
        # It looks at 256 bins, so a grey value beside the threshold may change sides.
        shares.append(np.mean((image > threshold_otsu(image)) == ours))
    assert np.mean(shares) > 0.99
    # Turned to negatives, the same pixels are in front.
    np.testing.assert_array_equal(dense_targets(255 - digits[:60])[..., 0], found)


def test_the_edges_are_sobels_of_each_image_by_itself(digits):
    images = digits[:5]
    found = dense_targets(images)[..., 1]
    for image, ours in zip(images[..., 0] / 255.0, found, strict=True):
        slopes = [sobel(image, axis=axis, mode="reflect") for axis in (0, 1)]
        expected = np.minimum(np.hypot(*slopes), 1)
        # Sums of eight float32 numbers of at most 1.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)


def test_an_image_of_one_colour_has_no_foreground_and_no_edges():
    assert not dense_targets(np.full((2, 8, 8, 3), 77, np.uint8)).any()


def test_it_learns_both_tasks_and_is_kept(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_STEPS", 60)
    made = dense_encoder(digits)
    assert made.foreground > 0.8
    assert made.edges > 0.6
    again = dense_encoder(digits)
    assert again.path == made.path
    assert (again.foreground, again.edges) == (made.foreground, made.edges)
    images = tf.constant(digits[:4] / np.float32(127.5) - 1)
    maps = made.network(images)
    assert [x.shape[1:] for x in maps] == [
        (16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 128)
    ]  # fmt: skip
    for one, two in zip(maps, again.network(images), strict=True):
        np.testing.assert_array_equal(one, two)
    # Frozen, and still a way for gradients to the images.
    assert made.network.trainable_variables == []
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(made.network(images)[-1] ** 2)
    assert np.abs(tape.gradient(total, images)).max(axis=(1, 2, 3)).min() > 0
    # Of other images there is another.
    assert dense_encoder(255 - digits[:100]).path != made.path
    made.path.write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        dense_encoder(digits)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 12, 16, 1), "multiples of 8"),
        ((10, 16, 16), "multiples of 8"),
        ((4, 16, 16, 1), "There are 4 images"),
    ],
)
def test_images_that_it_cannot_learn_from_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        dense_encoder(np.zeros(shape, np.uint8))


def test_the_untrained_encoder_is_frozen_and_always_the_same():
    one, two = untrained((16, 8, 3)), untrained((16, 8, 3))
    assert not one.trainable_variables
    assert [x.shape[1:] for x in one.outputs] == [
        (16, 8, 16), (8, 4, 32), (4, 2, 64), (2, 1, 128)
    ]  # fmt: skip
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="multiples of 8"):
        untrained((12, 8, 3))

"""What is said of digits, against NumPy's formulas and brute force."""

import itertools

import numpy as np
import pytest
import rounding
import tensorflow as tf
from sklearn.datasets import load_digits

from fid.files import InputError
from tf_ttur import datasets
from tf_ttur.distillation.oracles import (
    digits_judge,
    digits_oracle,
    diversity,
    sharpness,
)

SIDE = 32  # of the classifier that tests share


def digits(side):
    images = np.concatenate([*datasets.load("digits", image_size=side).images()])
    return images / np.float32(127.5) - 1, load_digits().target.astype(np.int32)


def noise(count, side=SIDE):
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, (count, side, side, 1)).astype("float32")


def slope(images):
    """The mean absolute difference of neighbours, in float64."""
    images = np.asarray(images, "f8")
    both = [np.abs(np.diff(images, axis=axis)) for axis in (1, 2)]
    return np.array(
        [
            np.concatenate([x.ravel() for x in each]).mean()
            for each in zip(*both, strict=True)
        ]
    )


def test_the_sharpness_is_the_mean_difference_of_neighbours():
    images = noise(5)[:, :7]
    terms = images[0].size * 2
    few = rounding.gamma(terms + 2, "float32")
    np.testing.assert_allclose(sharpness(images), slope(images), rtol=few)
    colours = np.concatenate([images, 2 * images], -1)
    np.testing.assert_allclose(sharpness(colours), 1.5 * slope(images), rtol=few)


def test_the_oracle_is_the_formula_that_is_stated(classifier):
    real, labels = digits(SIDE)
    images = np.concatenate([real[:20], noise(4), np.full((1, SIDE, SIDE, 1), 0.25)])
    images = images.astype("float32")
    asked = np.resize([3, *labels[1:20]], 25)
    found = digits_oracle((SIDE, SIDE, 1))(images, asked).numpy()
    logits = classifier.network(images).numpy().astype("f8")
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    quotient = np.maximum(slope(images) / slope(real).mean(), 1e-3)
    expected = log_p[np.arange(25), asked] + 0.5 * np.log(quotient)
    # Log p is a difference of logits and of the logarithm of a sum of ten. Logits of
    # another batch are sums in another order, of 64 features whose own sums are longer;
    # a relative error in the quotient is an absolute one in its logarithm.
    span = np.abs(logits).max()
    few = span * rounding.gamma(10 + 3 * rounding.FUNCTION, "float32")
    few += rounding.likely(4 * SIDE * SIDE, "float32") + 1e-6 * np.log(1e3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=few)
    # An image of one colour has a score, and the worst sharpness.
    assert quotient[-1] == 1e-3


def test_the_oracle_prefers_what_is_asked_for_and_what_is_sharp(classifier):
    real, labels = digits(SIDE)
    oracle = digits_oracle((SIDE, SIDE, 1))
    right = oracle(real, labels).numpy()
    wrong = oracle(real, (labels + 1) % 10).numpy()
    assert np.mean(right > wrong) > 0.97
    # At half the contrast a digit is read as before, as a rule, and is less sharp.
    pale = oracle(0.5 * real - 0.5, labels).numpy()
    assert np.mean(right > pale) > 0.9
    assert oracle.name == "digits"
    assert oracle.identity.startswith("digits v1 ")


def test_the_oracle_has_gradients(classifier):
    images = tf.constant(digits(SIDE)[0][:3])
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(digits_oracle((SIDE, SIDE, 1))(images, [0, 1, 2]))
    gradient = tape.gradient(total, images).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max((1, 2, 3)) > 0).all()


def test_the_judge_reads_digits_as_they_are():
    real, labels = digits(8)
    judge = digits_judge((8, 8, 1))
    read = judge(real, labels)
    assert set(read) == {0.0, 1.0}
    assert read.mean() > 0.98
    # Each image is read as one class of ten.
    everyone = sum(judge(real[:50], np.full(50, label)) for label in range(10))
    np.testing.assert_array_equal(everyone, 1.0)
    assert judge(noise(100, 8), np.arange(100) % 10).mean() < 0.5


def test_diversity_is_the_distance_of_all_pairs_of_a_class():
    images, labels = noise(12, 8), np.array([0] * 5 + [1] * 6 + [2])
    expected = []
    for label in (0, 1):
        pairs = itertools.combinations(images[labels == label].astype("f8"), 2)
        expected.append(np.sqrt(np.mean([np.mean((a - b) ** 2) for a, b in pairs])))
    assert diversity(images, labels) == pytest.approx(np.mean(expected))
    assert diversity(images[:5]) == pytest.approx(expected[0])
    assert diversity(np.repeat(images[:1], 4, 0)) == 0


def test_what_cannot_be_judged_is_refused(classifier):
    for function in (digits_oracle, digits_judge):
        for shape in ((8, 8, 3), (8, 9, 1), (8, 8)):
            with pytest.raises(InputError, match="square and have one channel"):
                function(shape)
        shape = (SIDE, SIDE, 1)
        with pytest.raises(InputError, match="there are n.*Set num_classes=10"):
            function(shape)(noise(1), None)
    with pytest.raises(InputError, match="at least 8 are needed"):
        digits_oracle((4, 4, 1))
    with pytest.raises(InputError, match="of 3 images no two have one"):
        diversity(noise(3), [0, 1, 2])

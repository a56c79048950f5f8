"""Threefry against its authors' published answers, and what is made of its words."""

import numpy as np
import pytest
import rounding
import scipy.stats
import tensorflow as tf

from tf_ttur.theory import counter_random

# Known answers of threefry2x32 with 20 rounds, from Random123's kat_vectors: counter,
# key, result.
ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(count, seed=7):
    """Words of one key, as the game draws them."""
    index = tf.cast(tf.range(count // 2), tf.uint32)
    fill = tf.zeros_like(index)
    return tf.concat(
        counter_random.threefry((fill + seed, fill), (fill, index)), axis=0
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_threefry_gives_its_authors_answers(compiled):
    counters, keys, expected = (
        [tf.constant(column, tf.uint32) for column in zip(*rows, strict=True)]
        for rows in zip(*ANSWERS, strict=True)
    )
    threefry = tf.function(counter_random.threefry, jit_compile=compiled)
    found = threefry(tuple(keys), tuple(counters))
    np.testing.assert_array_equal(np.array(found), np.array(expected))


def test_normals_are_normal():
    numbers = counter_random.normals(words(200_000)).numpy().astype(np.float64)
    assert scipy.stats.kstest(numbers, "norm").pvalue > 1e-6
    error = rounding.DEVIATIONS / np.sqrt(len(numbers))
    assert abs(numbers.mean()) < error
    assert numbers.std() == pytest.approx(1, rel=rounding.deviation_of(len(numbers)))
    # Neighbours, as two coordinates of a point are, are independent.
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < error


def test_normals_are_the_quantiles_of_their_words():
    given = np.array([0, 2**31 - 512, 2**31, 3 * 2**30, 2**32 - 1], np.uint32)
    found = counter_random.normals(tf.constant(given)).numpy()
    parts = 2.0**-23 * ((given >> 9) + 0.5)
    # The inverse error function of the project's XLA is a polynomial that is right to
    # some units in the last place; its argument is exact.
    expected = scipy.stats.norm.ppf(parts)
    np.testing.assert_allclose(
        found, expected, rtol=rounding.gamma(4 * rounding.FUNCTION, "float32")
    )
    assert found[0] == -found[-1]


def test_whole_numbers_are_evenly_below_their_bound():
    numbers = counter_random.below(words(90_000), 9).numpy()
    counts = np.bincount(numbers, minlength=9)
    assert len(counts) == 9
    assert scipy.stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("count", [1, 3, 2**24 - 1, 2**24])
def test_the_largest_word_stays_below_the_bound(count):
    ends = tf.constant([0, 2**32 - 1], tf.uint32)
    first, last = counter_random.below(ends, count).numpy()
    assert (first, last) == (0, count - 1)

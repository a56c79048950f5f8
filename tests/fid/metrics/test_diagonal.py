import importlib.util
import tracemalloc

import numpy as np
import pytest
import rounding

from fid import InputError, Moments, Statistics
from fid.metrics.diagonal import Diagonal
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def measured(x):
    moments = Moments(x.shape[1])
    moments.update(x)
    return Measured(moments.statistics(), features=x)


def test_it_is_the_distance_of_independent_features():
    # Covariances beside the diagonal do not count.
    one = Statistics(np.zeros(2), np.array([[4.0, 1.0], [1.0, 1.0]]))
    two = Statistics(np.array([3.0, 4.0]), np.array([[9.0, 2.0], [2.0, 25.0]]))
    sets = Measured(one), Measured(two)
    assert Diagonal()(*sets) == pytest.approx(25 + 1 + 16)
    assert Diagonal()(*sets[::-1]) == Diagonal()(*sets)
    _, (error,) = Diagonal().with_errors(*sets)
    assert error.line("x") == (
        "x standard error: none (neither set has its features; give images)"
    )


def test_the_standard_error_is_the_deviation_of_many_draws():
    random, count, found = np.random.default_rng(0), 400, []
    for _ in range(count):
        x, y = random.exponential(size=(150, 3)), random.normal(size=(100, 3)) * 2
        x[:, 1] += x[:, 0]
        value, (error,) = Diagonal().with_errors(measured(x), measured(y))
        found.append([value, error.value])
    values, said = np.transpose(found)
    assert np.sqrt(np.mean(said**2)) == pytest.approx(
        values.std(), rel=0.1 + rounding.deviation_of(count)
    )


def test_the_share_of_a_set_without_features_is_left_out_and_said_so():
    one, two = (
        measured(np.random.default_rng(seed).exponential(size=(40, 3)) + seed)
        for seed in (0, 1)
    )
    (both,), (first,), (second,) = (
        Diagonal().with_errors(*sets)[1]
        for sets in (
            (one, two),
            (one, Measured(two.statistics)),
            (Measured(one.statistics), two),
        )
    )
    assert both.value**2 == pytest.approx(first.value**2 + second.value**2)
    assert "images of A alone; the statistics of B are taken as exact" in first.origin
    assert "images of B alone; the statistics of A are taken as exact" in second.origin


def test_a_feature_that_is_always_the_same_has_no_share():
    x = np.random.default_rng(0).normal(size=(50, 2))
    y = x + 1
    flat = np.pad(x, ((0, 0), (0, 1)))
    value, (error,) = Diagonal().with_errors(
        measured(flat), measured(np.pad(y, ((0, 0), (0, 1))))
    )
    without, (expected,) = Diagonal().with_errors(measured(x), measured(y))
    assert (value, error.value) == pytest.approx((without, expected.value))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_gan") is None,
    reason="TF-GAN is not installed",
)
def test_against_tfgan():
    import tensorflow as tf

    from tf_ttur import tfgan

    x, y = np.random.default_rng(0).normal(size=(2, 5000, 6))
    name = "diagonal_only_frechet_classifier_distance_from_activations"
    expected = getattr(tfgan.load().eval, name)(tf.constant(x), tf.constant(2 * y))
    # Its variances have the divisor n.
    assert Diagonal()(measured(x), measured(2 * y)) == pytest.approx(
        float(expected), rel=2 / 5000
    )


def test_what_is_no_covariance_is_refused():
    one = Measured(Statistics(np.zeros(2), np.diag([1.0, -1.0]), label="bad"))
    with pytest.raises(InputError, match="bad has the variance -1 on its diagonal"):
        Diagonal()(one, one)
    two = Measured(Statistics(np.zeros(3), np.eye(3)))
    with pytest.raises(InputError, match="different extractors"):
        Diagonal()(one, two)


def test_its_error_copies_no_set_in_float64():
    x = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
    one = Measured(Statistics(np.zeros(32), np.eye(32), len(x)), x)
    tracemalloc.start()
    Diagonal().with_errors(one, one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Blocks of 1,024 rows, and a few numbers an image.
    assert peak < x.nbytes

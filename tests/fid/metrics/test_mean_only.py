import importlib.util

import numpy as np
import pytest
import rounding

from fid import InputError, Moments, Statistics
from fid.metrics.mean_only import MeanOnly
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def measured(x):
    moments = Moments(x.shape[1])
    moments.update(x)
    return Measured(moments.statistics())


def test_by_hand():
    one = Measured(Statistics(np.zeros(2), np.diag([4.0, 1.0]), n=10))
    two = Measured(Statistics(np.array([3.0, 4.0]), np.eye(2), n=20))
    value, (error, bias) = MeanOnly().with_errors(one, two)
    assert value == MeanOnly()(one, two) == 25
    assert error.value == pytest.approx(np.sqrt(4 * (36 + 16) / 10 + 4 * 25 / 20))
    assert bias.value == pytest.approx(5 / 10 + 2 / 20)
    assert bias.name("fid_mean_only") == "fid_mean_only_bias"


def test_sets_of_unknown_size_are_taken_as_exact_and_said_so():
    one = Measured(Statistics(np.zeros(1), np.eye(1), n=10))
    two = Measured(Statistics(np.ones(1), np.eye(1)))
    _, (error, bias) = MeanOnly().with_errors(one, two)
    assert (error.value, bias.value) == pytest.approx((np.sqrt(0.4), 0.1))
    assert error.origin.endswith(
        "B does not say of how many images it is: taken as exact"
    )
    _, (error, bias) = MeanOnly().with_errors(two, two)
    assert (error.value, bias.value) == (None, None)


def test_the_errors_are_those_of_many_draws():
    random, count, found = np.random.default_rng(0), 400, []
    for _ in range(count):
        x, y = random.exponential(size=(80, 3)), random.normal(size=(60, 3)) * 2
        value, errors = MeanOnly().with_errors(measured(x), measured(y))
        found.append([value, *(error.value for error in errors)])
    values, said, bias = np.transpose(found)
    assert np.sqrt(np.mean(said**2)) == pytest.approx(
        values.std(), rel=0.1 + rounding.deviation_of(count)
    )
    off = rounding.DEVIATIONS * values.std() / np.sqrt(count)
    assert values.mean() - 3 == pytest.approx(bias.mean(), abs=off)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_gan") is None,
    reason="TF-GAN is not installed",
)
def test_against_tfgan():
    import tensorflow as tf

    from tf_ttur import tfgan

    x, y = np.random.default_rng(0).normal(size=(2, 50, 6))
    name = "mean_only_frechet_classifier_distance_from_activations"
    expected = getattr(tfgan.load().eval, name)(tf.constant(x), tf.constant(y))
    assert MeanOnly()(measured(x), measured(y)) == pytest.approx(float(expected))


def test_features_of_other_extractors_are_refused():
    one, two = (Measured(Statistics(np.zeros(d), np.eye(d))) for d in (2, 3))
    with pytest.raises(InputError, match="different extractors"):
        MeanOnly()(one, two)

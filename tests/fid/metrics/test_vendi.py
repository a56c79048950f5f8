import tracemalloc

import numpy as np
import pytest
import rounding
import scipy.stats

from fid import InputError, Statistics, vendi_score
from fid.metrics.metric import Measured
from fid.metrics.vendi import Vendi

pytestmark = pytest.mark.portable

NOTHING = Statistics(np.zeros(1), np.eye(1))


def features(n, d, seed):
    return np.random.default_rng(seed).exponential(size=(n, d))


def errors(x):
    value, (error,) = Vendi().with_errors(Measured(NOTHING, features=x), None)
    return value, error.value


@pytest.mark.parametrize(("n", "d"), [(40, 5), (5, 40), (12, 12)])
def test_against_the_kernel_matrix(n, d):
    x = features(n, d, 0)
    kernel = np.array([[a @ b for b in x] for a in x])
    kernel /= np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
    values = np.maximum(np.linalg.eigvalsh(kernel / n), 0)
    expected = np.exp(scipy.stats.entropy(values))
    # A zero that is rounding, e, is e log e of the entropy: of no more than n of them.
    tiny = rounding.gamma(4 * (n + d))
    near = pytest.approx(expected, rel=n * tiny * -np.log(tiny))
    assert vendi_score(x) == near
    assert errors(x)[0] == near
    assert vendi_score(x[::-1]) == near
    assert vendi_score(3 * x) == near


def test_it_counts_different_images():
    directions = np.repeat(np.eye(6)[:4], 5, axis=0)
    assert vendi_score(directions) == pytest.approx(4)
    assert vendi_score(np.ones((9, 3), np.float32)) == pytest.approx(1)
    # Shares of 1/2 and twice 1/4 have an entropy of 1.5 log 2.
    assert vendi_score(np.eye(3)[[0, 0, 1, 2]]) == pytest.approx(2**1.5)


@pytest.mark.parametrize(("n", "d"), [(200, 4), (60, 100)])
def test_the_standard_error_is_the_deviation_of_many_draws(n, d):
    random = np.random.default_rng(0)
    # Images of a few kinds, and noise; fewer images than features have a spread, too.
    kinds, count, found = random.exponential(size=(3, d)) * 2, 250, []
    for _ in range(count):
        x = kinds[random.integers(0, 3, n)] + random.normal(size=(n, d)) / 20
        found.append(errors(x))
    values, said = np.transpose(found)
    assert np.sqrt(np.mean(said**2)) == pytest.approx(
        values.std(), rel=0.1 + rounding.deviation_of(count)
    )


def test_images_without_a_direction_are_refused():
    x = features(5, 3, 0)
    x[3] = 0
    with pytest.raises(InputError, match="image 3 .* are all zero, so they have no di"):
        vendi_score(x)
    x[2] = np.nan
    with pytest.raises(InputError, match="image 2 .* are not finite"):
        vendi_score(x)
    for bad in (x[:1], x[0], np.ones((5, 3), int)):
        with pytest.raises(InputError, match="expected floats .n, d. of at least 2"):
            vendi_score(bad)


def test_no_set_is_copied_in_float64():
    x = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
    tracemalloc.start()
    vendi_score(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Blocks of 1,024 rows, and a few numbers an image.
    assert peak < x.nbytes

import tracemalloc

import numpy as np
import pytest
import rounding
import scipy.stats

from fid import InputError, Statistics, mind
from fid.metrics.metric import Measured
from fid.metrics.monge import Mind

pytestmark = pytest.mark.portable

NOTHING = Statistics(np.zeros(1), np.eye(1))


def errors(x, y, **options):
    return Mind(**options).with_errors(
        Measured(NOTHING, features=x), Measured(NOTHING, features=y)
    )


def features(n, d, seed, shift=0.0):
    return np.random.default_rng(seed).exponential(size=(n, d)) + shift


def near(*sets):
    """A mean of squares of differences, whose terms are sums over the features."""
    d = sets[0].shape[1]
    largest = max(np.square(x).sum(axis=1).max() for x in sets)
    return 12 * d * largest * rounding.gamma(4 * d + sets[0].size)


def test_one_feature_is_the_transport_of_sorted_numbers():
    x, y = np.array([[3.0], [1.0], [7.0]]), np.array([[2.0], [9.0], [1.0]])
    # Sorted 1, 3, 7 and 1, 2, 9: 0 + 1 + 4, by 3; times 3 d. Either sign is the same.
    assert mind(x, y, directions=7) == pytest.approx(3 * 5 / 3, abs=near(x, y))


def test_against_scipy_direction_by_direction():
    x, y = features(60, 4, 0), features(60, 4, 1, 0.5)
    random = np.random.RandomState(5)
    directions = random.normal(size=(300, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = []
    for u in directions:
        one, two = np.sort(x @ u), np.sort(y @ u)
        # The optimal assignment for squares, by SciPy and not by sorting.
        cost = np.subtract.outer(x @ u, y @ u) ** 2
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        assert cost[rows, columns].sum() == pytest.approx(((one - two) ** 2).sum())
        expected.append(cost[rows, columns].mean())
    got = mind(x, y, directions=300, seed=5)
    assert got == pytest.approx(12 * np.mean(expected), abs=near(x, y))
    value, (_, of_directions) = errors(x, y, mind_directions=300, seed=5)
    assert value == pytest.approx(got, abs=near(x, y))
    assert of_directions.value == pytest.approx(
        12 * np.std(expected, ddof=1) / np.sqrt(300)
    )
    assert of_directions.name("mind") == "mind_direction_error"


def test_a_shift_counts_its_length_whatever_the_dimension():
    # E of 3 d (shift · u)² is 3 |shift|².
    x, shift = features(50, 8, 0), np.arange(8.0)
    value, (_, of_directions) = errors(x, x + shift, mind_directions=2000)
    expected = 3 * shift @ shift
    assert value == pytest.approx(
        expected, abs=rounding.DEVIATIONS * of_directions.value
    )


def test_the_order_of_the_images_and_of_the_sets_does_not_matter():
    x, y = features(300, 5, 0), features(300, 5, 1)
    expected = pytest.approx(mind(x, y), abs=near(x, y))
    assert mind(x[::-1], y) == expected
    assert mind(y, x) == expected
    assert mind(x, x[::-1].copy()) == pytest.approx(0, abs=near(x, x))
    assert mind(x, x) == 0.0
    # A large mean costs no digits.
    assert mind(x + 1e6, y + 1e6) == pytest.approx(mind(x, y), rel=1e-6)
    single = mind(x.astype(np.float32), y.astype(np.float32))
    assert single == pytest.approx(mind(x, y), abs=near(x, y) * rounding.SINGLE)


def test_of_the_larger_set_as_many_are_taken_as_the_smaller_has():
    x, y = features(300, 5, 0), features(200, 5, 1)
    rows = np.random.RandomState(4).choice(300, 200, replace=False)
    taken = mind(x, y, seed=4, directions=50)
    # The directions come after the draw, so these are others.
    value, (error, of_directions) = errors(x[rows], y, seed=0, mind_directions=2000)
    assert taken == pytest.approx(value, abs=of_directions.value * 5 * 40**0.5)
    assert mind(y, x, seed=4, directions=50) == pytest.approx(taken, abs=near(x, y))
    assert error.value > 0


def test_the_standard_error_is_the_deviation_of_many_draws():
    random = np.random.default_rng(0)
    count, values, said = 300, [], []
    for _ in range(count):
        x, y = random.exponential(size=(200, 3)), random.normal(size=(200, 3))
        value, (error, _) = errors(x, y, mind_directions=40)
        values.append(value)
        said.append(error.value)
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(
        np.std(values), rel=0.1 + rounding.deviation_of(count)
    )


def test_what_cannot_be_compared_is_refused():
    x = features(5, 3, 0)
    for sets, message in (
        ((x, x[:, :2]), "3 features an image and the second 2"),
        ((x[:1], x), "first set .* at least 2 images"),
        ((x, np.full((5, 3), np.inf)), "image 0 .* second set are not finite"),
    ):
        with pytest.raises(InputError, match=message):
            mind(*sets)
    for options, message in (
        ({"directions": 1}, "^directions is 1; it must be at least 2"),
        ({"seed": -1}, "^seed is -1"),
    ):
        with pytest.raises(InputError, match=message):
            mind(x, x, **options)


def test_no_set_is_copied_in_float64():
    x = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    tracemalloc.start()
    mind(x, x, directions=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Both are copied in float32; the check of the values takes a quarter of one.
    assert peak < 2.5 * x.nbytes

import importlib.util

import numpy as np
import oracles
import pytest
import rounding

from fid import InputError, Statistics, kernel_distance, open_images
from fid.metrics.kernel import Kernel
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def features(n, d, seed, shift=0.0):
    """Like pool_3: float32, not negative, with a mean well above its differences."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(n, d)) @ np.random.default_rng(9).normal(size=(d, d))
    return np.maximum(mixed / np.sqrt(d) + 0.4 + shift, 0.0).astype(np.float32)


def near(value, x, y):
    """Equal to a kernel distance, its mean or its deviation, but for rounding.

    A deviation of subsets' values moves by no more than they do.
    """
    return pytest.approx(value, rel=0, abs=rounding.kernel(x, y, subsets=True))


def test_by_hand():
    # d = 1: k(1, 2) = 27 within x; k(0, 3) = 1 within y; k(1, 0) = k(2, 0) = 1,
    # k(1, 3) = 64 and k(2, 3) = 343 between: 27 + 1 - 2 (1 + 1 + 64 + 343) / 4.
    # All of this is exact in binary, but a library's cube or division may not be.
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    assert kernel_distance(x, y, subsets=0).full == near(-176.5, x, y)
    (only,) = {kernel_distance(x, y, subsets=3, subset_size=2).mean}
    assert only == near(-176.5, x, y)


# A kernel matrix is taken in blocks of 2,048 rows: here one, or several unequal ones.
@pytest.mark.parametrize(("n", "m"), [(150, 230), (2100, 4200)])
def test_against_whole_kernel_matrices(n, m):
    x, y = features(n, 32, 0), features(m, 32, 1, shift=0.05)
    got = kernel_distance(x, y, subsets=7, subset_size=40, seed=3)
    assert got.full == near(oracles.kernel_distance(x, y), x, y)
    # torch-fidelity's procedure: of x first, then of y, from one generator.
    random = np.random.RandomState(3)
    each = []
    for _ in range(7):
        rows = random.choice(n, 40, replace=False)
        columns = random.choice(m, 40, replace=False)
        each.append(oracles.kernel_distance(x[rows], y[columns]))
    assert got.mean == near(np.mean(each), x, y)
    assert got.std == near(np.std(each), x, y)


def test_all_features_depend_on_no_order_and_no_seed():
    x, y = features(300, 64, 0), features(200, 64, 1)
    one = kernel_distance(x, y, subsets=0).full
    two = kernel_distance(x[::-1], y[::-1], subset_size=50, seed=1).full
    assert one == near(two, x, y)
    assert kernel_distance(y, x, subsets=0).full == near(one, x, y)


def test_the_seed_decides_the_subsets():
    x, y = features(100, 8, 0), features(100, 8, 1)
    one, again, other = (
        kernel_distance(x, y, subsets=5, subset_size=20, seed=s) for s in (0, 0, 1)
    )
    assert one == again
    assert one.mean != other.mean


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_gan") is None,
    reason="TF-GAN is not installed",
)
def test_against_tfgan():
    import tensorflow as tf

    from tf_ttur import tfgan

    x, y = features(120, 16, 0), features(120, 16, 1, shift=0.3)
    expected = tfgan.load().eval.kernel_classifier_distance_from_activations(
        tf.constant(x, tf.float64), tf.constant(y, tf.float64), max_block_size=120
    )
    got = kernel_distance(x, y, subsets=0).full
    assert got == near(float(expected), x, y)


@pytest.mark.parametrize(
    ("x", "y", "flags", "message"),
    [
        ((5, 3), (9, 3), {"subset_size": 6}, "takes 6 .* smaller set has 5"),
        ((9, 3), (5, 3), {"subset_size": 6}, "0 subsets"),
        ((5, 3), (5, 4), {"subsets": 0}, "3 features .* second 4"),
        ((1, 3), (5, 3), {"subsets": 0}, "first set"),
        ((5,), (5, 3), {"subsets": 0}, r"shape \(5,\)"),
        ((5, 3), (5, 3), {"subset_size": 1}, "at least 2"),
        ((5, 3), (5, 3), {"subsets": -1}, "^subsets is -1; it must be at least 0"),
        ((5, 3), (5, 3), {"subset_size": 2, "seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_computed_is_refused(x, y, flags, message):
    with pytest.raises(InputError, match=message):
        kernel_distance(np.ones(x), np.ones(y), **flags)


def test_bad_values_are_named():
    bad = np.ones((4, 2))
    bad[2, 0] = np.inf
    with pytest.raises(InputError, match="image 2 .* second set"):
        kernel_distance(np.ones((4, 2)), bad, subsets=0)


def images(count):
    """A source of so many images, none of which is read here."""
    return open_images(np.zeros((count, 1, 1, 3), np.uint8))


def test_sets_smaller_than_a_subset_are_refused_before_they_are_read():
    Kernel(kid_subset_size=5).check([images(5), images(9)])
    Kernel(kid_subsets=0).check([images(5), images(9)])
    for sets in ((images(5), images(9)), (images(9), images(5))):
        with pytest.raises(InputError) as error:
            Kernel(kid_subset_size=6).check(sets)
        assert str(error.value) == (
            "KID's subsets have 6 images, and array has 5: choose a smaller "
            "--kid_subset_size, or --kid_subsets=0 for the estimate from all images "
            "alone."
        )
    with pytest.raises(InputError, match="^kid_subsets is -1; it must be at least 0"):
        Kernel(kid_subsets=-1).check([images(5), images(9)])


def test_statistics_need_their_features():
    few = Statistics(np.zeros(3), np.eye(3), 9, rows=np.zeros((9, 3)), label="few")
    Kernel(kid_subset_size=9).check([few, images(9)])
    bare = Statistics(np.zeros(3), np.eye(3), 9000, label="bare")
    for sets in ((bare, images(9)), (few, bare)):
        with pytest.raises(
            InputError, match="^KID needs the features of both sets, and bare holds"
        ):
            Kernel(kid_subset_size=9).check(sets)


# Standard errors ----------------------------------------------------------------------


def with_errors(x, y, **options):
    nothing = Statistics(np.zeros(1), np.eye(1))
    sets = (Measured(nothing, features=each) for each in (x, y))
    return Kernel(**options).with_errors(*sets)


@pytest.mark.parametrize(
    # The mean over subsets may be nearly as good as all images, or far worse.
    ("shift", "subsets", "size"),
    [(0.7, 30, 60), (0.7, 4, 20), (0.2, 10, 30)],
)
def test_the_standard_errors_are_the_deviations_of_many_draws(shift, subsets, size):
    random, count, found = np.random.default_rng(0), 400, []
    for seed in range(count):
        x, y = random.normal(size=(80, 3)), random.normal(size=(60, 3)) + shift
        result, errors = with_errors(
            x, y, kid_subsets=subsets, kid_subset_size=size, seed=seed
        )
        assert [error.part for error in errors] == ["mean", "full"]
        found.append([result.mean, result.full, *(error.value for error in errors)])
    mean, full, of_mean, of_full = np.transpose(found)
    # The distance is skewed, so a deviation of draws is more uncertain than of normal
    # numbers; of a kurtosis up to 6.
    near = 0.1 + rounding.deviation_of(count, kurtosis=6)
    for values, said in ((mean, of_mean), (full, of_full)):
        assert np.sqrt(np.mean(said**2)) == pytest.approx(values.std(), rel=near)


def test_sets_of_one_distribution_have_an_error_of_the_second_order():
    """There the first order vanishes, and the naive formula is too large by sqrt(2)."""
    random, count, found = np.random.default_rng(1), 600, []
    for _ in range(count):
        x, y = random.normal(size=(2, 60, 3))
        result, (error,) = with_errors(x, y, kid_subsets=0)
        found.append([result.full, error.value])
    full, said = np.transpose(found)
    # The error is never below its second order, which lifts it a little.
    ratio = np.sqrt(np.mean(said**2)) / full.std()
    near = rounding.deviation_of(count, kurtosis=6)
    assert 1 - near < ratio < 1.3 + near


def test_the_variance_is_that_of_a_u_statistic_written_out():
    """Unbiased sums over pairs, triples and quadruples of different images."""
    x, y = features(7, 3, 0), features(6, 3, 1, shift=0.9)

    def kernel(a, b):
        return (np.asarray(a, float) @ np.asarray(b, float).T / 3 + 1) ** 3

    # A two-sample U-statistic on pairs (x_i, y_i) has the order of both sets alike;
    # here each set is varied alone, by leaving out an image: the jackknife of a
    # U-statistic is its first-order estimate (Arvesen 1969), up to 1 / n.
    def value(x, y):
        return kernel_distance(x, y, subsets=0).full

    jackknife = 0.0
    for one, of in ((x, lambda z: value(z, y)), (y, lambda z: value(x, z))):
        n = len(one)
        left = np.array([of(np.delete(one, i, axis=0)) for i in range(n)])
        jackknife += (n - 1) / n * ((left - left.mean()) ** 2).sum()
    _, (error,) = with_errors(x, y, kid_subsets=0)
    # The jackknife counts the second order twice, so it is never below.
    assert 0.5 * jackknife < error.value**2 < jackknife * 7 / 5


def test_sets_that_say_nothing_of_the_spread_have_no_standard_error():
    x = features(3, 2, 0)
    _, errors = with_errors(x, x, kid_subsets=2, kid_subset_size=2)
    for error, part in zip(errors, ("mean", "full"), strict=True):
        assert (error.value, error.part) == (None, part)
        assert "fewer than 4 images" in error.origin
    x = features(9, 2, 0)
    _, (mean, full) = with_errors(x, x, kid_subsets=1, kid_subset_size=9)
    assert (mean.value, mean.origin) == (None, "one subset has no spread")
    assert full.value > 0

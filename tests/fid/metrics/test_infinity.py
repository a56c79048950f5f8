import numpy as np
import oracles
import pytest
import rounding

import fid
from fid import InputError, Moments, Statistics, frechet_infinity, open_images
from fid.metrics.frechet import Frechet
from fid.metrics.infinity import Infinity
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def measured(x):
    moments = Moments(x.shape[1])
    moments.update(x)
    return Measured(moments.statistics(), features=x)


def features(n, d, seed, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + shift


def near(x, y):
    """What the rounding of 15 distances is in the intercept.

    The weights of a line through 1 / n for n from a tenth of the images to all of them
    are below 1 each, and those of subsets are distances of fewer images.
    """
    return 15 * rounding.frechet(x, y)


# Subsets of 40 to 400 images: fewer than features and more, below and above a half.
@pytest.mark.parametrize(("n", "d"), [(400, 3), (400, 60), (40, 50)])
def test_against_one_distance_after_the_other(n, d):
    """dgm-eval's procedure with NumPy's functions; its draws, of this seed."""
    x, y = features(n, d, 0, 5.0), features(3 * d, d, 1, 5.2)
    got = frechet_infinity(x, measured(y).statistics, seed=3)
    random = np.random.RandomState(3)
    sizes, distances = [], []
    for size in np.linspace(min(5000, max(n // 10, 2)), n, 15).astype(int):
        rows = random.choice(n, size, replace=False)
        sizes.append(int(size))
        distances.append(oracles.frechet_distance(x[rows], y))
    # The oracle's eigenvalues that are zero are roots of rounding.
    loose = 1e-5 * max(distances)
    assert got.sizes == tuple(sizes)
    assert got.distances == pytest.approx(distances, rel=0, abs=loose)
    design = np.stack([np.ones(15), 1 / np.array(sizes)], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, np.array(got.distances), rcond=None)
    assert got.value == pytest.approx(value)
    assert got.slope == pytest.approx(slope)
    residuals = got.distances - design @ [value, slope]
    covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / 13
    assert got.regression_error() == pytest.approx(np.sqrt(covariance[0, 0]))


def test_the_last_distance_is_that_of_all_images_in_any_order():
    x, y = features(300, 6, 0), features(200, 6, 1)
    reference = measured(y).statistics
    expected = fid.frechet_distance(measured(x).statistics, reference)
    for rows in (x, x[::-1]):
        found = frechet_infinity(rows, reference)
        assert found.distances[-1] == pytest.approx(expected, abs=near(x, y))
    assert frechet_infinity(x, reference) == frechet_infinity(x, reference)
    assert frechet_infinity(x, reference, seed=1).value != found.value


def test_it_has_less_bias_than_the_distance_and_the_error_that_it_says():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 6, 6)) / np.sqrt(6)
    reference = Statistics(np.zeros(6), two @ two.T)
    truth = fid.frechet_distance(Statistics(np.zeros(6), one @ one.T), reference)
    count, values, plain, errors, spread = 250, [], [], [], []
    for seed in range(count):
        first = measured(random.normal(size=(150, 6)) @ one.T)
        found, (error, regression) = Infinity(seed=seed).with_errors(
            first, Measured(reference)
        )
        values.append(found.value)
        plain.append(found.distances[-1])
        errors.append(error.value)
        spread.append(regression.value)
        assert "of A alone" in error.origin
    said = np.sqrt(np.mean(np.square(errors)))
    assert said == pytest.approx(np.std(values), rel=0.1 + rounding.deviation_of(count))
    # The residuals do not know what all subsets have in common.
    assert np.mean(spread) < said / 2
    off = rounding.DEVIATIONS * np.std(values) / np.sqrt(count)
    bias = np.mean(plain) - truth
    assert np.mean(values) - truth == pytest.approx(0.0, abs=off + bias / 4)


def test_both_sets_add_to_the_error():
    one, two = measured(features(90, 4, 0)), measured(features(80, 4, 1))
    both, alone = (
        Infinity().with_errors(one, second)[1][0]
        for second in (two, Measured(two.statistics))
    )
    assert "both sets" in both.origin
    share = Frechet().with_errors(Measured(one.statistics), two)[1][0].value
    assert both.value**2 == pytest.approx(alone.value**2 + share**2)


def test_subsets_too_small_for_a_line_are_said():
    """The smallest one has a tenth of the images: of 80 8, which is 2 d."""
    reference = measured(features(90, 4, 1))
    for n, few in ((80, True), (90, False)):
        one = measured(features(n, 4, 0))
        warnings = Infinity().warnings(one, reference)
        assert len(warnings) == few
        error, _ = Infinity().with_errors(one, reference)[1]
        assert error.origin.endswith("no more than 2 d images") == few
    assert (
        "has 8 of the 80 images of statistics"
        in Infinity().warnings(measured(features(80, 4, 0)), reference)[0]
    )


def test_singular_covariances_have_a_distance_and_no_error():
    equal = measured(np.tile([3.0, 0.0], (9, 1)))
    other = measured(np.array([[4.0, 0.0], [8.0, 0.0]]))
    found, (error, regression) = Infinity().with_errors(equal, other)
    assert found.value == pytest.approx(9 + 8)
    assert found.slope == pytest.approx(0, abs=1e-10)
    assert error.value is None
    assert "covariance" in error.origin
    assert regression.value == pytest.approx(0, abs=1e-10)


def test_what_cannot_be_extrapolated_is_refused():
    reference = Statistics(np.zeros(3), np.eye(3), label="reference")
    for x, message in (
        (np.zeros((2, 3)), "at least 3 images"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.full((9, 3), np.nan), "image 0 .* not finite"),
        (np.zeros((9, 4)), "4 dimensions and those of reference have 3"),
    ):
        with pytest.raises(InputError, match=message):
            frechet_infinity(x, reference)
    with pytest.raises(InputError, match="seed is -1; it must be from 0 to 4294967295"):
        frechet_infinity(np.zeros((9, 3)), reference, seed=-1)
    images = open_images(np.zeros((2, 1, 1, 3), np.uint8))
    with pytest.raises(InputError, match="array has 2 images; give at least 3, better"):
        Infinity().check([images, reference])
    with pytest.raises(InputError, match="needs the features of the first set, and re"):
        Infinity().check([reference, images])

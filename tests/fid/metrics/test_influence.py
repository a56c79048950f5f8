import numpy as np
import pytest
import rounding

import fid
from fid import InputError, Moments, Statistics, frechet_distance, influence
from fid.metrics.influence import influences
from fid.metrics.transport import transport

pytestmark = pytest.mark.portable


def features(n, d, seed, shift=0.0):
    """Skewed and correlated, as features are."""
    random = np.random.default_rng(seed)
    return np.abs(random.normal(size=(n, d)) @ random.normal(size=(d, d))) + shift


def measured(x):
    moments = Moments(x.shape[1])
    moments.update(x)
    return moments.statistics()


def weighted(x, weights):
    """Mean and covariance of the distribution that gives each row its weight."""
    mean = weights @ x
    return mean, (x - mean).T * weights @ (x - mean)


def test_it_is_the_derivative_of_the_distance_by_the_weight_of_an_image():
    x, reference = features(60, 3, 0), measured(features(50, 3, 1, 0.3))
    even, step = np.full(60, 1 / 60), 1e-5

    def distance(weights):
        return frechet_distance(Statistics(*weighted(x, weights)), reference)

    own = Statistics(*weighted(x, even))
    found = influences(x, own, reference, transport(own, reference).forward)
    for i in (0, 7, 59):
        towards = -even
        towards[i] += 1
        ends = (distance(even + sign * step * towards) for sign in (1, -1))
        slope = np.subtract(*ends) / (2 * step)
        # The quotient leaves out step² times the third derivative, which is of the
        # order of the sixth power of a feature; and its rounding is u / step.
        near = step**2 * 1e4 + 1e3 * rounding.gamma(200) / step
        assert found[i] == pytest.approx(slope, abs=near * np.abs(found).max())


def test_by_hand_in_one_dimension():
    # Means 0 and 2, deviations 1 and 3: T is 3, and phi(x) = -4 x - 2 (x² - 1).
    x = np.array([-np.sqrt(1.5), 0.0, np.sqrt(1.5), 0.0])
    x *= np.sqrt(1.0 / x.var(ddof=1))
    reference = Statistics(np.array([2.0]), np.array([[9.0]]))
    expected = -4 * x - 2 * x**2
    expected -= expected.mean()
    got = influence(x[:, np.newaxis], reference)
    np.testing.assert_allclose(got, expected, rtol=0, atol=20 * rounding.gamma(60))


def test_leaving_an_image_out_changes_the_distance_by_its_influence():
    x, y = features(4000, 4, 0), features(3000, 4, 1, 0.2)
    reference = measured(y)
    phi, before = influence(x, reference), frechet_distance(measured(x), reference)
    for i in (np.argmax(phi), np.argmin(phi), 5):
        after = frechet_distance(measured(np.delete(x, i, axis=0)), reference)
        # The second order is (phi / n)², and terms of the leverage of the image.
        change = (after - before) * (len(x) - 1)
        assert change == pytest.approx(-phi[i], rel=0.05, abs=0.01 * phi.std())


def test_it_follows_the_order_of_the_images_and_not_the_precision():
    x, y = features(300, 6, 0), features(200, 6, 1)
    reference, order = measured(y), np.random.default_rng(2).permutation(300)
    found = influence(x, reference)
    bound = 1e4 * rounding.likely(6 + 300) * np.abs(found).max()
    np.testing.assert_allclose(
        influence(x[order], reference), found[order], rtol=0, atol=bound
    )
    np.testing.assert_allclose(influence(x, y), found, rtol=0, atol=bound)
    np.testing.assert_allclose(
        influence(x.astype(np.float32), reference),
        found,
        rtol=0,
        atol=bound * rounding.SINGLE,
    )


def test_equal_sets_have_no_image_that_moves_the_distance():
    x = features(100, 4, 0)
    bound = 1e4 * rounding.gamma(104) * np.square(x).sum(axis=1).max()
    assert np.abs(influence(x, x)).max() < bound


def test_what_has_no_influence_is_refused():
    x = features(9, 4, 0)
    with pytest.raises(
        InputError,
        match="^statistics has 4 images for 4 features, so its covariance "
        "is singular, and there is no optimal transport; use more than 8: no image",
    ):
        influence(x[:4], measured(features(9, 4, 1)))
    flat = Statistics(np.zeros(4), np.diag([1.0, 1, 1, 0]), label="flat.npz")
    with pytest.raises(InputError, match="of statistics or of flat.npz is singular"):
        influence(x, flat)
    with pytest.raises(InputError, match="4 dimensions and .* reference have 3"):
        influence(x, measured(features(9, 3, 1)))
    with pytest.raises(InputError, match=r"shape \(4,\); expected \(n, d\)"):
        influence(x[0], flat)
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="image 3"):
        influence(x, measured(features(9, 4, 1)))
    assert fid.influence is influence

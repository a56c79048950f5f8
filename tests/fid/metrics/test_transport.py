import mpmath
import numpy as np
import pytest
import rounding

from fid import Statistics, frechet_distance
from fid.metrics.transport import cholesky, transport

pytestmark = pytest.mark.portable


def gaussian(d, seed):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(d, d))
    return Statistics(random.normal(size=d), mixing @ mixing.T / d + np.eye(d))


@pytest.mark.parametrize("d", [1, 5, 40])
def test_the_map_takes_the_first_covariance_to_the_second_and_back(d):
    one, two = gaussian(d, 0), gaussian(d, 1)
    found = transport(one, two)
    there, back = found.forward @ found.forward.T, found.back @ found.back.T
    # Covariances from 1 to 5: their roots, inverses and products keep all but a few
    # digits, whose number grows with the terms of a product.
    near = {"rtol": 0, "atol": 1000 * rounding.gamma(d + 40)}
    np.testing.assert_allclose(there @ one.sigma @ there, two.sigma, **near)
    np.testing.assert_allclose(back @ two.sigma @ back, one.sigma, **near)
    np.testing.assert_allclose(there @ back, np.eye(d), **near)
    assert found.distance == pytest.approx(
        frechet_distance(one, two), rel=0, abs=rounding.frechet_of(one, two)
    )


def test_a_singular_covariance_has_no_transport():
    flat = Statistics(np.zeros(3), np.diag([1.0, 1.0, 0.0]))
    full = Statistics(np.zeros(3), np.eye(3))
    assert transport(flat, full) is None
    assert transport(full, flat) is None
    assert cholesky(flat.sigma) is None
    np.testing.assert_array_equal(cholesky(full.sigma), np.eye(3))


def test_the_curvature_is_half_the_mean_second_derivative():
    """Of 50 digits: the distance along S + t (u u' - S), for each of many u.

    Sums of u_i² u_j² over all corners of a cube and its axes have the moments of a
    Gaussian, so that the mean over these few u is the mean over a Gaussian's.
    """
    one, two = np.diag([1.0, 4.0]), np.diag([9.0, 0.25])
    found = transport(Statistics(np.zeros(2), one), Statistics(np.zeros(2), two))

    def distance(sigma):
        # Of 2 x 2: tr of a root is sqrt(tr + 2 sqrt(det)).
        product = sigma * mpmath.matrix(two)
        trace = product[0, 0] + product[1, 1]
        root = mpmath.sqrt(trace + 2 * mpmath.sqrt(mpmath.det(product)))
        return sigma[0, 0] + sigma[1, 1] - 2 * root

    # Radii and directions of a rule that is exact to degree 5 in two dimensions: the
    # centre with weight 1/2, six points at radius 2 with weight 1/12 each.
    points = [(0.5, 0.0, 0.0)]
    for k in range(6):
        angle = np.pi * k / 3
        points.append((1 / 12, 2 * np.cos(angle), 2 * np.sin(angle)))
    with mpmath.workdps(50):
        total, step = mpmath.mpf(0), mpmath.mpf(10) ** -12
        for weight, *u in points:
            z = mpmath.matrix([u[0] * 1, u[1] * 2])
            way = z * z.T - mpmath.matrix(one)
            values = [distance(mpmath.matrix(one) + k * step * way) for k in (-1, 0, 1)]
            second = (values[0] - 2 * values[1] + values[2]) / step**2
            total += weight * second
        expected = float(total / 2)
    # The difference quotient leaves out step² times the fourth derivative, and angles
    # are rounded.
    assert found.curvature() == pytest.approx(expected, rel=1e-12)

"""The bounds of `rounding` against exact sums, which `math.fsum` and fractions give."""

import fractions
import math

import numpy as np
import pytest
import rounding


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_unit_is_half_of_numpys_distance_from_one(dtype):
    assert rounding.unit(dtype) == np.finfo(dtype).eps / 2


def test_the_unit_of_bfloat16_is_that_of_tensorflow():
    dtypes = pytest.importorskip("ml_dtypes")
    assert rounding.unit("bfloat16") == float(dtypes.finfo(dtypes.bfloat16).eps) / 2


def test_a_chain_of_roundings_is_within_gamma():
    # The worst there is: every factor is 1 + u.
    for count in (1, 7, 100):
        exact = (1 + fractions.Fraction(rounding.unit())) ** count - 1
        assert exact <= fractions.Fraction(rounding.gamma(count)) * (1 + 1e-15)


@pytest.mark.parametrize("order", [1, -1])
def test_sums_in_any_order_are_within_their_bound_and_mostly_far_within(order):
    terms = np.random.default_rng(0).normal(size=(50, 4096)).astype("float32")
    found = terms[:, ::order].cumsum(axis=1, dtype="float32")[:, -1]
    exact = [math.fsum(row) for row in terms.astype("float64")]
    error = np.abs(found - exact)
    assert (error <= rounding.of_sum(terms, 1, "float32")).all()
    magnitudes = np.abs(terms.astype("float64")).sum(axis=1)
    assert (error <= rounding.likely(4096, "float32") * magnitudes).all()
    # One program against an exact sum, and one order: less than is allowed for two, and
    # not less than a tenth of it, so that the bound says something.
    allowed = 64 * rounding.random_sums(4096, 50)  # 64 is the root of 4096.
    assert allowed / 10 < error.max() < allowed


def test_a_likely_error_is_never_more_than_the_largest():
    for count in (1, 10, 100, 10_000):
        assert rounding.likely(count, "float32") <= rounding.gamma(count, "float32")


def test_a_type_without_digits_left_is_refused():
    with pytest.raises(AssertionError, match="2000 roundings of float16"):
        rounding.gamma(2000, "float16")


def test_what_changes_a_distance_is_more_than_its_rounding():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 100, 5))
    shift = x.mean(0) - y.mean(0)
    # Where all features move by 1e-6, only the means do.
    change = abs(2e-6 * shift.sum())
    assert rounding.frechet(x, y) < change / 1000
    assert change < rounding.frechet_of_features(1.0, 1e-6 * math.sqrt(5))

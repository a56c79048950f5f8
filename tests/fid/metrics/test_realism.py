import numpy as np
import pytest
import rounding

from fid import InputError, precision_recall, realism_scores

pytestmark = pytest.mark.portable

# On a line; with one neighbour the radii are 1, 1, 2 and 6: two are below 1.5.
REAL = np.array([[0.0], [1.0], [3.0], [9.0]])


def test_by_hand():
    found = realism_scores(np.array([[-2.0], [0.25], [5.0]]), REAL, neighbours=1)
    # A root and a quotient, of numbers that are exact.
    np.testing.assert_allclose(
        found, [1 / 2, 1 / 0.25, 1 / 4], rtol=rounding.gamma(4, "float32")
    )


def test_images_in_small_balls_score_one_or_more():
    random = np.random.default_rng(0)
    real, new = random.normal(size=(2, 100, 4))
    scores = realism_scores(new, real)
    assert scores.shape == (100,)
    assert scores.dtype == np.float64
    # To be in any ball is less than to be in a small one.
    assert 0 < np.mean(scores >= 1) <= precision_recall(new, real).precision.mean
    farther = realism_scores(new + 100, real)
    assert farther.max() < 0.1


def test_scores_are_in_the_order_of_the_images():
    random = np.random.default_rng(0)
    real, new = random.integers(0, 9, (2, 100, 4)).astype(np.float64)
    order = random.permutation(100)
    np.testing.assert_array_equal(
        realism_scores(new[order], real), realism_scores(new, real)[order]
    )


def test_balls_of_one_size_are_refused():
    line = np.arange(9.0)[:, None]
    with pytest.raises(InputError, match="smaller than the median, and there is none"):
        realism_scores(line, line, neighbours=1)
    with pytest.raises(InputError, match="Every image of the second set equals 3"):
        realism_scores(line, np.ones((9, 1)))

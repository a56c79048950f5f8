import numpy as np
import pytest

from fid import InputError, density_coverage
from fid.metrics.in_balls import MeanOverImages

pytestmark = pytest.mark.portable

# On a line; with two neighbours the radii are 3, 2, 3 and 8.
REAL = np.array([[0.0], [1.0], [3.0], [9.0]])


def test_by_hand():
    # 2 is in the balls of 0, 1, 3 and 9 (7 away); 5.5 in those of 3 and 9; 17 is at the
    # edge of that of 9.
    new = np.array([[2.0], [5.5], [17.0]])
    found = density_coverage(new, REAL, neighbours=2)
    assert found.density == MeanOverImages.of(np.array([4, 2, 0]) / 2)
    assert found.coverage == MeanOverImages(1.0, 0.0)
    found = density_coverage(new[2:].repeat(3, axis=0), REAL, neighbours=2)
    assert (found.density.mean, found.coverage.mean) == (0.0, 0.0)
    found = density_coverage(
        new[2:].repeat(3, axis=0), REAL, neighbours=2, variant="kynkaanniemi"
    )
    assert (found.density.mean, found.coverage.mean) == (0.5, 0.25)


def test_density_is_one_on_average_for_images_like_the_real_ones():
    """Each real image's ball holds k of n real images, so k of n generated ones.

    As a share of n + 1 images in random order, a ball has k / n others on average; the
    density is a mean over n balls that overlap.
    """
    random = np.random.default_rng(0)
    found = [
        density_coverage(*random.normal(size=(2, 200, 3))).density.mean
        for _ in range(50)
    ]
    error = np.std(found, ddof=1) / np.sqrt(50)
    assert np.mean(found) == pytest.approx(1.0, abs=5 * error)
    assert error < 0.02


def test_one_strange_image_changes_little():
    """Which is what recall is reproached with."""
    random = np.random.default_rng(0)
    real, new = random.normal(size=(2, 300, 3))
    before = density_coverage(new, real)
    new[0] = 1000.0
    after = density_coverage(new, real)
    # An image is in a ball of real images or not; those that it alone covers are few.
    assert before.density.mean - after.density.mean < 0.05
    assert before.coverage.mean - after.coverage.mean < 0.05


def test_what_cannot_be_used_is_refused():
    for arguments, options, message in (
        ((REAL, REAL), {}, "first set has 4 images, and a ball reaches to neighbour 5"),
        ((REAL, np.ones((9, 1))), {"neighbours": 2}, "Every image of the second set"),
        ((REAL, REAL), {"variant": "paper"}, "The variant is 'paper'"),
    ):
        with pytest.raises(InputError, match=message):
            density_coverage(*arguments, **options)

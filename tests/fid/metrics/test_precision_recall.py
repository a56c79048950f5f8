import numpy as np
import pytest

from fid import InputError, precision_recall
from fid.metrics.in_balls import MeanOverImages

pytestmark = pytest.mark.portable

# On a line; with one neighbour the radii are 1, 1, 2 and 6, and 2, 2 and 12.
REAL = np.array([[0.0], [1.0], [3.0], [9.0]])
NEW = np.array([[2.0], [4.0], [16.0]])


def test_by_hand():
    # 2 is 1 from 1; 4 is 1 from 3; 16 is 7 from 9, which has a radius of 6. 0, 1 and 3
    # are 2, 1 and 1 from 2, at the edge or inside; 9 is 7 from 16.
    found = precision_recall(NEW, REAL, neighbours=1)
    assert found.precision == MeanOverImages.of(np.array([1, 1, 0]))
    assert found.recall == MeanOverImages(1.0, 0.0)
    found = precision_recall(NEW, REAL, neighbours=1, variant="prdc")
    assert found.precision == MeanOverImages.of(np.array([1, 1, 0]))
    assert found.recall == MeanOverImages.of(np.array([0, 1, 1, 1]))


def test_an_image_at_the_edge_is_in_a_closed_ball_alone():
    edge = np.array([[-1.0], [5.0]])  # 1 from 0, and 2 from 3 but 4 from 9
    closed = precision_recall(edge, REAL[:3], neighbours=1)
    opened = precision_recall(edge, REAL[:3], neighbours=1, variant="prdc")
    assert closed.precision.mean == 1.0
    assert opened.precision.mean == 0.0


def test_swapped_sets_swap_precision_and_recall():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, 5)), random.normal(size=(70, 5)) * 1.3
    for variant in ("kynkaanniemi", "prdc"):
        one = precision_recall(x, y, variant=variant)
        two = precision_recall(y, x, variant=variant)
        assert (one.precision, one.recall) == (two.recall, two.precision)


def test_good_images_of_one_kind_are_precise_and_recall_little():
    random = np.random.default_rng(0)
    real = np.concatenate([random.normal(size=(200, 4)) + 20 * k for k in range(4)])
    found = precision_recall(random.normal(size=(200, 4)) * 0.7, real)
    assert found.precision.mean > 0.9
    assert 0.1 < found.recall.mean < 0.25


def test_what_cannot_be_used_is_refused():
    for arguments, options, message in (
        (
            (NEW, REAL),
            {"neighbours": 3},
            "first set has 3 images, and a ball reaches t",
        ),
        ((NEW[:1], REAL), {"neighbours": 1}, "first set has 1 images"),
        ((NEW, REAL), {"variant": "best"}, "The variant is 'best'"),
        ((NEW, np.ones((9, 1))), {"neighbours": 1}, "Every image of the second set eq"),
        ((NEW, REAL), {"distances": "int8"}, "The distances are 'int8'"),
    ):
        with pytest.raises(InputError, match=message):
            precision_recall(*arguments, **options)
    with pytest.raises(TypeError, match="k"):
        precision_recall(NEW, REAL, k=1)

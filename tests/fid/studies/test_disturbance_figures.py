"""What the figures of the study show, told by the figures and by their pixels."""

import numpy as np
import pytest
from PIL import Image

from fid.metrics.inception_score import InceptionScore
from fid.studies.disturbance_figures import panel, strips
from fid.studies.disturbance_study import Curve, Study

LEVELS = (0.0, 1.0, 4.0)
SCORES = tuple(InceptionScore(x, 0.1) for x in (5.0, 4.0, 2.0))


def study(extractor="toy", scores=SCORES):
    curves = tuple(
        Curve(name, LEVELS, distances, scores, samples=9)
        for name, distances in (("blur", (0.5, 7.0, 30.0)), ("swirl", (0.5, 2.0, 3.0)))
    )
    return Study(curves, extractor, settings={})


def test_a_panel_has_a_column_a_disturbance_and_a_row_a_measure(
    tmp_path, saved_figures
):
    panel(study(), tmp_path / "panel.png", "samples")
    grid = np.reshape(saved_figures[0].axes, (2, 2))
    assert [axes.get_title() for axes in grid[0]] == ["Gaussian blur", "swirl"]
    drawn = [[axes.get_lines()[0].get_xydata() for axes in row] for row in grid]
    np.testing.assert_array_equal(drawn[0][0], [[0, 0.5], [1, 7], [4, 30]])
    np.testing.assert_array_equal(drawn[0][1], [[0, 0.5], [1, 2], [4, 3]])
    # 9 images less the scores.
    np.testing.assert_array_equal(drawn[1][0], [[0, 4], [1, 5], [4, 7]])
    assert grid[0, 0].get_ylim()[0] == 0
    with Image.open(tmp_path / "panel.png") as image:
        assert image.width > image.height
        assert np.asarray(image).std() > 10


def test_a_panel_without_scores_has_one_row(tmp_path, saved_figures):
    panel(study(scores=None), tmp_path / "panel.png")
    assert len(saved_figures[0].axes) == 2
    assert all(axes.get_xlabel() == "level α" for axes in saved_figures[0].axes)


@pytest.mark.parametrize(
    ("extractor", "label"),
    [("inception_2015", "FID"), ("toy", "Fréchet distance\n(frechet_toy)")],
)
def test_only_the_distance_of_the_2015_graph_is_called_fid(
    tmp_path, extractor, label, saved_figures
):
    panel(study(extractor), tmp_path / "panel.png")
    assert saved_figures[0].axes[0].get_ylabel() == label


def test_strips_have_a_row_a_disturbance_and_a_column_a_level(tmp_path, saved_figures):
    grey = [np.full((3, 4, 5, 1), value, np.float32) for value in (0, 100, 200)]
    pictures = {"blur": grey, "noise": grey[:2]}
    levels = {"blur": LEVELS, "noise": (0.0, 0.25)}
    strips(pictures, levels, tmp_path / "strips.png")
    titles = [axes.get_title() for axes in saved_figures[0].axes]
    assert titles[:3] == ["Gaussian blur, 0", "Gaussian blur, 1", "Gaussian blur, 4"]
    assert titles[3:] == ["Gaussian noise, 0", "Gaussian noise, 0.25", ""]
    assert np.asarray(Image.open(tmp_path / "strips.png")).std() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_two_rows_with_white_between(tmp_path, saved_figures, channels):
    images = np.empty((3, 2, 2, channels), np.float32)
    images[:] = np.reshape([10, 20.4, 30], (3, 1, 1, 1))
    strips({"blur": [images]}, {"blur": (0.0,)}, tmp_path / "strips.png")
    shown = np.asarray(saved_figures[0].axes[0].get_images()[0].get_array())
    shown = shown if channels == 1 else shown[..., 0]
    assert shown.tolist() == [
        [10, 10, 255, 20, 20, 255],
        [10, 10, 255, 20, 20, 255],
        [255] * 6,
        [30, 30, 255, 255, 255, 255],
        [30, 30, 255, 255, 255, 255],
        [255] * 6,
    ]

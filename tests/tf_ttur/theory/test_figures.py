"""The figures hold the numbers that they were given."""

import numpy as np
import pytest
from PIL import Image

from tf_ttur.theory import figures, saddle


def lines(axes):
    """The lines of a figure's axes by their names in the legend."""
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_panel_has_a_row_for_each_pair_of_rates(tmp_path, saved_figures):
    figures.saddle_panel(tmp_path / "x.png", steps=30, seed=2)
    axes = saved_figures[0].axes
    assert len(axes) == 4 * 3 + 1  # and a bar of colours
    for index, row in enumerate(saddle.ROWS):
        x, y = saddle.path(row, 30, 2)
        left, middle, right = axes[3 * index : 3 * index + 3]
        values = (1 + x**2) * (100 - y**2)
        np.testing.assert_allclose(left.get_lines()[0].get_ydata(), values)
        distances = lines(middle)["|(x, y)|"][:, 1]
        np.testing.assert_allclose(distances, np.sqrt(x**2 + y**2))
        points = right.collections[0].get_offsets()
        np.testing.assert_allclose(points, np.stack([x, y], 1))
        assert left.get_ylabel().startswith(row.name)


def test_the_surface_is_drawn(tmp_path):
    figures.saddle_surface(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (600, 450)
        # A surface in many colours, and the saddle.
        assert (
            len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 99
        )


def test_distances_are_drawn_with_the_slope_that_predicts_them(tmp_path, saved_figures):
    distance, orbit = 2.0 * 0.9 ** np.arange(5), np.arange(8.0).reshape(4, 2)
    steps, squares = np.array([1, 10, 100]), np.array([1.0, 0.5, 0.25])
    figures.two_time_scales(
        tmp_path / "x.png",
        {"0.01, 0.1": (distance, 0.8)},
        {"Dirac": orbit},
        {"theta": (steps, squares, "--")},
    )
    left, middle, right = saved_figures[0].axes
    measured, predicted = left.get_lines()
    np.testing.assert_allclose(measured.get_ydata(), distance)
    np.testing.assert_allclose(predicted.get_ydata(), 2.0 * 0.8 ** np.arange(5))
    np.testing.assert_allclose(lines(middle)["Dirac"], orbit)
    np.testing.assert_allclose(lines(right)["theta"], np.stack([steps, squares], 1))
    assert [axes.get_yscale() for axes in saved_figures[0].axes] == [
        "log",
        "linear",
        "log",
    ]


def test_errors_are_drawn_with_their_order(tmp_path, saved_figures):
    curve, rates = np.arange(6.0).reshape(3, 2), np.array([0.1, 0.05])
    errors, energy = np.array([0.2, 0.1]), np.array([3.0, 2.0, 1.0])
    figures.heavy_ball(
        tmp_path / "x.png",
        curve,
        {"a = 0.1": curve + 1},
        rates,
        {"ball": (errors, 1.0)},
        {"equation": (np.arange(3), energy)},
    )
    left, middle, right = saved_figures[0].axes
    np.testing.assert_allclose(lines(left)["equation"], curve)
    assert legend(left) == ["equation", "a = 0.1"]
    np.testing.assert_allclose(
        lines(middle)["ball: order 1.00"], np.stack([rates, errors], 1)
    )
    np.testing.assert_allclose(lines(right)["equation"][:, 1], energy)


def test_shares_have_bars_from_low_to_high(tmp_path, saved_figures):
    rows = [(0.5, 0.6, 0.5, 0.8), (2.0, 0.7, 0.65, 0.72)]
    figures.flat_minima(
        tmp_path / "x.png", (np.arange(3), np.arange(3)), {"60 steps": rows}, 0.75
    )
    right = saved_figures[0].axes[1]
    (bars,) = right.containers
    _, _, (collection,) = bars
    for segment, (friction, _, low, high) in zip(
        collection.get_segments(), rows, strict=True
    ):
        np.testing.assert_allclose(segment, [(friction, low), (friction, high)])
    assert "equilibrium: 0.750" in legend(right)
    assert [y for line in right.get_lines() for y in line.get_ydata()].count(0.75) == 2
    assert right.get_xscale() == "log"


@pytest.mark.parametrize("name", ["saddle_panel", "saddle_surface"])
def test_a_figure_appears_whole_or_not_at_all(name, tmp_path, monkeypatch):
    import matplotlib.figure

    def fail(figure, file, **options):
        with open(file, "wb") as half:
            half.write(b"half a picture")
        raise RuntimeError("no memory")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        getattr(figures, name)(tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []

import numpy as np
from PIL import Image

from tf_ttur import plots

# The first of Okabe and Ito's colours, in the order in which series take them.
SERIES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def colours(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return {"#" + bytes(pixel).hex().upper() for pixel in np.unique(pixels, axis=0)}


def test_a_curve_is_drawn_whatever_is_missing(tmp_path):
    rows = [
        {"step": 0, "fid": 300.0},
        {"step": 5, "d_loss": 1.0, "g_loss": 2.0, "fid": None},
        {"step": 10, "d_loss": 0.5, "g_loss": 2.5, "fid": 200.0},
    ]
    for name, some in (("all", rows), ("first", rows[:1]), ("unmeasured", rows[1:2])):
        plots.training_curve(some, "fid", tmp_path / f"{name}.png", name)
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert picture.shape == (720, 840)
        assert picture.min() < 50 < 200 < picture.max()


def test_floors_and_what_is_beside_are_drawn(tmp_path, saved_figures):
    rows = [
        {"step": 0, "jsd_4": 0.9, "jsd_4_floor": 0.3, "jsd_6": 1.0, "jsd_6_floor": 0.7},
        {"step": 5, "jsd_4": 0.4, "jsd_4_floor": 0.3, "jsd_6": 0.8, "jsd_6_floor": 0.7},
    ]
    path = tmp_path / "x.png"
    plots.training_curve(rows, "jsd_4", path, label="divergence", beside=["jsd_6"])
    axes = saved_figures[0].axes[1]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {
        "jsd_4": [0.9, 0.4],
        "jsd_6": [1.0, 0.8],
        "jsd_4 of real lines: 0.3": [0.3, 0.3],
        "jsd_6 of real lines: 0.7": [0.7, 0.7],
        "best: 0.4 at step 5": [0.4],
    }
    assert axes.get_ylabel() == "divergence"
    assert axes.get_yscale() == "linear"


def test_the_distance_of_a_curve_has_its_own_name(tmp_path, saved_figures):
    rows = [{"step": 0, "fid": 3.0, "d_loss": 1.0, "g_loss": 2.0}]
    for label, name in ((None, "fid"), ("FID", "FID")):
        plots.training_curve(rows, "fid", tmp_path / "curve.png", label=label)
        assert saved_figures.pop().axes[1].get_ylabel() == name


def test_a_band_is_mean_lowest_and_highest_of_its_curves():
    curves = [([0, 2, 4], [8.0, 4.0, 0.0]), ([0, 1, 4], [4.0, 2.0, 5.0])]
    band = plots.band(curves, [0, 1, 2, 4])
    # The second one, not measured at 2, is there a third of the way from 2.0 to 5.0.
    assert band.x.tolist() == [0, 1, 2, 4]
    assert band.mean.tolist() == [6.0, 4.0, 3.5, 2.5]
    assert band.low.tolist() == [4.0, 2.0, 3.0, 0.0]
    assert band.high.tolist() == [8.0, 6.0, 4.0, 5.0]


def test_every_curve_of_a_sweep_has_a_colour_of_its_own(tmp_path):
    def bands(level):
        curves = [([0, 5, 10], [level, level / 2, level / 4 + x]) for x in (0.0, 1.0)]
        return plots.band(curves, [0, 5, 10]), plots.band(curves, [0, 10])

    curves = {f"single rate {level}": bands(level) for level in (100.0, 50.0, 25.0)}
    plots.sweep_curves(curves, "FID", tmp_path / "curves.png")
    assert set(SERIES[:3]) <= colours(tmp_path / "curves.png")
    assert not set(SERIES[3:6]) & colours(tmp_path / "curves.png")
    # Zero has no logarithm.
    nothing = plots.band([([0, 1], [1.0, 0.0])], [0, 1])
    plots.sweep_curves({"a": (nothing, nothing)}, "JSD", tmp_path / "zero.png")
    assert SERIES[0] in colours(tmp_path / "zero.png")


def test_a_heat_map_has_a_cell_for_each_pair(tmp_path):
    values = {(1e-4, 1e-4): 1.0, (1e-3, 1e-4): 10.0, (1e-3, 1e-3): 100.0}
    plots.heat_map(values, "FID", tmp_path / "three.png")
    # The ends of cividis, and its middle at the geometric mean.
    assert {"#00224E", "#7D7C78", "#FEE838"} <= colours(tmp_path / "three.png")
    plots.heat_map({(1e-4, 1e-4): 0.0}, "JSD", tmp_path / "one.png")
    assert SERIES[0] not in colours(tmp_path / "one.png")


def test_cells_of_a_heat_map_meet_halfway(tmp_path, saved_figures):
    rates = [1e-4, 1e-2, 1e-1]
    plots.heat_map({(x, 1.0): 1 / x for x in rates}, "FID", tmp_path / "x.png")
    (mesh,) = saved_figures[0].axes[0].collections
    corners = mesh.get_coordinates()
    # On a logarithmic axis; the outer cells are as wide to both sides of their rates.
    edges = [1e-5, 1e-3, 10**-1.5, 10**-0.5]
    for row in corners[..., 0]:
        np.testing.assert_allclose(row, edges)
    np.testing.assert_allclose(corners[:, 0, 1], np.exp([-0.5, 0.5]))


def test_cells_of_settings_have_equal_sizes(tmp_path, saved_figures):
    values = {("0", "hard"): 1.0, ("0.1", "hard"): 2.0, ("0.1", "none"): 9.0}
    places, names = [["0", "0.1", "5"], ["hard", "none"]], ["weight", "split"]
    plots.cell_map(values, places, names, "FID", tmp_path / "x.png")
    axes = saved_figures[0].axes[0]
    (mesh,) = axes.collections
    # A row each value of the second setting; what was not measured is left blank.
    assert mesh.get_array().filled(-1).tolist() == [[1.0, 2.0, -1.0], [-1.0, 9.0, -1.0]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert [x.get_text() for x in axes.get_xticklabels()] == ["0", "0.1", "5"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weight", "split")
    assert sorted(x.get_text() for x in axes.texts) == ["1", "2", "9"]


def test_many_names_of_curves_do_not_lie_on_them(tmp_path, saved_figures):
    band = plots.band([([0, 1], [1.0, 0.5])], [0, 1])
    for count in (7, 8):
        curves = {str(x): (band, band) for x in range(count)}
        plots.sweep_curves(curves, "FID", tmp_path / "x.png")
        figure = saved_figures.pop()
        legend = figure.axes[1].get_legend().get_window_extent()
        beside = legend.x0 >= figure.axes[1].get_window_extent().x1
        assert beside == (count == 8)
        assert legend.x1 <= figure.bbox.x1

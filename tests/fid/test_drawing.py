import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fid import InputError, drawing

PALETTE = (
    drawing.BLACK,
    drawing.BLUE,
    drawing.GREEN,
    drawing.ORANGE,
    drawing.PURPLE,
    drawing.SKY_BLUE,
    drawing.VERMILION,
)


def test_a_figure_has_the_size_that_was_asked_for(tmp_path):
    drawing.save(drawing.new_figure(4.0, 2.5), tmp_path / "x.png", dpi=80)
    with Image.open(tmp_path / "x.png") as image:
        assert (image.format, image.size) == ("PNG", (320, 200))


def test_a_file_is_a_png_whatever_its_name(tmp_path):
    drawing.save(drawing.new_figure(1.0, 1.0), tmp_path / "figure")
    with Image.open(tmp_path / "figure") as image:
        assert (image.format, image.size) == ("PNG", (100, 100))


def test_a_figure_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"before")
    figure = drawing.new_figure(1.0, 1.0)
    figure.text(0.5, 0.5, r"$\frac{1}$")  # is no formula
    with pytest.raises(ValueError, match="frac"):
        drawing.save(figure, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write .*x\.png"):
        drawing.save(drawing.new_figure(1.0, 1.0), tmp_path / "file" / "x.png")


def test_plain_axes_have_a_grid_and_two_sides():
    axes = drawing.new_figure(2.0, 2.0).subplots()
    drawing.plain(axes)
    shown = {side for side, line in axes.spines.items() if line.get_visible()}
    assert shown == {"left", "bottom"}
    assert axes.xaxis.get_gridlines()[0].get_visible()


def test_colours_of_the_palette_differ_in_grey(tmp_path):
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in PALETTE]
    image = Image.new("RGB", (len(colours), 1))
    image.putdata(colours)
    levels = np.sort(np.asarray(image.convert("L")).ravel().astype(int))
    assert np.diff(levels).min() >= 3


def test_importing_it_does_not_import_matplotlib():
    program = "import sys, fid.drawing; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)

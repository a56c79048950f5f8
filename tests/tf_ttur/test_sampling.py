"""Grids, interpolations, folders and archives of images; lines of text."""

import errno
import pathlib
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rounding
from PIL import Image

from fid.files import InputError, lock
from fid.sources.images import open_images
from tf_ttur import sampling
from tf_ttur.latents import NormalLatent, UniformLatent

pytestmark = pytest.mark.portable


def test_a_grid_holds_every_image_in_its_place():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 1), dtype=np.uint8)
    grid = sampling.image_grid(images, columns=3)
    assert grid.shape == (3 * 5 + 2, 3 * 6 + 2, 1)
    for index, image in enumerate(images):
        top, left = index // 3 * 5 + 2, index % 3 * 6 + 2
        np.testing.assert_array_equal(grid[top : top + 3, left : left + 4], image)
    assert not grid[12:15, 8:12].any()  # no eighth image
    assert (grid[:2] == grid[0, 0]).all()
    assert (grid[:, -2:] == grid[0, 0]).all()


def test_images_become_bytes():
    images = np.array([-1.5, -1.0, 0.0, 0.9999, 1.0, 2.0], "float32")
    assert sampling.to_bytes(images).tolist() == [0, 0, 128, 255, 255, 255]
    truncated = sampling.to_bytes(images, "truncate")
    assert truncated.tolist() == [0, 0, 127, 254, 255, 255]


def test_pictures_are_png_grey_or_rgb(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
        sampling.save_png(tmp_path / "x.png", image)
        read = Image.open(tmp_path / "x.png")
        assert (read.format, read.mode) == ("PNG", mode)
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


def test_a_line_of_text_is_a_line(tmp_path):
    lines = ["plain é 漢 “”", "a\x85b\u2028c\rd\x0ce", "\x1b[31m", ""]
    sampling.save_text(tmp_path / "lines.txt", lines)
    text = (tmp_path / "lines.txt").read_text(encoding="utf-8")
    assert text.splitlines() == [
        "plain é 漢 “”",
        r"a\x85b\u2028c\rd\x0ce",
        r"\x1b[31m",
        "",
    ]


# Interpolation ------------------------------------------------------------------------


def test_normal_latents_are_joined_along_a_circle():
    latent = NormalLatent(50)
    way = sampling.interpolation(latent, 4, 5, seed=3)
    assert (way.shape, way.dtype) == ((4, 5, 50), np.float32)
    pairs = np.asarray(latent(8, seed=3))
    # Lengths and products of 50 numbers, an angle, its sines, and a sum of two.
    few = 2 * rounding.gamma(50 + 3 * rounding.FUNCTION, "float32")
    atol = few * np.abs(pairs).max()
    np.testing.assert_allclose(way[:, 0], pairs[:4], rtol=0, atol=atol)
    np.testing.assert_allclose(way[:, -1], pairs[4:], rtol=0, atol=atol)
    lengths = np.linalg.norm(way, axis=-1)
    even = np.linspace(lengths[:, 0], lengths[:, -1], 5, axis=1)
    np.testing.assert_allclose(lengths, even, rtol=few)
    units = way / lengths[..., np.newaxis]
    angles = np.arccos(np.sum(units[:, 1:] * units[:, :-1], axis=-1))
    # An error of a cosine is divided by the sine.
    atol = 2 * few / np.sin(angles).min()
    mean = angles.mean(1, keepdims=True).repeat(4, 1)
    np.testing.assert_allclose(angles, mean, rtol=0, atol=atol)


def test_uniform_latents_are_joined_along_a_line():
    latent = UniformLatent(3)
    way = sampling.interpolation(latent, 2, 4, seed=0)
    pairs = np.asarray(latent(4, seed=0))
    # Four operations either way, on numbers in [-1, 1].
    expected = np.linspace(pairs[:2], pairs[2:], 4, axis=1)
    atol = 2 * rounding.gamma(4, "float32")
    np.testing.assert_allclose(way, expected, rtol=0, atol=atol)


def test_equal_latents_have_nothing_between_them():
    class Equal(NormalLatent):
        def __call__(self, count, seed):
            return np.ones((count, self.dimension))

    way = sampling.interpolation(Equal(3), 1, 3, seed=0)
    # A length of three numbers, and a product and a sum.
    rtol = rounding.gamma(3 + rounding.FUNCTION + 4, "float32")
    np.testing.assert_allclose(way, np.ones((1, 3, 3)), rtol=rtol)


# Folders and archives -----------------------------------------------------------------


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
NAMES = ["00000.png", "00001.png", "00002.png", "00003.png", "00004.png"]


def batches():
    return iter((IMAGES[:2], IMAGES[2:]))


def read(path):
    return np.concatenate(list(open_images(path).batches(3)))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["folder", "archive.zip", "deep/er/folder"])
def test_images_are_read_back_by_what_measures_them(tmp_path, name):
    sampling.save_images(tmp_path / name, batches(), 5)
    np.testing.assert_array_equal(read(tmp_path / name), IMAGES)
    entries = [path.name for path in (tmp_path / name).parent.iterdir()]
    assert entries == [pathlib.Path(name).name]


def test_an_archive_is_stored_and_equal_each_time(tmp_path):
    for name in ("a.zip", "b.zip"):
        sampling.save_images(tmp_path / name, batches(), 5)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == NAMES
        assert {x.compress_type for x in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {x.date_time for x in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_folder_may_be_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sampling.save_images(".", batches(), 5)
    assert list(contents(tmp_path / "here")) == NAMES


def test_a_folder_is_replaced_only_if_asked_and_only_by_its_like(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    sampling.save_images(folder, batches(), 5)  # an empty one may be filled
    assert list(contents(folder)) == NAMES
    with pytest.raises(InputError, match="not empty; give --overwrite"):
        sampling.save_images(folder, batches(), 5)
    sampling.save_images(folder, iter([IMAGES[:1]]), 1, overwrite=True)
    assert list(contents(folder)) == NAMES[:1]
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"more than samples, such as thesis\.tex"):
        sampling.save_images(folder, batches(), 5, overwrite=True)
    assert (folder / "thesis.tex").exists()
    with pytest.raises(InputError, match="is a file"):
        sampling.save_images(folder / "thesis.tex", batches(), 5)


@pytest.mark.parametrize("name", ["folder", "archive.zip"])
def test_nothing_is_left_of_what_fails(tmp_path, name):
    def full_disk():
        yield IMAGES[:2]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        sampling.save_images(tmp_path / name, full_disk(), 5)
    assert not list(tmp_path.iterdir())
    sampling.save_images(tmp_path / name, batches(), 5)
    before = read(tmp_path / name)
    with pytest.raises(InputError, match="No space left on device"):
        sampling.save_images(tmp_path / name, full_disk(), 5, overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / name), before)
    assert [path.name for path in tmp_path.iterdir()] == [name]


_IS_KILLED = """
import os, signal, sys
import numpy as np
from tf_ttur import sampling

def images():
    yield np.zeros((2, 4, 4, 1), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

sampling.save_images(sys.argv[1], images(), 5, overwrite=True)
"""


def test_the_next_run_removes_what_a_killed_one_has_left(tmp_path):
    folder, users = tmp_path / "samples", tmp_path / ".samples.backup.new"
    users.mkdir()
    sampling.save_images(folder, batches(), 5)
    before = contents(folder)
    command = [sys.executable, "-c", _IS_KILLED, str(folder)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (left,) = {*tmp_path.iterdir()} - {folder, users}
    assert list(contents(left)) == NAMES[:2]
    assert contents(folder) == before
    with lock(left):  # somebody is writing there
        sampling.save_images(folder, batches(), 5, overwrite=True)
        assert left.exists()
    (left / "thesis.tex").write_text("years of work")
    sampling.save_images(folder, batches(), 5, overwrite=True)
    assert left.exists()
    (left / "thesis.tex").unlink()
    # A kill between the two renamings at the end: the former images are back.
    folder.rename(left.with_suffix(".old"))
    with pytest.raises(InputError, match="not empty; give --overwrite"):
        sampling.save_images(folder, batches(), 5)
    assert contents(folder) == before
    # Nothing is removed by a call that is refused.
    assert {*tmp_path.iterdir()} == {folder, users, left}
    # A kill after them.
    shutil.copytree(folder, left.with_suffix(".old"))
    sampling.save_images(folder, batches(), 5, overwrite=True)
    assert {*tmp_path.iterdir()} == {folder, users}


def test_what_is_left_of_another_output_is_left_alone(tmp_path):
    one, other = (tmp_path / f"{'x' * 40}_{end}" for end in ("one", "other"))
    sampling.save_images(one, batches(), 5)
    before = contents(one)
    command = [sys.executable, "-c", _IS_KILLED, str(one)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (left,) = {*tmp_path.iterdir()} - {one}
    former = left.with_suffix(".old")
    one.rename(former)  # as by a kill between the two renamings
    near = [
        tmp_path / f".{other.name[:40]}.{end}"
        for end in ("0123abcd.old", "0123abcd.new", "0.new")
    ]
    for folder in near:  # names of users, or of earlier releases
        shutil.copytree(former, folder)
    sampling.save_images(other, batches(), 5, overwrite=True)
    assert {*tmp_path.iterdir()} == {other, left, former, *near}
    sampling.save_images(other, batches(), 5, overwrite=True)
    sampling.save_images(one, batches(), 5, overwrite=True)
    assert contents(one) == before
    assert {*tmp_path.iterdir()} == {one, other, *near}


def test_a_row_of_a_picture_is_a_class():
    ten = sampling.class_rows(1000, columns=3)
    np.testing.assert_array_equal(ten.reshape(10, 3), np.arange(10)[:, None] + [0] * 3)
    np.testing.assert_array_equal(
        sampling.class_rows(10, 2, classes=[7, 3]), [7, 7, 3, 3]
    )
    # A picture with more rows begins again.
    np.testing.assert_array_equal(sampling.class_rows(2, 1, rows=3), [0, 1, 0])
    np.testing.assert_array_equal(sampling.class_rows(9, 1, [5], 2), [5, 5])
    assert ten.dtype == np.int32

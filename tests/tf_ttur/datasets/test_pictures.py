"""Encoded images to pixels, against Pillow's own steps taken by hand."""

import io

import dataset_images
import numpy as np
import pytest
from PIL import Image

from fid.files import InputError
from tf_ttur.datasets import pictures


@pytest.mark.parametrize("name", sorted(dataset_images.every_kind()))
def test_the_central_square_is_scaled_by_pillow(name):
    file = dataset_images.every_kind()[name]
    found = pictures.picture(io.BytesIO(file), crop=None, size=24)
    np.testing.assert_array_equal(found, dataset_images.square(file, 24))


@pytest.mark.parametrize(("height", "width"), [(21, 33), (20, 32)])
def test_an_odd_margin_loses_its_extra_row_and_column_at_the_end(height, width):
    (pixels,) = dataset_images.photographs(1, height, width, seed=0)
    file = io.BytesIO(dataset_images.encode(pixels, "PNG"))
    found = pictures.picture(file, crop=16, size=16)
    top, left = {33: (2, 8), 32: (2, 8)}[width]
    np.testing.assert_array_equal(found, pixels[top : top + 16, left : left + 16])


def test_pixels_beside_the_square_do_not_count():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:24, 8:24] = 255
    file = io.BytesIO(dataset_images.encode(pixels, "PNG"))
    found = pictures.picture(file, crop=16, size=4)
    np.testing.assert_array_equal(found, np.full((4, 4, 3), 255))


@pytest.mark.parametrize("function", ["picture", "check"])
@pytest.mark.parametrize(("mode", "what"), [("F", "floating-point"), ("I", "integer")])
def test_pixels_of_no_known_range_are_refused(function, mode, what):
    file = io.BytesIO(dataset_images.encode(Image.new(mode, (8, 8)), "TIFF"))
    arguments = {"picture": {"crop": None, "size": 8}, "check": {}}[function]
    with pytest.raises(InputError, match=f"{what} pixels .* no known range"):
        getattr(pictures, function)(file, **arguments)


def test_16_bits_keep_their_upper_8_as_in_what_is_measured(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    pictures.check(tmp_path / "x.png")
    found = pictures.picture(tmp_path / "x.png", crop=None, size=8)
    np.testing.assert_array_equal(found, np.repeat(deep[..., None] // 256, 3, -1))


def test_a_check_finds_a_damaged_png_and_passes_a_whole_one():
    pixels = np.zeros((8, 8, 3), np.uint8)
    file = bytearray(dataset_images.encode(pixels, "PNG"))
    pictures.check(io.BytesIO(file))
    file[len(file) // 2] ^= 255
    with pytest.raises(Exception, match=r"."):
        pictures.check(io.BytesIO(file))


def test_results_come_in_the_order_of_the_files():
    assert pictures.each_file(str.upper, ["b", "a"], ["one", "two"]) == ["B", "A"]

    def backwards(function, files):
        return [*map(function, files[::-1])][::-1]

    found = pictures.each_file(str.upper, ["b", "a"], ["one", "two"], backwards)
    assert found == ["B", "A"]


def test_one_error_names_all_that_failed():
    def fail(number):
        if number % 2:
            raise RuntimeError(f"odd\nnumber {number}")

    names = [f"file {number}" for number in range(46)]
    with pytest.raises(InputError) as error:
        pictures.each_file(fail, range(5), names[:5])
    assert str(error.value) == (
        "Cannot read 2 of 5 images; mend or remove them: file 1 (odd number 1); "
        "file 3 (odd number 3)."
    )
    with pytest.raises(InputError, match=r"23 of 46 .*file 39 .*; and 3 more\.$"):
        pictures.each_file(fail, range(46), names)


def test_too_little_memory_is_no_fault_of_an_image():
    def fail(name):
        raise MemoryError(f"for {name}")

    with pytest.raises(MemoryError, match="for a"):
        pictures.each_file(fail, ["a"], ["a"])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1)])
def test_an_image_of_the_exact_size_is_taken_as_it_is(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "x.png")
    np.testing.assert_array_equal(pictures.exact(tmp_path / "x.png", shape), pixels)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7, 5, 3), "7x5 pixels, and 5x7 are wanted"),
        ((5, 7, 1), "it has colours, and grey is wanted"),
    ],
)
def test_an_image_of_another_size_or_of_colours_is_refused(tmp_path, shape, message):
    Image.new("RGB", (7, 5), "red").save(tmp_path / "x.png")
    with pytest.raises(InputError, match=message):
        pictures.exact(tmp_path / "x.png", shape)

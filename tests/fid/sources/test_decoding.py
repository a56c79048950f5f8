"""Each kind of image against values worked out by hand."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from image_folders import encoded
from PIL import Image
from repository import ROOT

from fid import InputError
from fid.sources.decoding import IMAGE_SUFFIXES, check, decode

# Pillow's remarks on damaged metadata, which the damage here brings about.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def png(width, height, bits, colour, rows):
    """A PNG written by hand, for what Pillow cannot write or should not read."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = b"".join(b"\0" + row for row in rows)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(pixels)),
            chunk(b"IEND", b""),
        ]
    )


def sgi(width, rows):
    """A grey SGI image of 16 bits, uncompressed, the lowest row first."""
    header = struct.pack(
        ">hBBHHHHii4x80si404x", 474, 0, 2, 2, width, len(rows), 1, 0, 65535, b"", 0
    )
    return header + b"".join(struct.pack(f">{width}H", *row) for row in rows[::-1])


def palette_image():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50] + [0] * 762)
    image.putdata([1, 0])
    return image


def sixteen_bits():
    return Image.fromarray(np.array([[0x00FF, 0x0100], [0xABCD, 0xFFFF]], np.uint16))


KINDS = ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "QOI",
         "SGI", "PCX"]  # fmt: skip
WHITE = ("1 bit as 0 and 255",)
WIDE = [[[0] * 3, [1] * 3], [[0xAB] * 3, [0xFF] * 3]]
COLOURS = [[[200, 100, 50], [9, 8, 7]]]
HIDDEN = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
# 255 - 40 = 215 of white are left; 215 * (255 - 10) / 255 = 206.6, and so on.
INKS = Image.new("CMYK", (1, 1), (10, 20, 30, 40))
INKS_AS_RGB = [[[207, 198, 190]]]


@pytest.mark.parametrize(
    ("data", "expected", "treatments"),
    [
        (encoded(Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]], ()),
        (encoded(Image.new("L", (1, 1), 5)), [[[5, 5, 5]]], ("grey repeated",)),
        (
            encoded(Image.new("LA", (1, 1), (5, 0))),
            [[[5, 5, 5]]],
            ("grey repeated", "alpha dropped"),
        ),
        (encoded(HIDDEN), [[[10, 20, 30]]], ("alpha dropped",)),
        (
            encoded(HIDDEN, "WEBP", lossless=True, exact=True),
            [[[10, 20, 30]]],
            ("alpha dropped",),
        ),
        (encoded(HIDDEN, "TIFF"), [[[10, 20, 30]]], ("alpha dropped",)),
        (encoded(palette_image()), COLOURS, ("palette looked up",)),
        (encoded(palette_image(), transparency=1), COLOURS, ("palette looked up",)),
        (
            encoded(palette_image(), transparency=b"\x10\x20"),
            COLOURS,
            ("palette looked up",),
        ),
        (
            encoded(palette_image(), "GIF", transparency=1),
            COLOURS,
            ("palette looked up",),
        ),
        (encoded(palette_image(), "BMP"), COLOURS, ("palette looked up",)),
        (encoded(sixteen_bits()), WIDE, ("16-bit grey // 256",)),
        (encoded(sixteen_bits(), "TIFF"), WIDE, ("16-bit grey // 256",)),
        # 16 bits a channel: 0x1234, 0x56FF, 0x0080.
        (
            png(1, 1, 16, 2, [b"\x12\x34\x56\xff\x00\x80"]),
            [[[0x12, 0x56, 0x00]]],
            (),
        ),
        (
            png(2, 1, 1, 0, [b"\x40"]),
            [[[0] * 3, [255] * 3]],
            ("1 bit as 0 and 255",),
        ),
        # Pillow scales PGM of any depth to the range of 16 bits.
        (encoded(sixteen_bits(), "PPM"), WIDE, ("16-bit grey // 256",)),
        (
            b"P5 1 1 4095\n\x0f\xff",
            [[[255, 255, 255]]],
            ("16-bit grey // 256",),
        ),
        (b"P3 1 1 255 1 2 3", [[[1, 2, 3]]], ()),
        (b"P1 2 1 1 0", [[[0] * 3, [255] * 3]], ("1 bit as 0 and 255",)),
        (encoded(sixteen_bits(), "JPEG2000"), WIDE, ("16-bit grey // 256",)),
        (encoded(HIDDEN, "JPEG2000"), [[[10, 20, 30]]], ("alpha dropped",)),
        (encoded(HIDDEN, "QOI"), [[[10, 20, 30]]], ("alpha dropped",)),
        (encoded(HIDDEN, "SGI"), [[[10, 20, 30]]], ("alpha dropped",)),
        (encoded(palette_image(), "PCX"), COLOURS, ("palette looked up",)),
        (encoded(Image.new("1", (1, 1), 1), "PCX"), [[[255] * 3]], WHITE),
        (sgi(2, [[0x00FF, 0xABCD]]), [[[0] * 3, [0xAB] * 3]], ("grey repeated",)),
        (encoded(INKS, "TIFF"), INKS_AS_RGB, ("CMYK converted",)),
        (encoded(INKS, "JPEG", quality=100), INKS_AS_RGB, ("CMYK converted",)),
    ],
)
def test_each_kind_of_image_has_its_treatment(data, expected, treatments):
    found = decode(data)
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.treatments == treatments


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_orientation_is_not_applied_and_noted(kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(Image.fromarray(pixels), kind, exif=turned, **options))
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.treatments == ("EXIF orientation not applied",)


def test_an_upright_image_is_not_said_to_be_turned():
    upright = Image.Exif()
    upright[0x0112] = 1
    assert decode(encoded(Image.new("RGB", (5, 2)), exif=upright)).treatments == ()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_read(kind):
    first, second = (Image.new("RGB", (3, 2), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    found = decode(data)
    np.testing.assert_array_equal(found.pixels, np.full((2, 3, 3), (255, 0, 0)))
    assert "first frame of several" in found.treatments


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (1, 1), 0.5), "floating-point pixels"),
        (Image.new("I", (1, 1), 70_000), "integer pixels"),
        (Image.new("LAB", (1, 1)), "unusual pixels"),
    ],
)
def test_pixels_of_no_known_range_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        decode(encoded(image, "TIFF"))


def test_grey_that_counts_from_white_is_not_read_upside_down():
    data = bytearray(encoded(sixteen_bits(), "TIFF"))
    # Tag 262, photometric interpretation, type 3 (short), one of them: 1 becomes 0.
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    assert data[at] == 1
    data[at] = 0
    with pytest.raises(InputError, match="I;16"):
        decode(bytes(data))


def test_the_content_says_whether_it_is_lossy():
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    )
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    found = {
        "png": (encoded(image), False),
        "jpeg": (encoded(image, "JPEG"), True),
        "webp": (encoded(image, "WEBP"), True),
        "webp lossless": (encoded(image, "WEBP", lossless=True), False),
        "webp alpha": (encoded(image.convert("RGBA"), "WEBP"), True),
        "webp frames": (encoded(image, "WEBP", **frames), True),
        "webp lossless frames": (
            encoded(image, "WEBP", lossless=True, **frames),
            False,
        ),
        "tiff": (encoded(image, "TIFF"), False),
        "tiff jpeg": (encoded(image, "TIFF", compression="jpeg"), True),
        "bmp": (encoded(image, "BMP"), False),
        "gif": (encoded(image, "GIF"), False),
        "ppm": (encoded(image, "PPM"), False),
        "qoi": (encoded(image, "QOI"), False),
        "sgi": (encoded(image, "SGI"), False),
        "pcx": (encoded(image, "PCX"), False),
        "avif": (encoded(image, "AVIF"), True),
        # That nothing was cut off is not known.
        "jpeg2000": (encoded(image, "JPEG2000"), True),
        "jpeg2000 wavelet": (encoded(image, "JPEG2000", irreversible=True), True),
        "jpeg2000 cut": (
            encoded(image, "JPEG2000", quality_mode="rates", quality_layers=[20]),
            True,
        ),
    }
    for name, (data, lossy) in found.items():
        assert decode(data).lossy == lossy, name
        assert decode(data).format == name.split()[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"no image at all", r"no PNG, JPEG, .*: it begins with b'no image'"),
        (b"<html>no such page</html>", "no image, but an HTML page: .* redirected$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "but a Git LFS pointer: Fet"),
        # TGA has no signature, so that anything might be one.
        (encoded(Image.new("RGB", (1, 1)), "TGA"), "no PNG"),
        (encoded(Image.new("RGB", (16, 16)), "ICO"), "no PNG"),
        (encoded(Image.new("RGB", (4, 4)), "DDS"), "no PNG"),
        # Pillow would start an interpreter for this one.
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "no PNG, JPEG",
        ),
        (png(20_000, 20_000, 8, 0, [b""]), "more than 89,478,485"),
        (png(10_000, 10_000, 8, 0, [b""]), "10000 x 10000 pixels"),
    ],
)
def test_what_is_no_image_says_why(data, message):
    with pytest.raises(InputError, match=message):
        decode(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_found(kind):
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    data = encoded(image, kind)
    whole = decode(data).pixels
    for length in range(1, len(data), 37):
        try:
            found = decode(data[:length]).pixels
        except InputError:
            continue
        # What comes after the last pixel may be missing.
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_an_input_error_or_an_image_and_nothing_else(kind):
    random = np.random.default_rng(0)
    image = Image.effect_noise((16, 16), 60).convert("RGB")
    data = encoded(image, kind)
    refused = []
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 200), 3):
            damaged[position] = random.integers(256)
        try:
            found = decode(bytes(damaged))
        except InputError as error:
            refused.append(str(error))
        else:
            assert found.pixels.dtype == np.uint8
            assert found.pixels.shape[2] == 3
    assert refused
    assert all(message.isprintable() for message in refused)


def test_memory_is_asked_for_before_the_pixels_are_decoded():
    asked = []

    def admit(size):
        asked.append(size)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(encoded(Image.new("RGB", (7, 5))), admit)
    assert asked == [7 * 5 * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_every_ending_that_pillow_gives_a_format_is_looked_at(kind):
    Image.init()
    endings = {k for k, v in Image.registered_extensions().items() if v == kind}
    # The last one holds floats, whose range is not known.
    assert endings - {".pfm"} <= IMAGE_SUFFIXES


def test_a_quick_look_finds_what_is_no_image_or_of_no_known_range():
    for good in (encoded(sixteen_bits()), encoded(INKS, "JPEG"), b"P2 1 1 9 1"):
        check(io.BytesIO(good))
    damaged = bytearray(encoded(Image.new("RGB", (8, 8))))
    damaged[len(damaged) // 2] ^= 255
    for data, message in (
        (b"", "the file is empty"),
        (b"<html>", "an HTML page"),
        (bytes(damaged), "damaged or not supported"),
        (encoded(Image.new("F", (1, 1)), "TIFF"), "floating-point pixels"),
        (png(10_000, 10_000, 8, 0, [b""]), "10000 x 10000 pixels"),
    ):
        with pytest.raises(InputError, match=message):
            check(io.BytesIO(data))


def test_libraries_say_nothing_of_damage_before_we_do(capfd):
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    kinds = {c: encoded(image, "TIFF", compression=c) for c in ("tiff_lzw", "jpeg")}
    kinds["plain"] = encoded(image, "TIFF")  # Pillow logs what libtiff would print
    random, refused = np.random.default_rng(0), 0
    for data in kinds.values():
        for _ in range(60):
            damaged = bytearray(data)
            for position in random.integers(8, len(data), 20):
                damaged[position] = random.integers(256)
            for position in random.integers(8, 300, 3):
                damaged[-position] = random.integers(256)
            try:
                decode(bytes(damaged))
            except InputError:
                refused += 1
    assert refused > 60
    assert capfd.readouterr().err == ""


_HAS_LITTLE_MEMORY = """
import pathlib, resource, sys
from fid.program import run
from fid.sources.images import open_images

def main(folders, values):
    assert len(list(open_images(folders[0]).batches(1))) == 1  # all is imported
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = used * resource.getpagesize() + int(folders[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    list(open_images(folders[1], skip_bad=True).batches(1))

sys.exit(run(main, lambda flag: flag.batch_size(), ""))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such limit")
@pytest.mark.parametrize(
    # Of the second, libwebp says that it is broken.
    ("kind", "megabytes"),
    [("PNG", 28), ("WEBP", 80)],
)
def test_where_memory_is_short_the_image_is_not_to_blame(tmp_path, kind, megabytes):
    for name, side in (("small", 8), ("large", 3000)):
        (tmp_path / name).mkdir()
        data = encoded(Image.new("RGB", (side, side), "red"), kind)
        (tmp_path / name / f"a.{kind.lower()}").write_bytes(data)
    sizes = ["small", "large", str(megabytes)]
    done = subprocess.run(
        [sys.executable, "-c", _HAS_LITTLE_MEMORY, *sizes],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        rf"-c: error: not enough memory \(a\.{kind.lower()} of large: for "
        r"(its 9,000,000 pixels|the image)\)\. Choose a smaller --batch_size, or a "
        r"machine with more\.\n",
        done.stderr,
    )

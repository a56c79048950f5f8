"""Encoded images of every kind, and what a data set should make of them."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images


def photographs(count, height, width, seed):
    """Patches of real photographs, each with content of its own."""
    rng = np.random.default_rng(seed)
    sources = load_sample_images().images
    patches = []
    for index in range(count):
        source = sources[index % len(sources)]
        top = rng.integers(source.shape[0] - height + 1)
        left = rng.integers(source.shape[1] - width + 1)
        patches.append(source[top : top + height, left : left + width])
    return patches


def encode(image, kind="JPEG", **options):
    """An array or a Pillow image as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **{"quality": 90} | options if kind == "JPEG" else options)
    return file.getvalue()


def every_kind(seed=0):
    """Encoded images by name: sizes odd, even, small, tall; all modes of 8 bits."""

    def photograph(height, width):
        (pixels,) = photographs(1, height, width, seed + 1000 * height + width)
        return Image.fromarray(pixels)

    alpha = photograph(90, 71)
    alpha.putalpha(photograph(90, 71).convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6  # "Turn me by a quarter": ignored, as by the original.
    return {
        "alpha.png": encode(alpha, "PNG"),
        "bilevel.png": encode(photograph(70, 91).convert("1"), "PNG"),
        "cmyk.jpg": encode(photograph(90, 71).convert("CMYK")),
        "grey.jpg": encode(photograph(67, 80).convert("L")),
        "grey_alpha.png": encode(alpha.convert("LA"), "PNG"),
        "large.jpg": encode(photograph(256, 341)),
        "odd.webp": encode(photograph(77, 64), "WEBP"),
        "palette.png": encode(photograph(66, 95).convert("P"), "PNG"),
        "same.jpg": encode(photograph(64, 64)),
        "small.bmp": encode(photograph(31, 40), "BMP"),
        "tall.jpeg": encode(photograph(301, 88)),
        "turned.jpg": encode(photograph(80, 120), exif=turned),
    }


def rgb(file):
    """An encoded image as uint8 (height, width, 3), its mode undone by hand."""
    with Image.open(io.BytesIO(file)) as image:
        pixels, mode, palette = np.asarray(image), image.mode, image.getpalette("RGB")
    if mode == "P":
        return np.asarray(palette, np.uint8).reshape(-1, 3)[pixels]
    if mode == "CMYK":
        ink, white = pixels[..., :3].astype(float), 255 - pixels[..., 3:].astype(float)
        return (white - np.rint(ink * white / 255)).astype(np.uint8)
    if mode in ("1", "L", "LA"):
        grey = pixels[..., 0] if mode == "LA" else pixels * (255 if mode == "1" else 1)
        return np.stack([grey.astype(np.uint8)] * 3, axis=-1)
    assert mode in ("RGB", "RGBA")
    return pixels[..., :3]


def square(file, size):
    """The central square of an encoded image, resized by Pillow."""
    pixels = rgb(file)
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(pixels[top : top + side, left : left + side], size)


def resized(pixels, size):
    """An array (height, width, 3) as Pillow's bilinear filter makes it."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def take(dataset, count):
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def everything(data, batch_size=16):
    return np.concatenate(list(data.images(batch_size)))


def rows(images):
    """Images as a sorted list of byte strings, to compare sets."""
    return sorted(image.tobytes() for image in images)


def to_uint8(batch):
    return np.rint((batch + 1) * 127.5).astype(np.uint8)


def write_folder(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_lmdb(place, files):
    """Writes values by key with the library, as LSUN's authors did."""
    lmdb = pytest.importorskip("lmdb", reason="the extra [lsun] is not installed")
    place.mkdir(parents=True)
    environment = lmdb.open(str(place), map_size=1 << 26)
    with environment.begin(write=True) as transaction:
        for key, value in files.items():
            transaction.put(key, value)
    environment.close()
    (place / "lock.mdb").unlink()  # LSUN's download has it; reading needs none.
    return place


def bedrooms(count):
    """Encoded images by key; the keys sort in the order of their numbers."""
    patches = photographs(count, 70, 90, 0)
    kinds = ("WEBP", "JPEG")
    return {b"%040x" % i: encode(x, kinds[i % 2]) for i, x in enumerate(patches)}

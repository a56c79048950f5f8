"""Images made for tests, and the folders, archives and encoded files that hold them."""

import io
import zipfile

import numpy as np
from PIL import Image


def pixels(height=9, width=7, channels=3, seed=0):
    """An image of noise, which differs from seed to seed."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth_images(count=90, side=12):
    """Images (count, side, side, 3) whose neighbouring pixels are alike."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (count, side, side, 3)).cumsum(axis=1).cumsum(axis=2)
    return (x * (255 / x.max())).astype("uint8")


def cut_photographs(count, seed):
    """Pieces of scikit-learn's photographs, of several sizes and not all square."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(seed)
    photographs = load_sample_images().images
    pieces = []
    for index in range(count):
        photograph = photographs[random.integers(2)]
        size = random.choice([24, 32, 48, 64])
        top, left = random.integers(0, 300, 2)
        piece = photograph[top : top + size, left : left + size]
        pieces.append(piece[: size - index % 5])
    return pieces


def write_photographs(folder, count, seed):
    """Writes such pieces to PNG files in a folder; returns their pixels."""
    pieces = cut_photographs(count, seed)
    write_images(folder, pieces)
    return pieces


def encoded(image, kind="PNG", **options):
    """The bytes of a file that holds an array or an image of Pillow's."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_image(path, seed=0, **options):
    """Writes an image of noise to a file; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed=seed)).save(path, **options)
    return pixels(seed=seed)


def write_images(folder, images, suffix="png"):
    """Writes arrays to files that are named by their numbers; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.{suffix}")
    return folder


def write_zip(path, members):
    """Writes bytes by name to a zip archive; returns its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read(source, size=4):
    """All images of a source, one by one."""
    return [image for batch in source.batches(size) for image in batch]

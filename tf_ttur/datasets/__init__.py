"""Images to train on: `load(name)` gives a set, the set gives batches."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from fid.files import InputError
from tf_ttur.datasets import batches, captioned, folder, lsun, prepared
from tf_ttur.datasets.batches import ImageData, group

__all__ = ["NAMES", "ImageData", "check_name", "group", "load"]

NAMES = ("digits", *prepared.DATASETS, "folder", captioned.NAME)
"""The names that `load` knows."""


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    split: str | None = None,
    download: bool = False,
) -> ImageData:
    """Loads a set of images by name.

    ================  ========================================  ==================
    name              source                                    images
    ================  ========================================  ==================
    digits            scikit-learn's 1,797 UCI digits, 8x8, in  32x32, 1 channel
                      0..16: scaled to 0..255, then enlarged
                      by Pillow's bicubic filter, which keeps
                      strokes smooth where bilinear leaves
                      them blotchy
    cifar10           TFDS                                      32x32, as they are
    svhn_cropped      TFDS                                      32x32, as they are
    celeb_a           TFDS: central 108x108 of the 178x218      64x64
                      images
    celeb_a_squashed  the same files: all of each image, out    64x64
                      of its proportions
    imagenet2012      TFDS: central square                      128x128
    lsun/bedroom      TFDS, LSUN's own LMDB, or numbered        64x64
                      folders of images: central square
    folder            every image under `data_dir`, as `fid`    64x64
                      finds them with --recursive: central
                      square
    captioned_folder  the same, with a text beside each image:  64x64
                      see `datasets.captioned`
    ================  ========================================  ==================

    Photographs are resized by Pillow's bilinear filter (antialiased; the one behind the
    `scipy.misc.imresize` of the original); images that have the size already stay as
    they are. Everything but `digits` becomes RGB, as `fid.sources.decoding` says: grey
    is repeated, transparency dropped, EXIF orientation ignored, as in the original. An
    odd margin loses its extra row at the bottom, its extra column on the right.

    `digits`, `cifar10` and `svhn_cropped` have labels of 10 classes, `imagenet2012` of
    1,000, but for its test part. So has a folder in which every image is one level
    down: each folder is a class, and their labels count from 0 in the order of their
    names.

    For `lsun/bedroom` the folder `data_dir` is looked through in this order: a folder
    `bedroom_train_lmdb` in it or a file `data.mdb` (LSUN's export; needs the extra
    `tf-ttur[lsun]`); a folder `0` (the TTUR authors' `lsun_cropped/<0..303>/*.jpg`, of
    64x64 images); TFDS's `lsun/bedroom`.

    Args:
        name: One of `NAMES`.
        data_dir: For folders the folder of images; for `lsun/bedroom` see above; for
            TFDS's sets the folder with their prepared files (`$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`).
        image_size: Side of the images; None for the one in the table.
        split: TFDS's name of the part; several joined by "+"; or "all". `digits` and
            folders have no parts: "train" and "all" are the whole. None is the part
            that the paper trained on: all of `celeb_a`, otherwise "train".
        download: Let TFDS download and prepare what is missing. Off, nothing touches
            the network.

    Returns:
        The images.

    Raises:
        InputError: The name, the split or the size is unknown; the files are not there
            (the message says which, and how to make them); or files are unreadable.

    Example:
        >>> from tf_ttur import datasets
        >>> digits = datasets.load("digits")
        >>> digits.num_examples, digits.image_shape
        (1797, (32, 32, 1))
        >>> next(iter(digits.training(batch_size=64, seed=0))).shape
        TensorShape([64, 32, 32, 1])
    """
    check_name(name)
    if image_size is not None and image_size < 1:
        raise InputError(f"The image size must be at least 1; got {image_size}.")
    if name in prepared.DATASETS:
        spec = prepared.DATASETS[name]
        size, split = image_size or spec.size, split or spec.split
        if name == "lsun/bedroom" and data_dir is not None:
            data = lsun.load(name, data_dir, size, split)
            if data is not None:
                return data
        return prepared.load(name, data_dir, size, split, download)
    split = split or "train"
    if split not in ("train", "all"):
        raise InputError(f"{name} has no split {split!r}: it is one set, 'train'.")
    if name == "digits":
        images = _digits(image_size or 32)
        return batches.in_memory(name, split, images, 10, _digit_labels)
    if data_dir is None:
        raise InputError(f"--dataset={name} needs --data_dir, the folder of images.")
    if name == captioned.NAME:
        return captioned.load(data_dir, image_size or 64, split)
    return folder.load(name, data_dir, image_size or 64, split)


def check_name(name: str) -> None:
    """Refuses a name that `load` does not know.

    Args:
        name: The name of a data set.

    Raises:
        InputError: It is none of `NAMES`.
    """
    if name not in NAMES:
        raise InputError(
            f"Unknown data set {name!r}: choose from {', '.join(NAMES)}; for text, "
            "choose a preset of text."
        )


def _digit_labels() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().target.astype(np.int32)


def _digits(size: int) -> np.ndarray:
    from sklearn.datasets import load_digits  # Slow to import; few runs need it.

    small = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    bicubic = Image.Resampling.BICUBIC
    large = [Image.fromarray(x).resize((size, size), bicubic) for x in small]
    return np.stack([np.asarray(x) for x in large])[..., np.newaxis]

"""Statistics files: the six that the paper's authors host, and those on this machine.

The authors' files hold `mu` and `sigma` only. What is known of the images behind them
comes from the authors' README, their code and their answers to users, and is not
everything: a distance from one of them compares with a published one only if the images
were cropped, resized and stored as theirs were.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

from fid.mistaken import cache_dir, local_path
from fid.sources.images import is_statistics

__all__ = ["HOSTED", "UNKNOWN", "Hosted", "local_files", "local_folder"]

_FOLDER = "http://bioinf.jku.at/research/ttur/ttur_stats/"


@dataclasses.dataclass(frozen=True)
class Hosted:
    """One statistics file that the paper's authors host.

    Attributes:
        file: Its name.
        images: Which images it was computed from.
        count: How many these are; None where the authors do not say.
        resolution: Their size, WIDTHxHEIGHT.
        preprocessing: What was done to them, as far as is known.
        unknown: What is not known, or not explained. Issues are those of the
            authors' repository, bioinf-jku/TTUR.
    """

    file: str
    images: str
    count: int | None
    resolution: str
    preprocessing: str
    unknown: str

    @property
    def url(self) -> str:
        """Where it is; the authors' server has no https and no checksums."""
        return _FOLDER + self.file


HOSTED = (
    Hosted(
        "fid_stats_celeba.npz",
        "CelebA, all images",
        202_599,
        "64x64",
        "the central square of the DCGAN code (by default 108x108 of 178x218, resized "
        "by Pillow's bilinear filter), as JPEG files",
        "Whether the crop was that default, and the JPEG settings. Crops by the list "
        "of bounding boxes are at a distance of about 27 (issue 21).",
    ),
    Hosted(
        "fid_stats_lsun_train.npz",
        "LSUN bedroom, all training images",
        None,
        "64x64",
        "cropped and resized beforehand, as JPEG files",
        "The crop, the filter and the JPEG settings.",
    ),
    Hosted(
        "fid_stats_cifar10_train.npz",
        "CIFAR-10, all training images",
        50_000,
        "32x32",
        "none; PNG files, by the training code",
        "Why statistics that users made themselves are at a distance of 12 to 15 from "
        "it (issue 35; pytorch-fid issue 33); JPEG files are a suspect.",
    ),
    Hosted(
        "fid_stats_svhn_train.npz",
        "SVHN cropped digits, all training images",
        None,
        "32x32",
        "none; PNG files, by the training code",
        "Whether the extra images belong to it: without them there are 73,257.",
    ),
    Hosted(
        "fid_stats_imagenet_train.npz",
        "ImageNet downsampled by image-net.org/small, all training images",
        None,
        "64x64",
        "none",
        "Which files it was computed from.",
    ),
    Hosted(
        "fid_stats_imagenet_valid.npz",
        "ImageNet downsampled by image-net.org/small, all validation images",
        None,
        "64x64",
        "none",
        "Which files it was computed from.",
    ),
)
# This holds for all six.
UNKNOWN = (
    "None says how it came about. Files from before August 2017 (.pkl.gz) do not "
    "compare with them: for CelebA and LSUN those came from 100,000 random images, and "
    "the code of that time could encode every image as JPEG once more."
)


def local_folder() -> pathlib.Path:
    """Returns the folder in which statistics files are looked for.

    Returns:
        `$TTUR_STATS` where set, else the folder `stats` of the cache folder. It need
        not exist.
    """
    if folder := os.environ.get("TTUR_STATS"):
        return local_path(folder)
    return cache_dir() / "stats"


def local_files() -> list[pathlib.Path]:
    """Returns the statistics files of `local_folder`, by name.

    Returns:
        The `.npz` files that hold `mu` and `sigma`; empty if there is no such folder.
    """
    return sorted(path for path in local_folder().glob("*.npz") if is_statistics(path))

"""A folder of images with a text each: beside NAME.jpg, NAME.txt says what it shows.

It is how sets of images with captions are usually kept. The images are those of
`folder`, in its order, and the label of an image is the number of its text.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from fid.files import InputError, printable, read_text
from fid.mistaken import local_path
from tf_ttur.datasets import batches, folder, pictures

__all__ = ["NAME", "CaptionedImages", "load"]

NAME = "captioned_folder"
"""What such a set is called in settings."""


@dataclasses.dataclass(frozen=True)
class CaptionedImages(batches.ImageData):
    """A set of images with a text each; see `ImageData`.

    Attributes:
        files: The images' files.
        texts: Their texts; a text's number is the label of its image.
    """

    files: Sequence[str] = ()
    texts: Sequence[str] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 of the texts, in their order."""
        # No text has a line break at its end, and each is told from the next by two.
        return hashlib.sha256("\n\n".join(self.texts).encode()).hexdigest()


def load(
    path: str | os.PathLike[str], size: int, split: str = "train"
) -> CaptionedImages:
    """Loads the images of a folder tree, and the text beside each.

    Args:
        path: The folder. The text of `a/b.png` is all of `a/b.txt`, in UTF-8, without
            the blanks at its ends; line breaks in it become blanks.
        size: Side of the images: the central square of each is scaled.
        split: The name of the part that the folder is.

    Returns:
        The set. Only paths and texts are in memory.

    Raises:
        InputError: There is no such folder, no image in it, or there are files that
            are none; or texts are missing, empty or no text in UTF-8 of a sensible
            size, or are beside two images. The message names the files.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from PIL import Image
        >>> from tf_ttur.datasets import captioned
        >>> place = pathlib.Path(tempfile.mkdtemp())
        >>> Image.fromarray(np.zeros((9, 9, 3), "uint8")).save(place / "one.png")
        >>> _ = (place / "one.txt").write_text("a black square")
        >>> data = captioned.load(place, size=8)
        >>> data.texts, data.image_shape, data.num_classes
        (['a black square'], (8, 8, 3), 1)
    """
    path = local_path(path)
    names = folder.names_in(path, beside=".txt")
    files = [os.path.join(path, name) for name in names]
    stems = collections.Counter(os.path.splitext(file)[0] for file in files)
    if shared := [printable(f"{x}.txt") for x, count in stems.items() if count > 1]:
        raise InputError(
            f"{len(shared)} texts stand beside more than one image: "
            f"{pictures.listed(shared)}. Give each image a text of its own: rename all "
            "but one image of a name."
        )
    texts, faults = [], []
    for file in files:
        caption = pathlib.Path(file).with_suffix(".txt")
        try:
            if not (text := " ".join(read_text(caption).split())):
                raise ValueError("it is empty")
            texts.append(text)
        except ValueError as error:
            faults.append(f"{printable(caption)} ({error})")
    if faults:
        raise InputError(
            f"Cannot read the texts of {len(faults)} of {len(files)} images: "
            f"{pictures.listed(faults)}. Beside each image NAME.jpg stands NAME.txt "
            f"with its prompt, in UTF-8: write them, or remove the images from "
            f"{printable(path)}."
        )
    count = len(files)
    return CaptionedImages(
        name=NAME,
        split=split,
        num_examples=count,
        image_shape=(size, size, 3),
        elements=functools.partial(batches.indices, count),
        decode=folder.decoder(files, size),
        num_classes=count,
        labelled=functools.partial(
            batches.indices, count, labels=lambda: np.arange(count, dtype="i4")
        ),
        files=files,
        texts=texts,
    )

"""Samples as files: grids, interpolations, folders and archives of images; lines."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fid.files import InputError, atomic_path, atomic_write, lock, printable
from fid.mistaken import local_path
from fid.sources.images import quantize

__all__ = [
    "check_folder",
    "class_rows",
    "image_grid",
    "interpolation",
    "save_images",
    "save_png",
    "save_text",
    "to_bytes",
]


_LINE, _GREY = 2, 96
# Pictures with a row a class show so many of them at most.
_ROWS = 10
_SAMPLE_NAME = re.compile(r"\d{5,}\.png")


def to_bytes(images: np.ndarray, rule: str = "round") -> np.ndarray:
    """Maps images from [-1, 1] to 256 levels.

    Args:
        images: Float array; values outside of [-1, 1] are clipped.
        rule: `round` takes the nearest level; `truncate` drops the fraction, as the
            original does for WGAN-GP.

    Returns:
        uint8 array of the same shape.
    """
    return quantize(np.clip((images + 1.0) * 127.5, 0.0, 255.0), rule)


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images out in rows.

    Args:
        images: uint8 (n, H, W, C).
        columns: Images in a row; None makes the grid as square as it gets.

    Returns:
        uint8 (rows * (H + 2) + 2, columns * (W + 2) + 2, C): grey lines between the
        images, black where they do not fill the last row.
    """
    n, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    # Every cell brings the line above and to the left of it.
    around = [(0, 0), (_LINE, 0), (_LINE, 0), (0, 0)]
    cells = np.pad(cells, around, constant_values=_GREY)
    height, width = height + _LINE, width + _LINE
    cells = cells.reshape(rows, columns, height, width, channels)
    grid = cells.transpose(0, 2, 1, 3, 4).reshape(
        rows * height, columns * width, channels
    )
    return np.pad(grid, [(0, _LINE), (0, _LINE), (0, 0)], constant_values=_GREY)


def class_rows(
    num_classes: int, columns: int, classes: Sequence[int] = (), rows: int | None = None
) -> np.ndarray:
    """Returns the labels of a picture with a row a class.

    Args:
        num_classes: The number of classes.
        columns: Images in a row.
        classes: Which classes, in order; none means all of them.
        rows: How many rows; if there are fewer classes, they are repeated. None makes a
            row for each of these classes, and of all of them for at most 10.

    Returns:
        Int32 (rows * columns,).

    Example:
        >>> from tf_ttur import sampling
        >>> sampling.class_rows(3, columns=2).tolist()
        [0, 0, 1, 1, 2, 2]
    """
    rows = rows or len(classes) or min(num_classes, _ROWS)
    chosen = np.asarray([*classes] or range(num_classes), np.int32)
    return np.repeat(np.resize(chosen, rows), columns)


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes one picture as PNG, whole or not at all.

    Args:
        path: Where it goes.
        image: uint8 (H, W, 1) or (H, W, 3).
    """
    with atomic_path(local_path(path, writing=True)) as temporary:
        temporary.write_bytes(_png(image))


def _png(image: np.ndarray) -> bytes:
    picture = image[..., 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def save_text(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes lines as UTF-8, whole or not at all.

    Args:
        path: Where they go.
        lines: Text. What cannot be printed, such as line breaks of other kinds and the
            codes that steer terminals, is written as Python's escapes.
    """
    with atomic_write(local_path(path, writing=True)) as file:
        file.writelines(f"{_escaped(line)}\n".encode() for line in lines)


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in line
    )


def interpolation(latent: Any, rows: int, columns: int, seed: int) -> np.ndarray:
    """Draws pairs of latents and the way from one to the other.

    Of normal latents that way is a part of a circle: nearly all of them are about
    sqrt(dimension) long, and the straight way leads through shorter ones, which the
    generator hardly met. Of others, such as uniform latents, it is straight.

    Args:
        latent: Draws latents by `latent(count, seed=seed)`.
        rows: How many pairs.
        columns: How many latents from the first to the second, both among them.
        seed: Seed of the pairs.

    Returns:
        float32 (rows, columns, dimension).

    Example:
        >>> import tf_ttur
        >>> way = interpolation(tf_ttur.UniformLatent(5), rows=2, columns=3, seed=0)
        >>> bool(np.allclose(way[:, 1], (way[:, 0] + way[:, 2]) / 2))
        True
    """
    from tf_ttur.latents import NormalLatent

    pairs = np.asarray(latent(2 * rows, seed=seed), np.float64)
    start, end = pairs[:rows, np.newaxis], pairs[rows:, np.newaxis]
    part = np.linspace(0.0, 1.0, columns)[:, np.newaxis]
    if not isinstance(latent, NormalLatent):
        return ((1 - part) * start + part * end).astype(np.float32)
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end)]
    cosine = np.sum(start * end, axis=-1, keepdims=True) / (lengths[0] * lengths[1])
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    # Where the angle is 0 both factors are the straight way's.
    sine = np.where(np.sin(angle) > 1e-6, np.sin(angle), 1.0)
    straight = np.sin(angle) <= 1e-6
    first = np.where(straight, 1 - part, np.sin((1 - part) * angle) / sine)
    second = np.where(straight, part, np.sin(part * angle) / sine)
    directions = first * start / lengths[0] + second * end / lengths[1]
    length = (1 - part) * lengths[0] + part * lengths[1]
    return (directions * length).astype(np.float32)


# Many images --------------------------------------------------------------------------


def save_images(
    path: str | os.PathLike[str],
    images: Iterable[np.ndarray],
    count: int,
    overwrite: bool = False,
) -> None:
    """Writes images as `00000.png`, `00001.png`, ... to a folder or an archive.

    Either appears whole, or not at all; what a process that was killed has left of an
    earlier attempt is removed. Equal images give an equal archive, byte by byte, as
    long as Pillow is the same.

    Args:
        path: A folder, or a `.zip`, in which the PNGs are stored as they are.
        images: Batches, uint8 (m, H, W, 1) or (m, H, W, 3).
        count: How many images there are in all.
        overwrite: Whether to replace a folder of such images; an archive is replaced
            in any case.

    Raises:
        InputError: It cannot be written, or the folder holds something else.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "samples")
        >>> save_images(folder, [np.zeros((3, 8, 8, 1), np.uint8)], 3)
        >>> sorted(path.name for path in folder.iterdir())
        ['00000.png', '00001.png', '00002.png']
    """
    # "." has no name to write beside.
    path = pathlib.Path(os.path.abspath(local_path(path, writing=True)))
    digits = max(5, len(str(count - 1)))

    def write_all(write: Callable[[str, bytes], Any]) -> None:
        index = 0
        for batch in images:
            for image in batch:
                write(f"{index:0{digits}}.png", _png(image))
                index += 1

    if path.suffix.lower() == ".zip":
        with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
            # A ZipInfo of its own has a fixed time.
            write_all(lambda name, data: archive.writestr(_entry(name), data))
        return
    _restore(path)
    check_folder(path, overwrite)
    _remove_left(path)
    with _atomic_folder(path) as temporary:
        write_all(lambda name, data: (temporary / name).write_bytes(data))


def check_folder(path: pathlib.Path, overwrite: bool) -> None:
    """Makes sure that a folder of images may be written or replaced.

    Args:
        path: The folder, which need not exist.
        overwrite: Whether images of an earlier time may be replaced.

    Raises:
        InputError: It may not.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{printable(path)} is a file; --output names a folder here.")
    names = [entry.name for entry in path.iterdir()]
    if names and not overwrite:
        raise InputError(
            f"The folder {printable(path)} is not empty; give --overwrite to replace "
            "it, or another --output."
        )
    # What is deleted must be what this program has written.
    if other := [name for name in names if not _SAMPLE_NAME.fullmatch(name)]:
        raise InputError(
            f"The folder {printable(path)} holds more than samples, such as "
            f"{printable(other[0])}; it is not replaced. Choose another --output."
        )


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3  # Unix, on all systems.
    entry.external_attr = 0o100644 << 16
    return entry


@contextlib.contextmanager
def _atomic_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a new folder beside `path` that takes its place on success."""
    temporary = path.with_name(f"{_beginning(path)}{secrets.token_hex(4)}.new")
    former = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        with lock(temporary):
            yield temporary
            if path.exists():
                path.rename(former)
            temporary.rename(path)
    except OSError as error:
        raise InputError(
            f"Cannot write the folder {printable(path)}: {error.strerror or error}. "
            "Nothing was changed; free space or choose another --output."
        ) from error
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        for folder in (temporary, former):
            shutil.rmtree(folder, ignore_errors=True)


def _beginning(path: pathlib.Path) -> str:
    """Returns what the names of the temporary folders for `path` begin with.

    A name may have 255 bytes, so a long one is cut, and its digest tells it from others
    that begin alike.
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return f".{path.name[:40]}.{digest}."


def _left(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns what earlier attempts at `path` have left, or are writing."""
    names = re.compile(rf"{re.escape(_beginning(path))}[0-9a-f]{{8}}\.(new|old)")
    try:
        return sorted(x for x in path.parent.iterdir() if names.fullmatch(x.name))
    except OSError:
        return []  # There is no folder, or `_atomic_folder` says why.


def _restore(path: pathlib.Path) -> None:
    """Puts a folder back that a process was killed with out of the way."""
    for folder in _left(path):
        former = folder.with_suffix(".old")
        if folder != former and former.exists() and not path.exists():
            with lock(folder) as ours:
                if ours:
                    former.rename(path)


def _remove_left(path: pathlib.Path) -> None:
    """Removes what killed processes have left of earlier attempts at `path`."""
    for folder in _left(path):  # .new comes before .old of the same attempt
        if folder.suffix == ".new":
            with lock(folder) as ours:
                if ours:
                    _remove_samples(folder)
        elif not folder.with_suffix(".new").exists():
            _remove_samples(folder)


def _remove_samples(folder: pathlib.Path) -> None:
    # What is deleted must be what this program has written.
    with contextlib.suppress(OSError):
        if all(_SAMPLE_NAME.fullmatch(each.name) for each in folder.iterdir()):
            shutil.rmtree(folder)

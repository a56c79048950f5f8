"""Sources of images: from what the user names to batches of pixels in [0, 255]."""

from __future__ import annotations

import abc
import concurrent.futures
import hashlib
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fid.files import InputError

__all__ = [
    "QUANTIZE",
    "SUFFIXES",
    "VALUE_RANGES",
    "ArraySource",
    "FolderSource",
    "GeneratorSource",
    "Source",
    "is_statistics",
    "open_images",
    "quantize",
]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
LOSSY = frozenset({".jpg", ".jpeg"})
# What a float array's values may be said to span; images are mapped to [0, 255].
VALUE_RANGES = {"0,255": (0.0, 255.0), "0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0)}
# The original fed unrounded floats in some experiments, truncated bytes in others.
QUANTIZE = ("none", "truncate", "round")
# A float set that lies wholly at or below this is taken for [0, 1], not [0, 255].
_SUSPICIOUS = 1.5
# Pillow itself warns of decompression bombs from here on; we refuse.
_MAX_PIXELS = 89_478_485


class Source(abc.ABC):
    """A finite set of images in a fixed order.

    Attributes:
        label: What to call it in messages.
        count: Number of images.
        lossy: Number of them in a format that loses information.
        provenance: JSON-able facts about what was read; complete after the last batch.
    """

    label: str
    count: int
    lossy: int = 0

    @abc.abstractmethod
    def batches(self, size: int) -> Iterator[Sequence[np.ndarray]]:
        """Yields the images, `size` at a time, the last batch being what is left.

        Args:
            size: Images in a batch.

        Yields:
            Arrays (H, W, C), uint8 or float32 in [0, 255], as a sequence or stacked.
        """

    @property
    @abc.abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What was read."""


class FolderSource(Source):
    """The images of a folder, in the order of their names.

    Every image is read as 8-bit RGB: grey is repeated, palettes are looked up, alpha is
    dropped, 16-bit grey is scaled down, CMYK is converted, and an EXIF orientation is
    not applied, since the original did not apply it.

    Args:
        path: The folder. Subfolders are not entered.

    Raises:
        InputError: There is no such folder, or no image in it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._folder = pathlib.Path(path)
        self.label = os.fspath(path)
        try:
            # Regular files: reading a pipe named x.png would never end.
            files = [p for p in self._folder.iterdir() if p.is_file()]
        except OSError as error:
            raise InputError(
                f"Cannot read the folder {path}: {error.strerror or error}."
            ) from error
        self._files = sorted(
            (p for p in files if p.suffix.lower() in SUFFIXES), key=lambda p: p.name
        )
        if not self._files:
            raise InputError(
                f"No images in {path}: found {len(files)} other files; expected "
                f"{', '.join(sorted(SUFFIXES))} directly in this folder."
            )
        self.count = len(self._files)
        self.lossy = sum(p.suffix.lower() in LOSSY for p in self._files)
        self._digest = hashlib.sha256()
        self._sizes: set[tuple[int, int]] = set()

    def batches(self, size: int) -> Iterator[list[np.ndarray]]:
        """Yields lists of uint8 (H, W, 3) arrays, decoded ahead on other threads."""
        self._digest, self._sizes = hashlib.sha256(), set()
        groups = (self._files[i : i + size] for i in range(0, self.count, size))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            ahead: list[Any] = []
            try:
                for group in groups:
                    ahead.append([pool.submit(_decode, path) for path in group])
                    if len(ahead) > 2:
                        yield self._collect(ahead.pop(0))
                while ahead:
                    yield self._collect(ahead.pop(0))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _collect(self, futures: list[Any]) -> list[np.ndarray]:
        images, bad = [], []
        for future in futures:
            try:
                images.append(future.result())
            except InputError as error:
                bad.append(str(error))
        if bad:
            raise InputError(" ".join(bad))
        for image in images:
            self._sizes.add(image.shape[:2])
            self._digest.update(f"{image.shape}\n".encode())
            self._digest.update(image)
        return images

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read: kind, names' endings, sizes and a digest of all pixels."""
        endings = {p.suffix.lower() for p in self._files}
        return {
            "source": self.label,
            "source_kind": "folder",
            "source_formats": sorted(endings),
            "source_sha256": self._digest.hexdigest(),
            "source_resolution": _resolution(self._sizes),
            "pixels": "8-bit",
        }


class ArraySource(Source):
    """Images in an array.

    uint8 is taken as it is. Floats are in [0, 255] unless `value_range` says
    otherwise; a set that does not look like that is refused, as the original would have
    accepted it and given a wrong number.

    Args:
        images: (n, H, W, 3), or (n, H, W, 1) or (n, H, W) for grey.
        label: What to call it in messages.
        value_range: A key of `VALUE_RANGES`, for floats.
        quantize: A member of `QUANTIZE`, for floats.
        provenance: Facts to record beside those found here.

    Raises:
        InputError: The array holds no images, or not in the range said.
    """

    def __init__(
        self,
        images: np.ndarray,
        label: str = "array",
        value_range: str | None = None,
        quantize: str = "none",
        provenance: dict[str, Any] | None = None,
    ):
        self.label = label
        if images.ndim == 3:
            if images.shape[-1] <= 4:
                raise InputError(
                    f"{label} has shape {images.shape}, which looks like one image; "
                    "expected several, (n, H, W, 3): give it a first axis."
                )
            images = images[..., np.newaxis]
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise InputError(
                f"{label} has shape {images.shape}; expected images (n, H, W, 3) or "
                "(n, H, W, 1), at least one."
            )
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise InputError(
                f"{label} holds {images.dtype}; expected uint8 in 0..255 or floats."
            )
        if quantize not in QUANTIZE:
            raise InputError(
                f"quantize is {quantize!r}; choose from {', '.join(QUANTIZE)}."
            )
        if value_range is not None and value_range not in VALUE_RANGES:
            raise InputError(
                f"value_range is {value_range!r}; choose from "
                f"{', '.join(VALUE_RANGES)}."
            )
        self.count = len(images)
        self._images = images
        self._float = images.dtype != np.uint8
        self._low, self._high = VALUE_RANGES[value_range or "0,255"]
        self._quantize = quantize
        self._provenance = dict(provenance or {})
        self._digest = hashlib.sha256()
        if self._float:
            self._check_values(judge=value_range is None)

    def _check_values(self, judge: bool) -> None:
        # In pieces, since the array may be a file larger than the memory.
        low, high = np.inf, -np.inf
        for start in range(0, self.count, 256):
            piece = self._images[start : start + 256]
            finite = np.isfinite(piece).all(axis=(1, 2, 3))
            if not finite.all():
                raise InputError(
                    f"Image {start + int(np.argmin(finite))} of {self.label} (counted "
                    "from 0) holds values that are not finite."
                )
            low, high = min(low, piece.min()), max(high, piece.max())
        span = f"Values of {self.label} lie in [{low:g}, {high:g}]"
        if judge and (low < 0 or high <= _SUSPICIOUS):
            raise InputError(
                f"{span}, which does not look like [0, 255]; say what they are with "
                f"--value_range={' or '.join(VALUE_RANGES)}."
            )
        if low < self._low - 1e-6 or high > self._high + 1e-6:
            raise InputError(
                f"{span}, outside of the range [{self._low:g}, {self._high:g}]; scale "
                "or clip them, or give the right --value_range."
            )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields arrays (<= size, H, W, C), uint8 or float32 in [0, 255]."""
        self._digest = hashlib.sha256(f"{self._images.shape[1:]}".encode())
        for start in range(0, self.count, size):
            batch = np.ascontiguousarray(self._images[start : start + size])
            if self._float:
                scale = 255.0 / (self._high - self._low)
                batch = (batch.astype(np.float32) - self._low) * np.float32(scale)
                batch = quantize(np.clip(batch, 0.0, 255.0), self._quantize)
            self._digest.update(batch)
            yield batch

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read: kind, size, quantisation and a digest of all pixels."""
        found = {
            "source": self.label,
            "source_kind": "array",
            "source_sha256": self._digest.hexdigest(),
            "source_resolution": _resolution({self._images.shape[1:3]}),
            **_pixels(self._float, self._quantize),
        }
        return found | self._provenance


class GeneratorSource(Source):
    """Images from a generator, such as a `tf_ttur.GAN`.

    Args:
        generator: An object with `generate_batches(count, seed, batch_size)`, which
            yields float arrays (m, H, W, C) in [-1, 1].
        count: How many images to take.
        seed: Seed of the latents.
        quantize: A member of `QUANTIZE`.
        label: What to call it in messages.
    """

    def __init__(
        self,
        generator: Any,
        count: int,
        seed: int = 0,
        quantize: str = "none",
        label: str = "generator",
    ):
        if not hasattr(generator, "generate_batches"):
            raise InputError(
                f"A {type(generator).__name__} is no generator: it has no method "
                "generate_batches(count, seed, batch_size)."
            )
        self.label, self.count = label, count
        self._generator, self._seed = generator, seed
        self._quantize = quantize
        self._sizes: set[tuple[int, int]] = set()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields arrays (<= size, H, W, C) in [0, 255]."""
        for images in self._generator.generate_batches(self.count, self._seed, size):
            source = ArraySource(images, self.label, "-1,1", self._quantize)
            self._sizes.add(images.shape[1:3])
            yield from source.batches(size)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was generated: kind, seed, size and quantisation."""
        return {
            "source": self.label,
            "source_kind": "generator",
            "seed": self._seed,
            "source_resolution": _resolution(self._sizes),
            **_pixels(True, self._quantize),
        }


def quantize(images: np.ndarray, rule: str) -> np.ndarray:
    """Rounds images in [0, 255] to whole grey levels, or not.

    Args:
        images: Float array in [0, 255].
        rule: `none` leaves it; `truncate` drops the fraction, as the original does for
            WGAN-GP; `round` takes the nearest level.

    Returns:
        The array, float32 for `none`, else uint8.
    """
    if rule == "none":
        return images
    return (np.floor(images) if rule == "truncate" else np.rint(images)).astype(
        np.uint8
    )


def open_images(
    source: Any, value_range: str | None = None, quantize: str = "none"
) -> Source:
    """Opens what the user named as a source of images.

    Args:
        source: A folder, an `.npz` or `.npy` file of images, or an array.
        value_range: For floats, a key of `VALUE_RANGES`; None means [0, 255], checked.
        quantize: For floats, a member of `QUANTIZE`.

    Returns:
        The source.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(source, Source):
        return source
    if not isinstance(source, str | os.PathLike):
        try:
            images = np.asarray(source)
        except ValueError as error:
            raise InputError(
                f"These images do not form one array ({error}); bring them to one "
                "size, or put them into a folder."
            ) from error
        return ArraySource(images, "array", value_range, quantize)
    path = pathlib.Path(source)
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise InputError(
            f"There is no {source}; expected a folder of images or an .npz/.npy file."
        )
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy"):
        raise InputError(
            f"{source} is neither a folder nor an .npz or .npy file; put the images "
            "into a folder or an array."
        )
    images = _read_array(path)
    return ArraySource(
        images,
        os.fspath(source),
        value_range,
        quantize,
        provenance={"source_kind": suffix[1:]},
    )


def is_statistics(path: Any) -> bool:
    """Says whether a path is an `.npz` file that holds `mu` and `sigma`."""
    if not isinstance(path, str | os.PathLike):
        return False
    if pathlib.Path(path).suffix.lower() != ".npz" or not os.path.isfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


# What reading a damaged archive or array can end in.
_DAMAGE = (
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def _read_array(path: pathlib.Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with zipfile.ZipFile(path) as archive:
            if other := [n for n in archive.namelist() if not n.endswith(".npy")]:
                raise InputError(
                    f"{path} holds {other[0]}, which is no array; expected an .npz of "
                    "one array of images."
                )
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as loaded:
            names = loaded.files
            for name in ("images", "arr_0"):
                if name in names:
                    return loaded[name]
            if len(names) == 1:
                return loaded[names[0]]
        raise InputError(
            f"{path} holds the arrays {', '.join(names) or '(none)'}; expected one "
            "array of images, or `images`, or `arr_0`, or the statistics mu and sigma."
        )
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} claims more data than fits in memory.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error}.") from error
    except _DAMAGE as error:
        raise InputError(
            f"{path} is damaged, is no {path.suffix} file, or holds Python objects, "
            f"which are never unpickled: {error}."
        ) from error


def _decode(path: pathlib.Path) -> np.ndarray:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow's warnings about damaged metadata say nothing about the pixels.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise InputError(
                        f"{path} has {image.width} x {image.height} pixels, more than "
                        f"{_MAX_PIXELS:,}; scale it down."
                    )
                return np.asarray(_rgb(image))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise InputError(
            f"{path} cannot be read as an image ({error}); remove or replace it."
        ) from error


def _rgb(image: Any) -> Any:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip it to 255 instead of scaling it.
        grey = np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)
    return image.convert("RGB")


def _pixels(floats: bool, rule: str) -> dict[str, str]:
    if not floats:
        return {"pixels": "8-bit"}
    return {"pixels": "float" if rule == "none" else "8-bit", "quantize": rule}


def _resolution(sizes: set[tuple[int, int]]) -> str:
    """Says the size as `WIDTHxHEIGHT`, or `mixed`."""
    if len(sizes) != 1:
        return "mixed"
    ((height, width),) = sizes
    return f"{width}x{height}"

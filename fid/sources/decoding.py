"""Encoded images to pixels: every kind of image has one treatment.

The original read its images with `scipy.misc.imread(mode="RGB")`, which was Pillow's
`convert("RGB")`. Where that worked, this is the same; where it gave white images or
failed, the closest there is:

| image | becomes |
|---|---|
| 8-bit RGB | itself |
| grey | the grey value in all three channels |
| grey or RGB with alpha | alpha is dropped: transparent pixels show the colour stored |
| palette | the palette's colours; of a transparent entry, too |
| 1 bit | 0 and 255 |
| 16-bit grey | the upper 8 bits, value // 256 (Pillow's conversion clips to white) |
| 16-bit RGB, SGI of 16 bits | the upper 8 bits, Pillow's reading (PPM: rounded) |
| CMYK | Pillow's formula: (255 - C)(255 - K) / 255 for red, and so on; no profile |
| YCbCr (JPEG, TIFF) | RGB by the JPEG standard's formula |
| several frames or pages | the first |
| EXIF orientation | not applied: the pixels as they are stored |
| colour profile, gamma | not applied |
| floats, 32-bit or signed integers, LAB, other modes | refused |

What is refused has no known range of values. The content decides what a file is; its
name only says whether it is looked at. So TGA, which has no signature, is not read. Nor
are files that hold more than a picture, though Pillow finds one in them: icons of many
sizes (ICO), documents of layers (PSD), textures for a graphics card (DDS). Where such
files are in a folder, they are counted as left out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import BEGINNING, other_kind
from fid.sources.lookahead import Admit

__all__ = [
    "IMAGE_SUFFIXES",
    "LOSSY_SUFFIXES",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "Decoded",
    "check",
    "decode",
    "to_rgb",
]

# What is read, by Pillow's names, and the endings of such files. Other formats are
# refused: Pillow would hand a PostScript file to an interpreter, for instance.
_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "PCX": (".pcx",),
}
# Files with these endings, in any case, are looked at in folders and archives.
IMAGE_SUFFIXES = frozenset(suffix for each in _FORMATS.values() for suffix in each)
LOSSY_SUFFIXES = frozenset(
    {*_FORMATS["JPEG"], *_FORMATS["AVIF"], *_FORMATS["JPEG2000"]}
)
# Pillow itself warns of decompression bombs from here on; we refuse.
MAX_PIXELS = 89_478_485
# No image is larger: this is twice what that many pixels take in the widest format.
MAX_FILE_BYTES = 2**30
# Where less memory is left, an image of common size may fail for that.
_SOME_BYTES = 2**28
# These notes say what was done to an image, by its mode in Pillow.
_TREATMENTS = {
    "1": ("1 bit as 0 and 255",),
    "L": ("grey repeated",),
    "P": ("palette looked up",),
    "LA": ("grey repeated", "alpha dropped"),
    "La": ("grey repeated", "alpha dropped"),
    "PA": ("palette looked up", "alpha dropped"),
    "RGB": (),
    "RGBX": (),
    "RGBA": ("alpha dropped",),
    "RGBa": ("alpha dropped",),
    "CMYK": ("CMYK converted",),
    "YCbCr": (),
}
# Multi-picture files are JPEGs for all but Pillow.
_PLUGINS = (
    "Png", "Jpeg", "Mpo", "Bmp", "WebP", "Tiff", "Gif", "Ppm", "Jpeg2K", "Avif", "Qoi",
    "Sgi", "Pcx",
)  # fmt: skip
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


class Decoded(NamedTuple):
    """An image that was read.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        format: Of the content, such as `png`.
        lossy: Whether its encoding loses information.
        treatments: What was done to it, in the words of this module's table.
    """

    pixels: np.ndarray
    format: str
    lossy: bool
    treatments: tuple[str, ...]


def decode(data: bytes, admit: Admit | None = None) -> Decoded:
    """Decodes an image.

    Args:
        data: The content of a file in one of the formats that are read.
        admit: Told how many bytes the pixels take before they are decoded.

    Returns:
        The pixels and what is known of them.

    Raises:
        InputError: It is no such image, damaged, too large or of a kind that is
            refused. The message is a phrase without the file's name.
        MemoryError: There is too little memory for it, and no fault of its own. The
            message is such a phrase, too.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("LA", (2, 1), (7, 0)).save(file, "PNG")
        >>> found = decode(file.getvalue())
        >>> found.pixels.tolist(), found.format, found.treatments
        ([[[7, 7, 7], [7, 7, 7]]], 'png', ('grey repeated', 'alpha dropped'))
    """
    if not data:
        raise InputError("the file is empty")
    with _opened(io.BytesIO(data)) as image:
        if admit is not None:
            admit(image.width * image.height * 3)
        orientation = _orientation(image)
        image.load()
        pixels, treatments = to_rgb(image)
        if orientation != 1:
            treatments += ("EXIF orientation not applied",)
            if image.format == "TIFF":  # Pillow turns these, and no others.
                pixels = _turned_back(pixels, orientation)
        if _has_more_frames(image):
            treatments += ("first frame of several",)
        kind = "jpeg" if image.format == "MPO" else image.format.lower()
        return Decoded(pixels, kind, _is_lossy(image, data), treatments)


def check(file: BinaryIO) -> None:
    """Looks at as much of an image as is quick: see `PIL.Image.Image.verify`.

    Args:
        file: The image, which is read as far as needed.

    Raises:
        InputError: As for `decode`, but for what only shows when all pixels are
            decoded.
    """
    with _opened(file) as image:
        _check_mode(image)
        image.verify()


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Any]:
    """Gives an image of Pillow's; whatever is wrong with it is an `InputError`.

    A lack of memory, which is no fault of the image, is a `MemoryError`.
    """
    pillow, count = _pillow(), None
    try:
        with pillow.open(file, formats=pillow.formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(image.width, image.height)
            count = image.width * image.height
            yield image
    except InputError:
        raise
    except pillow.DecompressionBombError as error:
        raise InputError(f"more than {MAX_PIXELS:,} pixels") from error
    except pillow.UnidentifiedImage as error:
        raise InputError(_no_image(file)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything.
        if isinstance(error, MemoryError) or _is_memory_short(count):
            what = "the image" if count is None else f"its {count:,} pixels"
            raise MemoryError(f"for {what}") from error
        text = printable(str(error)) or type(error).__name__
        raise InputError(f"damaged or not supported: {text}") from error


def _no_image(file: BinaryIO) -> str:
    file.seek(0)
    beginning = file.read(BEGINNING)
    if not beginning:
        return "the file is empty"
    if found := other_kind(beginning):
        return f"no image, but {found[0]}: {found[1].rstrip('.')}"
    return f"no {', '.join(_FORMATS)}: it begins with {beginning[:8]!r}"


def to_rgb(image: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Converts an image of Pillow's; see the table above.

    Args:
        image: A `PIL.Image.Image`.

    Returns:
        uint8 (H, W, 3), and what was done.

    Raises:
        InputError: The image is of a kind that is refused.
    """
    mode = image.mode
    _check_mode(image)
    if mode not in _TREATMENTS:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, -1), ("16-bit grey // 256",)
    # Transparency has no effect on RGB values, but Pillow warns about some kinds.
    image.info.pop("transparency", None)
    if mode != "RGB":  # convert() would copy it.
        image = image.convert("RGB")
    return np.asarray(image), _TREATMENTS[mode]


def _check_mode(image: Any) -> None:
    mode = image.mode
    if mode not in _TREATMENTS and not _is_plain_16_bit(image):
        what = {"F": "floating-point", "I": "integer"}.get(mode[0], "unusual")
        raise InputError(
            f"{what} pixels (mode {mode}) have no known range; save it with 8 bits a "
            "channel, or give an array and --value_range"
        )


class _Pillow(NamedTuple):
    open: Any
    formats: tuple[str, ...]
    UnidentifiedImage: type[Exception]
    DecompressionBombError: type[Exception]


@functools.cache
def _pillow() -> _Pillow:
    # Pillow is imported late, since comparing statistics needs none of it, and with all
    # plugins at once, since its own lazy loading of them is not made for threads.
    from PIL import Image, UnidentifiedImageError

    for plugin in _PLUGINS:
        # The one for AVIF came with Pillow 11.3; before, such files are no images.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"PIL.{plugin}ImagePlugin")

    # Bombs are refused with an error of our own, and damaged metadata say nothing about
    # the pixels. The filters are last in the list, so that any of the user's goes
    # before them; warnings.catch_warnings is not made for threads.
    for category in (Image.DecompressionBombWarning, UserWarning):
        warnings.filterwarnings("ignore", "", category, r"PIL\.", append=True)
    _silence_libtiff()
    # What it logs would else go to stderr where the user has set up no logging.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    return _Pillow(
        Image.open,
        tuple(name for name in _FORMATS if name in Image.OPEN),
        UnidentifiedImageError,
        Image.DecompressionBombError,
    )


def _is_memory_short(count: int | None) -> bool:
    """Says whether an image of so many pixels may have failed for lack of memory.

    Some decoders do not say that it was that, and call the image broken. That of WebP,
    which takes most, takes memory before the number of pixels is known.
    """
    try:
        np.empty(_SOME_BYTES if count is None else 32 * count, np.uint8)
    except MemoryError:
        return True
    return False


def _silence_libtiff() -> None:
    """Has libtiff keep its remarks on damaged files, which Pillow raises errors for.

    It prints them to stderr by itself, without the file's name. Moving the descriptor
    of stderr aside would also swallow what other threads say meanwhile, so libtiff is
    asked; what has no such function, as a Pillow without it, is left as it is.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        from PIL import _imaging

        # A symbol is also looked for in the libraries that this one was linked with.
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _too_large(width: int, height: int) -> InputError:
    return InputError(
        f"{width} x {height} pixels are more than {MAX_PIXELS:,}; scale it down"
    )


def _is_plain_16_bit(image: Any) -> bool:
    if not image.mode.startswith("I;16"):
        # Pillow gives PGM of more than 8 bits these 32, scaled to the range of 16.
        return image.mode == "I" and image.format == "PPM"
    tags = getattr(image, "tag_v2", None)
    # TIFF also has 12-bit grey and grey that counts from white, both unscaled here.
    return tags is None or (
        tags.get(_BITS_PER_SAMPLE) == (16,) and tags.get(_PHOTOMETRIC) == 1
    )


def _orientation(image: Any) -> int:
    if "exif" not in image.info and image.format != "TIFF":
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Damaged metadata says nothing about the pixels.
        return 1
    return found if found in range(2, 9) else 1


def _turned_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes what an orientation (2 to 8) did to an image (H, W, 3)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _has_more_frames(image: Any) -> bool:
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # A damaged frame after the first is not used.
        return False


def _is_lossy(image: Any, data: bytes) -> bool:
    if image.format == "WEBP":
        return _webp_is_lossy(data)
    if image.format == "TIFF":
        return image.info.get("compression") in _LOSSY_TIFF
    # AVIF and JPEG 2000 can be lossless, which nothing near their beginnings says: what
    # a wavelet that loses nothing has kept may have been cut off to save space.
    return image.format in ("JPEG", "MPO", "AVIF", "JPEG2000")


def _webp_is_lossy(data: bytes) -> bool:
    # A chunk is four letters, a length, content, and padding to even. `VP8 ` is the
    # lossy bit stream, `VP8L` the other; in animations they are inside of `ANMF`.
    position = 12
    while position + 8 <= len(data):
        name = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        position += 8 + 16 if name == b"ANMF" else 8 + length + length % 2
    return False

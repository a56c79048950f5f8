"""The six disturbances of images that the paper studies distances with.

    noise          (1 - a) X + a N        a = 0, 0.25, 0.5, 0.75
    blur           Gaussian, deviation a  a = 0, 1, 2, 4
    rectangles     five black ones        a = 0, 0.25, 0.5, 0.75
    swirl          about the centre       a = 0, 1, 2, 4
    salt_pepper    a share of pixels      a = 0, 0.1, 0.2, 0.3
    contamination  by another set         a = 0, 0.25, 0.5, 0.75

Images are in [0, 255] here, as everywhere in `fid`. The original works in [-1, 1] and
then takes (x + 1) 127.5; all six commute with that map, so both give the same images,
and neither rounds them.

What is random of image i is drawn from a generator of its own, seeded by (seed,
disturbance, i): it depends neither on the batch size nor on the level, so that levels
differ by their strength alone. (The original draws anew for each level.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fid.files import InputError
from fid.sources.images import ArraySource, Source, open_images
from fid.sources.pixels import ValueRange

__all__ = [
    "DEFINITIONS",
    "LEVELS",
    "DisturbedSource",
    "Disturber",
    "PartSource",
    "check_level",
    "contaminants",
    "darkest",
    "disturb",
    "from_source",
]

# These are the levels of the paper's section "FID vs Inception Score", weakest first.
LEVELS = {
    "noise": (0.0, 0.25, 0.5, 0.75),
    "blur": (0.0, 1.0, 2.0, 4.0),
    "rectangles": (0.0, 0.25, 0.5, 0.75),
    "swirl": (0.0, 1.0, 2.0, 4.0),
    "salt_pepper": (0.0, 0.1, 0.2, 0.3),
    "contamination": (0.0, 0.25, 0.5, 0.75),
}
# The authors' program does one thing where their paper says another.
DEFINITIONS = ("code", "paper")
# A stream's number is part of its seeds. A new disturbance takes a number that is not
# here yet.
_STREAMS = {name: number for number, name in enumerate((*LEVELS, "part"))}
# A level may be at most this. A kernel is 8 deviations wide, and nothing is left to see
# long before 100.
_LARGEST = {"blur": 100.0, "swirl": 1000.0}
# At or below this level the original copies the image.
_NOTHING = 1e-6


class Disturber:
    """Disturbs the images of one set.

    Args:
        count: Images in the set, N. Noise is scaled by the extremes over all of it, and
            contamination replaces a share of it.
        shape: (H, W, C) of every image.
        seed: Of everything random.
        definition: "code" for what the authors' program does, "paper" for what the
            paper says. They differ in rectangles and swirl.
        darkest: The least value of the set, which the code fills rectangles with.
        swirl_radius: Extent of the swirl in pixels. The code takes 70 for CelebA and 25
            for all other sets; with "paper" it is 25 whatever is given.
        contamination: (m, H, W, C), the images that replace others; see
            `contaminants`.
        rectangles: How many rectangles an image gets.

    Raises:
        InputError: There is no such definition, or a number makes no sense.

    Example:
        >>> import numpy as np
        >>> disturber = Disturber(count=1, shape=(8, 8, 1))
        >>> grey = np.full((8, 8, 1), 100, np.uint8)
        >>> np.unique(disturber("salt_pepper", grey, 0.3, index=0)).tolist()
        [0.0, 100.0, 255.0]
    """

    def __init__(
        self,
        count: int,
        shape: tuple[int, int, int],
        *,
        seed: int = 0,
        definition: str = "code",
        darkest: float = 0.0,
        swirl_radius: float = 25.0,
        contamination: np.ndarray | None = None,
        rectangles: int = 5,
    ):
        if definition not in DEFINITIONS:
            raise InputError(
                f"definition is {definition!r}; choose from {', '.join(DEFINITIONS)}."
            )
        if seed < 0:
            raise InputError(f"The seed is {seed}; expected 0 or more.")
        if not (math.isfinite(swirl_radius) and swirl_radius > 0):
            raise InputError(
                f"The radius of the swirl is {swirl_radius}; expected pixels, above 0."
            )
        self.count, self.shape, self.seed = count, tuple(shape), seed
        self.definition, self.darkest = definition, darkest
        # The paper has one radius for all sets.
        self.swirl_radius = swirl_radius if definition == "code" else 25.0
        self.contamination = contamination
        self.rectangles = rectangles

    def __call__(
        self, name: str, image: np.ndarray, level: float, index: int
    ) -> np.ndarray:
        """Disturbs one image.

        Args:
            name: A key of `LEVELS`.
            image: (H, W, C), uint8 or float in [0, 255].
            level: How much; 0 changes nothing.
            index: Which of the set's images it is, counted from 0.

        Returns:
            float32 (H, W, C) in [0, 255], not rounded to whole grey levels.

        Raises:
            InputError: There is no such disturbance or level, or the image has another
                shape than it should.
        """
        check_level(name, level)
        if image.shape != self.shape:
            raise InputError(
                f"Image {index} has shape {image.shape}; expected {self.shape} as the "
                "others: bring all to one size."
            )
        if not 0 <= index < self.count:
            raise InputError(
                f"There is no image {index} in a set of {self.count}; look at count."
            )
        if level <= _NOTHING:
            return image.astype(np.float32)
        found = getattr(self, f"_{name}")(image.astype(np.float64), level, index)
        # Rounding may have left the range, which extractors check, by very little.
        return np.clip(found, 0.0, 255.0).astype(np.float32)

    def _random(self, name: str, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _STREAMS[name], index])

    def _normal(self, index: int) -> np.ndarray:
        """Row `index` of the N x D standard normal matrix."""
        return self._random("noise", index).standard_normal(self.shape)

    @functools.cached_property
    def noise_range(self) -> tuple[float, float]:
        """The least and the greatest entry of the N x D normal matrix.

        Exact, and without the matrix: every row comes from a seed of its own, so all
        are drawn once for this and again when they are used.
        """
        low, high = math.inf, -math.inf
        for index in range(self.count):
            row = self._normal(index)
            low, high = min(low, row.min()), max(high, row.max())
        return float(low), float(high)

    def _noise(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        low, high = self.noise_range
        noise = (self._normal(index) - low) * (255.0 / (high - low))
        return (1.0 - level) * image + level * noise

    def _blur(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        # Without channel_axis, today's scikit-image blurs across colours, too.
        return _skimage().filters.gaussian(image, sigma=level, channel_axis=-1)

    def _rectangles(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        # The paper speaks of the size, which is an area. Its code multiplies the sides.
        share = level if self.definition == "code" else math.sqrt(level)
        black = self.darkest if self.definition == "code" else 0.0
        height, width, _ = self.shape
        rows, columns = int(height * share), int(width * share)
        random = self._random("rectangles", index)
        for _ in range(self.rectangles):
            top, left = random.random(2)
            # The corner is uniform in 0..H - h, both included, and grows with the draw.
            top = int(top * (height - rows + 1))
            left = int(left * (width - columns + 1))
            image[top : top + rows, left : left + columns] = black
        return image

    def _swirl(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        code = self.definition == "code"
        sign = -1.0 if code and self._random("swirl", index).random() < 0.5 else 1.0
        height, width, _ = self.shape
        swirled = _skimage().transform.swirl(
            image,
            center=(width // 2, height // 2),
            strength=sign * level,
            radius=self.swirl_radius,
            preserve_range=True,
        )
        if code:  # The code leaves the frame as it was.
            for part in (np.s_[:3], np.s_[-4:], np.s_[:, :3], np.s_[:, -4:]):
                swirled[part] = image[part]
        return swirled

    def _salt_pepper(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        # Where and which are drawn apart, so that a higher level keeps what a lower
        # one has set.
        random = self._random("salt_pepper", index)
        hit = random.random(self.shape[:2]) < level
        salt = random.random(self.shape[:2]) < 0.5
        image[hit] = np.where(salt[hit], 255.0, 0.0)[:, np.newaxis]
        return image

    def _contamination(self, image: np.ndarray, level: float, index: int) -> np.ndarray:
        if self.contamination is None or not len(self.contamination):
            raise InputError(
                "Contamination needs a second set of images: contamination=, or "
                "--contamination=FOLDER."
            )
        rank = self._ranks[index]
        if rank >= replaced(self.count, level):
            return image
        return self.contamination[rank % len(self.contamination)].astype(np.float64)

    @functools.cached_property
    def _ranks(self) -> np.ndarray:
        # An image is replaced at all levels from some level on.
        random = self._random("contamination", 0)
        return random.permutation(self.count)


def check_level(name: str, level: float) -> None:
    """Makes sure that a disturbance exists and can be so strong.

    Args:
        name: A key of `LEVELS`.
        level: Of the disturbance.

    Raises:
        InputError: There is no such disturbance, or no such level of it.
    """
    if name not in LEVELS:
        raise InputError(
            f"There is no disturbance {name!r}; choose from {', '.join(LEVELS)}."
        )
    most = _LARGEST.get(name, 1.0)
    if not 0.0 <= level <= most:  # NaN is refused, too.
        raise InputError(
            f"The level of {name} is {level:g}; expected a number from 0 to {most:g}."
        )


def replaced(count: int, level: float) -> int:
    """Returns how many of `count` images contamination replaces."""
    return round(count * level)


# Sets ---------------------------------------------------------------------------------


def disturb(
    images: np.ndarray,
    name: str,
    level: float,
    *,
    value_range: ValueRange | None = None,
    **options: Any,
) -> np.ndarray:
    """Disturbs an array of images.

    Args:
        images: (n, H, W, C), uint8 or float: the whole set.
        name: A key of `LEVELS`.
        level: How much.
        value_range: For floats, a key of `images.VALUE_RANGES`, or its two numbers;
            None means [0, 255].
        **options: `seed`, `definition`, `swirl_radius` and `contamination`, as for
            `DisturbedSource`.

    Returns:
        float32 (n, H, W, C) in [0, 255], not rounded.

    Raises:
        InputError: It holds no such images, or there is no such disturbance.

    Example:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")
        >>> blurred = disturb(images, "blur", 2.0)
        >>> bool(blurred.std() < 0.3 * images.std())
        True
    """
    source = ArraySource(np.asarray(images), value_range=value_range)
    disturbed = DisturbedSource(source, name, level, **options)
    return np.concatenate([np.stack(batch) for batch in disturbed.batches(256)])


class DisturbedSource(Source):
    """A set of images, disturbed: what can be measured, can be measured so.

    Args:
        source: Anything that `images.open_images` takes, with images of one size.
        name: A key of `LEVELS`.
        level: How much.
        seed: Of everything random.
        definition: A member of `DEFINITIONS`.
        swirl_radius: As for `Disturber`.
        contamination: Where the images come from that replace others; anything that
            `images.open_images` takes.

    Raises:
        InputError: A set cannot be used, or there is no such disturbance.

    Example:
        >>> import numpy as np
        >>> source = DisturbedSource(np.full((5, 8, 8, 1), 9, np.uint8), "blur", 1.0)
        >>> [len(batch) for batch in source.batches(2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        source: Any,
        name: str,
        level: float,
        *,
        seed: int = 0,
        definition: str = "code",
        swirl_radius: float = 25.0,
        contamination: Any = None,
    ):
        check_level(name, level)
        self._source = open_images(source)
        self._disturber = from_source(
            self._source,
            {name: (level,)},
            seed=seed,
            definition=definition,
            swirl_radius=swirl_radius,
            contamination=contamination,
        )
        self._name, self._level = name, level
        self.label = f"{self._source.label}, {name} {level:g}"
        self.count = self._source.count

    def batches(self, size: int) -> Iterator[Sequence[np.ndarray]]:
        """Yields lists of float32 arrays (H, W, C) in [0, 255]."""
        index = 0
        for batch in self._source.batches(size):
            yield [
                self._disturber(self._name, image, self._level, index + i)
                for i, image in enumerate(batch)
            ]
            index += len(batch)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read, and how it was disturbed."""
        facts = {
            "source": self.label,
            "pixels": "float",
            "quantize": "none",
            "disturbance": self._name,
            "level": self._level,
            "definition": self._disturber.definition,
            "disturbance_seed": self._disturber.seed,
        }
        return {**self._source.provenance, **facts}


class PartSource(Source):
    """Some images of a set, in its order.

    Args:
        source: The set.
        count: How many.
        seed: Chooses them at random; None means the first ones.

    Raises:
        InputError: The set has fewer.

    Example:
        >>> import numpy as np
        >>> part = PartSource(open_images(np.zeros((9, 4, 4, 1), np.uint8)), 5)
        >>> [len(batch) for batch in part.batches(3)]
        [3, 2]
    """

    def __init__(self, source: Source, count: int, seed: int | None = None):
        if source.count is None:
            raise InputError(
                f"It is not known how many images {source.label} gives; put them into "
                "a folder or an array."
            )
        if not 1 <= count <= source.count:
            raise InputError(
                f"{count} images are to be taken of {source.label}, which has "
                f"{source.count}; choose from 1 to that."
            )
        self._source, self.count = source, count
        self.label = source.label
        self._facts: dict[str, Any] = {"part": f"the first {count} images"}
        self._positions = np.arange(count)
        if seed is not None:
            random = np.random.default_rng([seed, _STREAMS["part"]])
            self._positions = np.sort(random.permutation(source.count)[:count])
            self._facts = {"part": f"{count} images at random", "part_seed": seed}

    def batches(self, size: int) -> Iterator[Sequence[np.ndarray]]:
        """Yields the chosen images, at most `size` at a time."""
        start = 0
        for batch in self._source.batches(size):
            end = start + len(batch)
            first, last = np.searchsorted(self._positions, (start, end))
            if first < last:
                yield [batch[i - start] for i in self._positions[first:last]]
            if last == self.count:  # The rest need not be read.
                return
            start = end
        raise InputError(
            f"{self.label} gave {start} images where {self._source.count} were "
            "expected; did it change meanwhile?"
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read of the whole set, and which part of it was taken."""
        return {**self._source.provenance, **self._facts}


def from_source(
    source: Source,
    levels: dict[str, Sequence[float]],
    *,
    seed: int = 0,
    definition: str = "code",
    swirl_radius: float = 25.0,
    contamination: Any = None,
) -> Disturber:
    """Looks at a set of images and returns what disturbs it.

    Args:
        source: The set. Its first image is read, for the size, and for rectangles as
            many as it takes to find a black pixel.
        levels: The disturbances that are wanted, and how strong.
        seed: As for `Disturber`.
        definition: As for `Disturber`.
        swirl_radius: As for `Disturber`.
        contamination: The other set; anything that `images.open_images` takes.

    Returns:
        The disturber.

    Raises:
        InputError: A set cannot be used, or scikit-image is missing.
    """
    if source.count is None:
        raise InputError(
            f"It is not known how many images {source.label} gives, which noise and "
            "contamination depend on; put them into a folder or an array."
        )
    if {"blur", "swirl"} & levels.keys():
        _skimage()
    shape = next(iter(source.batches(1)))[0].shape
    black = 0.0
    if "rectangles" in levels and definition == "code":
        black = darkest(source)
    others = None
    if "contamination" in levels and any(levels["contamination"]):
        if contamination is None:
            raise InputError(
                "Contamination needs a second set of images: contamination=, or "
                "--contamination=FOLDER."
            )
        most = replaced(source.count, max(levels["contamination"]))
        others = contaminants(contamination, shape, max(1, most), seed)
    return Disturber(
        source.count,
        shape,
        seed=seed,
        definition=definition,
        darkest=black,
        swirl_radius=swirl_radius,
        contamination=others,
    )


def darkest(source: Source) -> float:
    """Returns the least value of all images of a set.

    Args:
        source: The set, which is read up to the first black pixel.

    Returns:
        The value, in [0, 255].
    """
    least = 255.0
    for batch in source.batches(50):
        least = min(least, *(float(image.min()) for image in batch))
        if least == 0.0:
            break
    return least


def contaminants(
    source: Any, shape: tuple[int, int, int], most: int, seed: int = 0
) -> np.ndarray:
    """Reads the images that replace others, and brings them to the others' size.

    The original never implemented this, and the paper does not say how images were
    resized: here the largest middle part of the right proportions is taken and resized
    by Pillow's bilinear filter, as the original's loader of CelebA does.

    Args:
        source: Anything that `images.open_images` takes; images of any sizes.
        shape: (H, W, C) of the images to be replaced.
        most: How many are wanted at most; a larger set gives this many, at random.
        seed: Chooses and orders them.

    Returns:
        uint8 (m, H, W, C), m the lesser of `most` and what there is.

    Raises:
        InputError: The source holds no images.
    """
    source = open_images(source)
    if source.count is None:
        raise InputError(
            f"It is not known how many images {source.label} gives; put them into a "
            "folder or an array."
        )
    chosen = PartSource(source, min(most, source.count), seed)
    images = np.empty((chosen.count, *shape), np.uint8)
    count = 0
    for batch in chosen.batches(50):
        for image in batch:
            images[count] = _fitted(image, shape)
            count += 1
    random = np.random.default_rng([seed, _STREAMS["contamination"], 1])
    return images[random.permutation(count)]


def _fitted(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    pixels = np.rint(image).astype(np.uint8)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    picture = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        scale = min(picture.width / width, picture.height / height)
        size = (round(width * scale), round(height * scale))
        left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
        # It is cut before it is resized: a filter at the edge would see beyond it.
        picture = picture.crop((left, top, left + size[0], top + size[1]))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


def _skimage() -> Any:
    try:
        import skimage
    except ModuleNotFoundError as error:
        raise InputError(
            "Blur and swirl need scikit-image, which is not installed: "
            "pip install 'tf-ttur[disturbances]'."
        ) from error
    return skimage

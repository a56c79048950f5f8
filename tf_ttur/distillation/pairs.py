"""Pairs of images of which one is the better, and oracles that say which.

Preference learning begins with an oracle that is stated: a function that scores images,
or people who chose between two. Either way it comes to pairs, from which a reward model
learns (`rewards`).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from fid.files import InputError, printable
from fid.mistaken import local_path
from tf_ttur.datasets import pictures

__all__ = [
    "Choices",
    "Oracle",
    "Pairs",
    "ScoreOracle",
    "held_out",
    "oracle_of",
    "pairs_of",
    "scores_of",
]

# One pair of so many is held out to measure the accuracy.
_HOLD_OUT_EVERY = 5
# An oracle is given so many images at a time.
_BATCH = 256
_CHOICES = "choices:"
_COLUMNS = ("winner", "loser")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images, and which one of each is the better.

    Attributes:
        a: The first image of each, float32 (n, H, W, C) in [-1, 1].
        b: The second one.
        labels: The class that was asked for, int32 (n,), one for both; or None.
        better: Whether the first is the better one, bool (n,).
        ties: How many pairs were dropped, since neither was.

    Raises:
        ValueError: The arrays do not belong together, or hold what is not finite.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.pairs import Pairs
        >>> black, white = -np.ones((1, 2, 2, 1), "f"), np.ones((1, 2, 2, 1), "f")
        >>> pairs = Pairs(black, white, None, np.array([False]))
        >>> float(pairs.winners.mean()), float(pairs.losers.mean()), len(pairs)
        (1.0, -1.0, 1)
    """

    a: np.ndarray
    b: np.ndarray
    labels: np.ndarray | None
    better: np.ndarray
    ties: int = 0

    def __post_init__(self) -> None:
        count = (len(self.a),)
        labels = count if self.labels is None else np.shape(self.labels)
        shapes = self.a.shape, self.b.shape, labels, np.shape(self.better)
        if self.a.ndim != 4 or shapes != (self.a.shape, self.a.shape, count, count):
            raise ValueError(
                "Pairs are images a and b, both (n, H, W, C), labels (n,) or None, and "
                f"better (n,). Received: the shapes {shapes}."
            )
        if not (np.isfinite(self.a).all() and np.isfinite(self.b).all()):
            raise ValueError(
                "Some images of the pairs hold NaN or infinite numbers; leave them out."
            )

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: Any) -> Pairs:
        """Returns some of the pairs: those of indices, a slice or a mask."""
        labels = None if self.labels is None else self.labels[rows]
        return Pairs(self.a[rows], self.b[rows], labels, self.better[rows], self.ties)

    @property
    def winners(self) -> np.ndarray:
        """The better image of each pair, float32 (n, H, W, C)."""
        return np.where(self.better[:, None, None, None], self.a, self.b)

    @property
    def losers(self) -> np.ndarray:
        """The other image of each pair."""
        return np.where(self.better[:, None, None, None], self.b, self.a)


class Oracle(Protocol):
    """Says which image of a pair is the better one.

    Attributes:
        name: What it is called in messages.
        identity: A text that is another one wherever its judgement may be.
    """

    name: str
    identity: str

    def pairs(
        self, make: Callable[[], tuple[np.ndarray, np.ndarray | None]], seed: int
    ) -> Pairs:
        """Returns pairs that it has judged.

        Args:
            make: Makes images to judge, float32 (n, H, W, C) in [-1, 1], and their
                labels, int32 (n,), or None. An oracle that has images of its own does
                not call it.
            seed: Decides what is drawn.
        """


@dataclasses.dataclass(frozen=True)
class ScoreOracle:
    """An oracle that scores images, the more the better; see `Oracle`.

    It is a function itself: images float32 (n, H, W, C) in [-1, 1] and labels int32
    (n,), or None, to scores (n,).

    Attributes:
        function: That function.
        name: As for `Oracle`.
        identity: Likewise.
    """

    function: Callable[..., Any]
    name: str
    identity: str

    def __call__(self, images: Any, labels: Any = None) -> Any:
        """Returns scores, the more the better."""
        return self.function(images, labels)

    def pairs(
        self, make: Callable[[], tuple[np.ndarray, np.ndarray | None]], seed: int
    ) -> Pairs:
        """Makes images, and judges pairs of them; see `pairs_of`."""
        return pairs_of(*make(), self.function, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """What people chose, an oracle that brings images of its own; see `Oracle`.

    Attributes:
        chosen: The pairs.
        name: As for `Oracle`.
        identity: Likewise.
    """

    chosen: Pairs
    name: str
    identity: str

    def pairs(self, make: Any, seed: int) -> Pairs:
        """Returns all pairs that were chosen from; nothing is made or drawn."""
        return self.chosen


def pairs_of(
    images: np.ndarray,
    labels: np.ndarray | None,
    oracle: Callable[..., Any],
    seed: int,
) -> Pairs:
    """Pairs images of one class at random, and has an oracle judge them.

    Each image is in one pair at most; of a class with an odd number of images one is
    left over. Pairs whose images score alike are dropped and counted.

    Args:
        images: Float32 (n, H, W, C) in [-1, 1].
        labels: Their classes, int32 (n,); None where there are none, and any two may
            meet.
        oracle: A function of images and labels to scores (n,), the more the better.
        seed: Decides which images meet.

    Returns:
        The pairs that are no ties.

    Raises:
        InputError: There are no two images of one class, the oracle fails, gives what
            is no score, or scores all alike.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.pairs import pairs_of
        >>> images = np.arange(6, dtype="f")[:, None, None, None] / 10
        >>> pairs = pairs_of(
        ...     images, None, lambda images, labels: images.mean((1, 2, 3)), seed=0)
        >>> len(pairs), bool((pairs.winners > pairs.losers).all())
        (3, True)
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    groups = [order]
    if labels is not None:
        groups = [order[labels[order] == each] for each in np.unique(labels)]
    together = [each[: len(each) // 2 * 2].reshape(-1, 2) for each in groups]
    rows = np.concatenate([np.zeros((0, 2), int), *together])
    if not len(rows):
        raise InputError(
            f"There are {len(images)} images, and no two of one class to be compared. "
            "Make more of them."
        )
    scores = scores_of(oracle, images, labels)[rows]
    decided = scores[:, 0] != scores[:, 1]
    if not decided.any():
        raise InputError(
            f"The oracle scores both images of all {len(rows)} pairs alike, such as "
            f"{scores[0, 0]:g}, and nothing can be learnt of that. Give one that tells "
            "images apart."
        )
    first, second = rows[decided].T
    return Pairs(
        np.asarray(images[first], np.float32),
        np.asarray(images[second], np.float32),
        None if labels is None else np.asarray(labels[first], np.int32),
        scores[decided, 0] > scores[decided, 1],
        int((~decided).sum()),
    )


def scores_of(
    function: Callable[..., Any], images: np.ndarray, labels: np.ndarray | None
) -> np.ndarray:
    """Calls an oracle's function on images, some at a time, and checks its answers.

    Args:
        function: Images and labels to scores (n,).
        images: Float32 (n, H, W, C) in [-1, 1].
        labels: Int32 (n,), or None.

    Returns:
        Float64 (n,), finite.

    Raises:
        InputError: It raises an error, or gives something else.
    """
    found = [np.zeros(0)]
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        some = images[rows]
        try:
            scores = np.asarray(
                function(some, None if labels is None else labels[rows])
            )
        except (MemoryError, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"The oracle raised {type(error).__name__}: "
                f"{' '.join(str(error).split())[:500]}. It is given float32 images in "
                f"[-1, 1] of shape {some.shape} and labels, and returns {len(some)} "
                "scores."
            ) from error
        if scores.shape != (len(some),) or scores.dtype.kind not in "biuf":
            raise InputError(
                f"The oracle returns {scores.dtype.name} of shape {scores.shape} for "
                f"{len(some)} images; it is to return a number for each, "
                f"({len(some)},)."
            )
        scores = scores.astype(np.float64)
        if wrong := int((~np.isfinite(scores)).sum()):
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise InputError(
                f"The oracle scores {wrong} of {len(some)} images as NaN or infinite, "
                f"the first as {scores[at]:g} (number {start + at}, pixels of "
                f"{some[at].min():.3g} to {some[at].max():.3g}); it is to return "
                "finite numbers."
            )
        found.append(scores)
    return np.concatenate(found)


def held_out(pairs: Pairs, seed: int) -> np.ndarray:
    """Chooses pairs to measure on, none of whose images is in any other pair.

    Pairs that share an image, by its pixels, directly or by others, go to one side
    together. At most one pair of five is chosen.

    Args:
        pairs: The pairs.
        seed: Decides which.

    Returns:
        Bool (n,).

    Raises:
        InputError: There are too few pairs that share no image with the others.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.pairs import Pairs, held_out
        >>> images = np.arange(20, dtype="f")[:, None, None, None] / 20
        >>> pairs = Pairs(images[:10], images[10:], None, np.ones(10, bool))
        >>> int(held_out(pairs, seed=0).sum())
        2
    """
    numbers: dict[bytes, int] = {}
    first, second = (
        [
            numbers.setdefault(hashlib.sha256(image.tobytes()).digest(), len(numbers))
            for image in images
        ]
        for images in (pairs.a, pairs.b)
    )
    graph = scipy.sparse.coo_matrix(
        (np.ones(len(pairs)), (first, second)), (len(numbers), len(numbers))
    )
    count, of_image = scipy.sparse.csgraph.connected_components(graph, directed=False)
    group = of_image[np.asarray(first, int)] if len(pairs) else np.zeros(0, int)
    sizes = np.bincount(group, minlength=count)
    left, chosen = len(pairs) // _HOLD_OUT_EVERY, np.zeros(count, bool)
    for each in np.random.default_rng(seed).permutation(count):
        if sizes[each] <= left:
            chosen[each], left = True, left - sizes[each]
    if not chosen.any():
        raise InputError(
            f"Of {len(pairs)} pairs none can be held out to measure on: one of "
            f"{_HOLD_OUT_EVERY} is, with all that share an image with it, and these "
            f"pairs are of {count} groups that share none. Give more pairs, of other "
            "images."
        )
    return chosen[group]


def oracle_of(text: str, shape: Sequence[int]) -> Oracle:
    """Finds an oracle.

    Args:
        text: `"digits"`, see `oracles.digits_oracle`. `"MODULE:FUNCTION"`, a Python
            function of images float32 (n, H, W, C) in [-1, 1] and labels int32 (n,), or
            None, to scores (n,), the more the better; it is known by the text of its
            module's file, so after a change in that file it is another oracle.
            `"choices:FILE.csv"`, what people chose: a file in UTF-8 with the columns
            `winner` and `loser`, paths of images relative to the file, and perhaps
            `label`, the class that both were to be. Other columns are not read.
        shape: (H, W, C) of an image.

    Returns:
        The oracle.

    Raises:
        InputError: There is no such oracle, or its file cannot be used; the message
            names the line.

    Example:
        >>> from tf_ttur.distillation.pairs import oracle_of
        >>> oracle_of("nonsense", (8, 8, 1))
        Traceback (most recent call last):
        fid.files.InputError: There is no oracle 'nonsense'; give digits, \
MODULE:FUNCTION or choices:FILE.csv.
    """
    if text == "digits":
        from tf_ttur.distillation import oracles

        return oracles.digits_oracle(shape)
    if text.startswith(_CHOICES):
        return _read_choices(local_path(text.removeprefix(_CHOICES)), tuple(shape))
    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise InputError(
            f"There is no oracle {text!r}; give digits, MODULE:FUNCTION or "
            "choices:FILE.csv."
        )
    return _imported(text, module, name)


def _imported(text: str, module: str, name: str) -> ScoreOracle:
    try:
        found = importlib.import_module(module)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"The oracle {text} cannot be imported: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:500]}. Put the folder of its module into "
            "$PYTHONPATH, and mend what the message says."
        ) from error
    function = getattr(found, name, None)
    if not callable(function):
        what = "no function" if function is None else f"a {type(function).__name__} as"
        raise InputError(
            f"The oracle {text} cannot be used: {module} has {what} {name!r}; it is to "
            "be a function of images and labels."
        )
    identity, file = text, getattr(found, "__file__", None)
    if file is not None:
        identity += f" {hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()}"
    return ScoreOracle(function, text, identity)


def _read_choices(path: pathlib.Path, shape: tuple[int, ...]) -> Choices:
    """Reads a file of choices, with all images that it names."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"The choices {printable(path)} cannot be read: {error.strerror}. Give "
            f"{_CHOICES} and the path of a CSV file."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{printable(path)} is no text in UTF-8; save it as such."
        ) from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)

    def refuse(fault: str, fix: str, cause: Exception | None = None) -> None:
        # An empty file has no line at all.
        where = f"{printable(path)}, line {max(rows.line_num, 1)}"
        raise InputError(f"{where}: {fault}. {fix}") from cause

    columns: dict[str, int] = {}
    images: dict[str, np.ndarray] = {}
    found: list[tuple[np.ndarray, np.ndarray, int]] = []

    def image(name: str) -> np.ndarray:
        try:
            # Two names of one file are one image.
            file = os.path.realpath(path.parent / name)
            if file not in images:
                images[file] = pictures.exact(file, shape) / np.float32(127.5) - 1
        except (OSError, ValueError) as error:
            refuse(
                f"the image {printable(name)} cannot be used: "
                f"{' '.join(str(error).split())}",
                "Paths are relative to the folder of the CSV file; mend the path or "
                "the image, or remove the line.",
                error,
            )
        return images[file]

    try:
        for row in rows:
            if not row:
                continue
            cells = [cell.strip() for cell in row]
            if not columns:
                columns = {name: index for index, name in enumerate(cells)}
                if len(columns) < len(cells) or not {*_COLUMNS} <= {*columns}:
                    refuse(
                        f"the columns are {printable(','.join(cells))}",
                        "The first line is to be winner,loser or winner,loser,label.",
                    )
                continue
            if len(cells) != len(columns):
                refuse(
                    f"{len(cells)} cells, and the first line names {len(columns)}",
                    "Mend the line; put a path with a comma into quotation marks.",
                )
            names = [cells[columns[name]] for name in _COLUMNS]
            for which, name in zip(_COLUMNS, names, strict=True):
                if not name:
                    refuse(f"no {which}", "Name an image, or remove the line.")
            winner, loser = map(image, names)
            if np.array_equal(winner, loser):
                refuse(
                    f"{' and '.join(map(printable, names))} are one image",
                    "Name two that differ, or remove the line.",
                )
            label = cells[columns["label"]] if "label" in columns else "0"
            if not (label.isascii() and label.isdecimal() and len(label) < 10):
                refuse(
                    f"the label is {label!r}",
                    "Labels count from 0: write a whole number, or leave the column "
                    "out.",
                )
            found.append((winner, loser, int(label)))
    except csv.Error as error:
        refuse(f"no CSV ({error})", "Mend the quotation marks.", error)
    if not found:
        refuse(
            "there are no choices" if columns else "the file is empty",
            "Write winner,loser into the first line, and a pair of images into each "
            "line below it.",
        )
    winners, losers, labels = (np.array(x) for x in zip(*found, strict=True))
    told = labels.astype(np.int32) if "label" in columns else None
    digest = hashlib.sha256(winners.tobytes() + losers.tobytes())
    digest.update(b"" if told is None else told.tobytes())
    return Choices(
        Pairs(winners, losers, told, np.ones(len(winners), bool)),
        f"{_CHOICES}{path}",
        f"{_CHOICES}{digest.hexdigest()}",
    )

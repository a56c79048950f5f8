"""Lines of text to train on: `load(name)` gives token ids of 32 symbols a line.

As in the original: a line is cut after 32 symbols or filled up with "`"; the vocabulary
holds "unk" at 0, then the symbols by frequency, padding included, 2,048 at most. A
symbol is a Unicode character, or a byte: the original counts bytes under Python 2 and
characters under Python 3.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import logging
import os
import pathlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fid.files import InputError, printable, write_json
from fid.mistaken import local_path
from fid.tfds import data_folder, find_prepared, prepare_command
from fid.values import read_checked
from tf_ttur.datasets import batches, prepared
from tf_ttur.ngrams import MAX_TOKENS

__all__ = ["LENGTH", "NAMES", "UNITS", "TextData", "Vocabulary", "check", "load"]

_log = logging.getLogger(__name__)

LENGTH = 32
"""Symbols in a line (the paper: 32)."""
PADDING = "`"
UNITS = ("characters", "bytes")
"""What a symbol is."""
NAMES = ("pydoc_topics", "lm1b", "text_files")
"""The names that `load` knows."""

_TFDS_VERSION = "1.1.0"
_TRAIN_SHARDS = "training-monolingual.tokenized.shuffled/news.en-{:05}-of-00100"
_HELD_OUT_SHARDS = "heldout-monolingual.tokenized.shuffled/news.en.heldout-*-of-00050"
# So many bytes are read at once, and no line may be longer.
_BLOCK_SIZE = 1 << 24
# So many records are parsed at once.
_RECORDS_AT_ONCE = 8192
# A unit has so many codes: Unicode's code points, or the values of a byte.
_NUM_CODES = {"characters": 0x110000, "bytes": 256}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols that have a token id.

    Attributes:
        unit: What a symbol is, one of `UNITS`.
        codes: The code point, or byte, of the token ids from 1 on; 0 is "unk", which
            stands for all other symbols.

    Example:
        >>> from tf_ttur.datasets.text import Vocabulary
        >>> vocabulary = Vocabulary("characters", tuple(map(ord, "` ehlo")))
        >>> tokens = vocabulary.encode(["hello", "hollow"])
        >>> tokens[:, :7].tolist()
        [[4, 3, 5, 5, 6, 1, 1], [4, 6, 5, 5, 6, 0, 1]]
        >>> [line.rstrip("`") for line in vocabulary.decode(tokens)]
        ['hello', 'hollo\ufffd']
    """

    unit: str
    codes: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        limit = _NUM_CODES[self.unit]
        # Surrogates, halves of a pair of UTF-16, are in no text.
        valid = all(
            type(x) is int and 0 <= x < limit and not 0xD800 <= x < 0xE000
            for x in self.codes
        )
        if not valid or not 0 < len(self.codes) < MAX_TOKENS:
            raise ValueError(
                f"A vocabulary of {self.unit} has 1 to {MAX_TOKENS - 1} whole numbers "
                f"below {limit}, surrogates left out."
            )
        if len(set(self.codes)) < len(self.codes):
            raise ValueError("A symbol stands twice in the vocabulary.")

    def __len__(self) -> int:
        """Returns the number of token ids, "unk" included."""
        return 1 + len(self.codes)

    @classmethod
    def of(
        cls, counts: np.ndarray, unit: str, max_size: int = MAX_TOKENS
    ) -> Vocabulary:
        """Makes the vocabulary of a text.

        Args:
            counts: How often each symbol occurs, by its code, integers.
            unit: What a symbol is, one of `UNITS`.
            max_size: The most token ids, "unk" included.

        Returns:
            The most frequent symbols; of two as frequent, that of the lower code first.
        """
        order = np.argsort(-counts, kind="stable")[: max_size - 1]
        return cls(unit, tuple(order[counts[order] > 0].tolist()))

    def _ids(self, codes: np.ndarray) -> np.ndarray:
        table = np.zeros(_NUM_CODES[self.unit], np.uint16)
        table[list(self.codes)] = np.arange(1, len(self))
        ids = np.empty(codes.shape, np.uint16)
        for rows in _row_slices(codes):
            ids[rows] = table[codes[rows]]
        return ids

    def encode(self, lines: Sequence[str]) -> np.ndarray:
        """Makes token ids of lines.

        Args:
            lines: Text, without line breaks.

        Returns:
            int32 (lines, 32): cut or padded, 0 where a symbol has no id.
        """
        if self.unit == "bytes":
            lines = [line.encode() for line in lines]
        return self._ids(_padded_codes(lines)).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Makes text of token ids.

        Args:
            tokens: Integers (lines, length).

        Returns:
            A string for each line, padding included. "unk", and bytes that are no
            UTF-8, become the replacement character U+FFFD.
        """
        if self.unit == "bytes":
            # A byte that UTF-8 never has stands for "unk".
            table = np.array((0xFF, *self.codes), np.uint8)
            return [x.tobytes().decode(errors="replace") for x in table[tokens]]
        table = np.array((0xFFFD, *self.codes), "<u4")
        return [x.tobytes().decode("utf-32-le") for x in table[tokens]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary as JSON, whole or not at all.

        Args:
            path: Where the file goes.
        """
        write_json(path, {"unit": self.unit, "codes": list(self.codes)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Raises:
            InputError: The file is missing or holds no vocabulary.
        """
        fix = "Bring the run folder's own one back."
        found = read_checked(path, {"unit": str, "codes": list[int]}, fix)
        try:
            return cls(found["unit"], tuple(found["codes"]))
        except ValueError as error:
            raise InputError(
                f"{printable(path)} holds no vocabulary ({str(error).rstrip('.')}). "
                f"{fix}"
            ) from error


@dataclasses.dataclass(frozen=True)
class TextData:
    """One loaded text.

    Attributes:
        name: The name it was loaded by.
        vocabulary: Its symbols.
        tokens: The lines to train on, uint16 (lines, 32).
        held_out: Real lines that are not trained on, uint16 (lines, 32).
    """

    name: str
    vocabulary: Vocabulary
    tokens: np.ndarray = dataclasses.field(repr=False)
    held_out: np.ndarray = dataclasses.field(repr=False)

    @property
    def num_examples(self) -> int:
        """How many lines to train on there are."""
        return len(self.tokens)

    @property
    def shape(self) -> tuple[int, int]:
        """(length of a line, number of token ids)."""
        return LENGTH, len(self.vocabulary)

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the vocabulary and of all lines, 64 hexadecimal digits."""
        digest = hashlib.sha256(repr(self.vocabulary).encode())
        for tokens in (self.tokens, self.held_out):
            digest.update(f"{tokens.shape}".encode())
            digest.update(np.ascontiguousarray(tokens, "<u2"))
        return digest.hexdigest()

    def training(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        discriminator_steps: int = 1,
    ) -> tf.data.Dataset:
        """Gives endless shuffled batches whose order depends on (seed, step) only.

        Every epoch is a new permutation of all lines; see `ImageData.training`.

        Args:
            batch_size: Lines per discriminator update.
            seed: Seed of the order.
            start_step: The step (generator update) to start at.
            discriminator_steps: Discriminator updates per step, each on its own lines.

        Returns:
            A `tf.data.Dataset` of int32 batches of token ids, of static shape
            (batch_size * discriminator_steps, 32).

        Raises:
            InputError: There are fewer than `batch_size` lines.
            ValueError: A count is out of its range.
        """
        count = len(self.tokens)
        tokens = tf.constant(self.tokens)

        def take(indices: tf.Tensor) -> tf.Tensor:
            lines = tf.gather(tokens, indices)
            return tf.ensure_shape(tf.cast(lines, tf.int32), (batch_size, LENGTH))

        return batches.training_batches(
            functools.partial(batches.indices, count),
            lambda lines: lines.map(take),
            count,
            f"{self.name} has {count} lines to train on",
            batch_size,
            seed,
            start_step,
            discriminator_steps,
        )


def load(
    name: str = "pydoc_topics",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    text_files: str | None = None,
    unit: str = "characters",
    held_out: int = 640,
    max_lines: int = 10_000_000,
    max_vocabulary: int = MAX_TOKENS,
) -> TextData:
    """Loads lines of text by name.

    ============  ====================================================================
    name          source
    ============  ====================================================================
    pydoc_topics  the sentences of Python's own help pages (`pydoc_data.topics`), real
                  English in every CPython, each once, wrapped after 32 characters at
                  most; another version of Python has another text
    lm1b          One Billion Word: in `data_dir` either the original's folders
                  `training-monolingual.tokenized.shuffled` (shards 1 to 99) and
                  `heldout-monolingual.tokenized.shuffled`, or what TFDS prepared
    text_files    the files that match the pattern `text_files`, by path, a line each
    ============  ====================================================================

    Lines that are empty are left out, as is a file's byte order mark.

    Args:
        name: One of `NAMES`.
        data_dir: The folder of `lm1b`; None for TFDS's (`$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`).
        text_files: A pattern such as `books/**/*.txt`, for `text_files`.
        unit: What a symbol is, one of `UNITS`.
        held_out: Real lines not to train on, for the floor of the divergences: the
            held-out ones of `lm1b`, where they are there, else a fixed random choice.
        max_lines: The most lines to read, besides the held-out ones of `lm1b` (the
            paper: 10 million).
        max_vocabulary: The most token ids, "unk" included, 2 to 2048.

    Returns:
        The lines.

    Raises:
        InputError: The name or a setting is wrong; the files are not there (the message
            says which, and how to make them); or one of them is no text.

    Example:
        >>> from tf_ttur.datasets import text
        >>> data = text.load()
        >>> data.tokens.shape[1], len(data.held_out)
        (32, 640)
        >>> next(iter(data.training(batch_size=64, seed=0))).shape
        TensorShape([64, 32])
    """
    check(name, text_files, unit)
    if held_out < 1 or max_lines < 2 or not 2 <= max_vocabulary <= MAX_TOKENS:
        raise InputError(
            f"held_out is {held_out}, max_lines {max_lines} and max_vocabulary "
            f"{max_vocabulary}; they must be at least 1, at least 2, and in "
            f"2..{MAX_TOKENS}."
        )
    blocks, held_out_blocks = _open_source(name, data_dir, text_files)
    codes = _read_codes(blocks, unit, max_lines)
    if held_out_blocks is not None:
        held_out_codes = _read_codes(held_out_blocks, unit, held_out)
    else:
        chosen = _held_out_lines(len(codes), held_out)
        held_out_codes, codes = codes[chosen], np.delete(codes, chosen, axis=0)
    if not len(codes) or len(held_out_codes) < held_out:
        text = f"{name} ({text_files})" if text_files else name
        found = f"{len(codes) + len(held_out_codes)} lines"
        if held_out_blocks is not None:
            found = (
                f"{len(codes)} lines to train on and {len(held_out_codes)} apart from "
                "them"
            )
        raise InputError(
            f"{text} has {found}, too few to hold {held_out} out: give more text "
            "(lines end with a line feed), or measure with fewer "
            "(--set=num_samples=N)."
        )
    vocabulary = _vocabulary(codes, unit, max_vocabulary)
    data = TextData(
        name,
        vocabulary,
        vocabulary._ids(codes),
        vocabulary._ids(held_out_codes),
    )
    _log.info(
        "%s: %d lines to train on, %d held out, %d token ids, SHA-256 %s.",
        name,
        len(data.tokens),
        len(data.held_out),
        len(vocabulary),
        data.digest[:12],
    )
    return data


def check(name: str, text_files: str | None, unit: str) -> None:
    """Refuses what `load` does not know.

    Args:
        name: The name of a text.
        text_files: The pattern of its files.
        unit: What a symbol is.

    Raises:
        InputError: One of them is wrong, or they do not go together.
    """
    _check_unit(unit)
    if name not in NAMES:
        raise InputError(f"Unknown text {name!r}: choose from {', '.join(NAMES)}.")
    if (text_files is not None) != (name == "text_files"):
        raise InputError(
            "The text 'text_files' and the pattern --text_files go together; got "
            f"{name!r} and {text_files!r}."
        )


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise InputError(f"Unknown unit {unit!r}: choose from {', '.join(UNITS)}.")


def _held_out_lines(count: int, held_out: int) -> np.ndarray:
    """Chooses lines by number, the same for ever and on every machine."""
    random = np.random.Philox(key=0).random_raw(count)
    return np.sort(np.argsort(random, kind="stable")[:held_out])


def _vocabulary(codes: np.ndarray, unit: str, max_size: int) -> Vocabulary:
    counts = np.zeros(_NUM_CODES[unit], np.int64)
    for rows in _row_slices(codes):
        counts += np.bincount(codes[rows].ravel(), minlength=len(counts))
    vocabulary = Vocabulary.of(counts, unit, max_size)
    distinct = np.count_nonzero(counts)
    if distinct > len(vocabulary.codes):
        known = counts[list(vocabulary.codes)].sum() / counts.sum()
        _log.info(
            "Of %d different %s, the %d most frequent have a token id; the others, "
            "%.2g%% of the text, are unk.",
            distinct,
            unit,
            len(vocabulary.codes),
            100 * (1 - known),
        )
    return vocabulary


# Symbols ------------------------------------------------------------------------------


def _padded_codes(lines: Sequence[str] | Sequence[bytes]) -> np.ndarray:
    """Cuts or pads lines; returns their code points, or bytes, (lines, 32)."""
    if lines and isinstance(lines[0], bytes):
        padding = PADDING.encode()
        text = b"".join(line[:LENGTH].ljust(LENGTH, padding) for line in lines)
        return np.frombuffer(text, np.uint8).reshape(-1, LENGTH)
    text = "".join(line[:LENGTH].ljust(LENGTH, PADDING) for line in lines)
    return np.frombuffer(text.encode("utf-32-le"), "<u4").reshape(-1, LENGTH)


def _row_slices(codes: np.ndarray) -> Iterator[slice]:
    """Yields rows in pieces: NumPy indexes and counts by 64-bit copies of its input."""
    return (
        slice(i, i + _BLOCK_SIZE // LENGTH)
        for i in range(0, len(codes), _BLOCK_SIZE // LENGTH)
    )


# Lines --------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Whole lines of a text: where they are from, the number of the first, the text."""

    label: str
    first: int
    text: bytes


def _read_codes(blocks: Iterator[_Block], unit: str, max_lines: int) -> np.ndarray:
    """Returns the symbols of the first lines that are not empty, (lines, 32)."""
    pieces, count, empty = [], 0, 0
    for block in blocks:
        found = _lines(block, unit)
        lines = [line for line in found if line and not line.isspace()]
        empty += len(found) - len(lines)
        pieces.append(_padded_codes(lines[: max_lines - count]))
        count += len(pieces[-1])
        if count == max_lines:
            break
    if empty:
        _log.info("%d empty lines are left out.", empty)
    codes = np.empty((count, LENGTH), np.uint8 if unit == "bytes" else np.uint32)
    # The last piece comes first and each is freed, so that the text is never in memory
    # twice.
    while pieces:
        piece = pieces.pop()
        codes[count - len(piece) : count] = piece
        count -= len(piece)
    return codes


def _lines(block: _Block, unit: str) -> list[str] | list[bytes]:
    text = block.text.replace(b"\r\n", b"\n").removesuffix(b"\n")

    def line(position: int) -> str:
        number = block.first + text.count(b"\n", 0, position)
        return f"{block.label}, line {number}"

    if (position := text.find(b"\0")) >= 0:
        raise InputError(
            f"{line(position)} has a NUL byte: it is a binary file, or UTF-16 text; "
            "give text, in UTF-8 or in an encoding without NUL bytes."
        )
    if unit == "bytes":
        return text.split(b"\n")
    try:
        return text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{line(error.start)} is not UTF-8 (byte {text[error.start]:#x}: "
            f"{error.reason}): convert the text to UTF-8, or train on bytes with "
            "--unit=bytes."
        ) from error


# Sources ------------------------------------------------------------------------------


def _open_source(
    name: str, data_dir: Any, text_files: str | None
) -> tuple[Iterator[_Block], Iterator[_Block] | None]:
    """Returns the text, and the held-out text where it comes apart from it."""
    if name == "pydoc_topics":
        return iter([_Block(name, 1, "\n".join(_pydoc_lines()).encode())]), None
    if name == "text_files":
        return _file_blocks(_matching_files(text_files)), None
    folder = data_folder(data_dir)
    files = [folder / _TRAIN_SHARDS.format(number) for number in range(1, 100)]
    if files[0].parent.is_dir():
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(
                f"{files[0].parent} lacks {len(missing)} of 99 files, "
                f"{missing[0]} first: copy them there, or take those that are there by "
                f"--text_files='{files[0].parent}/news.en-*'."
            )
        held_out = sorted(folder.glob(_HELD_OUT_SHARDS))
        return _file_blocks(files), _file_blocks(held_out) if held_out else None
    found = find_prepared("lm1b", folder, _TFDS_VERSION)
    if found is None:
        raise InputError(
            f"lm1b is not in {folder}: found neither lm1b/{_TFDS_VERSION} as TFDS "
            f"prepares it nor {files[0].parent.name} as the authors pack it. Where "
            f"there is a network, run {prepare_command('lm1b', folder)}, then "
            f"copy {folder / 'lm1b'} here if that was another machine; or name the "
            "folder that holds either with --data_dir."
        )
    train, test = (
        _record_blocks(*prepared.prepared_shards("lm1b", folder, found, split))
        for split in ("train", "test")
    )
    return train, test


def _pydoc_lines() -> list[str]:
    """Returns the sentences of Python's help pages in lines of 32 at most."""
    from pydoc_data.topics import topics

    # Pages repeat each other; a line to hold out must not be in another's text.
    sentences: dict[str, None] = {}
    for _, page in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", page):
            words = " ".join(paragraph.split())
            # Headings, grammars and programs are left out.
            if re.fullmatch(r'["*(]*[A-Z].*[.:]', words) and not re.search(
                "::=|>>>", words
            ):
                sentences[words] = None
    return [line for words in sentences for line in textwrap.wrap(words, LENGTH)]


def _matching_files(pattern: str) -> list[pathlib.Path]:
    # A pattern with several ** finds files more than once.
    found = sorted(set(glob.glob(str(local_path(pattern)), recursive=True)))
    files = [path for path in map(pathlib.Path, found) if path.is_file()]
    if not files:
        what = "no file, only folders and the like" if found else "nothing"
        raise InputError(
            f"--text_files={pattern} matches {what}: give a pattern of files, in "
            "quotes, such as 'books/*.txt'."
        )
    return files


def _file_blocks(paths: Sequence[pathlib.Path]) -> Iterator[_Block]:
    """Reads files in blocks of whole lines."""
    for path in paths:
        label, first, rest = printable(path), 1, b""
        try:
            with open(path, "rb") as file:
                while read := file.read(_BLOCK_SIZE):
                    text = rest + read
                    if first == 1:
                        text = text.removeprefix(b"\xef\xbb\xbf")
                    end = text.rfind(b"\n") + 1
                    if end:
                        yield _Block(label, first, text[:end])
                        first += text.count(b"\n", 0, end)
                    rest = text[end:]
                    if len(rest) > _BLOCK_SIZE:
                        raise InputError(
                            f"{label}, line {first} is longer than "
                            f"{_BLOCK_SIZE >> 20} MB: expected a sample of text a line."
                        )
        except OSError as error:
            raise InputError(f"Cannot read {label}: {error.strerror}.") from error
        if rest:
            yield _Block(label, first, rest)
        elif first == 1:
            raise InputError(f"{label} is empty; leave it out, or mend it.")


def _record_blocks(shards: list[str], count: int) -> Iterator[_Block]:
    """Reads the lines in TFDS's record files."""
    features = {"text": tf.io.FixedLenFeature([], tf.string)}
    records = tf.data.TFRecordDataset(shards).batch(_RECORDS_AT_ONCE)
    records = records.map(lambda x: tf.io.parse_example(x, features)["text"])
    first = 1
    try:
        for lines in records.prefetch(1).as_numpy_iterator():
            yield _Block("lm1b", first, b"\n".join(lines))
            first += len(lines)
    except tf.errors.OpError as error:
        raise InputError(
            f"Cannot read lm1b in {os.path.dirname(shards[0])}: {error.message}. A "
            "prepared file is damaged: delete the folder and prepare it again."
        ) from error
    if first != count + 1:
        raise InputError(
            f"lm1b in {os.path.dirname(shards[0])} has {first - 1} of {count} lines: a "
            "prepared file is cut short; delete the folder and prepare it again."
        )

"""Texts as conditions: embedded once, kept on disk, and gathered by number.

A network that is told a text takes embeddings of it. The texts of a training are known
beforehand, so each is embedded once. From then on a text is a whole number, its place
in the list, as a class is; the number behind the last stands for the empty text, which
guidance needs. So whatever is trained on labels is trained on texts as it stands: with
`num_classes` texts, and a network that begins with a `PromptTable`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fid import npz
from fid.files import InputError, atomic_write, printable, read_text
from fid.mistaken import local_path

__all__ = ["PromptTable", "Prompts", "cached", "read"]

# Embeddings in this type take half the memory; those of CLIP are made in it.
_STORED = "float16"
# So many characters a file of prompts has at most: the embeddings of more texts would
# not fit into memory.
_MOST = 10**8


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Embeddings of texts, the empty one behind the last.

    Attributes:
        context: An embedding of each of a text's tokens, float16 (texts + 1, tokens,
            width), without the zeros at the ends of the two last axes.
        pooled: An embedding of a whole text, float32 (texts + 1, d).
        shape: The tokens and the width of `context` with its zeros.
        fingerprint: Hexadecimal digits that say what the embeddings were made of: the
            encoders, and the texts. A saved model names its texts by them. None: by
            the embeddings' SHA-256, which another processor's rounding changes.

    Raises:
        InputError: The arrays do not go together, or hold what is no finite number.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.prompts import Prompts
        >>> one = np.zeros((3, 5, 4), "float32")
        >>> one[:, :2, :3] = 1
        >>> prompts = Prompts.of(one, np.ones((3, 2), "float32"))
        >>> prompts.count, prompts.context.shape, prompts.shape
        (2, (3, 2, 3), (5, 4))
    """

    context: np.ndarray
    pooled: np.ndarray
    shape: tuple[int, int]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        right = (
            self.context.ndim == 3
            and self.pooled.ndim == 2
            and len(self.context) == len(self.pooled) > 1
            and self.context.dtype == _STORED
            and self.pooled.dtype == np.float32
            and all(
                0 < n <= most
                for n, most in zip(self.context.shape[1:], self.shape, strict=True)
            )
        )
        if not right:
            raise InputError(
                f"Embeddings of texts are {_STORED} (texts + 1, tokens, width) within "
                f"{tuple(self.shape)} and float32 (texts + 1, d). Received: "
                f"{self.context.dtype} {self.context.shape} and {self.pooled.dtype} "
                f"{self.pooled.shape}."
            )
        if not (np.isfinite(self.context).all() and np.isfinite(self.pooled).all()):
            raise InputError(
                f"Embeddings of texts hold what is no finite number in {_STORED}; was "
                "the text encoder loaded with its weights?"
            )

    @property
    def count(self) -> int:
        """The number of texts, without the empty one."""
        return len(self.pooled) - 1

    @classmethod
    def of(cls, context: np.ndarray, pooled: np.ndarray) -> Prompts:
        """Makes it of embeddings with all their zeros.

        Args:
            context: Floats (texts + 1, tokens, width).
            pooled: Floats (texts + 1, d).

        Raises:
            InputError: As for the class.
        """
        return cls.of_blocks([(context, pooled)])

    @classmethod
    def of_blocks(
        cls,
        blocks: Iterable[tuple[np.ndarray, np.ndarray]],
        fingerprint: str | None = None,
    ) -> Prompts:
        """Makes it of the embeddings of some texts after the other.

        It takes the memory of what is kept twice, and that of one block.

        Args:
            blocks: One at least, each as `of` takes all.
            fingerprint: As for the class.

        Raises:
            InputError: As for the class.
        """
        kept, pooled = [], []
        for block, whole in blocks:
            shape = tuple(block.shape[1:])
            used = [np.flatnonzero(block.any(axes)) for axes in ((0, 2), (0, 1))]
            tokens, width = (int(x[-1]) + 1 if len(x) else 1 for x in used)
            with np.errstate(over="ignore"):  # An infinity is refused.
                kept.append(block[:, :tokens, :width].astype(_STORED))
            pooled.append(whole.astype("float32"))
        most = (max(sizes) for sizes in zip(*(x.shape[1:] for x in kept), strict=True))
        context = np.zeros((sum(map(len, kept)), *most), _STORED)
        last = 0
        for each in kept:
            first, last = last, last + len(each)
            context[first:last, : each.shape[1], : each.shape[2]] = each
        return cls(context, np.concatenate(pooled), shape, fingerprint)


def read(path: str | os.PathLike[str]) -> list[str]:
    """Reads texts, one a line; blank lines are left out.

    Args:
        path: A text file in UTF-8.

    Returns:
        The texts, without blanks at their ends.

    Raises:
        InputError: It cannot be read, is no text, or has none.
    """
    label = printable(path)
    try:
        # Only line ends end a prompt: str.splitlines() knows ten more characters.
        lines = read_text(local_path(path), _MOST).split("\n")
    except ValueError as error:
        raise InputError(
            f"Cannot read the texts of {label}: {error}. Name a text file with one "
            "prompt a line."
        ) from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{label} has no texts; write one prompt a line.")
    return texts


def cached(
    folder: str | os.PathLike[str], fingerprint: str, embed: Callable[[], Prompts]
) -> Prompts:
    """Returns embeddings from a file of a folder; makes the file where there is none.

    Args:
        folder: The folder.
        fingerprint: Hexadecimal digits that say what the embeddings were made of: the
            encoders' weights, and the texts. It is in the file's name, and inside.
        embed: Makes them.

    Returns:
        The embeddings.

    Raises:
        InputError: The file is damaged, or of something else; or it cannot be written.

    Example:
        >>> import numpy as np, tempfile
        >>> from tf_ttur.distillation import prompts
        >>> def embed():
        ...     print("embedding")
        ...     ones = np.ones((3, 5, 4), "float32")
        ...     return prompts.Prompts.of(ones, ones[:, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = prompts.cached(folder, "12ab" * 16, embed)
        ...     prompts.cached(folder, "12ab" * 16, embed).count
        embedding
        2
    """
    path = local_path(folder, writing=True) / f"prompts-{fingerprint[:16]}.npz"
    if not path.exists():
        made = embed()
        record = {"fingerprint": fingerprint, "shape": made.shape}
        with atomic_write(path) as file:
            np.savez(
                file, record=np.array(json.dumps(record)), context=made.context,
                pooled=made.pooled,
            )  # fmt: skip
        return dataclasses.replace(made, fingerprint=fingerprint)
    label = printable(path)
    with npz.opened(path) as file:
        record = json.loads(str(file["record"]))
        if record["fingerprint"] != fingerprint:
            raise InputError(
                f"{label} was made of other encoders or texts than its name says; "
                "delete it, and it is made again."
            )
        shape = tuple(map(int, record["shape"]))
        return Prompts(file["context"], file["pooled"], shape, fingerprint)


# Embeddings by their names, for layers that are made again.
_TABLES: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


class _Tables:
    """The embeddings where networks compute, once for all of them.

    The arrays that they were made of are not held beside them.
    """

    def __init__(self, prompts: Prompts):
        self.name = prompts.fingerprint or _sha256(prompts)
        self.shape = prompts.shape
        # Outside of whatever function is being traced, or they would be its own.
        with tf.init_scope():
            self.context = tf.constant(prompts.context)
            self.pooled = tf.constant(prompts.pooled)


def _sha256(prompts: Prompts) -> str:
    digest = hashlib.sha256(repr(prompts.shape).encode())
    for each in (prompts.context, prompts.pooled):
        digest.update(f"{each.shape}\n".encode())
        # As it stands, since a copy in bytes is as large again.
        digest.update(memoryview(np.ascontiguousarray(each)).cast("B"))
    return digest.hexdigest()


@keras.saving.register_keras_serializable("tf_ttur")
class PromptTable(keras.layers.Layer):
    """Turns the numbers of texts into their embeddings.

    It has no weights: the embeddings are constants, and several layers that are made
    by `sharing` hold them once. A saved model names them by what they were made of, or
    by their SHA-256 (see `Prompts`). To load it, make a table of the same embeddings
    first, and call `remember`.

    Args:
        prompts: The embeddings.
        **kwargs: As for `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.prompts import PromptTable, Prompts
        >>> context = np.arange(12.0).reshape(3, 2, 2)
        >>> table = PromptTable(Prompts.of(context, context[:, 0]))
        >>> context, pooled = table(np.array([2, 0], "int32"))
        >>> pooled.numpy().tolist()
        [[8.0, 9.0], [0.0, 1.0]]
    """

    def __init__(self, prompts: Prompts | _Tables, **kwargs: Any):
        super().__init__(**{"dtype": "float32"} | kwargs)
        made = prompts if isinstance(prompts, _Tables) else _Tables(prompts)
        # A view that Keras does not visit when it saves.
        self._held = MappingProxyType({"tables": made})
        self.built = True

    def sharing(self) -> PromptTable:
        """Returns another layer with the same embeddings, which are held once."""
        return PromptTable(self._held["tables"])

    def call(self, numbers: Any) -> tuple[Any, Any]:
        """Gathers embeddings.

        Args:
            numbers: Int32 (n,), in [0, texts]; the last is the empty text.

        Returns:
            Float32 (n, tokens, width), with its zeros, and (n, d).
        """
        tables = self._held["tables"]
        context = tf.cast(tf.gather(tables.context, numbers), tf.float32)
        shape, kept = tables.shape, tables.context.shape[1:]
        ends = [(0, most - n) for most, n in zip(shape, kept, strict=True)]
        return tf.pad(context, [(0, 0), *ends]), tf.gather(tables.pooled, numbers)

    def compute_output_spec(self, numbers: Any) -> tuple[Any, Any]:
        """Returns both outputs, without numbers."""
        tables = self._held["tables"]
        shapes = tables.shape, tables.pooled.shape[1:]
        return tuple(
            keras.KerasTensor((numbers.shape[0], *shape), "float32") for shape in shapes
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the embeddings' name and the arguments of any layer."""
        tables = self._held["tables"]
        _TABLES[tables.name] = tables
        return {**super().get_config(), "prompts": tables.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PromptTable:
        """Makes the layer again, of the embeddings that its configuration names.

        Args:
            config: What `get_config` returned.

        Raises:
            InputError: There is no table of those embeddings.
        """
        tables = _TABLES.get(config["prompts"])
        if tables is None:
            raise InputError(
                "The file does not hold the embeddings of its texts (their name: "
                f"{config['prompts'][:16]}...); embed the same texts by the same "
                "encoders, and call remember() of a PromptTable of them."
            )
        return cls(**config | {"prompts": tables})

    def remember(self) -> str:
        """Makes the embeddings known, so that a model with them can be loaded.

        Returns:
            Their name.
        """
        return self.get_config()["prompts"]

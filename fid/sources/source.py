"""What a source of images offers to those who measure it."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["MAX_BATCH_BYTES", "Source", "batched"]

# A batch of larger images than 50 of 1024x1024 has fewer than were asked for, so that
# the memory does not grow with the images.
MAX_BATCH_BYTES = 256 * 2**20


class Source(abc.ABC):
    """A finite set of images in a fixed order.

    Attributes:
        label: What to call it in messages.
        count: Number of images; None where that is not known before they were read. Bad
            images that are left out count until they were read.
        lossy: Number of them in a format that loses information: by the names of the
            files, after the last batch by their contents.
        warnings: Sentences on what a reader of the result should know; complete after
            the last batch.
        provenance: JSON-able facts about what was read; complete after the last batch.
        names: What its images are called, printable, in order, without those that were
            left out; None where they have no names. Complete after the last batch.
        max_batch_bytes: A batch has fewer images where they would take more than this.
    """

    label: str
    count: int | None
    lossy: int = 0
    warnings: Sequence[str] = ()
    names: Sequence[str] | None = None
    max_batch_bytes: int = MAX_BATCH_BYTES

    @abc.abstractmethod
    def batches(self, size: int) -> Iterator[Sequence[np.ndarray]]:
        """Yields the images in order, at most `size` at a time.

        Args:
            size: Images in a batch. There are fewer in the last one, and where they
                would take more than `max_batch_bytes`.

        Yields:
            Arrays (H, W, C), uint8 or float32 in [0, 255], as a sequence or stacked.
        """

    @property
    @abc.abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What was read."""


def batched(
    images: Iterable[np.ndarray], size: int, max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[list[np.ndarray]]:
    """Gathers images into batches of bounded memory.

    Args:
        images: Arrays of any shapes.
        size: Images in a batch.
        max_bytes: A batch has fewer images where they would take more than this, but
            at least one.

    Yields:
        Lists of the images, in order.

    Example:
        >>> [len(batch) for batch in batched([np.zeros(3)] * 5, 2)]
        [2, 2, 1]
    """
    batch: list[np.ndarray] = []
    held = 0
    for image in images:
        if batch and held + image.nbytes > max_bytes:
            yield batch
            batch, held = [], 0
        batch.append(image)
        held += image.nbytes
        if len(batch) == size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch

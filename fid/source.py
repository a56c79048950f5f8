"""What a source of images offers to those who measure it."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["Source"]


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
    """

    label: str
    count: int | None
    lossy: int = 0
    warnings: Sequence[str] = ()

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

"""The divergence of a generator's n-grams from those of real text, in the loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_ttur.callbacks.measurement import Measurement
from tf_ttur.ngrams import NgramReference

__all__ = ["NgramJSD"]


class NgramJSD(Measurement):
    """Measures n-grams of generated lines against real text during training.

    The epoch's logs get `jsd_1` to `jsd_6`, the Jensen-Shannon divergences of the
    paper's language experiments, the lower the better, and beside each its floor,
    `jsd_1_floor` to `jsd_6_floor`: what as many held-out real lines come to. `jsd_4` is
    the one that decides which model is best. Latents are drawn from `seed` each time,
    and training's own random state is not touched.

    Args:
        reference: The real lines.
        every: Steps from one measurement to the next (the paper: 100).
        num_samples: Lines to generate for each (the paper: 640).
        seed: Seed of the latents.
        batch_size: Lines at a time.
        last: A step to measure at, too, such as the last one of the run.

    Attributes:
        values: (step, jsd_4) of each measurement during `fit`.
        floors: The floors by name.

    Raises:
        InputError: The reference holds fewer than `num_samples` lines out.

    Example:
        >>> import numpy as np
        >>> from tf_ttur import callbacks
        >>> from tf_ttur.ngrams import NgramReference
        >>> lines = np.random.default_rng(0).integers(0, 4, (3000, 32))
        >>> reference = NgramReference(lines[1000:], lines[:1000])
        >>> jsd = callbacks.NgramJSD(reference, every=100)
        >>> jsd.key, round(jsd.floors["jsd_4_floor"], 3)
        ('jsd_4', 0.003)
        >>> jsd.compare(lines[:640]) == jsd.floors["jsd_4_floor"]
        True
    """

    unit = "lines"
    beside = ("jsd_6",)

    def __init__(
        self,
        reference: NgramReference,
        every: int,
        num_samples: int = 640,
        seed: int = 0,
        batch_size: int = 64,
        last: int | None = None,
    ):
        key = "jsd_4"
        title = f"n-gram Jensen-Shannon divergence ({key})"
        super().__init__(key, title, every, num_samples, batch_size, last)
        self.reference, self.seed = reference, seed
        self.floors = reference.floors(num_samples)

    @property
    def facts(self) -> dict[str, Any]:
        """What a divergence rests on: the number of lines, and the floors."""
        return super().facts | self.floors

    def observe(self, gan: Any, count: int) -> np.ndarray:
        """Returns the token ids of generated lines."""
        return gan.generate_tokens(count, self.seed, self.batch_size)

    def compare(self, observed: np.ndarray) -> float:
        """Returns their 4-grams' divergence from the real ones'; keeps the others."""
        values = self.reference.divergences(observed)
        value = values.pop(self.key)
        self.further = values | self.floors
        return value

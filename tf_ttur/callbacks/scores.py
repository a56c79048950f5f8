"""Scores of generated images during training, by any functions of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np

from fid.files import InputError
from fid.values import Between, Count, Step, checked
from tf_ttur import termination
from tf_ttur.callbacks.steps import Diverged, StepCallback

__all__ = ["Scores"]

_KINDS = {
    "every": Count,
    "num_samples": Annotated[int, Between(2)],
    "seed": Step,
    "batch_size": Count,
    "last": Step | None,
}


class Scores(StepCallback):
    """Scores generated images during training by functions of images and labels.

    Each function is given the same images, and its mean goes into the epoch's logs
    under its name. Of a function that scores every image the standard error of the
    mean is there, too, as `NAME_standard_error`: the deviation of the scores over the
    root of their number. Latents are drawn from `seed` each time, so that values
    differ only by the model, and training's own random state is not touched. Labels
    take turns: 0, 1, and so on, and again from 0.

    It stands before what reads the logs, such as `MetricsLog`.

    Args:
        functions: By their names functions `(images, labels)`: images float32
            (n, H, W, C) in [-1, 1], and the labels that they were made with, int32
            (n,), or None where the model has no classes. Each returns scores (n,), or
            one number for all images.
        every: Steps from one time to the next. With several steps per execution it is
            at the first end of one that has reached or passed a multiple.
        num_samples: Images to generate each time.
        seed: Seed of the latents.
        batch_size: Images to generate at a time.
        last: A step to score at, too, such as the last one of the run.

    Attributes:
        values: (step, numbers by name) of each time during `fit`.

    Raises:
        InputError: An argument cannot be, or two names come to one in the logs.

    Example:
        >>> import keras, numpy as np, tf_ttur
        >>> generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4),
        ...     keras.layers.Reshape((2, 2, 1))])
        >>> discriminator = keras.Sequential([keras.Input((2, 2, 1)),
        ...     keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(2))
        >>> gan.compile(**tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        ...     loss="wasserstein", jit_compile=False)
        >>> scores = tf_ttur.Scores(
        ...     {"brightness": lambda images, labels: images.mean((1, 2, 3))},
        ...     every=2, num_samples=10)
        >>> images = np.zeros((8, 2, 2, 1), "float32")
        >>> history = gan.fit(images, batch_size=4, callbacks=[scores], verbose=0)
        >>> sorted(history.history)[:2]
        ['brightness', 'brightness_standard_error']
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        every: int,
        num_samples: int,
        seed: int = 0,
        batch_size: int = 250,
        last: int | None = None,
    ):
        super().__init__()
        self.every, self.num_samples, self.seed, self.batch_size, self.last = checked(
            _KINDS,
            every=every,
            num_samples=num_samples,
            seed=seed,
            batch_size=batch_size,
            last=last,
        ).values()
        self.functions = dict(functions)
        for name in self.functions:
            if (error := f"{name}_standard_error") in self.functions:
                raise InputError(
                    f"The standard error of {name!r} is logged as {error!r}, which is "
                    "another function's name. Rename one of the two."
                )
        self.values: list[tuple[int, dict[str, float]]] = []

    def measure(self, model: Any) -> dict[str, float]:
        """Scores images of the model as it is now.

        Args:
            model: What `generate` makes images of, such as a `GAN` or a `FlashDMD`.

        Returns:
            The numbers by their names in the logs, all finite.

        Raises:
            Diverged: The images or a function's values are not finite, or a function
                refuses them; the message names the function and the step.
            InputError: A function fails in another way, likewise.
        """
        labels = None
        if model.num_classes:
            labels = np.arange(self.num_samples, dtype=np.int32) % model.num_classes
        with termination.at_once():
            images = model.generate(
                self.num_samples, self.seed, self.batch_size, labels
            )
            if not np.isfinite(images).all():
                raise Diverged(
                    f"At step {model.steps} the images for "
                    f"{', '.join(self.functions)} hold NaN or infinite pixels. Lower "
                    "the learning rates.",
                    model.steps,
                )
            found: dict[str, float] = {}
            for name, function in self.functions.items():
                found |= self._numbers(name, function, images, labels, model.steps)
        return found

    def _numbers(
        self, name: str, function: Any, images: np.ndarray, labels: Any, step: int
    ) -> dict[str, float]:
        failed = f"{name} cannot be measured at step {step}: "
        try:
            values = np.asarray(function(images, labels))
        except MemoryError:
            raise
        except InputError as error:
            raise Diverged(f"{failed}{error}", step) from error
        except Exception as error:
            text = " ".join(str(error).split())[:2000]
            raise InputError(f"{failed}{type(error).__name__}: {text}") from error
        if values.shape not in ((), (len(images),)) or values.dtype.kind not in "biuf":
            raise InputError(
                f"{failed}it returned {values.dtype.name} of shape {values.shape} for "
                f"{len(images)} images, and is to return a number, or one for each."
            )
        values = values.astype(np.float64)
        if wrong := int((~np.isfinite(values)).sum()):
            raise Diverged(
                f"{failed}{wrong} of its {values.size} values are NaN or infinite.",
                step,
            )
        if not values.ndim:
            return {name: float(values)}
        error = values.std(ddof=1) / math.sqrt(len(values))
        return {name: float(values.mean()), f"{name}_standard_error": float(error)}

    def on_steps(self, before: int, now: int, logs: dict[str, float]) -> None:
        """Scores when a multiple of `every`, or `last`, has been reached."""
        if before // self.every != now // self.every or now == self.last:
            self.values.append((now, self.measure(self.model)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the epoch's last numbers to its logs."""
        if logs is not None and self.values and self.values[-1][0] > self._epoch_start:
            logs |= self.values[-1][1]

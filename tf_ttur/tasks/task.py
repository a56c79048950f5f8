"""What a kind of training offers to those who train, measure, sample and report it."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fid.files import InputError, printable
from tf_ttur.presets import Preset, kind_of
from tf_ttur.runs import RunFolder, check_step, step_of

if TYPE_CHECKING:
    from tf_ttur.callbacks import Measurement, Samples, Scores

__all__ = [
    "GRID_SEED",
    "MEASUREMENT_SEED",
    "SampleRequest",
    "Task",
    "building",
    "check_kind",
    "find_checkpoint",
    "load_checkpoint",
    "load_weights",
    "open_checkpoint",
]

GRID_SEED = 1
"""Seed of the latents of the samples over time, which are not those of training."""
MEASUREMENT_SEED = 2
"""Seed of the latents of the measurements, which are not those of training either."""
_CHOOSE = "Choose another --checkpoint."


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What `sample.py` is asked for; None leaves it to the run.

    Attributes:
        checkpoint: `best`, `last`, or a step.
        output: The path that the samples go to.
        num_samples: How many.
        seed: Seed of the latents.
        grid: Rows and columns of a picture, as `8x8`.
        interpolate: Whether each row goes from one sample to another.
        batch_size: Samples at a time.
        quantize: How pixels become whole numbers.
        labels: Classes, of a run with labels: texts, whole numbers.
        sampler: How images are made of noise, of a run of diffusion.
        steps: In how many steps, likewise.
        guidance: The scale of classifier-free guidance, likewise.
        overwrite: Whether to replace a folder of samples.
        given: Names of those of these that the user gave.
    """

    checkpoint: str = "best"
    output: str | None = None
    num_samples: int | None = None
    seed: int = 0
    grid: str = "8x8"
    interpolate: bool = False
    batch_size: int | None = None
    quantize: str | None = None
    labels: Sequence[str] | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    overwrite: bool = False
    given: frozenset[str] = frozenset()


class Task(abc.ABC):
    """A kind of training: its data, its model, how it is measured and sampled.

    It is chosen once, by `tasks.of` from a preset or by `tasks.of_run` from a run
    folder; nothing else depends on the kind. Making one is cheap: TensorFlow and the
    data are loaded by the methods that need them.

    Args:
        preset: The settings.
        data_dir: Where the data set is.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.
        download: Whether TensorFlow Datasets may download what is missing.
        teacher: A run folder or a file of the model that is distilled, for kinds of
            training that distil one.

    Raises:
        InputError: A teacher is given to a kind that has none.
    """

    suffix: ClassVar[str]
    """Suffix of a file of samples."""
    value_format: ClassVar[str] = "{:.4g}"
    """How a measured value is printed in reports."""
    tabled: ClassVar[tuple[tuple[str, int], ...]] = (("", 2),)
    """A row of the table of results each: what follows the name, digits of the value;
    for the measured value first, then for each of `further_metrics`."""
    takes_teacher: ClassVar[bool] = False
    """Whether it distils another model."""
    further_metrics: ClassVar[tuple[str, ...]] = ()
    """Measured values that are reported beside the one that decides what is best."""

    def __init__(
        self,
        preset: Preset,
        data_dir: str | None = None,
        inception: str | os.PathLike[str] | None = None,
        download: bool = False,
        teacher: str | os.PathLike[str] | None = None,
    ):
        if teacher is not None and not self.takes_teacher:
            raise InputError(
                f"--teacher={teacher}: {preset.name} distils nothing. Leave it out, or "
                "choose a --preset that does, such as digits_flash_dmd."
            )
        self.preset, self.data_dir = preset, data_dir
        self.inception, self.download = inception, download
        self.teacher = teacher

    def check_teacher(self) -> None:
        """Refuses a missing teacher, of kinds of training that distil one.

        Raises:
            InputError: None was given.
        """
        if self.takes_teacher and self.teacher is None:
            raise InputError(
                f"{self.preset.name} distils a teacher, and none was given: "
                "--teacher=RUN, a run folder of diffusion (train.py "
                "--preset=digits_edm_teacher) or a .keras file of one."
            )

    @abc.abstractmethod
    def check(self) -> None:
        """Refuses settings that cannot be, as far as that shows without the data.

        Raises:
            InputError: The data set or the loss is unknown, or a flag is not for this
                kind.
        """

    @abc.abstractmethod
    def load(self) -> Any:
        """Loads the data.

        Returns:
            A set with `shape` and `num_examples`.

        Raises:
            InputError: It is not to be had.
        """

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...]) -> Any:
        """Builds and compiles the model.

        Args:
            shape: The data's.

        Returns:
            The compiled model.

        Raises:
            InputError: The settings do not go together, or with the data.
        """

    @abc.abstractmethod
    def batches(self, data: Any, start: int = 0) -> Any:
        """Gives endless batches whose order depends on the seed and the step only.

        Args:
            data: What `load` returned.
            start: The step to start at.

        Returns:
            A `tf.data.Dataset` for `fit`.

        Raises:
            InputError: The data do not fill a batch.
        """

    @property
    def turns(self) -> tuple[int, ...]:
        """Steps, multiples of `every`, from which on a model trains in another way."""
        return ()

    def enter(self, model: Any, step: int) -> None:  # noqa: B027
        """Is called before a model is fitted from a step on; it may change the model.

        That is where a run starts, where it resumes, and at each of `turns`.

        Args:
            model: The model.
            step: Its step.

        Raises:
            InputError: The model is not what it should be at this step.
        """

    @abc.abstractmethod
    def config(self, data: Any) -> dict[str, Any]:
        """Returns all that a run depends on, for config.json.

        Args:
            data: What `load` returned.
        """

    @abc.abstractmethod
    def measurement(self, data: Any, folder: RunFolder) -> Measurement:
        """Makes the callback that measures the model as it is trained.

        Args:
            data: What `load` returned.
            folder: The run folder, which keeps what real data are measured by.
        """

    @abc.abstractmethod
    def samples(self, data: Any, folder: RunFolder) -> Samples:
        """Makes the callback that writes samples over time.

        Args:
            data: What `load` returned.
            folder: The run folder.
        """

    def scores(self, data: Any) -> Scores | None:
        """Makes the callback that scores samples beside the measurement, if any.

        Args:
            data: What `load` returned.
        """
        return None

    @abc.abstractmethod
    def describe(self, data: Any, measurement: Measurement) -> str:
        """Says in a phrase what is trained on, for the log.

        Args:
            data: What `load` returned.
            measurement: What `measurement` returned.
        """

    @staticmethod
    @abc.abstractmethod
    def metric(config: dict[str, Any]) -> str:
        """Returns the name of the measured value in a run's rows.

        Args:
            config: What the run's config.json says.
        """

    @classmethod
    @abc.abstractmethod
    def open(cls, folder: RunFolder, checkpoint: str | int = "best") -> Any:
        """Loads the model of a run, to sample from.

        Args:
            folder: The run folder.
            checkpoint: `best` (of the lowest distance), `last`, or the step of a
                checkpoint that is kept.

        Returns:
            The model, not compiled.

        Raises:
            InputError: There is no such run or checkpoint, it is damaged, or the run
                is of another kind.
        """

    @classmethod
    @abc.abstractmethod
    def write_samples(cls, folder: RunFolder, request: SampleRequest) -> str:
        """Writes samples of a run's model.

        Args:
            folder: The run folder.
            request: What is asked for.

        Returns:
            A line that says what was written.

        Raises:
            InputError: The request cannot be met.
        """


@contextlib.contextmanager
def building(name: str, hint: str = "") -> Iterator[None]:
    """Says in one line which settings a network or a model refused.

    Args:
        name: The preset's.
        hint: What may help, a sentence.

    Raises:
        InputError: What stands in the block ended in a `TypeError` or `ValueError`.
    """
    try:
        yield
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join([*str(error).split(), *([hint] if hint else [])])
        raise InputError(
            f"{name} cannot be built with these settings: {reason}"
        ) from error


def check_kind(folder: RunFolder, kind: type[Preset]) -> None:
    """Refuses a run of another kind, before anything large is read.

    Args:
        folder: The run folder.
        kind: The kind of preset that it should be of.

    Raises:
        InputError: There is no such run, or it is of another kind.
    """
    found = kind_of(folder.read_config())
    if found is not kind:
        raise InputError(
            f"{printable(folder)} is a run on {found.kind}; it makes no {kind.kind}."
        )


def open_checkpoint(folder: RunFolder, which: str | int) -> tuple[pathlib.Path, Any]:
    """Loads a checkpoint of a run whole, to sample from.

    Args:
        folder: The run folder.
        which: As for `Task.open`.

    Returns:
        The path, and the model, not compiled.

    Raises:
        InputError: There is none such, or it is damaged or not of this run.
    """
    path = find_checkpoint(folder, which)
    return path, load_checkpoint(path)


def find_checkpoint(
    folder: RunFolder, which: str | int | os.PathLike[str]
) -> pathlib.Path:
    """Finds a checkpoint of a run that was asked for, and sees that it is of this run.

    Args:
        folder: The run folder.
        which: As for `Task.open`; or the path of a file of the run's.

    Raises:
        InputError: There is none such, or it is damaged or not of this run.
    """
    if isinstance(which, os.PathLike):
        path = pathlib.Path(which)
        if not path.is_file():
            raise InputError(f"There is no checkpoint {printable(path)}. {_CHOOSE}")
    else:
        path = folder.checkpoint(which)
    folder.check_checkpoint(path, _CHOOSE)
    return path


def load_checkpoint(
    path: os.PathLike[str],
    fix: str = _CHOOSE,
    frozen: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a checkpoint whole, whatever model of this project it holds.

    Args:
        path: A `.keras` file.
        fix: What to do where it is damaged or another, a sentence.
        frozen: Networks by name that files do not hold; see `Players`.

    Returns:
        The model, not compiled.

    Raises:
        InputError: It cannot be loaded, or holds another step than its name says.
    """
    import keras

    with _loading(path, fix):
        model = keras.models.load_model(path, frozen, compile=False)
    check_step(path, getattr(model, "steps", step_of(path)), fix)
    return model


def load_weights(model: Any, path: os.PathLike[str], fix: str = _CHOOSE) -> None:
    """Loads the weights of a checkpoint into a model.

    Args:
        model: The model, built.
        path: A `.keras` file.
        fix: What to do where it is damaged or another, a sentence.

    Raises:
        InputError: It cannot be loaded, or holds another step than its name says.
    """
    with _loading(path, fix):
        model.load_weights(path)
    check_step(path, model.steps, fix)


@contextlib.contextmanager
def _loading(path: os.PathLike[str], fix: str) -> Iterator[None]:
    """Turns whatever Keras ends in into one line that names the checkpoint."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # Keras names the layer that the error came up in, then lists all it knows of
        # it; the reason stands after the last of these.
        reason = " ".join(str(error).split()).rpartition("Exception encountered: ")[2]
        raise InputError(
            f"The checkpoint {printable(path)} cannot be loaded ({reason[:300]}). {fix}"
        ) from error

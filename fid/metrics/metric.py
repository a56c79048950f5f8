"""What a metric is: what it needs, its options, its numbers, and what they are called.

A metric is a class in a module of its own, and a line in `fid.metrics.METRICS`. From
there `fid.compare`, the command line, JSON and the callback know it:

    class MeanDistance(Metric):
        '''The distance between the means of two sets of features.'''

        key, name = "mean", "Distance of means"
        other_key, other_name = "mean", "distance of means"

        def __call__(self, first, second):
            return float(np.linalg.norm(first.statistics.mu - second.statistics.mu))
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fid.extractors.extractor import INCEPTION
from fid.files import InputError
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.extractors.extractor import Extractor
    from fid.sources.source import Source

__all__ = [
    "Error",
    "Measured",
    "Metric",
    "Option",
    "checked_features",
    "extractor_name",
    "option",
]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one pass over a set of images found.

    Attributes:
        statistics: Mean and covariance of the features.
        features: The features, float32 (n, d) in the source's order, if kept.
        logits: Logits, float32 (n, classes) in the source's order, if kept.
        names: What the images are called, in the same order; None where the source has
            no names.
        warnings: What a reader of a number should know of the images, a sentence each.
        shared: What metrics have worked out of the set and share: by any key, here so
            that it lives as long as the features do.
    """

    statistics: Statistics
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    names: Sequence[str] | None = None
    warnings: tuple[str, ...] = ()
    shared: dict[Any, Any] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, statistics: Statistics) -> Measured:
        """Returns what statistics hold: features only where there are few of them."""
        return cls(statistics, features=statistics.rows)


@dataclasses.dataclass(frozen=True)
class Error:
    """How far a number may be from the one of all images there could be.

    Attributes:
        value: The error, in the number's own unit; None where it cannot be known.
        origin: How it came about, or why it cannot be known: a text for people,
            without its full stop.
        part: The field of the metric's result that it is the error of; empty for a
            result that is a number.
        kind: `standard_error`, or `bias`: the mean of the estimate less the truth.

    Example:
        >>> error = Error(0.25, "jackknife", part="mean")
        >>> error.name("kid"), error.line("KID")
        ('kid_mean_standard_error', 'KID mean standard error: 0.250000 (jackknife)')
        >>> Error(None, "one image").line("FID")
        'FID standard error: none (one image)'
    """

    value: float | None
    origin: str
    part: str = ""
    kind: str = "standard_error"

    def name(self, name: str) -> str:
        """Returns what JSON calls the error of a metric that it calls `name`."""
        return "_".join(filter(None, (name, self.part, self.kind)))

    def line(self, title: str) -> str:
        """Returns what is printed for people; `title` is the metric's there."""
        words = " ".join(filter(None, (title, self.part, self.kind.replace("_", " "))))
        value = "none" if self.value is None else f"{self.value:{self._format}}"
        return f"{words}: {value} ({self.origin})"

    @property
    def _format(self) -> str:
        # Six decimals, and more of a small number: at least four digits are shown.
        small = self.value and abs(self.value) < 1e-2
        return ".3e" if small and abs(self.value) < 1e-4 else ".8f" if small else ".6f"


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a metric: an argument of `compare` and a flag of `compute_fid.py`.

    Attributes:
        name: Of the argument and of the flag.
        default: A whole number, or one of `choices`.
        help: What `--help` says.
        least: The least that a number may be, if any.
        most: The most, if any.
        choices: What the value is one of, for an option that is no number.
    """

    name: str
    default: Any
    help: str
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Refuses a value that is out of bounds.

        Args:
            value: What was given.

        Raises:
            InputError: It is, or it is no whole number where it should be one.
        """
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not self.choices and not whole:
            raise InputError(f"{self.name} is {value!r}; it must be a whole number.")
        if self.choices and value not in self.choices:
            raise InputError(
                f"The {self.name} is {value!r}; choose from {', '.join(self.choices)}."
            )
        low = self.least is not None and value < self.least
        if low or (self.most is not None and value > self.most):
            bounds = f"from {self.least} to {self.most}"
            if self.most is None:
                bounds = f"at least {self.least}"
            raise InputError(f"{self.name} is {value}; it must be {bounds}.")


def option(
    default: Any,
    help: str,
    *,
    least: int | None = None,
    most: int | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Makes a field of a metric's dataclass an option of the metric.

    Args:
        default: As for `Option`, whose name is that of the field.
        help: Likewise.
        least: Likewise.
        most: Likewise.
        choices: Likewise.

    Returns:
        A dataclass field.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Splitting(Metric):
        ...     splits: int = option(10, "Parts of the set.", least=1)
        >>> Splitting(splits=5).splits
        5
        >>> Splitting.options()[0].help
        'Parts of the set.'
    """
    facts = {"help": help, "least": least, "most": most, "choices": tuple(choices)}
    return dataclasses.field(default=default, kw_only=True, metadata=facts)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of two sets of images, or of the first one; an instance has its options.

    A subclass sets the attributes and `__call__`. The other methods have defaults that
    serve a metric whose result is a number, or a dataclass of numbers. Features of the
    2015 graph give the metric that the literature knows; features of any other
    extractor give another one, which has another name.

    Attributes:
        key: What `--metrics` and JSON call it on the 2015 graph, such as `fid`.
        name: What the literature calls it, such as "Fréchet Inception Distance".
        abbreviation: What a printed line and a figure call it on the 2015 graph, such
            as "FID"; the name where there is none.
        other_key: Its key on any other extractor, before the extractor's name.
        other_name: What a figure calls it on any other extractor.
        needs: Which fields of `Measured` it takes.
        needs_of_second: Which of the second set, where they are others than `needs`.
        error_needs: Which fields its errors take beside those; where a set does not
            have them, its share is left out, and the text of the error says so.
        of_first: Whether it is a metric of the first set alone.
        further: Names of the sets that it takes beside these, as arguments of `compare`
            and of `__call__` and as flags: `train`, `test`. Each has what it needs.
        larger_is_better: Whether a larger value is a better one; None where neither a
            larger nor a smaller one is.
        remark: What `--help` adds to the key in brackets.
    """

    key: ClassVar[str]
    name: ClassVar[str]
    abbreviation: ClassVar[str | None] = None
    other_key: ClassVar[str]
    other_name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("statistics",)
    needs_of_second: ClassVar[tuple[str, ...] | None] = None
    error_needs: ClassVar[tuple[str, ...]] = ()
    of_first: ClassVar[bool] = False
    further: ClassVar[tuple[str, ...]] = ()
    larger_is_better: ClassVar[bool | None] = False
    remark: ClassVar[str] = ""

    @property
    def _of_both(self) -> bool:
        """Whether both sets have what `needs` says."""
        return not self.of_first and self.needs_of_second is None

    def check(
        self, sets: Sequence[Statistics | Source], **further: Statistics | Source
    ) -> None:
        """Refuses options and sets that cannot be used, before the images are read.

        Args:
            sets: The first set and the second one.
            **further: Those that it takes beside these, by their names.

        Raises:
            InputError: An option is out of bounds, or a set is missing or lacks what is
                needed.
        """
        for each in self.options():
            each.check(getattr(self, each.name))
        for name in self.further:
            if name not in further:
                raise InputError(
                    f"{self.abbreviation or self.name} needs the images of the {name} "
                    f"set: give --{name}=SOURCE, or leave out the metric `{self.key}`."
                )
        for each in (*sets[: 2 if self._of_both else 1], *further.values()):
            self.check_set(each)

    def check_set(self, each: Statistics | Source) -> None:
        """Refuses one set that cannot be used; `check` calls it for each.

        Args:
            each: The set.

        Raises:
            InputError: It holds statistics without what is needed.
        """
        if not isinstance(each, Statistics):
            return
        for need in self.needs:
            if getattr(Measured.of(each), need) is None:
                whose = "both sets" if self._of_both else "the first set"
                whose = "all sets" if self.further else whose
                raise InputError(
                    f"{self.abbreviation or self.name} needs the {need} of {whose}, "
                    f"and {each.label} holds statistics without them: give the images, "
                    f"or leave out the metric `{self.key}`."
                )

    def check_extractor(self, extractor: Extractor) -> None:
        """Refuses an extractor that does not give what is needed.

        Args:
            extractor: What the images are going to be measured with.

        Raises:
            InputError: It has no logits, and they are needed.
        """
        if "logits" in self.needs and not hasattr(extractor, "features_and_logits"):
            article = "an" if self.name[0] in "AEIOU" else "a"
            raise InputError(
                f"The extractor {extractor.name} has no logits, which {article} "
                f"{self.name} is made of: use the 2015 graph, or leave out the metric "
                f"`{self.key}`."
            )

    def __call__(self, first: Measured, second: Measured, **further: Measured) -> Any:
        """Computes the metric.

        Args:
            first: The first set, with what is needed of it.
            second: Likewise, where the metric is one of both sets.
            **further: Likewise, the sets that `further` names.

        Returns:
            A number, or a dataclass of numbers, of which the first that is not None
            stands for all.

        Raises:
            InputError: The sets cannot be used.
        """
        raise NotImplementedError

    def with_errors(
        self, first: Measured, second: Measured, **further: Measured
    ) -> tuple[Any, tuple[Error, ...]]:
        """Computes the metric, and how far it may be off.

        Args:
            first: As for `__call__`, with what `error_needs` says, where it has that.
            second: Likewise.
            **further: Likewise.

        Returns:
            What `__call__` returns (up to rounding, where the work is shared), and the
            errors; none by default.
        """
        return self(first, second, **further), ()

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says what a reader of the result should know.

        Args:
            first: As for `__call__`.
            second: Likewise.

        Returns:
            A sentence each, without its full stop.
        """
        return []

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Returns the options, with their defaults, bounds and help."""
        return tuple(
            Option(field.name, field.default, **field.metadata)
            for field in dataclasses.fields(cls)
        )

    @classmethod
    def values(cls, result: Any, name: str) -> dict[str, float]:
        """Returns the numbers of a result by their names in JSON.

        Args:
            result: What `__call__` returned.
            name: What the metric is called there; see `metric_name`.

        Returns:
            The number under `name`, or those of a dataclass under `name_field`.
        """
        if not dataclasses.is_dataclass(result):
            return {name: result}
        return {
            f"{name}_{part}": value
            for part, value in dataclasses.asdict(result).items()
            if value is not None
        }

    @classmethod
    def lines(cls, result: Any, name: str) -> list[str]:
        """Returns the lines that are printed for people.

        Args:
            result: What `__call__` returned.
            name: What the metric is called there, such as "FID" or "frechet_pixels".

        Returns:
            A line each.
        """
        return [f"{k}: {v:.6f}" for k, v in cls.values(result, name).items()]

    @classmethod
    def lines_with_errors(
        cls, result: Any, errors: Sequence[Error], name: str
    ) -> list[str]:
        """Returns the lines of a result, and those of its errors below them.

        Args:
            result: As for `lines`.
            errors: What `with_errors` gave beside it, at least one.
            name: As for `lines`.

        Returns:
            A line each.
        """
        return [*cls.lines(result, name), *(error.line(name) for error in errors)]

    @classmethod
    def metric_name(cls, *extractors: str | None) -> str:
        """Says what the metric is called, in JSON and logs, on features of extractors.

        Args:
            *extractors: Names of the extractors; None where one is not known.

        Returns:
            The key, such as `fid`, if all features come from the 2015 graph; else the
            other key and the extractor, such as `frechet_pixels`; the other key alone
            where the extractors differ or are not known.
        """
        names = set(extractors)
        if names == {INCEPTION}:
            return cls.key
        name = names.pop()
        return f"{cls.other_key}_{name}" if name and not names else cls.other_key

    @classmethod
    def title(cls, *extractors: str | None) -> str:
        """Says what the metric is called in figures and reports.

        Args:
            *extractors: As for `metric_name`.

        Returns:
            Such as "FID", or "Fréchet distance (frechet_pixels)".
        """
        return cls.title_of(cls.metric_name(*extractors))

    @classmethod
    def title_of(cls, name: str) -> str:
        """Returns the title that goes with a name which `metric_name` gave."""
        if name == cls.key:
            return cls.abbreviation or cls.name
        return f"{cls.other_name} ({name})"

    @classmethod
    def is_name(cls, name: str) -> bool:
        """Says whether a name is one that `metric_name` gives."""
        return name in (cls.key, cls.other_key) or name.startswith(f"{cls.other_key}_")


def checked_features(
    features: np.ndarray, which: str = "first", least: int = 2
) -> np.ndarray:
    """Refuses features that no metric can be computed of.

    Args:
        features: Of a set of images.
        which: The set: `first` or `second`.
        least: How many images are needed.

    Returns:
        The features as an array, floating point (n, d), finite, n >= `least`.

    Raises:
        InputError: They have another type or shape, or a value is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind != "f" or len(features) < least:
        raise InputError(
            f"The features of the {which} set are {features.dtype} of shape "
            f"{features.shape}; expected floats (n, d) of at least {least} images."
        )
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise InputError(
            f"The features of image {int(np.argmin(finite))} (counted from 0) of the "
            f"{which} set are not finite; look at that image."
        )
    return features


def extractor_name(statistics: Statistics) -> str | None:
    """Says what features of a set come from.

    Args:
        statistics: Of the set.

    Returns:
        Name of the extractor, or None where it is not known.
    """
    if statistics.provenance is None:
        # Such files have always been of the 2015 graph, if the dimension fits.
        return INCEPTION if statistics.dimension == 2048 else None
    return statistics.provenance.get("extractor")

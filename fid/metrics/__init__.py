"""Metrics: from features of images to numbers, and the table of them.

Whoever works with metrics goes over `METRICS` and names none: `fid.compare`, the flags
and the help of `compute_fid.py`, JSON, printed lines, the callback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fid.files import InputError
from fid.metrics.coverage import Coverage, Density
from fid.metrics.diagonal import Diagonal
from fid.metrics.frechet import Frechet
from fid.metrics.inception_score import Score
from fid.metrics.infinity import Infinity
from fid.metrics.kernel import Kernel
from fid.metrics.mean_only import MeanOnly
from fid.metrics.memorisation import Authenticity, Copying
from fid.metrics.metric import Metric, Option
from fid.metrics.monge import Mind
from fid.metrics.precision_recall import Precision, Recall
from fid.metrics.realism import Realism
from fid.metrics.vendi import Vendi

__all__ = [
    "METRICS",
    "all_options",
    "choose",
    "needs_of",
    "needs_of_further",
    "title_of",
]

#: All metrics by their keys, in the order in which they are computed and printed.
METRICS: dict[str, type[Metric]] = {
    metric.key: metric
    for metric in (
        Frechet,
        Kernel,
        Score,
        Infinity,
        Mind,
        Vendi,
        MeanOnly,
        Diagonal,
        Precision,
        Recall,
        Density,
        Coverage,
        Realism,
        Authenticity,
        Copying,
    )
}


def all_options() -> dict[str, Option]:
    """Returns the options of all metrics by their names.

    Returns:
        An option each; one that several metrics have says what it is for each.
    """
    found: dict[str, Option] = {}
    for metric in METRICS.values():
        for option in metric.options():
            if option.name in found:
                # Metrics of a kind say the same, which is said once.
                text = found[option.name].help
                if option.help not in text:
                    text = f"{text} {option.help}"
                option = dataclasses.replace(option, help=text)
            found[option.name] = option
    return found


def choose(metrics: str | Sequence[str], values: Mapping[str, Any]) -> list[Metric]:
    """Makes the metrics that the user asks for.

    Args:
        metrics: Their keys, or one key.
        values: Options by their names. Those of other metrics are left alone.

    Returns:
        The metrics with their options, in the order of `METRICS`.

    Raises:
        InputError: There is no such metric, or none was asked for.
        TypeError: No metric has such an option.

    Example:
        >>> from fid.metrics import choose
        >>> choose("kid", {"kid_subsets": 0, "is_splits": 5})
        [Kernel(kid_subsets=0, kid_subset_size=1000, seed=0)]
    """
    if isinstance(metrics, str):
        metrics = (metrics,)
    if not metrics or set(metrics) - set(METRICS):
        raise InputError(
            f"metrics is {', '.join(metrics) or 'empty'}; choose from "
            f"{', '.join(METRICS)}."
        )
    known = all_options()
    if unknown := [name for name in values if name not in known]:
        raise TypeError(
            f"no metric has the option {unknown[0]!r}; choose from {', '.join(known)}."
        )
    return [
        metric(**{o.name: values[o.name] for o in metric.options() if o.name in values})
        for key, metric in METRICS.items()
        if key in metrics
    ]


def needs_of(
    metrics: Iterable[Metric], errors: bool = False
) -> tuple[set[str], set[str]]:
    """Says what has to be known of the two sets.

    Args:
        metrics: What is going to be computed of them.
        errors: Whether their errors are, too.

    Returns:
        The fields of `Measured` that the first set has to have, and the second one.

    Example:
        >>> from fid.metrics import choose, needs_of
        >>> of_first, of_second = needs_of(choose(("fid", "is"), {}))
        >>> sorted(of_first), sorted(of_second)
        (['logits', 'statistics'], ['statistics'])
    """
    first: set[str] = set()
    second: set[str] = set()
    for metric in metrics:
        of_errors = metric.error_needs if errors else ()
        first.update(metric.needs, of_errors)
        if not metric.of_first:
            of_second = metric.needs_of_second
            second.update(metric.needs if of_second is None else of_second, of_errors)
    return first, second


def needs_of_further(
    metrics: Iterable[Metric], names: Iterable[str], errors: bool = False
) -> list[set[str]]:
    """Says what has to be known of the sets that metrics take beside the two.

    Args:
        metrics: What is going to be computed.
        names: Of the sets, such as `train`.
        errors: As for `needs_of`.

    Returns:
        The fields of `Measured` that each has to have, in the order of the names.

    Example:
        >>> from fid.metrics import choose, needs_of_further
        >>> needs_of_further(choose(("fid", "authpct"), {}), ["train"])
        [{'features'}]
    """
    metrics = list(metrics)
    return [
        {
            need
            for each in metrics
            if name in each.further
            for need in (*each.needs, *(each.error_needs if errors else ()))
        }
        for name in names
    ]


def title_of(name: str) -> str:
    """Says what a number that a file has by name is called in figures and reports.

    Args:
        name: One that a metric's `metric_name` gave.

    Returns:
        The metric's title; the name itself where there is no such metric.

    Example:
        >>> from fid.metrics import title_of
        >>> title_of("fid"), title_of("frechet_pixels")
        ('FID', 'Fréchet distance (frechet_pixels)')
    """
    for metric in METRICS.values():
        if metric.is_name(name):
            return metric.title_of(name)
    return name

"""How a run of diffusion measures with fewer or more steps, and with each sampler.

A teacher is trained once and can be sampled in any number of steps; a student is made
for few. The distance against the calls of the network is what the two are compared by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fid import drawing
from fid.files import InputError, atomic_write, printable, read_json_lines, turn
from fid.values import Between, Count, check_values
from tf_ttur.runs import RunFolder, as_line

__all__ = ["Row", "draw", "measure", "read"]

_VALUE = Annotated[float, Between(0)]
_COLOURS = (
    drawing.BLUE, drawing.VERMILION, drawing.GREEN, drawing.ORANGE, drawing.PURPLE,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        run: SHA-256 of what the run is; see `RunFolder.identity`.
        checkpoint: Step of the checkpoint.
        sampler: Name of the sampler.
        steps: Its steps.
        guidance: The scale of guidance.
        evaluations: Calls of the network for an image.
        num_samples: Images that were made.
        metric: Name of the distance.
        value: The distance.
        seconds: Time that making and measuring them took.
    """

    run: str
    checkpoint: int
    sampler: str
    steps: int
    guidance: float
    evaluations: int
    num_samples: int
    metric: str
    value: float
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other measurements of the run."""
        return (
            self.run, self.checkpoint, self.sampler, self.steps, self.guidance,
            self.num_samples, self.metric,
        )  # fmt: skip


_KINDS = {
    "run": str, "checkpoint": Annotated[int, Between(0)], "sampler": str,
    "steps": Count,
    "guidance": _VALUE, "evaluations": Count, "num_samples": Count, "metric": str,
    "value": float, "seconds": _VALUE,
}  # fmt: skip


def read(path: str | os.PathLike[str]) -> list[Row]:
    """Reads the rows of a file; none where there is no file.

    Args:
        path: The file, JSON lines.

    Raises:
        InputError: A line is no measurement.
    """
    rows = []
    for number, found in enumerate(read_json_lines(path, *_KINDS), 1):
        where = f"{path}, line {number}"
        check_values(found, _KINDS, where, "Delete the file to measure again.")
        rows.append(Row(**{name: found[name] for name in _KINDS}))
    return rows


def measure(
    folder: RunFolder,
    output: str | os.PathLike[str],
    samplers: Sequence[str] | None,
    steps: Sequence[int],
    *,
    guidance: float | None = None,
    checkpoint: str = "best",
    num_samples: int | None = None,
    inception: str | None = None,
    say: Callable[[str], Any] = print,
) -> list[Row]:
    """Measures a run with each sampler in each number of steps.

    What the file has already is not measured again.

    Args:
        folder: The run, of diffusion or of a student.
        output: The file that gets a line a measurement.
        samplers: Names of `distillation.sampler.SAMPLERS`; None for the run's own.
        steps: Numbers of steps.
        guidance: The scale of guidance; None for the run's own.
        checkpoint: As for `sample.py`.
        num_samples: Images of a measurement; None for the run's number.
        inception: The 2015 graph, where the run is measured by it.
        say: Called with a line for each measurement.

    Returns:
        The rows that were asked for.

    Raises:
        InputError: The run is of another kind, or something asked for cannot be.
    """
    import fid
    from fid.sources.images import GeneratorSource
    from fid.statistics import Statistics
    from tf_ttur import tasks
    from tf_ttur.distillation import sampler as samplings
    from tf_ttur.distillation.diffusion import DiffusionPlayers, Sampling
    from tf_ttur.tasks.task import MEASUREMENT_SEED

    read(output)  # Refused before long work, if it is damaged.
    kind = tasks.of_run(folder)
    model = kind.open(folder, checkpoint)
    if not isinstance(model, DiffusionPlayers):
        raise InputError(
            f"{printable(folder)} is a run on {kind.presets.kind}, which no sampler "
            "samples; name one of diffusion, or of a student."
        )
    scale = model.sampling.guidance if guidance is None else guidance
    wanted = [
        Sampling(sampler=name, steps=count, guidance=scale)
        for name in samplers or [model.sampling.sampler]
        for count in steps
    ]
    identity = json.dumps(folder.identity(), sort_keys=True)
    run = hashlib.sha256(identity.encode()).hexdigest()
    preset, data_dir = folder.preset()
    task = kind(preset, data_dir=data_dir, inception=inception)
    count = num_samples or preset.num_samples
    metric = task.metric(folder.read_config())
    reference = Statistics.load(folder.reference)
    extractor = None
    rows = []
    for sampling in wanted:
        # Refused before anything is measured.
        model.sampling = sampling
    for sampling in wanted:
        model.sampling = sampling
        calls = samplings.evaluations(
            sampling.sampler, sampling.steps, sampling.guidance
        )
        row = Row(
            run, model.steps, sampling.sampler, sampling.steps,
            float(sampling.guidance), calls, count, metric, 0.0, 0.0,
        )  # fmt: skip
        found = {x.key: x for x in read(output)}.get(row.key)
        if found is None:
            if extractor is None:
                extractor = task.extractor(task.load())
            start = time.monotonic()
            # As the run itself is measured, whose pixels need not be whole numbers.
            source = GeneratorSource(model, count, MEASUREMENT_SEED, preset.quantize)
            made = fid.compute_statistics(
                source, extractor, batch_size=preset.sample_batch
            )
            value = fid.frechet_distance(made, reference)
            seconds = round(time.monotonic() - start, 2)
            found = dataclasses.replace(row, value=float(value), seconds=seconds)
            _add(found, output)
        row = found
        say(
            f"{row.sampler}, {row.steps} steps ({row.evaluations} calls an image): "
            f"{row.metric} {row.value:.4g}"
        )
        rows.append(row)
    return rows


def _add(row: Row, output: str | os.PathLike[str]) -> None:
    """Adds a row to the file, to which other processes may add theirs."""
    path = pathlib.Path(output)
    with turn(path.parent):
        text = "".join(as_line(dataclasses.asdict(x)) for x in [*read(path), row])
        with atomic_write(path) as file:
            file.write(text.encode())


def draw(
    runs: Mapping[str, Sequence[Row]], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Draws distances against the calls of the network for an image.

    Args:
        runs: The measurements of each run, by the run's name.
        path: Where the PNG goes.
        title: Title of the figure.

    Raises:
        InputError: The runs were measured by different distances.
    """
    metrics = {row.metric: name for name, rows in runs.items() for row in rows}
    if len(metrics) > 1:
        raise InputError(
            "Runs were measured by different distances: "
            f"{', '.join(f'{metric} of {name}' for metric, name in metrics.items())}."
        )
    figure = drawing.new_figure(6.0, 4.0)
    axes = figure.subplots()
    colours = itertools.cycle(_COLOURS)
    for run, rows in runs.items():
        for name in dict.fromkeys(row.sampler for row in rows):
            mine = sorted((x.evaluations, x.value) for x in rows if x.sampler == name)
            label = f"{run}, {name}" if len(runs) > 1 else name
            axes.plot(
                *zip(*mine, strict=True), color=next(colours), marker=".", label=label
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if min(row.value for rows in runs.values() for row in rows) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("calls of the network for an image")
    axes.set_ylabel(next(iter(metrics)))
    axes.set_title(title)
    axes.legend(frameon=False)
    drawing.plain(axes)
    drawing.save(figure, path, 150)

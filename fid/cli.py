"""The command-line programs that measure; each is a main with flags of its own."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from fid.files import InputError, printable
from fid.metrics import METRICS, all_options
from fid.program import Flags, check_arguments, check_output, one_line, run
from fid.sources.arrayfile import split_member
from fid.sources.images import QUANTIZE, VALUE_RANGES

if TYPE_CHECKING:
    from fid.comparison import Comparison
    from fid.statistics import Statistics

__all__ = ["compute_fid", "precalc_stats", "report"]

_SOURCE = """a folder or zip archive of images, or an .npz or .npy array of images
(one of several arrays: file.npz:NAME)"""
_WHO = "as A, for the metrics of memorisation"


def compute_fid(argv: Sequence[str] | None = None) -> int:
    """Runs `compute_fid.py A B`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args, 2, "two sets, A and B")
        from fid import measure

        comparison = measure.compare(
            *args,
            metrics=values.metrics,
            standard_errors=values.standard_errors,
            influence=values.influence,
            strict=values.strict,
            train=values.train,
            test=values.test,
            **{name: values[name].value for name in all_options()},
            **_measuring(values),
        )
        for warning in comparison.warnings:
            print(one_line(f"warning: {warning}"), file=sys.stderr)
        if values.json:
            print(json.dumps(comparison.as_json(), allow_nan=False))
        else:
            print(report(comparison))

    def define(flag: Flags) -> None:
        _define_measuring(flag)
        flag.texts("metrics", ["fid"], _which())
        flag.switch(
            "standard_errors",
            "Also print how far each number may be off. It keeps the features in "
            "memory: 8 KB an image.",
        )
        flag.number(
            "influence",
            0,
            "Name so many images of A that raise the Fréchet distance most, and so "
            "many that lower it most.",
            least=0,
        )
        flag.switch("json", "Print the values and how they came about as JSON.")
        flag.switch("strict", "Refuse to compare sets that were not measured alike.")
        flag.text("train", None, f"The images that A's generator has seen: {_WHO}.")
        flag.text("test", None, f"Images like these that it has not seen: {_WHO}.")
        for name, option in all_options().items():
            if option.choices:
                flag.choice(name, option.default, option.choices, option.help)
            else:
                bounds = option.least, option.most
                flag.number(name, option.default, option.help, *bounds)

    usage = f"""Fréchet Inception Distance between two sets of images.

  compute_fid.py A B [flags]

A and B are each {_SOURCE},
or an .npz file of statistics (mu and sigma)."""
    return run(main, define, usage, argv)


def report(comparison: Comparison) -> str:
    """Returns the lines that `compute_fid.py` prints.

    Args:
        comparison: What was measured.

    Returns:
        A line a metric, such as `FID: 12.345678`.
    """
    return "\n".join(comparison.lines())


def _which() -> str:
    """Returns what `--help` says of `--metrics`."""
    *others, last = (
        f"{key} ({metric.remark})" if metric.remark else key
        for key, metric in METRICS.items()
    )
    *those, also = (key for key, m in METRICS.items() if "features" in m.needs)
    keep = f"{', '.join(those)} and {also} keep" if those else f"{also} keeps"
    return (
        f"Which of {', '.join(others)} and {last}, with commas. {keep} the features in "
        "memory: 8 KB an image."
    )


def precalc_stats(argv: Sequence[str] | None = None) -> int:
    """Runs `precalc_stats.py SOURCE --output=FILE`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """
    argv = list(sys.argv if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    argv, pipeline_args = argv[:end], argv[end + 1 :]

    def main(args: list[str], values: flags.FlagValues) -> None:
        if not values.beam:
            args += pipeline_args
        check_arguments(args, 1, "one source of images")
        inputs = [str(split_member(path)[0]) for path in args]
        output = check_output(values.output, inputs)
        if values.beam:
            _precalc_with_beam(args[0], output, values, pipeline_args)
            return
        from fid import files, measure

        # It is tried first, so that an hour of work is not lost for want of a folder.
        files.check_writable(output)
        statistics = measure.compute_statistics(args[0], **_measuring(values))
        statistics.save(output)
        print(_saved(values.output, statistics))

    def define(flag: Flags) -> None:
        _define_measuring(flag)
        flag.text("output", None, "Where the .npz file goes.")
        flag.switch(
            "beam",
            "Compute with Apache Beam. SOURCE is a folder, or a pattern of images or "
            "of TFRecord files; what follows -- goes to Beam.",
        )
        flag.text(
            "feature",
            None,
            "With --beam: the feature of a record that holds the encoded image. "
            "Without it: image/encoded, then image.",
        )

    usage = f"""Mean and covariance of the Inception features of a set of images.

  precalc_stats.py SOURCE --output=stats.npz [flags]
  precalc_stats.py PATTERN --output=stats.npz --beam [flags] -- [Beam's flags]

SOURCE is {_SOURCE}.
The file has the keys mu and sigma, as the paper's authors' files have, and says how it
came about."""
    return run(main, define, usage, argv)


def _precalc_with_beam(
    pattern: str,
    output: pathlib.Path,
    values: flags.FlagValues,
    pipeline_args: list[str],
) -> None:
    if values.value_range or values.quantize != "none":
        raise flags.Error("--value_range and --quantize are not for encoded images")
    try:
        from fid import beam
    except ModuleNotFoundError as error:
        raise InputError(
            f"--beam needs {error.name}, which is not installed: "
            "pip install 'tf-ttur[beam]'."
        ) from error
    statistics = beam.run(
        pattern,
        output,
        inception=values.inception,
        batch_size=values.batch_size,
        recursive=values.recursive,
        skip_bad=values.skip_bad,
        feature=values.feature,
        pipeline_args=pipeline_args,
    )
    print(_saved(values.output, statistics))


def _saved(output: str, statistics: Statistics) -> str:
    images, features = f"{statistics.n} images", f"{statistics.dimension} features"
    return f"{printable(output)}: {images}, {features}"


def _define_measuring(flag: Flags) -> None:
    flag.inception()
    flag.batch_size()
    flag.choice(
        "value_range", None, VALUE_RANGES, "What the values of float images span."
    )
    flag.choice(
        "quantize",
        "none",
        QUANTIZE,
        "How float images are rounded to whole grey levels.",
    )
    flag.switch("recursive", "Enter the folders of a folder.")
    flag.switch(
        "skip_bad",
        "Leave out images that cannot be read, and count them, instead of stopping.",
    )


def _measuring(values: flags.FlagValues) -> dict[str, Any]:
    names = (
        "inception", "batch_size", "value_range", "quantize", "recursive", "skip_bad",
    )  # fmt: skip
    return {name: values[name].value for name in names} | {"progress": True}

"""The command-line programs that measure; each is a main with flags of its own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from fid.files import InputError, printable
from fid.metrics.frechet import METHODS
from fid.sources.images import QUANTIZE, VALUE_RANGES

if TYPE_CHECKING:
    from fid.measure import Comparison
    from fid.statistics import Statistics

__all__ = [
    "check_output",
    "compute_fid",
    "one_line",
    "precalc_stats",
    "report",
    "run",
]

_SOURCE = "a folder or zip archive of images, or an .npz or .npy array of images"


def compute_fid(argv: Sequence[str] | None = None) -> int:
    """Runs `compute_fid.py A B`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        if len(args) != 2:
            raise flags.Error(f"expected two sets, A and B; got {len(args)}")
        from fid import measure

        comparison = measure.compare(
            *args,
            metrics=values.metrics,
            strict=values.strict,
            method=values.method,
            kid_subsets=values.kid_subsets,
            kid_subset_size=values.kid_subset_size,
            is_splits=values.is_splits,
            seed=values.seed,
            **_measuring(values),
        )
        for warning in comparison.warnings:
            print(one_line(f"warning: {warning}"), file=sys.stderr)
        if values.json:
            print(json.dumps(comparison.as_json(), allow_nan=False))
        else:
            print(report(comparison))

    def define(values: flags.FlagValues) -> None:
        _define_measuring(values)
        flags.DEFINE_list(
            "metrics",
            ["fid"],
            "Which of fid, kid and is (the Inception Score of A), with commas. kid "
            "keeps the features in memory: 8 KB an image.",
            flag_values=values,
        )
        flags.DEFINE_bool(
            "json",
            False,
            "Print the values and how they came about as JSON.",
            flag_values=values,
        )
        flags.DEFINE_bool(
            "strict",
            False,
            "Refuse to compare sets that were not measured alike.",
            flag_values=values,
        )
        flags.DEFINE_enum(
            "method",
            "eigen",
            METHODS,
            "How the Fréchet distance is computed; sqrtm is the original's way.",
            flag_values=values,
        )
        for name, default, least, text in (
            ("kid_subsets", 100, 0, "KID's subsets; 0 for the full estimate alone."),
            ("kid_subset_size", 1000, 2, "Images of each set in one of KID's subsets."),
            ("is_splits", 10, 1, "Parts that the Inception Score is averaged over."),
        ):
            flags.DEFINE_integer(
                name, default, text, lower_bound=least, flag_values=values
            )
        flags.DEFINE_integer(
            "seed",
            0,
            "Seed of KID's subsets.",
            lower_bound=0,
            upper_bound=2**32 - 1,
            flag_values=values,
        )

    usage = f"""Fréchet Inception Distance between two sets of images.

  compute_fid.py A B [flags]

A and B are each {_SOURCE}, or an
.npz file of statistics (mu and sigma)."""
    return run(main, define, usage, argv)


def report(comparison: Comparison) -> str:
    """Returns the lines that `compute_fid.py` prints.

    Args:
        comparison: What was measured.

    Returns:
        A line a metric, such as `FID: 12.345678`.
    """
    title, lines = comparison.title, []
    if comparison.value is not None:
        lines.append(f"{title('fid')}: {comparison.value:.6f}")
    if (kernel := comparison.kernel) is not None:
        if kernel.mean is not None:
            lines.append(f"{title('kid')}: {kernel.mean:.8f} ± {kernel.std:.8f}")
        lines.append(f"{title('kid')} of all images: {kernel.full:.8f}")
    if (score := comparison.score) is not None:
        lines.append(f"{title('is')}: {score.mean:.6f} ± {score.std:.6f}")
    return "\n".join(lines)


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
        if len(args) != 1:
            raise flags.Error(f"expected one source of images; got {len(args)}")
        check_output(values.output, args)
        if values.beam:
            _precalc_with_beam(args[0], values, pipeline_args)
            return
        from fid import files, measure

        # Tried first, so that an hour of work does not end in a folder that is none.
        files.check_writable(values.output)
        statistics = measure.compute_statistics(args[0], **_measuring(values))
        statistics.save(values.output)
        print(_saved(values.output, statistics))

    def define(values: flags.FlagValues) -> None:
        _define_measuring(values)
        flags.DEFINE_string(
            "output", None, "Where the .npz file goes.", flag_values=values
        )
        flags.DEFINE_bool(
            "beam",
            False,
            "Compute with Apache Beam. SOURCE is a folder, or a pattern of images or "
            "of TFRecord files; what follows -- goes to Beam.",
            flag_values=values,
        )
        flags.DEFINE_string(
            "feature",
            None,
            "With --beam: the feature of a record that holds the encoded image. "
            "Without it: image/encoded, then image.",
            flag_values=values,
        )

    usage = f"""Mean and covariance of the Inception features of a set of images.

  precalc_stats.py SOURCE --output=stats.npz [flags]
  precalc_stats.py PATTERN --output=stats.npz --beam [flags] -- [Beam's flags]

SOURCE is {_SOURCE}. The
file has the keys mu and sigma, as the paper's authors' files have, and says how it came
about."""
    return run(main, define, usage, argv)


def _precalc_with_beam(
    pattern: str, values: flags.FlagValues, pipeline_args: list[str]
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
        values.output,
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


def check_output(output: str | None, inputs: Sequence[str]) -> None:
    """Makes sure that a result may go where the command line says.

    Args:
        output: The value of `--output`.
        inputs: Files that are going to be read.

    Raises:
        flags.Error: It is missing, names no `.npz` file, or is one of the inputs.
    """
    if not output:
        raise flags.Error("--output=FILE.npz is missing")
    if not output.lower().endswith(".npz"):
        raise flags.Error(f"--output={output} does not end in .npz")
    for path in inputs:
        both = (path, output)
        if all(map(os.path.exists, both)) and os.path.samefile(*both):
            raise flags.Error(f"the output would replace {path}")


def run(
    main: Callable[[list[str], flags.FlagValues], Any],
    define: Callable[[flags.FlagValues], None],
    usage: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a program: parses its flags, calls it, reports its errors on one line.

    Args:
        main: Given the positional arguments and the parsed flags.
        define: Defines the program's flags on the `FlagValues` it is given, so that
            several programs can live in one process.
        usage: What `--help` says first.
        argv: Program name and arguments; None means those of the process.

    Returns:
        0 on success, 1 where something could not be done, 2 for a wrong command line,
        130 after Ctrl-C.
    """
    if sys.stderr is None:  # closed: `print` would take standard output in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    # TensorFlow's start-up messages are not about what the user asked for. The few it
    # prints before it looks at this cannot be helped.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    define(values)
    flags.DEFINE_bool(
        "help", False, "Show this help.", short_name="h", flag_values=values
    )
    argv = list(sys.argv if argv is None else argv)
    program = os.path.basename(argv[0])

    def complain(text: str) -> None:
        print(one_line(f"{program}: {text}"), file=sys.stderr)

    if sys.stdout is None:
        complain(
            "error: standard output is closed, and the result goes there; send it to "
            "a file or to /dev/null."
        )
        return 1
    output = _Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output):
            args = _parsed(values, argv)[1:]
            if values.help:
                print(f"{usage}\n\n{_flags_help(values)}")
            else:
                main(args, values)
            output.flush()
    except flags.Error as error:
        complain(f"{error}; see {program} --help")
        return 2
    except InputError as error:
        complain(f"error: {error}")
        return 1
    except MemoryError:
        complain(
            "error: not enough memory. Choose "
            + ("a smaller --batch_size, " if "batch_size" in values else "less work, ")
            + "or a machine with more."
        )
        return 1
    except OSError as error:
        if error is not output.error:
            complain(f"error: {error}")
            return 1
        # What could not be written now cannot be written at exit either.
        sys.stdout = None
        if error.errno != errno.EPIPE:  # whose reader has seen enough, as `head` has
            complain(
                f"error: cannot write to standard output: {error.strerror}. Send it "
                "to another place."
            )
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    return 0


def one_line(text: str) -> str:
    r"""Returns a message as it can be printed on one line.

    Args:
        text: May quote names with line breaks, control characters or bytes that are
            no text.

    Returns:
        The message, with such characters escaped.

    Example:
        >>> print(one_line("There is no a\nb."))
        There is no a\nb.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _parsed(values: flags.FlagValues, argv: list[str]) -> list[str]:
    try:
        return values(argv)
    except UnicodeDecodeError as error:
        raise flags.Error("a --flagfile is no text file; give one flag a line") from (
            error
        )


class _Output:
    """A stream that remembers why it could not be written."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._remembered():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._remembered():
            self._stream.flush()

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


def _flags_help(values: flags.FlagValues) -> str:
    lines = ["Flags:"]
    for name in sorted(values):
        flag = values[name]
        if name != flag.name:  # a short name
            continue
        choices = getattr(flag.parser, "enum_values", None)
        value = "" if flag.boolean else f"={'|'.join(choices or [flag.flag_type()])}"
        text = (
            flag.help.removeprefix(f"<{'|'.join(choices)}>: ") if choices else flag.help
        )
        default = "" if flag.default in (None, False) else f" [default: {flag.default}]"
        lines.append(f"  --{name}{value}")
        lines += textwrap.wrap(
            text + default, 80, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _define_measuring(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "inception",
        None,
        "The 2015 graph, classify_image_graph_def.pb. Without it: $TTUR_INCEPTION, "
        "then the cache folder, then a download.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size", 50, "Images at a time.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "value_range",
        None,
        list(VALUE_RANGES),
        "What the values of float images span.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "quantize",
        "none",
        QUANTIZE,
        "How float images are rounded to whole grey levels.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "recursive", False, "Enter the folders of a folder.", flag_values=values
    )
    flags.DEFINE_bool(
        "skip_bad",
        False,
        "Leave out images that cannot be read, and count them, instead of stopping.",
        flag_values=values,
    )


def _measuring(values: flags.FlagValues) -> dict[str, Any]:
    names = (
        "inception", "batch_size", "value_range", "quantize", "recursive", "skip_bad",
    )  # fmt: skip
    return {name: values[name].value for name in names} | {"progress": True}

"""The frame of every program: its flags, its errors on one line, its exit status.

A program is a main, which is given the arguments and the values of the flags, and a
function which defines the flags:

    def hello(argv=None):
        def main(args, values):
            check_arguments(args)
            print(f"Hello, {values.name}!")

        def define(flag):
            flag.text("name", "world", "Who is greeted.")

        return run(main, define, "Greets.", argv)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from fid.files import InputError
from fid.mistaken import local_path

__all__ = [
    "PLAIN_HTTP",
    "Flags",
    "check_arguments",
    "check_output",
    "one_line",
    "run",
    "subcommand",
]


PLAIN_HTTP = "TTUR_PLAIN_HTTP"
"""The variable that `--plain_http` sets, for a program and for those it starts."""


class Flags:
    """Defines the flags of one program, a method a kind.

    Several programs can live in one process, since each has flags of its own.

    Attributes:
        values: absl's `FlagValues`, which parses a command line.

    Example:
        >>> from fid.program import Flags
        >>> flag = Flags()
        >>> flag.number("steps", 100, "Updates in all.", least=1)
        >>> flag.seed("Seed of the latents.")
        >>> flag.values(["x.py", "--steps=5", "runs/a"])
        ['x.py', 'runs/a']
        >>> flag.values.steps, flag.values.seed
        (5, 0)
    """

    def __init__(self) -> None:
        self.values = flags.FlagValues()
        self.values.set_gnu_getopt(True)

    def text(self, name: str, default: str | None, help: str) -> None:
        """Defines a flag whose value is a text."""
        flags.DEFINE_string(name, default, help, flag_values=self.values)

    def texts(self, name: str, default: Sequence[str] | None, help: str) -> None:
        """Defines a flag whose value is a list, with commas between its texts."""
        flags.DEFINE_list(name, default, help, flag_values=self.values)

    def repeated(self, name: str, help: str) -> None:
        """Defines a flag that may be given several times; its value is a list."""
        flags.DEFINE_multi_string(name, [], help, flag_values=self.values)

    def number(
        self,
        name: str,
        default: int | None,
        help: str,
        least: int | None = None,
        most: int | None = None,
    ) -> None:
        """Defines a flag whose value is a whole number from `least` to `most`."""
        flags.DEFINE_integer(
            name,
            default,
            help,
            lower_bound=least,
            upper_bound=most,
            flag_values=self.values,
        )

    def rate(self, name: str, default: float | None, help: str) -> None:
        """Defines a flag whose value is a real number."""
        flags.DEFINE_float(name, default, help, flag_values=self.values)

    def switch(self, name: str, help: str, default: bool | None = False) -> None:
        """Defines a flag that is set by `--name` and unset by `--noname`."""
        flags.DEFINE_bool(name, default, help, flag_values=self.values)

    def choice(
        self, name: str, default: str | None, choices: Iterable[str], help: str
    ) -> None:
        """Defines a flag whose value is one of `choices`."""
        flags.DEFINE_enum(name, default, list(choices), help, flag_values=self.values)

    def inception(self, help: str | None = None) -> None:
        """Defines `--inception`, the path of the 2015 graph, and how it is got."""
        self.text("inception", None, help or _INCEPTION)
        self.switch(
            "plain_http",
            "Download the 2015 graph without encryption, too, where a server offers "
            f"nothing better; the same as ${PLAIN_HTTP}=1.",
        )

    def batch_size(
        self,
        help: str = "Images at a time.",
        default: int | None = 50,
        least: int | None = 1,
        most: int | None = None,
    ) -> None:
        """Defines `--batch_size`."""
        self.number("batch_size", default, help, least, most)

    def seed(
        self,
        help: str,
        default: int | None = 0,
        least: int | None = 0,
        most: int | None = None,
    ) -> None:
        """Defines `--seed`."""
        self.number("seed", default, help, least, most)


_INCEPTION = (
    "The 2015 graph, classify_image_graph_def.pb. Without it: $TTUR_INCEPTION, then "
    "the cache folder, then a download."
)


def subcommand(
    args: Sequence[str],
    values: flags.FlagValues,
    commands: Mapping[str, Any],
    owners: Mapping[str, Sequence[str]],
) -> tuple[str, list[str]]:
    """Finds which subcommand is asked for.

    Args:
        args: The positional arguments.
        values: The flags.
        commands: The subcommands by name.
        owners: The subcommands that a flag belongs to, by the flag's name; others
            belong to all.

    Returns:
        The subcommand's name, and the other arguments.

    Raises:
        flags.Error: There is none such, or a flag does not go with it.

    Example:
        >>> from fid.program import Flags, subcommand
        >>> flag = Flags()
        >>> flag.switch("json", "Print JSON.")
        >>> args = flag.values(["x.py", "show", "a.npz", "--json"])[1:]
        >>> subcommand(args, flag.values, {"show": 1, "merge": 2}, {"json": ["show"]})
        ('show', ['a.npz'])
    """
    names = ", ".join(commands)
    if not args:
        raise flags.Error(f"expected one of {names}")
    name, *rest = args
    if name not in commands:
        raise flags.Error(f"there is no {name}; expected one of {names}")
    for flag, its in owners.items():
        if values[flag].present and name not in its:
            raise flags.Error(f"--{flag} does not go with {name}")
    return name, rest


def check_arguments(args: Sequence[str], count: int = 0, what: str = "") -> None:
    """Refuses a command line with too many or too few positional arguments.

    Args:
        args: The positional arguments.
        count: How many there should be.
        what: What they should be, such as "one run folder".

    Raises:
        flags.Error: There are more or fewer.

    Example:
        >>> from fid.program import check_arguments
        >>> check_arguments(["runs/a", "runs/b"], 1, "one run folder")
        Traceback (most recent call last):
        ...
        absl.flags._exceptions.Error: expected one run folder; got 2
    """
    if len(args) == count:
        return
    if not count:
        raise flags.Error(f"unexpected argument {args[0]!r}")
    raise flags.Error(f"expected {what}; got {len(args)}")


def check_output(output: str | None, inputs: Sequence[str]) -> pathlib.Path:
    """Makes sure that a result may go where the command line says.

    Args:
        output: The value of `--output`.
        inputs: Files that are going to be read.

    Returns:
        The path of the result.

    Raises:
        flags.Error: It is missing, names no `.npz` file, or is one of the inputs.
        InputError: It is no path of this machine.
    """
    if not output:
        raise flags.Error("--output=FILE.npz is missing")
    if not output.lower().endswith(".npz"):
        raise flags.Error(f"--output={output} does not end in .npz")
    result = local_path(output, writing=True)
    for path in inputs:
        both = (path, result)
        if all(map(os.path.exists, both)) and os.path.samefile(*both):
            raise flags.Error(f"the output would replace {path}")
    return result


def run(
    main: Callable[[list[str], flags.FlagValues], Any],
    define: Callable[[Flags], None],
    usage: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a program: parses its flags, calls it, reports its errors on one line.

    Args:
        main: Given the positional arguments and the parsed flags.
        define: Defines the program's flags on the `Flags` that it is given.
        usage: What `--help` says first.
        argv: Program name and arguments; None means those of the process.

    Returns:
        0 on success, 1 where something could not be done, 2 for a wrong command line,
        130 after Ctrl-C. A second Ctrl-C does not wait for what the first one has
        begun to clear away: the process ends at once, with that status.
    """
    if sys.stderr is None:
        # It is closed, and `print` would take standard output in its place.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    # TensorFlow's start-up messages are not about what the user asked for. The few it
    # prints before it looks at this cannot be helped.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    flag = Flags()
    define(flag)
    values = flag.values
    flags.DEFINE_bool(
        "help", False, "Show this help.", short_name="h", flag_values=values
    )
    argv = list(sys.argv if argv is None else argv)
    program = os.path.basename(argv[0])

    def complain(text: str) -> None:
        print(one_line(f"{program}: {text}"), file=sys.stderr)

    @functools.cache
    def interrupted() -> None:
        complain("interrupted")

    if sys.stdout is None:
        complain(
            "error: standard output is closed, and the result goes there; send it to "
            "a file or to /dev/null."
        )
        return 1
    output = _Output(sys.stdout)
    try:
        with (
            _interruptible(interrupted),
            contextlib.redirect_stdout(output),
            _notices(),
            contextlib.ExitStack() as stack,
        ):
            args = _parsed(values, argv)[1:]
            if values.help:
                print(f"{usage}\n\n{_flags_help(values)}")
            else:
                if "plain_http" in values and values.plain_http:
                    stack.enter_context(_variable(PLAIN_HTTP, "1"))
                main(args, values)
            output.flush()
    except flags.Error as error:
        complain(f"{error}; see {program} --help")
        return 2
    except InputError as error:
        complain(f"error: {error}")
        return 1
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        complain(
            f"error: not enough memory{what}. Choose "
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
        # The reader of a pipe may have seen enough, as `head` has.
        if error.errno != errno.EPIPE:
            complain(
                f"error: cannot write to standard output: {error.strerror}. Send it "
                "to another place."
            )
        return 1
    except KeyboardInterrupt:
        interrupted()
        return 130
    return 0


class _Notices(logging.Handler):
    """Prints each record on one line of stderr that begins as `warning:`."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        # Standard error may be closed.
        with contextlib.suppress(OSError, ValueError):
            print(one_line(text), file=sys.stderr)


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Prints warnings that are logged and that nobody else prints or keeps."""
    former = logging.lastResort
    if former is not None:
        logging.lastResort = _Notices(logging.WARNING)
    try:
        yield
    finally:
        logging.lastResort = former


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Sets a variable of the environment for as long as a program runs."""
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if former is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = former


@contextlib.contextmanager
def _interruptible(say: Callable[[], None]) -> Iterator[None]:
    """Has Ctrl-C end the program in order, and a second one at once.

    Python's own handler raises where the program happens to be: a second time that is
    in the midst of unwinding, which ends in tracebacks. In the midst of an import,
    nothing waits to be cleared away, and extension modules make errors of their own of
    whatever is raised, so there the first one ends it at once, too.

    It changes nothing outside of the main thread, nor where the program has a handler
    of its own or ignores the signal.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield
        return

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, again)
        if _is_importing(frame):
            again()
        raise KeyboardInterrupt

    def again(*_: Any) -> None:
        # Standard error is closed, or is being written to.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            say()
        os._exit(128 + signal.SIGINT)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        # After the first one, the process may still be at its end for a while.
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_importing(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


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
        if name != flag.name:
            continue  # This is a short name of a flag that has its own line.
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

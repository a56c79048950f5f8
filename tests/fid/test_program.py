"""The frame of every program, on programs of three lines."""

import os
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from repository import ROOT

from fid.files import InputError
from fid.program import Flags, check_arguments, check_output, one_line, run


def define_all(flag):
    """A flag of each kind."""
    flag.text("name", None, "A name.")
    flag.texts("parts", ["a", "b"], "Some parts.")
    flag.repeated("set", "KEY=VALUE.")
    flag.number("count", 3, "How many.", least=1, most=9)
    flag.rate("rate", 0.5, "How fast.")
    flag.switch("dry_run", "Only say what would be done.")
    flag.switch("jit", "Compile.", None)
    flag.choice("colour", "red", ("red", "blue"), "Which colour.")
    flag.inception()
    flag.batch_size()
    flag.seed("Seed of it all.", most=2**32 - 1)


def parsed(*argv):
    """Values of all flags, by the program that the user would start."""
    found = {}

    def main(args, values):
        found.update(values.flag_values_dict(), args=args)

    assert run(main, define_all, "Parses.", ["x.py", *argv]) == 0
    return found


def test_each_kind_of_flag_has_its_default_and_takes_a_value():
    defaults = {
        "name": None, "parts": ["a", "b"], "set": [], "count": 3, "rate": 0.5,
        "dry_run": False, "jit": None, "colour": "red", "inception": None,
        "batch_size": 50, "seed": 0,
    }  # fmt: skip
    assert defaults.items() <= parsed().items()
    given = parsed(
        "--name=x", "one", "--parts=c,d", "--set=a=1", "--set=b=2", "--count=9",
        "--rate=1e-3", "--dry_run", "--nojit", "--colour=blue", "--inception=g.pb",
        "--batch_size=1", "--seed=4294967295", "two",
    )  # fmt: skip
    expected = {
        "name": "x", "parts": ["c", "d"], "set": ["a=1", "b=2"], "count": 9,
        "rate": 1e-3, "dry_run": True, "jit": False, "colour": "blue",
        "inception": "g.pb", "batch_size": 1, "seed": 2**32 - 1,
        "args": ["one", "two"],
    }  # fmt: skip
    assert expected.items() <= given.items()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--count=0", "0 is not an integer in the range [1, 9]"),
        ("--count=ten", "ten"),
        ("--rate=fast", "fast"),
        ("--colour=green", "value should be one of <red|blue>"),
        ("--batch_size=0", "batch_size"),
        ("--seed=-1", "-1 is not an integer in the range [0, 4294967295]"),
        ("--nonsense", "Unknown command line flag 'nonsense'"),
    ],
)
def test_a_value_out_of_bounds_is_a_wrong_command_line(capsys, argument, message):
    def main(args, values):
        raise AssertionError("the program was started")

    assert run(main, define_all, "", ["x.py", argument]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line
    assert line.startswith("x.py: ")
    assert line.endswith("; see x.py --help")


def test_help_is_the_usage_and_then_every_flag_in_order_of_names(capsys):
    for argument in ("--help", "-h"):
        assert run(None, define_all, "Does it.", ["x.py", argument]) == 0
        assert capsys.readouterr().out.startswith(
            """Does it.

Flags:
  --batch_size=int
      Images at a time. [default: 50]
  --colour=red|blue
      Which colour. [default: red]
  --count=int
      How many. [default: 3]
  --dry_run
      Only say what would be done.
  --help
      Show this help.
  --inception=string
      The 2015 graph, classify_image_graph_def.pb. Without it: $TTUR_INCEPTION,
      then the cache folder, then a download.
  --jit
      Compile.
"""
        )


def test_two_programs_of_one_process_may_give_a_name_two_meanings():
    one, two = Flags(), Flags()
    one.number("steps", 1, "Updates.")
    two.text("steps", "all", "Which of them.")
    one.values(["x"])
    two.values(["x"])
    assert (one.values.steps, two.values.steps) == (1, "all")


def test_positional_arguments_are_counted():
    check_arguments([])
    check_arguments(["runs/a"], 1, "one run folder")
    with pytest.raises(flags.Error, match=r"^unexpected argument 'runs/a'$"):
        check_arguments(["runs/a", "runs/b"])
    for given in ([], ["runs/a", "runs/b"]):
        with pytest.raises(
            flags.Error, match=f"^expected one run folder; got {len(given)}$"
        ):
            check_arguments(given, 1, "one run folder")


def test_an_output_is_an_npz_file_that_is_no_input(tmp_path):
    one, link = tmp_path / "one.npz", tmp_path / "link.npz"
    np.savez(one, x=0)
    link.symlink_to(one)
    check_output(f"{tmp_path}/new.NPZ", [str(one)])
    for output, message in (
        (None, "--output=FILE.npz is missing"),
        ("", "--output=FILE.npz is missing"),
        ("stats.txt", "--output=stats.txt does not end in .npz"),
        (str(link), f"the output would replace {one}"),
    ):
        with pytest.raises(flags.Error) as error:
            check_output(output, [str(one)])
        assert str(error.value) == message


def test_a_message_is_one_line_whatever_it_quotes():
    assert one_line("größe") == "größe"
    assert one_line("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (MemoryError(), 1, "x: error: not enough memory. Choose less work, "),
        (MemoryError("for x"), 1, "x: error: not enough memory (for x). Choose less "),
        (InputError("a\nb\x1b\udcff é"), 1, r"x: error: a\nb\x1b\udcff é"),
        (OSError(5, "Input/output error"), 1, "x: error: [Errno 5] Input/output error"),
        (KeyboardInterrupt(), 130, "x: interrupted"),
    ],
)
def test_a_program_that_fails_says_why(capsys, monkeypatch, error, status, expected):
    def main(args, values):
        raise error

    assert run(main, lambda flag: None, "", ["x"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(expected)
    assert captured.err.count("\n") == 1
    # Nor does it go to standard output where there is no other.
    monkeypatch.setattr(sys, "stderr", None)
    assert run(main, lambda flag: None, "", ["x"]) == status
    assert capsys.readouterr().out == ""


PROGRAMS = [
    f"scripts/{name}.py"
    for name in ("compute_fid", "precalc_stats", "stats", "train", "verify_published")
]


@pytest.mark.parametrize(
    "program", ["fid/__main__.py", *PROGRAMS], ids=os.path.basename
)
def test_an_interrupt_during_the_imports_is_no_traceback(monkeypatch, program):
    class Interrupted:
        def find_spec(self, name, *_):
            if name in ("fid.cli", "fid.stats_cli", "tf_ttur.cli"):
                raise KeyboardInterrupt

    for name in ("fid.cli", "fid.stats_cli", "tf_ttur.cli"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.syspath_prepend(ROOT / "scripts")  # where Python finds a script's own
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    assert exit.value.code == 130


_IS_INTERRUPTED = """
import os, signal, sys, time
from fid.program import run

def press():
    os.kill(os.getpid(), signal.SIGINT)

def twice():
    try:
        press()
    finally:
        press()  # while it clears away

def at_the_end():
    import atexit
    atexit.register(press)
    press()

def importing():
    with open("slow.py", "w") as file:
        file.write("try: press()\\nexcept BaseException: raise ImportError")
    sys.path.insert(0, "")
    import builtins
    builtins.press = press
    import slow

way = globals()[sys.argv[1]]
sys.exit(run(lambda args, values: way(), lambda flag: None, "", ["x.py"]))
"""


@pytest.mark.parametrize("way", ["press", "twice", "at_the_end", "importing"])
def test_an_interrupt_or_two_end_a_program_without_a_traceback(tmp_path, way):
    done = subprocess.run(
        [sys.executable, "-c", _IS_INTERRUPTED, way],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        "",
        "x.py: interrupted\n",
    )


def test_pythons_handler_is_back_after_a_program(capsys):
    seen = []

    def main(args, values):
        seen.append(signal.getsignal(signal.SIGINT))

    for handler in (signal.default_int_handler, signal.SIG_IGN):
        signal.signal(signal.SIGINT, handler)
        try:
            assert run(main, lambda flag: None, "", ["x"]) == 0
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen[0] is not signal.default_int_handler
    assert seen[1] == signal.SIG_IGN  # nohup has said so


_LOGS = """
import logging, sys
from fid.program import run
def main(args, values):
    logging.getLogger("fid.measure").warning("%s of a\\nb left out", 3)
status = run(main, lambda flag: None, "Logs.", ["x.py"])
logging.getLogger("fid.measure").warning("afterwards")
sys.exit(status)
"""


def test_a_warning_that_is_logged_is_printed_as_one():
    done = subprocess.run(
        [sys.executable, "-c", _LOGS], capture_output=True, text=True, check=True
    )
    first, second = done.stderr.splitlines()
    assert first == r"warning: 3 of a\nb left out"
    assert second == "afterwards"
    assert not done.stdout

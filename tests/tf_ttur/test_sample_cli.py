"""The sampling program: its flags become a request of the run's task."""

import dataclasses
import subprocess
import sys

import pytest
from repository import ROOT

from fid import InputError
from tf_ttur import sample_cli, tasks
from tf_ttur.runs import RunFolder


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A run of a kind of its own, which notes what it is asked for."""

    class Noting(tasks.Task):
        requests = []  # noqa: RUF012

        @classmethod
        def write_samples(cls, folder, request):
            cls.requests.append((folder.path, request))
            return "Done."

    monkeypatch.setitem(tasks.TASKS, tasks.presets.ImagePreset, Noting)
    RunFolder(tmp_path).claim({"network": "dcgan"})
    return Noting.requests


def test_flags_become_a_request(tmp_path, asked, capsys):
    flags = ["--checkpoint=last", "--seed=3", "--interpolate", "--num_samples=7"]
    assert sample_cli.sample(["sample.py", str(tmp_path), *flags]) == 0
    assert sample_cli.sample(["sample.py", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Done.\nDone.\n"
    (path, request), (_, plain) = asked
    assert path == tmp_path
    assert request == tasks.SampleRequest(
        checkpoint="last",
        seed=3,
        interpolate=True,
        num_samples=7,
        given=frozenset({"checkpoint", "seed", "interpolate", "num_samples"}),
    )
    assert plain == tasks.SampleRequest()


def test_every_field_of_a_request_has_a_flag(capsys):
    assert sample_cli.sample(["sample.py", "--help"]) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(tasks.SampleRequest):
        assert field.name == "given" or f"--{field.name}" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "expected one run folder; got 0"),
        (["a", "b"], "expected one run folder; got 2"),
        (["a", "--num_samples=0"], "num_samples"),
        (["a", "--seed=-1"], "seed"),
        (["a", "--batch_size=0"], "batch_size"),
        (["a", "--quantize=floor"], "quantize"),
    ],
)
def test_a_wrong_command_line_is_refused_in_a_line(args, message, capsys):
    assert sample_cli.sample(["sample.py", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_help_does_not_start_tensorflow():
    code = (
        "import sys; from tf_ttur import sample_cli; "
        "assert not sample_cli.sample(['sample.py', '--help']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


@pytest.mark.parametrize("name", ["y", "y.png", "y.zip", "y.txt"])
def test_an_output_that_is_an_address_is_refused_by_every_kind(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    request = tasks.SampleRequest(output=f"gs://x/{name}")
    for kind in set(tasks.TASKS.values()):
        with pytest.raises(InputError, match=f"gs://x/{name} is an address.* HERE"):
            kind.write_samples(RunFolder(tmp_path), request)
    assert not list(tmp_path.iterdir())

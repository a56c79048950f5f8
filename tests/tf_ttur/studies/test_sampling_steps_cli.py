"""The program that measures in fewer and more steps: its flags, and what it refuses."""

import pytest

from tf_ttur.studies import sampling_steps
from tf_ttur.studies.sampling_steps import Row
from tf_ttur.studies.sampling_steps_cli import sampling_steps as main


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def measure(folder, output, samplers, steps, **options):
        calls.append((str(folder), output.name, samplers, steps, options))
        return [Row("a", 1, "heun", n, 1.0, n, 10, "fid", 1.0, 0.0) for n in steps]

    monkeypatch.setattr(sampling_steps, "measure", measure)
    return calls


def test_flags_reach_the_measurement(asked, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    arguments = ["--samplers=heun,ddim", "--steps=1,4", "--guidance=2"]
    assert main(["sampling_steps.py", str(tmp_path / "run"), *arguments]) == 0
    ((folder, output, samplers, steps, options),) = asked
    assert (folder, output) == (str(tmp_path / "run"), "sampling_steps.jsonl")
    assert (samplers, steps, options["guidance"]) == (["heun", "ddim"], [1, 4], 2.0)
    assert (tmp_path / "run" / "sampling_steps.png").exists()
    assert "sampling_steps.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=0", "'0' is no whole number"),
        ("--steps=1,x", "'x' is no whole number"),
        ("--steps=", "give at least one"),
        ("--output=rows.png", "give one that ends in .jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(flag, message, asked, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert main(["sampling_steps.py", str(tmp_path / "run"), flag]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not asked

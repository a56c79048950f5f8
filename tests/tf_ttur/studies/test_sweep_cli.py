"""The flags of sweeps, refused in a line."""

import subprocess
import sys

import pytest
from repository import ROOT

from tf_ttur.studies import sweep_cli


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 1, "needs learning rates"),
        (["--discriminator_lr=1e-4"], 1, "needs rates of both networks"),
        (["--discriminator_lr=1e-4", "--generator_lr=x"], 1, "--generator_lr=x"),
        (["--pairs=1e-4"], 1, "'1e-4' is not of the form DISCRIMINATOR:GENERATOR"),
        (["--pairs=1e-4:1e-4,1e-4:0.0001"], 1, "Given twice: discriminator 0.0001"),
        (["--pairs=1e-4:-1"], 1, "generator_lr is -1.0"),
        (["--pairs=nan:1"], 1, "discriminator_lr is nan"),
        (["--pairs=1:1", "--seeds=0"], 1, "number of seeds is 0"),
        (["--pairs=1:1", "--processes=0"], 1, "number of processes is 0"),
        (["--pairs=1:1", "--shard=0/4"], 1, "no shard 0/4"),
        (["--pairs=1:1", "--shard=1/4", "--ray=auto"], 1, "exclude each other"),
        (["--pairs=1:1", "--steps=0"], 1, "steps is 0"),
        (["--pairs=1:1", "--set=nonsense=1"], 1, "no setting 'nonsense'"),
        (["--pairs=1:1", "--set=seed=1"], 1, "no setting 'seed' to set"),
        (["--pairs=1:1", "--set=width=x"], 1, "expected a whole number; got 'x'"),
        (["--pairs=1:1", "--set=jit_compile=1"], 1, "expected true or false or none"),
        (["--pairs=1:1", "--set=every=1", "--every=2"], 1, "every is set twice"),
        (["--pairs=1:1", "--set=beta_1=nan"], 1, "beta_1 is nan"),
        (["--pairs=1:1", "--set=width"], 1, "not of the form KEY=VALUE"),
        (["--pairs=1:1", "--vary=width=1"], 1, "and not over both"),
        (
            ["--variant=a:width=1", "--discriminator_lr=1", "--generator_lr=1"],
            1,
            "and not over both",
        ),
        (["--vary=width"], 1, "--vary=width is not of the form KEY=VALUE,VALUE"),
        (["--vary=width=2,x"], 1, "expected a whole number; got 'x'"),
        (["--vary=width=2,2"], 1, "The variant width=2 is there twice"),
        (["--vary=width=2", "--vary=width=3"], 1, "width is set twice"),
        (["--vary=steps=2", "--steps=3"], 1, "steps=3: --vary=steps varies it"),
        (["--vary=seed=1"], 1, "no setting 'seed' to set"),
        (["--vary=ratio=1,5"], 1, "ratio is 1, a setting of distillation"),
        (["--vary=clip=none,norm:1"], 1, "A variant is called 'clip=norm:1'"),
        (["--vary=width=2", "--teacher=/x"], 1, "--teacher=/x: digits_dcgan_ttur"),
        (["--preset=digits_flash_dmd", "--vary=ratio=1"], 1, "--teacher=RUN"),
        (
            [
                "--preset=digits_flash_dmd",
                "--vary=renoise_from=0.5",
                "--teacher=/x",
                "--vary=renoise_to=0.9,0.4",
            ],
            1,
            "renoise_from=0.5,renoise_to=0.4: renoise_from is 0.5",
        ),
        (["--preset=nonsense", "--pairs=1:1"], 1, "no preset 'nonsense'"),
        (["--table_only"], 1, "sweep.json"),
        (["stray"], 2, "unexpected argument 'stray'"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, status, message):
    workdir = tmp_path / "sweep"
    assert sweep_cli.sweep(["sweep.py", f"--workdir={workdir}", *flags]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not workdir.exists()


def test_help_does_not_start_tensorflow():
    code = (
        "import sys; from tf_ttur import sample_cli; "
        "from tf_ttur.studies import sweep_cli; "
        "assert not sweep_cli.sweep(['sweep.py', '--help']); "
        "assert not sample_cli.sample(['sample.py', '--help']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )

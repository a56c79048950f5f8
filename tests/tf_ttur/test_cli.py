"""The training program's flags: looked at, and refused in a line."""

import json

import pytest

from tf_ttur import cli


def test_settings_can_be_looked_at(capsys):
    assert cli.train(["train.py", "--list_presets"]) == 0
    listed = capsys.readouterr().out
    assert "digits_dcgan_ttur" in listed
    assert "digits_dcgan_orig" in listed
    argv = ["train.py", "--dry_run", "--steps=5", "--dataset=cifar10", "--seed=3"]
    assert cli.train(argv) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["steps"] == 5
    assert settings["dataset"] == "cifar10"
    assert settings["image_size"] is None
    assert cli.train(["train.py", "--help"]) == 0
    assert "--discriminator_lr=float" in capsys.readouterr().out


def test_settings_that_need_each_other_are_changed_at_once(capsys):
    argv = ["train.py", "--dry_run", "--preset=digits_flash_dmd", "--teacher=RUN"]
    argv += ["--rl_from=250", "--set=every=50", "--steps=300"]
    assert cli.train(argv) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["rl_from"], settings["every"], settings["steps"]) == (250, 50, 300)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--preset=nonsense"], 1, "no preset 'nonsense'"),
        (["--steps=0"], 1, "steps is 0"),
        (["--generator_lr=-1"], 1, "generator_lr is -1.0"),
        (["--nonsense"], 2, "nonsense"),
        (["stray"], 2, "unexpected argument 'stray'"),
        (["--dataset=mnist"], 1, "mnist"),
        (["--dataset=cifar10", "--data_dir=/nowhere"], 1, "cifar10 is not prepared"),
        (["--loss=hinged"], 1, "hinged"),
        (["--seed=99999999999999999999"], 1, "seed is 99999999999999999999"),
        (["--dry_run", "--dataset=mnist"], 1, "Unknown data set 'mnist'"),
        (["--dry_run", "--loss=hinged"], 1, "no loss 'hinged'"),
        (["--dry_run", "--set=steps=5"], 1, "steps has a flag of its own: --steps"),
        (["--set=ema_decay=5"], 1, "ema_decay is 5.0; it must be in [0, 1)"),
        (
            ["--dry_run", "--preset=digits_flash_dmd", "--rl_from=300"],
            1,
            "rl_from is 300 and every is 250",
        ),
        (["--dry_run", "--rl_from=500"], 1, "rl_from is 500, a setting of distillati"),
        (["--dry_run", "--set=image_size=0"], 1, "image_size is 0; it must be >= 1"),
        (["--dry_run", "--set=width=2.5"], 1, "expected a whole number; got '2.5'"),
        (["--dry_run", "--generator_lr=nan"], 1, "generator_lr is nan; it must be fin"),
        (["--describe", "--set=ema_decay=5"], 1, "ema_decay is 5.0; it must be in [0"),
        (["--describe", "--steps=0"], 1, "steps is 0"),
        (["--batch_size=5000"], 1, "lower the batch size"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, status, message):
    assert cli.train(["train.py", f"--workdir={tmp_path}", *flags]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.strip().splitlines()[-1]
    assert message in line
    assert "Traceback" not in captured.err


def test_quirks_enter_the_configuration(capsys):
    argv = ["train.py", "--dry_run", "--preset=cifar10_wgan_gp_ttur"]
    assert cli.train(argv) == 0
    plain = json.loads(capsys.readouterr().out)
    assert cli.train([*argv, "--original_quirks"]) == 0
    quirky = json.loads(capsys.readouterr().out)
    assert {key for key in plain if plain[key] != quirky[key]} == {
        "quantize", "sample_batch", "generator_options", "discriminator_options",
    }  # fmt: skip
    assert cli.train(["train.py", "--preset=lsun_began_orig", "--loss=minimax"]) == 1
    assert "a loss of its own" in capsys.readouterr().err

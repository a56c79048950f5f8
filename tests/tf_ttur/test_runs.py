"""The run folder: claimed, locked, tidied; rows and checkpoints read and found."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from repository import ROOT

from fid.files import InputError, atomic_path
from tf_ttur import presets
from tf_ttur.runs import RunFolder, as_line, checkpoint_name, checkpoints


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


# Configuration


def test_a_folder_is_claimed_once(folder):
    config = {"steps": 5, "data_dir": None, "shape": [32, 32, 1]}
    folder.claim(config)
    before = folder.config.read_bytes()
    folder.claim(dict(reversed(config.items())))  # in any order
    with pytest.raises(
        InputError, match="steps is 5 there and 6 now. Give its settings"
    ):
        folder.claim(config | {"steps": 6})
    with pytest.raises(InputError, match="seed is None there and 1 now"):
        folder.claim(config | {"seed": 1})
    assert folder.config.read_bytes() == before
    assert folder.read_config() == config


def test_the_extractor_that_was_found_has_a_name_of_its_own(folder):
    """In version 0.1 it stood in the place of what the preset had asked for."""
    settings = presets.get("digits_dcgan_ttur").settings()
    settings |= {"data_dir": None, "extractor_sha256": "0"}
    old = settings | {"extractor": "digits"}
    new = settings | {"extractor_name": "digits"}
    folder.claim(old)
    folder.claim(new)
    assert json.loads(folder.config.read_text()) == old  # as it was
    assert folder.preset() == (presets.get("digits_dcgan_ttur"), None)
    assert folder.read_config()["extractor_name"] == "digits"
    with pytest.raises(
        InputError, match="extractor_name is 'digits' there and 'other'"
    ):
        folder.claim(new | {"extractor_name": "other"})


def test_the_preset_is_that_of_the_run(folder):
    preset = presets.get("text_wgan_gp_orig").override(seed=3, width=2)
    folder.claim(preset.settings() | {"data_dir": "/x", "text_sha256": "0"})
    assert folder.preset() == (preset, "/x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is no run folder: it has no config.json"),
        ("[]", "config.json is damaged: expected a JSON object"),
        ("{", "config.json is not JSON"),
        (
            "{}",
            "config.json is not the configuration of a training run: it lacks 'da",
        ),
        ('{"data_dir": null}', "configuration of a training run: it lacks 'name'"),
    ],
)
def test_what_is_no_run_is_told(folder, config, message):
    if config is not None:
        folder.path.mkdir()
        folder.config.write_text(config)
    with pytest.raises(InputError, match=message):
        folder.preset()


# Use


def test_a_folder_has_one_user_at_a_time(folder):
    with folder.in_use():
        code = (
            "import sys; from tf_ttur.runs import RunFolder\n"
            "with RunFolder(sys.argv[1]).in_use(): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, folder],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert "Another process is training in" in other.stderr
    with folder.in_use():  # free again
        pass


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="Cannot use .*file/run as run folder: "),
        RunFolder(tmp_path / "file" / "run").in_use(),
    ):
        pass


def test_what_is_said_meanwhile_is_kept(folder, capsys):
    import logging

    with folder.in_use():
        logging.getLogger("tf_ttur.anything").info("half way")
    logging.getLogger("tf_ttur.anything").info("afterwards")
    assert re.fullmatch(r"[-\d:, ]+ half way\n", folder.log.read_text())
    assert "half way" in capsys.readouterr().err


def test_only_what_a_killed_process_left_is_removed(folder):
    for path in (folder.metrics, folder.checkpoints / checkpoint_name(7)):
        with atomic_path(path) as temporary:
            os.link(temporary, f"{temporary}.kept")  # as if it had been killed
        os.rename(f"{temporary}.kept", temporary)
    # Two of them have the form of a temporary name by chance.
    mine = {
        folder.path / x for x in (".mine.txt", ".env.original", ".a.json.settings.json")
    }
    for path in mine:
        path.touch()
    before = {path for path in folder.path.rglob("*") if path.is_file()}
    assert len(before) == 7
    folder.tidy()
    left = {path for path in folder.path.rglob("*") if path.is_file()}
    assert left == {folder.metrics, folder.checkpoints / checkpoint_name(7), *mine}


# Rows


ROWS = [{"step": step, "minutes": 0.5 * step, "fid": 9.0 - step} for step in range(4)]


def test_rows_are_read_and_cut(folder):
    assert folder.rows() == []
    folder.path.mkdir()
    folder.metrics.write_text("".join(map(as_line, ROWS)) + '{"step": 4, "min')
    assert folder.rows() == ROWS
    assert folder.cut(2) == ROWS[:3]
    assert folder.rows() == ROWS[:3]
    assert folder.metrics.read_text() == "".join(map(as_line, ROWS[:3]))


def test_a_row_holds_no_number_that_json_has_not():
    with pytest.raises(ValueError, match="Out of range"):
        as_line({"step": 1, "fid": float("nan")})


# Checkpoints


@pytest.fixture
def kept(folder):
    for path in (
        folder.best / checkpoint_name(4),
        folder.best / checkpoint_name(2),  # left by a crash
        folder.checkpoints / checkpoint_name(4),
        folder.checkpoints / checkpoint_name(6),
        folder.checkpoints / "step_0000000x.keras",
        folder.checkpoints / "mine.keras",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder.best / "best.json").write_text('{"step": 2}')
    return folder


def test_checkpoints_are_found_by_what_they_are(kept):
    assert list(checkpoints(kept.checkpoints)) in ([4, 6], [6, 4])
    assert checkpoints(kept.path / "nowhere") == {}
    assert kept.checkpoint("last") == kept.checkpoints / "step_00000006.keras"
    assert kept.checkpoint("best") == kept.best / "step_00000002.keras"
    assert kept.checkpoint("6") == kept.checkpoint(6) == kept.checkpoint("last")


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (5, "keeps no checkpoint of step 5; it has those of 2, 4, 6."),
        ("first", "--checkpoint=first: expected best, last or a step"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_told(kept, which, message):
    with pytest.raises(InputError, match=re.escape(message)):
        kept.checkpoint(which)


def test_a_run_without_checkpoints_is_told(folder):
    with pytest.raises(InputError, match="has no checkpoint yet"):
        folder.checkpoint("best")


# The outcome


def test_a_run_is_over_once_it_is_finished_or_has_diverged(tmp_path):
    finished, diverged, other = (RunFolder(tmp_path / x) for x in "abc")
    for each in (finished, diverged, other):
        each.path.mkdir()
        assert not each.is_over
        assert each.read_summary() is each.read_divergence() is None
    finished.summary.write_text('{"metric": "fid", "metric_title": "FID", "best": 3}')
    diverged.diverged.write_text('{"step": 7, "message": "d_loss became nan"}')
    assert [each.is_over for each in (finished, diverged, other)] == [True, True, False]
    assert finished.read_summary()["best"] == 3
    assert diverged.read_divergence()["step"] == 7
    finished.summary.write_text('{"metric": "fid"}')
    with pytest.raises(
        InputError, match="expected a JSON object with metric, metric_t"
    ):
        finished.read_summary()


def test_a_folder_is_a_path(tmp_path):
    folder = RunFolder(str(tmp_path))
    assert pathlib.Path(folder) == tmp_path
    assert RunFolder(folder).metrics == tmp_path / "metrics.jsonl"
    assert f"{folder}" == str(tmp_path)

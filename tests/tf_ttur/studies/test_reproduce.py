"""Rows of the table of results: from curves, from runs, from runs that diverged."""

import json

import pytest
from repository import ROOT
from worker_tasks import three_rows

from fid.files import InputError
from tf_ttur import cli, presets
from tf_ttur.studies import reproduce
from tf_ttur.studies.machines import Machines, Shard

RESULTS = ROOT / "docs" / "results.md"


def test_the_page_of_results_has_every_row():
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    for name in presets.PUBLISHED:
        for row in reproduce.row(name).splitlines():
            ours = row.removesuffix("not run | not run |")
            assert sum(line.startswith(ours) for line in lines) == 1, row


def test_curves_become_figures():
    def curve(*values):
        return [{"step": 10 * i, "fid": v, "d_loss": 0} for i, v in enumerate(values)]

    # The third run stopped early; the second failed to measure once.
    runs = [curve(9, 4, 5, 1), curve(9, 8, None, 7), curve(9, 6, 4)]
    assert reproduce.summarize(runs, ["fid"]) == {
        "metric": "fid",
        "runs": 3,
        "best": {"step": 30, "value": 1},
        "mean_minimum": {"step": 10, "value": 6.0},
    }
    row = reproduce.row("celeba_dcgan_orig", reproduce.summarize(runs, ["fid"]))
    assert row.endswith("| 21.4 at 70,000 | 30.6 | 1 at 30 | 6.0 at 10 |")


def test_curves_of_text_become_two_rows():
    def curve(*values):
        return [
            {"step": 100 * i, "jsd_1": 0.1, "jsd_4": v, "jsd_4_floor": 0.2, "jsd_6": w}
            for i, (v, w) in enumerate(values)
        ]

    runs = [curve((0.9, 1.0), (0.5, 0.8), (0.41236, 0.9)),
            curve((0.9, 1.0), (0.5, 0.9), (0.7, 0.9))]  # fmt: skip
    assert reproduce.row(
        "lm1b_wgan_gp_ttur", reproduce.summarize(runs, ["jsd_4", "jsd_6"])
    ).splitlines() == [
        "| `lm1b_wgan_gp_ttur`, JSD-4 | 0.0003, 0.0001 | 0.35 at 98,000 | 0.376 | "
        "0.4124 at 200 | 0.5 at 100 |",
        "| `lm1b_wgan_gp_ttur`, JSD-6 | 0.0003, 0.0001 | 0.74 at 100,000 | 0.76 | "
        "0.8 at 100 | 0.85 at 100 |",
    ]


@pytest.mark.slow
def test_a_row_from_start_to_table_on_the_digits(
    tmp_path, classifier, capsys, monkeypatch
):
    # The networks of the presets are wide, and take long to compile.
    for name in ("digits_dcgan_ttur", "digits_dcgan_orig"):
        changed = presets.get(name).override(width=2, jit_compile=False)
        monkeypatch.setitem(presets.PRESETS, name, changed)
    argv = ["x", "--preset=digits_dcgan", "--seeds=2", "--steps=2",
            f"--workdir={tmp_path}"]  # fmt: skip
    assert cli.reproduce(argv) == 0
    first = capsys.readouterr().out
    assert [line.split("`")[1] for line in first.splitlines()] == [
        "digits_dcgan_ttur",
        "digits_dcgan_orig",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    values = [
        json.loads(line)["frechet_digits"]
        for path in tmp_path.glob("digits_dcgan_orig/seed_*/metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(values) == 4  # two seeds, steps 0 and 2
    assert results["orig"]["best"]["value"] == min(values)
    assert results["orig"]["runs"] == 2
    assert cli.reproduce(argv) == 0  # finds all of it done
    assert capsys.readouterr().out == first
    assert results["orig"]["diverged"] == {}


def test_a_row_tells_of_runs_that_diverged(tmp_path):
    said = []
    results = reproduce.train_pair(
        "celeba_dcgan", 2, tmp_path, train=three_rows, say=said.append
    )
    assert [line.partition(":")[0] for line in said] == [
        "[1/4] celeba_dcgan_ttur, seed 0", "[2/4] celeba_dcgan_ttur, seed 1",
        "[3/4] celeba_dcgan_orig, seed 0", "[4/4] celeba_dcgan_orig, seed 1",
    ]  # fmt: skip
    rows = [reproduce.row(f"celeba_dcgan_{x}", results[x]) for x in results]
    assert "| 7.0 at 2 | 7.0 at 2 |" in rows[0]
    assert "| 7.0 at 2 | 9.0 at 0 |" in rows[1]
    assert reproduce.warnings("celeba_dcgan", results) == [
        "celeba_dcgan_orig: 1 of 2 runs diverged; the mean curve ends where the first "
        "did."
    ]
    found = json.loads((tmp_path / "results.json").read_text())
    assert [found[x]["diverged"] for x in reproduce.SETTINGS] == [{}, {"1": 1}]
    # What is over stays so, and is of these settings.
    assert results == reproduce.train_pair(
        "celeba_dcgan", 2, tmp_path, train=three_rows, say=said.append
    )
    assert said[4:] == ["All 4 runs are finished."]
    with pytest.raises(InputError, match="another configuration: steps is .* 7 now"):
        reproduce.train_pair("celeba_dcgan", 2, tmp_path, steps=7)
    with pytest.raises(InputError, match="1 of 2 runs have no distance"):
        reproduce.summarize([[{"step": 0, "fid": 1.0}], []], ["fid"])


def test_the_shard_that_ends_last_has_the_rows(tmp_path):
    results = [
        reproduce.train_pair(
            "celeba_dcgan",
            2,
            tmp_path,
            machines=Machines(shard=Shard(i, 3)),
            train=three_rows,
            say=str,
        )
        for i in (3, 1, 2)
    ]
    assert results[:2] == [None, None]
    assert [results[2][x]["runs"] for x in reproduce.SETTINGS] == [2, 2]
    assert results[2] == reproduce.train_pair("celeba_dcgan", 2, tmp_path, say=str)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--shard=5/4", "no shard 5/4"),
        ("--processes=0", "number of processes is 0"),
        ("--ray=x", "--ray=x: expected auto, or HOST:PORT"),
    ],
)
def test_machines_that_cannot_be_are_one_line(tmp_path, capsys, flag, message):
    workdir = tmp_path / "runs"
    assert cli.reproduce(["x", f"--workdir={workdir}", flag]) == 1
    assert message in capsys.readouterr().err
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["mnist_dcgan", "digits_dcgan_ttur"])
def test_an_experiment_is_named_without_its_setting(name, capsys):
    assert cli.reproduce(["x", f"--preset={name}"]) == 1
    error = capsys.readouterr().err
    assert f"no experiment '{name}'; choose from digits_dcgan, " in error

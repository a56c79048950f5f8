"""Studies of batch sizes: small real ones, and their bookkeeping."""

import dataclasses
import json

import numpy as np
import pytest
from batch_studies import ROW
from metrics_rows import rows as metrics

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.studies import batch_grid, batch_rows, critical_batch
from tf_ttur.studies.critical_batch import Study, run_folder

PRESET = presets.get(presets.DEFAULT).override(
    width=2, num_samples=64, jit_compile=False, extractor="pixels"
)
SMALL = {
    "preset": PRESET,
    "variants": {"preset": {}},
    "batches": (8, 16),
    "seeds": 1,
    "threshold": 9.0,
    "every_examples": 32,
    "max_steps": 4,
}


class Here:
    """Stands for the worker processes: does the work in this one."""

    def __init__(self, count, folder, work):
        self.work, self.tasks, self.idle = work, [], True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def busy(self):
        return self.tasks

    def start(self, task, **arguments):
        self.tasks.append((task, arguments))
        self.idle = False

    def wait(self):
        task, arguments = self.tasks.pop()
        self.idle = True
        try:
            yield task, self.work(**arguments)
        except InputError as error:
            yield task, {"error": str(error)}


def run(workdir, say=lambda line: None, **changes):
    study = Study(**SMALL | changes)
    return critical_batch.run_study(study, workdir, say=say, make_workers=Here)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A study whose threshold lies between what its runs are at and real images."""
    workdir = tmp_path_factory.mktemp("study")
    lines = []
    found = run(workdir / "probe", threshold=2.0)
    values = sorted(value for row in found for _, value in row.trace)
    # Some measurements meet this one, and some do not.
    threshold = (values[2] + values[3]) / 2
    changes = {"threshold": threshold, "variants": {"a": {}, "b": {"beta_1": 0.9}}}
    rows = run(workdir / "study", lines.append, **changes)
    return workdir / "study", changes, rows, lines


def test_every_run_is_a_run_folder_and_a_row(swept):
    workdir, _, rows, lines = swept
    assert [(row.variant, row.batch, row.seed) for row in rows] == [
        ("a", 8, 0), ("a", 16, 0), ("b", 8, 0), ("b", 16, 0)
    ]  # fmt: skip
    assert batch_rows.read(workdir / "runs.jsonl") == rows
    for row in rows:
        folder = run_folder(workdir, row.variant, row.batch, row.seed)
        config = json.loads(folder.config.read_text())
        # 32 examples between measurements are so many steps.
        assert config["every"] == row.every == 32 // row.batch
        assert config["batch_size"] == row.batch
        assert (config["beta_1"], row.beta_1) == (
            0.5 if row.variant == "a" else 0.9,
        ) * 2
        trace = tuple((x["step"], x[row.metric]) for x in metrics(folder.path))
        assert row.trace == trace
        assert row.images == {"real": row.examples, "generated": row.examples}
    assert "64 real images have a distance of " in lines[0]
    assert [line[:5] for line in lines[2:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_a_run_stops_where_its_threshold_is_met(swept):
    _, changes, rows, _ = swept
    threshold = changes["threshold"]
    for row in rows:
        values = [value for _, value in row.trace]
        assert all(value > threshold for value in values[:-1])
        if row.status == "reached":
            assert values[-1] <= threshold
            assert row.steps == row.trace[-1][0]
        else:
            assert row.trace[-1][0] == row.max_steps == 4


@pytest.fixture
def played(monkeypatch):
    """Runs that are over at once, and the list of run folders that were read."""

    def train(preset, folder, **_):
        folder.path.mkdir(parents=True)
        folder.summary.write_text("{}")
        return {"text": "over"}

    def row(variant, folder):
        batch, seed = (int(x.split("_")[1]) for x in folder.path.parts[-2:])
        read.append((variant, batch, seed))
        return dataclasses.replace(ROW, variant=variant, batch=batch, seed=seed)

    read = []
    subject = batch_grid.Subject(0.1, 9999, 3, 4)
    monkeypatch.setattr(critical_batch, "_look", lambda *_: {"preset": subject})
    monkeypatch.setattr(critical_batch, "train_until", train)
    monkeypatch.setattr(critical_batch, "_row", row)
    return read


RUNS = [("preset", batch, seed) for batch in (8, 16) for seed in range(20)]


def test_each_run_folder_is_read_once_while_runs_end(tmp_path, played):
    counts = []

    def say(line):
        counts.append(len((tmp_path / "runs.jsonl").read_text().splitlines()))

    rows = run(tmp_path, say, seeds=20)
    # A row has been added before its run is told of.
    assert counts == list(range(1, 41))
    # Once when it ended, and once at the end, where all are put in order.
    assert sorted(played) == sorted(2 * RUNS)
    assert [(x.variant, x.batch, x.seed) for x in rows] == RUNS
    assert batch_rows.read(tmp_path / "runs.jsonl") == rows


def test_rows_that_others_write_or_cut_short_are_minded(tmp_path, played):
    path = tmp_path / "runs.jsonl"
    seen = []

    def say(line):
        seen.append(len(batch_rows.read(path)))
        text = path.read_text()
        number = len(seen)
        if number == 5:  # Another process adds a row, and is killed in the next one.
            path.write_text(text + text.splitlines()[0][:50])
        elif number == 10:  # Another one writes the file anew,
            critical_batch.collect(tmp_path)
        elif number == 15:  # or somebody deletes it,
            path.unlink()
        elif number == 20:  # or makes it shorter.
            path.write_text(text[:-50])

    run(tmp_path, say, seeds=20)
    # No row is lost, none is there twice (which cannot be read).
    assert seen == list(range(1, 41))


def test_a_row_that_another_process_has_added_is_not_added_again(tmp_path, played):
    run(tmp_path, seeds=2)
    one, other = critical_batch._Rows(tmp_path), critical_batch._Rows(tmp_path)
    with one, other:
        for rows in (one, other):
            rows.add("preset", 8, 0)
        batch_grid.claim(Study(**SMALL | {"seeds": 3}), tmp_path)
        summary = run_folder(tmp_path, "preset", 8, 2).summary
        summary.parent.mkdir(parents=True)
        summary.write_text("{}")
        for rows in (other, one, other):
            rows.add("preset", 8, 2)
    assert len(batch_rows.read(tmp_path / "runs.jsonl")) == 5


def test_a_study_that_was_killed_while_it_added_a_row_resumes(tmp_path, played):
    class Killed(Exception):
        pass

    def killed(line):
        path = tmp_path / "runs.jsonl"
        if len(path.read_text().splitlines()) == 7:
            path.write_text(path.read_text()[:-30])
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, killed, seeds=20)
    assert len(batch_rows.read(tmp_path / "runs.jsonl")) == 6
    played.clear()
    rows = run(tmp_path, seeds=20)
    assert [(x.variant, x.batch, x.seed) for x in rows] == RUNS
    assert len(played) == 2 * len(RUNS)


def test_a_study_that_is_started_again_does_nothing(swept):
    workdir, changes, rows, _ = swept
    before = {x: x.stat().st_mtime_ns for x in workdir.glob("*/b_*/seed_*/*.json*")}
    lines = []
    assert run(workdir, lines.append, **changes) == rows
    assert lines[-1] == "All 4 runs are finished."
    assert before == {
        x: x.stat().st_mtime_ns for x in workdir.glob("*/b_*/seed_*/*.json*")
    }


def test_a_study_grows_and_is_refused_with_other_settings(swept):
    workdir, changes, _, _ = swept
    other = changes | {"threshold": changes["threshold"] * 2}
    with pytest.raises(InputError, match="batch sizes of other settings: threshold is"):
        run(workdir, **other)
    other = changes | {"variants": {"a": {"beta_1": 0.1}}}
    with pytest.raises(InputError, match="batch sizes of other settings: variant a is"):
        run(workdir, **other)
    before = (workdir / "critical_batch.json").read_text()
    study = Study(**SMALL | changes | {"batches": (32, 8), "seeds": 2})
    grown = batch_grid.claim(study, workdir)
    assert (grown.batches, grown.seeds) == ([8, 16, 32], 2)
    assert len(grown.runs) == 2 * 3 * 2
    (workdir / "critical_batch.json").write_text(before)


def test_the_floor_is_the_distance_of_as_many_real_images(swept):
    workdir, _, _, _ = swept
    subject = batch_grid.subjects(workdir)["a"]
    assert subject.examples == 1797
    from tf_ttur.networks import dcgan

    network = dcgan.generator(32, 1, width=2, latent_dimension=100, seed=0)
    weights = sum(np.prod(x.shape) for x in network.trainable_variables)
    assert subject.generator == weights
    # Of d dimensions, n draws of the set itself leave tr(sigma) / n between the means
    # alone, and the covariances differ by more.
    with np.load(workdir / "a" / "reference.npz") as file:
        assert subject.floor > np.trace(file["sigma"]) / 64 / 2


def test_a_threshold_that_real_images_do_not_meet_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"threshold 1e-06 is not above .*raise --thre"
    ):
        run(tmp_path, threshold=1e-6)
    # Nothing was claimed, so another threshold may be given.
    assert not (tmp_path / "critical_batch.json").exists()


def test_a_batch_that_is_larger_than_the_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="a batch of 2048 is larger than the data set"):
        run(tmp_path, batches=(8, 2048), max_steps=9)


def test_a_run_that_diverges_is_a_row_of_its_own_kind(tmp_path):
    variants = {"wild": {"generator_lr": 1e30, "discriminator_lr": 1e30}}
    rows = run(tmp_path, variants=variants, max_steps=8)
    assert {row.status for row in rows} == {"diverged"}
    assert all(row.steps <= 8 for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (8,)}, "1 batch sizes were given; .* at least two"),
        ({"batches": (8, 8)}, "A batch size is given twice"),
        ({"batches": (0, 8)}, "batches.0. is 0; it must be >= 1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"max_steps": None}, "give --max_steps, --max_examples, or both"),
        ({"max_steps": 3}, "given up after 3 steps and measured every 4"),
        ({"max_steps": None, "max_examples": 8}, "given up after 1 steps"),
        ({"variants": {"a/b": {}}}, "A variant is called 'a/b'"),
        ({"variants": {"..": {}}}, r"A variant is called '\.\.'"),
        ({"variants": {"a": {"seed": 3}}}, "The variant a changes seed"),
        ({"variants": {"a": {"beta_1": 2.0}}}, "beta_1 is 2.0"),
        ({"preset": presets.get("text_wgan_gp_ttur")}, "is of text; the study"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Study(**SMALL | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": [8, "x"]}, r"batches\[1\] is 'x'"),
        ({"seeds": 10**9}, "seeds is 1000000000"),
        ({"variants": {"../x": {}}}, r"a variant is called '\.\./x'"),
        ({"variants": {"a": 3}}, "a variant is 3"),
        ({"variants": {"a": {"beta_1": "x"}}}, "beta_1 is 'x'"),
        ({"settings": {"width": 0}}, "width is 0"),
        ({"threshold": None}, "threshold is None"),
    ],
)
def test_a_file_that_was_edited_is_refused(tmp_path, change, message):
    batch_grid.claim(Study(**SMALL), tmp_path)
    path = tmp_path / "critical_batch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"critical_batch.json .*{message}"):
        critical_batch.load(tmp_path)


def test_a_damaged_file_of_subjects_is_refused(tmp_path):
    for text in ("[]", '{"a": 3}', '{"a": {"floor": "x"}}', '{"a": {"floor": 1.0}}'):
        (tmp_path / "subjects.json").write_text(text)
        with pytest.raises(InputError, match=r"subjects.json is damaged.*made again"):
            batch_grid.subjects(tmp_path)

"""The study against sets disturbed and measured one by one, and its file keeping."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

import fid
from fid import InputError, Statistics
from fid.metrics.inception_score import InceptionScore, inception_score
from fid.sources.source import Source
from fid.studies import disturbance_study
from fid.studies.disturbance_figures import panel, strips
from fid.studies.disturbance_study import (
    INDS,
    PAPER_NUMBERS,
    Curve,
    ScoreSums,
    make_plan,
    run,
)
from fid.studies.disturbances import LEVELS, DisturbedSource

pytest.importorskip("skimage", reason="the extra [disturbances] is not installed")

OTHERS = np.random.default_rng(9).integers(0, 256, (5, 12, 12, 3), "uint8")


class Toy:
    """Random projections of the pixels, as features and as logits."""

    name, dimension, channels, fingerprint = "toy", 6, 3, "ab" * 32
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __init__(self, fail_after=None):
        self.fail_after, self.seen = fail_after, 0
        random = np.random.default_rng(1)
        self.to_features = random.normal(size=(12 * 12 * 3, 6)) / 400
        self.to_logits = random.normal(size=(6, 4))

    def __call__(self, images):
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images):
        if self.fail_after is not None and self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        features = np.reshape(images, (len(images), -1)) @ self.to_features
        return features.astype("float32"), (features @ self.to_logits).astype("float32")


class NoClasses(Toy):
    features_and_logits = property()  # hasattr says no

    def __call__(self, images):
        return Toy.features_and_logits(self, images)[0]


@pytest.fixture
def source():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (90, 12, 12, 3)).cumsum(axis=1).cumsum(axis=2)
    return fid.open_images((x * (255 / x.max())).astype("uint8"))


def values(study):
    return {
        (curve.name, level): (distance, score)
        for curve in study.curves
        for level, distance, score in zip(
            curve.levels, curve.distances, curve.scores, strict=True
        )
    }


@pytest.mark.parametrize("definition", ["code", "paper"])
def test_each_cell_is_the_set_disturbed_and_measured_alone(
    source, tmp_path, definition
):
    plan = make_plan(source, num_images=70, definition=definition, splits=7)
    found = values(
        run(source, Toy(), plan, tmp_path, contamination=OTHERS, batch_size=16)
    )
    assert len(found) == 24
    reference = fid.compute_statistics(source, Toy())
    # All images in the order of the set, of which the test set is a part.
    whole = np.concatenate(list(source.batches(90)))
    if definition == "code":
        part = whole[:70]
    else:
        from fid.studies.disturbances import PartSource

        part = np.concatenate(
            [np.stack(b) for b in PartSource(source, 70, seed=0).batches(90)]
        )
    for (name, level), (distance, score) in found.items():
        disturbed = DisturbedSource(
            part, name, level, definition=definition, contamination=OTHERS
        )
        comparison = fid.compare(
            disturbed, reference, Toy(), metrics=("fid", "is"), is_splits=7
        )
        assert distance == pytest.approx(comparison.value, rel=1e-6, abs=1e-9)
        assert score.mean == pytest.approx(comparison.score.mean, rel=1e-9)
        assert score.std == pytest.approx(comparison.score.std, rel=1e-6)


def test_a_reference_measured_otherwise_is_told_of(source, tmp_path):
    plan = make_plan(source, disturbances=["blur"])
    assert run(source, Toy(), plan, tmp_path / "a").warnings == ()
    reference = fid.compute_statistics(source, Toy())
    reference.provenance["source_resolution"] = "64x64"
    study = run(source, Toy(), plan, tmp_path / "b", reference=reference)
    (warning,) = study.as_json()["warnings"]
    assert "source_resolution is '64x64' for array and '12x12' for undist" in warning


class Counted(Source):
    """A source that counts the images that are read from it."""

    def __init__(self, source):
        self.source, self.label, self.count = source, source.label, source.count
        self.read = 0

    def batches(self, size):
        for batch in self.source.batches(size):
            self.read += len(batch)
            yield batch

    @property
    def provenance(self):
        return self.source.provenance


def test_each_image_is_read_once_for_all_cells(source, tmp_path):
    plan = make_plan(source, disturbances=["blur", "swirl"])
    reference = fid.compute_statistics(source, Toy())
    counted, extractor = Counted(source), Toy()
    run(counted, extractor, plan, tmp_path, reference=reference, batch_size=30)
    assert counted.read == 90 + 2  # The first image is looked at twice more.
    assert extractor.seen == 90 * 7


class TestResume:
    PLAN = {"disturbances": ["noise", "swirl", "salt_pepper"]}  # noqa: RUF012

    @pytest.mark.parametrize("fail_after", [90, 90 + 200, 90 + 333, 90 + 10 * 40])
    def test_goes_on_where_it_stopped(self, source, tmp_path, fail_after):
        plan = make_plan(source, **self.PLAN)
        expected = values(run(source, Toy(), plan, tmp_path / "whole"))
        options = {"batch_size": 8, "save_seconds": 0}
        with pytest.raises(KeyboardInterrupt):
            run(source, Toy(fail_after), plan, tmp_path / "part", **options)
        kept = sum(
            Statistics.load(path).n for path in (tmp_path / "part/cells").glob("*.npz")
        )
        extractor = Toy()
        found = values(run(source, extractor, plan, tmp_path / "part", **options))
        assert extractor.seen == 90 * 10 - kept
        assert fail_after == 90 or kept > 0
        for key, (distance, score) in expected.items():
            assert found[key][0] == pytest.approx(distance, rel=1e-9, abs=1e-12)
            assert found[key][1].mean == pytest.approx(score.mean, rel=1e-12)

    def test_cells_that_stopped_at_two_places(self, source, tmp_path):
        """As where the machine failed while cells were being written."""
        plan = make_plan(source, **self.PLAN)
        expected = values(run(source, Toy(), plan, tmp_path / "whole"))
        for fail_after, chosen in ((90 + 10 * 24, "noise*"), (90 + 10 * 48, "swirl*")):
            folder = tmp_path / str(fail_after)
            with pytest.raises(KeyboardInterrupt):
                run(source, Toy(fail_after), plan, folder, batch_size=8, save_seconds=0)
            (tmp_path / "mixed/cells").mkdir(parents=True, exist_ok=True)
            for path in (folder / "cells").glob(chosen):
                path.rename(tmp_path / "mixed/cells" / path.name)
        found = values(run(source, Toy(), plan, tmp_path / "mixed", batch_size=11))
        for key, (distance, _) in expected.items():
            assert found[key][0] == pytest.approx(distance, rel=1e-9, abs=1e-12)

    def test_finished_cells_are_not_computed_again(self, source, tmp_path):
        plan = make_plan(source, **self.PLAN)
        first = run(source, Toy(), plan, tmp_path)
        again = run(source, Toy(fail_after=0), plan, tmp_path)
        assert again == first
        (tmp_path / "cells" / "swirl_2.npz").unlink()
        extractor = Toy()
        third = values(run(source, extractor, plan, tmp_path))
        assert extractor.seen == 90
        assert third == values(first)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "seed was 0 and is 1"),
            ({"num_images": 80}, "num_images was 90 and is 80"),
            ({"definition": "paper"}, "definition was 'code' and is 'paper'"),
            ({"levels": [0, 1]}, "levels was"),
        ],
    )
    def test_other_settings_are_refused(self, source, tmp_path, changes, message):
        run(source, Toy(), make_plan(source, **self.PLAN), tmp_path)
        plan = make_plan(source, **{**self.PLAN, **changes})
        with pytest.raises(InputError, match=message):
            run(source, Toy(), plan, tmp_path)

    def test_other_images_and_references_are_refused(self, source, tmp_path):
        plan = make_plan(source, **self.PLAN)
        run(source, Toy(), plan, tmp_path)
        inverted = fid.open_images(255 - np.concatenate(list(source.batches(90))))
        with pytest.raises(InputError, match="first_image_sha256 was"):
            run(inverted, Toy(), plan, tmp_path)
        reference = fid.compute_statistics(inverted, Toy())
        with pytest.raises(InputError, match="reference was"):
            run(source, Toy(), plan, tmp_path, reference=reference)

    def test_damaged_sums_are_refused(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        run(source, Toy(), plan, tmp_path)
        path = tmp_path / "cells" / "blur_1.npz"
        arrays = dict(np.load(path, allow_pickle=False))
        for broken in (arrays["score_p"][:3], arrays["score_p"].astype("float32")):
            np.savez(path, **{**arrays, "score_p": broken})
            with pytest.raises(InputError, match=r"blur_1.npz has score_p of shape"):
                run(source, Toy(), plan, tmp_path)


def test_cells_are_statistics_files_that_say_what_they_are(source, tmp_path):
    run(source, Toy(), make_plan(source, disturbances=["blur"]), tmp_path)
    statistics = Statistics.load(tmp_path / "cells" / "blur_2.npz")
    assert statistics.n == 90
    assert statistics.provenance["extractor"] == "toy"
    assert statistics.provenance["disturbance"] == "blur"
    assert statistics.provenance["level"] == 2.0
    blurred = DisturbedSource(source, "blur", 2.0)
    expected = fid.compute_statistics(blurred, Toy())
    np.testing.assert_allclose(statistics.mu, expected.mu, rtol=1e-6)


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (97, 7), (5, 5)])
def test_score_sums_are_the_inception_score(n, splits):
    logits = np.random.default_rng(n).normal(scale=40, size=(n, 12)).astype("float32")
    sums = ScoreSums(n, splits)
    for start in range(0, n, 9):
        sums.update(start, logits[start : start + 9])
    expected = inception_score(logits, splits=splits)
    assert sums.score().mean == pytest.approx(expected.mean, rel=1e-10)
    assert sums.score().std == pytest.approx(expected.std, rel=1e-8, abs=1e-10)


class TestCurve:
    CURVE = Curve(
        name="salt_pepper",
        levels=(0.0, 0.1, 0.2, 0.3),
        distances=(0.66, 371.0, 383.0, 381.0),
        scores=tuple(InceptionScore(x, 0.1) for x in (2.248, 2.988, 2.196, 1.903)),
        samples=50_000,
    )

    def test_forms_of_ind(self):
        """On the published scores of this panel; the figure shows 4 - IS."""
        assert self.CURVE.ind("figure") == pytest.approx((1.752, 1.012, 1.804, 2.097))
        assert self.CURVE.ind("levels") == pytest.approx((0.74, 0, 0.792, 1.085))
        assert self.CURVE.ind("samples")[0] == pytest.approx(49997.752)

    def test_says_where_the_distance_does_not_rise(self):
        found = self.CURVE.as_json()
        assert not found["rises"]
        assert found["falls_between"] == [[0.2, 0.3]]

    def test_published_numbers_stand_beside_ours(self):
        row = self.CURVE.as_json()["levels"][3]
        assert row["published"] == {"fid": 381.0, "score": 1.903}
        assert set(row["ind"]) == set(INDS)
        other = Curve("noise", (0.0, 0.1), (0.0, 1.0), None, 10).as_json()["levels"]
        assert "published" in other[0]
        assert "published" not in other[1]
        assert "ind" not in other[0]

    def test_published_table_is_whole(self):
        assert PAPER_NUMBERS.keys() == LEVELS.keys()
        assert {len(rows) for rows in PAPER_NUMBERS.values()} == {4}


def test_an_extractor_without_classes_gives_distances_alone(source, tmp_path):
    study = run(source, NoClasses(), make_plan(source, disturbances=["blur"]), tmp_path)
    assert study.curves[0].scores is None
    assert study.metric == "frechet_toy"
    panel(study, tmp_path / "panel.png")
    with Image.open(tmp_path / "panel.png") as image:
        assert image.width > image.height


def test_figures(source, tmp_path):
    plan = make_plan(source)
    study = run(source, Toy(), plan, tmp_path, contamination=OTHERS)
    panel(study, tmp_path / "panel.png", "samples")
    shown = disturbance_study.pictures(source, plan, 8, contamination=OTHERS)
    first = next(iter(source.batches(8)))
    np.testing.assert_array_equal(shown["blur"][0], first)
    np.testing.assert_array_equal(
        shown["swirl"][2],
        np.concatenate(
            [np.stack(b) for b in DisturbedSource(source, "swirl", 2.0).batches(90)]
        )[:8],
    )
    strips(shown, plan.levels, tmp_path / "strips.png")
    for name in ("panel", "strips"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert np.asarray(image).std() > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disturbances": ["fog"]}, "no disturbance 'fog'"),
        ({"disturbances": []}, "No disturbance is named"),
        ({"levels": []}, "No level is named"),
        ({"levels": [0.5, 2.0], "disturbances": ["noise"]}, "level of noise is 2"),
        ({"num_images": 91}, "91 images are to be taken of array, which has 90"),
        ({"num_images": 9}, "over 10 parts of 9 images"),
        ({"disturbances": ["blur"], "definition": "poster"}, "definition is 'poster'"),
    ],
)
def test_plans_that_cannot_be_are_refused(source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(source, Toy(), make_plan(source, **options), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# The program --------------------------------------------------------------------------


def program(*arguments):
    from tf_ttur.studies.disturbance_cli import disturbance_study as main

    return main(["disturbance_study.py", *map(str, arguments)])


@pytest.fixture
def folder(source, tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    for i, image in enumerate(np.concatenate(list(source.batches(90)))[:20]):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


class TestProgram:
    def test_dry_run_says_what_would_be_measured(self, folder, tmp_path, capsys):
        output = tmp_path / "out"
        chosen = "--disturbances=blur,salt_pepper"
        assert program(folder, f"--output={output}", chosen, "--dry_run") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["levels"] == {
            "blur": [0, 1, 2, 4],
            "salt_pepper": [0, 0.1, 0.2, 0.3],
        }
        assert found["images_to_measure"] == 20 * 7
        assert not output.exists()

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (["--disturbances=blur"], 2, "--output=DIR is missing"),
            (["--output=o"], 1, "--contamination, or leave it out with --dist"),
            (["--output=o", "--levels=a"], 2, "--levels=a: expected numbers"),
            (["--output=o", "--disturbances=fog"], 1, "no disturbance 'fog'"),
            (
                ["--output=o", "--disturbances=blur", "--contamination=x"],
                2,
                "goes with",
            ),
            (["--output=o", "--disturbances=blur", "--num_images=99"], 1, "has 20"),
        ],
    )
    def test_errors(
        self, folder, tmp_path, monkeypatch, capsys, arguments, status, message
    ):
        monkeypatch.chdir(tmp_path)
        assert program(folder, *arguments) == status
        assert message in capsys.readouterr().err
        assert not (tmp_path / "o").exists()

    def test_help_does_not_import_tensorflow(self):
        code = (
            "import sys; "
            "from tf_ttur.studies.disturbance_cli import disturbance_study as f; "
            "f(['disturbance_study.py', '--help']); "
            "sys.exit('tensorflow' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "--definition=code|paper" in done.stdout

    @pytest.mark.slow
    def test_paper_study_on_a_synthetic_graph(
        self, folder, tmp_path, synthetic_pb, capsys
    ):
        arguments = (
            folder, f"--output={tmp_path / 'out'}", f"--inception={synthetic_pb}",
            "--num_images=6", "--disturbances=noise,contamination", "--levels=0,0.5",
            f"--contamination={folder}", "--is_splits=2", "--json",
        )  # fmt: skip
        assert program(*arguments) == 0
        first = json.loads(capsys.readouterr().out)
        assert first["metric"] == "fid"
        assert first["score"] == "is"
        assert json.loads((tmp_path / "out" / "study.json").read_text()) == first
        comparison = fid.compare(
            DisturbedSource(
                fid.open_images(sorted(folder.iterdir())[:6]), "noise", 0.5
            ),
            folder,
            metrics=("fid", "is"),
            inception=synthetic_pb,
            is_splits=2,
        )
        row = first["disturbances"][0]["levels"][1]
        assert row["distance"] == pytest.approx(comparison.value, rel=1e-4)
        assert row["score"]["mean"] == pytest.approx(comparison.score.mean, rel=1e-4)
        assert program(*arguments) == 0  # from what is there
        assert json.loads(capsys.readouterr().out) == first

    @pytest.mark.slow
    def test_distance_rises_with_every_disturbance_of_the_digits(
        self, classifier, tmp_path, capsys
    ):
        assert program(f"--output={tmp_path}", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["metric"] == "frechet_digits"
        assert [curve["disturbance"] for curve in found["disturbances"]] == [*LEVELS]
        for curve in found["disturbances"]:
            assert curve["rises"], curve
            scores = [row["score"]["mean"] for row in curve["levels"]]
            assert 1 <= min(scores) <= max(scores) <= 10
        for name in ("panel", "strips"):
            with Image.open(tmp_path / f"{name}.png") as image:
                image.load()


def test_images_of_two_sizes_are_refused(tmp_path):
    mixed = [np.full((n, 12, 3), 9, np.uint8) for n in (12, 12, 10, 12)]
    source = fid.open_images(mixed)
    plan = make_plan(source, disturbances=["salt_pepper"], splits=2)
    reference = fid.compute_statistics(fid.open_images(mixed[:2]), Toy())
    with pytest.raises(InputError, match=r"Image 2 has shape \(10, 12, 3\)"):
        run(source, Toy(), plan, tmp_path, reference=reference, batch_size=4)


def test_levels_that_differ_late_have_files_of_their_own(source, tmp_path):
    plan = make_plan(
        source, disturbances=["salt_pepper"], levels=[0.3, 0.30000001, 1.0]
    )
    run(source, Toy(), plan, tmp_path)
    names = {path.name for path in (tmp_path / "cells").iterdir()}
    assert names == {
        "undisturbed_0.npz",
        "salt_pepper_0.3.npz",
        "salt_pepper_0.30000001.npz",
        "salt_pepper_1.npz",
    }


def test_settings_name_the_radius_that_was_used(source, tmp_path):
    for definition, radius in (("code", 70.0), ("paper", 25.0)):
        plan = make_plan(
            source, disturbances=["swirl"], definition=definition, swirl_radius=70.0
        )
        study = run(source, Toy(), plan, tmp_path / definition)
        assert study.settings["swirl_radius"] == radius


def test_one_image_is_too_few():
    one = fid.open_images(np.zeros((1, 12, 12, 3), np.uint8))
    with pytest.raises(InputError, match="needs 2 or more"):
        make_plan(one, splits=1)

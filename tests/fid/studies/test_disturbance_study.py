"""The study against sets disturbed and measured one by one, and its file keeping."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rounding
from image_folders import smooth_images
from toy_extractors import Projections, ProjectionsAlone

import fid
from fid import InputError, Statistics
from fid.metrics.inception_score import InceptionScore
from fid.sources.source import Source
from fid.studies import disturbance_study
from fid.studies.disturbance_study import (
    INDS,
    PAPER_NUMBERS,
    Curve,
    make_plan,
    run,
)
from fid.studies.disturbances import LEVELS, DisturbedSource, PartSource

pytestmark = pytest.mark.portable

pytest.importorskip("skimage", reason="the extra [disturbances] is not installed")

OTHERS = np.random.default_rng(9).integers(0, 256, (5, 12, 12, 3), "uint8")


@pytest.fixture
def source():
    return fid.open_images(smooth_images())


def near(distance, score, source):
    """Equal to a cell's numbers but for rounding, which is that of `Projections`.

    They are float32, and their sums in float64 depend on the batch, so that a few fall
    to the other side: each feature and logit may be off by two roundings. A deviation
    of scores moves by no more than they do, and no score is above the four classes.
    """
    whole = np.concatenate(list(source.batches(90)))
    features, logits = Projections().features_and_logits(whole)
    u = rounding.unit("float32")
    moved = rounding.frechet_of_features(distance, 2 * u * np.abs(features).max())
    moved += rounding.frechet(features, features)
    few = rounding.score(logits, 2 * u * np.abs(logits).max())
    return (
        pytest.approx(distance, rel=0, abs=moved),
        pytest.approx(score.mean, rel=few),
        pytest.approx(score.std, rel=0, abs=4 * few),
    )


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
        run(source, Projections(), plan, tmp_path, contamination=OTHERS, batch_size=16)
    )
    assert len(found) == 24
    reference = fid.compute_statistics(source, Projections())
    # All images in the order of the set, of which the test set is a part.
    whole = np.concatenate(list(source.batches(90)))
    if definition == "code":
        part = whole[:70]
    else:
        part = np.concatenate(
            [np.stack(b) for b in PartSource(source, 70, seed=0).batches(90)]
        )
    for (name, level), (distance, score) in found.items():
        disturbed = DisturbedSource(
            part, name, level, definition=definition, contamination=OTHERS
        )
        comparison = fid.compare(
            disturbed, reference, Projections(), metrics=("fid", "is"), is_splits=7
        )
        expected = near(comparison.value, comparison.score, source)
        assert (distance, score.mean, score.std) == expected


def test_a_reference_measured_otherwise_is_told_of(source, tmp_path):
    plan = make_plan(source, disturbances=["blur"])
    assert run(source, Projections(), plan, tmp_path / "a").warnings == ()
    reference = fid.compute_statistics(source, Projections())
    reference.provenance["source_resolution"] = "64x64"
    study = run(source, Projections(), plan, tmp_path / "b", reference=reference)
    (warning,) = study.as_json()["warnings"]
    assert "source_resolution is '64x64' for array and '12x12' for undist" in warning


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


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
    reference = fid.compute_statistics(source, Projections())
    counted, extractor = Counted(source), Projections()
    run(counted, extractor, plan, tmp_path, reference=reference, batch_size=30)
    assert counted.read == 90 + 2  # The first image is looked at twice more.
    assert extractor.seen == 90 * 7


class TestResume:
    PLAN = {"disturbances": ["noise", "swirl", "salt_pepper"]}  # noqa: RUF012

    @pytest.mark.parametrize("fail_after", [90, 90 + 200, 90 + 333, 90 + 10 * 40])
    def test_goes_on_where_it_stopped(self, source, tmp_path, fail_after):
        plan = make_plan(source, **self.PLAN)
        expected = values(run(source, Projections(), plan, tmp_path / "whole"))
        options = {"batch_size": 8, "save_seconds": 0}
        with pytest.raises(KeyboardInterrupt):
            run(source, Projections(fail_after), plan, tmp_path / "part", **options)
        kept = sum(
            Statistics.load(path).n for path in (tmp_path / "part/cells").glob("*.npz")
        )
        extractor = Projections()
        found = values(run(source, extractor, plan, tmp_path / "part", **options))
        assert extractor.seen == 90 * 10 - kept
        assert fail_after == 90 or kept > 0
        for key, (distance, score) in expected.items():
            again = found[key]
            expected = near(distance, score, source)
            assert (again[0], again[1].mean, again[1].std) == expected

    def test_cells_that_stopped_at_two_places(self, source, tmp_path):
        """As where the machine failed while cells were being written."""
        plan = make_plan(source, **self.PLAN)
        expected = values(run(source, Projections(), plan, tmp_path / "whole"))
        options = {"batch_size": 8, "save_seconds": 0}
        for fail_after, chosen in ((90 + 10 * 24, "noise*"), (90 + 10 * 48, "swirl*")):
            folder = tmp_path / str(fail_after)
            with pytest.raises(KeyboardInterrupt):
                run(source, Projections(fail_after), plan, folder, **options)
            (tmp_path / "mixed/cells").mkdir(parents=True, exist_ok=True)
            for path in (folder / "cells").glob(chosen):
                path.rename(tmp_path / "mixed/cells" / path.name)
            shutil.copy(folder / "settings.json", tmp_path / "mixed")
        found = values(
            run(source, Projections(), plan, tmp_path / "mixed", batch_size=11)
        )
        for key, (distance, score) in expected.items():
            assert found[key][0] == near(distance, score, source)[0]

    def test_finished_cells_are_not_computed_again(self, source, tmp_path):
        plan = make_plan(source, **self.PLAN)
        first = run(source, Projections(), plan, tmp_path)
        again = run(source, Projections(fail_after=0), plan, tmp_path)
        assert again == first
        (tmp_path / "cells" / "swirl_2.npz").unlink()
        extractor = Projections()
        third = values(run(source, extractor, plan, tmp_path))
        assert extractor.seen == 90
        assert third == values(first)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "seed is 0 there and 1 now"),
            ({"num_images": 80}, "num_images is 90 there and 80 now"),
            ({"definition": "paper"}, "definition is 'code' there and 'paper' now"),
            ({"levels": [0, 1]}, "levels is"),
        ],
    )
    def test_other_settings_are_refused(self, source, tmp_path, changes, message):
        run(source, Projections(), make_plan(source, **self.PLAN), tmp_path)
        plan = make_plan(source, **{**self.PLAN, **changes})
        with pytest.raises(InputError, match=message):
            run(source, Projections(), plan, tmp_path)

    def test_other_images_and_references_are_refused(self, source, tmp_path):
        plan = make_plan(source, **self.PLAN)
        run(source, Projections(), plan, tmp_path)
        inverted = fid.open_images(255 - np.concatenate(list(source.batches(90))))
        with pytest.raises(InputError, match="first_image_sha256 is"):
            run(inverted, Projections(), plan, tmp_path)
        reference = fid.compute_statistics(inverted, Projections())
        with pytest.raises(InputError, match="reference is"):
            run(source, Projections(), plan, tmp_path, reference=reference)

    def test_a_reference_of_other_images_is_refused(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        first = run(source, Projections(), plan, tmp_path)
        path = tmp_path / "reference.npz"
        other = fid.open_images(255 - np.concatenate(list(source.batches(90))))
        fid.compute_statistics(other, Projections()).save(path)
        before = contents(tmp_path)
        with pytest.raises(InputError, match=r"reference.npz is not the reference tha"):
            run(source, Projections(), plan, tmp_path)
        assert contents(tmp_path) == before
        path.unlink()
        assert run(source, Projections(), plan, tmp_path) == first

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("images", r"measured on other images than"),
            ("settings", r"its study is '[0-9a-f]{64}', not"),
            ("disturbance", r"its disturbance is 'swirl', not 'blur'"),
            ("level", r"its level is 2\.0, not 1\.0"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_a_cell_of_another_set_is_refused(
        self, source, tmp_path, change, message, finished
    ):
        options = {"disturbances": ["blur", "swirl"]}
        plan = make_plan(source, **options)
        # Given the reference, sets with the same first image have the same settings.
        reference = fid.compute_statistics(source, Projections())
        run(source, Projections(), plan, tmp_path / "a", reference=reference)
        others = source
        if change == "images":
            images = np.concatenate(list(source.batches(90)))
            images[1:, 0, 0] ^= 1
            others = fid.open_images(images)
        elif change == "settings":
            options["seed"] = 1
        plan_of_others = make_plan(others, **options)
        run(others, Projections(), plan_of_others, tmp_path / "b", reference=reference)
        name = {"disturbance": "swirl_1.npz", "level": "blur_2.npz"}.get(change)
        cells = tmp_path / "a/cells"
        shutil.copy(tmp_path / "b/cells" / (name or "blur_1.npz"), cells / "blur_1.npz")
        if not finished:
            (cells / "swirl_4.npz").unlink()
        with pytest.raises(InputError, match=message) as caught:
            run(source, Projections(), plan, tmp_path / "a", reference=reference)
        assert "blur_1.npz is no cell of this study" in str(caught.value)
        (cells / "blur_1.npz").unlink()
        again = run(source, Projections(), plan, tmp_path / "a", reference=reference)
        whole = run(source, Projections(), plan, tmp_path / "c", reference=reference)
        assert again == whole

    def test_a_study_of_an_earlier_version_resumes(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        first = run(source, Projections(), plan, tmp_path)
        settings = json.loads((tmp_path / "settings.json").read_text())
        del settings["reference_sha256"]
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        for path in (tmp_path / "cells").iterdir():
            arrays = dict(np.load(path))
            facts = json.loads(str(arrays["provenance"]))
            del facts["study"], facts["images_sha256"]
            np.savez(path, **arrays | {"provenance": json.dumps(facts)})
        extractor = Projections(fail_after=0)
        assert run(source, extractor, plan, tmp_path) == first
        assert "reference_sha256" in json.loads(
            (tmp_path / "settings.json").read_text()
        )

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            ({"num_images": True}, "num_images is True; it must be a whole number"),
            ({"levels": []}, r"levels is \[\]; it must be a JSON object"),
            ({"shape": [12, 0, 3]}, r"shape\[1\] is 0; it must be >= 1"),
            ({"reference": {}}, "reference lacks 'source'"),
            ({"reference_sha256": 1}, "reference_sha256 is 1; it must be a text"),
            ({"more": 1}, "more is 1 there and None now"),
            (None, "expected a JSON object with"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, source, tmp_path, edit, message):
        plan = make_plan(source, disturbances=["blur"])
        run(source, Projections(), plan, tmp_path)
        path = tmp_path / "settings.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({} if edit is None else settings | edit))
        before = contents(tmp_path)
        with pytest.raises(InputError, match=message) as caught:
            run(source, Projections(), plan, tmp_path)
        assert len(str(caught.value).splitlines()) == 1
        assert contents(tmp_path) == before

    def test_cells_without_settings_are_refused(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        run(source, Projections(), plan, tmp_path)
        (tmp_path / "settings.json").unlink()
        (tmp_path / "reference.npz").unlink()
        with pytest.raises(InputError, match=r"has cells/.*npz, and no settings.json"):
            run(source, Projections(), plan, tmp_path)
        assert not (tmp_path / "settings.json").exists()

    @pytest.mark.parametrize("again", [True, False])
    @pytest.mark.parametrize("before_reference", [True, False])
    def test_a_study_whose_folder_is_removed_stops(
        self, source, tmp_path, again, before_reference
    ):
        folder = tmp_path / "study"

        class Removing(Projections):
            def features_and_logits(self, images):
                found = super().features_and_logits(images)
                if self.seen > (0 if before_reference else 90 + 40) and not gone:
                    gone.append(folder.rename(tmp_path / "gone"))
                    if again:
                        folder.mkdir()
                return found

        gone = []
        plan = make_plan(source, disturbances=["blur"])
        with pytest.raises(InputError, match="removed, renamed or replaced under the"):
            run(source, Removing(), plan, folder, batch_size=8, save_seconds=0)
        assert not folder.exists() or list(folder.iterdir()) == []

    def test_two_processes_do_not_share_a_folder(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, sys; file = open(sys.argv[1], 'w');"
                "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()",
                tmp_path / ".lock",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            holder.stdout.readline()
            with pytest.raises(InputError, match="Another process is measuring in"):
                run(source, Projections(), plan, tmp_path)
            holder.stdin.close()
        run(source, Projections(), plan, tmp_path)

    def test_damaged_sums_are_refused(self, source, tmp_path):
        plan = make_plan(source, disturbances=["blur"])
        run(source, Projections(), plan, tmp_path)
        path = tmp_path / "cells" / "blur_1.npz"
        arrays = dict(np.load(path, allow_pickle=False))
        for broken in (arrays["score_p"][:3], arrays["score_p"].astype("float32")):
            np.savez(path, **{**arrays, "score_p": broken})
            with pytest.raises(InputError, match=r"blur_1.npz has score_p of shape"):
                run(source, Projections(), plan, tmp_path)


def test_cells_are_statistics_files_that_say_what_they_are(source, tmp_path):
    run(source, Projections(), make_plan(source, disturbances=["blur"]), tmp_path)
    statistics = Statistics.load(tmp_path / "cells" / "blur_2.npz")
    assert statistics.n == 90
    assert statistics.provenance["extractor"] == "toy"
    assert statistics.provenance["disturbance"] == "blur"
    assert statistics.provenance["level"] == 2.0
    blurred = DisturbedSource(source, "blur", 2.0)
    expected = fid.compute_statistics(blurred, Projections())
    # Features in float32, of which a mean may be smaller than they are.
    size = np.sqrt(np.square(expected.mu) + np.diag(expected.sigma)).max()
    atol = 2 * rounding.unit("float32") * size
    np.testing.assert_allclose(statistics.mu, expected.mu, rtol=0, atol=atol)


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
    plan = make_plan(source, disturbances=["blur"])
    study = run(source, ProjectionsAlone(), plan, tmp_path)
    assert study.curves[0].scores is None
    assert study.metric == "frechet_toy"


def test_pictures_are_the_first_images_disturbed(source):
    plan = make_plan(source)
    shown = disturbance_study.pictures(source, plan, 8, contamination=OTHERS)
    assert shown.keys() == plan.levels.keys()
    first = next(iter(source.batches(8)))
    np.testing.assert_array_equal(shown["blur"][0], first)
    swirled = next(iter(DisturbedSource(source, "swirl", 2.0).batches(8)))
    np.testing.assert_array_equal(shown["swirl"][2], swirled)


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
        run(source, Projections(), make_plan(source, **options), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_images_of_two_sizes_are_refused(tmp_path):
    mixed = [np.full((n, 12, 3), 9, np.uint8) for n in (12, 12, 10, 12)]
    source = fid.open_images(mixed)
    plan = make_plan(source, disturbances=["salt_pepper"], splits=2)
    reference = fid.compute_statistics(fid.open_images(mixed[:2]), Projections())
    with pytest.raises(InputError, match=r"Image 2 has shape \(10, 12, 3\)"):
        run(source, Projections(), plan, tmp_path, reference=reference, batch_size=4)


def test_levels_that_differ_late_have_files_of_their_own(source, tmp_path):
    plan = make_plan(
        source, disturbances=["salt_pepper"], levels=[0.3, 0.30000001, 1.0]
    )
    run(source, Projections(), plan, tmp_path)
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
        study = run(source, Projections(), plan, tmp_path / definition)
        assert study.settings["swirl_radius"] == radius


def test_one_image_is_too_few():
    one = fid.open_images(np.zeros((1, 12, 12, 3), np.uint8))
    with pytest.raises(InputError, match="needs 2 or more"):
        make_plan(one, splits=1)

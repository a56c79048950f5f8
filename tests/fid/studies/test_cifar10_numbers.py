"""Published numbers: the recipe, the table and the exit status, on small sets."""

import json
import time

import numpy as np
import pytest
from oracles import frechet_distance, inception_score
from PIL import Image
from toy_extractors import Noted

from fid import InputError
from fid.sources.images import open_images
from fid.stats_cli import verify_published
from fid.studies import cifar10, cifar10_numbers

SIZES = {"train": 70, "test": 40}


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return {
        split: random.integers(0, 256, (size, 32, 32, 3), np.uint8)
        for split, size in SIZES.items()
    }


def dumped(images, split, count, folder):
    """The images as torch-fidelity has them: chosen, saved, and read by name."""
    folder.mkdir()
    random = np.random.RandomState(2020)
    for index in random.choice(len(images[split]), count, replace=False):
        Image.fromarray(images[split][index]).save(folder / f"{index:05d}.png")
    (batch,) = open_images(folder).batches(count)
    return np.asarray(batch)


def measure(images, *targets):
    network = Noted()
    results = list(
        cifar10_numbers.measure_again(images, network, targets, batch_size=7)
    )
    return [result.measured for result in results], network


def test_chosen_images_are_those_of_the_recipe(images, tmp_path):
    cache = cifar10_numbers.FeatureCache(images, Noted(), batch_size=7)
    for split, count in (("train", 20), ("train", 70), ("test", 11)):
        expected = dumped(images, split, count, tmp_path / f"{split}{count}")
        chosen = images[split][cache.subset(split, count)]
        np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(cache.subset("test", None), np.arange(40))


def test_distance_is_that_of_the_chosen_images(images, tmp_path):
    (value,), network = measure(images, cifar10_numbers._distance("x", 0.0, 1.0, 30))
    sets = [dumped(images, split, 30, tmp_path / split) for split in ("train", "test")]
    expected = frechet_distance(*(network.features_and_logits(x)[0] for x in sets))
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [33, None])
@pytest.mark.parametrize("permute", [False, True])
def test_score_is_that_of_the_images_in_order(images, count, permute, tmp_path):
    (value,), network = measure(
        images, cifar10_numbers._score("x", 0.0, 1.0, "train", count, permute)
    )
    chosen = (
        images["train"]
        if count is None
        else dumped(images, "train", count, tmp_path / "d")
    )
    logits = network.features_and_logits(chosen)[1]
    if permute:
        logits = logits[np.random.RandomState(2020).permutation(len(logits))]
    assert value == pytest.approx(inception_score(logits, splits=10)[0], rel=1e-6)
    # The test has force: the order matters.
    other, _ = inception_score(logits[np.argsort(logits[:, 0])], splits=10)
    assert abs(value - other) > 1e-3


def test_every_image_is_measured_once_and_only_if_needed(images):
    few = cifar10_numbers._distance("few", 0.0, 1.0, 20)
    more = cifar10_numbers._score("more", 0.0, 1.0, "train", 30, True)
    _, network = measure(images, few, few, more)
    assert len(network.seen) == len(set(network.seen)) == 30 + 20
    _, network = measure(images, few, cifar10_numbers._distance("all", 0.0, 1.0, None))
    assert len(network.seen) == len(set(network.seen)) == 70 + 40


def test_what_cannot_be_measured_is_told_before_anything_is(images):
    with pytest.raises(
        InputError, match=r"more needs 71 images of train; there are 70"
    ):
        measure(
            images,
            cifar10_numbers._distance("few", 0.0, 1.0, 20),
            cifar10_numbers._score("more", 0.0, 1.0, "train", 71, True),
        )


@pytest.mark.parametrize(
    ("measured", "ok"), [(10.05, True), (9.95, True), (10.11, False), (np.nan, False)]
)
def test_agreement_is_within_the_tolerance(measured, ok):
    result = cifar10_numbers.Replication("x", 10.0, measured, 0.1)
    assert result.ok == ok
    found = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert found["ok"] == ok
    if np.isfinite(measured):
        assert found["difference"] == pytest.approx(measured - 10)


def test_targets_are_the_published_numbers():
    """Copied from the publications a second time, by name."""
    found = {
        each.name: (each.published, each.tolerance) for each in cifar10_numbers.TARGETS
    }
    assert found == {
        "fid_256": (110.28082617202443, 1e-2),
        "fid_5000": (10.3233274, 1e-4),
        "fid_train_test": (3.1508, 1e-3),
        "is_100": (4.51089784587268, 1e-4),
        "is_256": (6.675409920681458, 1e-3),
        "is_5000": (10.75051, 1e-2),
        "is_test": (10.98, 0.22),
        "is_train": (11.24, 0.2),
        "is_train_shuffled": (11.23678, 1e-2),
    }


class TestProgram:
    @pytest.fixture
    def prepared(self, images, tmp_path, monkeypatch):
        """CIFAR-10 on disk, small; a graph file; targets of which one disagrees."""
        import tensorflow_datasets as tfds

        real = tfds.builder("cifar10", data_dir=tmp_path)
        tfds.dataset_builders.store_as_tfds_dataset(
            name="cifar10",
            version=str(real.version),
            features=real.info.features,
            split_datasets={
                split: [
                    (i, {"id": f"{split}_{i:05d}", "image": image, "label": 0})
                    for i, image in enumerate(images[split])
                ]
                for split in SIZES
            },
            data_dir=tmp_path,
        )
        (tmp_path / "graph.pb").write_bytes(b"not looked at: the network is a stand-in")
        (true,), _ = measure(images, cifar10_numbers._distance("x", 0.0, 1.0, 20))
        monkeypatch.setattr(cifar10, "SIZES", SIZES)
        monkeypatch.setattr("fid.extractors.inception.Inception", lambda *_: Noted())
        targets = (
            cifar10_numbers._distance("fid_20", true + 0.005, 1e-2, 20),
            cifar10_numbers._score("is_all", 99.0, 0.2, "test", None, False),
        )
        monkeypatch.setattr(cifar10_numbers, "TARGETS", targets)
        self.true = true
        return [f"--data_dir={tmp_path}", f"--inception={tmp_path}/graph.pb"]

    def test_prints_a_row_for_each_number(self, prepared, capsys):
        assert verify_published(["verify_published.py", *prepared]) == 1
        captured = capsys.readouterr()
        headings, first, second = captured.out.splitlines()
        assert headings.split() == ["published", "measured", "difference", "tolerance"]
        numbers = [f"{self.true + 0.005:.6f}", f"{self.true:.6f}", "-0.005000", "0.01"]
        assert first.split() == ["fid_20", *numbers, "ok"]
        assert second.split()[0] == "is_all"
        assert second.split()[-2:] == ["0.2", "DIFFERS"]
        assert "1 of 2 numbers differ" in captured.err
        assert captured.err.count("\n") == 1

    def test_succeeds_where_all_asked_for_agree(self, prepared, capsys):
        assert verify_published(["x", "--only=fid_20", "--json", *prepared]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert found.pop("measured") == pytest.approx(self.true, rel=1e-12)
        assert found.pop("difference") == pytest.approx(-0.005, rel=1e-6)
        expected = self.true + 0.005
        assert found.pop("published") == pytest.approx(expected, rel=1e-12)
        assert found == {"name": "fid_20", "tolerance": 1e-2, "ok": True}

    def test_unknown_names_are_told(self, capsys):
        assert verify_published(["x", "--only=fid_256,fid_7"]) == 2
        assert "there is no fid_7; choose from is_100" in capsys.readouterr().err

    def test_missing_data_and_graph_are_told_at_once(
        self, prepared, tmp_path, capsys, monkeypatch
    ):
        started = time.monotonic()
        assert verify_published(["x", f"--data_dir={tmp_path}/nowhere"]) == 1
        assert "CIFAR-10 is not prepared" in capsys.readouterr().err
        monkeypatch.setenv("TTUR_INCEPTION", str(tmp_path / "none.pb"))
        assert verify_published(["x", prepared[0]]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "none.pb" in captured.err
        assert captured.err.count("\n") == 1
        assert time.monotonic() - started < 5

"""Published numbers: the recipe, the table and the exit status, on small sets."""

import json

import numpy as np
import pytest
import rounding
from oracles import frechet_distance, inception_score
from PIL import Image
from toy_extractors import Noted

from fid import InputError
from fid.sources.images import open_images
from fid.studies import cifar10_numbers

pytestmark = pytest.mark.portable

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
    features = [network.features_and_logits(x)[0] for x in sets]
    few = rounding.frechet(*features)
    assert value == pytest.approx(frechet_distance(*features), rel=0, abs=few)


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
    # A sine in float32 may be another where it is one of another number.
    few = rounding.score(logits, rounding.FUNCTION * rounding.unit("float32"))
    assert value == pytest.approx(inception_score(logits, splits=10)[0], rel=few)
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

"""The digits classifier: how well it sees, and that it is made once."""

import json
import shutil

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import fid
from fid.files import InputError
from tf_ttur import datasets
from tf_ttur.networks.classifier import digits_classifier


@pytest.fixture(scope="module")
def digits():
    return np.concatenate(list(datasets.load("digits").images())), load_digits().target


def test_it_classifies_digits_it_has_not_seen(classifier, digits):
    images, labels = digits
    assert classifier.accuracy > 0.97
    # Every fifth image is held out; the recorded share is that of a fresh prediction.
    model = keras.models.load_model(classifier.path)
    scores = model.predict(images[::5] / np.float32(127.5) - 1, verbose=0)
    found = np.mean(scores.argmax(axis=1) == labels[::5])
    assert classifier.accuracy == pytest.approx(found)


def test_its_features_tell_digits_from_noise(classifier, digits):
    images, _ = digits
    assert classifier.extractor.name == "digits"
    features = classifier.extractor(images)
    assert features.shape == (1797, 64)
    # Every feature says something: the covariance has full rank.
    assert np.linalg.eigvalsh(np.cov(features, rowvar=False))[0] > 1e-4
    # Other digits are near, noise is far.
    half = fid.compute_statistics(images[::2], classifier.extractor)
    other = fid.compute_statistics(images[1::2], classifier.extractor)
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    far = fid.compute_statistics(noise, classifier.extractor)
    assert fid.frechet_distance(half, other) * 20 < fid.frechet_distance(half, far)


def test_the_digits_classifier_is_made_once_and_guarded(
    classifier, digits, tmp_path, monkeypatch
):
    again = digits_classifier(*digits)
    assert again.extractor.fingerprint == classifier.extractor.fingerprint
    # In a copy of the cache, which other tests may be reading.
    shutil.copytree(classifier.path.parent, tmp_path / "cache")
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    facts = tmp_path / "cache" / classifier.path.with_suffix(".json").name
    before = facts.read_text()
    facts.write_text(before.replace(json.loads(before)["weights_sha256"], "0" * 64))
    with pytest.raises(InputError, match="is not what was recorded. Delete it and"):
        digits_classifier(*digits)
    right = json.loads(before)
    # An earlier version recorded no digest.
    del right["sha256"]
    facts.write_text(json.dumps(right))
    assert digits_classifier(*digits).accuracy == classifier.accuracy
    facts.write_text(json.dumps(right | {"weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="delete both"):
        digits_classifier(*digits)
    for wrong, message in (
        ({"accuracy": [1]}, "accuracy is .1.; it must be a number. Delete it and"),
        ({"accuracy": 97.5}, r"accuracy is 97.5; it must be in 0\.\.1"),
        ({"weights_sha256": None}, "weights_sha256 is None; it must be a text"),
    ):
        facts.write_text(json.dumps(right | wrong))
        with pytest.raises(InputError, match=message):
            digits_classifier(*digits)
    facts.write_text(json.dumps(json.loads(before) | {"accuracy": 0.5}))
    with pytest.raises(InputError, match="is not what was recorded. Delete it and"):
        digits_classifier(*digits)
    facts.write_text("[]")
    with pytest.raises(InputError, match="a JSON object with accuracy, weights_sha256"):
        digits_classifier(*digits)
    facts.write_text(before)
    (tmp_path / "cache" / classifier.path.name).write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        digits_classifier(*digits)


def test_digits_too_small_for_three_halvings_are_refused():
    with pytest.raises(InputError, match="7 pixels wide; at least 8"):
        digits_classifier(np.zeros((2, 7, 7, 1), np.uint8), np.zeros(2, int))

"""The callbacks in a plain `fit`, and the digits classifier."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import fid
import tf_ttur
from fid.files import InputError
from tf_ttur import callbacks

SHAPE = (4, 4, 1)


class Means:
    """An extractor with four features: the means of an image's rows."""

    name, dimension, fingerprint, channels = "means", 4, "0" * 64, 1
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __call__(self, images):
        return np.asarray(images, "float32").mean(axis=(2, 3))


def images(n=64):
    return np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE)).astype("float32")


def make(**options):
    generator = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(16, "tanh", kernel_initializer="ones"),
            keras.layers.Reshape(SHAPE),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(2))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss="wasserstein",
        jit_compile=False,
        **options,
    )
    return gan


def pixels():
    return (images() + 1) * 127.5


def reference():
    return fid.compute_statistics(pixels(), Means())


def distance(every, **options):
    return tf_ttur.FrechetDistance(
        reference(), every=every, num_samples=40, extractor=Means(), **options
    )


def test_the_distance_is_that_of_the_generated_images():
    gan, callback = make(), distance(1, seed=5, quantize="truncate")
    generated = np.floor((gan.generate(40, seed=5) + 1) * 127.5)
    expected = fid.frechet_distance(
        fid.compute_statistics(generated.astype("uint8"), Means()), reference()
    )
    assert callback.measure(gan) == pytest.approx(expected, rel=1e-9)
    assert callback.key == "frechet_means"


@pytest.mark.parametrize("steps_per_execution", [1, 2, 3])
def test_it_fires_when_a_multiple_is_crossed(steps_per_execution):
    gan = make(steps_per_execution=steps_per_execution)
    callback = distance(every=4, last=11)
    history = gan.fit(
        tf.data.Dataset.from_tensor_slices(images()).repeat().batch(8),
        steps_per_epoch=6,
        epochs=2,
        verbose=0,
        callbacks=[callback],
        shuffle=False,
    ).history
    fired = [step for step, _ in callback.values]
    crossed = {1: [4, 8, 11, 12], 2: [4, 8, 12], 3: [6, 9, 12]}[steps_per_execution]
    assert fired == crossed
    assert len(history["frechet_means"]) == 2
    assert history["frechet_means"][-1] == callback.values[-1][1]


def test_steps_are_right_where_executions_do_not_divide_the_epoch(tmp_path):
    callback = distance(every=12)
    make(steps_per_execution=4).fit(
        images(80),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[callback, callbacks.MetricsLog(tmp_path / "m.jsonl")],
    )
    # Executions end at steps 4, 8, 10, 14, 18 and 20.
    assert [step for step, _ in callback.values] == [14]
    rows = callbacks.MetricsLog.read(tmp_path / "m.jsonl")
    assert [row["step"] for row in rows] == [10, 20]


def test_a_reference_of_another_extractor_is_refused_at_once():
    ours = reference()
    for facts in ({"extractor": "other"}, {"extractor_sha256": "1" * 64}):
        theirs = fid.Statistics(ours.mu, ours.sigma, provenance=facts)
        with pytest.raises(InputError, match="Compute them again"):
            tf_ttur.FrechetDistance(theirs, every=1, extractor=Means())
    with pytest.raises(InputError, match="have 5 dimensions"):
        tf_ttur.FrechetDistance(
            fid.Statistics(np.zeros(5), np.eye(5)), every=1, extractor=Means()
        )


def test_measuring_does_not_change_training():
    def trained(*more):
        gan = make()
        gan.fit(images(), batch_size=8, verbose=0, shuffle=False, callbacks=[*more])
        return [v.numpy() for v in gan.weights]

    for one, two in zip(trained(), trained(distance(every=2)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_2015_graph_alone_gives_fid():
    class Inception(Means):
        name = "inception_2015"

    callback = tf_ttur.FrechetDistance(pixels(), every=1, extractor=Inception())
    assert callback.key == "fid"


def test_a_reference_may_be_a_file_or_images(tmp_path):
    reference().save(tmp_path / "real.npz")
    values = [
        tf_ttur.FrechetDistance(each, every=1, num_samples=40, extractor=Means())
        .measure(make())
        for each in (tmp_path / "real.npz", pixels(), reference())
    ]  # fmt: skip
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="every must be"):
        distance(0)
    with pytest.raises(ValueError, match="num_samples must be"):
        tf_ttur.FrechetDistance(reference(), 1, num_samples=1, extractor=Means())


def test_the_guard_names_the_step_and_the_loss():
    data = images(24)
    data[17] = np.inf
    with pytest.raises(callbacks.Diverged, match=r"d_loss, .* became .* at step 3"):
        make().fit(
            data, batch_size=8, verbose=0, shuffle=False,
            callbacks=[tf_ttur.NaNGuard()],
        )  # fmt: skip


def test_rows_of_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    make().fit(
        images(), batch_size=16, epochs=3, verbose=0,
        callbacks=[callbacks.MetricsLog(path)],
    )  # fmt: skip
    rows = callbacks.MetricsLog.read(path)
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert all(row["d_lr"] == pytest.approx(1e-3) for row in rows)
    assert 0 <= rows[0]["minutes"] <= rows[1]["minutes"]
    with open(path, "a") as file:
        file.write('{"step": 16')
    assert callbacks.MetricsLog.read(path) == rows
    assert callbacks.MetricsLog.cut(path, 8) == rows[:2]
    assert len(path.read_text().splitlines()) == 2
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(InputError, match="line 1 is not JSON"):
        callbacks.MetricsLog.read(path)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    log = callbacks.MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"fid": float("nan"), "d_loss": 1.5})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["fid"] is None
    assert row["d_loss"] == 1.5


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    samples = callbacks.SampleGrid(tmp_path / "samples", count=9)
    log = callbacks.TensorBoardLog(tmp_path / "log", samples, config={"a": 1})
    make().fit(images(), batch_size=16, epochs=2, verbose=0, callbacks=[samples, log])
    (path,) = (tmp_path / "log").iterdir()
    tags, pictures = {}, {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
            if value.tag == "samples":
                encoded = tf.make_ndarray(value.tensor)[2]
                pictures[event.step] = tf.io.decode_png(encoded).numpy()
    assert tags["d_loss"] == tags["samples"] == [4, 8]
    assert tags["config"] == [0]
    # The picture is that of the folder, of the same step.
    for step, picture in pictures.items():
        png = tmp_path / "samples" / f"step_{step:08d}.png"
        np.testing.assert_array_equal(picture[..., 0], np.asarray(Image.open(png)))
    assert not np.array_equal(pictures[4], pictures[8])


def test_tensorboard_needs_no_pictures(tmp_path):
    log = callbacks.TensorBoardLog(tmp_path)
    make().fit(images(), batch_size=16, verbose=0, callbacks=[log])
    (path,) = tmp_path.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert "d_loss" in tags
    assert "samples" not in tags


def test_the_digits_classifier_is_made_once_and_guarded(
    classifier, tmp_path, monkeypatch
):
    from sklearn.datasets import load_digits

    from tf_ttur import datasets
    from tf_ttur.networks.classifier import digits_classifier

    digits = np.concatenate(list(datasets.load("digits").images()))
    labels = load_digits().target
    first = classifier
    assert first.accuracy > 0.97
    assert first.extractor.name == "digits"
    again = digits_classifier(digits, labels)
    assert again.extractor.fingerprint == first.extractor.fingerprint
    features = first.extractor(digits)
    assert features.shape == (1797, 64)
    # Every feature says something: the covariance has full rank.
    assert np.linalg.eigvalsh(np.cov(features, rowvar=False))[0] > 1e-4
    # Other digits are near, noise is far.
    half = fid.compute_statistics(digits[::2], first.extractor)
    other = fid.compute_statistics(digits[1::2], first.extractor)
    noise = np.random.default_rng(0).integers(0, 256, digits.shape, dtype=np.uint8)
    far = fid.compute_statistics(noise, first.extractor)
    assert fid.frechet_distance(half, other) * 20 < fid.frechet_distance(half, far)

    # In a copy of the cache, which other tests may be reading.
    shutil.copytree(first.path.parent, tmp_path / "cache")
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    facts = tmp_path / "cache" / first.path.with_suffix(".json").name
    before = facts.read_text()
    facts.write_text(before.replace(json.loads(before)["weights_sha256"], "0" * 64))
    with pytest.raises(InputError, match="delete both"):
        digits_classifier(digits, labels)

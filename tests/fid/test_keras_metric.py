import json
import pathlib

import keras
import numpy as np
import pytest
import rounding
import synthetic_graph
import tensorflow as tf
from oracles import frechet_distance

import fid
from fid.extractors.extractor import KerasExtractor
from fid.files import InputError
from fid.keras_metric import FrechetInceptionDistance

pytestmark = pytest.mark.portable


@pytest.fixture(scope="module")
def extractor():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    return KerasExtractor(model, "tiny")


def images(n, seed, scale=1.0):
    random = np.random.default_rng(seed)
    return (random.uniform(0, 255, (n, 8, 8, 3)) * scale).astype(np.uint8)


def near(real, generated, extractor):
    """Equal to the distance of two sets of images, but for rounding.

    Sums over images are in float64 and in another order. Features may differ from one
    batch to another, since a convolution's sums are split by the images that there are:
    here they are sums of 27 products, and means of 36 of these.
    """
    x, y = extractor(real), extractor(generated)
    value = frechet_distance(x, y)
    size = np.sqrt(np.mean(np.square([*x, *y], dtype=np.float64)))
    error = size * rounding.random_sums(27 + 36)
    moved = rounding.frechet_of_features(value, error) + rounding.frechet(x, y)
    return pytest.approx(value, rel=0, abs=moved)


REAL, GENERATED = images(40, 0), images(30, 1, 0.8)


def test_batches_of_both_sides(extractor):
    metric = FrechetInceptionDistance(extractor=extractor)
    assert metric.name == "frechet_tiny"
    metric.update_state(REAL[:5], GENERATED[:20])
    metric.update_state(None, GENERATED[20:])
    metric.update_state(REAL[5:], None)
    result = metric.result()
    assert isinstance(result, float)
    assert result == near(REAL, GENERATED, extractor)
    # Again, and as Keras's shorthand: nothing was used up.
    assert metric.result() == result
    assert metric(None, None) == result


def test_it_is_a_keras_metric(extractor):
    metric = FrechetInceptionDistance(extractor=extractor, name="mine")
    assert isinstance(metric, keras.metrics.Metric)
    assert metric.name == "mine"
    assert fid.FrechetInceptionDistance is FrechetInceptionDistance


def test_tensors_and_float_ranges(extractor):
    exact = FrechetInceptionDistance(extractor=extractor)
    exact.update_state(REAL, GENERATED)
    scaled = FrechetInceptionDistance(
        extractor=extractor, value_range=(-1, 1), quantize="round"
    )
    scaled.update_state(
        *[tf.constant(x / np.float32(127.5) - 1) for x in (REAL, GENERATED)]
    )
    assert scaled.result() == exact.result()
    with pytest.raises(InputError, match="value_range"):
        exact.update_state(REAL / 255, GENERATED / 255)


@pytest.mark.parametrize("kind", ["statistics", "file", "images"])
def test_a_reference_computed_before(extractor, tmp_path, kind):
    statistics = fid.compute_statistics(REAL, extractor)
    statistics.save(tmp_path / "real.npz")
    reference = {
        "statistics": statistics,
        "file": tmp_path / "real.npz",
        "images": REAL,
    }[kind]
    metric = FrechetInceptionDistance(reference, extractor=extractor)
    metric.update_state(GENERATED[:9])
    metric.update_state(GENERATED[9:])
    assert metric.result() == near(REAL, GENERATED, extractor)
    metric.reset_state()
    with pytest.raises(InputError, match="at least 2 generated images; 0 came"):
        metric.result()
    metric.update_state(GENERATED)
    assert metric.result() == near(REAL, GENERATED, extractor)


def test_a_reference_of_another_extractor_is_refused(extractor):
    other = fid.Statistics(mu=np.zeros(5), sigma=np.eye(5), label="other.npz")
    with pytest.raises(InputError, match=r"other\.npz have 5 dimensions"):
        FrechetInceptionDistance(other, extractor=extractor)


@pytest.mark.parametrize("reset_real", [True, False])
def test_reset_state(extractor, reset_real):
    metric = FrechetInceptionDistance(extractor=extractor, reset_real=reset_real)
    metric.update_state(REAL, GENERATED[:15])
    metric.reset_state()
    metric.update_state(REAL if reset_real else None, GENERATED)
    assert metric.result() == near(REAL, GENERATED, extractor)


def test_merge_state_is_the_whole(extractor):
    shards = [FrechetInceptionDistance(extractor=extractor) for _ in range(3)]
    for index, shard in enumerate(shards):
        shard.update_state(REAL[index::3], GENERATED[index::3])
    shards[0].merge_state(shards[1:])
    value = near(REAL, GENERATED, extractor)
    assert shards[0].result() == value
    assert shards[1].result() != value


def test_merge_state_refuses_other_metrics_and_changes_nothing(extractor):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    metric = FrechetInceptionDistance(extractor=extractor)
    metric.update_state(REAL, GENERATED)
    before = metric.result()
    same = FrechetInceptionDistance(extractor=extractor)
    same.update_state(GENERATED, REAL)
    for other, message in (
        (FrechetInceptionDistance(extractor=KerasExtractor(model, "x")), "weights"),
        (FrechetInceptionDistance(REAL, extractor=extractor), "same reference"),
    ):
        with pytest.raises(InputError, match=message):
            metric.merge_state([same, other])
        assert metric.result() == before


def test_a_wrong_side_leaves_the_other_unchanged(extractor):
    metric = FrechetInceptionDistance(extractor=extractor)
    metric.update_state(REAL, GENERATED)
    before = metric.result()
    with pytest.raises(InputError):
        metric.update_state(REAL, np.full((2, 8, 8, 3), np.nan))
    assert metric.result() == before


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_sets_is_said(extractor, count):
    metric = FrechetInceptionDistance(extractor=extractor)
    with pytest.raises(
        InputError, match=r"update_state\(real_images, generated_images\)"
    ):
        metric.update_state(*[REAL] * count)
    metric = FrechetInceptionDistance(REAL, extractor=extractor)
    if count != 1:
        with pytest.raises(InputError, match=r"update_state\(generated_images\)"):
            metric.update_state(*[REAL] * count)


def test_inside_of_a_function_it_says_where_to_call_it(extractor):
    metric = FrechetInceptionDistance(extractor=extractor)

    @tf.function
    def update(x):
        metric.update_state(x, x)

    @tf.function
    def result():
        return metric.result()

    with pytest.raises(RuntimeError, match="compiled step; call update_state"):
        update(tf.zeros([2, 8, 8, 3]))
    with pytest.raises(RuntimeError, match="compiled step; call result"):
        result()


def test_weights_are_refused(extractor):
    metric = FrechetInceptionDistance(extractor=extractor)
    with pytest.raises(InputError, match="sample_weight"):
        metric.update_state(REAL, GENERATED, sample_weight=np.ones(len(REAL)))


def test_in_a_keras_model_that_runs_eagerly(extractor):
    class Identity(keras.Model):
        def call(self, x):
            return x

    model = Identity()
    model.compile(
        loss="mse",
        metrics=[FrechetInceptionDistance(extractor=extractor, value_range="0,255")],
        run_eagerly=True,
    )
    real, fake = REAL[:30].astype(np.float32), GENERATED.astype(np.float32)
    found = model.evaluate(fake, real, batch_size=10, verbose=0, return_dict=True)
    # Keras keeps the values of metrics as float32.
    value = near(REAL[:30], GENERATED, extractor)
    value.abs += rounding.gamma(1, "float32") * value.expected
    assert found["frechet_tiny"] == value


def test_grey_images_are_repeated(extractor):
    grey = REAL[..., :1]
    metric = FrechetInceptionDistance(extractor=extractor)
    metric.update_state(grey, GENERATED)
    assert metric.result() == near(np.repeat(grey, 3, -1), GENERATED, extractor)


def test_the_2015_graph_is_called_fid(synthetic_pb):
    metric = FrechetInceptionDistance(
        inception=synthetic_pb, quantize="round", value_range=(0, 255)
    )
    assert metric.name == "fid"
    config = metric.get_config()
    assert config["value_range"] == "0,255"
    assert json.loads(json.dumps(config)) == config
    again = FrechetInceptionDistance.from_config(config)
    assert again.name == "fid"
    assert again.extractor.fingerprint == metric.extractor.fingerprint
    metric.update_state(REAL[:3], GENERATED[:2])
    again.update_state(REAL[:3], GENERATED[:2])
    one, two = (metric.extractor(x) for x in (REAL[:3], GENERATED[:2]))
    # In float64 from the features; of two images there is one direction of variance.
    shift = one.mean(0, dtype=np.float64) - two.mean(0, dtype=np.float64)
    s1, s2 = (np.cov(x.astype(np.float64), rowvar=False) for x in (one, two))
    u = (two[0].astype(np.float64) - two[1]) / np.sqrt(2)
    root = np.sqrt(u @ s1 @ u)
    value = shift @ shift + np.trace(s1) + np.trace(s2) - 2 * root
    error = synthetic_graph.rounding_error(np.concatenate([one, two]))
    moved = rounding.frechet_of_features(value, error) + rounding.frechet(one, two)
    assert metric.result() == pytest.approx(value, rel=0, abs=moved)
    assert again.result() == pytest.approx(metric.result(), rel=0, abs=moved)


def test_objects_are_not_written_into_a_config(extractor):
    metric = FrechetInceptionDistance(extractor=extractor)
    with pytest.raises(InputError, match="extractor=KerasExtractor"):
        metric.get_config()
    with pytest.raises(InputError, match="leave one out"):
        FrechetInceptionDistance(extractor=extractor, inception=pathlib.Path("x.pb"))

import copy
import hashlib
import importlib.util
import json

import numpy as np
import pytest
import rounding
import synthetic_graph
import tensorflow as tf

from fid.extractors.inception import Inception, _runs_of_one_size
from fid.files import InputError
from fid.metrics.frechet import frechet_distance
from fid.statistics import Moments

pytestmark = pytest.mark.portable

# What two programs' features may differ by: sums of floats through some fifty layers.
allowed = synthetic_graph.allowed

SIZES = [
    *[(1, 1), (8, 8), (28, 28), (32, 32), (64, 48), (299, 299), (400, 350)],
    (1024, 768),
]


def random_image(height, width, seed=0):
    # Waves and noise: neither all features alike, nor all pixels smooth.
    random = np.random.default_rng([height, width, seed])
    y, x = np.mgrid[:height, :width][..., None]
    waves = np.sin(x * random.normal(0, 0.2, 3) + y * random.normal(0, 0.2, 3))
    noise = random.normal(0, 30, [height, width, 3])
    return np.clip(127.5 + 100 * waves + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def inception(synthetic_pb):
    return Inception(synthetic_pb, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return [random_image(height, width) for height, width in SIZES]


@pytest.fixture(scope="module")
def oracle(synthetic_pb, images):
    pool, logits, softmax = synthetic_graph.v1_run(
        synthetic_pb, images, ["pool_3:0", "softmax/logits/MatMul:0", "softmax:0"]
    )
    return pool.reshape(-1, 2048), logits, softmax


@pytest.fixture(scope="module")
def outputs(inception, images):
    return inception.features_and_logits(images)


def test_facts(inception, synthetic_pb):
    assert inception.name == "inception_2015"
    assert inception.dimension == 2048
    digest = hashlib.sha256(synthetic_pb.read_bytes()).hexdigest()
    assert inception.fingerprint == digest
    assert json.loads(json.dumps(inception.protocol)) == inception.protocol
    assert "align_corners=False" in inception.protocol["resize"]


def test_features_and_logits_are_those_of_the_v1_session(outputs, oracle):
    features, logits = outputs
    assert features.dtype == logits.dtype == np.float32
    assert features.shape == (8, 2048)
    assert logits.shape == (8, 1008)
    # The test has force: features are of order one and differ between the images.
    assert 0.2 < oracle[0].mean() < 1
    assert oracle[0].std(0).mean() > 0.05
    np.testing.assert_allclose(features, oracle[0], **allowed(oracle[0]))
    np.testing.assert_allclose(logits, oracle[1], **allowed(oracle[1]))


def test_the_network_amplifies_no_more_than_the_tolerances_say(inception):
    random = np.random.default_rng(0)
    images = random.normal(127.5, 60, (3, 299, 299, 3)).clip(5, 250)
    noise = random.normal(0, 0.06, images.shape)  # a thousandth
    relative = np.std(noise) / np.sqrt(np.mean(np.square(images - 128)))
    outputs = inception.features_and_logits(images.astype(np.float32))
    moved = inception.features_and_logits((images + noise).astype(np.float32))
    for one, two in zip(outputs, moved, strict=True):
        change = np.sqrt(np.mean((two - one) ** 2) / np.mean(one**2)) / relative
        assert 1 < change < synthetic_graph.AMPLIFIED


def test_the_biases_complete_the_logits(outputs, oracle, synthetic_pb):
    (biases,) = synthetic_graph.v1_run(
        synthetic_pb, [np.zeros([1, 1, 3])], ["softmax/biases:0"]
    )
    logits = outputs[1] + biases
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    # A probability p changes by p times the change of its logit less the mean change,
    # and its own sum of 1008 exponentials is rounded as well.
    change = 2 * allowed(outputs[1])["atol"]
    change += rounding.gamma(1008 + 2 * rounding.FUNCTION, "float32")
    np.testing.assert_allclose(softmax, oracle[2], rtol=change, atol=0)


@pytest.mark.slow
def test_xla_changes_rounding_only(synthetic_pb, images, outputs):
    compiled = Inception(synthetic_pb, batch_size=3, jit_compile=True)
    features, logits = compiled.features_and_logits(images)
    np.testing.assert_allclose(features, outputs[0], **allowed(outputs[0]))
    np.testing.assert_allclose(logits, outputs[1], **allowed(outputs[1]))


@pytest.mark.slow
def test_the_distance_does_not_depend_on_the_batch_size(synthetic_pb):
    images = np.stack([random_image(24, 24, seed) for seed in range(53)])
    inception = Inception(synthetic_pb)
    distances = []
    for batch_size in (50, 1, 7, 64):
        inception.batch_size = batch_size
        moments = [Moments(2048), Moments(2048)]
        features = inception(images)
        moments[0].update(features)
        moments[1].update(inception(images[:2] // 2))
        distances.append(frechet_distance(*[each.statistics() for each in moments]))
    assert distances[0] > 1
    # Batches of other sizes are other programs.
    error = synthetic_graph.rounding_error(features)
    atol = rounding.frechet_of_features(distances[0], error)
    np.testing.assert_allclose(distances, distances[0], rtol=0, atol=atol)


def test_dtype_array_or_sequence_and_neighbours_do_not_matter(inception):
    batch = np.stack([random_image(32, 32, seed) for seed in range(3)])
    features = inception(batch)
    np.testing.assert_array_equal(inception(list(batch)), features)
    for dtype in (np.float32, np.float64, np.int64):
        np.testing.assert_array_equal(inception(batch.astype(dtype)), features)
    alone = inception(batch[1:2])[0]
    np.testing.assert_allclose(alone, features[1], **allowed(features))
    # That is less than neighbours differ by.
    assert np.abs(features[0] - features[1]).max() > 100 * allowed(features)["atol"]


def test_large_images_are_resized_few_at_a_time(inception):
    batch = np.stack([random_image(32, 32, seed) for seed in range(4)])
    features, cautious = inception(batch), copy.copy(inception)
    for most, sizes in ((3 * batch[0].nbytes, [3, 1]), (1, [1, 1, 1, 1])):
        cautious.resize_bytes = most
        for images in (batch, list(batch)):
            assert [len(run) for run in _runs_of_one_size(images, most)] == sizes
            np.testing.assert_array_equal(cautious(images), features)


def test_tensor_float_32_is_off_during_the_call_alone(inception, monkeypatch):
    config = tf.config.experimental
    switched = []
    original = config.enable_tensor_float_32_execution

    def switch(on):
        switched.append(on)
        original(on)

    monkeypatch.setattr(config, "enable_tensor_float_32_execution", switch)
    before = config.tensor_float_32_execution_enabled()
    assert before
    inception(np.zeros([1, 4, 4, 3], np.uint8))
    assert switched == [False, True]
    assert config.tensor_float_32_execution_enabled() is before


@pytest.mark.slow
def test_only_one_batch_size_is_compiled(synthetic_pb):
    inception = Inception(synthetic_pb, batch_size=9, jit_compile=True)
    compiled = []

    def network(images):
        compiled.append(len(images))
        return np.zeros([len(images), 2048]), np.zeros([len(images), 1008])

    inception._network = network
    for n in (1, 9, 10, 20):
        assert inception(np.zeros([n, 4, 4, 3], np.uint8)).shape == (n, 2048)
    assert compiled == [9] * 7


@pytest.mark.slow
@pytest.mark.parametrize("scale_after_normalization", [True, False])
def test_gamma_and_epsilon_are_honoured(tmp_path, scale_after_normalization):
    path = synthetic_graph.write_synthetic_graph(
        tmp_path / "graph.pb",
        seed=1,
        random_gamma=True,
        scale_after_normalization=scale_after_normalization,
        variance_epsilon=0.1,
    )
    images = [random_image(32, 32), random_image(20, 30)]
    expected, _ = synthetic_graph.v1_features(path, images)
    features = Inception(path, batch_size=2)(images)
    np.testing.assert_allclose(features, expected, **allowed(expected))


# --- As a function of tensors


TFGAN = importlib.util.find_spec("tensorflow_gan") is not None


@pytest.fixture(scope="module")
def batch():
    return np.stack([random_image(32, 32, seed) for seed in range(6)])


@pytest.mark.parametrize(
    ("value_range", "convert"),
    [
        ("0,255", lambda x: x),
        ("0,255", lambda x: x.astype(np.float64)),
        ("0,1", lambda x: x / np.float32(255)),
        ((-1, 1), lambda x: x / np.float32(127.5) - 1),
    ],
)
def test_classifier_fn_is_the_network(inception, batch, value_range, convert):
    features, logits = inception.features_and_logits(batch)
    images = tf.constant(convert(batch))
    both = inception.classifier_fn(["pool_3", "logits"], value_range)
    for run in (both, tf.function(both)):
        found = run(images)
        assert list(found) == ["pool_3", "logits"]
        np.testing.assert_allclose(found["pool_3"], features, **allowed(features))
        np.testing.assert_allclose(found["logits"], logits, **allowed(logits))
    one = inception.classifier_fn("logits", value_range)(images)
    np.testing.assert_array_equal(one, both(images)["logits"])


@pytest.mark.parametrize("value", [1.5, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
def test_classifier_fn_refuses_values_outside_of_its_range(inception, value, wrap):
    images = np.zeros([2, 8, 8, 3], np.float32)
    images[1, 2, 3, 1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not all in \[-1, 1\]"):
        wrap(inception.classifier_fn())(tf.constant(images))


def test_classifier_fn_names_what_there_is(inception):
    with pytest.raises(InputError, match="no output 'pool'; choose pool_3 or logits"):
        inception.classifier_fn("pool")
    with pytest.raises(InputError, match="value_range is '0-1'; choose from"):
        inception.classifier_fn(value_range="0-1")


@pytest.mark.slow
@pytest.mark.skipif(not TFGAN, reason="TF-GAN is not installed")
def test_tfgan_takes_the_classifier_fn(inception, batch):
    from tf_ttur import tfgan

    evaluation = tfgan.load().eval
    batch = np.concatenate([batch, batch[:, ::-1]])
    images = tf.constant(batch / np.float32(127.5) - 1)
    features, logits = inception.features_and_logits(batch)

    found = evaluation.run_classifier_fn(
        images,
        inception.classifier_fn(["pool_3", "logits"]),
        num_batches=3,
        dtypes={"pool_3": tf.float32, "logits": tf.float32},
    )
    np.testing.assert_allclose(found["pool_3"], features, **allowed(features))
    np.testing.assert_allclose(found["logits"], logits, **allowed(logits))

    # TF-GAN's own computation of the distance, in float32, with our network; of the
    # first 32 features, since it takes minutes for 2048.
    classifier_fn = inception.classifier_fn()
    distance = evaluation.frechet_classifier_distance(
        images[:6], images[6:], lambda x: classifier_fn(x)[:, :32], num_batches=2
    )
    ours = [Moments(32), Moments(32)]
    ours[0].update(features[:6, :32])
    ours[1].update(features[6:, :32])
    one, two = (each.statistics() for each in ours)
    expected = frechet_distance(one, two)
    # Covariances of 6 images have 27 eigenvalues of zero. In float32 they become up to
    # gamma(n) times the norm, and TF-GAN adds the roots of these as well, twice.
    norm = np.sqrt(np.linalg.norm(one.sigma, 2) * np.linalg.norm(two.sigma, 2))
    noise = 2 * 27 * norm * np.sqrt(rounding.gamma(6 + 32, "float32"))
    error = synthetic_graph.rounding_error(features)
    noise += rounding.frechet_of_features(expected, error)
    assert float(distance) == pytest.approx(expected, rel=0, abs=noise)
    assert noise < expected / 4

    score = evaluation.classifier_score(images, inception.classifier_fn("logits"))
    p = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    ratio = np.log(p) - np.log(p.mean(0))
    divergence = (p * ratio).sum(1)
    # A change of the logits moves a divergence by its covariance, by p, with the
    # ratios' logarithms, so by no more than the product of both deviations. The sums of
    # 1008 probabilities are in float32 here.
    deviation = np.sqrt((p * (ratio - divergence[:, None]) ** 2).sum(1)).max()
    change = rounding.DEVIATIONS * synthetic_graph.rounding_error(logits) * deviation
    change += rounding.likely(1008 + 2 * rounding.FUNCTION, "float32")
    assert float(score) == pytest.approx(np.exp(divergence.mean()), rel=change)
    assert change < (np.exp(divergence.mean()) - 1) / 10


# --- What is refused


@pytest.mark.parametrize(
    ("images", "fragment"),
    [
        (np.zeros([0, 8, 8, 3], np.uint8), "no images"),
        ([], "no images"),
        (np.zeros([8, 8, 3], np.uint8), r"shape \(8, 8, 3\).*first axis"),
        (np.zeros([2, 3, 8, 8], np.uint8), r"Image 0 has shape \(3, 8, 8\)"),
        (np.zeros([2, 8, 8, 4], np.uint8), "convert it to RGB"),
        (np.zeros([2, 0, 8, 3], np.uint8), r"shape \(0, 8, 3\)"),
        ([np.zeros([8, 8, 3]), np.zeros([8, 8])], r"Image 1 has shape \(8, 8\)"),
        (np.zeros([2, 8, 8, 3], bool), "dtype bool"),
        (np.zeros([2, 8, 8, 3], complex), "dtype complex"),
    ],
)
def test_wrong_shapes_and_types(inception, images, fragment):
    with pytest.raises(InputError, match=fragment) as caught:
        inception(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        (np.nan, "Image 7 of the batch .*not finite"),
        (np.inf, "Image 7 of the batch .*not finite"),
        (-np.inf, "Image 7 of the batch .*not finite"),
        (-0.5, r"Image 7 has values from -0.5 to 0, expected \[0, 255\]"),
        (256, "Image 7 has values from 0 to 256"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_wrong_values_name_the_first_image(inception, value, fragment, dtype):
    images = np.zeros([10, 8, 8, 3], dtype)
    images[7:, 2, 3, 1] = value
    with pytest.raises(InputError, match=fragment):
        inception(images)


def test_unit_range_is_left_to_the_source_of_images(inception):
    assert inception(np.full([1, 8, 8, 3], 0.5)).shape == (1, 2048)


def test_batch_size_must_be_positive(synthetic_pb):
    with pytest.raises(InputError, match="batch_size is 0"):
        Inception(synthetic_pb, batch_size=0)

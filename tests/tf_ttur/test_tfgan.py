"""Tests of tf_ttur.tfgan, and of the table in docs/tfgan.md."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import rounding
import tensorflow as tf
from oracles import frechet_distance, inception_score, kernel_distance
from repository import ROOT

from fid import files
from tf_ttur import tfgan

pytestmark = pytest.mark.portable

INSTALLED = importlib.util.find_spec("tensorflow_gan") is not None
needs_tfgan = pytest.mark.skipif(not INSTALLED, reason="TF-GAN is not installed")
v1 = tf.compat.v1


# --- Importing it ------------------------------------------------------------------


@needs_tfgan
@pytest.mark.slow
def test_importing_and_loading_in_a_new_interpreter():
    """From "nothing is imported yet" through failures to a module for all threads.

    One interpreter for all of it, since each spends seconds on importing TensorFlow.
    """
    code = """
import sys, threading, warnings
from fid import files
import tf_ttur.tfgan as tfgan

# Importing the module and asking for names imports nothing of TF-GAN.
assert tfgan.adversarial_losses()
for name in ("wasserstine", "acgan"):
    try:
        tfgan.adversarial_loss(name)
    except ValueError:
        pass
for name in ("tensorflow_gan", "tensorflow_probability", "tensorflow_hub", "tf_keras"):
    assert name not in sys.modules, name

import tensorflow as tf
# TensorFlow rebinds these on first use, whoever uses them first.
import tensorflow.compat.v1, tensorflow.compat.v2
tf.keras.Model
names, attributes, path = dir(tf), dict(vars(tf)), list(sys.path)
hooks = list(sys.meta_path)
warnings.simplefilter("error")
filters = list(warnings.filters)

# Failures, ours and of a bare import, are no obstacle later.
sys.modules["tensorflow_gan.python.namedtuples"] = None
for _ in range(2):
    try:
        tfgan.load()
    except files.InputError as error:
        assert "namedtuples" in str(error) and "tf-ttur[tfgan]" in str(error)
    else:
        raise AssertionError
    left = [name for name in sys.modules if name.startswith("tensorflow_gan")]
    assert left == ["tensorflow_gan.python.namedtuples"], left
    assert not hasattr(tf, "estimator")
del sys.modules["tensorflow_gan.python.namedtuples"]
try:
    with warnings.catch_warnings(action="ignore"):
        import tensorflow_gan
except AttributeError as error:
    assert "estimator" in str(error)
else:
    raise AssertionError("TF-GAN needs no help any more")

# Threads get one module, which works.
found = []
load = lambda: found.append(tfgan.load())
threads = [threading.Thread(target=load) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 4 and len(set(map(id, found))) == 1
module = found[0]
assert module is tfgan.load() is sys.modules["tensorflow_gan"]
assert module.__version__ == "2.1.0"
assert module.losses.wargs.minimax_generator_loss
assert module.gan_model and module.eval.image_grid

# TensorFlow and the interpreter are as they were.
assert dir(tf) == names and not hasattr(tf, "estimator")
assert vars(tf).keys() == attributes.keys()
assert all(vars(tf)[name] is value for name, value in attributes.items())
assert warnings.filters == filters
# setuptools adds importers and a path of its own.
assert all("setuptools" in entry for entry in sys.path if entry not in path)
assert [entry for entry in sys.path if entry in path] == path
assert not [hook for hook in hooks if hook not in sys.meta_path]
assert not [hook for hook in sys.meta_path if "tf_ttur" in type(hook).__module__]
assert "tensorflow_gan.python.estimator" not in sys.modules
left = [name for name, m in sys.modules.items() if type(m).__module__ == tfgan.__name__]
assert not left, left
import tensorflow_gan
assert tensorflow_gan is module
"""
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=300)


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_gan", None)
    with pytest.raises(files.InputError, match=r"pip install 'tf-ttur\[tfgan\]'"):
        tfgan.load()
    with pytest.raises(files.InputError, match=r"pip install 'tf-ttur\[tfgan\]'"):
        tfgan.adversarial_loss("wasserstein")
    assert sys.modules["tensorflow_gan"] is None
    assert not hasattr(tf, "estimator")


@needs_tfgan
def test_a_stand_in_of_the_users_own_survives(monkeypatch):
    # The module's import is repeated on purpose, and undone.
    for name in [name for name in sys.modules if name.startswith("tensorflow_gan")]:
        monkeypatch.delitem(sys.modules, name)
    mine = object()
    monkeypatch.setattr(tf, "estimator", mine, raising=False)
    tfgan.load()
    assert tf.estimator is mine


# --- The adversarial losses --------------------------------------------------------


def softplus(x):
    return np.logaddexp(0.0, x)


def cross_entropy(label, logits):
    """Mean of -label log(sigmoid) - (1 - label) log(1 - sigmoid)."""
    return np.mean(label * softplus(-logits) + (1 - label) * softplus(logits))


# The definitions, of (real, fake). TF-GAN smooths real labels of 1 to 0.875 in the
# two cross-entropies, and its minimax generator keeps the term of the real examples,
# with logits of one, which is a constant.
DISCRIMINATOR = {
    "least_squares": lambda r, f: (np.mean((r - 1) ** 2) + np.mean(f**2)) / 2,
    "minimax": lambda r, f: cross_entropy(0.875, r) + cross_entropy(0, f),
    "modified": lambda r, f: cross_entropy(0.875, r) + cross_entropy(0, f),
    "relativistic": lambda r, f: (
        cross_entropy(1, r - f.mean()) + cross_entropy(0, f - r.mean())
    ),
    "wasserstein": lambda r, f: f.mean() - r.mean(),
    "wasserstein_hinge": lambda r, f: (
        np.mean(np.maximum(0, 1 - r)) + np.mean(np.maximum(0, 1 + f))
    ),
}
GENERATOR = {
    "least_squares": lambda r, f: np.mean((f - 1) ** 2) / 2,
    "minimax": lambda r, f: -cross_entropy(0, f) - softplus(-1.0),
    "modified": lambda r, f: cross_entropy(1, f),
    "relativistic": lambda r, f: (
        cross_entropy(0, r - f.mean()) + cross_entropy(1, f - r.mean())
    ),
    "wasserstein": lambda r, f: -f.mean(),
    "wasserstein_hinge": lambda r, f: -f.mean(),
}
MODES = {
    "eager": lambda function: function,
    "tf.function": tf.function,
    "XLA": lambda function: tf.function(function, jit_compile=True),
}


def logits(shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    return tuple(3 * rng.normal(size=shape).astype(dtype) for _ in range(2))


def losses_of(loss, real, fake):
    real_for_generator = {"real_logits": real} if loss.needs_real else {}
    return loss.discriminator(real, fake), loss.generator(fake, **real_for_generator)


@needs_tfgan
def test_every_adversarial_loss_of_tfgan_is_lent():
    public = tfgan.load().losses.wargs.__all__
    pairs = {
        name.removesuffix("_generator_loss")
        for name in public
        if name.endswith("_generator_loss")
        and name.replace("_generator_", "_discriminator_") in public
    }
    assert pairs - {"acgan"} == set(tfgan.adversarial_losses()) == set(GENERATOR)
    others = [name for name in public if not re.search(r"_(gen|discrim)\w+tor_", name)]
    for name in [*others, "acgan_discriminator_loss", "acgan_generator_loss"]:
        with pytest.raises(files.InputError, match="it needs"):
            tfgan.adversarial_loss(name)


@needs_tfgan
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_values_are_those_of_the_definition(name, mode):
    loss = tfgan.adversarial_loss(name)
    assert loss.name == f"tfgan:{name}"
    assert loss.needs_real == (name == "relativistic")
    for shape in [(64,), (16, 1), (4, 3, 3, 1)]:
        real, fake = logits(shape)
        found = MODES[mode](lambda r, f: losses_of(loss, r, f))(
            tf.constant(real, tf.float32), tf.constant(fake, tf.float32)
        )
        expected = DISCRIMINATOR[name](real, fake), GENERATOR[name](real, fake)
        # Means of up to 64 terms, each of two functions; where they cancel they are of
        # logits of up to 12.
        few = 2 * rounding.gamma(64 + 2 * rounding.FUNCTION, "float32")
        np.testing.assert_allclose(found, expected, rtol=few, atol=12 * few)
        assert all(x.shape == () and x.dtype == tf.float32 for x in found)


@needs_tfgan
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_gradients_are_those_of_the_definition(name, mode):
    loss = tfgan.adversarial_loss(name)
    real, fake = logits((5,))

    def gradients(real, fake):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((real, fake))
            of_discriminator, of_generator = losses_of(loss, real, fake)
        return [
            *tape.gradient(of_discriminator, (real, fake)),
            tape.gradient(of_generator, fake),
        ]

    found = MODES[mode](gradients)(
        tf.constant(real, tf.float32), tf.constant(fake, tf.float32)
    )

    def numerical(function, position):
        steps = 1e-6 * np.eye(5)
        at = [[real, fake], [real, fake]]
        result = []
        for step in steps:
            at[0][position] = (real, fake)[position] + step
            at[1][position] = (real, fake)[position] - step
            result.append((function(*at[0]) - function(*at[1])) / 2e-6)
        return result

    expected = [
        numerical(DISCRIMINATOR[name], 0),
        numerical(DISCRIMINATOR[name], 1),
        numerical(GENERATOR[name], 1),
    ]
    # A derivative is a fifth of at most 12, of a few functions in float32. The
    # numerical one divides the rounding of losses of up to 50 by the step; what it
    # leaves out is of the order of the step's square.
    few = 2 * rounding.gamma(5 + 3 * rounding.FUNCTION, "float32") * 12 / 5
    atol = few + 50 * rounding.gamma(10) / 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@needs_tfgan
@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_losses_are_float32_and_stable_for_low_precision_logits(name):
    loss = tfgan.adversarial_loss(name)
    real, fake = (tf.constant(x, tf.float16) for x in logits((64, 1)))
    expected = losses_of(loss, tf.cast(real, tf.float32), tf.cast(fake, tf.float32))
    found = losses_of(loss, real, fake)
    assert all(x.dtype == tf.float32 for x in found)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(losses_of(loss, tf.fill([4], 3e4), tf.fill([4], -3e4))).all()


@needs_tfgan
@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_losses_leave_nothing_in_the_graph_collections(name):
    loss = tfgan.adversarial_loss(name)
    traced = tf.function(lambda r, f: losses_of(loss, r, f)).get_concrete_function(
        *[tf.TensorSpec([8, 1])] * 2
    )
    graph = tf.Graph()
    with graph.as_default():
        losses_of(loss, tf.ones([8, 1]), tf.ones([8, 1]))
    for key in ("losses", "summaries", "update_ops"):
        assert not traced.graph.get_collection(key)
        assert not graph.get_collection(key)
        assert not v1.get_default_graph().get_collection(key)


@needs_tfgan
def test_relativistic_generator_needs_real_logits():
    with pytest.raises(ValueError, match=r"tfgan:relativistic needs real_logits"):
        tfgan.adversarial_loss("relativistic").generator(tf.ones([4]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acgan", "labels"),
        ("mutual_information_penalty", "latents"),
        ("cycle_consistency_loss", "reconstructions"),
        ("wasserstein_gradient_penalty", r"GAN.compile\(gradient_penalty"),
        ("combine_adversarial_loss", "main loss"),
        ("stargan_generator_loss_wrapper", "StarGANModel"),
        ("wasserstine", "no adversarial loss 'wasserstine'"),
        ("", "no adversarial loss ''"),
    ],
)
def test_other_losses_are_refused_by_name(name, message):
    with pytest.raises(files.InputError, match=message) as refusal:
        tfgan.adversarial_loss(name)
    assert str(refusal.value).endswith(
        "Choose from least_squares, minimax, modified, relativistic, wasserstein, "
        "wasserstein_hinge."
    )


# --- Its measures ------------------------------------------------------------------


@needs_tfgan
@pytest.mark.parametrize("mode", MODES)
def test_measures_are_those_of_the_definition(mode):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(96, 8)), rng.normal(0.3, 1.5, size=(96, 8))
    measures = tfgan.load().eval
    # Their bounds in float64, and the same in float32; the score's is relative.
    relative = rounding.score(a) * inception_score(a)[0]
    for name, definition, given, few in [
        ("frechet_classifier_distance", frechet_distance, (a, b), rounding.frechet),
        ("kernel_classifier_distance", kernel_distance, (a, b), rounding.kernel),
        ("classifier_score", lambda x: inception_score(x)[0], (a,), lambda x: relative),
    ]:
        end = "logits" if name == "classifier_score" else "activations"
        name = f"{name}_from_{end}"
        expected, atol = definition(*given), rounding.SINGLE * few(*given)
        assert atol < 0.1 * abs(expected)
        found = MODES[mode](getattr(measures, name))(
            *[tf.constant(x, tf.float32) for x in given]
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# --- The table in docs/tfgan.md -----------------------------------------------------
# The table holds what is expected; below are the calls that it speaks of.

TABLE_MODES = {
    **MODES,
    "v1 graph": lambda probe: lambda: run_in_graph(probe),
}
REFUSALS = (
    "is not available with Keras 3|when executing eagerly|work in eager|"
    "eager execution is enabled|needs tf.estimator|getargspec|unhashable|"
    "singleton tf.Variables|Detected unsupported operations|compute_gradients"
)


def run_in_graph(probe):
    with tf.Graph().as_default():
        result = probe()
        fetches = [
            x
            for x in tf.nest.flatten(result)
            if tf.is_tensor(x) or isinstance(x, tf.Operation)
        ]
        if fetches:
            with v1.Session() as session:
                session.run(
                    [
                        v1.global_variables_initializer(),
                        v1.local_variables_initializer(),
                    ]
                )
                session.run(fetches)


def table():
    """Yields (name, mode, cell) for every cell of the table."""
    text = (ROOT / "docs" / "tfgan.md").read_text("utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0].startswith("`"):
            for name in re.findall(r"`([^`]+)`", cells[0]):
                for mode, cell in zip(TABLE_MODES, cells[1:5], strict=True):
                    yield name, mode, cell


def normal(*shape):
    rng = np.random.default_rng(0)
    return tf.constant(rng.normal(size=shape), tf.float32)


def images(n=8, size=32):
    return tf.constant(
        np.random.default_rng(1).uniform(-1, 1, size=(n, size, size, 3)), tf.float32
    )


def one_hot():
    return tf.one_hot([0, 1, 2, 0], 3)


def weights(*shape, name="w"):
    return v1.get_variable(name, shape, use_resource=True)


def generator(latents):
    return latents @ weights(3, 3)


def discriminator(x, _=None):
    return x @ weights(3, 1)


def mean_pool(x):
    return tf.reduce_mean(x, axis=[1, 2])


def probes():
    """Returns, by its name in the table, a call of each thing."""
    lib = tfgan.load()
    measures, features, losses, wargs = (
        lib.eval,
        lib.features,
        lib.losses,
        lib.losses.wargs,
    )
    import tensorflow_probability as tfp

    def on_model(function):
        return lambda: function(
            lib.gan_model(generator, discriminator, normal(4, 3), normal(4, 3))
        )

    def train_ops(model, optimizer=v1.train.AdamOptimizer):
        v1.train.get_or_create_global_step()
        loss = lib.GANLoss(
            losses.wasserstein_generator_loss(model),
            losses.wasserstein_discriminator_loss(model)
            + losses.wasserstein_gradient_penalty(model),
        )
        return lib.gan_train_ops(model, loss, optimizer(0.1), optimizer(0.1))

    def train(hooks):
        return lambda model: lib.gan_train(
            train_ops(model),
            "",
            get_hooks_fn=hooks(),
            hooks=[v1.train.StopAtStepHook(num_steps=3)],
        )

    def train_steps(model):
        ops = train_ops(model)
        step = lib.get_sequential_train_steps()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            return step(
                session, ops, v1.train.get_global_step(), {"should_stop": tf.no_op()}
            )

    def star(finish):
        def translate(x, labels):
            return tf.tensordot(x, weights(3, 3), 1)

        def judge(x, classes):
            score = tf.reduce_mean(tf.tensordot(x, weights(3, 1), 1), [1, 2])
            return score, tf.tile(score, [1, classes])

        return lambda: finish(lib.stargan_model(translate, judge, images(4), one_hot()))

    def scaled(x, _=None):
        return x * weights()

    def scored(x, _=None):
        return mean_pool(x) * weights()

    def summarised(add, *options, model=lib.gan_model):
        def probe():
            add(model(scaled, scored, images(4), images(4)), *options)
            return v1.summary.merge_all()

        return probe

    def cycle(finish):
        return lambda: finish(
            lib.cyclegan_model(generator, discriminator, normal(4, 3), normal(4, 3))
        )

    def hub(call):
        def probe():
            module = sys.modules["tensorflow_gan.python.eval.inception_metrics"].tfhub
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    module,
                    "load",
                    lambda handle: (
                        lambda x: {
                            "logits": mean_pool(x),
                            "pool_3": mean_pool(x),
                        }
                    ),
                )
                return call()

        return probe

    def clipped(optimizer):
        def probe():
            w = weights(3)
            return features.clip_variables(optimizer, [w], 0.01).minimize(
                tf.reduce_sum(w)
            )

        return probe

    result = {
        # Measures.
        "eval.run_classifier_fn": lambda: measures.run_classifier_fn(
            images(), mean_pool, num_batches=2, dtypes=tf.float32
        ),
        "eval.sample_and_run_classifier_fn": lambda: (
            measures.sample_and_run_classifier_fn(
                tf.identity, [images(), images()], mean_pool, dtypes=tf.float32
            )
        ),
        "eval.classifier_score": lambda: measures.classifier_score(images(), mean_pool),
        "eval.classifier_score_streaming": lambda: measures.classifier_score_streaming(
            images(), mean_pool
        ),
        "eval.sliced_wasserstein_distance": lambda: (
            measures.sliced_wasserstein_distance(
                images(4, 64),
                images(4, 64),
                patches_per_image=8,
                random_sampling_count=2,
                random_projection_dim=7,
            )
        ),
        "eval.image_grid": lambda: measures.image_grid(images(), (2, 4), (32, 32), 3),
        "eval.image_reshaper": lambda: measures.image_reshaper(images(), 4),
        "eval.python_image_grid": lambda: measures.python_image_grid(
            np.zeros((8, 32, 32, 3)), (2, 4)
        ),
        "eval.classifier_fn_from_tfhub": hub(
            lambda: measures.classifier_fn_from_tfhub("", "logits", True)(images())
        ),
        "eval.run_inception": hub(lambda: measures.run_inception(images())),
        "eval.sample_and_run_inception": hub(
            lambda: measures.sample_and_run_inception(tf.identity, [images()])
        ),
        "eval.inception_score": hub(lambda: measures.inception_score(images())),
        "eval.inception_score_streaming": hub(
            lambda: measures.inception_score_streaming(images())
        ),
        # Summaries.
        "eval.add_gan_model_image_summaries": summarised(
            measures.add_gan_model_image_summaries, 2
        ),
        "eval.add_image_comparison_summaries": summarised(
            measures.add_image_comparison_summaries, 2
        ),
        "eval.add_gan_model_summaries": summarised(measures.add_gan_model_summaries),
        "eval.add_regularization_loss_summaries": summarised(
            measures.add_regularization_loss_summaries
        ),
        "eval.add_cyclegan_image_summaries": summarised(
            measures.add_cyclegan_image_summaries, model=lib.cyclegan_model
        ),
        "eval.add_stargan_image_summaries": star(measures.add_stargan_image_summaries),
        # Features.
        "features.instance_norm": lambda: features.instance_norm(images(4)),
        "features.instance_norm(center=False, scale=False)": lambda: (
            features.instance_norm(images(4), center=False, scale=False)
        ),
        "features.group_norm": lambda: features.group_norm(images(4), groups=3),
        "features.group_norm(center=False, scale=False)": lambda: features.group_norm(
            images(4), groups=3, center=False, scale=False
        ),
        "features.condition_tensor": lambda: features.condition_tensor(
            normal(4, 3), normal(4, 5)
        ),
        "features.condition_tensor_from_onehot": lambda: (
            features.condition_tensor_from_onehot(normal(4, 3), one_hot())
        ),
        "features.VBN": lambda: features.VBN(images(4))(images(4)),
        "features.tensor_pool": lambda: features.tensor_pool(normal(4, 3), pool_size=2),
        "features.compute_spectral_norm": lambda: features.compute_spectral_norm(
            weights(4, 3)
        ),
        "features.spectral_normalize": lambda: features.spectral_normalize(
            weights(4, 3)
        ),
        "features.spectral_norm_regularizer": lambda: (
            features.spectral_norm_regularizer(1.0)(weights(4, 3))
        ),
        "features.spectral_normalization_custom_getter": lambda: custom_getter(),
        "features.clip_variables": clipped(v1.train.GradientDescentOptimizer(0.1)),
        "features.clip_discriminator_weights": on_model(
            lambda model: features.clip_discriminator_weights(
                v1.train.GradientDescentOptimizer(0.1), model, 0.01
            ).minimize(
                losses.wasserstein_discriminator_loss(model),
                var_list=list(model.discriminator_variables),
            )
        ),
        "features.VariableClippingOptimizer": lambda: (
            features.VariableClippingOptimizer(
                v1.train.GradientDescentOptimizer(0.1), {weights(3): []}, 0.01
            ).minimize(tf.reduce_sum(v1.trainable_variables()[0]))
        ),
        "tpu.batch_norm": lambda: lib.tpu.batch_norm(images(4), True),
        "tpu.standardize_batch": lambda: lib.tpu.standardize_batch(images(4), True),
        # Losses.
        "losses.wargs.acgan_discriminator_loss": lambda: wargs.acgan_discriminator_loss(
            normal(4, 3), normal(4, 3), one_hot()
        ),
        "losses.wargs.acgan_generator_loss": lambda: wargs.acgan_generator_loss(
            normal(4, 3), one_hot()
        ),
        "losses.wargs.mutual_information_penalty": lambda: (
            wargs.mutual_information_penalty(
                [normal(4, 3)], [tfp.distributions.Normal(normal(4, 3), 1.0)]
            )
        ),
        "losses.wargs.cycle_consistency_loss": lambda: wargs.cycle_consistency_loss(
            *[normal(4, 3)] * 4
        ),
        "losses.wargs.wasserstein_gradient_penalty": lambda: (
            wargs.wasserstein_gradient_penalty(
                images(4), -images(4), None, lambda x, _: mean_pool(x**2), "scope"
            )
        ),
        "losses.wargs.combine_adversarial_loss": lambda: combined(),
        "losses.*": on_model(
            lambda model: (
                losses.modified_generator_loss(model),
                losses.modified_discriminator_loss(model),
                losses.wasserstein_gradient_penalty(model),
            )
        ),
        # Training.
        "gan_model": on_model(lambda model: model.generated_data),
        "infogan_model": lambda: (
            lib.infogan_model(
                lambda z: generator(z[0]),
                lambda x, _: (x, [tfp.distributions.Normal(discriminator(x), 1.0)]),
                normal(4, 3),
                [normal(4, 3)],
                [normal(4, 1)],
            ).generated_data
        ),
        "acgan_model": lambda: (
            lib.acgan_model(
                generator,
                lambda x, _: (discriminator(x), x),
                normal(4, 3),
                normal(4, 3),
                one_hot(),
            ).generated_data
        ),
        "cyclegan_model": cycle(lambda model: model.reconstructed_x),
        "cyclegan_loss": cycle(
            lambda model: lib.cyclegan_loss(model).loss_x2y.generator_loss
        ),
        "stargan_model": star(lambda model: model.generated_data),
        "stargan_loss": star(lambda model: tuple(lib.stargan_loss(model))),
        "gan_loss": on_model(lambda model: tuple(lib.gan_loss(model))),
        "gan_train_ops": on_model(lambda model: train_ops(model).generator_train_op),
        "gan_train_ops (Keras optimizers)": on_model(
            lambda model: train_ops(model, tf.keras.optimizers.Adam)
        ),
        "gan_train": on_model(train(lib.get_sequential_train_hooks)),
        "get_sequential_train_hooks": on_model(train(lib.get_sequential_train_hooks)),
        "get_joint_train_hooks": on_model(train(lib.get_joint_train_hooks)),
        "RunTrainOpsHook": on_model(
            train(lambda: lambda ops: [lib.RunTrainOpsHook(ops.generator_train_op, 1)])
        ),
        "get_sequential_train_steps": on_model(train_steps),
        **{
            f"estimator.{name}": lambda name=name: getattr(lib.estimator, name)
            for name in ("GANEstimator", "StarGANEstimator", "TPUGANEstimator")
        },
        "estimator.get_latent_gan_estimator": (
            lambda: lib.estimator.get_latent_gan_estimator
        ),
    }

    def custom_getter():
        getter = features.spectral_normalization_custom_getter()
        with v1.variable_scope("scope", custom_getter=getter):
            return weights(4, 3, name="kernel")

    def combined():
        x = normal(4)
        return wargs.combine_adversarial_loss(
            tf.reduce_sum(x**2), tf.reduce_sum(x**3), gradient_ratio=0.5, variables=[x]
        )

    two_activations = [
        "mean_only_frechet_classifier_distance_from_activations",
        "diagonal_only_frechet_classifier_distance_from_activations",
        "frechet_classifier_distance_from_activations",
        "frechet_classifier_distance_from_activations_streaming",
        "kernel_classifier_distance_from_activations",
        "kernel_classifier_distance_and_std_from_activations",
    ]
    for name in two_activations:
        result[f"eval.{name}"] = lambda name=name: getattr(measures, name)(
            normal(64, 8), -2 * normal(64, 8)
        )
    for name in ["", "_streaming"]:
        result[f"eval.classifier_score_from_logits{name}"] = lambda name=name: getattr(
            measures, f"classifier_score_from_logits{name}"
        )(normal(64, 10))
    for name in ["frechet{}", "frechet{}_streaming", "kernel{}", "kernel{}_and_std"]:
        with_classifier = name.format("_classifier_distance")
        result[f"eval.{with_classifier}"] = lambda name=with_classifier: getattr(
            measures, name
        )(images(), -images(), mean_pool)
        with_inception = name.format("_inception_distance")
        result[f"eval.{with_inception}"] = hub(
            lambda name=with_inception: getattr(measures, name)(images(), -images())
        )
    for name in tfgan.adversarial_losses():
        for player in ("discriminator", "generator"):
            function = getattr(wargs, f"{name}_{player}_loss")
            both = player == "discriminator" or name == "relativistic"
            result[f"losses.wargs.{name}_{player}_loss"] = (
                lambda function=function, both=both: function(
                    *[normal(8, 1)] * (1 + both)
                )
            )
    for name in sys.modules["tensorflow_gan.python.namedtuples"].__all__:
        kind = getattr(lib, name)
        result[name] = lambda kind=kind: kind(*[normal()] * len(kind._fields))
    return result


@needs_tfgan
def test_the_table_names_all_that_tfgan_offers():
    lib = tfgan.load()
    offered = {
        *sys.modules["tensorflow_gan.python.namedtuples"].__all__,
        *sys.modules["tensorflow_gan.python.train"].__all__,
        *(f"losses.wargs.{name}" for name in lib.losses.wargs.__all__),
        *(f"features.{name}" for name in lib.features.__all__),
        *(f"tpu.{name}" for name in lib.tpu.__all__),
        *(f"eval.{name}" for name in lib.eval.__all__ if not name.isupper()),
    }
    listed = {name for name, _, _ in table()}
    assert offered <= listed
    assert listed == probes().keys()


@pytest.fixture
def fresh_variable_scopes():
    """Forgets what calls that failed half-way left in the default graph."""
    yield
    v1.reset_default_graph()


@needs_tfgan
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_variable_scopes")
@pytest.mark.parametrize(
    ("name", "mode", "cell"),
    [pytest.param(*row, id="-".join(row[:2])) for row in table()],
)
def test_the_table_is_true(name, mode, cell):
    assert cell in ("yes", "no", "-")
    if cell == "-":
        return
    run = TABLE_MODES[mode](probes()[name])
    if cell == "yes":
        run()
    else:
        with pytest.raises(Exception, match=REFUSALS):
            run()

"""`GAN`: the step against plain NumPy arithmetic, saving, loading, resuming."""

import warnings

import half_precision
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from repository import ROOT, TESTS
from toy_gan import images as toy_images
from toy_gan import small_gan

import tf_ttur
from tf_ttur import layers, players, structure, xla

SHAPE = (8, 8, 1)

# What an image of the generators below may differ by: sums of 4 and of 16 products and
# normalisation, then tanh, which makes nothing larger; before it no value is above 2.
GENERATED = {"rtol": 0, "atol": 2 * 2 * rounding.gamma(4 + 16 + 24, "float32")}

# A few sums of up to 16 products, none above 10, one after the other in float32.
FEW = {"rtol": 0, "atol": 2 * 10 * rounding.gamma(16, "float32")}


def images(n=32, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *SHAPE)).astype("float32")


def networks(norm=False, dropout=0.0, decay=None):
    def initializer(seed):
        return keras.initializers.RandomNormal(stddev=0.1, seed=seed)

    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, kernel_initializer=initializer(0)),
            *([keras.layers.BatchNormalization()] if norm else []),
            keras.layers.ELU(),
            keras.layers.Dense(64, "tanh", kernel_initializer=initializer(1)),
            keras.layers.Reshape(SHAPE, dtype="float32"),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(
                8, 3, strides=2, padding="same", kernel_initializer=initializer(2)
            ),
            keras.layers.ELU(),
            keras.layers.Flatten(),
            *([keras.layers.Dropout(dropout, seed=3)] if dropout else []),
            keras.layers.Dense(
                1,
                kernel_initializer=initializer(4),
                kernel_regularizer=decay and keras.regularizers.L2(decay),
            ),
        ]
    )
    return generator, discriminator


def make(seed=0, norm=False, dropout=0.0, rates=(1e-2, 1e-3), **options):
    gan = tf_ttur.GAN(*networks(norm, dropout), tf_ttur.NormalLatent(4), seed=seed)
    # Most tests are not about XLA, and compiling takes longer than they do.
    defaults = {"loss": "wasserstein", "gradient_penalty": 10.0, "jit_compile": False}
    options = defaults | options
    gan.compile(
        **tf_ttur.ttur(discriminator=rates[0], generator=rates[1], beta_1=0.0),
        **options,
    )
    return gan


def batches(k=1, start=0, count=100):
    x = images(16 * k * count).reshape(count, 16 * k, *SHAPE)
    return tf.data.Dataset.from_tensor_slices(x[start:])


def fit(gan, steps, start=0, k=1, **options):
    options = {"verbose": 0, "shuffle": False} | options
    return gan.fit(batches(k, start), steps_per_epoch=steps, epochs=1, **options)


def state(gan):
    variables = [
        *gan.weights,
        *gan.discriminator_optimizer.variables,
        *gan.generator_optimizer.variables,
        *gan._random_states(),
    ]
    return [v.numpy() for v in variables]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


class Recorder:
    """A latent distribution that keeps what it drew."""

    def __init__(self, latents):
        self.latents, self.dimension, self.calls = latents, 4, 0

    def __call__(self, count, seed):
        self.calls += 1
        return tf.constant(self.latents[self.calls - 1])


@pytest.mark.parametrize("reuse", [False, True])
def test_one_step_is_one_plain_gradient_step_of_each_player(reuse):
    """Linear networks and plain SGD, so that NumPy can do the step by hand."""
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    discriminator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    random = np.random.default_rng(0)
    latents = random.normal(size=(2, 5, 4)).astype("float32")
    real = random.normal(size=(5, 3)).astype("float32")
    gan = tf_ttur.GAN(generator, discriminator, Recorder(latents))
    gan.compile(
        discriminator_optimizer=keras.optimizers.SGD(0.1),
        generator_optimizer=keras.optimizers.SGD(0.01),
        loss="wasserstein",
        reuse_latents=reuse,
        jit_compile=False,
    )
    A, a = (np.array(w, "float64") for w in generator.get_weights())
    w, b = (np.array(v, "float64") for v in discriminator.get_weights())
    gan.train_step(tf.constant(real))
    # Critic: d/dw [mean(fake w) - mean(real w)]; the bias cancels.
    fake = latents[0] @ A + a
    w_new = w - 0.1 * (fake.mean(0) - real.mean(0))[:, None]
    # Generator: d/dA of -mean((z A + a) w_new), at the critic's new weights.
    z = latents[0 if reuse else 1]
    A_new = A + 0.01 * np.outer(z.mean(0), w_new[:, 0])
    a_new = a + 0.01 * w_new[:, 0]
    np.testing.assert_allclose(discriminator.get_weights()[0], w_new, **FEW)
    np.testing.assert_allclose(discriminator.get_weights()[1], b, **FEW)
    np.testing.assert_allclose(generator.get_weights()[0], A_new, **FEW)
    np.testing.assert_allclose(generator.get_weights()[1], a_new, **FEW)
    assert gan.latent.calls == (1 if reuse else 2)
    assert gan.steps == 1


def test_each_discriminator_step_has_its_own_minibatch_and_latents():
    class Watching(tf_ttur.GAN):
        seen = []  # noqa: RUF012

        def discriminator_loss(self, real, fake):
            self.seen.append((real.numpy(), fake.numpy()))
            return super().discriminator_loss(real, fake)

    gan = Watching(*networks(), tf_ttur.NormalLatent(4))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss="wasserstein",
        discriminator_steps=3,
        jit_compile=False,
    )
    x = images(12)
    gan.train_step(tf.constant(x))
    # Every third image, so that replicas with a stretch of them each come out alike.
    for index, (real, _) in enumerate(gan.seen):
        np.testing.assert_array_equal(real, x[index::3])
    assert [len(r) for r, _ in gan.seen] == [4, 4, 4]
    fakes = [f for _, f in gan.seen]
    assert not np.allclose(fakes[0], fakes[1])
    assert gan.steps == 1
    assert int(gan.discriminator_optimizer.iterations) == 3
    assert int(gan.generator_optimizer.iterations) == 1


def test_a_batch_that_the_steps_do_not_divide_is_an_error():
    gan = make(discriminator_steps=3)
    with pytest.raises(ValueError, match="16 images cannot be shared by 3"):
        fit(gan, 1)


def test_both_players_use_their_own_rate_and_adam_as_in_tensorflow_1():
    gan = make(rates=(3e-4, 1e-4), gradient_penalty=0.0)
    before = [v.numpy() for v in gan.trainable_variables]
    history = fit(gan, 1).history
    # The first step of Adam is the rate times the gradient's sign, almost.
    for player, rate in (("discriminator", 3e-4), ("generator", 1e-4)):
        variables = getattr(gan, player).trainable_variables
        ids = [id(v) for v in gan.trainable_variables]
        moved = [np.abs(v.numpy() - before[ids.index(id(v))]).max() for v in variables]
        # Epsilon, 1e-8, takes its share of the largest gradient, which is above 1e-4.
        # Subtraction leaves the rounding of weights of up to 0.5.
        few = rounding.unit("float32") * 0.5
        assert max(moved) == pytest.approx(rate, rel=1e-8 / 1e-4, abs=few)
    assert history["d_lr"] == pytest.approx([3e-4])
    assert history["g_lr"] == pytest.approx([1e-4])
    optimizer = gan.discriminator_optimizer
    assert (optimizer.epsilon, optimizer.beta_1, optimizer.beta_2) == (1e-8, 0.0, 0.999)
    assert gan.optimizer is None


def test_logged_values_are_means_over_the_interval():
    """With rates too small to move anything, each step's losses can be predicted."""
    gan = make(rates=(1e-30, 1e-30), gradient_penalty=0.0, jit_compile=False)
    logits = gan.discriminator.predict(images(16 * 100), verbose=0).reshape(100, 16)
    seen = []
    gan.fit(
        batches(),
        steps_per_epoch=4,
        verbose=0,
        shuffle=False,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: seen.append(dict(logs))
            )
        ],
    )
    # d_loss + g_loss = -mean(D(real)) up to the two draws of latents; compare the
    # running mean with the means of single steps recovered from it.
    running = np.array([logs["d_loss"] for logs in seen])
    single = np.diff(np.concatenate([[0], running * np.arange(1, 5)]))
    assert running[-1] == pytest.approx(single.mean(), rel=rounding.gamma(8, "float32"))
    assert np.ptp(single) > 0
    assert np.isfinite(logits).all()


def test_xla_and_plain_steps_agree():
    """On given latents: the two draw different random numbers from one seed."""
    histories = []
    for jit in (True, False):
        latents = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
        gan = tf_ttur.GAN(*networks(), Recorder(latents))
        gan.compile(
            **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
            loss="non_saturating",
            jit_compile=jit,
        )
        histories.append(fit(gan, 5).history)
    for key in ("d_loss", "g_loss"):
        # Means of 16 logarithms of sums of 9, 128, 4 and 16 terms. That the weights
        # part as well is of second order: where rounding e of a gradient g turns one of
        # Adam's steps by rate * e / g, the loss follows by g times that.
        few = rounding.likely(16 + 9 + 128 + 4 + 16 + 4 * rounding.FUNCTION, "float32")
        assert histories[0][key] == pytest.approx(histories[1][key], rel=2 * few)


def test_equal_seeds_give_equal_runs_whatever_the_steps_per_execution():
    """Under XLA: these are two programs."""
    one = make(jit_compile=True)
    two = make(jit_compile=True, steps_per_execution=2)
    fit(one, 6)
    fit(two, 6)
    assert_same(state(one), state(two))
    # Evaluating changes nothing under XLA, either.
    assert evaluate(one, batch_size=20) == evaluate(one, batch_size=20)
    assert_same(state(one), state(two))


def test_equal_seeds_give_equal_runs_and_other_seeds_do_not():
    one, two, other = (make(seed=seed) for seed in (1, 1, 2))
    for gan in (one, two, other):
        fit(gan, 3)
    assert_same(state(one), state(two))
    different = zip(state(one)[1:], state(other)[1:], strict=True)
    assert not any(np.array_equal(a, b) for a, b in different if a.size > 100)


def test_the_step_after_loading_is_the_step_that_would_have_come(tmp_path):
    options = {"norm": True, "dropout": 0.3, "discriminator_steps": 2}
    gan = make(**options)
    fit(gan, 3, k=2)
    gan.save(tmp_path / "gan.keras")
    gan.save_weights(tmp_path / "gan.weights.h5")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert type(loaded) is tf_ttur.GAN
    filled = make(seed=9, **options)
    filled.load_weights(tmp_path / "gan.weights.h5")
    fit(gan, 3, start=3, k=2)
    for each in (loaded, filled):
        assert each.steps == 3
        fit(each, 3, start=3, k=2)
        assert_same(state(gan), state(each))
        assert each.gradient_penalty == 10.0
        assert each.adversarial_loss.name == "wasserstein"


@pytest.mark.parametrize("name", ["gan.keras", "gan.weights.h5"])
def test_a_checkpoint_from_before_players_goes_on(name):
    """See tests/data/gan_checkpoints/README.md."""
    folder = TESTS / "data" / "gan_checkpoints"
    rate, epsilon = 1e-2, 1e-3
    # Keras finds the latents' class in a file only where it has been imported before.
    latent = tf_ttur.NormalLatent(2)
    if name == "gan.keras":
        gan = keras.models.load_model(folder / name)
    else:
        generator = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.ELU(),
                keras.layers.Dense(3),
            ]
        )
        discriminator = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(8, "elu"),
                keras.layers.Dropout(0.25),
                keras.layers.Dense(1, use_bias=False),
            ]
        )
        gan = tf_ttur.GAN(generator, discriminator, latent, ema_decay=0.5)
        gan.compile(
            **tf_ttur.ttur(discriminator=rate, generator=rate, epsilon=epsilon),
            loss="wasserstein",
            gradient_penalty=10.0,
            discriminator_steps=2,
            jit_compile=False,
        )
        gan.load_weights(folder / name)
    assert gan.steps == 2
    stored = dict(np.load(folder / "next_step.npz"))
    gan.train_step(tf.constant(stored.pop("real")))
    # Gradients here are of order 1, and of 32 roundings one after the other. Adam
    # divides by its epsilon at least and multiplies by the rate, in three updates.
    few = rounding.gamma(32, "float32")
    tolerance = 3 * rate * few / epsilon
    found = state(gan)
    assert len(found) == len(stored)
    for index, value in enumerate(found):
        expected = stored[f"{index:02d}"]
        np.testing.assert_allclose(value, expected, rtol=few, atol=tolerance)


def test_loaded_without_compiling_it_generates(tmp_path):
    gan = make()
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras", compile=False)
    np.testing.assert_allclose(
        loaded.generate(3, seed=1), gan.generate(3, seed=1), **GENERATED
    )


def test_backup_and_restore_continues_exactly(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    data = batches().take(4).cache()

    def run(gan, *more):
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        gan.fit(data, epochs=4, verbose=0, shuffle=False, callbacks=[backup, *more])

    whole = make()
    whole.fit(data, epochs=4, verbose=0, shuffle=False)
    with pytest.raises(InterruptedError):
        run(make(), Crash())
    resumed = make(seed=5)
    run(resumed)
    assert_same(state(whole), state(resumed))


def test_generating_leaves_training_alone():
    gan, other = make(norm=True), make(norm=True)
    fit(gan, 2)
    fit(other, 2)
    gan.generate(7, seed=3)
    gan.generate(5)
    fit(gan, 2, start=2)
    fit(other, 2, start=2)
    assert_same(state(gan), state(other))


def test_generated_images_do_not_depend_on_the_batch_size():
    gan = make(norm=True)
    one = gan.generate(10, seed=1, batch_size=3)
    assert one.shape == (10, *SHAPE)
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, gan.generate(10, seed=1), **GENERATED)
    assert not np.allclose(one, gan.generate(10, seed=2))
    with pytest.raises(ValueError, match="count is 0"):
        gan.generate(0)


def test_the_last_batch_is_filled_up_with_the_first_latents():
    """For generators that use the batch's own statistics when they sample."""

    class Centred(keras.layers.Layer):
        def call(self, inputs):
            return inputs - tf.reduce_mean(inputs, 0)

    generator = keras.Sequential([keras.Input((4,)), Centred()])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(4))
    latents = np.asarray(gan.latent(5, seed=2))
    whole = latents[[0, 1, 2]], latents[[3, 4, 0]]
    expected = np.concatenate([x - x.mean(0) for x in whole])[:5]
    found = gan.generate(5, seed=2, batch_size=3)
    np.testing.assert_allclose(found, expected, **FEW)


def test_predict_and_call_run_the_generator():
    gan = make()
    latents = np.zeros((2, 4), "float32")
    found = gan.predict(latents, verbose=0)
    np.testing.assert_allclose(found, gan(latents), **GENERATED)


def test_arrays_pairs_with_labels_and_plain_fit_work():
    gan = make()
    history = gan.fit(images(40), batch_size=16, epochs=2, verbose=0)
    assert set(history.history) == {
        "d_loss", "g_loss", "gradient_penalty", "d_lr", "g_lr"
    }  # fmt: skip
    gan.fit(images(32), np.zeros(32), batch_size=16, verbose=0)
    assert gan.steps == 2 * 3 + 2


def test_bad_data_is_refused():
    gan = make()
    with pytest.raises(ValueError, match="uint8; GAN needs floats in"):
        gan.fit(np.zeros((16, *SHAPE), "uint8"), verbose=0)
    with pytest.raises(ValueError, match=r"\(9, 9, 1\); the generator makes \(8, 8, 1"):
        gan.fit(np.zeros((16, 9, 9, 1), "float32"), verbose=0)


def test_data_whose_images_cannot_be_told_is_refused():
    data = tf.data.Dataset.from_tensors({"photo": images(8), "label": np.zeros(8)})
    found = "dicts with the keys 'photo', 'label', .* key image_key='image': name"
    with pytest.raises(ValueError, match=found):
        make().fit(data, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="yields triples, .* weights of the examples"):
        make().fit(data.map(lambda x: (x["photo"], 0, x["label"])), verbose=0)
    both = data.map(lambda x: ((x["photo"], x["photo"]), x["label"]))
    with pytest.raises(ValueError, match="yields a tuple, in which GAN does not find"):
        make().fit(both, verbose=0)


def test_images_are_found_in_dicts_under_their_key(tmp_path):
    records = {"photo": images(16), "label": np.zeros(16)}
    expected = make()
    expected.fit(records["photo"], batch_size=8, shuffle=False, verbose=0)
    gan = tf_ttur.GAN(*networks(), tf_ttur.NormalLatent(4), image_key="photo")
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-3, beta_1=0.0),
        loss="wasserstein",
        gradient_penalty=10.0,
        jit_compile=False,
    )
    data = tf.data.Dataset.from_tensor_slices(records).batch(8)
    gan.fit(data, verbose=0)
    assert_same(state(gan), state(expected))
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.image_key == "photo"
    # The key that TensorFlow Datasets uses needs no word.
    make().fit(data.map(lambda x: {"image": x["photo"]}), verbose=0)


def own(x=None, discriminator=None, **options):
    """A GAN that is compiled with Keras's names and, given data, trained."""
    gan = small_gan(**options) if discriminator is None else None
    if gan is None:
        networks_ = small_gan().generator, discriminator
        gan = tf_ttur.GAN(*networks_, tf_ttur.NormalLatent(2))
        defaults = {"loss": "non_saturating", "jit_compile": False}
        gan.compile(
            discriminator_optimizer="adam",
            generator_optimizer="adam",
            **defaults | options,
        )
    if x is not None:
        gan.fit(x, batch_size=8, verbose=0)
    return gan


def pixels(n=16):
    return np.random.default_rng(0).uniform(0, 255, (n, 4, 4, 1)).astype("float32")


class Pixels(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return pixels(), np.zeros(16)


@pytest.mark.parametrize(
    "kind", ["array", "pairs", "data set", "dicts", "generator", "PyDataset"]
)
def test_images_of_another_range_are_refused_before_a_step(kind):
    data = {
        "array": pixels(),
        "pairs": tf.data.Dataset.from_tensors((pixels(), np.zeros(16))),
        "data set": tf.data.Dataset.from_tensor_slices(pixels()).batch(8),
        "dicts": tf.data.Dataset.from_tensors({"image": tf.cast(pixels(), "float16")}),
        "generator": ((pixels(), np.zeros(16)) for _ in range(3)),
        "PyDataset": Pixels(),
    }[kind]
    gan = small_gan()
    found = r"span 0\.\d+ to 25\d\.?\d*; GAN needs floats in \[-1, 1\]: .* / 127.5 - 1"
    with pytest.raises(ValueError, match=found):
        gan.fit(data, verbose=0)
    assert gan.steps == 0


def test_a_first_batch_of_another_range_is_refused_by_itself():
    for method in ("train_on_batch", "test_on_batch"):
        gan = small_gan()
        for data in ((pixels(),), (tf.constant(pixels()), np.zeros(16))):
            with pytest.raises(ValueError, match="Real images span .* 127.5 - 1"):
                getattr(gan, method)(*data)
        with pytest.raises(ValueError, match="span"):
            getattr(gan, method)({"image": pixels()})
        assert gan.steps == 0
        getattr(gan, method)(toy_images(8))


def test_arrays_of_another_range_are_refused_on_replicas():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        gan = small_gan(jit_compile=None)
        with pytest.raises(ValueError, match="Real images span"):
            gan.fit(pixels(), verbose=0)
        with pytest.raises(ValueError, match="Real images span"):
            gan.evaluate(pixels(), np.zeros(16), verbose=0)
        assert gan.steps == 0
        gan.fit(toy_images(8), validation_data=(toy_images(8), None), verbose=0)


def test_first_images_that_no_network_can_learn_from_are_refused():
    holed = toy_images(8)
    holed[3, 0, 0] = np.nan
    empty = tf.data.Dataset.from_generator(
        lambda: iter((toy_images(8)[:0], toy_images(8))),
        output_signature=tf.TensorSpec((None, 4, 4, 1)),
    )
    for data, found in (
        (holed, "Of 128 values of the first real images 1 are NaN or infinite"),
        (empty, "The first batch is empty"),
        (3 * toy_images(8), r"span -.* of images in \[a, b\] use"),
        (
            257 * pixels(),
            r"of images in \[a, b\] use \(images - a\) / \(b - a\) \* 2 - 1",
        ),
        ([*toy_images(8)], r"fit was given a list of 8 images; .* np.stack\(images\)"),
    ):
        gan = small_gan()
        with pytest.raises(ValueError, match=found):
            gan.fit(data, verbose=0)
        assert gan.steps == 0


def test_held_out_images_are_looked_at_once_in_a_fit():
    seen = []

    class Noting(tf_ttur.GAN):
        def check_first(self, data):
            seen.append(len(self._images(data)))

    toy = small_gan()
    gan = Noting(toy.generator, toy.discriminator, tf_ttur.NormalLatent(2))
    gan.compile(
        discriminator_optimizer="sgd", generator_optimizer="sgd",
        loss="wasserstein", jit_compile=False,
    )  # fmt: skip
    for _ in range(2):
        held_out = toy_images(6), np.zeros(6)
        gan.fit(toy_images(8), validation_data=held_out, epochs=3, verbose=0)
        gan.evaluate(toy_images(5), verbose=0)
    for _ in range(2):
        gan.train_on_batch(toy_images(4))
        gan.test_on_batch(toy_images(3))
    assert seen == [8, 6, 5, 8, 6, 5, 4, 3]


def test_a_weight_that_is_unfrozen_after_compile_is_named():
    hidden = keras.layers.Dense(16)
    discriminator = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(),
                                      hidden, keras.layers.Dense(1)])  # fmt: skip
    hidden.trainable = False
    gan = own(toy_images(8), discriminator)
    hidden.trainable = True
    for train in (gan.fit, gan.train_on_batch):
        with pytest.raises(
            ValueError,
            match="'discriminator' has weights .*kernel: call compile again",
        ):
            train(toy_images(8))


def test_a_sigmoid_that_cannot_be_seen_is_warned_of():
    class Judge(keras.Model):
        def __init__(self, last):
            super().__init__()
            self.flatten = keras.layers.Flatten()
            self.last = keras.layers.Dense(1, last)

        def call(self, x):
            return self.last(self.flatten(x))

    with pytest.warns(UserWarning, match=r"in \[0, 1\] whatever .* loss 'hinge' take"):
        own(None, Judge("sigmoid"), loss="hinge")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(None, Judge("sigmoid"), loss="tfgan:least_squares")
        own(None, Judge(None), loss="hinge")


def test_held_out_images_of_another_range_are_refused():
    gan, good = small_gan(), toy_images(16)
    with pytest.raises(ValueError, match="Real images span"):
        gan.fit(good, validation_data=(pixels(), np.zeros(16)), verbose=0)
    data = tf.data.Dataset.from_tensors(pixels())
    with pytest.raises(ValueError, match="Real images span"):
        gan.fit(good, validation_data=data, verbose=0)
    with pytest.raises(ValueError, match="Real images span"):
        gan.evaluate(data, verbose=0)


def test_ranges_that_a_resize_or_a_subclass_makes_are_taken():
    own(1.2 * toy_images(16))

    class Scaling(tf_ttur.GAN):
        def prepare_real(self, data):
            return super().prepare_real(data / 127.5 - 1.0)

    toy = small_gan()
    gan = Scaling(toy.generator, toy.discriminator, tf_ttur.NormalLatent(2))
    gan.compile(
        discriminator_optimizer="sgd", generator_optimizer="sgd",
        loss="wasserstein", jit_compile=False,
    )  # fmt: skip
    gan.fit(pixels(), verbose=0)
    with pytest.warns(
        UserWarning, match=r"span 0\.\d+ to .* none has a negative value"
    ):
        own(pixels() / 255)


def test_a_discriminator_of_something_else_than_logits_is_refused():
    def network(*layers):
        return keras.Sequential([keras.Input((4, 4, 1)), *layers])

    dense, flatten = keras.layers.Dense, keras.layers.Flatten()
    for loss in ("non_saturating", "non_saturating:0.1", "hinge", "tfgan:modified"):
        with pytest.raises(ValueError, match=f"in a sigmoid, and the loss '{loss}' "):
            own(None, network(flatten, dense(1, "sigmoid")), loss=loss)
    # Least squares was made for these as well.
    own(None, network(flatten, dense(1, "sigmoid")), loss="tfgan:least_squares")
    with pytest.raises(ValueError, match=r"array of shape \(10,\) for an .*Dense\(1\)"):
        own(None, network(flatten, dense(10)))
    patches = network(keras.layers.Conv2D(1, 3))
    own(toy_images(8), patches)
    with pytest.raises(ValueError, match=r"\(2, 2, 1\) .* without a gradient penalty"):
        own(None, patches, gradient_penalty=1.0)
    own(toy_images(8), network(flatten, dense(1), keras.layers.Reshape(())))

    class OfAll(Judge):
        def __init__(self, keepdims):
            super().__init__()
            self.keepdims = keepdims

        def call(self, images):
            return tf.reduce_mean(super().call(images)[:, 0], keepdims=self.keepdims)

    for keepdims in (False, True):
        with pytest.raises(ValueError, match="gives one number for the whole batch"):
            own(None, OfAll(keepdims))


def test_no_data_are_an_error_and_not_an_empty_history():
    gan = small_gan()
    few = tf.data.Dataset.from_tensor_slices(toy_images(4))
    for empty in (
        few.batch(8, drop_remainder=True),
        # Nobody knows before that it has none.
        few.filter(lambda x: tf.reduce_max(x) > 5).batch(2),
        toy_images(4)[:0],
    ):
        with pytest.raises(ValueError, match="empty"):
            gan.fit(empty, verbose=0)
        with pytest.raises(ValueError, match="empty"):
            gan.evaluate(empty, verbose=0)
        with pytest.raises(ValueError, match="empty"):
            gan.fit(toy_images(8), validation_data=empty, verbose=0)
    for method in (gan.fit, gan.evaluate):
        with pytest.raises(ValueError, match=f"{method.__name__} was given no data"):
            method(verbose=0)
    # To train for no epoch is no error.
    assert gan.fit(toy_images(4), epochs=0, verbose=0).history == {}


def test_weights_of_examples_and_classes_are_refused():
    gan, x, ones = small_gan(), toy_images(8), np.ones(8)
    for method in (gan.fit, gan.evaluate, gan.train_on_batch, gan.test_on_batch):
        with pytest.raises(ValueError, match=f"{method.__name__} was given sample_we"):
            method(x, ones, sample_weight=ones)
    with pytest.raises(ValueError, match="fit was given class_weight"):
        gan.fit(x, ones, class_weight={1: 2.0})
    assert gan.steps == 0


@keras.saving.register_keras_serializable("test_gan")
class Painter(keras.Model):
    """As in tutorials: what it makes of what is known when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(16, "tanh", kernel_initializer="ones")

    def call(self, latents, training=False):
        return tf.reshape(self.dense(latents), [-1, 4, 4, 1])


@keras.saving.register_keras_serializable("test_gan")
class Judge(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, images):
        return self.dense(tf.reshape(images, [-1, 16]))


@pytest.mark.parametrize("called", [False, True])
def test_subclassed_networks_train_as_sequential_ones(tmp_path, called):
    painter, judge = Painter(), Judge()
    if called:
        judge(painter(np.zeros((2, 2), "float32")))
    gan = tf_ttur.GAN(painter, judge, tf_ttur.NormalLatent(2), ema_decay=0.9)
    toy = small_gan()
    expected = tf_ttur.GAN(
        toy.generator, toy.discriminator, tf_ttur.NormalLatent(2), ema_decay=0.9
    )
    for each in (gan, expected):
        each.compile(
            **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
            loss="wasserstein",
            gradient_penalty=10.0,
            jit_compile=False,
        )
        each.fit(toy_images(16), batch_size=8, shuffle=False, verbose=0)
    assert gan.sample_shape == (4, 4, 1)
    found = gan.generate(3, seed=0)
    np.testing.assert_allclose(found, expected.generate(3, seed=0), rtol=1e-5)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    for each in (gan, loaded):
        each.fit(toy_images(16), batch_size=8, shuffle=False, verbose=0)
    assert_same(state(gan), state(loaded))


def test_an_average_of_what_cannot_be_copied_says_so():
    class Fixed(Painter):
        def __init__(self, size):
            super().__init__()

    toy = small_gan()
    with pytest.raises(ValueError, match="average of generator .* Fixed a get_config"):
        tf_ttur.GAN(Fixed(4), toy.discriminator, tf_ttur.NormalLatent(2), ema_decay=0.9)


def test_optimizers_may_be_names_classes_and_configs():
    config = keras.optimizers.serialize(keras.optimizers.SGD(0.25))
    for given, kind, rate in (
        ("adam", keras.optimizers.Adam, 1e-3),
        (keras.optimizers.Adam, keras.optimizers.Adam, 1e-3),
        (config, keras.optimizers.SGD, 0.25),
    ):
        gan = small_gan(discriminator_optimizer=given, generator_optimizer=given)
        one, two = gan.optimizers.values()
        assert type(one) is type(two) is kind
        assert one is not two
        history = gan.fit(toy_images(8), verbose=0).history
        assert history["d_lr"] == history["g_lr"] == pytest.approx([rate])
    for bad in (None, 1e-3, "adamm"):
        with pytest.raises(ValueError, match=f"'generator' is {bad!r}, of which Keras"):
            small_gan(generator_optimizer=bad)
    used = small_gan().generator_optimizer
    with pytest.raises(ValueError, match="'generator' was made for other weights"):
        small_gan(generator_optimizer=used)


def test_a_step_run_eagerly_is_the_step(tmp_path):
    results = []
    for eagerly in (False, True):
        gan = make(run_eagerly=eagerly, jit_compile=None if eagerly else False)
        assert not gan.jit_compile
        fit(gan, 2)
        losses_ = gan.evaluate(images(16), verbose=0)
        results.append([*gan.get_weights(), losses_])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    gan.save(tmp_path / "gan.keras")
    assert keras.models.load_model(tmp_path / "gan.keras").run_eagerly
    with pytest.raises(ValueError, match="run_eagerly=True compiles nothing"):
        make(run_eagerly=True, jit_compile=True)


def test_settings_of_keras_that_a_gan_has_not_are_refused():
    with pytest.raises(TypeError, match="GAN.compile takes no metrics: there are no"):
        make(metrics=["accuracy"])
    with pytest.raises(TypeError, match="GAN.compile has no argument gradient_penalti"):
        make(gradient_penalties=1.0)
    for bad, must in (("auto", "a whole"), (0, ">= 1"), (2.5, "a whole"), (True, "a ")):
        with pytest.raises(
            ValueError, match=f"steps_per_execution is .* must be {must}"
        ):
            make(steps_per_execution=bad)
    assert make(jit_compile="auto").jit_compile
    with pytest.raises(ValueError, match="The latent is 4; give a distribution"):
        tf_ttur.GAN(*networks(), 4)


def test_the_generator_is_exported_as_images_of_latents(tmp_path):
    gan = tf_ttur.GAN(*networks(norm=True), tf_ttur.NormalLatent(4), ema_decay=0.9)
    gan.compile(
        discriminator_optimizer="adam", generator_optimizer="adam",
        loss="non_saturating", jit_compile=False,
    )  # fmt: skip
    fit(gan, 3)
    before = state(gan)
    gan.export(tmp_path / "exported", verbose=False)
    assert_same(state(gan), before)
    served = tf.saved_model.load(tmp_path / "exported")
    latents = gan.latent(5, seed=1)
    found = served.serve(latents)
    np.testing.assert_allclose(found, gan.generate(5, seed=1), rtol=1e-4, atol=1e-6)
    # Nothing of the discriminator, nor of the optimizers.
    names = {v.name for v in served.variables}
    assert len(names) <= len(served.variables) == len(gan.generator.variables)


@keras.saving.register_keras_serializable("test_gan")
class Letters(tf_ttur.GAN):
    """Data of another rank and type, and state of its own beside the weights."""

    def __init__(self, *args, pull=0.1, **kwargs):
        super().__init__(*args, **kwargs)
        self.pull = pull
        self.level = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="level"
        )
        self.noted = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="noted"
        )

    def get_config(self):
        return super().get_config() | {"pull": self.pull}

    def prepare_real(self, data):
        tokens, _ = data  # and an input that the networks do not take
        return super().prepare_real(tf.one_hot(tokens, 5))

    def generator_loss(self, real, fake):
        self.noted.assign(tf.reduce_mean(fake * fake))
        return super().generator_loss(real, fake)

    def after_step(self, real, fake):
        level = self.global_mean(tf.convert_to_tensor(self.noted), real)
        self.level.assign_add(self.pull * (level - self.level))


@keras.saving.register_keras_serializable("test_gan")
class Critic(keras.Model):
    """Packs four examples into one score."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1)

    def build(self, shape):
        self.dense.build((None, 4 * 6 * 5))
        self.built = True

    def call(self, examples, training=False):
        return self.dense(tf.reshape(examples, [-1, 4 * 6 * 5]))

    def compute_output_shape(self, shape):
        return (None, 1)


@keras.saving.register_keras_serializable("test_gan")
class Writer(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(6 * 5)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, latents, training=False):
        return tf.nn.softmax(tf.reshape(self.dense(latents), [-1, 6, 5]))

    def compute_output_shape(self, shape):
        return (shape[0], 6, 5)


def test_own_networks_of_any_rank_with_own_state(tmp_path):
    gan = Letters(Writer(), Critic(), tf_ttur.NormalLatent(4), pull=0.5, ema_decay=0.5)
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="wasserstein",
        gradient_penalty=10.0,
        discriminator_steps=2,
        jit_compile=False,
    )
    tokens = np.random.default_rng(0).integers(0, 5, (16, 6))
    data = tf.data.Dataset.from_tensors((tokens, tokens[:, :2])).repeat(3)
    gan.fit(data, shuffle=False, verbose=0)
    assert not gan._one_pass
    assert gan.sample_shape == (6, 5)
    assert float(gan.level.numpy()) > 0
    assert gan.generate(7, seed=0, batch_size=4).shape == (7, 6, 5)
    before = state(gan)
    assert set(gan.evaluate(data, verbose=0, return_dict=True)) == set(gan.loss_names)
    assert_same(state(gan), before)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.pull == 0.5
    gan.fit(data, shuffle=False, verbose=0)
    loaded.fit(data, verbose=0)
    assert_same(state(gan), state(loaded))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="no loss 'hinged'"):
        make(loss="hinged")
    with pytest.raises(ValueError, match="is not an adversarial loss"):
        make(loss=object())
    with pytest.raises(ValueError, match="There is no gradient penalty '10'"):
        small_gan(gradient_penalty="10")
    for name, bad, must in (
        ("gradient_penalty", -1.0, ">= 0"),
        ("gradient_penalty", float("nan"), "finite"),
        ("gradient_penalty", float("inf"), "finite"),
        ("gradient_penalty", None, "a number"),
        ("discriminator_steps", 0, ">= 1"),
        ("discriminator_steps", float("nan"), "a whole number"),
        ("discriminator_steps", None, "a whole number"),
        ("discriminator_steps", "2", "a whole number"),
        ("reuse_latents", "no", "true or false"),
        ("reuse_latents", 2, "in 0..1"),
        ("jit_compile", "yes", "true or false"),
        ("run_eagerly", "no", "true or false"),
    ):
        with pytest.raises(ValueError, match=f"{name} is {bad!r}; it must be {must}"):
            small_gan(**{name: bad})
    taken = small_gan(
        gradient_penalty=np.float32(2), discriminator_steps=np.int64(3),
        reuse_latents=np.bool_(True), jit_compile=0,
    )  # fmt: skip
    assert (taken.gradient_penalty, taken.discriminator_steps) == (2.0, 3)
    with pytest.raises(ValueError, match="discriminator's learning rate"):
        make(rates=(0.0, 1e-3))
    adam = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="an optimizer each"):
        make().compile(
            discriminator_optimizer=adam, generator_optimizer=adam, loss="minimax"
        )


def test_mixed_float16_scales_each_loss_once_also_after_loading(tmp_path):
    half_precision.need()
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        gan = make()
        fit(gan, 2)
        gan.save(tmp_path / "gan.keras")
        loaded = keras.models.load_model(tmp_path / "gan.keras")
        for each in (gan, loaded):
            for optimizer in (each.discriminator_optimizer, each.generator_optimizer):
                assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
                assert isinstance(optimizer.inner_optimizer, keras.optimizers.Adam)
        history = fit(gan, 2, start=2).history
        fit(loaded, 2, start=2)
        assert_same(state(gan), state(loaded))
        assert history["d_lr"] == pytest.approx([1e-2])
        assert gan.discriminator.layers[0].compute_dtype == "float16"
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed(request):
    half_precision.need()
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy(policy)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_networks_of_ones_own_train_in_mixed_precision(mixed, dropout):
    """With and without dropout: without, real and fake images share a pass."""
    generator, discriminator = networks(dropout=dropout)
    # The last layer as well is under the policy.
    generator = keras.Sequential(
        [*generator.layers[:-1], keras.layers.Reshape(SHAPE)], name="own"
    )
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(4))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-3, beta_1=0.0),
        loss="wasserstein",
        gradient_penalty=10.0,
        jit_compile=False,
    )
    latents = np.asarray(gan.latent(3, seed=0))
    assert generator(latents).dtype == mixed.removeprefix("mixed_")
    before = gan.get_weights()
    found = gan.evaluate(images(), verbose=0, return_dict=True)
    gan.fit(images(), batch_size=8, verbose=0)
    assert any((a != b).any() for a, b in zip(before, gan.get_weights(), strict=True))
    predicted = gan.predict(latents, verbose=0)
    assert predicted.dtype == gan.generate(3, seed=0).dtype == "float32"
    np.testing.assert_allclose(predicted, gan.generate(3, seed=0), atol=1e-6)
    # In inference the losses are those of float32 but for rounding.
    keras.mixed_precision.set_dtype_policy("float32")
    plain = make(dropout=dropout)
    plain.set_weights(before)
    expected = plain.evaluate(images(), verbose=0, return_dict=True)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.05, abs=0.02)


@pytest.fixture
def float16():
    half_precision.need()
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    yield
    keras.mixed_precision.set_dtype_policy(policy)


@pytest.mark.parametrize(
    ("family", "jit"),
    [
        ("dcgan", False),
        pytest.param("dcgan", True, marks=pytest.mark.slow),
        pytest.param("resnet", False, marks=pytest.mark.slow),
    ],
)
def test_a_float16_step_of_the_papers_networks_is_nearly_that_of_float32(
    family, jit, float16
):
    """Plain SGD, so that a gradient scaled twice, or not unscaled, would show."""
    from tf_ttur.networks import dcgan, resnet

    def trained(jit):
        module, width = {"dcgan": (dcgan, 2), "resnet": (resnet, 8)}[family]
        gan = tf_ttur.GAN(
            module.generator(16, 1, width=width, latent_dimension=4),
            module.discriminator(16, 1, width=width),
            Recorder(latents),
        )
        half = gan.discriminator.dtype_policy.name == "mixed_float16"
        optimizers = [keras.optimizers.SGD(0.01) for _ in range(2)]
        if half:  # its first guess is too large for these, and skips steps
            optimizers = [
                keras.optimizers.LossScaleOptimizer(each, initial_scale=256.0)
                for each in optimizers
            ]
        gan.compile(
            discriminator_optimizer=optimizers[0],
            generator_optimizer=optimizers[1],
            loss={"dcgan": "non_saturating", "resnet": "wasserstein"}[family],
            gradient_penalty={"dcgan": 0.0, "resnet": 10.0}[family],
            jit_compile=jit,
            reuse_latents=True,
        )
        before = [w.numpy() for w in gan.trainable_variables]
        logs = gan.train_on_batch(real, return_dict=True)
        moved = [
            w.numpy() - b for w, b in zip(gan.trainable_variables, before, strict=True)
        ]
        assert gan._logits(tf.zeros((2, 16, 16, 1))).dtype == tf.float32
        assert (gan.discriminator.layers[1].compute_dtype == "float16") == half
        return gan, logs, np.concatenate([m.ravel() for m in moved])

    random = np.random.default_rng(0)
    latents = random.normal(size=(1, 8, 4)).astype("float32")
    real = random.uniform(-1, 1, (8, 16, 16, 1)).astype("float32")
    gan, logs, moved = trained(jit)
    assert float(gan.discriminator_optimizer.dynamic_scale.numpy()) == 256.0
    keras.mixed_precision.set_dtype_policy("float32")
    _, expected, moved_whole = trained(False)
    # Two networks of five layers each round their inputs, kernels and outputs to
    # float16. A gradient is as many layers more, and its norm is squared.
    few = rounding.gamma(2 * 5 * 3, "float16")
    for key, value in expected.items():
        assert logs[key] == pytest.approx(value, rel=4 * few, abs=few)
    # Rounding moves activations across the kinks of these narrow networks.
    assert np.linalg.norm(moved - moved_whole) < 0.15 * np.linalg.norm(moved_whole)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_the_papers_networks_train_on_in_float16(family, float16):
    from tf_ttur.networks import dcgan, resnet

    module = {"dcgan": dcgan, "resnet": resnet}[family]
    gan = tf_ttur.GAN(
        module.generator(16, 1, width=2, latent_dimension=4),
        module.discriminator(16, 1, width=2),
        tf_ttur.NormalLatent(4),
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss={"dcgan": "non_saturating", "resnet": "wasserstein"}[family],
        gradient_penalty={"dcgan": 0.0, "resnet": 10.0}[family],
        jit_compile=False,
    )
    real = np.random.default_rng(0).uniform(-1, 1, (240, 16, 16, 1)).astype("float32")
    history = gan.fit(real, batch_size=8, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    # A step either updates or, where a value overflows on the way back, halves the
    # scale, which starts at 2^15. A scale of 1 at which something still overflows would
    # need gradients of 65,504 or more: 15 halvings are more than enough, and the other
    # half of the steps updates. (Seen: 0 to 7 halvings, by the processor.)
    for optimizer in (gan.discriminator_optimizer, gan.generator_optimizer):
        updates = int(optimizer.iterations.numpy())
        assert updates >= 15
        scale = float(optimizer.dynamic_scale.numpy())
        assert scale == 2.0 ** (15 - (30 - updates))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (layers.Conv2D, {"filters": 20, "kernel_size": 5, "strides": 2}),
        (layers.Conv2DTranspose, {"filters": 20, "kernel_size": 5, "strides": 2}),
        (layers.UpsampleConv2D, {"filters": 20, "kernel_size": 3}),
        (layers.ConvMeanPool2D, {"filters": 20, "kernel_size": 3}),
        (layers.ConvMeanPool2D, {"filters": 20, "kernel_size": 1}),
        (layers.ImageNormalization, {}),
    ],
)
def test_layers_in_float16_give_the_values_of_float32(kind, arguments, compiled):
    half_precision.need()
    if "filters" in arguments:
        arguments = arguments | {"padding": "same", "bias_initializer": "ones"}
    # Values beyond 256, whose squares float16 does not hold, for the normalisation.
    scale = 1.0 if arguments else 300.0
    x = scale * np.random.default_rng(0).normal(size=(4, 8, 8, 24)).astype("float32")
    whole, half = (kind(dtype=d, **arguments) for d in ("float32", "mixed_float16"))
    whole.build(x.shape)
    half.build(x.shape)
    half.set_weights(whole.get_weights())
    with xla.for_xla(compiled):
        expected, found = whole(x), half(x)
    assert found.dtype == tf.float16
    assert all(v.dtype == "float32" for v in half.weights)
    # Images and kernels are rounded to float16, and the values, of root mean square
    # around 1, are sums of such products, whose errors add in squares to less than two
    # units; an output is rounded as well.
    u = rounding.unit("float16")
    few = {"rtol": 2 * u, "atol": rounding.SURE * 2 * u}
    np.testing.assert_allclose(found, expected, **few)


def test_compiling_with_a_bad_loss_leaves_the_model_as_it_was():
    gan = tf_ttur.GAN(*networks(), tf_ttur.NormalLatent(4))
    with pytest.raises(ValueError, match="no loss"):
        gan.compile(**tf_ttur.ttur(discriminator=1e-3, generator=1e-3), loss="nope")
    assert not gan.compiled
    assert gan.metrics == []


def test_a_subclass_may_log_more():
    class Extra(tf_ttur.GAN):
        def discriminator_loss(self, real, fake):
            return super().discriminator_loss(real, fake) | {"extra": 2.0}

    class Named(Extra):
        @property
        def loss_names(self):
            return (*super().loss_names, "extra")

    def trained(kind):
        gan = kind(*networks(), tf_ttur.NormalLatent(4))
        gan.compile(
            **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
            loss="minimax",
            jit_compile=False,
        )
        return fit(gan, 2).history

    assert trained(Named)["extra"] == [2.0]
    with pytest.raises(KeyError, match=r"'extra' is not among Extra.loss_names"):
        trained(Extra)


def evaluate(gan, x=None, batch_size=8):
    x = images(20, seed=5) if x is None else x
    return gan.evaluate(x, batch_size=batch_size, verbose=0, return_dict=True)


def test_evaluate_gives_the_losses_of_held_out_images():
    """Linear networks, so that NumPy knows the losses; SGD has not moved them."""
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    discriminator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(4), seed=7)
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss="wasserstein",
        gradient_penalty=10.0,
        reuse_latents=True,
        jit_compile=False,
    )
    real = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
    found = evaluate(gan, real, batch_size=4)
    seeds = keras.random.SeedGenerator(players._EVALUATION_SEED)
    latents = []
    for count in (4, 4, 3):
        latents.append(gan.latent(count, seed=seeds))
        seeds.next()  # the penalty's
    fake = gan.discriminator(generator(np.concatenate(latents))).numpy().mean()
    penalty = 10.0 * (np.linalg.norm(discriminator.get_weights()[0]) - 1) ** 2
    expected = fake - discriminator(real).numpy().mean() + penalty
    # Sums of 3 and 4 products and of 11 images, and a penalty of 10 times a square.
    few = 2 * 10 * FEW["atol"]
    assert found["gradient_penalty"] == pytest.approx(penalty, rel=0, abs=few)
    assert found["d_loss"] == pytest.approx(expected, rel=0, abs=few)
    assert found["g_loss"] == pytest.approx(-fake, rel=0, abs=few)


def test_evaluate_repeats_itself_and_changes_nothing():
    def trained(**options):
        gan = tf_ttur.GAN(
            *networks(norm=True, dropout=0.5), tf_ttur.NormalLatent(4), ema_decay=0.9
        )
        rates = tf_ttur.ttur(discriminator=1e-2, generator=1e-3)
        gan.compile(
            **rates, loss="wasserstein", gradient_penalty=10.0, jit_compile=False
        )
        fit(gan, 2, **options)
        return gan

    gan = trained()
    before = state(gan)
    first = evaluate(gan)
    assert set(first) == {"d_loss", "g_loss", "gradient_penalty"}
    assert evaluate(gan) == first
    assert gan.test_on_batch(images(8), return_dict=True) == evaluate(gan, images(8))
    assert_same(state(gan), before)
    assert evaluate(gan, images(20, seed=6)) != first
    validated = trained(validation_data=batches().take(2))
    assert_same(state(validated), before)
    # And the next step is the one that would have come.
    fit(gan, 1, start=2)
    fit(validated, 1, start=2)
    assert_same(state(gan), state(validated))


def test_fit_logs_held_out_losses():
    gan = make()
    history = gan.fit(
        images(), batch_size=16, validation_data=(images(20, 5),), epochs=2, verbose=0,
        validation_batch_size=8,
    ).history  # fmt: skip
    assert history["val_d_loss"][-1] == evaluate(gan)["d_loss"]
    assert len(history["val_g_loss"]) == 2
    assert np.ptp(history["val_d_loss"]) > 0


def test_float64_images_are_taken():
    make().fit(images().astype("float64"), batch_size=16, verbose=0)


@pytest.mark.parametrize("jit", [False, True])
def test_samples_may_come_from_a_moving_average(tmp_path, jit):
    gan = tf_ttur.GAN(*networks(norm=True), tf_ttur.NormalLatent(4), ema_decay=0.3)
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="non_saturating",
        jit_compile=jit,
    )
    average = [w.numpy() for w in gan.generator.weights]
    for step in range(6):
        fit(gan, 1, start=step)
        decay = min(0.3, (1 + step) / (10 + step))
        average = [
            decay * a + (1 - decay) * w.numpy()
            for a, w in zip(average, gan.generator.weights, strict=True)
        ]
    for a, w in zip(average, gan.averaged_generator.weights, strict=True):
        # Three operations in each of six steps, on weights of up to 1.
        few = 2 * rounding.gamma(3 * 6, "float32")
        np.testing.assert_allclose(w.numpy(), a, rtol=few, atol=few)
    latents = np.asarray(gan.latent(3, seed=1))
    np.testing.assert_allclose(
        gan.generate(3, seed=1), gan.averaged_generator(latents), **GENERATED
    )
    assert not np.allclose(gan.generate(3, seed=1), gan.generator(latents), atol=1e-3)
    players = [*gan.generator.trainable_variables]
    players += gan.discriminator.trainable_variables
    assert len(gan.trainable_variables) == len(players)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    fit(gan, 2, start=6)
    fit(loaded, 2, start=6)
    assert_same(state(gan), state(loaded))
    for decay, message in (
        (1.0, r"ema_decay is 1.0; it must be in \[0, 1\)"),
        ("0.5", "ema_decay is '0.5'; it must be a number"),
        (None, "ema_decay is None; it must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            tf_ttur.GAN(*networks(), tf_ttur.NormalLatent(4), ema_decay=decay)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count is 0; it must be >= 1"),
        ({"count": "5"}, "count is '5'; it must be a whole number"),
        ({"count": 2.5}, "count is 2.5; it must be a whole number"),
        ({"batch_size": None}, "batch_size is None; it must be a whole number"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        small_gan().generate(**{"count": 2, "seed": 0} | wrong)
    assert len(small_gan().generate(np.int64(2), seed=0)) == 2


def test_an_average_may_start_later(tmp_path):
    gan = tf_ttur.GAN(
        *networks(norm=True), tf_ttur.NormalLatent(4), ema_decay=0.3, ema_start=3
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="non_saturating",
        jit_compile=False,
    )
    average = None
    for step in range(1, 6):  # counted from 1, as its start
        fit(gan, 1, start=step - 1)
        weights = gan.generator.get_weights()
        if step < 3:
            assert_same(gan.averaged_generator.get_weights(), weights)
            average = weights
        else:
            average = [0.3 * a + 0.7 * w for a, w in zip(average, weights, strict=True)]
    # Three operations in each of three steps, on weights of up to 1.
    few = 2 * rounding.gamma(3 * 3, "float32")
    for a, w in zip(average, gan.averaged_generator.get_weights(), strict=True):
        np.testing.assert_allclose(w, a, rtol=few, atol=few)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.ema_start == 3
    fit(gan, 1, start=5)
    fit(loaded, 1, start=5)
    assert_same(state(gan), state(loaded))
    # Files of those that start at once are as they were before there was a start.
    assert "ema_start" not in make().get_config()
    for wrong in (-1, 2.5):
        with pytest.raises(ValueError, match="ema_start"):
            tf_ttur.GAN(*networks(), tf_ttur.NormalLatent(4), ema_start=wrong)


def test_one_pass_over_real_and_generated_images_changes_nothing():
    from tf_ttur.networks import dcgan, resnet

    class Own(keras.Model):
        pass

    alone = structure.looks_at_each_image_alone
    assert alone(resnet.discriminator(16, width=2))
    assert alone(networks()[1])
    assert not alone(networks(norm=True)[0])
    assert not alone(networks(dropout=0.5)[1])
    assert not alone(dcgan.discriminator(16, width=2))
    x = keras.Input((4,))
    assert not alone(Own(x, keras.layers.Dense(1)(x)))
    # Not layers, and two images become one score.
    assert not alone(
        keras.Model(x, keras.layers.Dense(1)(keras.ops.reshape(x, (-1, 8))))
    )

    real = tf.random.stateless_uniform((6, 16, 16, 3), (1, 2), -1, 1)
    results = []
    for one_pass in (True, False):
        gan = tf_ttur.GAN(
            resnet.generator(16, width=2),
            resnet.discriminator(16, width=2),
            tf_ttur.NormalLatent(128),
        )
        gan.compile(
            discriminator_optimizer=keras.optimizers.SGD(0.1),
            generator_optimizer=keras.optimizers.SGD(0.1),
            loss="wasserstein",
            gradient_penalty=10.0,
            jit_compile=False,
        )
        assert gan._one_pass
        gan._one_pass = one_pass
        before = gan.get_weights()
        logs = gan.train_step(real)
        results.append([logs["d_loss"], logs["g_loss"], *gan.get_weights()])
    # Sums of 27 and up to 144 terms through eleven convolutions, their gradients and
    # those of the penalty, relative to the largest loss or change of a weight.
    few = 2 * rounding.likely(3 * (27 + 10 * 144), "float32")
    changes = [
        np.abs(b - a).max() for b, a in zip(before, gan.get_weights(), strict=True)
    ]
    few *= max(*changes, *np.abs(results[0][:2]))
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=few)
    assert few < max(changes) / 100


def test_the_step_is_traced_once():
    traces = []

    class Counting(tf_ttur.GAN):
        def prepare_real(self, data):
            traces.append(data)
            return super().prepare_real(data)

    gan = Counting(*networks(), tf_ttur.NormalLatent(4))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss="wasserstein",
        jit_compile=True,
    )
    images = tf.zeros((40, *SHAPE))
    gan.fit(images, batch_size=8, epochs=1, verbose=0)
    first = len(traces)
    gan.generate(3, seed=0)
    gan.fit(images, batch_size=8, epochs=3, verbose=0)
    assert len(traces) == first


def test_the_readmes_pipeline_runs_in_float16(tmp_path, monkeypatch, float16):
    test_the_readmes_pipeline_runs(tmp_path, monkeypatch)


def test_the_readmes_pipeline_runs(tmp_path, monkeypatch):
    readme = ROOT / "README.md"
    section = readme.read_text().split("\n## In an existing TF pipeline\n")[1]
    block = section.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (320, 28, 28, 1), "uint8")
    records = tf.data.Dataset.from_tensor_slices({"image": pixels})
    names = {"records": records.take(192), "held_out_records": records.skip(192)}
    exec(compile(block, "README.md", "exec"), names)
    assert names["images"].shape == (64, 28, 28, 1)
    assert set(names["losses"]) == {"d_loss", "g_loss", "gradient_penalty"}
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    # Sums of 16 products and a bias, and tanh.
    few = 2 * 8 * rounding.gamma(17 + rounding.FUNCTION, "float32")
    np.testing.assert_allclose(
        loaded.generate(64, seed=0), names["images"], rtol=0, atol=few
    )
    assert loaded.steps == 2 * 3

"""Labels: drawn, checked, and what a conditional `GAN` does with them."""

import half_precision
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

import tf_ttur
from tf_ttur import labels
from tf_ttur.labels import Labelled
from tf_ttur.networks import began, text

pytestmark = pytest.mark.portable

CLASSES, SIZE = 4, 3

# A few sums of up to 16 products, none above 10, one after the other in float32.
FEW = {"rtol": 0, "atol": 2 * 10 * rounding.gamma(16, "float32")}

# What XLA may change in the six updates of three steps: gradients of order 1, of sums
# of 16 and 8 products, times a rate of 1e-2 and over an epsilon of 1e-3.
UPDATES = {"rtol": 0, "atol": 6 * 1e-2 / 1e-3 * rounding.random_sums(8 * 16)}


def network(inputs, outputs, seed=0, activation=None, hidden=8):
    """Values and labels, through an embedding and two layers."""

    def initializer(plus):
        return keras.initializers.RandomNormal(stddev=0.5, seed=10 * seed + plus)

    values = keras.Input((inputs,))
    classes = keras.Input((), dtype="int32")
    rows = keras.layers.Embedding(CLASSES, 5, embeddings_initializer=initializer(0))(
        classes
    )
    x = keras.layers.Concatenate()([values, rows])
    x = keras.layers.Dense(hidden, "silu", kernel_initializer=initializer(1))(x)
    x = keras.layers.Dense(
        outputs, activation, kernel_initializer=initializer(2), dtype="float32"
    )(x)
    return keras.Model([values, classes], x)


class Kept(tf_ttur.GAN):
    """Keeps what its hooks are given, of steps that run eagerly."""

    def discriminator_loss(self, real, fake):
        self.seen = [*getattr(self, "seen", []), ("d", real, fake)]
        return super().discriminator_loss(real, fake)

    def generator_loss(self, real, fake):
        self.seen = [*self.seen, ("g", real, fake)]
        return super().generator_loss(real, fake)

    def after_step(self, real, fake):
        self.seen = [*self.seen, ("after", real, fake)]


def make(kind=tf_ttur.GAN, seed=0, ema_decay=0.0, networks=None, **options):
    networks = networks or (network(2, SIZE, 1, "tanh"), network(SIZE, 1, 2))
    gan = kind(
        *networks,
        tf_ttur.NormalLatent(2),
        seed=seed,
        num_classes=CLASSES,
        ema_decay=ema_decay,
    )
    defaults = {"loss": "hinge", "jit_compile": False}
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2, epsilon=1e-3),
        **defaults | options,
    )
    return gan


def data(n=32, seed=0):
    random = np.random.default_rng(seed)
    images = random.uniform(-1, 1, (n, SIZE)).astype("float32")
    return images, random.integers(0, CLASSES, n)


def batches(k=1, start=0, count=20):
    images, classes = data(8 * k * count)
    return (
        tf.data.Dataset.from_tensor_slices((images, classes)).batch(8 * k).skip(start)
    )


def train(gan, steps, k=1, start=0):
    gan.fit(batches(k, start), steps_per_epoch=steps, verbose=0)


def state(gan):
    return [w.numpy() for w in gan.weights] + [gan.seed_generator.state.numpy()]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- drawing and checking


def test_every_class_is_drawn_as_often_as_the_others():
    drawn = labels.draw(40_000, 8, seed=keras.random.SeedGenerator(5)).numpy()
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn, minlength=8)
    assert len(counts) == 8
    deviation = np.sqrt(40_000 * (1 / 8) * (7 / 8))
    assert np.abs(counts - 5000).max() < rounding.DEVIATIONS * deviation
    np.testing.assert_array_equal(labels.draw(9, 8, seed=3), labels.draw(9, 8, seed=3))


@pytest.mark.parametrize("kind", ["int64", "uint8", "int32"])
def test_whole_numbers_in_a_row_or_a_column_are_labels(kind):
    expected = np.array([2, 0, 1])
    for found in (expected, expected[:, None]):
        made = labels.as_labels(tf.constant(found.astype(kind)), 3)
        assert made.dtype == tf.int32
        np.testing.assert_array_equal(made, expected)


def test_what_is_no_label_is_refused_with_what_to_do():
    for found, message in (
        (np.eye(4, dtype="float32"), r"float32 of shape \(4, 4\).*tf\.argmax"),
        (np.eye(4, dtype="int32"), "tf.argmax"),
        (np.zeros(4, "float32"), r"tf\.cast\(labels, tf\.int32\)"),
        (np.zeros((4, 2), "int32"), r"shape \(4, 2\).*whole numbers \(n,\)"),
        (np.zeros(4, bool), "bool"),
    ):
        with pytest.raises(ValueError, match=message):
            labels.as_labels(tf.constant(found), 4)
    found = tf.numpy_function(lambda: np.array([1, 0]), [], tf.int64)
    np.testing.assert_array_equal(labels.as_labels(found, 4), [1, 0])
    with pytest.raises(ValueError, match="labels are None"):
        labels.as_labels(None, 4)


def test_labels_of_no_class_are_refused():
    labels.check_range([0, 3], 4)
    labels.check_range([], 4)
    for found, message in (
        ([0, 4], r"span 0 to 4; .* in 0\.\.3\. Give num_classes"),
        ([1, 4], "count from 1; use labels - 1"),
        ([-1, 2], "span -1 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            labels.check_range(found, 4)


def test_labels_of_generated_images_are_one_class_or_given_or_drawn():
    np.testing.assert_array_equal(labels.chosen(2, 3, 4, 0), [2, 2, 2])
    np.testing.assert_array_equal(labels.chosen([3, 0, 1], 3, 4, 0), [3, 0, 1])
    one, same, other = (labels.chosen(None, 500, 4, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    for found, message in (
        ([0, 1], r"shape \(2,\); give one whole number, or 3"),
        (1.5, "float64"),
        ([0, 1, 4], "span 0 to 4"),
        (-1, "span -1"),
    ):
        with pytest.raises(ValueError, match=message):
            labels.chosen(found, 3, 4, 0)


def test_labels_are_not_of_the_bits_that_the_latents_of_the_seed_are_of():
    # Latents are drawn from the state that the seed itself gives; labels of it would be
    # a function of them.
    count, classes = 4000, 50
    found = labels.chosen(None, count, classes, seed=7)
    of_the_same_bits = labels.draw(count, classes, seed=7).numpy()
    agreeing = np.mean(found == of_the_same_bits)
    deviation = np.sqrt((1 / classes) * (1 - 1 / classes) / count)
    assert abs(agreeing - 1 / classes) < rounding.DEVIATIONS * deviation


# ---- one step


@pytest.mark.parametrize("reuse", [False, True])
def test_one_step_is_one_plain_gradient_step_of_each_player(reuse):
    """Networks linear in their weights and plain SGD, for NumPy to do the step."""

    def linear(inputs, outputs):
        values, classes = keras.Input((inputs,)), keras.Input((), dtype="int32")
        rows = keras.layers.Embedding(CLASSES, inputs, embeddings_initializer="ones")
        x = keras.layers.Multiply()([values, rows(classes)])
        dense = keras.layers.Dense(outputs, use_bias=False)
        return keras.Model([values, classes], dense(x))

    gan = tf_ttur.GAN(
        linear(2, SIZE), linear(SIZE, 1), tf_ttur.NormalLatent(2), num_classes=CLASSES
    )
    gan.compile(
        discriminator_optimizer=keras.optimizers.SGD(0.1),
        generator_optimizer=keras.optimizers.SGD(0.01),
        loss="wasserstein",
        reuse_latents=reuse,
        jit_compile=False,
    )
    E, A = (np.array(w, "float64") for w in gan.generator.get_weights())
    P, w = (np.array(v, "float64") for v in gan.discriminator.get_weights())
    x, y = data(6)
    # Latents first, then their labels, from one random state.
    seeds = keras.random.SeedGenerator(0)
    drawn = [
        (np.array(gan.latent(6, seed=seeds)), labels.draw(6, CLASSES, seeds).numpy())
        for _ in range(1 if reuse else 2)
    ]
    gan.train_step((tf.constant(x), tf.constant(y)))
    np.testing.assert_array_equal(gan.seed_generator.state, seeds.state)

    z, c = drawn[0]
    fake = (z * E[c]) @ A
    sum_of = np.zeros_like(P)
    np.add.at(sum_of, c, fake * w[:, 0])
    np.subtract.at(sum_of, y, x * w[:, 0])
    P_new = P - 0.1 * sum_of / 6
    w_new = w - 0.1 * ((fake * P[c]).mean(0) - (x * P[y]).mean(0))[:, None]
    np.testing.assert_allclose(gan.discriminator.get_weights()[0], P_new, **FEW)
    np.testing.assert_allclose(gan.discriminator.get_weights()[1], w_new, **FEW)
    # The generator, of -mean(sum(G(z, c) P[c] w)) at the discriminator's new weights.
    z, c = drawn[-1]
    slope = P_new[c] * w_new[:, 0]
    A_new = A + 0.01 * (z * E[c]).T @ slope / 6
    E_new = E.copy()
    np.add.at(E_new, c, 0.01 * z * (slope @ A.T) / 6)
    np.testing.assert_allclose(gan.generator.get_weights()[0], E_new, **FEW)
    np.testing.assert_allclose(gan.generator.get_weights()[1], A_new, **FEW)


def test_hooks_are_given_images_with_their_labels():
    gan = make(Kept, discriminator_steps=2)
    x, y = data(8)
    gan.train_step((tf.constant(x), tf.constant(y)))
    assert [which for which, _, _ in gan.seen] == ["d", "d", "g", "after"]
    for index, (_, real, fake) in enumerate(gan.seen[:2]):
        assert isinstance(real, Labelled)
        assert isinstance(fake, Labelled)
        # Every k-th image and its label.
        np.testing.assert_array_equal(real.images, x[index::2])
        np.testing.assert_array_equal(real.labels, y[index::2])
    fakes = [fake for _, _, fake in gan.seen]
    assert all(fake.labels.shape == (4,) for fake in fakes)
    np.testing.assert_array_equal(fakes[2].labels, fakes[3].labels)
    np.testing.assert_array_equal(fakes[2].images, fakes[3].images)
    # Labels are drawn with the latents, anew for each update.
    assert not np.array_equal(fakes[0].images, fakes[1].images)
    assert not np.array_equal(fakes[1].images, fakes[2].images)


def test_reused_latents_come_with_their_labels():
    gan = make(Kept, reuse_latents=True)
    gan.train_step(tuple(map(tf.constant, data(16))))
    (_, _, first), (_, _, second), _ = gan.seen
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.images, second.images)


def test_a_loss_that_compares_pairs_compares_images_of_one_class():
    gan = make(Kept, loss="relativistic")
    x, y = data(16)
    gan.train_step((tf.constant(x), tf.constant(y)))
    for _, real, fake in gan.seen:
        np.testing.assert_array_equal(real.labels, y)
        np.testing.assert_array_equal(fake.labels, y)


def scaled_sum():
    """D(x, y) = s[y] sum(x), whose gradient is s[y] in each of its three values."""
    values, classes = keras.Input((SIZE,)), keras.Input((), dtype="int32")
    factor = keras.layers.Embedding(CLASSES, SIZE, name="s")(classes)
    model = keras.Model([values, classes], keras.layers.Dot(1)([values, factor]))
    model.get_layer("s").set_weights([np.tile([[1.0], [2], [3], [4]], (1, SIZE))])
    return model


@pytest.mark.parametrize("penalty", ["wgan_gp:3", "r1:3", "r2:3", "r1+r2:3"])
def test_the_penalty_is_taken_with_the_images_own_labels(penalty):
    gan = make(
        networks=(network(2, SIZE, 1), scaled_sum()),
        loss="wasserstein",
        gradient_penalty=penalty,
    )
    x, y = data(6)
    c = np.array([3, 3, 0, 1, 2, 3])
    real = Labelled(tf.constant(x), tf.constant(y, tf.int32))
    fake = Labelled(tf.zeros((6, SIZE)), tf.constant(c, tf.int32))
    norms = {"r1": np.sqrt(SIZE) * (1 + y), "r2": np.sqrt(SIZE) * (1 + c)}
    if penalty == "wgan_gp:3":
        # Between a real and a generated image the label is the real one's.
        expected = 3 * np.mean((norms["r1"] - 1) ** 2)
    else:
        names = penalty.partition(":")[0].split("+")
        expected = 3 / 2 * sum(np.mean(norms[name] ** 2) for name in names)
    found = gan.discriminator_loss(real, fake)["gradient_penalty"]
    few = rounding.gamma(16 + rounding.FUNCTION, "float32")
    assert float(found) == pytest.approx(expected, rel=2 * few)


def test_one_pass_over_both_batches_changes_nothing():
    gan = make(networks=(network(2, SIZE, 1), scaled_sum()), gradient_penalty="r1+r2")
    assert gan._one_pass
    real, fake = (
        Labelled(tf.constant(x), tf.constant(y, tf.int32))
        for x, y in (data(6, 1), data(6, 2))
    )
    one = gan.discriminator_loss(real, fake)
    gan._one_pass = False
    two = gan.discriminator_loss(real, fake)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], **FEW)


# ---- training


@pytest.mark.slow
def test_training_tells_classes_apart():
    """Of each class all images are one; the generator learns which."""
    colours = np.array([[-0.8] * 3, [0.8, -0.8, 0], [0, 0.8, 0.8], [0.5, 0, -0.5]])
    y = np.arange(512) % CLASSES
    x = (colours[y] + np.random.default_rng(0).normal(0, 0.05, (512, 3))).astype("f4")
    networks = network(2, SIZE, 1, hidden=32), network(SIZE, 1, 2, hidden=32)
    gan = make(networks=networks, loss="relativistic", gradient_penalty="r1+r2:0.1")
    gan.fit(x, y, batch_size=64, epochs=80, verbose=0)
    for class_, colour in enumerate(colours):
        made = gan.generate(64, seed=1, labels=class_)
        others = np.delete(colours, class_, 0)
        distance = np.abs(made - colour).mean()
        assert distance < np.abs(made[:, None] - others).mean((0, 2)).min() / 2


@pytest.mark.parametrize(
    "options",
    [{"steps_per_execution": 2}, {"run_eagerly": True}],
    ids=["several steps", "eager"],
)
def test_equal_seeds_give_equal_runs_however_they_are_executed(options):
    one, other = make(gradient_penalty=1.0), make(gradient_penalty=1.0, **options)
    for gan in (one, other):
        train(gan, 4)
    few = {"rtol": 0, "atol": UPDATES["atol"]}
    for a, b in zip(state(one), state(other), strict=True):
        np.testing.assert_allclose(a, b, **few)


def test_xla_trains_with_labels():
    gan = make(jit_compile=True, gradient_penalty="r1+r2:1", ema_decay=0.5)
    history = gan.fit(batches(count=3), verbose=0).history
    assert all(np.isfinite(value).all() for value in history.values())
    plain = make(gradient_penalty="r1+r2:1")
    # One step on labels, latents and weights that are the same.
    for each in (gan, plain):
        for network_, other in zip(
            (each.generator, each.discriminator), make().networks.values(), strict=True
        ):
            network_.set_weights(other.get_weights())
    x, y = data(8)
    real = Labelled(tf.constant(x), tf.constant(y, tf.int32))
    fake = Labelled(tf.constant(data(8, 3)[0]), tf.constant(y[::-1].copy(), tf.int32))
    compiled = tf.function(gan.discriminator_loss, jit_compile=True)(real, fake)
    expected = plain.discriminator_loss(real, fake)
    bound = 2 * 10 * rounding.gamma(3 * 16 + 2 * rounding.FUNCTION, "float32")
    for name, value in expected.items():
        assert float(compiled[name]) == pytest.approx(float(value), abs=bound)


def test_the_step_after_loading_is_the_step_that_would_have_come(tmp_path):
    options = {"discriminator_steps": 2, "gradient_penalty": "r1:0.5", "ema_decay": 0.9}
    gan = make(**options)
    train(gan, 3, k=2)
    gan.save(tmp_path / "gan.keras")
    gan.save_weights(tmp_path / "gan.weights.h5")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    filled = make(seed=9, **options)
    filled.load_weights(tmp_path / "gan.weights.h5")
    assert (loaded.num_classes, loaded.gradient_penalty) == (CLASSES, "r1:0.5")
    for each in (gan, loaded, filled):
        train(each, 3, k=2, start=3)
    for each in (loaded, filled):
        assert_same(state(gan), state(each))
        np.testing.assert_array_equal(
            gan.generate(5, seed=1, labels=2), each.generate(5, seed=1, labels=2)
        )


def test_held_out_losses_are_repeatable_and_change_nothing():
    gan = make(gradient_penalty=1.0, ema_decay=0.5)
    train(gan, 2)
    before = state(gan)
    first, second = (gan.evaluate(*data(24, 3), verbose=0) for _ in range(2))
    assert first == second
    assert np.isfinite(first).all()
    assert_same(state(gan), before)
    history = gan.fit(*data(16), validation_data=data(16, 4), verbose=0).history
    assert {"val_d_loss", "val_g_loss", "val_gradient_penalty"} < set(history)


@pytest.fixture
def policy():
    half_precision.need()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("mixed", "penalty"), [("mixed_float16", "r1+r2:1"), ("mixed_bfloat16", 1.0)]
)
def test_mixed_precision_trains_with_labels(mixed, penalty, policy):
    policy(mixed)
    gan = make(gradient_penalty=penalty)
    before = gan.generator.get_weights()
    history = gan.fit(*data(32), batch_size=8, verbose=0).history
    assert all(np.isfinite(value).all() for value in history.values())
    assert gan.generate(3, seed=0).dtype == np.float32
    after = gan.generator.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    real, fake = (
        Labelled(tf.constant(x), tf.constant(y, tf.int32))
        for x, y in (data(6, 1), data(6, 2))
    )
    assert gan.discriminator_loss(real, fake)["gradient_penalty"].dtype == tf.float32


# ---- data


def test_labels_are_found_in_pairs_and_in_dicts(tmp_path):
    x, y = data(16)
    gans = [make() for _ in range(3)]
    gans[0].fit(x, y, batch_size=8, shuffle=False, verbose=0)
    gans[1].fit(x, y[:, None].astype("uint8"), batch_size=8, shuffle=False, verbose=0)
    records = {"image": x, "label": y, "name": np.arange(16)}
    gans[2].fit(tf.data.Dataset.from_tensor_slices(records).batch(8), verbose=0)
    assert_same(state(gans[0]), state(gans[1]))
    assert_same(state(gans[0]), state(gans[2]))

    gan = tf_ttur.GAN(
        network(2, SIZE), network(SIZE, 1), tf_ttur.NormalLatent(2),
        num_classes=CLASSES, image_key="x", label_key="y",
    )  # fmt: skip
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    real = loaded.prepare_real({"x": tf.constant(x), "y": tf.constant(y)})
    np.testing.assert_array_equal(real.labels, y)


def test_data_without_labels_or_with_others_are_refused_before_a_step():
    gan = make()
    before = state(gan)
    x, y = data(16)
    one_hot = np.eye(CLASSES, dtype="float32")[y]
    for given, message in (
        ((x,), "yields no labels; a GAN with num_classes=4 takes"),
        (([x, y],), "yields no labels|does not find"),
        ((x, one_hot), r"float32 of shape \(\d+, 4\)"),
        ((x, y.astype("float32")), "tf.cast"),
        ((x, y + 1), "span 1 to 4.*count from 1"),
        ((x, np.where(y == 0, 9, y)), "span 1 to 9"),
        ((tf.data.Dataset.from_tensor_slices((x, y + 2)).batch(8),), "labels span"),
        ((tf.data.Dataset.from_tensors({"image": x}),), "label_key='label'"),
    ):
        with pytest.raises(ValueError, match=message):
            gan.fit(*given, verbose=0)
    with pytest.raises(ValueError, match="span 1 to 4"):
        gan.evaluate(x, y + 1, verbose=0)
    assert_same(state(gan), before)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_of_no_class_are_refused_in_every_batch(jit_compile):
    x, y = data(24)
    y[-1] = CLASSES  # in the last of three batches
    pairs = tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(8)
    records = tf.data.Dataset.from_tensor_slices({"image": x, "label": y}).batch(8)
    message = f"The labels span 0 to {CLASSES}; .* Give num_classes the number"
    for dataset in (pairs, records):
        gan = make(jit_compile=jit_compile)
        with pytest.raises(ValueError, match=message):
            gan.fit(dataset, verbose=0)
        assert gan.steps == 2
    with pytest.raises(ValueError, match=message):
        gan.evaluate(pairs, verbose=0)
    with pytest.raises(ValueError, match=message):
        gan.fit(records.take(2), validation_data=pairs, verbose=0)
    gan = make()
    before = state(gan)
    for given in ((x, y), ({"image": x, "label": y},)):
        # Of arrays it is known before the first step.
        with pytest.raises(ValueError, match=message):
            gan.fit(*given, batch_size=8, shuffle=False, verbose=0)
        with pytest.raises(ValueError, match=message):
            gan.evaluate(*given, batch_size=8, verbose=0)
    assert_same(state(gan), before)


def test_a_data_set_that_is_looked_at_is_the_same():
    x, y = data(20)
    plain = tf.data.Dataset.from_tensor_slices((x, y.astype("uint8"))).batch(8)
    looked_at = make().check_all(plain)
    assert looked_at is not plain
    assert looked_at.element_spec == plain.element_spec
    assert int(looked_at.cardinality()) == 3
    for one, other in zip(looked_at, plain, strict=True):
        assert_same(one, other)
    # One-hot floats and images alone are refused elsewhere, with what to do.
    for other in (
        tf.data.Dataset.from_tensors(x), tf.data.Dataset.from_tensors((x, x))
    ):  # fmt: skip
        assert make().check_all(other) is other


def test_whoever_prepares_the_labels_says_what_they_are():
    class CountsFromOne(tf_ttur.GAN):
        def prepare_real(self, data):
            return labels.Labelled(data[0], tf.cast(data[1] - 1, tf.int32))

    x, y = data(16)
    gan = make(CountsFromOne)
    gan.fit(tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(8), verbose=0)
    assert gan.steps == 2


# ---- networks


def test_networks_must_take_labels_and_only_then():
    def plain(inputs, outputs):
        return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(outputs)])

    def gan(*networks, **options):
        return tf_ttur.GAN(*networks, tf_ttur.NormalLatent(2), **options)

    good = network(2, SIZE), network(SIZE, 1)
    with pytest.raises(ValueError, match=r"generator has 1 input; with num_classes"):
        gan(plain(2, SIZE), good[1], num_classes=4)
    with pytest.raises(ValueError, match="discriminator has 1 input;"):
        gan(good[0], plain(SIZE, 1), num_classes=4)
    with pytest.raises(ValueError, match="generator has 1 input;"):
        gan(keras.Sequential([keras.layers.Dense(SIZE)]), good[1], num_classes=4)
    with pytest.raises(ValueError, match="generator has 2 inputs.*give num_classes"):
        gan(*good)
    values, column = keras.Input((2,)), keras.Input((1,), dtype="int32")
    both = keras.layers.Concatenate()([values, keras.ops.cast(column, "float32")])
    with pytest.raises(ValueError, match=r"takes shape \(1,\), but what comes in"):
        gan(keras.Model([values, column], both), good[1], num_classes=4)
    floats = keras.Input(())
    both = values * keras.ops.expand_dims(floats, -1)
    with pytest.raises(ValueError, match="takes labels as float32"):
        gan(keras.Model([values, floats], both), good[1], num_classes=4)
    for wrong in (0, -1, 2.5, "ten"):
        with pytest.raises(ValueError, match="num_classes is"):
            gan(*good, num_classes=wrong)


class Painter(keras.Model):
    """A subclass, of which only its `call` says what it takes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rows = keras.layers.Embedding(CLASSES, 2)
        self.dense = keras.layers.Dense(SIZE)

    def call(self, inputs):
        values, classes = inputs
        return self.dense(values + self.rows(classes))


def test_subclassed_networks_take_labels():
    gan = make(networks=(Painter(), network(SIZE, 1)))
    assert gan.sample_shape == (SIZE,)
    train(gan, 2)
    assert gan.generate(3, seed=0, labels=1).shape == (3, SIZE)


def test_models_without_labels_say_so():
    with pytest.raises(ValueError, match="BEGAN takes no labels"):
        began.BEGAN(
            network(2, SIZE), network(SIZE, SIZE), tf_ttur.UniformLatent(2),
            num_classes=4,
        )  # fmt: skip
    gan = make(text.TextGAN, networks=(network(2, SIZE), network(SIZE, 1)))
    gan.sample_shape = (1, SIZE)
    with pytest.raises(ValueError, match=r"TextGAN\.prepare_real returns a .*Labelled"):
        gan.fit(np.zeros((8, 1), "int32"), verbose=0)


# ---- sampling


def echo():
    """A generator whose images are the label, and a latent."""
    values, classes = keras.Input((2,)), keras.Input((), dtype="int32")
    start = keras.initializers.Constant(np.arange(CLASSES, dtype="f4")[:, None])
    rows = keras.layers.Embedding(CLASSES, 1, embeddings_initializer=start)(classes)
    return keras.Model([values, classes], keras.layers.Concatenate()([rows, values]))


@pytest.mark.parametrize("compiled", [False, True])
def test_images_are_generated_of_the_classes_asked_for(compiled):
    gan = make(networks=(echo(), network(SIZE, 1)), jit_compile=compiled)
    before = state(gan)
    for given, expected in (
        (3, [3] * 5),
        ([1, 0, 3, 3, 2], [1, 0, 3, 3, 2]),
        (np.array([1, 0, 3, 3, 2], "uint8"), [1, 0, 3, 3, 2]),
        (None, labels.chosen(None, 5, CLASSES, 8)),
    ):
        for size in (256, 2):
            made = gan.generate(5, seed=8, batch_size=size, labels=given)
            np.testing.assert_array_equal(made[:, 0], expected)
            # Latents are those of the seed, whatever the labels.
            np.testing.assert_array_equal(made[:, 1:], gan.latent(5, seed=8))
    parts = list(gan.generate_batches(5, 8, 2, labels=[0, 1, 2, 3, 0]))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], [0, 1, 2, 3, 0])
    assert_same(state(gan), before)
    with pytest.raises(ValueError, match="span 0 to 4"):
        gan.generate(2, labels=[0, 4])


def test_labels_for_a_gan_without_classes_are_refused():
    gan = tf_ttur.GAN(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
        tf_ttur.NormalLatent(2),
    )
    assert not {"num_classes", "label_key"} & set(gan.get_config())
    with pytest.raises(ValueError, match="has no classes"):
        gan.generate(2, labels=1)


def test_predict_and_call_take_latents_and_labels():
    gan = make(networks=(echo(), network(SIZE, 1)))
    latents, classes = np.ones((6, 2), "float32"), np.array([3, 1, 0, 2, 2, 1])
    for made in (
        gan.predict([latents, classes], batch_size=4, verbose=0),
        gan([latents, classes]).numpy(),
    ):
        np.testing.assert_array_equal(made[:, 0], classes)
    with pytest.raises(ValueError, match=r"give \[latents, labels\]"):
        gan(latents)


def test_the_exported_generator_takes_labels(tmp_path):
    gan = make(networks=(echo(), network(SIZE, 1)))
    gan.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    made = loaded.serve([tf.zeros((3, 2)), tf.constant([2, 0, 3])])
    np.testing.assert_array_equal(made[:, 0], [2, 0, 3])

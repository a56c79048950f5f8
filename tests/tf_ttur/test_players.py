"""`Players` in a game of three networks, one frozen, against plain gradient tapes."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

import tf_ttur
from tf_ttur import replicas
from tf_ttur.callbacks.checkpoints import Checkpoints
from tf_ttur.callbacks.steps import Diverged
from tf_ttur.players import Players, learning_rate, pull

pytestmark = pytest.mark.portable

RATES = {"critic": 1e-2, "student_matching": 2e-2, "student_reward": 3e-2}


@keras.saving.register_keras_serializable("test_players")
class Distillation(Players):
    """A student learns from a frozen teacher by one loss, from a critic by another."""

    loss_names = ("critic_loss", "matching", "reward")

    def __init__(self, student, critic, teacher, decay=0.0, seed=0, **kwargs):
        super().__init__(
            {"student": student, "critic": critic},
            frozen={"teacher": teacher},
            averages={"student": decay},
            seed=seed,
            **kwargs,
        )
        self.decay = decay

    def get_config(self):
        return super().get_config() | {"decay": self.decay}

    def compile(
        self,
        *,
        student_matching_optimizer,
        student_reward_optimizer,
        critic_optimizer,
        weight=0.5,
        **options,
    ):
        super().compile(
            optimizers={
                "student": {
                    "matching": student_matching_optimizer,
                    "reward": student_reward_optimizer,
                },
                "critic": critic_optimizer,
            },
            weight=weight,
            **options,
        )

    def get_compile_config(self):
        return super().get_compile_config() | {"weight": self.weight}

    def made(self, share):
        noise = self.noise(normal, share)
        return noise, self.student(noise, training=self.in_training)

    def critic_loss(self, real, made):
        scores = [self.critic(x, training=self.in_training) for x in (real, made)]
        return tf.reduce_mean(tf.cast(scores[1] - scores[0], tf.float32))

    def matching(self, noise, made):
        gap = made - self.frozen["teacher"](noise)
        return self.weight * tf.reduce_mean(tf.cast(gap, tf.float32) ** 2)

    def reward(self, made):
        scores = self.critic(made, training=self.in_training)
        return -tf.reduce_mean(tf.cast(scores, tf.float32))

    def one_step(self, real):
        share = replicas.share(real)
        _, made = self.made(share)
        with tf.GradientTape() as tape:
            value = self.critic_loss(real, made)
            loss = self.objective(value, "critic", share)
        self.apply(tape, loss, "critic")
        self.track({"critic_loss": value}, share)
        with tf.GradientTape() as tape:
            value = self.matching(*self.made(share))
            loss = self.objective(value, "student_matching", share)
        self.apply(tape, loss, "student_matching")
        self.track({"matching": value}, share)
        with tf.GradientTape() as tape:
            value = self.reward(self.made(share)[1])
            loss = self.objective(value, "student_reward", share)
        self.apply(tape, loss, "student_reward")
        self.track({"reward": value}, share)

    def held_out(self, data):
        real, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        share = replicas.share(real)
        noise, made = self.made(share)
        losses = {
            "critic_loss": self.critic_loss(real, made),
            "matching": self.matching(noise, made),
            "reward": self.reward(made),
        }
        self.track(losses, share)


def normal(count, seed):
    return keras.random.normal((count, 3), dtype="float32", seed=seed)


def network(outputs, seed, *layers, decay=None):
    """Input, hidden layer, the layers given, and an output without a bias."""
    initial = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    regularizer = decay and keras.regularizers.L2(decay)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(
                5, "elu", kernel_initializer=initial, kernel_regularizer=regularizer
            ),
            *layers,
            keras.layers.Dense(outputs, use_bias=False, kernel_initializer=initial),
        ]
    )


def optimizers(kind=keras.optimizers.Adam, **options):
    return {f"{k}_optimizer": kind(rate, **options) for k, rate in RATES.items()}


def make(seed=0, teacher=7, noisy=False, decay=0.0, given=None, **options):
    """The game; a noisy one has random layers and batch norm in it."""
    parts = [keras.layers.BatchNormalization()] if noisy else []
    random = [keras.layers.Dropout(0.3, seed=4)] if noisy else []
    players = Distillation(
        network(3, 1, *parts), network(1, 2, *random), network(3, teacher), decay, seed
    )
    players.compile(**given or optimizers(), **{"jit_compile": False} | options)
    return players


def rows(count=64, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype("float32")


def fit(players, steps, start=0, **options):
    real = rows(8 * (start + steps))[8 * start :]
    return players.fit(real, batch_size=8, shuffle=False, verbose=0, **options).history


def train(players, steps, start=0):
    """Steps without a graph, one operation after another."""
    for real in np.split(rows(8 * (start + steps)), start + steps)[start:]:
        players.train_step(tf.constant(real))


def state(players):
    """All that training may change, and the teacher."""
    own = [*players.weights, *players.frozen["teacher"].weights]
    theirs = [v for each in players.optimizers.values() for v in each.variables]
    return [v.numpy() for v in own + theirs + players._random_states()]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_equal_plain_gradient_tapes():
    """With weight decay, Adam's moments apart for both losses, and a moving average."""
    decayed, critic, teacher = network(3, 1, decay=0.1), network(1, 2), network(3, 7)
    plain = {"student": keras.models.clone_model(decayed), "critic": network(1, 2)}
    plain["student"].set_weights(decayed.get_weights())
    players = Distillation(decayed, critic, teacher, decay=0.3, seed=9)
    # With the usual epsilon Adam makes whole steps of what is rounding alone.
    players.compile(**optimizers(epsilon=1e-3), weight=2.0, jit_compile=False)
    train(players, 6)

    adam = optimizers(epsilon=1e-3)
    seeds = keras.random.SeedGenerator(9)
    average = [w.numpy() for w in plain["student"].weights]
    for step, real in enumerate(np.split(rows(48), 6)):
        student, critic = plain["student"], plain["critic"]

        def penalty(student=student):
            return 0.1 * tf.reduce_sum(student.layers[0].kernel ** 2)

        made = student(normal(8, seeds))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(critic(made)) - tf.reduce_mean(critic(real))
        variables = critic.trainable_variables
        adam["critic_optimizer"].apply(tape.gradient(loss, variables), variables)
        variables = student.trainable_variables
        noise = normal(8, seeds)
        with tf.GradientTape() as tape:
            loss = 2 * tf.reduce_mean((student(noise) - teacher(noise)) ** 2)
            loss += penalty()
        adam["student_matching_optimizer"].apply(
            tape.gradient(loss, variables), variables
        )
        noise = normal(8, seeds)
        with tf.GradientTape() as tape:
            loss = penalty() - tf.reduce_mean(critic(student(noise)))
        adam["student_reward_optimizer"].apply(
            tape.gradient(loss, variables), variables
        )
        decay = min(0.3, (1 + step) / (10 + step))
        average = [
            decay * a + (1 - decay) * w.numpy()
            for a, w in zip(average, student.weights, strict=True)
        ]
    # Gradients are of order 1 and of some 32 roundings in a row. Adam divides by its
    # epsilon at least and multiplies by the rate, here in twelve updates of a student,
    # whose errors have either sign.
    update = max(RATES.values()) / 1e-3 * rounding.random_sums(32)
    few = {"rtol": 0, "atol": np.sqrt(12) * update}
    for name, expected in plain.items():
        found = players.networks[name].get_weights()
        for a, b in zip(found, expected.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, **few)
    for a, b in zip(players.averaged_student.get_weights(), average, strict=True):
        np.testing.assert_allclose(a, b, **few)
    assert players.steps == 6


def test_what_is_frozen_stays_as_it_is_and_is_no_part_of_the_weights():
    players = make()
    before = players.frozen["teacher"].get_weights()
    fit(players, 3)
    assert_same(players.frozen["teacher"].get_weights(), before)
    ids = {id(v) for v in players.variables}
    assert not ids & {id(v) for v in players.frozen["teacher"].variables}
    assert not players.frozen["teacher"].trainable_variables


def test_logs_are_the_losses_and_every_rate_by_name():
    history = fit(make(), 2)
    rates = {f"{name}_lr" for name in RATES}
    assert set(history) == {"critic_loss", "matching", "reward"} | rates
    for name, rate in RATES.items():
        assert history[f"{name}_lr"] == pytest.approx([rate])


def test_a_loss_that_no_name_announces_is_refused():
    players = make()
    with pytest.raises(KeyError, match=r"'other' is not among Distillation.loss_names"):
        players.track({"other": tf.zeros(())}, replicas.share(rows(2)))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_the_step_after_loading_is_the_step_that_would_have_come(tmp_path, suffix):
    options = {"noisy": True, "decay": 0.9, "weight": 0.25}
    players = make(**options)
    train(players, 3)
    path = tmp_path / f"players{suffix}"
    if suffix == ".keras":
        players.save(path)
        teacher = {"teacher": network(3, 7)}
        loaded = keras.models.load_model(path, custom_objects=teacher)
        assert type(loaded) is Distillation
        assert loaded.frozen["teacher"] is teacher["teacher"]
    else:
        players.save_weights(path)
        loaded = make(seed=5, **options)
        loaded.load_weights(path)
    assert loaded.steps == 3
    assert loaded.weight == 0.25
    train(players, 2, start=3)
    train(loaded, 2, start=3)
    assert_same(state(loaded), state(players))


def test_backup_and_restore_continues_exactly(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def run(players, *more):
        backup = keras.callbacks.BackupAndRestore(tmp_path)
        fit(players, 2, epochs=4, callbacks=[backup, *more])

    whole = make(noisy=True)
    fit(whole, 2, epochs=4)
    with pytest.raises(InterruptedError):
        run(make(noisy=True), Crash())
    resumed = make(noisy=True, seed=5)
    run(resumed)
    assert_same(state(resumed), state(whole))


def arrays(path):
    """Every array of a saved file, by its path there."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    source = path
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(source) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_file_names_the_frozen_network_and_does_not_hold_it(tmp_path, suffix):
    players = make()
    path = tmp_path / f"players{suffix}"
    (players.save if suffix == ".keras" else players.save_weights)(path)
    held = arrays(path)
    for weight in players.frozen["teacher"].get_weights():
        if weight.any():  # biases start as zeros, as others do
            assert not any(np.array_equal(weight, each) for each in held.values())
    for weight in players.student.get_weights():
        assert any(np.array_equal(weight, each) for each in held.values())
    # Under the names of attributes, once: with neither list nor dict in the path.
    folders = {name.split("/")[0] for name in held if not name.startswith("vars")}
    assert folders == {
        "critic", "critic_optimizer", "student", "student_matching_optimizer",
        "student_reward_optimizer",
    }  # fmt: skip


def test_another_frozen_network_is_refused(tmp_path):
    players = make()
    fit(players, 2)
    players.save(tmp_path / "players.keras")
    players.save_weights(tmp_path / "players.weights.h5")
    message = "'teacher' is another than the file was saved with"
    for name in ("players.keras", "players.weights.h5"):
        other = make(teacher=8)
        before = other._random_states()[0].numpy()
        with pytest.raises(ValueError, match=message):
            other.load_weights(tmp_path / name)
        assert other.steps == 0
        np.testing.assert_array_equal(other._random_states()[0].numpy(), before)
    path = tmp_path / "players.keras"
    with pytest.raises(ValueError, match=f"^The frozen network {message}"):
        keras.models.load_model(path, custom_objects={"teacher": network(3, 8)})
    with pytest.raises(ValueError, match=r"custom_objects=\{'teacher': network\}"):
        keras.models.load_model(path)


def test_a_file_without_the_frozen_network_is_refused(tmp_path):
    class Unfrozen(Distillation):
        def _fingerprints(self):
            return []

    alone = Unfrozen(network(3, 1), network(1, 2), network(3, 7))
    alone.compile(**optimizers())
    alone.save_weights(tmp_path / "alone.weights.h5")
    with pytest.raises(ValueError, match=r"\.\.\. here, none there"):
        make().load_weights(tmp_path / "alone.weights.h5")


def evaluate(players, real):
    return players.evaluate(real, batch_size=8, verbose=0, return_dict=True)


def test_evaluate_gives_the_losses_of_held_out_rows():
    """The noise is that of a seed of its own, and small batches count for less."""
    players = make(seed=3)
    fit(players, 1)
    real = rows(20, seed=5)
    found = evaluate(players, real)
    assert evaluate(players, real) == found
    assert players.test_on_batch(real[:8], return_dict=True) == evaluate(
        players, real[:8]
    )
    other = make(seed=4)
    for name in ("student", "critic"):
        other.networks[name].set_weights(players.networks[name].get_weights())
    assert evaluate(other, real) == found
    # The critic's two means are both linear in its scores: NumPy takes them at once.
    scores = players.critic(real).numpy().mean()
    # Means of 20 scores, each a sum of a few products; none is above 10.
    few = 2 * 10 * rounding.gamma(20 + 16, "float32")
    total = found["critic_loss"] + found["reward"]
    assert total == pytest.approx(-scores, rel=0, abs=few)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_evaluate_changes_nothing(jit_compile):
    players, other = (
        make(noisy=True, decay=0.9, jit_compile=jit_compile) for _ in range(2)
    )
    for each in (players, other):
        fit(each, 2)
    before = state(players)
    assert set(evaluate(players, rows())) == set(players.loss_names)
    assert_same(state(players), before)
    fit(players, 1, start=2)
    fit(other, 1, start=2)
    assert_same(state(players), state(other))


def test_evaluate_restores_the_random_state_after_an_error():
    players = make()
    before = state(players)
    with pytest.raises(ValueError, match="incompatible"):
        players.evaluate(np.zeros((4, 9), "float32"), verbose=0)
    assert_same(state(players), before)


@pytest.fixture
def float16():
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    yield
    keras.mixed_precision.set_dtype_policy(policy)


def test_mixed_float16_scales_each_loss_once(tmp_path, float16):
    """Plain SGD, so that a gradient scaled twice, or not unscaled, would show."""

    def moved(players):
        before = [w.numpy() for w in players.trainable_variables]
        fit(players, 1)
        after = [w.numpy() for w in players.trainable_variables]
        return np.concatenate(
            [(b - a).ravel() for a, b in zip(before, after, strict=True)]
        )

    half = make(given=optimizers(keras.optimizers.SGD))
    found = moved(half)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(
        tmp_path / "half.keras", custom_objects={"teacher": half.frozen["teacher"]}
    )
    for players in (half, loaded):
        assert len(players.optimizers) == 3
        for optimizer in players.optimizers.values():
            assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)
    assert float(learning_rate(half.critic_optimizer)) == pytest.approx(1e-2)
    keras.mixed_precision.set_dtype_policy("float32")
    expected = moved(make(given=optimizers(keras.optimizers.SGD)))
    assert np.linalg.norm(expected) > 1e-2
    # float16 has 11 bits: each of some ten operations on the way adds 2^-11 at most.
    assert np.linalg.norm(found - expected) < 10 * 2**-11 * np.linalg.norm(expected)


def test_a_checkpoint_of_an_optimizer_that_is_not_finite_is_refused(tmp_path):
    players = make()
    fit(players, 1)
    moments = players.student_reward_optimizer.variables[2]
    moments.assign(np.full(moments.shape, np.nan))
    checkpoints = Checkpoints(tmp_path / "checkpoints", tmp_path / "best", "fid")
    with pytest.raises(Diverged, match="not finite at step 1"):
        checkpoints.save(players, 1, None)


def test_wrong_optimizers_are_refused():
    players = make()
    adam = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="'student_reward' and 'critic' are one obje"):
        players.compile(
            **optimizers()
            | {"critic_optimizer": adam, "student_reward_optimizer": adam}
        )
    with pytest.raises(ValueError, match="for critic; those that are trained are stud"):
        Players.compile(players, optimizers={"critic": adam})
    # What was refused has changed nothing.
    assert players.critic_optimizer is not adam
    fit(players, 1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_end_of_a_data_set_is_no_step(jit_compile):
    """Of one whose length nobody knows, Keras asks for a batch that is not there."""
    known, unknown = (make(jit_compile=jit_compile) for _ in range(2))
    data = tf.data.Dataset.from_tensor_slices(rows(16)).batch(8, drop_remainder=True)
    unsized = data.filter(lambda x: True)
    known.fit(data, epochs=3, verbose=0)
    unknown.fit(unsized, epochs=3, verbose=0)
    assert known.steps == unknown.steps == 3 * 2
    assert_same(state(known), state(unknown))
    # Nor is it a batch of held-out data.
    expected = known.evaluate(data, verbose=0)
    assert unknown.evaluate(unsized, verbose=0) == pytest.approx(expected, rel=1e-6)


def test_a_network_that_is_not_trainable_is_refused():
    """As Keras's GANs once did it, for a model of both."""
    players = make()
    players.critic.trainable = False
    with pytest.raises(ValueError, match="The network 'critic' has nothing to train"):
        fit(players, 1)
    with pytest.raises(ValueError, match="The network 'critic' has nothing to train"):
        players.train_on_batch(rows(4))
    players.compile(**optimizers(), jit_compile=False)
    players.critic.trainable = True
    # An optimizer that was built for no weights cannot train them.
    with pytest.raises(ValueError, match="'critic' was made for other weights than"):
        players.compile(**{f"{k}_optimizer": v for k, v in players.optimizers.items()})
    players.compile(**optimizers(), jit_compile=False)
    # Some layers of a network may be fixed.
    players.critic.layers[0].trainable = False
    fit(players, 1)


@pytest.mark.parametrize("part", ["network", "layer"])
def test_what_is_frozen_after_the_first_step_is_refused(part):
    """The step is compiled by then, and would go on training it."""
    players = make()
    fit(players, 1)
    frozen = players.critic if part == "network" else players.critic.layers[0]
    frozen.trainable = False
    message = "nothing to train" if part == "network" else "kernel was to be trained at"
    for train in (lambda: fit(players, 1), lambda: players.train_on_batch(rows(4))):
        with pytest.raises(ValueError, match=message):
            train()
    frozen.trainable = True
    fit(players, 1)
    players.critic.layers[0].trainable = False
    players.compile(**optimizers(), jit_compile=False)
    before = [layer.get_weights() for layer in players.critic.layers]
    fit(players, 1)
    after = [layer.get_weights() for layer in players.critic.layers]
    changed = [
        any((a != b).any() for a, b in zip(*each, strict=True))
        for each in zip(after, before, strict=True)
        if each[0]
    ]
    assert changed[0] is False
    assert any(changed)


def test_a_step_that_is_run_eagerly_trains_what_is_trainable_now():
    players = make()
    players.compile(**optimizers(), run_eagerly=True)
    fit(players, 1)
    layer = players.critic.layers[0]
    layer.trainable = False
    before = layer.get_weights()
    fit(players, 1)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_averages_of_an_optimizer_take_effect_at_the_end_of_fit():
    given = optimizers(keras.optimizers.SGD)
    given["critic_optimizer"] = keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.75
    )
    players, trained = make(given=given), []
    noting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: trained.append(players.critic.get_weights())
    )
    fit(players, 3, callbacks=[noting])
    average = trained[0]
    for weights in trained[1:]:
        average = [0.75 * a + 0.25 * w for a, w in zip(average, weights, strict=True)]
    for found, expected, last in zip(
        players.critic.get_weights(), average, trained[-1], strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert (found != last).any()


def test_callbacks_for_one_optimizer_are_refused():
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    with pytest.raises(ValueError, match="here are 'student_matching', .*ForOptimizer"):
        fit(make(), 1, callbacks=[rates])


def test_wrong_networks_are_refused():
    shared = network(3, 1)
    with pytest.raises(ValueError, match="'student' is both trained and frozen"):
        Players({"student": shared}, frozen={"teacher": shared})
    with pytest.raises(ValueError, match="'optimizer' is not built"):
        Players({"optimizer": keras.Sequential([keras.layers.Dense(1)])})
    with pytest.raises(ValueError, match="cannot be called 'optimizers': Players has"):
        Players({"optimizers": shared})
    with pytest.raises(
        ValueError, match=r"average of student is .* must be in \[0, 1\)"
    ):
        Players({"student": shared}, averages={"student": 1.0})


def test_a_strategy_turns_xla_off_and_an_explicit_wish_is_refused():
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert not make(jit_compile=None).jit_compile
        with pytest.raises(ValueError, match="cannot work under a tf.distribute"):
            make(jit_compile=True)
    assert make(jit_compile=None).jit_compile


def test_a_strategys_scope_holds_all_parts():
    players = make()
    with (
        tf.distribute.OneDeviceStrategy("/cpu:0").scope(),
        pytest.raises(ValueError, match="not made there: Distillation"),
    ):
        players.compile(**optimizers())


def test_pull_moves_weights_by_a_share_of_the_way():
    network_, source = network(2, 0), network(2, 5)
    before = network_.get_weights()
    pull(network_, source, 0.25)
    for found, start, end in zip(
        network_.get_weights(), before, source.get_weights(), strict=True
    ):
        # Three operations either way, on two weights.
        atol = 2 * rounding.gamma(3, "float32") * np.abs([start, end]).max()
        np.testing.assert_allclose(found, 0.75 * start + 0.25 * end, rtol=0, atol=atol)


# Norms of gradients -------------------------------------------------------------------


def linear_gan(**settings):
    """D(x) = w x and G(z) = z v, whose gradients are means of what they are given."""
    networks = [
        keras.Sequential(
            [keras.Input((size,)), keras.layers.Dense(out, use_bias=False)]
        )
        for size, out in ((2, 3), (3, 1))
    ]
    gan = tf_ttur.GAN(*networks, latent=tf_ttur.NormalLatent(2))
    gan.compile(
        discriminator_optimizer=keras.optimizers.SGD(0.5),
        generator_optimizer=keras.optimizers.SGD(0.5),
        loss="wasserstein",
        gradient_norms=True,
        **settings,
    )
    return gan


@pytest.mark.parametrize("jit_compile", [False, True])
def test_squared_norms_of_gradients_are_logged_as_means(jit_compile):
    gan = linear_gan(jit_compile=jit_compile)
    random = np.random.default_rng(0)
    real = random.standard_normal((8, 3)).astype("float32")
    # The gradients are what the weights moved by, over the rate.
    squares = {"d_gradient": [], "g_gradient": []}
    weights = [x.numpy().astype(float) for x in gan.trainable_variables]

    def look(batch, logs):
        for index, variable in enumerate(gan.trainable_variables):
            old, new = weights[index], variable.numpy().astype(float)
            key = "d_gradient" if old.shape == (3, 1) else "g_gradient"
            squares[key].append((((new - old) / 0.5) ** 2).sum())
            weights[index] = new

    looking = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    logs = gan.fit(real, batch_size=4, verbose=0, callbacks=[looking]).history
    for key, each in squares.items():
        # Weights of size 1 are moved by steps of that size, with their rounding.
        error = 8 * rounding.gamma(8, "float32") * (1 + max(each))
        assert len(each) == 2
        assert logs[key] == [pytest.approx(np.mean(each), abs=error)]
    assert (
        not {"d_gradient", "g_gradient"}
        & gan.evaluate(real, verbose=0, return_dict=True).keys()
    )


def test_norms_are_of_the_loss_and_not_of_its_scale():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        scaled = linear_gan(jit_compile=False)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    plain = linear_gan(jit_compile=False)
    for network in ("generator", "discriminator"):
        weights = getattr(scaled, network).get_weights()
        getattr(plain, network).set_weights(weights)
    real = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
    norms = [
        gan.fit(real, batch_size=8, verbose=0).history["d_gradient"][0]
        for gan in (scaled, plain)
    ]
    # Products and sums of eight in float16.
    assert norms[0] == pytest.approx(norms[1], rel=rounding.gamma(64, "float16"))


def test_rows_of_a_table_that_come_several_times_are_added_up_before_they_are_squared():
    """Adam of a table of labels, as of a product with their one-hot rows."""
    labels = np.array([1, 1, 1, 0], "int32")
    moved = []
    for table in (True, False):
        given = keras.Input((), dtype="int32")
        if table:
            rows = keras.layers.Embedding(2, 3, embeddings_initializer="ones")(given)
        else:
            places = keras.layers.CategoryEncoding(2, output_mode="one_hot")(given)
            rows = keras.layers.Dense(3, use_bias=False, kernel_initializer="ones")(
                places
            )
        latents = keras.Input((5,))
        made = keras.layers.Dense(3, kernel_initializer="zeros")(latents)
        generator = keras.Model([latents, given], keras.layers.Add()([made, rows]))
        images, classes = keras.Input((3,)), keras.Input((), dtype="int32")
        logits = keras.layers.Dense(1, kernel_initializer="ones")(images)
        discriminator = keras.Model([images, classes], logits)
        gan = tf_ttur.GAN(
            generator, discriminator, tf_ttur.NormalLatent(5), num_classes=2
        )
        gan.compile(
            **tf_ttur.ttur(discriminator=1e-3, generator=1e-3, beta_1=0.5),
            loss="wasserstein",
            jit_compile=False,
            gradient_norms=True,
        )
        data = (np.ones((4, 3), "float32"), labels)
        log = gan.fit(*data, batch_size=4, epochs=3, verbose=0).history
        weights = gan.generator.trainable_variables
        (rows,) = [x.numpy() for x in weights if x.shape == (2, 3)]
        moved.append((rows, log["g_gradient"]))
    few = rounding.gamma(64, "float32")
    np.testing.assert_allclose(moved[0][0], moved[1][0], rtol=few, atol=0)
    np.testing.assert_allclose(moved[0][1], moved[1][1], rtol=64 * few, atol=0)

"""The mixture game against NumPy in double precision, `GAN.fit`, and closed forms."""

import math

import keras
import mixture_oracle
import numpy as np
import pytest
import rounding
import scipy.linalg
import scipy.stats
import tensorflow as tf

import fid
from fid.files import InputError
from tf_ttur.theory import critical_batch
from tf_ttur.theory.mixture_game import (
    MixtureGame,
    Run,
    State,
    chunk,
    frechet_in_the_plane,
    gradient_norms,
    keras_gan,
    minibatch,
    schedule,
    start,
    step_scale,
)
from tf_ttur.theory.vector_optimizers import OPTIMIZERS, Network, constants

GAME = MixtureGame(width=8)
BATCH, STEPS, SAMPLES = 6, 8, 500


def run_of(optimizer, seed=0, batch=BATCH, **other):
    betas = {"beta_1": 0.5, "beta_2": 0.9}
    return Run(batch, seed, optimizer, 2e-3, 1e-3, **betas | other)


RUNS = [run_of(name, seed=seed) for seed, name in enumerate(OPTIMIZERS)]


def after(runs, game=GAME, steps=STEPS, state=None, made=0):
    """The state of runs after some steps, as NumPy arrays, and what was measured."""
    state, measured = chunk(game, runs[0].batch, steps, SAMPLES)(
        start(runs, game) if state is None else state,
        np.array([run.seed for run in runs], np.uint32),
        np.full(len(runs), made, np.int32),
        np.array(
            [constants(run.optimizer, run.beta_1, run.beta_2) for run in runs],
            np.float32,
        ),
        *schedule(runs, [made] * len(runs), steps),
    )
    arrays = tf.nest.map_structure(lambda each: each.numpy(), (state, measured))
    return arrays


@pytest.fixture(scope="module")
def played():
    return after(RUNS)


def by_oracle(run, random=None, game=GAME, steps=STEPS):
    """Weights after the steps, and means of the squared norms, in double precision."""
    weights = game.initial_weights(run.seed)
    oracle = mixture_oracle.Game(game, run, weights, random)
    norms = [oracle.step(*minibatch(run, game, step)) for step in range(steps)]
    return [*oracle.weights, np.mean(norms, axis=0)]


def root_mean_square(x):
    return math.sqrt(np.square(x).mean())


def allowed(run, exact, **options):
    """How far two float32 programs may be apart, as a root mean square.

    The oracle is played again with every product changed by as much as rounding to
    float32 may change it. The farthest of some such games says how the game enlarges
    these changes; it varies, and `DEVIATIONS` of it are allowed.
    """
    spreads = []
    for seed in range(4):
        changed = by_oracle(run, np.random.default_rng(seed), **options)
        spreads.append(
            [root_mean_square(a - b) for a, b in zip(changed, exact, strict=True)]
        )
    return rounding.DEVIATIONS * np.max(spreads, axis=0)


# ---- steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_double_precision_by_hand(played, name):
    place = OPTIMIZERS.index(name)
    state, measured = played
    exact = by_oracle(RUNS[place])
    found = [network.weights[place] for network in state]
    found.append(
        np.array([measured.discriminator_norm[place], measured.generator_norm[place]])
    )
    limits = allowed(RUNS[place], exact)
    for ours, theirs, limit in zip(found, exact, limits, strict=True):
        assert root_mean_square(ours - theirs) <= limit
    # The tolerance is far below what the steps have moved.
    for limit, theirs, first in zip(
        limits, exact, GAME.initial_weights(RUNS[place].seed), strict=False
    ):
        assert limit < 1e-2 * root_mean_square(theirs - first)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu", "num_examples": 50, "loss": "hinge"},
        {"loss": "wasserstein"},
    ],
)
def test_other_settings_of_the_game(settings):
    game = MixtureGame(width=8, **settings)
    run = run_of("momentum")
    if game.num_examples:
        real, *_ = minibatch(run, game, 3)
        assert all((game.examples == row).all(axis=1).any() for row in real)
    (state, _), exact = after([run], game), by_oracle(run, game=game)
    limits = allowed(run, exact, game=game)
    for network, theirs, limit in zip(state, exact, limits, strict=False):
        assert root_mean_square(network.weights[0] - theirs) <= limit


class Replayed:
    """A latent distribution that gives a run's latents in the order of their use."""

    def __init__(self, run, game):
        self.dimension, self._run, self._game = game.latents, run, game
        self._calls = 0

    def __call__(self, count, seed):
        step, second = divmod(self._calls, 2)
        self._calls += 1
        return tf.constant(minibatch(self._run, self._game, step)[1 + second])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_steps_are_those_of_fit(played, name):
    place = OPTIMIZERS.index(name)
    run = RUNS[place]
    gan = keras_gan(run, GAME, Replayed(run, GAME), run_eagerly=True)
    real = np.concatenate([minibatch(run, GAME, step)[0] for step in range(STEPS)])
    gan.fit(real, batch_size=BATCH, shuffle=False, epochs=1, verbose=0)
    networks = gan.discriminator, gan.generator
    limits = allowed(run, by_oracle(run))
    for network, ours, limit in zip(networks, played[0], limits, strict=False):
        theirs = np.concatenate([each.ravel() for each in network.get_weights()])
        assert root_mean_square(ours.weights[place] - theirs) <= limit


def test_a_run_has_the_same_numbers_beside_any_others(played):
    others = [run_of("sgd", seed=99) for _ in RUNS]
    for place in (0, len(RUNS) - 1):
        mixed = [*others]
        mixed[place] = RUNS[2]
        alone, measured = after(mixed)
        for mine, together in zip(
            tf.nest.flatten((alone, measured)), tf.nest.flatten(played), strict=True
        ):
            np.testing.assert_array_equal(mine[place], together[2])


def test_steps_go_on_from_a_state(played):
    # AdaBelief is rectified by now, and Adam's corrections differ from the first.
    state, _ = after(RUNS, state=played[0], made=STEPS)
    for name in ("adam", "adabelief"):
        place = OPTIMIZERS.index(name)
        exact = by_oracle(RUNS[place], steps=2 * STEPS)
        limits = allowed(RUNS[place], exact, steps=2 * STEPS)
        for ours, theirs, limit in zip(state, exact, limits, strict=False):
            assert root_mean_square(ours.weights[place] - theirs) <= limit


def test_minibatches_differ_by_seed_step_and_use():
    drawn = [
        part.tobytes()
        for seed in (0, 1)
        for step in (0, 1)
        for part in minibatch(run_of("sgd", seed=seed), GAME, step)
    ]
    assert len(set(drawn)) == len(drawn)


def test_real_examples_are_those_of_the_mixture():
    run = run_of("sgd", batch=20_000)
    real, *latents = minibatch(run, GAME, 0)
    distances = np.linalg.norm(real[:, None] - GAME.centres[None], axis=2)
    nearest = distances.argmin(axis=1)
    assert scipy.stats.chisquare(np.bincount(nearest, minlength=8)).pvalue > 1e-6
    rest = (real - GAME.centres[nearest]).ravel() / GAME.deviation
    # The ring's Gaussians are 1.5 apart and have deviations of 0.2.
    assert scipy.stats.kstest(rest, "norm").pvalue > 1e-6
    for each in latents:
        assert scipy.stats.kstest(each.ravel(), "norm").pvalue > 1e-6


# ---- the distance


def test_the_distance_in_the_plane_is_the_frechet_distance():
    random = np.random.default_rng(3)
    factors = random.standard_normal((2, 20, 2, 2))
    means = random.standard_normal((2, 20, 2))
    factors[0, 0, 1] = 2 * factors[0, 0, 0]  # one of rank 1
    covariances = factors @ factors.swapaxes(-1, -2)
    found = frechet_in_the_plane(means[0], covariances[0], means[1], covariances[1])
    for i, value in enumerate(found.numpy()):
        one, two = (fid.Statistics(means[k, i], covariances[k, i]) for k in (0, 1))
        expected = fid.frechet_distance(one, two)
        # Near a singular matrix the determinant's root loses half of the digits.
        scale = float(np.trace(one.sigma) * np.trace(two.sigma))
        lost = math.sqrt(rounding.gamma(8) * scale) if i == 0 else 0.0
        limit = rounding.frechet_of(one, two) + 4 * lost
        assert value == pytest.approx(expected, abs=limit)
        if i:
            root = scipy.linalg.sqrtm(one.sigma @ two.sigma)
            closed = np.sum((one.mu - two.mu) ** 2) + np.trace(
                one.sigma + two.sigma - 2 * np.real(root)
            )
            assert value == pytest.approx(closed, abs=limit)


def test_equal_gaussians_have_no_distance():
    mean, covariance = GAME.moments()
    found = frechet_in_the_plane(mean, covariance, mean, covariance)
    assert 0 <= float(found) <= 4 * rounding.gamma(20) * np.trace(covariance)


def test_the_measured_distance_is_that_of_the_generators_points(played):
    state, measured = played
    latents = np.random.default_rng((2, GAME.seed)).standard_normal((SAMPLES, 4))
    for place, run in enumerate(RUNS):
        weights = [network.weights[place] for network in state]
        oracle = mixture_oracle.Game(GAME, run, weights)
        _, points = oracle.forward(1, latents.astype(np.float32).astype(np.float64))
        ours = fid.Statistics(points.mean(axis=0), np.cov(points, rowvar=False))
        real = fid.Statistics(*GAME.moments())
        # Points are float32 sums, and so are their moments over all samples.
        error = rounding.random_sums(4 + 8 + 8) * root_mean_square(points)
        distance = fid.frechet_distance(ours, real)
        limit = rounding.frechet_of_features(distance, error)
        limit += rounding.SINGLE * rounding.frechet_of(ours, real, SAMPLES)
        assert measured.distance[place] == pytest.approx(distance, abs=limit)


def test_moments_are_those_of_many_examples():
    game = MixtureGame(modes=5, radius=1.5, deviation=0.3, num_examples=200_000)
    exact = MixtureGame(modes=5, radius=1.5, deviation=0.3).moments()
    for found, expected in zip(game.moments(), exact, strict=True):
        # Coordinates are bounded by about 3; a product's deviation by about 9.
        error = rounding.DEVIATIONS * 9 / math.sqrt(200_000)
        np.testing.assert_allclose(found, expected, atol=error)
    one = MixtureGame(modes=1, radius=0.0, deviation=0.5).moments()
    np.testing.assert_allclose(one[1], 0.25 * np.eye(2))


# ---- gradients' noise


@pytest.mark.slow
def test_norms_at_two_batch_sizes_give_the_gradients_noise():
    # Three runs in blocks of two, so that a block is filled up.
    runs = [run_of("sgd", seed=seed) for seed in range(3)]
    state, small, large, draws = start(runs, GAME), 2, 64, 400
    norms = [
        gradient_norms(state, range(3), GAME, batch, draws=draws, block=2)
        for batch in (small, large)
    ]
    many = minibatch(run_of("sgd", seed=5, batch=2000), GAME, 0)
    singles = [[part[i : i + 1] for part in many] for i in range(2000)]
    for place, run in enumerate(runs):
        weights = GAME.initial_weights(run.seed)
        oracle = mixture_oracle.Game(GAME, run, weights)
        each = [
            np.array([oracle.discriminator_gradient(r, z) for r, z, _ in singles]),
            np.array([oracle.generator_gradient(z) for _, _, z in singles]),
        ]
        for player, gradients in enumerate(each):
            assert norms[0][player].shape == (draws, 3)
            noise = critical_batch.two_batch_noise(
                small, norms[0][player][:, place], large, norms[1][player][:, place]
            )
            squares = np.square(gradients - gradients.mean(axis=0)).sum(axis=1)
            trace = squares.sum() / (len(squares) - 1)
            # Standard errors of both estimates of the trace.
            error = squares.std() / math.sqrt(len(squares))
            spread = norms[0][player][:, place].std() / math.sqrt(draws)
            error = math.hypot(error, spread / (1 / small - 1 / large))
            assert noise.trace == pytest.approx(trace, abs=rounding.DEVIATIONS * error)


def test_the_scale_of_a_step_by_hand():
    network = Network(*(np.array(x) for x in ([0, 0], [3, 4], [1, 4], [1, 4])))
    # h = (1, 2) + 1e-8 but for the corrections: sqrt(0.19) of v and 0.75 of m.
    run = run_of("adam")
    factor = math.sqrt(1 - 0.9**2)
    expected = 25 / (9 / 1 + 16 / 2) / factor
    assert step_scale(network, run, 2) == pytest.approx(expected, rel=3e-8)
    assert step_scale(network, run_of("sgd"), 2) == pytest.approx(1)
    still = network._replace(first=np.zeros(2))
    assert math.isnan(step_scale(still, run, 2))


# ---- what is refused, and what is counted


def test_weights_and_operations_counted_by_hand():
    game = MixtureGame(latents=3, width=5)
    assert game.parameters == (
        2 * 5 + 5 + 5 * 5 + 5 + 5 + 1,
        3 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2,
    )
    d, g = (2 * 5, 25, 5), (3 * 5, 25, 10)
    forward = 2 * sum(g) + 3 * sum(d)
    kernels = 2 * sum(d) + sum(g)
    inputs = 2 * (d[1] + d[2]) + sum(d) + g[1] + g[2]
    assert game.operations(7) == 2 * 7 * (forward + kernels + inputs)


def test_initial_weights_are_glorots():
    discriminator, generator = MixtureGame(width=200).initial_weights(3)
    middle = discriminator[600 : 600 + 40_000]
    limit = math.sqrt(6 / 400)
    assert np.abs(middle).max() <= limit
    assert scipy.stats.kstest(middle / limit, "uniform", (-1, 2)).pvalue > 1e-6
    assert (discriminator[400:600] == 0).all()
    assert discriminator.dtype == generator.dtype == np.float32
    # A kernel of one row is no bias.
    assert MixtureGame(latents=1).initial_weights(3)[1][:32].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch size is 0; use a whole number of at least 1"),
        ({"batch": 2.5}, "batch size is 2.5; use a whole number"),
        ({"seed": -1}, "seed of a run is -1"),
        ({"seed": 2**32}, r"use a whole number in \[0, 2\^32\)"),
        ({"optimizer": "lion"}, "choose from adam"),
        ({"discriminator_rate": 0.0}, "discriminator_rate is 0.0; it must be positive"),
        ({"generator_rate": math.nan}, "generator_rate is nan"),
        ({"beta_1": 1.0}, "beta_1 is 1.0"),
    ],
)
def test_wrong_runs_are_named(settings, message):
    right = {
        "batch": 4,
        "seed": 0,
        "optimizer": "adam",
        "discriminator_rate": 1e-3,
        "generator_rate": 1e-3,
    }
    with pytest.raises(InputError, match=message):
        Run(**right | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modes": 0}, "modes is 0"),
        ({"width": 1.5}, "width is 1.5"),
        ({"num_examples": 0}, "num_examples is 0"),
        ({"num_examples": 2**24 + 1}, "at most 2\\^24"),
        ({"deviation": 0.0}, "deviation is 0.0; it must be positive"),
        ({"radius": -1.0}, "radius is -1.0; it must be at least 0"),
        ({"activation": "sine"}, "choose from tanh, relu"),
        ({"loss": "nonsense"}, "There is no loss 'nonsense'"),
    ],
)
def test_wrong_games_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        MixtureGame(**settings)


def test_wrong_numbers_of_seeds_are_named():
    state = start([run_of("sgd")], GAME)
    assert isinstance(state, State)
    with pytest.raises(InputError, match="2 seeds for 1 runs"):
        gradient_norms(state, [0, 1], GAME, 2)
    with pytest.raises(InputError, match="draws is 0"):
        gradient_norms(state, [0], GAME, 2, draws=0)


def test_keras_networks_have_the_runs_weights():
    gan = keras_gan(run_of("adam"), GAME)
    real, latents, _ = minibatch(run_of("adam"), GAME, 0)
    oracle = mixture_oracle.Game(GAME, run_of("adam"), GAME.initial_weights(0))
    for player, network, inputs in (
        (0, gan.discriminator, real),
        (1, gan.generator, latents),
    ):
        _, expected = oracle.forward(player, np.float64(inputs))
        found = keras.ops.convert_to_numpy(network(inputs))
        # A bound on sums of 4, 8 and 8 terms whose absolute values sum to below 10.
        limit = 10 * rounding.gamma(20 + 2 * rounding.FUNCTION, "float32")
        np.testing.assert_allclose(found, expected, atol=limit)

"""A small GAN on a mixture of Gaussians in the plane, played by many runs at once.

The data are a mixture of Gaussians on a ring, and both networks have two hidden layers.
The quality is the Fréchet distance between points of the generator and the data on the
raw coordinates. It compares means and covariances only, so a generator that leaves out
modes evenly may have a distance of zero; what it measures is how fast two networks
reach a given quality, for which it has the same form as the FID.

Runs differ in their seeds, optimizers and rates. Those of one batch size are computed
side by side by one program that XLA compiles: every array has a leading axis of runs.
All randomness of a run is a function of its seed and step. `mixture_runs.play` is the
way to play whole runs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from tf_ttur import losses
from tf_ttur.gan import GAN
from tf_ttur.latents import NormalLatent
from tf_ttur.optimizers import ttur
from tf_ttur.theory import counter_random
from tf_ttur.theory.vector_optimizers import (
    Network,
    constants,
    divisor,
    factors,
    update,
)

__all__ = [
    "GradientNorms",
    "MixtureGame",
    "Run",
    "State",
    "chunk",
    "frechet_in_the_plane",
    "gradient_norms",
    "keras_gan",
    "minibatch",
    "schedule",
    "start",
    "step_scale",
]

_ACTIVATIONS = {"tanh": tf.tanh, "relu": tf.nn.relu}
# The second word of a key: what the numbers are for.
_TRAINING, _DATA, _MEASURING, _NOISE = range(4)
# Sums have at most so many terms at a time; XLA writes slow code for more than 32.
_SUM_PARTS = 16


@dataclasses.dataclass(frozen=True)
class Run:
    """How one run is trained.

    Attributes:
        batch: b >= 1: real examples, and latents of each network's update, in a step.
        seed: In [0, 2^32); all of the run's randomness follows from it.
        optimizer: One of `OPTIMIZERS`, for both networks.
        discriminator_rate: The discriminator's learning rate, > 0.
        generator_rate: The generator's learning rate, > 0.
        beta_1: Decay of the first moment, in [0, 1); RMSProp and SGD have none.
        beta_2: Decay of the second moment, in [0, 1); momentum and SGD have none.

    Raises:
        InputError: A value is out of its range.

    Example:
        >>> from tf_ttur.theory.mixture_game import Run
        >>> Run(batch=64, seed=0, optimizer="adam", discriminator_rate=1e-3,
        ...     generator_rate=5e-4).beta_1
        0.5
    """

    batch: int
    seed: int
    optimizer: str
    discriminator_rate: float
    generator_rate: float
    beta_1: float = 0.5
    beta_2: float = 0.999

    def __post_init__(self) -> None:
        constants(self.optimizer, self.beta_1, self.beta_2)
        _check_count("batch size", self.batch)
        if not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**32:
            raise InputError(
                f"The seed of a run is {self.seed!r}; use a whole number in [0, 2^32)."
            )
        for name in ("discriminator_rate", "generator_rate"):
            rate = getattr(self, name)
            if not 0 < rate < math.inf:
                raise InputError(f"{name} is {rate}; it must be positive and finite.")


@dataclasses.dataclass(frozen=True)
class MixtureGame:
    """What all runs have in common: data, networks and loss.

    Attributes:
        modes: Number of Gaussians, evenly on a ring about 0.
        radius: The ring's radius.
        deviation: Standard deviation of each Gaussian in each coordinate.
        latents: Dimension of the generator's input, standard normal.
        width: Units of each of a network's two hidden layers.
        activation: Theirs: "tanh", or "relu", whose losses have no continuous
            derivatives.
        loss: A name of `tf_ttur.losses.LOSSES`.
        num_examples: Size of the data set, at most 2^24, of which minibatches are drawn
            with replacement; None draws from the mixture itself.
        seed: Of the data set and of the latents that the distance is measured with.

    Raises:
        InputError: A value is out of its range.

    Example:
        >>> from tf_ttur.theory.mixture_game import MixtureGame
        >>> mean, covariance = MixtureGame(radius=2.0, deviation=0.2).moments()
        >>> covariance.round(12).tolist()  # radius^2 / 2 + deviation^2
        [[2.04, 0.0], [0.0, 2.04]]
    """

    modes: int = 8
    radius: float = 2.0
    deviation: float = 0.2
    latents: int = 4
    width: int = 32
    activation: str = "tanh"
    loss: str = "non_saturating"
    num_examples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("modes", "latents", "width"):
            _check_count(name, getattr(self, name))
        if self.num_examples is not None:
            _check_count("num_examples", self.num_examples)
        if max(self.modes, self.num_examples or 1) > 2**24:
            raise InputError("There can be at most 2^24 modes and examples.")
        for name, low in (("radius", 0.0), ("deviation", 0.0)):
            value = getattr(self, name)
            if not low <= value < math.inf or (name == "deviation" and value == 0):
                least = "positive" if name == "deviation" else "at least 0"
                raise InputError(f"{name} is {value}; it must be {least} and finite.")
        if self.activation not in _ACTIVATIONS:
            raise InputError(
                f"The activation is {self.activation!r}; choose from "
                f"{', '.join(_ACTIVATIONS)}."
            )
        if losses.get(self.loss).needs_real:
            raise InputError(
                f"The loss {self.loss!r} shows real examples to the generator; this "
                "game has none for it there."
            )

    @property
    def centres(self) -> np.ndarray:
        """The Gaussians' means, float64 (modes, 2)."""
        angles = 2 * np.pi * np.arange(self.modes) / self.modes
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    @functools.cached_property
    def examples(self) -> np.ndarray | None:
        """The data set, float32 (num_examples, 2); None where there is none."""
        if self.num_examples is None:
            return None
        random = np.random.default_rng((_DATA, self.seed))
        modes = random.integers(self.modes, size=self.num_examples)
        noise = random.standard_normal((self.num_examples, 2))
        return (self.centres[modes] + self.deviation * noise).astype(np.float32)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the data's mean (2,) and covariance (2, 2), float64, exactly.

        Those of the data set where there is one (with n in the denominator: it is all
        of the data), else of the mixture.
        """
        if self.examples is not None:
            points = self.examples.astype(np.float64)
            return points.mean(axis=0), np.cov(points, rowvar=False, ddof=0)
        centres = self.centres
        mean = centres.mean(axis=0)
        spread = np.cov(centres, rowvar=False, ddof=0) if self.modes > 1 else 0.0
        return mean, spread + self.deviation**2 * np.eye(2)

    @property
    def discriminator_shapes(self) -> list[tuple[int, int]]:
        """Shapes of its kernels and biases in their order, each (rows, columns)."""
        return _shapes(2, self.width, 1)

    @property
    def generator_shapes(self) -> list[tuple[int, int]]:
        """Those of the generator."""
        return _shapes(self.latents, self.width, 2)

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers of the discriminator's and the generator's weights."""
        both = (self.discriminator_shapes, self.generator_shapes)
        return tuple(sum(map(math.prod, shapes)) for shapes in both)

    def initial_weights(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws a run's first weights: Glorot's uniform kernels, and biases of 0.

        Args:
            seed: The run's.

        Returns:
            Those of the discriminator and of the generator, each float32 and flat.
        """
        random = np.random.default_rng((_TRAINING, seed))
        both = []
        for shapes in (self.discriminator_shapes, self.generator_shapes):
            parts = []
            for kernel, bias in zip(shapes[::2], shapes[1::2], strict=True):
                limit = math.sqrt(6 / sum(kernel))
                parts.append(random.uniform(-limit, limit, math.prod(kernel)))
                parts.append(np.zeros(math.prod(bias)))
            both.append(np.concatenate(parts).astype(np.float32))
        return tuple(both)

    def operations(self, batch: int) -> int:
        """Counts the additions and multiplications of a step's matrix products."""
        d, g = (
            [math.prod(shape) for shape in shapes[::2]]
            for shapes in (self.discriminator_shapes, self.generator_shapes)
        )
        # Forward: the generator twice, the discriminator on real and on generated
        # examples, and once more for the generator. Backward: kernels and inputs of the
        # discriminator, its inputs only for the generator, the generator's both. Inputs
        # of a network's first layer need no gradient where they are data.
        products = 2 * sum(g) + 3 * sum(d)
        products += 2 * (2 * sum(d) - d[0]) + sum(d) + 2 * sum(g) - g[0]
        return 2 * batch * products


def _shapes(inputs: int, width: int, outputs: int) -> list[tuple[int, int]]:
    sizes = (inputs, width, width, outputs)
    pairs = itertools.pairwise(sizes)
    return [shape for pair in pairs for shape in (pair, (1, pair[1]))]


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; use a whole number of at least 1.")


# ---- state


class State(NamedTuple):
    """Both networks of many runs; NumPy arrays or tensors."""

    discriminator: Network
    generator: Network


def start(runs: Sequence[Run], game: MixtureGame) -> State:
    """Returns the state of runs before their first step, float32 (runs, weights)."""
    drawn = [game.initial_weights(run.seed) for run in runs]
    networks = []
    for weights in zip(*drawn, strict=True):
        weights = np.stack(weights)
        networks.append(Network(weights, *(np.zeros_like(weights) for _ in range(3))))
    return State(*networks)


def schedule(
    runs: Sequence[Run], steps: Sequence[int], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rates of the next steps of runs.

    Args:
        runs: The runs.
        steps: How many steps each has made.
        count: How many follow.

    Returns:
        The discriminator's and the generator's rates times the optimizer's factor, and
        whether the optimizer divides, each float32 (count, runs).
    """
    tables = np.empty((3, count, len(runs)), np.float32)
    for column, (run, made) in enumerate(zip(runs, steps, strict=True)):
        factor, adaptive = _factors(run.optimizer, run.beta_1, run.beta_2, made, count)
        tables[0, :, column] = run.discriminator_rate * factor
        tables[1, :, column] = run.generator_rate * factor
        tables[2, :, column] = adaptive
    return tuple(tables)


@functools.lru_cache(maxsize=4096)
def _factors(
    optimizer: str, beta_1: float, beta_2: float, made: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    return factors(optimizer, beta_1, beta_2, np.arange(made + 1, made + count + 1))


# ---- one step


class _Minibatch(NamedTuple):
    """A step's data: real (runs, b, 2), both latents (runs, b, latents)."""

    real: tf.Tensor
    discriminator_latents: tf.Tensor
    generator_latents: tf.Tensor


def _draw(
    game: MixtureGame, batch: int, seeds: tf.Tensor, steps: tf.Tensor, purpose: int
) -> _Minibatch:
    """Draws the minibatches of runs at their steps, counted from 0."""
    latents = batch * game.latents
    finite = game.examples is not None
    sizes = [batch, 0 if finite else 2 * batch, latents, latents]
    pairs = -(-sum(sizes) // 2)
    index = tf.cast(tf.range(pairs), tf.uint32)[None]
    key = seeds[:, None], tf.fill([seeds.shape[0], 1], tf.constant(purpose, tf.uint32))
    words = tf.concat(
        counter_random.threefry(
            tuple(part + tf.zeros_like(index) for part in key),
            (
                tf.cast(steps, tf.uint32)[:, None] + tf.zeros_like(index),
                index + tf.zeros_like(key[0]),
            ),
        ),
        axis=1,
    )
    chosen, noise, *both = tf.split(words[:, : sum(sizes)], sizes, axis=1)
    if finite:
        points = tf.constant(game.examples)
        real = tf.gather(points, counter_random.below(chosen, game.num_examples))
    else:
        points = tf.constant(game.centres, tf.float32)
        noise = tf.reshape(counter_random.normals(noise), [-1, batch, 2])
        real = tf.gather(points, counter_random.below(chosen, game.modes))
        real += np.float32(game.deviation) * noise
    shape = [-1, batch, game.latents]
    return _Minibatch(
        real, *(tf.reshape(counter_random.normals(each), shape) for each in both)
    )


def minibatch(
    run: Run, game: MixtureGame, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what a run is trained on in a step.

    Args:
        run: The run.
        game: Its game.
        step: Counted from 0.

    Returns:
        Real examples, float32 (b, 2), and the latents of the discriminator's and of the
        generator's update, float32 (b, latents).
    """
    draw = _compiled_draw(game, run.batch)
    seeds, steps = np.array([run.seed], np.uint32), np.array([step], np.int32)
    return tuple(each.numpy()[0] for each in draw(seeds, steps))


@functools.lru_cache(maxsize=64)
def _compiled_draw(game: MixtureGame, batch: int) -> Callable[..., _Minibatch]:
    def draw(seeds: tf.Tensor, steps: tf.Tensor) -> _Minibatch:
        return _draw(game, batch, seeds, steps, _TRAINING)

    return _compiled(draw)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True, autograph=False)


def _sum_rows(values: tf.Tensor) -> tf.Tensor:
    """Sums (runs, n, c) over n, in parts; see `tf_ttur.xla` on sums."""
    runs, count, columns = values.shape
    while count > 1:
        parts = next(k for k in range(min(count, _SUM_PARTS), 0, -1) if count % k == 0)
        parts = parts if parts > 1 else count
        values = tf.reduce_sum(tf.reshape(values, [runs, parts, -1, columns]), 1)
        count //= parts
    return values


@tf.custom_gradient
def _affine(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
    """(runs, n, i) and (runs, i, o) -> (runs, n, o)."""

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return (
            tf.matmul(upstream, kernel, transpose_b=True),
            tf.matmul(inputs, upstream, transpose_a=True),
            _sum_rows(upstream),
        )

    return inputs @ kernel + bias, gradients


def _network(game: MixtureGame, inputs: tf.Tensor, parts: list[tf.Tensor]) -> tf.Tensor:
    activation = _ACTIVATIONS[game.activation]
    hidden = activation(_affine(inputs, *parts[0:2]))
    hidden = activation(_affine(hidden, *parts[2:4]))
    return _affine(hidden, *parts[4:6])


def _split(weights: tf.Tensor, shapes: list[tuple[int, int]]) -> list[tf.Tensor]:
    parts = tf.split(weights, [math.prod(shape) for shape in shapes], axis=1)
    return [
        tf.reshape(part, [-1, *shape])
        for part, shape in zip(parts, shapes, strict=True)
    ]


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(part, [part.shape[0], -1]) for part in parts], 1)


def _discriminator_gradient(
    game: MixtureGame, weights: State, real: tf.Tensor, latents: tf.Tensor
) -> tf.Tensor:
    """The gradient of each run's loss by its discriminator, (runs, weights)."""
    runs, batch, _ = real.shape
    fake = _network(game, latents, _split(weights.generator, game.generator_shapes))
    parts = _split(weights.discriminator, game.discriminator_shapes)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parts)
        logits = _network(game, tf.concat([real, fake], 1), parts)
        loss = losses.get(game.loss).discriminator(logits[:, :batch], logits[:, batch:])
    return _joined(tape.gradient(loss, parts, output_gradients=_each(runs)))


def _generator_gradient(
    game: MixtureGame, weights: State, latents: tf.Tensor
) -> tf.Tensor:
    """The gradient of each run's loss by its generator, (runs, weights)."""
    theirs = _split(weights.discriminator, game.discriminator_shapes)
    parts = _split(weights.generator, game.generator_shapes)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parts)
        logits = _network(game, _network(game, latents, parts), theirs)
        loss = losses.get(game.loss).generator(logits)
    upstream = _each(latents.shape[0])
    return _joined(tape.gradient(loss, parts, output_gradients=upstream))


def _each(runs: int) -> tf.Tensor:
    # A loss is a mean over all runs' examples; each run's own mean is wanted. The
    # quotient runs / (runs * b) is 1 / b without a further rounding.
    return tf.constant(float(runs))


def _squared_norm(gradient: tf.Tensor) -> tf.Tensor:
    # A product, since XLA writes slow code for long sums.
    return tf.matmul(gradient[:, None], gradient[:, :, None])[:, 0, 0]


# ---- many steps, and the distance


class Measured(NamedTuple):
    """What `chunk` measures of each run, (runs,) each.

    Attributes:
        distance: Fréchet distance after the last step, float64.
        discriminator_norm: Squared norm of its minibatch gradient, a mean over the
            steps, float32.
        generator_norm: That of the generator's.
    """

    distance: tf.Tensor
    discriminator_norm: tf.Tensor
    generator_norm: tf.Tensor


@functools.lru_cache(maxsize=64)
def chunk(
    game: MixtureGame, batch: int, every: int, num_samples: int
) -> Callable[..., tuple[State, Measured]]:
    """Compiles so many steps and a measurement of many runs of one batch size.

    Args:
        game: The game.
        batch: The batch size of all runs.
        every: How many steps.
        num_samples: Points that the distance is measured on.

    Returns:
        A function of a `State`; seeds, uint32 (runs,); steps made, int32 (runs,); the
        optimizers' `constants`, float32 (runs, 9); and the three tables of `schedule`
        for `every` steps. It returns the state after these and what was measured.
        Another number of runs compiles it again.
    """
    latents = np.random.default_rng((_MEASURING, game.seed)).standard_normal(
        (num_samples, game.latents)
    )
    moments = game.moments()

    def steps(
        state: State,
        seeds: tf.Tensor,
        made: tf.Tensor,
        chosen: tf.Tensor,
        discriminator_rates: tf.Tensor,
        generator_rates: tf.Tensor,
        adaptive: tf.Tensor,
        latents: tf.Tensor,
    ) -> tuple[State, Measured]:
        def draw(i: Any) -> _Minibatch:
            return _draw(game, batch, seeds, made + i, _TRAINING)

        def step(
            i: tf.Tensor,
            drawn: _Minibatch,
            state: State,
            norms: tuple[tf.Tensor, ...],
        ) -> Any:
            d, g = state
            gradient = _discriminator_gradient(
                game,
                State(d.weights, g.weights),
                drawn.real,
                drawn.discriminator_latents,
            )
            d = update(d, gradient, chosen, discriminator_rates[i], adaptive[i])
            norm = _squared_norm(gradient)
            gradient = _generator_gradient(
                game, State(d.weights, g.weights), drawn.generator_latents
            )
            g = update(g, gradient, chosen, generator_rates[i], adaptive[i])
            norms = norms[0] + norm, norms[1] + _squared_norm(gradient)
            return i + 1, draw(i + 1), State(d, g), norms

        none = tf.zeros([seeds.shape[0]])
        # A step is handed its minibatch by the one before. Drawn where it is used, it
        # would be merged into the loops of its uses, which are slower for it.
        _, _, state, norms = tf.while_loop(
            lambda i, *_: i < every, step, (0, draw(0), state, (none, none))
        )
        distance = _distance(game, state.generator.weights, latents, moments)
        return state, Measured(distance, *(norm / every for norm in norms))

    compiled = _compiled(steps)
    return functools.partial(_call, compiled, latents.astype(np.float32))


def _call(compiled: Callable[..., Any], latents: np.ndarray, *arguments: Any) -> Any:
    return compiled(*arguments, latents)


def _distance(
    game: MixtureGame,
    weights: tf.Tensor,
    latents: tf.Tensor,
    moments: tuple[np.ndarray, np.ndarray],
) -> tf.Tensor:
    count, runs = latents.shape[0], weights.shape[0]
    inputs = tf.broadcast_to(latents, [runs, *latents.shape])
    points = _network(game, inputs, _split(weights, game.generator_shapes))
    mean = _sum_rows(points) / count
    centred = points - mean
    covariance = tf.matmul(centred, centred, transpose_a=True) / (count - 1)
    return frechet_in_the_plane(
        tf.cast(mean[:, 0], tf.float64), tf.cast(covariance, tf.float64), *moments
    )


def frechet_in_the_plane(
    mean: tf.Tensor, covariance: tf.Tensor, other_mean: Any, other_covariance: Any
) -> tf.Tensor:
    """Returns squared Fréchet distances of Gaussians in the plane, in closed form.

    A 2x2 matrix M with eigenvalues that are not negative has tr(M^(1/2))^2 = tr(M) +
    2 det(M)^(1/2), here with M the product of the covariances.

    Args:
        mean: Float64 (..., 2).
        covariance: Float64 (..., 2, 2).
        other_mean: Likewise; both broadcast against the first.
        other_covariance: Likewise.

    Returns:
        Float64 (...), not negative.
    """
    other_mean = tf.convert_to_tensor(other_mean, tf.float64)
    other = tf.convert_to_tensor(other_covariance, tf.float64)
    shift = tf.reduce_sum(tf.square(mean - other_mean), -1)
    trace = tf.reduce_sum(covariance * tf.linalg.matrix_transpose(other), [-2, -1])
    determinant = tf.maximum(_determinant(covariance), 0) * _determinant(other)
    root = tf.sqrt(tf.maximum(trace + 2 * tf.sqrt(determinant), 0))
    traces = tf.linalg.trace(covariance) + tf.linalg.trace(other)
    return tf.maximum(shift + traces - 2 * root, 0)


def _determinant(matrix: tf.Tensor) -> tf.Tensor:
    product = matrix[..., 0, 0] * matrix[..., 1, 1]
    return product - matrix[..., 0, 1] * matrix[..., 1, 0]


# ---- noise of the gradients


class GradientNorms(NamedTuple):
    """Squared norms of minibatch gradients at fixed weights, float64 (draws, runs).

    Attributes:
        discriminator: The discriminator's.
        generator: The generator's.
    """

    discriminator: np.ndarray
    generator: np.ndarray


def gradient_norms(
    state: State,
    seeds: Sequence[int],
    game: MixtureGame,
    batch: int,
    *,
    draws: int = 16,
    block: int = 32,
) -> GradientNorms:
    """Draws minibatches at fixed weights, and measures both networks' gradients.

    With two batch sizes it gives what `critical_batch.two_batch_noise` needs. Both
    gradients are those at the weights given: no network is updated between them.

    Args:
        state: The runs' state, as `start` gives or as `mixture_runs.play` keeps; only
            weights are looked at.
        seeds: The runs' seeds. Numbers drawn are others than those of training.
        game: Their game.
        batch: Examples of a minibatch, for all runs.
        draws: How many minibatches.
        block: How many runs are computed side by side.

    Returns:
        The squared norms.

    Raises:
        InputError: A count is not positive, or there are not as many seeds as runs.
    """
    for name, value in (("batch", batch), ("draws", draws), ("block", block)):
        _check_count(name, value)
    weights = [np.asarray(network.weights, np.float32) for network in state]
    seeds = np.asarray(seeds, np.uint32)
    if len({len(seeds), *map(len, weights)}) != 1:
        raise InputError(
            f"There are {len(seeds)} seeds for {len(weights[0])} runs; give one a run."
        )
    measure = _compiled_norms(game, batch, draws)
    found: list[list[np.ndarray]] = [[], []]
    for first in range(0, len(seeds), block):
        # The last block is filled up, so that there is one program.
        rows = np.arange(first, first + block) % len(seeds)
        kept = min(block, len(seeds) - first)
        norms = measure(*(each[rows] for each in weights), seeds[rows])
        for each, norm in zip(found, norms, strict=True):
            each.append(norm.numpy()[:, :kept].astype(np.float64))
    return GradientNorms(*(np.concatenate(each, axis=1) for each in found))


@functools.lru_cache(maxsize=64)
def _compiled_norms(game: MixtureGame, batch: int, draws: int) -> Callable[..., Any]:
    def measure(
        discriminator: tf.Tensor, generator: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        weights = State(discriminator, generator)

        def draw(i: tf.Tensor, *found: tf.Tensor) -> Any:
            # The batch size enters the counter: other sizes have other numbers.
            steps = tf.fill(seeds.shape, i + draws * batch)
            drawn = _draw(game, batch, seeds, steps, _NOISE)
            gradients = (
                _discriminator_gradient(
                    game, weights, drawn.real, drawn.discriminator_latents
                ),
                _generator_gradient(game, weights, drawn.generator_latents),
            )
            row = tf.cast(tf.range(draws) == i, tf.float32)[:, None]
            norms = [row * _squared_norm(gradient)[None] for gradient in gradients]
            return i + 1, *(a + b for a, b in zip(found, norms, strict=True))

        none = tf.zeros([draws, *seeds.shape])
        return tf.while_loop(lambda i, *_: i < draws, draw, (0, none, none))[1:]

    return _compiled(measure)


def step_scale(network: Network, run: Run, step: int) -> float:
    """Returns h_eff = |m|^2 / (m' H^-1 m), the scale that a step is divided by.

    It stands in for the least entry of H in the bound of `critical_batch`, which is
    nearly zero in practice.

    Args:
        network: One network of a run, each array (weights,).
        run: The run.
        step: How many steps were made, >= 1.

    Returns:
        h_eff; 1 for SGD and momentum, whose H is 1; NaN where m is 0.
    """
    first = np.asarray(network.first, np.float64)
    h = divisor(network, run.optimizer, run.beta_1, run.beta_2, step)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((first @ first) / (first @ (first / h)))


# ---- the same run as a GAN


def keras_gan(run: Run, game: MixtureGame, latent: Any = None, **settings: Any) -> GAN:
    """Makes the GAN that is trained by `fit` as a run is here, with the same weights.

    Args:
        run: The run.
        game: Its game.
        latent: The distribution of the latents; None for standard normal ones.
        **settings: Further ones for `GAN.compile`.

    Returns:
        The GAN, compiled.
    """
    networks = []
    weights = game.initial_weights(run.seed)
    for shapes, flat in zip(
        (game.discriminator_shapes, game.generator_shapes), weights, strict=True
    ):
        (inputs, _), *_ = shapes
        widths = [columns for _, columns in shapes[::2]]
        layers = [keras.layers.Dense(n, game.activation) for n in widths[:-1]]
        network = keras.Sequential(
            [keras.Input((inputs,)), *layers, keras.layers.Dense(widths[-1])]
        )
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        network.set_weights(
            [
                part.reshape(each.shape)
                for part, each in zip(
                    np.split(flat, ends), network.get_weights(), strict=True
                )
            ]
        )
        networks.append(network)
    discriminator, generator = networks
    gan = GAN(
        generator, discriminator, latent or NormalLatent(game.latents), seed=run.seed
    )
    gan.compile(
        **ttur(
            discriminator=run.discriminator_rate,
            generator=run.generator_rate,
            beta_1=run.beta_1,
            beta_2=run.beta_2,
            optimizer=run.optimizer,
        ),
        loss=game.loss,
        **settings,
    )
    return gan

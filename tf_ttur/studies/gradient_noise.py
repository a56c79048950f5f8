"""The noise of both networks' gradients at a checkpoint, and the best step by batch.

Both look at one state of the networks and leave it as it is: the weights are put back,
and the model is one of its own, loaded for this.

Batch normalisation makes an image's gradient depend on the images beside it, so that of
one image is not well defined: with it, the numbers are those of a network that sees
batches of the two sizes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from tf_ttur import replicas, xla
from tf_ttur.gan import GAN
from tf_ttur.studies.batch_rows import PLAYERS
from tf_ttur.theory.critical_batch import Noise, optimal_rates, two_batch_noise

__all__ = ["Player", "best_steps", "measure_noise", "scales"]


@dataclasses.dataclass(frozen=True)
class Player:
    """What was measured of a network's gradients.

    Attributes:
        noise: Trace of the covariance of an example's gradient, and the squared norm of
            the whole gradient.
        scale: |m|^2 / (m^T H^-1 m), a mean of what the optimizer's step divides by; 1
            for SGD.
        loss: Mean loss of the batches.
        weights: Number of the network's trainable weights.
    """

    noise: Noise
    scale: float
    loss: float
    weights: int


def measure_noise(
    gan: GAN,
    batches: Callable[[int], Iterator[Any]],
    small: int,
    large: int,
    draws: int = 20,
) -> dict[str, Player]:
    """Measures the noise of both networks' gradients by two batch sizes.

    Args:
        gan: A compiled GAN, whose optimizers may hold a state.
        batches: `batches(b)` gives minibatches of b real images without end.
        small: The smaller batch size.
        large: The larger one.
        draws: Minibatches of each size, with latents of their own.

    Returns:
        What was measured, by network.

    Raises:
        InputError: The sizes are not in order, or there are no draws.
    """
    if not 0 < small < large or draws < 1:
        raise InputError(
            f"The batch sizes are {small} and {large}, with {draws} draws; the first "
            "must be the smaller, and there must be a draw at least."
        )
    gradients = {player: _gradient(gan, player) for player in PLAYERS}
    norms: dict[str, dict[int, list[float]]] = {
        player: {small: [], large: []} for player in PLAYERS
    }
    losses: dict[str, list[float]] = {player: [] for player in PLAYERS}
    means: dict[str, Any] = dict.fromkeys(PLAYERS, 0.0)
    with _put_back(gan):
        for size in (small, large):
            iterator = batches(size)
            for _ in range(draws):
                real = gan.prepare_real(next(iterator))
                for player in PLAYERS:
                    loss, gradient = gradients[player](real)
                    flat = _flat(gradient)
                    norms[player][size].append(float(flat @ flat))
                    if size == large:
                        losses[player].append(float(loss))
                        means[player] = means[player] + flat / draws
    found = {}
    for player in PLAYERS:
        network = getattr(gan, player)
        optimizer = getattr(gan, f"{player}_optimizer")
        moment, scale = scales(optimizer, network.trainable_variables)
        moment = means[player] if moment is None else moment
        if not moment.any():
            raise InputError(
                f"The {player}'s optimizer has made no step yet, so what its steps are "
                "divided by is not known. Take a threshold that is met later."
            )
        found[player] = Player(
            noise=two_batch_noise(
                small, norms[player][small], large, norms[player][large]
            ),
            scale=float((moment @ moment) / (moment @ (moment / scale))),
            loss=float(np.mean(losses[player])),
            weights=sum(int(np.prod(x.shape)) for x in network.trainable_variables),
        )
    return found


def best_steps(
    gan: GAN,
    batches: Callable[[int], Iterator[Any]],
    sizes: Sequence[int],
    *,
    factors: Sequence[float],
    held: int = 1024,
    draws: int = 8,
    players: Sequence[str] = PLAYERS,
) -> dict[str, tuple[dict[int, float], float, float]]:
    """Finds how large a step each batch size allows at this state of the networks.

    A network takes a single step along the gradient of a batch of b, divided by what
    its optimizer divides by, at a multiple of its rate; the other network stays as it
    is. The best multiple is the one after which the mean loss on `held` other images is
    least. McCandlish et al. (2018) derive that it is proportional to 1 / (1 + B / b).

    Args:
        gan: A compiled GAN, whose optimizers hold a state.
        batches: As for `measure_noise`.
        sizes: Batch sizes, two at least.
        factors: Multiples of the rates, rising.
        held: Images that losses are computed on.
        draws: Steps for each size, of which the mean loss is taken.
        players: Which networks.

    Returns:
        By network: the best multiple of each batch size, the limit of large batches,
        and the noise scale B.

    Raises:
        InputError: A best multiple is at an end of `factors`, or a value cannot be.
    """
    factors = np.asarray(factors, float)
    if (
        not np.isfinite(factors).all()
        or len(factors) < 3
        or (np.diff(factors) <= 0).any()
        or factors[0] <= 0
    ):
        raise InputError("factors must be three or more positive numbers that rise.")
    found = {}
    with _put_back(gan):
        real = gan.prepare_real(next(batches(held)))
        drawn = gan._drawn(real, replicas.share(gan._images(real)))
        for player in players:
            variables = getattr(gan, player).trainable_variables
            optimizer = getattr(gan, f"{player}_optimizer")
            _, scale = scales(optimizer, variables)
            rate = float(tf.convert_to_tensor(optimizer.learning_rate))
            gradient, loss = _gradient(gan, player), _loss(gan, player)
            start = _flat(variables)
            best = {}
            for size in sizes:
                iterator, total = batches(size), np.zeros(len(factors))
                for _ in range(draws):
                    _, slope = gradient(gan.prepare_real(next(iterator)))
                    step = rate * _flat(slope) / scale
                    for index, factor in enumerate(factors):
                        _assign(variables, start - factor * step)
                        total[index] += float(loss(real, drawn)) / draws
                    _assign(variables, start)
                best[size] = _least(factors, total, player, size)
            found[player] = (best, *optimal_rates([*best], [*best.values()]))
    return found


def _least(factors: np.ndarray, losses: np.ndarray, player: str, size: int) -> float:
    """The minimum of a parabola through the least loss and its neighbours."""
    at = int(np.argmin(losses))
    if at in (0, len(factors) - 1):
        raise InputError(
            f"The best step of the {player} with batches of {size} is at an end of the "
            f"multiples, {factors[at]:g} times its rate: give "
            f"{'smaller' if at == 0 else 'larger'} ones as well."
        )
    x = np.log(factors[at - 1 : at + 2])
    curvature, slope, _ = np.polyfit(x, losses[at - 1 : at + 2], 2)
    return float(np.exp(-slope / (2 * curvature)))


def scales(
    optimizer: Any, variables: Sequence[Any]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns what an optimizer's next step is made of, from its state.

    Args:
        optimizer: The optimizer.
        variables: The weights that it updates.

    Returns:
        m, its first moment, float64 (number of weights,), None where it has none; and
        H's diagonal, what a step divides it by, likewise: 1 for SGD.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    state: Mapping[str, Sequence[Any]] = {
        name: getattr(optimizer, f"_{name}")
        for name in ("momentums", "velocities", "velocity_hats")
        if getattr(optimizer, f"_{name}", None)
    }
    size = sum(int(np.prod(x.shape)) for x in variables)
    step = max(int(optimizer.iterations), 1)
    moment = _flat(state["momentums"]) if "momentums" in state else None
    if "velocities" not in state:
        return moment, np.ones(size)
    if moment is not None:
        moment = moment / (1 - float(optimizer.beta_1) ** step)
    second = _flat(state.get("velocity_hats") or state["velocities"])
    if hasattr(optimizer, "beta_2"):
        second = second / (1 - float(optimizer.beta_2) ** step)
    return moment, np.sqrt(np.maximum(second, 0)) + float(optimizer.epsilon)


def _gradient(gan: GAN, player: str) -> Callable[[tf.Tensor], tuple[Any, Any]]:
    variables = getattr(gan, player).trainable_variables

    @tf.function(jit_compile=gan.jit_compile)
    def gradient(real: Any) -> tuple[Any, Any]:
        with xla.for_xla(gan.jit_compile), tf.GradientTape() as tape:
            drawn = gan._drawn(real, replicas.share(gan._images(real)))
            loss = _objective(gan, player, real, drawn)
        return loss, tape.gradient(loss, variables)

    return gradient


def _loss(gan: GAN, player: str) -> Callable[[tf.Tensor, tf.Tensor], Any]:
    @tf.function(jit_compile=gan.jit_compile)
    def loss(real: Any, drawn: Any) -> Any:
        with xla.for_xla(gan.jit_compile):
            return _objective(gan, player, real, drawn)

    return loss


def _objective(gan: GAN, player: str, real: Any, drawn: Any) -> tf.Tensor:
    fake = gan._made(drawn, training=True)
    if player == "discriminator":
        fake = tf.nest.map_structure(tf.stop_gradient, fake)
        return gan.discriminator_loss(real, fake)["d_loss"]
    return gan.generator_loss(real, fake)["g_loss"]


def _flat(arrays: Sequence[Any]) -> np.ndarray:
    return np.concatenate(
        [keras.ops.convert_to_numpy(x).astype(float).ravel() for x in arrays]
    )


def _assign(variables: Sequence[Any], flat: np.ndarray) -> None:
    at = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        variable.assign(flat[at : at + size].reshape(variable.shape))
        at += size


@contextlib.contextmanager
def _put_back(gan: GAN) -> Iterator[None]:
    """Leaves all variables of a model as they were."""
    variables = [*gan.variables, gan.seed_generator.state]
    values = [keras.ops.convert_to_numpy(x).copy() for x in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

"""How far a GAN is from a stationary local Nash equilibrium (Theorem 1's limit).

There each player's gradient of its own loss with respect to its own parameters is zero,
and each player's own Hessian has no negative eigenvalue. Both are measured here on many
images; for small games, the eigenvalues of the whole game's Jacobian are, too.

The losses are those of the training step: the mean over fixed minibatches of the
minibatch's loss, with batch norm on each minibatch's own statistics (real and generated
images apart), and weight decay included.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg
import tensorflow as tf

from fid.files import InputError
from tf_ttur import xla
from tf_ttur.gan import GAN

__all__ = ["Extremes", "Player", "examine", "extreme_eigenvalues", "game_jacobian"]

# The dense Jacobian of a game of more parameters than this is not computed.
_MAX_DENSE_PARAMETERS = 2000


@dataclasses.dataclass(frozen=True)
class Extremes:
    """Both ends of a symmetric matrix's spectrum.

    Attributes:
        smallest: The smallest eigenvalue found; the true one is no larger.
        largest: The largest one found; the true one is no smaller.
        smallest_error: Some eigenvalue lies this near to `smallest`.
        largest_error: Likewise for `largest`.
        products: Products with the matrix that it took.
    """

    smallest: float
    largest: float
    smallest_error: float
    largest_error: float
    products: int


@dataclasses.dataclass(frozen=True)
class Player:
    """Where one player stands.

    Attributes:
        parameters: Number of its trainable parameters.
        loss: Its loss.
        gradient_norm: Norm of the loss's gradient in its own parameters.
        gradient_noise: How large that norm would be on these images if the true
            gradient were zero: the root of the minibatch gradients' total variance over
            the number of minibatches; None where there is one minibatch.
        hessian: Extreme eigenvalues of the loss's Hessian in its own parameters.
    """

    parameters: int
    loss: float
    gradient_norm: float
    gradient_noise: float | None
    hessian: Extremes


def examine(
    gan: GAN,
    images: np.ndarray,
    *,
    batch_size: int,
    seed: int = 0,
    iterations: int = 80,
    tolerance: float = 1e-2,
    jit_compile: bool | None = None,
) -> dict[str, Player]:
    """Measures both players' gradients and Hessians; the model stays as it is.

    Args:
        gan: A compiled model whose losses are smooth enough to differentiate twice.
        images: Real images, float32 (n, H, W, C) in [-1, 1]; what does not fill a
            minibatch is left out.
        batch_size: Images per minibatch, that of training for its batch statistics.
        seed: Seed of the latents and of Lanczos' first vector.
        iterations: Products with each Hessian at most; each keeps a vector of the
            player's parameters.
        tolerance: Stop earlier, when both errors are below this share of the largest
            absolute eigenvalue.
        jit_compile: Compile by XLA; None means as the model does.

    Returns:
        `{"discriminator": Player, "generator": Player}`.

    Raises:
        InputError: The images do not fill a minibatch, a network is not float32, or a
            Hessian is not finite.
    """
    with _preserved_state(gan) as rewind:
        game = _Game(gan, images, batch_size, seed, jit_compile, rewind)
        players = {}
        for name in ("discriminator", "generator"):
            loss, gradient, noise = game.gradient(name)
            players[name] = Player(
                parameters=gradient.size,
                loss=loss,
                gradient_norm=float(np.linalg.norm(gradient)),
                gradient_noise=noise,
                hessian=extreme_eigenvalues(
                    lambda vector, name=name: game.product(name, vector),
                    gradient.size,
                    iterations=iterations,
                    tolerance=tolerance,
                    seed=seed,
                ),
            )
    return players


def game_jacobian(
    gan: GAN,
    images: np.ndarray,
    *,
    batch_size: int,
    seed: int = 0,
    jit_compile: bool | None = None,
) -> np.ndarray:
    """Computes the Jacobian of (-grad L_G, -grad L_D), each in its own parameters.

    Where all its eigenvalues have negative real parts, simultaneous gradient descent
    with small enough rates converges to the point. Each player's rate multiplies its
    rows.

    Args:
        gan: As for `examine`; both players together have at most 2,000 parameters.
        images: As for `examine`.
        batch_size: Images per minibatch.
        seed: Seed of the latents.
        jit_compile: Compile by XLA; None means as the model does.

    Returns:
        Float64 (k, k), the generator's parameters first.

    Raises:
        InputError: The game is larger than that; or as for `examine`.
    """
    sizes = [
        sum(int(np.prod(v.shape)) for v in network.trainable_variables)
        for network in (gan.generator, gan.discriminator)
    ]
    if sum(sizes) > _MAX_DENSE_PARAMETERS:
        raise InputError(
            f"The game has {sum(sizes)} parameters; its dense Jacobian is computed for "
            f"at most {_MAX_DENSE_PARAMETERS}. Use examine, which needs none."
        )
    with _preserved_state(gan) as rewind:
        game = _Game(gan, images, batch_size, seed, jit_compile, rewind)
        return np.stack(
            [
                game.row(player, unit)
                for player, count in zip(
                    ("generator", "discriminator"), sizes, strict=True
                )
                for unit in np.eye(count, dtype="float32")
            ]
        )


def extreme_eigenvalues(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    *,
    iterations: int = 80,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> Extremes:
    """Finds both ends of a symmetric matrix's spectrum by Lanczos' method.

    Every vector is orthogonalised against all before it, twice, so that rounding makes
    no copies of eigenvalues. ARPACK (`scipy.sparse.linalg.eigsh`) finds one end a run,
    measures its tolerance by an eigenvalue that may be near zero, and fails on matrices
    that are zero or have one row: all common here.

    Args:
        product: Multiplies a float32 vector (size,) by the matrix.
        size: Rows of the matrix.
        iterations: Products at most.
        tolerance: Stop when both errors are below this share of the largest absolute
            eigenvalue.
        seed: Seed of the first vector.

    Returns:
        The eigenvalues, with bounds of their errors.

    Raises:
        InputError: A product is not finite.

    Example:
        >>> matrix = np.diag(np.arange(-2.0, 6.0))
        >>> found = extreme_eigenvalues(lambda v: matrix @ v, 8)
        >>> round(found.smallest, 3), round(found.largest, 3), found.products
        (-2.0, 5.0, 8)
    """
    iterations = min(iterations, size)
    basis = np.empty((iterations, size), "float32")
    vector = np.random.default_rng(seed).standard_normal(size)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    length = np.linalg.norm(vector)
    for step in range(iterations):
        basis[step] = vector / length
        image = np.asarray(product(basis[step]), "float64")
        if not np.isfinite(image).all():
            raise InputError(
                "A Hessian is not finite: the training has diverged, or a loss has no "
                "second derivative there. Choose an earlier checkpoint."
            )
        diagonal.append(float(basis[step] @ image))
        previous = basis[: step + 1]
        vector = image
        for _ in range(2):
            vector = vector - (previous @ vector) @ previous
        length = float(np.linalg.norm(vector))
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal)
        errors = length * np.abs(vectors[-1, [0, -1]])
        # The length is zero where the vectors so far span all that the first one has a
        # part in.
        if errors.max() <= tolerance * np.abs(values).max() or length == 0:
            break
        off_diagonal.append(length)
    return Extremes(
        float(values[0]), float(values[-1]), *errors.tolist(), products=step + 1
    )


@contextlib.contextmanager
def _preserved_state(gan: GAN) -> Iterator[Callable[[], None]]:
    """Restores what a forward pass changes: moving averages and random states.

    Yields:
        A function that restores them at once.
    """
    saved = [(v, v.numpy()) for v in gan.non_trainable_variables]

    def rewind() -> None:
        for variable, value in saved:
            variable.assign(value)

    try:
        yield rewind
    finally:
        rewind()


class _Game:
    """The two losses on fixed minibatches, differentiated."""

    def __init__(
        self,
        gan: GAN,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        jit_compile: bool | None,
        rewind: Callable[[], None],
    ):
        count = len(images) // batch_size
        if count < 1:
            raise InputError(
                f"{len(images)} images do not fill a minibatch of {batch_size}; give "
                "more images, or a smaller batch size."
            )
        if gan.num_classes is not None:
            raise InputError(
                "The GAN takes labels; the game is studied of GANs without labels only."
            )
        for network in (gan.generator, gan.discriminator):
            if network.compute_dtype != "float32":
                raise InputError(
                    f"The {network.name} computes in {network.compute_dtype}; second "
                    "derivatives need float32."
                )
        latents = np.asarray(gan.latent(count * batch_size, seed=seed))
        self._batches = [
            (tf.constant(images[i : i + batch_size]), latents[i : i + batch_size])
            for i in range(0, count * batch_size, batch_size)
        ]
        self._gan = gan
        # Random layers and the penalty's mixing draw the same numbers in every pass.
        self._rewind = rewind
        self._xla = gan.jit_compile if jit_compile is None else jit_compile
        self._variables = {
            "generator": gan.generator.trainable_variables,
            "discriminator": gan.discriminator.trainable_variables,
        }
        self._functions: dict[Any, Callable] = {}

    def gradient(self, player: str) -> tuple[float, np.ndarray, float | None]:
        """Returns a player's loss, its gradient (k,), and that one's noise."""
        losses, gradients, squares = 0.0, 0.0, 0.0
        for loss, gradient in self._over_batches("gradient", player):
            gradient = np.asarray(gradient, "float64")
            losses += float(loss)
            gradients += gradient
            squares += gradient @ gradient
        count = len(self._batches)
        mean = gradients / count
        noise = None
        if count > 1:
            variance = max(squares / count - mean @ mean, 0.0) * count / (count - 1)
            noise = float(np.sqrt(variance / count))
        return losses / count, mean, noise

    def product(self, player: str, vector: np.ndarray) -> np.ndarray:
        """Multiplies a player's own Hessian by a vector (k,)."""
        parts = self._over_batches("product", player, tf.constant(vector))
        return sum(np.asarray(x, "float64") for x in parts) / len(self._batches)

    def row(self, player: str, vector: np.ndarray) -> np.ndarray:
        """Combines a player's rows of the game's Jacobian by a vector (k,)."""
        parts = self._over_batches("row", player, tf.constant(vector))
        return sum(np.asarray(x, "float64") for x in parts) / len(self._batches)

    def _over_batches(self, quantity: str, player: str, *vector: tf.Tensor) -> Iterator:
        if (quantity, player) not in self._functions:
            method = getattr(self, f"_{quantity}")

            def compute(*arguments: tf.Tensor) -> Any:
                with xla.for_xla(self._xla):
                    return method(player, *arguments)

            self._functions[quantity, player] = tf.function(
                compute, jit_compile=self._xla, autograph=False
            )
        for real, latents in self._batches:
            self._rewind()
            yield self._functions[quantity, player](real, latents, *vector)

    def _loss(self, player: str, real: tf.Tensor, latents: tf.Tensor) -> tf.Tensor:
        gan = self._gan
        fake = gan.generator(latents, training=True)
        if player == "discriminator":
            loss = gan.discriminator_loss(real, fake)["d_loss"]
            return tf.add_n([loss, *gan.discriminator.losses])
        loss = gan.generator_loss(real, fake)["g_loss"]
        return tf.add_n([loss, *gan.generator.losses])

    def _gradient(
        self, player: str, real: tf.Tensor, latents: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self._variables[player]
        with tf.GradientTape() as tape:
            loss = self._loss(player, real, latents)
        return loss, _flatten(tape.gradient(loss, variables), variables)

    def _product(
        self, player: str, real: tf.Tensor, latents: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        variables = self._variables[player]
        with tf.GradientTape() as tape:
            _, gradient = self._gradient(player, real, latents)
            along = tf.reduce_sum(gradient * vector)
        return _flatten(tape.gradient(along, variables), variables)

    def _row(
        self, player: str, real: tf.Tensor, latents: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        variables = [*self._variables["generator"], *self._variables["discriminator"]]
        with tf.GradientTape() as tape:
            _, gradient = self._gradient(player, real, latents)
            along = -tf.reduce_sum(gradient * vector)
        return _flatten(tape.gradient(along, variables), variables)


def _flatten(gradients: list[tf.Tensor | None], variables: list[Any]) -> tf.Tensor:
    # A loss need not depend on every variable, for example on a bias before batch norm.
    pairs = zip(gradients, variables, strict=True)
    full = [tf.zeros(v.shape) if g is None else g for g, v in pairs]
    return tf.concat([tf.reshape(g, [-1]) for g in full], 0)

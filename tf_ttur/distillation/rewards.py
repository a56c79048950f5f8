"""Rewards: what scores noisy images, and the latent reward model.

Preference learning compares noisy images, of which a student of few steps has several
before it has a clean one. So a reward here scores noisy images at their times. There
are three: `NetworkReward`, a network that learnt to (`latent_reward`, `train`);
`ImageReward`, any function of clean images, given the estimate of one; and whatever
else has the form of `Reward`, such as a discriminator.

The latent reward model is that of LPO (Zhang et al. 2025, arXiv 2502.01051, and its
code), which Flash-DMD's second stage learns from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from fid.values import Between, Count, Step, checked
from tf_ttur import grappler, refusals, xla
from tf_ttur.distillation.diffusion import Denoiser, Diffusion, Sampling, sample_shape
from tf_ttur.distillation.pairs import Oracle, Pairs, held_out, oracle_of
from tf_ttur.distillation.parametrisations import Flow
from tf_ttur.labels import check_range
from tf_ttur.layers import Embedding
from tf_ttur.networks.cached import trained_once
from tf_ttur.players import clone

__all__ = [
    "LEVELS",
    "CosineScore",
    "ImageReward",
    "NetworkReward",
    "Reward",
    "RewardModel",
    "accuracies",
    "bradley_terry",
    "latent_reward",
    "train",
    "trained",
]

_log = logging.getLogger(__name__)

LEVELS = (999, 749, 499, 249, 0)
"""Indices of the noise levels at which accuracies are reported: four anchors, and 0."""

# The logarithm of the scale of scores at the beginning: that of CLIP, 1 / 0.07.
_LOG_SCALE = 2.6592
_LAST = 999.0
# Each held-out pair is judged with so many draws of noise.
_DRAWS = 4
_BATCH, _WIDTH, _RATE = 64, 64, 3e-4
_STUDENT_STEPS = 4
# Of how images are made and a network is trained. Whoever changes it raises it.
_VERSION = 1


class Reward(Protocol):
    """Scores noisy images, the more the better.

    Example:
        >>> import tensorflow as tf
        >>> def brightness(noisy, times, labels=None):  # is such a reward
        ...     return tf.reduce_mean(noisy, (1, 2, 3))
    """

    def __call__(self, noisy: tf.Tensor, times: tf.Tensor, labels: Any) -> tf.Tensor:
        """Returns the scores.

        Args:
            noisy: Noisy images, float32 (n, H, W, C).
            times: Their native times, float32 (n,).
            labels: The classes that were asked for, int32 (n,), or None.

        Returns:
            Float32 (n,).
        """


class NetworkReward:
    """A network that scores noisy images; see `Reward`.

    Args:
        network: Keras model, `[images, noise condition]`, with `num_classes` also
            labels, to scores (n, 1); `latent_reward` makes such.
        parametrisation: By which the images are noisy.
        num_classes: The number of classes, or None.
    """

    def __init__(
        self, network: Any, parametrisation: Any, num_classes: int | None = None
    ):
        self.network, self.parametrisation = network, parametrisation
        self.num_classes = num_classes

    def __call__(
        self, noisy: tf.Tensor, times: tf.Tensor, labels: Any = None, training=False
    ) -> tf.Tensor:
        """Returns scores, float32 (n,); see `Reward`.

        Args:
            noisy: As there.
            times: As there.
            labels: As there; needed with `num_classes`, and not read without.
            training: Whether dropout is on.

        Raises:
            ValueError: Labels are needed, and there are none.
        """
        given = [*self.parametrisation.inputs(noisy, times)]
        if self.num_classes is not None:
            if labels is None:
                raise ValueError(
                    f"This reward is of {self.num_classes} classes and scores an image "
                    "by the one that was asked for; give labels (n,)."
                )
            given.append(labels)
        scores = self.network(given, training=training)
        return tf.cast(tf.reshape(scores, tf.shape(noisy)[:1]), tf.float32)


class ImageReward:
    """Scores noisy images by a function of clean ones; see `Reward`.

    The function is given a network's estimate of the clean images, of one step. This
    is what the mean of all clean images looks like that may be behind a noisy one; at
    high noise it is blurred, and further from what the function was made for.

    Args:
        function: Images float32 (n, H, W, C) and labels int32 (n,), or None, to scores
            (n,), in TensorFlow. Gradients reach the noisy images where the function
            has them. Estimates may lie a little beyond [-1, 1].
        denoiser: What estimates, a `Denoiser`.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import EDM
        >>> from tf_ttur.distillation.diffusion import Denoiser
        >>> from tf_ttur.distillation.rewards import ImageReward
        >>> grey = Denoiser(lambda given, training: 0.0 * given[0], EDM())
        >>> brightness = ImageReward(
        ...     lambda images, labels: tf.reduce_mean(images, (1, 2, 3)), grey)
        >>> brightness(tf.ones((1, 4, 4, 1)), tf.constant([0.5])).numpy().round(4)
        array([0.5], dtype=float32)
    """

    def __init__(self, function: Callable[..., Any], denoiser: Denoiser):
        self.function, self.denoiser = function, denoiser

    def __call__(
        self, noisy: tf.Tensor, times: tf.Tensor, labels: Any = None
    ) -> tf.Tensor:
        """Returns scores, float32 (n,); see `Reward`."""
        clean = self.denoiser.clean(noisy, times, labels)
        scores = tf.cast(self.function(clean, labels), tf.float32)
        return tf.reshape(scores, tf.shape(noisy)[:1])


@keras.saving.register_keras_serializable("tf_ttur")
class CosineScore(keras.layers.Layer):
    """Scores two vectors by the cosine of their angle, times a scale that is learnt.

    The score is exp(scale) f.g / (|f| |g|), in float32.

    Args:
        log_scale: The scale at the beginning.
        **kwargs: As for `keras.layers.Layer`.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation.rewards import CosineScore
        >>> f, g = tf.constant([[3.0, 4.0]]), tf.constant([[2.0, 0.0]])
        >>> round(float(CosineScore(log_scale=0.0)([f, g])[0, 0]), 6)
        0.6
    """

    def __init__(self, log_scale: float = _LOG_SCALE, **kwargs: Any):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.log_scale = log_scale

    def build(self, input_shape: Any) -> None:
        """Makes the scale."""
        self.logit_scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.log_scale),
            name="logit_scale",
        )

    def call(self, inputs: Sequence[Any]) -> Any:
        """Returns scores (n, 1) of vectors (n, d)."""
        one, two = (tf.math.l2_normalize(tf.cast(x, tf.float32), 1) for x in inputs)
        scale = tf.exp(tf.convert_to_tensor(self.logit_scale))
        return scale * tf.reduce_sum(one * two, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """Returns the shape of the scores."""
        return (input_shape[0][0], 1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "log_scale": self.log_scale}


def latent_reward(
    teacher: keras.Model, num_classes: int | None, width: int = 64, seed: int = 0
) -> keras.Model:
    """Builds the latent reward model of a teacher, still to be trained.

    A diffusion model knows noisy images, so a reward of noisy images begins as a copy
    of its first half: of the way down and of the middle (LPO, section 3.2, and its
    code). The maps after the last block of each size, and after the middle, are
    averaged over their pixels, joined, and mapped linearly to a vector f. The class
    that was asked for has a vector g, in the place of LPO's text; where there are no
    classes g is one vector for all images. The score is exp(scale) times the cosine
    of f and g, and the scale, a logarithm, begins at 2.6592. All weights are to be
    trained, the copied ones, too.

    LPO guides the maps of the middle by the text at a scale of 7.5. This does not.

    Args:
        teacher: A U-Net of `networks.unet`. It stays as it is.
        num_classes: The number of classes that it is told of, or None.
        width: The length of f and g.
        seed: Seed of the weights that are not copied.

    Returns:
        A Keras model with the teacher's inputs, labels in [0, num_classes) -> scores,
        float32 (n, 1).

    Raises:
        InputError: The teacher is another kind of network.

    Example:
        >>> from tf_ttur.distillation.rewards import latent_reward
        >>> from tf_ttur.networks import unet
        >>> teacher = unet.denoiser(8, 1, width=8, multipliers=(1, 2), blocks=1)
        >>> latent_reward(teacher, None).output_shape
        (None, 1)
    """
    checked({"width": Count, "seed": Step}, width=width, seed=seed)
    try:
        sample_shape(teacher, num_classes is not None)
    except ValueError as error:
        raise InputError(
            f"No reward model can be made of the teacher. {error}"
        ) from error
    encoder = clone(
        keras.Model(teacher.inputs, [*_maps(teacher)]), "The latent reward model"
    )
    # A teacher may be frozen, and copies of its layers are, too.
    for layer in encoder.layers:
        layer.trainable = True
    how: dict[str, Any] = {"dtype": "float32"}
    pooled = [
        keras.layers.GlobalAveragePooling2D(name=f"reward_mean_{index}", **how)(maps)
        for index, maps in enumerate(encoder.outputs)
    ]
    f = keras.layers.Dense(
        width,
        use_bias=False,
        kernel_initializer=keras.initializers.GlorotUniform(seed=2 * seed),
        name="reward_image",
        **how,
    )(keras.layers.Concatenate(name="reward_means", **how)(pooled))
    labels = encoder.inputs[-1]
    if num_classes is None:
        labels = keras.ops.zeros_like(encoder.inputs[1], dtype="int32")
    g = Embedding(
        num_classes or 1,
        width,
        embeddings_initializer=keras.initializers.RandomNormal(seed=2 * seed + 1),
        name="reward_class",
        **how,
    )(labels)
    score = CosineScore(name="reward_score")([f, g])
    return keras.Model(encoder.inputs, score, name="latent_reward")


def _maps(teacher: keras.Model) -> list[Any]:
    """Returns the maps after the last block of each size, and after the middle."""
    last: dict[str, str] = {}
    middle = ""
    for layer in teacher.layers:  # in the order of the data
        if found := re.fullmatch(r"enc_(\d+)_block_\d+", layer.name):
            last[found[1]] = layer.name
        elif re.fullmatch(r"dec_\d+_in_2", layer.name):
            middle = layer.name
    if not (last and middle):
        raise InputError(
            f"The teacher {teacher.name!r} is no U-Net of tf_ttur.networks.unet, of "
            "which a latent reward model is made: it has no layers such as "
            "enc_16_block_1 and dec_8_in_2. Take another reward, such as ImageReward."
        )
    return [teacher.get_layer(name).output for name in (*last.values(), middle)]


def bradley_terry(winner: Any, loser: Any) -> tf.Tensor:
    """Computes the loss of scores of pairs: -log sigmoid(winner - loser).

    By the model of Bradley and Terry (1952) the sigmoid is the probability that the
    winner is preferred.

    Args:
        winner: Scores of the better images, float32 (n,).
        loser: Scores of the others (n,).

    Returns:
        The mean over the pairs, a scalar.

    Example:
        >>> from tf_ttur.distillation.rewards import bradley_terry
        >>> round(float(bradley_terry([1.0], [1.0])), 6)
        0.693147
    """
    winner, loser = (tf.cast(x, tf.float32) for x in (winner, loser))
    return tf.reduce_mean(tf.nn.softplus(loser - winner))


def train(
    network: keras.Model,
    pairs: Pairs,
    parametrisation: Any,
    *,
    steps: int,
    batch_size: int = _BATCH,
    learning_rate: float,
    seed: int,
    jit_compile: bool = False,
) -> dict[str, float]:
    """Trains a network to score the better image of a pair higher, at any noise.

    Both images of a pair are noised to the same random level, each with noise of its
    own. Levels are evenly spread over the indices 0..999. One pair of five is held out
    (`pairs.held_out`). The optimizer is Adam.

    Args:
        network: As for `NetworkReward`, with labels where it takes three inputs. It is
            trained where it is.
        pairs: What it learns from.
        parametrisation: How images are noised.
        steps: How many updates.
        batch_size: Pairs in each; all that there are, where there are fewer.
        learning_rate: Adam's.
        seed: Decides what is held out, the order, and all noise.
        jit_compile: Compile an update by XLA.

    Returns:
        The accuracy on held-out pairs by noise level; see `accuracies`.

    Raises:
        InputError: The pairs are too few or lack labels, an argument is out of its
            range, or the loss came to what is no number.
    """
    kinds = {
        "steps": Count,
        "batch_size": Count,
        "learning_rate": Annotated[float, Between(above=0)],
        "seed": Step,
        "jit_compile": refusals.Switch,
    }
    checked(
        kinds,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        jit_compile=jit_compile,
    )
    reward = _reward(network, pairs, parametrisation)
    held = held_out(pairs, seed)
    learnt = pairs[~held]
    size = min(batch_size, len(learnt))
    generator = keras.random.SeedGenerator(seed)
    optimizer = keras.optimizers.Adam(learning_rate)
    variables = network.trainable_variables
    optimizer.build(variables)
    if not jit_compile:
        grappler.keep_order()

    @tf.function(jit_compile=jit_compile)
    def update(winners: tf.Tensor, losers: tf.Tensor, labels: Any) -> tf.Tensor:
        with xla.for_xla(jit_compile):
            images = tf.concat([winners, losers], 0)
            indices = keras.random.uniform((size,), 0.0, _LAST, seed=generator)
            times = tf.tile(parametrisation.times(indices), [2])
            noise = keras.random.normal(images.shape, seed=generator)
            noisy = parametrisation.corrupt(images, noise, times)
            told = None if labels is None else tf.tile(labels, [2])
            with tf.GradientTape() as tape:
                scores = reward(noisy, times, told, training=True)
                loss = bradley_terry(scores[:size], scores[size:])
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

    winners, losers = learnt.winners, learnt.losers
    order = _batches(len(learnt), size, steps, np.random.default_rng(seed))
    for step, rows in enumerate(order, 1):
        labels = None if learnt.labels is None else tf.constant(learnt.labels[rows])
        loss = update(tf.constant(winners[rows]), tf.constant(losers[rows]), labels)
        if step % 100 == 0 or step == steps:
            _check_finite(float(loss), step, learning_rate)
    return accuracies(reward, pairs[held], parametrisation, seed)


def accuracies(
    reward: Reward, pairs: Pairs, parametrisation: Any, seed: int
) -> dict[str, float]:
    """Measures how often a reward scores the better image of a pair higher.

    Both images are noised to one level, each with noise of its own, four times. Equal
    scores count as half.

    Args:
        reward: The reward.
        pairs: Pairs that it did not learn from.
        parametrisation: How images are noised.
        seed: Seed of the noise.

    Returns:
        Shares by the index of the noise level, as text: those of `LEVELS`.
    """
    pairs = pairs[np.tile(np.arange(len(pairs)), _DRAWS)]
    generator = keras.random.SeedGenerator(seed)

    @tf.function
    def scores(images: tf.Tensor, labels: Any, index: tf.Tensor) -> tf.Tensor:
        times = tf.fill(tf.shape(images)[:1], parametrisation.times(index))
        noise = keras.random.normal(tf.shape(images), seed=generator)
        return reward(parametrisation.corrupt(images, noise, times), times, labels)

    found = {}
    for level in LEVELS:
        right = 0.0
        for start in range(0, len(pairs), _BATCH):
            some = pairs[start : start + _BATCH]
            labels = None if some.labels is None else tf.constant(some.labels)
            winner, loser = (
                scores(tf.constant(images), labels, tf.constant(float(level))).numpy()
                for images in (some.winners, some.losers)
            )
            right += np.sum(winner > loser) + 0.5 * np.sum(winner == loser)
        found[f"{level}"] = float(right / len(pairs))
    return found


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model that was trained.

    Attributes:
        network: As for `NetworkReward`.
        accuracy: On held-out pairs, by noise level; see `accuracies`.
        path: Where it is kept.
    """

    network: keras.Model
    accuracy: Mapping[str, float]
    path: pathlib.Path


def trained(
    *,
    teacher: keras.Model,
    parametrisation: Any,
    num_classes: int | None,
    oracle: str | Oracle,
    shape: Sequence[int],
    pairs: int,
    steps: int,
    seed: int,
    fingerprint: str,
) -> RewardModel:
    """Loads the latent reward model of a teacher from the cache, or trains it.

    The oracle judges images of the teacher itself. Half of them are made by its full
    sampler (Heun's in 18 steps, or Euler's in 32 of a flow), and half by `renoise` in
    four steps, which is what a student begins as. With classes both images of a pair
    are of one class, and all classes have equally many.

    Args:
        teacher: The teacher's network, a U-Net of `networks.unet`.
        parametrisation: What its output means.
        num_classes: The number of classes that it is told of, or None.
        oracle: An oracle, or a text for `pairs.oracle_of`.
        shape: (H, W, C) of an image.
        pairs: How many pairs are made, twice as many images. An oracle that has images
            of its own has as many as it has.
        steps: Updates of the reward model.
        seed: Seed of the images, of the pairs, and of the training.
        fingerprint: SHA-256 of the teacher's weights. The model of another teacher is
            another one.

    Returns:
        The reward model. What it depends on is in the name of its file: this teacher,
        this oracle and these settings.

    Raises:
        InputError: The oracle cannot be used, the teacher is another kind of network,
            or what is in the cache is damaged.
    """
    kinds = {"pairs": Count, "steps": Count, "seed": Step}
    checked(kinds, pairs=pairs, steps=steps, seed=seed)
    network = latent_reward(teacher, num_classes, _WIDTH, seed)
    if (found := tuple(teacher.inputs[0].shape[1:])) != tuple(shape):
        raise InputError(
            f"The teacher makes images of {found}, and the reward is asked for "
            f"{tuple(shape)}. Give the teacher's shape."
        )
    if isinstance(oracle, str):
        oracle = oracle_of(oracle, shape)

    def make() -> tuple[np.ndarray, np.ndarray | None]:
        return _images(teacher, parametrisation, num_classes, 2 * pairs, seed)

    def learn() -> tuple[keras.Model, dict[str, float]]:
        judged = _of_classes(oracle.pairs(make, seed), num_classes, oracle.name)
        if judged.ties:
            _log.info(
                "The oracle %s found %s of %s pairs equal; they are left out.",
                oracle.name,
                f"{judged.ties:,}",
                f"{judged.ties + len(judged):,}",
            )
        found = train(
            network,
            judged,
            parametrisation,
            steps=steps,
            learning_rate=_RATE,
            seed=seed,
        )
        return network, {f"accuracy_{level}": x for level, x in found.items()}

    depends = (
        _VERSION, fingerprint, parametrisation, num_classes, oracle.identity, pairs,
        steps, seed,
    )  # fmt: skip
    digest = hashlib.sha256(repr(depends).encode()).hexdigest()
    facts = {f"accuracy_{level}": Annotated[float, Between(0, 1)] for level in LEVELS}
    network, record, path = trained_once(
        f"latent_reward_v{_VERSION}_{digest[:16]}", learn, facts
    )
    accuracy = {f"{level}": record[f"accuracy_{level}"] for level in LEVELS}
    _log.info(
        "The reward model of the oracle %s ranks held-out pairs right: %s; kept in %s.",
        oracle.name,
        ", ".join(f"{share:.3f} at {level}" for level, share in accuracy.items()),
        path,
    )
    return RewardModel(network, accuracy, path)


def _images(
    teacher: keras.Model,
    parametrisation: Any,
    num_classes: int | None,
    count: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Makes a teacher's images, half by its full sampler and half as a student does."""
    flow = isinstance(parametrisation, Flow)
    full = Sampling(sampler="euler", steps=32) if flow else Sampling()
    few = Sampling(sampler="renoise", steps=_STUDENT_STEPS)
    model = Diffusion(teacher, parametrisation, num_classes=num_classes)
    labels = None
    if num_classes is not None:
        # Both images of a pair are of one class, and so are those that stand together.
        labels = np.arange(count, dtype=np.int32) // 2 % num_classes
    parts = []
    for half, sampling in enumerate((few, full)):
        rows = slice(half, None, 2)
        model.sampling = sampling
        some = len(range(count)[rows])
        told = None if labels is None else labels[rows]
        parts.append(model.generate(some, 2 * seed + half, labels=told))
    images = np.stack(parts, 1).reshape(count, *parts[0].shape[1:])
    return images, labels


def _of_classes(pairs: Pairs, num_classes: int | None, name: str) -> Pairs:
    """Returns pairs with labels of the model's classes, or with none."""
    if num_classes is None:
        return dataclasses.replace(pairs, labels=None)
    if pairs.labels is None:
        raise InputError(
            f"The pairs of the oracle {name} have no labels, and the teacher is told "
            f"one of {num_classes} classes. Add a column label to its file."
        )
    try:
        check_range(pairs.labels, num_classes)
    except ValueError as error:
        raise InputError(f"The oracle {name} cannot be used. {error}") from error
    return pairs


def _reward(network: keras.Model, pairs: Pairs, parametrisation: Any) -> NetworkReward:
    """Returns the network as a reward of such pairs."""
    if (labelled := len(network.inputs) == 3) and pairs.labels is None:
        raise InputError(
            "The reward model takes labels, and the pairs have none. Give labels, or a "
            "network without."
        )
    # How many classes there are does not matter here.
    return NetworkReward(network, parametrisation, 1 if labelled else None)


def _batches(count: int, size: int, steps: int, random: Any) -> np.ndarray:
    """Returns the rows of each batch: all in a new order, again and again."""
    order = [random.permutation(count) for _ in range(-(-steps * size // count))]
    return np.concatenate(order)[: steps * size].reshape(steps, size)


def _check_finite(loss: float, step: int, rate: float) -> None:
    if not np.isfinite(loss):
        raise InputError(
            f"The reward model's loss became {loss} at step {step}. Lower the learning "
            f"rate, {rate:g}, or look at the pairs."
        )

"""`JointFlashDMD`: preference learning that is joined to distillation.

Training has two stages. The first is `FlashDMD`'s, number for number. The second begins
with `begin_preferences`, which keeps a frozen copy of the student, the reference. From
then on the student is also moved towards what a reward finds better: at the noisiest
anchors it makes several candidates of one estimate, which differ by their fresh noise
alone, and learns from the best and the worst of them. Distillation goes on beside it,
which is to keep the student from finding images that please the reward and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from fid.values import Between, Count
from tf_ttur import refusals, replicas
from tf_ttur.distillation import preference
from tf_ttur.distillation.diffusion import normal_of
from tf_ttur.distillation.flash_dmd import FlashDMD
from tf_ttur.labels import images_of
from tf_ttur.players import clone

__all__ = ["JointFlashDMD"]

# What the settings of `compile` may be that `FlashDMD` does not have.
_SETTINGS = {
    "preference_ratio": Count,
    "preference_distillation": refusals.Switch,
    "preference_anchors": Count,
    "preference_adversarial": Annotated[float, Between(0)] | None,
    "candidates": Annotated[int, Between(2)],
    "beta": Annotated[float, Between(above=0)],
    "ratio_clip": Annotated[float, Between(1e-6, below=1)],
    "gate": Annotated[float, Between(0, below=1)],
}
# The name of the student's second optimizer.
_PREFERENCE = "student_preference"
_LOSSES = ("preference_loss", "clipped", "reward", "reward_gap")
# Images of each anchor that a reward is tried out on.
_ROWS = 4


class _Pairs(NamedTuple):
    """What a student learns preferences from, constants; m is anchors times images.

    Attributes:
        noisy: What it is called with (m, H, W, C).
        times: The native times there (m,).
        after: The native times of the next anchors (m,).
        labels: Int32 (m,), or None.
        winner: The best candidates, at `after` (m, H, W, C).
        loser: The worst ones.
        weights: Which pairs count, 0 or 1, (m,).
        scores: The scores of all candidates (m, candidates).
    """

    noisy: tf.Tensor
    times: tf.Tensor
    after: tf.Tensor
    labels: tf.Tensor | None
    winner: tf.Tensor
    loser: tf.Tensor
    weights: tf.Tensor
    scores: tf.Tensor


@keras.saving.register_keras_serializable("tf_ttur")
class JointFlashDMD(FlashDMD):
    """A few-step student that is distilled, then learns preferences as well.

    In the first stage a step is `FlashDMD`'s. In the second it is one update of the
    student by distillation, with its pull, and `preference_ratio` times these two: an
    update of the fake score and of the discriminator, and an update of the student by
    preferences. Each of those has a real minibatch of its own, so batches are
    `preference_ratio` times as large. The student has two optimizers, each with moments
    of its own.

    A preference update starts from noise. At each of the first `preference_anchors`
    anchors the student estimates the clean image once, fresh noise takes it to the
    next anchor `candidates` times, and the reward scores them there. The best and the
    worst are a pair, and one that is drawn at random is gone on with. See `preference`
    for the loss.

    Args:
        *networks: As for `FlashDMD`.
        reward: A frozen network `[noisy images, noise condition]`, with `num_classes`
            also labels -> scores (n, 1), called as the student is. None where another
            reward is used (see `compile`), or the model only makes images.
        **options: As for `FlashDMD`.

    Attributes:
        reference: The student as it was when the second stage began.

    Example:
        >>> import keras, numpy as np, tensorflow as tf
        >>> from tf_ttur.distillation.flash_dmd import flash_dmd
        >>> from tf_ttur.distillation.joint import JointFlashDMD
        >>> from tf_ttur.networks import unet
        >>> def network():
        ...     return unet.denoiser(
        ...         8, 1, width=8, multipliers=(1,), blocks=1, attention=())
        >>> images = keras.Input((8, 8, 1))
        >>> encoder = keras.Model(images, [keras.layers.Conv2D(4, 3, 2)(images)])
        >>> maps = keras.Input(encoder.outputs[0].shape[1:])
        >>> logits = keras.layers.Dense(1)(keras.layers.Flatten()(maps))
        >>> model = JointFlashDMD(network(), network(), keras.Model([maps], [logits]),
        ...     teacher=network(), encoder=encoder, parametrisation="flow", anchors=2)
        >>> def brightness(noisy, times, labels):
        ...     return tf.reduce_mean(noisy, (1, 2, 3))
        >>> model.compile(student_optimizer="adam", fake_score_optimizer="adam",
        ...     discriminator_optimizer="adam", preference_optimizer="adam",
        ...     preference_ratio=2, preference_anchors=1, reward=brightness,
        ...     jit_compile=False, **flash_dmd())
        >>> real = np.zeros((8, 8, 8, 1), "float32")
        >>> _ = model.fit(real, batch_size=4, verbose=0)
        >>> model.begin_preferences()
        >>> sorted(model.fit(real, batch_size=8, verbose=0).history)[-4:]
        ['reward', 'reward_gap', 'student_lr', 'student_preference_lr']

    Raises:
        ValueError: The networks do not go together.
    """

    called = "JointFlashDMD"
    further_settings = (*_SETTINGS, "reward")

    def __init__(
        self, *networks: Any, reward: keras.Model | None = None, **options: Any
    ):
        super().__init__(*networks, frozen={"reward": reward}, **options)
        if reward is not None:
            _check_form(reward, self.student)
        self.reference = clone(self.student, "The reference")
        self.reference.trainable = False
        self._stage = self.add_weight(
            shape=(), dtype="int64", initializer="ones", trainable=False, name="stage"
        )

    def compile(
        self,
        *,
        student_optimizer: Any,
        preference_optimizer: Any,
        preference_ratio: int = 5,
        preference_distillation: bool = True,
        preference_anchors: int = 2,
        preference_adversarial: float | None = None,
        candidates: int = 4,
        beta: float = 500.0,
        ratio_clip: float = 0.1,
        gate: float = 0.0,
        reward: Any = "network",
        **settings: Any,
    ) -> None:
        """Sets how the networks are trained in both stages; see `FlashDMD.compile`.

        Args:
            student_optimizer: The student's optimizer of distillation.
            preference_optimizer: The student's optimizer of preferences.
            preference_ratio: Updates by preferences for one by distillation, in the
                second stage. It has no part in the first, where `ratio` counts.
            preference_distillation: Whether distillation goes on in the second stage.
                False: the student is updated by preferences, and nothing else is.
            preference_anchors: At how many of the noisiest anchors pairs are made. No
                noise follows the last anchor, so it has none.
            preference_adversarial: Weight of the student's adversarial loss in the
                second stage. None: as in the first. 0, for no discriminator, can be
                with a hard split, too, since the first stage has trained the last step.
            candidates: How many candidates each image has.
            beta: As for `preference.preference_loss`.
            ratio_clip: Its `clip`.
            gate: Threshold of `preference.gate`; 0 for none.
            reward: What scores candidates: `"network"`, the constructor's `reward`;
                `"discriminator"`, the mean logit of its heads on what the student takes
                a candidate for (as in AdvDMD); or a function of noisy images
                (n, H, W, C), native times (n,) and labels (n,) or None, which returns
                scores (n,). It has to be of TensorFlow; no gradient is taken of it.
            **settings: As for `FlashDMD.compile`.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument is out of its range, the reward is missing, or as
                for `FlashDMD.compile`.
        """
        found = refusals.checked(
            _SETTINGS,
            preference_ratio=preference_ratio,
            preference_distillation=preference_distillation,
            preference_anchors=preference_anchors,
            preference_adversarial=preference_adversarial,
            candidates=candidates,
            beta=beta,
            ratio_clip=ratio_clip,
            gate=gate,
        )
        if preference_anchors >= self.anchors:
            raise InputError(
                f"preference_anchors is {preference_anchors} and the student has "
                f"{self.anchors} anchors; pairs are of the noise that follows an "
                "anchor, and none follows the last. Give one less at most."
            )
        self._check_reward(reward)
        weights = settings.get("adversarial", 1), preference_adversarial
        if reward == "discriminator" and not any(weights):
            raise InputError(
                "reward is 'discriminator' and adversarial is 0, so no discriminator "
                "is trained. Give it a weight, or another reward."
            )
        super().compile(
            student_optimizer={
                "": student_optimizer,
                _PREFERENCE.removeprefix("student_"): preference_optimizer,
            },
            reward=reward,
            **found,
            **settings,
        )

    def _check_reward(self, reward: Any) -> None:
        if reward == "network":
            # Without its teacher a model is not trained, and that is said before.
            if "reward" not in self.frozen and "teacher" in self.frozen:
                raise InputError(
                    "reward is 'network', and this model was made without one: give "
                    f"{self.called}(..., reward=network), to load_model custom_objects="
                    '{"reward": network, ...}, or another reward.'
                )
            return
        if reward == "discriminator":
            return
        if isinstance(reward, str) or not callable(reward):
            raise InputError(
                "reward is 'network', 'discriminator', or a function of noisy images, "
                f"times and labels. Received: {reward!r}."
            )
        if isinstance(reward, keras.Layer):
            raise InputError(
                "A network that scores is given to the constructor, "
                f"{self.called}(..., reward=network), so that checkpoints name it and "
                "do not hold it."
            )
        try:
            keras.saving.serialize_keras_object(reward)
        except (TypeError, ValueError) as error:
            raise InputError(
                "A reward is saved with the model by its name: give a function, or an "
                "object with get_config that is registered "
                f"(keras.saving.register_keras_serializable). Received: {reward!r}."
            ) from error

    # ---- stages

    @property
    def stage(self) -> int:
        """1, or 2 once `begin_preferences` was called; checkpoints say it, too."""
        # Also asked where a step is traced.
        with tf.init_scope():
            return int(self._stage.numpy())

    def begin_preferences(self) -> None:
        """Begins the second stage: what the student is now becomes the reference.

        Before, the reward is tried out on a few candidates of the student. The random
        state of training stays as it is.

        Raises:
            ValueError: The model is not compiled, the second stage has begun, or the
                reward raises, gives something else than a finite number for each
                candidate, or finds all of them equal.
        """
        if not self.optimizers:
            raise ValueError("Call compile before begin_preferences.")
        if self.stage == 2:
            raise ValueError(
                "The second stage has begun already, with the student of then for a "
                "reference; a second one would not be the same training."
            )
        self._check_teacher()
        self._try_reward()
        self.reference.set_weights(self.student.get_weights())
        self._stage.assign(2)
        self._start_means()

    def _try_reward(self) -> None:
        """Refuses a reward from which nothing can be learnt; see above."""

        def tried() -> tf.Tensor:
            return self._pairs(replicas.share(tf.zeros((_ROWS, 1)))).scores

        trying = tried if self.run_eagerly else tf.function(tried, autograph=False)
        with self._evaluating():
            try:
                scores = trying().numpy()
            except MemoryError:
                raise
            except Exception as error:
                reason = " ".join(str(error).split())[:500]
                raise InputError(
                    "The reward cannot score candidates of the student: "
                    f"{type(error).__name__}: {reason}"
                ) from error
        if wrong := int((~np.isfinite(scores)).sum()):
            raise InputError(
                f"Of {scores.size} scores of the student's candidates {wrong} are NaN "
                "or infinite; a reward gives finite numbers."
            )
        if (scores == scores[:, :1]).all():
            raise InputError(
                f"The reward finds the {self.candidates} candidates equal, of each of "
                f"{len(scores)} estimates (its scores are {scores.min():g} to "
                f"{scores.max():g}), so there is nothing to learn from it."
            )

    def make_train_function(self, force: bool = False) -> Any:
        """Makes Keras's function of a step, which each stage traces anew.

        Args:
            force: Whether to make it again where it is there.
        """
        return self._of_each_stage("train_function", super().make_train_function, force)

    def make_test_function(self, force: bool = False) -> Any:
        """Makes Keras's function of held-out losses; see `make_train_function`.

        Args:
            force: Likewise.
        """
        return self._of_each_stage("test_function", super().make_test_function, force)

    def _of_each_stage(self, which: str, make: Callable[..., Any], force: bool) -> Any:
        """Sets a function that asks for the stage whenever it is called.

        So it does not matter when a stage begins: also a callback that loads a
        checkpoint of the other stage, while `fit` runs, is followed.
        """
        if getattr(self, which) is not None and not force:
            return getattr(self, which)
        held: dict[int, Any] = {}

        def function(iterator: Any) -> Any:
            stage = self.stage
            if stage not in held:
                held.clear()
                standing = getattr(self, which)
                make(force=True)
                held[stage] = getattr(self, which)
                setattr(self, which, standing)
            return held[stage](iterator)

        setattr(self, which, function)
        return function

    # ---- what is logged

    @property
    def adversarial_weight(self) -> float:
        """Weight of the student's adversarial loss in this stage."""
        if self.stage == 1 or self.preference_adversarial is None:
            return self.adversarial
        return self.preference_adversarial

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses of this stage."""
        if self.stage == 1:
            return super().loss_names
        theirs = super().loss_names if self.preference_distillation else ()
        return (*theirs, *_LOSSES)

    @property
    def _in_use(self) -> tuple[str, ...]:
        """Names of the optimizers that this stage uses."""
        if self.stage == 2 and not self.preference_distillation:
            return (_PREFERENCE,)
        return tuple(x for x in self.optimizers if self.stage == 2 or x != _PREFERENCE)

    def gradient_names(self) -> dict[str, str]:
        """Returns the names of the gradients' norms of this stage, by optimizer."""
        found = super().gradient_names()
        return {name: found[name] for name in self._in_use}

    def learning_rates(self) -> dict[str, tf.Tensor]:
        """Returns the learning rates that are in use, by the names in the logs."""
        found = super().learning_rates()
        return {f"{name}_lr": found[f"{name}_lr"] for name in self._in_use}

    # ---- pairs

    def scores(self, noisy: tf.Tensor, times: tf.Tensor, labels: Any) -> tf.Tensor:
        """Returns what the reward says of noisy images.

        Args:
            noisy: Float32 (n, H, W, C).
            times: Native times (n,).
            labels: Int32 (n,), or None.

        Returns:
            Float32 (n,).

        Raises:
            ValueError: The reward gives another shape.
        """
        if self.reward == "discriminator":
            clean = self._denoiser("student").clean(noisy, times, labels)
            logits = self.logits(clean, labels)
            return tf.reshape(tf.add_n(logits) / len(logits), (-1,))
        if self.reward == "network":
            found = self._denoiser("reward").output(noisy, times, labels)
            return tf.reshape(found, (-1,))
        found = tf.convert_to_tensor(self.reward(noisy, times, labels))
        if not found.shape.is_compatible_with(noisy.shape[:1]):
            raise ValueError(
                f"The reward gave {tuple(found.shape)} for images of "
                f"{tuple(noisy.shape)}; it is to give a score for each, "
                f"{tuple(noisy.shape[:1])}."
            )
        return tf.cast(found, tf.float32)

    def _pairs(self, share: replicas.Share) -> _Pairs:
        """Makes pairs of a batch; nothing in it is differentiable.

        Args:
            share: This replica's share of the batch.
        """
        form, count, k = self.parametrisation, self.preference_anchors, self.candidates
        student = self._denoiser("student")
        x = form.prior_scale * self.noise(normal_of(self.sample_shape), share)
        labels = self.draw_labels(share)
        noises = self.noise(normal_of((count, k, *self.sample_shape)), share)

        def which(rows: Any, seed: Any) -> tf.Tensor:
            return keras.random.randint((rows, count), 0, k, dtype="int32", seed=seed)

        chosen = self.noise(which, share)
        size = tf.shape(x)[0]
        many = None if labels is None else tf.repeat(labels, k)
        made = []
        for index in range(count):
            times = tf.fill((size,), self._times[index])
            after = tf.fill((size,), self._times[index + 1])
            clean = tf.repeat(student.clean(x, times, labels), k, axis=0)
            fresh = tf.reshape(noises[:, index], (-1, *self.sample_shape))
            z = form.corrupt(clean, fresh, tf.repeat(after, k))
            scores = self.scores(z, tf.repeat(after, k), many)
            z = tf.reshape(z, (-1, k, *self.sample_shape))
            made.append((x, times, after, z, tf.reshape(scores, (-1, k))))
            x = tf.gather(z, chosen[:, index], batch_dims=1)
        joined = (tf.concat(each, 0) for each in zip(*made, strict=True))
        x, times, after, z, scores = map(tf.stop_gradient, joined)
        # A row with a score that is not finite has no best.
        finite = tf.reduce_all(tf.math.is_finite(scores), axis=1, keepdims=True)
        ranked = tf.where(finite, scores, float("nan"))
        winner, loser = preference.best_and_worst(ranked)
        best, worst = (tf.gather(ranked, i, batch_dims=1) for i in (winner, loser))
        return _Pairs(
            noisy=x,
            times=times,
            after=after,
            labels=None if labels is None else tf.tile(labels, [count]),
            winner=tf.gather(z, winner, batch_dims=1),
            loser=tf.gather(z, loser, batch_dims=1),
            weights=preference.gate(best, worst, self.gate),
            scores=scores,
        )

    def _mean_after(self, name: str, pairs: _Pairs) -> tf.Tensor:
        """Returns the means of the candidates by a network, a times its estimates."""
        clean = self._denoiser(name).clean(pairs.noisy, pairs.times, pairs.labels)
        # Without noise, an image that is noised is that.
        return self.parametrisation.corrupt(clean, tf.zeros_like(clean), pairs.after)

    def preference_losses(
        self, pairs: _Pairs, reference: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Computes what the student minimises, and what is logged beside it.

        Args:
            pairs: What `_pairs` returned.
            reference: The means by the reference, constants (m, H, W, C).

        Returns:
            Scalars by name; `"preference_loss"` alone depends on the student.
        """
        mean = self._mean_after("student", pairs)
        _, spread = self.parametrisation.coefficients(pairs.after)
        loss, clipped = preference.preference_loss(
            *(
                preference.log_ratio(z, mean, reference, spread)
                for z in (pairs.winner, pairs.loser)
            ),
            self.beta,
            self.ratio_clip,
            pairs.weights,
        )
        return {
            "preference_loss": loss,
            "clipped": clipped,
            "reward": tf.reduce_mean(pairs.scores),
            "reward_gap": tf.reduce_mean(
                tf.reduce_max(pairs.scores, 1) - tf.reduce_min(pairs.scores, 1)
            ),
        }

    # ---- one step

    def one_step(self, data: Any) -> None:
        """Makes one step; see the class.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        if self.stage == 1:
            super().one_step(data)
            return
        first, *rest = self.minibatches(
            self.prepared(data), self.preference_ratio, "preference updates"
        )
        joint = self.preference_distillation
        share = self._distil(first) if joint else replicas.share(images_of(first))
        self._prefer(share)
        self._repeat(self._further, rest)

    def _further(self, real: Any) -> None:
        """Makes the updates of a minibatch that is not the first of a step."""
        joint = self.preference_distillation
        share = self._criticise(real) if joint else replicas.share(images_of(real))
        self._prefer(share)

    def _prefer(self, share: replicas.Share) -> None:
        """Updates the student by preferences."""
        pairs = self._pairs(share)
        reference = tf.stop_gradient(self._mean_after("reference", pairs))
        with tf.GradientTape() as tape:
            found = self.preference_losses(pairs, reference)
            loss = self.objective(found["preference_loss"], _PREFERENCE, share)
        self.apply(tape, loss, _PREFERENCE)
        self.track(found, share)

    def held_out(self, data: Any) -> None:
        """Computes and tracks all losses of the stage, of held-out images.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        if self.stage == 1 or self.preference_distillation:
            super().held_out(data)
        if self.stage == 2:
            share = replicas.share(images_of(self.prepared(data)))
            pairs = self._pairs(share)
            reference = self._mean_after("reference", pairs)
            self.track(self.preference_losses(pairs, reference), share)

    # ---- saving

    def load_own_variables(self, store: Any) -> None:
        """Loads what was saved, and goes on in the stage that it was saved in."""
        super().load_own_variables(store)
        # Keras calls a model compiled that was loaded without its teacher.
        if self.optimizers:
            self._start_means()

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments, serialised, for `.keras` files."""
        config = super().get_compile_config()
        if config:
            config |= {name: getattr(self, name) for name in _SETTINGS}
            config["preference_optimizer"] = config.pop(f"{_PREFERENCE}_optimizer")
            config["reward"] = keras.saving.serialize_keras_object(self.reward)
        return config


def _check_form(reward: keras.Model, student: keras.Model) -> None:
    """Refuses a reward that cannot be called as the student is."""
    ours, theirs = ([tuple(x.shape) for x in y.inputs] for y in (student, reward))
    outputs = [tuple(x.shape) for x in reward.outputs]
    if theirs != ours or outputs != [(None, 1)]:
        raise ValueError(
            f"The reward takes {theirs} and gives {outputs}; it is to take what the "
            f"student takes, {ours}, and to give a score for each, (None, 1)."
        )

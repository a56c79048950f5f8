"""`FlashDMD`: a diffusion model of many steps becomes a student of few.

Three networks of one form take part: the teacher, which is frozen; the student; and the
fake score, which learns what the student's images look like under noise. The student
goes where the teacher finds its images more likely than the fake score does. Beside
them a discriminator tells the student's images from real ones. The fake score has to
keep up with the student, so the two learn on two time scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from fid.files import InputError
from fid.values import Between, Count
from tf_ttur import labels as classes
from tf_ttur import losses as adversarial
from tf_ttur import refusals, replicas
from tf_ttur.distillation import losses
from tf_ttur.distillation.diffusion import (
    Denoiser,
    DiffusionPlayers,
    Sampling,
    normal_of,
    sample_shape,
)
from tf_ttur.labels import images_of, labels_of
from tf_ttur.players import DECAY, pull

__all__ = ["FlashDMD", "dmd2", "flash_dmd"]

_SHARE = Annotated[float, Between(0, 1)]
# What the settings of `compile` may be that `Players` does not have.
_SETTINGS = {
    "guidance": Annotated[float, Between(0)],
    "adversarial": Annotated[float, Between(0)],
    "critic": Annotated[float, Between(0)],
    "ratio": Count,
    "pulling": _SHARE,
}
# Indices of noise levels run from 0 to this.
_LAST = 999.0


def flash_dmd(**changes: Any) -> dict[str, Any]:
    """Returns the settings of Flash-DMD's first stage, for `FlashDMD.compile`.

    Distribution matching at high noise and a discriminator of pixels at low noise, one
    update of the fake score for each of the student, and the pull.

    Args:
        **changes: Other values.

    Example:
        >>> from tf_ttur.distillation.flash_dmd import flash_dmd
        >>> flash_dmd(ratio=2)["ratio"]
        2
    """
    return {"split": "hard", "ratio": 1, "pulling": 0.98, "loss": "hinge"} | changes


def dmd2(**changes: Any) -> dict[str, Any]:
    """Returns the settings of DMD2, for `FlashDMD.compile`.

    Both losses at all noise levels, five updates of the fake score for each of the
    student, and no pull (Yin et al. 2024). Its discriminator looks at the fake score's
    own maps: make the model without an `encoder`.

    Args:
        **changes: Other values.
    """
    settings = {"split": "none", "ratio": 5, "pulling": 1.0, "loss": "non_saturating"}
    return settings | {"adversarial": 1e-3, "critic": 1e-2} | changes


class _Drawn(NamedTuple):
    """What a student's images of one batch are made of.

    Attributes:
        noises: Standard normal (n, anchors + 1, H, W, C): for each anchor, and for the
            low-noise pass.
        labels: Int32 (n,), or None.
        index: Number of the anchor of the high-noise pass, an int32 scalar.
    """

    noises: tf.Tensor
    labels: tf.Tensor | None
    index: tf.Tensor


class _Rollout(NamedTuple):
    """What the student made, constants.

    Attributes:
        noisy: What it is called with at the drawn anchor (n, H, W, C).
        clean: Its estimate there.
        low: What it is called with at the lowest anchor for the discriminator's images;
            None where those are the estimates above.
    """

    noisy: tf.Tensor
    clean: tf.Tensor
    low: tf.Tensor | None


@keras.saving.register_keras_serializable("tf_ttur")
class FlashDMD(DiffusionPlayers):
    """Distribution-matching distillation of a diffusion model into a few-step student.

    A step is one update of the student and `ratio` updates of the fake score and of the
    discriminator, each on a real minibatch of its own (so batches are `ratio` times as
    large, as with a GAN's discriminator steps). The order in a step: the student, the
    pull, then the fake score and the discriminator, the first time on images that were
    made before the student moved. Networks run as in inference, without dropout, but
    for the fake score where it is trained.

    The student is always trained on its own noisy images (backward simulation): noise,
    its estimate, noise again, up to an anchor drawn for the batch. So its inputs in
    training are those in sampling, and never real images.

    Args:
        student: Network as `Denoiser` takes it; a copy of the teacher's, to begin with.
        fake_score: Likewise.
        discriminator: Trainable heads: maps of features, a list, -> logits (n, 1), a
            list.
        teacher: The frozen network. None where it is not at hand: such a model makes
            images and cannot be trained.
        encoder: A frozen network: images (n, H, W, C) in [-1, 1] -> a list of maps for
            the heads. None: the heads look at the fake score's map `feature_layer` of
            images with noise added, as in DMD2.
        decoder: Where images are latents (`pixels=False`), a frozen network that makes
            pixels of them, (n, h, w, c) in [-1, 1], for what is generated. Without it
            that is latents.
        parametrisation: What the three networks' output means.
        anchors: The student's steps.
        num_classes: If given, the networks are told the class of an image.
        feature_layer: Name of a layer of the fake score, where there is no encoder.
        sampling: How images are made; by default by `renoise` in `anchors` steps.
        ema_decay: If not 0, images are made by a moving average of the student.
        frozen: Further networks that a subclass only reads, by name.
        seed: Seed of everything random in training.
        **kwargs: As for `ImagePlayers`.

    Example:
        >>> import keras, numpy as np
        >>> from tf_ttur.distillation.flash_dmd import FlashDMD, flash_dmd
        >>> from tf_ttur.networks import unet
        >>> def network():
        ...     return unet.denoiser(
        ...         8, 1, width=8, multipliers=(1,), blocks=1, attention=())
        >>> images = keras.Input((8, 8, 1))
        >>> encoder = keras.Model(images, [keras.layers.Conv2D(4, 3, 2)(images)])
        >>> maps = keras.Input(encoder.outputs[0].shape[1:])
        >>> logits = keras.layers.Dense(1)(keras.layers.Flatten()(maps))
        >>> model = FlashDMD(network(), network(), keras.Model([maps], [logits]),
        ...     teacher=network(), encoder=encoder, parametrisation="flow", anchors=2)
        >>> model.compile(student_optimizer="adam", fake_score_optimizer="adam",
        ...     discriminator_optimizer="adam", jit_compile=False, **flash_dmd())
        >>> real = np.zeros((8, 8, 8, 1), "float32")
        >>> sorted(model.fit(real, batch_size=4, verbose=0).history)[:3]
        ['adv_loss', 'd_loss', 'discriminator_lr']
        >>> model.generate(2, seed=0).shape
        (2, 8, 8, 1)

    Raises:
        ValueError: The networks do not go together.
    """

    called = "FlashDMD"
    maker = "student"
    # A student makes images without its teacher.
    frozen_optional = True
    #: Settings of `compile` that only a subclass has, and has checked.
    further_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        student: keras.Model,
        fake_score: keras.Model,
        discriminator: keras.Model,
        teacher: keras.Model | None = None,
        encoder: keras.Model | None = None,
        decoder: keras.Model | None = None,
        *,
        parametrisation: Any,
        anchors: int = 4,
        num_classes: int | None = None,
        feature_layer: str | None = None,
        sampling: Sampling | None = None,
        ema_decay: float = 0.0,
        frozen: Mapping[str, keras.Model] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        found = refusals.checked(
            {"anchors": Count, "ema_decay": DECAY}, anchors=anchors, ema_decay=ema_decay
        )
        if student is fake_score:
            raise ValueError(
                "The student and the fake score are one object; make a copy of it "
                "(keras.models.clone_model and set_weights)."
            )
        if feature_layer is not None:
            known = [layer.name for layer in fake_score.layers]
            if feature_layer not in known:
                raise ValueError(
                    f"The fake score has no layer {feature_layer!r}; it has "
                    f"{', '.join(known)}."
                )
        labelled = num_classes is not None
        shape = sample_shape(student, labelled)
        for name, network in (("fake score", fake_score), ("teacher", teacher)):
            if network is None:
                continue
            if sample_shape(network, labelled) != shape:
                raise ValueError(
                    f"The student makes {shape}, the {name} is for "
                    f"{sample_shape(network, labelled)}."
                )
        if teacher is not None and (encoder is None) == (feature_layer is None):
            raise ValueError(
                "The discriminator looks at an encoder's maps or at one of the fake "
                "score's layers: give one of encoder and feature_layer (to load_model "
                'the encoder as custom_objects={"encoder": network, ...}).'
            )
        if decoder is not None:
            taken = tuple(decoder.inputs[0].shape[1:])
            if kwargs.get("pixels", True) or taken != shape:
                raise ValueError(
                    f"The decoder makes pixels of latents {taken}, and the student "
                    f"makes {'pixels' if kwargs.get('pixels', True) else 'latents'} "
                    f"{shape}: give pixels=False and a decoder of such latents, or "
                    "leave the decoder out."
                )
        read = {"teacher": teacher, "encoder": encoder, "decoder": decoder}
        read |= dict(frozen or {})
        super().__init__(
            {
                "student": student,
                "fake_score": fake_score,
                "discriminator": discriminator,
            },
            parametrisation=parametrisation,
            sampling=sampling or Sampling(sampler="renoise", steps=found["anchors"]),
            sample_shape=shape,
            num_classes=num_classes,
            frozen={k: v for k, v in read.items() if v is not None},
            averages={"student": found["ema_decay"]},
            seed=seed,
            **kwargs,
        )
        self.anchors = found["anchors"]
        self.feature_layer = feature_layer
        self.ema_decay = float(found["ema_decay"])

    @DiffusionPlayers.sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        """Sets how images are made of noise, without guidance."""
        if getattr(sampling, "guidance", 1) != 1:
            raise InputError(
                f"guidance is {sampling.guidance}; a student was never trained without "
                "labels, and is not guided. Leave it at 1."
            )
        DiffusionPlayers.sampling.fset(self, sampling)

    def compile(
        self,
        *,
        student_optimizer: Any,
        fake_score_optimizer: Any,
        discriminator_optimizer: Any,
        guidance: float = 1.0,
        split: str = "hard",
        adversarial: float = 0.1,
        critic: float = 1.0,
        ratio: int = 1,
        pulling: float = 0.98,
        renoising: tuple[float, float] = (0.02, 0.98),
        loss: Any = "hinge",
        jit_compile: bool | None = None,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        gradient_norms: bool = False,
        **others: Any,
    ) -> None:
        """Sets how the networks are trained, and builds their optimizers.

        Args:
            student_optimizer: An optimizer, or what `optimizers.get` makes one of.
            fake_score_optimizer: Likewise.
            discriminator_optimizer: Likewise.
            guidance: The scale of the teacher's guidance; 1 for none. The fake score
                is never guided.
            split: `"hard"`, `"none"` or `"soft"`; see `losses.adversarial_weight`.
            adversarial: Weight of the student's adversarial loss (lambda); 0 for no
                discriminator at all, which a hard split cannot do without.
            critic: What the discriminator's loss is multiplied by. Without an encoder
                it trains the fake score, too (DMD2: 0.01).
            ratio: Updates of the fake score and of the discriminator for one of the
                student.
            pulling: What the fake score keeps of itself when it is pulled to the
                student after each update of it; 1 for no pull (SenseFlow: 0.98).
            renoising: Between which shares of the noise scale a student's image is
                noised again to compare both scores (DMD2: 0.02 to 0.98).
            loss: The adversarial loss, a name of `tf_ttur.losses.get`.
            jit_compile: Compile the step by XLA; see `Players.compile`.
            steps_per_execution: Steps in one call of the compiled function.
            run_eagerly: Run the step line by line in Python, slowly, to debug it.
            gradient_norms: Log the squared norms of the gradients.
            **others: `further_settings` of a subclass, and no more; those that Keras
                takes are refused with what to use instead.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument is out of its range, the teacher is missing, or
                there are several replicas, on which it cannot be trained yet.
        """
        further = {x: others.pop(x) for x in self.further_settings if x in others}
        refusals.refuse_others(others, f"{type(self).__name__}.compile")
        if (count := tf.distribute.get_strategy().num_replicas_in_sync) > 1:
            # Gradients cannot be added up over replicas within a loop of TensorFlow,
            # and three optimizers' sums have met out of order without one.
            raise ValueError(
                f"FlashDMD was compiled for {count} replicas, and it trains on one "
                "device only. Make it outside of strategy.scope()."
            )
        self._check_teacher()
        settings = refusals.checked(
            _SETTINGS,
            guidance=guidance,
            adversarial=adversarial,
            critic=critic,
            ratio=ratio,
            pulling=pulling,
        )
        try:
            low, high = map(float, renoising)
        except (TypeError, ValueError):
            low = high = -1.0
        if not 0 <= low < high <= 1:
            raise ValueError(
                "renoising is two shares of the noise scale, 0 <= low < high <= 1. "
                f"Received: {renoising!r}."
            )
        if guidance != 1 and self.num_classes is None:
            raise ValueError(
                f"guidance is {guidance}; without labels there is nothing to guide by. "
                "Leave it at 1."
            )
        if split not in losses.SPLITS:
            raise ValueError(
                f"There is no split {split!r}; choose from {', '.join(losses.SPLITS)}."
            )
        if split == "hard" and not settings["adversarial"]:
            raise ValueError(
                "With a hard split only the adversarial loss trains the last step, and "
                'adversarial is 0: nothing would. Give split="none".'
            )
        if split == "hard" and self.anchors < 2:
            raise ValueError(
                "With a hard split the lowest anchor is the discriminator's and the "
                "others are for distribution matching; one anchor is not enough."
            )
        networks = self.student, self.fake_score
        ours, theirs = ([w.shape for w in x.weights] for x in networks)
        if pulling < 1 and ours != theirs:
            raise ValueError(
                "The fake score is pulled to the student, and the two have weights of "
                "other shapes: make copies of one network (keras.models.clone_model "
                "and set_weights), or set pulling=1."
            )
        made = adversarial_loss(loss)
        super().compile(
            optimizers={
                "student": student_optimizer,
                "fake_score": fake_score_optimizer,
                "discriminator": discriminator_optimizer,
            },
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            gradient_norms=gradient_norms,
            adversarial_loss=made,
            split=split,
            renoising=(float(low), float(high)),
            **settings,
            **further,
        )

    def _check_teacher(self) -> None:
        if "teacher" not in self.frozen:
            raise ValueError(
                "This model was made without its teacher, so it can make images and "
                "not be trained: give FlashDMD(..., teacher=network), or to load_model "
                'custom_objects={"teacher": network, ...}.'
            )

    def check_given(self, x: Any, method: str) -> None:
        """Refuses to train or evaluate without the teacher; see `Players`.

        Args:
            x: What a method of Keras was called with.
            method: Which method, for the message.

        Raises:
            ValueError: The teacher is missing, or as there.
        """
        self._check_teacher()
        super().check_given(x, method)

    @property
    def adversarial_weight(self) -> float:
        """Weight of the student's adversarial loss now; 0 for no discriminator."""
        return self.adversarial

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses: of matching, adversarial, fake score, discriminator."""
        both = ("adv_loss", "d_loss") if self.adversarial_weight else ()
        return ("dm_loss", "fake_loss", *both)

    # ---- images of the student

    def draw(self, share: replicas.Share) -> _Drawn:
        """Draws what the student's images of a batch are made of.

        Args:
            share: This replica's share of the batch.
        """
        shape = (self.anchors + 1, *self.sample_shape)
        noises = self.noise(normal_of(shape), share)
        labels = self.draw_labels(share)
        # The last anchor is the discriminator's alone where the split is hard.
        count = self.anchors - (self.split == "hard")

        def anchor(rows: Any, seed: Any) -> tf.Tensor:
            one = keras.random.randint((1,), 0, count, dtype="int32", seed=seed)
            return tf.repeat(one, rows)

        # One anchor for the whole batch, on all replicas.
        return _Drawn(noises, labels, self.noise(anchor, share)[0])

    def draw_labels(self, share: replicas.Share) -> tf.Tensor | None:
        """Draws labels of a batch, uniformly, int32 (n,); None without classes.

        Args:
            share: This replica's share of the batch.
        """
        if self.num_classes is None:
            return None
        return self.noise(
            lambda count, seed: classes.draw(count, self.num_classes, seed), share
        )

    def rollout(self, drawn: _Drawn) -> _Rollout:
        """Samples from the student; nothing in it is differentiable.

        Args:
            drawn: What `draw` returned.
        """
        form, times = self.parametrisation, self._times
        size = tf.shape(drawn.noises)[0]
        noises = tf.transpose(drawn.noises, (1, 0, 2, 3, 4))
        student = self._denoiser("student")
        # Where the split is not hard, nothing is needed beyond the drawn anchor.
        last = self.anchors if self.split == "hard" else drawn.index + 1

        def body(j: Any, x: Any, noisy: Any, clean: Any, estimate: Any) -> Any:
            here = tf.fill((size,), times[j])
            estimate = student.clean(x, here, drawn.labels)
            chosen = tf.equal(j, drawn.index)
            noisy, clean = tf.where(chosen, x, noisy), tf.where(chosen, estimate, clean)
            after = tf.minimum(j + 1, self.anchors - 1)
            x = form.corrupt(estimate, noises[after], tf.fill((size,), times[after]))
            return j + 1, x, noisy, clean, estimate

        start = form.prior_scale * noises[0]
        zero = tf.zeros_like(start)
        _, _, noisy, clean, estimate = tf.while_loop(
            lambda j, *_: j < last,
            body,
            (tf.constant(0), start, zero, zero, zero),
            maximum_iterations=self.anchors,
        )
        low = None
        if self.split == "hard":
            lowest = tf.fill((size,), times[self.anchors - 1])
            low = form.corrupt(estimate, noises[self.anchors], lowest)
            low = tf.stop_gradient(low)
        return _Rollout(tf.stop_gradient(noisy), tf.stop_gradient(clean), low)

    @property
    def _times(self) -> tf.Tensor:
        """The native times of the anchors, from the noisiest on."""
        return self.parametrisation.anchors(self.anchors)

    def _denoiser(self, name: str) -> Denoiser:
        network = self.frozen[name] if name in self.frozen else getattr(self, name)
        return Denoiser(network, self.parametrisation, self.num_classes)

    def estimates(self, x: tf.Tensor, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the fake score and the teacher take noisy images for.

        Args:
            x: Images of the student (n, H, W, C).
            labels: Their labels, or None.

        Returns:
            Estimates of x of both, (n, H, W, C).
        """
        share = replicas.share(x)
        low, high = self.renoising

        def level(count: Any, seed: Any) -> tf.Tensor:
            return keras.random.uniform(
                (count,), low * _LAST, high * _LAST, "float32", seed=seed
            )

        times = self.parametrisation.times(self.noise(level, share))
        noise = self.noise(normal_of(self.sample_shape), share)
        noisy = self.parametrisation.corrupt(x, noise, times)
        fake = self._denoiser("fake_score").clean(noisy, times, labels)
        guided = self._denoiser("teacher").guided(labels, self.guidance)
        return fake, guided(noisy, times)

    def logits(self, images: tf.Tensor, labels: Any) -> list[tf.Tensor]:
        """Returns what the discriminator's heads say of images, float32 (n, 1) each.

        Args:
            images: Images (n, H, W, C).
            labels: Their labels, or None.
        """
        if "encoder" in self.frozen:
            maps = self.frozen["encoder"](images, training=False)
        else:
            share = replicas.share(images)
            times = self.parametrisation.times(self.noise(_any_level, share))
            noise = self.noise(normal_of(self.sample_shape), share)
            noisy = self.parametrisation.corrupt(images, noise, times)
            given = [*self.parametrisation.inputs(noisy, times)]
            if self.num_classes is not None:
                given.append(labels)
            maps = self._features(given, training=False)
        found = self.discriminator(_listed(maps), training=self.in_training)
        return [tf.cast(each, tf.float32) for each in _listed(found)]

    @property
    def _features(self) -> keras.Model:
        layer = self.fake_score.get_layer(self.feature_layer)
        return keras.Model(self.fake_score.inputs, layer.output)

    # ---- losses

    def student_losses(
        self, drawn: _Drawn, made: _Rollout, tape: tf.GradientTape | None = None
    ) -> dict[str, tf.Tensor]:
        """Computes what the student minimises.

        Args:
            drawn: What `draw` returned.
            made: What `rollout` made of it.
            tape: The tape that records; what is constant is computed aside.

        Returns:
            Scalars by name: `"dm_loss"`, and with a discriminator `"adv_loss"`,
            weighted.
        """
        # Not by an index in brackets: XLA has to know it when it compiles, so it would
        # compile the step again for every state of the random numbers.
        t = tf.gather(self._times, drawn.index)
        times = tf.fill(tf.shape(made.noisy)[:1], t)
        student = self._denoiser("student")
        x = student.clean(made.noisy, times, drawn.labels)
        constant = tf.stop_gradient(x)
        if tape is None:
            fake, real = self.estimates(constant, drawn.labels)
        else:
            with tape.stop_recording():
                fake, real = self.estimates(constant, drawn.labels)
        found = {"dm_loss": losses.distribution_matching(x, fake, real)}
        if self.adversarial_weight:
            y = x
            if made.low is not None:
                t = self._times[self.anchors - 1]
                y = student.clean(made.low, tf.fill(tf.shape(times), t), drawn.labels)
            weight = losses.adversarial_weight(self.split, self.parametrisation, t)
            found["adv_loss"] = losses.generator_loss(
                self.logits(y, drawn.labels),
                self.adversarial_loss,
                self.adversarial_weight * weight,
            )
        return found

    def fake_loss(self, drawn: _Drawn, made: _Rollout) -> tf.Tensor:
        """Computes the fake score's loss: that of a diffusion model of student images.

        Args:
            drawn: What `draw` returned.
            made: What `rollout` made of it.

        Returns:
            The mean over the images, a scalar.
        """
        form, share = self.parametrisation, replicas.share(made.clean)
        times = form.times(self.noise(_any_level, share))
        noise = self.noise(normal_of(self.sample_shape), share)
        noisy = form.corrupt(made.clean, noise, times)
        output = self._denoiser("fake_score").output(
            noisy, times, drawn.labels, training=self.in_training
        )
        return tf.reduce_mean(form.loss(output, made.clean, noise, times))

    def discriminator_loss(
        self, real: Any, drawn: _Drawn, images: tf.Tensor
    ) -> tf.Tensor:
        """Computes the discriminator's loss, times `critic`.

        Args:
            real: Real images; with `num_classes`, `Labelled`.
            drawn: What `draw` returned.
            images: The student's images, constants (n, H, W, C).

        Returns:
            A scalar.
        """
        return self.critic * losses.discriminator_loss(
            self.logits(images_of(real), labels_of(real)),
            self.logits(images, drawn.labels),
            self.adversarial_loss,
        )

    def judged(self, drawn: _Drawn, made: _Rollout) -> tf.Tensor:
        """Returns the student's images that the discriminator sees, constants.

        Args:
            drawn: What `draw` returned.
            made: What `rollout` made of it.
        """
        if made.low is None:
            return made.clean
        t = self._times[self.anchors - 1]
        times = tf.fill(tf.shape(made.low)[:1], t)
        student = self._denoiser("student")
        return tf.stop_gradient(student.clean(made.low, times, drawn.labels))

    # ---- one step

    def one_step(self, data: Any) -> None:
        """Makes one step; see the class.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        minibatches = self.minibatches(
            self.prepared(data), self.ratio, "updates of the fake score"
        )
        self._distil(minibatches[0])
        self._repeat(self._criticise, minibatches[1:])

    def _distil(self, real: Any) -> replicas.Share:
        """Updates the student, pulls, and updates what criticises it.

        Args:
            real: A minibatch of real images.

        Returns:
            This replica's share of it.
        """
        drawn, made, judged, share = self._images_for(real)
        self._update_student(drawn, made, share)
        self._update_critics(real, drawn, made, judged, share)
        return share

    def _criticise(self, real: Any) -> replicas.Share:
        """Updates the fake score and the discriminator; as `_distil`."""
        drawn, made, judged, share = self._images_for(real)
        self._update_critics(real, drawn, made, judged, share)
        return share

    @staticmethod
    def _repeat(update: Callable[[Any], Any], minibatches: Sequence[Any]) -> None:
        """Makes an update on one minibatch after the other.

        A loop holds the update once, and a program of five copies takes five times as
        long to compile.
        """
        if not minibatches:
            return
        count = len(minibatches)
        stacked = tf.nest.map_structure(lambda *parts: tf.stack(parts), *minibatches)

        def body(index: Any) -> tuple[Any]:
            update(tf.nest.map_structure(lambda parts: parts[index], stacked))
            return (index + 1,)

        tf.while_loop(
            lambda index: index < count,
            body,
            (tf.constant(0),),
            maximum_iterations=count,
        )

    def _images_for(
        self, real: Any
    ) -> tuple[_Drawn, _Rollout, tf.Tensor | None, replicas.Share]:
        """Makes the student's images that stand beside a minibatch of real ones."""
        share = replicas.share(images_of(real))
        drawn = self.draw(share)
        made = self.rollout(drawn)
        judged = self.judged(drawn, made) if self.adversarial_weight else None
        return drawn, made, judged, share

    def _update_student(
        self, drawn: _Drawn, made: _Rollout, share: replicas.Share
    ) -> None:
        with tf.GradientTape() as tape:
            found = self.student_losses(drawn, made, tape)
            loss = self.objective(tf.add_n([*found.values()]), "student", share)
        self.apply(tape, loss, "student")
        self.track(found, share)
        if self.pulling < 1:
            pull(self.fake_score, self.student, 1.0 - self.pulling)

    def _update_critics(
        self,
        real: Any,
        drawn: _Drawn,
        made: _Rollout,
        judged: tf.Tensor | None,
        share: replicas.Share,
    ) -> None:
        shares = "encoder" not in self.frozen and self.adversarial_weight > 0
        with tf.GradientTape(persistent=shares) as tape:
            fake_loss = loss = self.fake_loss(drawn, made)
            if shares:
                d_loss = self.discriminator_loss(real, drawn, judged)
                loss = fake_loss + d_loss
                heads = self.objective(d_loss, "discriminator", share)
            loss = self.objective(loss, "fake_score", share)
        self.apply(tape, loss, "fake_score")
        self.track({"fake_loss": fake_loss}, share)
        if not self.adversarial_weight:
            return
        if not shares:
            with tf.GradientTape() as tape:
                d_loss = self.discriminator_loss(real, drawn, judged)
                heads = self.objective(d_loss, "discriminator", share)
        self.apply(tape, heads, "discriminator")
        self.track({"d_loss": d_loss}, share)

    def held_out(self, data: Any) -> None:
        """Computes and tracks all losses, of real images that are held out.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        real = self.prepared(data)
        share = replicas.share(images_of(real))
        drawn = self.draw(share)
        made = self.rollout(drawn)
        found = self.student_losses(drawn, made)
        found["fake_loss"] = self.fake_loss(drawn, made)
        if self.adversarial_weight:
            judged = self.judged(drawn, made)
            found["d_loss"] = self.discriminator_loss(real, drawn, judged)
        self.track(found, share)

    # ---- sampling and saving

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image that is generated, decoded where there is a decoder."""
        decoder = self.frozen.get("decoder")
        return super().image_shape if decoder is None else decoder.output_shape[1:]

    def call(self, latents: Any, training: bool = False) -> tf.Tensor:
        """Makes images of noise, and decodes them; see `DiffusionPlayers.call`."""
        made = super().call(latents, training)
        if "decoder" not in self.frozen:
            return made
        return tf.clip_by_value(self.frozen["decoder"](made, training=False), -1, 1)

    def denoiser(self) -> Denoiser:
        """Returns the student that makes images, or its average."""
        network = self.averaged_student or self.student
        return Denoiser(network, self.parametrisation, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialised."""
        return super().get_config() | {
            "anchors": self.anchors,
            "feature_layer": self.feature_layer,
            "ema_decay": self.ema_decay,
        }

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments, serialised, for `.keras` files."""
        config = super().get_compile_config()
        if config:
            loss = adversarial.describe(self.adversarial_loss)
            config |= {name: getattr(self, name) for name in _SETTINGS}
            config |= {
                "split": self.split,
                "renoising": list(self.renoising),
                "loss": keras.saving.serialize_keras_object(loss),
            }
        return config

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned, where the teacher is."""
        if "teacher" in self.frozen:
            super().compile_from_config(dict(config))


def adversarial_loss(loss: Any) -> Any:
    """Finds the adversarial loss, which must not compare pairs of images.

    Args:
        loss: As `tf_ttur.losses.get` takes it.

    Raises:
        InputError: It compares real images with generated ones.
    """
    made = adversarial.get(loss)
    if made.needs_real:
        raise InputError(
            f"The loss {made.name!r} compares pairs of images; the student's have no "
            "real partners. Choose another, such as 'hinge'."
        )
    return made


def _any_level(count: Any, seed: Any) -> tf.Tensor:
    """Draws indices of noise levels over the whole scale."""
    return keras.random.uniform((count,), 0.0, _LAST, "float32", seed=seed)


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]

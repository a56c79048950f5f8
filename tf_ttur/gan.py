"""`GAN`: two networks and two optimizers, trained by one `train_step`."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import keras
import tensorflow as tf

from fid.values import Between, Count
from tf_ttur import labels as classes
from tf_ttur import losses, penalties, refusals, replicas, structure
from tf_ttur.image_players import ImagePlayers
from tf_ttur.labels import Labelled
from tf_ttur.players import DECAY, learning_rate

__all__ = ["GAN"]

# What the settings of `compile` may be that `Players` does not have.
_SETTINGS = {
    "gradient_penalty": Annotated[float, Between(0)] | str,
    "discriminator_steps": Count,
    "reuse_latents": refusals.Switch,
}


def _uniform(count: Any, seed: Any) -> tf.Tensor:
    return keras.random.uniform((count,), dtype="float32", seed=seed)


@keras.saving.register_keras_serializable("tf_ttur")
class GAN(ImagePlayers):
    """A generative adversarial network trained by a two time-scale update rule.

    One step is `discriminator_steps` updates of the discriminator, each on a real
    minibatch of its own, then one update of the generator (paper, section 2; the
    released code alternates the two updates, and so does this).

    Args:
        generator: Keras model, latents (n, latent.dimension) -> images (n, H, W, C)
            in [-1, 1]. Both networks may be of any kind, with any dtype policy; they
            have one input and one output, and with `num_classes` a second input.
        discriminator: Keras model, images (n, H, W, C) -> one logit per image, (n, 1)
            or (n,), with no sigmoid applied. Without a gradient penalty it may be a map
            of logits, one per patch, (n, h, w, 1).
        latent: Distribution of the latents, such as `NormalLatent(128)`.
        seed: Seed of everything random in training: latents and the penalty's mixing.
        ema_decay: If not 0, samples come from an exponential moving average of the
            generator's weights with this decay, reached gradually: at step t it is
            min(ema_decay, (1 + t) / (10 + t)). The paper uses none.
        ema_start: The step from which the average is kept, with the whole decay at
            once; before it, samples come from the weights as they are. 0 means from the
            first one on, as above.
        image_key: Where a data set yields dicts, the key of the images in them.
        num_classes: If given, the GAN is conditional: both networks take a label of
            each image as second input, int32 (n,) in [0, num_classes).
        label_key: Where a data set yields dicts, the key of the labels in them.
        **kwargs: As for `keras.Model`.

    Example:
        >>> import numpy as np, tf_ttur
        >>> from tf_ttur.networks import dcgan
        >>> gan = tf_ttur.GAN(
        ...     dcgan.generator(32, width=4), dcgan.discriminator(32, width=4),
        ...     latent=tf_ttur.UniformLatent(100))
        >>> gan.compile(**tf_ttur.ttur(discriminator=1e-4, generator=5e-4),
        ...     loss="non_saturating", jit_compile=False)
        >>> real = np.zeros((32, 32, 32, 3), "float32")
        >>> history = gan.fit(real, batch_size=16, verbose=0)
        >>> sorted(history.history)
        ['d_loss', 'd_lr', 'g_loss', 'g_lr']
        >>> gan.generate(4, seed=0).shape
        (4, 32, 32, 3)
        >>> sorted(gan.evaluate(real, verbose=0, return_dict=True))
        ['d_loss', 'g_loss']

    `evaluate` computes both players' losses on held-out images, as `fit` logs them.
    They say whether the discriminator tells held-out images from generated ones as it
    does those it was trained on; they do not say how good the images are. For that,
    measure the Fréchet distance (`FrechetDistance`, `fid.compute`).

    A conditional GAN is trained on images and their labels:

        >>> import keras
        >>> def joined(size, units, activation=None):
        ...     values = keras.Input((size,))
        ...     labels = keras.Input((), dtype="int32")
        ...     rows = keras.layers.Embedding(10, 4)(labels)
        ...     both = keras.layers.Concatenate()([values, rows])
        ...     outputs = keras.layers.Dense(units, activation)(both)
        ...     return keras.Model([values, labels], outputs)
        >>> gan = tf_ttur.GAN(joined(2, 3, "tanh"), joined(3, 1),
        ...     latent=tf_ttur.NormalLatent(2), num_classes=10)
        >>> gan.compile(**tf_ttur.ttur(discriminator=1e-4, generator=1e-4),
        ...     loss="hinge", jit_compile=False)
        >>> history = gan.fit(np.zeros((8, 3), "float32"), np.arange(8), verbose=0)
        >>> gan.generate(4, seed=0, labels=7).shape
        (4, 3)

    Labels of generated images are drawn uniformly, each with its latents, from the same
    random state. A loss that compares real images with generated ones (`needs_real`)
    compares images of the same class: there generated image i has the label of real
    image i. The WGAN-GP penalty, taken between two images, takes the real one's label.

    Under a `tf.distribute` strategy, make the networks, the optimizers and the GAN and
    compile it inside of one `strategy.scope()`. A step then computes what one device
    would on the global batch: its noise is drawn once and shared out, and losses are
    means over all of it. Batch normalisation sees each replica's images alone.

    A subclass overrides `prepare_real`, `discriminator_loss`, `generator_loss` and
    `after_step`; "images" are whatever the generator makes, of any rank. There it
    draws noise with `noise`, asks `in_training` for the mode of batch norm and the
    like, and takes means with `global_mean` before it keeps state of them. In a
    conditional GAN `prepare_real` returns `tf_ttur.labels.Labelled`, a pair of images
    and labels, and the others are given such pairs as `real` and `fake`.

    Raises:
        ValueError: A network does not take what comes in, has several inputs or
            outputs, or an argument is out of its range.
    """

    called = "GAN"
    maker = "generator"

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latent: Any,
        seed: int = 0,
        ema_decay: float = 0.0,
        image_key: str = "image",
        num_classes: int | None = None,
        label_key: str = "label",
        ema_start: int = 0,
        **kwargs: Any,
    ):
        ema_decay = refusals.checked({"ema_decay": DECAY}, ema_decay=ema_decay)[
            "ema_decay"
        ]
        kinds = {"ema_start": Annotated[int, Between(0)]}
        ema_start = refusals.checked(kinds, ema_start=ema_start)["ema_start"]
        # Everything is built here, from the latent's dimension, so that weights can
        # be loaded, optimizers built and strategies entered before any data is seen.
        if not hasattr(latent, "dimension") or not callable(latent):
            raise ValueError(
                f"The latent is {latent!r}; give a distribution, such as "
                "tf_ttur.NormalLatent(128)."
            )
        labelled = num_classes is not None
        shape = structure.build(
            generator, (None, latent.dimension), "generator", labelled
        )
        logits_shape = structure.build(discriminator, shape, "discriminator", labelled)
        super().__init__(
            {"generator": generator, "discriminator": discriminator},
            averages={"generator": ema_decay},
            average_starts={"generator": ema_start},
            sample_shape=tuple(shape[1:]),
            image_key=image_key,
            num_classes=num_classes,
            label_key=label_key,
            seed=seed,
            **kwargs,
        )
        self.ema_decay = float(ema_decay)
        self.ema_start = ema_start
        self.latent = latent
        self._logits_shape = tuple(logits_shape)
        self._one_pass = structure.looks_at_each_image_alone(discriminator, labelled)

    # ---- configuration

    def compile(
        self,
        *,
        discriminator_optimizer: Any,
        generator_optimizer: Any,
        loss: Any,
        gradient_penalty: float | str | Any = 0.0,
        discriminator_steps: int = 1,
        reuse_latents: bool = False,
        jit_compile: bool | None = None,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        gradient_norms: bool = False,
        **others: Any,
    ) -> None:
        """Sets how the two networks are trained, and builds both optimizers.

        Args:
            discriminator_optimizer: The discriminator's (fast) optimizer; like the
                other one an optimizer, or what `optimizers.get` makes one of.
            generator_optimizer: The generator's (slow) optimizer. `ttur()` makes both.
            loss: A name from `losses.LOSSES`, `"non_saturating:S"` with label smoothing
                S, `"tfgan:NAME"`, or a loss object.
            gradient_penalty: Weight of WGAN-GP's gradient penalty (there 10), 0 for
                none; or `"r1"`, `"r2"`, `"r1+r2"`, also with a weight as in
                `"r1+r2:0.5"`; or a penalty object. See `penalties.get`.
            discriminator_steps: Discriminator updates per generator update. `fit` then
                takes batches that many times as large (`datasets.group`).
            reuse_latents: Update the generator on the latents of the last
                discriminator update, as the original DCGAN does, instead of fresh ones.
            jit_compile: Compile the step by XLA. None means yes on one device and no
                under a `tf.distribute` strategy, where CPU collectives do not compile.
            steps_per_execution: Steps in one call of the compiled function; 1 under a
                `tf.distribute.MirroredStrategy`.
            run_eagerly: Run the step line by line in Python, slowly, to debug it.
            gradient_norms: Log the squared norms of both networks' minibatch gradients
                as `d_gradient` and `g_gradient`, means over the interval.
            **others: None; those that Keras takes are refused with what to use instead.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument is out of its range, XLA was asked for where it
                cannot work, a part was made outside of the strategy's scope, or the
                discriminator does not give logits, one per image.
        """
        refusals.refuse_others(others, f"{type(self).__name__}.compile")
        given = {
            "gradient_penalty": gradient_penalty,
            "discriminator_steps": discriminator_steps,
            "reuse_latents": reuse_latents,
        }
        made = given.pop("gradient_penalty") if callable(gradient_penalty) else None
        settings = refusals.checked(_SETTINGS, **given)
        settings["reuse_latents"] = bool(settings["reuse_latents"])
        weight = settings.setdefault("gradient_penalty", made)
        if isinstance(weight, int):
            settings["gradient_penalty"] = float(weight)
        penalty = penalties.get(weight)
        one = discriminator_optimizer is generator_optimizer
        if one and isinstance(generator_optimizer, keras.Optimizer):
            raise ValueError(
                "The two networks need an optimizer each; got one for both. "
                "Make a pair with tf_ttur.ttur()."
            )
        loss = losses.get(loss)
        self._check_logits(loss, penalty)
        super().compile(
            optimizers={
                "discriminator": discriminator_optimizer,
                "generator": generator_optimizer,
            },
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            gradient_norms=gradient_norms,
            adversarial_loss=loss,
            _penalty=penalty,
            **settings,
        )

    def _check_logits(self, loss: Any, penalty: Any) -> None:
        if type(self).discriminator_loss is not GAN.discriminator_loss:
            return  # a loss of its own, of whatever the discriminator gives
        if not self._logits_shape or self._logits_shape[0] == 1:
            raise ValueError(
                "The discriminator gives one number for the whole batch, of shape "
                f"{self._logits_shape}; it must give one logit per image, (n, 1) or "
                "(n,): end it in Dense(1), and take no mean over axis 0."
            )
        shape = self._logits_shape[1:]
        patches = bool(shape) and shape[-1] in (1, None)
        if shape and not (patches and (len(shape) == 1 or not penalty)):
            raise ValueError(
                f"The discriminator gives an array of shape {shape} for an image; it "
                "must give one logit: end it in Dense(1). A map of logits (h, w, 1) "
                "works without a gradient penalty. For classes override "
                "discriminator_loss and generator_loss."
            )
        squashing = structure.squashing(self.discriminator)
        if squashing and losses.takes_logits(loss):
            raise ValueError(
                f"The discriminator ends in a {squashing}, and the loss "
                f"{loss.name!r} takes unbounded scores: leave the {squashing} out."
            )
        if losses.takes_logits(loss) and structure.seems_to_squash(
            self.discriminator, (None, *self.sample_shape)
        ):
            warnings.warn(
                "The discriminator's values lie in [0, 1] whatever its weights are; it "
                f"seems to end in a sigmoid or the like. The loss {loss.name!r} takes "
                "unbounded scores: leave the sigmoid out.",
                stacklevel=3,
            )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the scalars that `discriminator_loss` and `generator_loss` give."""
        penalty = ("gradient_penalty",) if self._penalty else ()
        return ("d_loss", "g_loss", *penalty)

    def gradient_names(self) -> dict[str, str]:
        """Returns the names of the norms of both gradients in the logs."""
        return {"discriminator": "d_gradient", "generator": "g_gradient"}

    def learning_rates(self) -> dict[str, tf.Tensor]:
        """Returns both learning rates, under the names they are logged by."""
        return {
            "d_lr": learning_rate(self.discriminator_optimizer),
            "g_lr": learning_rate(self.generator_optimizer),
        }

    # ---- one step

    def discriminator_loss(self, real: Any, fake: Any) -> dict[str, Any]:
        """Computes what the discriminator minimises.

        Args:
            real: Real images, float32 (n, H, W, C); with `num_classes`, `Labelled`.
            fake: Generated images, likewise, constants here.

        Returns:
            Scalars by name, means over the images; `"d_loss"` is minimised, the others
            are logged. A subclass that gives more of them names them in `loss_names`.
            With a gradient penalty, `"gradient_penalty"` is its weighted value, which
            `"d_loss"` includes.
        """
        if self._penalty is None:
            loss = self.adversarial_loss.discriminator(*self._both_logits(real, fake))
            return {"d_loss": loss}
        logits, penalty = self._penalty(
            self._logits,
            self._both_logits,
            real,
            fake,
            lambda: self.noise(_uniform, real),
        )
        loss = self.adversarial_loss.discriminator(*logits)
        return {"d_loss": loss + penalty, "gradient_penalty": penalty}

    def generator_loss(self, real: Any, fake: Any) -> dict[str, Any]:
        """Computes what the generator minimises.

        Args:
            real: The last real minibatch, for losses that compare with it; with
                `num_classes`, `Labelled`.
            fake: Generated images, likewise, differentiable.

        Returns:
            Scalars by name, means over the images; `"g_loss"` is minimised.
        """
        real_logits = self._logits(real) if self.adversarial_loss.needs_real else None
        return {
            "g_loss": self.adversarial_loss.generator(self._logits(fake), real_logits)
        }

    def after_step(self, real: Any, fake: Any) -> None:
        """Runs at the end of every step; for subclasses that keep further state.

        Args:
            real: The step's last real minibatch; with `num_classes`, `Labelled`.
            fake: The generated minibatch of the generator's update, likewise.
        """

    def one_step(self, data: Any) -> tuple[Any, Any]:
        """Makes one step: the discriminator's updates, then the generator's.

        Args:
            data: What the data set yields; see `prepare_real`.

        Returns:
            What `after_step` is given.
        """
        minibatches = self.minibatches(
            self.prepared(data), self.discriminator_steps, "discriminator steps"
        )
        share = replicas.share(minibatches[0])
        for real in minibatches[:-1]:
            fake = self._made(self._drawn(real, share), training=True)
            self._update_discriminator(real, fake, share)
        real = minibatches[-1]
        drawn = self._drawn(real, share)
        with tf.GradientTape() as tape:
            fake = self._made(drawn, training=True)
            with tape.stop_recording():
                self._update_discriminator(real, _constant(fake), share)
            if not self.reuse_latents:
                # A forward pass of its own, on latents the discriminator has not
                # seen, is needed. With reuse_latents the pass above is the one: it has
                # the same latents and the same generator.
                fake = self._made(self._drawn(real, share), training=True)
            logs = self.generator_loss(real, fake)
            loss = self.objective(logs["g_loss"], "generator", share)
        self.apply(tape, loss, "generator")
        self.track(logs, share)
        return real, _constant(fake)

    def _update_discriminator(
        self, real: Any, fake: Any, share: replicas.Share
    ) -> None:
        with tf.GradientTape() as tape:
            logs = self.discriminator_loss(real, fake)
            loss = self.objective(logs["d_loss"], "discriminator", share)
        self.apply(tape, loss, "discriminator")
        self.track(logs, share)

    def held_out(self, data: Any) -> None:
        """Computes and tracks both players' losses on held-out images.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        real = self.prepared(data)
        share = replicas.share(real)
        fake = self._made(self._drawn(real, share), training=False)
        logs = self.discriminator_loss(real, fake)
        if not self.reuse_latents:
            fake = self._made(self._drawn(real, share), training=False)
        self.track(logs | self.generator_loss(real, fake), share)

    def _drawn(
        self, real: Any, share: replicas.Share
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Draws latents, and labels for them, to go with a minibatch."""
        latents = self.noise(self.latent, share)
        if self.num_classes is None:
            return latents, None
        if self.adversarial_loss.needs_real:
            # What is compared is to differ by being real or not, and by no class.
            return latents, real.labels

        def draw(count: Any, seed: Any) -> tf.Tensor:
            return classes.draw(count, self.num_classes, seed)

        return latents, self.noise(draw, share)

    def _made(self, drawn: tuple[tf.Tensor, tf.Tensor | None], training: bool) -> Any:
        latents, labels = drawn
        given = latents if labels is None else [latents, labels]
        # A generator under mixed precision may make images of another type than the
        # real ones are of.
        images = tf.cast(self.generator(given, training=training), tf.float32)
        return images if labels is None else Labelled(images, labels)

    def _logits(self, batch: Any) -> tf.Tensor:
        logits = self.discriminator(classes.inputs(batch), training=self.in_training)
        return tf.cast(logits, tf.float32)

    def _both_logits(self, real: Any, fake: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if not self._one_pass:
            # Batch norm sees real and fake images as separate batches.
            return self._logits(real), self._logits(fake)
        both = tf.nest.map_structure(lambda *each: tf.concat(each, 0), real, fake)
        return tuple(tf.split(self._logits(both), 2))

    # ---- sampling

    def call(self, latents: Any, training: bool = False) -> tf.Tensor:
        """Runs the generator that samples, so that `predict(latents)` gives images.

        Args:
            latents: Float32 (n, latent.dimension); with `num_classes` a list of these
                and of labels, whole numbers (n,).
            training: Whether batch norm uses the batch's own statistics.

        Returns:
            Images, float32 (n, H, W, C) in [-1, 1].

        Raises:
            ValueError: With `num_classes`, it is no such list.
        """
        pair = isinstance(latents, list | tuple) and len(latents) == 2
        if self.num_classes is not None and not pair:
            raise ValueError(
                f"A GAN with num_classes={self.num_classes} makes images of two "
                "arrays: give [latents, labels]."
            )
        images = self._sampler(latents, training=training)
        return tf.cast(images, tf.float32)

    @property
    def _sampler(self) -> keras.Model:
        return self.averaged_generator or self.generator

    def export(
        self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any
    ) -> None:
        """Exports the generator that samples, as `keras.Model.export` does a model.

        What `tf.saved_model.load` loads then gives images by its `serve`, without Keras
        and this package. It must be kept while `serve` is used, since it holds the
        weights. The discriminator and the optimizers are not in it; to train on, use
        `save`.

        Args:
            filepath: Where to.
            format: As for `keras.Model.export`.
            **kwargs: Likewise. The default signature is latents, float32
                (n, latent.dimension); with `num_classes` a list of these and of labels,
                int32 (n,).

        Example:
            >>> import keras, tempfile, tensorflow as tf, tf_ttur
            >>> gan = tf_ttur.GAN(
            ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
            ...     keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
            ...     latent=tf_ttur.NormalLatent(2))
            >>> folder = tempfile.mkdtemp()
            >>> gan.export(folder, verbose=False)
            >>> loaded = tf.saved_model.load(folder)
            >>> loaded.serve(tf.zeros((4, 2))).shape
            TensorShape([4, 3])
        """
        given = {"input_signature": [self._signature(keras.InputSpec)]}
        _Sampler(self).export(filepath, format=format, **given | kwargs)

    def _signature(self, spec: Any) -> Any:
        """Describes what `call` takes, each part by `spec(shape=..., dtype=...)`."""
        latents = spec(shape=(None, self.latent.dimension), dtype="float32")
        if self.num_classes is None:
            return latents
        return [latents, spec(shape=(None,), dtype="int32")]

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialised."""
        return super().get_config() | {
            "ema_decay": self.ema_decay,
            "latent": keras.saving.serialize_keras_object(self.latent),
            **({"ema_start": self.ema_start} if self.ema_start else {}),
        }

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments, serialised, for `.keras` files."""
        config = super().get_compile_config()
        if config:
            loss = losses.describe(self.adversarial_loss)
            config |= {
                "loss": keras.saving.serialize_keras_object(loss),
                "gradient_penalty": keras.saving.serialize_keras_object(
                    penalties.describe(self.gradient_penalty)
                ),
                "discriminator_steps": self.discriminator_steps,
                "reuse_latents": self.reuse_latents,
            }
        return config


class _Sampler(keras.Model):
    """The part of a `GAN` that samples, which holds no weights but the generator's."""

    def __init__(self, gan: GAN):
        super().__init__(name=gan.name, dtype=gan.dtype_policy)
        self.network = gan._sampler
        self._call = gan.call
        self(gan._signature(keras.KerasTensor))

    def call(self, latents: Any) -> tf.Tensor:
        return self._call(latents, training=False)


def _constant(batch: Any) -> Any:
    return tf.nest.map_structure(tf.stop_gradient, batch)

"""`GAN`: two networks and two optimizers, trained by one `train_step`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ttur import layers, losses, replicas, xla
from tf_ttur.players import Players, learning_rate

__all__ = ["GAN"]


def _uniform(count: Any, seed: Any) -> tf.Tensor:
    return keras.random.uniform((count,), dtype="float32", seed=seed)


@keras.saving.register_keras_serializable("tf_ttur")
class GAN(Players):
    """A generative adversarial network trained by a two time-scale update rule.

    One step is `discriminator_steps` updates of the discriminator, each on a real
    minibatch of its own, then one update of the generator (paper, section 2; the
    released code alternates the two updates, and so does this).

    Args:
        generator: Keras model, latents (n, latent.dimension) -> images (n, H, W, C)
            in [-1, 1].
        discriminator: Keras model, images (n, H, W, C) -> one logit per image, float32
            (n, 1) or (n,).
        latent: Distribution of the latents, such as `NormalLatent(128)`.
        seed: Seed of everything random in training: latents and the penalty's mixing.
        ema_decay: If not 0, samples come from an exponential moving average of the
            generator's weights with this decay, reached gradually: at step t it is
            min(ema_decay, (1 + t) / (10 + t)). The paper uses none.
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

    Under a `tf.distribute` strategy, make the networks, the optimizers and the GAN and
    compile it inside of one `strategy.scope()`. A step then computes what one device
    would on the global batch: its noise is drawn once and shared out, and losses are
    means over all of it. Batch normalisation sees each replica's images alone.

    A subclass overrides `prepare_real`, `discriminator_loss`, `generator_loss` and
    `after_step`; "images" are whatever the generator makes, of any rank. There it
    draws noise with `noise`, asks `in_training` for the mode of batch norm and the
    like, and takes means with `global_mean` before it keeps state of them.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latent: Any,
        seed: int = 0,
        ema_decay: float = 0.0,
        **kwargs: Any,
    ):
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1); got {ema_decay}.")
        # Everything is built here, from the latent's dimension, so that weights can
        # be loaded, optimizers built and strategies entered before any data is seen.
        latent_shape = (None, latent.dimension)
        if not generator.built:
            generator.build(latent_shape)
        shape = generator.compute_output_shape(latent_shape)
        if not discriminator.built:
            discriminator.build(shape)
        super().__init__(
            {"generator": generator, "discriminator": discriminator},
            averages={"generator": ema_decay},
            seed=seed,
            **kwargs,
        )
        self.ema_decay = float(ema_decay)
        self.latent = latent
        self.sample_shape = tuple(shape[1:])
        self._one_pass = looks_at_each_image_alone(discriminator)
        self._generate = None

    # ---- configuration

    def compile(
        self,
        *,
        discriminator_optimizer: keras.optimizers.Optimizer,
        generator_optimizer: keras.optimizers.Optimizer,
        loss: Any,
        gradient_penalty: float = 0.0,
        discriminator_steps: int = 1,
        reuse_latents: bool = False,
        jit_compile: bool | None = None,
        steps_per_execution: int = 1,
    ) -> None:
        """Sets how the two networks are trained, and builds both optimizers.

        Args:
            discriminator_optimizer: The discriminator's (fast) optimizer.
            generator_optimizer: The generator's (slow) optimizer. `ttur()` makes both.
            loss: A name from `losses.LOSSES`, `"tfgan:NAME"`, or a loss object.
            gradient_penalty: Weight of the gradient penalty (10 in WGAN-GP), 0 for
                none.
            discriminator_steps: Discriminator updates per generator update. `fit` then
                takes batches that many times as large (`datasets.group`).
            reuse_latents: Update the generator on the latents of the last
                discriminator update, as the original DCGAN does, instead of fresh ones.
            jit_compile: Compile the step by XLA. None means yes on one device and no
                under a `tf.distribute` strategy, where CPU collectives do not compile.
            steps_per_execution: Steps in one call of the compiled function; 1 under a
                `tf.distribute.MirroredStrategy`.

        Raises:
            ValueError: An argument is out of its range, XLA was asked for where it
                cannot work, or a part was made outside of the strategy's scope.
        """
        if gradient_penalty < 0:
            raise ValueError(f"gradient_penalty must be >= 0; got {gradient_penalty}.")
        if int(discriminator_steps) != discriminator_steps or discriminator_steps < 1:
            raise ValueError(
                f"discriminator_steps must be a whole number >= 1; got "
                f"{discriminator_steps}."
            )
        if discriminator_optimizer is generator_optimizer:
            raise ValueError(
                "The two networks need an optimizer each; got one for both. "
                "Make a pair with tf_ttur.ttur()."
            )
        super().compile(
            optimizers={
                "discriminator": discriminator_optimizer,
                "generator": generator_optimizer,
            },
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            adversarial_loss=losses.get(loss),
            gradient_penalty=float(gradient_penalty),
            discriminator_steps=int(discriminator_steps),
            reuse_latents=bool(reuse_latents),
        )
        self._generate = None

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the scalars that `discriminator_loss` and `generator_loss` give."""
        penalty = ("gradient_penalty",) if self.gradient_penalty else ()
        return ("d_loss", "g_loss", *penalty)

    def learning_rates(self) -> dict[str, tf.Tensor]:
        """Returns both learning rates, under the names they are logged by."""
        return {
            "d_lr": learning_rate(self.discriminator_optimizer),
            "g_lr": learning_rate(self.generator_optimizer),
        }

    # ---- one step

    def prepare_real(self, data: Any) -> tf.Tensor:
        """Takes the images out of what the data set yields.

        Args:
            data: Images, or a tuple that starts with images.

        Returns:
            Real images, float32 (n, H, W, C) in [-1, 1].

        Raises:
            ValueError: They have another shape or dtype than the generator's images.
        """
        real = data[0] if isinstance(data, tuple | list) else data
        if not tf.is_tensor(real):
            raise ValueError(
                f"The data set yields {type(data).__name__}s whose images GAN does not "
                "find: map it to images or (images, labels), or override prepare_real."
            )
        if not real.dtype.is_floating:
            raise ValueError(
                f"Real images are {real.dtype.name}; GAN needs floats in [-1, 1]: use "
                "tf.cast(images, tf.float32) / 127.5 - 1."
            )
        if not real.shape[1:].is_compatible_with(self.sample_shape):
            raise ValueError(
                f"Real images have shape {tuple(real.shape[1:])}; the generator makes "
                f"{self.sample_shape}."
            )
        return tf.cast(real, tf.float32)

    def discriminator_loss(self, real: tf.Tensor, fake: tf.Tensor) -> dict[str, Any]:
        """Computes what the discriminator minimises.

        Args:
            real: Real images, float32 (n, H, W, C).
            fake: Generated images, likewise, constants here.

        Returns:
            Scalars by name, means over the images; `"d_loss"` is minimised, the others
            are logged. A subclass that gives more of them names them in `loss_names`.
            With a gradient penalty, `"gradient_penalty"` is its weighted value, which
            `"d_loss"` includes.
        """
        if self._one_pass:
            logits = tf.split(self._logits(tf.concat([real, fake], 0)), 2)
        else:
            # Batch norm sees real and fake images as separate batches.
            logits = self._logits(real), self._logits(fake)
        loss = self.adversarial_loss.discriminator(*logits)
        if not self.gradient_penalty:
            return {"d_loss": loss}
        penalty = self.gradient_penalty * losses.gradient_penalty(
            self._logits, real, fake, self.noise(_uniform, real)
        )
        return {"d_loss": loss + penalty, "gradient_penalty": penalty}

    def generator_loss(self, real: tf.Tensor, fake: tf.Tensor) -> dict[str, Any]:
        """Computes what the generator minimises.

        Args:
            real: The last real minibatch, for losses that compare with it.
            fake: Generated images, differentiable.

        Returns:
            Scalars by name, means over the images; `"g_loss"` is minimised.
        """
        real_logits = self._logits(real) if self.adversarial_loss.needs_real else None
        return {
            "g_loss": self.adversarial_loss.generator(self._logits(fake), real_logits)
        }

    def after_step(self, real: tf.Tensor, fake: tf.Tensor) -> None:
        """Runs at the end of every step; for subclasses that keep further state.

        Args:
            real: The step's last real minibatch.
            fake: The generated minibatch of the generator's update.
        """

    def one_step(self, data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes one step: the discriminator's updates, then the generator's.

        Args:
            data: What the data set yields; see `prepare_real`.

        Returns:
            What `after_step` is given.
        """
        minibatches = self._split(self.prepare_real(data))
        share = replicas.share(minibatches[0])
        for real in minibatches[:-1]:
            fake = self.generator(self.noise(self.latent, share), training=True)
            self._update_discriminator(real, fake, share)
        real = minibatches[-1]
        latents = self.noise(self.latent, share)
        with tf.GradientTape() as tape:
            fake = self.generator(latents, training=True)
            with tape.stop_recording():
                self._update_discriminator(real, tf.stop_gradient(fake), share)
            if not self.reuse_latents:
                # A forward pass of its own, on latents the discriminator has not
                # seen, is needed. With reuse_latents the pass above is the one: it has
                # the same latents and the same generator.
                latents = self.noise(self.latent, share)
                fake = self.generator(latents, training=True)
            logs = self.generator_loss(real, fake)
            loss = self.objective(logs["g_loss"], "generator", share)
        self.apply(tape, loss, "generator")
        self.track(logs, share)
        return real, tf.stop_gradient(fake)

    def _update_discriminator(
        self, real: tf.Tensor, fake: tf.Tensor, share: replicas.Share
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
        real = self.prepare_real(data)
        share = replicas.share(real)
        fake = self.generator(self.noise(self.latent, share), training=False)
        logs = self.discriminator_loss(real, fake)
        if not self.reuse_latents:
            fake = self.generator(self.noise(self.latent, share), training=False)
        self.track(logs | self.generator_loss(real, fake), share)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        logits = self.discriminator(images, training=self.in_training)
        return tf.cast(logits, tf.float32)

    def _split(self, real: tf.Tensor) -> list[tf.Tensor]:
        count = self.discriminator_steps
        if count == 1:
            return [real]
        size = real.shape[0]
        message = (
            f"A batch of {size or 'some'} images cannot be shared by {count} "
            f"discriminator steps; batch by a multiple of {count} and drop the "
            "remainder (tf_ttur.datasets.group)."
        )
        if size is None:
            tf.debugging.assert_equal(tf.shape(real)[0] % count, 0, message)
        elif size % count:
            raise ValueError(message)
        # Every k-th image: so the minibatches of replicas, each of which holds a
        # stretch of the global batch, make up the minibatches of one device.
        return [real[index::count] for index in range(count)]

    # ---- sampling

    def call(self, latents: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Runs the generator that samples, so that `predict(latents)` gives images.

        Args:
            latents: Float32 (n, latent.dimension).
            training: Whether batch norm uses the batch's own statistics.

        Returns:
            Images, float32 (n, H, W, C) in [-1, 1].
        """
        return (self.averaged_generator or self.generator)(latents, training=training)

    def generate(
        self, count: int, seed: int | None = None, batch_size: int = 256
    ) -> np.ndarray:
        """Generates images, without touching the state of training.

        Args:
            count: How many.
            seed: Seed of the latents; equal seeds give equal images. None draws one.
            batch_size: Images at a time; it does not change the result's latents.

        Returns:
            Float32 array (count, H, W, C) in [-1, 1].
        """
        return np.concatenate(list(self.generate_batches(count, seed, batch_size)))

    def generate_batches(
        self, count: int, seed: int | None = None, batch_size: int = 256
    ) -> Iterator[np.ndarray]:
        """As `generate`, batch by batch, for more images than fit in memory.

        Args:
            count: How many in all.
            seed: Seed of the latents. None draws one.
            batch_size: Images in each batch but the last.

        Yields:
            Float32 arrays (<= batch_size, H, W, C) in [-1, 1].

        Raises:
            ValueError: `count` is not positive.
        """
        if count < 1 or batch_size < 1:
            raise ValueError(
                f"Cannot generate {count} images, {batch_size} at a time; ask for at "
                "least one."
            )
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if self._generate is None:
            compiled = bool(self.compiled and self.jit_compile)

            def generate(latents: tf.Tensor) -> tf.Tensor:
                with xla.for_xla(compiled):
                    return self(latents, training=False)

            self._generate = tf.function(generate, jit_compile=compiled)
        latents = np.asarray(self.latent(count, seed=seed))
        batch_size = min(batch_size, count)
        for start in range(0, count, batch_size):
            # The last batch is filled up with the first latents: a smaller one would
            # compile a program of its own, and other numbers than latents would show in
            # networks that look at their whole batch.
            batch = latents.take(range(start, start + batch_size), 0, mode="wrap")
            images = np.asarray(self._generate(batch), "float32")
            yield images[: count - start]

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialised."""
        return super().get_config() | {
            "ema_decay": self.ema_decay,
            "latent": keras.saving.serialize_keras_object(self.latent),
        }

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments, serialised, for `.keras` files."""
        config = super().get_compile_config()
        if config:
            loss = losses.describe(self.adversarial_loss)
            config |= {
                "loss": keras.saving.serialize_keras_object(loss),
                "gradient_penalty": self.gradient_penalty,
                "discriminator_steps": self.discriminator_steps,
                "reuse_latents": self.reuse_latents,
            }
        return config


# Layers whose result for an image depends on no other image of the batch, nor on
# anything random.
_ALONE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.ELU,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GroupNormalization,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.Reshape,
    layers.Conv2D,
    layers.ConvMeanPool2D,
    layers.ImageNormalization,
)


def looks_at_each_image_alone(network: keras.Model) -> bool:
    """Says whether two batches in one pass give exactly what two passes give.

    Args:
        network: Any Keras model.

    Returns:
        True where all layers are known to treat images alone. Batch normalisation and
        layers and models of one's own are not known to.
    """
    if isinstance(network, keras.Model):
        # A subclass may do anything with its layers.
        stock = type(network).__module__.partition(".")[0] == "keras"
        # More than layers: a reshape, say, may mix the images of a batch.
        parts = getattr(network, "operations", network.layers)
        return stock and all(map(looks_at_each_image_alone, parts))
    return type(network) in _ALONE

"""`GAN`: two networks and two optimizers, trained by one `train_step`."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ttur import layers, losses, replicas, xla

__all__ = ["GAN"]

_log = logging.getLogger(__name__)
_SEEDS_KEY = "random_state_{}"
# Held-out losses are of the same noise always, whatever the seed of training.
_EVALUATION_SEED = 170_608_500
# Whether the step being traced is one of training; each replica has a thread.
_TRAINING = contextvars.ContextVar("training", default=True)


def _uniform(count: Any, seed: Any) -> tf.Tensor:
    return keras.random.uniform((count,), dtype="float32", seed=seed)


@keras.saving.register_keras_serializable("tf_ttur")
class GAN(keras.Model):
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
        super().__init__(**kwargs)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1); got {ema_decay}.")
        self.ema_decay = float(ema_decay)
        self.generator = generator
        self.discriminator = discriminator
        self.latent = latent
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._steps = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="steps"
        )
        self._generate = None
        self._scope = tf.distribute.get_strategy()
        # Everything is built here, from the latent's dimension, so that weights can
        # be loaded, optimizers built and strategies entered before any data is seen.
        latent_shape = (None, latent.dimension)
        if not generator.built:
            generator.build(latent_shape)
        images_shape = generator.compute_output_shape(latent_shape)
        if not discriminator.built:
            discriminator.build(images_shape)
        self.sample_shape = tuple(images_shape[1:])
        self._one_pass = looks_at_each_image_alone(discriminator)
        self.averaged_generator = None
        if self.ema_decay:
            self.averaged_generator = keras.models.clone_model(generator)
            self.averaged_generator.set_weights(generator.get_weights())
            self.averaged_generator.trainable = False
        self.built = True

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: everything is built.

        Keras takes the mean of a batch over the replicas here, which unequal parts
        have not.
        """

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
        adversarial_loss = losses.get(loss)
        self._check_scope(discriminator_optimizer, generator_optimizer)
        strategy = tf.distribute.get_strategy()
        mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
        if mirrored and strategy.num_replicas_in_sync > 1 and steps_per_execution != 1:
            # Keras 3.15 says it in fit, for any model, by a missing placeholder.
            raise ValueError(
                f"steps_per_execution is {steps_per_execution}; under MirroredStrategy "
                "Keras cannot run more than one step at a time. Leave it at 1."
            )
        super().compile(
            optimizer=None,
            jit_compile=self._choose_jit(jit_compile),
            steps_per_execution=steps_per_execution,
        )
        self.adversarial_loss = adversarial_loss
        self.gradient_penalty = float(gradient_penalty)
        self.discriminator_steps = int(discriminator_steps)
        self.reuse_latents = bool(reuse_latents)
        self.discriminator_optimizer = self._build_optimizer(
            discriminator_optimizer, self.discriminator
        )
        self.generator_optimizer = self._build_optimizer(
            generator_optimizer, self.generator
        )
        self._asked_jit_compile = jit_compile
        self._generate = None
        self._means = {name: keras.metrics.Mean(name=name) for name in self.loss_names}

    def _choose_jit(self, asked: bool | None) -> bool:
        distributed = tf.distribute.has_strategy()
        if asked and distributed and xla.on_cpu():
            raise ValueError(
                "jit_compile=True cannot work under a tf.distribute strategy on CPU: "
                "its collectives do not compile. Leave jit_compile at None."
            )
        chosen = not distributed if asked is None else bool(asked)
        if asked is None:
            _log.info(
                "jit_compile=None: XLA is %s (%s).",
                "on" if chosen else "off",
                "a tf.distribute strategy" if distributed else "one device",
            )
        return chosen

    def _check_scope(self, *optimizers: keras.optimizers.Optimizer) -> None:
        """Refuses parts whose variables a replica could not update."""
        strategy = tf.distribute.get_strategy()
        made = {
            "generator": self.generator.variables,
            "discriminator": self.discriminator.variables,
            "optimizers": [optimizer.iterations for optimizer in optimizers],
        }
        if strategy.num_replicas_in_sync == 1:
            made = {}
        outside = [
            k for k, v in made.items() if not all(map(replicas.is_distributed, v))
        ]
        if self._scope is not strategy:
            outside.append("GAN")
        if outside:
            raise ValueError(
                f"compile was called under {type(strategy).__name__}, but these were "
                f"not made there: {', '.join(outside)}. Make networks, optimizers and "
                "GAN and compile it inside of one strategy.scope()."
            )

    def _build_optimizer(
        self, optimizer: keras.optimizers.Optimizer, network: keras.Model
    ) -> keras.optimizers.Optimizer:
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if network.dtype_policy.name == "mixed_float16" and not scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, name=f"scaled_{optimizer.name}"
            )
        # Keras drops weights loaded into an unbuilt optimizer without a word.
        if not optimizer.built:
            optimizer.build(network.trainable_variables)
        return optimizer

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the scalars that `discriminator_loss` and `generator_loss` give."""
        penalty = ("gradient_penalty",) if self.gradient_penalty else ()
        return ("d_loss", "g_loss", *penalty)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means of the losses, reset by Keras at each interval."""
        return list(self._means.values()) if self.compiled else []

    @property
    def steps(self) -> int:
        """Number of steps (generator updates) taken so far."""
        return int(self._steps.numpy())

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

    @property
    def in_training(self) -> bool:
        """Whether a loss is computed to train, and not by `evaluate`."""
        return _TRAINING.get()

    def noise(self, draw: Callable[..., tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
        """Draws noise for a batch, from the random state of training.

        Args:
            draw: `draw(count, seed=...)` gives a tensor with `count` rows; a latent
                distribution is such a function.
            batch: A batch whose every row gets a row of noise. Replicas share the noise
                of the global batch as they share its rows.

        Returns:
            Noise with as many rows as the batch.
        """
        return self._noise(draw, replicas.share(batch))

    def _noise(
        self, draw: Callable[..., tf.Tensor], share: replicas.Share
    ) -> tf.Tensor:
        return share.rows(lambda count: draw(count, seed=self.seed_generator))

    def global_mean(self, values: Any, batch: tf.Tensor) -> Any:
        """Turns means over a batch into means over the global batch.

        Args:
            values: Scalars in any nested structure, means over the batch's rows.
            batch: The batch, such as the real images a hook was given.

        Returns:
            The same structure, with equal values on all replicas.
        """
        return replicas.share(batch).mean(values)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one step: the discriminator's updates, then the generator's.

        Args:
            data: What the data set yields; see `prepare_real`.

        Returns:
            Means of the losses over the interval so far, and both learning rates.
        """
        with xla.for_xla(self.jit_compile):
            return self._step(data)

    def _step(self, data: Any) -> dict[str, tf.Tensor]:
        minibatches = self._split(self.prepare_real(data))
        share = replicas.share(minibatches[0])
        for real in minibatches[:-1]:
            fake = self.generator(self._noise(self.latent, share), training=True)
            self._update_discriminator(real, fake, share)
        real = minibatches[-1]
        latents = self._noise(self.latent, share)
        with tf.GradientTape() as tape:
            fake = self.generator(latents, training=True)
            with tape.stop_recording():
                self._update_discriminator(real, tf.stop_gradient(fake), share)
            if not self.reuse_latents:
                # A forward pass of its own, on latents the discriminator has not
                # seen. With reuse_latents the pass above is the one: same latents,
                # same generator.
                latents = self._noise(self.latent, share)
                fake = self.generator(latents, training=True)
            logs = self.generator_loss(real, fake)
            loss = self._total(
                logs["g_loss"], self.generator, self.generator_optimizer, share
            )
        self._apply(tape, loss, self.generator, self.generator_optimizer)
        self._track(share.mean(logs))
        replicas.average_variables(self.generator.non_trainable_variables)
        replicas.average_variables(self.discriminator.non_trainable_variables)
        self._average_generator()
        self.after_step(real, tf.stop_gradient(fake))
        self._steps.assign_add(1)
        return self._reducible(
            {name: mean.result() for name, mean in self._means.items()}
            | {
                "d_lr": learning_rate(self.discriminator_optimizer),
                "g_lr": learning_rate(self.generator_optimizer),
            }
        )

    def _average_generator(self) -> None:
        if self.averaged_generator is None:
            return
        step = tf.cast(tf.convert_to_tensor(self._steps), tf.float32)
        rate = 1.0 - tf.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(
            self.averaged_generator.weights, self.generator.weights, strict=True
        ):
            average.assign_add(tf.cast(rate, average.dtype) * (weight - average))

    def _update_discriminator(
        self, real: tf.Tensor, fake: tf.Tensor, share: replicas.Share
    ) -> None:
        network, optimizer = self.discriminator, self.discriminator_optimizer
        with tf.GradientTape() as tape:
            logs = self.discriminator_loss(real, fake)
            loss = self._total(logs["d_loss"], network, optimizer, share)
        self._apply(tape, loss, network, optimizer)
        self._track(share.mean(logs))

    @staticmethod
    def _total(
        loss: tf.Tensor,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        share: replicas.Share,
    ) -> tf.Tensor:
        # Weight decay and the like, which layers add as losses of their own.
        loss = tf.add_n([loss, *(tf.cast(x, loss.dtype) for x in network.losses)])
        # Optimizers sum the gradients of the replicas.
        return optimizer.scale_loss(share.scale(loss))

    @staticmethod
    def _apply(
        tape: tf.GradientTape,
        loss: tf.Tensor,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
    ) -> None:
        variables = network.trainable_variables
        gradients = tape.gradient(loss, variables)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            # It skips a step for gradients that are not finite, and each replica must
            # come to the same decision.
            gradients = replicas.average(gradients)
        optimizer.apply(gradients, variables)

    def _track(self, logs: dict[str, tf.Tensor], weight: Any = None) -> None:
        for name, value in logs.items():
            if name not in self._means:
                raise KeyError(
                    f"The loss {name!r} is not among {type(self).__name__}.loss_names, "
                    f"{self.loss_names}; add it there to have it logged."
                )
            self._means[name].update_state(value, weight)

    def _reducible(self, logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Over several processes Keras takes means along axis 0.
        if replicas.multi_worker(self.distribute_strategy):
            logs = {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

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

    # ---- held-out images

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Computes both players' losses on held-out images, as `fit` logs them.

        They say whether the discriminator tells held-out images from generated ones as
        it does those it was trained on; they do not say how good the images are. For
        that, measure the Fréchet distance (`FrechetDistance`, `fid.compute`).

        Networks run as in inference: batch norm uses its moving averages. The noise is
        the same in every call, and nothing changes: no weight, optimizer, moving
        average or random state.

        Args:
            *args: As for `keras.Model.evaluate`.
            **kwargs: Likewise.

        Returns:
            `d_loss`, `g_loss` and, where there is one, `gradient_penalty`: means over
            all images; a list in this order, or a dict with `return_dict=True`.

        Example:
            >>> import keras, numpy as np, tf_ttur
            >>> gan = tf_ttur.GAN(
            ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]),
            ...     keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
            ...     latent=tf_ttur.NormalLatent(2))
            >>> gan.compile(**tf_ttur.ttur(discriminator=1e-4, generator=5e-4),
            ...     loss="minimax", jit_compile=False)
            >>> held_out = np.zeros((8, 3), "float32")
            >>> sorted(gan.evaluate(held_out, verbose=0, return_dict=True))
            ['d_loss', 'g_loss']
        """
        with self._evaluating():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Computes what `evaluate` does, on one batch.

        Args:
            *args: As for `keras.Model.test_on_batch`.
            **kwargs: Likewise.

        Returns:
            The losses, as `evaluate`.
        """
        with self._evaluating():
            return super().test_on_batch(*args, **kwargs)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Computes the losses of a batch; see `evaluate`.

        Args:
            data: What the data set yields; see `prepare_real`.

        Returns:
            Means of the losses over the images so far.
        """
        token = _TRAINING.set(False)
        try:
            with xla.for_xla(self.jit_compile):
                return self._test_step(data)
        finally:
            _TRAINING.reset(token)

    def _test_step(self, data: Any) -> dict[str, tf.Tensor]:
        real = self.prepare_real(data)
        share = replicas.share(real)
        fake = self.generator(self._noise(self.latent, share), training=False)
        logs = self.discriminator_loss(real, fake)
        if not self.reuse_latents:
            fake = self.generator(self._noise(self.latent, share), training=False)
        logs |= self.generator_loss(real, fake)
        # The last batch may be smaller and counts for as much less.
        self._track(share.mean(logs), tf.cast(share.total, tf.float32))
        return self._reducible({k: mean.result() for k, mean in self._means.items()})

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        parts = filter(
            None, (self.generator, self.discriminator, self.averaged_generator)
        )
        theirs = {id(v) for part in parts for v in part.weights}
        # Losses of a subclass may note something for `after_step`.
        own = [v for v in self.weights if id(v) not in theirs]
        before = [(state, state.numpy()) for state in own + self._random_states()]
        self.seed_generator.state.assign([_EVALUATION_SEED, 0])
        try:
            yield
        finally:
            for state, value in before:
                state.assign(value)

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
        parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "latent": self.latent,
        }
        return {
            "name": self.name,
            "seed": self.seed,
            "ema_decay": self.ema_decay,
            **{k: keras.saving.serialize_keras_object(v) for k, v in parts.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> GAN:
        """Makes the model again from `get_config`'s answer."""
        config = dict(config)
        for part in ("generator", "discriminator", "latent"):
            config[part] = keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
        return cls(**config)

    def get_build_config(self) -> None:
        """Returns nothing: the constructor builds everything."""

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments, serialised, for `.keras` files."""
        if not self.compiled:
            return {}
        return {
            "discriminator_optimizer": keras.saving.serialize_keras_object(
                self.discriminator_optimizer
            ),
            "generator_optimizer": keras.saving.serialize_keras_object(
                self.generator_optimizer
            ),
            "loss": keras.saving.serialize_keras_object(
                losses.describe(self.adversarial_loss)
            ),
            "gradient_penalty": self.gradient_penalty,
            "discriminator_steps": self.discriminator_steps,
            "reuse_latents": self.reuse_latents,
            "jit_compile": self._asked_jit_compile,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned."""
        if config:
            self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store: Any) -> None:
        """Saves the step counter and the state of every random number generator.

        Keras itself leaves the generators out, so that a resumed run would draw the
        latents of the first one again.
        """
        super().save_own_variables(store)
        for index, state in enumerate(self._random_states()):
            store[_SEEDS_KEY.format(index)] = state.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        states = self._random_states()
        keys = [_SEEDS_KEY.format(index) for index in range(len(states))]
        if missing := [key for key in keys if key not in store.keys()]:  # noqa: SIM118
            raise ValueError(
                f"The file lacks the random state ({', '.join(missing)}): it was not "
                "saved from a tf_ttur.GAN with these networks."
            )
        for key, state in zip(keys, states, strict=True):
            state.assign(store[key])
        super().load_own_variables(
            {key: store[key] for key in store.keys() if key not in keys}  # noqa: SIM118
        )

    def _random_states(self) -> list[Any]:
        # `variables` holds what `weights` holds, and metrics and random states.
        known = {id(v) for v in self.weights}
        known |= {id(v) for metric in self.metrics for v in metric.variables}
        return [
            v
            for v in self.variables
            if id(v) not in known and v.path.endswith("seed_generator_state")
        ]


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


def learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns an optimizer's current learning rate, a float32 scalar.

    Args:
        optimizer: Any Keras optimizer; of a loss-scaled one, the inner optimizer's
            rate.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return tf.cast(tf.convert_to_tensor(optimizer.learning_rate), tf.float32)

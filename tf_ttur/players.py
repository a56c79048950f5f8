"""`Players`: networks that are trained together, each by optimizers of its own.

What a step needs whatever the game is stands here: updates, loss scaling, moving
averages, noise and its random state, replicas, XLA, held-out losses, logs, saving.
`GAN` is the game of two.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from fid.extractors.extractor import weights_sha256
from fid.values import Between, Count
from tf_ttur import grappler, refusals, replicas, xla
from tf_ttur.first_look import looking_first
from tf_ttur.optimizers import get as made_optimizer

__all__ = ["DECAY", "Players", "clone", "learning_rate", "pull"]

_log = logging.getLogger(__name__)
_SEEDS_KEY = "random_state_{}"
_FROZEN_KEY = "frozen_{}"
# Held-out losses are of the same noise always, whatever the seed of training.
_EVALUATION_SEED = 170_608_500
# What the settings of `compile` may be that all games have.
_SETTINGS = {
    "jit_compile": refusals.Switch | None,
    "steps_per_execution": Count,
    "run_eagerly": refusals.Switch,
    "gradient_norms": refusals.Switch,
}
# From which step on a moving average is one.
_START = Annotated[int, Between(0)]
DECAY = Annotated[float, Between(0, below=1)]
"""What the decay of a moving average may be; 0 for no average."""
# Rows of an array that Keras takes for a batch where nothing else is said.
_BATCH_SIZE = 32
# This says whether the step being traced trains; each replica has a thread.
_TRAINING = contextvars.ContextVar("training", default=True)


class Players(keras.Model):
    """Named networks, each trained by optimizers of its own, or frozen.

    A game is a subclass. It says how a step goes in `one_step`, how held-out losses are
    computed in `held_out`, and what is logged in `loss_names`. Its constructor takes
    every network, and its `compile` every optimizer, by the name of the attribute that
    holds it; so a `.keras` file can make the game again.

    Args:
        networks: The networks that are trained, built, by name. Each becomes an
            attribute of that name and is saved under it.
        frozen: Networks that are only read, such as a teacher, built, by name. They are
            found in `frozen`. Checkpoints do not hold them; they name them by the
            SHA-256 of their weights, and are refused where another one stands.
        averages: Decays of exponential moving averages of networks' weights, by the
            network's name. The average is the attribute `averaged_NAME`, or None where
            the decay is 0. The decay is reached gradually: at step t it is
            min(decay, (1 + t) / (10 + t)).
        average_starts: Steps from which averages are kept, by the network's name, for
            those that do not begin at once. Before such a step, counted from 1, the
            average is a copy of the weights, and from it on the decay is the whole one
            (as in the code of BigGAN).
        seed: Seed of everything random in training.
        **kwargs: As for `keras.Model`.

    Attributes:
        frozen: The frozen networks by name.
        seed_generator: The source of all noise.

    Raises:
        ValueError: A network is not built, its name is taken, or a decay is not in
            [0, 1).

    Example:
        >>> import keras, numpy as np, tensorflow as tf
        >>> from tf_ttur import replicas
        >>> from tf_ttur.players import Players
        >>> class Imitation(Players):
        ...     loss_names = ("error",)
        ...     def __init__(self, student, teacher, **options):
        ...         super().__init__(
        ...             {"student": student}, frozen={"teacher": teacher}, **options)
        ...     def compile(self, *, student_optimizer, **options):
        ...         super().compile(
        ...             optimizers={"student": student_optimizer}, **options)
        ...     def error(self, x):
        ...         return tf.reduce_mean(
        ...             (self.student(x) - self.frozen["teacher"](x)) ** 2)
        ...     def one_step(self, x):
        ...         share = replicas.share(x)
        ...         with tf.GradientTape() as tape:
        ...             error = self.error(x)
        ...             loss = self.objective(error, "student", share)
        ...         self.apply(tape, loss, "student")
        ...         self.track({"error": error}, share)
        ...     def held_out(self, x):
        ...         self.track({"error": self.error(x)}, replicas.share(x))
        >>> def network():
        ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> players = Imitation(network(), network())
        >>> players.compile(student_optimizer=keras.optimizers.SGD(0.1),
        ...     jit_compile=False)
        >>> x = np.ones((8, 2), "float32")
        >>> sorted(players.fit(x, batch_size=4, verbose=0).history)
        ['error', 'student_lr']
        >>> players.steps
        2

    Under a `tf.distribute` strategy, make the networks, the optimizers and the players
    and compile them inside of one `strategy.scope()`.
    """

    #: Whether the model has a use without its frozen networks, such as to sample. Then
    #: a file of it is loaded without them where they are not given.
    frozen_optional: ClassVar[bool] = False

    def __init__(
        self,
        networks: Mapping[str, keras.Model],
        *,
        frozen: Mapping[str, keras.Model] | None = None,
        averages: Mapping[str, float] | None = None,
        average_starts: Mapping[str, int] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # Keras visits a dict among the attributes when it saves, and not this view: so
        # what is frozen stays out of files.
        self.frozen = MappingProxyType(dict(frozen or {}))
        self._check_networks(networks)
        for name, network in networks.items():
            setattr(self, name, network)
        self._names = tuple(networks)
        for network in self.frozen.values():
            network.trainable = False
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._steps = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="steps"
        )
        self._averages = MappingProxyType(dict(averages or {}))
        for name, decay in self._averages.items():
            what = f"The decay of the average of {name}"
            refusals.checked({what: DECAY}, **{what: decay})
            average = None
            if decay:
                average = clone(networks[name], f"An average of {name}")
                average.trainable = False
            setattr(self, f"averaged_{name}", average)
        starts = dict(average_starts or {})
        self._average_starts = MappingProxyType(
            refusals.checked(dict.fromkeys(starts, _START), **starts)
        )
        # The network that each optimizer trains, by the optimizer's name.
        self._trained = MappingProxyType({})
        self._means, self._norms = {}, {}
        # Paths of the weights that the compiled step trains, by their identity.
        self._traced_for = MappingProxyType({})
        self._scope = tf.distribute.get_strategy()
        # Methods, and "validation_data", whose first batch has been looked at.
        self._looked_at = frozenset()
        self.built = True

    def _check_networks(self, networks: Mapping[str, keras.Model]) -> None:
        for name, network in [*networks.items(), *self.frozen.items()]:
            if not network.built:
                raise ValueError(
                    f"The network {name!r} is not built; give it an Input, or call "
                    "build with the shape of its input."
                )
        for name, network in networks.items():
            if hasattr(type(self), name):
                raise ValueError(
                    f"A network cannot be called {name!r}: {type(self).__name__} has "
                    "an attribute of that name. Choose another."
                )
            if any(network is each for each in self.frozen.values()):
                raise ValueError(
                    f"The network {name!r} is both trained and frozen; freeze a copy "
                    "(keras.models.clone_model and set_weights)."
                )

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: everything is built.

        Keras takes the mean of a batch over the replicas here, which unequal parts
        have not.
        """

    def __dir__(self) -> list[str]:
        # Keras saves what it finds here, in the order of the alphabet, and would find
        # some networks in `layers`, under a number, before it comes to their names.
        return [name for name in super().__dir__() if name != "layers"]

    # Keras visits dicts among the attributes likewise, but not these views of them.

    @property
    def networks(self) -> Mapping[str, keras.Model]:
        """The networks that are trained, by name."""
        return MappingProxyType({name: getattr(self, name) for name in self._names})

    @property
    def optimizers(self) -> Mapping[str, keras.optimizers.Optimizer]:
        """The optimizers by name; the attribute `NAME_optimizer` holds each."""
        return MappingProxyType(
            {name: getattr(self, f"{name}_optimizer") for name in self._trained}
        )

    # ---- configuration

    def compile(
        self,
        *,
        optimizers: Mapping[str, Any],
        jit_compile: bool | None = None,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        gradient_norms: bool = False,
        **settings: Any,
    ) -> None:
        """Sets how the networks are trained, and builds their optimizers.

        Args:
            optimizers: For each network its optimizer, as `optimizers.get` takes it, or
                several by name. The one of
                "student" becomes the attribute `student_optimizer`; those of
                `{"student": {"matching": ..., "reward": ...}}` are called
                "student_matching" and "student_reward", and named likewise; one under
                the name "" is called "student".
            jit_compile: Compile the step by XLA. None, or Keras's "auto", means yes on
                one device and no under a `tf.distribute` strategy, where CPU
                collectives do not compile, or with `run_eagerly`.
            steps_per_execution: Steps in one call of the compiled function; 1 under a
                `tf.distribute.MirroredStrategy`.
            run_eagerly: Run the step line by line in Python, slowly, to debug it.
            gradient_norms: Log the squared norm of each optimizer's gradient, before
                any clipping, a mean over the interval; see `gradient_names`.
            **settings: The game's own settings. They become attributes of these names
                once everything has been checked.

        Raises:
            TypeError: A setting is one of Keras's that players do not have.
            ValueError: XLA was asked for where it cannot work, a part was made outside
                of the strategy's scope, a network has no optimizer, or two share one.
        """
        refusals.check_settings(settings, f"{type(self).__name__}.compile")
        jit_compile, steps_per_execution, run_eagerly, norms = refusals.checked(
            _SETTINGS,
            jit_compile=None if jit_compile == "auto" else jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            gradient_norms=gradient_norms,
        ).values()
        given, trained = self._named(optimizers)
        self._check_scope(given.values())
        strategy = tf.distribute.get_strategy()
        mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
        if mirrored and strategy.num_replicas_in_sync > 1 and steps_per_execution != 1:
            # Keras 3.15 says it in fit, for any model, by a missing placeholder.
            raise ValueError(
                f"steps_per_execution is {steps_per_execution}; under MirroredStrategy "
                "Keras cannot run more than one step at a time. Leave it at 1."
            )
        compiled = self._choose_jit(jit_compile, run_eagerly)
        given = {
            name: _build_optimizer(optimizer, getattr(self, trained[name]), name)
            for name, optimizer in given.items()
        }
        if not compiled:
            grappler.keep_order()
        super().compile(
            optimizer=None,
            jit_compile=compiled,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        for name, value in settings.items():
            setattr(self, name, value)
        for name, optimizer in given.items():
            setattr(self, f"{name}_optimizer", optimizer)
        self._trained = MappingProxyType(trained)
        self._asked_jit_compile = jit_compile
        self._looked_at = frozenset()
        self.gradient_norms = bool(norms)
        self._start_means()

    def _start_means(self) -> None:
        """Makes the means that are logged, by the names that the game has now."""
        self._means = {name: keras.metrics.Mean(name=name) for name in self.loss_names}
        self._norms = {
            optimizer: keras.metrics.Mean(name=name)
            for optimizer, name in self.gradient_names().items()
            if self.gradient_norms
        }

    def _named(
        self, optimizers: Mapping[str, Any]
    ) -> tuple[dict[str, keras.optimizers.Optimizer], dict[str, str]]:
        """Gives every optimizer a name, and to every name the network's."""
        if set(optimizers) != set(self._names):
            raise ValueError(
                f"Optimizers are given for {', '.join(optimizers) or 'no network'}; "
                f"those that are trained are {', '.join(self._names)}."
            )
        given, trained = {}, {}
        for network, its in optimizers.items():
            several = isinstance(its, Mapping) and "class_name" not in its
            for which, optimizer in its.items() if several else [("", its)]:
                name = f"{network}_{which}" if which else network
                optimizer = made_optimizer(optimizer, name)
                for other, known in given.items():
                    if optimizer is known:
                        raise ValueError(
                            f"The optimizers {other!r} and {name!r} are one object; "
                            "make one for each, since each has moments of its own."
                        )
                given[name], trained[name] = optimizer, network
        return given, trained

    def _choose_jit(self, asked: bool | None, eagerly: bool) -> bool:
        if eagerly:
            if asked:
                raise ValueError(
                    "run_eagerly=True compiles nothing, so jit_compile=True cannot "
                    "work; leave one of them out."
                )
            return False
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

    def _check_scope(self, optimizers: Any) -> None:
        """Refuses parts whose variables a replica could not update."""
        strategy = tf.distribute.get_strategy()
        networks = {**self.networks, **self.frozen}
        made = {name: network.variables for name, network in networks.items()}
        made["optimizers"] = [optimizer.iterations for optimizer in optimizers]
        if strategy.num_replicas_in_sync == 1:
            made = {}
        outside = [
            k for k, v in made.items() if not all(map(replicas.is_distributed, v))
        ]
        kind = type(self).__name__
        if self._scope is not strategy:
            outside.append(kind)
        if outside:
            raise ValueError(
                f"compile was called under {type(strategy).__name__}, but these were "
                f"not made there: {', '.join(outside)}. Make networks, optimizers and "
                f"{kind} and compile it inside of one strategy.scope()."
            )

    # ---- the game, which a subclass says

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the scalars that are tracked; a subclass says them."""
        raise NotImplementedError(f"{type(self).__name__} lacks loss_names.")

    def gradient_names(self) -> dict[str, str]:
        """Returns for every optimizer the name of its gradient's norm in the logs."""
        return {name: f"{name}_gradient" for name in self.optimizers}

    def one_step(self, data: Any) -> tuple[Any, ...] | None:
        """Makes all updates of one step; a subclass says how.

        Args:
            data: What the data set yields.

        Returns:
            What `after_step` is given, or None for nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks one_step.")

    def held_out(self, data: Any) -> None:
        """Computes and tracks the losses of held-out data; a subclass says how.

        Args:
            data: What the data set yields.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks held_out.")

    def after_step(self, *made: Any) -> None:
        """Runs at the end of every step; for subclasses that keep further state.

        Args:
            *made: What `one_step` returned.
        """

    # ---- what a game calls

    def objective(
        self, loss: tf.Tensor, optimizer: str, share: replicas.Share
    ) -> tf.Tensor:
        """Turns a loss into what an optimizer differentiates; inside of the tape.

        Args:
            loss: A mean over this replica's rows, a scalar.
            optimizer: The optimizer's name. Weight decay and the like, which the
                network's layers add as losses of their own, are added here.
            share: This replica's share of the batch.

        Returns:
            The scaled loss, a scalar for `apply`.
        """
        network = self.networks[self._trained[optimizer]]
        loss = tf.add_n([loss, *(tf.cast(x, loss.dtype) for x in network.losses)])
        # Optimizers sum the gradients of the replicas.
        return self.optimizers[optimizer].scale_loss(share.scale(loss))

    def apply(self, tape: tf.GradientTape, loss: tf.Tensor, optimizer: str) -> None:
        """Updates a network by one of its optimizers.

        Args:
            tape: The tape that saw the loss.
            loss: What `objective` returned.
            optimizer: The optimizer's name, as for `objective`.
        """
        variables = self.networks[self._trained[optimizer]].trainable_variables
        gradients = [
            # The gradient of a table may list a row several times; optimizers are to
            # square, and to clip, the sum.
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(loss, variables)
        ]
        norm, optimizer = self._norms.get(optimizer), self.optimizers[optimizer]
        clips = _clips(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if clips or scaled or norm is not None:
            # A loss-scaled one skips a step for gradients that are not finite, and each
            # replica must come to the same decision.
            gradients = replicas.average(gradients)
        count = tf.distribute.get_strategy().num_replicas_in_sync
        if norm is not None:
            _track_norm(norm, gradients, count, optimizer if scaled else None)
        if clips and count > 1:
            gradients = _clipped(optimizer, gradients, count)
        optimizer.apply(gradients, variables)

    def track(self, losses: Mapping[str, tf.Tensor], share: replicas.Share) -> None:
        """Adds losses to the means that are logged.

        Args:
            losses: Scalars by name, means over this replica's rows.
            share: This replica's share of the batch.

        Raises:
            KeyError: A name is not in `loss_names`.
        """
        # A held-out batch may be smaller than the others and counts for as much less.
        weight = None if self.in_training else tf.cast(share.total, tf.float32)
        for name, value in share.mean(dict(losses)).items():
            if name not in self._means:
                raise KeyError(
                    f"The loss {name!r} is not among {type(self).__name__}.loss_names, "
                    f"{self.loss_names}; add it there to have it logged."
                )
            self._means[name].update_state(value, weight)

    @property
    def in_training(self) -> bool:
        """Whether a loss is computed to train, and not by `evaluate`."""
        return _TRAINING.get()

    def noise(
        self, draw: Callable[..., tf.Tensor], batch: tf.Tensor | replicas.Share
    ) -> tf.Tensor:
        """Draws noise for a batch, from the random state of training.

        Args:
            draw: `draw(count, seed=...)` gives a tensor with `count` rows; a latent
                distribution is such a function.
            batch: A batch whose every row gets a row of noise, or this replica's share
                of it. Replicas share the noise of the global batch as they share its
                rows.

        Returns:
            Noise with as many rows as the batch.
        """
        share = batch if isinstance(batch, replicas.Share) else replicas.share(batch)
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

    # ---- one step

    @property
    def steps(self) -> int:
        """Number of steps taken so far."""
        return int(self._steps.numpy())

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means of the losses, reset by Keras at each interval."""
        if not self.compiled:
            return []
        return [*self._means.values(), *self._norms.values()]

    def learning_rates(self) -> dict[str, tf.Tensor]:
        """Returns every optimizer's learning rate, under the name it is logged by."""
        return {f"{k}_lr": learning_rate(v) for k, v in self.optimizers.items()}

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one step; see `one_step`.

        Args:
            data: What the data set yields.

        Returns:
            Means of the losses over the interval so far, and all learning rates.
        """
        with self._after(data), xla.for_xla(self.jit_compile):
            made = self.one_step(data) or ()
            for network in self.networks.values():
                replicas.average_variables(network.non_trainable_variables)
            self._move_averages()
            self.after_step(*made)
            self._steps.assign_add(1)
            norms = {mean.name: mean.result() for mean in self._norms.values()}
            return self._logs(norms | self.learning_rates())

    def _after(self, data: Any) -> contextlib.AbstractContextManager[None]:
        """Has what is traced inside wait for the data.

        Where the data end, or fail, nothing of a step may be made. Without XLA what
        needs no data, such as noise and counts, would be made all the same.
        """
        waits = () if self.jit_compile else tf.nest.flatten(data, True)
        return tf.control_dependencies([each for each in waits if tf.is_tensor(each)])

    def _move_averages(self) -> None:
        for name, decay in self._averages.items():
            if not decay:
                continue
            average, network = getattr(self, f"averaged_{name}"), getattr(self, name)
            if start := self._average_starts.get(name, 0):
                before = tf.convert_to_tensor(self._steps) + 1 < start
                for weight, other in zip(average.weights, network.weights, strict=True):
                    moved = weight + tf.cast(1.0 - decay, weight.dtype) * (
                        other - weight
                    )
                    # A pull at the rate 1 would round.
                    weight.assign(tf.where(before, other, moved))
                continue
            step = tf.cast(tf.convert_to_tensor(self._steps), tf.float32)
            rate = 1.0 - tf.minimum(decay, (1.0 + step) / (10.0 + step))
            pull(average, network, rate)

    def _logs(self, others: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logs = {name: mean.result() for name, mean in self._means.items()} | others
        # Over several processes Keras takes means along axis 0.
        if replicas.multi_worker(self.distribute_strategy):
            logs = {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs

    # ---- what Keras offers

    def check_first(self, data: Any) -> None:
        """Is given the first batch of data; a subclass may refuse it.

        In `fit` and `evaluate` it is the first one of each call, of validation in `fit`
        too; in `train_on_batch` and `test_on_batch` the first one after `compile`.
        Under a `tf.distribute` strategy the batches of data sets are not seen.

        Args:
            data: What the data set yields, of eager tensors.
        """

    def check_given(self, x: Any, method: str) -> None:
        """Is given what a method of Keras was called with; a subclass may refuse it.

        Args:
            x: Arrays, a data set or whatever else Keras takes.
            method: Which method, for the message.

        Raises:
            ValueError: There are no data.
        """
        if x is None:
            raise ValueError(
                f"{method} was given no data; give it arrays or a data set."
            )

    def check_all(self, x: Any, y: Any = None) -> Any:
        """Is given the data of `fit` and `evaluate`; a subclass may look at all of it.

        Args:
            x: What Keras takes.
            y: Likewise.

        Returns:
            What is read in the place of `x`: here it, itself.
        """
        return x

    def explain(self, error: tf.errors.OpError) -> None:
        """Is given an error in reading or learning; a subclass may raise a clearer one.

        Args:
            error: TensorFlow's.
        """

    @contextlib.contextmanager
    def _looking_first(self, which: str, given: Mapping[str, Any]) -> Iterator[None]:
        """Has a function of Keras show its first batch to `check_first`."""
        getattr(self, f"make_{which}")()
        function = getattr(self, which)
        looking = looking_first(function, self.check_first, self.steps_per_execution)

        def first(iterator: Any) -> Any:
            setattr(self, which, function)
            if isinstance(iterator, tf.distribute.DistributedIterator):
                # Its batches are in parts already; an array is there as a whole.
                size = given.get("batch_size") or _BATCH_SIZE
                self._look_at(given["x"], given.get("y"), size)
            return looking(iterator)

        setattr(self, which, first)
        try:
            yield
        except tf.errors.OpError as error:
            self.explain(error)
            raise
        finally:
            setattr(self, which, function)

    def _look_at(self, x: Any, y: Any, size: int | None = None) -> None:
        """Shows `check_first` the first rows of arrays; a data set is none."""
        parts = x if y is None else (x, y)
        rows = tf.nest.flatten(parts)
        arrays = [x for x in rows if isinstance(x, np.ndarray) or tf.is_tensor(x)]
        if len(arrays) == len(rows) and all(x.ndim for x in arrays):
            tensors = [tf.convert_to_tensor(each[:size]) for each in rows]
            self.check_first(tf.nest.pack_sequence_as(parts, tensors))

    def _look_once(self, method: str, given: Mapping[str, Any]) -> None:
        if method not in self._looked_at:
            self._look_at(given["x"], given.get("y"))
            self._looked_at |= {method}

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the networks, as `keras.Model.fit`.

        The first batch is looked at before anything learns from it, and so is the first
        one of `validation_data`. Under a `tf.distribute` strategy that is done for
        arrays only: a data set is in parts before it is read.

        At its end optimizers with `use_ema=True` set their network's weights to the
        averages they keep, as Keras does.

        Args:
            *args: As for `keras.Model.fit`. There are no `sample_weight` and
                `class_weight`, and callbacks that look for one optimizer are wrapped in
                `callbacks.ForOptimizer`.
            **kwargs: Likewise.

        Returns:
            The history of the logs, by epoch.

        Raises:
            ValueError: There are no data, their first batch is not what the networks
                can learn from, a network is not trainable, or something was given that
                players do not have.
        """
        given = refusals.arguments(keras.Model.fit, args, kwargs)
        refusals.check_weights(given, "fit")
        refusals.check_callbacks(given.get("callbacks"), self.optimizers)
        self._check_trainable()
        self.check_given(given.get("x"), "fit")
        given["x"] = self.check_all(given["x"], given.get("y"))
        held_out = given.get("validation_data")
        if isinstance(held_out, tf.data.Dataset):
            given["validation_data"] = self.check_all(held_out)
        before = self.steps
        self._looked_at -= {"validation_data"}
        with self._looking_first("train_function", given):
            history = super().fit(**given)
        if history.epoch and self.steps == before:
            raise ValueError("The data set is empty: it gave no batch to train on.")
        for name, optimizer in self.optimizers.items():
            if history.epoch:
                network = self.networks[self._trained[name]]
                optimizer.finalize_variable_values(network.trainable_variables)
        return history

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Makes one step on one batch, as `keras.Model.train_on_batch`.

        Args:
            *args: As for `keras.Model.train_on_batch`, without weights.
            **kwargs: Likewise.

        Returns:
            The logs: a list, or a dict with `return_dict=True`.
        """
        given = refusals.arguments(keras.Model.train_on_batch, args, kwargs)
        refusals.check_weights(given, "train_on_batch")
        self._check_trainable()
        self.check_given(given["x"], "train_on_batch")
        self._look_once("train_on_batch", given)
        return super().train_on_batch(**given)

    def _check_trainable(self) -> None:
        for name, network in self.networks.items():
            if network.weights and not network.trainable_variables:
                raise ValueError(
                    f"The network {name!r} has nothing to train: was its trainable set "
                    "to False? Here no network needs that while another trains; set it "
                    "to True before compile, with a new optimizer."
                )
        for name, optimizer in self.optimizers.items():
            network = self._trained[name]
            if unknown := _unknown(optimizer, self.networks[network]):
                raise ValueError(
                    f"The network {network!r} has weights to train that were not so "
                    f"when it was compiled, such as {unknown[0].path}: call compile "
                    "again, with new optimizers."
                )
        trained = {
            id(v): v.path for x in self.networks.values() for v in x.trainable_variables
        }
        # The first step is traced with the weights that are to be trained then; one
        # that is run eagerly asks each time.
        if self.train_function is None or self.run_eagerly:
            self._traced_for = MappingProxyType(trained)
        if fixed := [*(self._traced_for.keys() - trained.keys())]:
            raise ValueError(
                f"{self._traced_for[fixed[0]]} was to be trained at the first step, "
                "and is not trainable now, which would change nothing: call compile "
                "again, with new optimizers."
            )

    # ---- held-out data

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the losses of held-out data, as `fit` logs them.

        Networks run as in inference. The noise is the same in every call, and nothing
        changes: no weight, optimizer, moving average or random state.

        Args:
            *args: As for `keras.Model.evaluate`, without weights.
            **kwargs: Likewise.

        Returns:
            The losses named in `loss_names`, means over all rows: a list in this order,
            or a dict with `return_dict=True`.

        Raises:
            ValueError: There are no data, or as for `fit`.
        """
        given = refusals.arguments(keras.Model.evaluate, args, kwargs)
        refusals.check_weights(given, "evaluate")
        self.check_given(given.get("x"), "evaluate")
        given["x"] = self.check_all(given["x"], given.get("y"))
        looking = self._looking_first("test_function", given)
        # Keras's `fit` calls this after every epoch, with the same data.
        validating = bool(given.get("_use_cached_eval_dataset"))
        if validating and "validation_data" in self._looked_at:
            looking = contextlib.nullcontext()
        with self._evaluating(), looking:
            losses = self._seen(super().evaluate(**given))
        if validating:
            self._looked_at |= {"validation_data"}
        return losses

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Computes what `evaluate` does, on one batch.

        Args:
            *args: As for `keras.Model.test_on_batch`, without weights.
            **kwargs: Likewise.

        Returns:
            The losses, as `evaluate`.
        """
        given = refusals.arguments(keras.Model.test_on_batch, args, kwargs)
        refusals.check_weights(given, "test_on_batch")
        self.check_given(given["x"], "test_on_batch")
        self._look_once("test_on_batch", given)
        with self._evaluating():
            return self._seen(super().test_on_batch(**given))

    def _seen(self, losses: Any) -> Any:
        if not all(mean.count.numpy() for mean in self._means.values()):
            raise ValueError("The data set is empty: it gave nothing to evaluate.")
        return losses

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Computes the losses of a batch; see `evaluate`.

        Args:
            data: What the data set yields.

        Returns:
            Means of the losses over the rows so far.
        """
        token = _TRAINING.set(False)
        try:
            with self._after(data), xla.for_xla(self.jit_compile):
                self.held_out(data)
                return self._logs({})
        finally:
            _TRAINING.reset(token)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        averages = (getattr(self, f"averaged_{name}") for name in self._averages)
        parts = [*self.networks.values(), *filter(None, averages)]
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

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments that all games have, serialised.

        A frozen network is named by the SHA-256 of its weights.
        """
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "seed": self.seed,
            **{name: serialize(network) for name, network in self.networks.items()},
            **{name: {"frozen": sha256} for name, sha256 in self._fingerprints()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Players:
        """Makes the model again from `get_config`'s answer.

        Args:
            config: What `get_config` returned.
            custom_objects: The frozen networks by name, and what else Keras may ask
                for; as `keras.models.load_model` takes it.

        Returns:
            The model.

        Raises:
            ValueError: A frozen network is not among `custom_objects`, or is another.
        """
        made = {}
        for name, value in config.items():
            if isinstance(value, dict) and "class_name" in value:
                value = keras.saving.deserialize_keras_object(
                    value, custom_objects=custom_objects
                )
            elif isinstance(value, dict) and set(value) == {"frozen"}:
                network = keras.saving.get_registered_object(name, custom_objects)
                if network is None and cls.frozen_optional:
                    made[name] = None
                    continue
                if network is None:
                    raise ValueError(
                        f"The file does not hold the frozen network {name!r} (SHA-256 "
                        f"of its weights: {value['frozen'][:16]}...); give it to "
                        f"load_model as custom_objects={{{name!r}: network}}."
                    )
                _check_frozen(name, weights_sha256(network), value["frozen"])
                value = network
            made[name] = value
        return cls(**made)

    def get_build_config(self) -> None:
        """Returns nothing: the constructor builds everything."""

    def get_compile_config(self) -> dict[str, Any]:
        """Returns `compile`'s arguments that all games have, for `.keras` files."""
        if not self.compiled:
            return {}
        serialize = keras.saving.serialize_keras_object
        return {
            **{f"{k}_optimizer": serialize(v) for k, v in self.optimizers.items()},
            "jit_compile": self._asked_jit_compile,
            "steps_per_execution": self.steps_per_execution,
            **({"run_eagerly": True} if self.run_eagerly else {}),
            **({"gradient_norms": True} if self.gradient_norms else {}),
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles with what `get_compile_config` returned."""
        if config:
            self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store: Any) -> None:
        """Saves the step counter and the state of every random number generator.

        Keras itself leaves the generators out, so that a resumed run would draw the
        noise of the first one again. Frozen networks are named.
        """
        super().save_own_variables(store)
        for index, state in enumerate(self._random_states()):
            store[_SEEDS_KEY.format(index)] = state.numpy()
        for name, sha256 in self._fingerprints():
            digest = np.frombuffer(bytes.fromhex(sha256), "uint8")
            store[_FROZEN_KEY.format(name)] = digest

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        states = self._random_states()
        keys = [_SEEDS_KEY.format(index) for index in range(len(states))]
        if missing := [key for key in keys if key not in store.keys()]:  # noqa: SIM118
            kind = keras.saving.get_registered_name(type(self)).replace(">", ".")
            raise ValueError(
                f"The file lacks the random state ({', '.join(missing)}): it was not "
                f"saved from a {kind} with these networks."
            )
        frozen = _FROZEN_KEY.format("")
        named = [key for key in store.keys() if key.startswith(frozen)]  # noqa: SIM118
        saved = {k.removeprefix(frozen): bytes(np.array(store[k])).hex() for k in named}
        standing = dict(self._fingerprints())
        for name in {**saved, **standing}:
            if name not in standing and self.frozen_optional:
                continue
            _check_frozen(name, standing.get(name), saved.get(name))
        for key, state in zip(keys, states, strict=True):
            state.assign(store[key])
        rest = set(store.keys()) - {*keys, *named}
        super().load_own_variables({key: store[key] for key in rest})

    def _fingerprints(self) -> list[tuple[str, str]]:
        return [(name, weights_sha256(each)) for name, each in self.frozen.items()]

    def _random_states(self) -> list[Any]:
        # `variables` holds what `weights` holds, and metrics and random states.
        known = {id(v) for v in self.weights}
        known |= {id(v) for metric in self.metrics for v in metric.variables}
        return [
            v
            for v in self.variables
            if id(v) not in known and v.path.endswith("seed_generator_state")
        ]


def _check_frozen(name: str, standing: str | None, saved: str | None) -> None:
    if standing != saved:
        found, expected = (f"{x[:16]}..." if x else "none" for x in (standing, saved))
        raise ValueError(
            f"The frozen network {name!r} is another than the file was saved with "
            f"(SHA-256 of its weights: {found} here, {expected} there); use the one "
            "that was trained with."
        )


def clone(network: keras.Model, what: str) -> keras.Model:
    """Returns a copy of a network, with the same weights.

    Args:
        network: The network, built.
        what: What needs the copy, for the message.

    Raises:
        ValueError: Keras cannot copy it.
    """
    try:
        copy = keras.models.clone_model(network)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what} needs a copy of it, which Keras cannot make: "
            f"{' '.join(str(error).split())} Give {type(network).__name__} a "
            "get_config, and register it (keras.saving.register_keras_serializable)."
        ) from error
    if not copy.weights and network.weights:
        copy.build_from_config(network.get_build_config())
    copy.set_weights(network.get_weights())
    return copy


def _build_optimizer(
    optimizer: keras.optimizers.Optimizer, network: keras.Model, name: str
) -> keras.optimizers.Optimizer:
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if network.dtype_policy.name == "mixed_float16" and not scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, name=f"scaled_{optimizer.name}"
        )
    # Keras drops weights loaded into an unbuilt optimizer without a word.
    if not optimizer.built:
        optimizer.build(network.trainable_variables)
    if _unknown(optimizer, network):
        raise ValueError(
            f"The optimizer {name!r} was made for other weights than those it is to "
            "train now; make a new one."
        )
    return optimizer


def _track_norm(
    mean: keras.metrics.Mean, gradients: list[Any], count: int, scaled: Any
) -> None:
    """Adds a squared norm to its mean.

    Args:
        mean: The mean.
        gradients: Means over the replicas of what the optimizer sums.
        count: Number of replicas.
        scaled: The optimizer that scales losses; None where none does. Its gradients
            that are not finite are left out: it skips their step, too.
    """
    squares = [
        tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32) * count))
        for gradient in gradients
        if gradient is not None
    ]
    norm = tf.add_n(squares) if squares else tf.zeros(())
    if scaled is None:
        mean.update_state(norm)
        return
    norm /= tf.square(tf.cast(tf.convert_to_tensor(scaled.dynamic_scale), tf.float32))
    finite = tf.math.is_finite(norm)
    mean.update_state(tf.where(finite, norm, 0.0), tf.cast(finite, tf.float32))


def _clips(optimizer: keras.optimizers.Optimizer) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return bool(inner.clipnorm or inner.clipvalue or inner.global_clipnorm)


def _clipped(
    optimizer: keras.optimizers.Optimizer, means: list[Any], count: int
) -> list[Any]:
    """Clips the sum of the replicas' gradients, and returns a replica's share of it.

    Keras clips what each replica has before it adds, so the sum of two could be twice
    the bound. A share of what is clipped here is well below the bound, so Keras leaves
    it as it is.

    Args:
        optimizer: The optimizer, loss-scaled or not.
        means: Means of the gradients over the replicas, scaled as the loss is.
        count: The number of replicas.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner.gradient_accumulation_steps:
        raise ValueError(
            f"The optimizer {inner.name!r} accumulates gradients and clips the sum, "
            "which on several devices is in no one place; leave one of the two out."
        )
    scaled = inner is not optimizer
    unit = 1.0 / count
    if scaled:
        unit *= tf.convert_to_tensor(optimizer.dynamic_scale)
    present = [mean for mean in means if mean is not None]
    units = [tf.cast(unit, mean.dtype) for mean in present]
    sums = [mean / each for mean, each in zip(present, units, strict=True)]
    clipped = inner._clip_gradients(sums)
    shares = [x * each for x, each in zip(clipped, units, strict=True)]
    if scaled:
        # What is not finite stays so, for the step to be skipped.
        pairs = zip(shares, present, strict=True)
        shares = [tf.where(tf.math.is_finite(mean), x, mean) for x, mean in pairs]
    share = iter(shares)
    return [None if mean is None else next(share) for mean in means]


def _unknown(
    optimizer: keras.optimizers.Optimizer, network: keras.Model
) -> list[keras.Variable]:
    """Returns the weights that are to be trained and that an optimizer was not for."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    known = getattr(inner, "_trainable_variables", network.trainable_variables)
    known = {*map(id, known)}
    return [v for v in network.trainable_variables if id(v) not in known]


def learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns an optimizer's current learning rate, a float32 scalar.

    Args:
        optimizer: Any Keras optimizer; of a loss-scaled one, the inner optimizer's
            rate.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return tf.cast(tf.convert_to_tensor(optimizer.learning_rate), tf.float32)


def pull(network: keras.Model, source: keras.Model, rate: Any) -> None:
    """Moves a network's weights towards those of another of the same form.

    Each weight w becomes w + rate (source's - w): a moving average whose decay is
    1 - rate.

    Args:
        network: The network that moves.
        source: The one that it moves to.
        rate: From 0, for no move, to 1, for a copy; a number or a float scalar.

    Example:
        >>> import keras
        >>> from tf_ttur.players import pull
        >>> def network(value):
        ...     start = keras.initializers.Constant(value)
        ...     dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=start)
        ...     return keras.Sequential([keras.Input((1,)), dense])
        >>> slow, fast = network(0.0), network(4.0)
        >>> pull(slow, fast, 0.25)
        >>> slow.get_weights()[0].tolist()
        [[1.0]]
    """
    for weight, other in zip(network.weights, source.weights, strict=True):
        weight.assign_add(tf.cast(rate, weight.dtype) * (other - weight))

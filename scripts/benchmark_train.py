"""How fast `tf_ttur` trains the paper's networks beside its peers, on this machine.

  pip install -r requirements.txt
  pip install -r requirements-bench.txt
  python scripts/benchmark_train.py [--networks=dcgan32,resnet32] [--slow] [--rounds=N]

Every contestant lives in a process of its own, and our process and a peer's work in
turn (A B A B): a machine's speed drifts, so only ratios of neighbouring rounds mean
something. Printed are the medians of these ratios and, in brackets, the smallest and
the largest; then the same for processor time, which other programs on the machine
disturb less. Batches hold 64 images or lines, numbers are float32. First of all, one
step of ours and one of PyTorch's from equal weights, images, latents and mixing numbers
must give equal losses and gradients.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from absl import flags
from benchmarking import (
    Run,
    Work,
    in_turn,
    installed,
    machine,
    peak_mb,
    prepare_environment,
    product,
    ratios,
    reached,
    workers,
)

from fid.files import check_writable, write_json
from fid.program import Flags, run

BATCH = 64
FIT_STEPS = 10
PLAYERS = ("generator", "discriminator")


class Network(NamedTuple):
    """One of the paper's pairs of networks.

    Attributes:
        family: The module of `tf_ttur.networks`.
        size: Height and width of the images; of text, the number of token ids.
        width: Channels of the widest map.
        goal: How many times as fast as PyTorch our step should be.
        stock_goal: How many times as fast as stock layers under XLA.
    """

    family: str
    size: int
    width: int
    goal: float | None
    stock_goal: float | None

    @property
    def wasserstein(self) -> bool:
        """Whether it is trained by the Wasserstein loss and the gradient penalty."""
        return self.family in ("resnet", "text")

    @property
    def conditional(self) -> bool:
        """Whether its networks are always told the class of an image."""
        return self.family == "biggan"


NETWORKS = {
    "dcgan32": Network("dcgan", 32, 64, 1.3, 6.0),
    "resnet32": Network("resnet", 32, 32, 1.6, None),
    "dcgan64": Network("dcgan", 64, 64, 1.3, 6.0),
    "resnet64": Network("resnet", 64, 64, 1.6, None),
    "text64": Network("text", 104, 64, None, None),  # the embedded text's
    "text512": Network("text", 2048, 512, None, None),
    "biggan32": Network("biggan", 32, 16, 1.2, None),
}
SLOW = ("dcgan64", "resnet64", "text512")
# Families whose networks take labels of classes, and the classes of a step with labels.
CONDITIONAL, CLASSES = ("dcgan",), 10
# Rates and momenta of the paper's runs.
ADAMS = {
    "dcgan": {"discriminator": 1e-4, "generator": 5e-4, "betas": (0.5, 0.999)},
    "resnet": {"discriminator": 3e-4, "generator": 1e-4, "betas": (0.0, 0.9)},
    "text": {"discriminator": 3e-4, "generator": 1e-4, "betas": (0.5, 0.9)},
    "biggan": {"discriminator": 4e-4, "generator": 1e-4, "betas": (0.0, 0.999)},
}
# Lengths of the normal latents of these families; of DCGAN's uniform ones it is 100.
# BigGAN's at 32 pixels is of four chunks.
LATENTS = {"resnet": 128, "text": 128, "biggan": 80}


# --- Contestants, each set up in its own process ----------------------------------


def ours(
    network: Network, folder: pathlib.Path, discriminator_steps: int = 1
) -> dict[str, Work]:
    """Our networks and step in one XLA program."""
    import tensorflow as tf

    gan = _gan(network, discriminator_steps=discriminator_steps)
    real = _real(network, BATCH * discriminator_steps)
    data = tf.data.Dataset.from_tensors(real).repeat().prefetch(2)
    # As our data sets: the thread that tunes a pipeline may make its end wait for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    data = data.with_options(options)

    def fit() -> None:
        gan.fit(data, steps_per_epoch=FIT_STEPS, epochs=1, verbose=0, shuffle=False)

    return {
        "step": _step(gan, real),
        "fit": fit,
        "product": product(),
        "operations": lambda: operations(gan.generator, gan.discriminator),
        "weights": lambda: _save_weights(gan, folder / "weights.npz"),
        "peak": peak_mb,
    }


def labelled(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Our networks and step in one XLA program, with labels of the images."""
    gan = _gan(network, num_classes=CLASSES)
    return {"step": _step(gan, (_real(network), np.arange(BATCH) % CLASSES))}


def stock_layers_xla(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Our step in one XLA program, with the same networks from Keras's own layers."""
    gan = _gan(network, layers=_stock)
    return {"step": _step(gan, _real(network)), "peak": peak_mb}


def stock_layers(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """The same without XLA."""
    gan = _gan(network, layers=_stock, jit_compile=False)
    return {"step": _step(gan, _real(network)), "peak": peak_mb}


def keras_io(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Keras's own layers, and the step in the manner of the examples on keras.io.

    A forward pass for whatever is needed, wherever it is needed; no XLA, since
    `jit_compile="auto"` means none on a CPU.
    """
    import keras
    import tensorflow as tf

    gan = _gan(network, layers=_stock, jit_compile=False)

    class Model(keras.Model):
        """A GAN that overrides `train_step`."""

        def __init__(self) -> None:
            super().__init__()
            self.generator = gan.generator
            self.discriminator = gan.discriminator
            self.seed_generator = keras.random.SeedGenerator(0)
            self.d_loss_metric = keras.metrics.Mean(name="d_loss")
            self.g_loss_metric = keras.metrics.Mean(name="g_loss")

        @property
        def metrics(self) -> list[Any]:
            return [self.d_loss_metric, self.g_loss_metric]

        def latents(self, count: Any) -> tf.Tensor:
            """Draws latents."""
            return gan.latent(count, seed=self.seed_generator)

        def gradient_penalty(self, real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
            """Computes the penalty."""
            axes = list(range(1, len(real.shape)))
            mix = keras.random.uniform(
                (tf.shape(real)[0], *(1 for _ in axes)), seed=self.seed_generator
            )
            between = real + mix * (fake - real)
            with tf.GradientTape() as tape:
                tape.watch(between)
                scores = self.discriminator(between, training=True)
            gradient = tape.gradient(scores, [between])[0]
            norm = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=axes))
            return tf.reduce_mean((norm - 1.0) ** 2)

        def train_step(self, real: tf.Tensor) -> dict[str, tf.Tensor]:
            """Updates the discriminator, then the generator."""
            count = tf.shape(real)[0]
            real = gan.prepare_real(real)
            fake = self.generator(self.latents(count), training=True)
            with tf.GradientTape() as tape:
                d_loss = gan.adversarial_loss.discriminator(
                    self.discriminator(real, training=True),
                    self.discriminator(fake, training=True),
                )
                if network.wasserstein:
                    d_loss += 10.0 * self.gradient_penalty(real, fake)
            weights = self.discriminator.trainable_weights
            gradients = tape.gradient(d_loss, weights)
            gan.discriminator_optimizer.apply_gradients(
                zip(gradients, weights, strict=True)
            )
            latents = self.latents(count)
            with tf.GradientTape() as tape:
                fake = self.generator(latents, training=True)
                logits = self.discriminator(fake, training=True)
                g_loss = gan.adversarial_loss.generator(logits)
            weights = self.generator.trainable_weights
            gradients = tape.gradient(g_loss, weights)
            gan.generator_optimizer.apply_gradients(
                zip(gradients, weights, strict=True)
            )
            self.d_loss_metric.update_state(d_loss)
            self.g_loss_metric.update_state(g_loss)
            return {metric.name: metric.result() for metric in self.metrics}

    model = Model()
    model.compile(jit_compile="auto")
    return {"step": _step(model, _real(network)), "peak": peak_mb}


def pytorch(network: Network, folder: pathlib.Path, **how: bool) -> dict[str, Work]:
    """PyTorch as it comes."""
    import pytorch_gans as twins

    gan = _twin(twins, network, folder, **how)
    rates = ADAMS[network.family]

    def adam(player: str) -> Callable[..., Any]:
        return lambda parameters: twins.torch.optim.Adam(
            parameters, rates[player], rates["betas"], 1e-8, fused=True
        )

    gan.compile(adam("discriminator"), adam("generator"))
    real = _torch_real(twins, network, gan.format)
    return {
        "step": lambda: {name: float(x) for name, x in gan.step(real).items()},
        "peak": peak_mb,
    }


def pytorch_channels_last(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """The same in the memory format that may suit its convolutions better."""
    return pytorch(network, folder, channels_last=True)


def pytorch_compiled(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """The same with losses and gradients compiled by torch.compile."""
    return pytorch(network, folder, compiled=True)


def _twin(twins: Any, network: Network, folder: pathlib.Path, **how: bool) -> Any:
    with np.load(folder / "weights.npz") as weights:
        return twins.GAN(network.family, network.size, network.width, weights, **how)


def _gan(
    network: Network,
    layers: Callable[[Any], Any] | None = None,
    jit_compile: bool = True,
    discriminator_steps: int = 1,
    latent: Any = None,
    optimizers: dict[str, Any] | None = None,
    num_classes: int | None = None,
) -> Any:
    import importlib

    import tf_ttur

    networks = importlib.import_module(f"tf_ttur.networks.{network.family}")
    wasserstein, conditional = network.wasserstein, network.conditional
    if latent is None:
        latent = tf_ttur.UniformLatent(100)
        if network.family in LATENTS:
            latent = tf_ttur.NormalLatent(LATENTS[network.family])
    if conditional:
        num_classes = CLASSES
    if optimizers is None:
        rates = dict(ADAMS[network.family])
        beta_1, beta_2 = rates.pop("betas")
        optimizers = tf_ttur.ttur(**rates, beta_1=beta_1, beta_2=beta_2)
    labels = {} if num_classes is None else {"num_classes": num_classes}
    pair = [
        network_of(network.size, width=network.width, **labels)
        for network_of in (networks.generator, networks.discriminator)
    ]
    kind = networks.TextGAN if network.family == "text" else tf_ttur.GAN
    gan = kind(*map(layers, pair) if layers else pair, latent=latent, **labels)
    gan.compile(
        **optimizers,
        loss="wasserstein"
        if wasserstein
        else "hinge"
        if conditional
        else "non_saturating",
        gradient_penalty=10.0 if wasserstein else 0.0,
        discriminator_steps=discriminator_steps,
        reuse_latents=network.family == "dcgan",
        jit_compile=jit_compile,
    )
    return gan


def _step(model: Any, real: Any) -> Work:
    """Returns one step of a model on a batch, compiled as the model says."""
    import tensorflow as tf

    step = tf.function(model.train_step, jit_compile=model.jit_compile, autograph=False)
    batch = tf.nest.map_structure(tf.constant, real)
    return lambda: {name: x.numpy().item() for name, x in step(batch).items()}


def _stock(model: Any) -> Any:
    """Makes a network of ours again, from Keras's own layers alone."""
    import keras

    from tf_ttur import layers

    def clone(layer: Any) -> Any:
        config, kind = layer.get_config(), type(layer)
        if kind in (layers.BatchNormalization, layers.Conv2D, layers.Conv2DTranspose):
            return getattr(keras.layers, kind.__name__).from_config(config)
        if kind is layers.UpsampleConv2D:
            conv = keras.layers.Conv2D.from_config(config)
            return keras.Sequential([keras.layers.UpSampling2D(2), conv])
        if kind is layers.ConvMeanPool2D:
            conv = keras.layers.Conv2D.from_config(config)
            parts = [conv, keras.layers.AveragePooling2D(2)]
            # The textbook pools before a 1x1 convolution, and after another.
            return keras.Sequential(
                parts[::-1] if conv.kernel_size == (1, 1) else parts
            )
        if kind is layers.ImageNormalization:
            return keras.layers.GroupNormalization(groups=1, **config)
        if kind.__module__.startswith("tf_ttur"):
            raise TypeError(f"no stock layer is known for {kind.__name__}")
        return kind.from_config(config)

    stock = keras.models.clone_model(model, clone_function=clone)
    stock.set_weights(model.get_weights())
    return stock


def _real(network: Network, count: int = BATCH) -> Any:
    """Makes images, or token ids; with labels, if the networks take such."""
    if network.family == "text":
        drawn = np.random.default_rng(0).integers(0, network.size, (count, 32))
        return drawn.astype(np.int32)
    shape = (count, network.size, network.size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return (images, _classes(count)) if network.conditional else images


def _classes(count: int = BATCH) -> np.ndarray:
    """Makes labels, of real images and, for the check, of generated ones."""
    return (np.arange(count) % CLASSES).astype(np.int32)


def _torch_real(twins: Any, network: Network, format: Any = None) -> Any:
    """Makes the same for PyTorch, images in a memory format if one is given."""
    if network.family == "text":
        return twins.tokens(_real(network))
    images = _real(network)[0] if network.conditional else _real(network)
    images = twins.images(images)
    if format is not None:
        images = images.contiguous(memory_format=format)
    return (images, twins.tokens(_classes())) if network.conditional else images


def _save_weights(gan: Any, path: pathlib.Path) -> None:
    np.savez(path, **_named(gan, lambda variable: variable))


def _named(gan: Any, value: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    return {
        f"{player}/{layer.name}/{variable.name}": np.array(value(variable))
        for player in PLAYERS
        for layer in getattr(gan, player).layers
        # The vectors of spectral norms are not trained, and have to be the same, too.
        for variable in layer.weights
        if variable.trainable or variable.name == "vector"
    }


class Peer(NamedTuple):
    """A contestant that ours is compared with."""

    title: str
    contestant: Callable[..., dict[str, Work]]
    needs: str = "keras"


PEERS = {
    "stock_xla": Peer("stock Keras layers, XLA", stock_layers_xla),
    "stock": Peer("stock Keras layers, no XLA", stock_layers),
    "keras_io": Peer("the keras.io way", keras_io),
    "torch": Peer("PyTorch", pytorch, "torch"),
    "torch_channels_last": Peer(
        "PyTorch, channels_last", pytorch_channels_last, "torch"
    ),
    "torch_compile": Peer("PyTorch, torch.compile", pytorch_compiled, "torch"),
}


# --- The same arithmetic -----------------------------------------------------------

_RATE = 1e-3  # of the gradient descent that the check takes instead of Adam


def our_gradients(
    network: Network, folder: pathlib.Path, latents: Sequence[np.ndarray], mix: Any
) -> dict[str, Work]:
    """One step of ours: its losses, and the gradients that the optimizers got."""
    import keras
    import tensorflow as tf

    class Keep(keras.optimizers.SGD):
        """Gradient descent that keeps the gradients."""

        def build(self, variables: list[Any]) -> None:
            super().build(variables)
            self.kept = [
                self.add_variable_from_reference(variable, "kept")
                for variable in variables
            ]

        def update_step(self, gradient: Any, variable: Any, rate: Any) -> None:
            self.assign(self.kept[self._get_variable_index(variable)], gradient)
            super().update_step(gradient, variable, rate)

    class Given:
        """The latents of the check, one batch after the other."""

        dimension = latents[0].shape[1]

        def __init__(self) -> None:
            self.left = iter(latents)

        def __call__(self, count: Any, seed: Any) -> tf.Tensor:
            return tf.constant(next(self.left))

    def smooth(model: Any) -> Any:
        kinked = (keras.layers.ReLU, keras.layers.LeakyReLU)

        def clone(layer: Any) -> Any:
            if isinstance(layer, kinked):
                return keras.layers.Activation("silu", name=layer.name)
            return type(layer).from_config(layer.get_config())

        return keras.models.clone_model(model, clone_function=clone)

    def run(smoothly: bool) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        optimizers = {f"{player}_optimizer": Keep(_RATE) for player in PLAYERS}
        layers = smooth if smoothly else None
        gan = _gan(network, layers, latent=Given(), optimizers=optimizers)
        _save_weights(gan, folder / "weights.npz")
        fixed = {"uniform": tf.constant(mix), "randint": tf.constant(_classes())}
        drawn = {name: mock.Mock(return_value=value) for name, value in fixed.items()}
        with mock.patch.multiple(keras.random, **drawn):
            losses = _step(gan, _real(network))()
        kept = {
            id(variable): kept
            for player in PLAYERS
            for variable, kept in zip(
                getattr(gan, player).trainable_variables,
                optimizers[f"{player}_optimizer"].kept,
                strict=True,
            )
        }
        return losses, _named(gan, lambda variable: kept.get(id(variable), variable))

    return {"gradients": run}


def pytorch_gradients(
    network: Network, folder: pathlib.Path, latents: Sequence[np.ndarray], mix: Any
) -> dict[str, Work]:
    """The same of PyTorch's, in the layout of Keras."""
    import pytorch_gans as twins

    def silu(x: Any, *_: Any, **__: Any) -> Any:
        return twins.F.silu(x)

    def run(
        smoothly: bool, compiled: bool
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        gan = _twin(twins, network, folder, compiled=compiled)
        gan.compile(*(lambda parameters: twins.Keep(parameters, _RATE),) * 2)
        left = iter(latents)
        kinked = {"relu": silu, "leaky_relu": silu} if smoothly else {}
        with mock.patch.multiple(twins.F, **kinked) if kinked else nullcontext():
            losses = gan.step(
                _torch_real(twins, network),
                draw=lambda count: twins.torch.from_numpy(next(left)),
                mix=twins.torch.from_numpy(mix),
                draw_labels=lambda count: twins.tokens(_classes(count)),
            )
        gradients = {}
        for player in PLAYERS:
            kept = getattr(gan, f"{player}_optimizer").kept
            views = twins.keras_views(getattr(gan, player), kept.__getitem__)
            gradients |= {f"{player}/{key}": view for key, view in views.items()}
        return {name: float(loss) for name, loss in losses.items()}, gradients

    return {"gradients": run}


# --- Operations --------------------------------------------------------------------


def operations(generator: Any, discriminator: Any) -> float:
    """Counts the multiplications and additions that the textbook's step needs.

    Convolutions and dense layers only, each on the map where the textbook has it, taps
    on the padding included. A layer's input gradient and its kernel's gradient cost
    as much as the layer. What nothing depends on is not counted, such as the
    gradient of the real images.

    Args:
        generator: A generator of `tf_ttur.networks`.
        discriminator: The discriminator, which takes a gradient penalty if it
            normalises without batch statistics.

    Returns:
        Operations of a step on `BATCH` images, with one discriminator update.
    """
    import keras

    def costs(model: Any) -> dict[str, float]:
        found = {layer.name: 2.0 * BATCH * _products(layer) for layer in model.layers}
        return {name: cost for name, cost in found.items() if cost}

    g, d = costs(generator), costs(discriminator)
    # The layers that see the latents and the images, which need no gradient.
    g_first, d_first = (
        sum(cost for name, cost in found.items() if _is_first(model, name))
        for model, found in ((generator, g), (discriminator, d))
    )
    g_all, d_all = sum(g.values()), sum(d.values())
    update_generator = (d_all + d_all) + (2 * g_all - g_first)
    # Real images and generated ones: forward, kernels' gradients, inputs' gradients.
    update_discriminator = 2 * (3 * d_all - d_first)
    normalization = keras.layers.BatchNormalization
    if any(isinstance(layer, normalization) for layer in discriminator.layers):
        # One forward pass of the generator serves both updates.
        return g_all + update_discriminator + update_generator
    if any(hasattr(layer, "vector") for layer in discriminator.layers):
        return 2 * g_all + update_discriminator + update_generator
    block = max(name[:7] for name in d if name.startswith("block_"))
    ends = ("scores", f"{block}_conv_2", f"{block}_shortcut")
    last = [name for name in d if name in ends]
    linear, scores = sum(d[name] for name in last), d["scores"]
    penalty = (
        # Forward as far as the last layer that is not linear; back to the images.
        (d_all - linear)
        + d_all
        # The gradient with respect to that backward pass: through it and its kernels.
        + (d_all - scores)
        + d_all
        # And to the activations that it used: back again, and the kernels.
        + (d_all - linear - d_first)
        + (d_all - linear)
    )
    # Latents of their own for each update: two forward passes of the generator.
    return 2 * g_all + update_discriminator + penalty + update_generator


def _is_first(model: Any, name: str) -> bool:
    """Says whether a layer sees what comes into a model, or a part of it."""
    before = model.get_layer(name).input
    while before._keras_history.operation.name == "split":
        before = before._keras_history.operation.input
    return any(before is each for each in model.inputs)


def _products(layer: Any) -> int:
    """Counts the products of one image's pass through a layer, as textbooks have it."""
    import keras

    from tf_ttur import layers

    if not hasattr(layer, "kernel"):
        return 0
    kernel = layer.kernel.shape
    scattering = isinstance(layer, keras.layers.Conv2DTranspose)
    pooling = isinstance(layer, layers.ConvMeanPool2D) and max(layer.kernel_size) > 1
    # A transposed convolution multiplies at every pixel that it reads, and so does one
    # whose result is pooled.
    where = layer.input if scattering or pooling else layer.output
    return int(np.prod(where.shape[1:-1]) * np.prod(kernel))


# --- The rows of the table ---------------------------------------------------------


def rows(
    network: Network, folder: pathlib.Path, values: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """Measures one pair of networks."""
    peers = {name: PEERS[name] for name in values.peers}
    if not installed("torch"):
        yield "PyTorch", "left out: pip install -r requirements-bench.txt"
        peers = {name: peer for name, peer in peers.items() if peer.needs != "torch"}
    if network.family == "text":
        # It is of stock layers, and PyTorch has no such format for lines.
        same = ("stock_xla", "torch_channels_last")
        peers = {name: peer for name, peer in peers.items() if name not in same}
    if network.conditional:
        # Keras has a spectral norm of its own, which is another one.
        peers = {name: peer for name, peer in peers.items() if peer.needs == "torch"}
    if checked := [name for name, peer in peers.items() if peer.needs == "torch"]:
        yield from arithmetic(network, folder, "torch_compile" in checked)
    with workers((ours, network, folder)) as (us,):
        first = us.run("step")
        peak = us.run("peak").result
        us.run("weights")
        count = us.run("operations").result
        us.run("product")
        all_ours, products = [], []
        for key, (name, contestant, needs) in peers.items():
            goal = {
                "stock_xla": network.stock_goal,
                "stock": None,
                "keras_io": 3.0,
            }.get(key, network.goal)
            with workers((contestant, network, folder)) as (them,):
                try:
                    their_first = them.run("step")
                except RuntimeError as error:
                    yield name, f"does not run: {error}"
                    continue
                turns = [(us, "step"), (them, "step"), (us, "product")]
                (ours_, theirs, made), busy = in_turn(turns, values.rounds)
                products += made
                all_ours += ours_
                their_peak = them.run("peak").result
            text, found = ratios(theirs, ours_)
            goal_text = f", goal {goal}" if goal else ""
            yield (
                name,
                {
                    "text": f"ours is {text} times as fast{goal_text}; "
                    f"{_rate(ours_)} against {_rate(theirs)}, while other programs had "
                    f"{busy:.0%} of the processors; first step "
                    f"{their_first.seconds:.1f} s; peak memory {their_peak:.0f} MB, "
                    f"ours is {peak / their_peak:.2f} of it"
                    + (", goal at most 1.2" if needs == "torch" else ""),
                    "goal": goal,
                    **found,
                    "others": busy,
                    "first_step": their_first[:2],
                    "peak_mb": [their_peak, peak],
                },
            )
        if all_ours:
            yield "operations", reached(count, all_ours, products, 0.6)
        if network.family in CONDITIONAL:
            yield "labels", _labels(us, network, folder, values.rounds)
        # Of the slow ones it would take minutes and say nothing new.
        if network not in map(NETWORKS.get, SLOW):
            yield "fit", _fit(us, values.rounds)
    yield (
        "first step",
        {
            "text": f"{first.seconds:.1f} s ({first.cpu:.1f} s of processor time), "
            "compilation included, goal at most 60 s",
            "seconds": first.seconds,
            "cpu": first.cpu,
        },
    )
    yield from starts(network, folder, [int(n) for n in values.discriminator_steps])


def _rate(runs: Sequence[Run]) -> str:
    return f"{1 / np.median([run.seconds for run in runs]):.2f} steps/s"


def _fit(us: Any, rounds: int) -> dict[str, Any]:
    us.run("fit")  # compiles
    bare, fits = [], []
    for _ in range(rounds):
        bare.append(us.run("step", repeat=FIT_STEPS))
        run = us.run("fit")
        fits.append(Run(run.seconds / FIT_STEPS, run.cpu / FIT_STEPS, None))
    text, found = ratios(bare, fits)
    text = f"{text} times as fast as the bare compiled step in a loop, goal 0.95"
    return {"text": text, "goal": 0.95, **found}


def _labels(
    us: Any, network: Network, folder: pathlib.Path, rounds: int
) -> dict[str, Any]:
    with workers((labelled, network, folder)) as (them,):
        them.run("step")  # compiles
        (without, with_labels), _ = in_turn([(us, "step"), (them, "step")], rounds)
    text, found = ratios(with_labels, without)
    text = f"with labels a step takes {text} times as long, goal at most 1.02"
    return {"text": text, "goal": 1.02, **found}


def arithmetic(
    network: Network, folder: pathlib.Path, compiled: bool
) -> Iterator[tuple[str, Any]]:
    """Compares one step of ours and of PyTorch's."""
    random = np.random.default_rng(1)
    if network.family in LATENTS:
        latents = random.normal(size=(2, BATCH, LATENTS[network.family]))
    else:
        latents = random.uniform(-1, 1, (1, BATCH, 100))
    given = (list(latents.astype(np.float32)), random.random(BATCH, np.float32))
    with workers(
        (our_gradients, network, folder, *given),
        (pytorch_gradients, network, folder, *given),
    ) as (us, them):
        # As they are, the losses must be equal. For equal gradients SiLU stands for
        # ReLU: a value next to the kink may fall on its other side by rounding.
        mine = {smooth: us.run("gradients", smooth).result for smooth in (False, True)}
        relu = _differences(mine[False], them.run("gradients", False, False).result)
        losses = max(value for key, value in relu.items() if key not in PLAYERS)
        silu = _differences(mine[True], them.run("gradients", True, False).result)
        each = ", ".join(f"{key} {value:.1e}" for key, value in silu.items())
        text = f"losses differ by at most {losses:.1e}; with SiLU for ReLU, {each} "
        text += "(relative; of gradients, the layer where it is largest)"
        if max(losses, *silu.values()) > 1e-4:
            raise RuntimeError(f"PyTorch's step is another than ours: {text}")
        yield "same arithmetic", {"text": text, "relu": relu, "silu": silu}
        if not compiled:
            return
        title = "same arithmetic, torch.compile"
        try:
            theirs = them.run("gradients", True, True).result
        except RuntimeError as error:
            yield title, f"does not run: {error}"
            return
        silu = _differences(mine[True], theirs)
        each = ", ".join(f"{key} {value:.1e}" for key, value in silu.items())
        if max(silu.values()) > 1e-4:
            raise RuntimeError(f"torch.compile's step is another than ours: {each}")
        yield title, {"text": f"with SiLU for ReLU, {each}", "silu": silu}


def _differences(ours: Any, theirs: Any) -> dict[str, float]:
    """Returns relative differences of losses and of gradients, by player."""
    (our_losses, our_values), (losses, values) = ours, theirs
    found = {name: abs(loss / our_losses[name] - 1) for name, loss in losses.items()}
    # A layer's variables together: batch norm cancels the biases before it, whose
    # gradients are rounding errors.
    layers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, value in values.items():
        pair = (value.ravel(), our_values[name].ravel())
        layers.setdefault(name.rpartition("/")[0], []).append(pair)
    for player in PLAYERS:
        found[player] = max(
            float(np.linalg.norm(a - b) / np.linalg.norm(b))
            for name, pairs in layers.items()
            if name.startswith(player)
            for a, b in [map(np.concatenate, zip(*pairs, strict=True))]
        )
    return found


def starts(
    network: Network, folder: pathlib.Path, counts: Sequence[int]
) -> Iterator[tuple[str, Any]]:
    """Measures first steps: in a fresh process, and in a second one after it."""
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            # Read when TensorFlow starts.
            setting = f"--tf_xla_persistent_cache_directory={cache}"
            runs = []
            with mock.patch.dict(os.environ, TF_XLA_FLAGS=setting):
                for _ in range(2):
                    start = time.perf_counter()
                    with workers((ours, network, folder, count)) as (us,):
                        run = us.run("step")
                        runs.append([run.seconds, run.cpu, time.perf_counter() - start])
        texts = [
            f"{seconds:.1f} s ({cpu:.1f} s of processor time; {whole:.1f} s from the "
            "program's start)"
            for seconds, cpu, whole in runs
        ]
        yield (
            f"first step with {count} discriminator steps, persistent cache",
            {
                "text": f"first start {texts[0]}, second start {texts[1]}"
                + (", goals at most 60 and 20 s" if count == 1 else ""),
                "starts": runs,
            },
        )


# --- The program -------------------------------------------------------------------


def main(args: list[str], values: flags.FlagValues) -> None:
    """Measures the networks that were asked for, and prints what was found."""
    if args:
        raise flags.Error(f"there is nothing to do with {args[0]!r}")
    names = values.networks
    if names is None:
        names = [name for name in NETWORKS if values.slow or name not in SLOW]
    if unknown := [name for name in names if name not in NETWORKS]:
        raise flags.Error(
            f"--networks has no {unknown[0]!r}: choose from {', '.join(NETWORKS)}"
        )
    if unknown := [name for name in values.peers if name not in PEERS]:
        raise flags.Error(
            f"--peers has no {unknown[0]!r}: choose from {', '.join(PEERS)}"
        )
    if values.json:
        check_writable(values.json)
    prepare_environment()
    found: dict[str, Any] = {"machine": machine("tensorflow", "keras", "torch")}
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for name in names:
        network = NETWORKS[name]
        print(f"\n{name}, batch {BATCH}, float32:", flush=True)
        found[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            for title, row in rows(network, pathlib.Path(folder), values):
                text = row if isinstance(row, str) else row.pop("text")
                print(f"  {title}: {text}", flush=True)
                found[name][title] = row
    if values.json:
        write_json(values.json, found)


def define(flag: Flags) -> None:
    """Defines the flags."""
    flag.texts(
        "networks",
        None,
        f"Which of {', '.join(NETWORKS)}; by default those of 32x32 images and the "
        "small one of text.",
    )
    flag.switch("slow", "By default, those of 64x64 and the paper's of text, too.")
    flag.texts("peers", list(PEERS), "Whom to compare with.")
    flag.number("rounds", 5, "Rounds of each row.", least=1)
    flag.texts(
        "discriminator_steps",
        ["1"],
        "Discriminator steps in a step whose compilation is timed, such as 1,5,10.",
    )
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))

"""How fast a U-Net of `tf_ttur.networks.unet` trains beside PyTorch, on this machine.

  pip install -r requirements.txt
  pip install -r requirements-bench.txt
  python scripts/benchmark_diffusion.py [--networks=ddpmpp16,ddpmpp32] [--rounds=N]
  python scripts/benchmark_diffusion.py --step=distillation
  python scripts/benchmark_diffusion.py --step=sampling

A step of diffusion is a mean squared error, its gradient and Adam. A step of
distillation is one of `tf_ttur.distillation.flash_dmd`: an update of the student, one
of the fake score and one of the discriminator, whose frozen encoder is not trained.

Contestants live in processes of their own and work in turn, as in `benchmark_train.py`:
printed are the medians of the ratios of neighbouring rounds, with the smallest and the
largest, in wall and in processor time. First of all, the losses and the gradients of
one step from equal weights must be equal. Memory is what the process takes during a
step, beyond what it took before there were networks.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from benchmarking import (
    Memory,
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

GOAL, SHARE, MEMORY, SAMPLING = 1.2, 0.6, 1.5, 0.9
RATE, BETAS, EPSILON = 1e-4, (0.9, 0.999), 1e-8


class Network(NamedTuple):
    """A U-Net, by its settings, and the images of a step."""

    settings: dict[str, Any]
    batch: int


SMALL = {"width": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (8,)}
NETWORKS = {
    "ddpmpp16": Network({"image_size": 16, "dropout": 0.0, **SMALL}, 64),
    # EDM's of CIFAR-10, a quarter as wide.
    "ddpmpp32": Network({"image_size": 32, "dropout": 0.0, "width": 32}, 16),
    "adm16": Network({"image_size": 16, "dropout": 0.0, "style": "adm", **SMALL}, 64),
    # To see that all runs, and for tests: its times say nothing.
    "tiny8": Network(
        {"image_size": 8, "dropout": 0.0, "width": 8, "multipliers": (1,), "blocks": 1},
        4,
    ),
}
# A student's steps.
ANCHORS = 4
# How images are sampled: EDM's sampler in its 18 steps, guided, and a student's.
TEACHER = {"sampler": "heun", "steps": 18, "guidance": 2.0}
STUDENT = {"sampler": "renoise", "steps": ANCHORS}
CLASSES = 10


# --- Contestants, each set up in its own process ----------------------------------


def ours(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Our network and step in one XLA program."""
    import tensorflow as tf

    from tf_ttur import xla
    from tf_ttur.networks import unet

    multiply = product()
    multiply()
    memory = Memory()
    model = unet.denoiser(**network.settings)
    _vary(model)
    batch = [*map(tf.constant, _batch(network))]
    adam = _adam()
    adam.build(model.trainable_variables)

    def gradients(images: Any, noise: Any, target: Any) -> tuple[Any, list[Any]]:
        with xla.for_xla():
            with tf.GradientTape() as tape:
                outputs = model([images, noise], training=True)
                loss = tf.reduce_mean(tf.square(outputs - target))
            return loss, tape.gradient(loss, model.trainable_variables)

    @tf.function(jit_compile=True, autograph=False)
    def step(*batch: Any) -> Any:
        loss, found = gradients(*batch)
        adam.apply(found, model.trainable_variables)
        return loss

    compiled = tf.function(gradients, jit_compile=True, autograph=False)

    def check() -> tuple[float, dict[str, np.ndarray]]:
        loss, found = compiled(*batch)
        named = zip(model.trainable_variables, found, strict=True)
        return float(loss), {_key(variable): x.numpy() for variable, x in named}

    def save() -> None:
        weights = {_key(x): x.numpy() for x in model.trainable_variables}
        np.savez(folder / "weights.npz", **weights)

    def once() -> float:
        return step(*batch).numpy().item()

    return {
        "step": once,
        "check": check,
        "weights": save,
        "operations": lambda: operations(model, network.batch),
        "needed": lambda: needed([model], [], [model], network.batch),
        "product": multiply,
        "peak": peak_mb,
        "memory": lambda: memory.during(once),
    }


def pytorch(
    network: Network,
    folder: pathlib.Path,
    compiled: bool = False,
    channels_last: bool = False,
) -> dict[str, Work]:
    """PyTorch's, as it comes, or compiled, or in its other memory format."""
    import pytorch_unet as twins

    torch = twins.torch
    memory = _torch_memory(torch)
    model = twins.UNet(**network.settings)
    _load(folder, twins.keras_views(model))
    images, noise, target = map(torch.from_numpy, _batch(network))
    images, target = (x.permute(0, 3, 1, 2) for x in (images, target))
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=form)
    images, target = (x.contiguous(memory_format=form) for x in (images, target))
    adam = torch.optim.Adam(model.parameters(), RATE, BETAS, EPSILON, fused=True)

    def loss_of(images: Any, noise: Any, target: Any) -> Any:
        return (model(images, noise) - target).square().mean()

    if compiled:
        loss_of = torch.compile(loss_of)

    def gradients() -> float:
        adam.zero_grad()
        loss = loss_of(images, noise, target)
        loss.backward()
        return loss.item()

    def step() -> float:
        loss = gradients()
        adam.step()
        return loss

    def check() -> tuple[float, dict[str, np.ndarray]]:
        loss = gradients()
        views = twins.keras_views(model, lambda parameter: parameter.grad)
        return loss, {key: np.array(view) for key, view in views.items()}

    return {
        "step": step,
        "check": check,
        "peak": peak_mb,
        "memory": lambda: memory.during(step),
    }


def ours_distilled(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Our `FlashDMD`, whose step is one XLA program."""
    import tensorflow as tf

    from tf_ttur import xla
    from tf_ttur.distillation.flash_dmd import FlashDMD, flash_dmd
    from tf_ttur.networks import dense_encoder, heads, unet

    multiply = product()
    multiply()
    memory = Memory()
    size = network.settings["image_size"]
    student, fake_score, teacher = (unet.denoiser(**network.settings) for _ in "123")
    encoder = dense_encoder.untrained((size, size, 3))
    discriminator = heads.heads([x.shape[1:] for x in encoder.outputs])
    networks = {
        "student": student,
        "fake_score": fake_score,
        "teacher": teacher,
        "encoder": encoder,
        "discriminator": discriminator,
    }
    for seed, each in enumerate(networks.values()):
        _vary(each, seed)
    model = FlashDMD(
        student,
        fake_score,
        discriminator,
        teacher,
        encoder,
        parametrisation="edm",
        anchors=ANCHORS,
    )
    model.compile(
        student_optimizer=_adam(),
        fake_score_optimizer=_adam(),
        discriminator_optimizer=_adam(),
        jit_compile=True,
        **flash_dmd(),
    )
    images, drawn = draws(network)

    @tf.function(jit_compile=True, autograph=False)
    def gradients(real: Any, drawn: Any) -> tuple[Any, Any]:
        with xla.for_xla():
            return distillation_gradients(model, real, drawn)

    def check() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        losses, found = gradients(tf.constant(images), [*map(tf.constant, drawn)])
        values = np.array([float(loss) for loss in losses.values()])
        return values, {key: value.numpy() for key, value in found.items()}

    def save() -> None:
        np.savez(
            folder / "weights.npz",
            **{
                f"{name}/{key}": value.numpy()
                for name, each in networks.items()
                for key, value in named(each, each.weights).items()
            },
        )

    def step() -> Any:
        return model.train_on_batch(images)

    return {
        "step": step,
        "check": check,
        "weights": save,
        "operations": lambda: distillation_operations(networks, network.batch),
        "needed": lambda: needed(
            [student, fake_score, discriminator],
            [teacher, encoder],
            # An update of the student goes through these.
            [student, student, encoder, discriminator],
            network.batch,
        ),
        "product": multiply,
        "peak": peak_mb,
        "memory": lambda: memory.during(step),
    }


def pytorch_distilled(
    network: Network,
    folder: pathlib.Path,
    compiled: bool = False,
    channels_last: bool = False,
) -> dict[str, Work]:
    """PyTorch's, as it comes, or compiled, or in its other memory format."""
    import pytorch_flash_dmd as twins

    torch = twins.torch
    memory = _torch_memory(torch)
    size = network.settings["image_size"]
    form = torch.channels_last if channels_last else torch.contiguous_format
    networks, views = twins.networks(**network.settings), {}
    for name, each in networks.items():
        found = twins.keras_views(each)
        views |= {f"{name}/{key}": view for key, view in found.items()}
    _load(folder, views)
    networks = {name: each.to(memory_format=form) for name, each in networks.items()}

    def adam(parameters: Any) -> Any:
        return torch.optim.Adam(parameters, RATE, BETAS, EPSILON, fused=True)

    model = twins.FlashDMD(networks, adam, anchors=ANCHORS, compiled=compiled)
    images, drawn = draws(network)
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=form)

    def step() -> dict[str, float]:
        shape = (network.batch, ANCHORS, 3, size, size)
        return model.step(images, twins.draw(shape, form))

    def check() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        found, gradients = model.gradients(images, twins.drawn(drawn))
        return np.array([*found.values()]), gradients

    return {
        "step": step,
        "check": check,
        "peak": peak_mb,
        "memory": lambda: memory.during(step),
    }


def sampling(network: Network, folder: pathlib.Path, how: dict) -> dict[str, Work]:
    """Images made by a diffusion model, compiled."""
    from tf_ttur.distillation.diffusion import Diffusion, Sampling
    from tf_ttur.networks import unet

    settings = network.settings | {"num_classes": CLASSES}
    model = Diffusion(
        unet.denoiser(**settings), num_classes=CLASSES, sampling=Sampling(**how)
    )
    _vary(model.network)
    model.compile(network_optimizer="adam", jit_compile=True)
    labels = np.arange(network.batch) % CLASSES
    return {
        "generate": lambda: model.generate(
            network.batch, seed=0, batch_size=network.batch, labels=labels
        )
    }


class Step(NamedTuple):
    """A step to measure: ours, PyTorch's, and what rounding may make of it.

    A sum of n random float32 terms is off by about sqrt(n / 6) 2^-24 of its size, and
    two such sums by the root of two as much. A convolution of these networks has up to
    9 x 128 terms, a gradient of a kernel 64 x 16 x 16, and 50 layers lie behind each
    other: 1e5 terms come to 1e-5 there and back, and to 1e-4 for the layer that is
    farthest out. Distillation is seven such networks behind each other.
    """

    ours: Callable[..., dict[str, Work]]
    pytorch: Callable[..., dict[str, Work]]
    difference: float


STEPS = {
    "diffusion": Step(ours, pytorch, 1e-4),
    "distillation": Step(ours_distilled, pytorch_distilled, 1e-3),
}

PEERS = {
    "torch": ("PyTorch", False, False),
    "torch_channels_last": ("PyTorch, channels_last", False, True),
    "torch_compile": ("PyTorch, torch.compile", True, False),
    "torch_compile_channels_last": (
        "PyTorch, torch.compile, channels_last",
        True,
        True,
    ),
}


def _batch(network: Network) -> list[np.ndarray]:
    """Makes noisy images, noise levels and what the network is to say."""
    random, size = np.random.default_rng(0), network.settings["image_size"]
    shape = (network.batch, size, size, 3)
    images, target = random.normal(size=(2, *shape)).astype(np.float32)
    return [images, random.normal(size=network.batch).astype(np.float32), target]


def draws(network: Network) -> tuple[np.ndarray, list[np.ndarray]]:
    """Makes real images, and what `FlashDMD.noise` is asked for in one step.

    Args:
        network: The settings of the student; with `num_classes` it is also asked for
            labels.
    """
    random, size = np.random.default_rng(1), network.settings["image_size"]
    count, shape = network.batch, (size, size, 3)
    classes = network.settings.get("num_classes")
    labels = [] if classes is None else [random.integers(classes, size=count)]
    drawn = [
        random.normal(size=(count, ANCHORS + 1, *shape)),
        *labels,
        np.full(count, 1),
        random.uniform(20, 979, count),
        random.normal(size=(count, *shape)),
        random.uniform(0, 999, count),
        random.normal(size=(count, *shape)),
    ]
    drawn = [x.astype(np.float32 if x.dtype.kind == "f" else np.int32) for x in drawn]
    return random.uniform(-1, 1, (count, *shape)).astype(np.float32), drawn


def _adam() -> Any:
    from tf_ttur import optimizers

    return optimizers.make("adam", RATE, beta_1=BETAS[0], beta_2=BETAS[1])


def _torch_memory(torch: Any) -> Memory:
    """Returns the memory from now on, after PyTorch's first product."""
    (torch.ones(64, 64) @ torch.ones(64, 64)).sum().item()
    return Memory()


def _load(folder: pathlib.Path, views: Mapping[str, np.ndarray]) -> None:
    """Writes our weights to where PyTorch has its own."""
    with np.load(folder / "weights.npz") as weights:
        if set(views) != set(weights):
            raise ValueError(f"{set(views) ^ set(weights)} on one side only")
        for key, view in views.items():
            view[...] = weights[key]


def _vary(model: Any, seed: int = 0) -> None:
    """Gives variables that start at 0 or close to it values that have an influence."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name == "kernel":
            scale = np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(scale * random.normal(size=variable.shape))


def _key(variable: Any) -> str:
    layer, _, name = variable.path.rpartition("/")
    return f"{layer.replace('/', '_')}/{name}"


def named(network: Any, values: list[Any]) -> dict[str, Any]:
    """Names the variables of a network as its twin does, or their gradients.

    The U-Net's layers have names. Those of the encoder and the heads are numbered by
    Keras, so here they have the number of their output and their place on the way to
    it, from the input or from an output before it.

    Args:
        network: A network of a step of distillation.
        values: One for each trainable variable, or for each variable.
    """
    variables = network.weights
    if len(values) != len(variables):
        variables = network.trainable_variables
    if network.name not in ("dense_encoder", "heads"):
        return dict(zip(map(_key, variables), values, strict=True))
    names, outputs = {}, [x._keras_history.operation for x in network.outputs]
    for index, operation in enumerate(outputs):
        way, ends = (
            [],
            [*outputs, *(x._keras_history.operation for x in network.inputs)],
        )
        while not way or operation not in ends:
            way.insert(0, operation)
            operation = operation.input._keras_history.operation
        for place, layer in enumerate(x for x in way if x.weights):
            for variable in layer.weights:
                names[id(variable)] = f"{index}_{place}/{variable.name}"
    return dict(zip((names[id(x)] for x in variables), values, strict=True))


def distillation_gradients(
    model: Any, real: Any, drawn: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Computes each loss of a `FlashDMD` with its weights as they are.

    Args:
        model: With an encoder and a hard split.
        real: Real images.
        drawn: What `noise` is to return, one after the other.

    Returns:
        The losses; and the gradient of each in the network that it trains, as
        "dm_loss/out_conv/kernel".
    """
    import tensorflow as tf

    from tf_ttur import replicas

    given = iter(drawn)

    def noise(*_: Any) -> Any:
        return next(given)

    with unittest.mock.patch.object(model, "noise", noise):
        draw = model.draw(replicas.share(real))
        made = model.rollout(draw)
        judged = model.judged(draw, made)
        with tf.GradientTape(persistent=True) as tape:
            losses = model.student_losses(draw, made, tape)
            losses["fake_loss"] = model.fake_loss(draw, made)
            losses["d_loss"] = model.discriminator_loss(real, draw, judged)
    found = {}
    for loss, network in {
        "dm_loss": model.student,
        "adv_loss": model.student,
        "fake_loss": model.fake_score,
        "d_loss": model.discriminator,
    }.items():
        each = tape.gradient(losses[loss], network.trainable_variables)
        each = named(network, each)
        found |= {f"{loss}/{key}": value for key, value in each.items()}
    return losses, found


# --- Operations --------------------------------------------------------------------


def operations(model: Any, batch: int) -> float:
    """Counts the multiplications and additions that the textbook's step needs.

    Gradients by inputs and by kernels, or by both factors of a product, cost as much as
    the layer; what sees the images or the noise alone needs no gradient by its input.

    Args:
        model: A network of `tf_ttur.networks.unet`.
        batch: Images of a step.
    """
    whole, first = _products(model)
    return 2.0 * batch * (3 * whole - first)


def distillation_operations(
    networks: Mapping[str, Any], batch: int, anchors: int = ANCHORS
) -> float:
    """Counts likewise for one step of `FlashDMD` with an encoder, at a ratio of 1.

    Nothing is computed twice: the student is called once for each anchor, once of these
    with gradients, and once more for the discriminator.

    Args:
        networks: "student", "fake_score", "teacher", "encoder" and "discriminator".
        batch: Images of a step.
        anchors: The student's steps.
    """
    student, fake, teacher, encoder, heads = (
        _products(networks[name])
        for name in ("student", "fake_score", "teacher", "encoder", "discriminator")
    )
    total = (anchors - 1) * student[0] + 2 * (3 * student[0] - student[1])
    total += fake[0] + teacher[0] + 3 * fake[0] - fake[1]
    # The student's loss needs the encoder's and the heads' gradients by their inputs,
    # the images included, and the discriminator's those by the heads' kernels.
    total += 2 * (encoder[0] + heads[0])
    total += 2 * (encoder[0] + 3 * heads[0] - heads[1])
    return 2.0 * batch * total


def _products(model: Any) -> tuple[int, int]:
    """Counts the products of a call for one image, and those of the first layers.

    Convolutions, dense layers and attention, each on the map where the textbook has it,
    taps on the padding included. First are the layers that see the network's inputs or
    the description of the noise alone.
    """
    from tf_ttur.attention import PixelAttention
    from tf_ttur.networks.unet import NoiseEmbedding

    whole = first = 0
    for layer in model.layers:
        if isinstance(layer, PixelAttention):
            _, height, width, channels = layer.output.shape
            whole += 2 * (height * width) ** 2 * channels
        elif hasattr(layer, "kernel"):
            # A layer's output is where the textbook has it: means are taken before.
            pixels = int(np.prod(layer.output.shape[1:-1]))
            count = pixels * int(np.prod(layer.kernel.shape))
            before = layer.input._keras_history.operation
            given = any(layer.input is x for x in model.inputs)
            whole += count
            first += count * (given or isinstance(before, NoiseEmbedding))
    return whole, first


def needed(
    trained: list[Any], frozen: list[Any], passed: list[Any], batch: int
) -> dict[str, float]:
    """Counts the MB that the textbook's step needs at once, in float32.

    Gradients are not among them: each can be used as soon as it is there.

    Args:
        trained: Networks with Adam's two moments for each weight.
        frozen: Networks without.
        passed: Networks through which the gradient that needs most goes; a network is
            in it as often as it is called. The outputs of all their layers are kept,
            and what attention multiplies values by.
        batch: Images of a step.
    """
    from tf_ttur.attention import PixelAttention

    activations = 0
    for network in passed:
        for layer in network.layers:
            activations += int(np.prod(layer.output.shape[1:]))
            if isinstance(layer, PixelAttention):
                height, width = layer.output.shape[1:3]
                activations += layer.heads * (height * width) ** 2
    numbers = {
        "weights": sum(each.count_params() for each in trained + frozen),
        "moments": 2 * sum(each.count_params() for each in trained),
        "activations": batch * activations,
    }
    return {name: 4 * count / 2**20 for name, count in numbers.items()}


# --- The rows of the table ---------------------------------------------------------


def rows(
    step: Step, network: Network, folder: pathlib.Path, values: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """Measures one network."""
    peers = {name: PEERS[name] for name in values.peers}
    if not installed("torch"):
        yield "PyTorch", "left out: pip install -r requirements-bench.txt"
        peers = {}
    with workers((step.ours, network, folder)) as (us,):
        us.run("weights")
        checked = us.run("check").result
        first = us.run("step")
        count, sizes = us.run("operations").result, us.run("needed").result
        memory = us.run("memory").result
        us.run("product")
        steps, products = [], []
        for title, *how in peers.values():
            with workers((step.pytorch, network, folder, *how)) as (them,):
                try:
                    difference = _difference(checked, them.run("check").result)
                except RuntimeError as error:
                    yield title, f"does not run: {error}"
                    continue
                if not difference <= step.difference:
                    raise RuntimeError(f"{title} computes something else: {difference}")
                them.run("step")
                turns = [(us, "step"), (them, "step"), (us, "product")]
                (mine, theirs, made), busy = in_turn(turns, values.rounds)
                steps += mine
                products += made
                peak, their_peak = (each.run("peak").result for each in (us, them))
                their_memory = them.run("memory").result
            text, found = ratios(theirs, mine)
            yield (
                title,
                {
                    "text": f"ours is {text} times as fast, goal {GOAL}; "
                    f"{_rate(mine)} a step against {_rate(theirs)}, while other "
                    f"programs had {busy:.0%} of the processors; loss and gradients "
                    f"differ by at most {difference:.1e} (relative); peak memory "
                    f"{their_peak:.0f} MB, ours is {peak / their_peak:.2f} of it; "
                    f"a step takes {their_memory:.0f} MB, ours "
                    f"{memory / their_memory:.2f} of it",
                    "goal": GOAL,
                    **found,
                    "others": busy,
                    "difference": difference,
                    "peak_mb": [their_peak, peak],
                    "memory_mb": [their_memory, memory],
                },
            )
        if steps:
            yield "operations", reached(count, steps, products, SHARE)
    total = sum(sizes.values())
    parts = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
    yield (
        "memory",
        {
            "text": f"a step takes {memory:.0f} MB, {memory / total:.2f} of the "
            f"{total:.0f} MB that the textbook needs ({parts}); goal {MEMORY}",
            "goal": MEMORY,
            "memory_mb": memory,
            "needed_mb": sizes,
        },
    )
    yield (
        "first step",
        {
            "text": f"{first.seconds:.1f} s ({first.cpu:.1f} s of processor time), "
            "compilation included",
            "seconds": first.seconds,
            "cpu": first.cpu,
        },
    )


def sampling_rows(
    network: Network, folder: pathlib.Path, values: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """Measures a student's sampling beside its teacher's."""
    from tf_ttur.distillation import evaluations

    calls = [
        evaluations(how["sampler"], how["steps"], how.get("guidance", 1.0))
        for how in (TEACHER, STUDENT)
    ]
    given = [(sampling, network, folder, how) for how in (TEACHER, STUDENT)]
    with workers(*given) as (teacher, student):
        both = (teacher, student)
        first = [each.run("generate").seconds for each in both]
        runs, busy = in_turn([(each, "generate") for each in both], values.rounds)
    text, found = ratios(*runs)
    least = SAMPLING * calls[0] / calls[1]
    yield (
        "student",
        {
            "text": f"{text} times as fast as the teacher; it calls the network "
            f"{calls[1]} times an image and the teacher {calls[0]}, {calls[0]}/"
            f"{calls[1]} = {calls[0] / calls[1]:.2f}, goal {least:.2f}; "
            f"{_rate(runs[1])} of {network.batch} images against {_rate(runs[0])}, "
            f"while other programs had {busy:.0%} of the processors; the first took "
            f"{first[1]:.1f} and {first[0]:.1f} s",
            "goal": least,
            "calls": calls,
            "others": busy,
            "first": first,
            **found,
        },
    )


def _difference(ours: Any, theirs: Any) -> float:
    """Returns the largest relative difference of losses and of a layer's gradients."""
    (loss, gradients), (their_loss, their_gradients) = ours, theirs
    layers: dict[str, list[str]] = {}
    for key in gradients:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    differences = [float(np.max(np.abs(loss / their_loss - 1)))]
    for keys in layers.values():
        # A layer's variables together: some biases have no influence.
        one, two = (
            np.concatenate([found[key].ravel() for key in keys])
            for found in (gradients, their_gradients)
        )
        differences.append(float(np.linalg.norm(one - two) / np.linalg.norm(two)))
    return max(differences)


def _rate(runs: list[Run]) -> str:
    return f"{np.median([run.seconds for run in runs]):.2f} s"


# --- The program -------------------------------------------------------------------

MEASURED: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    **{name: functools.partial(rows, step) for name, step in STEPS.items()},
    "sampling": sampling_rows,
}


def main(args: list[str], values: flags.FlagValues) -> None:
    """Measures the networks that were asked for, and prints what was found."""
    if args:
        raise flags.Error(f"there is nothing to do with {args[0]!r}")
    for flag, known in (("networks", NETWORKS), ("peers", PEERS)):
        if unknown := [name for name in getattr(values, flag) if name not in known]:
            raise flags.Error(
                f"--{flag} has no {unknown[0]!r}: choose from {', '.join(known)}"
            )
    if values.json:
        check_writable(values.json)
    prepare_environment()
    found: dict[str, Any] = {"machine": machine("tensorflow", "keras", "torch")}
    found["step"] = values.step
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for name in values.networks:
        network = NETWORKS[name]
        print(f"\n{name}, batch {network.batch}, float32, {values.step}:", flush=True)
        found[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            for title, row in MEASURED[values.step](network, path, values):
                text = row if isinstance(row, str) else row.pop("text")
                print(f"  {title}: {text}", flush=True)
                found[name][title] = row
    if values.json:
        write_json(values.json, found)


def define(flag: Flags) -> None:
    """Defines the flags."""
    flag.choice("step", "diffusion", [*MEASURED], "What is measured.")
    usual = [name for name in NETWORKS if name != "tiny8"]
    flag.texts("networks", usual, f"Which of {', '.join(NETWORKS)}.")
    flag.texts("peers", list(PEERS), "Whom to compare with.")
    flag.number("rounds", 3, "Rounds of each row.", least=1)
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))

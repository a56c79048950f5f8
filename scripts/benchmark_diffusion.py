"""How fast a U-Net of `tf_ttur.networks.unet` trains beside PyTorch, on this machine.

  pip install -r requirements.txt
  pip install -r requirements-bench.txt
  python scripts/benchmark_diffusion.py [--networks=ddpmpp16,ddpmpp32] [--rounds=N]

A step is a mean squared error, its gradient and Adam. Contestants live in processes of
their own and work in turn, as in `benchmark_train.py`: printed are the medians of the
ratios of neighbouring rounds, with the smallest and the largest, in wall and in
processor time. First of all, the loss and the gradients of one step from equal weights
must be equal.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from benchmarking import (
    Others,
    Run,
    Work,
    installed,
    machine,
    peak_mb,
    prepare_environment,
    product,
    product_rates,
    ratios,
    workers,
)

from fid.files import check_writable, write_json
from fid.program import Flags, run

GOAL, SHARE = 1.2, 0.6
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
}


# --- Contestants, each set up in its own process ----------------------------------


def ours(network: Network, folder: pathlib.Path) -> dict[str, Work]:
    """Our network and step in one XLA program."""
    import tensorflow as tf

    from tf_ttur import optimizers, xla
    from tf_ttur.networks import unet

    model = unet.denoiser(**network.settings)
    _vary(model)
    batch = [*map(tf.constant, _batch(network))]
    adam = optimizers.make("adam", RATE, beta_1=BETAS[0], beta_2=BETAS[1])
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

    return {
        "step": lambda: step(*batch).numpy().item(),
        "check": check,
        "weights": save,
        "operations": lambda: operations(model, network.batch),
        "product": product(),
        "peak": peak_mb,
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
    model = twins.UNet(**network.settings)
    with np.load(folder / "weights.npz") as weights:
        views = twins.keras_views(model)
        if set(views) != set(weights):
            raise ValueError(f"{set(views) ^ set(weights)} on one side only")
        for key, view in views.items():
            view[...] = weights[key]
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

    return {"step": step, "check": check, "peak": peak_mb}


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


def _vary(model: Any) -> None:
    """Gives variables that start at 0 or close to it values that have an influence."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            scale = np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(scale * random.normal(size=variable.shape))


def _key(variable: Any) -> str:
    layer, _, name = variable.path.rpartition("/")
    return f"{layer.replace('/', '_')}/{name}"


# --- Operations --------------------------------------------------------------------


def operations(model: Any, batch: int) -> float:
    """Counts the multiplications and additions that the textbook's step needs.

    Convolutions, dense layers and attention, each on the map where the textbook has it,
    taps on the padding included. Gradients by inputs and by kernels, or by both factors
    of a product, cost as much as the layer; what sees the images or the noise alone
    needs no gradient by its input.

    Args:
        model: A network of `tf_ttur.networks.unet`.
        batch: Images of a step.
    """
    from tf_ttur.attention import PixelAttention

    total = 0.0
    for layer in model.layers:
        if isinstance(layer, PixelAttention):
            _, height, width, channels = layer.output.shape
            total += 3 * 2 * (height * width) ** 2 * channels
        elif hasattr(layer, "kernel"):
            # A layer's output is where the textbook has it: means are taken before.
            pixels = int(np.prod(layer.output.shape[1:-1]))
            before = layer.input._keras_history.operation.name
            first = before in ("images", "noise_embedding")
            total += (2 if first else 3) * pixels * int(np.prod(layer.kernel.shape))
    return 2.0 * batch * total


# --- The rows of the table ---------------------------------------------------------


def rows(
    network: Network, folder: pathlib.Path, values: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """Measures one network."""
    peers = {name: PEERS[name] for name in values.peers}
    if not installed("torch"):
        yield "PyTorch", "left out: pip install -r requirements-bench.txt"
        peers = {}
    with workers((ours, network, folder)) as (us,):
        us.run("weights")
        checked = us.run("check").result
        first = us.run("step")
        count = us.run("operations").result
        us.run("product")
        steps, products = [], []
        for title, *how in peers.values():
            with workers((pytorch, network, folder, *how)) as (them,):
                try:
                    difference = _difference(checked, them.run("check").result)
                except RuntimeError as error:
                    yield title, f"does not run: {error}"
                    continue
                if difference > 1e-4:
                    raise RuntimeError(f"{title} computes something else: {difference}")
                them.run("step")
                repeat = [
                    max(1, round(1 / each.run("step").cpu)) for each in (us, them)
                ]
                mine, theirs = [], []
                others = Others()
                for _ in range(values.rounds):
                    mine.append(us.run("step", repeat=repeat[0]))
                    theirs.append(them.run("step", repeat=repeat[1]))
                    products.append(us.run("product", repeat=5))
                busy = others.share(
                    sum(run.cpu for run in mine) * repeat[0]
                    + sum(run.cpu for run in theirs) * repeat[1]
                    + sum(run.cpu for run in products[-values.rounds :]) * 5
                )
                steps += mine
                peak, their_peak = (each.run("peak").result for each in (us, them))
            text, found = ratios(theirs, mine)
            yield (
                title,
                {
                    "text": f"ours is {text} times as fast, goal {GOAL}; "
                    f"{_rate(mine)} against {_rate(theirs)}, while other programs had "
                    f"{busy:.0%} of the processors; loss and gradients differ by at "
                    f"most {difference:.1e} (relative); peak memory "
                    f"{their_peak:.0f} MB, ours is {peak / their_peak:.2f} of it",
                    "goal": GOAL,
                    **found,
                    "others": busy,
                    "difference": difference,
                    "peak_mb": [their_peak, peak],
                },
            )
        if steps:
            yield "operations", _share(count, steps, products)
    yield (
        "first step",
        {
            "text": f"{first.seconds:.1f} s ({first.cpu:.1f} s of processor time), "
            "compilation included",
            "seconds": first.seconds,
            "cpu": first.cpu,
        },
    )


def _difference(ours: Any, theirs: Any) -> float:
    """Returns the largest relative difference of losses and of a layer's gradients."""
    (loss, gradients), (their_loss, their_gradients) = ours, theirs
    layers: dict[str, list[str]] = {}
    for key in gradients:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    differences = [abs(loss / their_loss - 1)]
    for keys in layers.values():
        # A layer's variables together: some biases have no influence.
        one, two = (
            np.concatenate([found[key].ravel() for key in keys])
            for found in (gradients, their_gradients)
        )
        differences.append(float(np.linalg.norm(one - two) / np.linalg.norm(two)))
    return max(differences)


def _repeat(worker: Any) -> int:
    # Rounds of a second of processor time or more.
    return max(1, round(1 / worker.run("step").cpu))


def _rate(runs: list[Run]) -> str:
    return f"{np.median([run.seconds for run in runs]):.2f} s a step"


def _share(count: float, steps: list[Run], products: list[Run]) -> dict[str, Any]:
    found, texts = {}, []
    for field, name in (("seconds", "wall"), ("cpu", "processor")):
        reached = count / 1e9 / np.array([getattr(run, field) for run in steps])
        possible = product_rates(products, field)
        share = reached / possible
        texts.append(
            f"{np.median(share):.0%} ({share.min():.0%}-{share.max():.0%}) in {name} "
            f"time ({np.median(reached):.0f} of {np.median(possible):.0f} GFLOP/s)"
        )
        found[field] = {"share": share.tolist(), "gflops": reached.tolist()}
    text = f"{count / 1e9:.1f} GFLOP a step by the textbook; of the rate of float32 "
    text += f"products, a step reaches {' and '.join(texts)}; goal {SHARE:.0%}"
    return {"text": text, "goal": SHARE, "gflop": count / 1e9, **found}


# --- The program -------------------------------------------------------------------


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
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for name in values.networks:
        network = NETWORKS[name]
        print(f"\n{name}, batch {network.batch}, float32:", flush=True)
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
    flag.texts("networks", list(NETWORKS), "Which of these.")
    flag.texts("peers", list(PEERS), "Whom to compare with.")
    flag.number("rounds", 3, "Rounds of each row.", least=1)
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))

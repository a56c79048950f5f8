"""How fast `fid` is beside its peers, on this machine.

  pip install -r requirements.txt
  pip install -r requirements-bench.txt
  python scripts/benchmark_fid.py [--work=extractor,frechet,...] [--inception=PB]

Every contestant lives in a process of its own, so that TensorFlow and PyTorch do not
fight over threads, and the processes work in turn (A B A B): a machine's speed drifts,
so only ratios of neighbouring rounds mean something. Printed are the medians of these
ratios and, in brackets, the smallest and the largest; then the same for processor time,
which other programs on the machine disturb less. Without `--inception` the graph
is a synthetic one with the 2015 structure, as fast as the real one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import numpy as np
from absl import flags
from benchmarking import (
    DIMENSION,
    Memory,
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
from launching import ROOT

from fid.files import InputError, check_writable, write_json
from fid.program import Flags, run

BATCH = 50
# Images of each of two sets that are compared by their neighbours.
NEIGHBOURS = 10_000


# --- Contestants, each set up in its own process ----------------------------------


def our_extractor(folder: pathlib.Path) -> dict[str, Work]:
    """Our extractor, and this machine's float32 matrix products beside it."""
    from fid.extractors.inception import Inception

    inception, images = Inception(folder / "graph.pb", BATCH), _images(BATCH)
    return {"images": lambda: inception(images), "product": product()}


def v1_session(folder: pathlib.Path) -> dict[str, Work]:
    """The same file in a session of TensorFlow 1, as the original code ran it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    images = _images(BATCH).astype(np.float32)
    definition = v1.GraphDef.FromString((folder / "graph.pb").read_bytes())
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, None, None, 3])
        tf.import_graph_def(definition, input_map={"ExpandDims:0": x}, name="")
    session = v1.Session(graph=graph)
    return {
        "images": lambda: session.run("pool_3:0", {x: images}).reshape(BATCH, DIMENSION)
    }


def torch_fidelity(folder: pathlib.Path) -> dict[str, Work]:
    """torch-fidelity's extractor as shipped, with the weights of our file."""
    torch, module = _torch_module("torch_fidelity.feature_extractor_inceptionv3")
    (folder / "none.pth").touch()
    with _no_weights(torch, module), mock.patch.object(torch, "load"):
        network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], str(folder / "none.pth")
        )
    _fill(torch, network, folder / "weights.npz")
    images = torch.from_numpy(_images(BATCH).transpose(0, 3, 1, 2).copy())

    def run() -> np.ndarray:
        with torch.no_grad():
            return network(images)[0].numpy()

    return {"images": run}


def pytorch_fid(folder: pathlib.Path, channels_last: bool = False) -> dict[str, Work]:
    """pytorch-fid's network as shipped, with the weights of our file."""
    torch, module = _torch_module("pytorch_fid.inception")
    with _no_weights(torch, module):
        network = module.InceptionV3([3]).eval()
    _fill(torch, network, folder / "weights.npz")
    images = torch.from_numpy(_images(BATCH).transpose(0, 3, 1, 2).copy()) / 255
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.no_grad():
            return network(images)[0].numpy().reshape(BATCH, DIMENSION)

    return {"images": run}


def pytorch_fid_channels_last(folder: pathlib.Path) -> dict[str, Work]:
    """The same in the memory format that suits its convolutions best."""
    return pytorch_fid(folder, channels_last=True)


def our_distance(folder: pathlib.Path) -> dict[str, Work]:
    """Our distance from two files, and from one with 1,000 rows of features at hand."""
    from fid.metrics.frechet import frechet_distance
    from fid.statistics import Moments, Statistics

    few = Moments(DIMENSION)
    few.update(np.load(folder / "few.npy"))
    few = few.statistics()
    matrix = np.random.default_rng(0).normal(size=(DIMENSION, DIMENSION))
    load = Statistics.load
    two = load(folder / "two.npz")
    return {
        "full": lambda: frechet_distance(
            load(folder / "one.npz"), load(folder / "two.npz")
        ),
        "few": lambda: frechet_distance(few, two),
        "few_file": lambda: frechet_distance(few, load(folder / "two.npz")),
        "product": lambda: matrix @ matrix,
    }


def scipy_sqrtm(folder: pathlib.Path) -> dict[str, Work]:
    """The original algorithm: the root of the product by scipy.linalg.sqrtm."""
    import scipy.linalg

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        with np.load(folder / name) as arrays:
            return arrays["mu"], arrays["sigma"]

    def distance(
        one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]
    ) -> float:
        (mu1, s1), (mu2, s2) = one, two
        shift = mu1 - mu2
        root = scipy.linalg.sqrtm(s1 @ s2).real
        return float(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))

    few, two = read("few.npz"), read("two.npz")
    return {
        "full": lambda: distance(read("one.npz"), read("two.npz")),
        "few": lambda: distance(few, two),
        "few_file": lambda: distance(few, read("two.npz")),
    }


def our_metrics(folder: pathlib.Path) -> dict[str, Work]:
    """What is computed of two sets of features at hand."""
    from fid.metrics.frechet import Frechet
    from fid.metrics.infinity import frechet_infinity
    from fid.metrics.metric import Measured
    from fid.metrics.monge import mind
    from fid.statistics import Moments

    x, y = (np.load(folder / f"features_{name}.npy") for name in "xy")

    def measured(rows: np.ndarray) -> Measured:
        moments = Moments(rows.shape[1])
        moments.update(rows)
        return Measured(moments.statistics(), features=rows)

    one, two = measured(x), measured(y)
    return {
        "moments": lambda: len((measured(x), measured(y))),
        "distance": lambda: Frechet()(one, two),
        "errors": lambda: Frechet().with_errors(one, two)[0],
        "infinity": lambda: frechet_infinity(x, two.statistics).value,
        "mind": lambda: mind(x, y),
    }


def scipy_roots(folder: pathlib.Path) -> dict[str, Work]:
    """15 distances by scipy.linalg.sqrtm, of covariances that are there already."""
    import scipy.linalg

    x, y = (np.load(folder / f"features_{name}.npy") for name in "xy")
    product = np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)

    def fifteen() -> float:
        return sum(np.trace(scipy.linalg.sqrtm(product).real) for _ in range(15))

    return {"fifteen": fifteen}


def torch_fidelity_mind(folder: pathlib.Path) -> dict[str, Work]:
    """torch-fidelity's MIND of features at hand."""
    torch, module = _torch_module("torch_fidelity.metric_mind")
    x, y = (torch.from_numpy(np.load(folder / f"features_{name}.npy")) for name in "xy")
    settings = {"mind_num_projections": 1000, "rng_seed": 2020, "cuda": False}

    def run() -> float:
        found = module.mind_features_to_metric(x, y, **settings, verbose=False)
        return found[module.KEY_METRIC_MIND]

    return {"mind": run}


def our_folder(folder: pathlib.Path) -> dict[str, Work]:
    """A folder of PNGs from end to end, and the extractor alone on the same images."""
    from fid.extractors.inception import Inception
    from fid.measure import compute_statistics

    inception = Inception(folder / "graph.pb", BATCH)
    images = _images(len(list((folder / "png").iterdir())))
    return {
        "folder": lambda: compute_statistics(folder / "png", inception).n,
        "alone": lambda: len(inception(images)),
    }


def our_neighbours(folder: pathlib.Path) -> dict[str, Work]:
    """All our metrics of neighbours of two sets, and the memory that they take."""
    from fid.metrics import choose
    from fid.metrics.metric import Measured
    from fid.statistics import Statistics

    statistics = Statistics(np.zeros(DIMENSION), np.eye(DIMENSION))
    chosen = choose(("precision", "recall", "density", "coverage", "realism"), {})
    real, generated = _two_sets(folder)

    def work() -> list[float]:
        sets = [Measured(statistics, features) for features in (generated, real)]
        return [metric(*sets).mean for metric in chosen]

    return {
        "all": work,
        "adm": lambda: [
            metric(Measured(statistics, generated), Measured(statistics, real)).mean
            for metric in choose("precision", {"variant": "adm"})
        ],
        "memory": lambda: Memory().during(work),
        "products": lambda: [
            float((x[start : start + 2000] @ y.T)[0, 0])
            for x, y in ((real, real), (generated, generated), (real, generated))
            for start in range(0, len(x), 2000)
        ],
    }


def sklearn_neighbours(folder: pathlib.Path) -> dict[str, Work]:
    """The way of prdc and dgm-eval: whole tables of distances, and a partition."""
    from sklearn.metrics import pairwise_distances

    def radii(x: np.ndarray, neighbours: int) -> np.ndarray:
        table = pairwise_distances(x, x)
        nearest = np.argpartition(table, neighbours + 1, axis=-1)[:, : neighbours + 1]
        return np.take_along_axis(table, nearest, axis=-1).max(axis=-1)

    real, generated = _two_sets(folder)

    def work() -> list[float]:
        of_real, of_generated = radii(real, 5), radii(generated, 5)
        table = pairwise_distances(real, generated)
        inside = table < of_real[:, None]
        return [
            float(inside.any(axis=0).mean()),
            float((table < of_generated[None]).any(axis=1).mean()),
            float(inside.sum(axis=0).mean() / 5),
            float((table.min(axis=1) < of_real).mean()),
        ]

    return {"all": work}


def torch_fidelity_neighbours(folder: pathlib.Path) -> dict[str, Work]:
    """torch-fidelity's precision and recall."""
    torch = importlib.import_module("torch")
    module = importlib.import_module("torch_fidelity.metric_prc")
    sets = [torch.from_numpy(features) for features in _two_sets(folder)]

    def work() -> list[float]:
        found = module.prc_features_to_metric(
            *sets, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False,
            verbose=False,
        )  # fmt: skip
        return [found["precision"], found["recall"]]

    return {"all": work}


def _two_sets(folder: pathlib.Path) -> list[np.ndarray]:
    return [np.load(folder / f"{name}.npy") for name in ("real", "generated")]


def _torch_module(name: str) -> tuple[Any, Any]:
    # By name, since they are no dependencies of ours.
    torch = importlib.import_module("torch")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # A torchvision built for another torch misses its compiled operators. No
        # Inception uses them; declared, they let the module be imported.
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
        _KEPT.append(library)  # the declarations live as long as it
    return torch, importlib.import_module(name)


_KEPT: list[Any] = []


@contextlib.contextmanager
def _no_weights(torch: Any, module: Any) -> Iterator[None]:
    # The peers download their weights while their networks are made.
    with (
        mock.patch.object(module, "load_state_dict_from_url", return_value={}),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        yield


def _fill(torch: Any, network: Any, weights: pathlib.Path) -> None:
    # The peers list their blocks in the order of the graph.
    blocks = [m for m in network.modules() if type(m).__name__ == "BasicConv2d"]
    with np.load(weights) as arrays, torch.no_grad():
        for index, block in enumerate(blocks):
            norm = block.bn
            for name, parameter in (
                ("kernel", block.conv.weight),
                ("beta", norm.bias),
                ("gamma", norm.weight),
                ("moving_mean", norm.running_mean),
                ("moving_variance", norm.running_var),
            ):
                value = arrays[f"{index}/{name}"]
                if name == "kernel":
                    value = value.transpose(3, 2, 0, 1)
                if value.shape != tuple(parameter.shape):
                    raise ValueError(f"{name} of block {index} has another shape")
                parameter.copy_(torch.from_numpy(value.copy()))
        if f"{len(blocks)}/kernel" in arrays:
            raise ValueError(f"the peer has only {len(blocks)} blocks")


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


# --- The rows of the table ---------------------------------------------------------


def extractor(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """Images a second for 32x32 sources; pytorch-fid resizes in another way."""
    peers = {
        "v1 session of the same file": (v1_session, None, 1.5),
        "torch-fidelity as shipped": (torch_fidelity, "torch_fidelity", 2.0),
        "pytorch-fid as shipped": (pytorch_fid, "pytorch_fid", 2.0),
        "pytorch-fid, channels_last": (pytorch_fid_channels_last, "pytorch_fid", 1.2),
    }
    gflop = flops() / 1e9
    for name, (contestant, package, goal) in peers.items():
        if package and not installed(package, "torch", "torchvision"):
            yield name, "left out: pip install -r requirements-bench.txt"
            continue
        with workers((our_extractor, folder), (contestant, folder)) as (us, them):
            features, others = us.run("images").result, them.run("images").result
            us.run("product")
            ours, theirs, products = [], [], []
            for _ in range(rounds):
                ours.append(us.run("images"))
                theirs.append(them.run("images"))
                products.append(us.run("product", repeat=5))
        text, found = ratios(theirs, ours)
        rate = product_rates(products)
        images = BATCH / np.array([run.seconds for run in ours])
        # In processor time: what else runs on the machine would make it a lottery.
        fraction = gflop * BATCH / np.array([run.cpu for run in ours])
        fraction /= product_rates(products, "cpu")
        yield (
            name,
            {
                "text": f"{text} times as fast, goal {goal}; {np.median(images):.1f} "
                f"images/s, {np.median(fraction):.0%} of the floor ({gflop:.2f} GFLOP "
                f"an image at {np.median(rate):.0f} GFLOP/s of float32 products); "
                f"features differ by at most {np.abs(features - others).max():.1e}",
                "goal": goal,
                **found,
                "gflop_per_image": gflop,
                "product_gflops": rate.tolist(),
                "fraction_of_floor": fraction.tolist(),
            },
        )


def flops() -> int:
    """Counts the multiplications and additions of one image's convolutions."""
    from fid.extractors.graph import IMAGE_SIZE, NETWORK, Conv, Pool

    def count(layers: Sequence[Any], size: int) -> tuple[int, int]:
        total = 0
        for layer in layers:
            if isinstance(layer, Conv | Pool):
                if layer.padding == "VALID":
                    window = layer.kernel[0] if isinstance(layer, Conv) else layer.size
                    size = (size - window) // layer.stride + 1
                if isinstance(layer, Conv):
                    total += 2 * size * size * int(np.prod(layer.kernel))
            else:
                found = [count(branch, size) for branch in layer.branches]
                total += sum(each for each, _ in found)
                size = found[0][1]
        return total, size

    return count(NETWORK, IMAGE_SIZE)[0]


def frechet(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """The Fréchet distance in 2048 dimensions."""
    _write_statistics(folder)
    n, d = 1000, DIMENSION
    costs = {
        # A Cholesky factorisation, the congruence, the reduction to tridiagonal form.
        "full": (1 / 3 + 1 + 4 / 3) * d**3,
        # The products of the features with a covariance, and the same reduction.
        "few": 2 * n * d**2 + 2 * n**2 * d + 4 / 3 * n**3,
    }
    costs["few_file"] = costs["few"]
    with workers((our_distance, folder), (scipy_sqrtm, folder)) as (us, them):
        for work in ("full", "product"):
            us.run(work)  # the first time is another
        for work, name, goal in (
            ("full", "from two files, full rank", 10),
            ("few", "with 1,000 features at hand, all in memory", 40),
            ("few_file", "the same, the other set read from its file", None),
        ):
            ours, theirs, products = [], [], []
            for _ in range(min(rounds, 3)):
                ours.append(us.run(work))
                theirs.append(them.run(work))
                products.append(us.run("product"))
            text, found = ratios(theirs, ours)
            value, other = ours[-1].result, theirs[-1].result
            seconds = np.median([run.seconds for run in ours])
            product = np.median([run.seconds for run in products])
            aim = f"goal {goal}" if goal else "no goal"
            floor = float(costs[work] / (2 * d**3) * product)
            yield (
                name,
                {
                    "text": f"{text} times as fast as scipy.linalg.sqrtm, {aim}; "
                    f"{seconds:.2f} s; floor {floor:.2f} s, "
                    f"{costs[work] / 1e9:.0f} GFLOP of LAPACK; relative difference "
                    f"{abs(value - other) / abs(other):.1e}",
                    "goal": goal,
                    "floor_seconds": floor,
                    **found,
                },
            )


def _write_statistics(folder: pathlib.Path) -> None:
    random = np.random.default_rng(0)
    # Features like pool_3's: correlated, positive, with a falling spectrum.
    mixing = random.normal(size=(DIMENSION, DIMENSION))
    mixing *= np.geomspace(1, 1e-2, DIMENSION)
    for name, count in (("one", 6000), ("two", 5000), ("few", 1000)):
        # Rounded to float32, as features are.
        rows = np.abs(random.normal(size=(count, DIMENSION)) @ mixing.T) / 40
        rows = rows.astype(np.float32).astype(np.float64)
        np.savez(
            folder / f"{name}.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False)
        )
        if name == "few":
            np.save(folder / "few.npy", rows)


def standard_error(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """The standard error of the Fréchet distance, beside the distance itself."""
    with workers((our_metrics, folder)) as (us,):
        runs: dict[str, list[Run]] = {"moments": [], "distance": [], "errors": []}
        for _ in range(rounds + 1):
            for work in runs:
                runs[work].append(us.run(work))
    # The first time is another.
    moments, distance, errors = (found[1:] for found in runs.values())
    beyond = [
        Run(with_it.seconds - alone.seconds, with_it.cpu - alone.cpu, None)
        for with_it, alone in zip(errors, distance, strict=True)
    ]
    whole = [
        Run(sums.seconds + alone.seconds, sums.cpu + alone.cpu, None)
        for sums, alone in zip(moments, distance, strict=True)
    ]
    for name, other, goal in (
        ("beside the distance, its sums over the images among it", whole, 1.5),
        ("beside the distance of two statistics", distance, None),
    ):
        text, found = ratios(beyond, other)
        aim = f"goal {goal} at most" if goal else "no goal"
        yield name, {"text": f"{text} times its time, {aim}", "goal": goal, **found}


def infinity(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """FID-infinity of features at hand, beside 15 distances from statistics."""
    with workers((our_metrics, folder), (scipy_roots, folder)) as (us, them):
        us.run("infinity")
        ours, theirs = [], []
        for _ in range(min(rounds, 3)):
            ours.append(us.run("infinity"))
            theirs.append(them.run("fifteen"))
    text, found = ratios(theirs, ours)
    text = f"{text} times as fast as 15 of scipy.linalg.sqrtm alone, goal 20"
    yield "15 points", {"text": text, "goal": 20, **found}


def mind(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """MIND of features at hand, 1,000 directions."""
    if not installed("torch_fidelity", "torch", "torchvision") or not installed(
        "torch_fidelity.metric_mind"
    ):
        yield "torch-fidelity", "left out: its version 0.5 has MIND, 0.4 has not"
        return
    with workers((our_metrics, folder), (torch_fidelity_mind, folder)) as (us, them):
        value, other = us.run("mind").result, them.run("mind").result
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(us.run("mind"))
            theirs.append(them.run("mind"))
    text, found = ratios(ours, theirs)
    text = f"{text} times torch-fidelity's time, goal 1.5 at most; values "
    text += f"{value:.6g} and {other:.6g}, of other directions"
    yield "torch-fidelity", {"text": text, "goal": 1.5, **found}


def _write_features(folder: pathlib.Path, dimension: int, count: int) -> None:
    random = np.random.default_rng(0)
    # Features like pool_3's: correlated, positive, with a falling spectrum.
    mixing = random.normal(size=(dimension, dimension))
    mixing *= np.geomspace(1, 1e-2, dimension)
    for name, scale in (("x", 40), ("y", 38)):
        rows = np.abs(random.normal(size=(count, dimension)) @ mixing.T) / scale
        np.save(folder / f"features_{name}.npy", rows.astype(np.float32))


def folder_of_pngs(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """A folder of 500 PNGs from end to end."""
    from PIL import Image

    (folder / "png").mkdir()
    for index, image in enumerate(_images(500)):
        Image.fromarray(image).save(folder / "png" / f"{index:03}.png")
    with workers((our_folder, folder)) as (us,):
        us.run("alone")
        runs: dict[str, list[Run]] = {"folder": [], "alone": []}
        for _ in range(rounds):
            for work in runs:
                runs[work].append(us.run(work))
    text, found = ratios(runs["folder"], runs["alone"])
    yield (
        "500 PNGs of 32x32",
        {"text": f"{text} times the extractor alone, goal 1.10", "goal": 1.1, **found},
    )


def memory(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """Peak memory for 50,000 images against 5,000, with a cheap extractor."""
    peaks = {}
    for count in (5_000, 50_000):
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_peak, args=(theirs, count))
        process.start()
        peaks[count] = mine.recv()
        process.join()
    growth = peaks[50_000] - peaks[5_000]
    yield (
        "50,000 against 5,000 images",
        {
            "text": f"peak grows by {growth:.0f} MB, from {peaks[5_000]:.0f} MB; goal "
            "below 50 MB (FID alone; KID keeps 8 KB an image)",
            "peak_mb": {str(count): peak for count, peak in peaks.items()},
            "goal": 50,
        },
    )


def _peak(connection: Connection, count: int) -> None:
    from fid.measure import compute_statistics
    from fid.sources.images import Source

    class Random(Source):
        """Images made as they are asked for."""

        label, lossy, provenance = "random", 0, {}

        def __init__(self, count: int):
            self.count = count

        def batches(self, size: int) -> Iterator[np.ndarray]:
            random = np.random.default_rng(0)
            for start in range(0, self.count, size):
                shape = (min(size, self.count - start), 32, 32, 3)
                yield random.integers(0, 256, shape, np.uint8)

    class Pixels:
        """The first 2048 pixels as features."""

        name, dimension, channels = "pixels", DIMENSION, 3
        fingerprint, protocol = "", {}

        def __call__(self, images: np.ndarray) -> np.ndarray:
            images = np.asarray(images).reshape(len(images), -1)
            return images[:, :DIMENSION].astype(np.float32)

    compute_statistics(Random(count), Pixels(), batch_size=250)
    connection.send(peak_mb())


def neighbours(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """Precision, recall, density, coverage and realism of two sets of 10,000."""
    random = np.random.default_rng(0)
    # As many directions as pool_3's features of a data set vary in, more or less.
    mixing = random.normal(size=(64, DIMENSION)).astype(np.float32)
    for name, scale in (("real", 1.0), ("generated", 0.9)):
        latents = scale * random.normal(size=(NEIGHBOURS, 64)).astype(np.float32)
        noise = random.normal(size=(NEIGHBOURS, DIMENSION)).astype(np.float32)
        np.save(folder / f"{name}.npy", np.maximum(latents @ mixing / 8 + noise / 2, 0))
    with workers((our_neighbours, folder)) as (us,):
        taken = us.run("memory").result
        names = ("all", "adm", "products")
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for _ in range(min(rounds, 3)):
            for name in names:
                runs[name].append(us.run(name))
    text, found = ratios(runs["all"], runs["products"])
    seconds = np.median([run.seconds for run in runs["all"]])
    yield (
        "all five, beside three matrix products",
        {
            "text": f"{text} times their time, goal 1.3; {seconds:.2f} s; {taken:.0f} "
            "MB beyond the features, goal below 500 MB",
            "goal": 1.3,
            "memory_mb": taken,
            **found,
        },
    )
    text, found = ratios(runs["adm"], runs["products"])
    yield (
        "with the float16 of the variant adm",
        {"text": f"{text} times their time, no goal", **found},
    )
    peers = {
        "scikit-learn, the way of dgm-eval": (sklearn_neighbours, "sklearn", 3),
        "torch-fidelity": (torch_fidelity_neighbours, "torch_fidelity", 1.5),
    }
    for name, (contestant, package, goal) in peers.items():
        if not installed(package):
            yield name, "left out: pip install -r requirements-bench.txt"
            continue
        with workers((our_neighbours, folder), (contestant, folder)) as (us, them):
            ours, theirs = [us.run("all")], [them.run("all")]
            for _ in range(min(rounds, 3)):
                ours.append(us.run("all"))
                theirs.append(them.run("all"))
        text, found = ratios(theirs[1:], ours[1:])
        yield (
            name,
            {
                "text": f"{text} times as fast, goal {goal}; ours "
                f"{np.round(ours[0].result, 4).tolist()}, theirs "
                f"{np.round(theirs[0].result, 4).tolist()}",
                "goal": goal,
                **found,
            },
        )


def startup(folder: pathlib.Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """Start-up of `python -m fid a.npz b.npz`: with 4 features, nearly all there is."""
    paths = []
    for seed in (0, 1):
        rows = np.random.default_rng(seed).normal(size=(50, 4))
        paths.append(folder / f"small_{seed}.npz")
        np.savez(paths[-1], mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    commands = {"fid": ["-m", "fid", *map(str, paths)], "python": ["-c", "pass"]}
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, arguments in commands.items():
            start, cpu = time.perf_counter(), _children_seconds()
            subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True
            )
            seconds, cpu = time.perf_counter() - start, _children_seconds() - cpu
            runs[name].append(Run(seconds, cpu, None))
    # The first time, the files are not in the system's cache yet.
    ours, python = (runs[name][1:] for name in ("fid", "python"))
    seconds, cpu, _ = zip(*ours, strict=True)
    alone = np.median([run.seconds for run in python])
    yield (
        "python -m fid a.npz b.npz",
        {
            "text": f"{np.median(seconds):.2f} s ({min(seconds):.2f}-"
            f"{max(seconds):.2f}), {np.median(cpu):.2f} s of processor time, goal "
            f"below 1 s; python alone {alone:.2f} s",
            "seconds": seconds,
            "cpu": cpu,
            "goal": 1.0,
        },
    )


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


ROWS = {
    "extractor": extractor,
    "frechet": frechet,
    "standard_error": standard_error,
    "infinity": infinity,
    "mind": mind,
    "folder": folder_of_pngs,
    "memory": memory,
    "neighbours": neighbours,
    "startup": startup,
}


# --- The program -------------------------------------------------------------------


def main(args: list[str], values: flags.FlagValues) -> None:
    """Runs the rows that were asked for, and prints them."""
    if args:
        raise flags.Error(f"there is nothing to do with {args[0]!r}")
    if unknown := [name for name in values.work if name not in ROWS]:
        raise flags.Error(
            f"--work has no {unknown[0]!r}: choose from {', '.join(ROWS)}"
        )
    if values.json:
        check_writable(values.json)
    prepare_environment()
    found: dict[str, Any] = {
        "machine": machine(
            "tensorflow", "scipy", "torch", "pytorch-fid", "torch-fidelity"
        )
    }
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if {"extractor", "folder"} & set(values.work):
            _graph(values.inception, folder)
        if {"standard_error", "infinity", "mind"} & set(values.work):
            _write_features(folder, values.dimension, values.images)
        for work in values.work:
            print(f"\n{work}: {ROWS[work].__doc__}", flush=True)
            found[work] = {}
            for name, row in ROWS[work](folder, values.rounds):
                text = row if isinstance(row, str) else row.pop("text")
                print(f"  {name}: {text}", flush=True)
                found[work][name] = row
    if values.json:
        write_json(values.json, found)


def _graph(inception: str | None, folder: pathlib.Path) -> None:
    """Puts the graph, and its weights as arrays for PyTorch, into the folder."""
    writer = ROOT / "tests" / "synthetic_graph.py"
    if inception:
        source = pathlib.Path(inception).resolve()
        (folder / "graph.pb").symlink_to(source)
    elif writer.exists():
        subprocess.run(
            [sys.executable, writer, folder / "graph.pb"],
            check=True,
            capture_output=True,
        )
    else:
        raise InputError(
            f"{writer} does not exist, so no synthetic graph can be made; name the "
            "graph with --inception."
        )
    from fid.extractors.graph import load_graph

    blocks = load_graph(folder / "graph.pb").blocks.values()
    keys = ("kernel", "beta", "gamma", "moving_mean", "moving_variance")
    np.savez(
        folder / "weights.npz",
        **{f"{i}/{key}": getattr(b, key) for i, b in enumerate(blocks) for key in keys},
    )


def define(flag: Flags) -> None:
    """Defines the flags."""
    flag.texts("work", list(ROWS), "Rows to measure.")
    flag.inception("The 2015 graph; by default a synthetic one like it.")
    flag.number("dimension", DIMENSION, "Features an image, of features at hand.")
    flag.number("images", 5000, "Images a set, of features at hand.", least=2)
    flag.number("rounds", 5, "Rounds of each row.", least=1)
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))

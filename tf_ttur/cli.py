"""The command-line programs that train; each is a main with flags of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

from absl import flags

from fid.cli import run
from fid.files import InputError, cache_dir
from fid.versions import versions
from tf_ttur import presets
from tf_ttur.settings import override

__all__ = ["compilation_cache", "reproduce", "train"]


def train(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        if args:
            raise flags.Error(f"unexpected argument {args[0]!r}")
        if values.list_presets:
            print(presets.table())
            return
        if values.describe:
            print(presets.describe(values.preset))
            return
        preset = presets.get(values.preset)
        changes = {key: values[key].value for key in _OVERRIDES}
        if changes["text_files"] is not None and changes["dataset"] is None:
            changes["dataset"] = "text_files"
        if changes["dataset"] not in (None, preset.dataset):
            # The size and the part that the data set has in the paper.
            preset = dataclasses.replace(preset, image_size=None, split=None)
        for setting in values.set:
            if (key := setting.partition("=")[0]) in _OVERRIDES:
                raise InputError(
                    f"--set={setting}: {key} has a flag of its own: --{key}."
                )
        preset = override(preset.override(**changes), values.set)
        if values.original_quirks:
            preset = preset.with_original_quirks()
        if values.dry_run:
            from tf_ttur import datasets, losses
            from tf_ttur.datasets import text as text_data

            if preset.network == "text":
                text_data.check(preset.dataset, preset.text_files, preset.unit)
            else:
                datasets.check_name(preset.dataset)
            losses.get(preset.loss)
            print(json.dumps(dataclasses.asdict(preset), indent=2))
            return
        compilation_cache()
        # TensorFlow is imported here, not for --help.
        from tf_ttur import experiment

        workdir = pathlib.Path(values.workdir or f"runs/{preset.name}")
        summary = experiment.run(
            preset, workdir, values.data_dir, values.inception, values.download
        )
        print(report(summary, workdir))

    usage = """Trains a GAN with two time scales and measures it as it goes.

  train.py [--preset=NAME] [--workdir=DIR] [flags]

Without flags: a DCGAN on the digits that scikit-learn ships, in minutes. On text:
--preset=text_wgan_gp_ttur, with --text_files for your own. Starting again in the same
folder goes on where it stopped. What XLA compiles is kept in the folder xla
of the cache folder ($TTUR_CACHE, else ~/.cache/tf-ttur) for the next start."""
    return run(main, _define, usage, argv)


def compilation_cache() -> pathlib.Path | None:
    """Has XLA keep the programs it compiles, so that the next start is quicker.

    It takes effect only before TensorFlow is imported, through TF_XLA_FLAGS, and leaves
    that alone where it already names a cache.

    Returns:
        The folder, one for each kind of processor and release of TensorFlow; None where
        there is none.
    """
    given = os.environ.get("TF_XLA_FLAGS", "")
    if "tf_xla_persistent_cache_directory" in given or "tensorflow" in sys.modules:
        return None
    # Programs are machine code: one for another processor could not run here.
    machine = platform.machine() + versions("tensorflow")["tensorflow"]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        machine += next((x for x in file if x.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(machine.encode()).hexdigest()[:12]
    folder = cache_dir() / "xla" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # slower, and otherwise the same
    if any(map(str.isspace, str(folder))):
        return None  # TensorFlow would take it for two flags
    os.environ["TF_XLA_FLAGS"] = (
        f"{given} --tf_xla_persistent_cache_directory={folder}"
        " --tf_xla_persistent_cache_device_types=CPU"
    ).strip()
    return folder


def report(summary: dict, workdir: pathlib.Path) -> str:
    """Says in three lines what a run came to.

    Args:
        summary: What `experiment.run` returned.
        workdir: The run folder.

    Returns:
        The lines: where things are, the distances, how to look.
    """
    key, start, best = summary["metric"], summary["start"], summary["best"]
    name = summary["metric_title"]
    shown = "{:.4g}" if key.startswith("jsd_") else "{:.2f}"
    values = [shown.format(point[key]) for point in (start, best)]
    count = f"n = {summary['num_samples']:,}"
    if f"{key}_floor" in summary:
        floor = shown.format(summary[f"{key}_floor"])
        count += f"; as many real lines: {floor}"
    ending = "txt" if key.startswith("jsd_") else "png"
    last = f"{workdir}/samples/step_{summary['last']['step']:08d}.{ending}"
    return "\n".join(
        (
            f"Run folder: {workdir} (config.json, metrics.jsonl, samples/, "
            "checkpoints/, best/, curve.png, summary.json)",
            f"{name}: {values[0]} at step {start['step']}, {values[1]} at the best "
            f"step {best['step']} ({count})",
            f"Look: {last} and {workdir}/curve.png, or "
            f"tensorboard --logdir={workdir}/tensorboard",
        )
    )


# Flags that replace a setting of the preset.
_OVERRIDES = (
    "dataset",
    "text_files",
    "unit",
    "steps",
    "batch_size",
    "loss",
    "discriminator_lr",
    "generator_lr",
    "seed",
)


def _define(values: flags.FlagValues) -> None:
    def text(name: str, default: str | None, what: str) -> None:
        flags.DEFINE_string(name, default, what, flag_values=values)

    def number(name: str, what: str) -> None:
        flags.DEFINE_integer(name, None, what, flag_values=values)

    def rate(name: str, what: str) -> None:
        flags.DEFINE_float(name, None, what, flag_values=values)

    def switch(name: str, what: str) -> None:
        flags.DEFINE_bool(name, False, what, flag_values=values)

    text("preset", presets.DEFAULT, "The experiment; --list_presets names them.")
    text("workdir", None, "The run folder; by default runs/PRESET.")
    text(
        "dataset",
        None,
        "Images: digits, cifar10, svhn_cropped, celeb_a, lsun/bedroom or folder. Text: "
        "pydoc_topics (Python's own help), lm1b (One Billion Word) or text_files.",
    )
    text(
        "text_files",
        None,
        "Text to train on: a pattern, in quotes, such as 'books/*.txt'; a line is a "
        "sample.",
    )
    text("unit", None, "What a symbol of text is: characters or bytes.")
    text(
        "data_dir",
        None,
        "Where the data set is: the folder that TFDS prepared it in, or that of the "
        "images; for lsun/bedroom also that of its LMDB (bedroom_train_lmdb, needs the "
        "extra lsun) or of folders 0, 1, ... of images; for lm1b also that of the "
        "authors' two folders of shards.",
    )
    number("steps", "Generator updates in all.")
    number("batch_size", "Images, or lines of text, per discriminator update.")
    text("loss", None, "non_saturating, minimax, wasserstein or tfgan:NAME.")
    rate("discriminator_lr", "The discriminator's learning rate (b in the paper).")
    rate("generator_lr", "The generator's learning rate (a in the paper).")
    text(
        "inception",
        None,
        "The 2015 graph, classify_image_graph_def.pb, to measure FID with. Without it: "
        "$TTUR_INCEPTION, then the cache folder, then a download; for the digits, a "
        "small classifier is used instead.",
    )
    number("seed", "Seed of weights, data order and latents.")
    flags.DEFINE_multi_string(
        "set",
        [],
        "KEY=VALUE: any other setting that --dry_run shows, such as --set=width=32; "
        "may be given several times.",
        flag_values=values,
    )
    switch("download", "Let TensorFlow Datasets download a data set that is missing.")
    switch(
        "original_quirks",
        "Train and measure with the original's accidents, too; --describe names them.",
    )
    switch("list_presets", "Print all presets and stop.")
    switch("describe", "Print what the preset should come to, and stop.")
    switch("dry_run", "Print the settings and stop.")


def reproduce(argv: Sequence[str] | None = None) -> int:
    """Runs `reproduce.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        if args:
            raise flags.Error(f"unexpected argument {args[0]!r}")
        name = values.preset
        pairs = [x.removesuffix("_ttur") for x in presets.PRESETS if "_ttur" in x]
        if name not in pairs:
            raise InputError(
                f"There is no experiment {name!r}; choose from {', '.join(pairs)}."
            )
        compilation_cache()
        # TensorFlow is imported here, not for --help.
        from tf_ttur.studies import reproduce

        results = reproduce.reproduce(
            name,
            values.seeds,
            values.workdir or f"runs/{name}",
            values.data_dir,
            values.inception,
            values.original_quirks,
            steps=values.steps,
        )
        for setting, ours in results.items():
            if ours["diverged"]:
                print(
                    f"{name}_{setting}: {len(ours['diverged'])} of {ours['runs']} runs "
                    "diverged; the mean curve ends where the first did.",
                    file=sys.stderr,
                )
            print(reproduce.row(f"{name}_{setting}", ours))

    usage = """Reproduces an experiment of the paper; prints its rows of results.md.

  reproduce.py --preset=NAME --data_dir=DIR [--inception=PB] [flags]

Trains NAME_ttur and NAME_orig of train.py --list_presets with several seeds, one run
after the other, into WORKDIR/PRESET/seed_N. Starting again goes on where it stopped.
Nobody has run it on the paper's data yet, only on the digits."""
    return run(main, _define_reproduce, usage, argv)


def _define_reproduce(values: flags.FlagValues) -> None:
    def text(name: str, default: str | None, what: str) -> None:
        flags.DEFINE_string(name, default, what, flag_values=values)

    def number(name: str, default: int | None, what: str) -> None:
        flags.DEFINE_integer(name, default, what, lower_bound=1, flag_values=values)

    text("preset", "digits_dcgan", "The experiment, without _ttur and _orig.")
    number("seeds", 8, "Runs of each setting.")
    text("workdir", None, "Where the runs go; by default runs/NAME.")
    text("data_dir", None, "Where the data set is: TFDS's folder, or that of images.")
    text("inception", None, "The 2015 graph; as for train.py.")
    number("steps", None, "Generator updates in all; by default the preset's.")
    flags.DEFINE_bool(
        "original_quirks",
        False,
        "Train and measure with the original's accidents, too.",
        flag_values=values,
    )

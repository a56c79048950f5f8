"""The command-line programs that train; each is a main with flags of its own."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from fid.files import InputError
from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur import presets, tasks
from tf_ttur.compilation import compilation_cache
from tf_ttur.presets.settings import override
from tf_ttur.studies import machines

__all__ = ["report", "reproduce", "train"]


def train(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        if values.list_presets:
            print(presets.table())
            return
        preset = _chosen(values)
        if values.describe:
            print(presets.describe(values.preset))
            return
        workdir = local_path(values.workdir or f"runs/{preset.name}", writing=True)
        if values.dry_run:
            tasks.of(preset, teacher=values.teacher).check()
            print(json.dumps(preset.settings(), indent=2))
            return
        compilation_cache()
        # TensorFlow is imported here, not for --help.
        from tf_ttur import experiment

        summary = experiment.run(
            preset,
            workdir,
            data_dir=values.data_dir,
            inception=values.inception,
            download=values.download,
            teacher=values.teacher,
        )
        print(report(summary, workdir, tasks.of(preset)))

    usage = """Trains a GAN with two time scales and measures it as it goes.

  train.py [--preset=NAME] [--workdir=DIR] [flags]

Without flags: a DCGAN on the digits that scikit-learn ships, in minutes. On text:
--preset=text_wgan_gp_ttur, with --text_files for your own. Few-step diffusion:
--preset=digits_edm_teacher, then --preset=digits_flash_dmd --teacher=RUN. Of Stable
Diffusion 3: --preset=sd3_medium_flash_dmd --data_dir=FOLDER. A run that is started
again in the same folder resumes. What XLA compiles is kept in the folder xla of the
cache folder ($TTUR_CACHE, else ~/.cache/tf-ttur) for the next start."""
    return run(main, _define, usage, argv)


def _chosen(values: flags.FlagValues) -> presets.Preset:
    """Returns the preset with all that the flags change in it."""
    preset = presets.get(values.preset)
    changes = {key: values[key].value for key in _OVERRIDES}
    if changes["text_files"] is not None and changes["dataset"] is None:
        changes["dataset"] = "text_files"
    if changes["dataset"] is not None:
        preset = preset.with_dataset(changes.pop("dataset"))
    for setting in values.set:
        if (key := setting.partition("=")[0]) in _OVERRIDES:
            raise InputError(f"--set={setting}: {key} has a flag of its own: --{key}.")
    preset = override(preset, values.set, **changes)
    return preset.with_original_quirks() if values.original_quirks else preset


def report(summary: dict[str, Any], workdir: pathlib.Path, task: tasks.Task) -> str:
    """Says in three lines what a run came to.

    Args:
        summary: What `experiment.run` returned.
        workdir: The run folder.
        task: What was trained.

    Returns:
        The lines: where things are, the distances, how to look.
    """
    key, start, best = summary["metric"], summary["start"], summary["best"]
    name = summary["metric_title"]
    values = [task.value_format.format(point[key]) for point in (start, best)]
    count = f"n = {summary['num_samples']:,}"
    if f"{key}_floor" in summary:
        floor = task.value_format.format(summary[f"{key}_floor"])
        count += f"; as many real lines: {floor}"
    last = f"{workdir}/samples/step_{summary['last']['step']:08d}{task.suffix}"
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
    "rl_from",
    "seed",
)


def _define(flag: Flags) -> None:
    flag.text("preset", presets.DEFAULT, "The experiment; --list_presets names them.")
    flag.text("workdir", None, "The run folder; by default runs/PRESET.")
    flag.text(
        "dataset",
        None,
        "Images: digits, cifar10, svhn_cropped, celeb_a, celeb_a_squashed, "
        "imagenet2012, lsun/bedroom, folder or captioned_folder. Text: pydoc_topics "
        "(Python's own help), lm1b (One Billion Word) or text_files.",
    )
    flag.text(
        "text_files",
        None,
        "Text to train on: a pattern, in quotes, such as 'books/*.txt'; a line is a "
        "sample.",
    )
    flag.text("unit", None, "What a symbol of text is: characters or bytes.")
    flag.text(
        "data_dir",
        None,
        "Where the data set is: the folder that TFDS prepared it in, or that of the "
        "images; for lsun/bedroom also that of its LMDB (bedroom_train_lmdb, needs the "
        "extra lsun) or of folders 0, 1, ... of images; for lm1b also that of the "
        "authors' two folders of shards.",
    )
    flag.text(
        "teacher",
        None,
        "The model to distil, of a --preset that distils one: a run folder of "
        "diffusion, whose best checkpoint is taken, or a .keras file.",
    )
    flag.number("steps", None, "Generator updates in all.")
    flag.number(
        "rl_from",
        None,
        "The step from which a student learns preferences, too, of a --preset that "
        "distils: a multiple of the setting every.",
    )
    flag.batch_size("Images, or lines of text, per discriminator update.", None, None)
    flag.text(
        "loss",
        None,
        "non_saturating, minimax, wasserstein, hinge, relativistic or tfgan:NAME; "
        "non_saturating:0.1 smooths real labels to 0.9.",
    )
    flag.rate(
        "discriminator_lr", None, "The discriminator's learning rate (b in the paper)."
    )
    flag.rate("generator_lr", None, "The generator's learning rate (a in the paper).")
    flag.inception(
        "The 2015 graph, classify_image_graph_def.pb, to measure FID with. Without it: "
        "$TTUR_INCEPTION, then the cache folder, then a download; for the digits, a "
        "small classifier is used instead.",
    )
    flag.seed("Seed of weights, data order and latents.", None, None)
    flag.repeated(
        "set",
        "KEY=VALUE: any other setting that --dry_run shows, such as --set=width=32; "
        "may be given several times.",
    )
    flag.switch(
        "download", "Let TensorFlow Datasets download a data set that is missing."
    )
    flag.switch(
        "original_quirks",
        "Train and measure with the original's accidents, too; --describe names them.",
    )
    flag.switch("list_presets", "Print all presets and stop.")
    flag.switch("describe", "Print what the preset should come to, and stop.")
    flag.switch("dry_run", "Print the settings and stop.")


def reproduce(argv: Sequence[str] | None = None) -> int:
    """Runs `reproduce.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        name = values.preset
        pairs = [x.removesuffix("_ttur") for x in presets.PRESETS if "_ttur" in x]
        if name not in pairs:
            raise InputError(
                f"There is no experiment {name!r}; choose from {', '.join(pairs)}."
            )
        workdir = local_path(values.workdir or f"runs/{name}", writing=True)
        where = machines.chosen(values)
        compilation_cache()
        # TensorFlow is imported here, not for --help.
        from tf_ttur.studies.reproduce import row, train_pair, warnings

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        results = train_pair(
            name,
            values.seeds,
            workdir,
            values.data_dir,
            values.inception,
            values.original_quirks,
            where,
            say,
            steps=values.steps,
        )
        if results is None:
            say(
                f"Shard {where.shard} is finished, and other shards' runs are not. The "
                "rows are printed by the one that ends last, and by each start after "
                "that."
            )
            return
        for warning in warnings(name, results):
            print(warning, file=sys.stderr)
        for setting, ours in results.items():
            print(row(f"{name}_{setting}", ours))

    usage = """Reproduces an experiment of the paper; prints its rows of results.md.

  reproduce.py --preset=NAME --data_dir=DIR [--inception=PB] [flags]

Trains NAME_ttur and NAME_orig of train.py --list_presets with several seeds, by default
one run after the other, into WORKDIR/PRESET/seed_N. A run that is cut resumes when this
is started again. What a run shows while it trains is in WORKDIR/worker_0.log.
Nobody has run it on the paper's data yet, only on the digits."""
    return run(main, _define_reproduce, usage, argv)


def _define_reproduce(flag: Flags) -> None:
    flag.text("preset", "digits_dcgan", "The experiment, without _ttur and _orig.")
    flag.number("seeds", 8, "Runs of each setting.", least=1)
    machines.define(flag)
    flag.text("workdir", None, "Where the runs go; by default runs/NAME.")
    flag.text(
        "data_dir", None, "Where the data set is: TFDS's folder, or that of images."
    )
    flag.inception("The 2015 graph; as for train.py.")
    flag.number(
        "steps", None, "Generator updates in all; by default the preset's.", least=1
    )
    flag.switch(
        "original_quirks", "Train and measure with the original's accidents, too."
    )

"""The command-line program that sweeps over settings and seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from fid.files import InputError
from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur import presets
from tf_ttur.compilation import compilation_cache
from tf_ttur.presets.settings import override
from tf_ttur.studies import machines, variants

__all__ = ["sweep"]


def sweep(argv: Sequence[str] | None = None) -> int:
    """Runs `sweep.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        # These import TensorFlow, which --help can do without.
        from tf_ttur.studies import sweep_results
        from tf_ttur.studies.sweep import Sweep, grid, run_sweep, variants_of

        workdir = local_path(values.workdir, writing=not values.table_only)
        if values.table_only:
            print(sweep_results.report(workdir))
            return
        settings = [
            f"{key}={values[key].value}"
            for key in ("steps", "every", "num_samples")
            if values[key].value is not None
        ]
        preset = override(presets.get(values.preset), settings + values.set)
        named = variants.read(values.variant, values.vary)
        for key in {x.partition("=")[0] for x in values.vary}:
            if given := [x for x in settings if x.startswith(f"{key}=")]:
                raise InputError(
                    f"{given[0]}: --vary={key} varies it; leave one of them out."
                )
        cells = grid(
            _rates("discriminator_lr", values.discriminator_lr),
            _rates("generator_lr", values.generator_lr),
            [_pair(text) for text in values.pairs],
        )
        wanted = Sweep(
            preset,
            dict.fromkeys([*cells, *variants_of(preset, named)], values.seeds),
            values.data_dir,
            values.inception,
            values.teacher,
        )
        where = machines.chosen(values)
        compilation_cache()

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        try:
            run_sweep(wanted, workdir, where, say)
        except InputError:
            if (workdir / "sweep.json").exists():
                say(f"What there is: sweep.py --workdir={workdir} --table_only")
            raise
        if where.shard is not None and (left := sweep_results.missing(workdir)):
            say(
                f"Shard {where.shard} is finished, and {left} runs of the sweep are "
                "not. The table, when they are: "
                f"sweep.py --workdir={workdir} --table_only"
            )
            return
        print(sweep_results.report(workdir))

    usage = """Trains a preset with a grid of settings, each several times.

  sweep.py --workdir=DIR --discriminator_lr=X,Y --generator_lr=X,Y [flags]
      every pair of a GAN's learning rates; the table compares pairs with single rates
  sweep.py --workdir=DIR --preset=NAME --vary=KEY=X,Y --vary=KEY=X,Y [flags]
      every combination of any settings of any preset; of one that distils,
      with --teacher=RUN
  sweep.py --workdir=DIR --preset=NAME --variant=NAME:KEY=X,KEY=Y [flags]
      named variants, each with several settings; and the combinations of --vary

A sweep that is started again in the same folder resumes; more rates, values, variants
or seeds add runs. At the end, or with --table_only, the table (table.md, table.json)
and the figures (curves.png; heatmap.png of pairs of rates, and where two settings are
varied) are made of what is finished. Of several shards (--shard), the one that ends
last makes them."""
    return run(main, _define, usage, argv)


def _rates(name: str, texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--{name}={','.join(texts)}: {error}.") from error


def _pair(text: str) -> tuple[float, float]:
    try:
        discriminator, generator = map(float, text.split(":"))
    except ValueError as error:
        raise InputError(
            f"--pairs: {text!r} is not of the form DISCRIMINATOR:GENERATOR, such as "
            "3e-4:1e-4."
        ) from error
    return discriminator, generator


def _define(flag: Flags) -> None:
    flag.text("preset", presets.DEFAULT, "The experiment; train.py --list_presets.")
    flag.text("workdir", "runs/sweep", "The sweep's folder.")
    flag.texts(
        "discriminator_lr", [], "The discriminator's learning rates, with commas."
    )
    flag.texts("generator_lr", [], "The generator's learning rates, with commas.")
    flag.texts("pairs", [], "Further pairs DISCRIMINATOR:GENERATOR, with commas.")
    variants.define(flag)
    flag.number(
        "seeds", 4, "Runs of each pair of rates or variant; their seeds are 0, 1, ..."
    )
    machines.define(flag)
    flag.number("steps", None, "Steps of each run.")
    flag.number("every", None, "Steps between measurements.")
    flag.number("num_samples", None, "Generated images in a measurement.")
    flag.repeated(
        "set",
        "KEY=VALUE: any other setting of the preset, such as --set=ema_decay=0; may be "
        "given several times.",
    )
    flag.text("data_dir", None, "Where the data set is; see train.py.")
    flag.text(
        "teacher",
        None,
        "The model to distil, of a --preset that distils one; see train.py.",
    )
    flag.inception("The 2015 graph, to measure FID with; see train.py.")
    flag.switch("table_only", "Train nothing; tell what there is.")

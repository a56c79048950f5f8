"""The command-line program that samples from a trained generator."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur.runs import RunFolder

__all__ = ["sample"]


def sample(argv: Sequence[str] | None = None) -> int:
    """Runs `sample.py WORKDIR`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args, 1, "one run folder")
        from tf_ttur import tasks

        folder = RunFolder(local_path(args[0]))
        request = tasks.SampleRequest(
            **{name: values[name].value for name in _REQUEST},
            given=frozenset(name for name in _REQUEST if values[name].present),
        )
        print(tasks.of_run(folder).write_samples(folder, request))

    usage = """Writes what the generator of a run makes.

  sample.py WORKDIR [--output=PATH] [flags]

PATH ends in .png: a grid of samples. In .zip: an archive of PNGs, for any tool that
measures FID. Else: a folder of PNGs. Of a run with labels, a grid has a row a class. Of
a run on text, PATH ends in .txt and gets a sample a line. Equal seeds give equal
samples."""
    return run(main, _define, usage, argv)


# Flags that say what to write, as `tasks.SampleRequest` names them.
_REQUEST = (
    "checkpoint",
    "output",
    "num_samples",
    "seed",
    "grid",
    "interpolate",
    "batch_size",
    "quantize",
    "labels",
    "sampler",
    "steps",
    "guidance",
    "overwrite",
)


def _define(flag: Flags) -> None:
    largest = 2**31 - 1
    flag.text(
        "checkpoint", "best", "best, last, or the step of a checkpoint that is kept."
    )
    flag.text("output", None, "Where to; by default a grid in the run folder.")
    flag.number(
        "num_samples",
        None,
        "Images for a folder or .zip, or lines; else as in the run.",
        1,
        largest,
    )
    flag.seed("Seed of the latents.", most=largest)
    flag.text(
        "grid",
        "8x8",
        "Rows and columns of a grid or an interpolation. Of a run with labels there "
        "are as many rows as classes, at most 10, where this is not given.",
    )
    flag.switch(
        "interpolate",
        "Each row goes from one sample to another in as many steps as there are "
        "columns.",
    )
    flag.batch_size("Samples at a time; else as in the run.", None, most=largest)
    flag.choice(
        "quantize",
        None,
        ("round", "truncate"),
        "How pixels become whole numbers; else as in the run, or round.",
    )
    flag.texts(
        "labels",
        None,
        "Of a run with labels, which classes: 3, or 0,2,5. A grid has a row for each, "
        "other samples take turns. By default a grid shows all, and other samples are "
        "of classes drawn from the seed.",
    )
    flag.text(
        "sampler",
        None,
        "Of a run of diffusion, how images are made of noise: heun, ddim, euler or "
        "renoise; else as in the run.",
    )
    flag.number("steps", None, "Of a run of diffusion, in how many steps.", 1, 1000)
    flag.rate(
        "guidance", None, "Of a run of diffusion, the scale of guidance; 1 for none."
    )
    flag.switch("overwrite", "Replace a folder of samples.")

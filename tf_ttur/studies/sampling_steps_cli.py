"""The command-line program that measures a run of diffusion in fewer and more steps."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from fid.files import InputError
from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur.compilation import compilation_cache
from tf_ttur.runs import RunFolder

__all__ = ["sampling_steps"]


def sampling_steps(argv: Sequence[str] | None = None) -> int:
    """Runs `sampling_steps.py WORKDIR`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args, 1, "one run folder")
        folder = RunFolder(local_path(args[0]))
        steps = [_count(text) for text in values.steps]
        if not steps:
            raise InputError("--steps: give at least one number.")
        output = values.output or f"{folder}/sampling_steps.jsonl"
        output = local_path(output, writing=True)
        if output.suffix == ".png":
            raise InputError(
                f"--output={output} is the file of the lines, and the figure has its "
                "name with .png: give one that ends in .jsonl."
            )
        compilation_cache()
        # TensorFlow is imported here, not for --help.
        from tf_ttur.studies.sampling_steps import draw, measure, read

        beside = {}
        for each in values.beside:
            path = local_path(each) / "sampling_steps.jsonl"
            if not (others := read(path)):
                raise InputError(
                    f"--beside={each}: {path} has no measurements. Measure that run "
                    "first: sampling_steps.py with its folder."
                )
            beside[path.parent.name] = others
        rows = measure(
            folder,
            output,
            values.samplers,
            steps,
            guidance=values.guidance,
            checkpoint=values.checkpoint,
            num_samples=values.num_samples,
            inception=values.inception,
        )
        picture = output.with_suffix(".png")
        draw(beside | {folder.path.name: rows}, picture)
        print(f"{output} and {picture}")

    usage = """Measures a run of diffusion, or a student, in fewer and more steps.

  sampling_steps.py WORKDIR [--samplers=heun,ddim] [--steps=1,2,4,8,16,32] [flags]

Each measurement is a line of sampling_steps.jsonl in the run folder, and what is there
is not measured again; sampling_steps.png shows the distances against the calls of the
network for an image, beside those of other runs where --beside names their folders."""
    return run(main, _define, usage, argv)


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"--steps: {text!r} is no whole number of at least 1.")
    return int(text)


def _define(flag: Flags) -> None:
    flag.texts(
        "samplers",
        None,
        "heun, ddim, euler (of flows) or renoise; by default the run's own.",
    )
    flag.texts("steps", ["1", "2", "4", "8", "16", "32"], "Numbers of steps.")
    flag.rate(
        "guidance",
        None,
        "The scale of classifier-free guidance, 1 for none; by default the run's own.",
    )
    flag.text(
        "checkpoint", "best", "best, last, or the step of a checkpoint that is kept."
    )
    flag.number("num_samples", None, "Images a measurement; by default the run's.")
    flag.texts(
        "beside", [], "Folders of runs that were measured so, to draw them, too."
    )
    flag.text("output", None, "The file of the lines; by default in the run folder.")
    flag.inception("The 2015 graph, where the run is measured by it.")

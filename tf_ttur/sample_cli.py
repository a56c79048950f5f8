"""The command-line program that samples from a trained generator."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from fid.cli import run
from fid.files import InputError, check_writable, read_object

if TYPE_CHECKING:
    import numpy as np

__all__ = ["sample"]

# Kinds of files that --output cannot mean as the name of a folder.
_OTHER_FILES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".tar", ".txt", ".webp"
)  # fmt: skip


def sample(argv: Sequence[str] | None = None) -> int:
    """Runs `sample.py WORKDIR`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        if len(args) != 1:
            raise flags.Error(f"expected one run folder; got {len(args)}")
        print(_sample(pathlib.Path(args[0]), values))

    usage = """Writes what the generator of a run makes.

  sample.py WORKDIR [--output=PATH] [flags]

PATH ends in .png: a grid of samples. In .zip: an archive of PNGs, for any tool that
measures FID. Else: a folder of PNGs. Of a run on text, PATH ends in .txt and gets a
sample a line. Equal seeds give equal samples."""
    return run(main, _define, usage, argv)


def _sample(workdir: pathlib.Path, values: flags.FlagValues) -> str:
    from tf_ttur import sampling

    if sampling.makes_text(workdir):
        return _sample_text(workdir, values)
    return _sample_images(workdir, values)


def _sample_text(workdir: pathlib.Path, values: flags.FlagValues) -> str:
    from tf_ttur import sampling

    output = pathlib.Path(values.output or workdir / f"{values.checkpoint}.txt")
    if output.suffix.lower() != ".txt":
        raise InputError(
            f"--output={output}: {workdir} is a run on text; expected a .txt."
        )
    for name in ("interpolate", "quantize", "grid", "overwrite"):
        if values[name].present:
            raise InputError(f"--{name} is for images; {workdir} is a run on text.")
    check_writable(output)
    gan, vocabulary = sampling.load_text_run(workdir, values.checkpoint)
    config = read_object(workdir / "config.json")
    count = values.num_samples or config["num_samples"]
    batch_size = values.batch_size or config["sample_batch"]
    lines = gan.generate_text(count, vocabulary, values.seed, batch_size)
    sampling.save_text(output, lines)
    return f"{count:,} lines from step {gan.steps} of {workdir}: {output}"


def _sample_images(workdir: pathlib.Path, values: flags.FlagValues) -> str:
    rows, columns = _grid(values.grid)
    name = f"{values.checkpoint}{'_interpolation' if values.interpolate else ''}.png"
    output = pathlib.Path(values.output or workdir / name)
    kind = output.suffix.lower()
    if kind in _OTHER_FILES:
        raise InputError(
            f"--output={output}: expected a .png, a .zip or the name of a folder."
        )
    if values.num_samples is not None and (values.interpolate or kind == ".png"):
        raise InputError(
            "--num_samples is for a folder or a .zip without --interpolate; the number "
            "of images is that of --grid here."
        )
    # TensorFlow is imported from here on.
    from tqdm import tqdm

    from tf_ttur import sampling

    # Before long work.
    if kind in (".png", ".zip"):
        check_writable(output)
    else:
        sampling.check_folder(output, values.overwrite)
    gan = sampling.load_run(workdir, values.checkpoint)
    config = read_object(workdir / "config.json")
    # What the run was measured with, unless said otherwise.
    rule = values.quantize or config.get("quantize", "none")
    rule = "round" if rule == "none" else rule
    batch_size = values.batch_size or config.get("sample_batch", 250)
    count = rows * columns
    if values.interpolate:
        latents = sampling.interpolation(gan.latent, rows, columns, values.seed)
        latents = latents.reshape(count, -1)
        batches = (
            gan(latents[i : i + batch_size], training=False).numpy()
            for i in range(0, count, batch_size)
        )
    else:
        if kind != ".png":
            count = values.num_samples or config.get("num_samples", 10_000)
        batches = gan.generate_batches(count, values.seed, batch_size)
    images = _as_bytes(batches, rule, gan.steps)
    if kind == ".png":
        import numpy as np

        grid = sampling.image_grid(np.concatenate([*images]), columns)
        sampling.save_png(output, grid)
    else:
        with tqdm(total=count, unit="image", disable=None) as bar:
            sampling.save_images(output, _told(images, bar), count, values.overwrite)
    height, width, channels = gan.sample_shape
    return (
        f"{count:,} images of {width}x{height}x{channels} from step {gan.steps} of "
        f"{workdir}: {output}"
    )


def _as_bytes(
    batches: Iterator[np.ndarray], rule: str, step: int
) -> Iterator[np.ndarray]:
    import numpy as np

    from tf_ttur import sampling

    for batch in batches:
        if not np.isfinite(batch).all():
            raise InputError(
                f"The generator of step {step} makes pixels that are not finite; "
                "choose another --checkpoint."
            )
        yield sampling.to_bytes(batch, rule)


def _told(batches: Iterator[np.ndarray], bar: Any) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text)
    if not found:
        raise InputError(
            f"--grid={text}: expected ROWSxCOLUMNS, such as 8x8, each in 1..999."
        )
    return int(found[1]), int(found[2])


def _define(values: flags.FlagValues) -> None:
    def text(name: str, default: str | None, what: str) -> None:
        flags.DEFINE_string(name, default, what, flag_values=values)

    def number(name: str, default: int | None, what: str, least: int = 1) -> None:
        flags.DEFINE_integer(
            name,
            default,
            what,
            lower_bound=least,
            upper_bound=2**31 - 1,
            flag_values=values,
        )

    def switch(name: str, what: str) -> None:
        flags.DEFINE_bool(name, False, what, flag_values=values)

    text("checkpoint", "best", "best, last, or the step of a checkpoint that is kept.")
    text("output", None, "Where to; by default a grid in the run folder.")
    number(
        "num_samples",
        None,
        "Images for a folder or .zip, or lines; else as in the run.",
    )
    number("seed", 0, "Seed of the latents.", 0)
    text("grid", "8x8", "Rows and columns of a grid or an interpolation.")
    switch(
        "interpolate",
        "Each row goes from one sample to another in as many steps as there are "
        "columns.",
    )
    number("batch_size", None, "Samples at a time; else as in the run.")
    flags.DEFINE_enum(
        "quantize",
        None,
        ("round", "truncate"),
        "How pixels become whole numbers; else as in the run, or round.",
        flag_values=values,
    )
    switch("overwrite", "Replace a folder of samples.")

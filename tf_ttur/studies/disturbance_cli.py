"""The program of the disturbance study, which may need the digits."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from fid.files import InputError, check_writable, printable, write_json
from fid.mistaken import local_path
from fid.program import Flags, one_line, run
from fid.studies.disturbances import DEFINITIONS, LEVELS, contaminants

__all__ = ["disturbance_study", "report"]

_USAGE = """How the Fréchet distance and the Inception Score see six disturbances.

  disturbance_study.py --output=DIR                    the embedded digits, in minutes
  disturbance_study.py IMAGES --output=DIR [flags]     the paper's study, by FID

IMAGES is a folder or zip archive of images, or an .npz or .npy array of images, all of
one size; the paper took CelebA, 64x64, with --num_images=50000 --swirl_radius=70 and a
folder of ImageNet for --contamination. Without IMAGES, the 1,797 digits of scikit-learn
are disturbed and measured by a small classifier of them, or by the 2015 graph if
--inception names it.

Writes DIR/study.json, panel.png (curves) and strips.png (pictures). A study that
is started again with the same flags resumes."""

# Digits that are disturbed; the reference is all 1,797, as it was all of CelebA.
_DIGITS = 1000


def disturbance_study(argv: Sequence[str] | None = None) -> int:
    """Runs `disturbance_study.py [IMAGES] --output=DIR`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        if len(args) > 1:
            raise flags.Error(f"expected one set of images; got {len(args)}")
        if not values.output and not values.dry_run:
            raise flags.Error("--output=DIR is missing")
        output = local_path(values.output or "", writing=True)
        levels = _numbers(values.levels)
        from fid.measure import open_set
        from fid.studies import disturbance_study as study

        source = _digits() if not args else _opened(args[0], values)
        num_images = values.num_images
        if num_images is None and not args:
            num_images = _DIGITS
        plan = study.make_plan(
            source,
            disturbances=values.disturbances,
            levels=levels,
            num_images=num_images,
            definition=values.definition,
            swirl_radius=values.swirl_radius,
            seed=values.seed,
            splits=values.is_splits,
        )
        contamination = _contamination(values.contamination, plan, not args)
        reference = values.reference
        if reference is not None:
            reference = open_set(reference, value_range=values.value_range)
        if values.dry_run:
            cells = [f"{name} {level:g}" for name, level in plan.cells]
            found = {
                "images": source.label,
                "num_images": plan.num_images,
                "definition": plan.definition,
                "levels": {k: list(v) for k, v in plan.levels.items()},
                "cells": cells,
                "images_to_measure": len(cells) * plan.num_images,
            }
            print(json.dumps(found, indent=2))
            return
        check_writable(output / "study.json")
        extractor = _extractor(values, source, digits=not args)
        found = study.run(
            source,
            extractor,
            plan,
            output,
            reference=reference,
            contamination=contamination,
            batch_size=values.batch_size,
            progress=True,
        )
        from fid.studies import disturbance_figures as figures

        figures.panel(found, output / "panel.png", values.ind)
        shown = study.pictures(source, plan, contamination=contamination)
        figures.strips(shown, plan.levels, output / "strips.png")
        write_json(output / "study.json", found.as_json())
        for warning in found.warnings:
            print(one_line(f"warning: {warning}"), file=sys.stderr)
        for curve in found.curves:
            for low, high in curve.falls:
                text = (
                    f"{curve.name}: the distance does not rise from {low:g} to {high:g}"
                )
                print(one_line(f"note: {text}"), file=sys.stderr)
        if values.json:
            print(json.dumps(found.as_json(), allow_nan=False))
        else:
            print(report(found, values.ind))
            names = "study.json, panel.png, strips.png"
            print(f"\n{printable(output)}: {names}")

    return run(main, _define, _USAGE, argv)


def report(study: Any, ind: str = "levels") -> str:
    """Returns the table that `disturbance_study.py` prints.

    Args:
        study: A `fid.studies.disturbance_study.Study`.
        ind: A member of `fid.studies.disturbance_study.INDS`.

    Returns:
        A line a level, with the published numbers (of CelebA) on the right.
    """
    found = study.as_json()
    row = "{:14} {:>6} {:>12} {:>9} {:>9}   {:>6} {:>6}"
    names = (found["metric"], "IS", f"IND ({ind})", "FID*", "IS*")
    lines = [row.format("disturbance", "level", *names)]
    for curve in found["disturbances"]:
        for each in curve["levels"]:
            published = each.get("published")
            score = each.get("score")
            cells = (
                f"{each['distance']:.4f}",
                f"{score['mean']:.3f}" if score else "",
                f"{each['ind'][ind]:.3f}" if score else "",
                f"{published['fid']:g}" if published else "",
                f"{published['score']:g}" if published else "",
            )
            lines.append(row.format(curve["disturbance"], f"{each['level']:g}", *cells))
    return "\n".join([*lines, f"* published: {found['published_from']}"])


def _opened(path: str, values: flags.FlagValues) -> Any:
    from fid.sources.images import open_images

    return open_images(path, value_range=values.value_range, recursive=values.recursive)


def _numbers(texts: Sequence[str] | None) -> list[float] | None:
    if texts is None:
        return None
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise flags.Error(f"--levels={','.join(texts)}: expected numbers") from error


# The digits ---------------------------------------------------------------------------


def _digits() -> Any:
    from fid.sources.images import ArraySource
    from tf_ttur.compilation import compilation_cache

    compilation_cache()
    from tf_ttur import datasets

    images = np.concatenate(list(datasets.load("digits").images()))
    return ArraySource(images, "digits")


def _contamination(folder: str | None, plan: Any, digits: bool) -> Any:
    wanted = "contamination" in plan.levels
    if folder is not None and not wanted:
        raise flags.Error("--contamination goes with the disturbance contamination")
    if not wanted or folder is not None:
        return folder
    if not digits:
        others = ",".join(name for name in plan.levels if name != "contamination")
        raise InputError(
            "Contamination needs a second set of images: name its folder with "
            f"--contamination, or leave it out with --disturbances={others}."
        )
    return _photographs()


def _photographs() -> np.ndarray:
    """Returns grey tiles of the photographs that scikit-image ships, (n, 32, 32, 1)."""
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise InputError(
            "The photographs that contaminate the digits come with scikit-image, which "
            "is not installed: pip install 'tf-ttur[disturbances]'."
        ) from error
    tiles = []
    for name in ("astronaut", "camera", "chelsea", "coffee", "rocket"):
        image = getattr(data, name)()
        if image.ndim == 2:
            image = image[..., np.newaxis]
        height, width = (length // 32 * 32 for length in image.shape[:2])
        rows, columns = height // 32, width // 32
        image = image[:height, :width].reshape(rows, 32, columns, 32, -1)
        image = image.transpose(0, 2, 1, 3, 4).reshape(rows * columns, 32, 32, -1)
        tiles.append(contaminants(image, (32, 32, 1), len(image)))
    return np.concatenate(tiles)


class _Classifier:
    """The digits classifier as an extractor that gives its classes, too."""

    def __init__(self, images: np.ndarray):
        import keras
        from sklearn.datasets import load_digits

        from tf_ttur.networks.classifier import digits_classifier

        found = digits_classifier(images, load_digits().target)
        self._features = found.extractor
        self.name, self.dimension = found.extractor.name, found.extractor.dimension
        self.channels = found.extractor.channels
        self.fingerprint = found.extractor.fingerprint
        self.protocol = found.extractor.protocol
        model = keras.models.load_model(found.path, compile=False)
        self._kernel, self._bias = model.get_layer("logits").get_weights()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._features(images)

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = self._features(images)
        return features, features @ self._kernel + self._bias


def _extractor(values: flags.FlagValues, source: Any, digits: bool) -> Any:
    if digits and values.inception is None:
        return _Classifier(np.concatenate(list(source.batches(256))))
    from fid.extractors.inception import Inception

    return Inception(values.inception, values.batch_size)


def _define(flag: Flags) -> None:
    from fid.sources.images import VALUE_RANGES

    flag.text("output", None, "The folder of the study.")
    flag.texts(
        "disturbances",
        list(LEVELS),
        f"Which of {', '.join(LEVELS)}, with commas.",
    )
    flag.texts(
        "levels",
        None,
        "Levels of all these disturbances, with commas. Without it: the paper's four "
        "of each.",
    )
    flag.number(
        "num_images",
        None,
        f"Images to disturb (the paper: 50000). Without it: all; {_DIGITS} digits.",
        least=2,
    )
    flag.text(
        "reference",
        None,
        "What distances are measured from: a file of statistics, or images. Without "
        "it: all of IMAGES.",
    )
    flag.text(
        "contamination",
        None,
        "The images that replace others. For the digits, without it: tiles of the "
        "photographs that scikit-image ships.",
    )
    flag.inception(
        "The 2015 graph, classify_image_graph_def.pb. Without it, for IMAGES: "
        "$TTUR_INCEPTION, then the cache folder, then a download; for the digits: a "
        "small classifier of them.",
    )
    flag.choice(
        "definition",
        "code",
        DEFINITIONS,
        "Whether to disturb as the authors' program does or as their paper says, which "
        "differ in rectangles, in swirl and in which images are taken.",
    )
    flag.rate(
        "swirl_radius",
        25.0,
        "Extent of the swirl in pixels with --definition=code, which took 70 for "
        "CelebA and 25 for all else.",
    )
    flag.choice(
        "ind",
        "levels",
        ("samples", "levels", "figure"),
        "The form of the Inception Score as a distance that is shown: the number of "
        "images - IS, the largest IS of all levels - IS, or the paper's figures' "
        "constant - IS. study.json has all three.",
    )
    flag.number(
        "is_splits", 10, "Parts that the Inception Score is averaged over.", least=1
    )
    flag.seed("Of everything random.")
    flag.batch_size()
    flag.choice(
        "value_range", None, VALUE_RANGES, "What the values of float images span."
    )
    flag.switch("recursive", "Enter the folders of a folder.")
    flag.switch("json", "Print JSON.")
    flag.switch("dry_run", "Print what would be measured and stop.")

"""The Fréchet Inception Distance on the original 2015 graph, on TensorFlow 2.

Names are looked up when they are first used, so `import fid` is quick and comparing
two statistics files never imports TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "InputError": "files",
    "Extractor": "extractors.extractor",
    "FrechetInceptionDistance": "keras_metric",
    "KerasExtractor": "extractors.extractor",
    "pixel_extractor": "extractors.extractor",
    "Inception": "extractors.inception",
    "Moments": "statistics",
    "Statistics": "statistics",
    "merge_statistics": "statistics",
    "frechet_distance": "metrics.frechet",
    "frechet_infinity": "metrics.infinity",
    "influence": "metrics.influence",
    "mind": "metrics.monge",
    "vendi_score": "metrics.vendi",
    "kernel_distance": "metrics.kernel",
    "KernelDistance": "metrics.kernel",
    "InceptionScore": "metrics.inception_score",
    "precision_recall": "metrics.precision_recall",
    "density_coverage": "metrics.coverage",
    "realism_scores": "metrics.realism",
    "authenticity": "metrics.memorisation",
    "copying": "metrics.memorisation",
    "open_images": "sources.images",
    "Comparison": "comparison",
    "compare": "measure",
    "compute": "measure",
    "compute_statistics": "measure",
    # The names of the authors' module.
    "calculate_activation_statistics": "original",
    "calculate_activation_statistics_from_files": "original",
    "calculate_fid_given_paths": "original",
    "calculate_frechet_distance": "original",
    "check_or_download_inception": "original",
    "create_inception_graph": "original",
    "get_activations": "original",
    "get_activations_from_files": "original",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fid.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""The Fréchet Inception Distance on the original 2015 graph, on TensorFlow 2.

Names are looked up when they are first used, so `import fid` is quick and comparing
two statistics files never imports TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "InputError": "files",
    "Extractor": "extractors",
    "KerasExtractor": "extractors",
    "Inception": "inception",
    "Moments": "statistics",
    "Statistics": "statistics",
    "merge_statistics": "statistics",
    "frechet_distance": "frechet",
    "kernel_distance": "kernel",
    "KernelDistance": "kernel",
    "InceptionScore": "inception_score",
    "open_images": "images",
    "Comparison": "measure",
    "compare": "measure",
    "compute": "measure",
    "compute_statistics": "measure",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fid.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""GAN training with a two time-scale update rule (TTUR) on TensorFlow 2 and Keras 3.

Names are looked up when they are first used, so that programs can settle their flags
before TensorFlow starts.
"""

from __future__ import annotations

import importlib
from typing import Any

from tf_ttur import registration

_HOMES = {
    "GAN": "gan",
    "NormalLatent": "latents",
    "UniformLatent": "latents",
    "ttur": "optimizers",
    "ForOptimizer": "callbacks",
    "FrechetDistance": "callbacks",
    "NaNGuard": "callbacks",
    "NgramJSD": "callbacks",
    "Scores": "callbacks",
}

__all__ = sorted(_HOMES)

registration.register()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tf_ttur.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tf_ttur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Few-step diffusion: parametrisations of diffusion models, and their samplers."""

from tf_ttur.distillation.parametrisations import (
    EDM,
    PARAMETRISATIONS,
    VP,
    Flow,
    Parametrisation,
    get,
)
from tf_ttur.distillation.sampler import (
    SAMPLERS,
    ddim,
    euler,
    evaluations,
    guided,
    heun,
    renoise,
)

__all__ = [
    "EDM",
    "PARAMETRISATIONS",
    "SAMPLERS",
    "VP",
    "Flow",
    "Parametrisation",
    "ddim",
    "euler",
    "evaluations",
    "get",
    "guided",
    "heun",
    "renoise",
]

"""Makes Keras know this package's classes by name, without importing them.

`import tf_ttur` imports neither Keras nor TensorFlow, and Keras loads a class from a
file only where its name is registered. So each name is registered with a placeholder,
as soon as there is a Keras to register it with; a class that is asked for is imported
then, and its own registration takes the placeholder's place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

__all__ = ["CLASSES", "register"]

# The names of the registered classes, by their modules.
CLASSES = {
    "adabelief": ("AdaBelief",),
    "attention": ("PixelAttention", "SelfAttention"),
    "distillation.diffusion": ("Diffusion",),
    "distillation.flash_dmd": ("FlashDMD",),
    "distillation.joint": ("JointFlashDMD",),
    "distillation.parametrisations": ("EDM", "VP", "Flow"),
    "distillation.prompts": ("PromptTable",),
    "distillation.rewards": ("CosineScore",),
    "gan": ("GAN",),
    "latents": ("NormalLatent", "UniformLatent"),
    "layers": (
        "BatchNormalization",
        "ConditionalBatchNormalization",
        "Conv2D",
        "Conv2DTranspose",
        "ConvMeanPool2D",
        "Embedding",
        "GlobalSumPooling2D",
        "GroupNormalization",
        "ImageNormalization",
        "MeanPool2D",
        "SameConv2D",
        "Upsample2D",
        "UpsampleConv2D",
    ),
    "networks.began": ("BEGAN",),
    "networks.lora": ("Adapted",),
    "networks.resnet": ("BatchStatistics", "PackImages"),
    "networks.text": ("TextGAN",),
    "networks.unet": ("NoiseEmbedding", "ScaledAdd"),
    "schedules": ("PerStep", "PowerLaw", "Warmup"),
    "spectral": (
        "SpectralConv2D",
        "SpectralConvMeanPool2D",
        "SpectralDense",
        "SpectralEmbedding",
        "SpectralUpsampleConv2D",
    ),
}


class _Placeholder:
    """Stands for a class that is not imported yet, and imports it when it is used."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def _found(self) -> type:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._found(), name)


class _AfterKeras:
    """Registers the names when Keras has been imported; looks for nothing itself."""

    _asking = False

    def find_spec(self, name: str, *args: Any) -> ModuleSpec | None:
        if name != "keras" or self._asking:
            return None
        # The others are asked, and so is this one once more. It stays until Keras has
        # been imported: who looks for Keras may not import it, or not yet.
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _register(module)
                with contextlib.suppress(ValueError):  # removed already
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Registers all names now, or when Keras is imported."""
    if "keras" in sys.modules:
        _register(sys.modules["keras"])
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _register(keras: Any) -> None:
    registry = keras.saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            placeholder = _Placeholder(f"tf_ttur.{module}", name)
            registry.setdefault(f"tf_ttur>{name}", placeholder)

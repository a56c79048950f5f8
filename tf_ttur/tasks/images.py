"""GANs of images, measured by the Fréchet distance."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from tf_ttur.presets import ImagePreset
from tf_ttur.tasks.gans import GANTask
from tf_ttur.tasks.of_images import ImageTask

if TYPE_CHECKING:
    from tf_ttur.gan import GAN

__all__ = ["Images"]


class Images(ImageTask, GANTask):
    """A GAN of images; see `Task`."""

    preset: ImagePreset
    presets = ImagePreset

    @staticmethod
    def model() -> type[GAN]:
        """Returns `GAN`."""
        from tf_ttur.gan import GAN

        return GAN

    def check(self) -> None:
        """Refuses an unknown data set or loss; see `Task.check`."""
        ImageTask.check(self)
        GANTask.check(self)

    def networks(
        self, shape: tuple[int, ...]
    ) -> tuple[ModuleType, type[GAN], tuple[int, ...]]:
        """Chooses the networks; see `GANTask.networks`."""
        from tf_ttur.gan import GAN
        from tf_ttur.networks import began, biggan, dcgan, dcgan_4x4, resnet

        module, model = {
            "dcgan": (dcgan, GAN),
            "dcgan_4x4": (dcgan_4x4, GAN),
            "resnet": (resnet, GAN),
            "began": (began, began.BEGAN),
            "biggan": (biggan, GAN),
        }[self.preset.network]
        return module, model, (shape[0], shape[2])

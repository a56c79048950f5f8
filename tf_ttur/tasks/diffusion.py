"""Diffusion models of images, measured by the Fréchet distance."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tf_ttur.presets import DiffusionPreset
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.of_images import ImageTask
from tf_ttur.tasks.task import SampleRequest, building

if TYPE_CHECKING:
    from tf_ttur.distillation.diffusion import Diffusion

__all__ = ["DiffusionTask", "choose_sampling"]


class DiffusionTask(ImageTask):
    """A diffusion model of images; see `Task`."""

    preset: DiffusionPreset
    presets = DiffusionPreset

    @staticmethod
    def model() -> type[Diffusion]:
        """Returns `Diffusion`."""
        from tf_ttur.distillation.diffusion import Diffusion

        return Diffusion

    def check(self) -> None:
        """Refuses a name that is unknown; see `Task.check`."""
        from tf_ttur import optimizers, schedules
        from tf_ttur.distillation import parametrisations, sampler
        from tf_ttur.distillation.diffusion import Sampling

        super().check()
        preset = self.preset
        form = parametrisations.get(preset.parametrisation)
        if preset.sampler == "euler":
            sampler.check_flow(form)
        optimizers.named(preset.optimizer)
        optimizers.clipping(preset.clip)
        schedules.get(preset.schedule, preset.learning_rate)
        Sampling(
            sampler=preset.sampler,
            steps=preset.sampling_steps,
            guidance=preset.guidance,
        )

    def build(self, shape: tuple[int, ...]) -> Diffusion:
        """Builds and compiles the model; see `Task.build`.

        Args:
            shape: (H, W, C) of the images, H = W.

        Returns:
            The compiled `Diffusion`.

        Raises:
            InputError: The settings do not go together, or with the data.

        Example:
            >>> from tf_ttur import presets, tasks
            >>> task = tasks.of(presets.get("digits_edm_teacher").override(width=8))
            >>> task.build((16, 16, 1)).sample_shape
            (16, 16, 1)
        """
        with building(self.preset.name):
            return self._build(shape)

    def _build(self, shape: tuple[int, ...]) -> Diffusion:
        from tf_ttur import optimizers, schedules
        from tf_ttur.distillation.diffusion import Diffusion, Sampling
        from tf_ttur.networks import unet

        preset = self.preset
        model = Diffusion(
            unet.denoiser(
                shape[0],
                shape[2],
                width=preset.width,
                num_classes=preset.num_classes,
                seed=preset.seed,
                **preset.network_options,
            ),
            preset.parametrisation,
            num_classes=preset.num_classes,
            label_dropout=preset.label_dropout,
            sampling=Sampling(
                sampler=preset.sampler,
                steps=preset.sampling_steps,
                guidance=preset.guidance,
            ),
            ema_decay=preset.ema_decay,
            ema_start=preset.ema_start,
            seed=preset.seed,
        )
        model.compile(
            network_optimizer=optimizers.make(
                preset.optimizer,
                schedules.get(preset.schedule, preset.learning_rate),
                beta_1=preset.beta_1,
                beta_2=preset.beta_2,
                epsilon=preset.epsilon,
                clip=preset.clip,
                name=preset.optimizer,
            ),
            jit_compile=preset.jit_compile,
        )
        return model

    def batches(self, data: Any, start: int = 0) -> Any:
        """Gives endless batches of images, and labels; see `Task.batches`."""
        labels = {} if self.num_classes is None else {"labels": True}
        return data.training(
            self.preset.batch_size, self.preset.seed, start_step=start, **labels
        )

    def describe(self, data: Any, measurement: Any) -> str:
        """Says what is trained on, and how images are made; see `Task.describe`."""
        from tf_ttur.distillation import sampler

        preset = self.preset
        calls = sampler.evaluations(
            preset.sampler, preset.sampling_steps, preset.guidance
        )
        return (
            f"{self.describe_data(data, measurement)}; {preset.parametrisation}; "
            f"learning rate {preset.learning_rate:.3g}; {preset.sampler} with "
            f"{calls} calls of the network an image"
        )

    @classmethod
    def configure(cls, model: Any, request: SampleRequest, folder: RunFolder) -> None:
        """Sets how samples are made; see `choose_sampling`."""
        choose_sampling(model, request)


def choose_sampling(model: Any, request: SampleRequest) -> None:
    """Sets the sampler, its steps and the guidance that were asked for.

    Args:
        model: Of diffusion.
        request: What is asked for.

    Raises:
        InputError: There is no such sampler, or a number cannot be.
    """
    asked = {
        name: getattr(request, name)
        for name in ("sampler", "steps", "guidance")
        if getattr(request, name) is not None
    }
    if asked:
        model.sampling = dataclasses.replace(model.sampling, **asked)

"""What tasks with a generator and a discriminator share: how the pair is built."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from fid.files import InputError
from tf_ttur.presets import GANPreset
from tf_ttur.tasks.task import Task, building

if TYPE_CHECKING:
    from tf_ttur.gan import GAN

__all__ = ["GANTask"]


class GANTask(Task):
    """A task whose model is a `GAN`, with both networks of one module."""

    preset: GANPreset

    @property
    def num_classes(self) -> int | None:
        """The number of classes of a conditional GAN; None for one without labels."""
        return None

    def networks(
        self, shape: tuple[int, ...]
    ) -> tuple[ModuleType, type[GAN], tuple[int, ...]]:
        """Chooses the networks.

        Args:
            shape: The data's.

        Returns:
            The module of their `generator` and `discriminator`, the class of the model,
            and the sizes that both functions are given first.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Refuses a loss or another name that is unknown; see `Task.check`."""
        from tf_ttur import losses, optimizers, penalties, schedules

        preset = self.preset
        losses.get(preset.loss)
        penalties.get(preset.gradient_penalty)
        optimizers.named(preset.optimizer)
        optimizers.clipping(preset.clip)
        schedules.get(preset.schedule, preset.generator_lr)

    def build(self, shape: tuple[int, ...]) -> GAN:
        """Builds and compiles the model.

        Args:
            shape: (H, W, C) of the images, H = W; of text, (length of a line, number of
                token ids).

        Returns:
            The compiled `GAN`.

        Raises:
            InputError: The settings do not go together, or with the data.

        Example:
            >>> from tf_ttur import presets, tasks
            >>> task = tasks.of(presets.get("digits_dcgan_ttur").override(width=2))
            >>> task.build((32, 32, 1)).sample_shape
            (32, 32, 1)
        """
        name = self.preset.name
        hint = ""
        if self.preset.generator_options:
            hint = "If that is a size, leave out what generator_options says."
        with building(name, hint):
            gan = self._build(shape)
        if gan.sample_shape != tuple(shape):
            raise InputError(
                f"The generator of {name} makes {gan.sample_shape}, the data are "
                f"{tuple(shape)}: leave out what generator_options says of the size."
            )
        return gan

    def _build(self, shape: tuple[int, ...]) -> GAN:
        from tf_ttur.latents import NormalLatent, UniformLatent
        from tf_ttur.optimizers import ttur

        preset = self.preset
        network, model, sizes = self.networks(shape)
        latent = {"uniform": UniformLatent, "normal": NormalLatent}[preset.latent](
            preset.latent_dimension
        )
        shared = {"width": preset.width, "seed": preset.seed}
        labels = {} if self.num_classes is None else {"num_classes": self.num_classes}
        gan = model(
            network.generator(
                *sizes,
                **shared | labels,
                latent_dimension=preset.latent_dimension,
                **preset.generator_options,
            ),
            network.discriminator(
                *sizes, **shared | labels, **preset.discriminator_options
            ),
            latent,
            seed=preset.seed,
            ema_decay=preset.ema_decay,
            ema_start=preset.ema_start,
            **labels,
        )
        gan.compile(
            **ttur(
                discriminator=self._rate(
                    preset.discriminator_lr, preset.discriminator_steps
                ),
                generator=self._rate(preset.generator_lr),
                beta_1=preset.beta_1,
                beta_2=preset.beta_2,
                epsilon=preset.epsilon,
                optimizer=preset.optimizer,
                clip=preset.clip,
            ),
            loss=preset.loss,
            gradient_penalty=preset.gradient_penalty,
            discriminator_steps=preset.discriminator_steps,
            reuse_latents=preset.reuse_latents,
            jit_compile=preset.jit_compile,
            gradient_norms=preset.gradient_norms,
        )
        return gan

    def _rate(self, initial: float, updates: int = 1) -> Any:
        """Returns a rate or its schedule, for so many updates in a step."""
        from tf_ttur import schedules

        if every := self.preset.halve_every:
            # It has always counted an optimizer's own updates.
            return schedules.get(f"halve:{every}", initial)
        return schedules.get(self.preset.schedule, initial, updates)

    def batches(self, data: Any, start: int = 0) -> Any:
        """Gives endless batches; see `Task.batches`."""
        return data.training(
            self.preset.batch_size,
            self.preset.seed,
            start_step=start,
            discriminator_steps=self.preset.discriminator_steps,
            **({} if self.num_classes is None else {"labels": True}),
        )

    def describe(self, data: Any, measurement: Any) -> str:
        """Says what is trained on, and at which rates; see `Task.describe`.

        The method, clipping and schedule are named where they are not the usual ones.
        """
        preset = self.preset
        usual = {"optimizer": "adam", "clip": "none", "schedule": "constant"}
        further = [
            f"{key} {value}"
            for key, other in usual.items()
            if (value := getattr(preset, key)) != other
        ]
        return "; ".join(
            (
                self.describe_data(data, measurement),
                f"discriminator {preset.discriminator_lr:.3g}, generator "
                f"{preset.generator_lr:.3g}",
                *further,
            )
        )

    def describe_data(self, data: Any, measurement: Any) -> str:
        """Says what is trained on; see `Task.describe`."""
        raise NotImplementedError

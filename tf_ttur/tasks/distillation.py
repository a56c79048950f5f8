"""Few-step students of a diffusion model, measured by the Fréchet distance."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import local_path
from tf_ttur.presets import DiffusionPreset, DistillationPreset
from tf_ttur.presets.preset import OfStudents
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.diffusion import choose_sampling
from tf_ttur.tasks.of_images import ImageTask
from tf_ttur.tasks.task import (
    MEASUREMENT_SEED,
    SampleRequest,
    building,
    check_kind,
    find_checkpoint,
    load_checkpoint,
)

if TYPE_CHECKING:
    import keras

    from tf_ttur.callbacks import Scores
    from tf_ttur.datasets import ImageData
    from tf_ttur.distillation.flash_dmd import FlashDMD

__all__ = ["DistillationTask", "StudentTask", "Teacher", "open_teacher"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A diffusion model that is distilled.

    Attributes:
        network: The network that makes its images; its average, where it has one.
        parametrisation: What the network's output means.
        num_classes: The number of classes that it is told of, or None.
        label_dropout: The share of the labels that it learnt without.
        fingerprint: SHA-256 of the network's weights.
        path: The file that it was read from.
    """

    network: keras.Model
    parametrisation: Any
    num_classes: int | None
    label_dropout: float
    fingerprint: str
    path: pathlib.Path


def open_teacher(path: str | os.PathLike[str]) -> Teacher:
    """Reads a teacher.

    Args:
        path: A run folder of diffusion, whose best checkpoint is taken; or a `.keras`
            file of a `Diffusion`, such as a checkpoint of a run.

    Raises:
        InputError: There is none, it is damaged, or it is another kind of model.
    """
    from fid.extractors.extractor import weights_sha256
    from tf_ttur.distillation.diffusion import Diffusion

    path = local_path(path)
    if path.suffix == ".keras":
        if not path.is_file():
            raise InputError(f"There is no teacher {printable(path)}.")
    else:
        folder = RunFolder(path)
        check_kind(folder, DiffusionPreset)
        path = find_checkpoint(folder, "best")
    model = load_checkpoint(path, "Give another --teacher.")
    if not isinstance(model, Diffusion):
        raise InputError(
            f"{printable(path)} holds a {type(model).__name__}; a teacher is a "
            "Diffusion, such as train.py --preset=digits_edm_teacher trains."
        )
    network = model.denoiser().network
    return Teacher(
        network,
        model.parametrisation,
        model.num_classes,
        model.label_dropout,
        weights_sha256(network),
        path,
    )


class StudentTask(ImageTask):
    """A few-step student of a diffusion model, whatever that is; see `Task`."""

    preset: OfStudents

    # Each is read or trained once a run.
    _data: ImageData | None = None
    _encoder: keras.Model | None = None
    _reward: keras.Model | None = None

    @staticmethod
    def model() -> type[FlashDMD]:
        """Returns `FlashDMD`."""
        from tf_ttur.distillation.flash_dmd import FlashDMD

        return FlashDMD

    def check(self) -> None:
        """Refuses a name that is unknown; see `Task.check`."""
        from tf_ttur import optimizers, schedules
        from tf_ttur.distillation.flash_dmd import adversarial_loss

        super().check()
        preset = self.preset
        adversarial_loss(preset.loss)
        optimizers.named(preset.optimizer)
        optimizers.clipping(preset.clip)
        optimizers.clipping(preset.rl_clip)
        schedules.get(preset.schedule, preset.student_lr)

    def load(self) -> ImageData:
        """Loads the images, which the encoder may learn from; see `ImageTask.load`."""
        self._data = super().load()
        return self._data

    @property
    def data(self) -> ImageData:
        """The images, loaded at the first look."""
        return self.load() if self._data is None else self._data

    def encoder(self) -> keras.Model | None:
        """Returns the frozen encoder; None where the fake score's maps are looked at.

        Raises:
            InputError: It cannot be made.
        """
        if self.preset.encoder == "none":
            return None
        if self._encoder is None:
            data = self.data
            kind, _, preset = self.preset.encoder.partition(":")
            if kind == "sam":
                from tf_ttur.networks import sam

                self._encoder = sam.load(preset, data.shape)
            else:
                from tf_ttur.networks.dense_encoder import dense_encoder

                self._encoder = dense_encoder(_examples(data)).network
        return self._encoder

    def reward_network(self) -> keras.Model:
        """Returns the network that scores candidates in the second stage.

        Raises:
            InputError: It cannot be made.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks reward_network.")

    @property
    def reward(self) -> keras.Model | None:
        """The frozen reward, made at the first look; None where a run has none."""
        preset = self.preset
        if preset.rl_from is None or preset.reward != "latent":
            return None
        if self._reward is None:
            self._reward = self.reward_network()
        return self._reward

    def config(self, data: ImageData) -> dict[str, Any]:
        """Returns the settings, facts, and fingerprints of what is only read."""
        from fid.extractors.extractor import weights_sha256

        found = super().config(data)
        read = {"encoder": self.encoder()}
        # A run without a second stage says what it has always said.
        if self.preset.rl_from is not None:
            read["reward"] = self.reward
        return found | {
            f"{name}_sha256": None if network is None else weights_sha256(network)
            for name, network in read.items()
        }

    def build(self, shape: tuple[int, ...]) -> FlashDMD:
        """Builds and compiles the model; see `Task.build`.

        Args:
            shape: (H, W, C) of the images, those of the teacher.

        Returns:
            The compiled `FlashDMD`.

        Raises:
            InputError: The settings do not go together, or with the data or the
                teacher.
        """
        with building(self.preset.name):
            return self._build(tuple(shape))

    def _build(self, shape: tuple[int, ...]) -> FlashDMD:
        raise NotImplementedError(f"{type(self).__name__} lacks _build.")

    def compiled(
        self,
        student: keras.Model,
        fake_score: keras.Model,
        maps: Sequence[Any],
        **others: Any,
    ) -> FlashDMD:
        """Makes the model of its networks, and compiles it with the settings.

        It is a `JointFlashDMD` where the settings have a second stage.

        Args:
            student: As for `FlashDMD`.
            fake_score: Likewise.
            maps: The maps that the discriminator's heads look at, Keras tensors.
            **others: As for `FlashDMD`: what the settings do not say.
        """
        from tf_ttur import optimizers, schedules
        from tf_ttur.networks.heads import heads

        preset, kind, further = self.preset, self.model(), {}
        if preset.rl_from is not None:
            from tf_ttur.distillation.joint import JointFlashDMD

            kind = JointFlashDMD
            others["reward"] = self.reward
            further = self._second_stage()
        model = kind(
            student,
            fake_score,
            heads(
                [x.shape[1:] for x in maps],
                width=preset.width,
                seed=preset.seed,
                **preset.heads_options,
            ),
            anchors=preset.anchors,
            ema_decay=preset.ema_decay,
            seed=preset.seed,
            **others,
        )

        def made(name: str) -> Any:
            rate, updates, turn = getattr(preset, f"{name}_lr"), 1, None
            if name != "student":
                updates = preset.ratio
                if preset.rl_from is not None:
                    turn = (preset.rl_from, preset.rl_ratio)
            return optimizers.make(
                preset.optimizer,
                schedules.get(preset.schedule, rate, updates, turn),
                beta_1=preset.beta_1,
                beta_2=preset.beta_2,
                epsilon=preset.epsilon,
                clip=preset.clip,
                name=name,
            )

        model.compile(
            student_optimizer=made("student"),
            fake_score_optimizer=made("fake_score"),
            discriminator_optimizer=made("discriminator"),
            guidance=preset.guidance,
            split=preset.noise_split,
            adversarial=preset.adversarial,
            critic=preset.critic,
            ratio=preset.ratio,
            pulling=preset.pulling,
            renoising=(preset.renoise_from, preset.renoise_to),
            loss=preset.loss,
            jit_compile=preset.jit_compile,
            **further,
        )
        return model

    def _second_stage(self) -> dict[str, Any]:
        """Returns what `JointFlashDMD.compile` takes beside `FlashDMD`'s settings."""
        from tf_ttur import optimizers

        preset = self.preset
        return {
            "preference_optimizer": optimizers.make(
                preset.optimizer,
                preset.rl_lr,
                beta_1=preset.beta_1,
                beta_2=preset.beta_2,
                epsilon=preset.epsilon,
                clip=preset.rl_clip,
                name="preference",
            ),
            "preference_ratio": preset.rl_ratio,
            "preference_distillation": preset.rl_distillation,
            "preference_anchors": preset.rl_anchors,
            "preference_adversarial": preset.rl_adversarial,
            "candidates": preset.candidates,
            "beta": preset.beta,
            "ratio_clip": preset.ratio_clip,
            "gate": preset.gate,
            "reward": {"latent": "network"}.get(preset.reward, preset.reward),
        }

    def scores(self, data: ImageData) -> Scores | None:
        """Watches what preferences do; see `Task.scores`.

        That is the oracle itself, which scores clean images, how far images of a class
        are from each other, and for digits another judge of them, that nothing learns
        from.
        """
        preset = self.preset
        if preset.rl_from is None:
            return None
        from tf_ttur import callbacks
        from tf_ttur.distillation import oracles, pairs

        functions: dict[str, Any] = {}
        # It is of two images of one class, and labels take turns.
        if preset.num_samples > (self.num_classes or 1):
            functions["diversity"] = oracles.diversity
        if preset.oracle == "digits" and data.name == "digits":
            functions["judge"] = oracles.digits_judge(data.shape)
        if preset.oracle != "digits" or data.name == "digits":
            oracle = pairs.oracle_of(preset.oracle, data.shape)
            # A file of choices has no score for other images.
            if isinstance(oracle, pairs.ScoreOracle):
                functions["oracle"] = oracle
        if not functions:
            return None
        return callbacks.Scores(
            functions,
            every=min(preset.every, preset.steps),
            num_samples=preset.num_samples,
            seed=MEASUREMENT_SEED,
            batch_size=preset.sample_batch,
            last=preset.steps,
        )

    @property
    def turns(self) -> tuple[int, ...]:
        """The step that preference learning begins at, where it does."""
        return () if self.preset.rl_from is None else (self.preset.rl_from,)

    def enter(self, model: Any, step: int) -> None:
        """Begins the second stage where its step is reached; see `Task.enter`."""
        begins = self.preset.rl_from
        if begins is None:
            return
        if step == begins and model.stage == 1:
            _log.info("Step %d: the student begins to learn preferences.", step)
            model.begin_preferences()
        expected = 1 if step < begins else 2
        if model.stage != expected:
            raise InputError(
                f"The checkpoint of step {step} is of stage {model.stage}, and with "
                f"rl_from={begins} it is of stage {expected}: bring the run's own "
                "checkpoint back, or delete it to go on from the one before it."
            )

    def minibatches(self, start: int) -> int:
        """Returns how many minibatches a step takes.

        Args:
            start: The step. From `rl_from` on it is another number, and the data go on
                where they would be if it had always been so: they depend on the seed
                and the step alone.
        """
        begins = self.preset.rl_from
        second = begins is not None and start >= begins
        return self.preset.rl_ratio if second else self.preset.ratio

    def batches(self, data: Any, start: int = 0) -> Any:
        """Gives endless batches, with a minibatch for each repeated update in a step.

        They are of the stage that the step is in, so each stage asks for its own.
        """
        return data.training(
            self.preset.batch_size,
            self.preset.seed,
            start_step=start,
            discriminator_steps=self.minibatches(start),
            labels=self.num_classes is not None,
        )

    def describe(self, data: Any, measurement: Any) -> str:
        """Says what is distilled, in how many steps; see `Task.describe`."""
        preset = self.preset
        encoder = {"none": "the fake score's maps", "dense": "a dense encoder"}.get(
            preset.encoder, preset.encoder
        )
        second = ""
        if preset.rl_from is not None:
            joined = "with" if preset.rl_distillation else "without"
            second = (
                f"; from step {preset.rl_from} preferences by the {preset.reward} "
                f"reward, ratio {preset.rl_ratio}, {joined} distillation, learning "
                f"rate {preset.rl_lr:.3g}"
            )
        return (
            f"{self.describe_data(data, measurement)}; {preset.anchors} steps; split "
            f"{preset.noise_split}, ratio {preset.ratio}, pull {preset.pulling:g}, "
            f"adversarial {preset.adversarial:g} on {encoder}; learning rates "
            f"{preset.student_lr:.3g}, {preset.fake_score_lr:.3g}, "
            f"{preset.discriminator_lr:.3g}{second}"
        )

    @classmethod
    def configure(cls, model: Any, request: SampleRequest, folder: RunFolder) -> None:
        """Sets the number of steps that was asked for; see `choose_sampling`."""
        choose_sampling(model, request)


class DistillationTask(StudentTask):
    """A few-step student of a teacher that was trained here; see `Task`."""

    preset: DistillationPreset
    presets = DistillationPreset
    takes_teacher = True

    # It is read once a run.
    _teacher: Teacher | None = None

    @property
    def teacher_model(self) -> Teacher:
        """The teacher, read at the first look.

        Raises:
            InputError: None was given, or it does not go with the settings.
        """
        if self._teacher is None:
            self.check_teacher()
            found = open_teacher(self.teacher)
            self._check_labels(found)
            _log.info("The teacher is %s (%s).", found.path, found.fingerprint[:12])
            self._teacher = found
        return self._teacher

    def _check_labels(self, teacher: Teacher) -> None:
        preset = self.preset
        if teacher.num_classes != preset.num_classes:
            raise InputError(
                f"The teacher {printable(teacher.path)} was trained with num_classes="
                f"{teacher.num_classes}, and {preset.name} has {preset.num_classes}. "
                f"Give --set=num_classes={str(teacher.num_classes).lower()}, or "
                "another --teacher."
            )
        if preset.guidance != 1 and not teacher.label_dropout:
            raise InputError(
                f"guidance is {preset.guidance}, and the teacher "
                f"{printable(teacher.path)} never learnt to do without a label. Give "
                "--set=guidance=1, or another --teacher."
            )

    def config(self, data: ImageData) -> dict[str, Any]:
        """Returns the settings, facts, and fingerprints of what is only read."""
        return super().config(data) | {
            "teacher": str(self.teacher),
            "teacher_sha256": self.teacher_model.fingerprint,
        }

    def reward_network(self) -> keras.Model:
        """Returns a reward on the teacher's own features, trained on the oracle.

        Raises:
            InputError: As for `distillation.rewards.trained`.
        """
        from tf_ttur.distillation import rewards

        preset, teacher = self.preset, self.teacher_model
        return rewards.trained(
            teacher=teacher.network,
            parametrisation=teacher.parametrisation,
            num_classes=preset.num_classes,
            oracle=preset.oracle,
            shape=self.data.shape,
            pairs=preset.reward_pairs,
            steps=preset.reward_steps,
            seed=preset.seed,
            fingerprint=teacher.fingerprint,
        ).network

    def _build(self, shape: tuple[int, ...]) -> FlashDMD:
        from tf_ttur.distillation.diffusion import sample_shape
        from tf_ttur.players import clone

        preset, teacher = self.preset, self.teacher_model
        found = sample_shape(teacher.network, preset.num_classes is not None)
        if found != shape:
            raise InputError(
                f"The teacher {printable(teacher.path)} makes images of {found}, the "
                f"data are {shape}. Give --set=image_size={found[0]}, or another "
                "--teacher."
            )
        encoder = self.encoder()
        student = clone(teacher.network, "The student")
        fake_score = clone(teacher.network, "The fake score")
        # A teacher's average is frozen, and copies of its layers are, too.
        for layer in (*student.layers, *fake_score.layers):
            layer.trainable = True
        layer = None
        if encoder is None:
            layer = preset.feature_layer or _bottleneck(fake_score)
            if layer not in (known := [x.name for x in fake_score.layers]):
                raise InputError(
                    f"feature_layer is {layer!r}; the teacher has the layers "
                    f"{', '.join(known)}."
                )
            maps = [fake_score.get_layer(layer).output]
        else:
            maps = encoder.outputs
        return self.compiled(
            student,
            fake_score,
            maps,
            teacher=teacher.network,
            encoder=encoder,
            parametrisation=teacher.parametrisation,
            num_classes=preset.num_classes,
            feature_layer=layer,
        )


def _bottleneck(network: keras.Model) -> str:
    """Returns the name of the layer behind a U-Net's smallest maps."""
    names = [x.name for x in network.layers if x.name.endswith("_in_2")]
    if not names:
        raise InputError(
            "The teacher is no U-Net of tf_ttur.networks.unet, so it must be said "
            "which of its layers the discriminator looks at: --set=feature_layer=NAME."
        )
    return names[0]


def _examples(data: ImageData) -> np.ndarray:
    """Returns enough images for the encoder to learn from, uint8 (n, H, W, C)."""
    from tf_ttur.networks.dense_encoder import MOST_IMAGES

    if data.num_examples <= MOST_IMAGES:
        return np.concatenate(list(data.images()))
    # Shuffled: the files of a class may stand together.
    batches = data.training(100, seed=0).take(MOST_IMAGES // 100)
    return np.concatenate(
        [np.rint((x + 1) * 127.5).astype(np.uint8) for x in batches.as_numpy_iterator()]
    )

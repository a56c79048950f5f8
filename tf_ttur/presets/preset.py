"""The settings of an experiment: common ones, and those of each kind of training.

A kind of training is a subclass of `Preset` here and a `tf_ttur.tasks.task.Task`; the
fields of the subclass are the settings that only this kind has.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fid.files import InputError
from fid.sources.images import QUANTIZE
from fid.values import LARGEST, Between, Count, Step, fault

__all__ = [
    "KINDS",
    "DiffusionPreset",
    "DistillationPreset",
    "GANPreset",
    "ImagePreset",
    "OfImages",
    "Preset",
    "SettingsError",
    "TextPreset",
    "TextToImagePreset",
    "check_settings",
    "complete",
    "from_settings",
    "kind_of",
    "owner",
]


class SettingsError(InputError):
    """Settings that were read from a file are not those of an experiment."""


Rate = Annotated[float, Between(above=0)]
"""A learning rate."""
Decay = Annotated[float, Between(0, below=1)]
"""A share of what was that is kept at every step."""

# Networks of images that take labels.
_CONDITIONAL = ("biggan", "dcgan")
# Sides of images that are not 64, where the data set decides.
_SIZES = {"cifar10": 32, "digits": 32, "imagenet2012": 128, "svhn_cropped": 32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that an experiment of any kind has.

    The annotations say what each may be, ranges included, and `choices` which texts;
    whatever makes a preset, from flags or from a file, is held to them.

    Attributes:
        name: Its name, for `--preset`.
        summary: What it is, a line.
        dataset: The name of a data set.
        network: The family of networks.
        width: Channels next to the image, the paper's DCGAN has 64; or of the blocks
            for text, where the paper has 512.
        batch_size: Images, or lines, per update.
        steps: Steps in all.
        every: Steps between measurements, which are also checkpoints.
        num_samples: Generated images, or lines, in a measurement.
        sample_batch: Samples generated at a time in a measurement. It matters only
            where an image depends on those beside it (`batch_statistics`).
        ema_decay: Decay of the generator's moving average, which samples; 0 for none.
        ema_start: The step that the average starts at.
        jit_compile: Whether XLA compiles the step; None leaves it to `compile`.
        stop_at: Ends the run at the first measurement of at most this value; None goes
            on to `steps`.
        stop_passes: So many measurements in a row have to be.
        seed: Seed of weights, data order and latents.

    Raises:
        InputError: A value cannot be.
    """

    kind: ClassVar[str]
    """What is generated, as messages call it: `images`."""
    example: ClassVar[str] = ""
    """A preset of this kind, for messages."""
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}

    name: str
    summary: str
    dataset: str
    network: str
    width: Count
    batch_size: Count
    steps: Count
    every: Count
    num_samples: Annotated[int, Between(2)]
    sample_batch: Count = 250
    ema_decay: Decay = 0.0
    ema_start: Step = 0
    jit_compile: bool | None = None
    stop_at: float | None = None
    stop_passes: Count = 1
    seed: Annotated[int, Between(0, LARGEST)] = 0

    def override(self, **changes: Any) -> Preset:
        """Returns the preset with some settings changed.

        Args:
            **changes: New values by attribute; those that are None change nothing.

        Raises:
            InputError: A value cannot be, or the setting is one of another kind.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        mine = {field.name for field in dataclasses.fields(self)}
        for key in [key for key in changes if key not in mine]:
            self.refuse_other(key, changes.pop(key))
        return dataclasses.replace(self, **changes)

    def refuse_other(self, key: str, value: Any) -> None:
        """Refuses a setting that only another kind of training has.

        Args:
            key: Its name.
            value: What it was to be.

        Raises:
            InputError: It would be read by nobody, so it is a mistake; the message says
                which kind has it, if one has. The value that it has by default says
                nothing, and `--dry_run` prints it: it is let through.
        """
        kind = owner(key)
        if kind is not None and key in _LISTED and value == _default(key):
            return
        if kind is None:
            raise InputError(
                f"{self.name} has no setting {key!r}; it was to be {value!r}."
            )
        other = f", such as {kind.example}" if kind.example else ""
        raise InputError(
            f"{key} is {value!r}, a setting of {kind.kind}; {self.name} is of "
            f"{self.kind}. Leave it out, or choose another --preset{other}."
        )

    def with_dataset(self, name: str) -> Preset:
        """Returns the preset for another data set.

        Args:
            name: The data set's name.
        """
        return self.override(dataset=name)

    def settings(self) -> dict[str, Any]:
        """Returns all settings by name, as config.json and `--dry_run` list them."""
        return dataclasses.asdict(self)

    @property
    def quirks(self) -> dict[str, Any]:
        """What sets the original's runs apart by accident: settings by attribute."""
        return {}

    def with_original_quirks(self) -> Preset:
        """Returns the preset with the original's accidents; see `quirks`.

        Raises:
            InputError: None are known for its networks.
        """
        if not self.quirks:
            raise InputError(
                f"{self.name}: the original's {self.network} has no quirks to turn on."
            )
        changes = {
            key: {**getattr(self, key), **value} if isinstance(value, dict) else value
            for key, value in self.quirks.items()
        }
        return self.override(**changes)

    @property
    def data_format(self) -> str:
        """What the data are, in words, for `describe`."""
        raise NotImplementedError

    @property
    def pace(self) -> tuple[str, str, str]:
        """For `table`: the learning rates of what judges images and of what makes them.

        The third is the number of updates of the former for one of the latter; "-" says
        that there is none.
        """
        raise NotImplementedError

    @classmethod
    def fault(cls, settings: Mapping[str, Any]) -> str | None:
        """Says which setting cannot be, each looked at by itself.

        Args:
            settings: Values by setting, with more than these or not.

        Returns:
            What was found and what was expected; None where all can be.
        """
        for key, kind in _kinds(cls).items():
            if key not in settings:
                continue
            value, choices = settings[key], cls.choices.get(key)
            if choices and value not in choices:
                return f"{key} is {value!r}; choose from {', '.join(choices)}"
            if found := fault(key, value, kind):
                return found
        return None

    def __post_init__(self) -> None:
        if found := self.fault(vars(self)):
            raise InputError(f"{found}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANPreset(Preset):
    """Settings of an experiment with a generator and a discriminator.

    A step is one update of the generator.

    Attributes:
        latent: Distribution of the latents, `uniform` or `normal`.
        latent_dimension: Their length.
        loss: A loss of `losses.get`.
        gradient_penalty: A number, the weight of WGAN-GP's, 0 for none; or a text of
            `penalties.get`, such as `r1+r2:10`.
        discriminator_steps: Discriminator updates per generator update.
        reuse_latents: Whether both updates of a step use the same latents.
        discriminator_lr: The discriminator's learning rate (the paper's b).
        generator_lr: The generator's learning rate (the paper's a).
        beta_1: Decay of the first moment, for both. For `momentum` it is the momentum;
            `rmsprop` and `sgd` have none and ignore it.
        beta_2: Decay of the second moment, for both. For `rmsprop` it is the smoothing
            of the mean square; `momentum` and `sgd` have none and ignore it.
        gradient_norms: Whether the squared norms of both gradients are logged; see
            `GAN.compile`.
        halve_every: Updates of each network after which its learning rate is halved,
            again and again; 0 for never. With one discriminator update in a step it is
            the `schedule` `halve:N`.
        generator_options: Further arguments of the network's `generator`.
        discriminator_options: Further arguments of the network's `discriminator`.
        optimizer: The method, for both: a name of `optimizers.make`.
        epsilon: Its epsilon, for both; None for its own. `momentum` and `sgd` have none
            and ignore it.
        clip: How gradients are clipped, for both; see `optimizers.clipping`.
        schedule: How both learning rates go on from their values here, in steps; see
            `schedules.get`.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"latent": ("uniform", "normal")}

    latent: str
    latent_dimension: Count
    loss: str
    gradient_penalty: Annotated[float, Between(0)] | str
    discriminator_steps: Count
    reuse_latents: bool
    discriminator_lr: Rate
    generator_lr: Rate
    beta_1: Decay
    beta_2: Decay
    halve_every: Step = 0
    gradient_norms: bool = False
    generator_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    discriminator_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: str = "adam"
    epsilon: Annotated[float, Between(1e-18)] | None = None
    clip: str = "none"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.halve_every and self.schedule != "constant":
            raise InputError(
                f"halve_every is {self.halve_every} and schedule is {self.schedule!r}; "
                "both change the learning rates. Leave one of them out."
            )
        _check_moments(self.optimizer, self.beta_1)

    @property
    def sample_size(self) -> int | None:
        """What the cost of a network depends on: an image's side, a line's length."""
        raise NotImplementedError

    @property
    def pace(self) -> tuple[str, str, str]:
        """Both learning rates and the discriminator's steps; see `Preset.pace`."""
        rates = f"{self.discriminator_lr:g}", f"{self.generator_lr:g}"
        return *rates, str(self.discriminator_steps)

    def settings(self) -> dict[str, Any]:
        """Returns all settings by name, as config.json and `--dry_run` list them.

        Images and text were one kind once, and files list the settings of both: those
        of the other kind at the values that say nothing. So a folder of an earlier
        version has the same settings as one of this version.
        """
        mine = dataclasses.asdict(self)
        listed = {key: mine[key] if key in mine else _default(key) for key in _LISTED}
        return listed | mine


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfImages(Preset):
    """Settings of any experiment on images, whatever is trained.

    Attributes:
        dataset: One of `datasets.NAMES`.
        image_size: Side of the images; None means the data set's own.
        split: The part of the data set, as in `datasets.load`; None for the paper's.
        quantize: How generated images are rounded before they are measured; see
            `fid.sources.images.quantize`.
        extractor: Whose features measure: `auto` (the 2015 graph; for the digits,
            without `--inception`, their classifier), `inception`, or `pixels`
            (`fid.pixel_extractor`).
        num_classes: The number of the data set's classes, for networks that take
            labels; None for training without labels.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "quantize": QUANTIZE,
        "extractor": ("auto", "inception", "pixels"),
    }

    image_size: Count | None = None
    split: str | None = None
    quantize: str = "none"
    extractor: str = "auto"
    num_classes: Count | None = None

    def with_dataset(self, name: str) -> OfImages:
        """Returns the preset for another data set, of that set's own size and split.

        Args:
            name: The data set's name. The present one changes nothing.
        """
        if name == self.dataset:
            return self
        return dataclasses.replace(self, dataset=name, image_size=None, split=None)

    @property
    def sample_size(self) -> int | None:
        """The side of the images; None where the data set decides."""
        return self.image_size

    @property
    def data_format(self) -> str:
        """Which part of the data set, and how large its images are."""
        side = self.image_size or _SIZES.get(self.dataset, 64)
        size = f"{side}x{side}"
        return f"split {self.split or 'train'}, {size}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePreset(OfImages, GANPreset):
    """Settings of a GAN of images.

    Attributes:
        network: `dcgan`, `dcgan_4x4`, `resnet`, `began` or `biggan`.
    """

    kind: ClassVar[str] = "images"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "network": ("dcgan", "dcgan_4x4", "resnet", "began", "biggan"),
        **GANPreset.choices,
        **OfImages.choices,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes is not None and self.network not in _CONDITIONAL:
            raise InputError(
                f"num_classes is {self.num_classes}; the networks {self.network} take "
                f"no labels. Leave it out, or choose {' or '.join(_CONDITIONAL)}."
            )
        if self.network == "biggan" and self.num_classes is None:
            raise InputError(
                "num_classes is missing; BigGAN's networks are told the class of an "
                "image. Give --set=num_classes=K, as many as the data set has."
            )
        if self.network == "began" and self.loss != "wasserstein":
            raise InputError(
                f"loss is {self.loss!r}; BEGAN has a loss of its own, a form of "
                "'wasserstein'. Leave --loss out."
            )
        pack = self.discriminator_options.get("pack", 1)
        if isinstance(pack, int) and pack > 0 and self.batch_size % pack:
            raise InputError(
                f"batch_size is {self.batch_size}; the original's quirks need a "
                f"multiple of {pack} here."
            )

    @property
    def quirks(self) -> dict[str, Any]:
        """What sets the original's runs apart by accident: settings by attribute."""
        if self.network == "dcgan":
            return {"generator_options": {"moving_average_updates": 4}}
        if self.network == "dcgan_4x4" and self.loss == "wasserstein":
            # The penalty is multiplied by its weight twice.
            quirks = {"gradient_penalty": 100.0}
            if self.dataset == "celeb_a":
                # `Resize((64, 64))` of images that are no squares.
                quirks["dataset"] = "celeb_a_squashed"
            return quirks
        if self.network == "resnet":
            quirks = {
                "quantize": "truncate",
                "sample_batch": 1000,
                "generator_options": {"batch_statistics": True},
            }
            if (self.image_size or _SIZES.get(self.dataset, 64)) == 32:
                quirks["discriminator_options"] = {"pack": 4}
            return quirks
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPreset(GANPreset):
    """Settings of a GAN of lines of text.

    Attributes:
        dataset: One of `datasets.text.NAMES`.
        network: `text`.
        unit: What a symbol is, `characters` or `bytes`.
        text_files: The pattern of the data set `text_files`.
        max_lines: The most lines to read; None for 10 million, the paper's.
    """

    kind: ClassVar[str] = "text"
    example: ClassVar[str] = "text_wgan_gp_ttur"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "network": ("text",),
        **GANPreset.choices,
    }

    unit: str | None = None
    text_files: str | None = None
    max_lines: Count | None = None

    @property
    def sample_size(self) -> int:
        """The length of a line in symbols (the paper's)."""
        return 32

    @property
    def data_format(self) -> str:
        """How long the lines are, and what a symbol is."""
        return f"lines of {self.sample_size} {self.unit}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfDiffusion(OfImages):
    """Settings of whatever has to do with diffusion models of images.

    Attributes:
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: The optimizer's epsilon; None for its own.
        optimizer: A name of `optimizers.make`.
        clip: How gradients are clipped; see `optimizers.clipping`.
        schedule: How learning rates go on; see `schedules.get`.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    beta_1: Decay = 0.9
    beta_2: Decay = 0.999
    epsilon: Annotated[float, Between(1e-18)] | None = None
    optimizer: str = "adam"
    clip: str = "none"
    schedule: str = "constant"
    guidance: Annotated[float, Between(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_moments(self.optimizer, self.beta_1)
        if self.guidance != 1 and not self.labelled:
            raise InputError(
                f"guidance is {self.guidance}; without labels there is nothing to "
                "guide by. Leave it at 1, or give --set=num_classes=K."
            )

    @property
    def labelled(self) -> bool:
        """Whether networks are told what an image is of."""
        return self.num_classes is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionPreset(OfDiffusion):
    """Settings of a diffusion model of images: one network that takes noise out.

    A step is one update of the network.

    Attributes:
        network: `unet`.
        parametrisation: What noise does to an image and what the network predicts; see
            `distillation.parametrisations.get`.
        learning_rate: The learning rate.
        label_dropout: The share of the labels that are hidden from the network in
            training, so that it can be guided. Of no effect without labels.
        sampler: How images are made of noise, in measurements and samples; a name of
            `distillation.sampler.SAMPLERS`.
        sampling_steps: In how many steps.
        network_options: Further arguments of `networks.unet.denoiser`.
    """

    kind: ClassVar[str] = "diffusion"
    example: ClassVar[str] = "digits_edm_teacher"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "network": ("unet",),
        **OfImages.choices,
    }

    parametrisation: str = "edm"
    learning_rate: Rate = 1e-3
    label_dropout: Decay = 0.1
    sampler: str = "heun"
    sampling_steps: Count = 18
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance != 1 and not self.label_dropout:
            raise InputError(
                f"guidance is {self.guidance} and label_dropout is 0; a network that "
                "is always told the label cannot be guided. Give "
                "--set=label_dropout=0.1."
            )

    @property
    def pace(self) -> tuple[str, str, str]:
        """The one learning rate that there is; see `Preset.pace`."""
        return "-", f"{self.learning_rate:g}", "-"


_Share = Annotated[float, Between(0, 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfStudents(OfDiffusion):
    """Settings of whatever distils a diffusion model to a student of few steps.

    A step is one update of the student; see `distillation.flash_dmd.FlashDMD.compile`
    for the settings that have their names from there (`noise_split` is its `split`).
    With `rl_from` the student learns preferences from a step on, beside distillation;
    see `distillation.joint.JointFlashDMD`. Without it the settings below it have no
    effect.

    Attributes:
        width: Channels of the discriminator's heads.
        anchors: The student's steps.
        noise_split: How both losses share the noise levels.
        adversarial: Weight of the student's adversarial loss (lambda).
        critic: What the discriminator's loss is multiplied by.
        ratio: Updates of the fake score and the discriminator for one of the student.
        pulling: What the fake score keeps when it is pulled to the student.
        renoise_from: The lowest noise at which scores are compared, as a share of the
            noise scale.
        renoise_to: The highest one.
        loss: The adversarial loss, of `losses.get`.
        encoder: What the discriminator looks at an image with, frozen: `dense`
            (`networks.dense_encoder`), or `sam:PRESET`, SAM's of a preset of Keras Hub
            or of a folder with one (`networks.sam`); or `none`, the fake score's own
            maps, where it has some.
        heads_options: Further arguments of `networks.heads.heads`.
        student_lr: The student's learning rate.
        fake_score_lr: The fake score's.
        discriminator_lr: That of the discriminator's heads.
        guidance: The teacher's scale of classifier-free guidance; 1 for none.
        rl_from: The step that the second stage, preference learning, begins at; a
            multiple of `every`. None for no second stage.
        rl_ratio: Updates by preferences in a step of the second stage, and of the fake
            score and the discriminator beside them.
        rl_distillation: Whether distillation goes on there.
        rl_anchors: At how many of the noisiest anchors pairs are made.
        rl_adversarial: Weight of the student's adversarial loss in the second stage;
            None for `adversarial`, 0 for no discriminator there.
        rl_lr: The student's learning rate in updates by preferences, a constant.
        rl_clip: How their gradients are clipped; see `optimizers.clipping`.
        candidates: How many candidates a pair is chosen from.
        beta: How sharply the preference loss judges.
        ratio_clip: How far the ratio of two likelihoods counts.
        gate: By how much the softmax of both scores has to differ for a pair to count.
        reward: What scores candidates: `latent`, a network that is trained on an
            oracle's judgement before the run; or `discriminator`.
        oracle: That judgement, of the `latent` reward.
        reward_pairs: Pairs that the latent reward learns from.
        reward_steps: In how many steps.
    """

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "noise_split": ("none", "hard", "soft"),
        "reward": ("latent", "discriminator"),
        **OfImages.choices,
    }
    #: What `encoder` may be.
    encoders: ClassVar[tuple[str, ...]] = ("dense", "sam:PRESET", "none")

    width: Count = 64
    anchors: Count = 4
    noise_split: str = "hard"
    adversarial: Annotated[float, Between(0)] = 0.1
    critic: Annotated[float, Between(0)] = 1.0
    ratio: Count = 1
    pulling: _Share = 0.98
    renoise_from: _Share = 0.02
    renoise_to: _Share = 0.98
    loss: str = "hinge"
    encoder: str = "dense"
    heads_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    student_lr: Rate = 1e-4
    fake_score_lr: Rate = 1e-4
    discriminator_lr: Rate = 2e-4
    rl_from: Count | None = None
    rl_ratio: Count = 5
    rl_distillation: bool = True
    rl_anchors: Count = 2
    rl_adversarial: Annotated[float, Between(0)] | None = None
    rl_lr: Rate = 1e-5
    rl_clip: str = "global_norm:1.0"
    candidates: Annotated[int, Between(2)] = 4
    beta: Annotated[float, Between(above=0)] = 500.0
    ratio_clip: Annotated[float, Between(1e-6, below=1)] = 0.1
    gate: Annotated[float, Between(0, below=1)] = 0.0
    reward: str = "latent"
    oracle: str = "digits"
    reward_pairs: Count = 4000
    reward_steps: Count = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.renoise_from >= self.renoise_to:
            raise InputError(
                f"renoise_from is {self.renoise_from} and renoise_to is "
                f"{self.renoise_to}; the first must be lower."
            )
        kind, colon, preset = self.encoder.partition(":")
        known = (kind == "sam" and preset) or (kind in self.encoders and not colon)
        if not known:
            raise InputError(
                f"encoder is {self.encoder!r}; choose from {', '.join(self.encoders)}."
            )
        if not self.adversarial and self.encoder != "none":
            fix = "encoder=none, too" if "none" in self.encoders else "adversarial=0.1"
            raise InputError(
                f"adversarial is {self.adversarial:g}, so there is no discriminator, "
                f"and encoder is {self.encoder!r}, which only it looks with. Give "
                f"--set={fix}."
            )
        if self.noise_split == "hard" and (self.anchors < 2 or not self.adversarial):
            raise InputError(
                f"noise_split is 'hard', anchors is {self.anchors} and adversarial is "
                f"{self.adversarial:g}; the lowest anchor is the discriminator's alone "
                "there, so it needs two anchors and a weight. Give "
                "--set=noise_split=none."
            )
        if self.rl_from is not None:
            self._check_second_stage()

    def _check_second_stage(self) -> None:
        if self.rl_from >= self.steps:
            raise InputError(
                f"rl_from is {self.rl_from} and steps is {self.steps}; the second "
                "stage has to begin before the last step. Give more --steps, or a "
                "lower --rl_from."
            )
        if self.rl_from % self.every:
            raise InputError(
                f"rl_from is {self.rl_from} and every is {self.every}; the second "
                "stage begins at a checkpoint. Give a multiple of every: --rl_from="
                f"{self.every * max(1, self.rl_from // self.every)}, or another "
                "--set=every=STEPS."
            )
        if self.rl_anchors >= self.anchors:
            raise InputError(
                f"rl_anchors is {self.rl_anchors} and anchors is {self.anchors}; pairs "
                "are of the noise that follows an anchor, and none follows the last. "
                f"Give --set=rl_anchors={self.anchors - 1} at most, with at least two "
                "anchors."
            )
        if self.reward == "discriminator" and not (
            self.adversarial or self.rl_adversarial
        ):
            raise InputError(
                "reward is 'discriminator' and adversarial is 0, so there is none. "
                "Give --set=reward=latent, or a weight."
            )

    @property
    def pace(self) -> tuple[str, str, str]:
        """The fake score's rate, the student's, and the ratio; see `Preset.pace`."""
        return f"{self.fake_score_lr:g}", f"{self.student_lr:g}", str(self.ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationPreset(OfStudents):
    """Settings of a student whose teacher is a diffusion model of this project.

    The teacher itself is no setting: it is given, and named by its fingerprint.

    Attributes:
        network: `teacher`: student and fake score are copies of the teacher's network.
        feature_layer: The layer of the fake score that the discriminator looks at,
            without an encoder; None for that behind a U-Net's smallest maps.
    """

    kind: ClassVar[str] = "distillation"
    example: ClassVar[str] = "digits_flash_dmd"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "network": ("teacher",),
        **OfStudents.choices,
    }

    network: str = "teacher"
    feature_layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_layer is not None and self.encoder != "none":
            raise InputError(
                f"feature_layer is {self.feature_layer!r} and encoder is "
                f"{self.encoder!r}; the discriminator looks at one of them. Give "
                "--set=encoder=none, or leave feature_layer out."
            )


# The autoencoder makes a number of 8x8 pixels, the transformer a token of 2x2 of those.
_LATENT_SIDE = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImagePreset(OfStudents):
    """Settings of a student of Stable Diffusion 3, which is its own teacher.

    Student and fake score are adapters on the teacher, and a text is a label; see
    `distillation.sd3`.

    Attributes:
        network: `stable_diffusion_3`.
        dataset: `captioned_folder`; see `datasets.captioned`.
        image_size: Side of the images, a multiple of 16.
        backbone: The teacher: a preset of Keras Hub, such as
            `stable_diffusion_3_medium`, or the folder of one; or `small`, a small and
            random one, to try everything out. It brings the shift of its noise.
        dtype: The type of its transformer's weights and computation. The other parts of
            a saved preset keep the types that are written there; adapters and heads are
            in float32.
        rank: The adapters' rank.
        alpha: The adapters' scale is alpha / rank.
        encoder: As for the others, but for `none`: the transformer's own maps are not
            looked at.
    """

    kind: ClassVar[str] = "text-to-image"
    example: ClassVar[str] = "sd3_medium_flash_dmd"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "network": ("stable_diffusion_3",),
        "dataset": ("captioned_folder",),
        "dtype": ("float32", "bfloat16"),
        **OfStudents.choices,
    }
    encoders: ClassVar[tuple[str, ...]] = ("dense", "sam:PRESET")

    network: str = "stable_diffusion_3"
    dataset: str = "captioned_folder"
    image_size: Count = 512
    backbone: str = "stable_diffusion_3_medium"
    dtype: str = "float32"
    rank: Count = 64
    alpha: Annotated[float, Between(above=0)] = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % _LATENT_SIDE:
            raise InputError(
                f"image_size is {self.image_size}; Stable Diffusion 3 makes images "
                f"whose side is a multiple of {_LATENT_SIDE}. Give such a one."
            )
        for key, reason in (
            ("num_classes", "each text is a label, and there are as many as images"),
            ("split", "a folder is one set"),
        ):
            if (value := getattr(self, key)) is not None:
                raise InputError(f"{key} is {value!r}; {reason}. Leave it out.")

    @property
    def labelled(self) -> bool:
        """Always: networks are told an image's text."""
        return True


KINDS: tuple[type[Preset], ...] = (
    ImagePreset,
    TextPreset,
    DiffusionPreset,
    DistillationPreset,
    TextToImagePreset,
)
"""The kinds of training; each has a task in `tf_ttur.tasks`."""

# The settings of images and of text that files have always listed, in this order. One
# that is added today has a default and does not stand here: files may lack it; see
# `complete`.
_LISTED = (
    "name", "summary", "dataset", "image_size", "network", "width", "latent",
    "latent_dimension", "loss", "gradient_penalty", "discriminator_steps",
    "reuse_latents", "discriminator_lr", "generator_lr", "beta_1", "beta_2",
    "batch_size", "steps", "every", "num_samples", "unit", "text_files", "max_lines",
    "split", "halve_every", "sample_batch", "quantize", "extractor",
    "generator_options", "discriminator_options", "ema_decay", "jit_compile", "seed",
)  # fmt: skip


def _check_moments(optimizer: str, beta_1: float) -> None:
    if optimizer == "adabelief" and not beta_1:
        raise InputError(
            "beta_1 is 0, with which AdaBelief divides by its epsilon alone. Set "
            "one above 0, such as --set=beta_1=0.5."
        )


def owner(key: str) -> type[Preset] | None:
    """Returns the first kind of training that has a setting; None where none has.

    Args:
        key: The setting's name.
    """
    return next((kind for kind in KINDS if key in _fields(kind)), None)


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the settings that the version that wrote a file did not have.

    A setting that is added to a kind of training has a default, by which runs are as
    they were before. So it is what a run of an earlier version was made with.

    Args:
        settings: Values by setting, as in config.json, with more than these or not.

    Returns:
        The same, and the defaults of settings that are missing. Those that files have
        always listed are not added.
    """
    added = {
        key: _default_of(field)
        for key, field in _fields(kind_of(settings)).items()
        if key not in _LISTED and key not in settings
    }
    known = {k: v for k, v in added.items() if v is not dataclasses.MISSING}
    return {**settings, **known}


def from_settings(settings: Mapping[str, Any]) -> Preset:
    """Makes a preset of what config.json says.

    Args:
        settings: Values by setting, with more than these or not; see `complete` for
            those that may be missing.

    Returns:
        The preset, of the kind that has these networks.

    Raises:
        SettingsError: A setting is missing, or cannot have its value.

    Example:
        >>> from tf_ttur import presets
        >>> preset = presets.get("digits_dcgan_ttur")
        >>> presets.from_settings(preset.settings()) == preset
        True
    """
    kind, settings = kind_of(settings), complete(settings)
    try:
        return kind(**{key: settings[key] for key in _fields(kind)})
    except KeyError as error:
        raise SettingsError(f"it lacks {error}.") from error
    except InputError as error:
        raise SettingsError(str(error)) from error


def check_settings(settings: Mapping[str, Any]) -> None:
    """Makes sure that what a file says of settings can be, missing ones aside.

    Args:
        settings: Values by setting, as in config.json, with more than these or not.

    Raises:
        SettingsError: A setting cannot have its value.
    """
    if found := kind_of(settings).fault(settings):
        raise SettingsError(f"{found}.")


def kind_of(settings: Mapping[str, Any]) -> type[Preset]:
    """Returns the kind of training that settings are of.

    Args:
        settings: Values by setting, as in config.json.

    Returns:
        The kind that has these networks; images, where no kind has.
    """
    network = settings.get("network")
    return next((x for x in KINDS if network in x.choices["network"]), ImagePreset)


@functools.cache
def _kinds(kind: type[Preset]) -> dict[str, Any]:
    """Returns what each setting may be, as `fid.values` has it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {key: hints[key] for key in _fields(kind)}


def _fields(kind: type[Preset]) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(kind)}


def _default(key: str) -> Any:
    kind = owner(key)
    return None if kind is None else _default_of(_fields(kind)[key])


def _default_of(field: dataclasses.Field) -> Any:
    """Returns what a setting is by itself; MISSING where it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default

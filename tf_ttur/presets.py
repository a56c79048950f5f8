"""Experiments as data: everything that a run depends on, in one place.

`PRESETS` holds the settings, `PUBLISHED` what the paper reports for them; `describe`
says both in words, and `table` lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fid.files import InputError
from fid.sources.images import QUANTIZE

__all__ = ["PRESETS", "PUBLISHED", "Preset", "Published", "describe", "get", "table"]

# The least that a whole number may be.
_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "every": 1,
    "width": 1,
    "latent_dimension": 1,
    "discriminator_steps": 1,
    "sample_batch": 1,
    "num_samples": 2,
    "halve_every": 0,
}
_CHOICES = {
    "network": ("dcgan", "resnet", "began", "text"),
    "latent": ("uniform", "normal"),
    "quantize": QUANTIZE,
    "extractor": ("auto", "inception", "pixels"),
}
# Sides of images that are not 64, where the data set decides.
_SIZES = {"cifar10": 32, "digits": 32, "svhn_cropped": 32}
# Settings that only one of the two kinds of data has, and what they are for the other.
_OF_TEXT = {"unit": None, "text_files": None, "max_lines": None}
_OF_IMAGES = {
    "image_size": None,
    "split": None,
    "quantize": "none",
    "extractor": "auto",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """All settings of an experiment.

    Attributes:
        name: Its name, for `--preset`.
        summary: What it is, a line.
        dataset: One of `datasets.NAMES`, or of `text.NAMES` for text.
        image_size: Side of the images; None means the data set's own.
        network: The family of networks, `dcgan`, `resnet` or `began`, or `text`.
        width: Channels next to the image, the paper's DCGAN has 64; or of the blocks
            for text, where the paper has 512.
        latent: Distribution of the latents, `uniform` or `normal`.
        latent_dimension: Their length.
        loss: A loss of `losses.get`.
        gradient_penalty: Its weight; 0 for none.
        discriminator_steps: Discriminator updates per generator update.
        reuse_latents: Whether both updates of a step use the same latents.
        discriminator_lr: The discriminator's learning rate (the paper's b).
        generator_lr: The generator's learning rate (the paper's a).
        beta_1: Adam's first decay, for both.
        beta_2: Adam's second decay, for both.
        batch_size: Images, or lines, per discriminator update.
        steps: Generator updates in all.
        every: Steps between measurements, which are also checkpoints.
        num_samples: Generated images, or lines, in a measurement.
        unit: What a symbol of text is, `characters` or `bytes`; None for images.
        text_files: The pattern of the data set `text_files`.
        max_lines: The most lines of text to read; None for 10 million, the paper's.
        split: The part of the data set, as in `datasets.load`; None for the paper's.
        halve_every: Steps after which both learning rates are halved, again and again;
            0 for never.
        sample_batch: Samples generated at a time in a measurement. It matters only
            where an image depends on those beside it (`batch_statistics`).
        quantize: How they are rounded before it; see `fid.sources.images.quantize`.
        extractor: Whose features measure: `auto` (the 2015 graph; for the digits,
            without `--inception`, their classifier), `inception`, or `pixels`
            (`fid.pixel_extractor`).
        generator_options: Further arguments of the network's `generator`.
        discriminator_options: Further arguments of the network's `discriminator`.
        ema_decay: Decay of the generator's moving average, which samples; 0 for none.
        jit_compile: Whether XLA compiles the step; None leaves it to `GAN.compile`.
        seed: Seed of weights, data order and latents.

    Raises:
        InputError: A value cannot be.
    """

    name: str
    summary: str
    dataset: str
    image_size: int | None
    network: str
    width: int
    latent: str
    latent_dimension: int
    loss: str
    gradient_penalty: float
    discriminator_steps: int
    reuse_latents: bool
    discriminator_lr: float
    generator_lr: float
    beta_1: float
    beta_2: float
    batch_size: int
    steps: int
    every: int
    num_samples: int
    unit: str | None = None
    text_files: str | None = None
    max_lines: int | None = None
    split: str | None = None
    halve_every: int = 0
    sample_batch: int = 250
    quantize: str = "none"
    extractor: str = "auto"
    generator_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    discriminator_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ema_decay: float = 0.0
    jit_compile: bool | None = None
    seed: int = 0

    def override(self, **changes: Any) -> Preset:
        """Returns the preset with some settings changed.

        Args:
            **changes: New values by attribute; those that are None change nothing.

        Raises:
            InputError: A value cannot be.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        return dataclasses.replace(self, **changes)

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            if (value := getattr(self, key)) < least:
                raise InputError(f"{key} is {value}; it must be >= {least}.")
        for key in ("discriminator_lr", "generator_lr"):
            if not 0 < (value := getattr(self, key)) < float("inf"):
                raise InputError(f"{key} is {value}; it must be positive.")
        for key in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= (value := getattr(self, key)) < 1:
                raise InputError(f"{key} is {value}; it must be in [0, 1).")
        if not 0 <= self.gradient_penalty < float("inf"):
            raise InputError(
                f"gradient_penalty is {self.gradient_penalty}; it must be >= 0."
            )
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed is {self.seed}; it must be in 0..{2**31 - 1}.")
        for key, choices in _CHOICES.items():
            if (value := getattr(self, key)) not in choices:
                raise InputError(
                    f"{key} is {value!r}; choose from {', '.join(choices)}."
                )
        # What would be read by nobody is a mistake.
        text = self.network == "text"
        for key, default in (_OF_IMAGES if text else _OF_TEXT).items():
            if getattr(self, key) != default:
                raise InputError(
                    f"{key} is {getattr(self, key)!r}, a setting of "
                    f"{'images' if text else 'text'}; {self.name} is of "
                    f"{'text' if text else 'images'}. Leave it out, or choose another "
                    f"--preset{'.' if text else ', such as text_wgan_gp_ttur.'}"
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


@dataclasses.dataclass(frozen=True)
class Published:
    """What is published about an experiment.

    Attributes:
        mean_minimum: The lowest point of the mean curve of all runs: what a
            reproduction should aim at. Read from the released figures; FID is good to
            0.15.
        best: The lowest value of all runs and steps; None where the paper gives none.
        step: The step of that.
        minutes: Its wall-clock minutes, on hardware that is not named.
        source: Where the best is from.
        caveat: What else to know.
        metric: What was measured, `FID`, `JSD-4` or `JSD-6`.
        runs: How many runs there were.
        further: The same of another metric.
    """

    mean_minimum: float
    best: float | None = None
    step: int | None = None
    minutes: int | None = None
    source: str = "Table 1 of the paper"
    caveat: str = ""
    metric: str = "FID"
    runs: int = 8
    further: Published | None = None


def _dcgan(**settings: Any) -> Preset:
    """What all DCGAN experiments of the paper share (its code, DCGAN/main.py)."""
    shared = {
        "network": "dcgan",
        "width": 64,
        "latent": "uniform",
        "latent_dimension": 100,
        "loss": "non_saturating",
        "gradient_penalty": 0.0,
        "discriminator_steps": 1,
        "reuse_latents": True,
        "beta_1": 0.5,
        "beta_2": 0.999,
        "batch_size": 64,
        "every": 5000,
        "num_samples": 50_000,
    }
    return Preset(**shared | settings)


def _digits_dcgan(**settings: Any) -> Preset:
    """A small DCGAN on the embedded digits: minutes on two cores; not in the paper.

    1,797 images are few. Past some 2,000 steps the discriminator knows them by heart;
    before that the generator still swings, so samples come from a moving average of
    it, which the paper does without. On a CPU, XLA is slower at so small a width than
    TensorFlow's own kernels.
    """
    shared = {
        "dataset": "digits",
        "image_size": 32,
        "width": 16,
        "batch_size": 32,
        "steps": 2000,
        "every": 100,
        "num_samples": 2000,
        "ema_decay": 0.98,
        "jit_compile": False,
    }
    return _dcgan(**shared | settings)


def _wgan_gp(**settings: Any) -> Preset:
    """What all WGAN-GP experiments on images share (its code, WGAN_GP/)."""
    shared = {
        "network": "resnet",
        "latent": "normal",
        "latent_dimension": 128,
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "reuse_latents": False,
        "beta_1": 0.0,
        "beta_2": 0.9,
        "batch_size": 64,
        "num_samples": 50_000,
        "quantize": "round",
    }
    return Preset(**shared | settings)


def _digits_wgan_gp(**settings: Any) -> Preset:
    """A small WGAN-GP on the embedded digits: minutes on a CPU; not in the paper.

    The original makes five discriminator updates a step and a quarter of the steps, as
    in the paper. Runs are too short for XLA to earn its compilation.
    """
    shared = {
        "dataset": "digits",
        "image_size": 32,
        "width": 8,
        "latent_dimension": 64,
        "batch_size": 16,
        "num_samples": 2000,
        "quantize": "none",
        "jit_compile": False,
    }
    return _wgan_gp(**shared | settings)


def _began(**settings: Any) -> Preset:
    """What the BEGAN experiments share (its code, BEGAN_FID_batched/).

    Adam has its default decays: the original reads flags for them and forgets them.
    """
    shared = {
        "image_size": 64,
        "network": "began",
        "width": 128,
        "latent": "uniform",
        "latent_dimension": 64,
        "loss": "wasserstein",
        "gradient_penalty": 0.0,
        "discriminator_steps": 1,
        "reuse_latents": True,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "batch_size": 16,
        "steps": 500_000,
        "every": 1000,
        "num_samples": 50_000,
        "halve_every": 100_000,
    }
    return Preset(**shared | settings)


def _text(**settings: Any) -> Preset:
    """What the language experiments share (its code, WGAN_GP/gan_language_JSD.py)."""
    shared = {
        "image_size": None,
        "network": "text",
        "unit": "characters",
        "latent": "normal",
        "latent_dimension": 128,
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "reuse_latents": False,
        "beta_1": 0.5,
        "beta_2": 0.9,
        "batch_size": 64,
        "num_samples": 640,
        "sample_batch": 64,
    }
    return Preset(**shared | settings)


def _help_text(**settings: Any) -> Preset:
    """A small language GAN on the embedded text: minutes on a CPU; not in the paper.

    Both settings take about as much processor time. By XLA, although runs are short:
    TensorFlow's own kernels sum a batch's scores in an order that changes from run to
    run, so that a resumed run's losses could differ from the uninterrupted one's in the
    last digit.
    """
    shared = {"dataset": "pydoc_topics", "width": 64}
    return _text(**shared | settings)


def _pair(
    make: Any,
    name: str,
    summary: str,
    ttur: Mapping[str, Any],
    orig: Mapping[str, Any],
    **shared: Any,
) -> tuple[Preset, Preset]:
    """Makes NAME_ttur and NAME_orig."""
    return (
        make(
            name=f"{name}_ttur",
            summary=f"{summary}, two time scales",
            **shared | ttur,
        ),
        make(
            name=f"{name}_orig",
            summary=f"{summary}, one learning rate",
            **shared | orig,
        ),
    )


def _rates(
    discriminator: float, generator: float | None = None, **more: Any
) -> dict[str, Any]:
    """Both learning rates; the generator's is the discriminator's unless given."""
    return {
        "discriminator_lr": discriminator,
        "generator_lr": generator or discriminator,
        **more,
    }


_CELEBA = {"dataset": "celeb_a", "split": "all", "image_size": 64}
_LSUN = {"dataset": "lsun/bedroom", "image_size": 64}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *_pair(
            _digits_dcgan,
            "digits_dcgan",
            "DCGAN on the embedded digits (minutes)",
            ttur=_rates(8e-4, 3e-4),
            orig=_rates(5e-4),
        ),
        *_pair(
            _digits_wgan_gp,
            "digits_wgan_gp",
            "WGAN-GP on the embedded digits (minutes)",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=400, every=40),
            orig=_rates(5e-4, discriminator_steps=5, steps=100, every=10),
        ),
        *_pair(
            _dcgan,
            "celeba_dcgan",
            "DCGAN on CelebA",
            ttur=_rates(1e-5, 5e-4),
            orig=_rates(5e-4),
            steps=256_000,  # 81 epochs of 202,599 images
            **_CELEBA,
        ),
        *_pair(
            _dcgan,
            "cifar10_dcgan",
            "DCGAN on CIFAR-10",
            ttur=_rates(1e-4, 5e-4),
            orig=_rates(1e-4),
            dataset="cifar10",
            image_size=32,
            steps=390_000,  # 500 epochs of 50,000 images
        ),
        *_pair(
            _dcgan,
            "svhn_dcgan",
            "DCGAN on SVHN",
            ttur=_rates(1e-5, 1e-4),
            orig=_rates(5e-5),
            dataset="svhn_cropped",
            image_size=32,
            steps=200_000,  # not published; past both best steps
        ),
        *_pair(
            _dcgan,
            "lsun_dcgan",
            "DCGAN on LSUN Bedrooms",
            ttur=_rates(1e-5, 1e-4),
            orig=_rates(5e-5),
            steps=425_000,  # 9 epochs of 3,033,042 images
            **_LSUN,
        ),
        # The code stops after 100,000 and 25,009 iterations, but the best on CIFAR-10
        # are later.
        *_pair(
            _wgan_gp,
            "cifar10_wgan_gp",
            "WGAN-GP on CIFAR-10",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=170_000, every=1000),
            orig=_rates(1e-4, discriminator_steps=5, steps=54_000, every=333),
            dataset="cifar10",
            image_size=32,
            width=32,
        ),
        *_pair(
            _wgan_gp,
            "lsun_wgan_gp",
            "WGAN-GP on LSUN Bedrooms",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=100_000, every=1000),
            orig=_rates(5e-4, discriminator_steps=5, steps=25_009, every=333),
            width=64,
            **_LSUN,
        ),
        *_pair(
            _began,
            "celeba_began",
            "BEGAN on CelebA",
            ttur=_rates(6e-5, 4e-5),
            orig=_rates(5e-5),
            **_CELEBA,
        ),
        *_pair(
            _began,
            "lsun_began",
            "BEGAN on LSUN Bedrooms",
            ttur=_rates(3e-5, 1e-5),
            orig=_rates(2e-5),
            **_LSUN,
        ),
        *_pair(
            _help_text,
            "text_wgan_gp",
            "WGAN-GP on the sentences of Python's help pages (minutes)",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=2100, every=70),
            orig=_rates(1e-4, discriminator_steps=10, steps=300, every=10),
        ),
        *_pair(
            _text,
            "lm1b_wgan_gp",
            "WGAN-GP on the lines of One Billion Word",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1),
            orig=_rates(1e-4, discriminator_steps=10),
            dataset="lm1b",
            width=512,
            steps=200_000,
            every=100,
        ),
    )
}
DEFAULT = "digits_dcgan_ttur"

_PACKED = (
    "The published runs scored four images at a time by a slip in the critic "
    "(--original_quirks)."
)
_EQUILIBRIUM = (
    "The paper reports no difference between the two settings: the equilibrium term "
    "ties both gradients together. Values from figures deleted since."
)
_N_GRAMS = (
    "As many held-out lines of real text are away from the training set, too; the "
    "paper does not report how far, a run here does (the floor). The original's "
    "symbols are bytes under Python 2 and characters under Python 3; which they were "
    "in the published runs is not known (--unit)."
)


def _divergences(
    jsd_4: tuple[float, float, int, int], jsd_6: tuple[float, float, int, int]
) -> Published:
    """Each: minimum of the mean curve, best, its step, its minutes."""
    shared = {"source": "Table 1 of the paper", "runs": 10}
    return Published(
        *jsd_4,
        **shared,
        metric="JSD-4",
        caveat=_N_GRAMS,
        further=Published(*jsd_6, **shared, metric="JSD-6"),
    )


PUBLISHED: dict[str, Published] = {
    "celeba_dcgan_ttur": Published(14.0, 12.5, 225_000),
    "celeba_dcgan_orig": Published(
        30.6,
        21.4,
        70_000,
        caveat="The original diverges after some 75,000 steps. Rates plotted too: 1e-5 "
        "and 1e-4.",
    ),
    "cifar10_dcgan_ttur": Published(
        40.9,
        36.9,
        75_000,
        caveat="In the released figure the minimum lies some 10,000 steps later.",
    ),
    "cifar10_dcgan_orig": Published(
        45.2,
        37.7,
        100_000,
        caveat="In the released figure the minimum lies some 10,000 steps later. Rates "
        "plotted too: 2e-4 and 5e-4.",
    ),
    "svhn_dcgan_ttur": Published(
        14.8,
        12.5,
        165_000,
        caveat="The table repeats the two results of CelebA, and the figures bear them "
        "out. Which split was used is not known.",
    ),
    "svhn_dcgan_orig": Published(
        55.1,
        21.4,
        185_000,
        caveat="Which split was used is not known. Rates plotted too: 1e-5 and 1e-4.",
    ),
    "lsun_dcgan_ttur": Published(64.3, 57.5, 340_000),
    "lsun_dcgan_orig": Published(
        106.0, 70.4, 70_000, caveat="Rates plotted too: 1e-5 and 1e-4."
    ),
    "cifar10_wgan_gp_ttur": Published(29.5, 24.8, 168_000, 700, caveat=_PACKED),
    "cifar10_wgan_gp_orig": Published(
        32.2,
        29.3,
        53_000,
        800,
        caveat=f"{_PACKED} Rates plotted too: 5e-4 and 7e-4.",
    ),
    "lsun_wgan_gp_ttur": Published(13.0, 9.5, 80_000, 1900),
    "lsun_wgan_gp_orig": Published(
        23.3,
        20.5,
        23_000,
        2010,
        caveat="The table says 1e-4, but only the figure's curve of 5e-4, the code's "
        "rate, comes so low; that of 1e-4 has its mean minimum at 30.8. Rates plotted "
        "too: 1e-4 and 7e-4.",
    ),
    "celeba_began_ttur": Published(26.6, source="", caveat=_EQUILIBRIUM),
    "celeba_began_orig": Published(
        27.0,
        source="",
        caveat=f"{_EQUILIBRIUM} Rate plotted too: 1e-4, mean minimum 30.0.",
    ),
    "lsun_began_ttur": Published(123.7, source="", caveat=_EQUILIBRIUM),
    "lsun_began_orig": Published(124.3, source="", caveat=_EQUILIBRIUM),
    "lm1b_wgan_gp_ttur": _divergences(
        (0.376, 0.35, 98_000, 1150), (0.760, 0.74, 100_000, 1120)
    ),
    "lm1b_wgan_gp_orig": _divergences(
        (0.394, 0.38, 33_000, 1040), (0.787, 0.77, 32_000, 1070)
    ),
}


def get(name: str) -> Preset:
    """Returns a preset by name.

    Args:
        name: One of `PRESETS`.

    Raises:
        InputError: There is none of this name.
    """
    if name not in PRESETS:
        raise InputError(
            f"There is no preset {name!r}; choose from {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def describe(name: str) -> str:
    """Says what a preset is: its command, what to expect of it, how long it takes.

    Args:
        name: One of `PRESETS`.

    Returns:
        A few lines; the first is the command.

    Raises:
        InputError: There is none of this name.

    Example:
        >>> from tf_ttur import presets
        >>> print(presets.describe("celeba_dcgan_ttur").splitlines()[0])
        python scripts/train.py --preset=celeba_dcgan_ttur --data_dir=DIR
    """
    preset = get(name)
    published = PUBLISHED.get(name)
    embedded = preset.dataset in ("digits", "pydoc_topics")
    where = "" if embedded else " --data_dir=DIR"
    lines = [f"python scripts/train.py --preset={name}{where}", "", preset.summary]
    if published is None:
        lines.append("Not in the paper.")
    else:
        lines += _told(published)
        if published.further is not None:
            lines += _told(published.further)
        lines.append(
            f"Time: about {_gpu_hours(preset):.0f} h on one current GPU. An estimate "
            "from counted operations; nobody has run it here."
        )
        if published.caveat:
            lines.append(published.caveat)
    data = f"split {preset.split or 'train'}, {preset.image_size}x{preset.image_size}"
    if preset.network == "text":
        data = f"lines of 32 {preset.unit}"
    lines.append(
        f"Data: {preset.dataset}, {data}; measured every {preset.every:,} steps on "
        f"{preset.num_samples:,} samples."
    )
    if preset.quirks:
        quirks = ", ".join(f"{k}={v}" for k, v in preset.quirks.items())
        lines.append(f"With --original_quirks: {quirks}.")
    return "\n".join(lines)


def _told(published: Published) -> list[str]:
    metric, runs, minutes = published.metric, published.runs, published.minutes
    good = ", good to 0.15" if metric == "FID" else ""
    lines = [
        f"Expected: {metric} {published.mean_minimum}, the lowest point of the mean "
        f"curve of {runs} runs (read from the released figures{good})."
    ]
    if published.best is not None:
        lines.append(
            f"Published: {metric} {published.best} at step {published.step:,}"
            + (f" after {minutes:,} minutes" if minutes else "")
            + f" ({published.source}), the best of {runs} runs and all their "
            "measurements, which one run does not reach but by luck."
        )
    return lines


def table() -> str:
    """Returns all presets as a table, one a line."""
    rows = [
        (
            "name",
            "data set",
            "networks",
            "lr D",
            "lr G",
            "D steps",
            "batch",
            "steps",
            "published FID, or JSD-4 and JSD-6",
            "mean minimum",
        )
    ]
    for name, preset in PRESETS.items():
        published = PUBLISHED.get(name)
        results = [published] if published else []
        results += [x.further for x in results if x.further]
        best = [f"{x.best} at {x.step:,}" for x in results if x.best]
        rows.append(
            (
                name,
                preset.dataset,
                preset.network,
                f"{preset.discriminator_lr:g}",
                f"{preset.generator_lr:g}",
                str(preset.discriminator_steps),
                str(preset.batch_size),
                f"{preset.steps:,}",
                ", ".join(best) or "-",
                ", ".join(str(x.mean_minimum) for x in results) or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# Multiply-adds of a forward pass for one image, or one line of a vocabulary of 2,048:
# (generator, discriminator).
_OPERATIONS = {
    ("dcgan", 32): (0.041e9, 0.041e9),
    ("dcgan", 64): (0.163e9, 0.162e9),
    ("resnet", 32): (0.112e9, 0.107e9),
    ("resnet", 64): (1.79e9, 1.70e9),
    ("began", 64): (1.62e9, 4.97e9),
    ("text", None): (0.455e9, 0.453e9),
}
# What one current GPU is taken to do.
_OPERATIONS_PER_SECOND = 1e13
_SECONDS_PER_UPDATE = 0.004  # besides the operations
_IMAGES_MEASURED_PER_SECOND = 1000


def _gpu_hours(preset: Preset) -> float:
    generator, discriminator = _OPERATIONS[preset.network, preset.image_size]
    # In forward passes; a gradient counts two, and the penalty's second derivative,
    # with what comes before it, six.
    critic = 6 * discriminator + generator * (not preset.reuse_latents)
    critic += 6 * discriminator * bool(preset.gradient_penalty)
    step = preset.discriminator_steps * critic + 3 * generator + 2 * discriminator
    seconds = preset.steps * (
        step * preset.batch_size / _OPERATIONS_PER_SECOND
        + (preset.discriminator_steps + 1) * _SECONDS_PER_UPDATE
    )
    measurements = preset.steps / preset.every
    seconds += measurements * preset.num_samples / _IMAGES_MEASURED_PER_SECOND
    return seconds / 3600

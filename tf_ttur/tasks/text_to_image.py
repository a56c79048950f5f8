"""Few-step students of Stable Diffusion 3, measured by the Fréchet distance."""

from __future__ import annotations

import logging
import pathlib
from typing import TYPE_CHECKING, Any

from fid.files import InputError, printable, read_json, write_json
from fid.mistaken import cache_dir
from tf_ttur.presets import TextToImagePreset
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.distillation import StudentTask
from tf_ttur.tasks.task import (
    GRID_SEED,
    check_kind,
    find_checkpoint,
    load_checkpoint,
)

if TYPE_CHECKING:
    from tf_ttur.callbacks import SampleGrid
    from tf_ttur.datasets.captioned import CaptionedImages
    from tf_ttur.distillation.flash_dmd import FlashDMD
    from tf_ttur.distillation.prompts import Prompts
    from tf_ttur.distillation.sd3 import Latents

__all__ = ["TextToImageTask"]

_log = logging.getLogger(__name__)
_SMALL = "small"
# Of this one `sd3.cost` knows everything before there are weights.
_MEDIUM = "stable_diffusion_3_medium"
# Pictures over time have as many columns as a square of so many images.
_SAMPLES = 16
_MOVED = "resume with train.py --set=backbone=FOLDER, which notes the new place"


class TextToImageTask(StudentTask):
    """A few-step student of Stable Diffusion 3, trained on texts; see `Task`.

    The images are encoded, and the texts embedded, once: both are kept in the folder
    `stable_diffusion_3` of the cache. The student and the fake score are adapters on
    the backbone, and checkpoints hold nothing else of them.
    """

    preset: TextToImagePreset
    presets = TextToImagePreset

    _data: CaptionedImages | None = None
    # Each is loaded or made once a run.
    _parts: tuple[Any, Any] | None = None
    _latents: Latents | None = None
    _embeddings: str | None = None

    @property
    def num_classes(self) -> int | None:
        """The number of texts; None before they are loaded."""
        return None if self._data is None else self._data.num_classes

    @property
    def parts(self) -> tuple[Any, Any]:
        """The backbone, and what makes tokens of texts; loaded at the first look.

        Raises:
            InputError: As for `sd3.load`.
        """
        if self._parts is None:
            from tf_ttur.distillation import sd3

            preset = self.preset
            size = preset.image_size
            if preset.backbone == _SMALL:
                self._parts = sd3.small(size, dtype=preset.dtype)
            else:
                shape = (size, size, 3)
                self._parts = sd3.load(preset.backbone, shape, dtype=preset.dtype)
        return self._parts

    def embedded(self, texts: list[str]) -> Prompts:
        """Returns the embeddings of texts, from the cache where they are there.

        Args:
            texts: The texts.

        Raises:
            InputError: As for `sd3.embed`.
        """
        from tf_ttur.distillation import sd3

        found = sd3.embed(*self.parts, texts, _cache())
        # Not the embeddings: the networks have these, and they are large.
        self._embeddings = found.fingerprint
        return found

    @property
    def latents(self) -> Latents:
        """The latents of the images; made, or read from the cache, at the first look.

        Raises:
            InputError: As for `sd3.latents`.
        """
        from tf_ttur.distillation import sd3

        if self._latents is None:
            self._latents = sd3.latents(self.parts[0], self.data.files, _cache())
        return self._latents

    def reward_network(self) -> Any:
        """Refuses the latent reward, which there is none of yet.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{self.preset.name} has reward 'latent', and there is no such reward of "
            "Stable Diffusion 3's latents yet. Give --set=reward=discriminator."
        )

    def _build(self, shape: tuple[int, ...]) -> FlashDMD:
        from tf_ttur.distillation import sd3

        preset = self.preset
        if counted := preset.backbone == _MEDIUM:
            # Before the weights are there, so that it can be seen without them.
            _log.info("%s", self.cost())
        backbone, _ = self.parts
        embedded = self.embedded(list(self.data.texts))
        if not counted:
            tokens = {"tokens": embedded.shape[0]}
            _log.info("%s", self.cost(**sd3.sizes(backbone), **tokens))
        made = sd3.networks(
            backbone,
            embedded,
            self.encoder(),
            rank=preset.rank,
            alpha=preset.alpha,
            seed=preset.seed,
        )
        return self.compiled(
            made.student,
            made.fake_score,
            made.encoder.outputs,
            teacher=made.teacher,
            encoder=made.encoder,
            decoder=made.decoder,
            # The paper's shift is unknown: that which the backbone was trained with.
            parametrisation=sd3.parametrisation(backbone),
            num_classes=embedded.count,
            pixels=False,
        )

    def cost(self, **sizes: int) -> str:
        """Says what a step takes, by counting; see `sd3.cost`.

        Args:
            **sizes: The transformer's, as there; by default those of Medium.
        """
        from tf_ttur.distillation import sd3

        preset = self.preset
        each, batch = {"float32": 4, "bfloat16": 2}[preset.dtype], preset.batch_size
        found = sd3.cost(preset.image_size, rank=preset.rank, bytes_each=each, **sizes)
        passes = sd3.passes(
            preset.ratio,
            preset.anchors,
            hard=preset.noise_split == "hard",
            guided=preset.guidance != 1,
        )
        kept = ""
        if preset.noise_split == "hard":
            kept = "The hard split keeps two passes at a time, so twice that memory. "
        # An adapter, its gradient and Adam's two moments are in float32.
        adapters, which, step = 2 * 4 * 4 * found.adapter, "two adapters", "a step"
        if preset.rl_from is not None:
            # The reference, and the moments of the student's second optimizer.
            adapters += 3 * 4 * found.adapter
            which, step = "three adapters", f"a step before step {preset.rl_from}"
        return (
            "By counting, without the autoencoder and the discriminator: the "
            f"transformer has {found.parameters:.3g} parameters, "
            f"{_bytes(found.parameters * each)}; {which} of "
            f"{found.adapter:.3g} take {_bytes(adapters)}; a pass of a batch of "
            f"{batch} keeps at least {_bytes(batch * found.activations)} for "
            f"gradients; {step} is {passes * batch * found.flops:.2g} operations. "
            f"{kept}If that is more than the device has, lower --batch_size."
        )

    def batches(self, data: CaptionedImages, start: int = 0) -> Any:
        """Gives endless batches of latents and of the numbers of their texts."""
        from tf_ttur.datasets import batches

        preset = self.preset
        return batches.rows(
            self.latents.values,
            f"{data.name} ({data.split}) has {data.num_examples} images",
            preset.batch_size,
            preset.seed,
            start,
            self.minibatches(start),
        )

    def config(self, data: CaptionedImages) -> dict[str, Any]:
        """Returns the settings, facts, and fingerprints of what is only read."""
        from tf_ttur.networks import lora

        if self._embeddings is None:
            self.embedded(list(data.texts))
        return super().config(data) | {
            "teacher_sha256": lora.sha256(self.parts[0].diffuser),
            "text_sha256": data.digest,
            "embeddings_sha256": self._embeddings,
            "latents_sha256": self.latents.fingerprint,
        }

    def samples(self, data: CaptionedImages, folder: RunFolder) -> SampleGrid:
        """Makes the callback that draws images of the first texts.

        The texts are kept in the folder, since the run's labels are their numbers.
        """
        from tf_ttur import callbacks

        texts = list(data.texts)
        if not folder.texts.exists():
            folder.check_held()
            write_json(folder.texts, texts)
        elif _texts(folder) != texts:
            raise InputError(
                f"{printable(folder.texts)} has other texts than the images that are "
                "trained on: bring the run's own file back, or delete it to have it "
                "made again."
            )
        return callbacks.SampleGrid(
            folder.samples, _SAMPLES, GRID_SEED, self.preset.sample_batch
        )

    def describe_data(self, data: CaptionedImages, measurement: Any) -> str:
        """Says how many images there are, how large, and what is trained on them."""
        return (
            f"{data.num_examples} images {data.shape} with a text each; adapters of "
            f"rank {self.preset.rank} on {self.preset.backbone}"
        )

    @classmethod
    def open(cls, folder: RunFolder, checkpoint: str | int = "best") -> FlashDMD:
        """Loads the model of a run, on the run's backbone; see `Task.open`."""
        check_kind(folder, cls.presets)
        path = find_checkpoint(folder, checkpoint)
        preset, _ = folder.preset()
        texts, task = _texts(folder), cls(preset)
        from tf_ttur.distillation import sd3

        try:
            backbone, _ = task.parts
        except InputError as error:
            raise InputError(f"{error} If it was moved, {_MOVED}.") from error
        with sd3.known(backbone, task.embedded(texts)):
            model = load_checkpoint(
                path,
                f"Bring back {printable(preset.backbone)}, the backbone that it was "
                f"trained on; if it was moved, {_MOVED}; or choose another "
                "--checkpoint.",
                {"decoder": sd3.decoder(backbone)},
            )
        if not isinstance(model, cls.model()):
            raise InputError(f"{printable(path)} holds no {cls.model().called}.")
        return model


def _cache() -> pathlib.Path:
    """Returns the folder of embeddings and latents, and makes it."""
    path = cache_dir() / "stable_diffusion_3"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _texts(folder: RunFolder) -> list[str]:
    """Reads the texts of a run, whose numbers are its labels."""
    found = read_json(folder.texts)
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise InputError(
            f"{printable(folder.texts)} is damaged: it is no list of texts. Bring the "
            "run's own file back."
        )
    return found


def _bytes(count: float) -> str:
    unit, size = ("GB", 1e9) if count >= 1e8 else ("MB", 1e6)
    return f"{count / size:,.{0 if count >= 10 * size else 1}f} {unit}"

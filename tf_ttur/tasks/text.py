"""GANs of lines of text, measured by the divergences of their n-grams."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from fid.files import InputError, check_writable, printable
from fid.mistaken import local_path
from tf_ttur.presets import TextPreset
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.gans import GANTask
from tf_ttur.tasks.task import (
    GRID_SEED,
    MEASUREMENT_SEED,
    SampleRequest,
    check_kind,
    open_checkpoint,
)

if TYPE_CHECKING:
    from tf_ttur.callbacks import NgramJSD, TextSamples
    from tf_ttur.datasets.text import TextData, Vocabulary
    from tf_ttur.gan import GAN
    from tf_ttur.networks.text import TextGAN

__all__ = ["Text"]

# What `sample.py` can do with images only.
_OF_IMAGES = (
    "interpolate", "quantize", "grid", "labels", "sampler", "steps", "guidance",
    "overwrite",
)  # fmt: skip


class Text(GANTask):
    """A GAN of lines of text; see `Task`."""

    preset: TextPreset
    suffix = ".txt"
    tabled: ClassVar[tuple[tuple[str, int], ...]] = ((", JSD-4", 4), (", JSD-6", 4))
    further_metrics = ("jsd_6",)

    def check(self) -> None:
        """Refuses an unknown text, unit or loss, and flags for images."""
        from tf_ttur.datasets import text

        given = {"--inception": self.inception is not None, "--download": self.download}
        if flags := [flag for flag, is_given in given.items() if is_given]:
            raise InputError(
                f"{flags[0]} is for images; {self.preset.name} is of text."
            )
        text.check(self.preset.dataset, self.preset.text_files, self.preset.unit)
        super().check()

    def load(self) -> TextData:
        """Loads the text; see `datasets.text.load`."""
        from tf_ttur.datasets import text

        preset = self.preset
        limit = {} if preset.max_lines is None else {"max_lines": preset.max_lines}
        return text.load(
            preset.dataset,
            data_dir=self.data_dir,
            text_files=preset.text_files,
            unit=preset.unit,
            held_out=preset.num_samples,
            **limit,
        )

    def networks(
        self, shape: tuple[int, ...]
    ) -> tuple[ModuleType, type[GAN], tuple[int, ...]]:
        """Chooses the networks; see `GANTask.networks`."""
        from tf_ttur.networks import text

        return text, text.TextGAN, (shape[1],)

    def config(self, data: TextData) -> dict[str, Any]:
        """Returns the settings and facts of the text."""
        return self.preset.settings() | {
            "data_dir": self.data_dir,
            "num_examples": data.num_examples,
            "text_shape": list(data.shape),
            "text_sha256": data.digest,
        }

    def measurement(self, data: TextData, folder: RunFolder) -> NgramJSD:
        """Makes the callback that measures the divergences from all real lines."""
        from tf_ttur import callbacks
        from tf_ttur.ngrams import NgramReference

        preset = self.preset
        return callbacks.NgramJSD(
            NgramReference(data.tokens, data.held_out),
            every=min(preset.every, preset.steps),
            num_samples=preset.num_samples,
            seed=MEASUREMENT_SEED,
            batch_size=preset.sample_batch,
            last=preset.steps,
        )

    def samples(self, data: TextData, folder: RunFolder) -> TextSamples:
        """Makes the callback that writes lines; keeps the symbols in the folder."""
        from tf_ttur import callbacks
        from tf_ttur.datasets.text import Vocabulary

        if not folder.vocabulary.exists():
            folder.check_held()
            data.vocabulary.save(folder.vocabulary)
        elif Vocabulary.load(folder.vocabulary) != data.vocabulary:
            raise InputError(
                f"{printable(folder.vocabulary)} has other symbols than the text that "
                "is trained on: bring the run's own file back, or delete it to have it "
                "made again."
            )
        return callbacks.TextSamples(folder.samples, data.vocabulary, seed=GRID_SEED)

    def describe_data(self, data: TextData, measurement: NgramJSD) -> str:
        """Says how many lines there are, and how near real lines come."""
        key = measurement.key
        return (
            f"{data.num_examples} lines of {data.name}, {data.shape[1]} token ids; as "
            f"many held-out lines as are generated have {key} "
            f"{measurement.floors[f'{key}_floor']:.4g}"
        )

    @staticmethod
    def metric(config: dict[str, Any]) -> str:
        """Returns the divergence that decides which model is best."""
        return "jsd_4"

    @classmethod
    def open(
        cls, folder: RunFolder, checkpoint: str | int = "best"
    ) -> tuple[TextGAN, Vocabulary]:
        """Loads the model of a run and its symbols, to sample text; see `Task.open`."""
        check_kind(folder, TextPreset)
        from tf_ttur.datasets.text import Vocabulary
        from tf_ttur.networks.text import TextGAN

        vocabulary = Vocabulary.load(folder.vocabulary)
        path, model = open_checkpoint(folder, checkpoint)
        if not isinstance(model, TextGAN):
            raise InputError(f"{printable(path)} holds no GAN of text.")
        if len(vocabulary) != model.sample_shape[-1]:
            raise InputError(
                f"{printable(folder.vocabulary)} has {len(vocabulary)} token ids, "
                f"{path.name} {model.sample_shape[-1]}: bring the run's own one back."
            )
        return model, vocabulary

    @classmethod
    def write_samples(cls, folder: RunFolder, request: SampleRequest) -> str:
        """Writes lines of text to a file."""
        output = local_path(
            request.output or folder.path / f"{request.checkpoint}.txt", writing=True
        )
        if output.suffix.lower() != ".txt":
            raise InputError(
                f"--output={output}: {folder} is a run on text; expected a .txt."
            )
        if names := [name for name in _OF_IMAGES if name in request.given]:
            raise InputError(f"--{names[0]} is for images; {folder} is a run on text.")
        check_writable(output)
        gan, vocabulary = cls.open(folder, request.checkpoint)
        preset, _ = folder.preset()
        count = request.num_samples or preset.num_samples
        batch_size = request.batch_size or preset.sample_batch
        lines = gan.generate_text(count, vocabulary, request.seed, batch_size)
        from tf_ttur import sampling

        sampling.save_text(output, lines)
        return f"{count:,} lines from step {gan.steps} of {folder}: {output}"

"""How a task is chosen, and what is said of a checkpoint that cannot be loaded."""

import dataclasses
import subprocess
import sys

import pytest
from repository import ROOT

from fid.files import InputError
from tf_ttur import presets, tasks
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.diffusion import DiffusionTask
from tf_ttur.tasks.distillation import DistillationTask
from tf_ttur.tasks.images import Images
from tf_ttur.tasks.task import load_checkpoint
from tf_ttur.tasks.text import Text
from tf_ttur.tasks.text_to_image import TextToImageTask


def test_a_task_is_chosen_by_the_kind_of_the_preset():
    for name, preset in presets.PRESETS.items():
        expected = Text if "text" in name or "lm1b" in name else Images
        if "teacher" in name:
            expected = DiffusionTask
        if name.endswith(("_flash_dmd", "_flash_dmd_rl", "_dmd2")):
            expected = DistillationTask
        if name.startswith("sd3_"):
            expected = TextToImageTask
        assert type(tasks.of(preset)) is expected

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        labels: int = 0

    larger = Larger(**dataclasses.asdict(presets.get("digits_dcgan_ttur")))
    assert type(tasks.of(larger)) is Images


def test_a_checkpoint_that_is_not_there_is_told(tmp_path):
    folder, name = RunFolder(tmp_path), "step_00000001.keras"
    with pytest.raises(
        InputError, match=f"no checkpoint .*{name}. Choose another --ch"
    ):
        tasks.find_checkpoint(folder, tmp_path / name)
    folder.checkpoints.mkdir()
    (folder.checkpoints / name).write_text("no archive")
    for which in ("last", folder.checkpoints / name):
        with pytest.raises(InputError, match="cannot be loaded .* Choose another --ch"):
            tasks.find_checkpoint(folder, which)


def test_a_task_is_chosen_by_the_configuration_of_a_run(tmp_path):
    for network, kind in (("dcgan", Images), ("began", Images), ("text", Text)):
        folder = RunFolder(tmp_path / network)
        folder.claim({"network": network})
        assert tasks.of_run(folder) is kind
        assert tasks.of_run(str(folder.path)) is kind
    with pytest.raises(InputError, match="is no run folder"):
        tasks.of_run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"not a zip archive" * 99])
def test_a_checkpoint_that_cannot_be_loaded_is_named(tmp_path, content):
    path = tmp_path / "step_00000001.keras"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"step_00000001.keras cannot be loaded \("
    ) as e:
        load_checkpoint(path)
    assert "\n" not in str(e.value)


def test_choosing_a_task_does_not_start_tensorflow():
    code = (
        "import sys; from tf_ttur import presets, tasks; "
        "tasks.of(presets.get('text_wgan_gp_ttur')); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

"""Presets of diffusion models, against what EDM's paper says."""

import pytest

from fid.files import InputError
from tf_ttur import presets, tasks


def test_edms_training_is_that_of_its_table():
    preset = presets.get("cifar10_edm_teacher")
    assert preset.steps * preset.batch_size == 200_000_000
    # The rate rises over 10 million images.
    warmup = int(preset.schedule.removeprefix("warmup:").split("+")[0])
    assert 0 <= 10_000_000 - warmup * preset.batch_size < preset.batch_size
    # The average's half-life is half a million images.
    images = 500_000 / preset.batch_size
    assert preset.ema_decay**images == pytest.approx(0.5, abs=2e-3)
    assert "FID 1.97" in presets.describe("cifar10_edm_teacher")
    assert "FID 1.79" in presets.describe("cifar10_edm_conditional_teacher")
    assert "Nobody has run it here" in presets.describe("cifar10_edm_teacher")


@pytest.mark.parametrize("name", ["digits_edm_teacher", "digits_flow_teacher"])
def test_a_teacher_of_digits_can_be_built_and_told_about(name):
    preset = presets.get(name)
    tasks.of(preset).check()
    model = tasks.of(preset).build((16, 16, 1))
    assert model.num_classes == 10
    assert model.parametrisation.name == preset.parametrisation
    rows = [row for row in presets.table().splitlines() if row.startswith(name)]
    assert len(rows) == 1
    assert rows[0].split()[3:6] == ["-", "0.001", "-"]


def test_guidance_needs_labels():
    preset = presets.get("cifar10_edm_teacher")
    with pytest.raises(InputError, match="nothing to guide by"):
        preset.override(guidance=2.0)
    assert presets.get("digits_edm_teacher").override(guidance=2.0).guidance == 2

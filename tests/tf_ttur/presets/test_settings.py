"""Settings given as text."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.presets import settings

PRESET = presets.get(presets.DEFAULT)


def test_settings_are_read_as_what_they_are():
    texts = "ema_decay=0 width=8 jit_compile=True image_size=none loss=minimax"
    changed = settings.override(PRESET, texts.split())
    wanted = {"ema_decay": 0.0, "width": 8, "jit_compile": True, "image_size": None}
    assert changed == dataclasses.replace(PRESET, **wanted, loss="minimax")
    assert isinstance(changed.ema_decay, float)
    assert settings.override(changed, ["jit_compile=none"]).jit_compile is None
    # BEGAN takes this loss only: either order will do.
    both = ["network=began", "loss=wasserstein"]
    assert settings.override(PRESET, both) == settings.override(PRESET, both[::-1])


def test_settings_that_are_mappings_are_json():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    larger = Larger(**dataclasses.asdict(PRESET))
    assert settings.override(larger, ['options={"pack": 4}']).options == {"pack": 4}
    for text in ("4", "{"):
        with pytest.raises(InputError, match="expected a JSON object"):
            settings.override(larger, [f"options={text}"])


def test_the_original_packs_four_images_where_they_have_32_pixels():
    preset = presets.get("lsun_wgan_gp_ttur")
    assert "discriminator_options" not in preset.quirks
    for size, dataset in ((None, "cifar10"), (32, "folder")):
        small = dataclasses.replace(preset, dataset=dataset, image_size=size)
        assert small.quirks["discriminator_options"] == {"pack": 4}


def test_another_data_set_brings_its_own_size_and_split():
    """As `--dataset` of train.py does."""
    preset = presets.get("celeba_dcgan_ttur")
    for texts in (["dataset=folder"], ["split=test", "dataset=folder"]):
        changed = settings.override(preset, texts)
        assert (changed.dataset, changed.image_size) == ("folder", None)
        assert changed.split == ("test" if len(texts) == 2 else None)
    same = settings.override(preset, ["dataset=celeb_a"])
    assert (same.image_size, same.split) == (preset.image_size, "all")
    text = presets.get("text_wgan_gp_ttur")
    assert settings.override(text, ["text_files=*.txt"]).dataset == "text_files"

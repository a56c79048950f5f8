"""Settings of each kind: what they may be, and how files list them."""

import dataclasses
import json
from collections.abc import Mapping

import pytest

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.presets import preset as preset_module
from tf_ttur.presets.settings import override


@pytest.mark.parametrize(
    "setting",
    [
        {"num_samples": 1}, {"sample_batch": 0}, {"discriminator_steps": 0},
        {"halve_every": -1}, {"beta_1": float("nan")}, {"beta_2": 1.0},
        {"ema_decay": 5.0}, {"gradient_penalty": -1.0},
        {"gradient_penalty": float("inf")}, {"network": "vgg"}, {"latent": "cauchy"},
        {"epsilon": 0.0}, {"epsilon": float("nan")}, {"epsilon": 1e-30},
        {"quantize": "floor"}, {"extractor": "vgg"}, {"seed": -1}, {"steps": 0},
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(setting):
    with pytest.raises(InputError, match=f"^{next(iter(setting))} is .*; (it|choose)"):
        presets.get("digits_dcgan_ttur").override(**setting)


# What JSON can hold that no setting can be. Texts stand apart: most settings of text
# may be any.
WRONG = (True, 5.5, -1, 0, 2**31, 10**400, float("nan"), float("inf"), [1], {"a": 1})


def can_be(preset, key, value):
    try:
        dataclasses.replace(preset, **{key: value})
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", ["digits_dcgan_ttur", "text_wgan_gp_ttur"])
def test_every_setting_has_a_type_and_a_range(name):
    preset = presets.get(name)
    for field in dataclasses.fields(preset):
        key, now = field.name, getattr(preset, field.name)
        accepted = [
            value for value in (*WRONG, "x", None) if can_be(preset, key, value)
        ]
        if key == "gradient_penalty":
            accepted.remove("x")  # a name, which `penalties.get` looks for
        types = {type(x) for x in accepted} - {type(None)}
        assert len(types) <= 3, (key, accepted)
        assert not any(isinstance(x, float) and not abs(x) < 1e9 for x in accepted)
        if isinstance(now, int) and not isinstance(now, bool):
            assert accepted in ([], [0], [None]), key
        if isinstance(now, float):
            assert not any(isinstance(x, bool) for x in accepted), key


@pytest.mark.parametrize(
    "text",
    ["image_size=0", "image_size=-8", "latent_dimension=0", "sample_batch=0"],
)
def test_a_setting_given_as_text_is_held_to_its_range(text):
    with pytest.raises(InputError, match="must be >= 1"):
        override(presets.get("digits_dcgan_ttur"), [text])


def test_settings_of_a_file_are_looked_at_even_where_some_are_missing():
    presets.check_settings({"num_samples": 20, "quantize": "none", "more": [1]})
    for wrong in ({"sample_batch": "x"}, {"sample_batch": 0}, {"quantize": "zzz"}):
        with pytest.raises(presets.SettingsError, match=f"{next(iter(wrong))} is"):
            presets.check_settings({"num_samples": 20, **wrong})


def test_quirks_are_added_to_the_options_that_are_set():
    preset = presets.get("cifar10_wgan_gp_ttur")
    preset = preset.override(generator_options={"name": "mine"})
    assert preset.with_original_quirks().generator_options == {
        "name": "mine",
        "batch_statistics": True,
    }


def test_settings_that_contradict_each_other_are_refused():
    digits = presets.get("digits_dcgan_ttur")
    with pytest.raises(InputError, match="halve_every is 5 and schedule is 'cosine:9'"):
        digits.override(halve_every=5, schedule="cosine:9")
    with pytest.raises(
        InputError, match="beta_1 is 0, with which AdaBelief divides by"
    ):
        digits.override(optimizer="adabelief", beta_1=0.0)


def test_settings_of_images_and_of_text_do_not_mix():
    with pytest.raises(InputError, match="unit is 'bytes', a setting of text"):
        presets.get("digits_dcgan_ttur").override(unit="bytes")
    with pytest.raises(InputError, match="image_size is 32, a setting of images"):
        presets.get("text_wgan_gp_ttur").override(image_size=32)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_comes_back_from_the_file_of_a_run(name):
    preset = presets.get(name)
    found = json.loads(json.dumps(preset.settings() | {"data_dir": "/data", "more": 1}))
    assert presets.from_settings(found) == preset


def test_files_list_the_settings_of_both_first_kinds_in_one_order():
    """As folders of version 0.1 have them, whose configuration must compare equal."""
    images, text = (
        presets.get(name).settings()
        for name in ("digits_dcgan_ttur", "text_wgan_gp_orig")
    )
    count = len(preset_module._LISTED)
    assert list(images)[:count] == list(text)[:count]
    assert list(images)[:5] == ["name", "summary", "dataset", "image_size", "network"]
    assert (images["unit"], images["text_files"], images["max_lines"]) == (None,) * 3
    assert (text["image_size"], text["split"]) == (None, None)
    assert (text["quantize"], text["extractor"]) == ("none", "auto")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be >= 1"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"network": "vgg"}, "network is 'vgg'; choose from dcgan"),
        ({"network": None}, "network is None; choose from dcgan"),
    ],
)
def test_a_file_with_settings_that_cannot_be_is_refused(changes, message):
    settings = presets.get("digits_dcgan_ttur").settings() | changes
    with pytest.raises(presets.SettingsError, match=message):
        presets.from_settings(settings)
    del settings["batch_size"]
    with pytest.raises(presets.SettingsError, match="it lacks 'batch_size'"):
        presets.from_settings(settings)


def test_another_data_set_has_its_own_size_and_split():
    preset = presets.get("celeba_dcgan_ttur")
    assert preset.with_dataset("celeb_a") is preset
    other = preset.with_dataset("folder")
    assert (other.dataset, other.image_size, other.split) == ("folder", None, None)
    assert presets.get("text_wgan_gp_ttur").with_dataset("lm1b").dataset == "lm1b"


def test_a_kind_of_its_own_brings_settings_of_its_own():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        labels: int = 0

    digits = presets.get("digits_dcgan_ttur")
    larger = Larger(**dataclasses.asdict(digits), labels=10)
    assert larger.settings() == digits.settings() | {"labels": 10}
    with pytest.raises(InputError, match="has no setting 'colours'"):
        larger.override(colours=3)


@pytest.mark.parametrize(
    ("dataset", "image_size", "size"),
    [("digits", None, 32), ("celeb_a", None, 64), ("folder", 48, 48)],
)
def test_the_size_of_the_images_is_told_where_the_data_set_decides_it(
    dataset, image_size, size
):
    preset = dataclasses.replace(
        presets.get("digits_dcgan_ttur"), dataset=dataset, image_size=image_size
    )
    assert preset.data_format == f"split train, {size}x{size}"


def test_a_file_from_before_settings_were_added_is_the_preset_of_today():
    """The entries that it had, as it had them; the others are their defaults."""
    file = json.loads("""{
      "name": "digits_dcgan_ttur",
      "summary": "DCGAN on the embedded digits (minutes), two time scales",
      "dataset": "digits", "image_size": 32, "network": "dcgan", "width": 16,
      "latent": "uniform", "latent_dimension": 100, "loss": "non_saturating",
      "gradient_penalty": 0.0, "discriminator_steps": 1, "reuse_latents": true,
      "discriminator_lr": 0.0008, "generator_lr": 0.0003, "beta_1": 0.5,
      "beta_2": 0.999, "batch_size": 32, "steps": 2000, "every": 100,
      "num_samples": 2000, "unit": null, "text_files": null, "max_lines": null,
      "split": null, "halve_every": 0, "sample_batch": 250, "quantize": "none",
      "extractor": "auto", "generator_options": {}, "discriminator_options": {},
      "ema_decay": 0.98, "jit_compile": false, "seed": 0, "data_dir": null}""")
    digits = presets.get("digits_dcgan_ttur")
    presets.check_settings(file)
    assert presets.from_settings(file) == digits
    assert (digits.optimizer, digits.epsilon) == ("adam", None)
    assert (digits.clip, digits.schedule) == ("none", "constant")
    assert presets.complete(file) == digits.settings() | {"data_dir": None}


@pytest.fixture
def added(monkeypatch):
    """The digits' preset where its kind has got two settings more than files list."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        colours: int = 2
        labels: Mapping = dataclasses.field(default_factory=dict)

    monkeypatch.setattr(preset_module, "KINDS", (Larger, presets.TextPreset))
    return Larger(**dataclasses.asdict(presets.get("digits_dcgan_ttur")))


def test_files_may_lack_what_is_newer_than_they(added):
    old = presets.get("digits_dcgan_ttur").settings()
    assert added.settings().keys() - old.keys() == {"colours", "labels"}
    assert presets.from_settings(old) == added
    assert presets.complete(old) == old | {"colours": 2, "labels": {}}
    # What a file says holds, and what is no setting stays.
    more = old | {"colours": 3, "image_shape": [1]}
    assert presets.complete(more) == more | {"labels": {}}
    # The other kind has none of these, and the oldest settings are always listed.
    assert "colours" not in presets.complete({"network": "text"})
    for key in ("seed", "generator_options"):
        with pytest.raises(presets.SettingsError, match=f"it lacks '{key}'"):
            presets.from_settings({k: v for k, v in old.items() if k != key})


def test_labels_are_a_setting_of_networks_that_take_them():
    preset = presets.get("digits_dcgan_ttur")
    labelled = override(preset, ["num_classes=10"])
    assert labelled.settings() == preset.settings() | {"num_classes": 10}
    assert presets.from_settings(labelled.settings()) == labelled
    assert override(labelled, ["num_classes=none"]) == preset
    for network in ("resnet", "began"):
        with pytest.raises(InputError, match=f"{network} take no labels.*dcgan"):
            preset.override(network=network, loss="wasserstein", num_classes=10)
    with pytest.raises(InputError, match="num_classes is 0; it must be >= 1"):
        preset.override(num_classes=0)
    with pytest.raises(InputError, match="num_classes is 10, a setting of images"):
        presets.get("text_wgan_gp_ttur").override(num_classes=10)


def test_a_penalty_is_a_number_or_a_text():
    preset = presets.get("digits_dcgan_ttur")
    for text, value in (("3", 3.0), ("r1+r2:0.5", "r1+r2:0.5")):
        changed = override(preset, [f"gradient_penalty={text}"])
        assert changed.gradient_penalty == value
        found = json.loads(json.dumps(changed.settings()))
        assert presets.from_settings(found) == changed

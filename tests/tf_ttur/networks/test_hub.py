"""Keras Hub: what is said where it, a preset or a download is missing."""

import sys

import keras
import pytest
import tensorflow as tf

from fid.files import InputError
from tf_ttur.networks import hub


def test_without_keras_hub_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(InputError) as error:
        hub.imported()
    assert str(error.value) == (
        "Networks of Keras Hub need keras_hub, which is not installed: "
        "pip install 'tf-ttur[hub]'."
    )


@pytest.fixture
def backbone():
    reason = "the extra [hub] is not installed"
    return pytest.importorskip("keras_hub", reason=reason).models.Backbone


def test_a_download_that_fails_is_one_line_with_advice(backbone, monkeypatch):
    def from_preset(preset, **options):
        assert options == {"dtype": "float32"}
        raise ConnectionError("no route\n\tto host.")

    monkeypatch.setattr(backbone, "from_preset", from_preset)
    with pytest.raises(InputError) as error:
        hub.from_preset("Backbone", "sam_base_sa1b", "Do this.", dtype="float32")
    assert str(error.value) == (
        "Cannot load the preset sam_base_sa1b: ConnectionError: no route to host. "
        "Do this."
    )
    assert isinstance(error.value.__cause__, ConnectionError)


def test_a_folder_that_is_no_preset_is_refused(backbone, tmp_path):
    with pytest.raises(InputError, match=r"^Cannot load .*config\.json.* Do this\.$"):
        hub.from_preset("Backbone", tmp_path, "Do this.")
    with pytest.raises(InputError, match="there is no such folder"):
        hub.from_preset("Backbone", tmp_path / "missing", "Do this.")


def test_a_preset_in_a_folder_has_its_weights(backbone, tmp_path):
    models = sys.modules["keras_hub"].models
    made = models.CLIPTextEncoder(
        vocabulary_size=5, embedding_dim=4, hidden_dim=4, num_layers=1, num_heads=1,
        intermediate_dim=4, max_sequence_length=3,
    )  # fmt: skip
    made.save_to_preset(tmp_path)
    loaded = hub.from_preset("Backbone", tmp_path, "")
    assert isinstance(loaded, keras.Model)
    for one, other in zip(made.get_weights(), loaded.get_weights(), strict=True):
        assert (one == other).all()


def test_a_lack_of_memory_is_not_told_as_a_lack_of_a_licence(backbone, monkeypatch):
    def ended(error):
        def from_preset(*_, **__):
            raise error

        monkeypatch.setattr(backbone, "from_preset", from_preset)
        hub.from_preset("Backbone", "sam_base_sa1b", "Accept the licence.")

    with pytest.raises(MemoryError):
        ended(MemoryError())
    full = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    with pytest.raises(InputError, match="the device has not enough memory") as error:
        ended(full)
    assert "licence" not in str(error.value)


def test_a_folder_may_be_in_the_home_folder(backbone, monkeypatch, tmp_path):
    (tmp_path / "preset").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(backbone, "from_preset", lambda preset: preset)
    assert hub.from_preset("Backbone", "~/preset", "") == str(tmp_path / "preset")

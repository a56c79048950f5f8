"""Names that Keras knows after `import tf_ttur`: all of them, and nothing is loaded."""

import importlib
import os
import subprocess
import sys

import keras
import pytest
from repository import ROOT
from toy_gan import small_gan

from tf_ttur import registration, schedules
from tf_ttur.gan import GAN


def test_all_registered_classes_are_in_the_table():
    files = (ROOT / "tf_ttur").rglob("*.py")
    texts = {path: path.read_text() for path in files}
    mark = ('register_keras_serializable("tf_ttur")', "@_serializable\n")
    registering = {
        ".".join(path.relative_to(ROOT / "tf_ttur").with_suffix("").parts)
        for path, text in texts.items()
        if any(each in text for each in mark)
    }
    assert registering == set(registration.CLASSES)
    for module in registering:
        importlib.import_module(f"tf_ttur.{module}")
    known = keras.saving.get_custom_objects()
    ours = {name.removeprefix("tf_ttur>") for name in known if "tf_ttur>" in name}
    assert ours == {name for names in registration.CLASSES.values() for name in names}
    # What was imported has taken the place of what stood for it.
    assert known["tf_ttur>PowerLaw"] is schedules.PowerLaw


def test_a_name_is_registered_at_once_where_keras_is_there(monkeypatch):
    known = keras.saving.get_custom_objects()
    monkeypatch.delitem(known, "tf_ttur>PowerLaw")
    registration.register()
    config = keras.saving.serialize_keras_object(schedules.PowerLaw(0.5, 1.0))
    found = keras.saving.deserialize_keras_object(config)
    assert type(found) is schedules.PowerLaw
    assert float(found(1)) == 0.25
    # What is registered already stays.
    assert known["tf_ttur>GAN"] is GAN


@pytest.mark.parametrize("looked", ["", "importlib.util.find_spec('keras')"])
def test_a_model_loads_after_a_bare_import(tmp_path, looked):
    path = tmp_path / "gan.keras"
    small_gan().save(path)
    code = f"""
import importlib.util, sys, tf_ttur
(finder,) = [x for x in sys.meta_path if "tf_ttur" in type(x).__module__]
{looked}
assert "keras" not in sys.modules
import keras
assert finder not in sys.meta_path
assert "tf_ttur.gan" not in sys.modules
gan = keras.models.load_model({str(path)!r})
print(type(gan).__name__, gan.latent)
assert keras.saving.get_registered_object("tf_ttur>GAN") is tf_ttur.GAN
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "GAN NormalLatent(2)\n"

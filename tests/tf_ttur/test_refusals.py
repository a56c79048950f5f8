"""What Keras takes of other models: each is refused with what to use."""

import re

import keras
import numpy as np
import pytest

import tf_ttur
from tf_ttur import refusals
from tf_ttur.callbacks import ForOptimizer


def test_arguments_have_names_however_they_are_given():
    found = refusals.arguments(keras.Model.fit, ("x", "y", 8), {"verbose": 0})
    assert found == {"x": "x", "y": "y", "batch_size": 8, "verbose": 0}
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        refusals.arguments(keras.Model.fit, (), {"epoch": 1})
    # What Keras's evaluate passes on without a name of its own.
    found = refusals.arguments(keras.Model.evaluate, (), {"_use_cached": True})
    assert found == {"_use_cached": True}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"sample_weight": np.ones(3)}, "fit was given sample_weight, which"),
        ({"class_weight": {0: 1.0}}, "fit was given class_weight, which"),
        ({"validation_data": (0, 0, np.ones(3))}, "given weights in validation_data"),
    ],
)
def test_weights_are_refused(given, found):
    with pytest.raises(ValueError, match=found):
        refusals.check_weights(given, "fit")


def test_no_weights_are_none():
    given = {"sample_weight": None, "validation_data": (0, 0)}
    refusals.check_weights(given | {"x": 0}, "fit")


def test_settings_of_keras_are_refused_with_what_to_use():
    with pytest.raises(TypeError, match="GAN.compile takes no metrics: .*FrechetDista"):
        refusals.check_settings(["loss", "metrics"], "GAN.compile")
    refusals.check_settings(["loss"], "GAN.compile")


def test_callbacks_for_one_optimizer_are_refused_wherever_they_stand():
    plateau = keras.callbacks.ReduceLROnPlateau("fid", mode="min")
    listed = keras.callbacks.CallbackList([plateau])
    with pytest.raises(ValueError, match="ForOptimizer") as refused:
        refusals.check_callbacks(plateau, ["a"])
    (name,) = re.findall(r"(tf_ttur\.\S+)\(", str(refused.value))
    assert eval(name, {"tf_ttur": tf_ttur}) is ForOptimizer
    for given in (plateau, [[plateau]], listed):
        with pytest.raises(ValueError, match=r"are 'a', 'b'\. .*ForOptimizer\('a'"):
            refusals.check_callbacks(given, ["a", "b"])
    refusals.check_callbacks(None, ["a"])
    refusals.check_callbacks([keras.callbacks.TerminateOnNaN()], ["a"])

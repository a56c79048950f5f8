"""Networks that are trained once: by one of several, and refused where damaged."""

import json
import threading
from typing import Annotated

import keras
import numpy as np
import pytest

from fid.files import InputError
from fid.values import Between
from tf_ttur.networks.cached import trained_once

FACTS = {"one": Annotated[float, Between(0, 1)], "two": float}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    return []


def network(calls):
    calls.append(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    return model, {"one": 0.25, "two": -7.5}


def asked(calls):
    return trained_once("small", lambda: network(calls), FACTS)


def test_of_several_that_ask_at_once_one_trains(calls):
    found = []
    threads = [threading.Thread(target=lambda: found.append(asked(calls)))
               for _ in range(4)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len({path for _, _, path in found}) == 1
    for model, record, _ in found:
        assert (record["one"], record["two"]) == (0.25, -7.5)
        np.testing.assert_array_equal(
            model.get_weights()[0], found[0][0].get_weights()[0]
        )


def test_one_that_was_cut_before_its_record_is_trained_again(calls):
    _, _, path = asked(calls)
    path.with_suffix(".json").unlink()
    asked(calls)
    assert len(calls) == 2


@pytest.mark.parametrize("changed", [{"one": 0.5}, {"two": 0.0}])
def test_a_record_that_was_changed_is_refused(calls, changed):
    _, _, path = asked(calls)
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | changed))
    with pytest.raises(InputError, match="not what was recorded. Delete it and small"):
        asked(calls)


def test_other_weights_are_refused(calls):
    model, _, path = asked(calls)
    model.set_weights([w + 1 for w in model.get_weights()])
    model.save(path)
    with pytest.raises(InputError, match="does not have the weights"):
        asked(calls)

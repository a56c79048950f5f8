"""Texts as numbers: what is kept on disk, what is refused, and what is gathered."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from fid.files import InputError
from tf_ttur.distillation import prompts

DIGITS = "0123456789abcdef" * 4


def embeddings(seed=0, count=4, tokens=5, width=6, used=(3, 4)):
    """Random ones that float16 has exactly, with zeros at the ends."""
    random = np.random.default_rng(seed)
    context = np.zeros((count, tokens, width), "float32")
    some = random.integers(1, 100, (count, *used))
    context[:, : used[0], : used[1]] = some / 8
    return context, random.normal(size=(count, 3)).astype("float32")


def test_zeros_at_the_ends_are_not_kept_and_come_back():
    context, pooled = embeddings()
    made = prompts.Prompts.of(context, pooled)
    assert made.context.shape == (4, 3, 4)
    assert (made.count, made.shape) == (3, (5, 6))
    table = prompts.PromptTable(made)
    numbers = np.array([3, 0, 3], "int32")
    for layer in (table, table.sharing()):
        found = layer(numbers)
        np.testing.assert_array_equal(found[0], context[numbers])
        np.testing.assert_array_equal(found[1], pooled[numbers])


def test_a_network_gathers_under_xla_and_has_no_weights():
    context, pooled = embeddings()
    table = prompts.PromptTable(prompts.Prompts.of(context, pooled))
    numbers = keras.Input((), dtype="int32")
    network = keras.Model(numbers, table(numbers))
    assert [tuple(x.shape) for x in network.outputs] == [(None, 5, 6), (None, 3)]
    assert not network.weights
    found = tf.function(network, jit_compile=True)(tf.constant([1, 2]))
    np.testing.assert_array_equal(found[0], context[1:3])
    np.testing.assert_array_equal(found[1], pooled[1:3])


def test_layers_that_share_hold_embeddings_once():
    table = prompts.PromptTable(prompts.Prompts.of(*embeddings()))
    assert table.sharing()._held["tables"] is table._held["tables"]


def test_embeddings_are_made_once_and_read_as_they_were(tmp_path):
    calls = []

    def embed():
        calls.append(1)
        return prompts.Prompts.of(*embeddings())

    one, two = (prompts.cached(tmp_path / "new", DIGITS, embed) for _ in range(2))
    assert len(calls) == 1
    assert one.shape == two.shape
    np.testing.assert_array_equal(one.context, two.context)
    np.testing.assert_array_equal(one.pooled, two.pooled)
    prompts.cached(tmp_path / "new", DIGITS[::-1], embed)
    assert len(calls) == 2


def test_damaged_files_are_refused(tmp_path):
    def embed():
        return prompts.Prompts.of(*embeddings())

    prompts.cached(tmp_path, DIGITS, embed)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="prompts-0123456789abcdef.npz"):
            prompts.cached(tmp_path, DIGITS, embed)
    with open(path, "wb") as file:
        np.savez(file, record=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        prompts.cached(tmp_path, DIGITS, embed)


def test_a_file_of_other_texts_is_refused(tmp_path):
    made = prompts.Prompts.of(*embeddings())
    prompts.cached(tmp_path, DIGITS, lambda: made)
    other = DIGITS[:16] + "f" * 48
    with pytest.raises(InputError, match="other encoders or texts"):
        prompts.cached(tmp_path, other, lambda: made)


def test_wrong_arrays_in_a_file_are_refused(tmp_path):
    path = tmp_path / f"prompts-{DIGITS[:16]}.npz"
    context, pooled = embeddings()
    record = np.array(json.dumps({"fingerprint": DIGITS, "shape": [5, 6]}))
    for changes in (
        {"context": context},
        {"pooled": pooled[:2]},
        {"pooled": np.full_like(pooled, np.nan)},
        {"context": np.zeros((4, 9, 4), "float16")},
    ):
        arrays = {"context": context.astype("float16"), "pooled": pooled} | changes
        np.savez(path, record=record, **arrays)
        with pytest.raises(InputError):
            prompts.cached(tmp_path, DIGITS, lambda: None)


def test_what_float16_has_not_is_refused():
    context, pooled = embeddings()
    with pytest.raises(InputError, match="no finite number in float16"):
        prompts.Prompts.of(context * 1e6, pooled)


def test_texts_are_lines(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff a cat \n\n\tein Bär\n", "utf-8")
    assert prompts.read(path) == ["a cat", "ein Bär"]
    path.write_text("\n \n")
    with pytest.raises(InputError, match="no texts"):
        prompts.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        prompts.read(path)
    with pytest.raises(InputError, match="No such file"):
        prompts.read(tmp_path / "missing.txt")

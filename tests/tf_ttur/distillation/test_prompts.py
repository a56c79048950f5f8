"""Texts as numbers: what is kept on disk, what is refused, and what is gathered."""

import dataclasses
import io
import json
import tracemalloc
import weakref
import zipfile

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


@pytest.mark.parametrize("bad", ["record", "context", "pooled"])
def test_a_file_with_what_is_no_array_is_refused(bad, tmp_path):
    made = prompts.Prompts.of(*embeddings())
    prompts.cached(tmp_path, DIGITS, lambda: made)
    (path,) = tmp_path.iterdir()
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, b"no array" if name == f"{bad}.npy" else data)
    with pytest.raises(InputError, match=f"is damaged .* holds as {bad} is no array"):
        prompts.cached(tmp_path, DIGITS, lambda: made)


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
    path.write_text("a cat\n", "utf-16-le")
    with pytest.raises(InputError, match="it has NUL bytes; save it as UTF-8"):
        prompts.read(path)
    with pytest.raises(InputError, match="No such file"):
        prompts.read(tmp_path / "missing.txt")


def test_only_line_ends_end_a_text(tmp_path):
    path = tmp_path / "prompts.txt"
    texts = [f"a{x}b" for x in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"]
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(end.join(texts).encode())
        assert prompts.read(path) == texts


def network(made):
    table = prompts.PromptTable(made)
    numbers = keras.Input((), dtype="int32")
    return table, keras.Model(numbers, table(numbers))


def test_a_model_names_its_texts_by_what_they_were_made_of(tmp_path):
    context, pooled = embeddings()
    one = prompts.cached(tmp_path, DIGITS, lambda: prompts.Prompts.of(context, pooled))
    assert one.fingerprint == DIGITS
    _, model = network(one)
    model.save(tmp_path / "model.keras")
    # Made again by another processor, whose rounding differs.
    again = np.nextafter(one.context, np.float16(9))
    again = dataclasses.replace(one, context=again)
    kept, _ = network(again)
    assert kept.remember() == DIGITS
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, _ = loaded(np.array([1], "int32"))
    np.testing.assert_array_equal(found[0, :3, :4], again.context[1])


def test_without_that_texts_are_named_by_their_numbers():
    context, pooled = embeddings()
    names = [
        network(prompts.Prompts.of(*each))[0].remember()
        for each in (
            (context, pooled), (context.copy(), pooled), (context + 1, pooled),
            (context, pooled + 1),
        )
    ]  # fmt: skip
    assert names[0] == names[1]
    assert len({*names}) == 3


def test_blocks_of_texts_are_joined():
    context, pooled = embeddings(count=5)
    context[:2, 2:] = 0
    context[2:, :, 3:] = 0
    blocks = [(context[:2], pooled[:2]), (context[2:], pooled[2:])]
    found = prompts.Prompts.of_blocks(iter(blocks), DIGITS)
    expected = prompts.Prompts.of(context, pooled)
    np.testing.assert_array_equal(found.context, expected.context)
    np.testing.assert_array_equal(found.pooled, pooled)
    assert (found.shape, found.fingerprint) == ((5, 6), DIGITS)
    with pytest.raises(InputError, match="no finite number"):
        prompts.Prompts.of_blocks([*blocks, (context * 1e6, pooled)])


def test_blocks_take_twice_the_memory_of_what_is_kept():
    count, tokens, width, used = 512, 16, 256, (8, 64)

    def blocks():
        for _ in range(count // 16):
            block = np.zeros((16, tokens, width), "float32")
            block[:, : used[0], : used[1]] = 1
            yield block, np.ones((16, 2), "float32")

    tracemalloc.start()
    try:
        made = prompts.Prompts.of_blocks(blocks(), DIGITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept, block = count * used[0] * used[1] * 2, 16 * tokens * width * 4
    assert made.context.nbytes == kept
    # Another block is made while the last one is still there; 100 kB for what is small.
    assert peak < 2 * kept + 2 * block + 1e5


def test_a_table_does_not_hold_the_arrays_that_it_was_made_of():
    made = prompts.Prompts.of(*embeddings())
    there = weakref.ref(made)
    table = prompts.PromptTable(made)
    del made
    assert there() is None
    assert table(np.array([0], "int32"))[0].shape == (1, 5, 6)

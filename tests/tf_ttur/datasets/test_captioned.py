"""Folders of images with a text beside each."""

import logging
import os

import numpy as np
import pytest
from image_folders import write_image

from fid.files import InputError
from tf_ttur import datasets
from tf_ttur.datasets import captioned


def write(folder, texts):
    """Images of noise, and their texts; those that are None are left out."""
    for seed, (name, text) in enumerate(texts.items()):
        write_image(folder / name, seed=seed)
        if text is not None:
            (folder / name).with_suffix(".txt").write_bytes(text)


TEXTS = {
    "a/one.png": b"a  cat\n on a mat\n",
    "b.jpg": "\ufeffein Käse".encode(),
    "c.with.dots.PNG": b"x",
}


def test_each_image_has_the_text_beside_it(tmp_path, caplog):
    write(tmp_path, TEXTS)
    with caplog.at_level(logging.WARNING):
        data = captioned.load(tmp_path, 8)
    assert list(data.texts) == ["a cat on a mat", "ein Käse", "x"]
    assert (data.num_examples, data.num_classes, data.name) == (3, 3, captioned.NAME)
    assert not caplog.records
    plain = datasets.load("folder", data_dir=tmp_path, image_size=8)
    expected = np.concatenate([*plain.images()])
    np.testing.assert_array_equal(np.concatenate([*data.images()]), expected)
    images, labels = next(iter(data.training(3, seed=0, labels=True)))
    scaled = expected[labels.numpy()] / np.float32(127.5) - 1
    np.testing.assert_allclose(images, scaled, atol=1e-6)
    assert [str(tmp_path / name) for name in TEXTS] == list(data.files)


def test_texts_are_told_by_their_digest(tmp_path):
    write(tmp_path, TEXTS)
    before = captioned.load(tmp_path, 8).digest
    assert captioned.load(tmp_path, 16).digest == before
    (tmp_path / "b.txt").write_text("ein Brot")
    assert captioned.load(tmp_path, 8).digest != before


def test_a_text_that_belongs_to_no_image_is_told_as_left_out(tmp_path, caplog):
    write(tmp_path, TEXTS)
    (tmp_path / "README.txt").write_text("none")
    with caplog.at_level(logging.WARNING):
        captioned.load(tmp_path, 8)
    (record,) = caplog.records
    assert "1 in all: 1 .txt" in record.getMessage()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "No such file or directory"),
        (b" \n", "it is empty"),
        (b"\xff\xfe\x00", "it is no text in UTF-8"),
        ("a cat".encode("utf-16-le"), "it has NUL bytes; save it as UTF-8"),
        (b"x" * (10**6 + 1), "it has more than 1,000,000 characters"),
    ],
)
def test_an_image_without_a_text_is_named(text, fault, tmp_path):
    write(tmp_path, {"good.png": b"good", "a/bad.png": text})
    with pytest.raises(InputError) as error:
        captioned.load(tmp_path, 8)
    message = str(error.value)
    assert f"1 of 2 images: {tmp_path / 'a' / 'bad.txt'} ({fault})." in message
    assert "Beside each image NAME.jpg stands NAME.txt" in message
    assert "\n" not in message


def test_many_faults_are_counted_and_some_named(tmp_path):
    write(tmp_path, {f"{i:02}.png": None for i in range(22)})
    with pytest.raises(InputError, match="22 of 22 images: .*19.txt .*; and 2 more"):
        captioned.load(tmp_path, 8)
    with pytest.raises(InputError, match="is not a folder"):
        captioned.load(tmp_path / "nix", 8)


def test_a_text_that_is_a_pipe_is_not_waited_for(tmp_path):
    write(tmp_path, {"a.png": None})
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"a\.txt \(it is no regular file\)"):
        captioned.load(tmp_path, 8)


def test_two_images_have_no_text_in_common(tmp_path):
    write(tmp_path, {"a/x.jpg": b"one", "a/x.png": b"other", "b/x.png": b"third"})
    with pytest.raises(InputError, match=r"^1 texts stand .*: \S*/a/x\.txt\. Give "):
        captioned.load(tmp_path, 8)

"""LSUN as its authors give it, an LMDB of encoded images, and as numbered folders."""

import io
import pathlib
import sys

import dataset_images
import numpy as np
import pytest
import tensorflow as tf
from dataset_images import (
    bedrooms,
    encode,
    everything,
    photographs,
    take,
    write_folder,
    write_lmdb,
)
from PIL import Image

from fid.files import InputError
from tf_ttur import datasets

BEDROOM = "lsun/bedroom"


class TestNumberedFolders:
    def test_64x64_images_are_used_as_they_are(self, tmp_path):
        patches = photographs(6, 64, 64, 0)
        files = {f"{i // 2}/{i}.jpg": encode(x) for i, x in enumerate(patches)}
        data = datasets.load(BEDROOM, data_dir=write_folder(tmp_path / "x", files))
        assert (data.name, data.split, data.num_examples) == (BEDROOM, "train", 6)
        decoded = [np.asarray(Image.open(io.BytesIO(x))) for x in files.values()]
        np.testing.assert_array_equal(everything(data), np.stack(decoded))

    def test_have_one_split(self, tmp_path):
        write_folder(tmp_path, {"0/a.jpg": encode(*photographs(1, 64, 64, 0))})
        assert datasets.load(BEDROOM, data_dir=tmp_path, split="all").num_examples == 1
        with pytest.raises(InputError, match="no split 'validation'"):
            datasets.load(BEDROOM, data_dir=tmp_path, split="validation")

    def test_empty_folder_is_an_error(self, tmp_path):
        (tmp_path / "0").mkdir()
        with pytest.raises(InputError, match="No images in"):
            datasets.load(BEDROOM, data_dir=tmp_path)


class TestExport:
    @pytest.mark.parametrize("size", [64, 23])
    def test_every_kind_is_pillows_in_the_order_of_keys(self, tmp_path, size):
        files = {x.encode(): y for x, y in dataset_images.every_kind().items()}
        shifted = {
            b"\0" + key + b"\0" * i: x for i, (key, x) in enumerate(files.items())
        }
        place = write_lmdb(tmp_path / "lmdb", files | shifted)
        data = datasets.load(BEDROOM, data_dir=place, image_size=size)
        assert (data.name, data.split, data.num_examples) == (BEDROOM, "train", 24)
        expected = [dataset_images.square(x, size) for x in files.values()]
        np.testing.assert_array_equal(everything(data, 7), np.stack(expected * 2))

    def test_splits_are_found_by_the_names_of_the_download(self, tmp_path):
        write_lmdb(tmp_path / "bedroom_train_lmdb", bedrooms(5))
        write_lmdb(tmp_path / "bedroom_val_lmdb", bedrooms(3))
        for split, count in ((None, 5), ("train", 5), ("validation", 3)):
            data = datasets.load(BEDROOM, data_dir=tmp_path, split=split)
            assert data.num_examples == count
        with pytest.raises(InputError, match=r"'all'.*train, validation"):
            datasets.load(BEDROOM, data_dir=tmp_path, split="all")
        with pytest.raises(InputError, match="one set"):
            datasets.load(
                BEDROOM, data_dir=tmp_path / "bedroom_train_lmdb", split="validation"
            )

    def test_opens_twice_and_leaves_the_folder_as_it_was(self, tmp_path):
        place = write_lmdb(tmp_path / "lmdb", bedrooms(5))
        before = (place / "data.mdb").read_bytes()
        link = tmp_path / "link"
        link.symlink_to(place)
        one, two = (datasets.load(BEDROOM, data_dir=x) for x in (place, link))
        np.testing.assert_array_equal(everything(one), everything(two))
        assert [x.name for x in place.iterdir()] == ["data.mdb"]
        assert (place / "data.mdb").read_bytes() == before

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"hello",
            encode(*photographs(1, 70, 90, 0))[:-500],
            encode(Image.new("F", (8, 8)), "TIFF"),
            # A header that promises 50,000 x 50,000 pixels.
            b"P6 50000 50000 255\n",
        ],
        ids=["empty", "text", "truncated", "floats", "enormous"],
    )
    def test_damaged_image_is_named(self, tmp_path, value):
        place = write_lmdb(tmp_path / "lmdb", bedrooms(5) | {b"bad": value})
        data = datasets.load(BEDROOM, data_dir=place)
        message = f"1 of 6 images.*b'bad' in {place}/data.mdb"
        with pytest.raises(InputError, match=message) as error:
            everything(data)
        assert "\n" not in str(error.value)
        with pytest.raises(tf.errors.OpError, match="b'bad' in"):
            take(data.training(6, seed=0), 1)

    def test_lmdb_of_something_else_is_found_at_once(self, tmp_path):
        place = write_lmdb(tmp_path / "lmdb", {b"1": b"text", b"2": b"text"})
        with pytest.raises(InputError, match=f"b'1' in {place}/data.mdb"):
            datasets.load(BEDROOM, data_dir=place)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: b"not an LMDB at all" * 1000,
            lambda data: data[:100],
            lambda data: data[: len(data) // 2],
            lambda data: data[:-1],
        ],
        ids=["empty", "text", "header", "half", "all but a byte"],
    )
    def test_file_that_is_none_or_is_cut_short(self, tmp_path, damage):
        whole = write_lmdb(tmp_path / "lmdb", bedrooms(5)) / "data.mdb"
        place = tmp_path / "damaged"
        write_folder(place, {"data.mdb": damage(whole.read_bytes())})
        message = f"{place}/data.mdb is no LMDB, or is damaged"
        with pytest.raises(InputError, match=message) as error:
            datasets.load(BEDROOM, data_dir=place)
        assert "\n" not in str(error.value)
        # Copied again, it is read: nothing of the failure is kept.
        (place / "data.mdb").write_bytes(whole.read_bytes())
        assert datasets.load(BEDROOM, data_dir=place).num_examples == 5

    def test_no_entries(self, tmp_path):
        place = write_lmdb(tmp_path / "lmdb", {})
        with pytest.raises(InputError, match=f"{place}/data.mdb has no entries"):
            datasets.load(BEDROOM, data_dir=place)

    def test_missing_library_is_named(self, tmp_path, monkeypatch):
        place = write_lmdb(tmp_path / "lmdb", bedrooms(2))
        monkeypatch.setitem(sys.modules, "lmdb", None)
        with pytest.raises(InputError, match=r"pip install 'tf-ttur\[lsun\]'"):
            datasets.load(BEDROOM, data_dir=place)

    def test_nothing_there_says_all_the_ways(self, tmp_path):
        with pytest.raises(InputError) as error:
            datasets.load(BEDROOM, data_dir=tmp_path)
        message = str(error.value)
        for way in (
            "tfrecord",
            "bedroom_train_lmdb",
            "data.mdb",
            "numbered folders",
            "--dataset=folder",
        ):
            assert way in message
        assert pathlib.Path(tmp_path).name in message

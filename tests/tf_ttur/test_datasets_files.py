"""Folders of images, and LSUN as its authors give it: an LMDB of encoded images."""

import dataclasses
import io
import os
import pathlib
import subprocess
import sys

import dataset_images
import numpy as np
import pytest
import tensorflow as tf
from dataset_images import encode, everything, photographs, rows, take, to_uint8
from PIL import Image

from fid.files import InputError
from tf_ttur import datasets

BEDROOM = "lsun/bedroom"


def write_folder(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_lmdb(place, files):
    """Writes values by key with the library, as LSUN's authors did."""
    lmdb = pytest.importorskip("lmdb", reason="the extra [lsun] is not installed")
    place.mkdir(parents=True)
    environment = lmdb.open(str(place), map_size=1 << 26)
    with environment.begin(write=True) as transaction:
        for key, value in files.items():
            transaction.put(key, value)
    environment.close()
    (place / "lock.mdb").unlink()  # LSUN's download has it; reading needs none.
    return place


def bedrooms(count):
    """Encoded images by key; the keys sort in the order of their numbers."""
    patches = photographs(count, 70, 90, 0)
    kinds = ("WEBP", "JPEG")
    return {b"%040x" % i: encode(x, kinds[i % 2]) for i, x in enumerate(patches)}


@pytest.fixture
def kinds(tmp_path):
    """Images of every kind, in a folder with folders; returns the root."""
    files = dataset_images.every_kind()
    places = {
        f"{'b/deep/' * (i % 2)}{name}": x for i, (name, x) in enumerate(files.items())
    }
    write_folder(tmp_path / "kinds", places)
    (tmp_path / "kinds/notes.txt").write_text("not an image, and not taken for one")
    return tmp_path / "kinds"


@pytest.fixture(params=["folder", "numbered", "lmdb"])
def source(request, tmp_path):
    """Twenty-three photographs kept in each of the ways: (name, data_dir)."""
    files = bedrooms(23)
    if request.param == "lmdb":
        return BEDROOM, write_lmdb(tmp_path / "export", files)
    names = {
        f"{i % 3}/{key.decode()}.jpg": x for i, (key, x) in enumerate(files.items())
    }
    write_folder(tmp_path / "folder", names)
    name = "folder" if request.param == "folder" else BEDROOM
    return name, tmp_path / "folder"


class TestTraining:
    @pytest.mark.parametrize("discriminator_steps", [1, 2, 5])
    def test_resumes_exactly(self, source, discriminator_steps):
        name, place = source
        data = datasets.load(name, data_dir=place, image_size=8)
        whole = take(data.training(7, 5, 0, discriminator_steps), 9)
        for start_step in (1, 2, 3, 7):  # Three batches an epoch.
            rest = take(data.training(7, 5, start_step, discriminator_steps), 2)
            for step, batch in enumerate(rest, start=start_step):
                np.testing.assert_array_equal(batch, whole[step])

    def test_every_epoch_is_another_order_of_all_images(self, source):
        name, place = source
        data = datasets.load(name, data_dir=place, image_size=8)
        fixed = everything(data)
        orders = [fixed]
        for seed in (1, 2):
            orders += map(to_uint8, take(data.training(23, seed), 2))
        for order in orders:
            assert rows(order) == rows(fixed)
        assert len({order.tobytes() for order in orders}) == 5

    def test_resuming_decodes_nothing_that_is_passed_over(self, source):
        name, place = source
        data = datasets.load(name, data_dir=place, image_size=8)
        decoded = []

        def spy(elements):
            decoded.append(data._decode(elements))
            return decoded[-1]

        spied = dataclasses.replace(data, _decode=spy)
        (batch,) = take(spied.training(7, seed=5, start_step=2), 1)
        seen = {images.tobytes() for images in list(decoded)}
        assert to_uint8(batch).tobytes() in seen
        for passed_over in take(data.training(7, seed=5), 2):
            assert to_uint8(passed_over).tobytes() not in seen

    def test_fewer_images_than_a_batch_are_an_error(self, source):
        name, place = source
        data = datasets.load(name, data_dir=place)
        with pytest.raises(InputError, match=r"23 images.*one batch of 24"):
            data.training(24, seed=0)

    @pytest.mark.slow
    def test_program_ends_while_batches_are_being_made(self, kinds):
        # A live iterator whose threads wait for Python's lock would hang at the exit.
        script = (
            "import sys; from tf_ttur import datasets\n"
            "data = datasets.load('folder', data_dir=sys.argv[1], image_size=512)\n"
            "batches = iter(data.training(12, seed=0)); next(batches)\n"
            "raise SystemExit(7)"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, str(kinds)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 7, result.stderr
        assert "Traceback" not in result.stderr


class TestFolder:
    @pytest.mark.parametrize("size", [64, 23])
    def test_every_kind_is_pillows_in_the_order_of_paths(self, kinds, size):
        data = datasets.load("folder", data_dir=kinds, image_size=size)
        assert (data.num_examples, data.image_shape) == (12, (size, size, 3))
        paths = [x for x in kinds.rglob("*.*") if x.suffix != ".txt"]
        files = [path.read_bytes() for path in sorted(paths, key=str)]
        expected = [dataset_images.square(file, size) for file in files]
        np.testing.assert_array_equal(everything(data, 5), np.stack(expected))

    def test_default_size_is_64(self, kinds):
        data = datasets.load("folder", data_dir=str(kinds))
        assert data.image_shape == (64, 64, 3)

    def test_links_to_folders_are_followed_once(self, kinds, tmp_path):
        (tmp_path / "links").mkdir()
        (tmp_path / "links/set").symlink_to(kinds)
        (kinds / "b/up").symlink_to("..")
        data = datasets.load("folder", data_dir=tmp_path / "links", image_size=8)
        assert data.num_examples == 12

    def test_all_unreadable_files_are_named_at_once(self, kinds, monkeypatch):
        monkeypatch.setattr(datasets.folder, "_CHECKED_AT_ONCE", 5)
        (kinds / "empty.png").write_bytes(b"")
        (kinds / "b/text.jpg").write_text("hello")
        deep = np.full((8, 8), 40_000, np.uint16)
        Image.fromarray(deep).save(kinds / "sixteen.png")
        damaged = bytearray((kinds / "alpha.png").read_bytes())
        damaged[len(damaged) // 2] ^= 255
        (kinds / "flipped.png").write_bytes(damaged)
        with pytest.raises(InputError, match="4 of 16 images") as error:
            datasets.load("folder", data_dir=kinds)
        for name in ("empty.png", "b/text.jpg", "sixteen.png", "flipped.png"):
            assert str(kinds / name) in str(error.value)
        assert "8 bits" in str(error.value)

    def test_message_stays_short(self, tmp_path):
        write_folder(tmp_path, {f"{i:03d}.png": b"" for i in range(30)})
        with pytest.raises(InputError, match=r"30 of 30.*019\.png.*and 10 more\.$"):
            datasets.load("folder", data_dir=tmp_path)

    def test_truncated_file_is_an_error_when_read(self, kinds):
        path = kinds / "b/deep/large.jpg"
        path.write_bytes(path.read_bytes()[:-500])
        data = datasets.load("folder", data_dir=kinds, image_size=8)
        with pytest.raises(InputError, match=f"{path}.*truncated"):
            everything(data)
        with pytest.raises(tf.errors.OpError, match=r"large\.jpg"):
            take(data.training(12, seed=0), 1)

    def test_nothing_to_read_is_an_error(self, tmp_path):
        with pytest.raises(InputError, match=r"No images in .*\.webp"):
            datasets.load("folder", data_dir=tmp_path)
        with pytest.raises(InputError, match="nowhere is not a folder"):
            datasets.load("folder", data_dir=tmp_path / "nowhere")
        with pytest.raises(InputError, match="needs --data_dir"):
            datasets.load("folder")


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
            encode(np.full((8, 8), 40_000, np.uint16), "PNG"),
            # A header that promises 50,000 x 50,000 pixels.
            b"P6 50000 50000 255\n",
        ],
        ids=["empty", "text", "truncated", "sixteen bits", "enormous"],
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

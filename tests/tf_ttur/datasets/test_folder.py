"""Folders of images, with all their folders."""

import os
import subprocess
import sys

import dataset_images
import numpy as np
import pytest
import tensorflow as tf
from dataset_images import everything, take, write_folder
from image_folders import read
from PIL import Image

from fid import open_images
from fid.files import InputError
from tf_ttur import datasets


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

    def test_training_and_measuring_see_the_same_images_in_one_order(
        self, tmp_path, caplog
    ):
        # A folder's name and a file's begin alike: "-" and "." come before "/".
        names = ("a/0.png", "a-1.tif", "a.gif", "B.JPE", "c/d/e.ppm", "deep.png")
        hidden = (".ipynb_checkpoints/0.png", ".Trash/1.png", "._0.png", "c/.x.jpg")
        images = dataset_images.photographs(len(names), 8, 8, 0)
        kinds = {"tif": "TIFF", "JPE": "JPEG"}
        files = {
            name: dataset_images.encode(image, kinds.get(name[-3:], name[-3:].upper()))
            for name, image in zip(names, images, strict=True)
        }
        deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
        files["deep.png"] = dataset_images.encode(deep, "PNG")
        files |= dict.fromkeys((*hidden, "a/notes.txt"), b"no image")
        write_folder(tmp_path, files)
        trained = datasets.load("folder", data_dir=tmp_path, image_size=8)
        measured = read(open_images(tmp_path, recursive=True))
        assert trained.num_examples == len(measured) == len(names)
        np.testing.assert_array_equal(everything(trained), np.stack(measured))
        assert "1 in all: 1 .txt" in caplog.text

    def test_order_of_a_run_that_was_started_before_stays(self, tmp_path):
        # By the paths as texts, as they were sorted when runs kept nothing but a seed.
        names = (
            "b.png",
            "a b/c.jpg",
            "a/b.webp",
            "a.bmp",
            "a/B.jpeg",
            "ä.png",
            "a-/x.png",
        )
        image = np.zeros((8, 8, 3), np.uint8)
        for level, name in enumerate(names):
            kind = {"jpg": "JPEG"}.get(name[-3:], name.rpartition(".")[2].upper())
            write_folder(
                tmp_path, {name: dataset_images.encode(image + 9 * level, kind)}
            )
        data = datasets.load("folder", data_dir=tmp_path, image_size=8)
        order = sorted(str(tmp_path / name) for name in names)
        levels = [names.index(os.path.relpath(path, tmp_path)) for path in order]
        found = everything(data)[:, 0, 0, 0]
        assert np.rint(found / 9).astype(int).tolist() == levels

    def test_all_unreadable_files_are_named_at_once(self, kinds):
        (kinds / "empty.png").write_bytes(b"")
        (kinds / "b/text.jpg").write_text("hello")
        Image.new("F", (8, 8)).save(kinds / "floats.tif")
        damaged = bytearray((kinds / "alpha.png").read_bytes())
        damaged[len(damaged) // 2] ^= 255
        (kinds / "flipped.png").write_bytes(damaged)
        with pytest.raises(InputError, match="4 of 16 images") as error:
            datasets.load("folder", data_dir=kinds)
        for name in ("empty.png", "b/text.jpg", "floats.tif", "flipped.png"):
            assert str(kinds / name) in str(error.value)
        assert "no known range" in str(error.value)

    def test_the_last_of_many_files_is_checked_too(self, tmp_path):
        # Some thousand files are checked at a time.
        image = dataset_images.encode(np.zeros((8, 8, 3), np.uint8), "PNG")
        folder = write_folder(tmp_path, {"0000.png": image})
        for index in range(1, 5000):
            (folder / f"{index:04d}.png").hardlink_to(folder / "0000.png")
        write_folder(tmp_path, {"zz.png": b""})
        with pytest.raises(InputError, match=r"1 of 5001 images.*zz\.png"):
            datasets.load("folder", data_dir=tmp_path)

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


class TestClasses:
    def test_are_the_folders_one_level_down_in_the_order_of_their_names(self, tmp_path):
        places = ["b/1.png", "a-1/0.png", "B/2.png", "b/0.png", "a/0.png", "10/0.png"]
        images = dataset_images.photographs(len(places), 8, 8, 0)
        files = {
            place: dataset_images.encode(image, "PNG")
            for place, image in zip(places, images, strict=True)
        }
        write_folder(tmp_path, files)
        data = datasets.load("folder", data_dir=tmp_path, image_size=8)
        assert data.num_classes == 5
        names = sorted({place.partition("/")[0] for place in places})
        known = {
            image.tobytes(): names.index(place.partition("/")[0])
            for place, image in zip(places, images, strict=True)
        }
        (batch,) = take(data.training(6, seed=0, labels=True), 1)
        pixels = dataset_images.to_uint8(batch[0])
        np.testing.assert_array_equal(batch[1], [known[x.tobytes()] for x in pixels])

    @pytest.mark.parametrize("place", ["0.png", "a/b/0.png"])
    def test_are_none_where_an_image_is_on_another_level(self, tmp_path, place):
        images = dataset_images.photographs(3, 8, 8, 0)
        files = dict(zip(("a/1.png", "b/0.png", place), images, strict=True))
        write_folder(
            tmp_path, {k: dataset_images.encode(x, "PNG") for k, x in files.items()}
        )
        data = datasets.load("folder", data_dir=tmp_path, image_size=8)
        assert data.num_classes is None
        with pytest.raises(InputError, match="one level down"):
            data.training(1, seed=0, labels=True)

"""CIFAR-10 in its own order, from files that TFDS's own writer has shuffled."""

import http.server
import shutil
import socket
import sys
import threading
import time

import numpy as np
import prepared_cifar10
import pytest

from fid import InputError
from fid.studies import cifar10

SIZES = {"train": 60, "test": 20}


def pixels(split, index):
    """An image that only this number in this split has."""
    seed = [index, len(split)]
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def store(root, sizes=SIZES, rename=lambda name: name):
    """Writes a CIFAR-10 as TFDS prepares it."""
    prepared_cifar10.store(
        root,
        {k: [pixels(k, index) for index in range(n)] for k, n in sizes.items()},
        lambda split, index: rename(f"{split}_{index:05d}"),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    store(root)
    return root


@pytest.fixture
def server():
    """The address of a server that answers everything with an error."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/archive.tar.gz"
        served.shutdown()


def test_order_is_that_of_the_ids_and_not_of_the_files(prepared):
    import tensorflow_datasets as tfds

    folder = cifar10.find(prepared)
    stored = tfds.load("cifar10", split="train", data_dir=prepared, download=False)
    ids = [record["id"].decode() for record in stored.as_numpy_iterator()]
    # The test has force: TFDS has shuffled.
    assert sorted(ids) == [f"train_{index:05d}" for index in range(60)]
    assert sum(one == two for one, two in zip(ids, sorted(ids), strict=True)) < 10

    images = cifar10.read(folder, SIZES)
    assert images.keys() == SIZES.keys()
    for split, size in SIZES.items():
        assert images[split].dtype == np.uint8
        expected = np.stack([pixels(split, index) for index in range(size)])
        np.testing.assert_array_equal(images[split], expected)


def test_ids_are_counted_through_the_batches_by_the_real_builder(tmp_path):
    """Where the ids come from: TFDS's reader of the binary batches."""
    import tensorflow_datasets as tfds

    random = np.random.default_rng(0)
    names = ("data_batch_1.bin", "data_batch_2.bin")
    batches = []
    for name in names:
        # A label, then the planes of red, green and blue.
        batch = random.integers(0, 256, (4, 3073), np.uint8)
        batch[:, 0] = random.integers(0, 10, 4)
        (tmp_path / name).write_bytes(batch.tobytes())
        batches.append(batch[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    builder = tfds.builder_cls("cifar10")(data_dir=tmp_path)
    paths = [str(tmp_path / name) for name in names]
    found = {
        x["id"]: x["image"] for _, x in builder._generate_examples("train_", paths)
    }
    for index, image in enumerate(np.concatenate(batches)):
        np.testing.assert_array_equal(found[f"train_{index:05d}"], image)


@pytest.mark.parametrize(
    ("sizes", "rename", "message"),
    [
        ({"train": 60, "test": 19}, str, r"\(test\) holds 19 images, expected 20"),
        (SIZES, lambda name: name.replace("00007", "00008"), "'train_00008'.* once"),
        (SIZES, lambda name: name.replace("00059", "00060"), "'train_00060'"),
        (SIZES, lambda name: name.replace("train", "x"), "'x_000"),
    ],
)
def test_images_that_are_not_all_there_once_are_refused(
    sizes, rename, message, tmp_path
):
    store(tmp_path, sizes, rename)
    with pytest.raises(InputError, match=f"{message}.*prepare it again"):
        cifar10.read(cifar10.find(tmp_path), SIZES)


def test_damaged_files_are_named(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "tfds")
    folder = cifar10.find(root)
    shard = folder / "cifar10-train.tfrecord-00001-of-00003"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{folder} cannot be read.*prepare it again"):
        cifar10.read(folder, SIZES)
    shard.unlink()
    with pytest.raises(InputError, match=f"{folder} cannot be read"):
        cifar10.read(folder, SIZES)
    (folder / "features.json").unlink()
    with pytest.raises(InputError, match="is not prepared"):
        cifar10.find(root)


class TestMissing:
    def test_files_are_told_at_once(self, tmp_path, monkeypatch):
        # Neither the seconds of TFDS's import nor the minutes of a dead network.
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        monkeypatch.setattr(socket, "getaddrinfo", None)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"3\.0\.2/dataset_info\.json") as error:
            cifar10.find(tmp_path)
        assert time.monotonic() - started < 5
        assert f"tfds.builder('cifar10', data_dir='{tmp_path}')" in str(error.value)
        assert "--download" in str(error.value)
        with pytest.raises(InputError, match="does not exist"):
            cifar10.find(tmp_path / "nowhere")

    def test_other_images_are_not_taken(self, prepared, tmp_path):
        (tmp_path / "cifar10").mkdir()
        shutil.copytree(prepared / "cifar10/3.0.2", tmp_path / "cifar10/2.0.0")
        with pytest.raises(InputError, match="is not prepared"):
            cifar10.find(tmp_path)

    def test_folder_is_that_of_tfds_by_default(self, prepared, monkeypatch):
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
        assert cifar10.find() == prepared / "cifar10/3.0.2"

    def test_network_that_is_dead_is_noticed_at_once(self, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        with pytest.raises(
            InputError, match=r"no answer from https://www\.cs\.toronto"
        ):
            cifar10.find(tmp_path, download=True)

    def test_network_that_is_silent_is_given_up(self, tmp_path, monkeypatch):
        def hang(*_, **__):
            time.sleep(3)
            raise OSError("timed out")

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"within 0\.2 seconds"):
            cifar10.find(tmp_path, download=True, seconds=0.2)
        assert time.monotonic() - started < 2

    def test_what_was_downloaded_is_found(
        self, prepared, server, tmp_path, monkeypatch
    ):
        import tensorflow_datasets as tfds

        class Builder:
            def __init__(self, name, data_dir):
                self.source, self.target = prepared / name, data_dir / name

            def download_and_prepare(self):
                shutil.copytree(self.source, self.target)

        monkeypatch.setattr(tfds, "builder", Builder)
        found = cifar10.find(tmp_path, download=True, url=server)
        assert found == tmp_path / "cifar10/3.0.2"

    def test_failure_of_tfds_is_passed_on(self, server, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        def fail(*_, **__):
            raise RuntimeError("checksum wrong")

        monkeypatch.setattr(tfds, "builder", fail)
        with pytest.raises(InputError, match="could not prepare.*checksum wrong"):
            cifar10.find(tmp_path, download=True, url=server)

"""Sets that TFDS prepares, read from its files: pixels equal to Pillow's.

The prepared files are small, but written by TFDS with the features and the version of
its own builders, from the photographs that come with scikit-learn.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import shutil
import socket
import sys
import time

import dataset_images
import numpy as np
import pytest
import tensorflow as tf
from dataset_images import encode, everything, photographs, rows, take, to_uint8

from fid.files import InputError
from tf_ttur import datasets

TRAIN, OTHER = 50, 7


def examples(name, split, count):
    seed = sum(map(ord, name + split))
    if name == "celeb_a":
        import tensorflow_datasets as tfds

        features = tfds.builder_cls(name)(data_dir="unused").info.features
        for index, pixels in enumerate(photographs(count, 218, 178, seed)):
            rest = {
                group: dict.fromkeys(features[group], 0)
                for group in ("landmarks", "attributes", "identity")
            }
            yield index, {"image": io.BytesIO(encode(pixels)), **rest}
    elif name == "lsun/bedroom":
        kinds = (dataset_images.every_kind(seed + x).values() for x in range(count))
        files = itertools.islice(itertools.chain.from_iterable(kinds), count)
        for index, file in enumerate(files):
            yield index, {"id": str(index), "image": io.BytesIO(file)}
    else:
        for index, pixels in enumerate(photographs(count, 32, 32, seed)):
            yield (
                index,
                {"id": f"{split}_{index}", "image": pixels, "label": index % 10},
            )


SPLITS = {
    "cifar10": ("train", "test"),
    "svhn_cropped": ("train", "test", "extra"),
    "celeb_a": ("train", "validation", "test"),
    "lsun/bedroom": ("train", "validation"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS folder in which all four sets are prepared, in three shards a split."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    for name, splits in SPLITS.items():
        real = tfds.builder(name, data_dir=root)
        tfds.dataset_builders.store_as_tfds_dataset(
            name=real.name,
            config=real.builder_config.name if real.builder_config else None,
            version=str(real.version),
            features=real.info.features,
            split_datasets={
                split: list(examples(name, split, TRAIN if split == "train" else OTHER))
                for split in splits
            },
            data_dir=root,
            download_config=tfds.download.DownloadConfig(num_shards=3),
        )
    return root


@pytest.fixture
def copied(prepared, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "tfds")


def from_tfds(name, root, split="train"):
    """The encoded or decoded images as TFDS's own builder reads them, in file order."""
    import tensorflow_datasets as tfds

    encoded = name in ("celeb_a", "lsun/bedroom")
    dataset = tfds.load(
        name,
        split=split,
        data_dir=root,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()} if encoded else None,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    return [example["image"] for example in dataset.as_numpy_iterator()]


class TestPublished:
    @pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
    def test_small_images_are_untouched(self, name, prepared):
        data = datasets.load(name, data_dir=prepared)
        assert (data.num_examples, data.image_shape) == (TRAIN, (32, 32, 3))
        images = everything(data)
        np.testing.assert_array_equal(images, np.stack(from_tfds(name, prepared)))
        sources = [x["image"] for _, x in examples(name, "train", TRAIN)]
        assert rows(images) == rows(sources)

    def test_faces_are_cropped_as_by_the_original(self, prepared):
        data = datasets.load("celeb_a", data_dir=prepared)
        count = TRAIN + 2 * OTHER  # The paper's CelebA is all of it.
        assert (data.num_examples, data.split) == (count, "all")
        parts = [from_tfds("celeb_a", prepared, x) for x in SPLITS["celeb_a"]]
        # (218 - 108) / 2 and (178 - 108) / 2 in 218 x 178.
        faces = [
            dataset_images.rgb(file)[55:163, 35:143] for file in itertools.chain(*parts)
        ]
        expected = [dataset_images.resized(face, 64) for face in faces]
        np.testing.assert_array_equal(everything(data), np.stack(expected))

    def test_faces_are_squashed_whole_as_by_sato_and_iiduka(self, prepared):
        data = datasets.load("celeb_a_squashed", data_dir=prepared)
        assert (data.num_examples, data.split) == (TRAIN, "train")
        assert data.image_shape == (64, 64, 3)
        # torchvision's Resize((64, 64)) calls Pillow's bilinear filter on all of it.
        expected = [
            dataset_images.resized(dataset_images.rgb(file), 64)
            for file in from_tfds("celeb_a", prepared)
        ]
        np.testing.assert_array_equal(everything(data), np.stack(expected))

    def test_squashed_faces_that_are_missing_are_those_of_celeb_a(self, tmp_path):
        with pytest.raises(InputError) as error:
            datasets.load("celeb_a_squashed", data_dir=tmp_path)
        message = str(error.value)
        assert f"{tmp_path}/celeb_a/2.1.0/celeb_a-train.tfrecord-*" in message
        assert "Google Drive" in message
        assert "108x108" not in message

    def test_bedrooms_of_every_kind_are_pillows(self, prepared):
        data = datasets.load("lsun/bedroom", data_dir=prepared)
        assert (data.num_examples, data.image_shape) == (TRAIN, (64, 64, 3))
        encoded = from_tfds("lsun/bedroom", prepared)
        expected = [dataset_images.square(file, 64) for file in encoded]
        np.testing.assert_array_equal(everything(data), np.stack(expected))

    def test_training_gives_the_same_pixels(self, prepared):
        for name in SPLITS:
            data = datasets.load(name, data_dir=prepared, split="train")
            epoch = to_uint8(np.concatenate(take(data.training(10, seed=0), 5)))
            assert rows(epoch) == rows(everything(data))

    def test_splits_are_chosen_joined_and_checked(self, prepared):
        def count(split):
            return datasets.load("celeb_a", data_dir=prepared, split=split).num_examples

        assert count("test") == OTHER
        assert count("train+test") == TRAIN + OTHER
        assert count("all") == TRAIN + 2 * OTHER
        images = everything(datasets.load("cifar10", data_dir=prepared, split="all"))
        parts = [from_tfds("cifar10", prepared, x) for x in ("train", "test")]
        assert rows(images) == rows(itertools.chain(*parts))
        with pytest.raises(InputError, match=r"'valid'.*train.*joined by"):
            count("valid")

    def test_default_folder_is_that_of_tfds(self, prepared, monkeypatch):
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
        assert datasets.load("lsun/bedroom").num_examples == TRAIN


class TestTraining:
    @staticmethod
    def in_small_windows(data):
        """The same set, read as a large one is: by some shards, and many windows."""
        elements = functools.partial(data.elements, shards_at_once=2, window=8)
        return dataclasses.replace(data, elements=elements)

    @pytest.mark.parametrize(
        ("name", "discriminator_steps"),
        [("celeb_a", 1), ("celeb_a", 2), ("lsun/bedroom", 3), ("svhn_cropped", 2)],
    )
    def test_resumes_exactly_from_prepared_files(
        self, name, discriminator_steps, prepared
    ):
        data = datasets.load(name, data_dir=prepared, image_size=8)
        if name != "svhn_cropped":  # That one is held in memory.
            data = self.in_small_windows(data)
        per_epoch = data.num_examples // 7
        whole = take(data.training(7, 5, 0, discriminator_steps), per_epoch + 4)
        for start_step in (1, per_epoch // discriminator_steps, per_epoch + 1):
            rest = take(data.training(7, 5, start_step, discriminator_steps), 3)
            for step, batch in enumerate(rest, start=start_step):
                np.testing.assert_array_equal(batch, whole[step])

    def test_resuming_decodes_nothing_that_is_passed_over(self, prepared):
        data = datasets.load("celeb_a", data_dir=prepared, image_size=8)
        decoded = []

        def spy(elements):
            decoded.append(data.decode(elements))
            return decoded[-1]

        spied = dataclasses.replace(data, decode=spy)
        (batch,) = take(spied.training(7, seed=5, start_step=5), 1)
        seen = {images.tobytes() for images in list(decoded)}
        assert to_uint8(batch).tobytes() in seen
        for passed_over in take(data.training(7, seed=5), 5):
            assert to_uint8(passed_over).tobytes() not in seen

    def test_records_of_an_epoch_are_a_permutation(self, prepared):
        data = datasets.load("celeb_a", data_dir=prepared, image_size=16, split="train")
        data = self.in_small_windows(data)
        batches = take(data.training(5, seed=1), 20)
        epochs = [to_uint8(np.concatenate(batches[i : i + 10])) for i in (0, 10)]
        fixed = everything(data)
        for epoch in epochs:
            assert rows(epoch) == rows(fixed)
            assert not np.array_equal(epoch, fixed)
        assert not np.array_equal(*epochs)
        other = to_uint8(np.concatenate(take(data.training(5, seed=2), 10)))
        assert not np.array_equal(other, epochs[0])


class TestMissingFiles:
    @pytest.mark.parametrize("name", list(SPLITS))
    def test_message_says_at_once_what_to_do(self, name, tmp_path, monkeypatch):
        # Neither the seconds of TFDS's import nor the minutes of a dead network.
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        monkeypatch.setattr(socket, "getaddrinfo", None)
        started = time.monotonic()
        with pytest.raises(InputError) as error:
            datasets.load(name, data_dir=tmp_path)
        assert time.monotonic() - started < 5
        message = str(error.value)
        version = datasets.prepared.DATASETS[name].version
        folder = tmp_path / name / version
        assert f"{folder}/dataset_info.json" in message
        part = "*" if name == "celeb_a" else "train"
        assert f"{folder}/{name.split('/')[0]}-{part}.tfrecord-*" in message
        assert f"tfds.builder('{name}', data_dir='{tmp_path}')" in message
        assert "\n" not in message
        assert ("Google Drive" in message) == (name == "celeb_a")
        assert ("tensorflow_io" in message) == (name == "lsun/bedroom")

    def test_versions_of_the_builders_are_those_asked_for(self, tmp_path):
        import tensorflow_datasets as tfds

        for name, spec in datasets.prepared.DATASETS.items():
            real = tfds.builder(spec.source or name, data_dir=tmp_path)
            assert str(real.version) == spec.version

    def test_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(InputError, match="nowhere, which does not exist"):
            datasets.load("cifar10", data_dir=tmp_path / "nowhere")

    def test_missing_shard_is_named(self, copied):
        shard = copied / "cifar10/3.0.2/cifar10-train.tfrecord-00001-of-00003"
        shard.unlink()
        with pytest.raises(InputError, match=f"1 of 3 files: {shard}"):
            datasets.load("cifar10", data_dir=copied)
        assert datasets.load("cifar10", data_dir=copied, split="test").num_examples == 7

    def test_other_version_is_named(self, copied):
        (copied / "cifar10/3.0.2").rename(copied / "cifar10/2.0.0")
        with pytest.raises(InputError, match=r"/3\.0\.2/.*Found version 2\.0\.0"):
            datasets.load("cifar10", data_dir=copied)

    def test_version_with_the_same_images_is_read(self, copied):
        (copied / "celeb_a/2.1.0").rename(copied / "celeb_a/2.0.1")
        info = copied / "celeb_a/2.0.1/dataset_info.json"
        info.write_text(
            json.dumps({**json.loads(info.read_text()), "version": "2.0.1"})
        )
        data = datasets.load("celeb_a", data_dir=copied, split="train")
        assert data.num_examples == TRAIN

    def test_unfinished_preparation_counts_as_missing(self, copied):
        (copied / "celeb_a/2.1.0/features.json").unlink()
        with pytest.raises(InputError, match=r"missing .*2\.1\.0/features\.json"):
            datasets.load("celeb_a", data_dir=copied)

    def test_unreadable_description_is_named(self, copied):
        (copied / "celeb_a/2.1.0/dataset_info.json").write_text("{")
        with pytest.raises(InputError, match=r"2\.1\.0/dataset_info\.json"):
            datasets.load("celeb_a", data_dir=copied)

    def test_damaged_shard_is_an_error(self, copied):
        shard = copied / "celeb_a/2.1.0/celeb_a-train.tfrecord-00001-of-00003"
        shard.write_bytes(shard.read_bytes()[:-100])
        data = datasets.load("celeb_a", data_dir=copied)
        with pytest.raises(InputError, match=r"celeb_a \(all\).*prepare it again"):
            everything(data)

    def test_shard_cut_at_the_end_of_a_record_is_an_error(self, copied):
        shard = copied / "celeb_a/2.1.0/celeb_a-train.tfrecord-00001-of-00003"
        shard.write_bytes(b"")
        data = datasets.load("celeb_a", data_dir=copied, split="train")
        with pytest.raises(InputError, match="damaged or incomplete"):
            everything(data)
        with pytest.raises(tf.errors.OpError):
            take(data.training(5, seed=0), 10)


class TestDownload:
    def test_dead_network_is_noticed_at_once(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError("no route to host")

        monkeypatch.setattr(socket, "create_connection", refuse)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"no answer from www\.cs\.toronto\.edu"):
            datasets.load("cifar10", data_dir=tmp_path, download=True)
        assert time.monotonic() - started < 5

    def test_silent_network_is_given_up(self, tmp_path, monkeypatch):
        def hang(*_):
            time.sleep(15)
            raise OSError("timed out")

        monkeypatch.setattr(socket, "create_connection", hang)
        started = time.monotonic()
        with pytest.raises(InputError, match="within 3 seconds"):
            datasets.load("celeb_a", data_dir=tmp_path, download=True)
        assert time.monotonic() - started < 12

    def test_proxy_is_what_must_answer(self, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        def fail(*_, **__):
            raise RuntimeError("quota exceeded")

        monkeypatch.setattr(tfds, "builder", fail)

        def download():
            with pytest.raises(InputError) as error:
                datasets.load("cifar10", data_dir=tmp_path, download=True)
            return str(error.value)

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            for variable in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
                monkeypatch.delenv(variable, raising=False)
            for scheme in ("http://", ""):
                monkeypatch.setenv("https_proxy", f"{scheme}127.0.0.1:{port}")
                assert "quota exceeded" in download()
        assert "no answer from www.cs.toronto.edu" in download()

    def test_lsun_is_not_tried_without_its_reader(self, tmp_path, monkeypatch):
        tried = []

        def connect(address, *_):
            tried.append(address)
            raise OSError("no route to host")

        monkeypatch.setattr(socket, "create_connection", connect)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(InputError, match="tensorflow_io"):
            datasets.load("lsun/bedroom", data_dir=tmp_path, download=True)
        assert tried == []

    @pytest.fixture
    def network(self, monkeypatch):
        """A network on which every host answers."""
        for variable in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.delenv(variable, raising=False)
        answer = contextlib.nullcontext
        monkeypatch.setattr(socket, "create_connection", lambda *_: answer())

    @pytest.mark.usefixtures("network")
    def test_what_was_downloaded_is_read(self, prepared, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        class Builder:
            def __init__(self, name, data_dir):
                self.source, self.target = prepared / name, data_dir / name

            def download_and_prepare(self):
                shutil.copytree(self.source, self.target)

        monkeypatch.setattr(tfds, "builder", Builder)
        data = datasets.load("cifar10", data_dir=tmp_path, download=True)
        assert data.num_examples == TRAIN

    @pytest.mark.usefixtures("network")
    def test_failure_of_tfds_is_passed_on(self, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        def fail(*_, **__):
            raise RuntimeError("quota exceeded")

        monkeypatch.setattr(tfds, "builder", fail)
        with pytest.raises(InputError, match=r"quota exceeded.*Google Drive"):
            datasets.load("celeb_a", data_dir=tmp_path, download=True)


class TestLabels:
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_are_those_of_the_records(self, prepared, monkeypatch, in_memory):
        # Of the record files, too, as a set that is too large for memory has them.
        spec = dataclasses.replace(
            datasets.prepared.DATASETS["cifar10"], in_memory=in_memory
        )
        monkeypatch.setitem(datasets.prepared.DATASETS, "cifar10", spec)
        data = datasets.load("cifar10", data_dir=prepared)
        assert data.num_classes == 10
        known = {
            each["image"].tobytes(): each["label"]
            for _, each in examples("cifar10", "train", TRAIN)
        }
        pairs = take(data.training(10, seed=3, labels=True), 12)
        alone = take(data.training(10, seed=3), 12)
        for (images, labels), expected in zip(pairs, alone, strict=True):
            np.testing.assert_array_equal(images, expected)
            found = [known[x.tobytes()] for x in to_uint8(images)]
            np.testing.assert_array_equal(labels, found)

    def test_are_none_of_sets_without_classes(self, prepared):
        data = datasets.load("celeb_a", data_dir=prepared)
        assert data.num_classes is None
        with pytest.raises(InputError, match=r"celeb_a \(all\) has no labels"):
            data.training(10, seed=0, labels=True)

"""Images to train on: pixels equal to Pillow's, order a function of (seed, step).

The prepared files are small, but written by TFDS with the features and the version of
its own builders, from the photographs that come with scikit-learn.
"""

import dataclasses
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
from PIL import Image
from sklearn.datasets import load_digits

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


class TestDigits:
    def test_are_scikit_learns_enlarged_by_pillow(self):
        data = datasets.load("digits")
        assert (data.num_examples, data.image_shape) == (1797, (32, 32, 1))
        images = everything(data, 500)
        assert images.dtype == np.uint8
        assert images.shape == (1797, 32, 32, 1)
        for index in (0, 1000, 1796):
            small = np.rint(load_digits().images[index] / 16 * 255).astype(np.uint8)
            large = Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(images[index, ..., 0], np.asarray(large))
        assert (images.min(), images.max()) == (0, 255)

    def test_come_in_any_size(self):
        assert datasets.load("digits", image_size=16).image_shape == (16, 16, 1)

    def test_last_batch_is_kept(self):
        sizes = [len(x) for x in datasets.load("digits", image_size=8).images(500)]
        assert sizes == [500, 500, 500, 297]


class TestTraining:
    def test_batches_are_static_float32_in_minus_one_to_one(self):
        data = datasets.load("digits", image_size=16)
        dataset = data.training(64, seed=0, discriminator_steps=2)
        assert dataset.element_spec == tf.TensorSpec((128, 16, 16, 1), tf.float32)
        assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        (batch,) = take(dataset, 1)
        assert batch.shape == (128, 16, 16, 1)
        assert batch.min() == -1.0
        assert batch.max() == 1.0
        in_range = to_uint8(batch)
        np.testing.assert_array_equal(batch, in_range / np.float32(127.5) - 1)

    def test_scale_is_that_of_both_originals(self):
        pixels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
        data = datasets.batches.in_memory("levels", "train", pixels)
        (batch,) = take(data.training(256, seed=0), 1)
        levels = pixels.ravel().astype(float)
        for expected in (levels / 127.5 - 1, levels / 255 * 2 - 1):  # DCGAN, WGAN-GP
            np.testing.assert_allclose(np.sort(batch.ravel()), expected, atol=1.2e-7)

    def test_every_epoch_is_another_order_of_all_images(self):
        data = datasets.load("digits", image_size=8)
        batches = take(data.training(599, seed=3), 9)
        epochs = [to_uint8(np.concatenate(batches[i : i + 3])) for i in (0, 3, 6)]
        for epoch in epochs:
            assert rows(epoch) == rows(everything(data))
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[1], epochs[2])

    def test_epoch_leaves_out_what_does_not_fill_a_batch(self):
        data = datasets.load("digits", image_size=8)
        batches = take(data.training(1000, seed=3), 2)
        assert not np.array_equal(*batches)

    def test_seeds_differ_and_the_global_seed_does_not_matter(self):
        data = datasets.load("digits", image_size=8)
        first = take(data.training(64, seed=0), 1)[0]
        tf.random.set_seed(1234)
        again = take(data.training(64, seed=0), 1)[0]
        np.testing.assert_array_equal(first, again)
        for seed in (1, -1, 2**40):
            assert not np.array_equal(first, take(data.training(64, seed=seed), 1)[0])

    def test_first_epoch_of_one_seed_is_not_the_second_of_another(self):
        data = datasets.load("digits", image_size=8)
        starts = [
            take(data.training(1797, seed, start_step=step), 1)[0].tobytes()
            for seed in range(2)
            for step in range(2)
        ]
        assert len(set(starts)) == 4

    @pytest.mark.parametrize("discriminator_steps", [1, 3])
    def test_resumes_exactly_in_memory(self, discriminator_steps):
        data = datasets.load("digits", image_size=8)  # Four batches an epoch.
        whole = take(data.training(400, 5, 0, discriminator_steps), 14)
        for start_step in (1, 3, 4, 7, 11):
            rest = take(data.training(400, 5, start_step, discriminator_steps), 3)
            for step, batch in enumerate(rest, start=start_step):
                np.testing.assert_array_equal(batch, whole[step])

    @pytest.mark.parametrize(
        ("name", "discriminator_steps"),
        [("celeb_a", 1), ("celeb_a", 2), ("lsun/bedroom", 3), ("svhn_cropped", 2)],
    )
    def test_resumes_exactly_from_prepared_files(
        self, name, discriminator_steps, prepared, monkeypatch
    ):
        monkeypatch.setattr(datasets.prepared, "_WINDOW", 8)
        monkeypatch.setattr(datasets.prepared, "_SHARDS_AT_ONCE", 2)
        data = datasets.load(name, data_dir=prepared, image_size=8)
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
            decoded.append(data._decode(elements))
            return decoded[-1]

        spied = dataclasses.replace(data, _decode=spy)
        (batch,) = take(spied.training(7, seed=5, start_step=5), 1)
        seen = {images.tobytes() for images in list(decoded)}
        assert to_uint8(batch).tobytes() in seen
        for passed_over in take(data.training(7, seed=5), 5):
            assert to_uint8(passed_over).tobytes() not in seen

    def test_records_of_an_epoch_are_a_permutation(self, prepared, monkeypatch):
        monkeypatch.setattr(datasets.prepared, "_WINDOW", 8)
        monkeypatch.setattr(datasets.prepared, "_SHARDS_AT_ONCE", 2)
        data = datasets.load("celeb_a", data_dir=prepared, image_size=16, split="train")
        batches = take(data.training(5, seed=1), 20)
        epochs = [to_uint8(np.concatenate(batches[i : i + 10])) for i in (0, 10)]
        fixed = everything(data)
        for epoch in epochs:
            assert rows(epoch) == rows(fixed)
            assert not np.array_equal(epoch, fixed)
        assert not np.array_equal(*epochs)
        other = to_uint8(np.concatenate(take(data.training(5, seed=2), 10)))
        assert not np.array_equal(other, epochs[0])

    def test_each_discriminator_step_has_the_next_minibatch(self):
        data = datasets.load("digits", image_size=8)
        small = take(data.training(400, seed=0), 10)
        large = take(data.training(400, seed=0, discriminator_steps=5), 2)
        np.testing.assert_array_equal(np.concatenate(small), np.concatenate(large))

    def test_batch_larger_than_the_set_is_an_error(self):
        data = datasets.load("digits", image_size=8)
        with pytest.raises(InputError, match=r"1797 images.*one batch of 1798"):
            data.training(1798, seed=0)

    @pytest.mark.parametrize(
        "wrong", [{"batch_size": 0}, {"start_step": -1}, {"discriminator_steps": 0}]
    )
    def test_counts_are_checked(self, wrong):
        data = datasets.load("digits", image_size=8)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            data.training(**{"batch_size": 4, "seed": 0, **wrong})

    def test_iterators_of_one_data_set_agree(self):
        dataset = datasets.load("digits", image_size=8).training(400, seed=0)
        for one, two in zip(take(dataset, 6), take(dataset, 6), strict=True):
            np.testing.assert_array_equal(one, two)


class TestGroup:
    def test_keeps_order_and_structure(self):
        pairs = tf.data.Dataset.range(12).map(lambda x: (x, [-x, x]))
        grouped = datasets.group(pairs.batch(2, drop_remainder=True), 3)
        assert grouped.element_spec[1] == tf.TensorSpec((6, 2), tf.int64)
        first, second = grouped.as_numpy_iterator()
        np.testing.assert_array_equal(first[0], range(6))
        np.testing.assert_array_equal(second[1][:, 1], range(6, 12))

    def test_of_one_is_the_data_set(self):
        batches = tf.data.Dataset.range(4).batch(2, drop_remainder=True)
        assert datasets.group(batches, 1) is batches

    def test_leaves_out_an_incomplete_group(self):
        batches = tf.data.Dataset.range(10).batch(2, drop_remainder=True)
        assert [len(x) for x in datasets.group(batches, 2).as_numpy_iterator()] == [
            4,
            4,
        ]

    def test_needs_static_batches_and_a_positive_k(self):
        with pytest.raises(ValueError, match="drop_remainder"):
            datasets.group(tf.data.Dataset.range(10).batch(2), 2)
        with pytest.raises(ValueError, match="drop_remainder"):
            datasets.group(tf.data.Dataset.range(10), 2)
        with pytest.raises(ValueError, match="at least 1"):
            datasets.group(tf.data.Dataset.range(4).batch(2, drop_remainder=True), 0)


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
            real = tfds.builder(name, data_dir=tmp_path)
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
        monkeypatch.setattr(datasets.prepared, "_SECONDS_TO_CONNECT", 0.2)

        def hang(*_):
            time.sleep(3)
            raise OSError("timed out")

        monkeypatch.setattr(socket, "create_connection", hang)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"within 0\.2 seconds"):
            datasets.load("celeb_a", data_dir=tmp_path, download=True)
        assert time.monotonic() - started < 2

    def test_proxy_is_what_must_answer(self, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            for variable in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
                monkeypatch.delenv(variable, raising=False)
            for scheme in ("http://", ""):
                monkeypatch.setenv("https_proxy", f"{scheme}127.0.0.1:{port}")
                assert datasets.prepared._reachable("www.cs.toronto.edu")
        assert not datasets.prepared._reachable("www.cs.toronto.edu")

    def test_lsun_is_not_tried_without_its_reader(self, tmp_path, monkeypatch):
        def never(_):
            raise AssertionError("the network was tried")

        monkeypatch.setattr(datasets.prepared, "_reachable", never)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(InputError, match="tensorflow_io"):
            datasets.load("lsun/bedroom", data_dir=tmp_path, download=True)

    def test_what_was_downloaded_is_read(self, prepared, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        class Builder:
            def __init__(self, name, data_dir):
                self.source, self.target = prepared / name, data_dir / name

            def download_and_prepare(self):
                shutil.copytree(self.source, self.target)

        monkeypatch.setattr(datasets.prepared, "_reachable", lambda _: True)
        monkeypatch.setattr(tfds, "builder", Builder)
        data = datasets.load("cifar10", data_dir=tmp_path, download=True)
        assert data.num_examples == TRAIN

    def test_failure_of_tfds_is_passed_on(self, tmp_path, monkeypatch):
        import tensorflow_datasets as tfds

        def fail(*_, **__):
            raise RuntimeError("quota exceeded")

        monkeypatch.setattr(datasets.prepared, "_reachable", lambda _: True)
        monkeypatch.setattr(tfds, "builder", fail)
        with pytest.raises(InputError, match=r"quota exceeded.*Google Drive"):
            datasets.load("celeb_a", data_dir=tmp_path, download=True)


class TestLoad:
    def test_unknown_name_lists_the_names(self):
        with pytest.raises(InputError) as error:
            datasets.load("mnist")
        for name in ("mnist", "digits", "cifar10", "svhn_cropped", "celeb_a", "folder"):
            assert name in str(error.value)
        assert "lsun/bedroom" in str(error.value)

    def test_split_and_size_are_checked(self):
        with pytest.raises(InputError, match="'test'"):
            datasets.load("digits", split="test")
        with pytest.raises(InputError, match="at least 1"):
            datasets.load("digits", image_size=0)

"""Batches whose order is a function of (seed, step), from images in memory."""

import numpy as np
import pytest
import rounding
import tensorflow as tf
from dataset_images import everything, rows, take, to_uint8
from sklearn.datasets import load_digits

from fid.files import InputError
from tf_ttur import datasets


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
            # A quotient of up to 2, and a difference of up to 1.
            atol = (2 + 1) * rounding.unit("float32")
            found = np.sort(batch.ravel())
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol)

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


class TestLabels:
    def test_are_those_of_the_images_which_come_as_without(self):
        data = datasets.load("digits", image_size=8)
        assert data.num_classes == 10
        options = {"batch_size": 64, "seed": 5, "discriminator_steps": 2}
        pairs = data.training(**options, labels=True)
        assert pairs.element_spec == (
            tf.TensorSpec((128, 8, 8, 1), tf.float32),
            tf.TensorSpec((128,), tf.int32),
        )
        alone = take(data.training(**options), 16)  # more than an epoch
        known = dict(
            zip(
                (x.tobytes() for x in everything(data)),
                load_digits().target,
                strict=True,
            )
        )
        for (images, labels), expected in zip(take(pairs, 16), alone, strict=True):
            np.testing.assert_array_equal(images, expected)
            found = [known[x.tobytes()] for x in to_uint8(images)]
            np.testing.assert_array_equal(labels, found)

    def test_come_back_at_any_step(self):
        data = datasets.load("digits", image_size=8)
        whole = take(data.training(100, seed=1, labels=True), 30)
        later = take(data.training(100, seed=1, start_step=25, labels=True), 5)
        for one, other in zip(whole[25:], later, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])

    def test_are_refused_where_there_are_none(self):
        pixels = np.zeros((4, 2, 2, 1), np.uint8)
        data = datasets.batches.in_memory("levels", "train", pixels)
        assert data.num_classes is None
        with pytest.raises(InputError, match=r"levels \(train\) has no labels"):
            data.training(2, seed=0, labels=True)


class TestRows:
    ARRAY = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("float16")

    def test_rows_come_with_their_numbers_in_an_order_of_seed_and_step(self, tmp_path):
        np.save(tmp_path / "rows.npy", self.ARRAY)
        array = np.load(tmp_path / "rows.npy", mmap_mode="r")
        data = datasets.batches.rows(array, "five", 2, seed=3, discriminator_steps=2)
        assert data.element_spec == (
            tf.TensorSpec((4, 2, 3), tf.float32),
            tf.TensorSpec((4,), tf.int32),
        )
        found = list(data.take(3))
        for values, numbers in found:
            np.testing.assert_array_equal(values, self.ARRAY[numbers.numpy()])
            # An epoch has two batches of 2, and leaves one row out.
            assert len(set(numbers.numpy())) == 4
        later = datasets.batches.rows(array, "five", 2, 3, 2, discriminator_steps=2)
        np.testing.assert_array_equal(next(iter(later))[0], found[2][0])

    def test_too_few_rows_are_refused(self):
        with pytest.raises(InputError, match="five latents, which do not fill one"):
            datasets.batches.rows(self.ARRAY, "five latents", 6, seed=0)

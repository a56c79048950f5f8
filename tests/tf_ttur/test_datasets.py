"""Sets by name: digits, and what holds for images however they are kept."""

import dataclasses

import numpy as np
import pytest
from dataset_images import (
    bedrooms,
    everything,
    rows,
    take,
    to_uint8,
    write_folder,
    write_lmdb,
)
from PIL import Image
from sklearn.datasets import load_digits

from fid.files import InputError
from tf_ttur import datasets

BEDROOM = "lsun/bedroom"


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
            decoded.append(data.decode(elements))
            return decoded[-1]

        spied = dataclasses.replace(data, decode=spy)
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


@pytest.mark.parametrize("name", ["folder", "lsun/bedroom", "cifar10"])
def test_data_in_the_home_of_no_user_are_named(name):
    with pytest.raises(InputError, match="~nosuchuser, and there is no such home"):
        datasets.load(name, data_dir="~nosuchuser/x", image_size=8)

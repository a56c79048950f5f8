"""What every source promises: order, the sizes of batches, and no more memory."""

import numpy as np
import pytest
from image_folders import encoded, pixels, write_images, write_zip

from fid import open_images
from fid.sources.source import MAX_BATCH_BYTES, Source, batched

IMAGES = np.stack([pixels(seed=seed) for seed in range(7)])  # of 189 bytes each


def folder(path):
    return open_images(write_images(path / "images", IMAGES))


def archive(path):
    members = {f"{i}.png": encoded(image) for i, image in enumerate(IMAGES)}
    return open_images(write_zip(path / "images.zip", members))


def files(path):
    return open_images(sorted(write_images(path / "images", IMAGES).iterdir()))


def array_file(path):
    np.save(path / "images.npy", IMAGES)
    return open_images(path / "images.npy")


def array(path):
    return open_images(IMAGES)


def stream(path):
    return open_images(iter(IMAGES))


def generator(path):
    class Generator:
        def generate_batches(self, count, seed, batch_size):
            for start in range(0, count, batch_size):
                batch = IMAGES[start : min(start + batch_size, count)]
                yield batch.astype(np.float32) / 127.5 - 1

    source = open_images(Generator(), count=7, quantize="round")
    assert source.max_batch_bytes == MAX_BATCH_BYTES
    return source


SOURCES = [folder, archive, files, array_file, array, stream, generator]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_batches_hold_all_images_in_order(tmp_path, make, size):
    source = make(tmp_path)
    assert isinstance(source, Source)
    assert source.count in (7, None)
    batches = list(source.batches(size))
    sizes = [min(size, 7 - start) for start in range(0, 7, size)]
    assert [len(batch) for batch in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES)
    assert source.count == 7
    assert source.provenance["source_count"] == 7
    assert source.provenance["source_resolution"] == "7x9"


@pytest.mark.parametrize("make", SOURCES)
def test_batches_of_large_images_are_smaller(tmp_path, make):
    for most, sizes in ((400, [2, 2, 2, 1]), (1, [1] * 7)):
        path = tmp_path / str(most)
        path.mkdir()
        source = make(path)
        source.max_batch_bytes = most
        batches = list(source.batches(3))
        assert [len(batch) for batch in batches] == sizes
        np.testing.assert_array_equal(np.concatenate(batches), IMAGES)


def test_an_image_larger_than_the_bound_is_a_batch_of_its_own():
    small, large = np.zeros(10, np.uint8), np.zeros(200, np.uint8)
    images = [small, small, large, small, small, small]
    sizes = [[image.nbytes for image in x] for x in batched(images, 2, max_bytes=100)]
    assert sizes == [[10, 10], [200], [10, 10], [10]]


def test_batches_are_given_as_soon_as_they_are_full():
    taken = []

    def images():
        for index in range(5):
            taken.append(index)
            yield np.zeros(1)

    batches = batched(images(), 2)
    assert len(next(batches)) == 2
    assert taken == [0, 1]
    assert [len(batch) for batch in batches] == [2, 1]
    assert list(batched([], 2)) == []

import numpy as np
from PIL import Image

from tf_ttur import sampling


def test_a_grid_holds_every_image_in_its_place():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 1), dtype=np.uint8)
    grid = sampling.image_grid(images, columns=3)
    assert grid.shape == (3 * 5 + 2, 3 * 6 + 2, 1)
    for index, image in enumerate(images):
        top, left = index // 3 * 5 + 2, index % 3 * 6 + 2
        np.testing.assert_array_equal(grid[top : top + 3, left : left + 4], image)
    assert not grid[12:15, 8:12].any()  # no eighth image
    assert (grid[:2] == grid[0, 0]).all()
    assert (grid[:, -2:] == grid[0, 0]).all()


def test_images_become_the_nearest_byte():
    images = np.array([-1.5, -1.0, 0.0, 0.9999, 1.0, 2.0], "float32")
    assert sampling.to_bytes(images).tolist() == [0, 0, 128, 255, 255, 255]


def test_pictures_are_png_grey_or_rgb(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
        sampling.save_png(tmp_path / "x.png", image)
        read = Image.open(tmp_path / "x.png")
        assert (read.format, read.mode) == ("PNG", mode)
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)

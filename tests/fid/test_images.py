import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from fid import InputError, open_images
from fid.images import ArraySource, GeneratorSource, is_statistics, quantize


def pixels(height=9, width=7, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def read(source, size=4):
    return [image for batch in source.batches(size) for image in batch]


def test_a_folder_is_read_in_the_order_of_names_whatever_the_sizes(tmp_path):
    written = {}
    for index, name in enumerate(["b.png", "a.PNG", "c.bmp", "ä 1.png", "d.webp"]):
        written[name] = pixels(5 + index, 9, seed=index)
        Image.fromarray(written[name]).save(tmp_path / name, lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    source = open_images(tmp_path)
    images = read(source, 2)
    assert source.count == 5
    for name, image in zip(sorted(written), images, strict=True):
        np.testing.assert_array_equal(image, written[name])
    assert source.provenance["source_resolution"] == "mixed"
    assert source.lossy == 0


def test_the_digest_depends_on_the_pixels_only(tmp_path):
    digests = []
    for name, suffix, seed in (("a", "png", 0), ("b", "bmp", 0), ("c", "png", 1)):
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(pixels(seed=seed)).save(folder / f"x.{suffix}")
        source = open_images(folder)
        read(source)
        digests.append(source.provenance["source_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_each_kind_of_pixel_has_its_treatment(tmp_path):
    rgb = pixels()
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "1_grey.png")
    Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "2_alpha.png")
    wide = grey.astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "3_wide.png")
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "4_palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "5_turned.png", exif=turned)
    Image.new("CMYK", (7, 9), (0, 255, 255, 0)).save(tmp_path / "6_cmyk.jpg")
    source = open_images(tmp_path)
    by_kind = read(source)
    assert all(image.shape == (9, 7, 3) for image in by_kind)
    assert all(image.dtype == np.uint8 for image in by_kind)
    three = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(by_kind[0], three)
    np.testing.assert_array_equal(by_kind[1], rgb)
    np.testing.assert_array_equal(by_kind[2], three)
    np.testing.assert_array_equal(by_kind[3], three)
    np.testing.assert_array_equal(by_kind[4], rgb)
    assert by_kind[5][0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert source.lossy == 1


def _bomb(path):
    Image.new("1", (12_000, 12_000)).save(path)


def _truncated(path):
    Image.fromarray(pixels(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_text("not a picture"), "no PNG, JPEG, .*not a pi"),
        (_truncated, "truncated"),
        (_bomb, "12000 x 12000 pixels"),
    ],
)
def test_a_bad_image_is_named(tmp_path, make, message):
    Image.fromarray(pixels()).save(tmp_path / "good.png")
    make(tmp_path / "bad.png")
    with pytest.raises(InputError, match=message) as error:
        read(open_images(tmp_path))
    assert "bad.png" in str(error.value)


def test_places_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"No images in .* found 1 other files"):
        open_images(tmp_path)
    with pytest.raises(InputError, match="There is no"):
        open_images(tmp_path / "missing")
    with pytest.raises(InputError, match="neither a folder nor"):
        open_images(tmp_path / "notes.txt")


@pytest.mark.parametrize("key", ["images", "arr_0", "whatever"])
def test_npz_and_npy_files_hold_images(tmp_path, key):
    images = np.stack([pixels(seed=seed) for seed in range(5)])
    np.savez(tmp_path / "x.npz", **{key: images})
    np.save(tmp_path / "x.npy", images)
    for name in ("x.npz", "x.npy"):
        source = open_images(tmp_path / name)
        np.testing.assert_array_equal(np.stack(read(source, 2)), images)
        assert source.provenance["source_kind"] == name[2:]
        assert source.provenance["source_resolution"] == "7x9"


def test_npz_of_several_arrays_or_objects_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=pixels(), b=pixels())
    with pytest.raises(InputError, match="holds the arrays a, b"):
        open_images(path)
    np.savez(path, allow_pickle=True, images=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="never unpickled"):
        open_images(path)
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="x.npz"):
        open_images(path)


def test_statistics_are_told_from_images(tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "i.npz", images=pixels()[None])
    assert is_statistics(tmp_path / "s.npz")
    assert not is_statistics(tmp_path / "i.npz")
    assert not is_statistics(tmp_path / "missing.npz")


def test_float_images_must_say_or_show_what_they_span():
    unit = np.random.default_rng(0).random((4, 5, 5, 3))
    for images in (unit, unit * 2 - 1, unit * 1.5):
        with pytest.raises(InputError, match=r"does not look like \[0, 255\]"):
            open_images(images)
    bytes_ = np.rint(unit * 255).astype(np.uint8)
    for images, value_range in (
        (bytes_ / 255.0, "0,1"),
        (bytes_ / 127.5 - 1, "-1,1"),
        (bytes_.astype("float32"), None),
        (bytes_, None),  # bytes are never judged, however dark
        (bytes_ // 255, None),
    ):
        batch = next(iter(open_images(images, value_range=value_range).batches(4)))
        expected = (
            bytes_ // 255 if images.max() <= 1 and value_range is None else bytes_
        )
        np.testing.assert_allclose(batch, expected, atol=1e-4)
    with pytest.raises(InputError, match="outside of the range"):
        open_images(bytes_.astype("float32"), value_range="0,1")


def test_a_value_that_is_not_finite_is_named():
    images = np.full((300, 2, 2, 3), 200.0)
    images[270, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="Image 270 of array"):
        open_images(images)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("none", [1.5, 2.6]), ("truncate", [1, 2]), ("round", [2, 3])],
)
def test_quantisation_is_explicit(rule, expected):
    values = quantize(np.array([1.5, 2.6], np.float32), rule)
    np.testing.assert_allclose(values, expected)
    assert values.dtype == (np.float32 if rule == "none" else np.uint8)


def test_grey_arrays_may_leave_out_their_axis():
    grey = pixels(channels=1)[None]
    for images in (grey, grey[..., 0]):
        (batch,) = ArraySource(images).batches(1)
        np.testing.assert_array_equal(batch, grey)


def test_one_image_is_not_taken_for_many_grey_ones(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="looks like one image"):
        open_images(tmp_path / "x.npy")


def test_mislabelled_and_damaged_arrays_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 9, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=images)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    np.savez_compressed(tmp_path / "c.npz", images=images)
    rotten = bytearray((tmp_path / "c.npz").read_bytes())
    rotten[150:160] = bytes(10)
    (tmp_path / "c.npz").write_bytes(rotten)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
    for name in ("a.npz", "b.npy", "c.npz", "d.npz"):
        with pytest.raises(InputError, match=name):
            read(open_images(tmp_path / name))


def test_a_pipe_is_no_image(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert len(read(open_images(tmp_path))) == 1


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (4, 4), (2, 4, 4, 2), (1, 0, 4, 3)])
def test_arrays_that_are_no_images_are_refused(shape):
    with pytest.raises(InputError, match="expected images"):
        open_images(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="holds int64"):
        open_images(np.zeros((1, 2, 2, 3), np.int64))


def test_a_generator_is_a_source():
    class Generator:
        def generate_batches(self, count, seed, batch_size):
            random = np.random.default_rng(seed)
            for start in range(0, count, batch_size):
                n = min(batch_size, count - start)
                yield random.uniform(-1, 1, (n, 4, 4, 3)).astype("float32")

    source = GeneratorSource(Generator(), 7, seed=3, quantize="truncate")
    images = np.stack(read(source, 3))
    expected = np.concatenate(list(Generator().generate_batches(7, 3, 3)))
    np.testing.assert_array_equal(images, np.floor((expected + 1) * 127.5))
    assert source.provenance["pixels"] == "8-bit"
    with pytest.raises(InputError, match="no method"):
        GeneratorSource(object(), 3)

"""From what the user names to a source; arrays, streams and generators."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rounding
from image_folders import pixels, read, write_image, write_zip
from PIL import Image
from toy_extractors import Colours

import fid
from fid import InputError, open_images
from fid.sources.images import (
    ArraySource,
    GeneratorSource,
    StreamSource,
    is_statistics,
    quantize,
)


def test_places_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"No images in .* found 1 other files"):
        open_images(tmp_path)
    with pytest.raises(InputError, match="There is no"):
        open_images(tmp_path / "missing")
    with pytest.raises(InputError, match="name of a set of images is empty"):
        open_images("")
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
    with pytest.raises(InputError, match=r"s\.npz holds statistics .*not images"):
        open_images(tmp_path / "s.npz")
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
        # Three operations in float32, on numbers of up to 255.
        atol = 255 * rounding.gamma(3, "float32")
        np.testing.assert_allclose(batch, expected, rtol=0, atol=atol)
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


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (4, 4), (2, 4, 4, 2), (1, 0, 4, 3)])
def test_arrays_that_are_no_images_are_refused(shape):
    with pytest.raises(InputError, match="expected images"):
        open_images(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="holds bool; expected whole numbers in 0"):
        open_images(np.zeros((1, 2, 2, 3), bool))


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


def test_the_same_images_have_the_same_digest_wherever_they_are(tmp_path):
    stack = np.stack([pixels(seed=seed) for seed in range(3)])
    folder = tmp_path / "folder"
    for seed in range(3):
        write_image(folder / f"{seed}.png", seed)
    members = {f.name: f.read_bytes() for f in folder.iterdir()}
    write_zip(tmp_path / "x.zip", members)
    np.save(tmp_path / "x.npy", stack)
    np.savez_compressed(tmp_path / "x.npz", stack)
    opened = [folder, tmp_path / "x.zip", tmp_path / "x.npy", tmp_path / "x.npz"]
    opened += [stack, iter(stack), list(stack), [folder / f"{i}.png" for i in range(3)]]
    digests = set()
    for size, each in enumerate(opened, 1):
        source = open_images(each)
        read(source, size)
        digests.add(source.provenance["source_sha256"])
    assert len(digests) == 1


# Streams ------------------------------------------------------------------------------


def test_images_batches_and_tuples_of_any_sizes_make_a_stream():
    a, b, c = (pixels(seed=seed) for seed in range(3))
    small = pixels(4, 4, seed=9)
    elements = [a, np.stack([b, c]), (small, "label"), {"image": a, "label": 3}]
    elements.append(Image.fromarray(b))
    source = open_images(iter(elements))
    batches = list(source.batches(3))
    assert [len(batch) for batch in batches] == [3, 3]
    assert isinstance(batches[0], np.ndarray)
    expected = [a, b, c, small, a, b]
    for image, wanted in zip([x for y in batches for x in y], expected, strict=True):
        np.testing.assert_array_equal(image, wanted)
    assert source.count == 6
    assert source.provenance["source_resolution"] == "mixed"
    with pytest.raises(InputError, match="was read before"):
        read(source)


def test_images_of_pillow_are_treated_like_files():
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7] + [0] * 765)
    ((image,),) = open_images([palette]).batches(1)
    assert image.tolist() == [[[9, 8, 7], [9, 8, 7]]]
    with pytest.raises(InputError, match="Element 0 of list: floating-point"):
        read(open_images([Image.new("F", (1, 1))]))


def test_a_list_of_images_of_several_sizes_is_a_stream_that_can_be_read_again():
    images = [pixels(4), pixels(5)]
    source = open_images(images)
    assert source.count == 2
    for _ in range(2):
        for image, wanted in zip(read(source), images, strict=True):
            np.testing.assert_array_equal(image, wanted)


def test_a_generator_may_fill_one_array_again_and_again():
    def generator():
        image = np.zeros((2, 2, 3), np.uint8)
        for value in range(5):
            image[:] = value
            yield image

    assert [x[0, 0, 0] for x in read(open_images(generator()), 5)] == [0, 1, 2, 3, 4]


def test_values_of_a_stream_are_checked_as_they_pass():
    def stream(*values):
        return (np.full((2, 2, 3), value, np.float32) for value in values)

    given = []
    batches = open_images(stream(0.5, 1.0, -0.1, 200)).batches(1)
    with pytest.raises(InputError, match="does not look like"):
        for batch in batches:
            given.append(batch)
    assert len(given) == 2  # at once
    with pytest.raises(InputError, match="does not look like"):
        read(open_images(stream(0.5, 1.0, 1.5)))
    assert len(read(open_images(stream(0.5, 1.0, 1.6)))) == 3
    with pytest.raises(InputError, match="Image 1 of iterator .* not finite"):
        read(open_images(stream(1, np.nan)))
    scaled = read(open_images(stream(-1, 1), value_range="-1,1", quantize="round"))
    assert [image[0, 0, 0] for image in scaled] == [0, 255]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ([], "gave no images"),
        ([None], "Element 0 of iterator"),
        (["a.png"], "Element 0 of iterator"),
        ([()], "Element 0 of iterator"),
        ([np.zeros((4, 4, 2), np.uint8)], r"shape \(4, 4, 2\)"),
        ([np.zeros((2, 4, 4), np.uint8)], "expected an image"),
        ([np.zeros((4, 4, 3), complex)], "holds complex128"),
        ([np.zeros((0, 4, 4, 3), np.uint8)], "at least one"),
        ([pixels(), pixels(channels=1)], "1 channels, those before it 3"),
        ([pixels(), [[1], [1, 2]]], "Element 1 .* does not form one array"),
    ],
)
def test_elements_that_are_no_images_are_named(elements, message):
    with pytest.raises(InputError, match=message):
        read(StreamSource(iter(elements), "iterator"))


def test_what_is_no_source_is_refused():
    for bad in (None, 3, {"a": 1}, b"x", {1, 2}):
        with pytest.raises(InputError, match="is no source of images"):
            open_images(bad)
    with pytest.raises(InputError, match="say how many"):
        open_images(lambda latents: latents)
    with pytest.raises(InputError, match="channels seem to be first"):
        open_images(np.zeros((2, 3, 8, 8), np.uint8))


def test_tensors_and_data_sets_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    images = np.stack([pixels(seed=seed) for seed in range(7)])
    labels = np.arange(7)
    single = tf.data.Dataset.from_tensor_slices(images)
    paired = tf.data.Dataset.from_tensor_slices((images, labels))
    named = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    for source, count in (
        (tf.constant(images), 7),
        (single, 7),
        (paired, 7),
        (named, 7),
        (paired.batch(3), None),
        (single.filter(lambda image: True), None),
        (paired.as_numpy_iterator(), None),
    ):
        opened = open_images(source)
        assert opened.count == count
        np.testing.assert_array_equal(np.stack(read(opened, 4)), images)
        assert opened.count == 7
    np.testing.assert_array_equal(np.stack(read(open_images(single.batch(2)))), images)
    with pytest.raises(InputError, match="repeats for ever"):
        open_images(single.repeat())
    unit = single.map(lambda image: tf.cast(image, tf.float32) / 255)
    with pytest.raises(InputError, match="does not look like"):
        read(open_images(unit.batch(2)))
    scaled = read(open_images(unit.batch(2), value_range="0,1", quantize="round"))
    np.testing.assert_array_equal(np.stack(scaled), images)


def test_opening_images_imports_no_tensorflow(tmp_path):
    write_image(tmp_path / "x.png")
    program = """
import sys
import numpy as np
from fid import open_images
list(open_images(sys.argv[1]).batches(1))
list(open_images(iter([np.zeros((2, 2, 3), np.uint8)])).batches(1))
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


class Tensor:
    """What a tensor of another library looks like: a method, and no array protocol."""

    def __init__(self, array):
        self._array, self.shape = array, array.shape

    def numpy(self):
        return self._array


class Loader:
    """A loader as PyTorch's: a length, and lists of images and labels."""

    def __init__(self, images, size, endless=False):
        self.images, self.size, self.endless = images, size, endless

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __iter__(self):
        while True:
            for i in range(0, len(self.images), self.size):
                yield [Tensor(self.images[i : i + self.size]), Tensor(np.arange(3))]
            if not self.endless:
                return


class Indexed:
    """A set whose elements are taken by index, as PyTorch's."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        # A sequence of Keras's may take any index, so this never ends by itself.
        return Tensor(self.images[index % len(self.images)]), index


STACK = np.stack([pixels(seed=seed) for seed in range(7)])


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (Loader(STACK, 3), None),
        (Loader(STACK, 3, endless=True), None),
        (Indexed(STACK), None),
        (list(Loader(STACK, 3)), None),
        ([tuple(batch) for batch in Loader(STACK, 3)], None),
        ([(image, 1) for image in STACK], None),
        ([[image, np.int64(1)] for image in STACK], None),
        ([{"image": image} for image in STACK], None),
        ([STACK[:3], STACK[3:6], STACK[6:]], None),
        ([STACK[:1], STACK[1:2], *STACK[2:]], None),
        ([STACK[0], STACK[1:]], None),
        (list(STACK), 7),
        ([image.tolist() for image in STACK], 7),
        ([list(STACK[:4]), list(STACK[4:])], None),
    ],
    ids=range(14),
)
def test_loaders_and_lists_give_their_images_once(source, count):
    opened = open_images(source)
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(read(opened, 4)), STACK)
    assert opened.count == 7


def test_an_iterator_that_never_ends_is_read_for_its_length():
    keras = pytest.importorskip("keras")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    flow = ImageDataGenerator().flow(STACK, np.arange(7), batch_size=3, shuffle=False)
    np.testing.assert_array_equal(np.stack(read(open_images(flow))), STACK)

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return STACK[3 * index : 3 * index + 3], np.arange(3)

    np.testing.assert_array_equal(np.stack(read(open_images(Data()))), STACK)


def test_a_set_of_keras_that_never_ends_is_refused_before_it_is_read():
    keras = pytest.importorskip("keras")

    class Endless(keras.utils.PyDataset):
        def __getitem__(self, index):
            pytest.fail("a batch was read")

    class Says(Endless):
        num_batches = None

    class Ends(keras.utils.PyDataset):
        num_batches = 3

        def __getitem__(self, index):
            return STACK[3 * index : 3 * index + 3]

    for kind in (Endless, Says):
        with pytest.raises(InputError, match=f"The {kind.__name__} repeats for ever"):
            open_images(kind())
    np.testing.assert_array_equal(np.stack(read(open_images(Ends()))), STACK)


class ShortLoader(Loader):
    def __len__(self):
        return 4


class ShortIndexed(Indexed):
    def __len__(self):
        return 9

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.parametrize(
    ("source", "counts"),
    [(ShortLoader(STACK, 3), (3, 4)), (ShortIndexed(STACK), (7, 9))],
)
def test_a_set_that_ends_before_its_length_is_told_of(source, counts):
    opened = open_images(source)
    for _ in range(2):
        assert len(read(opened)) == 7
        (warning,) = opened.warnings
        assert "ended after {} elements, and its length says {}".format(*counts) in (
            warning
        )
        assert "the result is of 7 images" in warning
    reference = fid.compute_statistics(STACK, Colours())
    found = fid.compare(source, reference, Colours())
    assert any("ended after" in each for each in found.warnings)
    whole = open_images(Loader(STACK, 3))
    read(whole)
    assert list(whole.warnings) == []


def test_a_set_by_index_whose_length_fails_is_named():
    class Broken(Indexed):
        def __len__(self):
            raise RuntimeError("no index file")

    with pytest.raises(InputError, match=r"a Broken, .* had \(no index file\)"):
        open_images(Broken(STACK))


def test_several_batches_in_one_element_are_refused():
    element = [STACK[:3], STACK[3:]]
    for source in ([element, element], iter([element])):
        with pytest.raises(InputError, match="Element 0 of .* several of which are ba"):
            read(open_images(source))
    # What follows the images in a tuple is no image of the set.
    assert len(read(open_images(iter([(STACK[:3], STACK[:3])])))) == 3


def test_a_key_is_refused_where_there_can_be_no_dicts(tmp_path):
    np.save(tmp_path / "x.npy", STACK)
    fid.Statistics(np.zeros(3), np.eye(3), 7).save(tmp_path / "s.npz")
    for source in (STACK, list(STACK), tmp_path / "x.npy", open_images(STACK)):
        with pytest.raises(InputError, match="image_key is 'pixels', .* leave it out"):
            open_images(source, image_key="pixels")
    elements = [{"pixels": image} for image in STACK]
    extractor = Colours()
    for other in (STACK, tmp_path / "x.npy", tmp_path / "s.npz"):
        with pytest.raises(InputError, match="image_key is 'pixels'"):
            fid.compare(STACK, other, extractor, image_key="pixels")
        found = fid.compare(other, elements, extractor, image_key="pixels")
        assert found.second.n == 7


def test_the_key_of_the_images_may_be_said():
    elements = [{"pixels": image, "label": 3} for image in STACK]
    for source in (elements, iter(elements), [(each, 1) for each in elements]):
        opened = open_images(source, image_key="pixels")
        np.testing.assert_array_equal(np.stack(read(opened)), STACK)
    message = "Element 0 of iterator is a dict without .* has the keys pixels, label: "
    with pytest.raises(InputError, match=message):
        read(open_images(iter(elements)))
    with pytest.raises(
        InputError, match="has no key 'x': choose image_key from pixels"
    ):
        read(open_images(elements, image_key="x"))
    # Two sets that are compared are opened alike, and one may have no dicts.
    # Of an iterator it is not known before it is read.
    with pytest.raises(
        InputError, match="Element 0 of iterator is no dict, from which image_key='pix"
    ):
        read(open_images(iter(STACK), image_key="pixels"))
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices({"pixels": STACK, "label": np.arange(7)})
    opened = open_images(data, image_key="pixels")
    assert opened.count == 7
    np.testing.assert_array_equal(np.stack(read(opened)), STACK)
    with pytest.raises(InputError, match="keys pixels, label: say which"):
        open_images(data)


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "u2", "u4", ">i4"])
def test_whole_numbers_of_any_type_are_bytes(dtype, tmp_path):
    wide = STACK.astype(dtype)
    np.savez(tmp_path / "x.npz", wide)
    expected = open_images(STACK)
    read(expected)
    for source in (wide, iter(wide), tmp_path / "x.npz"):
        opened = open_images(source)
        images = np.stack(read(opened))
        np.testing.assert_array_equal(images, STACK)
        assert images.dtype == np.uint8
        for key in ("source_sha256", "pixels"):
            assert opened.provenance[key] == expected.provenance[key]
    for value in (-1, 256):
        if value > 0 or dtype[-2] != "u":
            wide[3, 2, 1, 0] = value
            with pytest.raises(InputError, match="numbers have to be in 0..255: scale"):
                open_images(wide)


def test_a_range_may_be_two_numbers():
    unit = STACK / 255.0
    for value_range in ((0, 1), [0.0, 1.0], np.array([0, 1]), "0,1"):
        source = open_images(unit, value_range=value_range, quantize="round")
        np.testing.assert_array_equal(np.stack(read(source)), STACK)
    square, scalar = np.array([[0, 1], [0, 1]]), np.array(1)
    for wrong in ((0, 2), (0, 1, 2), [], 1, "0, 1", {0: 1}, square, scalar, [[0], 1]):
        with pytest.raises(InputError, match="choose from '0,255', '0,1', '-1,1'"):
            open_images(unit, value_range=wrong)


@pytest.mark.parametrize(
    ("images", "value_range", "dark"),
    [
        ((STACK > 128).astype(np.uint8), None, True),
        (STACK // 16, None, True),
        (STACK.astype("i4") // 16, None, True),
        (STACK / 16, None, True),
        (STACK / 4080, "0,1", True),
        (STACK, None, False),
        (STACK / 255, "0,1", False),
        (np.full((2, 3, 3, 3), 64, np.uint8), None, False),
        (np.full((2, 3, 3, 3), 63, np.uint8), None, True),
    ],
)
def test_a_set_far_below_its_range_is_said_to_be_nearly_black(
    images, value_range, dark
):
    for each in (images, iter(images)):
        source = open_images(each, value_range=value_range)
        read(source)
        assert len(source.warnings) == dark
        assert all("nearly black" in warning for warning in source.warnings)


# Generators ---------------------------------------------------------------------------


def squash(latents):
    return np.tanh(np.asarray(latents)).reshape(-1, 2, 2, 3)


def test_the_batch_size_does_not_change_a_callable_s_latents():
    expected = np.random.default_rng(5).standard_normal((7, 12), np.float32)
    for size in (1, 3, 7, 50):
        source = open_images(squash, count=7, seed=5, latent=12)
        images = np.stack(read(source, size))
        wanted = (np.tanh(expected).reshape(-1, 2, 2, 3) + 1) * 127.5
        # A function, a sum and a product in float32, either way.
        atol = 2 * 255 * rounding.gamma(rounding.FUNCTION + 2, "float32")
        np.testing.assert_allclose(images, wanted, rtol=0, atol=atol)
    facts = source.provenance
    assert (facts["seed"], facts["source_count"]) == (5, 7)
    assert facts["latent"] == "normal, 12 dimensions"
    other = np.stack(read(GeneratorSource(squash, 7, 6, latent=12)))
    assert not np.allclose(other, images)


def test_latents_may_be_drawn_by_a_callable():
    def latent(count, seed):
        return np.full((count, 12), seed / 10)

    source = GeneratorSource(squash, 5, seed=3, latent=latent)
    rtol = rounding.gamma(rounding.FUNCTION + 2, "float32")
    expected = (np.tanh(0.3) + 1) * 127.5
    np.testing.assert_allclose(np.stack(read(source)), expected, rtol=rtol)
    assert source.provenance["latent"] == "latent"
    with pytest.raises(InputError, match=r"has shape \(4, 12\); expected 5 latents"):
        read(GeneratorSource(squash, 5, latent=lambda n, seed: np.zeros((n - 1, 12))))


def test_a_keras_model_is_a_generator():
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Reshape((2, 2, 3)),
            keras.layers.Activation("tanh"),
        ]
    )

    def latent(count, seed):
        return keras.random.normal((count, 12), seed=seed)

    source = GeneratorSource(model, 5, seed=2, quantize="truncate", latent=latent)
    expected = squash(latent(5, seed=2))
    images = np.stack(read(source, 2))
    np.testing.assert_array_equal(images, np.floor((expected + 1) * 127.5))


@pytest.mark.parametrize(
    ("generator", "latent", "message"),
    [
        (lambda z: np.zeros((len(z) + 1, 2, 2, 3)), 4, "made of 3 latents an array"),
        (lambda z: np.zeros((len(z), 2, 2)), 4, "expected images"),
        (lambda z: np.full((len(z), 2, 2, 3), 7.0), 4, "outside of the range"),
        (lambda z: np.full((len(z), 2, 2, 3), np.nan), 4, "not finite"),
        (squash, 0, "latent is 0; expected a positive dimension"),
        (squash, "many", "latent is 'many'"),
        (squash, None, "is no generator"),
        (object(), 4, "cannot be called"),
    ],
)
def test_generators_that_cannot_be_used_say_why(generator, latent, message):
    with pytest.raises(InputError, match=message):
        read(GeneratorSource(generator, 3, latent=latent))


@pytest.mark.parametrize(("given", "said"), [(5, "5"), (9, "more"), (0, "0")])
def test_a_generator_gives_as_many_images_as_were_asked_for(given, said):
    class Generator:
        def generate_batches(self, count, seed, batch_size):
            for _ in range(given):
                yield np.zeros((1, 2, 2, 3), np.float32)

    with pytest.raises(InputError, match=f"gave {said} images where 7"):
        read(open_images(Generator(), count=7))
    with pytest.raises(InputError, match="say how many"):
        open_images(Generator())
    with pytest.raises(InputError, match="at least one"):
        open_images(Generator(), count=0)


def test_counts_and_seeds_are_whole_numbers_of_any_kind():
    source = open_images(squash, count=np.int64(5), seed=np.uint8(3), latent=12)
    read(source)
    assert json.loads(json.dumps(source.provenance))["seed"] == 3
    for wrong in ({"count": 2.5}, {"count": 2, "seed": 1.5}, {"count": "7"}):
        with pytest.raises(InputError, match="expected a whole number"):
            open_images(squash, latent=12, **wrong)

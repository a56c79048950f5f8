"""Keras models as extractors; what all extractors keep to is in tests/conformance."""

import keras
import numpy as np
import pytest
import rounding
from toy_extractors import Colours

import fid
from fid import InputError
from fid.extractors.extractor import (
    KerasExtractor,
    check_interface,
    pixel_extractor,
    weights_sha256,
)
from fid.sources.images import StreamSource

pytestmark = pytest.mark.portable

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)


def model(activation="relu", bias=0.5, name=None):
    layer = keras.layers.Conv2D(
        2,
        (4, 6),
        activation=activation,
        kernel_initializer=keras.initializers.GlorotNormal(seed=0),
        bias_initializer=keras.initializers.Constant(bias),
        name=name,
    )
    return keras.Sequential([keras.Input((4, 6, 3)), layer, keras.layers.Flatten()])


def allowed(network, largest=1.0):
    """What a feature of the model may differ by: its sum has 72 terms and a bias.

    An image's value was scaled by two operations, before which it was up to `largest`
    in either part of a sum. Both sides of a comparison are rounded.
    """
    kernel = np.abs(network.layers[0].kernel.numpy()).sum((0, 1, 2)).max()
    once = rounding.gamma(72 + 3, "float32") * (2 * largest * kernel + 0.5)
    return {"rtol": 0, "atol": 2 * once}


def test_features_are_those_of_the_model():
    network = model()
    kernel = np.asarray(network.layers[0].kernel, np.float64)
    scaled = IMAGES / 127.5 - 1.0
    expected = np.maximum(np.einsum("nhwc,hwcf->nf", scaled, kernel) + 0.5, 0)
    assert np.count_nonzero(expected) > 0
    features = KerasExtractor(network, "mine")(IMAGES)
    np.testing.assert_allclose(features, expected, **allowed(network))


def test_scale_and_offset_are_those_of_the_model():
    network = model(activation="linear")
    found = KerasExtractor(network, "mine", scale=0.5, offset=3.0)(IMAGES)
    images = IMAGES.astype(np.float32) * 0.5 + 3.0
    expected = np.asarray(network(images))
    np.testing.assert_allclose(found, expected, **allowed(network, 127.5 + 3))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_images_are_taken_a_batch_at_a_time(batch_size):
    extractor = KerasExtractor(model(), "mine", batch_size=batch_size)
    expected = KerasExtractor(model(), "mine")(IMAGES)
    np.testing.assert_allclose(extractor(IMAGES), expected, **allowed(model()))


def test_the_last_batch_is_not_compiled_anew():
    extractor = KerasExtractor(model(), "mine", batch_size=2)
    for count in (2, 5, 1):
        assert extractor(IMAGES[:count]).shape == (count, 2)
    assert extractor._features.experimental_get_tracing_count() == 1


def test_the_fingerprint_is_that_of_what_is_computed():
    def fingerprint(network, **options):
        return KerasExtractor(network, "mine", **options).fingerprint

    same = fingerprint(model())
    # Neither the name of a layer nor the size of a batch changes the features.
    assert fingerprint(model(name="another")) == same
    assert fingerprint(model(), batch_size=3) == same
    others = {
        fingerprint(model(bias=0.25)),
        fingerprint(model(activation="elu")),
        fingerprint(model(), scale=1.0),
        fingerprint(model(), offset=0.0),
    }
    assert len(others | {same}) == 5


def test_weights_are_told_by_values_shapes_and_order():
    one = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    two = keras.models.clone_model(one)
    two.set_weights(one.get_weights())
    assert weights_sha256(one) == weights_sha256(two)
    two.layers[0].bias.assign([0.0, 0.0, 1e-30])
    assert weights_sha256(one) != weights_sha256(two)
    # Zeros of other shapes are as many bytes.
    shapes = {(2, 3), (3, 2), (6, 1)}
    zeros = set()
    for inputs, outputs in shapes:
        dense = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros")
        zeros.add(weights_sha256(keras.Sequential([keras.Input((inputs,)), dense])))
    assert len(zeros) == len(shapes)


def test_an_image_of_another_shape_is_named_with_what_is_taken():
    message = r"shape \(6, 4, 3\); the extractor mine takes \(4, 6, 3\)"
    with pytest.raises(InputError, match=message):
        KerasExtractor(model(), "mine")([IMAGES[0], IMAGES[1].transpose(1, 0, 2)])


@pytest.mark.parametrize(("side", "name"), [(8, "pixels_8x8"), (2, "pixels_2x2")])
def test_pixels_are_means_of_squares(side, name):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    extractor = pixel_extractor((16, 24, 3), side)
    assert (extractor.name, extractor.dimension) == (name, side * side * 3)
    squares = images.reshape(3, side, 16 // side, side, 24 // side, 3)
    expected = squares.mean(axis=(2, 4)).reshape(3, -1) / 127.5 - 1
    # A mean of numbers in [-1, 1] that were scaled by two operations. (NumPy's mean of
    # integers is in float64.)
    terms = 16 * 24 // side**2
    atol = rounding.gamma(terms + 3, "float32") * 2
    np.testing.assert_allclose(extractor(images), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [(12, 16, 3), (16, 12, 3)])
def test_images_without_a_small_version_are_refused(shape):
    height, width, _ = shape
    with pytest.raises(InputError, match=f"{width}x{height} .* multiples of 8"):
        pixel_extractor(shape)


def test_no_images_have_no_features():
    found = KerasExtractor(model(), "mine")(IMAGES[:0])
    assert (found.shape, found.dtype) == ((0, 2), np.float32)
    assert KerasExtractor(model(), "mine")([]).shape == (0, 2)


def test_a_model_of_images_of_any_size_takes_any_size():
    layers = [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
    extractor = KerasExtractor(keras.Sequential(layers), "means", 1.0, 0.0)
    for images in (IMAGES, IMAGES[:, :2]):
        means = images.mean(axis=(1, 2))
        np.testing.assert_allclose(extractor(images), means, rtol=1e-5)
    with pytest.raises(InputError, match="images of several sizes"):
        extractor([IMAGES[0], IMAGES[0, :2]])
    with pytest.raises(InputError, match=r"\(4, 6, 1\); the extractor means takes"):
        extractor(IMAGES[..., :1])


def test_what_is_no_extractor_is_refused_and_its_lack_named():
    check_interface(Colours())
    check_interface(KerasExtractor(model(), "mine"))
    with pytest.raises(InputError, match="is the class Colours; give an object"):
        check_interface(Colours)
    message = r"Sequential without dimension, .*and protocol; .*KerasExtractor\(model"
    with pytest.raises(InputError, match=message):
        check_interface(model())
    for name, wrong in (
        ("name", ""),
        ("name", " "),
        ("name", "my\nnet"),
        ("name", 7),
        ("dimension", 2.5),
        ("dimension", 0),
        ("dimension", True),
        ("channels", "3"),
        ("channels", 2),
        ("channels", True),
        ("fingerprint", b"x"),
        ("fingerprint", ""),
        ("protocol", ["none"]),
        ("protocol", {"dtype": np.float32}),
    ):
        extractor = Colours()
        setattr(extractor, name, wrong)
        with pytest.raises(InputError, match=f"The {name} of the extractor, a Colours"):
            check_interface(extractor)


@pytest.mark.parametrize("name", ["my net", "org/net:v2", "größe", "a+b (c)"])
def test_any_name_of_one_line_measures_saves_and_loads(tmp_path, name):
    extractor = Colours()
    extractor.name = name
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    statistics = fid.compute_statistics(images, extractor)
    statistics.save(tmp_path / "x.npz")
    loaded = fid.Statistics.load(tmp_path / "x.npz")
    assert loaded.provenance["extractor"] == name
    found = fid.compare(loaded, images, extractor)
    assert found.values() == {f"frechet_{name}": pytest.approx(0.0, abs=1e-9)}


def test_a_property_of_an_extractor_that_raises_is_named():
    class Unready(Colours):
        @property
        def fingerprint(self):
            raise RuntimeError("no weights yet")

        @fingerprint.setter
        def fingerprint(self, value):
            pass

    message = r"fingerprint of the extractor, a Unready, .* \(RuntimeError: no weights"
    with pytest.raises(InputError, match=message):
        check_interface(Unready())


@pytest.mark.parametrize("lack", ["name", "dimension", "channels", "protocol"])
def test_an_extractor_that_lacks_something_is_refused_before_an_image_is_read(lack):
    def images():
        pytest.fail("an image was read")
        yield

    extractor = Colours()
    setattr(extractor, lack, None)
    stream = StreamSource(images())
    for measure in (
        lambda: fid.compute_statistics(stream, extractor),
        lambda: fid.compare(stream, stream, extractor),
        lambda: fid.compute(
            generator=lambda z: pytest.fail("an image was made"),
            latent=3,
            reference=stream,
            extractor=extractor,
        ),
        lambda: fid.FrechetInceptionDistance(stream, extractor=extractor),
    ):
        with pytest.raises(InputError, match=f"a Colours without {lack}; expected"):
            measure()

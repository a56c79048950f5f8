"""What every feature extractor keeps to: one table, and the same checks for each row.

Features themselves are tested beside it, in `tests/fid/extractors`: here an extractor
is held to `fid.extractors.extractor.Extractor`, whatever its features mean. Run as a
program, this file prints what the extractors of the table find in a process of its own:
test_extractors.py GRAPH.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import rounding
import synthetic_graph
from repository import TESTS

import fid
import fid.extractors
import fid.mistaken
from fid import InputError
from fid.extractors.extractor import KerasExtractor, pixel_extractor
from fid.extractors.inception import Inception
from fid.sources.pixels import with_channels

pytestmark = pytest.mark.portable


@dataclasses.dataclass(frozen=True)
class Entry:
    """An extractor, and what it has to be.

    Attributes:
        offered: The class or function of `fid.extractors` that it comes from.
        make: Makes it, given the graph file of the 2015 structure.
        changed: Makes another with other weights, or other settings if it has none,
            given a folder to write to.
        name: Its name.
        dimension: Number of its features.
        image_shape: Shape of an image that it takes.
        any_size: Whether it takes images of other sizes, too.
        terms: Terms of the sums on the longest way to a feature, in float32.
        amplified: What a small relative change of an image is multiplied by, at most.
    """

    offered: Callable[..., Any]
    make: Callable[[pathlib.Path], Any]
    changed: Callable[[pathlib.Path], Any]
    name: str
    dimension: int
    image_shape: tuple[int, int, int]
    terms: int
    any_size: bool = False
    amplified: float = 1.0

    def tolerance(self, features):
        """The largest difference that rounding may make."""
        size = np.sqrt(np.mean(np.square(features, dtype=np.float64)))
        return size * rounding.random_sums(
            self.terms, features.size, amplified=self.amplified
        )


def keras_extractor(seed):
    initializer = keras.initializers.GlorotNormal(seed=seed)
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(6, 3, activation="elu", kernel_initializer=initializer),
        keras.layers.GlobalAveragePooling2D(),
    ]
    return KerasExtractor(keras.Sequential(layers), "small", batch_size=4)


def digits(graph):
    from sklearn.datasets import load_digits

    from tf_ttur import datasets
    from tf_ttur.networks.classifier import digits_classifier

    images = np.concatenate(list(datasets.load("digits").images()))
    return digits_classifier(images, load_digits().target).extractor


def changed_digits(folder):
    model = keras.models.load_model(
        next(fid.mistaken.cache_dir().glob("digits_classifier_*.keras")), compile=False
    )
    layer = model.get_layer("features")
    layer.kernel.assign(layer.kernel * 1.01)
    return KerasExtractor(keras.Model(model.inputs, layer.output), "digits")


def other_inception(folder):
    path = folder / "other.pb"
    return Inception(synthetic_graph.write_synthetic_graph(path, seed=1, splat=True))


EXTRACTORS = {
    "keras": Entry(
        offered=KerasExtractor,
        make=lambda graph: keras_extractor(seed=0),
        changed=lambda folder: keras_extractor(seed=1),
        name="small",
        dimension=6,
        image_shape=(8, 8, 3),
        terms=27 + 36,
    ),
    "pixels": Entry(
        offered=pixel_extractor,
        make=lambda graph: pixel_extractor((16, 24, 3)),
        changed=lambda folder: pixel_extractor((16, 24, 3), side=4),
        name="pixels_8x8",
        dimension=192,
        image_shape=(16, 24, 3),
        terms=2 * 3,
    ),
    "digits": Entry(
        offered=KerasExtractor,
        make=digits,
        changed=changed_digits,
        name="digits",
        dimension=64,
        image_shape=(32, 32, 1),
        # Convolutions of 9 * 1 and 9 * 16 values, means of 4 three times, and a product
        # with 512; trained weights amplify what random ones do not.
        terms=9 + 144 + 3 * 4 + 512,
        amplified=10.0,
    ),
    "inception": Entry(
        offered=Inception,
        make=lambda graph: Inception(graph, batch_size=2),
        changed=other_inception,
        name="inception_2015",
        dimension=2048,
        image_shape=(24, 32, 3),
        any_size=True,
        terms=synthetic_graph.TERMS,
        amplified=synthetic_graph.AMPLIFIED,
    ),
}


def images_for(entry, count=5):
    """Waves and noise, so that no two images have the same features."""
    random = np.random.default_rng(0)
    height, width, channels = entry.image_shape
    y, x = np.mgrid[:height, :width][..., None]
    waves = [
        np.sin(
            x * random.normal(0, 0.5, channels) + y * random.normal(0, 0.5, channels)
        )
        for _ in range(count)
    ]
    noise = random.normal(0, 20, (count, *entry.image_shape))
    return np.clip(127.5 + 90 * np.stack(waves) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=EXTRACTORS)
def entry(request):
    return EXTRACTORS[request.param]


@pytest.fixture(scope="module")
def extractor(entry, synthetic_pb, request):
    if entry.name == "digits":
        request.getfixturevalue("classifier")  # It is trained once for all tests.
    return entry.make(synthetic_pb)


@pytest.fixture(scope="module")
def images(entry):
    return images_for(entry)


@pytest.fixture(scope="module")
def features(extractor, images):
    return extractor(images)


def offered():
    """What the modules of fid.extractors offer that is, or makes, an extractor."""
    found = {}
    for module in pkgutil.iter_modules(fid.extractors.__path__, "fid.extractors."):
        module = importlib.import_module(module.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) and not getattr(value, "_is_protocol", False):
                if "__call__" in vars(value):
                    found[name] = value
            elif inspect.isfunction(value):
                found[name] = value
    names = {name for name, value in found.items() if inspect.isclass(value)}
    return {
        value
        for name, value in found.items()
        if name in names or inspect.signature(value).return_annotation in names
    }


def test_every_extractor_is_in_the_table():
    assert offered() == {entry.offered for entry in EXTRACTORS.values()}


def test_attributes_say_what_it_is(extractor, entry):
    assert (extractor.name, extractor.dimension) == (entry.name, entry.dimension)
    assert re.fullmatch("[a-z0-9_]+", extractor.name)
    assert extractor.channels == entry.image_shape[-1]
    assert re.fullmatch("[0-9a-f]{64}", extractor.fingerprint)


def test_the_protocol_is_json_and_says_how_images_are_treated(extractor):
    protocol = extractor.protocol
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert {"resize", "dtype"} <= protocol.keys()


def test_features_are_float32_and_differ_from_image_to_image(features, entry):
    assert features.dtype == np.float32
    assert features.shape == (5, entry.dimension)
    assert np.isfinite(features).all()
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert distances[~np.eye(5, dtype=bool)].min() > 100 * entry.tolerance(features)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bytes_and_floats_of_the_same_values_have_the_same_features(
    extractor, images, features, dtype
):
    np.testing.assert_array_equal(extractor(images.astype(dtype)), features)


def test_images_are_left_as_they_were(extractor, images):
    for given in (images.copy(), images.astype(np.float32)):
        before = given.copy()
        extractor(given)
        np.testing.assert_array_equal(given, before)


def test_an_array_and_a_list_are_alike(extractor, images, features):
    np.testing.assert_array_equal(extractor(list(images)), features)


def test_neighbours_and_their_number_change_rounding_only(
    extractor, entry, images, features
):
    for size in (1, 2, 3):
        parts = [extractor(images[i : i + size]) for i in range(0, 5, size)]
        np.testing.assert_allclose(
            np.concatenate(parts), features, rtol=0, atol=entry.tolerance(features)
        )


def test_features_follow_the_order_of_the_images(extractor, entry, images, features):
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(
        extractor(images[order]),
        features[order],
        rtol=0,
        atol=entry.tolerance(features),
    )


def test_the_batch_size_of_a_set_does_not_change_its_statistics(
    extractor, entry, images, features
):
    found = [
        fid.compute_statistics(images, extractor, batch_size=size) for size in (2, 5)
    ]
    one, two = found
    # A mean moves by no more than features do, and a covariance by that times the
    # spread, for either feature, and times n / (n - 1).
    atol = entry.tolerance(features)
    np.testing.assert_allclose(one.mu, two.mu, rtol=0, atol=atol)
    atol *= 2 * np.sqrt(np.diag(one.sigma).max()) * 5 / 4
    np.testing.assert_allclose(one.sigma, two.sigma, rtol=0, atol=atol)


def test_grey_images_are_measured_by_every_extractor(extractor, entry, images):
    grey = images[..., :1]
    repeated = np.repeat(grey, extractor.channels, axis=-1)
    np.testing.assert_array_equal(with_channels(grey, extractor.channels), repeated)
    found = fid.compute_statistics(grey, extractor)
    expected = fid.compute_statistics(repeated, extractor)
    np.testing.assert_array_equal(found.mu, expected.mu)
    np.testing.assert_array_equal(found.sigma, expected.sigma)


def test_images_of_several_sizes_are_taken_or_refused(extractor, entry, images):
    mixed = [images[0], images[1][:-4], images[2]]
    if entry.any_size:
        found = extractor(mixed)
        alone = np.concatenate([extractor(image[np.newaxis]) for image in mixed])
        atol = entry.tolerance(found)
        np.testing.assert_allclose(found, alone, rtol=0, atol=atol)
    else:
        with pytest.raises(InputError, match=re.escape(str(mixed[1].shape))):
            extractor(mixed)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: np.concatenate([images, images], axis=-1),  # 2 or 6 channels
        lambda images: images[..., 0],
        lambda images: images[0],
        lambda images: images.transpose(0, 3, 1, 2),
        lambda images: images[:, :0],
    ],
    ids=["channels", "no channels", "one image", "channels first", "no height"],
)
def test_images_of_another_shape_are_refused(extractor, images, change):
    with pytest.raises(InputError, match=r"shape \(") as error:
        extractor(change(images))
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_the_weights(
    extractor, entry, synthetic_pb, images, features, tmp_path
):
    again = entry.make(synthetic_pb)
    assert again.fingerprint == extractor.fingerprint
    np.testing.assert_array_equal(again(images), features)
    assert entry.changed(tmp_path).fingerprint != extractor.fingerprint


def test_fingerprints_of_all_extractors_differ(synthetic_pb, classifier):
    prints = {entry.make(synthetic_pb).fingerprint for entry in EXTRACTORS.values()}
    assert len(prints) == len(EXTRACTORS)


@pytest.fixture(scope="module")
def elsewhere(synthetic_pb, classifier):
    """What a process of its own finds of every extractor."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), *sys.path])
    run = subprocess.run(
        [sys.executable, __file__, str(synthetic_pb)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_another_process_finds_the_same(extractor, entry, images, elsewhere):
    name = next(name for name, each in EXTRACTORS.items() if each is entry)
    assert elsewhere[name] == report(extractor, images)


def report(extractor, images):
    features = hashlib.sha256(extractor(images).tobytes()).hexdigest()
    return [extractor.fingerprint, json.dumps(extractor.protocol), features]


if __name__ == "__main__":
    graph = pathlib.Path(sys.argv[1])
    found = {
        name: report(entry.make(graph), images_for(entry))
        for name, entry in EXTRACTORS.items()
    }
    print(json.dumps(found))

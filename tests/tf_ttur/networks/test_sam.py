"""SAM's encoder: images as SAM treats them, maps at its depths, and what is frozen."""

import keras
import numpy as np
import PIL.Image
import pytest
import rounding
import tensorflow as tf

from fid.files import InputError
from tf_ttur.networks import sam

keras_hub = pytest.importorskip("keras_hub", reason="the extra [hub] is not installed")

SIDE, PATCH, HIDDEN = 32, 8, 8
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], "float32")


def vit(layers=4, **changes):
    """A small encoder whose weights are all random: Keras Hub starts some at 0."""
    settings = {
        "image_shape": (SIDE, SIDE, 3), "patch_size": PATCH, "hidden_size": HIDDEN,
        "num_layers": layers, "global_attention_layer_indices": [1, 3],
        "intermediate_dim": 16, "num_heads": 2, "window_size": 3,
        "num_output_channels": 8,
    } | changes  # fmt: skip
    made = keras_hub.models.ViTDetBackbone(**settings)
    random = np.random.default_rng(0)
    made.set_weights([0.3 * random.normal(size=w.shape) for w in made.get_weights()])
    return made


def pixels(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def scaled(values):
    return values.astype("float32") / 127.5 - 1.0


@pytest.mark.parametrize(("before", "after"), [(5, 13), (13, 5), (16, 32), (64, 7)])
def test_a_row_is_resized_as_pillow_does(before, after):
    row = np.random.default_rng(0).normal(size=(1, before)).astype("float32")
    image = PIL.Image.fromarray(row).resize((after, 1), PIL.Image.Resampling.BILINEAR)
    matrix = sam.resizing(before, after).astype("float64")
    # Both round the weights, of which ours are divided by a sum, and a sum of products.
    terms = np.abs(matrix * row).sum(1)
    bound = rounding.gamma(2 * before + 4, "float32") * terms
    assert (np.abs(np.asarray(image)[0] - matrix @ row[0]) <= bound).all()


def of_sam(values):
    """What SAM's authors do: the longer side, colours in 0..255, zeros at the end."""
    height, width = values.shape[:2]
    size = [int(each * SIDE / max(height, width) + 0.5) for each in (width, height)]
    channels = [PIL.Image.fromarray(c.astype("float32")) for c in values.T]
    resized = [
        np.asarray(c.resize(size[::-1], PIL.Image.Resampling.BILINEAR)).T
        for c in channels
    ]
    x = (np.stack(resized, -1) - 255 * MEAN) / (255 * DEVIATION)
    return np.pad(x, [(0, SIDE - x.shape[0]), (0, SIDE - x.shape[1]), (0, 0)])


@pytest.mark.parametrize("shape", [(16, 24, 3), (48, 40, 3), (SIDE, SIDE, 3)])
def test_an_image_is_treated_as_sam_treats_it(shape):
    values = pixels(*shape)
    images = keras.Input(shape)
    prepared = keras.Model(images, sam._prepared(images, SIDE))
    found = prepared(scaled(values)[None]).numpy()[0]
    # The encoder takes the mean and the deviation away by itself.
    found = (found - MEAN) / DEVIATION
    # Colours are below 1 and those minus the mean above 0.2 of a deviation's inverse:
    # a dozen roundings and two sums over at most 6 old pixels, each of numbers up to 2,
    # of which nothing is left beside the mean where the image ends.
    bound = rounding.gamma(12 + 2 * 6, "float32") * 2 / DEVIATION.min()
    np.testing.assert_allclose(found, of_sam(values), rtol=0, atol=bound)


def test_maps_are_those_behind_the_blocks():
    backbone = vit(layers=6)
    network = sam.encoder(backbone, (SIDE, SIDE, 3))
    images = scaled(pixels(2, SIDE, SIDE, 3))
    x, expected = (images + 1.0) / 2.0, []
    x = (x - MEAN) / DEVIATION
    # The input, the patches, the positions, and the blocks.
    for layer in backbone.layers[1:-1]:
        x = layer(x)
        expected.append(x.numpy())
    expected = [expected[2:][depth - 1] for depth in (2, 3, 5, 6)]
    found = network(images)
    assert isinstance(found, list)
    # The mean is taken away in another form: a few roundings at the start, which the
    # blocks multiply like any other small change.
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (2, SIDE // PATCH, SIDE // PATCH, HIDDEN)
        np.testing.assert_allclose(
            one, other, rtol=0, atol=rounding.gamma(1000, "float32") * np.ptp(other)
        )


def test_grey_is_repeated():
    backbone = vit()
    images = scaled(pixels(2, 16, 24, 1))
    grey = sam.encoder(backbone, (16, 24, 1))(images)
    colour = sam.encoder(backbone, (16, 24, 3))(np.repeat(images, 3, -1))
    for one, other in zip(grey, colour, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("jit", [False, True])
def test_the_encoder_is_frozen_and_differentiable_in_its_images(jit):
    network = sam.encoder(vit(), (16, 24, 1))
    assert network.weights
    assert not network.trainable_variables

    @tf.function(jit_compile=jit)
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in network(images)])
        return tape.gradient(loss, images)

    found = gradient(tf.constant(scaled(pixels(2, 16, 24, 1)))).numpy()
    assert np.isfinite(found).all()
    assert (found != 0).all()


def whole_sam(encoder):
    return keras_hub.models.SAMBackbone(
        image_encoder=encoder,
        prompt_encoder=keras_hub.layers.SAMPromptEncoder(
            hidden_size=8, image_embedding_size=(SIDE // PATCH,) * 2,
            input_image_size=(SIDE, SIDE), mask_in_channels=4,
        ),
        mask_decoder=keras_hub.layers.SAMMaskDecoder(
            num_layers=1, hidden_size=8, intermediate_dim=8, num_heads=2,
            embedding_dim=8, num_multimask_outputs=3, iou_head_depth=1,
            iou_head_hidden_dim=4,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_a_preset_in_a_folder_is_loaded(whole, tmp_path):
    encoder = vit()
    (whole_sam(encoder) if whole else encoder).save_to_preset(tmp_path)
    images = scaled(pixels(2, 16, 24, 3))
    expected = sam.encoder(encoder, (16, 24, 3))(images)
    for one, other in zip(
        sam.load(tmp_path, (16, 24, 3))(images), expected, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_without_weights_one_line_says_what_to_download(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*\(keras/sam, Apache 2\.0\)"):
        sam.load(tmp_path / "sam", (16, 16, 3))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="as many blocks. Received: 3"):
        sam.encoder(vit(layers=3), (16, 16, 3))
    with pytest.raises(InputError, match=r"Received: the shape \(16, 16, 2\)"):
        sam.encoder(vit(), (16, 16, 2))
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="Received: Sequential"):
        sam.encoder(other, (16, 16, 3))

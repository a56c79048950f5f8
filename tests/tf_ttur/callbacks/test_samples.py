"""Samples of fixed latents, as pictures and as text, and as TensorBoard shows them."""

import keras
import numpy as np
import pytest
from PIL import Image
from toy_gan import images, small_gan

import tf_ttur
from tf_ttur import callbacks
from tf_ttur.callbacks.samples import verbatim
from tf_ttur.datasets.text import Vocabulary
from tf_ttur.networks import text


@pytest.fixture
def text_gan():
    gan = text.TextGAN(
        text.generator(5, width=2),
        text.discriminator(5, width=2),
        latent=tf_ttur.NormalLatent(128),
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="wasserstein",
        jit_compile=False,
    )
    return gan


class Summary:
    """Stands for `tf.summary`, and keeps what it is given."""

    def __init__(self):
        self.given = {}

    def image(self, name, data):
        self.given[name] = data

    def text(self, name, data):
        self.given[name] = data


def test_pictures_are_the_images_of_fixed_latents(tmp_path):
    gan = small_gan()
    samples = callbacks.SampleGrid(tmp_path, count=4, seed=7)
    before = gan.generate(4, seed=7)
    gan.fit(images(), batch_size=16, epochs=2, verbose=0, callbacks=[samples])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_00000000.png", "step_00000004.png", "step_00000008.png"]
    for name, found in ((names[0], before), (names[-1], gan.generate(4, seed=7))):
        picture = np.asarray(Image.open(tmp_path / name))
        levels = np.clip(np.rint((found[..., 0] + 1) * 127.5), 0, 255)
        for image in levels.astype(np.uint8):
            # Each image stands somewhere in the grid.
            windows = np.lib.stride_tricks.sliding_window_view(picture, image.shape)
            assert (windows == image).all(axis=(2, 3)).any()
    summary = Summary()
    samples.summarize(summary)
    np.testing.assert_array_equal(summary.given["samples"][0, ..., 0], picture)


def test_pictures_may_be_made_a_few_at_a_time(tmp_path):
    gan, sizes = small_gan(), []
    plain = gan.generate_batches

    def generate_batches(count, seed, batch_size, labels):
        sizes.append(batch_size)
        return plain(count, seed, batch_size, labels)

    gan.generate_batches = generate_batches
    for size in (None, 3):
        samples = callbacks.SampleGrid(tmp_path, count=8, batch_size=size)
        samples.set_model(gan)
        samples.write(tmp_path / f"{size}.png")
    assert sizes == [8, 3]
    one, other = (np.asarray(Image.open(tmp_path / f"{x}.png"), int) for x in (None, 3))
    assert np.abs(one - other).max() <= 1


def test_a_resumed_run_writes_no_picture_of_its_start(tmp_path):
    gan = small_gan()
    gan.fit(images(), batch_size=16, verbose=0)
    samples = callbacks.SampleGrid(tmp_path, count=4)
    gan.fit(images(), batch_size=16, verbose=0, callbacks=[samples])
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000008.png"]


def test_lines_are_the_likeliest_symbols_of_fixed_latents(tmp_path, text_gan):
    vocabulary = Vocabulary("characters", tuple(map(ord, "`abé")))
    samples = callbacks.TextSamples(tmp_path, vocabulary, count=3, seed=5)
    tokens = np.random.default_rng(0).integers(0, 5, (8, 32), dtype="int32")
    text_gan.fit(tokens, batch_size=4, verbose=0, callbacks=[samples])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_00000000.txt", "step_00000002.txt"]
    symbols = np.array(["\ufffd", "`", "a", "b", "é"])
    likeliest = text_gan.generate(3, seed=5).argmax(axis=-1)
    lines = ["".join(symbols[row]) for row in likeliest]
    written = (tmp_path / names[-1]).read_bytes().decode("utf-8")
    assert written == "".join(f"{line}\n" for line in lines)
    summary = Summary()
    samples.summarize(summary)
    assert summary.given["samples"] == "\n".join(f"    {line}" for line in lines)


def test_markdown_shows_lines_as_they_are():
    assert verbatim("# no title\n\n*a*") == "    # no title\n    \n    *a*"


def test_pictures_of_a_conditional_gan_have_a_row_a_class(tmp_path):
    classes, size = 3, 4

    def network(inputs, outputs):
        values, labels = keras.Input((inputs,)), keras.Input((), dtype="int32")
        start = keras.initializers.Constant([[-1.0], [0.0], [1.0]])
        rows = keras.layers.Embedding(classes, 1, embeddings_initializer=start)(labels)
        both = keras.layers.Concatenate()([values, rows])
        return values, labels, both, outputs

    values, labels, both, _ = network(2, size)
    shade = keras.layers.Dense(size * size, use_bias=False)
    images_ = keras.layers.Reshape((size, size, 1))(shade(both))
    generator = keras.Model([values, labels], images_)
    shade.set_weights([np.concatenate([np.zeros((2, 16)), np.ones((1, 16))])])
    pixels = keras.Input((size, size, 1))
    values, labels, both, _ = network(size * size, 1)
    judge = keras.Model([values, labels], keras.layers.Dense(1)(both))
    logits = judge([keras.layers.Flatten()(pixels), labels])
    gan = tf_ttur.GAN(
        generator, keras.Model([pixels, labels], logits), tf_ttur.NormalLatent(2),
        num_classes=classes,
    )  # fmt: skip
    samples = callbacks.SampleGrid(tmp_path, count=9)
    samples.set_model(gan)
    samples.write(tmp_path / "x.png")
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert picture.shape == (3 * (size + 2) + 2, 3 * (size + 2) + 2)
    for row, level in enumerate((0, 128, 255)):
        for column in range(3):
            top, left = 2 + row * (size + 2), 2 + column * (size + 2)
            cell = picture[top : top + size, left : left + size]
            np.testing.assert_array_equal(cell, level)

"""`Diffusion`: its loss, its samples, and what it saves."""

import gaussian_networks as gaussian
import keras
import numpy as np
import pytest
import tensorflow as tf

from fid.files import InputError
from tf_ttur import distillation
from tf_ttur.distillation.diffusion import Denoiser, Diffusion, Sampling
from tf_ttur.labels import Labelled

SIDE = 6


def network(num_classes=None, seed=0):
    inputs = [keras.Input((SIDE, SIDE, 1)), keras.Input(())]
    told = keras.layers.Reshape((1, 1, 1))(inputs[1])
    x = keras.layers.Conv2D(3, 3, padding="same", activation="silu")(inputs[0] + told)
    if num_classes is not None:
        inputs.append(keras.Input((), dtype="int32"))
        row = keras.layers.Embedding(num_classes + 1, 3)(inputs[2])
        x += keras.layers.Reshape((1, 1, 3))(row)
    made = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x))
    random = np.random.default_rng(seed)
    made.set_weights([0.3 * random.normal(size=w.shape) for w in made.get_weights()])
    return made


def made(num_classes=None, form="edm", jit=False, **options):
    options = {"sampling": Sampling(sampler="ddim", steps=3)} | options
    model = Diffusion(network(num_classes), form, num_classes=num_classes, **options)
    model.compile(network_optimizer=keras.optimizers.Adam(1e-2), jit_compile=jit)
    return model


def images(count=8, seed=0):
    shape = (count, SIDE, SIDE, 1)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def script(model, *drawn):
    """Has `noise` give these arrays one after the other."""
    waiting = list(drawn)
    model.noise = lambda draw, share: tf.constant(waiting.pop(0))
    return waiting


@pytest.mark.parametrize("form", ["edm", "vp-eps", "vp-v", "flow"])
def test_the_loss_is_that_of_the_networks_output(form):
    model = made(form=form)
    x, noise = images(4), images(4, 1)
    times = model.parametrisation.times([100.0, 400.0, 700.0, 900.0])
    left = script(model, times, noise)
    found = model.denoising_loss(tf.constant(x))
    assert not left
    a, s = (np.asarray(v).reshape(4, 1, 1, 1) for v in
            model.parametrisation.coefficients(times))  # fmt: skip
    noisy = a * x + s * noise
    scaled, condition = model.parametrisation.inputs(noisy, times)
    output = model.network([scaled, condition]).numpy()
    target = model.parametrisation.output(noisy, x, times).numpy()
    # The target by another way divides by s, which is 0.1 and more here.
    expected = np.mean(np.square(output - target), dtype="f8")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_labels_are_hidden_where_the_draw_is_below_the_share():
    model = made(num_classes=4, label_dropout=0.25)
    seen = []
    told = model.network

    def note(given, training):
        seen.append(given[2].numpy().tolist())
        return told(given, training=training)

    object.__setattr__(model, "network", note)
    x = images(4)
    times, uniform = np.float32([1, 1, 1, 1]), np.float32([0.2, 0.3, 0.9, 0.0])
    script(model, times, images(4, 1), uniform)
    model.denoising_loss(Labelled(tf.constant(x), tf.constant([0, 1, 2, 3])))
    assert seen == [[4, 1, 2, 4]]


def test_it_learns_and_samples_the_distribution_of_gaussian_images():
    """The network can be exact, so its loss has the teacher's weights for a minimum."""
    flow = distillation.Flow()
    start = gaussian.exact(np.zeros(2), np.eye(2))
    model = Diffusion(start, flow, sampling=Sampling(sampler="heun", steps=200))
    model.compile(
        network_optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(2e-2, 600)
        ),
        jit_compile=False,
    )
    random = np.random.default_rng(0)
    # What is beyond [-1, 1] would be refused as no image.
    x = random.multivariate_normal(gaussian.MEAN / 4, gaussian.COVARIANCE / 16, 30_720)
    assert np.abs(x).max() < 1
    data = tf.data.Dataset.from_tensor_slices(x.astype("f4").reshape(-1, 1, 1, 2))
    model.fit(data.batch(512).repeat(10), verbose=0)
    mean, factor = model.network.get_weights()
    # Standard errors of 30,000 images are 1e-3 and 2e-4; noise and noise levels add
    # some times as much.
    np.testing.assert_allclose(mean, gaussian.MEAN / 4, rtol=0, atol=0.01)
    covariance = gaussian.COVARIANCE / 16
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=0, atol=0.004)
    exact = gaussian.exact(gaussian.MEAN / 4, covariance)
    model.network.set_weights(exact.get_weights())
    found = model.generate(40_000, seed=0, batch_size=40_000).reshape(-1, 2)
    # Standard errors of 40,000 are 7e-4 and 1.3e-4. The last of 200 steps leaves out
    # a share of t^2 / C, 0.2 %, of the variance.
    np.testing.assert_allclose(found.mean(0), gaussian.MEAN / 4, rtol=0, atol=4e-3)
    np.testing.assert_allclose(np.cov(found.T), covariance, rtol=0, atol=1e-3)


def test_images_are_brought_into_the_range_of_images():
    model = made()
    model.network.set_weights([10 * w for w in model.network.get_weights()])
    found = model.generate(20, seed=0)
    assert (found.min(), found.max()) == (-1, 1)
    latents = made(pixels=False)
    latents.network.set_weights(model.network.get_weights())
    whole = latents.generate(20, seed=0)
    assert np.abs(whole).max() > 1
    np.testing.assert_array_equal(np.clip(whole, -1, 1), found)


def test_fit_and_evaluate_with_labels_and_averages():
    model = made(num_classes=3, ema_decay=0.9, jit=True)
    labels = np.arange(8) % 3
    history = model.fit(
        images(), labels, batch_size=4, validation_data=(images(4, 2), labels[:4]),
        verbose=0,
    ).history  # fmt: skip
    assert {"loss", "lr", "val_loss"} <= set(history)
    assert np.isfinite(history["loss"]).all()
    assert model.steps == 2
    one = model.generate(3, seed=0, labels=1)
    model.averaged_network.set_weights(model.network.get_weights())
    assert np.abs(one - model.generate(3, seed=0, labels=1)).max() > 0


@pytest.mark.parametrize("which", [{"sampler": "heun"}, {"sampler": "renoise"},
                                   {"guidance": 2.5}])  # fmt: skip
def test_a_change_of_the_sampler_is_seen_and_saved(which, tmp_path):
    model = made(num_classes=3)
    before = model.generate(4, seed=1, labels=2)
    settings = {"sampler": "ddim", "steps": 3} | which
    model.sampling = Sampling(**settings)
    after = model.generate(4, seed=1, labels=2)
    assert np.abs(after - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.sampling == model.sampling
    assert loaded.parametrisation == model.parametrisation
    np.testing.assert_array_equal(loaded.generate(4, seed=1, labels=2), after)
    # Fresh noise, too, is that of each image, whatever the batch.
    parts = loaded.generate(4, seed=1, labels=2, batch_size=3)
    np.testing.assert_allclose(parts, after, rtol=0, atol=1e-4)


def test_it_goes_on_exactly_after_loading(tmp_path):
    model = made(ema_decay=0.5)
    model.fit(images(), batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(images(seed=3), batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_noise_of_many_images_is_never_there_as_a_whole(monkeypatch):
    model = made(sampling=Sampling(sampler="renoise", steps=2))
    plain, drawn = type(model.latent).__call__, []

    def draw(latent, count, seed):
        drawn.append(count)
        return plain(latent, count, seed)

    monkeypatch.setattr(type(model.latent), "__call__", draw)
    latents = model.latents_of(2500, seed=3)
    rows = np.array([2499, 0, 999, 1000, 1999, 2000])
    found = latents(rows)
    assert max(drawn) == 1000
    assert found.shape == (6, 2 * SIDE * SIDE)
    # Each row by itself, in another order, is the same, and no two are equal.
    alone = [latents(rows[i : i + 1])[0] for i in (3, 0, 5, 2, 4, 1)]
    np.testing.assert_array_equal(found[[3, 0, 5, 2, 4, 1]], alone)
    assert len(np.unique(found, axis=0)) == 6
    # 6 x 72 standard normal numbers: their mean square is 1 within 5 deviations.
    assert abs(np.square(found).mean() - 1) < 5 * (2 / found.size) ** 0.5


def test_guidance_is_that_of_both_estimates():
    model = made(num_classes=3)
    denoiser = Denoiser(model.network, model.parametrisation, 3)
    x, t = tf.constant(images(4)), tf.constant([0.5, 1.0, 2.0, 4.0])
    labels = tf.constant([0, 1, 2, 0])
    with_label = denoiser.clean(x, t, labels)
    without = denoiser.clean(x, t)
    found = denoiser.guided(labels, 3.0)(x, t)
    expected = without + 3.0 * (with_label - without)
    # Sums of 27 products come in another order in a batch of twice the size.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    none = denoiser.clean(x, t, tf.fill((4,), 3))
    np.testing.assert_array_equal(none, without)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"sampler": "leap"}, "no sampler 'leap'; choose from heun"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": 2.0}, "nothing to guide by"),
        ({"sampler": "euler"}, "euler is for flow matching"),
    ],
)
def test_samplings_that_cannot_be_are_refused(sampling, message):
    with pytest.raises(InputError, match=message):
        made(sampling=Sampling(**sampling))


def test_guidance_needs_a_network_that_did_without_labels():
    with pytest.raises(InputError, match="never learnt to do without"):
        made(num_classes=3, label_dropout=0.0, sampling=Sampling(guidance=2.0))
    with pytest.raises(InputError, match="must be a Sampling"):
        made(sampling="ddim")


def test_networks_that_do_not_fit_are_refused():
    plain = keras.Sequential([keras.Input((SIDE, SIDE, 1)), keras.layers.Conv2D(1, 1)])
    with pytest.raises(ValueError, match=r"needs one that takes \[images, noise"):
        Diffusion(plain)
    with pytest.raises(ValueError, match=r"\[images, noise condition, labels\]"):
        Diffusion(network(), num_classes=3)
    with pytest.raises(TypeError, match="no argument loss_weight"):
        Diffusion(network()).compile(network_optimizer="adam", loss_weight=1)

"""Stable Diffusion 3, small and random: three networks on one base, and a training.

The weights of the real one were not available; what is tested is what does not depend
on their values.
"""

import contextlib
import io
import logging
import resource
import zipfile

import h5py
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from fid.files import InputError
from tf_ttur.distillation import sd3
from tf_ttur.distillation.flash_dmd import FlashDMD, flash_dmd
from tf_ttur.networks import lora, sam

pytest.importorskip("keras_hub", reason="the extra [hub] is not installed")

TEXTS = ["a cat", "dog 7", "two tall trees"]
SIZE, RANK = 32, 3
LATENTS = (SIZE // 8, SIZE // 8, 16)


@pytest.fixture(scope="module")
def parts():
    backbone, preprocessor = sd3.small(SIZE)
    return backbone, preprocessor, sd3.embed(backbone, preprocessor, TEXTS)


def looking():
    """In SAM's place, whose tests are its own: an encoder that is quick to trace."""
    images = keras.Input((SIZE, SIZE, 3))
    maps = [keras.layers.Conv2D(4, 8, 8, activation="elu")(images) for _ in range(2)]
    return keras.Model(images, maps)


@pytest.fixture(scope="module")
def networks(parts):
    backbone, _, embedded = parts
    return sd3.networks(backbone, embedded, looking(), rank=RANK)


def noisy(count=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, *LATENTS)).astype("float32")
    return [x, np.linspace(100, 999, count, dtype="float32"), np.arange(count) + 1]


def test_embeddings_are_those_of_keras_hub_and_the_last_is_of_the_empty_text(parts):
    backbone, preprocessor, embedded = parts
    assert (embedded.count, embedded.shape) == (3, (16, 4096))
    texts = [*TEXTS, ""]
    tokens = [
        {k: np.asarray(v) for k, v in preprocessor.generate_preprocess([t]).items()}
        for t in texts
    ]
    for row, each in enumerate(tokens):
        context, _, pooled, _ = backbone.encode_text_step(each, tokens[0])
        context = np.asarray(context)[0]
        kept = np.zeros_like(context)
        used = embedded.context.shape[1:]
        kept[: used[0], : used[1]] = embedded.context[row]
        # float16's rounding, and float32's of batches of another size.
        np.testing.assert_allclose(kept, context, rtol=2**-10, atol=1e-4)
        np.testing.assert_allclose(embedded.pooled[row], pooled[0], rtol=0, atol=1e-4)
    assert len({x.tobytes() for x in embedded.pooled}) == 4


def test_embeddings_are_kept_by_encoders_and_texts(parts, tmp_path, monkeypatch):
    backbone, preprocessor, embedded = parts
    found = sd3.embed(backbone, preprocessor, TEXTS, tmp_path)
    np.testing.assert_array_equal(found.context, embedded.context)
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "encode_text_step", None)
        again = sd3.embed(backbone, preprocessor, TEXTS, tmp_path)
    np.testing.assert_array_equal(again.pooled, found.pooled)
    sd3.embed(backbone, preprocessor, TEXTS[::-1], tmp_path)
    weight = backbone.clip_g.trainable_variables[0]
    before = weight.numpy()
    weight.assign(before + 1)
    sd3.embed(backbone, preprocessor, TEXTS, tmp_path)
    weight.assign(before)
    assert len([*tmp_path.iterdir()]) == 3
    with pytest.raises(InputError, match="no texts"):
        sd3.embed(backbone, preprocessor, [], tmp_path)


@contextlib.contextmanager
def computing_in(part, dtype):
    """Says that a part computes in another type; it is not called."""
    before = part.dtype_policy
    part.dtype_policy = keras.DTypePolicy(dtype)
    try:
        yield
    finally:
        part.dtype_policy = before


def test_embeddings_are_named_by_encoders_texts_and_the_type_of_the_computation(
    parts, monkeypatch
):
    backbone, preprocessor, embedded = parts
    monkeypatch.setattr(sd3, "cached", lambda folder, fingerprint, made: fingerprint)

    def name(texts=TEXTS):
        return sd3.embed(backbone, preprocessor, texts, "cache")

    # Those that are kept nowhere have the same name.
    assert name() == name() == embedded.fingerprint
    assert name(TEXTS[1:]) != embedded.fingerprint
    for part in (backbone.clip_l, backbone.clip_g, backbone.clip_g_projection):
        with computing_in(part, "mixed_bfloat16"):
            assert name() != embedded.fingerprint
    assert name() == embedded.fingerprint


def test_texts_that_are_cut_off_are_counted(parts, monkeypatch, caplog):
    backbone, preprocessor, _ = parts
    monkeypatch.setattr(sd3, "cached", lambda folder, fingerprint, made: fingerprint)
    # CLIP's tokenizer is for 8 tokens here, of which two are the start and the end.
    with caplog.at_level(logging.WARNING):
        sd3.embed(backbone, preprocessor, ["a b c d e"], "cache")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        sd3.embed(backbone, preprocessor, ["a", "1 2 3 4 5 6 7", "a cat zoo"], "cache")
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 3 texts have all 8 tokens")


def test_the_parametrisation_has_the_shift_of_the_backbone(parts, monkeypatch):
    backbone = parts[0]
    assert sd3.parametrisation(backbone) == "flow:3"
    monkeypatch.setattr(backbone.scheduler, "shift", 1.5)
    assert sd3.parametrisation(backbone) == "flow:1.5"


def test_the_teacher_is_the_base_and_so_are_students_at_their_start(parts, networks):
    backbone, _, embedded = parts
    x, times, numbers = noisy()
    tokens, width = embedded.shape
    context = np.zeros((3, tokens, width), "float32")
    used = embedded.context.shape[1:]
    context[:, : used[0], : used[1]] = embedded.context[numbers]
    expected = backbone.diffuser(
        {
            "latent": x, "context": context, "timestep": times[:, None],
            "pooled_projection": embedded.pooled[numbers],
        }
    )  # fmt: skip
    for each in (networks.teacher, networks.student, networks.fake_score):
        np.testing.assert_array_equal(each([x, times, numbers]), expected)


def test_three_networks_have_the_memory_of_one(parts, networks):
    diffuser = parts[0].diffuser
    base = {id(w) for w in diffuser.weights}
    assert {id(w) for w in networks.teacher.weights} == base
    assert not networks.teacher.trainable_variables
    for each in (networks.student, networks.fake_score):
        assert base.isdisjoint(id(w) for w in each.weights)
        assert (
            each.count_params() == sd3.cost(SIZE, width=16, layers=2, rank=RANK).adapter
        )
    shared = {id(w) for w in networks.student.weights}
    assert shared.isdisjoint(id(w) for w in networks.fake_score.weights)


def test_the_count_of_parameters_is_right(parts):
    counted = sd3.cost(SIZE, width=16, layers=2, heads=2, positions=2, pooled=32)
    assert counted.parameters == parts[0].diffuser.count_params()
    # Keras Hub says so many of all of Medium. Of these CLIP's text encoders have
    # 123,650,304 and 694,659,840 with their projections, the autoencoder 83,819,683.
    others = 123_650_304 + 694_659_840 + 83_819_683
    assert sd3.cost().parameters == 2_987_080_931 - others


def test_pixels_are_decoded_and_differentiable(parts, networks):
    backbone = parts[0]
    x = tf.constant(noisy()[0])
    images = sd3.decoder(backbone)(x)
    np.testing.assert_array_equal(images, backbone.decode_step(x))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.add_n([tf.reduce_sum(tf.sin(m)) for m in networks.encoder(x)])
    assert np.all(tape.gradient(loss, x) != 0)
    assert not networks.encoder.trainable_variables


def made(networks, **settings):
    maps = [keras.Input(x.shape[1:]) for x in networks.encoder.outputs]
    logits = [keras.layers.Dense(1)(keras.layers.Flatten()(x)) for x in maps]
    model = FlashDMD(
        networks.student, networks.fake_score, keras.Model(maps, logits),
        networks.teacher, networks.encoder, parametrisation="flow:3",
        num_classes=len(TEXTS), pixels=False, anchors=4, ema_decay=0.5,
    )  # fmt: skip
    model.compile(
        student_optimizer=keras.optimizers.Adam(1e-2),
        fake_score_optimizer=keras.optimizers.Adam(1e-2),
        discriminator_optimizer=keras.optimizers.Adam(1e-2),
        guidance=4.0, run_eagerly=True, **flash_dmd(**settings),
    )  # fmt: skip
    return model


def test_a_step_trains_adapters_and_heads_alone_and_adapters_come_back(
    parts, networks, tmp_path
):
    model = made(networks)
    everything = {
        "backbone": parts[0].weights, "encoder": networks.encoder.weights,
        **{name: network.weights for name, network in model.networks.items()},
    }  # fmt: skip
    before = {k: [w.numpy() for w in v] for k, v in everything.items()}
    # Far from [-1, 1], as latents are.
    real = tf.constant(3 * noisy(4)[0]), tf.constant([0, 1, 2, 0])
    losses = model.train_on_batch(*real, return_dict=True)
    assert all(np.isfinite(v) for v in losses.values())
    changed = {
        name
        for name, weights in everything.items()
        if any(
            np.any(w.numpy() != x) for w, x in zip(weights, before[name], strict=True)
        )
    }
    assert changed == {"student", "fake_score", "discriminator"}
    # At the start B is 0, so A has no gradient in the first step: it is B that moves.
    for name in ("student", "fake_score"):
        moved = [
            bool(np.any(w.numpy() != x))
            for w, x in zip(everything[name], before[name], strict=True)
        ]
        assert all(moved[1::2])
    model.train_on_batch(*real)
    assert all(
        np.any(w.numpy() != x)
        for w, x in zip(everything["student"], before["student"], strict=True)
    )

    lora.save(tmp_path / "student.npz", model.student)
    expected = model.student(noisy()).numpy()
    backbone, _, embedded = parts
    others = sd3.networks(backbone, embedded, looking(), rank=RANK, seed=9)
    lora.load(tmp_path / "student.npz", others.student)
    np.testing.assert_array_equal(others.student(noisy()), expected)
    assert np.any(others.student(noisy()) != networks.teacher(noisy()))

    # Four steps, no guidance; labels are texts.
    sampled = model.generate(2, seed=0, labels=[2, 0])
    assert sampled.shape == (2, *LATENTS)
    assert model.sampling.steps == 4
    assert np.abs(sampled).max() > 1  # latents are not brought to [-1, 1]
    other = model.generate(2, seed=0, labels=[1, 0])
    assert np.any(other[0] != sampled[0])
    np.testing.assert_array_equal(other[1], sampled[1])

    # A checkpoint holds adapters, and finds the base and the texts.
    model.save(tmp_path / "model.keras")
    frozen = {"teacher": networks.teacher, "encoder": networks.encoder}
    loaded = keras.models.load_model(tmp_path / "model.keras", frozen)
    assert loaded.student.layers[-2].base() is backbone.diffuser
    np.testing.assert_array_equal(loaded.generate(2, seed=0, labels=[2, 0]), sampled)
    sizes = []
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as archive,
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
    ):
        file.visititems(lambda _, each: sizes.append(getattr(each, "size", 0)))
    # Three adapters and heads, the moments of two of the former and of the latter.
    adapter, heads = (x.count_params() for x in (networks.student, model.discriminator))
    # Two SHA-256 of what is frozen, a seed, the steps, two numbers of each optimizer.
    counters = 2 * 32 + 2 + 1 + 3 * 2
    assert sum(sizes) == 7 * adapter + 3 * heads + counters


def test_what_does_not_go_together_is_refused(parts):
    backbone, _, embedded = parts
    images = keras.Input((SIZE, 2 * SIZE, 3))
    wide = keras.Model(images, [keras.layers.Conv2D(2, 8, 8)(images)])
    with pytest.raises(InputError, match=r"images of \(32, 64, 3\), .*\(32, 32, 3\)"):
        sd3.networks(backbone, embedded, wide)
    narrow = type(embedded)(embedded.context, embedded.pooled[:, :5], embedded.shape)
    with pytest.raises(InputError, match=r"the widths \(4096, 32\), .*\(4096, 5\)"):
        sd3.networks(backbone, narrow, looking())
    with pytest.raises(InputError, match="begins with cross_"):
        sd3.networks(backbone, embedded, looking(), targets=["cross_"])


def pictures(folder):
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def zeros(backbone, images):
    return tf.zeros((tf.shape(images)[0], *LATENTS), tf.float16)


def test_latents_are_encoded_once_and_kept_by_contents(parts, tmp_path, monkeypatch):
    backbone = parts[0]
    (tmp_path / "images").mkdir()
    files, folder = pictures(tmp_path / "images"), tmp_path / "cache"
    kept = sd3.latents(backbone, files, folder, batch_size=2)
    found = kept.values
    assert (found.shape, found.dtype) == ((3, *LATENTS), np.float16)
    x = np.stack([np.asarray(PIL.Image.open(f)) for f in files]) / 127.5 - 1
    moments = np.asarray(backbone.vae.encoder(x.astype("float32")))
    expected = (moments[..., :16] - backbone.vae.shift) * backbone.vae.scale
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-3)

    (path,) = folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(sd3, "_mean_latents", None)
        again = sd3.latents(backbone, files, folder)
        np.testing.assert_array_equal(again.values, found)
    assert again.fingerprint == kept.fingerprint
    assert path.name == f"latents-{kept.fingerprint[:16]}.npy"
    whole = path.read_bytes()
    archive = io.BytesIO()
    np.savez(archive, found)
    for damaged in (whole[:-10], b"", archive.getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{path.name} is damaged"):
            sd3.latents(backbone, files, folder)
    path.write_bytes(whole)
    # Each of these is made of something else.
    with monkeypatch.context() as patch:
        patch.setattr(sd3, "_mean_latents", zeros)
        names = {kept.fingerprint, sd3.latents(backbone, files[:1], folder).fingerprint}
        for part in (backbone.vae.encoder, backbone.image_rescaling):
            with computing_in(part, "mixed_bfloat16"):
                names.add(sd3.latents(backbone, files, folder).fingerprint)
    assert len(names) == 4
    with pytest.raises(InputError, match="Received: 0 images"):
        sd3.latents(backbone, [], folder)


def test_a_disk_that_is_full_is_told_and_leaves_nothing(parts, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    files, folder = pictures(tmp_path / "images"), tmp_path / "cache"
    monkeypatch.setattr(sd3, "_mean_latents", zeros)
    limits, picture = resource.getrlimit(resource.RLIMIT_FSIZE), sd3.pictures.picture
    read = []

    def full(*arguments):
        read.append(arguments)
        if len(read) == 2:
            # Two of three images' latents fit. A file that was made as large as it is
            # to be, with nothing in it, would not be stopped.
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 512, limits[1]))
        return picture(*arguments)

    monkeypatch.setattr(sd3.pictures, "picture", full)
    try:
        with pytest.raises(
            InputError, match=r"Cannot write .*latents-.*File too large"
        ):
            sd3.latents(parts[0], files, folder, batch_size=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*folder.iterdir()]


def test_latents_that_are_no_finite_numbers_are_refused(parts, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    files, folder = pictures(tmp_path / "images"), tmp_path / "cache"
    monkeypatch.setattr(sd3, "_mean_latents", lambda *given: zeros(*given) + np.inf)
    with pytest.raises(InputError, match=r"no finite numbers in float16: .*/0\.png\. "):
        sd3.latents(parts[0], files, folder, batch_size=1)
    assert not [*folder.iterdir()]


@pytest.mark.slow
def test_a_preset_in_a_folder_is_loaded(parts, tmp_path):
    from keras_hub.models import StableDiffusion3TextToImage

    backbone, preprocessor, embedded = parts
    StableDiffusion3TextToImage(backbone, preprocessor).save_to_preset(tmp_path)
    loaded, tokens = sd3.load(tmp_path, (SIZE, SIZE, 3))
    again = sd3.embed(loaded, tokens, TEXTS)
    # Keras Hub loads text encoders in float16.
    np.testing.assert_allclose(again.pooled, embedded.pooled, rtol=0, atol=0.05)
    for one, other in zip(
        loaded.diffuser.weights, backbone.diffuser.weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_base_in_half_precision_has_adapters_in_float32(parts, tmp_path):
    from keras_hub.models import StableDiffusion3TextToImage

    StableDiffusion3TextToImage(*parts[:2]).save_to_preset(tmp_path)
    backbone, _ = sd3.load(tmp_path, (SIZE, SIZE, 3), dtype="bfloat16")
    assert {w.dtype for w in backbone.diffuser.weights} == {"bfloat16"}
    made = sd3.networks(backbone, parts[2], looking(), rank=RANK)
    expected = made.teacher(noisy())
    np.testing.assert_array_equal(made.student(noisy()), expected)
    assert {w.dtype for w in made.student.weights} == {"float32"}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(made.student(noisy())))
    found = tape.gradient(loss, made.student.trainable_variables)
    assert all(np.any(g) for g in found[1::2])  # of B; that of A is 0 at B = 0


@pytest.mark.slow
def test_networks_compile_with_sams_encoder(parts):
    from keras_hub.models import ViTDetBackbone

    vit = ViTDetBackbone(
        image_shape=(SIZE, SIZE, 3), patch_size=8, hidden_size=8, num_layers=4,
        global_attention_layer_indices=[3], intermediate_dim=16, num_heads=2,
        window_size=3,
    )  # fmt: skip
    made = sd3.networks(*parts[::2], sam.encoder(vit, (SIZE, SIZE, 3)), rank=RANK)
    assert len(made.encoder.outputs) == 4

    @tf.function(jit_compile=True)
    def gradient(*given):
        with tf.GradientTape() as tape:
            clean = made.student([*given])
            loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in made.encoder(clean)])
        return tape.gradient(loss, made.student.trainable_variables)

    found = gradient(*map(tf.constant, noisy()))
    assert all(np.isfinite(g).all() for g in found)
    assert all(np.any(g) for g in found[1::2])


def test_without_weights_one_line_says_what_to_accept():
    with pytest.raises(InputError, match=r"no such folder.* licence: accept it at"):
        sd3.load("no/such/folder", (512, 512, 3))

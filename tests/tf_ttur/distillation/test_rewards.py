"""Rewards: values by hand, what is learnt of pairs, and how a model is kept."""

import logging
import math

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from fid.files import InputError
from tf_ttur.distillation import EDM, Flow, rewards
from tf_ttur.distillation.diffusion import Denoiser
from tf_ttur.distillation.pairs import Choices, Pairs, ScoreOracle, pairs_of
from tf_ttur.distillation.rewards import (
    ImageReward,
    NetworkReward,
    accuracies,
    bradley_terry,
    latent_reward,
    train,
    trained,
)
from tf_ttur.networks import unet

SHAPE = (8, 8, 1)


def teacher(num_classes=None, seed=0, **options):
    """A small U-Net whose weights are such that every part has a say."""
    settings = {"width": 4, "multipliers": (1, 2), "blocks": 1, "attention": ()}
    settings |= {"dropout": 0.0, "num_classes": num_classes}
    network = unet.denoiser(8, 1, **settings | options)
    random = np.random.default_rng(seed)
    network.set_weights(
        [0.3 * random.normal(size=w.shape) for w in network.get_weights()]
    )
    return network


def images(count, seed=0):
    random = np.random.default_rng(seed)
    grey = random.uniform(-0.7, 0.7, (count, 1, 1, 1))
    return (grey + random.uniform(-0.3, 0.3, (count, *SHAPE))).astype("float32")


def brightness(images, labels):
    return images.mean((1, 2, 3))


def given(count, num_classes=None, seed=0):
    """What a network is called with."""
    random = np.random.default_rng(seed)
    found = [images(count), random.normal(size=count).astype("float32")]
    labels = np.arange(count, dtype=np.int32) % (num_classes or 1)
    return found if num_classes is None else [*found, labels]


def test_the_loss_is_minus_the_log_of_the_sigmoid():
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 2
    few = rounding.gamma(2 * rounding.FUNCTION + 4, "float32")
    assert float(bradley_terry([2.0, 0.0], [1.0, 3.0])) == pytest.approx(
        expected, rel=few
    )
    # Where a difference is large, the loss is the difference or nothing.
    assert float(bradley_terry([0.0], [200.0])) == 200.0
    assert float(bradley_terry([200.0], [0.0])) == 0.0


def test_its_gradient_pulls_apart_what_is_not_apart():
    scores = tf.constant([2.0, 0.0]), tf.constant([1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        loss = bradley_terry(*scores)
    winner, loser = tape.gradient(loss, scores)
    expected = -0.5 / (1 + np.exp([1.0, -3.0]))
    few = rounding.gamma(2 * rounding.FUNCTION + 4, "float32")
    np.testing.assert_allclose(winner, expected, rtol=few)
    np.testing.assert_array_equal(loser, -winner)


@pytest.mark.parametrize("style", ["ddpmpp", "adm"])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_score_is_a_scaled_cosine_of_pooled_maps_and_the_class(num_classes, style):
    made = teacher(num_classes, style=style)
    network = latent_reward(made, num_classes, width=5, seed=1)
    assert [x.name for x in network.inputs] == [x.name for x in made.inputs]
    x = given(6, num_classes)
    names = ("enc_8_block_1", "enc_4_block_1", "dec_4_in_2")
    maps = keras.Model(made.inputs, [made.get_layer(name).output for name in names])(x)
    means = np.concatenate([m.numpy().astype("f8").mean((1, 2)) for m in maps], 1)
    f = means @ network.get_layer("reward_image").get_weights()[0].astype("f8")
    (table,) = network.get_layer("reward_class").get_weights()
    assert table.shape == (num_classes or 1, 5)
    g = table[np.zeros(6, int) if num_classes is None else x[2]].astype("f8")
    cosine = (f * g).sum(1) / np.linalg.norm(f, axis=1) / np.linalg.norm(g, axis=1)
    found = network(x).numpy()
    assert (found.shape, found.dtype) == ((6, 1), np.float32)
    # The maps are those of the same layers. An error of a mean, a sum of up to 64
    # pixels, is one of f; what f's terms lose where they cancel is of their own size.
    terms = np.abs(means) @ np.abs(network.get_layer("reward_image").get_weights()[0])
    lost = np.linalg.norm(terms, axis=1) / np.linalg.norm(f, axis=1)
    few = math.exp(2.6592) * rounding.gamma(64 + 20 + 20, "float32") * (1 + lost.max())
    np.testing.assert_allclose(found[:, 0], math.exp(2.6592) * cosine, rtol=0, atol=few)


def test_it_begins_as_the_teacher_and_leaves_it_alone():
    made = teacher(3)
    made.trainable = False
    before = made.get_weights()
    network = latent_reward(made, 3)
    copied = [x for x in network.layers if not x.name.startswith("reward_")]
    assert {x.name for x in copied} < {x.name for x in made.layers}
    for layer in copied:
        for a, b in zip(
            layer.get_weights(), made.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert len(network.trainable_weights) == len(network.weights)
    train(network, pairs(20, 3), Flow(), steps=1, learning_rate=0.1, seed=0)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_gradient_reaches_all_its_weights(num_classes):
    network = latent_reward(teacher(num_classes), num_classes)
    x = given(6, num_classes)
    with tf.GradientTape() as tape:
        scores = network(x)
        loss = bradley_terry(scores[:3, 0], scores[3:, 0])
    gradients = tape.gradient(loss, network.trainable_weights)
    for weight, gradient in zip(network.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        # A bias of the keys adds the same to all logits of a pixel's attention.
        if not weight.path.endswith("_keys/bias"):
            assert np.abs(gradient).max() > 0, weight.path
    assert any("logit_scale" in x.path for x in network.trainable_weights)


def test_a_saved_network_scores_the_same(tmp_path):
    for num_classes in (None, 3):
        network = latent_reward(teacher(num_classes), num_classes)
        network.save(tmp_path / "reward.keras")
        loaded = keras.models.load_model(tmp_path / "reward.keras")
        x = given(6, num_classes)
        np.testing.assert_array_equal(network(x), loaded(x))


def test_equal_seeds_make_equal_networks():
    one, two, three = (latent_reward(teacher(), None, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [x.get_layer("reward_image").get_weights()[0] for x in (one, three)]
    assert (kernels[0] != kernels[1]).any()


def test_a_teacher_that_is_no_such_unet_is_refused():
    noisy, condition = keras.Input(SHAPE, name="images"), keras.Input((), name="noise")
    output = keras.layers.Conv2D(1, 3, padding="same")(noisy)
    output += 0 * keras.layers.Reshape((1, 1, 1))(condition)
    other = keras.Model([noisy, condition], output, name="other")
    with pytest.raises(InputError, match="'other' is no U-Net of tf_ttur.networks"):
        latent_reward(other, None)
    with pytest.raises(InputError, match="No reward model can be made of the teacher"):
        latent_reward(teacher(3), None)
    with pytest.raises(InputError, match="No reward model can be made of the teacher"):
        latent_reward(teacher(None, augmentation=9), None)
    with pytest.raises(InputError, match="width is 0"):
        latent_reward(teacher(), None, width=0)


def test_a_network_reward_gives_the_network_what_it_takes():
    network = latent_reward(teacher(3), 3)
    form, x = EDM(), images(4)
    times, labels = tf.constant([0.5, 1.0, 2.0, 4.0]), tf.constant([0, 1, 2, 0])
    found = NetworkReward(network, form, 3)(x, times, labels)
    expected = network([*form.inputs(x, times), labels])[:, 0]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="This reward is of 3 classes"):
        NetworkReward(network, form, 3)(x, times)
    alone = NetworkReward(latent_reward(teacher(), None), form)
    np.testing.assert_array_equal(alone(x, times), alone(x, times, labels))


def test_an_image_reward_scores_the_estimate_of_the_clean_image():
    def score(images, labels):
        return tf.reduce_mean(images, (1, 2, 3)) * tf.cast(labels, tf.float32)

    made = Denoiser(teacher(3), Flow(), 3)
    x, times, labels = tf.constant(images(3)), tf.constant([0.2, 0.5, 0.9]), [0, 1, 2]
    labels = tf.constant(labels)
    reward = ImageReward(score, made)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = reward(x, times, labels)
    clean = made.clean(x, times, labels).numpy()
    few = rounding.gamma(66, "float32") * np.abs(clean).max() * 2
    expected = clean.astype("f8").mean((1, 2, 3)) * [0, 1, 2]
    np.testing.assert_allclose(found, expected, rtol=0, atol=few)
    gradient = tape.gradient(found, x).numpy()
    assert [bool(np.any(each)) for each in gradient] == [False, True, True]


# ---- training


def pairs(count, num_classes=None, seed=0):
    labels = None
    if num_classes is not None:
        labels = np.arange(2 * count, dtype=np.int32) // 2 % num_classes
    return pairs_of(images(2 * count, seed), labels, brightness, seed)


@pytest.fixture(scope="module")
def learnt():
    """A reward of brightness, and its accuracies."""
    network = latent_reward(teacher(dropout=0.1), None)
    found = train(network, pairs(600), Flow(), steps=150, learning_rate=3e-3, seed=0)
    return network, found


def test_it_learns_what_the_oracle_likes_and_nothing_of_noise_alone(learnt):
    _, found = learnt
    assert [*found] == ["999", "749", "499", "249", "0"]
    assert found["0"] > 0.9
    assert found["499"] > 0.75
    # At 999 flow matching's images are noise alone: 120 pairs with four draws each are
    # coins.
    assert abs(found["999"] - 0.5) < rounding.DEVIATIONS * 0.5 / math.sqrt(480)


def test_it_ranks_images_that_it_has_not_seen(learnt):
    network, _ = learnt
    others = pairs(200, seed=1)
    found = accuracies(NetworkReward(network, Flow()), others, Flow(), seed=0)
    assert found["0"] > 0.9


def test_equal_seeds_learn_the_same(learnt):
    network, found = learnt
    again = latent_reward(teacher(dropout=0.1), None)
    assert found == train(
        again, pairs(600), Flow(), steps=150, learning_rate=3e-3, seed=0
    )
    for a, b in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = latent_reward(teacher(dropout=0.1), None)
    train(other, pairs(600), Flow(), steps=1, learning_rate=3e-3, seed=1)
    assert any(
        (a != b).any()
        for a, b in zip(other.get_weights(), again.get_weights(), strict=True)
    )


def test_accuracies_are_shares_of_pairs_by_hand():
    """Of a reward that sees the clean images' order: right, wrong, equal."""

    def told(noisy, times, labels):
        # At 0 noise of 0.002 cannot change the sign of a mean that is +-0.5.
        sign = tf.sign(tf.reduce_mean(noisy, (1, 2, 3)))
        return tf.where(labels == 1, tf.zeros_like(sign), sign)

    black, white = -0.5 * np.ones((4, *SHAPE), "f"), 0.5 * np.ones((4, *SHAPE), "f")
    better = np.array([True, False, False, False])
    labels = np.array([0, 0, 0, 1], np.int32)
    found = accuracies(told, Pairs(black, white, labels, better), EDM(), seed=0)
    assert found["0"] == (0 + 1 + 1 + 0.5) / 4


def test_images_that_are_held_out_are_never_learnt_from(monkeypatch):
    """With other images there, what is learnt is the same."""
    seen = []
    monkeypatch.setattr(
        rewards, "accuracies", lambda reward, held, form, seed: seen.append(held) or {}
    )
    given, held = pairs(20), []
    for change in (1.0, -1.0):
        network = latent_reward(teacher(), None)
        chosen = rewards.held_out(given, 0)
        a = np.where(chosen[:, None, None, None], change * given.a, given.a)
        changed = Pairs(a, given.b, None, given.better)
        train(network, changed, Flow(), steps=2, learning_rate=0.1, seed=0)
        held.append(network.get_weights())
    for a, b in zip(*held, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [len(each) for each in seen] == [4, 4]


@pytest.mark.slow
def test_xla_learns_as_well():
    network = latent_reward(teacher(3, multipliers=(1,)), 3)
    found = train(
        network, pairs(60, 3), EDM(), steps=2, learning_rate=1e-3, seed=0,
        jit_compile=True, batch_size=8,
    )  # fmt: skip
    assert all(0 <= share <= 1 for share in found.values())


def test_training_that_cannot_be_is_refused():
    network = latent_reward(teacher(3), 3)
    with pytest.raises(InputError, match="takes labels, and the pairs have none"):
        train(network, pairs(20), Flow(), steps=1, learning_rate=0.1, seed=0)
    with pytest.raises(InputError, match="Of 4 pairs none can be held out"):
        train(network, pairs(4, 2), Flow(), steps=1, learning_rate=0.1, seed=0)
    with pytest.raises(InputError, match="learning_rate is 0"):
        train(network, pairs(20, 3), Flow(), steps=1, learning_rate=0, seed=0)
    broken = [np.full_like(x, np.nan) for x in network.get_weights()]
    network.set_weights(broken)
    with pytest.raises(InputError, match="loss became nan at step 2. Lower the learn"):
        train(network, pairs(20, 3), Flow(), steps=2, learning_rate=0.1, seed=0)


# ---- a reward model that is kept


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Asks for the reward model of a small teacher; counts how often one is trained."""
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    calls, learn, networks = [], rewards.train, {}

    def counted(*args, **options):
        calls.append(1)
        return learn(*args, **options)

    monkeypatch.setattr(rewards, "train", counted)

    def ask(num_classes=3, form=None, **changes):
        network = networks.setdefault(num_classes, teacher(num_classes))
        settings = {
            "teacher": network,
            "parametrisation": form or EDM(),
            "num_classes": num_classes,
            "oracle": ScoreOracle(brightness, "brightness", "brightness 1"),
            "shape": SHAPE,
            "pairs": 12,
            "steps": 2,
            "seed": 0,
            "fingerprint": "a" * 64,
        }
        return trained(**settings | changes), len(calls)

    return ask


def test_a_reward_model_is_trained_once_and_says_how_well_it_ranks(asked, caplog):
    with caplog.at_level(logging.INFO, "tf_ttur"):
        (first, count), (again, count_again) = asked(), asked()
    assert (count, count_again) == (1, 1)
    assert first.path == again.path
    assert first.path.is_file()
    assert first.accuracy == again.accuracy
    assert [*first.accuracy] == ["999", "749", "499", "249", "0"]
    x = given(4, 3)
    np.testing.assert_array_equal(first.network(x), again.network(x))
    lines = [
        x for x in caplog.messages if x.startswith("The reward model of the oracle")
    ]
    assert len(lines) == 2
    assert f"{first.accuracy['749']:.3f} at 749" in lines[0]


@pytest.fixture
def quick(monkeypatch):
    """Images that no sampler has to make."""

    def made(network, form, num_classes, count, seed):
        labels = None
        if num_classes is not None:
            labels = np.arange(count, dtype=np.int32) // 2 % num_classes
        return images(count, seed), labels

    monkeypatch.setattr(rewards, "_images", made)


def test_whatever_it_depends_on_makes_another_one(asked, quick):
    paths = {asked()[0].path}
    changes = [
        {"fingerprint": "b" * 64},
        {"oracle": ScoreOracle(brightness, "brightness", "brightness 2")},
        {"pairs": 13},
        {"steps": 1},
        {"seed": 1},
        {"form": EDM(sigma_data=0.25)},
    ]
    for index, change in enumerate(changes, 2):
        found, count = asked(**change)
        assert count == index, change
        paths.add(found.path)
    assert len(paths) == 7


@pytest.mark.parametrize("form", [EDM(), Flow()])
def test_half_of_the_images_are_the_full_samplers_and_half_a_students(form):
    made = teacher(3)
    found, labels = rewards._images(made, form, 3, 12, seed=5)
    assert found.shape == (12, *SHAPE)
    assert np.bincount(labels).tolist() == [4, 4, 4]
    model = rewards.Diffusion(made, form, num_classes=3)
    # By the seeds 10 and 11, the students' first.
    settings = {"sampler": "renoise", "steps": 4}, {"steps": 18}
    if isinstance(form, Flow):
        settings = settings[0], {"sampler": "euler", "steps": 32}
    for half, each in enumerate(settings):
        model.sampling = rewards.Sampling(**each)
        expected = model.generate(6, 10 + half, labels=labels[half::2])
        np.testing.assert_array_equal(found[half::2], expected)


def test_without_classes_there_are_no_labels(asked):
    found, _ = asked(num_classes=None, form=Flow())
    assert len(found.network.inputs) == 2


def of_people(labels):
    made = pairs(12, None)
    if labels is not None:
        labels = np.resize(np.array(labels, np.int32), 12)
    chosen = Pairs(made.a, made.b, labels, made.better)
    return Choices(chosen, "choices:x.csv", f"choices {labels}")


def test_choices_of_people_need_no_images_of_the_teacher(asked, monkeypatch):
    def never(*_):
        raise AssertionError("There are images.")

    monkeypatch.setattr(rewards, "_images", never)
    assert asked(oracle=of_people([0, 1, 2]))[1] == 1
    # A teacher without classes does not look at labels.
    assert asked(oracle=of_people([0, 1, 2]), num_classes=None)[1] == 2
    with pytest.raises(InputError, match=r"choices:x.csv have no labels, .* a column"):
        asked(oracle=of_people(None))
    with pytest.raises(
        InputError, match=r"choices:x.csv cannot be used. .*span 0 to 3"
    ):
        asked(oracle=of_people([0, 3]))


def raising(images, labels):
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, "raised RuntimeError: no"),
        (lambda x, y: np.full(len(x), np.nan), "NaN or infinite"),
        (lambda x, y: np.ones(len(x)), "pairs alike"),
    ],
)
def test_an_oracle_that_fails_leaves_nothing_behind(
    asked, quick, tmp_path, function, message
):
    with pytest.raises(InputError, match=message):
        asked(oracle=ScoreOracle(function, "bad", "bad"))
    assert not [*tmp_path.glob("*.keras"), *tmp_path.glob("*.json")]


def test_a_request_that_cannot_be_is_refused(asked):
    with pytest.raises(InputError, match="There is no oracle 'digit'"):
        asked(oracle="digit")
    with pytest.raises(
        InputError, match=r"makes images of \(8, 8, 1\), and the reward"
    ):
        asked(shape=(16, 16, 1))
    with pytest.raises(InputError, match="pairs is 0"):
        asked(pairs=0)

"""Keras's callbacks for one optimizer, each working on one of two."""

import keras
import numpy as np
import pytest
from toy_gan import images, small_gan

import tf_ttur
from tf_ttur.callbacks import ForOptimizer


def fit(gan, *callbacks, epochs=3):
    return gan.fit(
        images(), batch_size=32, epochs=epochs, verbose=0, callbacks=[*callbacks]
    ).history


def test_each_rate_has_a_schedule_of_its_own():
    def halve(epoch, rate):
        return rate / 2

    def fall(epoch):
        return 0.1**epoch

    history = fit(
        small_gan(),
        ForOptimizer("generator", keras.callbacks.LearningRateScheduler(halve)),
        ForOptimizer("discriminator", keras.callbacks.LearningRateScheduler(fall)),
    )
    np.testing.assert_allclose(history["g_lr"], [5e-4, 2.5e-4, 1.25e-4], rtol=1e-6)
    np.testing.assert_allclose(history["d_lr"], [1, 0.1, 0.01], rtol=1e-6)
    # No player's rate is logged as if it were that of both.
    assert "learning_rate" not in history


def test_a_rate_falls_where_a_loss_does_not():
    plateau = keras.callbacks.ReduceLROnPlateau(
        "d_lr", mode="min", factor=0.5, patience=1, min_delta=0
    )
    history = fit(small_gan(), tf_ttur.ForOptimizer("generator", plateau), epochs=4)
    # d_lr never falls, so the rate is halved after every epoch but the first.
    np.testing.assert_allclose(history["g_lr"], [1e-3, 1e-3, 5e-4, 2.5e-4], rtol=1e-6)
    np.testing.assert_allclose(history["d_lr"], 1e-3, rtol=1e-6)


def test_averages_of_one_network_are_swapped_in():
    gan = small_gan(
        discriminator_optimizer="sgd",
        generator_optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.75),
    )
    trained, shown = [], []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trained.append(gan.generator.get_weights()[0])

        def on_epoch_end(self, epoch, logs=None):
            shown.append(gan.generator.get_weights()[0])

    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fit(gan, ForOptimizer("generator", swap), Noting(), epochs=2)
    # Two steps an epoch. Keras's average starts at the weights of the first.
    average, averages = trained[0], []
    for weights in trained[1:]:
        average = 0.75 * average + 0.25 * weights
        averages.append(average)
    np.testing.assert_allclose(shown, [averages[0], averages[2]], rtol=1e-5)
    np.testing.assert_allclose(gan.generator.get_weights()[0], average, rtol=1e-5)


def test_a_callback_can_stop_training():
    early = keras.callbacks.EarlyStopping("d_lr", mode="min", patience=1)
    history = fit(small_gan(), ForOptimizer("discriminator", early), epochs=9)
    assert len(history["d_lr"]) == 2


def test_an_optimizer_that_is_not_there_is_refused():
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    with pytest.raises(ValueError, match="'critic'; the optimizers are 'discriminator"):
        fit(small_gan(), ForOptimizer("critic", scheduler))


def test_arguments_that_are_something_else_are_refused():
    plateau = keras.callbacks.ReduceLROnPlateau("fid")
    with pytest.raises(ValueError, match="give the name of an optimizer first"):
        ForOptimizer(plateau, "generator")
    with pytest.raises(ValueError, match="'generator', ...\\) runs None; give a callb"):
        ForOptimizer("generator", None)


def test_a_rate_that_follows_a_schedule_is_not_set():
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.5)
    gan = small_gan(**tf_ttur.ttur(discriminator=1e-3, generator=rate))
    found = "sets the learning rate of 'generator', which follows .* ExponentialDecay"
    for callback in (
        keras.callbacks.ReduceLROnPlateau("g_loss"),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    ):
        with pytest.raises(ValueError, match=found):
            fit(gan, ForOptimizer("generator", callback))
    assert gan.steps == 0

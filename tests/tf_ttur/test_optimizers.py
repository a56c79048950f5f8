"""`ttur` against TensorFlow 1's Adam."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

import tf_ttur
from tf_ttur import optimizers

pytestmark = pytest.mark.portable


def test_adam_equals_tensorflow_1s():
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"))
    adam = tf_ttur.ttur(discriminator=0.1, generator=0.1)["generator_optimizer"]
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype("float32") * 1e-7
    for gradient in gradients:
        adam.apply([tf.constant(gradient)], [variable])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        theirs = tf.compat.v1.get_variable(
            "v", initializer=np.array([1.0, -2.0, 3.0], "float32"), use_resource=True
        )
        fed = tf.compat.v1.placeholder(tf.float32, [3])
        step = tf.compat.v1.train.AdamOptimizer(0.1, 0.5, 0.999).apply_gradients(
            [(fed, theirs)]
        )
        session.run(tf.compat.v1.global_variables_initializer())
        for gradient in gradients:
            session.run(step, {fed: gradient})
        expected = session.run(theirs)
    # Gradients of 1e-7, so that another epsilon would show.
    # Twenty steps of up to three times the rate, of some 16 operations each, are added
    # to numbers of up to 4.
    u = rounding.unit("float32")
    atol = 2 * 20 * (4 * u + 3 * 0.1 * rounding.gamma(16, "float32"))
    np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=atol)


def test_each_player_has_its_own_rate_and_both_share_the_rest():
    pair = tf_ttur.ttur(
        discriminator=3e-4, generator=1e-4, beta_1=0.1, beta_2=0.9, epsilon=1e-6
    )
    rates = {"discriminator_optimizer": 3e-4, "generator_optimizer": 1e-4}
    assert set(pair) == set(rates)
    for name, adam in pair.items():
        assert float(adam.learning_rate) == pytest.approx(rates[name])
        assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.1, 0.9, 1e-6)
    # The names are those of TensorBoard and of messages.
    assert [adam.name for adam in pair.values()] == [
        "discriminator_adam",
        "generator_adam",
    ]


def test_a_rate_may_follow_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    adam = tf_ttur.ttur(discriminator=1.0, generator=schedule)["generator_optimizer"]
    variable = keras.Variable(np.zeros(1, "float32"))
    rates = []
    for _ in range(3):
        rates.append(float(adam.learning_rate))
        adam.apply([tf.ones(1)], [variable])
    assert rates == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("rate", [0, -1e-3, float("inf"), float("nan")])
def test_a_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match=f"generator's learning rate .* got {rate}"):
        tf_ttur.ttur(discriminator=1e-3, generator=rate)


def test_what_keras_takes_for_an_optimizer_is_one():
    sgd = keras.optimizers.SGD(0.5)
    assert optimizers.get(sgd, "critic") is sgd
    for given in ("adam", keras.optimizers.Adam):
        made = [optimizers.get(given, "critic") for _ in range(2)]
        assert all(type(each) is keras.optimizers.Adam for each in made)
        assert made[0] is not made[1]
    made = optimizers.get(keras.optimizers.serialize(sgd), "critic")
    assert made is not sgd
    assert float(made.learning_rate) == 0.5
    for bad in (None, 0.1, "adamm", np.tanh):
        with pytest.raises(ValueError, match=r"'critic' is .*, of which Keras makes n"):
            optimizers.get(bad, "critic")

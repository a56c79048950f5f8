"""The losses of distillation against closed forms, and what they let through."""

import gaussian_networks as gaussian
import numpy as np
import pytest
import tensorflow as tf

from fid.files import InputError
from tf_ttur import distillation
from tf_ttur.distillation import losses
from tf_ttur.distillation.diffusion import Denoiser


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_no_gradient_where_both_scores_agree():
    x, estimate = random((5, 4, 4, 1)), random((5, 4, 4, 1), 1)
    assert not np.any(losses.matching_gradient(x, estimate, estimate))


def test_the_gradient_is_scaled_by_each_examples_distance_from_the_teacher():
    x, fake, real = (random((3, 2, 2, 2), seed) for seed in range(3))
    expected = (fake - real) / np.abs(x - real).mean((1, 2, 3), keepdims=True)
    # A division, and a mean of 8 absolute differences.
    np.testing.assert_allclose(
        losses.matching_gradient(x, fake, real), expected, rtol=16 * 2.0**-24, atol=0
    )


def test_where_the_teacher_gives_the_image_back_there_is_no_gradient_and_no_nan():
    x = random((2, 2, 2, 1))
    real = x.copy()
    real[1] += 1.0
    found = losses.matching_gradient(x, x, real).numpy()
    assert not found[0].any()
    assert np.isfinite(found).all()
    assert found[1].any()


def test_the_loss_has_that_gradient_over_the_number_of_values():
    x, fake, real = (tf.Variable(random((3, 2, 2, 2), seed)) for seed in range(3))
    with tf.GradientTape() as tape:
        loss = losses.distribution_matching(x, fake, real)
    found = tape.gradient(loss, [x, fake, real])
    expected = losses.matching_gradient(x, fake, real)
    # x - (x - g) is g up to a rounding of x, whose values are below 4.
    np.testing.assert_allclose(found[0], expected / 24, rtol=0, atol=4 * 2.0**-23 / 24)
    assert found[1:] == [None, None]
    np.testing.assert_allclose(loss, np.mean(np.square(expected)) / 2, rtol=1e-5)


@pytest.mark.parametrize("t", [0.9, 0.5, 0.1])
def test_on_gaussians_it_is_the_difference_of_the_analytic_scores(t):
    """Up to the factor s^2 / a, and with the scores of N(a m, a^2 C + s^2 I)."""
    means = gaussian.MEAN, np.array([-0.1, 0.4])
    covariances = gaussian.COVARIANCE, np.array([[0.5, -0.1], [-0.1, 0.1]])
    flow = distillation.Flow()
    x = random((6, 1, 1, 2))
    noise, times = random(x.shape, 1), tf.fill((6,), np.float32(t))
    noisy = flow.corrupt(x, noise, times)
    estimates, scores = [], []
    for mean, covariance in zip(means, covariances, strict=True):
        network = gaussian.exact(mean, covariance)
        estimates.append(Denoiser(network, flow).clean(noisy, times))
        a, s = 1 - t, t
        away = noisy.numpy().reshape(6, 2).astype("float64") - a * mean
        spread = a * a * covariance + s * s * np.eye(2)
        scores.append(-away @ np.linalg.inv(spread))
    fake, real = estimates
    found = losses.matching_gradient(x, fake, real).numpy().reshape(6, 2)
    away = np.abs(x - real.numpy()).mean((1, 2, 3))[:, np.newaxis]
    expected = (scores[0] - scores[1]) * t * t / (1 - t) / away
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_heads_are_averaged():
    real = [random((4, 1), seed) for seed in range(3)]
    fake = [random((4, 1), seed) for seed in range(3, 6)]
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    expected = np.mean(
        [
            relu(1 - r).mean() + relu(1 + f).mean()
            for r, f in zip(real, fake, strict=True)
        ]
    )
    found = losses.discriminator_loss(real, fake)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    expected = -0.25 * np.mean([f.mean() for f in fake])
    found = losses.generator_loss(fake, weight=0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_soft_split_weighs_by_the_share_of_the_image():
    flow, vp = distillation.Flow(), distillation.VP()
    for form in (flow, vp, distillation.EDM()):
        t = form.times([999.0, 249.0])
        a, s = (np.asarray(x, "float64") for x in form.coefficients(t))
        found = losses.adversarial_weight("soft", form, t)
        np.testing.assert_allclose(found, a / np.hypot(a, s), rtol=1e-5, atol=1e-7)
        for split in ("none", "hard"):
            assert np.all(losses.adversarial_weight(split, form, t) == 1)
    with pytest.raises(InputError, match="no split 'hardly'; choose from none, hard"):
        losses.adversarial_weight("hardly", flow, 0.5)

"""Latents against the distributions that they are named after."""

import keras
import numpy as np
import pytest
import scipy.stats

import tf_ttur

KINDS = {
    tf_ttur.NormalLatent: scipy.stats.norm(),
    tf_ttur.UniformLatent: scipy.stats.uniform(-1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_are_independent_and_follow_the_distribution(kind):
    latents = np.asarray(kind(4)(5000, seed=0))
    assert latents.shape == (5000, 4)
    assert latents.dtype == np.float32
    test = scipy.stats.kstest(latents.ravel(), KINDS[kind].cdf)
    assert test.pvalue > 1e-3
    correlation = np.corrcoef(latents.T) - np.eye(4)
    # Of 5,000 independent pairs the correlation has a standard deviation of 0.014.
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_latents_and_a_generator_moves_on(kind):
    latent = kind(3)
    np.testing.assert_array_equal(latent(5, seed=1), latent(5, seed=1))
    assert not np.allclose(latent(5, seed=1), latent(5, seed=2))
    first, second = (keras.random.SeedGenerator(7) for _ in range(2))
    draws = [np.asarray(latent(5, seed=first)) for _ in range(2)]
    assert not np.allclose(*draws)
    for draw in draws:
        np.testing.assert_array_equal(latent(5, seed=second), draw)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_survives_serialisation(kind):
    config = keras.saving.serialize_keras_object(kind(6))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kind
    assert again.dimension == 6
    assert repr(again) == f"{kind.__name__}(6)"


@pytest.mark.parametrize(
    "dimension", [0, -1, 2.5, None, "6", float("nan"), float("inf")]
)
def test_a_dimension_that_is_no_positive_whole_number_is_refused(dimension):
    with pytest.raises(ValueError, match=f"whole number >= 1; got {dimension!r}"):
        tf_ttur.NormalLatent(dimension)

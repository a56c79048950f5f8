"""Heads on an encoder's maps: one logit a map, from maps of any size."""

import numpy as np
import pytest

from fid.files import InputError
from tf_ttur.networks.heads import heads


def test_a_map_is_halved_until_it_is_small_and_three_times_at_most():
    model = heads([(64, 64, 3), (8, 8, 5), (4, 6, 5), (2, 2, 7), (1, 1, 2)], width=8)
    # Kernels of 4x4 halve; each head ends in one of 3x3.
    sizes = [w.shape[:2] for w in model.trainable_weights if len(w.shape) == 4]
    assert sizes.count((3, 3)) == 5
    assert sizes.count((4, 4)) == 3 + 2 + 1
    maps = [np.ones((2, *x.shape[1:]), "float32") for x in model.inputs]
    assert [tuple(x.shape) for x in model(maps)] == [(2, 1)] * 5


def test_its_count_of_weights_is_that_of_the_layers():
    # 4x4x3 kernels to 8 channels, 3x3x8 to 8, each with a bias and two vectors of the
    # normalisation, and 8 weights and a bias.
    expected = (16 * 3 * 8 + 3 * 8) + (9 * 8 * 8 + 3 * 8) + 8 + 1
    assert heads([(4, 4, 3)], width=8).count_params() == expected


def test_the_seed_decides_the_weights():
    one, same, other = (heads([(4, 4, 3)], width=8, seed=s) for s in (0, 0, 1))
    kernels = [model.get_weights()[0] for model in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([], {}, "expected at least one"),
        ([(4, 4)], {}, r"shapes \[\(4, 4\)\]; expected"),
        ([(4, 4, 1)], {"width": 12}, "width is 12 and groups is 8"),
        ([(4, 4, 1)], {"groups": 0}, "groups is 0"),
    ],
)
def test_what_cannot_be_built_is_refused(shapes, options, message):
    with pytest.raises(InputError, match=message):
        heads(shapes, **options)

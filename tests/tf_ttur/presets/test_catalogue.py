"""All presets by name."""

import pytest

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.presets import paper


def test_a_preset_is_found_by_its_name():
    for name in presets.PRESETS:
        assert presets.get(name).name == name
    assert presets.PRESETS.items() >= paper.PRESETS.items()
    assert presets.DEFAULT in presets.PRESETS


def test_an_unknown_name_is_refused_with_all_that_are_known():
    with pytest.raises(InputError, match="no preset 'vgg'; choose from .*lm1b_wgan_gp"):
        presets.get("vgg")

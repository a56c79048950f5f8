"""Runs of diffusion models: resumed, measured and sampled as asked."""

import numpy as np
import pytest
from PIL import Image
from small_runs import cut_before_the_end

from fid.files import InputError
from tf_ttur import experiment, presets, tasks
from tf_ttur.runs import RunFolder
from tf_ttur.studies.kill_drill import differences


def preset(**changes):
    small = {
        "extractor": "pixels", "image_size": 8, "width": 4, "sampling_steps": 2,
        "network_options": {"multipliers": [1], "blocks": 1, "attention": []},
        "steps": 4, "every": 2, "batch_size": 4, "num_samples": 20, "sample_batch": 10,
    }  # fmt: skip
    return presets.get("digits_flow_teacher").override(**small | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "whole")
    experiment.run(preset(), folder)
    return folder


def test_a_resumed_run_equals_the_whole_one(whole, tmp_path):
    """Bit for bit, under XLA: what a kill at step 2 leaves, and what follows."""
    cut = cut_before_the_end(whole, tmp_path / "cut")
    experiment.run(preset(), cut)
    assert differences(whole.path, cut.path) == []


def test_another_setting_is_refused_on_resume(whole):
    with pytest.raises(InputError, match="parametrisation"):
        experiment.run(preset(parametrisation="edm", sampler="heun"), whole)


def sampled(folder, output, **asked):
    request = tasks.SampleRequest(
        checkpoint="last", output=str(output), grid="2x3", labels=["1", "4"],
        given=frozenset(["grid", *asked]), **asked,
    )  # fmt: skip
    tasks.of_run(folder).write_samples(folder, request)
    return np.asarray(Image.open(output))


def test_samplers_steps_and_guidance_are_those_asked_for(whole, tmp_path):
    usual = sampled(whole, tmp_path / "a.png")
    same = sampled(whole, tmp_path / "b.png", sampler="euler", steps=2, guidance=1.0)
    np.testing.assert_array_equal(usual, same)
    task = tasks.of_run(whole)
    asked = {"sampler": "heun", "steps": 5, "guidance": 3.0}
    model = task.open(whole, "last")
    task.configure(model, tasks.SampleRequest(**asked), whole)
    assert vars(model.sampling) == asked
    # An untrained network says nothing, and fresh noise is what shows.
    assert np.any(sampled(whole, tmp_path / "c.png", sampler="renoise") != usual)
    with pytest.raises(InputError, match="no sampler 'hop'"):
        sampled(whole, tmp_path / "d.png", sampler="hop")
    assert not (tmp_path / "d.png").exists()

"""What tasks on images share; GANs are tested in test_images.py."""

import dataclasses

import pytest

from fid.files import InputError
from tf_ttur import presets, tasks
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.of_images import ImageTask


def test_every_kind_of_images_says_which_model_and_presets_it_has():
    kinds = [task for task in tasks.TASKS.values() if issubclass(task, ImageTask)]
    assert len(kinds) == 4
    for kind in kinds:
        assert tasks.TASKS[kind.presets] is kind
        assert kind.model().called


@pytest.mark.parametrize("name", ["sampler", "steps", "guidance"])
def test_flags_of_diffusion_are_refused_for_other_runs(name, tmp_path):
    request = tasks.SampleRequest(**{name: "heun"}, given=frozenset([name]))
    task = tasks.TASKS[presets.ImagePreset]
    with pytest.raises(InputError, match=f"--{name} is for runs of diffusion"):
        task.configure(None, request, RunFolder(tmp_path))
    task = tasks.TASKS[presets.TextPreset]
    request = dataclasses.replace(request, output="x.txt")
    with pytest.raises(InputError, match=f"--{name} is for images"):
        task.write_samples(RunFolder(tmp_path), request)

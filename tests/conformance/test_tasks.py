"""Every kind of training keeps the contract of `Task`: one table, the same checks.

A kind without an entry in `CASES` fails `test_every_task_has_a_case`.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import plain_denoisers
import pytest
from captioned_folders import write_captioned

from fid.files import InputError
from tf_ttur import callbacks, experiment, presets, tasks
from tf_ttur.distillation import sd3
from tf_ttur.labels import Labelled
from tf_ttur.networks import dense_encoder, unet
from tf_ttur.runs import RunFolder

LINES = [f"line {i} of {i * i % 7} words, {'abcdefg'[: i % 7]}" for i in range(60)]


@dataclasses.dataclass(frozen=True)
class Case:
    """A small run of one kind, and what is known of it.

    Attributes:
        preset: A preset of this kind.
        changes: What makes it small, given a folder for files.
        shape: Of the data.
        metric: Name of the measured value.
        refused: Sources that are not for this kind, and the message.
        described: What the description ends in, a pattern.
        unknown: Settings whose value nobody knows.
        sources: What else a run is given, by the name of a source.
        slow: Whether its run takes more than some ten seconds.
    """

    preset: str
    changes: Callable[[Any], dict[str, Any]]
    shape: tuple[int, ...] | None
    metric: str
    refused: tuple[dict[str, Any], str] | None = None
    described: str = r"discriminator [\d.e-]+, generator [\d.e-]+"
    unknown: tuple[str, ...] = ("dataset", "loss")
    sources: Callable[[Any], dict[str, Any]] = lambda folder: {}
    slow: bool = False


def text_changes(folder):
    (folder / "lines.txt").write_text("\n".join(LINES), encoding="utf-8")
    return _GAN | {"dataset": "text_files", "text_files": str(folder / "lines.txt")}


def teacher(folder):
    """A teacher that nobody trained."""
    preset = presets.get("digits_edm_teacher")
    model = tasks.of(
        preset.override(
            width=4, network_options={"multipliers": [1], "blocks": 1, "attention": []}
        )
    ).build((8, 8, 1))
    model.save(folder / "teacher.keras")
    return {"teacher": str(folder / "teacher.keras")}


def captioned(folder):
    """Captioned images, where the extra is installed that trains on them."""
    pytest.importorskip("keras_hub", reason="the extra [hub] is not installed")
    return {"data_dir": str(write_captioned(folder))}


_GAN = {"width": 2, "latent_dimension": 3}


CASES = {
    tasks.TASKS[presets.ImagePreset]: Case(
        "digits_dcgan_ttur",
        lambda folder: _GAN | {"extractor": "pixels"},
        (32, 32, 1),
        "frechet_pixels_8x8",
    ),
    tasks.TASKS[presets.TextPreset]: Case(
        "text_wgan_gp_ttur",
        text_changes,
        None,
        "jsd_4",
        ({"download": True}, "--download is for images"),
    ),
    tasks.TASKS[presets.DiffusionPreset]: Case(
        "digits_flow_teacher",
        lambda folder: {
            "extractor": "pixels",
            "image_size": 8,
            "width": 4,
            "sampling_steps": 2,
            "network_options": {"multipliers": [1], "blocks": 1, "attention": []},
        },
        (8, 8, 1),
        "frechet_pixels_8x8",
        described=r"flow; learning rate [\d.e-]+; euler with 2 calls .* an image",
        unknown=("dataset", "parametrisation", "sampler", "optimizer", "schedule"),
    ),
    tasks.TASKS[presets.DistillationPreset]: Case(
        "digits_dmd2",
        lambda folder: {"extractor": "pixels", "image_size": 8, "ratio": 2},
        (8, 8, 1),
        "frechet_pixels_8x8",
        described=r"4 steps; split none, ratio 2, .*; learning rates [\d.e-]+, .*",
        unknown=("dataset", "loss", "optimizer", "schedule"),
        sources=teacher,
    ),
    tasks.TASKS[presets.TextToImagePreset]: Case(
        "sd3_medium_flash_dmd",
        lambda folder: {
            "extractor": "pixels",
            "image_size": 32,
            "backbone": "small",
            "dtype": "float32",
            "rank": 2,
            "encoder": "dense",
            "width": 4,
            "heads_options": {"groups": 2},
            "anchors": 2,
        },
        (32, 32, 3),
        "frechet_pixels_8x8",
        described=r"on small; 2 steps; split hard, ratio 2, .*; learning rates .*",
        unknown=("dataset", "loss", "optimizer", "schedule"),
        sources=captioned,
        slow=True,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def quick_networks():
    """What takes long to trace or to train is small: it has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "denoiser", plain_denoisers.denoiser)
        patch.setattr(
            sd3, "small", functools.cache(functools.partial(sd3.small, layers=1))
        )
        patch.setattr(dense_encoder, "_STEPS", 2)
        patch.setattr(dense_encoder, "_VERSION", "test")
        yield


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=[pytest.mark.slow] if case.slow else [])
        for kind, case in CASES.items()
    ],
    ids=lambda task: task.__name__,
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def case(kind):
    return CASES[kind]


@pytest.fixture(scope="module")
def preset(case, tmp_path_factory):
    changes = case.changes(tmp_path_factory.mktemp("data"))
    return presets.get(case.preset).override(
        steps=3, every=2, batch_size=4, num_samples=20, sample_batch=10,
        jit_compile=False, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sources(case, tmp_path_factory):
    return case.sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def ended(preset, sources, tmp_path_factory):
    """A whole run of it."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    return folder, experiment.run(preset, folder, **sources)


def test_every_task_has_a_case():
    assert set(CASES) == set(tasks.TASKS.values())
    assert {type(presets.get(x.preset)) for x in CASES.values()} == set(presets.KINDS)


def test_the_kind_is_found_from_the_preset_and_from_the_run(
    kind, preset, sources, ended
):
    assert type(tasks.of(preset)) is kind
    assert tasks.of_run(ended[0]) is kind
    assert ended[0].preset() == (preset, sources.get("data_dir"))


def test_data_model_and_batches_go_together(kind, case, preset, sources):
    task = kind(preset, **sources)
    task.check()
    data = task.load()
    if case.shape is not None:
        assert data.shape == case.shape
    model = task.build(data.shape)
    assert model.image_shape == data.shape
    batch = next(iter(task.batches(data)))
    real = model.prepare_real(batch)
    real = real.images if isinstance(real, Labelled) else real
    assert tuple(real.shape[1:]) == model.sample_shape
    updates = getattr(preset, "discriminator_steps", getattr(preset, "ratio", 1))
    assert real.shape[0] == preset.batch_size * updates
    # The order of the batches is a function of the seed and the step.
    later = next(iter(task.batches(data, start=1)))
    one, two = list(task.batches(data).take(2))
    for a, b in ((one, batch), (two, later)):
        for x, y in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_configuration_holds_the_settings_and_can_be_written(kind, preset, sources):
    given = {"data_dir": "/data"} | sources
    task = kind(preset, **given)
    config = task.config(task.load())
    assert config.items() >= preset.settings().items()
    assert config["data_dir"] == given["data_dir"]
    assert json.loads(json.dumps(config)) == config


def test_measurement_and_samples_are_callbacks_of_one_run(kind, case, ended):
    folder, summary = ended
    assert summary["metric"] == case.metric
    assert kind.metric(folder.read_config()) == case.metric
    rows = folder.rows()
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert all(np.isfinite(row[case.metric]) for row in rows)
    for further in kind.further_metrics:
        assert all(further in row for row in rows)
    names = sorted(path.name for path in folder.samples.iterdir())
    assert names == [f"step_{step:08d}{kind.suffix}" for step in (0, 2, 3)]


def test_callbacks_know_when_and_how_much(kind, case, preset, sources, tmp_path):
    task = kind(preset, **sources)
    data = task.load()
    measurement = task.measurement(data, RunFolder(tmp_path))
    assert isinstance(measurement, callbacks.Measurement)
    assert (measurement.key, measurement.num_samples) == (case.metric, 20)
    assert (measurement.every, measurement.last) == (2, 3)
    assert isinstance(task.samples(data, RunFolder(tmp_path)), callbacks.Samples)
    told = task.describe(data, measurement)
    assert told.startswith(str(data.num_examples))
    assert re.search(f"{case.described}$", told)


def test_the_table_of_results_has_a_row_for_each_value(kind):
    assert len(kind.tabled) == 1 + len(kind.further_metrics)
    assert all(digits > 0 for _, digits in kind.tabled)
    assert kind.value_format.format(1.0)


def test_a_run_is_opened_and_sampled(kind, ended, tmp_path):
    folder, _ = ended
    found = kind.open(folder, "last")
    model = found[0] if isinstance(found, tuple) else found
    assert isinstance(model, keras.Model)
    assert model.steps == 3
    output = tmp_path / f"samples{kind.suffix}"
    request = tasks.SampleRequest(
        checkpoint="last", output=str(output), seed=5, grid="2x3"
    )
    written = []
    for _ in range(2):
        line = kind.write_samples(folder, request)
        assert line.endswith(f"from step 3 of {folder}: {output}")
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert written[0]


def test_an_output_of_another_kind_is_refused(kind, ended):
    request = tasks.SampleRequest(output="samples.jpg")
    with pytest.raises(InputError, match=r"--output=samples\.jpg: .*expected a \."):
        kind.write_samples(ended[0], request)


def test_what_cannot_be_is_refused_before_any_data_is_read(kind, case, preset):
    for name in case.unknown:
        with pytest.raises(InputError, match="'nothing'"):
            kind(preset.override(**{name: "nothing"})).check()
    if case.refused is not None:
        sources, message = case.refused
        with pytest.raises(InputError, match=message):
            kind(preset, **sources).check()

"""Which checkpoints are looked at, and what is made of them."""

import pytest
from batch_studies import ROW, row
from small_runs import Small

from fid.files import InputError
from tf_ttur import experiment, presets, tasks
from tf_ttur.studies import batch_checkpoints
from tf_ttur.studies.critical_batch import run_folder
from tf_ttur.studies.gradient_noise import measure_noise
from tf_ttur.theory.critical_batch import least_critical_batch


def test_the_largest_batch_that_met_the_threshold_is_looked_at():
    trace = [(0, 9.0), (10, 1.0)]
    rows = [
        row(trace, batch=8),
        row(trace, batch=16, seed=1),
        row(trace, batch=16, seed=0),
        row([(0, 9.0)], batch=32),
        row(trace, batch=4, variant="slow"),
    ]
    chosen = batch_checkpoints.last_ones(rows)
    assert {(x.variant, x.batch, x.seed) for x in chosen} == {
        ("adam", 16, 0), ("slow", 4, 0)
    }  # fmt: skip
    with pytest.raises(InputError, match="No run met its threshold"):
        batch_checkpoints.last_ones([row([(0, 9.0)])])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A row, and the folder of a run of small networks."""
    preset = presets.get(presets.DEFAULT).override(
        width=4, steps=2, every=2, batch_size=16, num_samples=64, jit_compile=False,
        extractor="pixels", discriminator_lr=ROW.discriminator_lr,
        generator_lr=ROW.generator_lr,
    )  # fmt: skip
    monkeypatch.setattr(tasks, "of", lambda preset, **sources: Small(preset))
    folder = run_folder(tmp_path, "adam", 16, 0)
    experiment.train(Small(preset), folder)
    return row([(0, 9.0), (2, 1.0)], batch=16), folder


def test_the_bound_is_of_the_gradients_at_the_last_checkpoint(trained):
    found_row, folder = trained
    found = batch_checkpoints.by_stats(
        found_row, folder, small=4, large=64, draws=4, power=1
    )
    assert found.assumed["checkpoint"] == "step_00000002.keras"
    gan, batches, _ = batch_checkpoints._load(found_row, folder, None)
    assert gan.steps == 2
    players = measure_noise(gan, batches, 4, 64, 4)
    for name in ("discriminator", "generator"):
        expected = least_critical_batch(
            players[name].noise,
            rate=getattr(ROW, f"{name}_lr"),
            scale=players[name].scale,
            beta_1=0.5,
            gamma=0.5,
            power=1,
        )
        assert getattr(found, name) == pytest.approx(expected, rel=1e-3)


def test_a_run_without_a_checkpoint_is_refused(trained):
    found_row, folder = trained
    for path in folder.checkpoints.iterdir():
        path.unlink()
    # The best one may be of another step.
    other = row([(0, 9.0), (3, 1.0)], batch=16)
    with pytest.raises(InputError, match="has no checkpoint of step 3, where the run"):
        batch_checkpoints.by_stats(other, folder, small=4, large=8, draws=1)
    for path in folder.best.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has no checkpoint"):
        batch_checkpoints.by_stats(found_row, folder, small=4, large=8, draws=1)

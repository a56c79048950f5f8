"""What is found in the rows of a known curve, and estimates against a calculator."""

import dataclasses
import json

import pytest
from batch_studies import ROW, row, rows

from fid.files import InputError, write_json
from tf_ttur.studies import batch_report
from tf_ttur.studies.critical_batch import Subject

SUBJECT = Subject(floor=0.1, examples=10_000, discriminator=40_000, generator=90_000)


def test_the_critical_batch_of_a_known_curve_is_found():
    (found,) = batch_report.analyse(rows(), resamples=200)
    # N is rounded to whole steps of some hundreds at least, and spread by 0.2 %.
    assert found.fit.critical_batch == pytest.approx(16, rel=0.01)
    assert found.fit.interval[0] < 16 < found.fit.interval[1]
    assert found.measured.batch == 16
    assert 12 < found.quadratic < 24
    assert found.counts() == {b: {"reached": 3} for b in (10, 12, 16, 24, 48, 96)}


def test_every_variant_and_threshold_is_looked_at_by_itself():
    both = rows() + rows(variant="slow", scale=2.0)
    found = batch_report.analyse(both, [1.0, 2.0], resamples=0)
    names = [(each.variant, each.threshold) for each in found]
    assert names == [("adam", 1.0), ("adam", 2.0), ("slow", 1.0), ("slow", 2.0)]
    limits = [each.fit.bound.limit for each in found]
    # Half as far takes half the steps, the slow variant twice as many.
    assert [x / limits[0] for x in limits] == pytest.approx([1, 0.5, 2, 1], rel=0.01)


def test_what_cannot_be_found_says_why():
    runs = [row([(0, 9.0), (10, 5.0)], batch=b, max_steps=10) for b in (8, 16)]
    (found,) = batch_report.analyse(runs)
    assert (found.measured, found.quadratic, found.fit) == (None, None, None)
    assert "With none of 2 batch sizes" in found.why[0]
    runs = [row([(0, 9.0)], batch=b, status="diverged") for b in (8, 16)]
    (found,) = batch_report.analyse(runs)
    assert "All 2 runs diverged" in found.why[1]
    text = batch_report.table([found])
    assert "| adam | frechet_toy <= 1 | - | - | - | - | - |" in text
    assert "Runs diverged at b = 8, 16." in text
    (found,) = batch_report.analyse([x for x in rows() if x.batch == 16])
    assert "of 1 batch sizes have ended" in " ".join(found.why)


def test_the_table_and_its_json_say_the_same():
    findings = batch_report.analyse(rows(), resamples=200)
    (listed,) = json.loads(json.dumps(batch_report.as_json(findings), allow_nan=False))
    assert listed["measured"]["batch"] == 16
    assert listed["fitted"] == findings[0].fit.critical_batch
    assert listed["runs"]["10"] == {"reached": 3}
    cells = batch_report.table(findings).splitlines()[2].split(" | ")
    assert cells[2] == "16"
    assert cells[4] == f"{listed['fitted']:.3g}"
    low, high = listed["interval"]
    assert cells[5] == f"{low:.3g} to {high:.3g}"


def test_the_formula_is_what_a_calculator_says():
    # K = rate / ((1 - 0.5) (1 - 0.5)^2) sqrt(weights / 0.001) / 10,000
    found = batch_report.by_formula(
        ROW, SUBJECT, discriminator_noise=1e3, generator_noise=1e4
    )
    assert found.discriminator == pytest.approx(1e3 * 8 * 3e-4 * 6324.5553203 / 1e4)
    assert found.generator == pytest.approx(1e4 * 8 * 1e-4 * 9486.8329805 / 1e4)
    assert found.joint == found.generator
    assert found.power_of_two == 8
    with pytest.raises(InputError, match="of the generator is 0; it must be positive"):
        batch_report.by_formula(ROW, SUBJECT, discriminator_noise=1, generator_noise=0)


def test_a_calibration_scales_by_the_factors():
    other = dataclasses.replace(ROW, variant="fast", generator_lr=3e-4)
    found = batch_report.by_calibration(other, SUBJECT, ROW, SUBJECT, 20.0)
    assert found.discriminator == pytest.approx(20)
    assert found.generator == pytest.approx(60)
    rmsprop = dataclasses.replace(ROW, variant="rmsprop", optimizer="rmsprop")
    found = batch_report.by_calibration(rmsprop, SUBJECT, ROW, SUBJECT, 20.0)
    # RMSProp has no momentum, so no (1 - 0.5)^-3.
    assert found.generator == pytest.approx(20 / 8)
    assert "an experiment, not a result" in found.note
    sgd = dataclasses.replace(ROW, optimizer="sgd")
    with pytest.raises(InputError, match="trained by sgd, of which the reconstructed"):
        batch_report.by_calibration(sgd, SUBJECT, ROW, SUBJECT, 20.0)


def test_estimates_return_from_their_file(tmp_path):
    path = tmp_path / "estimates.json"
    assert batch_report.read_estimates(path) == []
    found = batch_report.by_calibration(ROW, SUBJECT, ROW, SUBJECT, 20.0, threshold=1.5)
    write_json(path, [found.as_json()])
    assert batch_report.read_estimates(path) == [found]
    line = batch_report.estimate_table([found]).splitlines()[2]
    assert line == "| adam | calibrated on adam | 1.5 | 20 | 20 | 20 | 16 |"
    for text, message in (
        ('{"a": 1}', "damaged"),
        ('[{"variant": "adam"}]', r"it\[0\] lacks 'mode'"),
        (path.read_text().replace('"adam"', "3", 1), "variant is 3"),
        # Of the version that did not say what an estimate is of.
        (path.read_text().replace('"threshold"', '"x"', 1), "lacks 'threshold'"),
        (path.read_text().replace("20.0", '"x"', 1), "discriminator is 'x'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            batch_report.read_estimates(path)

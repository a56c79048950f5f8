"""The page of figures of a study of batch sizes."""

import matplotlib.figure
import numpy as np
import pytest
from batch_studies import ROW, row, rows
from PIL import Image

from fid import drawing
from tf_ttur.studies import batch_figures, batch_report
from tf_ttur.studies.critical_batch import Subject


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a page, and gives its axes instead of a file."""
    figures = []

    def save(figure, path):
        figures.append(figure)
        real(figure, path)

    real = drawing.save
    monkeypatch.setattr(drawing, "save", save)

    def draw(found, estimates=()):
        path = tmp_path / "page.png"
        findings = batch_report.analyse(found, resamples=0)
        batch_figures.page(path, findings, found, estimates)
        assert np.asarray(Image.open(path).convert("L")).std() > 10
        (figure,) = figures
        assert isinstance(figure, matplotlib.figure.Figure)
        return figure.axes, findings

    return draw


def test_a_page_shows_the_runs_their_fits_and_the_minimum(drawn):
    found = rows()
    subject = Subject(0.1, 10_000, 40_000, 90_000)
    estimate = batch_report.by_calibration(ROW, subject, ROW, subject, 20.0)
    axes, (finding,) = drawn(found, [estimate])
    points = [line for line in axes[0].lines if line.get_marker() == "o"]
    assert points[0].get_xdata().tolist() == [10, 12, 16, 24, 48, 96]
    means = [
        np.mean([x.steps for x in found if x.batch == b])
        for b in (10, 12, 16, 24, 48, 96)
    ]
    assert points[0].get_ydata() == pytest.approx(means)
    rings = [x for x in axes[1].lines if x.get_markerfacecolor() == "none"]
    assert [x.get_xydata()[0].tolist() for x in rings] == 2 * [
        [16.0, finding.measured.examples]
    ]
    upright = [x.get_xdata()[0] for x in axes[1].lines if x.get_linestyle() in "--."]
    assert {round(x, 6) for x in upright if len(upright)} >= {
        round(finding.fit.critical_batch, 6)
    }
    marks = {tuple(x.get_xydata()[0]) for x in axes[4].lines if len(x.get_xdata()) == 1}
    assert marks == {(20.0, 16.0), (finding.fit.critical_batch, 16.0)}


def test_runs_that_did_not_get_there_have_marks_of_their_own(drawn):
    found = rows()
    found.append(row([(0, 9.0), (50, 5.0)], batch=4, max_steps=50))
    found.append(row([(0, 9.0), (70, 5.0)], batch=200, status="diverged"))
    axes, _ = drawn(found)
    marks = {
        x.get_marker(): x.get_xydata().tolist()
        for x in axes[0].lines
        if x.get_marker() in "^x"
    }
    assert marks == {"^": [[4, 50]], "x": [[200, 70]]}


def test_a_page_without_any_success_is_drawn(drawn):
    axes, _ = drawn([row([(0, 9.0), (10, 5.0)], batch=b, max_steps=10) for b in (4, 8)])
    assert axes[4].texts[0].get_text() == "nothing to compare"

import matplotlib.figure
import pytest


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as Matplotlib's objects."""
    saved, save = [], matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved

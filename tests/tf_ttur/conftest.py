import pytest


@pytest.fixture
def saved_figures(monkeypatch):
    """The figures that are saved, as Matplotlib's objects."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved

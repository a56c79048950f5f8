import fcntl
import os

import pytest

# A second thread of OpenBLAS only waits for the first one in matrices as small as those
# of most tests, and takes a core while it does: on one that is busy, eigenvalues take
# thirty times as long. NumPy reads this as it is loaded, and programs inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def synthetic_pb(tmp_path_factory):
    """A graph file with the 2015 structure and seeded weights."""
    import synthetic_graph

    folder = tmp_path_factory.mktemp("inception")
    return synthetic_graph.write_synthetic_graph(folder / "classify_image_graph_def.pb")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of the tests' own, so that the user's is neither used nor made."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # all workers'
    folder /= "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTUR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def classifier(cache):
    """The digits classifier in the cache, trained by the worker that comes first."""
    import numpy as np
    from sklearn.datasets import load_digits

    from tf_ttur import datasets
    from tf_ttur.networks.classifier import digits_classifier

    images = np.concatenate(list(datasets.load("digits").images()))
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return digits_classifier(images, load_digits().target)


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

import pytest


@pytest.fixture(scope="session")
def synthetic_pb(tmp_path_factory):
    """A graph file with the 2015 structure and seeded weights."""
    import synthetic_graph

    folder = tmp_path_factory.mktemp("inception")
    return synthetic_graph.write_synthetic_graph(folder / "classify_image_graph_def.pb")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of the tests' own, so that the user's is neither used nor made."""
    import os

    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("TTUR_CACHE")
    os.environ["TTUR_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TTUR_CACHE"]
    else:
        os.environ["TTUR_CACHE"] = before

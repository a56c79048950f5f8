import pytest


@pytest.fixture(scope="session")
def synthetic_pb(tmp_path_factory):
    """A graph file with the 2015 structure and seeded weights."""
    import synthetic_graph

    folder = tmp_path_factory.mktemp("inception")
    return synthetic_graph.write_synthetic_graph(folder / "classify_image_graph_def.pb")

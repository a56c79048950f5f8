"""Every example in a docstring runs."""

import doctest
import importlib

import pytest
import synthetic_graph
from repository import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("fid", "tf_ttur")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py" and ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    if name == "fid.extractors.inception":
        graph = synthetic_graph.write_synthetic_graph(tmp_path / "g.pb", splat=True)
        monkeypatch.setenv("TTUR_INCEPTION", str(graph))
    if name == "fid.beam":
        pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed

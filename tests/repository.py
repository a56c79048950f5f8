"""Where the repository is, for tests of its files and of its programs."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"

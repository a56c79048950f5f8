"""Starts the programs of this folder, in a checkout that is not installed, too."""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent


def use_checkout() -> None:
    """Has this process import `fid` and `tf_ttur` from beside this folder.

    The processes that it starts do the same.
    """
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )


def launch(program: str) -> NoReturn:
    """Runs a program and ends this process with its exit status.

    Args:
        program: Its module and main, such as "fid.cli:compute_fid", in the form of the
            installed programs in pyproject.toml.
    """
    use_checkout()
    module, _, main = program.partition(":")
    try:
        status = getattr(_module(module), main)()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)


def _module(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fid", "tf_ttur"):
            raise
        sys.exit(
            f"{pathlib.Path(sys.argv[0]).name}: the module {error.name} is not "
            f"installed; install it by pip install -r {ROOT / 'requirements.txt'}"
        )

"""Where XLA keeps the programs that it compiles, from one start to the next."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

from fid.files import cache_dir
from fid.versions import versions

__all__ = ["compilation_cache"]


def compilation_cache() -> pathlib.Path | None:
    """Has XLA keep the programs it compiles, so that the next start is quicker.

    It takes effect only before TensorFlow is imported, through TF_XLA_FLAGS, and leaves
    that alone where it already names a cache.

    Returns:
        The folder, one for each kind of processor and release of TensorFlow; None where
        there is none.
    """
    given = os.environ.get("TF_XLA_FLAGS", "")
    if "tf_xla_persistent_cache_directory" in given or "tensorflow" in sys.modules:
        return None
    # Programs are machine code: one for another processor could not run here.
    machine = platform.machine() + versions("tensorflow")["tensorflow"]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        machine += next((x for x in file if x.startswith(("flags", "Features"))), "")
    digest = hashlib.sha256(machine.encode()).hexdigest()[:12]
    folder = cache_dir() / "xla" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # slower, and otherwise the same
    if any(map(str.isspace, str(folder))):
        return None  # TensorFlow would take it for two flags
    os.environ["TF_XLA_FLAGS"] = (
        f"{given} --tf_xla_persistent_cache_directory={folder}"
        " --tf_xla_persistent_cache_device_types=CPU"
    ).strip()
    return folder

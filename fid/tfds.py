"""The data sets that TensorFlow Datasets (TFDS) has prepared: where they are on disk.

Nothing here imports TFDS, which takes seconds, but `prepare`.
"""

from __future__ import annotations

import os
import pathlib
import re

from fid.files import InputError
from fid.mistaken import local_path

__all__ = [
    "data_folder",
    "find_prepared",
    "prepare",
    "prepare_advice",
    "prepare_command",
    "prepared_versions",
]


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Returns the folder of prepared data sets.

    Args:
        data_dir: The folder; None means TFDS's default: `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.

    Returns:
        The folder, which need not exist.

    Raises:
        InputError: It is an address of the network.
    """
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return local_path(data_dir)


def prepared_versions(
    name: str, root: pathlib.Path
) -> dict[tuple[int, ...], pathlib.Path]:
    """Finds all prepared versions of a data set.

    Args:
        name: TFDS's name of the data set, such as "lsun/bedroom".
        root: The folder of prepared data sets.

    Returns:
        The folders that hold a finished preparation, by version, oldest first.

    Example:
        >>> import tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for version in ("2.0.0", "10.0.0"):
        ...     (root / "mnist" / version).mkdir(parents=True)
        ...     for file in ("dataset_info.json", "features.json"):
        ...         (root / "mnist" / version / file).touch()
        >>> [*prepared_versions("mnist", root)]
        [(2, 0, 0), (10, 0, 0)]
    """
    folders = {
        tuple(map(int, path.name.split("."))): path
        for path in (root / name).glob("*.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
        and (path / "features.json").is_file()
    }
    return dict(sorted(folders.items()))


def find_prepared(name: str, root: pathlib.Path, version: str) -> pathlib.Path | None:
    """Finds a prepared version whose examples are those of a known one.

    TFDS changes existing examples only with the first number of a version.

    Args:
        name: TFDS's name of the data set.
        root: The folder of prepared data sets.
        version: The known version.

    Returns:
        The folder of the newest version with the same first number, or None.
    """
    major = int(version.split(".")[0])
    folders = prepared_versions(name, root)
    return next((folders[v] for v in reversed(folders) if v[0] == major), None)


def prepare_command(name: str, root: pathlib.Path) -> str:
    """Returns the shell command that has TFDS download and prepare a data set."""
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}').download_and_prepare()\""
    )


def prepare_advice(name: str, root: pathlib.Path) -> str:
    """Returns a sentence that says how to get a data set that is not prepared."""
    return (
        f"Where there is a network, run {prepare_command(name, root)}, then copy "
        f"{root / name} here if that was another machine; or name the folder that "
        "holds it with --data_dir."
    )


def prepare(name: str, root: pathlib.Path, advice: str) -> None:
    """Lets TFDS download and prepare a data set.

    TFDS tries a dead network for minutes, so ask first whether the host answers.

    Args:
        name: TFDS's name of the data set.
        root: The folder of prepared data sets.
        advice: What to do when that fails, as sentences.

    Raises:
        InputError: TFDS failed.
    """
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=root).download_and_prepare()
    except Exception as error:
        raise InputError(f"TFDS could not prepare {name}: {error}. {advice}") from error

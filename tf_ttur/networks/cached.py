"""Small networks that are trained once and kept in the cache folder.

A network is a `.keras` file, and beside it a `.json` record of how well it does, with
the SHA-256 of its weights and of the record itself: what is not what was recorded is
refused, and never used in silence.
"""

from __future__ import annotations

import fcntl
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras

from fid.extractors.extractor import weights_sha256
from fid.files import InputError, atomic_path, write_json
from fid.mistaken import cache_dir
from fid.values import read_checked

__all__ = ["trained_once"]

_DIGEST, _WEIGHTS = "sha256", "weights_sha256"


def trained_once(
    name: str,
    train: Callable[[], tuple[keras.Model, Mapping[str, float]]],
    facts: Mapping[str, Any],
) -> tuple[keras.Model, dict[str, Any], pathlib.Path]:
    """Loads a network from the cache folder, or trains it and keeps it there.

    Of several processes that ask at once, one trains it for all.

    Args:
        name: Name of its files, without a suffix. Whoever changes how it is trained
            changes the name.
        train: Trains it; returns it with what is recorded of it, numbers by name.
        facts: What each of these numbers may be, as for `fid.values`.

    Returns:
        The network, not compiled; the record; and the path of the network.

    Raises:
        InputError: What is in the cache is damaged.
    """
    path = cache_dir() / f"{name}.keras"
    record_path = path.with_suffix(".json")
    if not (path.exists() and record_path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (path.exists() and record_path.exists()):
                _keep(path, record_path, *train())
    fix = f"Delete it and {path.name}: both are made again."
    record = read_checked(record_path, {**facts, _WEIGHTS: str}, fix)
    # That of an earlier version has no digest.
    if record.get(_DIGEST, sha256 := _digest(record, facts)) != sha256:
        raise InputError(
            f"{record_path} is damaged: it is not what was recorded. {fix}"
        )
    try:
        model = keras.models.load_model(path, compile=False)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it and it is made again."
        ) from error
    if weights_sha256(model) != record[_WEIGHTS]:
        raise InputError(
            f"{path} does not have the weights that {record_path.name} records; "
            "delete both and they are made again."
        )
    return model, record, path


def _keep(
    path: pathlib.Path,
    record_path: pathlib.Path,
    model: keras.Model,
    facts: Mapping[str, float],
) -> None:
    with atomic_path(path) as temporary:
        model.save(temporary)
    record = {**facts, _WEIGHTS: weights_sha256(model)}
    # The record comes last, since a network without it counts as not made.
    write_json(record_path, record | {_DIGEST: _digest(record, facts)})


def _digest(record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    text = " ".join([*(repr(record[name]) for name in facts), record[_WEIGHTS]])
    return hashlib.sha256(text.encode()).hexdigest()

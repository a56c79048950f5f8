"""The names of the authors' `fid.py`, with their positional arguments.

A script that says `import fid` and calls these keeps working: no session is needed, and
one that is given is not used. What differs from the original is what was broken there:

- The images that do not fill the last batch are kept; the original dropped them.
- `low_profile` and the `_from_files` pair work; the original failed on its last batch.
- Images that lie in [0, 1] or [-1, 1] are refused; the original gave a wrong number.
- The distance is real by construction, and nothing is added to the covariances.
- The network is built once and remembered, and runs under TensorFlow 2 whether or
  not eager execution was switched off.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fid.extractors.download import download_graph, find_graph
from fid.extractors.graph import GRAPH_NAME, load_graph
from fid.files import InputError, printable
from fid.measure import compare
from fid.metrics.frechet import frechet_distance
from fid.mistaken import local_path
from fid.sources.imagefiles import FilesSource
from fid.sources.pixels import looks_like_bytes, span
from fid.statistics import Moments, Statistics
from fid.values import Count, checked

__all__ = [
    "calculate_activation_statistics",
    "calculate_activation_statistics_from_files",
    "calculate_fid_given_paths",
    "calculate_frechet_distance",
    "check_or_download_inception",
    "create_inception_graph",
    "get_activations",
    "get_activations_from_files",
]

_log = logging.getLogger(__name__)
_FEATURES = 2048
_BATCH_SIZE = 50


def calculate_frechet_distance(
    mu1: Any, sigma1: Any, mu2: Any, sigma2: Any, eps: float = 1e-6
) -> np.float64:
    """Computes the Fréchet distance between two Gaussians.

    Unlike the original it neither forms the root of an unsymmetric matrix nor returns
    or refuses complex numbers; see `fid.frechet_distance`.

    Args:
        mu1: Mean of the first set, (d,).
        sigma1: Its covariance, (d, d), symmetric.
        mu2: Mean of the second set.
        sigma2: Its covariance.
        eps: Not used: the original added it to both diagonals where its product of
            covariances was singular, which cannot matter here.

    Returns:
        The distance, >= 0.

    Raises:
        InputError: The shapes do not fit together, or a covariance is not symmetric.

    Example:
        >>> import numpy as np
        >>> from fid import calculate_frechet_distance
        >>> float(calculate_frechet_distance([0, 0], np.eye(2), [3, 4], np.eye(2)))
        25.0
    """
    del eps
    first = _gaussian(mu1, sigma1, "the first set")
    return np.float64(frechet_distance(first, _gaussian(mu2, sigma2, "the second set")))


def get_activations(
    images: Any, sess: Any = None, batch_size: int = _BATCH_SIZE, verbose: bool = False
) -> np.ndarray:
    """Computes the pool_3 features of images.

    The original dropped the images that did not fill the last batch; here none is.

    Args:
        images: (n, H, W, 3), uint8 or numbers in [0, 255].
        sess: Not used; kept for its place.
        batch_size: Images at a time. It changes features by rounding only. That of the
            first call is the network's, which later calls keep to.
        verbose: Whether to print progress on stderr.

    Returns:
        float64 (n, 2048).

    Raises:
        InputError: The images do not look like values in [0, 255], have another shape,
            or there is no graph.
    """
    _say_that_sessions_are_gone(sess)
    images = _checked(images)
    return _joined(_array_features(images, batch_size, verbose), len(images))


def calculate_activation_statistics(
    images: Any, sess: Any = None, batch_size: int = _BATCH_SIZE, verbose: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and covariance of the pool_3 features of images.

    Args:
        images: As for `get_activations`, and so are the others; n >= 2.
        sess: Not used.
        batch_size: Images at a time.
        verbose: Whether to print progress.

    Returns:
        The mean (2048,) and the covariance (2048, 2048) with divisor n - 1, float64.

    Raises:
        InputError: As for `get_activations`, or there is one image only.
    """
    _say_that_sessions_are_gone(sess)
    images = _checked(images)
    return _moments(_array_features(images, batch_size, verbose))


def get_activations_from_files(
    files: Sequence[Any],
    sess: Any = None,
    batch_size: int = _BATCH_SIZE,
    verbose: bool = False,
) -> np.ndarray:
    """Computes the pool_3 features of image files, a batch in memory at a time.

    The original failed on its last batch, whatever the number of files.

    Args:
        files: Paths of images of any sizes, read as
            `fid.sources.imagefiles.FolderSource` reads.
        sess: Not used; kept for its place.
        batch_size: Images at a time; see `get_activations`.
        verbose: Whether to print progress on stderr.

    Returns:
        float64 (n, 2048), in the order of the files.

    Raises:
        InputError: There are no files, one cannot be read, or there is no graph.
    """
    _say_that_sessions_are_gone(sess)
    files = list(files)
    return _joined(_file_features(files, batch_size, verbose), len(files))


def calculate_activation_statistics_from_files(
    files: Sequence[Any],
    sess: Any = None,
    batch_size: int = _BATCH_SIZE,
    verbose: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and covariance of the pool_3 features of image files.

    Args:
        files: As for `get_activations_from_files`, and so are the others; n >= 2.
        sess: Not used.
        batch_size: Images at a time.
        verbose: Whether to print progress.

    Returns:
        The mean (2048,) and the covariance (2048, 2048) with divisor n - 1, float64.

    Raises:
        InputError: As for `get_activations_from_files`, or there is one file only.
    """
    _say_that_sessions_are_gone(sess)
    return _moments(_file_features(list(files), batch_size, verbose))


def calculate_fid_given_paths(
    paths: Sequence[Any], inception_path: Any, low_profile: bool = False
) -> np.float64:
    """Computes the FID between two paths.

    Args:
        paths: Two of: a folder of images, an `.npz` of statistics (mu and sigma).
        inception_path: As for `check_or_download_inception`; it is not looked for where
            both paths are statistics.
        low_profile: Not used: images are never all in memory. With it, the original
            failed.

    Returns:
        The FID.

    Raises:
        InputError: There are not two paths, one cannot be used, or there is no graph.
    """
    del low_profile
    paths = list(paths)
    if len(paths) != 2:
        raise InputError(f"Expected two paths to compare; got {len(paths)}.")
    paths = [os.fspath(local_path(path)) for path in paths]
    if missing := [path for path in paths if not os.path.exists(path)]:
        names = " and no ".join(printable(path) for path in missing)
        raise InputError(
            f"There is no {names}; expected folders of images or .npz files of "
            "statistics."
        )
    extractor = None
    if any(map(os.path.isdir, paths)):
        create_inception_graph(check_or_download_inception(inception_path))
        extractor = _extractor(_BATCH_SIZE)
    comparison = compare(*paths, extractor=extractor)
    for warning in comparison.warnings:
        _log.warning("%s", warning)
    return np.float64(comparison.value)


def check_or_download_inception(inception_path: Any) -> str:
    """Returns the path of the 2015 graph, downloading it where it is not there.

    Args:
        inception_path: The folder that holds it or is to hold it, or the file itself.
            None means what it means everywhere here: `$TTUR_INCEPTION`, then the cache
            folder, then a download into it (the original: /tmp).

    Returns:
        The path of `classify_image_graph_def.pb`.

    Raises:
        InputError: It is not there and cannot be downloaded.
    """
    if inception_path is None:
        return str(find_graph())
    path = local_path(inception_path)
    if not path.is_file():
        path = path if path.suffix == ".pb" else path / GRAPH_NAME
    return str(path if path.exists() else download_graph(path))


def create_inception_graph(pth: Any) -> None:
    """Takes the 2015 graph for all later calls, in place of any other.

    The calls that need it find it by themselves, as `check_or_download_inception(None)`
    does, where this was not called. A second call with an equal file changes nothing:
    what was built is kept. (In the original a second call added a second copy
    to TensorFlow's graph, and went on using the first.)

    Args:
        pth: The graph file.

    Raises:
        InputError: It is missing, or not the 2015 graph.
    """
    global _graph
    sha256 = load_graph(pth).sha256
    if _graph is None or _graph.sha256 != sha256:
        _graph = _Graph(os.fspath(pth), sha256)


@dataclasses.dataclass
class _Graph:
    path: str
    sha256: str
    # It is made at the first call, with the batch size of that call.
    extractor: _EagerExtractor | None = None


_graph: _Graph | None = None


class _EagerExtractor:
    """The network, run with eager execution on."""

    def __init__(self, path: str, batch_size: int):
        from fid.extractors.inception import Inception

        self._inception = _eagerly(lambda: Inception(path, batch_size))
        self.name = self._inception.name
        self.dimension = self._inception.dimension
        self.channels = self._inception.channels
        self.fingerprint = self._inception.fingerprint
        self.protocol = self._inception.protocol

    def __call__(self, images: Any) -> np.ndarray:
        return _eagerly(lambda: self._inception(images))


def _extractor(batch_size: int) -> _EagerExtractor:
    if _graph is None:
        create_inception_graph(find_graph())
    if _graph.extractor is None:
        _graph.extractor = _EagerExtractor(_graph.path, batch_size)
    return _graph.extractor


def _eagerly(function: Callable[[], Any]) -> Any:
    """Calls a function with eager execution on.

    It is off in a script that says `disable_v2_behavior`, and within `with Session()`.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return function()
    results, errors = [], []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:  # TensorFlow would hand on its text only.
            errors.append(error)

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(tf.py_function(call, [], []))
    if errors:
        raise errors[0]
    return results[0]


def _say_that_sessions_are_gone(sess: Any) -> None:
    if sess is not None:
        warnings.warn(
            "sess is not used any more: leave it out, or pass None in its place.",
            DeprecationWarning,
            stacklevel=3,
        )


def _checked(images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise InputError(
            f"The images have shape {images.shape}, expected (n, height, width, 3); "
            "images of several sizes are read by the functions whose names end in "
            "_from_files."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "uif":
        raise InputError(
            f"The images are {images.dtype}, expected uint8 or numbers in [0, 255]."
        )
    low, high = span(images, "the array")
    if images.dtype.kind == "f" and not looks_like_bytes(low, high):
        raise InputError(
            f"The images have values in [{low:g}, {high:g}], which does not look like "
            "[0, 255]: scale them, x * 255 for x in [0, 1] or (x + 1) * 127.5 for x in "
            "[-1, 1]."
        )
    if low < 0 or high > 255:
        raise InputError(
            f"The images have values in [{low:g}, {high:g}], expected [0, 255]; scale "
            "or clip them."
        )
    return images


def _array_features(
    images: np.ndarray, batch_size: int, verbose: bool
) -> Iterator[np.ndarray]:
    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]

    return _features(batches(), len(images), batch_size, verbose)


def _file_features(
    files: list[Any], batch_size: int, verbose: bool
) -> Iterator[np.ndarray]:
    batches = FilesSource(files).batches(batch_size)
    return _features(batches, len(files), batch_size, verbose)


def _features(
    batches: Iterator[Any], count: int, batch_size: int, verbose: bool
) -> Iterator[np.ndarray]:
    batch_size = checked({"batch_size": Count}, batch_size=batch_size)["batch_size"]
    extractor = _extractor(batch_size)
    done = 0  # It counts images, since batches of large ones are smaller.
    for images in batches:
        done += len(images)
        if verbose:
            print(f"\rPropagating image {done}/{count}", end="", file=sys.stderr)
        yield extractor(images)
    if verbose:
        print(" done", file=sys.stderr)


def _joined(features: Iterator[np.ndarray], count: int) -> np.ndarray:
    joined = np.empty([count, _FEATURES])  # They are float64, as in the original.
    end = 0
    for batch in features:
        start, end = end, end + len(batch)
        joined[start:end] = batch
    return joined


def _moments(features: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    moments = Moments(_FEATURES)
    for batch in features:
        moments.update(batch)
    statistics = moments.statistics()
    return statistics.mu, statistics.sigma


def _gaussian(mu: Any, sigma: Any, label: str) -> Statistics:
    mu = np.atleast_1d(np.asarray(mu, np.float64))
    sigma = np.atleast_2d(np.asarray(sigma, np.float64))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise InputError(
            f"The mean of {label} has shape {mu.shape} and its covariance "
            f"{sigma.shape}, expected (d,) and (d, d)."
        )
    if (np.abs(sigma - sigma.T) > 1e-6 * np.abs(sigma).max(initial=0.0)).any():
        raise InputError(f"The covariance of {label} is not symmetric.")
    return Statistics(mu, (sigma + sigma.T) / 2, label=label)

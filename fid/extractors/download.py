"""The 2015 Inception graph's file: found, or downloaded and put in place."""

from __future__ import annotations

import http.client
import logging
import os
import pathlib
import queue
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

from fid.extractors.graph import GRAPH_NAME, MAX_GRAPH_BYTES, parse_graph
from fid.files import (
    InputError,
    atomic_path,
    printable,
    read_json,
    sha256_of_file,
    write_json,
)
from fid.mistaken import cache_dir, local_path
from fid.program import PLAIN_HTTP

__all__ = ["DOWNLOAD_URLS", "download_graph", "find_graph", "open_url"]

_log = logging.getLogger(__name__)

# The last one is the address that the paper's code used.
DOWNLOAD_URLS = (
    "https://storage.googleapis.com/download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
    "https://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
    "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
)
_ARCHIVE_BYTES = 88_931_400
# Nobody has published the SHA-256 of the graph. Until somebody who has it from a source
# of trust writes it here, the first download is trusted, and every later one is
# compared with that.
_GRAPH_SHA256: str | None = None
# A server has this long to answer, so that failure is soon without a network,
_ANSWER_SECONDS = 5
# and this long to send it all: 50 kB a second.
_BODY_SECONDS = 1800


def find_graph(
    path: str | os.PathLike[str] | None = None, **options: Any
) -> pathlib.Path:
    """Finds the graph, downloading it as a last resort.

    Args:
        path: The file. If None: `$TTUR_INCEPTION`, then the cache folder, then a
            download into it (88.9 MB).
        **options: As for `download_graph`.

    Returns:
        The path of a file. What was given by path or variable is verified by
        `load_graph` only.

    Raises:
        InputError: The named one does not exist or is no file, the cached one is not
            what was downloaded, or the download failed.
    """
    if path is not None:
        return _existing(path, "--inception")
    if variable := os.environ.get("TTUR_INCEPTION"):
        return _existing(variable, "$TTUR_INCEPTION")
    cached = cache_dir() / GRAPH_NAME
    if not cached.exists():
        return download_graph(cached, **options)
    expected = _recorded_sha256(cached)
    found = sha256_of_file(cached) if expected else None
    if found != expected:
        raise InputError(
            f"{printable(cached)} has SHA-256 {found}, expected {expected} as recorded "
            f"in {printable(_record_path(cached))} when it was downloaded: the file "
            "was changed. Delete both to download it again."
        )
    return cached


def download_graph(
    destination: str | os.PathLike[str] | None = None,
    urls: Sequence[str] = DOWNLOAD_URLS,
    archive_bytes: int = _ARCHIVE_BYTES,
    answer_seconds: float = _ANSWER_SECONDS,
    body_seconds: float = _BODY_SECONDS,
    sha256: str | None = _GRAPH_SHA256,
    plain_http: bool | None = None,
) -> pathlib.Path:
    """Downloads the 2015 graph, verifies it and puts it in place.

    The first download is trusted: no SHA-256 of the graph was ever published, so its
    size, its structure and the server's certificate are what is verified. Its SHA-256
    is recorded in a JSON file beside it, and from then on `find_graph` and later
    downloads accept no other. Several processes may do this at once: each puts a whole
    file in place.

    Args:
        destination: Where the graph goes; by default the cache folder.
        urls: Archives to try in this order.
        archive_bytes: The exact size of the archive.
        answer_seconds: How long to wait for each answer of a server.
        body_seconds: How long the archive may take to arrive.
        sha256: What the graph must have, where that is known.
        plain_http: Whether what is not encrypted may be taken, where nothing else can
            be had; this is said in a warning. None means what `--plain_http` says, or
            $TTUR_PLAIN_HTTP: without them, no.

    Returns:
        The destination.

    Raises:
        InputError: No URL gave the archive, or it does not hold the 2015 graph.
    """
    destination = local_path(destination or cache_dir() / GRAPH_NAME, writing=True)
    if plain_http is None:
        plain_http = _is_switched_on(PLAIN_HTTP)
    failures = []
    for url in urls:
        if not (plain_http or url.startswith("https:")):
            failures.append(f"{url}: not encrypted; --plain_http takes it all the same")
            continue
        _log.info("Downloading %s (%d bytes)", url, archive_bytes)
        try:
            with tempfile.TemporaryFile() as archive:
                _fetch(url, archive, archive_bytes, answer_seconds, body_seconds)
                data = _extract(archive)
        except _DOWNLOAD_ERRORS as error:
            failures.append(f"{url}: {' '.join(str(error).split()) or repr(error)}")
            continue
        weights = parse_graph(data, destination, where=f"{GRAPH_NAME} from {url}")
        if sha256 not in (None, weights.sha256):
            raise InputError(
                f"{url} sent a graph with SHA-256 {weights.sha256}, expected {sha256}: "
                "it is not the 2015 graph. Get that, and name it with --inception."
            )
        expected = _recorded_sha256(destination)
        if expected not in (None, weights.sha256):
            raise InputError(
                f"{url} sent a graph with SHA-256 {weights.sha256}, expected "
                f"{expected} as recorded in {printable(_record_path(destination))} at "
                "an earlier download. Delete that file if you trust this one more."
            )
        # The record is written first: it speaks for every graph that is in place.
        write_json(
            _record_path(destination),
            {"sha256": weights.sha256, "bytes": len(data), "source": url},
        )
        with atomic_path(destination) as temporary:
            temporary.write_bytes(data)
        if not url.startswith("https:"):
            _log.warning(
                "%s is not encrypted; the graph's size and structure are right, its "
                "SHA-256 is %s",
                *(url, weights.sha256),
            )
        if sha256 is None and expected is None:
            _log.warning(
                "The graph that %s sent has SHA-256 %s. No SHA-256 of it was ever "
                "published, so this first download is trusted; %s records it, and no "
                "other is taken from now on. Compare it with a colleague's.",
                *(url, weights.sha256, printable(_record_path(destination))),
            )
        return destination
    raise InputError(
        f"Cannot download the 2015 Inception graph ({'; '.join(failures)}). Where "
        f"there is a network, get {DOWNLOAD_URLS[0]} and extract {GRAPH_NAME} from it; "
        f"put that at {printable(destination)} or name it with --inception or "
        "$TTUR_INCEPTION."
    )


def _is_switched_on(variable: str) -> bool:
    value = os.environ.get(variable, "").strip()
    if value.lower() in ("1", "true", "yes"):
        return True
    if value.lower() in ("", "0", "false", "no"):
        return False
    raise InputError(
        f"${variable} is {value!r}; expected 1, true or yes, or 0, false or no."
    )


def open_url(url: str | urllib.request.Request, seconds: float) -> Any:
    """Opens an address, or gives up in time.

    Args:
        url: The address, or a request.
        seconds: How long to wait for an answer.

    Returns:
        What `urllib.request.urlopen` returns.

    Raises:
        OSError: There was no answer in time (`TimeoutError`), or an error.
        ValueError: It is no address.
        http.client.HTTPException: The answer cannot be understood.
    """
    # A thread asks, because the resolver, and a host's many addresses tried in turn,
    # take what time they like, whatever `timeout` says.
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=seconds))
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # It is an answer, too.
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


# These are the errors of networks, servers and damaged archives.
_DOWNLOAD_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
)


def _fetch(
    url: str,
    archive: BinaryIO,
    archive_bytes: int,
    answer_seconds: float,
    body_seconds: float,
) -> None:
    end = time.monotonic() + body_seconds
    with open_url(url, answer_seconds) as response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise ValueError(f"redirected to {response.url}, which is not encrypted")
        # `read` would wait until it has all that it was asked for.
        while chunk := response.read1(2**20):
            archive.write(chunk)
            if archive.tell() > archive_bytes:
                break
            if time.monotonic() > end:
                raise TimeoutError(
                    f"sent {archive.tell():,} of {archive_bytes:,} bytes in "
                    f"{body_seconds:g} seconds, which is given up"
                )
    if archive.tell() != archive_bytes:
        more = "more than " if archive.tell() > archive_bytes else ""
        raise ValueError(
            f"sent {more}{min(archive.tell(), archive_bytes):,} bytes, "
            f"expected {archive_bytes:,}"
        )
    archive.seek(0)


def _extract(archive: BinaryIO) -> bytes:
    # Members are read one by one and known by their base names only: nothing in the
    # archive decides where anything is written.
    declared = 0
    with tarfile.open(fileobj=archive, mode="r|gz") as members:
        for member in members:
            declared += member.size
            if declared > 2 * MAX_GRAPH_BYTES:
                raise ValueError(f"the archive declares {declared:,} bytes of files")
            if member.isreg() and pathlib.PurePosixPath(member.name).name == GRAPH_NAME:
                return members.extractfile(member).read()
    raise ValueError(f"the archive holds no file {GRAPH_NAME}")


def _record_path(graph: pathlib.Path) -> pathlib.Path:
    return graph.with_name(f"{graph.name}.json")


def _recorded_sha256(graph: pathlib.Path) -> str | None:
    # There is no record where the graph was put by hand, or never was.
    record = _record_path(graph)
    if not record.exists():
        return None
    recorded = read_json(record)
    sha256 = recorded.get("sha256") if isinstance(recorded, dict) else None
    if not isinstance(sha256, str):
        raise InputError(
            f"{printable(record)} does not say a SHA-256, expected that of "
            f"{graph.name} beside it. Delete both to download it again."
        )
    return sha256


def _existing(given: str | os.PathLike[str], origin: str) -> pathlib.Path:
    path = local_path(given)
    if not path.is_file():
        found = "does not exist"
        if path.exists():  # A pipe or a device might never end.
            found = "is a folder" if path.is_dir() else "is no regular file"
        raise InputError(
            f"{printable(path)}, given by {origin}, {found}, expected {GRAPH_NAME}. "
            "Correct the path, or leave it out to use the cached or downloaded graph."
        )
    return path

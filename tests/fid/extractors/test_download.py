import concurrent.futures
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import socket
import tarfile
import threading
import time

import pytest
import synthetic_graph

from fid import program
from fid.extractors import download
from fid.extractors.graph import MAX_GRAPH_BYTES
from fid.files import InputError

NAME = "classify_image_graph_def.pb"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Bytes of a valid graph whose tensors store one value each."""
    path = tmp_path_factory.mktemp("small") / NAME
    return synthetic_graph.write_synthetic_graph(path, splat=True).read_bytes()


@pytest.fixture(autouse=True)
def no_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("TTUR_INCEPTION", raising=False)
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    # The servers of these tests have no certificates.
    monkeypatch.setenv("TTUR_PLAIN_HTTP", "1")


# --- Where the graph is found


def test_path_before_variable_before_cache(tmp_path, monkeypatch, small):
    given, variable = tmp_path / "given.pb", tmp_path / "variable.pb"
    cached = tmp_path / "cache" / NAME
    cached.parent.mkdir()
    for path in (given, variable, cached):
        path.write_bytes(small)
    assert download.find_graph() == cached
    monkeypatch.setenv("TTUR_INCEPTION", str(variable))
    assert download.find_graph() == variable
    assert download.find_graph(given) == given

    variable.unlink()
    with pytest.raises(InputError, match=r"given by \$TTUR_INCEPTION, does not exist"):
        download.find_graph()
    with pytest.raises(InputError, match="gs://here/x.pb is an address"):
        download.find_graph("gs://here/x.pb")
    with pytest.raises(InputError, match="given by --inception, does not exist"):
        download.find_graph(variable)
    with pytest.raises(InputError, match="~nosuchuser, and there is no such home"):
        download.find_graph("~nosuchuser/x.pb")
    os.mkfifo(variable)  # reading it would never end
    for path, found in ((variable, "is no regular file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=f"given by --inception, {found}, expec"):
            download.find_graph(path)
    with pytest.raises(InputError, match="does not exist") as error:
        download.find_graph(tmp_path / "a\nb")
    assert str(error.value).isprintable()


def test_download_is_the_last_resort(tmp_path, small):
    folder = tmp_path / "served"
    folder.mkdir()
    data = archive_of((NAME, small))
    (folder / "good.tgz").write_bytes(data)
    with server(folder) as root:
        options = {"urls": [f"{root}/good.tgz"], "archive_bytes": len(data)}
        path = download.find_graph(**options)
        assert path == tmp_path / "cache" / NAME
        assert path.read_bytes() == small
        (folder / "good.tgz").unlink()
        assert download.find_graph(**options) == path


# --- Downloading


def archive_of(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@contextlib.contextmanager
def server(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{served.server_port}"
        finally:
            # Or its thread goes on for as long as the process, on a closed socket.
            served.shutdown()


@pytest.fixture
def serve(tmp_path):
    """Downloads the given bytes from a local server into the cache folder."""

    def fetch(data, archive_bytes=None, name="good.tgz"):
        folder = tmp_path / "served"
        folder.mkdir(exist_ok=True)
        (folder / "good.tgz").write_bytes(data)
        with server(folder) as root:
            return download.download_graph(
                urls=[f"{root}/missing.tgz", f"{root}/{name}"],
                archive_bytes=len(data) if archive_bytes is None else archive_bytes,
            )

    return fetch


def test_download_puts_a_verified_graph_in_place(tmp_path, small, serve):
    members = [("LICENSE", b"text"), (NAME, "/etc/passwd"), (f"./{NAME}", small)]
    path = serve(archive_of(*members))
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == small
    record = json.loads(path.with_name(f"{NAME}.json").read_text())
    assert record["sha256"] == hashlib.sha256(small).hexdigest()
    assert record["bytes"] == len(small)
    assert record["source"].endswith("/good.tgz")
    assert sorted(p.name for p in path.parent.iterdir()) == [NAME, f"{NAME}.json"]
    assert download.find_graph() == path

    path.write_bytes(small + b"\x22\x00")
    with pytest.raises(InputError, match="the file was changed") as caught:
        download.find_graph()
    assert record["sha256"] in str(caught.value)


def refused_download(tmp_path, serve, *args, **options):
    with pytest.raises(InputError) as caught:
        serve(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())
    return message


def test_download_of_the_wrong_size(tmp_path, small, serve):
    data = archive_of((NAME, small))
    size = len(data)
    message = refused_download(tmp_path, serve, data, archive_bytes=size + 1)
    assert f"sent {size:,} bytes, expected {size + 1:,}" in message
    message = refused_download(tmp_path, serve, data, archive_bytes=size - 1)
    assert f"sent more than {size - 1:,} bytes" in message
    assert "404" in message  # of the first URL
    for fix in ("--inception", "$TTUR_INCEPTION", "inception-2015-12-05.tgz"):
        assert fix in message
    assert str(tmp_path / "cache" / NAME) in message


def test_download_of_a_damaged_archive(tmp_path, small, serve):
    data = archive_of((NAME, small))
    middle = len(data) // 2
    damaged = [
        b"not an archive",
        data[:middle],
        data[:middle] + bytes(1000) + data[middle + 1000 :],
        archive_of(("other.pb", small)),
        archive_of((NAME, "../../elsewhere")),
    ]
    for content in damaged:
        message = refused_download(tmp_path, serve, content)
        assert "Cannot download the 2015 Inception graph" in message


def test_download_of_another_graph(tmp_path, serve):
    message = refused_download(tmp_path, serve, archive_of((NAME, b"<html>")))
    assert f"{NAME} from http://127.0.0.1" in message
    assert "HTML page" in message


def test_a_member_cannot_choose_where_it_is_written(tmp_path, small, serve):
    path = serve(archive_of(("../../evil", b"x"), (f"../../../{NAME}", small)))
    assert path == tmp_path / "cache" / NAME
    written = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {NAME, f"{NAME}.json", "good.tgz"}
    assert not (tmp_path.parent / NAME).exists()


def test_an_archive_that_expands_without_end(tmp_path, serve):
    member = tarfile.TarInfo(NAME)
    member.size = 2 * MAX_GRAPH_BYTES + 1
    data = gzip.compress(member.tobuf() + bytes(10_000))
    message = refused_download(tmp_path, serve, data)
    assert f"declares {member.size:,} bytes of files" in message


def test_no_network_fails_within_seconds(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"https://127.0.0.1:{unused.getsockname()[1]}/x.tgz"
        start = time.monotonic()
        with pytest.raises(InputError, match=r"put that at .*--inception"):
            download.download_graph(tmp_path / NAME, urls=[url])
        assert time.monotonic() - start < 5
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("slow", ["server", "resolver"])
def test_no_answer_fails_within_seconds(tmp_path, monkeypatch, slow):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and never says a word
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/x.tgz"
        if slow == "resolver":
            blocked = threading.Event()
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: blocked.wait())
            url = "https://nowhere.invalid/x.tgz"
        start = time.monotonic()
        with pytest.raises(InputError, match=r"Cannot download .*--inception"):
            download.download_graph(tmp_path / NAME, urls=[url], answer_seconds=0.3)
        assert time.monotonic() - start < 5


def test_a_later_download_must_be_the_recorded_graph(tmp_path, small, serve):
    path = serve(archive_of((NAME, small)))
    before = path.with_name(f"{NAME}.json").read_bytes()
    path.unlink()
    other = synthetic_graph.write_synthetic_graph(
        tmp_path / "other.pb", seed=1, splat=True
    )
    with pytest.raises(InputError, match="at an earlier download") as caught:
        serve(archive_of((NAME, other.read_bytes())))
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert path.with_name(f"{NAME}.json").read_bytes() == before
    assert serve(archive_of((NAME, small))).read_bytes() == small


def test_a_record_without_its_sha256_is_refused(small, serve):
    path = serve(archive_of((NAME, small)))
    path.with_name(f"{NAME}.json").write_text("[]")
    with pytest.raises(InputError, match="does not say a SHA-256"):
        download.find_graph()


def test_downloads_at_once_leave_one_whole_graph(tmp_path, small):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "good.tgz").write_bytes(archive_of((NAME, small)))
    size = (folder / "good.tgz").stat().st_size
    with server(folder) as root, concurrent.futures.ThreadPoolExecutor(8) as pool:
        downloads = [
            pool.submit(
                download.download_graph,
                urls=[f"{root}/good.tgz"],
                archive_bytes=size,
            )
            for _ in range(8)
        ]
        paths = {each.result() for each in downloads}
    assert paths == {tmp_path / "cache" / NAME}
    assert download.find_graph().read_bytes() == small
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == [NAME, f"{NAME}.json"]


def test_what_is_not_encrypted_is_said(small, serve, caplog):
    serve(archive_of((NAME, small)))
    assert "is not encrypted" in caplog.text
    assert hashlib.sha256(small).hexdigest() in caplog.text


def test_what_is_not_encrypted_is_taken_only_if_the_user_says_so(
    tmp_path, small, serve, monkeypatch
):
    data = archive_of((NAME, small))
    monkeypatch.delenv("TTUR_PLAIN_HTTP")
    message = refused_download(tmp_path, serve, data)
    assert "good.tgz: not encrypted; --plain_http takes it all the same" in message

    def main(args, values):
        assert serve(data).read_bytes() == small

    run = program.run
    for former in (None, "0"):
        if former is not None:
            monkeypatch.setenv("TTUR_PLAIN_HTTP", former)
        assert run(main, program.Flags.inception, "", ["x", "--plain_http"]) == 0
        assert os.environ.get("TTUR_PLAIN_HTTP") == former


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0", "not encrypted; --plain_http"),
        ("false", "not encrypted; --plain_http"),
        ("No", "not encrypted; --plain_http"),
        ("", "not encrypted; --plain_http"),
        ("perhaps", r"\$TTUR_PLAIN_HTTP is 'perhaps'; expected 1, true or yes"),
        ("TRUE", "refused"),
        ("yes", "refused"),
    ],
)
def test_the_variable_for_plain_http_is_on_or_off(tmp_path, monkeypatch, value, words):
    monkeypatch.setenv("TTUR_PLAIN_HTTP", value)
    with pytest.raises(InputError, match=words):
        # Nothing listens at this port.
        download.download_graph(tmp_path / NAME, urls=["http://127.0.0.1:9/x.tgz"])


def test_the_first_download_is_said_to_be_trusted(small, serve, caplog):
    data = archive_of((NAME, small))
    path = serve(data)
    assert "this first download is trusted" in caplog.text
    assert hashlib.sha256(small).hexdigest() in caplog.text
    caplog.clear()
    path.unlink()
    serve(data)  # it is compared with what was recorded
    assert "trusted" not in caplog.text


def test_a_graph_whose_digest_is_known_must_have_it(tmp_path, small, caplog):
    folder = tmp_path / "served"
    folder.mkdir()
    data = archive_of((NAME, small))
    (folder / "good.tgz").write_bytes(data)
    right = hashlib.sha256(small).hexdigest()
    with server(folder) as root:
        options = {"urls": [f"{root}/good.tgz"], "archive_bytes": len(data)}
        with pytest.raises(InputError, match=f"SHA-256 {right}, expected {'0' * 64}"):
            download.download_graph(tmp_path / NAME, sha256="0" * 64, **options)
        assert not (tmp_path / NAME).exists()
        download.download_graph(tmp_path / NAME, sha256=right, **options)
    assert "trusted" not in caplog.text


def test_a_body_that_trickles_is_given_up(tmp_path):
    stop, ended = threading.Event(), threading.Event()

    class Trickles(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                # It ends by itself, so that the test of a client that waits for all of
                # it fails, and does not wait for ever.
                for _ in range(150):
                    if stop.wait(0.02):
                        return
                    self.wfile.write(b"x")
            ended.set()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickles) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{served.server_port}/x.tgz"
        with pytest.raises(InputError, match="of 100,000 bytes in 0.3 seconds, which"):
            download.download_graph(
                tmp_path / NAME, urls=[url], archive_bytes=100_000, body_seconds=0.3
            )
        assert not ended.is_set()
        stop.set()
        served.shutdown()

"""compute_fid.py and precalc_stats.py, as their users start them."""

import json
import os
import subprocess
import sys

import numpy as np
from synthetic_graph import write_synthetic_graph

import fid
from fid import cli
from fid.metrics import METRICS
from fid.stats_cli import stats


def save(path, seed=0, d=6):
    moments = fid.Moments(d)
    moments.update(np.random.default_rng(seed).normal(size=(50, d)))
    moments.statistics({"source": str(path), "extractor": "x"}).save(path)
    return moments.statistics()


def test_two_statistics_files_need_no_tensorflow(tmp_path):
    one, two = save(tmp_path / "a.npz", 0), save(tmp_path / "b.npz", 1)
    code = (
        "import sys; from fid import cli; status = cli.compute_fid(sys.argv); "
        "assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.npz", tmp_path / "b.npz"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"frechet_x: {fid.frechet_distance(one, two):.6f}\n"


def test_standard_errors_are_further_lines_and_keys(tmp_path, capsys):
    save(tmp_path / "a.npz", 0), save(tmp_path / "b.npz", 1)
    argv = ["x", f"{tmp_path}/a.npz", f"{tmp_path}/b.npz"]
    assert cli.compute_fid(argv) == 0
    plain = capsys.readouterr().out
    assert cli.compute_fid([*argv, "--standard_errors"]) == 0
    first, error, bias = capsys.readouterr().out.splitlines()
    assert first == plain.strip()
    assert error.startswith("frechet_x standard error: none (neither ")
    assert bias.startswith("frechet_x bias: ")
    assert cli.compute_fid([*argv, "--standard_errors", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["frechet_x", "frechet_x_bias", "errors", "sets", "warnings"]
    assert list(found["errors"]) == ["frechet_x_standard_error", "frechet_x_bias"]
    assert cli.compute_fid([*argv, "--influence=3"]) == 1
    assert "The influence is one of images" in capsys.readouterr().err


def test_errors_are_one_line_on_stderr_and_a_status(tmp_path, capsys):
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz", d=7)
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.pb").write_text("<html>")
    (tmp_path / "flags").write_bytes(b"\xff\xfe--json")
    for args, status, message in (
        ((tmp_path / "a.npz", tmp_path / "b.npz"), 1, "6 dimensions"),
        ((tmp_path / "a.npz", tmp_path / "c.npz"), 1, "c.npz"),
        ((tmp_path / "a.npz",), 2, "two sets"),
        ((tmp_path / "a.npz", tmp_path / "a.npz", "--nonsense"), 2, "nonsense"),
        ((tmp_path / "a.npz", tmp_path / "a.npz", "--batch_size=0"), 2, "batch_size"),
        ((tmp_path / "a.npz", tmp_path / "a.npz", "--seed=4294967296"), 2, "seed"),
        ((f"--flagfile={tmp_path / 'flags'}",), 2, "no text file"),
        (("no\nsuch\x1b[31m", tmp_path / "a.npz"), 1, "There is no "),
        (("", tmp_path / "a.npz"), 1, "is empty"),
        (("x" * 300, tmp_path / "a.npz"), 1, "xxx"),
        (
            (
                tmp_path / "empty",
                tmp_path / "a.npz",
                "--inception",
                tmp_path / "page.pb",
            ),
            1,
            "No images in|HTML",
        ),
    ):
        assert cli.compute_fid(["compute_fid.py", *map(str, args)]) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.isprintable()
        assert any(part in line for part in message.split("|")), line


def test_awkward_surroundings_are_one_line_too(tmp_path):
    save(tmp_path / "é.npz")
    command = [sys.executable, "-m", "fid", *[tmp_path / "é.npz"] * 2, "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(done.stdout)["frechet_x"] == 0.0
    reader, unread = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(unread, "w") as pipe:
        for output, close, unbuffered, expected in (
            (full, None, "", ["cannot write to standard output: No space left"]),
            (full, None, "1", ["cannot write to standard output: No space left"]),
            (pipe, None, "", []),  # as behind `| head`
            (None, lambda: os.close(1), "", ["standard output is closed"]),
        ):
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
                preexec_fn=close, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
            assert done.returncode == 1
            lines = done.stderr.splitlines()
            assert len(lines) == len(expected)
            assert all(text in line for text, line in zip(expected, lines, strict=True))


def test_the_output_may_not_replace_the_images(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8))
    before = (tmp_path / "x.npz").read_bytes()
    path = f"{tmp_path}/x.npz"
    assert cli.precalc_stats(["x", path, f"--output={path}"]) == 2
    assert f"would replace {path}" in capsys.readouterr().err
    assert (tmp_path / "x.npz").read_bytes() == before


def test_help_lists_every_flag(capsys):
    for main in (cli.compute_fid, cli.precalc_stats):
        assert main(["x", "--help"]) == 0
        text = capsys.readouterr().out
        assert "--inception=string" in text
        assert "--quantize=none|truncate|round" in text
        assert "[default: 50]" in text


def test_help_says_which_metrics_there_are_and_which_take_memory(capsys, monkeypatch):
    def of_metrics():
        assert cli.compute_fid(["x", "--help"]) == 0
        # A line may end in a hyphen.
        found = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
        return found.partition("strings ")[2].partition(" [default")[0]

    everything = of_metrics()
    assert everything.startswith(
        "Which of fid, kid, is (the Inception Score of A), fid_infinity (the FID of "
    )
    assert everything.endswith(
        "authpct (the percentage of A that are no copies of --train) and ct (below 0 "
        "where A copies --train), with commas. kid, fid_infinity, mind, vendi, "
        "precision, recall, density, coverage, realism, authpct and ct keep the "
        "features in memory: 8 KB an image."
    )
    # From the end, so that they come back in their order.
    for name in reversed(list(METRICS)[3:]):
        monkeypatch.delitem(METRICS, name)
    assert of_metrics() == (
        "Which of fid, kid and is (the Inception Score of A), with commas. kid keeps "
        "the features in memory: 8 KB an image."
    )
    monkeypatch.setitem(METRICS, "also", METRICS["kid"])
    assert of_metrics() == (
        "Which of fid, kid, is (the Inception Score of A) and also, with commas. kid "
        "and also keep the features in memory: 8 KB an image."
    )


def test_an_existing_output_survives_a_failure(tmp_path, capsys):
    output = tmp_path / "stats.npz"
    output.write_bytes(b"precious")
    graph = tmp_path / "g.pb"
    write_synthetic_graph(graph, splat=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"bad")
    argv = ["x", f"{tmp_path}/images", f"--output={output}", f"--inception={graph}"]
    assert cli.precalc_stats(argv) == 1
    assert "bad.png" in capsys.readouterr().err
    assert output.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.pb", "images", "stats.npz"]
    argv[2] = "--output=/proc/none/stats.npz"
    assert cli.precalc_stats(argv) == 1
    assert "/proc/none" in capsys.readouterr().err
    argv[2] = "--output=stats.txt"
    assert cli.precalc_stats(argv) == 2
    # Nor are folders left that were made for a result.
    argv[2] = f"--output={tmp_path}/new/deep/stats.npz"
    assert cli.precalc_stats(argv) == 1
    assert not (tmp_path / "new").exists()


def test_an_array_of_a_file_is_named_on_the_command_line(tmp_path, capsys):
    images = tmp_path / "x.npz"
    np.savez(images, x_test=np.zeros((3, 4, 4, 3), np.uint8), x_train=np.zeros(3))
    args = [f"{images}:x_test", f"--output={images}"]
    assert cli.precalc_stats(["p.py", *args]) == 2
    assert f"the output would replace {images}" in capsys.readouterr().err
    assert cli.compute_fid(["c.py", f"{images}:x_train", f"{images}:x_test"]) == 1
    assert f"{images}:x_train has shape (3,)" in capsys.readouterr().err


def test_an_address_is_no_path(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.npz")
    for args in (
        ("gs://bucket/images", tmp_path / "a.npz"),
        (tmp_path / "a.npz", "https://host/a.npz"),
    ):
        assert cli.compute_fid(["c.py", *map(str, args)]) == 1
        assert "is an address, and only files" in capsys.readouterr().err
    args = ["folder", "--output=gs://bucket/a.npz"]
    assert cli.precalc_stats(["p.py", *args]) == 1
    assert "gs://bucket/a.npz is an address" in capsys.readouterr().err
    assert stats(["s.py", "merge", "a.npz", "--output=gs://bucket/b.npz"]) == 1
    assert "gs://bucket/b.npz is an address" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]

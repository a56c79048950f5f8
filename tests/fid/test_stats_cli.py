"""What stats.py says of files whose content is known, and what it exits with."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time

import hostile_arrays
import numpy as np
import prepared_cifar10
import pytest
import rounding
from PIL import Image
from toy_extractors import Noted

import fid
from fid import hosted, inspection
from fid.cli import precalc_stats
from fid.stats_cli import stats, verify_published
from fid.studies import cifar10, cifar10_numbers

SHA = "ab" * 32


def facts(n, **changes):
    known = {
        "n": n,
        "source": "images",
        "source_sha256": "12" * 32,
        "source_resolution": "32x32",
        "pixels": "8-bit",
        "extractor": "toy",
        "extractor_sha256": SHA,
        "resize": "none",
        "dtype": "float32",
        "versions": {"tensorflow": "2.21.0"},
        "created": "2026-01-02T03:04:05+00:00",
    }
    return {**known, **changes}


def write(path, n=50, d=6, seed=0, provenance=True, **changes):
    """Statistics of n random features of dimension d; returns the features."""
    features = np.random.default_rng(seed).normal(size=(n, d))
    moments = fid.Moments(d)
    moments.update(features)
    moments.statistics(facts(n, **changes) if provenance else None).save(path)
    return features


def indefinite(sigma):
    """Correlations larger than one, which no covariance has."""
    return sigma + 10 * (1 - np.eye(len(sigma)))


def run(*arguments):
    return stats(["stats.py", *map(str, arguments)])


@pytest.fixture
def authors(tmp_path):
    """A file as the paper's authors wrote theirs: of rank 2 of 4, trace 6."""
    path = tmp_path / "authors.npz"
    np.savez_compressed(path, mu=np.arange(4.0), sigma=np.diag([5.0, 1.0, 0.0, 0.0]))
    return path


class TestShow:
    def test_says_what_is_known(self, tmp_path, capsys):
        path = tmp_path / "a.npz"
        features = write(path)
        assert run("show", path, "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)
        trace = np.trace(np.cov(features, rowvar=False))
        # Sums of 50 squares of differences, of six features.
        assert found.pop("trace") == pytest.approx(
            trace, rel=2 * rounding.gamma(2 * 56)
        )
        assert found.pop("provenance") == facts(50)
        assert found == {
            "file": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "dimension": 6,
            "n": 50,
            "written_by": "tf-ttur, 2026-01-02T03:04:05+00:00, tensorflow 2.21.0",
            "rank": 6,
            "full_rank": True,
        }
        assert run("show", path) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == str(path)
        assert ["source_resolution", "32x32"] in [line.split() for line in lines]
        assert ["rank", "6,", "full", "rank"] in [line.split() for line in lines]

    def test_says_whose_a_file_without_provenance_is(self, authors, capsys):
        assert run("show", authors) == 0
        out = capsys.readouterr().out
        assert "no provenance: as the authors' files have" in out
        assert "2, not of full rank" in out
        assert run("show", authors, "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["n"], found["provenance"]) == (None, None)
        assert (found["trace"], found["rank"], found["full_rank"]) == (6.0, 2, False)

    @pytest.mark.parametrize(
        "words",
        [
            {"source": "\x1b[2Jgone\nn  7"},
            {"created": "\x1b[2Jgone\nn  7"},
            {"versions": {"\x1b[2Jgone\nn  7": 1}},
            {"\x1b[2Jgone\nn  7": 1},
        ],
    )
    def test_control_codes_in_a_file_are_not_obeyed(self, words, tmp_path, capsys):
        write(tmp_path / "a.npz")
        assert run("show", tmp_path / "a.npz") == 0
        lines = capsys.readouterr().out.count("\n")
        write(tmp_path / "a.npz", **words)
        assert run("show", tmp_path / "a.npz") == 0
        out = capsys.readouterr().out
        assert out.replace("\n", "").isprintable()
        assert out.count("\n") - lines in (0, 1)
        assert r"\x1b[2Jgone\nn  7" in out

    def test_names_are_printed_on_one_line(self, tmp_path, capsys):
        names = [tmp_path / "a\nFID: 0.npz", tmp_path / "é\udcff.npz"]
        for path in names:
            write(path)
            for command in ("show", "verify"):
                assert run(command, path) == 0
                out = capsys.readouterr().out
                assert out.splitlines()[0] == repr(str(path))
        output = str(tmp_path / "o\n.npz")
        assert run("merge", *names, f"--output={output}") == 0
        assert capsys.readouterr().out == f"{output!r}: 100 images, 6 features\n"
        # As it is on a terminal of another time.
        assert run("show", *names, "--json") == 0
        out = capsys.readouterr().out
        assert out.isascii()
        assert [each["file"] for each in json.loads(out)] == list(map(str, names))

    def test_a_pipe_is_not_waited_for(self, tmp_path, capsys):
        os.mkfifo(tmp_path / "pipe.npz")
        assert run("show", tmp_path / "pipe.npz") == 1
        assert "no regular file" in capsys.readouterr().err
        assert run("verify", tmp_path / "pipe.npz") == 1
        write(tmp_path / "a.npz")
        pipe = f"--inception={tmp_path / 'pipe.npz'}"
        assert run("verify", tmp_path / "a.npz", pipe) == 1
        assert "no regular file" in capsys.readouterr().err

    def test_what_is_no_statistics_file_is_an_error(self, tmp_path, capsys):
        np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
        assert run("show", tmp_path / "images.npz") == 1
        assert "images.npz is not a statistics file" in capsys.readouterr().err
        assert run("show", tmp_path / "nowhere.npz") == 1
        assert "nowhere.npz" in capsys.readouterr().err


class TestDiff:
    def test_names_what_differs_and_gives_the_distance(self, tmp_path, capsys):
        one, two = tmp_path / "one.npz", tmp_path / "two.npz"
        write(one, n=400)
        write(two, n=300, seed=1, pixels="float", source_resolution="64x64")
        assert run("diff", one, two) == 0
        out = capsys.readouterr().out
        differing = [line for line in out.splitlines() if "not measured alike" in line]
        assert len(differing) == 2
        assert "pixels is '8-bit'" in differing[0]
        assert "'float'" in differing[0]
        assert "source_resolution is '32x32'" in differing[1]
        assert "n: 400 | 300" in out
        assert "pixels:" not in out
        value = fid.frechet_distance(*map(fid.Statistics.load, (one, two)))
        assert out.splitlines()[-1] == f"frechet_toy: {value:.6f}"

        assert run("diff", one, two, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["frechet_toy"] == value
        assert len(found["protocol_differences"]) == 2
        assert found["other_differences"] == {"n": [400, 300]}

    def test_is_the_fid_only_of_the_graph_of_2015(self, tmp_path, capsys):
        path = tmp_path / "a.npz"
        write(path, extractor="inception_2015")
        assert run("diff", path, path) == 0
        assert capsys.readouterr().out == "measured alike\nFID: 0.000000\n"

    def test_of_a_set_and_itself_is_zero(self, tmp_path, capsys):
        write(tmp_path / "a.npz")
        assert run("diff", tmp_path / "a.npz", tmp_path / "a.npz") == 0
        assert capsys.readouterr().out == "measured alike\nfrechet_toy: 0.000000\n"

    def test_says_that_a_file_says_nothing(self, authors, capsys):
        assert run("diff", authors, authors) == 0
        assert "does not say how it was computed" in capsys.readouterr().out

    def test_other_dimensions_are_an_error(self, authors, tmp_path, capsys):
        write(tmp_path / "a.npz")
        assert run("diff", authors, tmp_path / "a.npz") == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "4 dimensions" in captured.err


class TestList:
    FILES = (
        "fid_stats_celeba.npz",
        "fid_stats_lsun_train.npz",
        "fid_stats_cifar10_train.npz",
        "fid_stats_svhn_train.npz",
        "fid_stats_imagenet_train.npz",
        "fid_stats_imagenet_valid.npz",
    )

    def test_names_the_six_and_the_users_own(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("TTUR_STATS", str(tmp_path))
        write(tmp_path / "mine.npz")
        (tmp_path / "notes.txt").write_text("no statistics")
        np.savez(tmp_path / "images.npz", images=np.zeros(3))
        assert run("list") == 0
        out = capsys.readouterr().out
        for file in self.FILES:
            url = f"http://bioinf.jku.at/research/ttur/ttur_stats/{file}\n"
            assert out.count(url) == 1
        assert out.split(f"In {tmp_path}:")[1].split() == ["mine.npz"]

        assert run("list", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["file"] for each in found["hosted"]] == list(self.FILES)
        assert found["files"] == [str(tmp_path / "mine.npz")]

    @pytest.mark.parametrize("damage", hostile_arrays.DAMAGES)
    def test_survives_a_damaged_file(self, damage, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("TTUR_STATS", str(tmp_path))
        write(tmp_path / "good.npz")
        write(tmp_path / "bad.npz")
        hostile_arrays.DAMAGES[damage](tmp_path / "bad.npz")
        assert run("list") == 0
        assert "good.npz" in capsys.readouterr().out.splitlines()[-1]

    def test_looks_into_the_cache_folder_otherwise(self, cache, monkeypatch, capsys):
        monkeypatch.delenv("TTUR_STATS", raising=False)
        assert hosted.local_folder() == cache / "stats"
        assert run("list") == 0
        assert capsys.readouterr().out.endswith("none\n")


class TestVerify:
    def damaged(self, path, **changes):
        """Writes good statistics of 50 images with some arrays replaced."""
        write(path)
        with np.load(path) as arrays:
            found = dict(arrays)
        found.pop("rows", None)
        for key, change in changes.items():
            found[key] = change(found[key])
        np.savez(path, **found)

    def failed(self, *arguments, capsys):
        """Names of the checks that failed."""
        status = run("verify", *arguments, "--json")
        captured = capsys.readouterr()
        names = [
            check["name"]
            for each in json.loads(captured.out)
            for check in each["checks"]
            if not check["ok"]
        ]
        assert status == (1 if names else 0)
        assert all(name in captured.err for name in names)
        assert captured.err.count("\n") == status
        return names

    def test_good_files_pass(self, tmp_path, authors, capsys):
        for name, n in (("few.npz", 4), ("many.npz", 50)):
            write(tmp_path / name, n=n)
        files = [tmp_path / "few.npz", tmp_path / "many.npz", authors]
        assert self.failed(*files, capsys=capsys) == []
        assert run("verify", *files) == 0
        out = capsys.readouterr().out
        assert "FAILED" not in out
        assert "none, as the authors' files have none" in out
        assert "3, where 4 images of 6 features give at most 3" in out

    @pytest.mark.parametrize(
        ("key", "change", "check", "message"),
        [
            ("sigma", lambda x: x + np.triu(np.ones_like(x), 1), "structure", "symm"),
            ("sigma", lambda x: x * np.nan, "structure", "NaN"),
            ("mu", lambda x: x[:-1], "structure", r"shape \(5,\)"),
            ("mu", lambda x: x.astype(object), "structure", "never unpickled"),
            ("sigma", indefinite, "structure", "negative eigenvalues"),
            (
                "sigma",
                lambda x: x - 3 * x.diagonal().min() * np.eye(6),
                "structure",
                "negative",
            ),
        ],
    )
    def test_damage_is_named(self, key, change, check, message, tmp_path, capsys):
        path = tmp_path / "a.npz"
        self.damaged(path, **{key: change})
        assert self.failed(path, capsys=capsys) == [check]
        (found,) = [each for each in inspection.verify(path) if not each.ok]
        assert re.search(message, found.found)

    def test_a_variance_that_is_negative_in_some_direction_is_told(
        self, tmp_path, capsys
    ):
        # Too small a part of the whole for `load` to refuse it, and no rounding.
        values = np.ones(100)
        values[0] = -5e-5
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))
        np.savez(tmp_path / "a.npz", mu=values, sigma=turn * values @ turn.T)
        assert self.failed(tmp_path / "a.npz", capsys=capsys) == ["semidefinite"]
        assert run("verify", tmp_path / "a.npz") == 1
        assert "eigenvalues from -5e-05 to 1" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("changes", "checks", "message"),
        [
            ({"n": 4}, ["rank"], "6, where 4 images"),
            ({"n": 6}, ["rank"], "6, where 6 images of 6 features give at most 5"),
            ({"n": None}, ["provenance"], "does not say n"),
            ({"extractor_sha256": "ab12"}, ["provenance"], "'ab12', not 64"),
            ({"extractor": None}, ["provenance"], "does not name the extractor"),
            ({"extractor": "inception_2015"}, ["provenance"], "2048 features"),
        ],
    )
    def test_provenance_that_does_not_fit_is_named(
        self, changes, checks, message, tmp_path, capsys
    ):
        path = tmp_path / "a.npz"
        said = {key: x for key, x in {**facts(50), **changes}.items() if x}
        self.damaged(path, provenance=lambda _: np.array(json.dumps(said)))
        assert self.failed(path, capsys=capsys) == checks
        (found,) = [each for each in inspection.verify(path) if not each.ok]
        assert message in found.found

    def test_every_file_is_looked_at_and_every_fault_told(self, tmp_path, capsys):
        bad, good, worse = (tmp_path / f"{name}.npz" for name in ("bad", "good", "x"))
        self.damaged(bad, sigma=indefinite)
        write(good)
        worse.write_text("no zip")
        assert run("verify", bad, good, worse) == 1
        captured = capsys.readouterr()
        assert captured.out.count("FAILED") == 2
        assert "2 checks failed" in captured.err
        assert f"{bad}: structure" in captured.err
        assert f"{worse}: structure" in captured.err
        assert str(good) not in captured.err

    def test_weights_are_compared_with_the_graph(self, tmp_path, capsys):
        graph = tmp_path / "graph.pb"
        graph.write_bytes(b"weights")
        path = tmp_path / "a.npz"
        write(path)
        flag = f"--inception={graph}"
        assert self.failed(path, flag, capsys=capsys) == ["extractor"]
        write(path, extractor_sha256=hashlib.sha256(b"weights").hexdigest())
        assert self.failed(path, flag, capsys=capsys) == []
        assert run("verify", path, flag) == 0
        assert "not compared" not in capsys.readouterr().out
        write(path, provenance=False)
        assert run("verify", path, flag) == 0
        assert "not compared: the file names no weights" in capsys.readouterr().out

    def test_what_is_not_there_is_an_error(self, tmp_path, capsys):
        assert run("verify", tmp_path / "nowhere.npz") == 1
        assert "There is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_is_computed_again_from_its_images(synthetic_pb, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    source, path = tmp_path / "images", tmp_path / "a.npz"
    (source / "deeper").mkdir(parents=True)
    for index, image in enumerate(images):
        place = "deeper" if index % 2 else "."
        Image.fromarray(image).save(source / place / f"{index}.png")
    (source / "bad.png").write_text("no image")
    arguments = [f"--inception={synthetic_pb}", "--batch_size=8"]
    reading = ["--recursive", "--skip_bad"]
    made = ["x", str(source), f"--output={path}", *arguments, *reading]
    assert precalc_stats(made) == 0
    arguments = ["verify", path, f"--source={source}", *arguments]
    assert run(*arguments) == 1
    capsys.readouterr()
    assert run(*arguments, *reading) == 0
    out = capsys.readouterr().out
    for name in ("semidefinite", "provenance", "rank", "extractor", "source"):
        assert any(line.split()[:2] == [name, "ok:"] for line in out.splitlines())


class TestMerge:
    def test_of_shards_is_the_file_of_the_whole(self, tmp_path, capsys):
        shards = [tmp_path / f"{i}.npz" for i in range(3)]
        sizes = (5, 40, 30)
        features = [
            write(*each, seed=i)
            for i, each in enumerate(zip(shards, sizes, strict=True))
        ]
        output = tmp_path / "whole.npz"
        assert run("merge", *shards, f"--output={output}") == 0
        assert capsys.readouterr().out == f"{output}: 75 images, 6 features\n"
        whole, found = np.concatenate(features), fid.Statistics.load(output)
        assert found.n == 75
        # Sums of 75 features, and of products of two, in three parts.
        largest = np.abs(whole).max()
        few = 2 * rounding.gamma(75 + 3 * 4)
        atol = few * largest
        np.testing.assert_allclose(found.mu, whole.mean(0), rtol=0, atol=atol)
        expected = np.cov(whole, rowvar=False)
        atol = few * largest**2
        np.testing.assert_allclose(found.sigma, expected, rtol=0, atol=atol)
        assert run("verify", output) == 0

    def test_of_shards_measured_otherwise_writes_nothing(self, tmp_path, capsys):
        write(tmp_path / "a.npz")
        write(tmp_path / "b.npz", pixels="float")
        output = tmp_path / "whole.npz"
        shards = tmp_path / "a.npz", tmp_path / "b.npz"
        assert run("merge", *shards, f"--output={output}") == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "pixels is" in captured.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]

    def test_does_not_replace_a_shard(self, tmp_path, capsys):
        write(tmp_path / "a.npz")
        before = (tmp_path / "a.npz").read_bytes()
        assert run("merge", tmp_path / "a.npz", f"--output={tmp_path}/./a.npz") == 2
        assert "would replace" in capsys.readouterr().err
        assert (tmp_path / "a.npz").read_bytes() == before


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "expected one of show, diff, list, verify, merge"),
            (["draw"], "there is no draw"),
            (["show"], "at least one file"),
            (["diff", "a.npz"], "two files; got 1"),
            (["list", "a.npz"], "no arguments"),
            (["verify", "a", "b", "--source=c"], "one file; got 2"),
            (["show", "a.npz", "--output=b.npz"], "--output does not go with show"),
            (["merge", "a.npz"], "--output=FILE.npz is missing"),
            (["merge", "a.npz", "--output=b"], "does not end in .npz"),
            (["show", "a.npz", "--nonsense"], "nonsense"),
        ],
    )
    def test_wrong_ones_are_told(self, arguments, message, capsys):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err

    def test_help_names_every_command(self, capsys):
        assert run("--help") == 0
        out = capsys.readouterr().out
        assert all(f"stats.py {name} " in out for name in ("show", "diff", "list"))

    def test_tensorflow_is_not_imported(self, authors):
        code = (
            "import sys; from fid.stats_cli import stats; path = sys.argv[1]; "
            "done = [stats(['x', *rest]) for rest in "
            "(['show', path], ['diff', path, path], ['list'], ['verify', path])]; "
            "assert done == [0] * 4; assert 'tensorflow' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, authors],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr


class TestVerifyPublished:
    @pytest.fixture
    def prepared(self, tmp_path, monkeypatch):
        """CIFAR-10 on disk, small; a graph file; targets of which one disagrees."""
        random = np.random.default_rng(0)
        images = {
            split: random.integers(0, 256, (size, 32, 32, 3), np.uint8)
            for split, size in (("train", 70), ("test", 40))
        }
        prepared_cifar10.store(tmp_path, images)
        (tmp_path / "graph.pb").write_bytes(b"not looked at: the network is a stand-in")
        target = cifar10_numbers._distance("x", 0.0, 1.0, 20)
        (result,) = cifar10_numbers.measure_again(images, Noted(), [target])
        true = result.measured
        sizes = {split: len(each) for split, each in images.items()}
        monkeypatch.setattr(cifar10, "SIZES", sizes)
        monkeypatch.setattr("fid.extractors.inception.Inception", lambda *_: Noted())
        targets = (
            cifar10_numbers._distance("fid_20", true + 0.005, 1e-2, 20),
            cifar10_numbers._score("is_all", 99.0, 0.2, "test", None, False),
        )
        monkeypatch.setattr(cifar10_numbers, "TARGETS", targets)
        self.true = true
        return [f"--data_dir={tmp_path}", f"--inception={tmp_path}/graph.pb"]

    def test_prints_a_row_for_each_number(self, prepared, capsys):
        assert verify_published(["verify_published.py", *prepared]) == 1
        captured = capsys.readouterr()
        headings, first, second = captured.out.splitlines()
        assert headings.split() == ["published", "measured", "difference", "tolerance"]
        numbers = [f"{self.true + 0.005:.6f}", f"{self.true:.6f}", "-0.005000", "0.01"]
        assert first.split() == ["fid_20", *numbers, "ok"]
        assert second.split()[0] == "is_all"
        assert second.split()[-2:] == ["0.2", "DIFFERS"]
        assert "1 of 2 numbers differ" in captured.err
        assert captured.err.count("\n") == 1

    def test_succeeds_where_all_asked_for_agree(self, prepared, capsys):
        assert verify_published(["x", "--only=fid_20", "--json", *prepared]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        # The same computation, then a sum and a difference.
        few = {"rel": 0, "abs": rounding.gamma(2) * (self.true + 0.005)}
        assert found.pop("measured") == pytest.approx(self.true, **few)
        assert found.pop("difference") == pytest.approx(-0.005, **few)
        assert found.pop("published") == pytest.approx(self.true + 0.005, **few)
        assert found == {"name": "fid_20", "tolerance": 1e-2, "ok": True}

    def test_unknown_names_are_told(self, capsys):
        assert verify_published(["x", "--only=fid_256,fid_7"]) == 2
        assert "there is no fid_7; choose from is_100" in capsys.readouterr().err

    def test_missing_data_and_graph_are_told_at_once(
        self, prepared, tmp_path, capsys, monkeypatch
    ):
        started = time.monotonic()
        assert verify_published(["x", f"--data_dir={tmp_path}/nowhere"]) == 1
        assert "CIFAR-10 is not prepared" in capsys.readouterr().err
        monkeypatch.setenv("TTUR_INCEPTION", str(tmp_path / "none.pb"))
        assert verify_published(["x", prepared[0]]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "none.pb" in captured.err
        assert captured.err.count("\n") == 1
        assert time.monotonic() - started < 5

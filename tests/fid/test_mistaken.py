"""Addresses where paths are expected, and files that are not what their names say."""

import pathlib

import numpy as np
import pytest

import fid
from fid import InputError, Statistics, inspection, open_images, stats_cli
from fid import cli as fid_cli
from fid.extractors.inception import Inception
from fid.measure import open_set
from fid.mistaken import cache_dir, check_local, local_path, other_kind
from fid.tfds import data_folder
from tf_ttur import callbacks, cli, datasets, sample_cli, sampling
from tf_ttur.datasets import text
from tf_ttur.runs import RunFolder
from tf_ttur.studies import disturbance_cli, kill_drill, sweep_cli
from tf_ttur.theory import cli as theory_cli

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>404</body></html>"


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("gs://bucket/x.npz", "(gcloud storage cp -r gs://bucket/x.npz .)"),
        ("S3://bucket/folder", "(aws s3 cp --recursive s3://bucket/folder .)"),
        ("https://host/x.npz", "(curl -LO https://host/x.npz)"),
        (pathlib.Path("gs://bucket/x.npz"), "cp -r gs://bucket/x.npz .)"),
        ("ftp://host/x", "copy it here first, or"),
    ],
)
def test_an_address_is_refused_with_the_way_to_copy_it(address, command):
    for read in (check_local, open_images, Statistics.load):
        with pytest.raises(InputError, match="only files and folders of this") as error:
            read(address)
        assert command in str(error.value)


def test_an_address_is_refused_wherever_a_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    statistics = Statistics(np.zeros(2), np.eye(2))
    for take in (
        statistics.save,
        data_folder,
        Inception,
        inspection.verify,
        fid.check_or_download_inception,
        lambda path: fid.calculate_fid_given_paths([path, path], None),
        lambda path: open_images([path]),
        lambda path: datasets.load("folder", data_dir=path),
        lambda path: datasets.load("cifar10", data_dir=path),
        lambda path: text.load("text_files", text_files=path),
    ):
        with pytest.raises(InputError, match="gs://bucket/x is an address"):
            take("gs://bucket/x")
    assert not list(tmp_path.iterdir())


def test_paths_that_look_like_addresses_are_paths(tmp_path, monkeypatch):
    for path in (r"C:\x.npz", "C:/x.npz", "a:b.npz", "x.npz:y", tmp_path):
        check_local(path)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("gs:/bucket").mkdir(parents=True)
    check_local("gs:/bucket")
    check_local(pathlib.Path("gs://bucket"))
    with pytest.raises(InputError, match="gs://bucket is an address"):
        check_local("gs://bucket")


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("gs://b/x", "copy it (gcloud storage cp -r HERE gs://b/x), or mount"),
        ("s3://b/x", "copy it (aws s3 cp [--recursive] HERE s3://b/x), or mount"),
        ("https://b/x", "write it here, then copy it, or mount"),
    ],
)
def test_an_address_to_write_to_is_refused_with_the_way_back(address, command):
    for write in (
        lambda path: local_path(path, writing=True),
        Statistics(np.zeros(2), np.eye(2)).save,
        RunFolder,
        lambda path: callbacks.Samples(path),
        lambda path: sampling.save_images(path, [], 1),
        lambda path: sampling.save_text(path, []),
    ):
        with pytest.raises(InputError, match="of this machine are written") as error:
            write(address)
        assert command in str(error.value)


def test_programs_refuse_addresses_before_anything_is_made(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    address = "gs://bucket/x"
    for main, *args in (
        (cli.train, f"--workdir={address}"),
        (cli.train, f"--workdir={address}", "--dry_run"),
        (cli.reproduce, f"--workdir={address}"),
        (sweep_cli.sweep, f"--workdir={address}"),
        (sweep_cli.sweep, f"--workdir={address}", "--table_only"),
        (sample_cli.sample, address),
        (kill_drill.kill_drill, f"--workdir={address}"),
        (disturbance_cli.disturbance_study, f"--output={address}"),
        (theory_cli.saddle, f"--output={address}"),
        (theory_cli.nash, address),
    ):
        assert main(["x.py", *args]) == 1
        error = capsys.readouterr().err
        assert f"{address} is an address" in error, args
        reading = args[-1] in (address, "--table_only")
        assert ("copy it here first" in error) == reading
    assert not list(tmp_path.iterdir())


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=images)
    np.save(tmp_path / "images.npy", images)
    for path in ("~/images.npy", "~/images.npz:x", pathlib.Path("~/images.npy")):
        assert open_images(path).count == 3
    Statistics(np.zeros(2), np.eye(2), 3, {"n": 3}).save("~/stats.npz")
    assert (tmp_path / "stats.npz").is_file()
    assert isinstance(open_set("~/stats.npz"), Statistics)
    assert RunFolder("~/run").path == tmp_path / "run"
    assert stats_cli.stats(["s.py", "merge", "~/stats.npz", "--output=~/x.npz"]) == 0
    assert (tmp_path / "x.npz").is_file()
    assert stats_cli.stats(["s.py", "show", "~/x.npz"]) == 0
    capsys.readouterr()
    args = ["merge", "~/x.npz", "--output=~/x.npz"]
    assert stats_cli.stats(["s.py", *args]) == 2
    assert "would replace" in capsys.readouterr().err
    for read in (open_images, Statistics.load, RunFolder, open_set):
        with pytest.raises(InputError, match="no such home folder"):
            read("~nosuchuser/x.npz")


@pytest.mark.parametrize(
    ("data", "words"),
    [(POINTER, "is a Git LFS pointer"), (PAGE, "is an HTML page")],
)
@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.zip"])
def test_another_file_under_the_name_of_an_archive_is_named(
    tmp_path, name, data, words
):
    (tmp_path / name).write_bytes(data)
    for read in (open_images, Statistics.load):
        with pytest.raises(InputError, match=rf"{name} {words}, no .*file\. ") as error:
            read(tmp_path / name)
        assert str(error.value).count(".") < 5
    assert other_kind(data)[0] in words


def test_what_is_merely_damaged_is_not_taken_for_something_else(tmp_path):
    assert other_kind(b"PK\x03\x04") is None
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.npz is damaged or no \.npz file"):
        open_images(tmp_path / "x.npz")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("TTUR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "tf-ttur"
    monkeypatch.setenv("TTUR_CACHE", "~/here")
    assert cache_dir() == pathlib.Path("~/here").expanduser()
    monkeypatch.setenv("TTUR_CACHE", "~nosuchuser/x")
    with pytest.raises(InputError, match="no such home folder"):
        cache_dir()
    monkeypatch.delenv("TTUR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == pathlib.Path("~/.cache/tf-ttur").expanduser()


@pytest.mark.parametrize("variable", ["TTUR_CACHE", "XDG_CACHE_HOME"])
def test_no_cache_is_made_of_an_address(variable, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TTUR_CACHE")
    monkeypatch.delenv("TTUR_INCEPTION", raising=False)
    monkeypatch.setenv(variable, "gs://bucket/cache")
    np.save("x.npy", np.zeros((4, 8, 8, 3), np.uint8))
    for program, flags in (
        (fid_cli.compute_fid, ["x.npy", "x.npy"]),
        (fid_cli.precalc_stats, ["x.npy", "--output=x.npz"]),
        (cli.train, ["--workdir=run", "--steps=1"]),
        (disturbance_cli.disturbance_study, ["--output=study"]),
    ):
        assert program(["x", *flags]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"${variable} cannot be used: gs://bucket/cache is an address" in said
    assert not (tmp_path / "gs:").exists()

"""Addresses where paths are expected, and files that are not what their names say."""

import pathlib

import numpy as np
import pytest

import fid
from fid import InputError, Statistics, inspection, open_images
from fid.extractors.inception import Inception
from fid.mistaken import check_local, other_kind
from fid.tfds import data_folder
from tf_ttur import datasets
from tf_ttur.datasets import text

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
    check_local("gs://bucket")


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

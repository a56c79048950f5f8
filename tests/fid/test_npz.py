"""Headers of arrays and the errors of damaged files, whoever reads them."""

import errno
import io
import lzma
import os
import struct
import tokenize
import zipfile
import zlib

import hostile_arrays
import numpy as np
import pytest

from fid import InputError
from fid.npz import opened, read_header, reading


def saved(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    file.seek(0)
    return file


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["|u1", "<f4", ">f8"])
def test_a_header_says_shape_order_and_type(version, order, dtype):
    array = np.array(np.arange(6).reshape(2, 3), dtype, order=order)
    file = saved(array, version)
    assert read_header(file, "x") == ((2, 3), order == "F", np.dtype(dtype))
    # The file is left at the first byte of the data.
    data = np.frombuffer(file.read(), dtype)
    np.testing.assert_array_equal(data, array.ravel(order))


def test_an_array_of_python_objects_is_not_unpickled():
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    file.seek(0)
    with pytest.raises(InputError, match="^mu holds Python objects"):
        read_header(file, "mu")


def test_the_version_for_tables_is_refused():
    file = saved(np.zeros(2, [("größe", "<f8")]), (3, 0))
    with pytest.raises(InputError, match=r"^mu has version \(3, 0\) .* plain numbers"):
        read_header(file, "mu")


@pytest.mark.parametrize("header", hostile_arrays.HEADERS)
def test_a_hostile_header_is_an_error_on_one_line(tmp_path, header):
    path = tmp_path / "x.npy"
    path.write_bytes(hostile_arrays.array(header))
    with (
        pytest.raises(InputError, match=r"x\.npy") as error,
        reading(path, ".npy"),
        open(path, "rb") as file,
    ):
        read_header(file, str(path))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "error",
    [
        EOFError("no more"),
        IndexError("list index"),
        KeyError("x"),
        NotImplementedError("compression 99"),
        OverflowError("too large"),
        RecursionError("too deep"),
        SyntaxError("invalid"),
        TypeError("int"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        lzma.LZMAError("corrupt"),
        struct.error("unpack"),
        tokenize.TokenError("EOF in multi-line statement"),
        zipfile.BadZipFile("Bad magic\nnumber"),
        zlib.error("invalid block"),
    ],
)
def test_whatever_a_damaged_file_ends_in_is_an_error_that_names_it(tmp_path, error):
    with (
        pytest.raises(InputError, match=r"x\.npz is damaged or no \.npz") as caught,
        reading(tmp_path / "x.npz"),
    ):
        raise error
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is error


def test_other_errors_say_what_to_do(tmp_path):
    for error, message in (
        (MemoryError(), "claims more data than fits in memory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Cannot read .*: Input/output"),
        (InputError("as it was"), "^as it was$"),
    ):
        with pytest.raises(InputError, match=message), reading(tmp_path / "x.npz"):
            raise error
    with pytest.raises(KeyboardInterrupt), reading(tmp_path / "x.npz"):
        raise KeyboardInterrupt


def test_what_might_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.npz", "regular"),
    ):
        with pytest.raises(InputError, match=message), reading(path):
            pytest.fail("it was entered")


def test_an_archive_gives_its_arrays_and_no_python_objects(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.arange(3), two=np.array([{}], dtype=object))
    with opened(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["one", "two"]
        np.testing.assert_array_equal(arrays["one"], [0, 1, 2])
    with (
        pytest.raises(InputError, match=r"a\.npz is damaged or no \.npz file"),
        opened(tmp_path / "a.npz") as arrays,
    ):
        arrays["two"]


def test_what_is_no_array_in_an_archive_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("one.npy", b"no array")
    with (
        pytest.raises(InputError, match="is damaged .* holds as one is no array"),
        opened(tmp_path / "a.npz") as arrays,
    ):
        arrays["one"]
    np.save(tmp_path / "b.npz.npy", np.arange(3))
    os.rename(tmp_path / "b.npz.npy", tmp_path / "b.npz")
    with (
        pytest.raises(InputError, match=r"b\.npz is damaged"),
        opened(tmp_path / "b.npz"),
    ):
        pytest.fail("it was entered")

"""Arrays of images in files: whole, damaged and hostile."""

import io
import pathlib
import tracemalloc
import zipfile

import hostile_arrays
import numpy as np
import pytest
from image_folders import read

from fid import InputError, open_images
from fid.sources.arrayfile import ArrayFile, split_member

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)


def save(path, **arrays):
    if path.suffix == ".npy":
        np.save(path, *arrays.values())
    else:
        np.savez(path, **arrays)
    return path


def header(descr, shape, order=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": order, "shape": shape}
    )
    return file.getvalue()


def member(path, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", data)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<f2", ">f4", "<f8"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "compressed.npz"])
def test_pieces_are_the_images_in_order(tmp_path, name, dtype, order):
    images = np.array(IMAGES, dtype, order=order)
    if name == "compressed.npz":
        np.savez_compressed(tmp_path / name, images)
    else:
        save(tmp_path / name, images=images)
    file = ArrayFile(tmp_path / name)
    assert (file.shape, file.dtype) == (images.shape, images.dtype)
    for _ in range(2):
        pieces = list(file.pieces(3))
        assert [len(piece) for piece in pieces] == [3, 3, 1]
        np.testing.assert_array_equal(np.concatenate(pieces), images)


@pytest.mark.parametrize("save_archive", [np.savez, np.savez_compressed])
def test_archives_are_streamed_and_plain_files_mapped(tmp_path, save_archive):
    images = np.full((400, 128, 128, 3), 200, np.uint8)  # 20 MB
    save_archive(tmp_path / "x.npz", images)
    tracemalloc.start()
    count = sum(len(piece) for piece in ArrayFile(tmp_path / "x.npz").pieces(10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 400
    assert peak < 5e6
    np.save(tmp_path / "x.npy", images)
    for piece in ArrayFile(tmp_path / "x.npy").pieces(10):
        assert isinstance(piece, np.memmap)


def test_of_several_arrays_the_one_called_images_is_taken(tmp_path):
    labels = np.arange(7)
    path = save(tmp_path / "a.npz", labels=labels, arr_0=IMAGES[:1], images=IMAGES)
    assert ArrayFile(path).shape == IMAGES.shape
    path = save(tmp_path / "b.npz", labels=labels, arr_0=IMAGES)
    assert ArrayFile(path).shape == IMAGES.shape
    path = save(tmp_path / "c.npz", labels=labels, x=IMAGES)
    with pytest.raises(InputError, match=r"c.npz holds the arrays labels, x;"):
        ArrayFile(path)
    path = save(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"\(none\)"):
        ArrayFile(path)
    path = save(tmp_path / "e.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(InputError, match=r"e.npz holds statistics .* no images"):
        ArrayFile(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_python_objects_are_never_unpickled(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([Trap()], object), allow_pickle=True)
    else:
        np.savez(path, images=np.array([Trap()], object))
    with pytest.raises(InputError, match=r"x\.np. .*never unpickled"):
        ArrayFile(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 5, 60, 200, -1])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    path = save(tmp_path / f"x{suffix}", images=IMAGES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"x\{suffix} is damaged"):
        ArrayFile(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_is_found_by_the_checksum(tmp_path, compressed):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", IMAGES)
    damaged = bytearray((tmp_path / "x.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(InputError, match="x.npz is damaged"):
        list(ArrayFile(tmp_path / "x.npz").pieces(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("|u1", (10**12, 4, 4, 3)), "claims 48,000,000,000,000 bytes"),
        (header("|u1", (1, 10**6, 10**6, 3)), "1000000 x 1000000 pixels"),
        (header("|u1", (-1, 4, 4, -3)), "expected images"),
        (header("|u1", (2**70, 1, 1, 1)), "claims"),
        (header("|u1", (2, 2, 2, 3)) + bytes(25), "claims 24 bytes .* there are 25"),
        (header("|b1", (1, 2, 2, 3)) + bytes(12), "holds bool"),
        (header([("r", "u1")], (1, 2, 2, 3)) + bytes(12), "holds"),
        (header("|u1", (2, 4, 3, 4)) + bytes(96), "drop the alpha channel"),
        (header("|u1", (2, 3, 8, 8)) + bytes(384), r"transpose\(0, 2, 3, 1\)"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "for tables"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "damaged"),
        (b"<not an array>", "damaged"),
        *((hostile_arrays.array(header), "x|y") for header in hostile_arrays.HEADERS),
    ],
)
def test_headers_are_not_believed(tmp_path, data, message):
    (tmp_path / "x.npy").write_bytes(data)
    member(tmp_path / "x.npz", data)
    member(tmp_path / "y.npz", data, zipfile.ZIP_DEFLATED)
    for name in ("x.npy", "x.npz", "y.npz"):
        with pytest.raises(InputError, match=message) as error:
            ArrayFile(tmp_path / name)
        assert name in str(error.value)
        assert str(error.value).isprintable()


@pytest.mark.parametrize("damage", hostile_arrays.DAMAGES)
def test_damaged_tables_of_contents_are_refused(tmp_path, damage):
    path = save(tmp_path / "x.npz", images=IMAGES)
    hostile_arrays.DAMAGES[damage](path)
    with pytest.raises(InputError, match=r"x\.npz is damaged .* Copy or make it again"):
        list(ArrayFile(path).pieces(3))


def test_an_archive_that_lies_about_its_sizes_is_refused(tmp_path):
    data = header("|u1", (1000, 4, 4, 3)) + bytes(200)
    path = member(tmp_path / "x.npz", data)
    raw = path.read_bytes()
    true, false = len(data), len(data) - 200 + 48_000
    raw = raw.replace(true.to_bytes(4, "little"), false.to_bytes(4, "little"))
    path.write_bytes(raw)
    with pytest.raises(InputError, match="x.npz is damaged"):
        list(ArrayFile(path).pieces(100))


def test_encrypted_arrays_are_refused(tmp_path):
    path = save(tmp_path / "x.npz", images=IMAGES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="x.npz is encrypted"):
        ArrayFile(path)


def test_one_array_of_several_is_named_with_a_colon(tmp_path):
    others = {"x_train": IMAGES[:2], "a/b:c": IMAGES[2:3], "mu": np.zeros(3)}
    path = save(tmp_path / "x.npz", x_test=IMAGES, **others).rename(
        tmp_path / "a:b.NPZ"
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "no array")
    for name, expected in (("x_test", IMAGES), ("a/b:c", IMAGES[2:3])):
        assert split_member(f"{path}:{name}") == (path, name)
        source = open_images(f"{path}:{name}")
        np.testing.assert_array_equal(np.stack(read(source)), expected)
        assert source.provenance["source"] == f"{path}:{name}"
        assert source.provenance["source_kind"] == "npz"
    with pytest.raises(InputError, match="NPZ: ends in a colon without the name of"):
        open_images(f"{path}:")
    with pytest.raises(InputError, match="has no array y: it holds the arrays x_test,"):
        open_images(f"{path}:y")
    with pytest.raises(InputError, match=r"NPZ:mu has shape \(3,\)"):
        open_images(f"{path}:mu")
    with pytest.raises(InputError, match=r"holds notes\.txt.*/a:b\.NPZ:NAME for one"):
        open_images(path)


def test_a_colon_in_a_path_is_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "x.npz", a=IMAGES[:1], b=IMAGES[1:])
    for each in (r"C:\data\x.npz", "C:/x.npz", "missing.npz:a", "x.npz", "x.npy:a"):
        assert split_member(each)[1] is None
    with pytest.raises(InputError, match=r"There is no missing\.npz:a"):
        open_images("missing.npz:a")
    with pytest.raises(InputError, match=r"arrays a, b; .* as x\.npz:NAME"):
        open_images("x.npz")
    # What exists under the whole name is meant by it.
    save(tmp_path / "x.npz:a.npz", images=IMAGES[:4])
    assert split_member("x.npz:a.npz") == (pathlib.Path("x.npz:a.npz"), None)
    assert open_images("x.npz:a.npz").count == 4
    assert open_images(f"{path}:b").count == 6


def test_two_members_of_one_name_are_refused(tmp_path):
    path = save(tmp_path / "x.npz", images=IMAGES, other=IMAGES[:1])
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("images.npy", b"")
    for name in (path, f"{path}:images"):
        with pytest.raises(InputError, match="holds 2 arrays of the name images"):
            open_images(name)
    assert open_images(f"{path}:other").count == 1

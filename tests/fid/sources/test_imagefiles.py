"""Folders, archives and lists of image files."""

import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from image_folders import encoded, pixels, read, write_image, write_zip
from PIL import Image

from fid import InputError, open_images
from fid.sources.imagefiles import FilesSource, find_images


def _bomb(path):
    Image.new("1", (12_000, 12_000)).save(path)


def _truncated(path):
    Image.fromarray(pixels(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def test_a_folder_is_read_in_the_order_of_names_whatever_the_sizes(tmp_path):
    written = {}
    for index, name in enumerate(["b.png", "a.PNG", "c.bmp", "ä 1.png", "d.webp"]):
        written[name] = pixels(5 + index, 9, seed=index)
        Image.fromarray(written[name]).save(tmp_path / name, lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    source = open_images(tmp_path)
    images = read(source, 2)
    assert source.count == 5
    for name, image in zip(sorted(written), images, strict=True):
        np.testing.assert_array_equal(image, written[name])
    assert source.provenance["source_resolution"] == "mixed"
    assert source.lossy == 0


def test_the_digest_depends_on_the_pixels_only(tmp_path):
    digests = []
    for name, suffix, seed in (("a", "png", 0), ("b", "bmp", 0), ("c", "png", 1)):
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(pixels(seed=seed)).save(folder / f"x.{suffix}")
        source = open_images(folder)
        read(source)
        digests.append(source.provenance["source_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_each_kind_of_pixel_has_its_treatment(tmp_path):
    rgb = pixels()
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "1_grey.png")
    Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "2_alpha.png")
    wide = grey.astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "3_wide.png")
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "4_palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "5_turned.png", exif=turned)
    Image.new("CMYK", (7, 9), (0, 255, 255, 0)).save(tmp_path / "6_cmyk.jpg")
    source = open_images(tmp_path)
    by_kind = read(source)
    assert all(image.shape == (9, 7, 3) for image in by_kind)
    assert all(image.dtype == np.uint8 for image in by_kind)
    three = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(by_kind[0], three)
    np.testing.assert_array_equal(by_kind[1], rgb)
    np.testing.assert_array_equal(by_kind[2], three)
    np.testing.assert_array_equal(by_kind[3], three)
    np.testing.assert_array_equal(by_kind[4], rgb)
    # Not of rounding: the last one is a JPEG, of whole numbers in another colour space.
    assert by_kind[5][0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert source.lossy == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_text("not a picture"), "no PNG, JPEG, .*not a pi"),
        (_truncated, "truncated"),
        (_bomb, "12000 x 12000 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size:Warning:PIL")
def test_a_bad_image_is_named(tmp_path, make, message):
    Image.fromarray(pixels()).save(tmp_path / "good.png")
    make(tmp_path / "bad.png")
    with pytest.raises(InputError, match=message) as error:
        read(open_images(tmp_path))
    assert "bad.png" in str(error.value)


def test_a_pipe_is_no_image(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert len(read(open_images(tmp_path))) == 1


def test_folders_are_entered_when_asked_in_the_order_of_paths(tmp_path):
    root = tmp_path / "root"
    names = ["b/2.png", "a.png", "a/9.PNG", "a/b/1.tif", "c.GIF", "b.tiff"]
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    # Code points: "." comes before "/".
    order = ["a.png", "a/9.PNG", "a/b/1.tif", "b.tiff", "b/2.png", "c.GIF"]
    source = open_images(root, recursive=True)
    images = read(source)
    assert source.count == 6
    for name, image in zip(order, images, strict=True):
        if not name.endswith("GIF"):  # that one went through a palette
            np.testing.assert_array_equal(image, pixels(seed=names.index(name)))
    flat = open_images(root)
    assert flat.count == 3
    np.testing.assert_array_equal(read(flat)[0], pixels(seed=1))
    assert source.provenance["source_formats"] == ["gif", "png", "tiff"]


def test_links_in_circles_end_and_nothing_is_read_twice(tmp_path):
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "elsewhere" / "2.png", 1)
    root = tmp_path / "a"
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root)
    (root / "twice").symlink_to(tmp_path / "elsewhere")
    assert open_images(root, recursive=True).count == 2
    os.symlink("loop.png", root / "loop.png")
    os.symlink("gone", root / "gone.png")
    with pytest.raises(InputError, match=r"2 of 4 .*gone.png \(cannot.*; loop.png \("):
        read(open_images(root, recursive=True))


def test_hidden_and_other_things_are_passed_over(tmp_path):
    for name in (".a.png", "._x.png", ".git/a.png", "__MACOSX/a.png", "good/a.png"):
        write_image(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "good" / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    assert open_images(tmp_path, recursive=True).count == 1
    with pytest.raises(InputError, match=r"--recursive enters its 2 folders"):
        open_images(tmp_path)


def test_names_of_all_kinds_work_and_are_printed_on_one_line(tmp_path):
    names = [
        "a\nb.png",
        "größe.png",
        "画像 1.png",
        b"\xff.png".decode(errors="surrogateescape"),
    ]
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)
    assert len(read(open_images(tmp_path))) == 4
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError) as error:
        read(open_images(tmp_path))
    message = str(error.value)
    assert message.isprintable()
    assert r"'a\nb.png' (the file is empty); größe.png" in message
    folder = tmp_path / "line\nbreak"
    write_image(folder / "x.png")
    source = open_images(folder)
    read(source)
    assert source.label.isprintable()


def test_all_bad_images_are_listed_and_no_more_are_given_after_the_first(tmp_path):
    for index in range(60):
        path = tmp_path / f"{index:02d}.png"
        write_image(path, index)
        if index == 25 or index >= 36:
            path.write_bytes(path.read_bytes()[: 70 if index % 2 else 0])
    given = []
    with pytest.raises(InputError) as error:
        for batch in open_images(tmp_path).batches(5):
            given.append(len(batch))
    assert given == [5] * 5
    message = str(error.value)
    assert message.startswith(f"25 of 60 images of {tmp_path} cannot be used: 25.png (")
    assert "54.png" in message
    assert "55.png" not in message
    assert "; and 5 more. Replace" in message
    assert "--skip_bad" in message


def test_bad_images_are_left_out_and_counted_when_asked(tmp_path):
    for index in range(10):
        write_image(tmp_path / f"{index}.png", index)
    (tmp_path / "3.png").write_text("no image")
    (tmp_path / "9.png").write_bytes(b"")
    source = open_images(tmp_path, skip_bad=True)
    images = read(source)
    kept = [index for index in range(10) if index not in (3, 9)]
    for index, image in zip(kept, images, strict=True):
        np.testing.assert_array_equal(image, pixels(seed=index))
    assert source.count == 8
    assert source.names == [f"{index}.png" for index in kept]
    facts = source.provenance
    assert (facts["skipped"], facts["source_count"]) == (2, 8)
    assert facts["skipped_names"][1] == "9.png (the file is empty)"
    (warning,) = source.warnings
    assert "2 of 10 images" in warning
    assert "3.png" in warning
    for index in kept:
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(InputError, match="10 of 10 images"):
        read(open_images(tmp_path, skip_bad=True))


def test_provenance_says_what_was_done(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.jpg")
    write_image(tmp_path / "c.webp")
    (tmp_path / "b.jpg").rename(tmp_path / "b.png")
    Image.fromarray(pixels(channels=1)[..., 0]).save(tmp_path / "d.png")
    source = open_images(tmp_path)
    read(source)
    facts = source.provenance
    assert source.lossy == facts["source_lossy"] == 2
    assert facts["source_formats"] == ["jpeg", "png", "webp"]
    assert facts["source_treatments"] == {"grey repeated": 1}
    assert facts["source_kind"] == "folder"
    assert facts["source_resolution"] == "7x9"
    assert source.warnings == ()


def test_an_archive_is_read_like_a_folder(tmp_path):
    data = [encoded(pixels(seed=seed)) for seed in range(3)]
    path = write_zip(
        tmp_path / "x.ZIP",
        {
            "b/c.png": data[2],
            "../../b.PNG": data[0],
            "a.png": data[1],
            "__MACOSX/b/._c.png": b"no",
            "b/.hidden.png": b"no",
            "notes.txt": b"no",
            "folder.png/": b"",
        },
    )
    source = open_images(path)
    images = read(source, 2)
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(image, pixels(seed=seed))
    assert (source.count, source.provenance["source_kind"]) == (3, "zip")
    assert not (tmp_path.parent.parent / "b.PNG").exists()
    assert len(read(source)) == 3


def test_bad_members_are_named(tmp_path):
    good = encoded(pixels())
    path = write_zip(tmp_path / "x.zip", {f"{i}.png": good for i in range(5)})
    raw = bytearray(path.read_bytes())
    places = [i for i in range(len(raw)) if raw[i : i + 4] == b"PK\x01\x02"]
    raw[places[1] + 8] |= 1  # encrypted
    raw[places[2] + 24 : places[2] + 28] = b"\xff\xff\xff\x7f"  # 2 GiB, it says
    raw[places[3] + 10] = 99  # a compression nobody knows
    raw[raw.index(b"IDAT") + 9] ^= 1  # the first member's pixels
    path.write_bytes(raw)
    with pytest.raises(InputError) as error:
        read(open_images(path))
    message = str(error.value)
    assert "4 of 5 images" in message
    assert "0.png (damaged in the archive: Bad CRC-32" in message
    assert "1.png (encrypted)" in message
    assert "2.png (its 2,147,483,647 bytes are more than an image has" in message
    assert "3.png (damaged in the archive" in message
    assert len(read(open_images(path, skip_bad=True))) == 1


def test_archives_without_images_are_refused(tmp_path):
    (tmp_path / "a.zip").write_text("<html>")
    (tmp_path / "b.zip").write_bytes(b"")
    write_zip(tmp_path / "c.zip", {"notes.txt": b"x"})
    write_zip(tmp_path / "d.zip", {"x.png": encoded(pixels())})
    (tmp_path / "d.zip").write_bytes((tmp_path / "d.zip").read_bytes()[:-30])
    for name, message in (
        ("a.zip", "is an HTML page, no zip file"),
        ("b.zip", "damaged or no zip"),
        ("c.zip", "found 1 other files"),
        ("d.zip", "damaged or no zip"),
    ):
        with pytest.raises(InputError, match=message) as error:
            open_images(tmp_path / name)
        assert name in str(error.value)


def test_a_list_of_files_keeps_its_order(tmp_path):
    write_image(tmp_path / "b.png", 0)
    write_image(tmp_path / "a.dat", 1, format="PNG")
    source = open_images([str(tmp_path / "b.png"), tmp_path / "a.dat"])
    for seed, image in enumerate(read(source)):
        np.testing.assert_array_equal(image, pixels(seed=seed))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"gone.png \(cannot.*pipe \(no regular file"):
        read(open_images([tmp_path / "gone.png", tmp_path / "pipe"]))
    with pytest.raises(InputError, match="no files"):
        FilesSource([])


def test_no_thread_is_left_by_a_consumer_that_fails(tmp_path):
    for index in range(40):
        write_image(tmp_path / f"{index}.png", index)
    before = set(threading.enumerate())

    def consume():
        for _ in open_images(tmp_path).batches(4):
            raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()
    assert set(threading.enumerate()) <= before


def test_an_interrupt_ends_it_at_once(tmp_path):
    for index in range(8):
        Image.new("RGB", (3000, 3000), (index, 0, 0)).save(tmp_path / f"{index}.png")
    program = """
import signal, sys, time
from fid import open_images
# A shell that starts the tests in the background lets them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
batches = open_images(sys.argv[1]).batches(2)
next(batches)
print("ready", flush=True)
for batch in batches:
    time.sleep(100)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors


def test_reading_leaves_the_filters_of_warnings_alone(tmp_path):
    for index in range(30):
        write_image(tmp_path / f"{index:02d}.png", index)
    read(open_images(tmp_path))
    before = list(warnings.filters)
    read(open_images(tmp_path))
    assert list(warnings.filters) == before


def test_every_kind_of_image_is_read_and_what_is_left_out_is_counted(tmp_path):
    root = tmp_path / "set"
    kinds = ("ppm", "pgm", "JPE", "jfif", "avif", "jp2", "png", "apng", "qoi")
    formats = ["PPM", "PPM", "JPEG", "JPEG", "AVIF", "JPEG2000", "PNG", "PNG", "QOI"]
    for seed, (kind, content) in enumerate(zip(kinds, formats, strict=True)):
        write_image(root / f"{seed}.{kind}", seed, format=content)
    for name in ("a.heic", "b.HEIC", "notes.txt", "no_ending", ".hidden", "._0.png"):
        (root / name).touch()
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    write_image(root / "folder" / "x.png")
    for path in (root, write_zip(tmp_path / "set.zip", files)):
        source = open_images(path)
        images = read(source)
        assert source.count == len(images) == len(kinds)
        for seed in (0, 1, 5, 6, 7, 8):  # The others are lossy.
            np.testing.assert_array_equal(images[seed], pixels(seed=seed))
        left_out = {".heic": 2, ".txt": 1, "without an ending": 1}
        assert source.provenance["source_left_out"] == left_out
        assert source.warnings[0] == (
            "files whose names are not those of images are left out of "
            f"{path}, 4 in all: 2 .heic; 1 .txt; 1 without an ending"
        )
    folder = open_images(root)
    assert folder.provenance["source_folders_left_out"] == 1
    assert folder.warnings[1] == (
        f"folders of {root} are not entered, 1 in all; --recursive enters them"
    )
    assert open_images(root, recursive=True).count == len(kinds) + 1


def test_files_that_are_numbered_by_their_endings_do_not_fill_the_provenance(tmp_path):
    write_image(tmp_path / "a.png")
    for index in range(30):
        (tmp_path / f"frame.{index:03d}").touch()
    found = find_images(str(tmp_path))
    left_out = found.facts()["source_left_out"]
    assert list(left_out)[:2] == [".000", ".001"]
    assert (len(left_out), left_out["with other endings"]) == (21, 10)
    assert found.warnings()[0].endswith("1 .019; 10 with other endings")


def test_where_nothing_is_left_out_nothing_is_said(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / ".ipynb_checkpoints" / "a.png")
    source = open_images(tmp_path)
    read(source)
    assert source.warnings == ()
    assert not {key for key in source.provenance if "left_out" in key}
    assert find_images(str(tmp_path), recursive=True).names == ["a.png"]


def test_a_pointer_or_a_page_under_the_name_of_an_image_is_named(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "c.jpg").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(InputError, match="2 of 3 images") as error:
        read(open_images(tmp_path))
    assert "b.png (no image, but a Git LFS pointer: Fetch it with" in str(error.value)
    assert "c.jpg (no image, but an HTML page" in str(error.value)


@pytest.mark.parametrize(
    ("bits", "dark"), [(10, True), (12, True), (14, True), (16, False)]
)
def test_few_bits_in_16_bit_files_are_said_to_be_nearly_black(tmp_path, bits, dark):
    values = np.random.default_rng(0).integers(0, 2**bits, (3, 40, 40), dtype=np.uint16)
    values[:, 0, 0] = 2**bits - 1
    for index, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    source = open_images(tmp_path)
    read(source)
    assert len(source.warnings) == dark
    if dark:
        peak = (2**bits - 1) // 256
        assert f"3 images of {tmp_path} is above {peak} of 255" in source.warnings[0]
        assert "(12 of 16)" in source.warnings[0]

"""Beam's pipeline against the single process, and against hand-made sums."""

import functools
import hashlib
import io
import os

import numpy as np
import pytest
import rounding
import synthetic_graph
from image_folders import encoded
from PIL import Image
from repository import TESTS
from toy_extractors import Regions

import fid
from fid import cli

pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
pytest.importorskip("google_crc32c", reason="the extra [beam] is not installed")

import apache_beam
from apache_beam.io.localfilesystem import LocalFileSystem

from fid import beam

TWO = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture
def extractor(tmp_path_factory):
    return functools.partial(Regions, tmp_path_factory.mktemp("made"))


@pytest.fixture
def workers_import_tests(monkeypatch):
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def write_folder(path, count, seed=0):
    """Images of two sizes, one in seven a JPEG; returns what is in the files."""
    path.mkdir(parents=True)
    random = np.random.default_rng(seed)
    contents = []
    for index in range(count):
        # Uneven in brightness, so that the covariance is no multiple of the identity.
        image = random.integers(
            0, 30 + 225 * (index + 1) // count, (16 + index % 2, 9, 3)
        )
        kind = "JPEG" if index % 7 == 0 else "PNG"
        contents.append(encoded(image.astype(np.uint8), kind))
        (path / f"{index:03d}.{kind.lower()}").write_bytes(contents[-1])
    return contents


def write_records(path, contents, feature="image/encoded", compression=""):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for index, content in enumerate(contents):
            features = {
                feature: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[content])
                ),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[index])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def assert_equal(found, expected):
    # Both add up the same features in float64, in another order and parts. Means are
    # sums of n features, which are not negative, so the sum is that of the magnitudes.
    # A covariance is a sum of n products of differences from a mean. Merging two parts
    # adds four operations to each; there are at most n parts. A mean's own error e
    # moves the differences, of which the squares have e^2 alone and, to first order, no
    # change; their rounding is u of the features, and is magnified by features over
    # their spread.
    assert found.n == expected.n
    relative = 2 * rounding.gamma(5 * found.n)
    np.testing.assert_allclose(found.mu, expected.mu, rtol=relative, atol=0)
    spread = np.sqrt(np.diag(expected.sigma))
    size = spread + 2 * expected.mu
    bound = relative * np.outer(size, spread)
    assert (np.abs(found.sigma - expected.sigma) <= bound + bound.T).all()


def test_two_processes_give_what_one_gives(tmp_path, extractor, workers_import_tests):
    contents = write_folder(tmp_path / "images", 300)
    found = beam.run(
        tmp_path / "images",
        tmp_path / "stats.npz",
        extractor=extractor,
        batch_size=16,
        pipeline_args=TWO,
    )
    made = [path.read_text() for path in extractor.args[0].iterdir()]
    assert len(made) == len({*made} - {str(os.getpid())}) == 2

    expected = fid.compute_statistics(tmp_path / "images", extractor())
    assert_equal(found, expected)
    assert_equal(fid.Statistics.load(tmp_path / "stats.npz"), expected)
    facts = found.provenance
    for key in (
        "source", "source_count", "source_formats", "source_lossy", "source_treatments",
        "source_resolution", "pixels", "extractor", "extractor_sha256", "resize",
        "dtype", "versions",
    ):  # fmt: skip
        assert facts[key] == expected.provenance[key], key
    assert facts["beam_version"] == apache_beam.__version__
    assert facts["beam_runner"] == "SwitchingDirectRunner"
    total = 0
    for content in contents:
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        text = f"{pixels.shape} uint8\n".encode() + pixels.tobytes()
        total += int(hashlib.sha256(text).hexdigest(), 16)
    assert int(facts["source_sha256_sum"], 16) == total % 2**256


@pytest.mark.parametrize(
    ("feature", "flag"), [("image/encoded", None), ("image", None), ("jpg", "jpg")]
)
def test_records_give_what_files_give(tmp_path, extractor, feature, flag):
    contents = write_folder(tmp_path / "images", 40)
    write_records(tmp_path / "x.tfrecord-00000-of-00003", contents[:25], feature)
    write_records(tmp_path / "x.tfrecord-00001-of-00003", contents[25:30], feature)
    write_records(tmp_path / "x.tfrecord.gz", contents[30:], feature, "GZIP")
    found = beam.run(
        str(tmp_path / "x.tfrecord*"),
        tmp_path / "stats.npz",
        extractor=extractor,
        feature=flag,
    )
    files = beam.run(
        [str(tmp_path / "images/*.png"), str(tmp_path / "images/*.jpeg")],
        tmp_path / "files.npz",
        extractor=extractor,
        batch_size=7,
    )
    assert_equal(found, fid.compute_statistics(tmp_path / "images", extractor()))
    assert_equal(files, found)
    for key in ("source_sha256_sum", "source_lossy", "source_resolution"):
        assert files.provenance[key] == found.provenance[key]
    assert files.provenance["source_lossy"] == 6


def test_records_that_cannot_be_read(tmp_path, extractor):
    contents = write_folder(tmp_path / "images", 4)
    path = tmp_path / "x.tfrecord"

    def message(change, **keywords):
        write_records(path, contents)
        path.write_bytes(change(bytearray(path.read_bytes())))
        with pytest.raises(fid.InputError) as caught:
            beam.run(path, tmp_path / "stats.npz", extractor=extractor, **keywords)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def flipped(data):
        data[len(data) // 2] ^= 1
        return data

    assert "record 1 is damaged" in message(flipped)
    # How many images are lost is not known, so leaving them out is no way on.
    assert "record 1 is damaged" in message(flipped, skip_bad=True)
    assert "in the middle of record 3" in message(lambda data: data[:-5])
    assert "record 0 is damaged" in message(lambda data: b"<html>" + data)
    found = message(bytes, feature="photo")
    assert "no encoded image in photo" in found
    assert "image/encoded, label" in found
    assert not (tmp_path / "stats.npz").exists()


def test_bad_images_stop_it_all_named_or_are_counted(tmp_path, extractor):
    folder = tmp_path / "images"
    contents = write_folder(folder, 30)
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<html>")
    (folder / "half.png").write_bytes(contents[1][:60])
    output = tmp_path / "stats.npz"
    output.write_text("as it was")
    with pytest.raises(
        fid.InputError, match="3 of 33 images of .* --skip_bad"
    ) as error:
        beam.run(folder, output, extractor=extractor, batch_size=4)
    for name in ("empty.png", "page.jpg", "half.png"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert output.read_text() == "as it was"

    found = beam.run(folder, output, extractor=extractor, skip_bad=True)
    assert found.provenance["skipped"] == 3
    names = [n.split()[0] for n in found.provenance["skipped_names"]]
    assert [*map(os.path.basename, names)] == ["empty.png", "half.png", "page.jpg"]
    assert_equal(found, fid.compute_statistics(folder, extractor(), skip_bad=True))


def test_folders_are_read_as_without_beam(tmp_path, extractor):
    folder = tmp_path / "a [1] ü*"
    write_folder(folder, 10)
    write_folder(folder / "inside.png", 5, seed=1)
    (folder / "line\nbreak.PNG").write_bytes(encoded(np.ones((4, 4, 3), np.uint8)))
    for name in (".hidden.png", ".Trash/0.png", "__MACOSX/0.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not looked at")
    (folder / "notes.txt").write_text("not looked at")
    for recursive, count in ((False, 11), (True, 16)):
        found = beam.run(
            folder, tmp_path / "x.npz", extractor=extractor, recursive=recursive
        )
        assert found.n == count
        assert_equal(
            found,
            fid.compute_statistics(folder, extractor(), recursive=recursive),
        )


def test_too_few_images(tmp_path, extractor):
    (tmp_path / "images").mkdir()
    for source in (tmp_path / "images", tmp_path / "*.png", tmp_path / "none"):
        with pytest.raises(fid.InputError, match="No images in .*expected files"):
            beam.run(source, tmp_path / "stats.npz", extractor=extractor)
    with pytest.raises(fid.InputError, match="no patterns"):
        beam.run([], tmp_path / "stats.npz", extractor=extractor)
    write_folder(tmp_path / "one", 1)
    with pytest.raises(fid.InputError, match="at least 2 images; 1 was given"):
        beam.run(tmp_path / "one", tmp_path / "stats.npz", extractor=extractor)


def test_few_images_keep_their_features(tmp_path, extractor):
    write_folder(tmp_path / "images", 9)
    found = beam.run(tmp_path / "images", tmp_path / "x.npz", extractor=extractor)
    expected = fid.compute_statistics(tmp_path / "images", extractor())
    order = [np.lexsort(each.rows.T) for each in (found, expected)]
    np.testing.assert_array_equal(found.rows[order[0]], expected.rows[order[1]])


def test_workers_with_different_weights_are_refused(tmp_path):
    parts = []
    for weights in "01":
        made = beam._MeasureFn(
            functools.partial(Regions, tmp_path, weights), 1, False, 1
        )
        made.setup()
        made.start_bundle()
        made.process(beam.Encoded("x", encoded(np.ones((4, 4, 3), np.uint8))))
        ((task, part),) = (each.value for each in made.finish_bundle())
        assert task == 0
        parts.append(part)
    parts[0].merge(parts[0])
    with pytest.raises(fid.InputError, match="different extractors"):
        parts[0].merge(parts[1])


class BucketFileSystem(LocalFileSystem):
    """What Beam knows a file system by: its scheme. `bucket:///x` is /x here."""

    @classmethod
    def scheme(cls):
        return "bucket"

    def create(self, path, *args, **keywords):
        return super().create(_local(path), *args, **keywords)

    def open(self, path, *args, **keywords):
        return super().open(_local(path), *args, **keywords)

    def exists(self, path):
        return super().exists(_local(path))

    def rename(self, sources, destinations):
        # As some do that are no POSIX file system.
        assert not any(map(self.exists, destinations))
        super().rename([*map(_local, sources)], [*map(_local, destinations)])

    def delete(self, paths):
        super().delete([*map(_local, paths)])


def _local(path):
    return path.removeprefix("bucket://")


def test_the_file_goes_to_any_file_system_of_beams(tmp_path, extractor):
    write_folder(tmp_path / "images", 20)
    (tmp_path / "stats.npz").write_text("an old one")
    url = f"bucket://{tmp_path}/stats.npz"
    found = beam.run(tmp_path / "images", url, extractor=extractor)
    assert found.label == url
    assert_equal(fid.Statistics.load(tmp_path / "stats.npz"), found)
    assert {p.name for p in tmp_path.iterdir()} == {"images", "stats.npz"}


def test_the_program_says_what_is_wrong_on_its_last_line(tmp_path, capfd):
    def status(*flags):
        argv = ["precalc_stats.py", *map(str, flags), f"--output={tmp_path}/x.npz"]
        # Before `--`, which is where Beam's own begin.
        found = cli.precalc_stats([*argv, "--beam", "--", "--direct_num_workers=1"])
        captured = capfd.readouterr()
        assert captured.out == ""
        return found, captured.err.strip().splitlines()[-1]

    (tmp_path / "page.pb").write_text("<html>")
    code, line = status(tmp_path / "none", f"--inception={tmp_path}/none.pb")
    assert code == 1
    assert "none.pb" in line
    code, line = status(tmp_path, "--quantize=round")
    assert code == 2
    assert "--quantize are not for encoded images" in line
    write_folder(tmp_path / "images", 3)
    code, line = status(tmp_path / "images", f"--inception={tmp_path}/page.pb")
    assert code == 1
    assert "page.pb" in line
    assert "HTML" in line
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.slow
def test_the_program_computes_inception_features_in_two_processes(
    tmp_path, synthetic_pb, workers_import_tests, capfd
):
    write_folder(tmp_path / "images", 24)
    argv = ["precalc_stats.py", f"{tmp_path}/images", f"--inception={synthetic_pb}"]
    # One image at a time, because the batches of Beam's bundles are not those of one
    # process, and the rounding of a convolution depends on how many images it has.
    argv += ["--batch_size=1", f"--output={tmp_path}/beam.npz", "--beam", "--", *TWO]
    assert cli.precalc_stats(argv) == 0
    line = capfd.readouterr().out
    assert line == f"{tmp_path}/beam.npz: 24 images, 2048 features\n"
    found = fid.Statistics.load(tmp_path / "beam.npz")
    expected = fid.compute_statistics(
        tmp_path / "images", fid.Inception(synthetic_pb, 1), batch_size=1
    )
    assert found.n == 24
    # Features are not equal to the last bit in two processes either: TensorFlow, and
    # the libraries below it, split sums by the threads that they have. So they may
    # differ by what two programs' features may, and with them means, and covariances by
    # twice that times the spread.
    moved = synthetic_graph.allowed(expected.rows)["atol"]
    np.testing.assert_allclose(found.mu, expected.mu, rtol=0, atol=moved)
    spread = np.sqrt(np.diag(expected.sigma).max())
    atol = 2 * moved * spread * 24 / 23
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=0, atol=atol)
    # Images are no farther from themselves than the features have moved, all together.
    error = synthetic_graph.rounding_error(expected.rows)
    farthest = 2048 * error**2 * 24 / 23
    farthest += rounding.frechet(found.rows, expected.rows)
    assert fid.frechet_distance(found, expected) <= farthest
    assert (
        found.provenance["extractor_sha256"]
        == (expected.provenance["extractor_sha256"])
    )


def test_an_address_that_beam_has_no_file_system_for_is_one_line(tmp_path, capsys):
    args = ["nowhere://b/*.png", f"--output={tmp_path}/x.npz", "--beam"]
    assert cli.precalc_stats(["p.py", *args]) == 1
    error = capsys.readouterr().err
    assert "has no file system for nowhere://" in error
    assert "apache-beam[gcp]" in error
    assert error.count("\n") == 1
    with pytest.raises(fid.InputError, match="Beam cannot use nowhere://b/x"):
        beam.run(str(tmp_path), "nowhere://b/x.npz", extractor=list)
    assert not list(tmp_path.iterdir())

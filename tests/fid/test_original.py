"""The names of the authors' module, against TensorFlow's own session."""

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import rounding
import scipy.linalg
import synthetic_graph
from image_folders import write_images
from synthetic_graph import v1_features, write_synthetic_graph

import fid
from fid import InputError, original

COUNT, BATCH = 11, 4


@pytest.fixture(scope="module")
def images():
    """Eleven pieces of photographs: no multiple of the batch size."""
    from sklearn.datasets import load_sample_images

    one, two = load_sample_images().images
    pieces = [(one, two)[i % 2][i * 9 :, i * 7 :][:40, :48] for i in range(COUNT)]
    return np.stack(pieces).astype(np.float32)


@pytest.fixture(scope="module")
def oracle(synthetic_pb, images):
    return v1_features(synthetic_pb, images)[0]


@pytest.fixture(scope="module")
def graph(synthetic_pb):
    """The graph remembered, and compiled once for this module."""
    before = original._graph
    fid.create_inception_graph(synthetic_pb)
    yield synthetic_pb
    original._graph = before


@pytest.fixture(scope="module")
def files(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("files")
    return sorted(write_images(folder, images.astype(np.uint8)).iterdir())


@pytest.mark.slow
class TestFeatures:
    def test_are_those_of_the_v1_session_and_all_there(self, graph, images, oracle):
        found = fid.get_activations(images, None, BATCH)
        assert found.dtype == np.float64
        assert found.shape == (COUNT, 2048)
        np.testing.assert_allclose(found, oracle, **synthetic_graph.allowed(oracle))

    def test_of_files_are_those_of_their_pixels(self, graph, files, oracle):
        found = fid.get_activations_from_files(files, None, BATCH)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, oracle, **synthetic_graph.allowed(oracle))

    @pytest.mark.parametrize("of", ["images", "files"])
    def test_statistics_are_numpys_of_the_features(
        self, of, graph, images, files, oracle
    ):
        call, given = {
            "images": (fid.calculate_activation_statistics, images),
            "files": (fid.calculate_activation_statistics_from_files, files),
        }[of]
        mu, sigma = call(given, None, BATCH)
        assert mu.dtype == sigma.dtype == np.float64
        error = synthetic_graph.allowed(oracle)["atol"]
        np.testing.assert_allclose(mu, oracle.mean(0), rtol=0, atol=error)
        # An entry changes by the features' error times the features' spread, for each
        # of two features.
        expected = np.cov(oracle.astype(np.float64), rowvar=False)
        atol = 2 * error * np.sqrt(np.diag(expected).max())
        np.testing.assert_allclose(sigma, expected, rtol=0, atol=atol)
        assert np.abs(expected).max() > 100 * atol

    def test_paths_give_the_distance_of_the_original(
        self, graph, files, tmp_path, images, oracle
    ):
        other = np.roll(oracle, 1, axis=1).astype(np.float64)
        stats = tmp_path / "stats.npz"
        sigma = np.cov(other, rowvar=False)
        np.savez_compressed(stats, mu=other.mean(0), sigma=sigma)
        value = fid.calculate_fid_given_paths(
            (str(files[0].parent), str(stats)), str(graph), low_profile=True
        )
        x = oracle.astype(np.float64)
        root = scipy.linalg.svdvals((x - x.mean(0)) @ (other - other.mean(0)).T).sum()
        expected = ((x.mean(0) - other.mean(0)) ** 2).sum() + np.trace(sigma)
        expected += np.trace(np.cov(x, rowvar=False)) - 2 * root / (COUNT - 1)
        assert expected > 1
        error = synthetic_graph.rounding_error(oracle)
        moved = rounding.frechet_of_features(expected, error)
        assert value == pytest.approx(expected, rel=0, abs=moved)

    def test_one_network_is_compiled_for_all_calls(
        self, graph, images, tmp_path, monkeypatch
    ):
        fid.get_activations(images, None, BATCH)
        compiled = original._graph.extractor
        same = tmp_path / "copy.pb"
        same.write_bytes(graph.read_bytes())
        fid.create_inception_graph(same)
        fid.get_activations(images[:2], batch_size=2)
        assert original._graph.extractor is compiled

    def test_another_graph_takes_its_place(self, graph, images, oracle, tmp_path):
        before = original._graph
        other = write_synthetic_graph(tmp_path / "other.pb", seed=5, splat=True)
        try:
            fid.create_inception_graph(other)
            found = fid.get_activations(images[:1], None, BATCH)
        finally:
            original._graph = before
        # All weights of a kernel are one number here, and so all terms of a sum have
        # one sign, and rounding is relative to it.
        expected = v1_features(other, images[:1])[0]
        rtol = rounding.likely(synthetic_graph.TERMS, "float32")
        atol = rtol * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
        assert np.abs(found - oracle[:1]).max() > 0.1

    def test_progress_is_printed_when_asked_for(self, graph, images, capsys):
        fid.get_activations(images, None, BATCH, True)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"Propagating image {len(images)}/{len(images)} done" in captured.err

    @pytest.mark.parametrize(
        "call", [fid.get_activations, fid.calculate_activation_statistics]
    )
    def test_a_session_is_deprecated_once_and_where_it_is_given(
        self, call, graph, images
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(images, object(), BATCH)
        (warning,) = [w for w in caught if w.category is DeprecationWarning]
        assert "sess" in str(warning.message)
        assert warning.filename == __file__


# The authors' fid_example.py, its undefined name and the removed imread mended.
EXAMPLE = """
    import glob
    import os
    import sys
    import numpy as np
    import fid
    from PIL import Image
    import tensorflow.compat.v1 as tf
    if sys.argv[4] == "off":
        tf.disable_v2_behavior()

    image_path, stats_path = sys.argv[1:3]
    inception_path = fid.check_or_download_inception(sys.argv[3])
    files = sorted(glob.glob(os.path.join(image_path, "*.png")))
    images = np.array([np.array(Image.open(fn)).astype(np.float32) for fn in files])
    f = np.load(stats_path)
    mu_real, sigma_real = f["mu"][:], f["sigma"][:]
    f.close()
    fid.create_inception_graph(inception_path)
    with tf.Session() as sess:
        assert not tf.executing_eagerly()
        sess.run(tf.global_variables_initializer())
        mu_gen, sigma_gen = fid.calculate_activation_statistics(
            images, sess, batch_size=4)
    fid_value = fid.calculate_frechet_distance(mu_gen, sigma_gen, mu_real, sigma_real)
    print("FID: %s" % fid_value)
"""


@pytest.mark.slow
@pytest.mark.parametrize("eager", ["on", "off"])
def test_a_script_of_the_original_runs(eager, files, synthetic_pb, oracle, tmp_path):
    mu, sigma = oracle.mean(0) + 0.5, np.cov(oracle.astype(np.float64), rowvar=False)
    np.savez_compressed(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    script = tmp_path / "fid_example.py"
    script.write_text(textwrap.dedent(EXAMPLE))
    arguments = [files[0].parent, tmp_path / "stats.npz", synthetic_pb.parent, eager]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    name, value = done.stdout.split()
    assert name == "FID:"
    # Equal covariances leave the distance of the means, 2048 times 0.5 squared. Here
    # all features' errors count alike, so they may have one sign.
    error = 2048 * 2 * 0.5 * synthetic_graph.rounding_error(oracle)
    assert float(value) == pytest.approx(512.0, rel=0, abs=error)
    assert "sess is not used any more" in done.stderr


class TestDistance:
    def test_is_that_of_the_original_algorithm(self):
        random = np.random.default_rng(0)
        one, two = random.normal(size=(2, 500, 12)) * random.uniform(1, 4, (2, 1, 12))
        arguments = [
            each
            for x in (one, two + 1)
            for each in (x.mean(0), np.cov(x, rowvar=False))
        ]
        mu1, sigma1, mu2, sigma2 = arguments
        root = scipy.linalg.sqrtm(sigma1 @ sigma2)
        expected = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * root.real)
        value = fid.calculate_frechet_distance(*arguments, 1e-6)
        assert isinstance(value, np.float64)
        moved = rounding.frechet(one, two + 1)
        assert value == pytest.approx(expected, rel=0, abs=moved)

    def test_takes_numbers_as_the_original_did(self):
        # Two normal distributions on a line: (2 - 5)**2 + (3 - 1)**2.
        assert fid.calculate_frechet_distance(2, 9, 5, 1) == pytest.approx(13)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0, 0], np.eye(3), [0, 0], np.eye(2)), r"\(2,\) and its cov.*\(3, 3\)"),
            (([0, 0], np.eye(2), [0, 0, 0], np.eye(3)), "2 dimensions"),
            (([0, 0], [[1, 0.5], [0, 1]], [0, 0], np.eye(2)), "first.*not symmetric"),
            (([0, 0], np.eye(2), [0, np.nan], np.eye(2)), "second.*not finite"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, arguments, message):
        with pytest.raises(InputError, match=message):
            fid.calculate_frechet_distance(*arguments)


class TestImages:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (np.full((2, 8, 8, 3), 0.5), r"\[0.5, 0.5\].*x \* 255"),
            (np.linspace(-1, 1, 192).reshape(1, 8, 8, 3), r"\[-1, 1\].*\(x \+ 1\)"),
            (np.full((2, 8, 8, 3), 300.0), r"\[300, 300\], expected \[0, 255\]"),
            (np.full((2, 8, 8, 3), -1, int), r"\[-1, -1\], expected \[0, 255\]"),
            (np.zeros((2, 8, 8, 1), np.uint8), r"\(2, 8, 8, 1\).*_from_files"),
            (np.zeros((0, 8, 8, 3), np.uint8), r"\(0, 8, 8, 3\)"),
            (np.zeros((2, 8, 8, 3), complex), "complex"),
        ],
    )
    def test_that_are_none_are_refused(self, images, message):
        with pytest.raises(InputError, match=message):
            fid.get_activations(images)

    def test_that_are_not_finite_are_named(self):
        images = np.full((5, 8, 8, 3), 99.0)
        images[3, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match="Image 3 .*not finite"):
            fid.calculate_activation_statistics(images)

    def test_uint8_is_not_judged_and_a_dark_one_among_others_is_not(self):
        assert original._checked(np.ones((2, 8, 8, 3), np.uint8)) is not None
        images = np.zeros((2, 8, 8, 3))
        images[1] = 200
        assert original._checked(images) is images


class TestGraph:
    def test_is_found_in_a_folder_or_as_a_file(self, synthetic_pb):
        for given in (synthetic_pb.parent, synthetic_pb, str(synthetic_pb)):
            assert fid.check_or_download_inception(given) == str(synthetic_pb)

    def test_none_means_what_it_means_elsewhere(self, synthetic_pb, monkeypatch):
        monkeypatch.setenv("TTUR_INCEPTION", str(synthetic_pb))
        assert fid.check_or_download_inception(None) == str(synthetic_pb)

    def test_is_downloaded_to_where_it_was_looked_for(self, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(
            original, "download_graph", lambda path: asked.append(path) or path
        )
        expected = tmp_path / "new" / "classify_image_graph_def.pb"
        for given in (tmp_path / "new", expected):
            assert fid.check_or_download_inception(given) == str(expected)
        assert asked == [expected, expected]

    def test_that_is_another_is_refused_at_once(self, tmp_path):
        path = tmp_path / "page.pb"
        path.write_text("<html>not found</html>")
        with pytest.raises(InputError, match=r"page\.pb"):
            fid.create_inception_graph(path)


class TestPaths:
    def test_two_statistics_need_neither_graph_nor_tensorflow(self, tmp_path):
        for name, mean in (("a", 0.0), ("b", 2.0)):
            np.savez(tmp_path / f"{name}.npz", mu=np.full(3, mean), sigma=np.eye(3))
        code = (
            "import sys, fid; "
            "print(fid.calculate_fid_given_paths(sys.argv[1:3], None)); "
            "assert 'tensorflow' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "a.npz", tmp_path / "b.npz"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) == pytest.approx(12.0)

    def test_what_is_not_there_is_named_before_anything_else(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere"):
            fid.calculate_fid_given_paths([str(tmp_path / "nowhere"), "x.npz"], None)
        with pytest.raises(InputError, match="two paths"):
            fid.calculate_fid_given_paths(["x.npz"], None)

    def test_a_file_that_is_no_image_is_named(self, synthetic_pb, tmp_path):
        (tmp_path / "x.png").write_text("text")
        before = original._graph
        try:
            fid.create_inception_graph(synthetic_pb)
            with pytest.raises(InputError, match=r"x\.png"):
                fid.get_activations_from_files([tmp_path / "x.png"])
        finally:
            original._graph = before

    def test_no_files_are_an_error(self, synthetic_pb):
        with pytest.raises(InputError, match="no files"):
            fid.get_activations_from_files([])
        with pytest.raises(InputError, match="batch_size is 0"):
            fid.get_activations_from_files(["x.png"], None, 0)

import json
import zipfile

import numpy as np
import pytest

from fid import InputError, Moments, Statistics
from fid.statistics import protocol_differences


def features(n, d, seed=0, mean=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + mean


def assert_equals_numpy(statistics, x):
    expected = np.cov(x, rowvar=False)
    spread = np.sqrt(np.diag(expected))
    error = np.abs(statistics.sigma - expected) / np.outer(spread, spread)
    assert error.max() < 1e-12
    np.testing.assert_allclose(statistics.mu, x.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert statistics.n == len(x)


@pytest.mark.parametrize("n", [2, 9, 10, 11, 500])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_moments_equal_numpy_on_both_sides_of_n_equal_d(n, batch):
    x = features(n, 10)
    moments = Moments(10)
    for start in range(0, n, batch):
        moments.update(x[start : start + batch])
    statistics = moments.statistics()
    assert_equals_numpy(statistics, x)
    assert (statistics.rows is not None) == (n <= 10)


def test_a_mean_of_ten_thousand_spreads_costs_no_digits():
    x = np.random.default_rng(0).normal(size=(5000, 6)) + 1e4
    moments = Moments(6)
    for batch in np.array_split(x, 100):
        moments.update(batch)
    assert_equals_numpy(moments.statistics(), x)


@pytest.mark.parametrize(("first", "second"), [(3, 4), (3, 40), (40, 3), (40, 50)])
def test_merging_equals_seeing_everything(first, second):
    x = features(first + second, 8, mean=5.0)
    one, two = Moments(8), Moments(8)
    one.update(x[:first])
    two.update(x[first:])
    one.merge(two)
    assert_equals_numpy(one.statistics(), x)
    assert two.n == second


def test_reset_forgets():
    moments = Moments(4)
    moments.update(features(20, 4))
    moments.reset()
    x = features(30, 4, seed=1)
    moments.update(x)
    assert_equals_numpy(moments.statistics(), x)


def test_the_callers_buffer_may_be_reused():
    moments, buffer = Moments(4), np.empty((2, 4))
    x = features(4, 4)
    for start in (0, 2):
        buffer[:] = x[start : start + 2]
        moments.update(buffer)
    assert_equals_numpy(moments.statistics(), x)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_are_refused(n):
    moments = Moments(3)
    moments.update(np.zeros((n, 3)))
    with pytest.raises(InputError, match=f"at least 2 images; {n} "):
        moments.statistics()


def test_bad_features_are_refused_and_named():
    moments = Moments(3)
    moments.update(np.zeros((5, 3)))
    bad = np.zeros((4, 3))
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="image 7 "):
        moments.update(bad)
    with pytest.raises(InputError, match=r"expected\s+\(m, 3\)"):
        moments.update(np.zeros((4, 2)))


def test_files_round_trip_and_are_what_the_authors_wrote(tmp_path):
    moments = Moments(5)
    moments.update(features(50, 5))
    path = tmp_path / "stats.npz"
    moments.statistics({"source": "here", "extractor": "x"}).save(path)
    with np.load(path, allow_pickle=False) as file:  # as any other tool reads it
        assert file["mu"].shape == (5,)
        assert file["sigma"].shape == (5, 5)
        assert file["mu"].dtype == file["sigma"].dtype == np.float64
        assert json.loads(str(file["provenance"]))["n"] == 50
    loaded = Statistics.load(path)
    np.testing.assert_array_equal(loaded.mu, moments.statistics().mu)
    np.testing.assert_array_equal(loaded.sigma, moments.statistics().sigma)
    assert loaded.n == 50
    assert loaded.provenance["source"] == "here"


def test_files_without_provenance_are_read(tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez_compressed(path, mu=np.zeros(3, np.float32), sigma=np.eye(3))
    loaded = Statistics.load(path)
    assert loaded.n is None
    assert loaded.provenance is None
    assert loaded.mu.dtype == np.float64


def write(path, **arrays):
    np.savez(path, **arrays)


def _object_array(path):
    arrays = {"mu": np.array([{}], dtype=object), "sigma": np.eye(1)}
    np.savez(path, allow_pickle=True, **arrays)


def _huge_header(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("mu", (10**6,)), ("sigma", (10**6, 10**6))):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "<f8", "fortran_order": False, "shape": shape}
                )


def _truncated(path):
    write(path, mu=np.zeros(3), sigma=np.eye(3))
    path.write_bytes(path.read_bytes()[:-60])


def _asymmetric(path):
    sigma = np.eye(3)
    sigma[0, 1] = 0.5
    write(path, mu=np.zeros(3), sigma=sigma)


def _nan(path):
    write(path, mu=np.array([0.0, np.nan]), sigma=np.eye(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write(p, a=np.zeros(3)), "it holds a.npy, not mu.npy"),
        (lambda p: write(p, mu=np.zeros(3), sigma=np.eye(4)), r"mu has shape \(3,\)"),
        (lambda p: write(p, mu=np.zeros((3, 1)), sigma=np.eye(3)), "mu has shape"),
        (lambda p: write(p, mu=np.zeros(3, int), sigma=np.eye(3)), "not floating"),
        (lambda p: write(p, mu=np.zeros(2), sigma=-np.eye(2)), "negative variance"),
        (lambda p: p.write_bytes(b""), "damaged or no .npz"),
        (lambda p: p.write_text("<html>"), "damaged or no .npz"),
        (_object_array, "never unpickled"),
        (_huge_header, "mu has shape"),
        (_truncated, "damaged or no .npz"),
        (_asymmetric, "not symmetric"),
        (_nan, "NaN"),
        (lambda p: None, "Cannot read"),
    ],
)
def test_bad_files_are_refused_on_one_line_that_names_them(tmp_path, make, message):
    path = tmp_path / "bad.npz"
    make(path)
    with pytest.raises(InputError, match=message) as error:
        Statistics.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_provenance_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    for text in ("[]", "{", '{"n": "many"}', '{"extractor": ["x"]}'):
        np.savez(path, mu=np.zeros(2), sigma=np.eye(2), provenance=np.array(text))
        with pytest.raises(InputError, match="provenance"):
            Statistics.load(path)


def test_an_empty_state_of_another_dimension_cannot_be_merged():
    with pytest.raises(InputError, match="cannot be merged"):
        Moments(3).merge(Moments(4))


def test_protocols_are_compared():
    def made(**facts):
        return Statistics(np.zeros(2), np.eye(2), provenance=facts, label="it")

    same = {"extractor": "x", "source_resolution": "32x32"}
    assert protocol_differences(made(**same), made(**same, source="b")) == []
    (difference,) = protocol_differences(
        made(**same), made(**same | {"source_resolution": "64x64"})
    )
    assert "source_resolution is '32x32'" in difference
    (difference,) = protocol_differences(
        made(quantize="round"), made(quantize="truncate")
    )
    assert "quantize" in difference
    assert protocol_differences(made(quantize="round"), made()) == []
    (unknown,) = protocol_differences(
        made(**same), Statistics(np.zeros(2), np.eye(2), label="old.npz")
    )
    assert unknown.startswith("old.npz does not say")

import gzip
import json
import os
import pickle
import subprocess
import sys
import zipfile

import hostile_arrays
import numpy as np
import pytest
import rounding
import scipy.linalg
from repository import ROOT

from fid import InputError, Moments, Statistics, frechet_distance, merge_statistics
from fid.statistics import protocol_differences

pytestmark = pytest.mark.portable


def features(n, d, seed=0, mean=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + mean


def assert_equals_numpy(statistics, x):
    # Sums of n features, and of n products of their differences from the mean, added up
    # in parts, which are merged by some four operations each. A difference is rounded
    # relative to the feature, which is larger than the spread by the mean.
    expected = np.cov(x, rowvar=False)
    spread = np.sqrt(np.diag(expected))
    largest = np.abs(x).max()
    few = 2 * rounding.gamma(2 * len(x) + 4)
    error = np.abs(statistics.sigma - expected) / np.outer(spread, spread)
    assert error.max() < few * (1 + largest / spread.min())
    np.testing.assert_allclose(
        statistics.mu, x.mean(axis=0), rtol=0, atol=few * largest
    )
    assert statistics.n == len(x)


@pytest.mark.parametrize("n", [2, 9, 10, 11, 256, 257, 258, 1000])
@pytest.mark.parametrize("batch", [1, 7, 50, 64, 1000])
def test_moments_equal_numpy_whatever_the_batches(n, batch):
    x = features(n, 10)
    moments = Moments(10)
    for start in range(0, n, batch):
        moments.update(x[start : start + batch])
    statistics = moments.statistics()
    assert_equals_numpy(statistics, x)
    assert (statistics.rows is not None) == (n <= 10)


@pytest.mark.parametrize("batch", [1, 50, 5000])
def test_a_mean_of_ten_thousand_spreads_costs_no_digits(batch):
    x = np.random.default_rng(0).normal(size=(5000, 6)) + 1e4
    moments = Moments(6)
    for start in range(0, len(x), batch):
        moments.update(x[start : start + batch])
    assert_equals_numpy(moments.statistics(), x)


def test_more_features_than_a_block_and_float32():
    x = features(1500, 300).astype(np.float32)
    moments = Moments(300)
    moments.update(x[:3])
    moments.update(x[3:])
    assert_equals_numpy(moments.statistics(), x.astype(np.float64))


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_shards_merge_in_any_order(mean, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(3000, 5)) + mean
    cuts = np.sort(random.integers(0, len(x), size=9))
    states = []
    for part in np.split(x, cuts):
        state = Moments(5)
        state.update(part)
        states.append(state)
    while len(states) > 1:
        random.shuffle(states)
        states[0].merge(states.pop())
    assert_equals_numpy(states[0].statistics(), x)


def test_looking_on_the_way_changes_nothing():
    x = features(600, 4)
    moments = Moments(4)
    for part in np.array_split(x, 13):
        moments.update(part)
        moments.statistics()
    assert_equals_numpy(moments.statistics(), x)


def test_merging_with_itself():
    x = features(300, 4)
    moments = Moments(4)
    moments.update(x)
    moments.merge(moments)
    assert_equals_numpy(moments.statistics(), np.concatenate([x, x]))


def test_pickles_are_small_while_there_are_few_images():
    x = features(700, 256).astype(np.float32)
    moments = Moments(256)
    moments.update(x[:20])
    pickled = pickle.dumps(moments)
    assert len(pickled) < 30_000
    moments = pickle.loads(pickled)
    moments.update(x[20:])
    moments = pickle.loads(pickle.dumps(moments))
    assert_equals_numpy(moments.statistics(), x.astype(np.float64))


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
    with pytest.raises(InputError, match=f"at least 2 .*; {n} .* by folder/x"):
        moments.statistics({"source": "folder/x"})


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_features_of_few_images_stay_exact_through_files(tmp_path, dtype):
    sets = []
    for seed, n in enumerate((5, 6)):
        moments = Moments(8)
        moments.update(features(n, 8, seed).astype(dtype))
        sets.append(moments.statistics({"source": "x"}))
    one, two = sets
    one.save(tmp_path / "one.npz")
    two.save(tmp_path / "two.npz")
    loaded = Statistics.load(tmp_path / "one.npz")
    assert loaded.rows.dtype == dtype
    np.testing.assert_array_equal(loaded.rows, one.rows)
    distance = frechet_distance(loaded, Statistics.load(tmp_path / "two.npz"))
    assert distance == frechet_distance(one, two)


def test_adding_to_what_a_file_holds(tmp_path):
    x = features(400, 6)
    for cut in (4, 350):  # as rows, and as sums
        moments = Moments(6)
        moments.update(x[:cut])
        path = tmp_path / f"{cut}.npz"
        moments.statistics({}).save(path)
        moments = Moments.from_statistics(Statistics.load(path))
        assert moments.n == cut
        moments.update(x[cut:])
        assert_equals_numpy(moments.statistics(), x)


def shards(tmp_path, x, cuts, **facts):
    """Files of parts of x, of which the provenance differs in `facts` if a list."""
    paths = []
    for index, part in enumerate(np.split(x, cuts)):
        moments = Moments(x.shape[1])
        moments.update(part)
        mine = {k: v[index] if isinstance(v, list) else v for k, v in facts.items()}
        paths.append(tmp_path / f"shard{index}.npz")
        moments.statistics({"source": f"part {index}", **mine}).save(paths[-1])
    return [Statistics.load(path) for path in paths]


def test_shards_merge_across_files(tmp_path):
    x = features(700, 8, mean=3.0)
    parts = shards(
        tmp_path, x, [3, 9, 400], extractor="e", created=["1", "2", "3", "4"]
    )
    whole = merge_statistics([merge_statistics(parts[2:]), *parts[:2]])
    assert_equals_numpy(whole, x)
    assert whole.provenance["n"] == 700
    assert whole.provenance["extractor"] == "e"
    assert whole.provenance["source"] == "4 merged sets"
    # The inner merge's parts are listed, not the inner merge.
    assert whole.provenance["sources"] == [
        {"source": "part 2", "created": "3", "n": 391},
        {"source": "part 3", "created": "4", "n": 300},
        {"source": "part 0", "created": "1", "n": 3},
        {"source": "part 1", "created": "2", "n": 6},
    ]
    whole.save(tmp_path / "whole.npz")
    assert Statistics.load(tmp_path / "whole.npz").provenance == whole.provenance
    assert merge_statistics(parts[:1]).rows is not None


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    parts = shards(tmp_path, features(20, 3), [10], resize=["a", "b"])
    with pytest.raises(InputError, match=r"shard1.npz cannot .*resize is 'a' for"):
        merge_statistics(parts)
    unknown = Statistics(np.zeros(3), np.eye(3), label="old.npz")
    with pytest.raises(InputError, match=r"old.npz does not say how many images"):
        merge_statistics([unknown])
    with pytest.raises(InputError, match=r"old.npz does not say how it was"):
        merge_statistics([parts[0], unknown])
    other = Statistics(np.zeros(2), np.eye(2), n=5, label="other.npz")
    with pytest.raises(InputError, match=r"other.npz has 2 features and .* 3"):
        merge_statistics([parts[0], other])
    with pytest.raises(InputError, match="No statistics"):
        merge_statistics([])


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


def _indefinite(path):
    sigma = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])
    write(path, mu=np.zeros(3), sigma=sigma)


def _gzipped_pickle(path):
    class Hostile:
        def __reduce__(self):
            return (sys.exit, ("unpickled",))

    path.write_bytes(gzip.compress(pickle.dumps([np.eye(3), np.zeros(3), Hostile()])))


def _rows(n=2, d=3, dtype=np.float32, provenance=None, **changes):
    def make(path):
        rows = features(n, d).astype(dtype)
        arrays = {
            "mu": rows.mean(axis=0, dtype=np.float64),
            "sigma": np.cov(rows.astype(np.float64), rowvar=False),
            "rows": rows,
            **changes,
        }
        if provenance is not None:
            arrays["provenance"] = np.array(json.dumps(provenance))
        np.savez(path, **arrays)

    return make


def _object_rows(path):
    _rows(rows=np.array([[{}] * 3] * 2, dtype=object))(path)


def _hostile(header):
    def make(path):
        mu = hostile_arrays.array(header)
        hostile_arrays.archive(path, mu=mu, sigma=np.eye(8))

    return make


def _damaged(damage):
    def make(path):
        write(path, mu=np.zeros(3), sigma=np.eye(3))
        hostile_arrays.DAMAGES[damage](path)

    return make


def _names(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\nb\x1b[31m", "")


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
        (
            lambda p: p.write_text("<html>"),
            "is an HTML page, no .npz file. The download",
        ),
        (_object_array, "never unpickled"),
        (_huge_header, "mu has shape"),
        (_truncated, "damaged or no .npz"),
        (_asymmetric, "not symmetric"),
        (_nan, "NaN"),
        (_indefinite, "sigma has negative eigenvalues"),
        (_gzipped_pickle, "gzip-compressed, .* never opened"),
        (_rows(n=4, d=3), r"rows has shape \(4, 3\) and mu \(3,\)"),
        (_rows(rows=np.zeros((2, 4), np.float32)), r"rows has shape \(2, 4\)"),
        (_rows(rows=np.zeros(3, np.float32)), r"rows has shape \(3,\)"),
        (_rows(rows=np.zeros((2, 3), int)), "rows is int64, not floating"),
        (_rows(rows=np.full((2, 3), np.nan)), "rows holds NaN"),
        (_rows(mu=np.zeros(3)), "rows of features have another mean"),
        (_rows(sigma=np.eye(3)), "rows of features have another mean or covariance"),
        (_rows(provenance={"n": 3}), "it is of 3 images but holds 2 rows"),
        (_object_rows, "rows of .*bad.npz holds Python objects"),
        (lambda p: None, "Cannot read"),
        (lambda p: p.mkdir(), "Cannot read .*bad.npz: it is a folder; name"),
        (os.mkfifo, "Cannot read .*bad.npz: it is no regular file"),
        (lambda p: write(p, mu=np.full(2, 1e200), sigma=np.eye(2)), "above 1e.100"),
        (lambda p: write(p, mu=np.zeros(2), sigma=np.diag([1e200, 1])), "above 1e"),
        (lambda p: write(p, mu=np.full(2, np.inf, "f4"), sigma=np.eye(2)), "infinit"),
        (_names, r"it holds 'a\\nb\\x1b\[31m', not mu.npy"),
        *(
            (_hostile(header), "damaged or no .npz")
            for header in hostile_arrays.HEADERS
        ),
        *(
            (_damaged(damage), "damaged or no .npz")
            for damage in hostile_arrays.DAMAGES
        ),
    ],
)
def test_bad_files_are_refused_on_one_line_that_names_them(tmp_path, make, message):
    path = tmp_path / "bad.npz"
    make(path)
    with pytest.raises(InputError, match=message) as error:
        Statistics.load(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "[" * 200_000,
        '{"a": ' * 100 + "1" + "}" * 100,
        '{"n": "many"}',
        '{"n": true}',
        f'{{"n": {2**53}}}',
        f'{{"n": {10**400}}}',
        '{"x": NaN}',
        '{"x": [-Infinity]}',
        '{"x": 1e999}',
        '{"extractor": ["x"]}',
        '{"extractor": ""}',
        r'{"extractor": "evil\nFID: 0.000001"}',
        '{"sources": "x"}',
        '{"sources": ["x"]}',
        '{"sources": [{"n": "x"}]}',
        r'{"sources": [{"extractor": "evil\n"}]}',
    ],
    ids=lambda text: text[:40],
)
def test_bad_provenance_is_refused(tmp_path, text):
    path = tmp_path / "bad.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), provenance=np.array(text))
    with pytest.raises(InputError, match="its provenance") as error:
        Statistics.load(path)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_provenance_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    write(path, mu=np.zeros(2), sigma=np.eye(2), provenance=np.array(1))
    with pytest.raises(InputError, match="provenance is int64, not text"):
        Statistics.load(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"extractor": "my\tnet"}, "extractor = .*; expected a text of one line"),
        ({"loss": float("nan")}, "cannot be written as JSON"),
        ({"seed": np.int64(1)}, "cannot be written as JSON"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, facts, message):
    statistics = Statistics(np.zeros(2), np.eye(2), provenance=facts, label="mine")
    with pytest.raises(InputError, match=f"provenance of mine .*{message}"):
        statistics.save(tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_a_claim_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000, 9000)}"
    hostile_arrays.archive(
        tmp_path / "bad.npz", mu=np.zeros(9000), sigma=hostile_arrays.array(header)
    )
    with pytest.raises(InputError, match=r"sigma \(9000, 9000\)"):
        Statistics.load(tmp_path / "bad.npz")

    # Whatever comes after the arrays were read takes memory, too.
    def exhausted(*_, **__):
        raise MemoryError

    write(tmp_path / "x.npz", mu=np.zeros(2), sigma=np.eye(2))
    monkeypatch.setattr(scipy.linalg.lapack, "dpotrf", exhausted)
    with pytest.raises(InputError, match="x.npz claims more data than fits"):
        Statistics.load(tmp_path / "x.npz")


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


def test_files_of_singular_and_float32_covariances_are_read(tmp_path):
    x = features(20, 50, mean=10.0)
    sigma = np.cov(x, rowvar=False)
    for dtype in (np.float32, np.float64):
        path = tmp_path / "stats.npz"
        np.savez(path, mu=x.mean(axis=0).astype(dtype), sigma=sigma.astype(dtype))
        loaded = Statistics.load(path)
        # Each entry was rounded once, or not at all.
        rtol = rounding.unit(dtype)
        np.testing.assert_allclose(loaded.sigma, sigma, rtol=rtol, atol=0)


def test_a_float32_file_has_rows_that_agree_to_rounding(tmp_path):
    _rows(n=3, d=5)(tmp_path / "stats.npz")
    loaded = Statistics.load(tmp_path / "stats.npz")
    assert loaded.n == 3
    assert loaded.rows.shape == (3, 5)


_PEAK = """
import resource
import numpy as np
import scipy.linalg
from fid import Moments

def run(n):
    random, moments = np.random.default_rng(0), Moments(2048)
    for _ in range(n // 50):
        moments.update(random.normal(size=(50, 2048)).astype(np.float32))
    moments.statistics()

run(2_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(14_000)
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    done = subprocess.run(
        [sys.executable, "-c", _PEAK],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=600,
    )
    before, after = map(int, done.stdout.split())
    # The 12,000 images more have features of 98 MB.
    assert after - before < 50, f"from {before} to {after} MB"

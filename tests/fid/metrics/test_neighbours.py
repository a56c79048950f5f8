"""Neighbours in blocks against whole tables of differences in float64."""

import math

import numpy as np
import pytest
import rounding
import sklearn.neighbors

from fid import InputError
from fid.metrics import neighbours
from fid.metrics.neighbours import (
    VARIANTS,
    Balls,
    balls_of,
    nearest,
    neighbourhoods,
    smallest,
)

pytestmark = pytest.mark.portable

KINDS = [Balls(3, closed=True), Balls(5, closed=False)]


def features(n, d, seed, shift=0.0):
    """Like pool_3: float32, not negative, with a mean well above its differences."""
    random = np.random.default_rng(seed)
    return np.maximum(random.normal(size=(n, d)) + 1.0 + shift, 0).astype(np.float32)


def whole_numbers(n, d, seed):
    """Whole numbers, of which many distances are equal and all exact in float32."""
    return np.random.default_rng(seed).integers(0, 4, (n, d)).astype(np.float32)


def table(x, y):
    """All squared distances in float64, from the differences."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.square(x[:, None] - y[None]).sum(axis=-1)


def ring(n, seed):
    """Eight Gaussians on a circle, far tighter than they are apart."""
    random = np.random.default_rng(seed)
    angle = np.pi / 4 * random.integers(0, 8, n)
    middle = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return middle + 0.002 * random.normal(size=(n, 2))


def off_by(x, y):
    """The largest error of a squared distance that comes from products.

    They are float32 of more than 64 features. The product has d terms, and |u|² and
    |v|² are rounded to its type after a sum in float64: the sums' magnitudes are at
    most (|u| + |v|)² together, with lengths from the midst of the features, where each
    coordinate is rounded once more. Twice, because radii are as uncertain as the
    distances that are compared with them.
    """
    midst = y.mean(axis=0, dtype=np.float64)
    longest = sum(np.linalg.norm(z - midst, axis=1).max() for z in (x, y))
    # The midst is taken on a grid: each coordinate may be one deviation away.
    longest += 2 * math.sqrt(np.square(y - midst).sum(axis=1).mean())
    kind = "float64" if x.shape[1] <= 64 else "float32"
    return 2 * rounding.gamma(x.shape[1] + 10, kind) * longest**2


def by_sorting(generated, real, balls, error):
    """What `neighbourhoods` finds, by sorting; radii are made larger by an error."""
    k = balls.neighbours
    within = np.less_equal if balls.closed else np.less
    of_real = np.sort(table(real, real), axis=1)[:, k] + error
    of_generated = np.sort(table(generated, generated), axis=1)[:, k] + error
    between = table(real, generated)
    inside = within(between, of_real[:, None])
    return {
        "within": inside.sum(axis=0),
        "covered": inside.any(axis=1),
        "reached": within(between, of_generated[None]).any(axis=1),
    }


@pytest.mark.parametrize("block", [2000, 64, 7])
@pytest.mark.parametrize(("n", "m", "d"), [(151, 97, 2), (80, 160, 48), (128, 64, 300)])
def test_who_lies_in_whose_balls(n, m, d, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    real, generated = features(n, d, 0), features(m, d, 1, shift=0.1)
    error = off_by(generated, real)
    for balls, found in zip(KINDS, neighbourhoods(generated, real, KINDS), strict=True):
        assert found.balls == balls
        assert found.points == {
            # Some of few features are all zero.
            which: np.mean(np.sort(table(x, x), axis=1)[:, balls.neighbours] == 0)
            for which, x in (("first", generated), ("second", real))
        }
        least = by_sorting(generated, real, balls, -error)
        most = by_sorting(generated, real, balls, error)
        for name, low in least.items():
            value = getattr(found, name)
            assert (low <= value).all()
            assert (value <= most[name]).all()
        # Few of them are in doubt, or the test would say nothing.
        assert np.mean(least["within"] == most["within"]) > 0.8


@pytest.mark.parametrize("block", [2000, 7])
@pytest.mark.parametrize("balls", [*KINDS, Balls(1, closed=True), Balls(30, True)])
def test_ties_are_exact_among_whole_numbers(balls, block, monkeypatch):
    """So <= and < differ, whatever the midst of the features, which is no number."""
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    real, generated = whole_numbers(90, 5, 0), whole_numbers(70, 5, 1)
    for offset in (0.0, 1000.0):
        (found,) = neighbourhoods(generated + offset, real + offset, [balls])
        for name, value in by_sorting(generated, real, balls, 0.0).items():
            np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_clusters_far_tighter_than_they_are_apart_are_resolved(kind):
    real, generated = ring(400, 0).astype(kind), ring(300, 1).astype(kind)
    error = off_by(generated, real)
    for balls, found in zip(KINDS, neighbourhoods(generated, real, KINDS), strict=True):
        least = by_sorting(generated, real, balls, -error)
        most = by_sorting(generated, real, balls, error)
        for name, low in least.items():
            np.testing.assert_array_equal(low, most[name])
            np.testing.assert_array_equal(getattr(found, name), low)


def test_a_long_line_of_whole_numbers_is_exact():
    line = np.arange(3000.0)[:, None]
    np.testing.assert_array_equal(smallest(line, 1), 1.0)
    closed, opened = neighbourhoods(line, line, [Balls(1, True), Balls(1, False)])
    np.testing.assert_array_equal(opened.within, 1)
    assert opened.covered.all()
    np.testing.assert_array_equal(closed.within[1:-1], 3)


@pytest.mark.parametrize("block", [2000, 7])
def test_realism_is_the_largest_radius_over_distance(block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    real, generated = features(151, 20, 0), features(97, 20, 1)
    (found,) = neighbourhoods(generated, real, KINDS[:1])
    radii = np.sort(table(real, real), axis=1)[:, 3]
    small = radii < np.median(radii)
    squares = table(real, generated)[small]
    expected = np.sqrt((radii[small, None] / squares).max(axis=0))
    # A root halves the relative errors of radius and distance.
    error = off_by(generated, real) / min(squares.min(), radii[small].min())
    np.testing.assert_allclose(found.realism, expected, rtol=error)
    assert error < 1e-3


def test_a_copy_has_a_realism_that_is_large_and_finite():
    real = features(60, 8, 0)
    (found,) = neighbourhoods(real[:30], real, KINDS[:1])
    assert np.isfinite(found.realism).all()
    radii = np.sort(table(real, real), axis=1)[:, 3]
    copied = (radii < np.median(radii))[:30]
    assert found.realism[copied].min() > 100
    # Where all radii are equal, none is below their median.
    line = np.arange(9.0)[:, None]
    (found,) = neighbourhoods(line + 0.25, line, [Balls(1, closed=True)])
    assert found.realism is None


@pytest.mark.parametrize("block", [2000, 64, 10, 1])
@pytest.mark.parametrize("count", [1, 5, 69, 149])
def test_the_nearest_others_against_scikit_learn(count, block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    x = features(150, 24, 0)
    oracle = sklearn.neighbors.NearestNeighbors(n_neighbors=count, algorithm="brute")
    distances, _ = oracle.fit(x.astype(np.float64)).kneighbors()
    found = smallest(x, count)
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose(found, distances**2, rtol=0, atol=off_by(x, x))


@pytest.mark.parametrize("block", [2000, 8])
def test_the_nearest_target_against_scikit_learn(block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    targets, queries = features(110, 24, 0), features(50, 24, 1)
    oracle = sklearn.neighbors.NearestNeighbors(algorithm="brute").fit(targets)
    distances, indices = oracle.kneighbors(queries)
    found, apart = nearest(queries, targets)
    # None of them has a second one as near as rounding could mistake.
    assert np.diff(distances[:, :2] ** 2).min() > off_by(queries, targets)
    np.testing.assert_array_equal(found, indices[:, 0])
    expected = np.sqrt(table(queries, targets).min(axis=1))
    np.testing.assert_allclose(apart, expected, rtol=rounding.gamma(24 + 5))
    own = np.arange(20, 70)
    found, apart = nearest(targets[own], targets, besides=own)
    others = table(targets, targets)
    np.fill_diagonal(others, np.inf)
    np.testing.assert_array_equal(found, others[own].argmin(axis=1))


def test_equal_images_are_at_distance_zero():
    """Although |u|² - 2 u·v + |v|² of equal rows is a little above or below it."""
    x = np.repeat(features(40, 500, 0, shift=3.0), 3, axis=0)
    found = smallest(x, 3)
    assert not found[:, :2].any()
    assert found[:, 2].min() > 1
    _, apart = nearest(x[::-1], x)
    assert not apart.any()
    closed, opened = neighbourhoods(x[:60], x, [Balls(2, True), Balls(2, False)])
    # A closed ball of radius 0 has its image's equals, and an open one nothing.
    np.testing.assert_array_equal(closed.within, 3)
    np.testing.assert_array_equal(closed.covered, np.arange(120) < 60)
    assert not opened.within.any()
    assert closed.points == opened.points == {"first": 1.0, "second": 1.0}


def test_features_far_from_zero_lose_no_digits():
    real, generated = features(90, 16, 0), features(70, 16, 1)
    # A power of two: the sum is exact as long as few bits are below.
    real, generated = (np.round(x * 256) / 256 for x in (real, generated))
    for one, two in zip(
        neighbourhoods(generated, real, KINDS),
        neighbourhoods(generated + 4096, real + 4096, KINDS),
        strict=True,
    ):
        np.testing.assert_array_equal(one.within, two.within)
        np.testing.assert_array_equal(one.reached, two.reached)


def test_float64_features_are_taken_relative_to_their_midst():
    line = 1e9 + np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(smallest(line, 1), [[1], [1], [4], [16]])


def literally(u, v):
    """Squared distances as ADM's evaluator writes them, every step in float16.

    Sums within a product are long in float32 and rounded at the end; NumPy's sums of
    float16 would be rounded at every step.
    """
    half = np.float16
    with np.errstate(over="ignore", invalid="ignore"):
        return _literally(u.astype(half), v.astype(half), half)


def _literally(u, v, half):
    norm_u = np.square(u.astype(np.float64)).sum(axis=1).astype(half)[:, None]
    norm_v = np.square(v.astype(np.float64)).sum(axis=1).astype(half)[None, :]
    product = (u.astype(np.float64) @ v.astype(np.float64).T).astype(half)
    return np.maximum(norm_u - half(2) * product + norm_v, half(0))


def eighths(n, d, seed):
    """Features whose float16 products are exact in float32 sums of any order."""
    return np.random.default_rng(seed).integers(0, 24, (n, d)).astype(np.float32) / 8


@pytest.mark.parametrize("block", [2000, 50])
def test_adm_rounds_distances_to_float16(block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    real, generated = eighths(200, 64, 0), eighths(200, 64, 1)
    (found,) = neighbourhoods(generated, real, [VARIANTS["adm"]])
    of_real, of_generated = (
        # The self-distance is 0 here, as the numbers are exact, and so index 3.
        np.sort(literally(x, x), axis=1)[:, 3]
        for x in (real, generated)
    )
    between = literally(real, generated)
    inside = between <= of_real[:, None]
    np.testing.assert_array_equal(found.within, inside.sum(axis=0))
    np.testing.assert_array_equal(found.covered, inside.any(axis=1))
    np.testing.assert_array_equal(
        found.reached, (between <= of_generated[None]).any(axis=1)
    )
    # The rounding is there to be seen.
    (plain,) = neighbourhoods(generated, real, [VARIANTS["kynkaanniemi"]])
    assert (plain.within != found.within).any()


def test_adm_takes_float32_where_float16_would_be_infinite():
    real, generated = 256 * eighths(60, 64, 0), 256 * eighths(50, 64, 1)
    assert not np.isfinite(literally(real, generated)).all()
    for one, two in zip(
        neighbourhoods(generated, real, [VARIANTS["adm"]]),
        neighbourhoods(generated, real, [VARIANTS["kynkaanniemi"]]),
        strict=True,
    ):
        np.testing.assert_array_equal(one.within, two.within)
        np.testing.assert_array_equal(one.reached, two.reached)


def test_adm_decides_for_blocks_of_ten_thousand_rows(monkeypatch):
    """Here of 40 rows: one image that is too large takes its block to float32."""
    monkeypatch.setattr(neighbours, "_BLOCK", 20)
    monkeypatch.setattr(neighbours, "_ADM_BLOCK", 40)
    x = 4 * eighths(80, 64, 0)
    x[79] = 200
    found = smallest(x, 1, half=True)[:, 0]
    half, exact = literally(x, x).astype(np.float64), table(x, x)
    assert not np.isfinite(half).all()
    half[40:] = exact[40:]
    half[:, 40:] = exact[:, 40:]
    np.fill_diagonal(half, np.inf)
    np.testing.assert_array_equal(found, half.min(axis=1).astype(np.float32))


def test_adm_looks_at_distances_that_may_or_may_not_be_too_large():
    """|u|² = |v|² = 30,000 is finite; |u - v|² is 60,000 or, of opposites, 120,000."""
    one = np.zeros((4, 8), np.float32)
    one[np.arange(4), np.arange(4)] = math.sqrt(30_000)
    for x in (one, np.concatenate([one, -one])):
        expected = literally(x, x).astype(np.float64)
        if not np.isfinite(expected).all():
            expected = table(x, x)
        np.fill_diagonal(expected, np.inf)
        found = smallest(x, 1, half=True)[:, 0]
        tolerance = rounding.gamma(20, "float32") * 4 * 30_000
        np.testing.assert_allclose(found, expected.min(axis=1), rtol=0, atol=tolerance)


def test_nothing_depends_on_the_order_of_the_images():
    real, generated = whole_numbers(90, 5, 0), whole_numbers(70, 5, 1)
    random = np.random.default_rng(2)
    one, two = random.permutation(70), random.permutation(90)
    for before, after in zip(
        neighbourhoods(generated, real, KINDS),
        neighbourhoods(generated[one], real[two], KINDS),
        strict=True,
    ):
        np.testing.assert_array_equal(before.within[one], after.within)
        np.testing.assert_array_equal(before.reached[two], after.reached)
        np.testing.assert_array_equal(before.covered[two], after.covered)


def test_swapped_sets_swap_who_is_in_whose_balls():
    real, generated = whole_numbers(90, 5, 0), whole_numbers(70, 5, 1)
    for there, back in zip(
        neighbourhoods(generated, real, KINDS),
        neighbourhoods(real, generated, KINDS),
        strict=True,
    ):
        np.testing.assert_array_equal(there.within > 0, back.reached)
        np.testing.assert_array_equal(there.reached, back.within > 0)


def test_each_product_is_computed_once_for_all_kinds(monkeypatch):
    shapes = []

    row = neighbours._Distances.row

    def counted(self, rows, columns):
        for each, tile in row(self, rows, columns):
            shapes.append(tile.shape)
            yield each, tile

    monkeypatch.setattr(neighbours._Distances, "row", counted)
    monkeypatch.setattr(neighbours, "_BLOCK", 10)
    neighbourhoods(features(30, 4, 0), features(50, 4, 1), KINDS)
    # Of a symmetric table of 3 by 3 blocks 6, of one of 5 by 5 blocks 15, and 3 by 5.
    assert len(shapes) == 6 + 15 + 15


def test_memory_is_that_of_a_few_blocks(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(neighbours, "_BLOCK", 100)
    real, generated = features(3000, 16, 0), features(2000, 16, 1)
    tracemalloc.start()
    neighbourhoods(generated, real, KINDS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Blocks take 40 KB, and what is kept of the images less than 100 numbers of 8
    # bytes each; a whole table would take 24 MB.
    assert peak < 20 * 4 * 100**2 + 100 * 8 * 5000


def test_what_cannot_be_used_is_refused():
    x, bad = features(9, 4, 0), features(9, 4, 0)
    bad[2, 1] = np.nan
    wide = features(9, 65, 0)
    for arguments, message in (
        ((bad, x), r"image 2 \(counted from 0\) of the first set are not finite"),
        ((x, bad), r"image 2 \(counted from 0\) of the second set are not finite"),
        ((x, x[:, :3]), "has 4 features an image and the second 3"),
        ((x[0], x), r"first set are float32 of shape \(4,\)"),
        ((x.astype(int), x), "first set are int"),
        ((x[:0], x), r"shape \(0, 4\)"),
        ((x[:1], x), "first set has 1 images, and a ball reaches to neighbour 5"),
        ((x, x[:5]), "second set has 5 images, and a ball reaches to neighbour 5"),
        ((x.astype(float) * 1e200, x), "too large for a distance in float64"),
        ((wide * np.float32(1e30), wide), "too large for a distance in float32"),
    ):
        with np.errstate(over="ignore"), pytest.raises(InputError, match=message):
            neighbourhoods(*arguments, KINDS)
    with pytest.raises(InputError, match="neighbour 0 of its own set"):
        smallest(x, 0)


def test_variants_are_what_their_sources_say():
    assert balls_of("adm") == Balls(3, closed=True, half=True)
    assert balls_of("adm", 7, "float32") == Balls(7, closed=True, half=False)
    assert balls_of("adm", 7, "float16") == Balls(7, closed=True, half=True)
    assert balls_of("kynkaanniemi", 0, "float32") == Balls(3, closed=True, half=False)
    assert balls_of("prdc", 9) == Balls(9, closed=False)
    for arguments, message in (
        (("best",), "The variant is 'best'; choose from adm, kynkaanniemi, prdc."),
        (("adm", -1), "neighbours is -1; it must be at least 0."),
        (
            ("adm", 3, "int8"),
            "The distances are 'int8'; choose from variant, float16, float32.",
        ),
        (("adm", 2.5), "neighbours is 2.5; it must be a whole number."),
        (
            ("prdc", 0, "float16"),
            "The variant prdc does not round distances to float16: use the variant "
            "adm, or leave out the distances.",
        ),
    ):
        with pytest.raises(InputError) as error:
            balls_of(*arguments)
        assert str(error.value) == message

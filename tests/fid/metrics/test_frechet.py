import mpmath
import numpy as np
import pytest
import rounding
import scipy.linalg
import scipy.stats
from oracles import low_rank_distance

from fid import InputError, Moments, Statistics, frechet_distance
from fid.metrics.frechet import Frechet
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def measured(x):
    moments = Moments(x.shape[1])
    moments.update(x)
    return moments.statistics()


def without_rows(statistics):
    return Statistics(statistics.mu, statistics.sigma, statistics.n)


def gaussian(n, d, seed):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) @ random.normal(size=(d, d)) + random.normal()


def by_sqrtm(one, two):
    root = scipy.linalg.sqrtm(one.sigma @ two.sigma)
    shift = one.mu - two.mu
    return shift @ shift + np.trace(one.sigma + two.sigma - 2 * np.real(root))


def near(value, x, y):
    """Equal to the distance of two sets of features, but for rounding."""
    return pytest.approx(value, rel=0, abs=rounding.frechet(x, y))


def near_of(value, one, two):
    """The same for statistics that were not summed up here."""
    return pytest.approx(value, rel=0, abs=rounding.frechet_of(one, two))


def test_equal_statistics_are_at_exactly_zero():
    one = measured(gaussian(100, 20, 0))
    assert frechet_distance(one, one) == 0.0
    assert frechet_distance(one, without_rows(one)) == 0.0


def test_equal_covariances_leave_the_distance_of_the_means():
    sigma = measured(gaussian(200, 30, 0)).sigma
    shift = np.random.default_rng(1).normal(size=30)
    one, two = Statistics(np.zeros(30), sigma), Statistics(shift, sigma)
    assert frechet_distance(one, two) == near_of(shift @ shift, one, two)


def test_commuting_diagonals():
    random = np.random.default_rng(0)
    a, b = random.gamma(1.0, size=(2, 50))
    one, two = (
        Statistics(np.full(50, mean), np.diag(each)) for mean, each in ((0, a), (1, b))
    )
    expected = 50 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(one, two) == near_of(expected, one, two)


@pytest.mark.parametrize("keep_rows", [True, False])
def test_the_singular_case_with_a_known_value(keep_rows):
    # Two sets of 100 points in the plane, one coordinate constant in each.
    real, generated = np.ones((100, 2)), 9 * np.ones((100, 2))
    real[:50, 0] = 2
    generated[50:, 0] = 2
    one, two = measured(real), measured(generated)
    if keep_rows:
        one = Statistics(one.mu, one.sigma, one.n, rows=real)
        two = Statistics(two.mu, two.sigma, two.n, rows=generated)
    assert frechet_distance(one, two) == near(980 / 11, real, generated)


def test_well_conditioned_matrices_against_scipy():
    x, y = gaussian(500, 60, 0), gaussian(700, 60, 1)
    one, two = measured(x), measured(y)
    # SciPy's root by Schur's decomposition is as stable (Higham, Functions of
    # Matrices, section 6.2), and is magnified in the same way.
    assert frechet_distance(one, two) == near(by_sqrtm(one, two), x, y)
    assert frechet_distance(two, one) == near(frechet_distance(one, two), x, y)


def test_small_matrices_against_forty_digits():
    x, y = gaussian(40, 5, 0), gaussian(40, 5, 1)
    one, two = measured(x), measured(y)
    with mpmath.workdps(40):
        product = mpmath.matrix(one.sigma.tolist()) * mpmath.matrix(two.sigma.tolist())
        roots = sum(mpmath.sqrt(mpmath.re(e)) for e in mpmath.eig(product)[0])
        shift = one.mu - two.mu
        expected = (
            sum(mpmath.mpf(s) ** 2 for s in shift)
            + mpmath.mpf(float(np.trace(one.sigma)))
            + mpmath.mpf(float(np.trace(two.sigma)))
            - 2 * roots
        )
    assert frechet_distance(one, two) == near(float(expected), x, y)


@pytest.mark.parametrize("rows", [(True, True), (True, False), (False, False)])
def test_fewer_images_than_features(rows):
    x, y = gaussian(30, 100, 0), gaussian(50, 100, 1)
    sets = [
        s if keep else without_rows(s)
        for s, keep in zip((measured(x), measured(y)), rows, strict=True)
    ]
    assert frechet_distance(*sets) == near(low_rank_distance(x, y), x, y)


@pytest.mark.parametrize("keep_rows", [True, False])
def test_one_small_set_against_a_large_one(keep_rows):
    x, y = gaussian(30, 80, 0), gaussian(400, 80, 1)
    small = measured(x) if keep_rows else without_rows(measured(x))
    # The large set has no low-rank form; all of its features are used instead.
    expected = low_rank_distance(x, y)
    assert frechet_distance(small, measured(y)) == near(expected, x, y)
    assert frechet_distance(measured(y), small) == near(expected, x, y)


def test_features_against_a_file_of_few_images():
    """Both covariances singular, the features of only one set at hand."""
    decay = np.exp(-np.arange(300) / 40)
    x, y = gaussian(50, 300, 0) * decay, gaussian(100, 300, 1) * decay
    expected = low_rank_distance(x, y)
    value = frechet_distance(measured(x), without_rows(measured(y)))
    assert value == near(expected, x, y)


def test_a_matrix_that_is_no_covariance_is_refused():
    good = Statistics(np.zeros(2), np.eye(2), label="good.npz")
    bad = Statistics(np.zeros(2), np.array([[1.0, 5.0], [5.0, 1.0]]), label="bad.npz")
    for sets in ((good, bad), (bad, good)):
        with pytest.raises(InputError, match=r"bad.npz has the eigenvalue -4"):
            frechet_distance(*sets)


def test_a_negative_eigenvalue_where_the_other_set_has_no_spread_is_refused():
    few = without_rows(measured(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])))
    bad = Statistics(np.zeros(3), np.diag([1.0, 1.0, -1.0]), label="bad.npz")
    for sets in ((few, bad), (bad, few)):
        with pytest.raises(InputError, match=r"bad.npz has the eigenvalue -1"):
            frechet_distance(*sets)


@pytest.mark.parametrize("dead", [(3, 3), (3, 5), (3, None)])
def test_features_that_are_always_zero(dead):
    """As a rectified unit that never fires: rank d - 1 at any number of images."""
    sets = [gaussian(300, 40, seed) for seed in (0, 1)]
    for x, column in zip(sets, dead, strict=True):
        if column is not None:
            x[:, column] = 0.0
    value = frechet_distance(*map(measured, sets))
    assert value == near(low_rank_distance(*sets), *sets)


@pytest.mark.parametrize("exponent", [2, 4, 6])
def test_spectra_that_decay_by_orders_of_magnitude(exponent):
    """Products of such matrices have condition numbers up to the square of theirs."""
    scale = np.logspace(0, -exponent / 2, 60)
    rotation = scipy.stats.ortho_group.rvs(60, random_state=2)
    x, y = (
        np.random.default_rng(seed).normal(size=(200, 60)) * scale @ rotation + seed
        for seed in (0, 1)
    )
    value = frechet_distance(measured(x), measured(y))
    assert value == near(low_rank_distance(x, y), x, y)


def test_constant_features_and_large_means():
    x, y = gaussian(300, 20, 0), gaussian(300, 20, 1)
    x[:, 3] = y[:, 3] = 1e4
    x[:, 5] = 0.0
    assert frechet_distance(measured(x), measured(y)) == near(
        low_rank_distance(x, y), x, y
    )


def test_one_image_repeated():
    x = np.tile(gaussian(1, 10, 0), (5, 1))
    y = gaussian(5, 10, 1)
    assert frechet_distance(measured(x), measured(y)) == near(
        low_rank_distance(x, y), x, y
    )


def test_other_dimensions_and_nan_are_refused():
    one = Statistics(np.zeros(2), np.eye(2), label="a.npz")
    with pytest.raises(InputError, match=r"a.npz have 2 .* b.npz have 3"):
        frechet_distance(one, Statistics(np.zeros(3), np.eye(3), label="b.npz"))
    with pytest.raises(InputError, match=r"b.npz hold values that are not finite"):
        frechet_distance(
            one, Statistics(np.zeros(2), np.eye(2) * np.nan, label="b.npz")
        )


@pytest.mark.parametrize("method", ["eigen", "sqrtm"])
def test_the_distance_is_finite_or_refused(method):
    one = Statistics(np.zeros(2), np.eye(2), label="a.npz")
    for mu, sigma in (([1e200, 0], np.eye(2)), ([0, 0], np.diag([1e200, 1]))):
        two = Statistics(np.array(mu), sigma, label="b.npz")
        with pytest.raises(InputError, match=r"b.npz hold values .* above 1e\+100"):
            frechet_distance(one, two, method=method)
    two = Statistics(np.array([1e100, 0]), np.diag([1e100, 1]))
    assert frechet_distance(one, two, method=method) == pytest.approx(1e200)


def test_the_original_algorithm_agrees_on_well_conditioned_matrices():
    x, y = gaussian(500, 60, 0), gaussian(700, 60, 1)
    one, two = measured(x), measured(y)
    value = frechet_distance(one, two, method="sqrtm")
    assert value == near(frechet_distance(one, two), x, y)
    assert value == near(by_sqrtm(one, two), x, y)


def test_the_original_algorithm_on_the_singular_case():
    real, generated = np.ones((100, 2)), 9 * np.ones((100, 2))
    real[:50, 0] = 2
    generated[50:, 0] = 2
    value = frechet_distance(measured(real), measured(generated), method="sqrtm")
    # The product of the covariances is zero. Rounding leaves entries of up to u times
    # the product of their largest entries, 25 / 99 each, and the root of a matrix of
    # that size has an entry of the root of it; the distance has the trace twice. This
    # is why `eigen` exists: its bound above is 1e-13.
    bound = 2 * 2 * np.sqrt(rounding.gamma(100)) * 25 / 99
    assert value == pytest.approx(980 / 11, rel=0, abs=bound)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_the_original_algorithm_shifts_diagonals_where_the_root_is_not_finite(
    eps, monkeypatch, caplog
):
    root = scipy.linalg.sqrtm

    def sqrtm(matrix):  # as some releases of SciPy do
        singular = np.linalg.matrix_rank(matrix) < len(matrix)
        return np.full_like(matrix, np.nan) if singular else root(matrix)

    monkeypatch.setattr(scipy.linalg, "sqrtm", sqrtm)
    a, b = np.array([4.0, 1.0, 0.0]), np.array([1.0, 9.0, 0.0])
    one, two = (Statistics(np.zeros(3), np.diag(each)) for each in (a, b))
    value = frechet_distance(one, two, method="sqrtm", eps=eps)
    expected = a.sum() + b.sum() - 2 * np.sqrt((a + eps) * (b + eps)).sum()
    # The smallest root is of eps^2 times 1 + u, and what rounding does to it is
    # magnified by the largest entry of the product over it: u 9 / (2 eps).
    bound = rounding.gamma(3) * (expected + 9 / (2 * eps))
    assert value == pytest.approx(expected, rel=0, abs=bound)
    assert "not finite" in caplog.text
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda matrix: matrix * np.nan)
    with pytest.raises(InputError, match="no finite root. Use the method 'eigen'"):
        frechet_distance(one, two, method="sqrtm", eps=eps)


def test_the_original_algorithm_refuses_an_imaginary_part():
    one = Statistics(np.zeros(2), np.eye(2))
    two = Statistics(np.zeros(2), np.diag([1.0, -4.0]))
    with pytest.raises(InputError, match="Imaginary component 2") as error:
        frechet_distance(one, two, method="sqrtm")
    assert isinstance(error.value, ValueError)  # what its users catch


def test_an_unknown_method_is_refused():
    one = Statistics(np.zeros(2), np.eye(2))
    with pytest.raises(InputError, match="choose from eigen, sqrtm"):
        frechet_distance(one, one, method="svd")


@pytest.mark.slow
def test_the_size_of_pool_3_against_scipy():
    """One set of full rank, and one of few images."""
    decay = np.arange(1.0, 2049.0) ** -0.6
    x, y = (
        np.random.default_rng(seed).normal(size=(n, 2048)) * decay + 0.01 * seed
        for seed, n in enumerate((5000, 4000))
    )
    one, two = measured(x), measured(y)
    # The trace of the root of a product is that of (A^1/2 B A^1/2)^1/2, by eigenvalues.
    values, vectors = scipy.linalg.eigh(one.sigma)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = scipy.linalg.eigvalsh(half @ two.sigma @ half)
    shift = one.mu - two.mu
    expected = shift @ shift + np.trace(one.sigma) + np.trace(two.sigma)
    expected -= 2 * np.sqrt(inner.clip(0)).sum()
    assert frechet_distance(one, two) == near(expected, x, y)
    few = measured(y[:300])
    value = frechet_distance(one, few)
    centred = y[:300] - y[:300].mean(axis=0)
    gram = centred @ one.sigma @ centred.T / 299
    root = np.sqrt(np.linalg.eigvalsh(gram)[1:]).sum()
    shift = one.mu - few.mu
    exact = shift @ shift + np.trace(one.sigma) + np.trace(few.sigma) - 2 * root
    exact = near(exact, x, y[:300])
    assert value == exact
    assert frechet_distance(one, without_rows(few)) == exact


@pytest.mark.parametrize(
    ("n", "d", "expected"),
    [
        (None, 2048, None),
        (10_000, 2048, None),
        (9_999, 2048, "x has 9,999 images: the distance is biased upwards; use 10,000"),
        (2_048, 2048, "x has 2048 images for 2048 features: its covariance is rank-d"),
        (50, 20, None),
        (20, 20, "x has 20 images for 20 features"),
    ],
)
def test_a_small_set_is_warned_of(n, d, expected):
    # Only the shapes count here.
    small = Statistics(np.zeros(d), np.empty((d, d)), n, label="x")
    large = Statistics(np.zeros(d), np.empty((d, d)), 50_000, label="y")
    for sets in ((small, large), (large, small)):
        found = Frechet().warnings(*map(Measured, sets))
        assert len(found) == (expected is not None)
        assert all(text.startswith(expected) for text in found)


# Standard errors and biases -----------------------------------------------------------


def of_images(x):
    return Measured(measured(x), features=x)


def shapes(d, seed=0):
    """Two mixings and a shift, of which two known distributions are made."""
    random = np.random.default_rng(seed)
    one, two = random.normal(size=(2, d, d)) / np.sqrt(d)
    return one, two, random.normal(size=d) / 2


def many_draws(draw, n, m, count, d=4):
    """Distances of draws from two known distributions, and what is said of them."""
    one, two, shift = shapes(d)
    values, errors, biases = [], [], []
    for _ in range(count):
        x, y = draw((n, d)) @ one.T, draw((m, d)) @ two.T + shift
        value, (error, bias) = Frechet().with_errors(of_images(x), of_images(y))
        values.append(value)
        errors.append(error.value)
        biases.append(bias.value)
    truth = frechet_distance(
        Statistics(np.zeros(d), one @ one.T), Statistics(shift, two @ two.T)
    )
    said = np.sqrt(np.mean(np.square(errors)))
    return np.array(values), truth, said, np.mean(biases)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_the_standard_error_is_the_deviation_of_many_draws(kind):
    random = np.random.default_rng(3)
    draws = {
        "normal": random.normal,
        "laplace": lambda size: random.laplace(size=size) / np.sqrt(2),
    }
    count = 400
    values, truth, said, bias = many_draws(
        lambda size: draws[kind](size=size), 200, 150, count
    )
    # The aim is 10 %; a deviation of so many draws is itself uncertain.
    assert said == pytest.approx(
        values.std(ddof=1), rel=0.1 + rounding.deviation_of(count)
    )
    if kind == "normal":
        off = rounding.DEVIATIONS * values.std() / np.sqrt(count)
        assert values.mean() - truth == pytest.approx(bias, rel=0.2, abs=off)


def test_the_standard_error_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    x = np.abs(random.normal(size=(500, 5)) @ random.normal(size=(5, 5)))
    y = random.exponential(size=(400, 5))
    _, (error, _) = Frechet().with_errors(of_images(x), of_images(y))
    count = 300
    drawn = [
        frechet_distance(
            *(measured(z[random.integers(0, len(z), len(z))]) for z in (x, y))
        )
        for _ in range(count)
    ]
    assert error.value == pytest.approx(
        np.std(drawn, ddof=1), rel=0.1 + rounding.deviation_of(count)
    )


def test_the_bias_of_one_feature_is_known():
    # E s for n normal numbers is about sigma (1 - 1 / (4 (n - 1))), and the distance
    # is (m_1 - m_2)² + (s_1 - s_2)², of which E s_1² does not depend on n.
    one = Statistics(np.zeros(1), np.array([[4.0]]), n=101)
    two = Statistics(np.ones(1), np.array([[9.0]]))
    _, (error, bias) = Frechet().with_errors(Measured(one), Measured(two))
    assert bias.value == pytest.approx(4 / 101 + 2 * 2 * 3 / (4 * 100))
    assert "B does not say of how many images it is: taken as exact" in bias.origin
    assert error.value is None
    assert error.origin == (
        "neither statistics nor statistics has its features; give images"
    )
    _, (_, bias) = Frechet().with_errors(Measured(two), Measured(two))
    assert (bias.value, bias.origin) == (None, "no set says how many images it is of")


def test_the_share_of_a_set_without_features_is_left_out_and_said_so():
    x, y = gaussian(60, 4, 0), gaussian(70, 4, 1)
    one, two = of_images(x), of_images(y)
    bare = [Measured(each.statistics) for each in (one, two)]
    metric = Frechet()
    both = metric.with_errors(one, two)[1][0]
    first = metric.with_errors(one, bare[1])[1][0]
    second = metric.with_errors(bare[0], two)[1][0]
    assert both.origin == "influence function of both sets"
    assert first.origin == (
        "influence function of the images of A alone; the statistics of B are taken "
        "as exact"
    )
    assert second.origin == (
        "influence function of the images of B alone; the statistics of A are taken "
        "as exact"
    )
    assert both.value**2 == pytest.approx(first.value**2 + second.value**2)
    swapped = metric.with_errors(two, one)[1]
    assert [e.value for e in swapped] == pytest.approx(
        [e.value for e in metric.with_errors(one, two)[1]]
    )


def test_few_images_have_no_standard_error_and_a_line_says_why():
    few, many = of_images(gaussian(4, 4, 0)), of_images(gaussian(40, 4, 1))
    for sets in ((few, many), (many, few)):
        value, (error,) = Frechet().with_errors(*sets)
        assert value == Frechet()(*sets)
        assert error.value is None
        assert error.line("FID") == (
            "FID standard error: none (statistics has 4 images for 4 features, so its "
            "covariance is singular, and there is no optimal transport; use more than "
            "8)"
        )
    rough = of_images(gaussian(7, 4, 0))
    (error, _) = Frechet().with_errors(rough, many)[1]
    assert error.origin.endswith("; rough, since a set has fewer than 2 d images")


def test_the_distance_is_the_same_with_its_errors():
    one, two = of_images(gaussian(90, 6, 0)), of_images(gaussian(80, 6, 1))
    for method in ("eigen", "sqrtm"):
        metric = Frechet(method=method)
        value, _ = metric.with_errors(one, two)
        assert value == near(metric(one, two), one.features, two.features)
    assert Frechet().with_errors(one, one)[0] == 0.0
    with pytest.raises(InputError, match="different extractors"):
        Frechet().with_errors(one, of_images(gaussian(80, 5, 1)))

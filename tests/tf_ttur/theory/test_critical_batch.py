"""Critical batch sizes against closed forms, brute force and runs made by them."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from fid.files import InputError
from tf_ttur.theory import critical_batch
from tf_ttur.theory.critical_batch import Bound, Run, fit

SIZES = (14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 256)


def synthetic(
    random, p=1e-3, q=8e-3, sizes=(10, 12, 16, 24, 32, 64, 128, 256), **other
):
    """Runs whose log N is normal about log(1 / (p - q / b))."""
    options = {"seeds": 6, "spread": 0.1, "every": 0, "limit": math.inf} | other
    runs = []
    for size in sizes:
        for seed in range(options["seeds"]):
            steps = math.exp(random.normal(0, options["spread"])) / (p - q / size)
            previous, every = None, options["every"]
            if every:
                previous = math.floor(steps / every) * every
                steps = previous + every
            status = "reached" if steps <= options["limit"] else "censored"
            if status == "censored":
                steps, previous = options["limit"], None
            runs.append(Run(size, status, steps, previous, seed))
    return runs


# ---- the bound


def test_a_bound_by_hand():
    bound = Bound(start=2000.0, noise=10.0, floor=0.2)
    assert bound.value(100, 5) == pytest.approx(20 + 2 + 0.2)
    # e = 0.8, so b > 12.5, b* = 25 and N(25) = 2000 * 25 / (20 - 10) = 2 * 2000 / 0.8.
    assert bound.least_batch(1.0) == pytest.approx(12.5)
    assert bound.critical_batch(1.0) == pytest.approx(25)
    assert bound.steps(25, 1.0) == pytest.approx(5000)
    assert bound.examples(25, 1.0) == pytest.approx(4 * 2000 * 10 / 0.8**2)
    assert bound.steps(12.5, 1.0) == math.inf
    # So many steps bring the bound to the tolerance.
    assert bound.value(bound.steps(40, 1.0), 40) == pytest.approx(1.0)


def test_the_critical_batch_is_where_a_search_finds_the_fewest_examples():
    bound = Bound(start=3.0, noise=7.0, floor=0.1)
    found = scipy.optimize.minimize_scalar(
        lambda b: bound.examples(b, 0.5), bounds=(18, 200), method="bounded"
    )
    assert bound.critical_batch(0.5) == pytest.approx(found.x, rel=1e-4)


def test_a_tighter_tolerance_raises_the_critical_batch():
    bound = Bound(start=1.0, noise=1.0, floor=0.2)
    batches = [bound.critical_batch(tolerance) for tolerance in (1.0, 0.5, 0.3)]
    assert batches == sorted(batches)


def test_a_tolerance_below_the_floor_is_refused():
    with pytest.raises(InputError, match=r"0\.1 is not above the bound's floor 0\.2"):
        Bound(1.0, 1.0, 0.2).steps(8, 0.1)
    with pytest.raises(InputError, match="must be finite numbers"):
        Bound(1.0, math.nan)


def test_an_adaptive_bound_by_hand():
    made = critical_batch.adaptive_bound(
        rate=0.1, dimension=4, distance=2.0, variance=3.0, gradient=5.0,
        least_scale=0.5, largest_scale=6.0, beta_1=0.5, gamma=0.5, power=2,
    )  # fmt: skip
    # A = 4 * 2 * 6 / (2 * 0.1 * 0.5); the share is 0.1 / (2 * 0.5 * 0.25 * 0.5) = 0.8.
    assert made.start == pytest.approx(480)
    assert made.noise == pytest.approx(3 * 0.8)
    assert made.floor == pytest.approx(5 * 0.8 + 1 * math.sqrt(4 * 2 * (3 + 5)))


def test_the_joint_minimum_is_that_of_a_search():
    random = np.random.default_rng(0)
    kinds = set()
    for _ in range(150):
        one, other = (Bound(*random.uniform(0.1, 10, 3)) for _ in range(2))
        tolerances = (
            one.floor + random.uniform(0.1, 3),
            other.floor + random.uniform(0.1, 3),
        )
        found = critical_batch.minimise_jointly(
            one, tolerances[0], other, tolerances[1]
        )

        def examples(log_b, one=one, other=other, tolerances=tolerances):
            b = math.exp(log_b)
            return b * max(one.steps(b, tolerances[0]), other.steps(b, tolerances[1]))

        least = max(one.least_batch(tolerances[0]), other.least_batch(tolerances[1]))
        grid = math.log(least) + np.geomspace(1e-7, 12, 20_000)
        best = min(examples(each) for each in grid)
        assert examples(math.log(found)) <= best * (1 + 1e-9)
        own = {
            one.critical_batch(tolerances[0]): "one",
            other.critical_batch(tolerances[1]): "other",
        }
        kinds.add(own.get(found, "crossing"))
    assert kinds == {"one", "other", "crossing"}


# ---- the fit


def test_exact_runs_give_back_their_curve():
    runs = synthetic(np.random.default_rng(0), spread=0.0, seeds=1)
    found = fit(runs, resamples=0)
    assert found.p == pytest.approx(1e-3, rel=1e-5)
    assert found.q == pytest.approx(8e-3, rel=1e-4)
    assert found.critical_batch == pytest.approx(16, rel=1e-4)
    assert found.bound.steps(16.0) == pytest.approx(2000, rel=1e-4)
    assert found.verdict.startswith("A critical batch of 16")


def test_the_likelihood_is_that_of_numerical_integration():
    runs = [
        Run(10, "reached", 100.0),
        Run(10, "reached", 120.0, previous=90.0),
        Run(20, "reached", 60.0, previous=0.0),
        Run(20, "censored", 70.0),
    ]
    curve = fit(runs, resamples=0).rival
    means = np.log(curve.steps(np.array([10.0, 10.0, 20.0, 20.0])))

    def density(x, mean):
        spread = curve.spread
        return math.exp(-((x - mean) ** 2) / (2 * spread**2)) / (
            spread * math.sqrt(2 * math.pi)
        )

    def mass(low, high, mean):
        return scipy.integrate.quad(density, low, high, args=(mean,), epsabs=1e-12)[0]

    expected = [
        density(math.log(100), means[0]),
        mass(math.log(90), math.log(120), means[1]),
        mass(means[2] - 12, math.log(60), means[2]),
        mass(math.log(70), means[3] + 12, means[3]),
    ]
    assert curve.log_likelihood == pytest.approx(np.log(expected).sum(), abs=1e-6)


def test_a_rate_of_the_rival_s_form_has_no_critical_batch():
    random = np.random.default_rng(1)
    runs = [
        Run(size, "reached", 500 * (1 + 40 / size) * math.exp(random.normal(0, 0.03)))
        for size in (4, 8, 16, 32, 64, 128, 256)
        for _ in range(5)
    ]
    found = fit(runs, resamples=0)
    assert found.rival.limit == pytest.approx(500, rel=0.05)
    assert found.rival.batch == pytest.approx(40, rel=0.15)
    assert found.rival.aic < found.bound.aic
    assert "a curve whose examples have no minimum" in found.verdict


def test_steps_that_grow_with_the_batch_have_no_critical_batch():
    runs = synthetic(np.random.default_rng(2), q=-8e-3, spread=0.02)
    found = fit(runs, resamples=20)
    assert found.critical_batch is None
    assert found.interval is None
    assert found.q < 0
    assert found.verdict == "No critical batch detected: q is not positive."


def test_censored_runs_are_not_taken_as_if_they_had_got_there():
    # At b = 10 half of the runs need more than the limit of 5,000 steps.
    random = np.random.default_rng(3)
    runs = synthetic(random, spread=0.3, seeds=200, every=50, limit=5000)
    share = sum(run.status == "censored" for run in runs) / len(runs)
    assert share > 0.05
    found = fit(runs, resamples=0)
    # 1,600 runs of a spread of 0.3: log N_inf is known to 0.3 / sqrt(400) = 1.5 %.
    assert found.p == pytest.approx(1e-3, rel=0.045)
    assert found.critical_batch == pytest.approx(16, rel=0.02)
    naive = fit([Run(r.batch, "reached", r.steps) for r in runs], resamples=0)
    assert abs(naive.critical_batch - 16) > 2 * abs(found.critical_batch - 16)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"every": 100, "limit": 6000}])
def test_intervals_hold_the_truth_as_often_as_they_say(options):
    random = np.random.default_rng(4)
    inside = np.zeros(2)
    for repetition in range(100):
        found = fit(synthetic(random, **options), resamples=100, seed=repetition)
        for i, (low, high) in enumerate((found.p_interval, found.q_interval)):
            inside[i] += low <= (1e-3, 8e-3)[i] <= high
    # Of 100 intervals of 95 % 93 to 97 are asked for; chance alone moves that by 2.2.
    assert (inside >= 90).all()
    assert (inside <= 99).all()


def test_diverged_runs_are_counted_and_left_out():
    runs = synthetic(np.random.default_rng(0), spread=0.0, seeds=1)
    found = fit([*runs, Run(10, "diverged", 3), Run(10, "diverged", 5)], resamples=0)
    assert found.diverged == {10: 2}
    assert found.bound == fit(runs, resamples=0).bound


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs to fit"),
        ([Run(8, "diverged", 10)] * 3, "All 3 runs diverged"),
        ([Run(8, "reached", 10)] * 3, "3 runs of 1 batch sizes"),
        ([Run(8, "censored", 10), Run(16, "censored", 10)], "reached with 0 of these"),
    ],
)
def test_runs_that_give_no_curve_are_refused(runs, message):
    with pytest.raises(InputError, match=message):
        fit(runs)


@pytest.mark.parametrize(
    "values",
    [
        (0, "reached", 5), (8, "reached", 0), (8, "reached", math.nan),
        (8, "reached", 5, 6), (8, "finished", 5), (8, "reached", 5, -1),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_is_refused(values):
    with pytest.raises(InputError, match="A run has"):
        Run(*values)


# ---- the measured minimum


def runs_of(means, seeds=3, spread=0.0):
    return [
        Run(size, "reached", examples / size * (1 + spread * (seed - 1)))
        for size, examples in means.items()
        for seed in range(seeds)
    ]


def test_the_measured_minimum_is_bracketed_or_says_why_not():
    inside = {8: 900, 16: 500, 32: 800}
    found = critical_batch.measured_minimum(runs_of(inside))
    assert (found.batch, found.bracketed, found.why) == (16, True, "")
    assert found.examples == pytest.approx(500)
    # Standard errors are 0.3 * 500 / sqrt(3) = 87 and more.
    noisy = critical_batch.measured_minimum(runs_of(inside, spread=0.3))
    assert not noisy.bracketed
    assert noisy.why == "Not bracketed: a batch size of 32 is within the noise."
    edge = critical_batch.measured_minimum(runs_of({8: 400, 16: 500, 32: 800}))
    assert "it is the smallest size" in edge.why


def test_a_size_with_a_run_that_did_not_get_there_is_no_minimum():
    runs = [*runs_of({16: 500, 32: 800}), Run(8, "reached", 10), Run(8, "censored", 20)]
    assert critical_batch.measured_minimum(runs).batch == 16


def test_the_parabola_has_its_vertex_where_it_was_put():
    # log(N b) = (log2(b) - 4.3)^2 has its minimum at 2^4.3.
    means = {size: math.exp((math.log2(size) - 4.3) ** 2) for size in (8, 16, 32)}
    found = critical_batch.quadratic_minimum(runs_of(means))
    assert found == pytest.approx(2**4.3)
    with pytest.raises(InputError, match="at an end of the batch sizes"):
        critical_batch.quadratic_minimum(runs_of({8: 400, 16: 500}))


def test_sgd_on_a_quadratic_meets_its_theory():
    runs, bound = critical_batch.sgd_on_a_quadratic(SIZES, seeds=5)
    assert bound.start == pytest.approx(2051.28, abs=0.01)
    assert bound.critical_batch(0.8) == pytest.approx(25.64, abs=0.01)
    found = fit(runs, resamples=0)
    assert found.critical_batch == pytest.approx(bound.critical_batch(0.8), rel=0.03)
    assert found.bound.limit == pytest.approx(2051.28 / 0.8, rel=0.03)
    assert critical_batch.measured_minimum(runs).batch == 24
    assert found.bound.aic < found.rival.aic


# ---- estimates


def test_noise_of_two_batch_sizes_is_unbiased():
    random = np.random.default_rng(0)
    mean, spread = np.array([3.0, 4.0]), np.array([2.0, 6.0])
    norms = {
        size: (
            (mean + spread / math.sqrt(size) * random.normal(size=(40_000, 2))) ** 2
        ).sum(axis=1)
        for size in (2, 32)
    }
    found = critical_batch.two_batch_noise(2, norms[2], 32, norms[32])
    errors = {size: each.std() / 200 for size, each in norms.items()}
    # Four standard errors of the means, as they enter each estimate.
    assert found.trace == pytest.approx(40, abs=4 * sum(errors.values()) / (15 / 32))
    assert found.gradient == pytest.approx(
        25, abs=4 * (32 * errors[32] + 2 * errors[2]) / 30
    )
    assert found.scale == pytest.approx(found.trace / found.gradient)


def test_noise_needs_two_sizes_and_numbers():
    with pytest.raises(InputError, match="the first must be the smaller"):
        critical_batch.two_batch_noise(8, [1.0], 8, [1.0])
    with pytest.raises(InputError, match="finite and not negative"):
        critical_batch.two_batch_noise(2, [math.nan], 8, [1.0])
    assert critical_batch.two_batch_noise(2, [4.0], 8, [0.5]).scale == math.inf


DCGAN = {"examples": 3_033_042}
GENERATOR, DISCRIMINATOR = 3_576_704, 2_765_568


@pytest.mark.parametrize(
    ("rate", "dimension", "options", "expected"),
    [
        (3e-4, DISCRIMINATOR, {"beta_1": 0.5, "gamma": 0.5}, 4.16e-5),
        (1e-4, GENERATOR, {"beta_1": 0.5, "gamma": 0.5}, 1.58e-5),
        (3e-5, DISCRIMINATOR, {"beta_1": 0.5, "gamma": 0.5}, 4.16e-6),
        (3e-4, GENERATOR, {"beta_1": 0.5, "gamma": 0.5}, 4.73e-5),
        (3e-5, DISCRIMINATOR, {"beta_2": 0.99}, 1.64e-7),
        (1e-4, GENERATOR, {"beta_2": 0.99}, 6.24e-7),
    ],
)
def test_factors_of_the_dcgan_experiments(rate, dimension, options, expected):
    found = critical_batch.reconstructed_factor(
        rate=rate, dimension=dimension, **DCGAN, **options
    )
    # The table was computed with three digits.
    assert found == pytest.approx(expected, rel=5e-3)


def test_a_factor_scales_a_measured_batch():
    assert critical_batch.calibrated(64, 2e-5, 3e-5) == pytest.approx(96)
    plain = {"rate": 1e-3, "dimension": 9, "examples": 10, "beta_1": 0.5}
    base = critical_batch.reconstructed_factor(**plain)
    made = critical_batch.reconstructed_factor(**plain, belief=True)
    assert made == pytest.approx(base * 2)
    made = critical_batch.reconstructed_factor(**plain, corrected=True)
    assert made == pytest.approx(base * math.sqrt(1e-3))
    with pytest.raises(InputError, match="examples is 0"):
        critical_batch.reconstructed_factor(**plain | {"examples": 0})

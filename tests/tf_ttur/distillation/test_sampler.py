"""Samplers against closed forms of Gaussian data, SciPy's solver, and each other."""

import itertools

import keras
import numpy as np
import pytest
import rounding
import scipy.integrate
import tensorflow as tf

from fid.files import InputError
from tf_ttur import distillation
from tf_ttur.distillation import SAMPLERS, Flow, evaluations, guided
from tf_ttur.replicas import Share

pytestmark = pytest.mark.portable

# Data are N(MEAN, C) in two dimensions, with C = AXES diag(VARIANCES) AXES'. The best
# denoiser is linear, and so is the flow from noise to data.
MEAN = np.array([0.3, -0.5])
AXES = np.array([[0.8, -0.6], [0.6, 0.8]])
VARIANCES = np.array([0.25, 0.04])
COVARIANCE = AXES * VARIANCES @ AXES.T

# What a network of VP says makes no difference to a sampler.
FORMS = ["edm", "flow", "flow:3", "vp-eps"]
OF_FLOWS = [(each, form) for each in SAMPLERS for form in FORMS if each != "euler"]
OF_FLOWS += [("euler", "flow"), ("euler", "flow:3")]
NOISY = {"heun": {"churn": 2.0}, "ddim": {"eta": 0.7}, "euler": {}, "renoise": {}}


def linear(form, gain):
    """A function of noisy images: MEAN, and `gain(a, s)` times what is above it."""

    def function(noisy, t):
        a, s = (x[:, None] for x in form.coefficients(t))
        axes, mean = tf.constant(AXES, tf.float32), tf.constant(MEAN, tf.float32)
        above = tf.matmul(noisy - a * mean, axes)
        gains = gain(a, s, tf.constant(VARIANCES, tf.float32))
        return mean + tf.matmul(gains * above, axes, transpose_b=True)

    return function


def denoiser(form):
    """The mean of x_0 given x_t."""
    return linear(form, lambda a, s, c: a * c / (a * a * c + s * s))


def flow_map(form):
    """Where the probability flow takes x_t: a perfect student."""
    return linear(form, lambda a, s, c: tf.sqrt(c / (a * a * c + s * s)))


def closed_form(form, images, t):
    """The same in float64."""
    a, s = (float(x) for x in form.coefficients(t))
    gains = np.sqrt(VARIANCES / (a * a * VARIANCES + s * s))
    return MEAN + (images - a * MEAN) @ AXES * gains @ AXES.T


@pytest.fixture
def whole_numbers(monkeypatch):
    """Has noise made of whole numbers, of which XLA draws the same as TensorFlow.

    Of normal and uniform numbers it does not, with equal keys: TensorFlow 2.21 makes
    them of the same bits in another way.
    """

    def noise(shape, seed, **others):
        numbers = tf.random.stateless_uniform(shape, seed, -1000, 1001, tf.int32)
        return tf.cast(numbers, tf.float32) / 577

    monkeypatch.setattr(tf.random, "stateless_normal", noise)


def even(form, steps):
    """Times evenly spread in tau, without VP's root at the end; EDM has its ladder."""
    if not form.name.startswith("vp"):
        return form.ladder(steps).numpy()
    _, most = form.straight(999.0)
    tau = float(most) * (1 - np.arange(steps) / steps)
    return form.time_at(tau / (1 - tau)).numpy()


def assert_moments(images, slack=0.0):
    """Asserts that images have the data's mean and covariance.

    `slack` is what the method leaves out, relative to a standard deviation. A mean of n
    has the standard error deviation / sqrt(n), a covariance at most sqrt(2 / n) times
    the two deviations.
    """
    images = np.asarray(images, float)
    one = np.sqrt(np.diag(COVARIANCE))
    few = rounding.DEVIATIONS / np.sqrt(len(images)) + slack
    assert (np.abs(images.mean(0) - MEAN) <= few * one).all()
    error = np.abs(np.cov(images.T) - COVARIANCE) / np.outer(one, one)
    assert (error <= np.sqrt(2) * few + slack).all(), error


@pytest.mark.parametrize(
    ("sampler", "name"), [each for each in OF_FLOWS if each[0] != "renoise"]
)
def test_the_error_falls_with_the_order_of_the_method(sampler, name):
    form = distillation.get(name)
    start = form.prior((64, 2), seed=0)
    errors = []
    for steps in (40, 80):
        t = even(form, steps)
        found = SAMPLERS[sampler](denoiser(form), form, start, times=t)
        expected = closed_form(form, np.asarray(start, float), t[0])
        errors.append(np.abs(found - expected).max())
    # The next power of the step changes the exponent by a share of one step's size; the
    # steps of a shifted flow are up to three times as large.
    order = 2 if sampler == "heun" else 1
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=6 / 40)
    # Enough digits are left for it: rounding of all steps is far below.
    assert errors[1] > 10 * rounding.likely(80 * 12, "float32") * np.abs(MEAN).max()


@pytest.mark.parametrize("name", FORMS)
def test_heun_equals_scipys_solution_for_data_of_two_modes(name):
    """The flow of a mixture of N(-1, 0.09) and N(0.6, 0.09), which is not linear."""
    form = distillation.get(name)
    modes, c = np.array([-1.0, 0.6]), 0.09

    def mean(x, a, s, module):
        total = a * a * c + s * s
        away = [(x - a * mode) for mode in modes]
        weights = [-each * each / (2 * total) for each in away]
        first = 1 / (1 + module.exp(weights[1] - weights[0]))
        means = [m + a * c / total * d for m, d in zip(modes, away, strict=True)]
        return first * means[0] + (1 - first) * means[1]

    def denoise(noisy, t):
        a, s = (x[:, None] for x in form.coefficients(t))
        return mean(noisy, a, s, tf)

    start = form.prior((10, 1), seed=2)
    t = even(form, 320)
    a, s = (float(x) for x in form.coefficients(t[0]))
    if isinstance(form, Flow):
        # dx/dt = (x - x_0) / t, from t = 1. At 1e-6 x is x_0 but for 1e-6 of noise.
        y, span = np.asarray(start, float).ravel(), (1.0, 1e-6)

        def slope(time, y):
            return (y - mean(y, 1 - time, time, np)) / time
    else:
        # dy/dsigma = (y - x_0) / sigma for y = x / a and sigma = s / a.
        y, span = np.asarray(start, float).ravel() / a, (s / a, 1e-6)

        def slope(sigma, y):
            return (y - mean(y, 1.0, sigma, np)) / sigma

    solved = scipy.integrate.solve_ivp(slope, span, y, rtol=1e-9, atol=1e-9)
    coarse, fine = (
        tf.function(distillation.heun)(denoise, form, start, times=times)[:, 0].numpy()
        for times in (even(form, 160), t)
    )
    # Richardson: of a method of order 2, the finer solution is off by a third of the
    # difference of the two, and the next order is left out. EDM's last step is from
    # 0.002, whatever their number: near a mode m it leaves out (x - m) sigma^2 / (2 c),
    # with x at most four deviations away. SciPy's solution ends at 1e-6.
    last = 4 * np.sqrt(c) * 0.002**2 / (2 * c) if name == "edm" else 0.0
    allowed = np.abs(fine - coarse) / 3 * 1.5 + last + 4e-6
    assert (np.abs(fine - solved.y[:, -1]) <= allowed).all()
    assert allowed.max() < 2e-3


def test_heun_is_edms_algorithm():
    """Karras et al. 2022, algorithm 1, in float64 and line by line."""
    form = distillation.EDM()
    start = form.prior((32, 2), seed=1)
    x, t = (
        np.asarray(start, float),
        np.append(form.ladder(9).numpy(), 0.0).astype(float),
    )

    def slope(x, sigma):
        gains = VARIANCES / (VARIANCES + sigma**2)
        return (x - MEAN - (x - MEAN) @ AXES * gains @ AXES.T) / sigma

    for i in range(9):
        d = slope(x, t[i])
        after = x + (t[i + 1] - t[i]) * d
        if t[i + 1]:
            after = x + (t[i + 1] - t[i]) * (d + slope(after, t[i + 1])) / 2
        x = after
    found = distillation.heun(denoiser(form), form, start, 9)
    # A step rounds numbers of the size of the images at its time some 20 times, and the
    # steps that follow make the images, and such errors, smaller.
    allowed = rounding.gamma(20 * 9, "float32") * np.abs(x).max()
    np.testing.assert_allclose(found, x, rtol=0, atol=4 * allowed)


@pytest.mark.parametrize("name", ["edm", "flow:3", "vp-eps"])
def test_churn_keeps_the_distribution(name):
    form = distillation.get(name)
    start = form.prior((20000, 2), seed=3)
    t = even(form, 80)

    @tf.function
    def heun(**churn):
        return distillation.heun(denoiser(form), form, start, times=t, **churn)

    plain = heun()
    churned = heun(churn=20.0, seed=4)
    # Another path for each image, and not for the distribution. Order 2 leaves out 0.3%
    # of a deviation in 80 steps without churn. With it steps are up to half as long
    # again, and are repeated in part.
    assert np.abs(plain - churned).max() > 0.1
    assert_moments(plain, slack=0.01)
    assert_moments(churned, slack=0.02)
    # Outside its range of s / a it does nothing.
    outside = heun(churn=20.0, seed=4, churn_min=1e6)
    np.testing.assert_array_equal(outside, plain)
    noisier = heun(churn=20.0, seed=4, churn_noise=1.1)
    assert np.std(noisier) > 1.005 * np.std(churned)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["edm", "flow", "vp-v"])
def test_ddim_with_noise_has_the_moments_of_its_recursion(name, eta):
    form = distillation.get(name)
    t = np.append(even(form, 40), form.clean_time)
    a, s = (np.asarray(x, float) for x in form.coefficients(t))
    # Along each axis: the mean of x_t, and its variance, with DDIM's sigma for VP.
    mean = np.zeros(2)
    variance = np.full(2, float(form.prior_scale) ** 2)
    center = MEAN @ AXES
    for i in range(40):
        total = a[i] ** 2 * VARIANCES + s[i] ** 2
        gain = a[i] * VARIANCES / total
        rest = center - gain * a[i] * center  # x_0 = gain x + rest
        alpha, following = a[i] ** 2, a[i + 1] ** 2
        if name == "vp-v":
            new = np.sqrt((1 - following) / (1 - alpha) * (1 - alpha / following))
        else:
            keep = s[i] ** 2 - alpha / following * s[i + 1] ** 2
            new = s[i + 1] / s[i] * np.sqrt(max(keep, 0.0))
        new *= eta
        old = np.sqrt(max(s[i + 1] ** 2 - new**2, 0.0)) / s[i]
        factor = a[i + 1] * gain + old * (1 - a[i] * gain)
        mean = factor * mean + (a[i + 1] - old * a[i]) * rest
        variance = factor**2 * variance + new**2
    start = form.prior((20000, 2), seed=5)
    found = distillation.ddim(
        denoiser(form), form, start, times=t[:-1], eta=eta, seed=6
    )
    along = np.asarray(found, float) @ AXES
    few = rounding.DEVIATIONS / np.sqrt(len(along))
    assert (np.abs(along.mean(0) - mean) <= few * np.sqrt(variance)).all()
    allowed = rounding.deviation_of(len(along))
    np.testing.assert_allclose(along.std(0), np.sqrt(variance), rtol=allowed)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_euler_is_ddim_without_noise(shift, steps):
    form = Flow(shift)
    start = form.prior((16, 2), seed=0)
    one, other = (
        sampler(denoiser(form), form, start, steps)
        for sampler in (distillation.euler, distillation.ddim)
    )
    # Either rounds numbers of the size of the noise some 12 times a step, and the
    # flow to data narrower than the noise amplifies no error.
    allowed = rounding.gamma(2 * 12 * steps, "float32") * 2 * np.abs(start).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=allowed)
    # By hand: v at the evenly spaced times, shifted.
    t = 1 - np.arange(steps + 1) / steps
    t = shift * t / (1 + (shift - 1) * t)
    x = np.asarray(start, float)
    for now, after in itertools.pairwise(t):
        a, gains = 1 - now, (1 - now) * VARIANCES
        gains = gains / (a * a * VARIANCES + now**2)
        clean = MEAN + (x - a * MEAN) @ AXES * gains @ AXES.T
        x = x + (after - now) * (x - clean) / now
    np.testing.assert_allclose(one, x, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", FORMS)
def test_a_perfect_student_samples_the_data(name):
    form = distillation.get(name)
    start = form.prior((20000, 2), seed=7)
    found = distillation.renoise(flow_map(form), form, start, 4, seed=8)
    # The prior lacks the image: EDM has a variance of 80^2 and not of 80^2 + c, VP a
    # mean of 0 and not of 0.006 times the data's.
    assert_moments(found, slack=0.01)


@pytest.mark.parametrize("name", FORMS)
def test_renoise_noises_each_estimate_and_ends_with_the_last(name):
    form = distillation.get(name)
    calls = []

    def denoise(noisy, t):
        calls.append((noisy.numpy(), t.numpy(), flow_map(form)(noisy, t).numpy()))
        return calls[-1][-1]

    start = form.prior((4000, 2), seed=9)
    found = distillation.renoise(denoise, form, start, 4, seed=10)
    assert len(calls) == 4
    np.testing.assert_array_equal(found, calls[-1][2])
    # At 999 the student is given noise and nothing else.
    np.testing.assert_array_equal(calls[0][0], start)
    noise = keras.random.normal((4000, 2), seed=9)
    np.testing.assert_array_equal(start, np.float32(form.prior_scale) * noise)
    np.testing.assert_array_equal(calls[0][1], np.full(4000, form.times(999.0)))
    drawn = []
    for (_, _, clean), (noisy, t, _), index in zip(
        calls, calls[1:], (749, 499, 249), strict=False
    ):
        np.testing.assert_array_equal(t, np.full(4000, form.times(float(index))))
        a, s = (float(x) for x in form.coefficients(t[0]))
        drawn.append((noisy - a * clean) / s)
        # What is drawn is standard normal, and not the noise there was.
        few = rounding.DEVIATIONS / np.sqrt(8000)
        assert abs(drawn[-1].mean()) < few
        assert drawn[-1].std() == pytest.approx(1, rel=rounding.deviation_of(8000))
    for other in (drawn[1], drawn[2], start / form.prior_scale):
        assert abs(np.mean(drawn[0] * other)) < few
    # Stopped on the way, it returns what the student was called with.
    for stop in range(4):
        noisy = distillation.renoise(flow_map(form), form, start, 4, seed=10, stop=stop)
        np.testing.assert_array_equal(noisy, calls[stop][0])
    whole = distillation.renoise(flow_map(form), form, start, 4, seed=10, stop=4)
    np.testing.assert_array_equal(whole, found)
    # The remaining steps from an anchor are a call with what is left of the times.
    last = distillation.renoise(
        flow_map(form), form, calls[3][0], times=form.anchors(4)[3:]
    )
    np.testing.assert_array_equal(last, found)


@pytest.mark.parametrize(("sampler", "name"), OF_FLOWS)
def test_one_compiled_program_equals_the_steps_one_by_one(sampler, name, whole_numbers):
    form = distillation.get(name)
    traces = []

    def denoise(noisy, t):
        traces.append(1)
        return denoiser(form)(noisy, t)

    def sample(start, denoise=denoise):
        seed = None if sampler == "euler" else 11
        return SAMPLERS[sampler](denoise, form, start, 16, seed=seed, **NOISY[sampler])

    start = form.prior((8, 2), seed=0)
    found = tf.function(sample, jit_compile=True)(start)
    # However many the steps, the program has the network once.
    assert len(traces) == 1
    expected = sample(start, denoiser(form))
    # Some 40 roundings a step, and in the schedule two functions, of numbers that come
    # to the size of the noise, or of 80 for EDM, whose errors the steps make smaller in
    # proportion.
    size = max(np.abs(start).max() / form.prior_scale, rounding.DEVIATIONS)
    allowed = rounding.gamma(2 * 16 * (40 + 2 * rounding.FUNCTION), "float32") * size
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


def test_a_compiled_program_may_stop_where_a_tensor_says(whole_numbers):
    form = Flow()
    start = form.prior((8, 2), seed=0)

    @tf.function(jit_compile=True)
    def rollout(stop):
        return distillation.renoise(flow_map(form), form, start, 4, seed=1, stop=stop)

    for stop in (0, 2, 4):
        expected = distillation.renoise(
            flow_map(form), form, start, 4, seed=1, stop=stop
        )
        few = rounding.gamma(2 * 4 * (40 + 2 * rounding.FUNCTION), "float32")
        found = rollout(tf.constant(stop))
        np.testing.assert_allclose(found, expected, atol=5 * few, rtol=0)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize(("sampler", "name"), OF_FLOWS)
def test_gradients_pass_through_all_steps(sampler, name, jit):
    form = distillation.get(name)
    shift = tf.Variable(0.0)

    def sample(start):
        with tf.GradientTape() as tape:
            tape.watch(start)
            found = SAMPLERS[sampler](
                lambda x, t: denoiser(form)(x, t) + shift, form, start, 6, seed=1,
                **NOISY[sampler],
            )  # fmt: skip
            total = tf.reduce_sum(found)
        return total, *tape.gradient(total, [start, shift])

    run = tf.function(sample, jit_compile=True) if jit else sample
    start = form.prior((8, 2), seed=0)
    total, by_start, by_shift = run(start)
    # All is linear, so that differences are derivatives, however large.
    more, *_ = run(start + form.prior_scale)
    size = 16 * rounding.gamma(2 * 6 * 80, "float32") * rounding.DEVIATIONS
    difference = tf.reduce_sum(by_start) * form.prior_scale
    assert float(more - total) == pytest.approx(float(difference), rel=0, abs=size)
    shift.assign(1.0)
    more, *_ = run(start)
    assert float(more - total) == pytest.approx(float(by_shift), rel=0, abs=2 * size)
    assert float(by_shift) > 1


@pytest.mark.parametrize("sampler", ["heun", "ddim", "renoise"])
def test_replicas_share_the_noise_of_the_global_batch(sampler):
    form = Flow()
    start = form.prior((8, 2), seed=0)
    whole, part, alone = (
        SAMPLERS[sampler](
            denoiser(form), form, images, 4, seed=1, share=share, **NOISY[sampler]
        ).numpy()
        for images, share in (
            (start, None), (start[2:5], Share(2, 3, 8, 2)), (start[2:5], None),
        )
    )  # fmt: skip
    # A matrix product of other rows may add in another order.
    allowed = rounding.gamma(2 * 4 * 80, "float32") * rounding.DEVIATIONS
    np.testing.assert_allclose(part, whole[2:5], rtol=0, atol=allowed)
    assert not np.allclose(alone, whole[2:5], rtol=0, atol=allowed)


@pytest.mark.parametrize("sampler", ["heun", "ddim", "renoise"])
def test_seeds_say_what_is_drawn(sampler):
    form = Flow()
    start = form.prior((8, 2), seed=0)

    def sample(seed):
        return SAMPLERS[sampler](
            denoiser(form), form, start, 4, seed=seed, **NOISY[sampler]
        ).numpy()

    np.testing.assert_array_equal(sample(1), sample(1))
    assert not np.allclose(sample(1), sample(2))
    one, other = (keras.random.SeedGenerator(3) for _ in range(2))
    first = sample(one)
    np.testing.assert_array_equal(first, sample(other))
    assert not np.allclose(first, sample(one))
    with pytest.raises(InputError, match="needs a seed.*Received: None"):
        sample(None)
    # The generator's state is advanced in a compiled program, too.
    compiled = tf.function(
        lambda: SAMPLERS[sampler](
            denoiser(form), form, start, 4, seed=one, **NOISY[sampler]
        ),
        jit_compile=True,
    )
    assert not np.allclose(compiled(), compiled())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_evaluations_are_as_many_as_are_made(sampler, steps, scale):
    form, calls = Flow(), []

    def network(noisy, t, labels):
        assert len(noisy) == len(t) == len(labels)
        calls.append(len(noisy))
        return denoiser(form)(noisy, t)

    denoise = guided(network, tf.constant([0, 1, 2]), scale, none=3)
    start = form.prior((3, 2), seed=0)
    found = SAMPLERS[sampler](denoise, form, start, steps, seed=1)
    assert found.shape == (3, 2)
    assert sum(calls) == 3 * evaluations(sampler, steps, scale)
    assert sum(calls) == 3 * evaluations(SAMPLERS[sampler], steps, scale)
    # Guidance makes the batch larger, and not the calls more.
    assert len(calls) == evaluations(sampler, steps)


def test_guidance_is_the_formula():
    labels, calls = tf.constant([0, 4, 2]), []

    def network(noisy, t, labels):
        calls.append(labels.numpy().tolist())
        return noisy * t[:, None] + tf.cast(labels, tf.float32)[:, None] ** 2

    noisy, t = tf.constant([[1.0], [2.0], [3.0]]), tf.constant([0.5, 1.0, 2.0])
    plain = np.array([0.5, 2.0, 6.0])
    for scale, none, expected in (
        (2.5, 9, 81 + 2.5 * (np.array([0, 16, 4]) - 81)),
        (1.0, 9, np.array([0, 16, 4])),
        (0.0, 9, 81.0),
    ):
        found = guided(network, labels, scale, none)(noisy, t)[:, 0]
        few = rounding.gamma(6, "float32") * (1 + 2 * scale) * 90
        np.testing.assert_allclose(found, plain + expected, rtol=0, atol=few)
    assert calls == [[0, 4, 2, 9, 9, 9], [0, 4, 2], [9, 9, 9]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_half_precision_is_sampled_in_float32(sampler):
    form = Flow()

    def denoise(noisy, t):
        assert noisy.dtype == t.dtype == tf.float32
        return tf.cast(denoiser(form)(noisy, t), tf.bfloat16)

    start = tf.cast(form.prior((3, 2), seed=0), tf.bfloat16)
    found = SAMPLERS[sampler](denoise, form, start, 3, seed=1)
    assert found.dtype == tf.float32


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_step_is_the_estimate(sampler):
    form = Flow()
    start = form.prior((3, 2), seed=0)
    found = SAMPLERS[sampler](flow_map(form), form, start, 1)
    expected = flow_map(form)(start, tf.ones(3))
    few = rounding.gamma(4, "float32") * np.abs(start).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * few)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs the number of steps, or their times"),
        ({"steps": 0}, "steps"),
        ({"times": [0.5, 0.7]}, "must fall .*above 0, .*Received: "),
        ({"times": [0.5, 0.0]}, "must fall"),
        ({"times": [0.5, float("nan")]}, "must fall"),
        ({"times": []}, r"Received: the shape \(0,\)"),
        ({"times": 0.5}, r"Received: the shape \(\)"),
        ({"times": [0.5, 0.2], "steps": 3}, r"3 of them. Received: the shape \(2,\)"),
    ],
)
def test_times_that_cannot_be_are_refused(sampler, arguments, message):
    with pytest.raises(InputError, match=message):
        SAMPLERS[sampler](lambda x, t: x, "flow", [[1.0]], seed=0, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distillation.euler(None, "edm", [[1.0]], 2), "euler is for flow"),
        (lambda: distillation.ddim(None, "edm", [[1.0]], 2, eta=1.5), "eta must be in"),
        (lambda: distillation.heun(None, "edm", [[1.0]], 2, churn=-1), "churn and"),
        (lambda: distillation.renoise(None, "edm", [[1.0]], 2, stop=3), "stop must be"),
        (lambda: distillation.renoise(None, "edm", [[1.0]], 2, stop=0.5), "in 0..2"),
        (lambda: guided(None, [0], -1.0, 3), "guidance must be a number >= 0"),
        (lambda: evaluations("heun", 0), "steps"),
        (lambda: evaluations("rk4", 3), "heun, ddim, euler, renoise. Received: 'rk4'"),
    ],
)
def test_arguments_out_of_their_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_noise_that_is_given_is_that_of_each_step():
    flow = distillation.Flow()
    start, noises = (
        np.random.default_rng(seed).normal(size=shape).astype("float32")
        for seed, shape in enumerate([(5, 3), (2, 5, 3)])
    )

    def student(noisy, t):
        return tf.tanh(noisy) + t[:, None]

    found = distillation.renoise(student, flow, start, 3, noises=noises)
    x, times = start.astype("f8"), [1.0, 2 / 3, 1 / 3]
    for index, t in enumerate(times):
        x = np.tanh(x) + t
        if index < 2:
            after = times[index + 1]
            x = (1 - after) * x + after * noises[index]
    # Each of three steps rounds a few numbers of up to 4.
    np.testing.assert_allclose(found, x, rtol=0, atol=4 * rounding.gamma(30, "float32"))
    parts = [
        distillation.renoise(student, flow, start[i : i + 1], 3,
                             noises=noises[:, i : i + 1])
        for i in range(5)
    ]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(parts), found, rtol=0, atol=1e-6)

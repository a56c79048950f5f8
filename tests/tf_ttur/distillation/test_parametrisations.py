"""Parametrisations against their formulas in float64, and against each other."""

import keras
import numpy as np
import pytest
import rounding
import scipy.special
import scipy.stats
import tensorflow as tf

from fid.files import InputError
from tf_ttur import distillation
from tf_ttur.distillation import EDM, VP, Flow

pytestmark = pytest.mark.portable

FORMS = [VP("eps"), VP("v"), EDM(), EDM(0.3), Flow(), Flow(3.0)]
EACH = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
JIT = pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])

# Of a and s in float32. VP's polynomial has seven coefficients, each with a product and
# a sum, all positive; its argument has two roundings, which the powers multiply by
# seven at the most. An exponential or expm1, a root, and the product with an image are
# behind it. An error of -log alphabar is one of half of it in a: up to 5 times more.
FEW = 5 * (2 * 7 + 2 * 7) + 2 * rounding.FUNCTION + 8
ROUNDINGS = rounding.gamma(FEW, "float32")


def alphabar(t):
    """DDPM's product for whole t, continued by the gamma function, in float64.

    1 - beta_k is d (c - k), so that the product for k in 0..t is d^(t + 1)
    Gamma(c + 1) / Gamma(c - t).
    """
    d = (0.02 - 1e-4) / 999
    c = (1 - 1e-4) / d
    gamma = scipy.special.gammaln
    return np.exp((t + 1) * np.log(d) + gamma(c + 1) - gamma(c - t))


def spread(form, t):
    """The coefficients a and s in float64."""
    t = np.asarray(t, np.float64)
    if isinstance(form, VP):
        return np.sqrt(alphabar(t)), np.sqrt(1 - alphabar(t))
    return (np.ones_like(t), t) if isinstance(form, EDM) else (1 - t, t)


def affine(form, t):
    """p and q in x_0 = p x_t + q output, in float64, from the papers."""
    a, s = spread(form, t)
    if form.name == "vp-eps":
        return 1 / a, -s / a
    if form.name == "vp-v":
        return a, -s
    if isinstance(form, Flow):
        return np.ones_like(t), -np.asarray(t, float)
    total = s**2 + form.sigma_data**2
    return form.sigma_data**2 / total, s * form.sigma_data / np.sqrt(total)


def batch(form, seed=0):
    """Two images and an output for each of six times, rounded to float32."""
    random = np.random.default_rng(seed)
    arrays = random.normal(size=(3, 6, 4, 4, 2)).astype("f4").astype(float)
    t = form.times([999.0, 749.0, 400.25, 120.0, 30.5, 4.0]).numpy()
    return (*arrays, t.astype(float))


def wide(numbers):
    return np.asarray(numbers)[:, None, None, None]


def run(function, arrays, jit):
    tensors = [tf.constant(array, tf.float32) for array in arrays]
    return (
        tf.function(function, jit_compile=True)(*tensors) if jit else function(*tensors)
    )


def assert_sum(found, terms):
    """Asserts that a sum of terms with few roundings each is right in float32."""
    found, terms = np.asarray(found, float), np.broadcast_arrays(*terms)
    allowed = ROUNDINGS * np.abs(terms).sum(0)
    error = np.abs(found - np.sum(terms, 0))
    assert (error <= allowed).all(), (error / allowed).max()


@JIT
def test_alphabar_is_ddpms_at_whole_times_and_smooth_between(jit):
    beta = np.linspace(1e-4, 0.02, 1000)
    product = np.cumprod(1 - beta)
    # The oracle's gamma functions of 5e4 are 5e5, of which 1e-10 is left.
    np.testing.assert_allclose(alphabar(np.arange(1000.0)), product, rtol=1e-9)
    t = np.sort(np.append(np.arange(1000.0), np.random.default_rng(0).uniform(0, 999)))
    a, s = run(VP().coefficients, [t], jit)
    t = np.float32(t).astype(float)
    np.testing.assert_allclose(a, np.sqrt(alphabar(t)), rtol=ROUNDINGS)
    # 1 - alphabar itself loses digits near t = 0, even in float64: 1e-9 of 1e-4.
    tolerance = ROUNDINGS + 1e-5
    np.testing.assert_allclose(s, np.sqrt(1 - alphabar(t)), rtol=tolerance)
    exact = np.sqrt(-np.expm1(np.cumsum(np.log1p(-beta))))
    _, s = run(VP().coefficients, [np.arange(1000.0)], jit)
    np.testing.assert_allclose(s, exact, rtol=ROUNDINGS)


@EACH
def test_at_the_clean_time_images_are_clean_and_at_999_they_are_noise(form):
    a, s = form.coefficients([form.clean_time])
    assert (float(a[0]), float(s[0])) == (1.0, 0.0)
    a, s = (float(x) for x in form.coefficients(form.times(999.0)))
    # VP leaves 0.6% of the image, EDM 1.25% relative to its noise.
    assert a / s < 0.0126
    assert s == pytest.approx(form.prior_scale, rel=3e-5)
    if isinstance(form, (EDM, Flow)):
        assert s == form.prior_scale
    if isinstance(form, Flow):
        assert a == 0.0
    start = form.prior((20, 3, 3, 1), seed=3).numpy()
    noise = keras.random.normal((20, 3, 3, 1), seed=3)
    np.testing.assert_array_equal(start, np.float32(form.prior_scale) * noise)


def test_the_ladder_of_edm_is_karras():
    i = np.arange(1000.0)
    rho = 1 / 7
    expected = (80**rho + (999 - i) / 999 * (0.002**rho - 80**rho)) ** 7
    # The base in float32 is off by four roundings of 1, and is 0.22 at the least. The
    # power multiplies a relative error by seven.
    tolerance = 7 * rounding.gamma(4, "float32") / (0.002 / 80) ** rho
    tolerance += rounding.gamma(rounding.FUNCTION, "float32")
    np.testing.assert_allclose(EDM().times(i), expected, rtol=tolerance)
    # The four anchors of the specification, to their printed digits.
    for sigma, text in zip(
        EDM().anchors(4), ["80", "17.5", "2.50", "0.168"], strict=True
    ):
        decimals = len(text.partition(".")[2])
        assert float(sigma) == pytest.approx(
            float(text), abs=rounding.printed(decimals)
        )
    # A sampler's ladder has both ends.
    ladder = EDM().ladder(18).numpy()
    j = np.arange(18.0)
    expected = (80**rho + j / 17 * (0.002**rho - 80**rho)) ** 7
    # Indices near 999 are rounded to 3e-5, a share of 3e-8 of the way.
    np.testing.assert_allclose(ladder, expected, rtol=2 * tolerance)
    assert EDM().ladder(1).numpy().tolist() == [80.0]


def test_times_of_vp_and_of_flows():
    i = np.array([999.0, 749.0, 499.0, 249.0, 0.0])
    assert VP().times(i).numpy().tolist() == i.tolist()
    t = (i + 1) / 1000
    few = rounding.gamma(6, "float32")
    for shift in (1.0, 3.0, 1.7, 0.4):
        expected = shift * t / (1 + (shift - 1) * t)
        # Each of the sum's terms is positive, and the sum at least 1 or 1 / shift.
        found = Flow(shift).times(i).numpy()
        np.testing.assert_allclose(found, expected, rtol=few)
        assert found[0] == 1.0
    np.testing.assert_allclose(Flow(3).anchors(4), [1, 0.9, 0.75, 0.5], rtol=few)
    assert VP().anchors(4).numpy().tolist() == [999.0, 749.0, 499.0, 249.0]
    assert VP().ladder(4).numpy().tolist() == [999.0, 749.0, 499.0, 249.0]


@EACH
def test_time_at_is_the_inverse_of_the_ratio(form):
    t = form.times(np.linspace(0, 999 if form.name.startswith("vp") else 990, 301))
    a, s = spread(form, t)
    found = form.time_at(s / a).numpy()
    # Of x = (t + 1) / 1000 in VP: the polynomial's x P' is at least P, so that x has no
    # larger relative error than -log alphabar.
    zero = form.clean_time
    np.testing.assert_allclose(found - zero, t - zero, rtol=ROUNDINGS)
    assert float(form.time_at(0.0)) == form.clean_time
    if not isinstance(form, EDM):
        most = float(form.times(999.0))
        assert float(form.time_at(np.inf)) == pytest.approx(most, rel=ROUNDINGS)


@JIT
@EACH
def test_noisy_images_are_a_x_plus_s_e(form, jit):
    x, e, _, t = batch(form)
    a, s = spread(form, t)
    assert_sum(run(form.corrupt, [x, e, t], jit), [wide(a) * x, wide(s) * e])


@JIT
@EACH
def test_clean_and_output_are_the_papers_formulas(form, jit):
    x, _, output, t = batch(form)
    p, q = map(wide, affine(form, t))
    assert_sum(run(form.clean, [x, output, t], jit), [p * x, q * output])
    assert_sum(run(form.output, [x, output, t], jit), [output / q, -p * x / q])


@EACH
def test_clean_and_output_undo_each_other(form):
    x, _, output, t = batch(form, 1)
    p, q = map(wide, affine(form, t))
    again = form.output(x, form.clean(x, output, t), t)
    # What is undone has been added, and rounded, twice.
    terms = np.abs(output) + 2 * np.abs(p * x / q)
    assert (np.abs(again - output) <= 2 * ROUNDINGS * terms).all()


@JIT
@EACH
def test_the_target_is_the_output_that_gives_the_clean_image(form, jit):
    x, e, _, t = batch(form)
    a, s = map(wide, spread(form, t))
    p, q = map(wide, affine(form, t))
    # x = p (a x + s e) + q target. In this form terms in x cancel, so that their
    # coefficient is compared with a larger one; that of EDM does not cancel.
    of_x = {
        "vp-eps": 0.0 * s,
        "vp-v": -s,
        "edm": (1 - p) / q,
        "flow": -np.ones_like(s),
    }[form.name.partition(":")[0]]
    target = run(form.target, [x, e, t], jit)
    assert_sum(target, [of_x * x, -p * s / q * e])
    terms = p * (a * x + s * e), q * np.asarray(target, float)
    allowed = 2 * ROUNDINGS * (np.abs(terms[0]) + np.abs(q) * (np.abs(x) + np.abs(e)))
    assert (np.abs(sum(terms) - x) <= allowed).all()


@JIT
@EACH
def test_the_loss_is_its_weight_times_the_squared_error_of_the_estimate(form, jit):
    x, e, output, t = batch(form)
    a, s = map(wide, spread(form, t))
    p, q = map(wide, affine(form, t))
    estimate = p * (a * x + s * e) + q * output
    squares = ((estimate - x) ** 2).mean((1, 2, 3))
    expected = squares / q[:, 0, 0, 0] ** 2
    found = run(form.loss, [output, x, e, t], jit).numpy()
    assert found.shape == (6,)
    # A sum of 32 squares of differences of terms that are below `largest`.
    largest = max(np.abs(output).max(), 2 * np.abs(x).max() + np.abs(e).max())
    allowed = 4 * largest**2 * (2 * ROUNDINGS + rounding.gamma(32, "float32"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
    weights = form.weight(tf.constant(t, tf.float32))
    np.testing.assert_allclose(weights, q[:, 0, 0, 0] ** -2, rtol=3 * ROUNDINGS)


def test_a_loss_of_edm_by_hand():
    # sigma = sigma_data = 1/2: c_skip is 1/2, c_out sqrt(2) / 4, the weight 4 + 4. With
    # x_0 = 1, e = -1 the image is 1/2, and F = 1 says D = 1/4 + sqrt(2) / 4.
    one = tf.ones((1, 2, 2, 1))
    loss = EDM().loss(one, one, -one, [0.5])
    expected = 8 * (1 / 4 + 2**0.5 / 4 - 1) ** 2
    few = rounding.gamma(16, "float32")
    assert loss.numpy().tolist() == [pytest.approx(expected, rel=few)]
    assert EDM().clean(0.5 * one, one, [0.5]).numpy().ravel()[0] == pytest.approx(
        1 / 4 + 2**0.5 / 4, rel=few
    )
    assert float(EDM().weight(0.5)) == 8.0


def test_what_networks_are_called_with():
    images = tf.fill((2, 1, 1, 1), 3.0)
    few = rounding.gamma(4 + rounding.FUNCTION, "float32")
    for form, t in ((VP("eps"), [999.0, 2.5]), (VP("v"), [7.0, 0.0])):
        scaled, condition = form.inputs(images, t)
        assert scaled.numpy().tolist() == images.numpy().tolist()
        assert condition.numpy().tolist() == t
    scaled, condition = Flow(3.0).inputs(images, [1.0, 0.25])
    assert scaled.numpy().tolist() == images.numpy().tolist()
    assert condition.numpy().tolist() == [1000.0, 250.0]
    sigma = np.array([80.0, 0.5])
    scaled, condition = EDM(0.3).inputs(images, sigma)
    expected = 3 / np.sqrt(sigma**2 + 0.09)
    np.testing.assert_allclose(scaled[:, 0, 0, 0], expected, rtol=few)
    np.testing.assert_allclose(condition, np.log(sigma) / 4, rtol=few)


@JIT
def test_all_forms_of_one_gaussian_have_the_same_scores(jit):
    # Data of N(m, c) have noisy images of N(a m, a^2 c + s^2). x_t / a of any form has
    # EDM's density at sigma = s / a, so a times the score is EDM's score.
    m, c = 0.7, 0.4
    sigma = np.array([60.0, 5.0, 1.0, 0.3, 0.05])
    edm = np.random.default_rng(0).normal(m, np.sqrt(c + sigma**2), (7, 5)).T
    expected = -(edm - m) / (c + sigma**2)[:, None]
    for form in FORMS:
        t = form.time_at(sigma).numpy()
        a, s = (x[:, None] for x in spread(form, t))
        noisy = a * edm
        mean = m + a * c / (a**2 * c + s**2) * (noisy - a * m)
        found = a * run(form.score, [noisy, mean, t], jit).numpy()
        # The score is a difference of images over s^2, and both are rounded. s itself
        # is that of a rounded time.
        allowed = 4 * ROUNDINGS * a * (np.abs(a * mean) + np.abs(noisy)) / s**2
        assert (np.abs(found - expected) <= allowed).all(), form


@EACH
def test_drawn_times_follow_their_distribution(form):
    count = 5000
    t = form.draw(count, seed=0).numpy()
    assert t.shape == (count,)
    assert t.dtype == np.float32
    if isinstance(form, VP):
        assert set(np.unique(t)) <= set(range(1000))
        counts = np.histogram(t, 20, (-0.5, 999.5))[0]
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
        return
    if isinstance(form, EDM):
        found, law = np.log(t), scipy.stats.norm(-1.2, 1.2)
    else:
        found, law = t / (t + form.shift * (1 - t)), scipy.stats.uniform()
    assert scipy.stats.kstest(found, law.cdf).pvalue > 1e-3


def test_a_flow_may_draw_the_logits_of_a_normal():
    t = Flow(3.0, "logit_normal").draw(5000, seed=1).numpy().astype(float)
    logits = scipy.special.logit(t / (t + 3 * (1 - t)))
    assert scipy.stats.kstest(logits, scipy.stats.norm.cdf).pvalue > 1e-3


@EACH
def test_equal_seeds_give_equal_times_and_a_generator_moves_on(form):
    np.testing.assert_array_equal(form.draw(9, seed=4), form.draw(9, seed=4))
    assert not np.array_equal(form.draw(9, seed=4), form.draw(9, seed=5))
    seed = keras.random.SeedGenerator(1)
    assert not np.array_equal(form.draw(9, seed), form.draw(9, seed))


@EACH
def test_no_gradient_is_stopped(form):
    # At flow matching's t = 1, the first, a noisy image has nothing of the clean one.
    x, e, output, t = (tf.constant(each[1:], tf.float32) for each in batch(form))
    for function in (form.corrupt, form.clean, form.output, form.target, form.score):
        if form.name == "vp-eps" and function == form.target:
            continue  # It is the noise, whatever the image.
        with tf.GradientTape() as tape:
            tape.watch([x, e])
            total = tf.reduce_sum(function(x, e, t))
        for gradient in tape.gradient(total, [x, e]):
            assert np.all(gradient != 0)
    with tf.GradientTape() as tape:
        tape.watch(output)
        loss = tf.reduce_sum(form.loss(output, x, e, t))
    error = output - form.target(x, e, t)
    found = tape.gradient(loss, output)
    np.testing.assert_allclose(found, 2 * error / 32, rtol=ROUNDINGS)


@EACH
def test_half_precision_is_computed_in_float32(form):
    x, e, _, t = batch(form)
    half = [tf.constant(each, tf.bfloat16) for each in (x, e)]
    whole = [tf.cast(each, tf.float32) for each in half]
    for function in (
        form.corrupt, form.clean, form.output, form.target, form.score,
        lambda x, e, t: form.loss(x, e, e, t), lambda x, e, t: form.inputs(x, t)[0],
    ):  # fmt: skip
        found = function(*half, t)
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, function(*whole, t))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("vp-eps", VP()),
        ("vp-v", VP("v")),
        ("edm", EDM()),
        ("edm:0.3", EDM(0.3)),
        ("flow", Flow()),
        ("flow:3", Flow(3)),
        ("flow:1.5:logit_normal", Flow(1.5, "logit_normal")),
        ("flow:1:logit_normal", Flow(1, "logit_normal")),
    ],
)
def test_a_form_returns_by_its_text_and_by_its_configuration(text, form):
    assert form.name == text
    assert distillation.get(text) == form
    assert hash(distillation.get(text)) == hash(form)
    assert distillation.get(form) is form
    assert type(form).from_config(form.get_config()) == form
    config = keras.saving.serialize_keras_object(form)
    assert keras.saving.deserialize_keras_object(config) == form
    assert eval(repr(form)) == form


def test_forms_that_differ_are_not_equal():
    forms = {*FORMS, Flow(1, "logit_normal")}
    assert len(forms) == 7
    assert VP() != "vp-eps"
    for name, make in distillation.PARAMETRISATIONS.items():
        assert make().name == name


@pytest.mark.parametrize(
    "wrong", ["vp", "edm:", "edm:much", "edm:1:2", "vp-v:2", "flow:1:uniform:3", 3, EDM]
)
def test_what_is_no_parametrisation_is_refused(wrong):
    with pytest.raises(InputError, match=r"A parametrisation is .*Received: "):
        distillation.get(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP("x0"), 'must be "eps" or "v".*Received: \'x0\''),
        (lambda: Flow(density="normal"), 'must be "uniform" or "logit_normal"'),
        (lambda: Flow(0.0), "shift"),
        (lambda: distillation.get("flow:-1"), "shift"),
        (lambda: EDM(-1.0), "sigma_data"),
        (lambda: EDM().ladder(0), "steps"),
        (lambda: Flow().anchors(2.5), "steps"),
    ],
)
def test_arguments_out_of_their_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

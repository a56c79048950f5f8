"""AdaBelief against double precision, and against what its authors' program printed."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from tf_ttur.adabelief import AdaBelief

pytestmark = pytest.mark.portable

RATE, EPSILON = 0.01, 1e-16
# Decays, whether rectified, the largest s, and the weight decay. With 0.999 the first
# rectified step is the sixth, and with 0.6 there is none.
SETTINGS = [
    ((0.5, 0.999), True, False, 0.0),
    ((0.9, 0.9), True, False, 0.1),
    ((0.5, 0.99), True, True, 0.0),
    ((0.5, 0.6), True, False, 0.0),
    ((0.5, 0.999), False, False, 0.0),
    ((0.9, 0.99), False, True, 0.1),
]
# Weights after 5, 6 and 30 steps of adabelief-pytorch 0.2.0 in float64, of rate 0.01
# from 1, -1 and 0.5. The gradient of weight i at step t is sin(3 t + i) / 10^i. Its
# rectified step has no use for `amsgrad`.
PRINTED = {
    ((0.5, 0.999), True, False, 0.0): (
        [0.9978955103462301, -0.9992214211029025, 0.500105178491218],
        [0.9981049887649953, -0.9992449806975922, 0.49998387817955353],
        [0.9976022192451897, -0.9993286307219398, 0.5003097204040299],
    ),
    ((0.9, 0.9), True, False, 0.1): (
        [0.9932789105026598, -0.9939194822892744, 0.49764014656419747],
        [0.9927135531746069, -0.9927081353733243, 0.4970212646094831],
        [0.9683743930537841, -0.9662448116904299, 0.48807478732445314],
    ),
    ((0.5, 0.999), False, False, 0.0): (
        [0.981202337906305, -0.9789862232138183, 0.5214718013669518],
        [0.9893150176491446, -0.979898639145328, 0.5167740831626534],
        [0.981846302045348, -0.9804365447289481, 0.5214451157758953],
    ),
    ((0.5, 0.99), False, True, 0.0): (
        [0.981218801910192, -0.9789786557405477, 0.5214732683351091],
        [0.9892839730254659, -0.979895219490572, 0.5167774127222647],
        [0.9818342746650227, -0.9804276424872429, 0.5214510041307111],
    ),
}


def in_double(start, gradients, betas, rectify, amsgrad, decay):
    """AdaBelief in NumPy, and what float32 may be off by: (weights, bounds) by step.

    The bounds are those of a running error analysis (Higham, section 3.3): each is
    carried through the formulas beside its number, a rounding or a few added each time.
    """
    beta_1, beta_2 = betas
    few = rounding.gamma(6, "float32")
    w = np.array(start, np.float64)
    m, s, top = np.zeros((3, *w.shape))
    off_w, off_m, off_s, off_top = np.zeros((4, *w.shape))
    n_max = 2 / (1 - beta_2) - 1
    for t, g in enumerate(gradients, start=1):
        terms = (1 - beta_1) * (np.abs(g) + np.abs(m))
        m = beta_1 * m + (1 - beta_1) * g
        off_m = beta_1 * off_m + few * (terms + np.abs(m))
        r = g - m
        off_r = off_m + few * np.abs(r)
        s = beta_2 * s + (1 - beta_2) * r**2 + EPSILON
        off_s = beta_2 * off_s + (1 - beta_2) * (2 * np.abs(r) + off_r) * off_r
        off_s = off_s + few * s
        top, off_top = np.maximum(top, s), np.maximum(off_top, off_s)
        used, off_used = (top, off_top) if amsgrad else (s, off_s)

        first, second = 1 - beta_1**t, 1 - beta_2**t
        root = np.sqrt(used)
        off_root = off_used / root  # |a - b| / (sqrt(a) + sqrt(b))
        divide, factor = True, 1 / first
        if rectify:
            n = n_max - 2 * t * beta_2**t / second
            divide = n >= 5
            if divide:
                share = (n - 4) / (n_max - 4) * (n - 2) / (n_max - 2) * n_max / n
                factor *= np.sqrt(share * second)
        else:
            root, off_root = (x / np.sqrt(second) for x in (root, off_root))
        divisor = root + EPSILON if divide else np.ones_like(root)
        off_divisor = off_root + few * divisor if divide else np.zeros_like(root)
        least = divisor - off_divisor
        assert (least > 0).all()
        step = RATE * factor * m / divisor
        off_step = RATE * factor * (off_m / least + np.abs(m) * off_divisor / least**2)
        w = w * (1 - RATE * decay) - step
        off_w = off_w + off_step + few * (np.abs(step) + np.abs(w))
        yield w, off_w


def gradients(steps=60):
    """Of sizes from 1e-6 to 10, as float32 numbers."""
    sizes = np.logspace(-6, 1, 8)
    return (np.random.default_rng(0).normal(size=(steps, 8)) * sizes).astype("float32")


def make(betas, rectify, amsgrad, decay, **options):
    return AdaBelief(
        RATE, *betas, rectify=rectify, amsgrad=amsgrad, weight_decay=decay, **options
    )


@pytest.mark.parametrize("setting", PRINTED)
def test_the_oracle_gives_what_the_authors_program_printed(setting):
    t, i = np.meshgrid(np.arange(1, 31), np.arange(3), indexing="ij")
    path = [
        w for w, _ in in_double([1, -1, 0.5], np.sin(3 * t + i) / 10.0**i, *setting)
    ]
    np.testing.assert_allclose([path[4], path[5], path[29]], PRINTED[setting], 1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_are_those_of_double_precision(setting, jit_compile):
    start = np.linspace(-1, 1, 8)
    weight = keras.Variable(start.astype("float32"))
    optimizer = make(*setting)
    optimizer.build([weight])

    @tf.function(jit_compile=jit_compile)
    def step(gradient):
        optimizer.apply([gradient], [weight])

    given = gradients()
    exact = in_double(weight.numpy(), given.astype("float64"), *setting)
    for gradient, (expected, bound) in zip(given, exact, strict=True):
        step(tf.constant(gradient))
        assert (np.abs(weight.numpy() - expected) <= bound).all()
    # The bounds stay small against the way of every weight that is divided.
    if setting[0][1] != 0.6:
        assert (bound < 0.01 * np.abs(expected - start).max()).all()


def test_the_first_steps_are_not_divided_and_the_sixth_is():
    """With beta_2 = 0.999 five are of fewer than five samples."""
    weight = keras.Variable([0.0])
    optimizer = AdaBelief(0.5, beta_1=0.5)
    path = [0.0]
    for _ in range(6):
        optimizer.apply([tf.constant([0.25])], [weight])
        path.append(float(weight.numpy()[0]))
    steps = -np.diff(path)
    # The mean of equal gradients, its bias taken out, is the gradient.
    np.testing.assert_allclose(
        steps[:5], 0.5 * 0.25, rtol=rounding.gamma(32, "float32")
    )
    assert steps[5] < 0.9 * 0.5 * 0.25


def test_gradients_of_rows_count_as_whole_ones():
    """Embeddings have such."""
    weights = [keras.Variable(np.ones((4, 2), "float32")) for _ in range(2)]
    rows = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([2]), tf.constant([4, 2]))
    for weight, gradient in zip(
        weights, (rows, tf.convert_to_tensor(rows)), strict=True
    ):
        optimizer = AdaBelief(0.1, rectify=False)
        for _ in range(3):
            optimizer.apply([gradient], [weight])
    np.testing.assert_array_equal(*(weight.numpy() for weight in weights))
    assert weights[0].numpy()[2, 0] < 0.9


def test_a_file_holds_all_that_it_is():
    optimizer = make((0.5, 0.9), False, True, 0.1, epsilon=1e-8, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdaBelief
    assert again.get_config() == optimizer.get_config()
    config = again.get_config()
    assert (config["epsilon"], config["amsgrad"], config["rectify"]) == (
        1e-8,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_1": 0.0}, r"beta_1 is 0.0; .* divided by epsilon alone"),
        ({"beta_1": 1.0}, r"beta_1 is 1.0; it must be in \(0, 1\)"),
        ({"beta_2": 1.0}, r"beta_2 is 1.0; it must be in \[0, 1\)"),
        ({"epsilon": -1e-8}, "epsilon is -1e-08; it must be finite and at least 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdaBelief(**options)

"""How far rounding may take a number: what the tolerances of the tests are made of.

A test that compares two floating point numbers says which rounding it allows, and takes
the bound from here. The bounds follow from the arithmetic alone, so they hold for any
processor: with AVX2 or AVX-512, fused multiply-adds or none, oneDNN on or off, any
number of threads. All of these change the order of additions and leave out roundings;
none makes an operation less exact. Nothing here was chosen by what a machine showed.

Each bound is relative to a magnitude that the test names: the sum of the terms'
absolute values, or the root mean square of a random sum. Where both sides of a
comparison are rounded, the operations of both count (`gamma(m) + gamma(n)` is at most
`gamma(m + n)`).

`pytest.approx(x)` and `assert_allclose(a, b)` without a tolerance allow 1e-6 and 1e-7
of the value. In float64 that is 4.5e8 roundings, more than any closed form here has,
so they are for closed forms in float64, and for a float32 number that a program only
stored or converted: such a number is right to 6e-8. They are not for sums in float32
that cancel, nor for anything that iterates.

Sources: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM 2002
(sections named below). Higham and Mary, A new approach to probabilistic rounding error
analysis, SIAM J. Sci. Comput. 41 (2019) A2815. Higham and Mary, Sharper probabilistic
backward error analysis for basic linear algebra kernels with random data, SIAM J. Sci.
Comput. 42 (2020) A3427.
"""

import math

import numpy as np
import scipy.linalg

# Half the distance from 1 to the next number: the largest relative error of one
# operation that rounds to nearest (Higham, section 2.2).
UNIT = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}

# What a bound for float64 is multiplied by where the same is done in float32.
SINGLE = UNIT["float32"] / UNIT["float64"]

# The roundings that a call of exp, log, tanh, sin or a power counts for. Vectorised
# libraries (NumPy, Eigen, XLA, SVML) promise 4 units in the last place, and such a unit
# is two unit roundoffs.
FUNCTION = 8

# A normal number is farther out than this with probability 1e-15.
SURE = 8.0

# A normal number is farther out than this with probability 6e-7: for means of draws,
# whose numbers may come in another order from another program or processor.
DEVIATIONS = 5.0


def unit(dtype="float64"):
    """The unit roundoff of a type."""
    return UNIT[np.dtype(dtype).name if dtype != "bfloat16" else dtype]


def gamma(count, dtype="float64"):
    """The largest relative error of `count` roundings one after the other.

    Each multiplies by 1 + e with |e| <= u, and the product of n of these is off by at
    most n u / (1 - n u) (Higham, lemma 3.1). A term of a sum of n terms in any order
    meets at most n - 1 additions, and in a scalar product one multiplication more, so
    the error of either is at most gamma(n) times the sum of the terms' absolute values
    (section 3.1 and 4.2).
    """
    product = count * unit(dtype)
    assert product < 0.5, f"{count} roundings of {dtype} may leave no digit"
    return product / (1 - product)


def likely(count, dtype="float64"):
    """The same where roundings are as often up as down.

    With errors independent and of mean zero, n of them come to at most
    exp(l sqrt(n) u + n u^2 / (1 - u)) - 1, but for a probability of 2 exp(-l^2 / 2)
    (Higham and Mary 2019, theorem 2.4). l is `SURE`: 3e-14, for each number compared.
    It is for long sums, of which `gamma` says too much to be of use. Roundings that
    agree, as of a sum of equal numbers in order, are no case for it. Of few roundings
    `gamma` says less, and then that is returned.
    """
    u = unit(dtype)
    if count <= SURE**2:
        return gamma(count, dtype)
    return math.expm1(SURE * math.sqrt(count) * u + count * u * u / (1 - u))


def of_sum(terms, axis=None, dtype="float64", further=0):
    """The largest absolute error of a sum of given terms, in any order.

    `further` counts the roundings that each term has seen before.
    """
    terms = np.abs(np.asarray(terms, np.float64))
    axes = tuple(range(terms.ndim)) if axis is None else axis
    count = math.prod(np.take(terms.shape, axes).reshape(-1).tolist())
    return gamma(count + further, dtype) * terms.sum(axes)


def random_sums(count, values=1, dtype="float32", amplified=1.0):
    """How far two programs may be apart on random sums one behind the other.

    A sum of n independent terms of mean zero has partial sums whose mean squares grow
    evenly. Each addition rounds by at most u of the partial sum, evenly within that
    (mean square u^2 / 3), so the error's mean square is u^2 (1 + ... + n) / (3 n), that
    is u^2 n / 6, of the sum's own: sqrt(n / 6) u, and not the sqrt(n) u of the
    magnitudes (Higham and Mary 2020). This is the worst order: blocks, and fused
    multiply-adds, have fewer roundings on each term's way. Layers with random weights
    add their mean squares. If all layers together amplify a relative change by a, what
    is made at the share t of the way is amplified by a^(1 - t), and the mean square by
    (a^2 - 1) / (2 log a). Two programs double it, and of many numbers the largest is
    sqrt(2 log(values)) deviations out. This is a model of sizes, not a bound, so twice
    that is allowed.

    Args:
        count: Terms of the sums on the longest way, added up over the layers.
        values: How many numbers are compared; 1 for the root mean square difference.
        dtype: The type of the sums.
        amplified: What a relative change of the inputs is multiplied by.

    Returns:
        The largest difference, relative to the root mean square of the numbers.
    """
    squares = 2 * count / 6
    if amplified > 1:
        squares *= (amplified**2 - 1) / (2 * math.log(amplified))
    extreme = math.sqrt(2 * math.log(values)) if values > 1 else 1.0
    return 2 * unit(dtype) * math.sqrt(squares) * extreme


def second_derivatives(terms, value):
    """How far two ways to a value and to its derivatives may be apart, in float64.

    For tests that take a value y of random sums, the gradients of the sum of sin(y),
    and those of the gradients' squared norm. `terms` are those of the value's sum and
    of the gradients' sums; the second derivatives pass each twice. An error e of y,
    relative to it, is one of |y| e in cos(y), and the second derivatives take such a
    function twice.

    Returns:
        The largest difference relative to the largest number of an array.
    """
    amplified = (1 + np.abs(np.asarray(value)).max()) ** 2
    count = 2 * terms + 4 * FUNCTION
    return random_sums(count, 10**6, "float64", amplified)


def printed(decimals):
    """The largest error of a number that is printed with so many decimals."""
    return 0.5 * 10.0**-decimals


def deviation_of(count, kurtosis=3.0):
    """The relative tolerance of a standard deviation estimated from draws.

    Its standard error is sqrt((k - 1) / (4 n)) of it, where k is the kurtosis: 3 for
    normal numbers, 1.8 for uniform ones, between them for truncated ones. `DEVIATIONS`
    of these are allowed.
    """
    return DEVIATIONS * math.sqrt((kurtosis - 1) / (4 * count))


def frechet(x, y):
    """The largest absolute difference of two Fréchet distances of the same features.

    See `frechet_of`; the covariances' factors are the centred features themselves.
    """
    factors, means = [], []
    for rows in (x, y):
        rows = np.asarray(rows, np.float64)
        means.append(rows.mean(axis=0))
        scaled = (rows - means[-1]) / math.sqrt(len(rows) - 1)
        factors.append(np.linalg.qr(scaled, "r"))
    return _frechet(*factors, *means, len(x) + len(y))


def frechet_of_features(distance, error):
    """What errors of the features make of a Fréchet distance D of two sets.

    The derivative of D by the features of one image of n is 2 / n times the way from
    there to where the optimal transport takes it (Villani, Optimal Transport, 2009,
    theorem 10.28), and the mean square of these ways is D. Errors of root mean square e
    in every feature, independent between features, thus move D by 2 sqrt(D) e, if they
    are the same for all images, and by less if not. `DEVIATIONS` of that are allowed.
    """
    return DEVIATIONS * 2 * math.sqrt(distance) * float(error)


def frechet_of(one, two, count=0):
    """The largest absolute difference of two Fréchet distances of the same statistics.

    The distance is a sum of squares of means, two traces, and twice the sum of the
    square roots of the eigenvalues of S_1 S_2, which are the singular values s_i of
    F_1 F_2' for factors S = F' F. Cholesky factorisation, products and eigenvalues are
    backward stable: each is exact for matrices that are off by a modest multiple of u
    of their norms (Higham, theorem 10.3; Anderson et al., LAPACK Users' Guide, section
    4.7). Such an error in S_1 S_2, of p u |S_1| |S_2|, moves s_i, a root, by p u |S_1|
    |S_2| / (2 s_i). Errors of single s_i have either sign and add in squares. p is the
    roundings of a sum over images and one over features, taken as `likely`. An s_i of
    zero is free of the root's magnification, since the project takes singular values
    there, whose error is p u |F_1| |F_2|.

    Args:
        one: Statistics, with `mu` and `sigma`.
        two: The other.
        count: How many features were added up for them, in both sets together.
    """
    factors = []
    for sigma in (one.sigma, two.sigma):
        values, vectors = np.linalg.eigh(sigma)
        factors.append(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)
    return _frechet(*factors, one.mu, two.mu, count)


def _spectral_norm(matrix):
    """The largest singular value, without the time that all of them would take."""
    gram = matrix @ matrix.T if len(matrix) < len(matrix.T) else matrix.T @ matrix
    last = len(gram) - 1
    return math.sqrt(scipy.linalg.eigvalsh(gram, subset_by_index=[last, last])[0])


def _frechet(f, g, mean, other, count):
    size = len(mean)
    scale = _spectral_norm(f) * _spectral_norm(g)
    values = np.linalg.svd(f @ g.T, compute_uv=False)
    values = values[values > size * unit() * scale]
    root = math.sqrt(size + np.square(scale / values).sum()) * scale
    # A mean is off by the magnitude of the features and not by that of their spread.
    shift, largest = np.linalg.norm(mean - other), np.abs([mean, other]).max()
    means = shift**2 + 2 * shift * largest * math.sqrt(size)
    traces = np.square(f).sum() + np.square(g).sum()
    # Both sides are rounded.
    return 2 * likely(count + size) * float(means + traces + root)


def kernel(x, y, features=0.0, subsets=False):
    """The largest absolute difference of two kernel distances of the same features.

    A value (x'y / d + 1)^3 has d products and sums, a division, a sum and a cube: each
    of its three factors is off by gamma(d + 2). Since |x'y| is at most the mean of
    |x|^2 and |y|^2, none is above the mean of K = (|x|^2 / d + 1)^3. The distance is
    the sum of a mean of values within x, one within y, and twice one between them,
    which cancel; in front of the means within is n / (n - 1), at most 2. Those means
    are sums of n^2, `likely` to be off by so much. A mean over pairs is at most the
    mean of the two K (the cube is convex), and that of any subset at most the largest.
    A relative error `features` of the features is in each factor twice.
    """
    d, middle = x.shape[1], np.max if subsets else np.mean
    one, two = (
        middle((np.square(z.astype(np.float64)).sum(axis=1) / d + 1) ** 3)
        for z in (x, y)
    )
    magnitude = 2 * (one + two) + (one + two)
    sums = likely(max(len(x), len(y)) ** 2)
    # Both sides are rounded.
    return 2 * (gamma(3 * (d + 2)) + sums + 6 * features) * float(magnitude)


def divergence(count):
    """The largest absolute difference of two Jensen-Shannon divergences, in bits.

    A divergence sums x log2(2 x / (p + q)) / 2 over `count` n-grams, with x one of two
    shares p and q. A term is at most x / 2, and at least -(p + q) / (2 e log 2), so
    their absolute values sum to at most 1 + 2 / (e log 2), which is 2.1. Each is of
    four operations and a logarithm.
    """
    return 2 * likely(count + 4 + FUNCTION) * 2.1


def score(logits, error=0.0):
    """The largest relative difference of two Inception Scores of the same logits.

    The score is exp(mean D), with D = sum p log p - sum p log q over C classes. A
    logarithm of a probability is a difference of logits, off by u of the range of these
    (exact where the range is small), and a logarithm of a sum of C exponentials, off by
    gamma(C) and two functions' roundings. An error e of log p is one of e p in p. An
    entropy is at most log C, and so an error of e in the logarithms is one of at most
    2 e (1 + log C) in D, and as large relative to the score. `error` is what the logits
    themselves may differ by.
    """
    count, classes = logits.shape
    span = float(np.ptp(np.asarray(logits, np.float64), axis=1).max())
    each = unit() * span + gamma(classes + count + 4 * FUNCTION) + float(error)
    return 2 * 2 * each * (1 + math.log(classes))  # Both sides are rounded.

"""Values worked out another way than the project works them out."""

import numpy as np


def frechet_distance(x, y):
    """From NumPy's moments and the eigenvalues of the plain product of covariances."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(one @ two).astype(complex)).real.sum()
    shift = x.mean(0) - y.mean(0)
    return shift @ shift + np.trace(one) + np.trace(two) - 2 * roots


def low_rank_distance(x, y):
    """The Fréchet distance of two small sets, from their features alone.

    The trace of the root of the product of two covariances is the sum of the singular
    values of x y', both centred, which is n x n, however many features there are.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    scale = np.sqrt((len(x) - 1) * (len(y) - 1))
    root = np.linalg.svd(x_centred @ y_centred.T, compute_uv=False).sum() / scale
    spread = (x_centred**2).sum() / (len(x) - 1) + (y_centred**2).sum() / (len(y) - 1)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + spread - 2 * root


def kernel_distance(x, y):
    """Unbiased squared MMD from whole kernel matrices of scikit-learn."""
    from sklearn.metrics.pairwise import polynomial_kernel

    def within(x):
        kernel = polynomial_kernel(x, degree=3, coef0=1)
        return kernel[~np.eye(len(x), dtype=bool)].mean()

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    between = polynomial_kernel(x, y, degree=3, coef0=1).mean()
    return within(x) + within(y) - 2 * between


def inception_score(logits, splits=1):
    """Mean and deviation over consecutive parts, by SciPy's softmax and entropy."""
    import scipy.special
    import scipy.stats

    p = scipy.special.softmax(np.asarray(logits, np.float64), axis=1)
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        divergence = scipy.stats.entropy(part, part.mean(axis=0)[None], axis=1)
        scores.append(np.exp(divergence.mean()))
    return np.mean(scores), np.std(scores)

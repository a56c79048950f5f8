"""Values worked out another way than the project works them out."""

import numpy as np


def low_rank_distance(x, y):
    """The Fréchet distance of two small sets of features, from the features alone.

    The trace of the root of the product of two covariances is the sum of the singular
    values of x y', both centred, which is n x n, however many features there are.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    scale = np.sqrt((len(x) - 1) * (len(y) - 1))
    root = np.linalg.svd(x_centred @ y_centred.T, compute_uv=False).sum() / scale
    spread = (x_centred**2).sum() / (len(x) - 1) + (y_centred**2).sum() / (len(y) - 1)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + spread - 2 * root

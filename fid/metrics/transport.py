"""The optimal transport between two Gaussians, of which the Fréchet distance is made.

T = S_1^(-1/2) (S_1^(1/2) S_2 S_1^(1/2))^(1/2) S_1^(-1/2) is the one symmetric positive
matrix with T S_1 T = S_2: x -> mu_2 + T (x - mu_1) takes the first Gaussian to the
second one, with the least mean squared way (Dowson and Landau 1982; Villani, Optimal
Transport, 2009). With S_1 = L L' and the eigenvalues s² and eigenvectors V of L' S_2 L,
T = W W' with W = L'^(-1) V diag(s^(1/2)), and the transport back is T^(-1).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg

from fid.statistics import Statistics

__all__ = ["Transport", "cholesky", "transport"]

# A pivot this much smaller than the largest means that the matrix has no full rank in
# double precision, although its factorisation succeeded.
_SINGULAR = 1e-12


@dataclasses.dataclass(frozen=True)
class Transport:
    """The optimal transport between two Gaussians of full rank, and their distance.

    Attributes:
        distance: Their squared Fréchet distance, >= 0.
        roots: Square roots s of the eigenvalues of S_1 S_2, float64 (d,), ascending.
        forward: W of the transport T = W W' of the first one, float64 (d, d).
        back: The same of the transport of the second one, which is T^(-1).
    """

    distance: float
    roots: np.ndarray
    forward: np.ndarray
    back: np.ndarray

    def curvature(self) -> float:
        """Returns half the mean second derivative of the distance by a covariance.

        In coordinates in which a set's covariance is the identity and T diagonal, the
        second derivative along a symmetric Y is sum_ij s_i s_j / (s_i + s_j) Y_ij²:
        that follows from the derivative of T S_1 T = S_2. It is the same number for
        both sets. For Gaussian features, y = u u' - 1 of one image has E y_ij² = 1, and
        2 where i = j, which leaves sum_ij s_i s_j / (2 (s_i + s_j)) + sum_i s_i / 4.
        Divided by n - 1 it is the bias that the sampling of a covariance makes.
        """
        # A singular distance in one direction adds nothing: 0 / 0 is 0 here.
        sums = np.add.outer(self.roots, self.roots)
        pairs = np.multiply.outer(self.roots, self.roots)
        pairs /= np.where(sums > 0, sums, 1.0)
        return float(pairs.sum() / 2 + self.roots.sum() / 4)


def transport(first: Statistics, second: Statistics) -> Transport | None:
    """Computes the optimal transport between two Gaussians.

    It takes the eigenvectors beside the eigenvalues that the distance is made of, which
    is about twice the work of the distance alone.

    Args:
        first: Mean and covariance of the first one, dimension d.
        second: Those of the second one, same d.

    Returns:
        The transport, or None where a covariance is singular, as it is of no more
        images than features: then there is none.

    Example:
        >>> import numpy as np
        >>> from fid import Statistics
        >>> one = Statistics(mu=np.zeros(2), sigma=np.diag([1.0, 4.0]))
        >>> two = Statistics(mu=np.zeros(2), sigma=np.diag([9.0, 4.0]))
        >>> found = transport(one, two)
        >>> round(found.distance, 12)
        4.0
        >>> np.round(found.forward @ found.forward.T, 12).tolist()
        [[3.0, 0.0], [0.0, 1.0]]
    """
    lower = cholesky(first.sigma)
    if lower is None or cholesky(second.sigma) is None:
        return None
    # It takes d³ flops, matrix products 4 d³. It sets the lower triangle only.
    product, _ = scipy.linalg.lapack.dsygst(second.sigma.T, lower, itype=2, lower=1)
    values, vectors = scipy.linalg.eigh(
        product, driver="evd", overwrite_a=True, check_finite=False
    )
    if not values[0] > 0:
        return None
    roots = np.sqrt(values)
    shift = first.mu - second.mu
    traces = np.trace(first.sigma) + np.trace(second.sigma)
    forward = scipy.linalg.solve_triangular(
        lower, vectors * np.sqrt(roots), trans="T", lower=True, check_finite=False
    )
    back = scipy.linalg.blas.dtrmm(1.0, lower, vectors / np.sqrt(roots), lower=1)
    # Rounding alone can leave a tiny negative number where the truth is zero.
    distance = max(float(shift @ shift + traces - 2.0 * roots.sum()), 0.0)
    return Transport(distance, roots, forward, back)


def cholesky(sigma: np.ndarray) -> np.ndarray | None:
    """Returns the lower Cholesky factor of a covariance.

    Args:
        sigma: Symmetric, float64 (d, d).

    Returns:
        The factor, float64 (d, d), or None where sigma is singular.
    """
    lower, info = scipy.linalg.lapack.dpotrf(sigma.T, lower=1)
    pivots = np.diag(lower) ** 2
    return lower if info == 0 and pivots.min() > _SINGULAR * pivots.max() else None

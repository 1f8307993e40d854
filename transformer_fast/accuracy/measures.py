"""Statistics of two models' results: arrays in, numbers out. `differences` calls them; a new one is a function here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cosines:
    """Cosines of pairs of vectors: their mean, the value that 1 % of them lie below, and the least."""

    mean: float
    quantile_01: float
    least: float


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of a (N, n) and the same row of b, (N,) float64; two rows of zeros are alike: 1.

    Example:
        >>> cosines(np.array([[3, 4], [1, 0], [0, 0]]), np.array([[3, 4], [0, 2], [0, 0]]))
        array([1., 0., 1.])
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    products, squares = (a * b).sum(axis=1), (a * a).sum(axis=1) * (b * b).sum(axis=1)
    # The root of the product, not the product of roots: equal rows give exactly 1.
    found = products / np.sqrt(np.where(squares == 0, 1, squares))
    found[~a.any(axis=1) & ~b.any(axis=1)] = 1
    return np.clip(found, -1, 1)


def summary(values: np.ndarray) -> Cosines:
    """Of cosines (N,), N >= 1; quantiles between two of them are interpolated.

    Example:
        >>> summary(np.array([0.25, 0.75]))
        Cosines(mean=0.5, quantile_01=0.255, least=0.25)
    """
    return Cosines(float(values.mean()), float(np.quantile(values, 0.01)), float(values.min()))


def pair_similarities(vectors: np.ndarray) -> np.ndarray:
    """The cosines of all pairs of different rows of (N, n): (N * (N - 1) / 2,), a row of zeros has 0 with all.

    Example:
        >>> pair_similarities(np.array([[1, 0], [0, 2], [-3, 0]]))
        array([ 0., -1.,  0.])
    """
    vectors = np.asarray(vectors, np.float64)
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    rows = vectors / np.where(norms == 0, 1, norms)
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's coefficient of a and b (N,), as scipy.stats.spearmanr; None where one of them has only equal values.

    Example:
        >>> rank_correlation(np.array([1, 2, 3, 4]), np.array([1, 8, 27, 64]))
        1.0
        >>> rank_correlation(np.array([1, 2, 3, 4]), np.array([4, 3, 1, 1]))
        -0.9486832980505138
    """
    a, b = (_ranks(values) for values in (a, b))
    if not len(a):
        return None
    a, b = a - a.mean(), b - b.mean()
    squares = float(a @ a) * float(b @ b)
    return float(np.clip(a @ b / np.sqrt(squares), -1, 1)) if squares > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """(N,): 0 for the least; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[places]

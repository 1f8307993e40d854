"""`DistanceScores`: terms of attention's scores that depend on a row and on the distance of query and key.

Called by users, who pass one as distance_scores= to attention, and by models.common.disentangled_attention, whose terms
these are; functional.attention calls `prepared`, the check. A further term is a further field here, in
tfast_distance_scores (csrc/tfast.h) and in csrc/kernels/attention/distance.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.functional import arrays


@dataclass(frozen=True, eq=False)
class DistanceScores:
    """of_query[..., i, n] + of_key[..., j, n], n = buckets[j - i + Lq - 1], added to the score of query i and key j.

    Both are products of rows with a few vectors, one for each bucket of distances, and attention reads from them while
    its scores are in the cache: nothing has an axis of queries and one of keys.

    of_query: float32, the shape of attention's query but for the last axis, which is N buckets: (..., H, Lq, N), packed
        (Tq, H, N). of_key: the same of keys, but with H heads: (..., H, Lk, N), packed (Tk, H, N). None: no such term.
    buckets: (Lq + Lk - 1,) integers from 0 to N - 1 (of the longest Lq and Lk of packed sequences). Neighbours differ
        by 1 at most, as they do if distances that no bucket stands for are left out of the axis of N.

    Raises (when attention is called):
        TypeError: a term is not float32, or buckets are not integers.
        ValueError: a shape is another one, both terms are None, or buckets break the rule above.

    Source: He et al. 2020, https://arxiv.org/abs/2006.03654, section 3: content to position, and position to content.

    Example:
        >>> x = np.zeros((1, 3, 4), np.float32)  # one head, three tokens
        >>> before = np.tile(np.float32([5, 0, 0]), (1, 3, 1))  # the bucket of keys before the query
        >>> terms = F.DistanceScores(before, None, [0, 0, 1, 2, 2])
        >>> F.scaled_dot_product_attention(x, x, x, distance_scores=terms, return_weights="heads")[1][0].round(2)
        array([[0.33, 0.33, 0.33],
               [0.99, 0.01, 0.01],
               [0.5 , 0.5 , 0.  ]], dtype=float32)
    """

    of_query: np.ndarray | None
    of_key: np.ndarray | None
    buckets: Any


def prepared(
    scores: DistanceScores,
    lead: tuple[int, ...] | None,
    query: tuple[int, int],
    key: tuple[int, int],
    most: tuple[int, int],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray, np.ndarray]:
    """A call's terms as the engine reads them.

    lead: the call's leading axes, which become one; None: it is packed. query, key: the axes after these, but for the
    last, of of_query and of_key. most: the longest Lq and Lk.
    """
    if not isinstance(scores, DistanceScores):
        raise TypeError(f"distance_scores is a {type(scores).__name__}; needed: functional.DistanceScores")
    terms, N = [], None
    for name, term, shape in (("of_query", scores.of_query, query), ("of_key", scores.of_key, key)):
        if term is not None:
            if not isinstance(term, np.ndarray) or term.dtype != np.float32:
                raise TypeError(f"distance_scores.{name} is not a float32 array; needed: one")
            N = term.shape[-1] if N is None and term.ndim else N
            needed = (*(lead or ()), *shape, N)
            if term.shape != needed:
                raise ValueError(f"distance_scores.{name} has shape {term.shape}; needed: {needed}")
            term = arrays.dense(term if lead is None else term.reshape(math.prod(lead), *shape, N))
        terms.append(term)
    if N is None:
        raise ValueError("distance_scores has no term; needed: of_query, of_key or both")
    buckets = arrays.integers(scores.buckets, "distance_scores.buckets", max(sum(most) - 1, 0))
    if len(buckets) and (buckets.min() < 0 or buckets.max() >= N):
        wrong = buckets.min() if buckets.min() < 0 else buckets.max()
        raise ValueError(f"distance_scores.buckets holds {wrong}; needed: 0 to {N - 1}, as the terms have {N}")
    if np.abs(np.diff(buckets)).max(initial=0) > 1:
        raise ValueError("distance_scores.buckets has neighbours that differ by more than 1; needed: none")
    buckets = buckets.astype(np.int32)
    return *terms, buckets, np.ascontiguousarray(buckets[::-1])

"""How alike vectors are: cosine, dot product, and the negative Euclidean and Manhattan distances.

`SentenceEncoder.similarity` and `search` call it. Each measure is a function of all pairs, (Na, D) and (Nb, D) ->
(Na, Nb), and one of the pairs of equal index, (N, D) and (N, D) -> (N,). A new measure is two such functions and a line
in `_MEASURES`. Where a or b is an array of scipy.sparse, `sparse` has the same measures.

Products run in `functional.linear`. Distances are sums over differences, not over |a|^2 - 2ab + |b|^2, which has no
digit left where two vectors are nearly the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.util import sparse

# Numbers of one block of differences, 4 MB: they stay in the cache.
_BLOCK = 1 << 20


def cos_sim(a: Any, b: Any) -> np.ndarray:
    """The cosine of the angle between each of a (Na, D) and each of b (Nb, D): (Na, Nb) float32.

    a and b: arrays, of scipy.sparse, too, lists of vectors, or one vector (D,), which counts as one row. Vectors of
    zeros give 0.

    Raises:
        ValueError: they are no rows of the same length.

    Example:
        >>> from transformer_fast import util
        >>> util.cos_sim([[1, 0], [1, 1]], [0, 2])
        array([[0.    ],
               [0.7071]], dtype=float32)
    """
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.cos_sim(a, b)
    a, b = _both(a, b)
    return F.linear(_unit(a), _unit(b))


def dot_score(a: Any, b: Any) -> np.ndarray:
    """The dot product of each of a (Na, D) with each of b (Nb, D): (Na, Nb) float32. Arguments as `cos_sim`."""
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.dot_score(a, b)
    return F.linear(*_both(a, b))


def euclidean_sim(a: Any, b: Any) -> np.ndarray:
    """Minus the Euclidean distance of each of a (Na, D) to each of b (Nb, D): (Na, Nb) float32.

    Arguments as `cos_sim`.

    Example:
        >>> from transformer_fast import util
        >>> util.euclidean_sim([[0, 0]], [[3, 4], [0, 0]])
        array([[-5., -0.]], dtype=float32)
    """
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.euclidean_sim(a, b)
    return _distances(a, b, lambda differences: np.sqrt(np.add.reduce(differences * differences, axis=-1)))


def manhattan_sim(a: Any, b: Any) -> np.ndarray:
    """Minus the sum of absolute differences of each of a (Na, D) to each of b (Nb, D): (Na, Nb) float32.

    Arguments as `cos_sim`.
    """
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.manhattan_sim(a, b)
    return _distances(a, b, lambda differences: np.add.reduce(np.abs(differences), axis=-1))


def pairwise_cos_sim(a: Any, b: Any) -> np.ndarray:
    """The cosine of a[i] and b[i], (N, D) each: (N,) float32; one vector each gives a number. As `cos_sim`.

    Example:
        >>> from transformer_fast import util
        >>> util.pairwise_cos_sim([[1, 0], [1, 1]], [[0, 2], [3, 3]])
        array([0., 1.], dtype=float32)
    """
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.pairwise_cos_sim(a, b)
    a, b = _pairs(a, b)
    return np.add.reduce(normalize_embeddings(a) * normalize_embeddings(b), axis=-1)


def pairwise_dot_score(a: Any, b: Any) -> np.ndarray:
    """The dot product of a[i] and b[i], (N, D) each: (N,) float32."""
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.pairwise_dot_score(a, b)
    a, b = _pairs(a, b)
    return np.add.reduce(a * b, axis=-1)


def pairwise_euclidean_sim(a: Any, b: Any) -> np.ndarray:
    """Minus the Euclidean distance of a[i] and b[i], (N, D) each: (N,) float32."""
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.pairwise_euclidean_sim(a, b)
    a, b = _pairs(a, b)
    return -np.sqrt(np.add.reduce((a - b) ** 2, axis=-1))


def pairwise_manhattan_sim(a: Any, b: Any) -> np.ndarray:
    """Minus the sum of absolute differences of a[i] and b[i], (N, D) each: (N,) float32."""
    if sparse.is_sparse(a) or sparse.is_sparse(b):
        return sparse.pairwise_manhattan_sim(a, b)
    a, b = _pairs(a, b)
    return -np.add.reduce(np.abs(a - b), axis=-1)


# Name in config_sentence_transformers.json -> the function of all pairs, and that of equal indices.
_MEASURES: dict[str, tuple[Callable[[Any, Any], np.ndarray], Callable[[Any, Any], np.ndarray]]] = {
    "cosine": (cos_sim, pairwise_cos_sim),
    "dot": (dot_score, pairwise_dot_score),
    "euclidean": (euclidean_sim, pairwise_euclidean_sim),
    "manhattan": (manhattan_sim, pairwise_manhattan_sim),
}
SIMILARITIES = tuple(_MEASURES)


def similarity(a: Any, b: Any, name: str = "cosine") -> np.ndarray:
    """The measure of that name, one of SIMILARITIES, of all pairs.

    Raises:
        ValueError: there is no such measure, or as `cos_sim`.
    """
    return _MEASURES[checked_name(name)][0](a, b)


def pairwise_similarity(a: Any, b: Any, name: str = "cosine") -> np.ndarray:
    """The measure of that name, one of SIMILARITIES, of the pairs of equal index.

    Raises:
        ValueError: as `similarity`.
    """
    return _MEASURES[checked_name(name)][1](a, b)


def score_function(name: str) -> Callable[[Any, Any], np.ndarray]:
    """The measure of that name, one of SIMILARITIES, as `semantic_search(score_function=...)` takes it.

    Raises:
        ValueError: there is no such measure.

    Example:
        >>> from transformer_fast import util
        >>> util.score_function("dot") is util.dot_score
        True
    """
    return _MEASURES[checked_name(name)][0]


def checked_name(name: Any) -> str:
    """The name of a measure.

    Raises:
        ValueError: it is none.
    """
    if name not in SIMILARITIES:
        raise ValueError(f"similarity_fn_name is {name!r}; needed: one of {', '.join(SIMILARITIES)}")
    return name


def normalize_embeddings(embeddings: Any) -> np.ndarray:
    """Vectors (..., D) scaled to length 1; those shorter than 1e-12 are divided by that. float32.

    Of an array of scipy.sparse (N, D) it is a csr_array.

    Source: torch.nn.functional.normalize.

    Example:
        >>> from transformer_fast import util
        >>> util.normalize_embeddings([3, 4])
        array([0.6, 0.8], dtype=float32)
    """
    if sparse.is_sparse(embeddings):
        return sparse.unit(sparse.rows("embeddings", embeddings))
    return _unit(_array("embeddings", embeddings))


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> np.ndarray:
    """The first truncate_dim numbers of vectors (..., D); None keeps all."""
    return np.asarray(embeddings)[..., :truncate_dim]


def rows(name: str, embeddings: Any) -> np.ndarray:
    """Vectors as float32 rows (N, D); one vector is one row.

    Raises:
        ValueError: they have other shapes.
        TypeError: they are sparse.
    """
    found = _array(name, embeddings)
    found = found[None] if found.ndim == 1 and found.size else found
    if found.ndim == 1:  # no vector at all
        found = found.reshape(0, 0)
    if found.ndim != 2:
        raise ValueError(f"{name} has shape {found.shape}; needed: (N, D)")
    return found


def _array(name: str, embeddings: Any) -> np.ndarray:
    if sparse.is_sparse(embeddings):
        raise TypeError(f"{name} is a {type(embeddings).__name__}; needed here: a dense array (toarray())")
    try:
        return np.asarray(embeddings, np.float32)
    except ValueError:
        raise ValueError(f"{name} holds vectors of different lengths; needed: (N, D)") from None


def _both(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = rows("a", a), rows("b", b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}; needed: (Na, D) and (Nb, D)")
    return a, b


def _pairs(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = _array("a", a), _array("b", b)
    if a.shape != b.shape or not 1 <= a.ndim <= 2:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}; needed: (N, D), the same for both")
    return a, b


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.add.reduce(vectors * vectors, axis=-1, keepdims=True))
    return vectors / np.maximum(norms, np.float32(1e-12))


def _distances(a: Any, b: Any, reduced: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """-reduced(differences (..., D)) of all pairs, some rows of b at a time."""
    a, b = _both(a, b)
    found = np.empty((len(a), len(b)), np.float32)
    step = max(1, _BLOCK // max(1, b.shape[1]))
    for start in range(0, len(b), step):
        block = b[start : start + step]
        for i, row in enumerate(a):
            found[i, start : start + step] = reduced(block - row)
    return np.negative(found, out=found)

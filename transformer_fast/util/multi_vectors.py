"""How alike texts are that have a vector a token: MaxSim, and its mean over the query's vectors.

`MultiVectorEncoder.similarity` and `BGEM3Encoder` call it, and users do with what encoders return. Products run in
`functional.max_sim`, which holds no scores of tokens. A further measure is two functions, and a line in `_MEASURES`.

Source: sentence_transformers.util.similarity of sentence-transformers 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F

# The score of a document without vectors: below that of every other.
EMPTY_DOCUMENT = np.float32(-1e9)
_HALF = ("float16", "bfloat16")
# Numbers of documents that are packed for one call: 4 MB, which stay in the caches. 1,000 documents of 180 x 128 on
# Granite Rapids, one thread: 1.25 times as fast as packed at once, 1.2 times as fast as by 0.5 MB.
_BLOCK = 1 << 20


def maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | None = None,
) -> np.ndarray:
    """The MaxSim of each of the queries a with each of the documents b: (Na, Nb) float32.

    It is the sum, over a query's vectors, of the vector's largest dot product with one of the document's. A document
    without vectors scores -1e9.

    a, b: lists of arrays (L_i, D), one array (N, L, D) or (L, D), whose rows of zeros are padding. Documents
    that are all float16 or bfloat16 are read as they are; other types are taken as float32.
    a_mask, b_mask: which vectors count, (N, L) or a list of (L_i,), of booleans, or of 0 and 1.
    length_normalize: divide by the number of the query's vectors.
    chunk_elements: numbers of documents that are copied at a time, at least those of one document; None: 2^20. It does
    not change a bit. device: None or "cpu".

    Raises:
        ValueError, TypeError: shapes or types do not fit.

    Example:
        >>> from transformer_fast import util
        >>> query, document = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.5], [0.0, 2.0]])
        >>> util.maxsim([query], [document, query])
        array([[2.5, 2. ]], dtype=float32)
    """
    return _scores(a, b, a_mask, b_mask, chunk_elements, length_normalize, device, pairwise=False)


def maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | None = None,
) -> np.ndarray:
    """The MaxSim of query a[i] and document b[i]: (N,) float32. Arguments and errors as `maxsim`.

    Example:
        >>> from transformer_fast import util
        >>> x = np.eye(2)
        >>> util.maxsim_pairwise([x, x], [x, 3 * x])
        array([2., 6.], dtype=float32)
    """
    return _scores(a, b, a_mask, b_mask, chunk_elements, length_normalize, device, pairwise=True)


def mean_maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
    device: str | None = None,
) -> np.ndarray:
    """`maxsim` divided by the number of each query's vectors: of the size of one dot product, whatever the query."""
    return maxsim(a, b, a_mask, b_mask, chunk_elements, length_normalize, device)


def mean_maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
    device: str | None = None,
) -> np.ndarray:
    """`maxsim_pairwise` divided by the number of each query's vectors."""
    return maxsim_pairwise(a, b, a_mask, b_mask, chunk_elements, length_normalize, device)


# Name in config_sentence_transformers.json -> the function of all pairs, and that of equal indices.
_MEASURES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "maxsim": (maxsim, maxsim_pairwise),
    "meanmaxsim": (mean_maxsim, mean_maxsim_pairwise),
}
MULTI_VECTOR_SIMILARITIES = tuple(_MEASURES)


def multi_vector_similarity(name: str, pairwise: bool = False) -> Callable[..., np.ndarray]:
    """The measure of that name, one of MULTI_VECTOR_SIMILARITIES, of all pairs or of the pairs of equal index.

    Raises:
        ValueError: there is no such measure.
    """
    if name not in _MEASURES:
        raise ValueError(f"similarity_fn_name is {name!r}; needed: one of {', '.join(_MEASURES)}")
    return _MEASURES[name][pairwise]


def _scores(a, b, a_mask, b_mask, chunk_elements, length_normalize, device, pairwise: bool) -> np.ndarray:
    if device is not None and str(device) != "cpu":
        raise ValueError(f"device is {device!r}; needed: 'cpu', which is where all is computed")
    if chunk_elements is not None and (not isinstance(chunk_elements, (int, np.integer)) or chunk_elements < 1):
        raise ValueError(f"chunk_elements is {chunk_elements!r}; needed: None or an integer >= 1")
    queries, documents = _items("a", a, a_mask), _items("b", b, b_mask)
    if pairwise and len(queries) != len(documents):
        raise ValueError(f"a has {len(queries)} queries and b {len(documents)} documents; needed: as many of both")
    widths = {item.shape[1] for item in (*queries, *documents) if len(item)}
    if len(widths) > 1:
        raise ValueError(f"a and b hold vectors of lengths {', '.join(map(str, sorted(widths)))}; needed: one length")
    D = widths.pop() if widths else 0
    scores = np.empty(len(documents) if pairwise else (len(queries), len(documents)), np.float32)
    packed_queries = None if pairwise else _packed(queries, D, keep_half=False)
    for some in _blocks(documents, D, chunk_elements or _BLOCK):
        rows, cu_queries = packed_queries or _packed(queries[some], D, keep_half=False)
        packed, cu_seqlens = _packed(documents[some], D, keep_half=True)
        scores[..., some] = F.max_sim(rows, packed, cu_seqlens, cu_queries=cu_queries, pairwise=pairwise)
    scores[..., [len(document) == 0 for document in documents]] = EMPTY_DOCUMENT
    if length_normalize:
        counts = np.array([max(len(query), 1) for query in queries], np.float32)
        scores /= counts if pairwise else counts[:, None]
    return scores


def _blocks(documents: list[np.ndarray], D: int, block: int) -> Iterator[slice]:
    """Documents that are brought together and scored while they are in the cache, at least one at a time."""
    start = numbers = 0
    for i, document in enumerate(documents):
        numbers += len(document) * D
        if numbers >= block or i + 1 == len(documents):
            yield slice(start, i + 1)
            start, numbers = i + 1, 0


def _items(name: str, embeddings: Any, mask: Any) -> list[np.ndarray]:
    """The vectors (L_i, D) of each text that count."""
    if isinstance(embeddings, np.ndarray) and embeddings.dtype != object:
        if embeddings.ndim not in (2, 3):
            raise ValueError(f"{name} has shape {embeddings.shape}; needed: (N, L, D), (L, D) or a list of (L_i, D)")
        items = [embeddings] if embeddings.ndim == 2 else list(embeddings)
        if mask is None:
            mask = [item.any(axis=1) for item in items]
        elif embeddings.ndim == 2 and np.ndim(mask) == 1:
            mask = [mask]
    elif isinstance(embeddings, (Sequence, np.ndarray)) and not isinstance(embeddings, (str, bytes)):
        items = [np.asarray(item) for item in embeddings]
    else:
        raise TypeError(f"{name} is a {type(embeddings).__name__}; needed: an array, or a list of arrays")
    for i, item in enumerate(items):
        if item.ndim != 2:
            raise ValueError(f"{name}[{i}] has shape {item.shape}; needed: (L, D)")
    return items if mask is None else _masked(name, items, mask)


def _masked(name: str, items: list[np.ndarray], mask: Any) -> list[np.ndarray]:
    masks = [np.asarray(one) for one in mask]
    if len(masks) != len(items):
        raise ValueError(f"{name}_mask is of {len(masks)} texts; needed: {len(items)}, as many as {name} has")
    longest, kept = max(map(len, items), default=0), []
    for i, (item, one) in enumerate(zip(items, masks, strict=True)):
        # A mask of all texts is as long as the longest of them.
        if one.ndim != 1 or len(one) not in (len(item), longest) or one[len(item) :].any():
            raise ValueError(f"{name}_mask[{i}] has shape {one.shape}; needed: ({len(item)},)")
        if one.dtype != np.bool_ and not np.isin(one, (0, 1)).all():
            raise ValueError(f"{name}_mask[{i}] holds other numbers than 0 and 1; needed: which vectors count")
        kept.append(item[one[: len(item)].astype(bool)])
    return kept


def _packed(items: list[np.ndarray], D: int, keep_half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (T, D), one text after the other, and where each text begins."""
    full = [item for item in items if len(item)]
    types = {item.dtype for item in full}
    half = keep_half and len(types) == 1 and full[0].dtype.name in _HALF
    dtype = full[0].dtype if half else np.dtype(np.float32)
    cu_seqlens = np.cumsum([0, *map(len, items)])
    if len(full) == 1 and full[0].dtype == dtype:
        return full[0], cu_seqlens
    packed = np.empty((cu_seqlens[-1], D), dtype)
    for item, start in zip(items, cu_seqlens[:-1], strict=True):
        if len(item):
            packed[start : start + len(item)] = item
    return packed, cu_seqlens

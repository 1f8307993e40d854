"""Rows of tables, and heads split and joined. Called by users, nn and models; C: csrc/ops/{embedding,heads}.c."""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.block_weight import BlockWeight

_MAX_TABLES = 8  # TFAST_MAX_TABLES of csrc/tfast.h


def embedding(ids, weight, *, out=None) -> np.ndarray:
    """weight[ids]: ids (...) integers in [0, V), weight (V, N) -> (..., N) float32.

    weight: float32, float16 or bfloat16, or a BlockWeight; the rows that are read are widened.

    Raises IndexError for an id outside the table, and TypeError and ValueError; nothing is written then. Source:
    torch.nn.Embedding.

    Example:
        >>> table = np.array([[0, 0], [1, 10], [2, 20]], np.float32)
        >>> F.embedding([2, 1], table)
        array([[ 2., 20.],
               [ 1., 10.]], dtype=float32)
    """
    if out is None:
        result = _core.plain_embedding(ids, weight)
        if result is not None:
            return result
    ids, weight = _table(ids, weight)
    shape = (*ids.shape, weight.shape[1])
    if out is not None:
        arrays.check_out(out, shape, arrays.FLOAT32, {"weight": weight, "ids": ids})
    result = out if out is not None and out.flags.c_contiguous else np.empty(shape, arrays.FLOAT32)
    if result.size:
        _core.embedding(arrays.flat_integers(ids), weight, result.reshape(-1, shape[-1]), 0)
    return arrays.finish(out, result)


def embedding_sum(ids, tables, weight=None, bias=None, eps=1e-5, *, out=None) -> np.ndarray:
    """layer_norm(tables[0][ids[0]] + tables[1][ids[1]] + ..., weight, bias, eps), in one pass over the rows.

    ids: 1 to 8 integer arrays that broadcast to one shape (...); tables: as many arrays (V_i, N), float32, float16 or
    bfloat16; weight and bias (N,) -> (..., N). What BERT-like models begin with: words, positions, token types.
    Raises IndexError for an id outside its table, and TypeError and ValueError; nothing is written then.

    Example:
        >>> words, positions = np.eye(3, dtype=np.float32), np.ones((2, 3), np.float32)
        >>> embedding_sum([[2, 0], [0, 1]], [words, positions]).round(3)
        array([[-0.707, -0.707,  1.414],
               [ 1.414, -0.707, -0.707]], dtype=float32)
    """
    ids, tables = list(ids), list(tables)
    if not 1 <= len(tables) <= _MAX_TABLES or len(ids) != len(tables):
        raise ValueError(f"{len(ids)} ids and {len(tables)} tables; needed: as many of both, 1 to {_MAX_TABLES}")
    pairs = [_table(*pair) for pair in zip(ids, tables, strict=True)]
    N = pairs[0][1].shape[1]
    for i, (_, table) in enumerate(pairs):
        if table.shape[1] != N:
            raise ValueError(f"tables[{i}] has shape {table.shape}; needed: ({table.shape[0]}, {N}), the first's width")
    weight = None if weight is None else arrays.vector(weight, "weight", N)
    bias = None if bias is None else arrays.vector(bias, "bias", N)
    if arrays.number(eps, "eps") < 0:
        raise ValueError(f"eps is {eps!r}; needed: a number >= 0")
    spread = [ids for ids, _ in pairs]
    if any(ids.shape != spread[0].shape for ids in spread):
        spread = np.broadcast_arrays(*spread)
    shape = (*spread[0].shape, N)
    if out is not None:
        inputs = {f"tables[{i}]": table for i, (_, table) in enumerate(pairs)}
        arrays.check_out(out, shape, arrays.FLOAT32, {**inputs, "weight": weight, "bias": bias})
    result = out if out is not None and out.flags.c_contiguous else np.empty(shape, arrays.FLOAT32)
    if result.size:
        flat = tuple(arrays.flat_integers(ids) for ids in spread)
        _core.embedding_sum(flat, tuple(table for _, table in pairs), weight, bias, eps, result.reshape(-1, N), 0)
    return arrays.finish(out, result)


def _table(ids, weight) -> tuple[np.ndarray, np.ndarray]:
    ids = arrays.as_array(ids, "ids")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; needed: integers")
    if not isinstance(weight, BlockWeight):
        weight = arrays.weight(weight, "weight")
    bad = arrays.outside(ids, weight.shape[0])
    if bad is not None:
        raise IndexError(f"ids holds {bad}; needed: values in [0, {weight.shape[0]}), the rows of weight")
    if isinstance(weight, BlockWeight):  # the rows that are read are a table of their own
        rows, places = np.unique(ids, return_inverse=True)
        return places.reshape(ids.shape), weight[rows].dequantised()
    return ids, weight


def _copied(source: np.ndarray, shape: tuple[int, ...], view) -> np.ndarray:
    """A dense array of `shape` whose `view` (a function of it, (B, H, L, D)) is filled from `source` (B, H, L, D)."""
    result = np.empty(shape, source.dtype)
    if result.size:
        _core.copy_heads(source, view(result), 0)
    return result


def _checked(x, shape: str, ndim: int) -> np.ndarray:
    x = arrays.as_array(x, "x")
    if x.dtype.name not in ("float32", "float64", "float16", "bfloat16"):
        raise TypeError(f"x has dtype {x.dtype}; needed: float32, float64, float16 or bfloat16")
    if x.ndim != ndim:
        raise ValueError(f"x has shape {x.shape}; needed: {shape}")
    return arrays.dense(x)


def split_heads(x, num_heads) -> np.ndarray:
    """(B, L, H * D) -> (B, H, L, D), dense. Any of the float types of attention.

    Inside the library nobody needs it: attention takes x.reshape(B, L, H, D).swapaxes(1, 2) as it is.
    Raises ValueError where num_heads does not divide the last axis.

    Example:
        >>> x = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
        >>> F.split_heads(x, 2)[0, 1]  # the second head: the second half of every row
        array([[2., 3.],
               [6., 7.]], dtype=float32)
    """
    x = _checked(x, "(B, L, H * D)", 3)
    B, L, width = x.shape
    if not isinstance(num_heads, (int, np.integer)) or num_heads < 1 or width % num_heads:
        raise ValueError(
            f"num_heads is {num_heads!r}; needed: a positive integer that divides the last axis of x, {width}"
        )
    H, D = int(num_heads), width // int(num_heads)
    source = np.lib.stride_tricks.as_strided(
        x, (B, H, L, D), (x.strides[0], D * x.itemsize, x.strides[1], x.itemsize), writeable=False
    )
    return _copied(source, (B, H, L, D), lambda result: result)


def concat_heads(x) -> np.ndarray:
    """(B, H, L, D) -> (B, L, H * D), dense: the inverse of split_heads. Float types as attention's, any strides.

    Example:
        >>> x = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
        >>> np.array_equal(F.concat_heads(F.split_heads(x, 2)), x)
        True
    """
    x = _checked(x, "(B, H, L, D)", 4)
    B, H, L, D = x.shape
    return _copied(x, (B, L, H * D), lambda result: result.reshape(B, L, H, D).swapaxes(1, 2))

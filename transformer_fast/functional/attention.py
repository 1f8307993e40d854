"""Scaled dot-product attention: the one function with every option, its packed form, and the combination of partial results.

Called by users, nn.attention and models. The checks make one tuple (in the order of fill_call in _core.pyx) that becomes the C structure
tfast_attention; semantics of each option stand in the docstring of scaled_dot_product_attention, and in NumPy in reference.py.
To add an option: its argument here, its check in _Call, its place in the tuple, in _core.pyx and in csrc/kernels/table.h.
"""

from __future__ import annotations

import math

import numpy as np

from transformer_fast import _core, reference
from transformer_fast.functional import arrays
from transformer_fast.functional.linear import linear

_CODES = {"float32": 0, "float16": 2, "bfloat16": 3}  # tfast_dtype
_UNLIMITED = 2**63 - 1
_FARTHEST = 2**40  # a window this wide is unlimited: no array is that long


def _code(dtype: np.dtype) -> int | None:
    """tfast_dtype, -1 for float64, None for what is not known. Kept for each dtype object: its name takes microseconds to make."""
    if dtype not in _SEEN:
        _SEEN[dtype] = -1 if dtype.name == "float64" else _CODES.get(dtype.name)
    return _SEEN[dtype]


_SEEN: dict[np.dtype, int | None] = {}


def _operands(query, key, value) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The code of their type (-1: float64), and the three as arrays of that type."""
    query = query if type(query) is np.ndarray else np.asarray(query)
    key = key if type(key) is np.ndarray else np.asarray(key)
    value = value if type(value) is np.ndarray else np.asarray(value)
    code = _code(query.dtype)
    if code is None:
        raise TypeError(f"query has dtype {query.dtype}; float32, float64, float16 or bfloat16 is needed")
    if _code(key.dtype) != code:
        raise TypeError(f"key has dtype {key.dtype}; the query's, {query.dtype}, is needed")
    if _code(value.dtype) != code:
        raise TypeError(f"value has dtype {value.dtype}; the query's, {query.dtype}, is needed")
    return code, query, key, value


def _check_heads(H: int, Hkv: int, enable_gqa: bool) -> None:
    if H == Hkv:
        return
    if not enable_gqa:
        raise ValueError(f"query has {H} heads, key and value have {Hkv}: enable_gqa=True is needed where they differ")
    if Hkv == 0 or H % Hkv:
        raise ValueError(f"query has {H} heads, key and value have {Hkv}: a multiple is needed for enable_gqa")


def _check_plain(dropout_p, softcap, scale, D: int) -> float:
    """The scale. What has nothing to do with arrays is refused here."""
    if arrays.number(dropout_p, "dropout_p") != 0:
        raise ValueError(f"dropout_p is {dropout_p}; 0 is needed: this library only does inference, and dropout is not applied there")
    if arrays.number(softcap, "softcap") < 0:
        raise ValueError(f"softcap is {softcap}; a number >= 0 is needed (0: none)")
    if D == 0:
        raise ValueError("query has head size D = 0; at least 1 is needed")
    if scale is None:
        return 1 / math.sqrt(D)
    return arrays.number(scale, "scale")


def _bounds(window, is_causal: bool) -> tuple[int, int]:
    if type(window) is tuple and window == (-1, -1):
        return _UNLIMITED, 0 if is_causal else _UNLIMITED
    try:
        left, right = (arrays.integer(side, "window") for side in window)
    except (TypeError, ValueError):
        raise ValueError(f"window is {window!r}; a pair (left, right) of integers is needed, -1 for unlimited") from None
    if left < -1 or right < -1:
        raise ValueError(f"window is {window!r}; sides of at least -1 (unlimited) are needed")
    left = _UNLIMITED if left == -1 or left > _FARTHEST else left
    right = _UNLIMITED if right == -1 or right > _FARTHEST else right
    return left, min(right, 0) if is_causal else right


def _offsets(causal_offset, B: int, bottom_right) -> np.ndarray | None:
    """(B,) int64, or None for 0. `bottom_right` is the value (or the values) of that name."""
    if isinstance(causal_offset, str):
        if causal_offset != "bottom_right":
            raise ValueError(f'causal_offset is {causal_offset!r}; an integer, (B,) integers or "bottom_right" is needed')
        return np.ascontiguousarray(np.broadcast_to(np.asarray(bottom_right, np.int64), (B,)))
    if isinstance(causal_offset, int):
        return None if causal_offset == 0 else np.full(B, min(max(causal_offset, -_FARTHEST), _FARTHEST), np.int64)
    offsets = np.asarray(causal_offset)
    offsets = arrays.integers(np.broadcast_to(offsets, (B,)) if offsets.ndim == 0 else offsets, "causal_offset", B)
    return offsets.clip(-_FARTHEST, _FARTHEST)


def _lengths(kv_lengths, B: int, longest) -> np.ndarray | None:
    if kv_lengths is None:
        return None
    lengths = arrays.integers(kv_lengths, "kv_lengths", B)
    if B and ((lengths < 0).any() or (lengths > longest).any()):
        raise ValueError(f"kv_lengths reaches from {lengths.min()} to {lengths.max()}; values in [0, {np.max(longest)}] (Lk) are needed")
    return lengths


def _mask(attn_mask, lead: tuple[int, ...], shape: tuple[int, int, int]) -> np.ndarray | None:
    """bool or float32 of shape (B, H, Lq, Lk), mostly by strides of 0."""
    if attn_mask is None:
        return None
    mask = np.asarray(attn_mask)
    if mask.dtype != bool:
        if mask.dtype.kind != "f" and mask.dtype.name != "bfloat16":
            raise TypeError(f"attn_mask has dtype {mask.dtype}; bool (True = attend) or a float type (added) is needed")
        if mask.dtype != arrays.FLOAT32 or not mask.flags.aligned:
            mask = mask.astype(np.float32)
    if any(stride % mask.dtype.itemsize for stride in mask.strides):
        mask = mask.copy()
    try:
        mask = np.broadcast_to(mask, lead + shape)
    except ValueError:
        raise ValueError(f"attn_mask has shape {mask.shape}; one that broadcasts to {lead + shape} is needed") from None
    return mask.reshape(math.prod(lead), *shape)


def _table(relative_bias, H: int, Lq: int, Lk: int) -> np.ndarray | None:
    if relative_bias is None:
        return None
    table = np.asarray(relative_bias)
    if table.dtype.kind != "f" and table.dtype.name != "bfloat16":
        raise TypeError(f"relative_bias has dtype {table.dtype}; a float type is needed")
    if table.ndim != 2 or table.shape[0] not in (1, H) or table.shape[1] != max(Lq + Lk - 1, 0):
        raise ValueError(f"relative_bias has shape {table.shape}; (H or 1, Lq + Lk - 1) = ({H} or 1, {max(Lq + Lk - 1, 0)}) is needed")
    return np.ascontiguousarray(table if table.flags.aligned else table.copy(), dtype=np.float32)


def _flatten(x: np.ndarray, lead: tuple[int, ...], name: str) -> np.ndarray:
    """(..., h, l, d) broadcast to `lead` and flattened to (B, h, l, d): a view where the strides allow it."""
    if x.ndim != 4 or x.shape[:1] != lead:
        tail = x.shape[-3:]
        x = np.broadcast_to(x, lead + tail)
        x = x.reshape(math.prod(lead), *tail)
    return arrays.dense(x)


def _check_shapes(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> None:
    if len(query) < 3 or len(key) < 3 or len(value) < 3:
        name, shape = min((("query", query), ("key", key), ("value", value)), key=lambda item: len(item[1]))
        raise ValueError(f"{name} has shape {shape}; at least three axes (heads, length, head size) are needed")
    if query[-1] != key[-1]:
        raise ValueError(f"key has head size {key[-1]}; the query's, {query[-1]}, is needed")
    if key[-3:-1] != value[-3:-1]:
        raise ValueError(f"value has shape {value}; (..., {key[-3]}, {key[-2]}, Dv) is needed, as key {key} has it")


class _Call:
    """One checked call: the operands in the engine's layout, the results to be, and the tuple for _core."""

    def __init__(
        self, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, causal_offset, window, kv_lengths, softcap,
        relative_bias, alibi_slopes, sinks, return_weights, return_lse, out,
    ):  # fmt: skip
        self.code, query, key, value = _operands(query, key, value)
        self.operands = query, key, value
        shapes = query.shape, key.shape, value.shape
        _check_shapes(*shapes)
        H, Lq, D = shapes[0][-3:]
        Hkv, Lk, Dv = shapes[2][-3:]
        _check_heads(H, Hkv, enable_gqa)
        scale = _check_plain(dropout_p, softcap, scale, D)
        if return_weights not in (False, "mean", "heads"):
            raise ValueError(f'return_weights is {return_weights!r}; False, "mean" or "heads" is needed')
        self.lead = lead = self._leading(*shapes)
        B = math.prod(lead)
        self.keys = Lk
        self.shape = lead + (H, Lq, Dv)
        self.dtype = query.dtype if query.dtype.isnative else query.dtype.newbyteorder("=")
        if out is not None:
            arrays.check_out(
                out, self.shape, self.dtype,
                {"query": query, "key": key, "value": value, "attn_mask": attn_mask, "causal_offset": causal_offset, "kv_lengths": kv_lengths,
                 "relative_bias": relative_bias, "alibi_slopes": alibi_slopes, "sinks": sinks},
            )  # fmt: skip
        left, right = _bounds(window, is_causal)
        self.result = arrays.result_array(out, self.shape, self.dtype)
        self.lse = np.empty((B, H, Lq), np.float32) if return_lse else None
        self.weights = None
        if return_weights:
            self.weights = np.zeros((B, H if return_weights == "heads" else 1, Lq, Lk), np.float32)
        self.mean = return_weights == "mean"
        # A view, or a copy where the leading axes of `out` do not merge: finish() brings it home.
        self.flat = flat = self.result if len(lead) == 1 else self.result.reshape(B, H, Lq, Dv)
        self.arguments = (
            self.code, Lq, Lk, _flatten(query, lead, "query"), _flatten(key, lead, "key"), _flatten(value, lead, "value"), flat, None, None,
            _lengths(kv_lengths, B, Lk), _offsets(causal_offset, B, Lk - Lq), left, right, scale, float(softcap),
            _mask(attn_mask, lead, (H, Lq, Lk)), _table(relative_bias, H, Lq, Lk), Lq - 1,
            None if alibi_slopes is None else arrays.vector(alibi_slopes, "alibi_slopes", H),
            None if sinks is None else arrays.vector(sinks, "sinks", H), self.lse, self.weights, self.mean, None,
        )  # fmt: skip

    @staticmethod
    def _leading(query, key, value) -> tuple[int, ...]:
        lead = query[:-3]
        if key[:-3] == lead and value[:-3] == lead:
            return lead
        try:
            return np.broadcast_shapes(lead, key[:-3], value[:-3])
        except ValueError:
            raise ValueError(f"query {query}, key {key} and value {value}: leading axes that broadcast together are needed") from None

    def finish(self, out):
        if self.flat is not self.result and not np.may_share_memory(self.flat, self.result):
            self.result[...] = self.flat.reshape(self.shape)
        results = [arrays.finish(out, self.result)]
        if self.weights is not None:
            weights = self.weights[:, 0] if self.mean else self.weights
            results.append(weights.reshape(self.lead + weights.shape[1:]).astype(self.dtype, copy=False))
        if self.lse is not None:
            results.append(self.lse.reshape(self.lead + self.lse.shape[1:]))
        return results[0] if len(results) == 1 else tuple(results)


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    *,
    causal_offset=0,
    window=(-1, -1),
    kv_lengths=None,
    softcap=0.0,
    relative_bias=None,
    alibi_slopes=None,
    sinks=None,
    return_weights=False,
    return_lse=False,
    out=None,
):
    """softmax(query key^T * scale -> soft cap -> + biases and masks) value, without an Lq x Lk array.

    query (..., H, Lq, D), key (..., Hkv, Lk, D), value (..., Hkv, Lk, Dv) -> (..., H, Lq, Dv) of the query's type, or a tuple
    (out[, weights][, lse]) where asked for. Leading axes broadcast; B is their product. Types: float32, float16 and bfloat16 (computed in
    float32), float64 (plain NumPy, with an Lq x Lk array: for checking). Any strides: a (B, L, H, D) array is passed as x.swapaxes(1, 2)
    without a copy, as long as its last axis is dense.

    attn_mask: broadcasts to (..., H, Lq, Lk). bool: True = attend. float: added after scaling and soft-capping.
    dropout_p: must be 0. is_causal: query i sees key j iff j <= i + causal_offset; it applies together with attn_mask.
    scale: default 1/sqrt(D). enable_gqa: query head h reads kv head h // (H / Hkv).
    causal_offset: an int, (B,) integers, or "bottom_right" (Lk - Lq); negative is allowed. With a cache of P keys it is P.
    window: (left, right): i + causal_offset - left <= j <= i + causal_offset + right; -1 is unlimited.
    kv_lengths: (B,) integers; keys from there on do not exist.
    softcap: c > 0 makes c * tanh(score / c) of a score.
    relative_bias: (H or 1, Lq + Lk - 1); the bias of (i, j) is relative_bias[h, j - i + Lq - 1].
    alibi_slopes: (H,); slope * (j - (i + causal_offset)) is added. sinks: (H,); a logit that joins the denominator.
    return_weights: "mean" (..., Lq, Lk) over heads or "heads" (..., H, Lq, Lk). return_lse: log of the denominator, (..., H, Lq), float32.
    out: an array of the result's shape and type, any strides, no overlap with an input.

    A row that sees no key gives zeros (lse -inf). Visible NaN propagate; keys hidden by structure are never looked at. A row's bits do not
    depend on the number of threads or on what else is in the batch.

    Raises TypeError (types) and ValueError (shapes and values), before anything is computed.
    Source: torch.nn.functional.scaled_dot_product_attention; keyword options as in docs/architecture.md.

    >>> import numpy as np, transformer_fast as tf
    >>> x = np.random.default_rng(0).standard_normal((2, 12, 128, 64), dtype=np.float32)
    >>> tf.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (2, 12, 128, 64)
    """
    call = _Call(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, causal_offset, window, kv_lengths, softcap, relative_bias,
        alibi_slopes, sinks, return_weights, return_lse, out,
    )  # fmt: skip
    if call.code < 0:
        results = reference.scaled_dot_product_attention(
            *call.operands, attn_mask, dropout_p, is_causal, scale, enable_gqa, causal_offset=causal_offset, window=window,
            kv_lengths=kv_lengths, softcap=softcap, relative_bias=relative_bias, alibi_slopes=alibi_slopes, sinks=sinks,
            return_weights=return_weights, return_lse=return_lse,
        )  # fmt: skip
        if out is None:
            return results
        out[...] = results[0] if isinstance(results, tuple) else results
        return (out, *results[1:]) if isinstance(results, tuple) else out
    if call.result.size or call.lse is not None:
        _core.attention(call.arguments, 0)
    return call.finish(out)


def _starts(cu_seqlens, name: str, total: int, rows: str) -> np.ndarray:
    starts = np.asarray(cu_seqlens)
    if starts.ndim != 1 or len(starts) == 0:
        raise ValueError(f"{name} has shape {starts.shape}; (B + 1,) is needed")
    starts = arrays.integers(starts, name, len(starts))
    if starts[0] != 0 or starts[-1] != total or (np.diff(starts) < 0).any():
        raise ValueError(f"{name} reaches from {starts[0]} to {starts[-1]}; rising values from 0 to {total} (the rows of {rows}) are needed")
    return starts


def varlen_attention(
    query,
    key,
    value,
    cu_seqlens_q,
    cu_seqlens_k,
    *,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    causal_offset=0,
    window=(-1, -1),
    kv_lengths=None,
    softcap=0.0,
    relative_bias=None,
    alibi_slopes=None,
    sinks=None,
    return_lse=False,
    out=None,
):
    """Attention of packed sequences: query (Tq, H, D), key (Tk, Hkv, D), value (Tk, Hkv, Dv) -> (Tq, H, Dv).

    Sequence b has the query rows cu_seqlens_q[b]:cu_seqlens_q[b + 1] and the key rows cu_seqlens_k[b]:cu_seqlens_k[b + 1]; both are (B + 1,)
    integers that rise from 0 to Tq and Tk. "bottom_right" is each sequence's own Lk - Lq. With Mq and Mk the longest Lq and Lk,
    relative_bias is (H or 1, Mq + Mk - 1) with j - i + Mq - 1 as index, and attn_mask broadcasts to (B, H, Mq, Mk), of which a sequence uses
    the top left corner. return_lse adds (H, Tq). The other options, types, guarantees and errors are those of scaled_dot_product_attention.
    Source: the packed form of FlashAttention (flash_attn_varlen_func).
    """
    code, query, key, value = _operands(query, key, value)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 3:
            raise ValueError(f"{name} has shape {array.shape}; (tokens, heads, head size) is needed")
    if key.shape[0] != value.shape[0]:
        raise ValueError(f"value has {value.shape[0]} rows; as many as key has, {key.shape[0]}, are needed")
    starts_q, starts_k = _starts(cu_seqlens_q, "cu_seqlens_q", query.shape[0], "query"), _starts(cu_seqlens_k, "cu_seqlens_k", key.shape[0], "key")
    if len(starts_q) != len(starts_k):
        raise ValueError(f"cu_seqlens_k has {len(starts_k)} values; as many as cu_seqlens_q, {len(starts_q)}, are needed")
    _check_shapes(*((array.shape[1], array.shape[0], array.shape[2]) for array in (query, key, value)))
    (Tq, H, D), (Hkv, Dv) = query.shape, value.shape[1:]
    _check_heads(H, Hkv, enable_gqa)
    B, lengths_q, lengths_k = len(starts_q) - 1, np.diff(starts_q), np.diff(starts_k)
    Mq, Mk = (int(lengths.max()) if B else 0 for lengths in (lengths_q, lengths_k))
    scale = _check_plain(dropout_p, softcap, scale, D)
    left, right = _bounds(window, is_causal)
    dtype = query.dtype.newbyteorder("=")
    if out is not None:
        arrays.check_out(
            out, (Tq, H, Dv), dtype,
            {"query": query, "key": key, "value": value, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k, "attn_mask": attn_mask,
             "causal_offset": causal_offset, "kv_lengths": kv_lengths, "relative_bias": relative_bias, "alibi_slopes": alibi_slopes,
             "sinks": sinks},
        )  # fmt: skip
    offsets = _offsets(causal_offset, B, lengths_k - lengths_q)
    lengths = _lengths(kv_lengths, B, lengths_k)
    table = _table(relative_bias, H, Mq, Mk)
    mask = _mask(attn_mask, (B,), (H, Mq, Mk))
    slopes = None if alibi_slopes is None else arrays.vector(alibi_slopes, "alibi_slopes", H)
    sink = None if sinks is None else arrays.vector(sinks, "sinks", H)
    if code < 0:
        results = reference.varlen_attention(
            query, key, value, starts_q, starts_k, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa,
            causal_offset=causal_offset, window=window, kv_lengths=kv_lengths, softcap=softcap, relative_bias=relative_bias,
            alibi_slopes=alibi_slopes, sinks=sinks, return_lse=True,
        )  # fmt: skip
        result = arrays.finish(out, results[0])
        return (result, results[1]) if return_lse else result
    result = arrays.result_array(out, (Tq, H, Dv), dtype)
    lse = np.empty((H, Tq), np.float32) if return_lse else None
    if result.size or lse is not None:
        _core.attention(
            (code, Mq, Mk, arrays.dense(query), arrays.dense(key), arrays.dense(value), result, starts_q, starts_k, lengths, offsets, left,
             right, scale, float(softcap), mask, table, Mq - 1, slopes, sink, lse, None, False, None), 0,
        )  # fmt: skip
    result = arrays.finish(out, result)
    return (result, lse) if return_lse else result


def explain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False, **options) -> dict:
    """What scaled_dot_product_attention would do with these arguments, without doing it.

    Returns kernel ("online", "full-row" or "decode"), isa, query_panel and key_block (rows and keys of one step), pieces (tasks), rows_per_piece,
    key_splits, threads, skipped_fraction (of the Lq x Lk scores, by structure), score_flops (of the rest) and workspace_bytes (all threads).
    """
    defaults = {
        "causal_offset": 0, "window": (-1, -1), "kv_lengths": None, "softcap": 0.0, "relative_bias": None, "alibi_slopes": None, "sinks": None,
        "return_weights": False, "return_lse": False, "out": None,
    }  # fmt: skip
    unknown = set(options) - set(defaults)
    if unknown:
        raise TypeError(f"explain_attention got {sorted(unknown)}; {sorted(defaults)} are known")
    chosen = defaults | options
    call = _Call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, **chosen)
    if call.code < 0:
        return {"kernel": "reference", "isa": "numpy", "threads": 1}
    plan = _core.explain_attention(call.arguments, 0)
    kernel = "decode" if plan["decode"] else "full-row" if call.keys <= plan["key_block"] else "online"
    return {
        "kernel": kernel,
        "isa": _core.get_isa(),
        "query_panel": plan["query_panel"],
        "key_block": plan["key_block"],
        "pieces": plan["pieces"],
        "rows_per_piece": plan["rows_per_piece"],
        "key_splits": plan["key_splits"],
        "threads": plan["threads"],
        "skipped_fraction": 1 - plan["visible_fraction"],
        "score_flops": plan["score_flops"],
        "workspace_bytes": plan["scratch_bytes"],
    }


def merge_attention(outputs, lses):
    """Attention over all keys from its results over parts of them: contexts in pieces, shared prefixes, caches that live elsewhere.

    outputs: a sequence of arrays (..., L, Dv); lses: as many arrays (..., L), what return_lse gave for them -> (out (..., L, Dv), lse (..., L)).
    out = sum_i exp(lse_i - lse) out_i with lse = log(sum_i exp(lse_i)); zeros and -inf where every part is empty. Exact but for rounding.
    A sink must have joined one of the parts only. Raises ValueError where numbers or shapes of the parts differ.
    """
    outputs, lses = [np.asarray(o) for o in outputs], [np.asarray(x) for x in lses]
    if len(outputs) == 0 or len(outputs) != len(lses):
        raise ValueError(f"lses has {len(lses)} parts, outputs has {len(outputs)}: as many of both, at least one, are needed")
    for i, (output, lse) in enumerate(zip(outputs, lses, strict=True)):
        if output.shape != outputs[0].shape:
            raise ValueError(f"outputs[{i}] has shape {output.shape}; that of outputs[0], {outputs[0].shape}, is needed")
        if output.dtype != outputs[0].dtype:
            raise TypeError(f"outputs[{i}] has dtype {output.dtype}; that of outputs[0], {outputs[0].dtype}, is needed")
        if lse.shape != output.shape[:-1]:
            raise ValueError(f"lses[{i}] has shape {lse.shape}; {output.shape[:-1]} is needed")
    return reference.merge_attention(outputs, lses)


def additive_attention(query, key, value, v, W_q=None, W_k=None, bias=None, mask=None) -> np.ndarray:
    """softmax_j(v . tanh(query_i W_q + key_j W_k + bias)) value_j, tiled: without an Lq x Lk x A array.

    query (..., Lq, Dq), key (..., Lk, Dk), value (..., Lk, Dv), v (A,), W_q (Dq, A), W_k (Dk, A), bias (A,) -> (..., Lq, Dv) of the query's
    type (float32, float16, bfloat16, computed in float32; float64 in plain NumPy). A weight of None is the identity: Dq = A, Dk = A.
    mask broadcasts to (..., Lq, Lk): bool (True = attend), or added to the scores. A row that sees no key gives zeros.
    Raises TypeError and ValueError. Source: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, section A.1.2.
    """
    code, query, key, value = _operands(query, key, value)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 2:
            raise ValueError(f"{name} has shape {array.shape}; (..., length, width) is needed")
    if code < 0:
        return reference.additive_attention(query, key, value, v, W_q, W_k, bias, mask)
    v = np.asarray(v)
    if v.ndim != 1:
        raise ValueError(f"v has shape {v.shape}; (A,) is needed")
    A = v.shape[0]
    v = arrays.vector(v, "v", A)
    wide_query = _project(query, W_q, "query", "W_q", A, bias)
    wide_key = _project(key, W_k, "key", "W_k", A, None)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"value has length {value.shape[-2]}; the key's, {key.shape[-2]}, is needed")
    wide_value = np.asarray(value, dtype=np.float32)
    heads = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    call = _Call(*heads, None if mask is None else np.atleast_2d(mask)[..., None, :, :], 0.0, False, 1.0, False, 0, (-1, -1), None, 0.0, None, None,
                 None, False, False, None)  # fmt: skip
    if call.result.size:
        _core.attention((*call.arguments[:-1], v), 0)
    return call.finish(None)[..., 0, :, :].astype(query.dtype.newbyteorder("="), copy=False)


def _project(x: np.ndarray, W, name: str, label: str, A: int, bias) -> np.ndarray:
    """x W + bias in float32, (..., L, A)."""
    x = np.asarray(x, dtype=np.float32)
    if W is not None:
        W = np.asarray(W)
        if W.shape != (x.shape[-1], A):
            raise ValueError(f"{label} has shape {W.shape}; ({x.shape[-1]}, {A}) is needed")
        return linear(x, np.ascontiguousarray(W.T, dtype=np.float32), bias)
    if x.shape[-1] != A:
        raise ValueError(f"{name} has width {x.shape[-1]}; without {label} that of v, {A}, is needed")
    return x if bias is None else x + arrays.vector(bias, "bias", A)

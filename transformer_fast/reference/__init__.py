"""The plain NumPy twin of every op in :mod:`transformer_fast.functional`: same names, same arguments, no ``out=``.

This file is the specification. The tests compare the engine with it in float64, the benchmarks compare speed with it,
and a reader finds here what an op means in a few lines. It imports NumPy alone and is meant to be read, not to be fast.

Each op computes in the type of its input: float64 stays float64; float16 and bfloat16 are computed in float32 and
the result is cast back. Anything else is a TypeError.

To add an op: add its twin here first, with the formula in the docstring, then cases in ``tests/helpers/cases.py``.
Weights in narrow formats have theirs in `reference.low_precision`.

Shape letters: B batch, H query heads, Hkv key/value heads, Lq, Lk lengths, D, Dv head sizes, T packed tokens,
M, N, K for matrix products, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np

from transformer_fast.reference.low_precision import (  # noqa: F401, these are its names, too
    cache_integers,
    int4_codes,
    linear_of_blocks,
    linear_of_integers,
    rounded_weight,
    row_integers,
    weight_integers,
)

_COMPUTED_IN = {"float16": np.float32, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}

# math.erf is correctly rounded to about one unit in the last place in float64 (it is the C library's erf).
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _widen(array, name: str, scale=None) -> np.ndarray:
    """`array` in the type that it is computed in; integers (..., n, D) times their scales (..., n) in the scales'."""
    array = np.asarray(array)
    if scale is not None:
        return array * np.asarray(scale)[..., None]
    if array.dtype.name not in _COMPUTED_IN:
        raise TypeError(f"{name} has dtype {array.dtype}; needed: float32, float64, float16 or bfloat16")
    return array.astype(_COMPUTED_IN[array.dtype.name], copy=False)


# ---------------------------------------------------------------------------------------------------------------------
# Attention


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
    distance_scores=None,
    alibi_slopes=None,
    sinks=None,
    key_scale=None,
    value_scale=None,
    return_weights=False,
    return_lse=False,
):
    """softmax(query key^T * scale -> soft cap -> + biases and masks) value.

    query (..., H, Lq, D), key (..., Hkv, Lk, D), value (..., Hkv, Lk, Dv) -> (..., H, Lq, Dv), or the tuple
    (out[, weights][, lse]) where asked for. Leading dimensions broadcast; B is their product. The result has the
    query's type; key and value may have a narrower one, which is widened first. Integers have ``key_scale`` and
    ``value_scale`` (..., Hkv, Lk), by which each row is multiplied.

    Structure hides keys, and a hidden key is never looked at, whatever it holds. With p = i + causal_offset:
    ``is_causal`` shows j <= p, ``window`` shows p - left <= j <= p + right (-1: unlimited), ``kv_lengths`` (B,) shows
    j < kv_lengths[b]. ``causal_offset`` is an int, (B,) integers or "bottom_right" (Lk - Lq).

    Added to the capped scores: relative_bias[h, j - i + Lq - 1], ``distance_scores`` (of_query[h, i, n] and
    of_key[h, j, n] for n = buckets[j - i + Lq - 1]), alibi_slopes[h] * (j - p), and ``attn_mask`` (float: added; bool:
    True = attend), which broadcasts to (..., H, Lq, Lk). ``sinks`` (H,) are logits that join the
    denominator. A row that sees no key gives zeros, and lse = log(denominator) = -inf (its sink, if it has one).

    Source: torch.nn.functional.scaled_dot_product_attention; ONNX operator Attention for softcap, offset and windows.
    """
    if dropout_p > 0:
        raise ValueError(f"dropout_p={dropout_p}: this library is for inference only, dropout_p must be 0")
    if return_weights not in (False, "mean", "heads"):
        raise ValueError(f'return_weights={return_weights!r}; needed: False, "mean" or "heads"')
    out_dtype = np.asarray(query).dtype
    query, key, value = _widen(query, "query"), _widen(key, "key", key_scale), _widen(value, "value", value_scale)
    (H, Lq, D), (Hkv, Lk, Dv) = query.shape[-3:], value.shape[-3:]
    if H != Hkv and not (enable_gqa and Hkv > 0 and H % Hkv == 0):
        raise ValueError(f"query has {H} heads, key and value have {Hkv}; a multiple needs enable_gqa=True")
    lead = np.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    B = math.prod(lead)

    def batched(array):
        return np.broadcast_to(array, lead + array.shape[-3:]).reshape(B, *array.shape[-3:])

    query = batched(query)
    key, value = (np.repeat(batched(array), H // max(Hkv, 1), axis=1) for array in (key, value))

    visible, position = _visible_keys(B, Lq, Lk, is_causal, causal_offset, window, kv_lengths)
    with np.errstate(invalid="ignore", over="ignore"):  # hidden keys may hold anything; shown NaN and inf propagate
        scores = query @ key.swapaxes(-1, -2) * query.dtype.type(1 / math.sqrt(D) if scale is None else scale)
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        if relative_bias is not None:
            distance = np.arange(Lk) - np.arange(Lq)[:, None] + Lq - 1
            scores = scores + np.asarray(relative_bias)[:, distance]
        if distance_scores is not None:
            scores = scores + _distance_scores(distance_scores, lead, (B, H, Lq, Lk)).astype(scores.dtype)
        if alibi_slopes is not None:
            slopes = np.asarray(alibi_slopes, scores.dtype)[:, None, None]
            scores = scores + slopes * (np.arange(Lk) - position)
        if attn_mask is not None:
            mask = np.asarray(attn_mask)
            mask = np.broadcast_to(mask, np.broadcast_shapes(mask.shape, lead + (H, Lq, Lk))).reshape(B, H, Lq, Lk)
            scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(scores.dtype)
        scores = np.where(visible, scores, scores.dtype.type(-np.inf))

    weights, lse = _softmax_with_sink(scores, sinks)
    out = _weighted_sum(weights, value, visible)

    results = [out.reshape(lead + (H, Lq, Dv)).astype(out_dtype)]
    if return_weights == "heads":
        results.append(weights.reshape(lead + (H, Lq, Lk)).astype(out_dtype))
    elif return_weights == "mean":
        results.append(weights.mean(axis=1).reshape(lead + (Lq, Lk)).astype(out_dtype))
    if return_lse:
        results.append(lse.reshape(lead + (H, Lq)))
    return results[0] if len(results) == 1 else tuple(results)


def _distance_scores(terms, lead, shape):
    """(B, H, Lq, Lk) of a functional.DistanceScores, whose arrays have the axes `lead` before H."""
    B, H, Lq, Lk = shape
    query, key = np.arange(Lq)[:, None], np.arange(Lk)
    bucket = np.asarray(terms.buckets)[key - query + Lq - 1]
    result = np.zeros(shape)
    if terms.of_query is not None:
        result += terms.of_query.reshape(B, H, Lq, terms.of_query.shape[-1])[:, :, query, bucket]
    if terms.of_key is not None:
        result += terms.of_key.reshape(B, H, Lk, terms.of_key.shape[-1])[:, :, key, bucket]
    return result


def _visible_keys(B, Lq, Lk, is_causal, causal_offset, window, kv_lengths):
    """Which keys structure shows, (B, 1, Lq, Lk), and the queries' positions among the keys, (B, 1, Lq, 1)."""
    if isinstance(causal_offset, str):
        if causal_offset != "bottom_right":
            raise ValueError(f'causal_offset={causal_offset!r}; needed: an int, (B,) integers or "bottom_right"')
        causal_offset = Lk - Lq
    offset = np.broadcast_to(np.asarray(causal_offset, np.int64), (B,)).reshape(B, 1, 1, 1)
    position = np.arange(Lq)[:, None] + offset
    j = np.arange(Lk)
    visible = np.ones((B, 1, Lq, Lk), bool)
    left, right = window
    if is_causal:
        visible &= j <= position
    if left >= 0:
        visible &= j >= position - left
    if right >= 0:
        visible &= j <= position + right
    if kv_lengths is not None:
        visible &= j < np.asarray(kv_lengths).reshape(B, 1, 1, 1)
    return visible, position


def _softmax_with_sink(scores, sinks):
    """Softmax over the keys of scores (B, H, Lq, Lk), where a sink (H,) joins the denominator; and its logarithm."""
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        sinks = np.asarray(sinks, scores.dtype)[:, None, None]
        peak = np.maximum(peak, sinks)
    peak = np.where(np.isneginf(peak), scores.dtype.type(0), peak)
    with np.errstate(invalid="ignore", divide="ignore", under="ignore"):
        weights = np.exp(scores - peak)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sinks - peak)
        lse = (peak + np.log(total))[..., 0]
        return weights / np.where(total == 0, scores.dtype.type(1), total), lse


def _weighted_sum(weights, value, visible):
    """weights @ value, in which a hidden key adds nothing even if its value is NaN or inf (0 * NaN would be NaN)."""
    finite = np.isfinite(value).all(axis=-1, keepdims=True)
    out = weights @ np.where(finite, value, value.dtype.type(0))
    with np.errstate(invalid="ignore"):
        for j in np.flatnonzero(~finite.all(axis=(0, 1, 3))):
            rogue = np.where(finite, 0, value)[:, :, j : j + 1]
            out += np.where(visible[..., j : j + 1], weights[..., j : j + 1] * rogue, 0)
    return out


def varlen_attention(
    query,
    key,
    value,
    cu_seqlens_q,
    cu_seqlens_k,
    *,
    attn_mask=None,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    causal_offset=0,
    window=(-1, -1),
    kv_lengths=None,
    softcap=0.0,
    relative_bias=None,
    distance_scores=None,
    alibi_slopes=None,
    sinks=None,
    key_scale=None,
    value_scale=None,
    return_lse=False,
):
    """Attention of packed sequences: query (Tq, H, D), key (Tk, Hkv, D), value (Tk, Hkv, Dv) -> (Tq, H, Dv).

    Sequence b has the queries cu_seqlens_q[b]:cu_seqlens_q[b + 1] and the keys cu_seqlens_k[b]:cu_seqlens_k[b + 1];
    both arrays are (B + 1,), start at 0, never fall and end at Tq and Tk. "bottom_right" is each sequence's own
    Lk - Lq. With Mq and Mk the longest Lq and Lk, ``relative_bias`` is (H or 1, Mq + Mk - 1) with j - i + Mq - 1 as its
    index, and ``attn_mask`` broadcasts to (B, H, Mq, Mk), of which a sequence uses the top left corner.
    ``return_lse`` adds (H, Tq). The other options are those of :func:`scaled_dot_product_attention`.
    """
    query, key, value = np.asarray(query), np.asarray(key), np.asarray(value)
    starts_q, starts_k = np.asarray(cu_seqlens_q), np.asarray(cu_seqlens_k)
    B, H = len(starts_q) - 1, query.shape[1]
    longest_q, longest_k = (int(np.diff(starts).max(initial=0)) for starts in (starts_q, starts_k))
    if attn_mask is not None:
        attn_mask = np.broadcast_to(np.asarray(attn_mask), (B, H, longest_q, longest_k))
    offsets = causal_offset if isinstance(causal_offset, str) else np.broadcast_to(np.asarray(causal_offset), (B,))
    out = np.zeros((query.shape[0], H, value.shape[-1]), query.dtype)
    lse = np.zeros((H, query.shape[0]), _widen(query[:0], "query").dtype)
    for b in range(B):
        rows, columns = slice(starts_q[b], starts_q[b + 1]), slice(starts_k[b], starts_k[b + 1])
        Lq, Lk = rows.stop - rows.start, columns.stop - columns.start
        one, one_lse = scaled_dot_product_attention(
            query[rows].swapaxes(0, 1),
            key[columns].swapaxes(0, 1),
            value[columns].swapaxes(0, 1),
            None if attn_mask is None else attn_mask[b, :, :Lq, :Lk],
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            causal_offset=offsets if isinstance(offsets, str) else offsets[b],
            window=window,
            kv_lengths=None if kv_lengths is None else np.asarray(kv_lengths)[b : b + 1],
            softcap=softcap,
            relative_bias=None
            if relative_bias is None
            else np.asarray(relative_bias)[:, longest_q - Lq : longest_q + Lk - 1],
            distance_scores=None
            if distance_scores is None
            else _of_sequence(distance_scores, rows, columns, slice(longest_q - Lq, longest_q + Lk - 1)),
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            key_scale=None if key_scale is None else np.asarray(key_scale)[columns].T,
            value_scale=None if value_scale is None else np.asarray(value_scale)[columns].T,
            return_lse=True,
        )
        out[rows], lse[:, rows] = one.swapaxes(0, 1), one_lse
    return (out, lse) if return_lse else out


def _of_sequence(terms, rows, columns, distances):
    """The part of packed terms, (T, H, N), that is one sequence's: (H, L, N)."""
    of_query, of_key = (
        None if term is None else term[part].swapaxes(0, 1)
        for term, part in ((terms.of_query, rows), (terms.of_key, columns))
    )
    return type(terms)(of_query, of_key, np.asarray(terms.buckets)[distances])


def merge_attention(outputs, lses):
    """Attention over all keys from its results over parts of them.

    outputs: arrays (..., L, Dv); lses: their lse, arrays (..., L) -> (out (..., L, Dv), lse (..., L)).
    out = sum_i exp(lse_i - lse) out_i with lse = log(sum_i exp(lse_i)): zeros and -inf where every part is empty.
    """
    out_dtype = np.asarray(outputs[0]).dtype
    outputs = np.stack([_widen(output, "outputs") for output in outputs])
    lses = np.stack([_widen(lse, "lses") for lse in lses])
    peak = lses.max(axis=0)
    peak = np.where(np.isneginf(peak), lses.dtype.type(0), peak)
    shares = np.exp(lses - peak)
    total = shares.sum(axis=0)
    with np.errstate(divide="ignore"):
        lse = peak + np.log(total)
    shares = shares / np.where(total == 0, lses.dtype.type(1), total)
    return (shares[..., None] * outputs).sum(axis=0).astype(out_dtype), lse


def additive_attention(query, key, value, v, W_q=None, W_k=None, bias=None, mask=None):
    """Bahdanau's attention: softmax_j(v . tanh(query_i W_q + key_j W_k + bias)) value_j.

    query (..., Lq, Dq), key (..., Lk, Dk), value (..., Lk, Dv), v (A,), W_q (Dq, A), W_k (Dk, A), bias (A,)
    -> (..., Lq, Dv). A weight of None is the identity (Dq = A, Dk = A).
    mask (..., Lq, Lk): bool (True = attend) or added to the scores.
    A row that sees no key gives zeros. Source: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, section A.1.2.
    """
    out_dtype = np.asarray(query).dtype
    query, key, value, v = _widen(query, "query"), _widen(key, "key"), _widen(value, "value"), _widen(v, "v")
    query = query if W_q is None else query @ _widen(W_q, "W_q")
    key = key if W_k is None else key @ _widen(W_k, "W_k")
    hidden = query[..., :, None, :] + key[..., None, :, :]
    scores = np.tanh(hidden if bias is None else hidden + _widen(bias, "bias")) @ v
    if mask is not None:
        mask = np.asarray(mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(scores.dtype)
    weights, _ = _softmax_with_sink(scores, None)
    return (weights @ value).astype(out_dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Linear layer, norm, softmax


def linear(x, weight, bias=None, *, activation=None, multiply=None, residual=None):
    """activation(x weight^T + bias) * multiply + residual.

    x (..., K), weight (N, K), bias (N,), multiply and residual (..., N) -> (..., N).
    """
    out_dtype = np.asarray(x).dtype
    y = _widen(x, "x") @ _widen(weight, "weight").T
    if bias is not None:
        y = y + _widen(bias, "bias")
    y = _activate(y, activation)
    if multiply is not None:
        y = y * _widen(multiply, "multiply")
    if residual is not None:
        y = y + _widen(residual, "residual")
    return y.astype(out_dtype)


def linear_max(x, weight, bias=None, *, cu_seqlens):
    """The maximum over the rows cu_seqlens[b]:cu_seqlens[b + 1] of linear(x, weight, bias); -infinity of none.

    x (T, K), weight (N, K), bias (N,) -> (B, N).
    """
    y = linear(x, weight, bias)
    pieces = [y[first:last] for first, last in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)]
    return np.stack([rows.max(axis=0, initial=-np.inf) for rows in pieces]).astype(y.dtype)


def matmul(a, b):
    """a @ b: (..., M, K) and (..., K, N) -> (..., M, N)."""
    return (_widen(a, "a") @ _widen(b, "b")).astype(np.asarray(a).dtype)


def top_k_products(query, corpus, k, *, cosine=False):
    """The k highest of query corpus^T (divided by the lengths of both) and their indices; equal ones by index.

    query (Q, D), corpus (N, D), of integers as well -> (Q, k) each.
    """
    query, corpus = _widen(query, "query"), np.asarray(corpus).astype(np.asarray(query).dtype)
    if cosine:
        query, corpus = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (query, corpus))
    scores = query @ corpus.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def top_k_hamming(query, corpus, k):
    """The k least numbers of different bits, and their indices: query (Q, D / 8), corpus (N, D / 8) -> (Q, k) each."""
    differs = np.unpackbits(np.asarray(query)[:, None] ^ np.asarray(corpus)[None], axis=-1).sum(axis=-1, dtype=np.int64)
    order = np.argsort(differs, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(differs, order, axis=1), order


def layer_norm(x, weight=None, bias=None, eps=1e-5, *, residual=None):
    """(z - mean(z)) / sqrt(variance(z) + eps) * weight + bias with z = x + residual, over the last axis; x (..., N).

    The variance is the biased one (divided by N). Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450; torch LayerNorm.
    """
    out_dtype = np.asarray(x).dtype
    z = _widen(x, "x")
    if residual is not None:
        z = z + _widen(residual, "residual")
    N = z.shape[-1]
    with np.errstate(invalid="ignore", over="ignore"):
        centred = z - z.sum(axis=-1, keepdims=True) / N
        variance = np.square(centred).sum(axis=-1, keepdims=True) / N
        y = centred / np.sqrt(variance + z.dtype.type(eps))
    if weight is not None:
        y = y * _widen(weight, "weight")
    if bias is not None:
        y = y + _widen(bias, "bias")
    return y.astype(out_dtype)


def rms_norm(x, weight=None, eps=1e-6, *, residual=None):
    """z / sqrt(mean(z^2) + eps) * weight with z = x + residual, over the last axis. Source: arXiv:1910.07467."""
    out_dtype = np.asarray(x).dtype
    z = _widen(x, "x")
    if residual is not None:
        z = z + _widen(residual, "residual")
    with np.errstate(invalid="ignore", over="ignore"):
        y = z / np.sqrt(np.square(z).sum(axis=-1, keepdims=True) / max(z.shape[-1], 1) + z.dtype.type(eps))
    if weight is not None:
        y = y * _widen(weight, "weight")
    return y.astype(out_dtype)


def rotary_embedding(x, cos, sin, *, interleaved=False):
    """Pairs (a, b) of the last axis become (a cos - b sin, b cos + a sin); cos, sin (L, R/2) or (B, L, R/2).

    Pair i is (i, i + R/2), or (2i, 2i + 1) if interleaved. Source: arXiv:2104.09864.
    """
    out_dtype = np.asarray(x).dtype
    x, cos, sin = _widen(x, "x"), _widen(cos, "cos"), _widen(sin, "sin")
    if cos.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]
    half = cos.shape[-1]
    firsts, seconds = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    )
    a, b = x[..., firsts], x[..., seconds]
    y = x.copy()
    y[..., firsts] = a * cos - b * sin
    y[..., seconds] = b * cos + a * sin
    return y.astype(out_dtype)


def softmax(x, axis=-1):
    """exp(x) / sum(exp(x)) along `axis`. A row of -inf alone, or one with +inf or NaN in it, gives NaN, as in torch."""
    out_dtype = np.asarray(x).dtype
    x = _widen(x, "x")
    with np.errstate(invalid="ignore", under="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
        return (e / e.sum(axis=axis, keepdims=True)).astype(out_dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Activations


def _elementwise(x, function):
    """function(x), computed in the working type."""
    out_dtype = np.asarray(x).dtype
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(function(_widen(x, "x"))).astype(out_dtype)


def gelu(x, approximate="none"):
    """x Phi(x) with the normal distribution function Phi; approximate="tanh" is Hendrycks and Gimpel's formula.

    Source: arXiv:1606.08415; torch.nn.functional.gelu.
    """
    if approximate == "none":
        return _elementwise(x, lambda z: z * (0.5 * (1 + _erf(z / math.sqrt(2)))).astype(z.dtype))
    if approximate == "tanh":
        root = math.sqrt(2 / math.pi)
        return _elementwise(x, lambda z: 0.5 * z * (1 + np.tanh(root * (z + 0.044715 * z * z * z))))
    raise ValueError(f'approximate={approximate!r}; needed: "none" or "tanh"')


def relu(x):
    """max(x, 0); NaN stays NaN."""
    return _elementwise(x, lambda z: np.maximum(z, 0))


def silu(x):
    """x / (1 + exp(-x)), also called swish."""
    return _elementwise(x, lambda z: z / (1 + np.exp(-z)))


def tanh(x):
    """The hyperbolic tangent."""
    return _elementwise(x, np.tanh)


def quick_gelu(x):
    """x / (1 + exp(-1.702 x)), the form that CLIP was trained with."""
    return _elementwise(x, lambda z: z / (1 + np.exp(-1.702 * z)))


_ACTIVATIONS = {
    None: lambda x: x,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, "tanh"),
    "silu": silu,
    "tanh": tanh,
    "quick_gelu": quick_gelu,
}


def _activate(y, name):
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation={name!r}; needed one of {', '.join(map(repr, _ACTIVATIONS))}")
    return _ACTIVATIONS[name](y)


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent layers


def lstm(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    weight_hr=None,
    h_0=None,
    c_0=None,
    *,
    lengths=None,
    direction="forward",
    batch_first=False,
):
    """(y, h_n, c_n) of one LSTM layer: i, f, o = sigmoid, g = tanh of x W_ih^T + b_ih + h W_hh^T + b_hh (in the order
    i, f, g, o); c = f c + i g; h = o tanh(c), or (o tanh(c)) W_hr^T.

    x (L, B, I), or (B, L, I) if batch_first; weight_ih (4 Hc, I), weight_hh (4 Hc, P), weight_hr (P, Hc) or None;
    h_0 (1, B, P), c_0 (1, B, Hc), zeros by default -> y (L, B, P) or (B, L, P), h_n, c_n. direction "backward" runs
    from each row's end, "both" runs both: two of everything, one after the other along the first axis (of weights,
    biases and states) and along the last one of y. Row b has lengths[b] steps; y is 0 behind them.

    Source: torch.nn.LSTM.
    """

    def step(a, s, state):
        i, f, g, o = np.split(a + s, 4, axis=-1)
        cell = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(cell), cell

    Hc = len(weight_hh) // (8 if direction == "both" else 4)
    start = [(h_0, np.shape(weight_hh)[1]), (c_0, Hc)]
    return _recurrent(
        step, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, start, lengths, direction, batch_first
    )


def gru(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    h_0=None,
    *,
    lengths=None,
    direction="forward",
    batch_first=False,
):
    """(y, h_n) of one GRU layer: with a = x W_ih^T + b_ih and s = h W_hh^T + b_hh, r, z = sigmoid(a + s),
    n = tanh(a + r s), h = (1 - z) n + z h; gates in the order r, z, n.

    Shapes and options as in `lstm`, with 3 gates. Source: torch.nn.GRU.
    """

    def step(a, s, state):
        (ar, az, an), (sr, sz, sn) = np.split(a, 3, axis=-1), np.split(s, 3, axis=-1)
        r, z = _sigmoid(ar + sr), _sigmoid(az + sz)
        return ((1 - z) * np.tanh(an + r * sn) + z * state[0],)

    start = [(h_0, np.shape(weight_hh)[1])]
    return _recurrent(step, x, weight_ih, weight_hh, bias_ih, bias_hh, None, start, lengths, direction, batch_first)


def _sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _recurrent(step, x, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, start, lengths, direction, batch_first):
    """Step by step, row by row: `step(a, s, state)` gives the next state; start holds (first state, its width)."""
    out_dtype = np.asarray(x).dtype
    x = _widen(x, "x")
    x = x.swapaxes(0, 1) if batch_first else x
    L, B = x.shape[:2]
    ways = {"forward": (False,), "backward": (True,), "both": (False, True)}[direction]
    D = len(ways)
    states = [np.zeros((D, B, n), x.dtype) if s is None else np.array(s, x.dtype) for s, n in start]
    lengths = np.full(B, L) if lengths is None else lengths
    P = states[0].shape[-1]
    y = np.zeros((L, B, D * P), x.dtype)
    for d, backward in enumerate(ways):
        ih, hh, b_ih, b_hh, hr = (
            None if w is None else np.split(np.asarray(w, x.dtype), D)[d]
            for w in (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
        )
        for b in range(B):
            for t in range(lengths[b])[:: -1 if backward else 1]:
                new = step(linear(x[t, b], ih, b_ih), linear(states[0][d, b], hh, b_hh), [s[d, b] for s in states])
                new = (new[0] if hr is None else new[0] @ hr.T, *new[1:])
                for state, value in zip(states, new, strict=True):
                    state[d, b] = value
                y[t, b, d * P : (d + 1) * P] = new[0]
    y = y.swapaxes(0, 1) if batch_first else y
    return tuple(array.astype(out_dtype) for array in (y, *states))


# ---------------------------------------------------------------------------------------------------------------------
# Embedding and heads


def max_sim(queries, documents, cu_seqlens, *, cu_queries=None, pairwise=False):
    """sum_i max_j queries_i . documents_j for each query and each document; both packed, with a first row each."""
    queries, documents = _widen(queries, "queries"), _widen(documents, "documents")
    bounds = [0, len(queries)] if cu_queries is None else cu_queries
    each = [queries[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    found = [documents[a:b] for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)]

    def score(query, document):
        return (query @ document.T).max(axis=1, initial=-np.inf).sum()

    if pairwise:
        return np.array([score(q, d) for q, d in zip(each, found, strict=True)])
    scores = np.array([[score(q, d) for d in found] for q in each]).reshape(len(each), len(found))
    return scores[0] if cu_queries is None else scores


def embedding(ids, weight):
    """weight[ids]: ids (...) integers in [0, V), weight (V, N) -> (..., N)."""
    ids, weight = np.asarray(ids), np.asarray(weight)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; needed: integers")
    wrong = ids[(ids < 0) | (ids >= weight.shape[0])]
    if wrong.size:
        raise IndexError(f"ids holds {wrong.flat[0]}; needed: 0 <= id < V = {weight.shape[0]}")
    return weight[ids]


def embedding_sum(ids, tables, weight=None, bias=None, eps=1e-5):
    """layer_norm of the sum of tables[i][ids[i]]: ids (...), tables (V_i, N) -> (..., N)."""
    total = sum(embedding(i, table) for i, table in zip(ids, tables, strict=True))
    return layer_norm(total, weight, bias, eps)


def split_heads(x, num_heads):
    """x (B, L, H*D) -> (B, H, L, D), contiguous."""
    B, L, width = x.shape
    if width % num_heads:
        raise ValueError(f"x has {width} features; num_heads={num_heads} does not divide them")
    return np.ascontiguousarray(x.reshape(B, L, num_heads, width // num_heads).swapaxes(1, 2))


def concat_heads(x):
    """x (B, H, L, D) -> (B, L, H*D), contiguous; undoes :func:`split_heads`."""
    B, H, L, D = x.shape
    return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(B, L, H * D)

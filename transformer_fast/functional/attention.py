"""Scaled dot-product attention: one function with every option, its packed form, and how partial results combine.

Called by users, nn.attention and models. attention_checks.py checks the arguments, which then fill an AttentionCall of
_core by name. The docstring of scaled_dot_product_attention defines each option; reference.py has it in NumPy.
To add an option: its argument here, also in the condition of the short way (a test goes through all of them), its check
in attention_checks.py, its attribute in _core_attention.pxi and its field in csrc/tfast.h.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core, reference
from transformer_fast.functional import arrays
from transformer_fast.functional import attention_checks as checks
from transformer_fast.functional.distance_scores import DistanceScores, prepared
from transformer_fast.functional.linear import linear
from transformer_fast.functional.sparse_weights import SparseWeights, all_keys

# The options that torch does not have, by name alone.
_OPTIONS = {
    "causal_offset",
    "window",
    "kv_lengths",
    "softcap",
    "relative_bias",
    "distance_scores",
    "alibi_slopes",
    "sinks",
    "key_scale",
    "value_scale",
    "mask",
    "return_weights",
    "return_lse",
    "out",
}


_BOTH_SIDES = (-1, -1)  # no window
# The dense form of sparse weights, of which reference.py makes them.
_DENSE_WEIGHTS = {"sparse": "heads", "sparse-mean": "mean"}


def _term_inputs(scores: DistanceScores | None) -> dict[str, np.ndarray | None]:
    """The arrays of distance_scores by the names that an error has for them."""
    if not isinstance(scores, DistanceScores):
        return {}
    return {"distance_scores.of_query": scores.of_query, "distance_scores.of_key": scores.of_key}


class _Call(_core.AttentionCall):
    """One checked call: the operands in the engine's layout, and the arrays of its results.

    Making it is most of what a call on tiny arrays costs: an absent option costs a comparison here, no call and no
    attribute.
    """

    __slots__ = ("dtype", "lead", "matrices", "operands", "ranges", "result")

    def __init__(
        self,
        query,
        key,
        value,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
        causal_offset=0,
        window=_BOTH_SIDES,
        kv_lengths=None,
        softcap=0.0,
        relative_bias=None,
        distance_scores=None,
        alibi_slopes=None,
        sinks=None,
        key_scale=None,
        value_scale=None,
        mask=None,
        return_weights=False,
        return_lse=False,
        out=None,
    ):
        scaled = key_scale is not None or value_scale is not None
        q_dtype, kv_dtype, query, key, value = self.operands = checks.operands(query, key, value, scaled)
        if q_dtype:
            self.q_dtype = q_dtype
        if kv_dtype:
            self.kv_dtype = kv_dtype
        self.dtype = dtype = query.dtype if query.dtype.isnative else query.dtype.newbyteorder("=")
        self.lead, flat_query, flat_key, flat_value = checks.flatten(query, key, value)
        if scaled:
            self.key_scale = checks.scale(key_scale, "key_scale", key, self.lead)
            self.value_scale = checks.scale(value_scale, "value_scale", value, self.lead)
        B, H, Lq, D = flat_query.shape
        _, Hkv, Lk, Dv = flat_value.shape
        if H != Hkv:
            checks.check_heads(H, Hkv, enable_gqa)
        self.scale = checks.check_numbers(dropout_p, softcap, scale, D)
        if softcap:
            self.softcap = softcap
        if return_weights is not False and return_weights not in (False, "mean", "heads", "sparse", "sparse-mean"):
            raise ValueError(
                f'return_weights is {return_weights!r}; needed: False, "mean", "heads", "sparse" or "sparse-mean"'
            )
        shape = (*self.lead, H, Lq, Dv)
        if out is None:
            self.result = result = np.empty(shape, dtype)
        else:
            inputs = {
                "query": query,
                "key": key,
                "value": value,
                "attn_mask": attn_mask,
                "causal_offset": causal_offset,
                "kv_lengths": kv_lengths,
                "relative_bias": relative_bias,
                **_term_inputs(distance_scores),
                "alibi_slopes": alibi_slopes,
                "sinks": sinks,
                "key_scale": key_scale,
                "value_scale": value_scale,
            }
            arrays.check_out(out, shape, dtype, inputs)
            self.result = result = arrays.result_array(out, shape, dtype)
        # A view, or a copy where the leading axes of `out` do not merge: finish() copies it to `out`.
        flat = result if len(shape) == 4 else result.reshape(B, H, Lq, Dv)
        self.set_operands(flat_query, flat_key, flat_value, flat)
        if return_lse:
            self.lse = np.empty((B, H, Lq), np.float32)
        sparse = False
        if return_weights:
            sparse = return_weights in _DENSE_WEIGHTS
            self.weights_mean = return_weights in ("mean", "sparse-mean")
            if not sparse:
                self.weights = np.zeros((B, 1 if self.weights_mean else H, Lq, Lk), np.float32)
        if is_causal or window is not _BOTH_SIDES:
            self.left, self.right = checks.bounds(window, is_causal)
        if kv_lengths is not None:
            self.kv_lengths = checks.lengths(kv_lengths, B, Lk)
        if not (type(causal_offset) is int and causal_offset == 0):
            self.causal_offset = checks.offsets(causal_offset, B, Lk - Lq)
        if attn_mask is not None:
            self.attn_mask = checks.mask(attn_mask, self.lead, (H, Lq, Lk))
        if relative_bias is not None:
            self.relative_bias = checks.table(relative_bias, H, Lq, Lk)
        if distance_scores is not None:
            self.distance_scores = prepared(distance_scores, self.lead, (H, Lq), (H, Lk), (Lq, Lk))
        if alibi_slopes is not None:
            self.alibi_slopes = arrays.vector(alibi_slopes, "alibi_slopes", H)
        if sinks is not None:
            self.sinks = arrays.vector(sinks, "sinks", H)
        if mask is not None or sparse:
            self.ranges = all_keys(Lq, Lk) if mask is None else checks.key_ranges(mask, B, H, Lq, Lk)
            self.key_ranges = checks.ranges(self.ranges, B, H)
        if sparse:
            self.matrices = found = SparseWeights(
                self.ranges,
                B,
                H,
                self.left,
                self.right,
                self.causal_offset,
                self.kv_lengths,
                self.weights_mean,
                np.float64 if q_dtype == checks.FLOAT64 else np.float32,
            )
            self.weights, self.sparse_weights = found.data, found.places

    def finish(self, out):
        if out is None and self.weights is None and self.lse is None:
            return self.result
        if self.out is not self.result and not np.may_share_memory(self.out, self.result):
            self.result[...] = self.out.reshape(self.result.shape)
        results = [arrays.finish(out, self.result)]
        if self.sparse_weights is not None:
            results.append(self.matrices.matrices(self.lead))
        elif self.weights is not None:
            weights = self.weights[:, 0] if self.weights_mean else self.weights
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
    window=_BOTH_SIDES,
    kv_lengths=None,
    softcap=0.0,
    relative_bias=None,
    distance_scores=None,
    alibi_slopes=None,
    sinks=None,
    key_scale=None,
    value_scale=None,
    mask=None,
    return_weights=False,
    return_lse=False,
    out=None,
):
    """softmax(query key^T * scale -> soft cap -> + biases and masks) value, without an Lq x Lk array.

    query (..., H, Lq, D), key (..., Hkv, Lk, D), value (..., Hkv, Lk, Dv) -> (..., H, Lq, Dv) of the query's type, or a
    tuple (out[, weights][, lse]) where asked for. Leading axes broadcast; B is their product. Types: float32, float16
    and bfloat16 (computed in float32), float64 (plain NumPy, with an Lq x Lk array: for checking). key and value have
    one type: the query's, or under a float32 query also float16, bfloat16 or int8, as a cache may store them. Any
    strides: an array (B, L, H, D) is passed as x.swapaxes(1, 2) without a copy, as long as its last axis is dense.

    attn_mask: broadcasts to (..., H, Lq, Lk). bool: True = attend. float: added after scaling and soft-capping.
    dropout_p: must be 0. is_causal: query i sees key j iff j <= i + causal_offset; it applies together with attn_mask.
    scale: default 1/sqrt(D). enable_gqa: query head h reads kv head h // (H / Hkv).
    causal_offset: an int, (B,) integers, or "bottom_right" (Lk - Lq); may be negative. With a cache of P keys it is P.
    window: (left, right): i + causal_offset - left <= j <= i + causal_offset + right; -1 is unlimited.
    kv_lengths: (B,) integers; keys from there on do not exist.
    softcap: c > 0 makes c * tanh(score / c) of a score.
    relative_bias: (H or 1, Lq + Lk - 1); the bias of (i, j) is relative_bias[h, j - i + Lq - 1].
    distance_scores: `DistanceScores`, terms by a row and the distance j - i.
    alibi_slopes: (H,); slope * (j - (i + causal_offset)) is added. sinks: (H,); a logit that joins the denominator.
    key_scale, value_scale: of int8 key and value alone, (..., Hkv, Lk) float32: a row is integers times its scale.
    mask: a structure of `transformer_fast.masks`, or the `KeyRanges` of one: which keys each query sees, as ranges, so
    that the others cost nothing; it joins causality, window and kv_lengths. B and H are those of the call, or 1.
    return_weights: "mean" (..., Lq, Lk) over heads or "heads" (..., H, Lq, Lk). "sparse": an array (..., H) of
    scipy.sparse.csr_array (Lq, Lk), float32 (float64 of float64), which stores the pairs that mask, causality, window
    and kv_lengths show, also where attn_mask hides one; "sparse-mean": (...) of them, with what any head shows. Their
    indices and indptr are shared and read-only; copy() a matrix to change which places it has.
    return_lse: log of the denominator, (..., H, Lq), float32.
    out: an array of the result's shape and type, any strides, no overlap with an input.

    A row that sees no key gives zeros (lse -inf). Visible NaN propagate; keys hidden by structure are never looked at.
    A row's bits do not depend on the number of threads or on what else is in the batch.

    Raises TypeError (types) and ValueError (shapes and values), before anything is computed.
    Source: torch.nn.functional.scaled_dot_product_attention; keyword options as in docs/architecture.md.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((2, 12, 128, 64), dtype=np.float32)
        >>> tf.scaled_dot_product_attention(x, x, x, is_causal=True).shape
        (2, 12, 128, 64)
    """
    # Without options, and on arrays that are ready to be read, one call of the engine is all there is to do.
    if (
        attn_mask is None
        and scale is None
        and kv_lengths is None
        and relative_bias is None
        and distance_scores is None
        and alibi_slopes is None
        and sinks is None
        and key_scale is None
        and value_scale is None
        and mask is None
        and return_weights is False
        and return_lse is False
        and out is None
        and window is _BOTH_SIDES
        and type(causal_offset) is int
        and causal_offset == 0
        and type(dropout_p) is type(softcap) is float
        and dropout_p == softcap == 0
    ):
        result = _core.plain_attention(query, key, value, is_causal, 0)
        if result is not None:
            return result
    call = _Call(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        causal_offset,
        window,
        kv_lengths,
        softcap,
        relative_bias,
        distance_scores,
        alibi_slopes,
        sinks,
        key_scale,
        value_scale,
        mask,
        return_weights,
        return_lse,
        out,
    )
    if call.q_dtype == checks.FLOAT64:
        results = reference.scaled_dot_product_attention(
            *call.operands[2:],
            checks.with_ranges(attn_mask, None if mask is None else call.ranges, call.lead),
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            causal_offset=causal_offset,
            window=window,
            kv_lengths=kv_lengths,
            softcap=softcap,
            relative_bias=relative_bias,
            distance_scores=distance_scores,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            return_weights=_DENSE_WEIGHTS.get(return_weights, return_weights),
            return_lse=return_lse,
        )
        if return_weights in _DENSE_WEIGHTS:
            call.matrices.take(results[1])
            results = (results[0], call.matrices.matrices(call.lead), *results[2:])
        if out is None:
            return results
        out[...] = results[0] if isinstance(results, tuple) else results
        return (out, *results[1:]) if isinstance(results, tuple) else out
    if call.result.size or call.lse is not None or call.weights is not None:
        call.run(0)
    return call.finish(out)


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
    distance_scores=None,
    alibi_slopes=None,
    sinks=None,
    key_scale=None,
    value_scale=None,
    mask=None,
    return_lse=False,
    out=None,
):
    """Attention of packed sequences: query (Tq, H, D), key (Tk, Hkv, D), value (Tk, Hkv, Dv) -> (Tq, H, Dv).

    Sequence b has the query rows cu_seqlens_q[b]:cu_seqlens_q[b + 1] and the key rows
    cu_seqlens_k[b]:cu_seqlens_k[b + 1]; both are (B + 1,) integers that rise from 0 to Tq and Tk. "bottom_right" is
    each sequence's own Lk - Lq. With Mq and Mk the longest Lq and Lk, relative_bias is (H or 1, Mq + Mk - 1) with
    j - i + Mq - 1 as index, and attn_mask broadcasts to (B, H, Mq, Mk), of which a sequence uses the top left corner.
    key_scale and value_scale of int8 key and value are (Tk, Hkv).
    mask: `KeyRanges` of shape (1, 1 or H, Tq, the longest Lk), whose keys count within a query's own sequence.
    return_lse adds (H, Tq). The other options, types, guarantees and errors are those of scaled_dot_product_attention.
    Source: the packed form of FlashAttention (flash_attn_varlen_func).

    Example:
        >>> x = np.ones((5, 12, 64), np.float32)  # 5 tokens, 12 heads
        >>> F.varlen_attention(x, x, x, [0, 2, 5], [0, 2, 5]).shape  # sequences of two tokens and of three
        (5, 12, 64)
    """
    call = _core.AttentionCall()
    scaled = key_scale is not None or value_scale is not None
    call.q_dtype, call.kv_dtype, query, key, value = checks.operands(query, key, value, scaled)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 3:
            raise ValueError(f"{name} has shape {array.shape}; needed: (tokens, heads, head size)")
    if key.shape[0] != value.shape[0]:
        raise ValueError(f"value has {value.shape[0]} rows; needed: {key.shape[0]}, as many as key has")
    starts_q = checks.starts(cu_seqlens_q, "cu_seqlens_q", query.shape[0], "query")
    starts_k = checks.starts(cu_seqlens_k, "cu_seqlens_k", key.shape[0], "key")
    if len(starts_q) != len(starts_k):
        raise ValueError(
            f"cu_seqlens_k has {len(starts_k)} values; needed: {len(starts_q)}, as many as cu_seqlens_q has"
        )
    checks.check_shapes(*((array.shape[1], array.shape[0], array.shape[2]) for array in (query, key, value)))
    (Tq, H, D), (Hkv, Dv) = query.shape, value.shape[1:]
    checks.check_heads(H, Hkv, enable_gqa)
    B, lengths_q, lengths_k = len(starts_q) - 1, np.diff(starts_q), np.diff(starts_k)
    Mq, Mk = (int(lengths.max()) if B else 0 for lengths in (lengths_q, lengths_k))
    call.scale = checks.check_numbers(dropout_p, softcap, scale, D)
    call.softcap = softcap
    call.left, call.right = checks.bounds(window, is_causal)
    dtype = query.dtype.newbyteorder("=")
    if out is not None:
        arrays.check_out(
            out,
            (Tq, H, Dv),
            dtype,
            {
                "query": query,
                "key": key,
                "value": value,
                "cu_seqlens_q": cu_seqlens_q,
                "cu_seqlens_k": cu_seqlens_k,
                "attn_mask": attn_mask,
                "causal_offset": causal_offset,
                "kv_lengths": kv_lengths,
                "relative_bias": relative_bias,
                **_term_inputs(distance_scores),
                "alibi_slopes": alibi_slopes,
                "sinks": sinks,
                "key_scale": key_scale,
                "value_scale": value_scale,
            },
        )
    call.cu_seqlens_q, call.cu_seqlens_k, call.longest_query = starts_q, starts_k, Mq
    call.causal_offset = checks.offsets(causal_offset, B, lengths_k - lengths_q)
    call.kv_lengths = checks.lengths(kv_lengths, B, lengths_k)
    call.relative_bias = checks.table(relative_bias, H, Mq, Mk)
    if distance_scores is not None:
        call.distance_scores = prepared(distance_scores, None, (Tq, H), (key.shape[0], H), (Mq, Mk))
    call.attn_mask = checks.mask(attn_mask, (B,), (H, Mq, Mk))
    if alibi_slopes is not None:
        call.alibi_slopes = arrays.vector(alibi_slopes, "alibi_slopes", H)
    if scaled:
        call.key_scale = checks.scale(key_scale, "key_scale", key, None)
        call.value_scale = checks.scale(value_scale, "value_scale", value, None)
    if sinks is not None:
        call.sinks = arrays.vector(sinks, "sinks", H)
    if mask is not None:
        call.key_ranges = checks.packed_ranges(mask, H, starts_q, lengths_k)
    if call.q_dtype == checks.FLOAT64:
        results = reference.varlen_attention(
            query,
            key,
            value,
            starts_q,
            starts_k,
            attn_mask=checks.with_packed_ranges(attn_mask, mask, starts_q, Mk),
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            causal_offset=causal_offset,
            window=window,
            kv_lengths=kv_lengths,
            softcap=softcap,
            relative_bias=relative_bias,
            distance_scores=distance_scores,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            return_lse=True,
        )
        result = arrays.finish(out, results[0])
        return (result, results[1]) if return_lse else result
    result = arrays.result_array(out, (Tq, H, Dv), dtype)
    call.set_operands(arrays.dense(query), arrays.dense(key), arrays.dense(value), result)
    if return_lse:
        call.lse = np.empty((H, Tq), np.float32)
    if result.size or return_lse:
        call.run(0)
    result = arrays.finish(out, result)
    return (result, call.lse) if return_lse else result


def explain_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False, **options
) -> dict:
    """Tell how scaled_dot_product_attention would run with these arguments, without running it.

    Returns pieces (tasks), rows_per_piece (at most), key_splits, threads, skipped_fraction (of the Lq x Lk scores, by
    structure), score_flops (of the rest), workspace_bytes (all threads), and kinds: a list with one dict for each way
    in which pieces are run, the one with the most pieces first, which has
    kernel ("decode" for few query rows, "full-row" where one step takes all keys, else "online"), isa (the level whose
    kernel it is), query_panel and key_block (rows and keys of one step), copies_kv (K and V are copied as float32
    before they are read), matrix_engine (it computes both products) and pieces.
    The first kind's values are in the result as well. float64 is computed by NumPy: kernel is then "reference".

    Example:
        >>> x = np.ones((1, 12, 512, 64), np.float32)
        >>> F.explain_attention(x, x, x, is_causal=True)["skipped_fraction"] > 0.4
        True
    """
    unknown = set(options) - _OPTIONS
    if unknown:
        raise TypeError(f"explain_attention got {sorted(unknown)}; needed: some of {sorted(_OPTIONS)}")
    call = _Call(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, **options)
    if call.q_dtype == checks.FLOAT64:
        return {"kernel": "reference", "isa": "numpy", "threads": 1}
    plan = call.explain(0)
    plan["kinds"].sort(key=lambda kind: -kind["pieces"])
    first = plan["kinds"][0] if plan["kinds"] else {}
    return {**first, **plan}


def merge_attention(outputs, lses):
    """Attention over all keys from its results over parts of them.

    For contexts in pieces, shared prefixes, and caches that live elsewhere.
    outputs: a sequence of arrays (..., L, Dv); lses: as many arrays (..., L), what return_lse gave for them
    -> (out (..., L, Dv), lse (..., L)).
    out = sum_i exp(lse_i - lse) out_i with lse = log(sum_i exp(lse_i)); zeros and -inf where every part is empty. Exact
    but for rounding. A sink must have joined one of the parts only.
    Raises ValueError where numbers or shapes of the parts differ, TypeError where types do.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((2, 8, 16), dtype=np.float32)
        >>> parts = [F.scaled_dot_product_attention(x, k, k, return_lse=True) for k in (x[:, :3], x[:, 3:])]
        >>> merged, lse = F.merge_attention(*zip(*parts))
        >>> np.allclose(merged, F.scaled_dot_product_attention(x, x, x), atol=1e-6)
        True
    """
    outputs, lses = [np.asarray(o) for o in outputs], [np.asarray(x) for x in lses]
    if len(outputs) == 0 or len(outputs) != len(lses):
        raise ValueError(
            f"lses has {len(lses)} parts and outputs has {len(outputs)}; needed: as many of both, at least one"
        )
    for i, (output, lse) in enumerate(zip(outputs, lses, strict=True)):
        if output.shape != outputs[0].shape:
            raise ValueError(f"outputs[{i}] has shape {output.shape}; needed: {outputs[0].shape}, that of outputs[0]")
        if output.dtype != outputs[0].dtype:
            raise TypeError(f"outputs[{i}] has dtype {output.dtype}; needed: {outputs[0].dtype}, that of outputs[0]")
        if lse.shape != output.shape[:-1]:
            raise ValueError(f"lses[{i}] has shape {lse.shape}; needed: {output.shape[:-1]}")
    return reference.merge_attention(outputs, lses)


def additive_attention(query, key, value, v, W_q=None, W_k=None, bias=None, mask=None) -> np.ndarray:
    """softmax_j(v . tanh(query_i W_q + key_j W_k + bias)) value_j, tiled: without an Lq x Lk x A array.

    query (..., Lq, Dq), key (..., Lk, Dk), value (..., Lk, Dv), v (A,), W_q (Dq, A), W_k (Dk, A), bias (A,)
    -> (..., Lq, Dv) of the query's type (float32, float16, bfloat16, computed in float32; float64 in plain NumPy).
    A weight of None is the identity: Dq = A, Dk = A. mask broadcasts to (..., Lq, Lk): bool (True = attend), or added
    to the scores. A row that sees no key gives zeros.
    Raises TypeError and ValueError. Source: Bahdanau, Cho, Bengio 2014, arXiv:1409.0473, section A.1.2.

    Example:
        >>> query, keys = np.zeros((1, 2), np.float32), np.array([[1, 1], [-1, -1]], np.float32)
        >>> F.additive_attention(query, keys, keys, v=np.array([1, 1], np.float32))
        array([[0.9093, 0.9093]], dtype=float32)
    """
    code, _, query, key, value = checks.operands(query, key, value)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim < 2:
            raise ValueError(f"{name} has shape {array.shape}; needed: (..., length, width)")
    if code == checks.FLOAT64:
        return reference.additive_attention(query, key, value, v, W_q, W_k, bias, mask)
    v = np.asarray(v)
    if v.ndim != 1:
        raise ValueError(f"v has shape {v.shape}; needed: (A,)")
    A = v.shape[0]
    v = arrays.vector(v, "v", A)
    wide_query = _project(query, W_q, "query", "W_q", A, bias)
    wide_key = _project(key, W_k, "key", "W_k", A, None)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"value has length {value.shape[-2]}; needed: {key.shape[-2]}, as key has it")
    wide_value = np.asarray(value, dtype=np.float32)
    heads = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    call = _Call(
        *heads,
        None if mask is None else np.atleast_2d(mask)[..., None, :, :],
        scale=1.0,
    )
    call.additive = v
    if call.result.size:
        call.run(0)
    return call.finish(None)[..., 0, :, :].astype(query.dtype.newbyteorder("="), copy=False)


def _project(x: np.ndarray, W, name: str, label: str, A: int, bias) -> np.ndarray:
    """x W + bias in float32, (..., L, A)."""
    x = np.asarray(x, dtype=np.float32)
    if W is not None:
        W = np.asarray(W)
        if W.shape != (x.shape[-1], A):
            raise ValueError(f"{label} has shape {W.shape}; needed: ({x.shape[-1]}, {A})")
        return linear(x, np.ascontiguousarray(W.T, dtype=np.float32), bias)
    if x.shape[-1] != A:
        raise ValueError(f"{name} has width {x.shape[-1]}; needed: {A}, that of v, where {label} is not given")
    return x if bias is None else x + arrays.vector(bias, "bias", A)

"""Attention over keys and values in pages, each sequence with a table of its pages; sequences may share pages.

Called by users and by servers that keep the past of many sequences in one pool; `nn.cache.PagedCache` is such a pool,
and csrc/ops/decoder.c reads it with the same kernels. The engine's part is `tfast_pages` and `shared` of csrc/tfast.h,
csrc/ops/shared_keys.c. An option that the kernels know is an argument here, checked by attention_checks.py.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core, reference
from transformer_fast.functional import arrays
from transformer_fast.functional import attention_checks as checks
from transformer_fast.functional.key_ranges import KeyRanges

PAGE_UNIT = _core.PAGE_UNIT


def paged_attention(
    query,
    key_pages,
    value_pages,
    page_table,
    kv_lengths,
    *,
    cu_seqlens_q=None,
    shared_keys=0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    causal_offset="bottom_right",
    window=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    sinks=None,
    key_scale=None,
    value_scale=None,
    mask=None,
    return_lse=False,
    out=None,
):
    """Attention of B sequences whose keys and values lie in pages of S positions.

    query (B, H, Lq, D), or packed (Tq, H, D) with cu_seqlens_q (B + 1,); key_pages (N, Hkv, S, D) and value_pages
    (N, Hkv, S, Dv), S a multiple of 16 -> (B, H, Lq, Dv) or (Tq, H, Dv) of the query's type. Any strides with a dense
    last axis: pages (N, S, Hkv, D) are passed as pages.swapaxes(1, 2), without a copy.
    page_table: (B, n) integers; key j of sequence b is position j % S of page page_table[b, j // S]. kv_lengths: (B,)
    integers, how many keys each has; entries of the table beyond them are never read, and may be anything.
    shared_keys: an integer or (B,) of them, multiples of S: so many first keys of a sequence may be those of others.
    Sequences with the same number and the same first page have the same pages for them (checked); these are read once
    for all of their queries, which see all of those keys. A row has the same bits whichever sequences share its keys,
    but other ones than with shared_keys=0, which sums in another order.
    causal_offset: an integer, (B,) of them, or "bottom_right", kv_lengths[b] - Lq: the default, which is that of a
    cache that holds the queries' own keys already. key_scale, value_scale: of int8 pages, (N, Hkv, S) float32.
    mask: `KeyRanges` of shape (B or 1, H or 1, Lq, the longest of kv_lengths), or packed as in varlen_attention.
    The other options, types and guarantees are those of scaled_dot_product_attention. Few query rows read pages in
    place, as do more of float32 where S >= 64; else pages are copied, some hundreds of keys at a time.

    Raises:
        TypeError: a type does not fit.
        ValueError: a shape does not fit; an entry of the table is not a page; sequences that are to share keys have
            other pages for them, or queries that do not see all of them; shared_keys joins a window or ALiBi.

    Source: vLLM's PagedAttention, Kwon et al. 2023, arXiv:2309.06180; sharing as cascade inference in FlashInfer.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> pages = rng.standard_normal((9, 12, 64, 64), dtype=np.float32)  # 9 pages of 64 keys, 12 heads
        >>> query = rng.standard_normal((2, 12, 1, 64), dtype=np.float32)
        >>> table = [[0, 1, 2, 3], [0, 1, 2, 8]]  # two sequences that have 192 keys in common
        >>> F.paged_attention(query, pages, pages, table, [200, 250], shared_keys=192).shape
        (2, 12, 1, 64)
    """
    call = _core.AttentionCall()
    scaled = key_scale is not None or value_scale is not None
    call.q_dtype, call.kv_dtype, query, key, value = checks.operands(query, key_pages, value_pages, scaled)
    packed = cu_seqlens_q is not None
    if query.ndim != (3 if packed else 4):
        raise ValueError(f"query has shape {query.shape}; needed: {'(Tq, H, D)' if packed else '(B, H, Lq, D)'}")
    for name, array in (("key_pages", key), ("value_pages", value)):
        if array.ndim != 4:
            raise ValueError(f"{name} has shape {array.shape}; needed: (pages, Hkv, positions, head size)")
    if key.shape[:3] != value.shape[:3] or query.shape[-1] != key.shape[3]:
        raise ValueError(
            f"key_pages has shape {key.shape} and value_pages {value.shape}; needed: (N, Hkv, S, "
            f"{query.shape[-1]}) and (N, Hkv, S, Dv)"
        )
    (N, Hkv, S, Dv), H, D = value.shape, query.shape[1], query.shape[-1]
    if S == 0 or S % PAGE_UNIT:
        raise ValueError(f"pages have {S} positions; needed: a multiple of {PAGE_UNIT}")
    checks.check_heads(H, Hkv, enable_gqa)
    call.scale = checks.check_numbers(0.0, softcap, scale, D)
    call.softcap = softcap
    starts = checks.starts(cu_seqlens_q, "cu_seqlens_q", query.shape[0], "query") if packed else None
    B = len(starts) - 1 if packed else query.shape[0]
    table = _table(page_table, B)
    lengths = checks.lengths(kv_lengths, B, table.shape[1] * S)
    _check_entries(table, lengths, S, N)
    rows = np.diff(starts) if packed else np.full(B, query.shape[2], np.int64)
    call.left, call.right = checks.bounds(window, is_causal)
    offsets = checks.offsets(causal_offset, B, lengths - rows)
    ranges = None
    if mask is not None and not isinstance(mask, KeyRanges):
        raise TypeError(f"mask is a {type(mask).__name__}; needed for keys in pages: KeyRanges")
    if mask is not None and packed:
        ranges = checks.packed_ranges(mask, H, starts, lengths)
    elif mask is not None:
        ranges = checks.ranges(checks.key_ranges(mask, B, H, query.shape[2], int(lengths.max(initial=0))), B, H)
    shared = _shared(shared_keys, table, lengths, S)
    if shared is not None:
        _check_shared(shared, call, offsets, rows, ranges, starts, alibi_slopes)
    if alibi_slopes is not None:
        call.alibi_slopes = arrays.vector(alibi_slopes, "alibi_slopes", H)
    if sinks is not None:
        call.sinks = arrays.vector(sinks, "sinks", H)
    if scaled:
        call.key_scale = checks.scale(key_scale, "key_scale", key, None)
        call.value_scale = checks.scale(value_scale, "value_scale", value, None)
    shape, dtype = (*query.shape[:-1], Dv), query.dtype.newbyteorder("=")
    if out is not None:
        inputs = {"query": query, "key_pages": key, "value_pages": value, "page_table": page_table}
        inputs |= {"kv_lengths": kv_lengths, "causal_offset": causal_offset, "alibi_slopes": alibi_slopes}
        inputs |= {"sinks": sinks, "key_scale": key_scale, "value_scale": value_scale}
        arrays.check_out(out, shape, dtype, inputs)
    if call.q_dtype == checks.FLOAT64:
        options = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa, "window": window}
        options |= {"softcap": softcap, "alibi_slopes": alibi_slopes, "sinks": sinks}
        result, lse = _float64(query, key, value, table, lengths, starts, offsets, mask, options)
        result = arrays.finish(out, result)
        return (result, lse) if return_lse else result
    call.page_table, call.kv_lengths, call.causal_offset = table, lengths, offsets
    call.shared_keys, call.key_ranges, call.cu_seqlens_q = shared, ranges, starts
    call.longest_query = int(rows.max(initial=0))
    result = arrays.result_array(out, shape, dtype)
    call.set_operands(arrays.dense(query), arrays.dense(key), arrays.dense(value), result)
    if return_lse:
        call.lse = np.empty((H, shape[0]) if packed else shape[:-1], np.float32)
    if result.size or return_lse:
        call.run(0)
    result = arrays.finish(out, result)
    return (result, call.lse) if return_lse else result


def _table(page_table, B: int) -> np.ndarray:
    """(B, n) dense int32; entries that no int32 holds, which no sequence may use, become -1."""
    table = arrays.as_array(page_table, "page_table")
    if table.dtype.kind not in "iu" and table.size:
        raise TypeError(f"page_table has dtype {table.dtype}; needed: integers")
    if table.ndim != 2 or len(table) != B:
        raise ValueError(f"page_table has shape {table.shape}; needed: ({B}, n), a row for each sequence")
    if table.dtype != np.int32:
        table = np.where((table >= 0) & (table < 2**31), table, -1)
    return np.ascontiguousarray(table, np.int32)


def _check_entries(table: np.ndarray, lengths: np.ndarray, S: int, N: int) -> None:
    used = np.arange(table.shape[1]) * S < lengths[:, None]
    wrong = used & ((table < 0) | (table >= N))
    if wrong.any():
        b, i = np.argwhere(wrong)[0]
        raise ValueError(f"page_table[{b}, {i}] is {table[b, i]}; needed: a page, 0 to {N - 1}")


def _shared(shared_keys, table: np.ndarray, lengths: np.ndarray, S: int) -> np.ndarray | None:
    """(B,) int64, or None where no sequence shares."""
    if type(shared_keys) is int and shared_keys == 0:
        return None
    values = np.asarray(shared_keys)
    values = np.broadcast_to(values, lengths.shape) if values.ndim == 0 else values
    values = arrays.integers(values, "shared_keys", len(lengths))
    wrong = np.flatnonzero((values < 0) | (values > lengths) | (values % S != 0))
    if len(wrong):
        b = wrong[0]
        raise ValueError(
            f"shared_keys is {values[b]} for sequence {b}; needed: a multiple of the page size {S}, at most its "
            f"kv_lengths, {lengths[b]}"
        )
    if not values.any():
        return None
    first: dict[tuple[int, int], int] = {}
    for b in np.flatnonzero(values):
        other = first.setdefault((int(values[b]), int(table[b, 0])), int(b))
        pages = values[b] // S
        if (table[b, :pages] != table[other, :pages]).any():
            raise ValueError(
                f"page_table[{b}] and page_table[{other}] begin with the same page, and differ within the {values[b]} "
                "shared_keys of both; needed: the same pages for them"
            )
    return np.ascontiguousarray(values)


def _check_shared(shared, call, offsets, rows, ranges, starts, alibi_slopes) -> None:
    """Whether all queries see what their sequence shares, which is then never asked again."""
    if call.left != checks.UNLIMITED:
        raise ValueError("window has a left side with shared_keys, which all queries see; needed: one of them")
    if alibi_slopes is not None:
        raise ValueError("alibi_slopes is given with shared_keys; needed: one of them")
    if call.right != checks.UNLIMITED:
        first = np.zeros(len(shared), np.int64) if offsets is None else offsets
        hidden = np.flatnonzero((shared > 0) & (rows > 0) & (first + call.right < shared - 1))
        if len(hidden):
            b = hidden[0]
            raise ValueError(
                f"shared_keys is {shared[b]} for sequence {b}, whose first query sees keys up to "
                f"{first[b] + call.right}; needed: shared keys that all queries see"
            )
    if ranges is not None:
        lists, begin, bounds, _ = ranges
        first_high = np.zeros(len(begin) - 1, np.int64)
        some = np.flatnonzero(begin[:-1] < begin[1:])
        at = begin[some]
        first_high[some] = np.where(bounds[at, 0] == 0, bounds[at, 1], 0)
        seen = first_high[lists]  # (B or 1, H or 1, Lq), or packed (H or 1, Tq)
        for b in np.flatnonzero(shared):
            own = seen[:, starts[b] : starts[b + 1]] if starts is not None else seen[min(b, len(seen) - 1)]
            if (own < shared[b]).any():
                raise ValueError(
                    f"mask hides some of the {shared[b]} shared_keys of sequence {b}; needed: shared keys that all "
                    "queries see"
                )


def _float64(query, key, value, table, lengths, starts, offsets, mask, options):
    """The same in NumPy, sequence by sequence, for checking."""
    S, results = key.shape[2], []
    for b, length in enumerate(lengths):
        pages = table[b, : -(-length // S)]
        keys, values = (
            np.concatenate([*x[pages]], axis=1)[:, :length] if len(pages) else x[0, :, :0] for x in (key, value)
        )
        own = query[starts[b] : starts[b + 1]].swapaxes(0, 1) if starts is not None else query[b]
        seen = None
        if mask is not None and starts is not None:
            seen = mask.dense()[0][:, starts[b] : starts[b + 1], :length]
        elif mask is not None:
            dense = mask.dense()
            seen = dense[min(b, len(dense) - 1)][..., :length]
        offset = 0 if offsets is None else int(offsets[b])
        results.append(
            reference.scaled_dot_product_attention(
                own, keys, values, seen, causal_offset=offset, return_lse=True, **options
            )
        )
    if starts is not None:
        outs = [result.swapaxes(0, 1) for result, _ in results]
        return np.concatenate(outs), np.concatenate([lse for _, lse in results], axis=-1)
    return np.stack([result for result, _ in results]), np.stack([lse for _, lse in results])

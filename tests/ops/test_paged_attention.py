"""Keys and values in pages, and keys that sequences share: against the formula in float64 and keys in one piece.

A sequence's pages lie anywhere in the pool, in any order; pages that no table names are filled with NaN, and so is what
lies behind a sequence's last key, so that a key too many shows.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support import TOLERANCE, assert_close, assert_same_bits, normal

from transformer_fast import reference
from transformer_fast.functional import KeyRanges, paged_attention, scaled_dot_product_attention, varlen_attention
from transformer_fast.masks import causal, prefix, window

B, H, HKV, D, DV = 3, 4, 2, 24, 40
LENGTHS = np.array([300, 5, 523])


def pooled(x: np.ndarray, lengths: np.ndarray, size: int, same: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(B, Hkv, L, ...) -> pages (N, Hkv, size, ...) and a table (B, n); the first `same` keys are those of sequence 0,
    in pages that all have."""
    rng = np.random.default_rng(len(lengths))
    own = [-(-int(n) // size) for n in lengths]
    pages = rng.permutation(sum(own) + 2)
    pool = np.full((len(pages), x.shape[1], size, *x.shape[3:]), 77 if x.dtype == np.int8 else np.nan, x.dtype)
    table = np.full((len(lengths), max(own) + 1), -1)
    used = iter(pages)
    for b, n in enumerate(lengths):
        for i in range(own[b]):
            table[b, i] = table[0, i] if b and (i + 1) * size <= same else next(used)
            part = x[b, :, i * size : min((i + 1) * size, int(n))]
            pool[table[b, i], :, : part.shape[1]] = part
    return pool, table


def operands(Lq: int, same: int = 0, lengths=LENGTHS, dtype=np.float32, seed=0):
    most = int(max(lengths))
    query = normal(len(lengths), H, Lq, D, seed=seed).astype(dtype)
    key, value = normal(len(lengths), HKV, most, D, seed=seed + 1), normal(len(lengths), HKV, most, DV, seed=seed + 2)
    key[:, :, :same], value[:, :, :same] = key[0, :, :same], value[0, :, :same]
    return query, key.astype(dtype), value.astype(dtype)


def paged(query, key, value, size, lengths=LENGTHS, same=0, **options):
    (keys, table), (values, _) = pooled(key, lengths, size, same), pooled(value, lengths, size, same)
    return paged_attention(query, keys, values, table, lengths, enable_gqa=True, **options)


def expected(query, key, value, lengths=LENGTHS, offset=None, **options):
    """In float64."""
    offset = lengths - query.shape[2] if offset is None else offset
    query, key, value = (x.astype(np.float64) for x in (query, key, value))
    return reference.scaled_dot_product_attention(
        query, key, value, kv_lengths=lengths, causal_offset=offset, enable_gqa=True, return_lse=True, **options
    )


@pytest.mark.parametrize("size", [16, 48, 64, 256])
@pytest.mark.parametrize("Lq", [1, 3, 60])
def test_pages_are_keys_in_a_row(size, Lq, isa, threads):
    query, key, value = operands(Lq)
    options = {"is_causal": Lq > 1, "sinks": normal(H), "softcap": 20.0, "return_lse": True}
    out, lse = paged(query, key, value, size, **options)
    options.pop("return_lse")
    assert_close((out, lse), expected(query, key, value, **options))
    if Lq == 1:
        offset = {"causal_offset": LENGTHS - Lq, "kv_lengths": LENGTHS, "enable_gqa": True}
        assert_same_bits(out, scaled_dot_product_attention(query, key, value, **offset, **options))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "half queries"])
@pytest.mark.parametrize("Lq", [1, 20])
@pytest.mark.parametrize("same", [0, 192])
def test_types(kind, Lq, same, isa):
    lengths = np.array([300, 220, 523])
    query, key, value = operands(Lq, same, lengths)
    scales = {}
    if kind == "int8":
        scales = {name: np.abs(x).max(-1) / 127 for name, x in (("key_scale", key), ("value_scale", value))}
        key, value = (
            np.rint(x / scales[name][..., None]).astype(np.int8) for name, x in zip(scales, (key, value), strict=True)
        )
    else:
        dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.float16
        key, value = key.astype(dtype), value.astype(dtype)
        query = query.astype(dtype) if kind == "half queries" else query
    pages = {name: pooled(x, lengths, 64, same)[0] for name, x in scales.items()}
    out = paged(query, key, value, 64, lengths, same, shared_keys=same, is_causal=True, **pages)
    wide = [x.astype(np.float32) for x in (key, value)]
    if scales:
        wide = [x * scales[name][..., None] for name, x in zip(scales, wide, strict=True)]
    assert out.dtype == query.dtype
    tolerance = 1e-3 if kind == "half queries" else TOLERANCE
    assert_close(out.astype(np.float32), expected(query, *wide, lengths, is_causal=True)[0], tolerance)


@pytest.mark.parametrize("size", [16, 64, 192])
@pytest.mark.parametrize("Lq", [1, 5, 60])
def test_shared_keys(size, Lq, isa, threads):
    lengths = np.array([300, 192, 523])
    query, key, value = operands(Lq, 192, lengths)
    options = {"is_causal": True, "sinks": normal(H), "scale": 0.3}
    offset = np.array([200, 191, 500])
    given = {"causal_offset": offset, "shared_keys": 192, "return_lse": True, **options}
    results = paged(query, key, value, size, lengths, 192, **given)
    assert_close(results, expected(query, key, value, lengths, offset, **options))


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("Lq", [1, 7])
def test_a_rows_bits_do_not_depend_on_who_shares_its_keys(size, Lq, isa, threads):
    rows = 40
    lengths = np.full(rows, 192) + np.arange(rows) % 3 * 50
    query, key, value = operands(Lq, 192, lengths)
    (keys, table), (values, _) = pooled(key, lengths, size, 192), pooled(value, lengths, size, 192)

    def attend(rows):
        return paged_attention(
            query[rows], keys, values, table[rows], lengths[rows], enable_gqa=True, shared_keys=192, is_causal=Lq == 1
        )

    together = attend(np.arange(rows))
    for some in ([7], [3, 20], [39, 5, 0, 1, 2, 3, 4, 6, 8]):
        assert_same_bits(attend(np.array(some)), together[some])


def test_groups_of_different_prefixes(isa):
    """Two prefixes, a sequence that shares none of them, and one that shares less: each is its own group."""
    lengths = np.array([200, 210, 150, 180, 190])
    query, key, value = operands(2, 0, lengths)
    key[1, :, :128], value[1, :, :128] = key[0, :, :128], value[0, :, :128]
    key[4, :, :64], value[4, :, :64] = key[3, :, :64], value[3, :, :64]
    (keys, table), (values, _) = pooled(key, lengths, 64), pooled(value, lengths, 64)
    table[1, :2], table[4, :1] = table[0, :2], table[3, :1]
    out = paged_attention(
        query, keys, values, table, lengths, enable_gqa=True, is_causal=True, shared_keys=[128, 128, 0, 64, 64]
    )
    assert_close(out, expected(query, key, value, lengths, is_causal=True)[0])


@pytest.mark.parametrize("same", [0, 64])
def test_packed_queries(same, isa, threads):
    lengths, counts = np.array([300, 64, 523, 100]), np.array([1, 0, 40, 3])
    starts = np.concatenate([[0], np.cumsum(counts)])
    query, key, value = operands(40, same, lengths)
    rows = np.concatenate([query[b, :, :n].swapaxes(0, 1) for b, n in enumerate(counts)])
    (keys, table), (values, _) = pooled(key, lengths, 64, same), pooled(value, lengths, 64, same)
    out, lse = paged_attention(
        rows,
        keys,
        values,
        table,
        lengths,
        cu_seqlens_q=starts,
        enable_gqa=True,
        is_causal=True,
        shared_keys=same,
        return_lse=True,
    )
    for b, n in enumerate(counts):
        if n:
            one = slice(b, b + 1)
            wanted = expected(query[one, :, :n], key[one], value[one], lengths[one], is_causal=True)
            found = out[starts[b] : starts[b + 1]].swapaxes(0, 1)[None], lse[None, :, starts[b] : starts[b + 1]]
            assert_close(found, wanted)


@pytest.mark.parametrize("same", [0, 192])
def test_masks(same, isa):
    """A draft tree of each sequence behind what it has seen; keys that all share may be shared."""
    lengths = np.full(3, 300)
    query, key, value = operands(9, same, lengths)
    structure = (causal(291) & window(40, -1, offset=291)) | prefix(200)
    ranges = structure.ranges(9, 300)
    out = paged(query, key, value, 64, lengths, same, mask=ranges, shared_keys=same)
    assert_close(out, expected(query, key, value, lengths, attn_mask=structure.dense(9, 300))[0])


@pytest.mark.parametrize("size", [16, 64])
def test_windows(size, isa):
    query, key, value = operands(4)
    options = {"window": (37, 0), "alibi_slopes": np.abs(normal(H))}
    assert_close(paged(query, key, value, size, **options), expected(query, key, value, **options)[0])


def test_float64_and_strided_pages():
    query, key, value = operands(2, dtype=np.float64)
    out = paged(query, key, value, 16, is_causal=True)
    assert out.dtype == np.float64
    assert np.abs(out - expected(query, key, value, is_causal=True)[0]).max() < 1e-12
    query, key, value = operands(2)
    (keys, table), (values, _) = pooled(key, LENGTHS, 64), pooled(value, LENGTHS, 64)
    other = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (keys, values)]
    options = {"enable_gqa": True, "is_causal": True}
    assert_same_bits(
        paged_attention(query, *other, table, LENGTHS, **options),
        paged_attention(query, keys, values, table, LENGTHS, **options),
    )


def test_nan_of_a_shared_key_reaches_all_its_rows():
    lengths = np.full(3, 200)
    query, key, value = operands(1, 64, lengths)
    key[:, 0, 5] = np.nan
    out = paged(query, key, value, 64, lengths, 64, shared_keys=64)
    assert np.isnan(out[:, :2]).all() and np.isfinite(out[:, 2:]).all()


def test_empty_sequences():
    query, key, value = operands(2)
    lengths = np.array([0, 64, 64])
    out, lse = paged(query, key, value, 64, lengths, shared_keys=[0, 64, 0], return_lse=True)
    assert not out[0].any() and np.isneginf(lse[0]).all()
    assert_close(out[1:], expected(query[1:], key[1:], value[1:], lengths[1:])[0])
    pages = np.zeros((0, HKV, 16, D), np.float32)
    assert paged_attention(query[:0], pages, pages, np.zeros((0, 2), int), [], enable_gqa=True).shape == (0, H, 2, D)


BAD = [
    ({"page_table": [[0, 9]]}, ValueError, r"page_table\[0, 1\] is 9; needed: a page, 0 to 3"),
    ({"page_table": [[0, -1]]}, ValueError, r"page_table\[0, 1\] is -1"),
    ({"page_table": [[0, 2**33]]}, ValueError, r"page_table\[0, 1\] is -1"),
    ({"page_table": [[0.0, 1.0]]}, TypeError, "page_table has dtype float64"),
    ({"page_table": [0, 1]}, ValueError, r"page_table has shape \(2,\); needed: \(1, n\)"),
    ({"kv_lengths": [33]}, ValueError, "kv_lengths reaches from 33 to 33; needed: values in"),
    ({"shared_keys": 8}, ValueError, "shared_keys is 8 for sequence 0; needed: a multiple of the page size 16"),
    ({"shared_keys": 32}, ValueError, "at most its kv_lengths, 20"),
    ({"shared_keys": 16, "window": (5, 0)}, ValueError, "window has a left side with shared_keys"),
    ({"shared_keys": 16, "alibi_slopes": [1.0, 1.0]}, ValueError, "alibi_slopes is given with shared_keys"),
    ({"shared_keys": 16, "is_causal": True, "causal_offset": 3}, ValueError, "whose first query sees keys up to 3"),
    ({"shared_keys": 16, "mask": causal(3).ranges(1, 20)}, ValueError, "mask hides some of the 16 shared_keys"),
    ({"mask": causal()}, TypeError, "mask is a Causal; needed for keys in pages: KeyRanges"),
    ({"mask": KeyRanges([[[0]]], [0, 1], [[0, 3]], 4)}, ValueError, r"mask has shape \(1, 1, 1, 4\)"),
    (
        {"key_pages": np.zeros((4, 2, 8, 4), np.float32), "value_pages": np.zeros((4, 2, 8, 4), np.float32)},
        ValueError,
        "8 positions",
    ),
    ({"value_pages": np.zeros((4, 2, 32, 4), np.float32)}, ValueError, "key_pages has shape"),
    ({"query": np.zeros((1, 3, 1, 4), np.float32)}, ValueError, "query has 3 heads"),
    ({"cu_seqlens_q": [0, 1]}, ValueError, r"query has shape \(1, 2, 1, 4\); needed: \(Tq, H, D\)"),
]


@pytest.mark.parametrize(("changes", "error", "text"), BAD)
def test_bad_input(changes, error, text):
    pages = np.zeros((4, 2, 16, 4), np.float32)
    arguments = {"query": np.zeros((1, 2, 1, 4), np.float32), "key_pages": pages, "value_pages": pages}
    arguments |= {"page_table": [[0, 1]], "kv_lengths": [20], **changes}
    with pytest.raises(error, match=text):
        paged_attention(**arguments)


def test_sequences_that_cannot_share():
    pages = np.zeros((4, 2, 16, 4), np.float32)
    with pytest.raises(ValueError, match=r"page_table\[1\] and page_table\[0\] begin with the same page, and differ"):
        paged_attention(np.zeros((2, 2, 1, 4), np.float32), pages, pages, [[0, 1], [0, 2]], [32, 32], shared_keys=32)


def test_packed_keys_without_pages_are_as_before():
    """Packed queries over pages, and over packed keys: the same structure read in two ways."""
    query, key, value = (normal(20, n, d, seed=n) for n, d in ((H, D), (HKV, D), (HKV, DV)))
    starts = np.array([0, 12, 20])
    packed = varlen_attention(query, key, value, starts, starts, is_causal=True, enable_gqa=True)
    whole = np.zeros((2, HKV, 16, D), np.float32), np.zeros((2, HKV, 16, DV), np.float32)
    for pool, x in zip(whole, (key, value), strict=True):
        for b in range(2):
            pool[b, :, : starts[b + 1] - starts[b]] = x[starts[b] : starts[b + 1]].swapaxes(0, 1)
    out = paged_attention(query, *whole, [[0], [1]], [12, 8], cu_seqlens_q=starts, is_causal=True, enable_gqa=True)
    assert_close(out, packed)

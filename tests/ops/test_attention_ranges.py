"""Attention with `mask=`, lists of ranges of keys, against the dense boolean mask in float64.

Structures are made of patterns over (query, key) that differ in how a block of keys looks to a panel of queries: whole,
empty, one range a row, several, single keys. transformer_fast.masks, which makes such lists, has tests of its own.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support import TOLERANCE, assert_close, assert_same_bits, normal, widened

from transformer_fast import reference
from transformer_fast.functional import (
    KeyRanges,
    explain_attention,
    scaled_dot_product_attention,
    set_num_threads,
    varlen_attention,
)


def places(Lq: int, Lk: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(Lq)[:, None] + Lk - Lq, np.arange(Lk)[None]


def window_and_globals(Lq: int, Lk: int) -> np.ndarray:
    i, j = places(Lq, Lk)
    return (abs(i - j) <= 20) | (j < 3) | (j == Lk // 2)


def documents(Lq: int, Lk: int) -> np.ndarray:
    i, j = places(Lq, Lk)
    ends = np.array([5, 40, 41, 200, 333])
    return np.searchsorted(ends, i, side="right") == np.searchsorted(ends, j, side="right")


def blocks(Lq: int, Lk: int) -> np.ndarray:
    i, j = places(Lq, Lk)
    visible = np.random.default_rng(1).random((Lk // 32 + 1, Lk // 32 + 1)) < 0.2
    return visible[i // 32 % len(visible), j // 32]


def dilated(Lq: int, Lk: int) -> np.ndarray:
    i, j = places(Lq, Lk)
    return ((i - j) % 3 == 0) & (abs(i - j) <= 60)


def noise(Lq: int, Lk: int) -> np.ndarray:
    return np.random.default_rng(2).random((Lq, Lk)) < 0.3


def far_apart(Lq: int, Lk: int) -> np.ndarray:
    """Keys at both ends, whole superblocks of nothing between, and rows that see nothing."""
    i, j = places(Lq, Lk)
    return ((j < 2) | (j >= Lk - 3)) & (i % 5 != 1)


STRUCTURES = [window_and_globals, documents, blocks, dilated, noise, far_apart]
# Whole panels and rests, one to eight rows (decode), few queries over many keys (split over keys), several superblocks.
LENGTHS = [(1, 70), (1, 1300), (3, 600), (7, 33), (33, 33), (70, 133), (150, 150), (97, 700), (20, 2600)]


def expectation(q, k, v, seen, **options):
    return reference.scaled_dot_product_attention(*widened([q, k, v]), seen, **widened(options))


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda f: f.__name__)
def test_structures(structure, lengths, isa, threads):
    Lq, Lk = lengths
    q, k, v = normal(2, 4, Lq, 24), normal(2, 2, Lk, 24, seed=1), normal(2, 2, Lk, 24, seed=2)
    seen = structure(Lq, Lk)
    mask, options = KeyRanges.from_dense(seen), {"enable_gqa": True, "return_lse": True}
    expected = expectation(q, k, v, seen, **options)
    assert_close(scaled_dot_product_attention(q, k, v, mask=mask, **options), expected)


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("Lq", [1, 5, 75])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_keys(dtype, Lq, isa, threads):
    """Copies are made of the blocks that are seen."""
    Lk, kind = 900, ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    q, k, v = normal(1, 2, Lq, 16), normal(1, 2, Lk, 16, seed=1).astype(kind), normal(1, 2, Lk, 16, seed=2).astype(kind)
    for structure in STRUCTURES:
        seen = structure(Lq, Lk)
        got = scaled_dot_product_attention(q, k, v, mask=KeyRanges.from_dense(seen))
        assert_close(got, expectation(q, k, v, seen))


@pytest.mark.parametrize("Lq", [2, 50])
def test_lists_by_batch_and_head(Lq, isa):
    B, H, Lk = 3, 4, 200
    q, k, v = normal(B, H, Lq, 8), normal(B, H, Lk, 8, seed=1), normal(B, H, Lk, 8, seed=2)
    for shape in ((B, 1), (1, H), (B, H)):
        seen = np.random.default_rng(0).random((*shape, Lq, Lk)) < 0.1
        got = scaled_dot_product_attention(q, k, v, mask=KeyRanges.from_dense(seen))
        assert_close(got, expectation(q, k, v, seen))


OPTIONS = {
    "causal": {"is_causal": True, "causal_offset": "bottom_right"},
    "window": {"window": (30, 2), "causal_offset": 11},
    "lengths": {"kv_lengths": np.array([90, 0])},
    "soft cap": {"softcap": 3.0},
    "mask": {"attn_mask": np.random.default_rng(0).random((1, 1, 60, 160)) < 0.7},
    "bias": {"attn_mask": normal(2, 1, 60, 160, seed=5)},
    "table": {"relative_bias": normal(4, 219, seed=6)},
    "sinks": {"sinks": normal(4, seed=7)},
    "alibi": {"alibi_slopes": np.array([0.01, 0.02, 0.03, 0.04], np.float32)},
    "weights": {"return_weights": "heads"},
    "mean weights": {"return_weights": "mean"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_with_other_options(name, isa, threads):
    Lq, Lk, options = 60, 160, dict(OPTIONS[name])
    q, k, v = normal(2, 4, Lq, 12), normal(2, 4, Lk, 12, seed=1), normal(2, 4, Lk, 12, seed=2)
    for structure in STRUCTURES:
        seen, given = structure(Lq, Lk), dict(options)
        got = scaled_dot_product_attention(q, k, v, mask=KeyRanges.from_dense(seen), return_lse=True, **options)
        bias = given.pop("attn_mask", None)
        dense = seen if bias is None else bias & seen if bias.dtype == bool else np.where(seen, bias, -np.inf)
        expected = expectation(q, k, v, dense, return_lse=True, **given)
        assert_close(got, expected, 1e-5 if name == "alibi" else TOLERANCE)


def test_float64_takes_the_dense_mask(isa):
    q, k, v = (normal(2, 2, n, 8, seed=n).astype(float) for n in (30, 40, 40))
    seen = np.random.default_rng(0).random((2, 1, 30, 40)) < 0.5
    got = scaled_dot_product_attention(q, k, v, mask=KeyRanges.from_dense(seen))
    np.testing.assert_array_equal(got, reference.scaled_dot_product_attention(q, k, v, seen))
    biased = scaled_dot_product_attention(q, k, v, normal(30, 40), mask=KeyRanges.from_dense(seen))
    expected = reference.scaled_dot_product_attention(q, k, v, np.where(seen, normal(30, 40), -np.inf))
    np.testing.assert_array_equal(biased, expected)
    one = q.tolist(), k.tolist(), v.tolist()  # nested lists are float64, too
    np.testing.assert_array_equal(scaled_dot_product_attention(*one, mask=KeyRanges.from_dense(seen)), got)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lead", [(0,), (0, 2), (2, 0)], ids=str)
def test_an_empty_batch(lead, dtype, isa):
    x = np.zeros((*lead, 2, 3, 4), dtype)
    for shape in ((0, 1, 3, 3), (0, 2, 3, 3), (1, 1, 3, 3)):
        mask = KeyRanges.from_dense(np.ones(shape, bool))
        got, weights = scaled_dot_product_attention(x, x, x, mask=mask, return_weights="heads")
        assert (got.shape, weights.shape) == (x.shape, (*lead, 2, 3, 3))


@pytest.mark.parametrize("Lq", [1, 6, 90])
def test_hidden_keys_are_not_looked_at(Lq, isa):
    """NaN and infinity reach the rows that see them, and no other row."""
    Lk = 300
    q, k, v = normal(1, 2, Lq, 16), normal(1, 2, Lk, 16, seed=1), normal(1, 2, Lk, 16, seed=2)
    for structure in STRUCTURES:
        seen = structure(Lq, Lk)
        mask = KeyRanges.from_dense(seen)
        clean = scaled_dot_product_attention(q, k, v, mask=mask)
        for spoilt, value in ((v, np.nan), (v, np.inf), (k, np.nan)):
            for key in (0, Lk // 2, Lk - 1):
                before = spoilt[:, :, key].copy()
                spoilt[:, :, key] = value
                got = scaled_dot_product_attention(q, k, v, mask=mask)
                spoilt[:, :, key] = before
                assert_close(got[:, :, ~seen[:, key]], clean[:, :, ~seen[:, key]].astype(float), 1e-6)
                assert not np.isfinite(got[:, :, seen[:, key]]).any()


def test_one_range_a_row_has_the_bits_of_the_window(isa):
    """A structure that is a window: the same sums in the same order. On amx lists run on the level below."""
    q, k, v = normal(1, 3, 300, 32), normal(1, 3, 300, 32, seed=1), normal(1, 3, 300, 32, seed=2)
    same = assert_close if isa == "amx" else assert_same_bits
    i, j = places(300, 300)
    mask = KeyRanges.from_dense((j <= i) & (j >= i - 40))
    got = scaled_dot_product_attention(q, k, v, mask=mask)
    same(got, scaled_dot_product_attention(q, k, v, is_causal=True, window=(40, -1)))
    whole = KeyRanges.from_dense(np.ones((300, 300), bool))
    same(scaled_dot_product_attention(q, k, v, mask=whole), scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("Lq", [7, 48, 200])
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda f: f.__name__)
def test_equal_lists_may_be_shared_or_not(structure, Lq, isa):
    """Lists of the same ranges under numbers of their own are computed together, as one that rows share."""
    q, k, v = normal(1, 2, Lq, 16), normal(1, 2, 700, 16, seed=1), normal(1, 2, 700, 16, seed=2)
    shared = KeyRanges.from_dense(np.repeat(structure(Lq // 3 + 1, 700), 3, axis=0)[:Lq])
    lists = shared.list_of_row[0, 0]
    begin = np.cumsum([0, *np.diff(shared.begin)[lists]])
    bounds = np.concatenate([shared.bounds[shared.begin[n] : shared.begin[n + 1]] for n in lists])
    apart = KeyRanges(np.arange(Lq)[None, None], begin, bounds, 700)
    options = {"is_causal": True, "causal_offset": 600}
    got = scaled_dot_product_attention(q, k, v, mask=apart, **options)
    assert_same_bits(got, scaled_dot_product_attention(q, k, v, mask=shared, **options))


@pytest.mark.parametrize("Lq", [1, 4, 40])
def test_a_window_that_begins_within_a_range(Lq, isa):
    """What a list has before the window is not read, whatever stands there."""
    q, k, v = normal(1, 2, Lq, 16), normal(1, 2, 900, 16, seed=1), normal(1, 2, 900, 16, seed=2)
    seen = np.ones((Lq, 900), bool)
    seen[:, 100:120] = False
    options = {"window": (30, 5), "causal_offset": 880 - Lq}
    expected = expectation(q, k, v, seen, **options)
    k[:, :, :800], v[:, :, :800] = np.nan, np.nan
    assert_close(scaled_dot_product_attention(q, k, v, mask=KeyRanges.from_dense(seen), **options), expected)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda f: f.__name__)
def test_bits_do_not_depend_on_threads_or_company(structure, isa, request):
    q, k, v = normal(3, 4, 200, 16), normal(3, 4, 500, 16, seed=1), normal(3, 4, 500, 16, seed=2)
    mask = KeyRanges.from_dense(structure(200, 500))
    request.addfinalizer(lambda: set_num_threads(None))
    set_num_threads(1)
    one = scaled_dot_product_attention(q, k, v, mask=mask)
    set_num_threads(3)
    assert_same_bits(scaled_dot_product_attention(q, k, v, mask=mask), one)
    assert_same_bits(scaled_dot_product_attention(q[1:2], k[1:2], v[1:2], mask=mask), one[1:2])


@pytest.mark.parametrize("Lq", [4, 64])
def test_packed_sequences(Lq, isa):
    """A query counts over all sequences, a key within its own."""
    lengths_k, rng = [70, 1, 130], np.random.default_rng(0)
    q, k, v = normal(3 * Lq, 2, 8), normal(201, 2, 8, seed=1), normal(201, 2, 8, seed=2)
    seen = rng.random((3, 1, Lq, 130)) < 0.3
    cu_q, cu_k = np.arange(4) * Lq, np.cumsum([0, *lengths_k])
    for b, length in enumerate(lengths_k):
        seen[b, :, :, length:] = False
    mask = KeyRanges.from_dense(np.concatenate(list(seen[:, 0]))[None, None])
    got = varlen_attention(q, k, v, cu_q, cu_k, mask=mask)
    expected = reference.varlen_attention(*widened([q, k, v]), cu_q, cu_k, attn_mask=seen)
    assert_close(got, expected)


def test_wrong_masks_are_refused():
    q, k = normal(2, 3, 10, 8), normal(2, 3, 20, 8)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 1, 20, 10\); needed: \(2 or 1, 3 or 1, 10, 20\)"):
        scaled_dot_product_attention(q, k, k, mask=KeyRanges.from_dense(np.ones((20, 10), bool)))
    with pytest.raises(TypeError, match="mask is a ndarray; needed: a structure of transformer_fast.masks"):
        scaled_dot_product_attention(q, k, k, mask=np.ones((10, 20), bool))
    x = normal(20, 3, 8)
    with pytest.raises(ValueError, match=r"mask has shape .*; needed: \(1, 3 or 1, 20, 11\)"):
        varlen_attention(x, x, x, [0, 9, 20], [0, 9, 20], mask=KeyRanges.from_dense(np.ones((20, 20), bool)))


def test_explained():
    q = normal(1, 2, 256, 16)
    told = explain_attention(q, q, q, mask=KeyRanges.from_dense(documents(256, 256)))
    assert told["skipped_fraction"] == pytest.approx(1 - documents(256, 256).mean())
    by_head = np.stack([documents(256, 256), noise(256, 256)])[None]
    told = explain_attention(q, q, q, is_causal=True, mask=KeyRanges.from_dense(by_head))
    assert told["skipped_fraction"] == pytest.approx(1 - np.tril(by_head).mean())

"""nn/cache.py: what is stored where, growth, windows, reordering; bad input."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transformer_fast import functional as F
from transformer_fast import reference
from transformer_fast.nn import KeyValueCache


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def stored(cache, b):
    return cache.keys[b, :, : cache.lengths[b]], cache.values[b, :, : cache.lengths[b]]


def test_rows_of_different_lengths():
    cache = KeyValueCache(3, 2, 4, capacity=5, Dv=3)
    first, second, counts = values(3, 2, 5, 4), values(3, 2, 2, 4), np.array([5, 0, 3])
    cache.append(first, first[..., :3], counts)
    assert cache.lengths.tolist() == [5, 0, 3] and not cache.uniform
    cache.append(second, second[..., :3])
    assert cache.lengths.tolist() == [7, 2, 5] and cache.keys.shape == (3, 2, 7, 4) and cache.values.shape[3] == 3
    for b, count in enumerate(counts):
        keys, vals = stored(cache, b)
        assert np.array_equal(keys, np.concatenate([first[b, :, :count], second[b]], axis=1))
        assert np.array_equal(vals, keys[..., :3])


def test_packed_rows():
    cache = KeyValueCache(3, 2, 4, capacity=8)
    cu_seqlens, rows = np.array([0, 4, 4, 6]), values(6, 2, 4)
    cache.append_packed(rows, -rows, cu_seqlens)
    assert cache.lengths.tolist() == [4, 0, 2]
    for b in range(3):
        expected = rows[cu_seqlens[b] : cu_seqlens[b + 1]].swapaxes(0, 1)
        assert np.array_equal(stored(cache, b)[0], expected) and np.array_equal(stored(cache, b)[1], -expected)


def test_packed_rows_in_turns_need_no_more_room():
    """The rows of a batch may come one after the other, each as long as the capacity."""
    cache, rows = KeyValueCache(2, 1, 4, capacity=5), values(5, 1, 4)
    for cu_seqlens in ([0, 5, 5], [0, 0, 5]):
        cache.append_packed(rows, rows, np.array(cu_seqlens))
    assert cache.capacity == 5 and cache.lengths.tolist() == [5, 5]
    assert all(np.array_equal(stored(cache, b)[0], rows.swapaxes(0, 1)) for b in range(2))


def test_a_step_never_copies_the_past():
    cache = KeyValueCache(1, 1, 2, capacity=100)
    memory = cache._keys.arrays[0]
    for _ in range(100):
        cache.append(values(1, 1, 1, 2), values(1, 1, 1, 2))
    assert cache._keys.arrays[0] is memory
    grown = 0
    for _ in range(900):
        cache.append(values(1, 1, 1, 2), values(1, 1, 1, 2))
        grown += cache._keys.arrays[0] is not memory
        memory = cache._keys.arrays[0]
    assert grown == 4 and cache.capacity == 1600 and cache.lengths.tolist() == [1000]


def test_reserved_positions_cost_no_memory_before_they_are_written():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cache = KeyValueCache(1, 8, 64, capacity=1_000_000)  # 4 GB
    cache.append(values(1, 8, 3, 64), values(1, 8, 3, 64))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert cache.keys.shape == (1, 8, 3, 64)


@pytest.mark.parametrize("index", [[1, 0, 2], [2, 2, 2], [0, 1, 2], [1, 1, 0]])
def test_reorder_in_place(index):
    cache = KeyValueCache(3, 2, 4, capacity=8)
    rows = values(3, 2, 5, 4)
    cache.append(rows, -rows, np.array([5, 2, 3]))
    before = [[array.copy() for array in stored(cache, b)] for b in range(3)]
    cache.reorder(np.array(index))
    for b, source in enumerate(index):
        for got, expected in zip(stored(cache, b), before[source], strict=True):
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("index", [[1], [0, 0, 1, 1, 2, 2], []])
def test_reorder_to_more_and_fewer_rows(index):
    cache = KeyValueCache(3, 2, 4, capacity=8)
    rows = values(3, 2, 5, 4)
    cache.append(rows, -rows, np.array([5, 2, 3]))
    cache.reorder(np.array(index, int))
    assert len(cache) == len(index) and cache.capacity == 8
    for b, source in enumerate(index):
        assert np.array_equal(stored(cache, b)[0], rows[source, :, : cache.lengths[b]])
    cache.append(rows[np.array(index, int)], rows[np.array(index, int)])
    assert cache.lengths.tolist() == [[5, 2, 3][i] + 5 for i in index]


@pytest.mark.parametrize("window", [1, 2, 5])
def test_windows_keep_what_later_queries_see(window):
    """Attention over the trimmed cache equals attention with that window over the whole past."""
    whole, trimmed = KeyValueCache(2, 1, 4, 100), KeyValueCache(2, 1, 4, 100, window=window)
    keys, cu_seqlens = values(14, 1, 4), np.array([0, 3, 14])
    for cache in (whole, trimmed):
        cache.append_packed(keys, keys, cu_seqlens)
    for step in range(30):
        key, query = values(2, 1, 1, 4, seed=step), values(2, 3, 1, 4, seed=step + 100)
        results = []
        for cache in (whole, trimmed):
            cache.append(key, key)
            results.append(
                F.scaled_dot_product_attention(
                    query,
                    cache.keys,
                    cache.values,
                    is_causal=True,
                    enable_gqa=True,
                    window=(window - 1, -1),
                    kv_lengths=cache.lengths,
                    causal_offset=cache.lengths - 1,
                )
            )
        np.testing.assert_allclose(*results, atol=1e-6)
    assert trimmed.capacity <= max(2 * window, window + 1) and whole.lengths.tolist() == [33, 41]


def test_empty_caches():
    cache = KeyValueCache(0, 2, 4, capacity=2)
    cache.append(values(0, 2, 3, 4), values(0, 2, 3, 4))
    assert cache.keys.shape[0] == 0
    cache = KeyValueCache(2, 1, 4, capacity=0)
    assert cache.keys.shape == (2, 1, 0, 4)
    cache.append(values(2, 1, 1, 4), values(2, 1, 1, 4))
    assert cache.lengths.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_rounded_once_and_attended_to(dtype):
    cache = KeyValueCache(2, 1, 16, capacity=2, dtype=dtype)
    rows, query = values(2, 1, 9, 16), values(2, 2, 1, 16)
    cache.append(rows, -rows, np.array([9, 4]))  # grows
    cache.reorder(np.array([1, 0, 0]))
    cache.append(rows[[0, 1, 1], :, :1], rows[[0, 1, 1], :, :1])
    assert cache.keys.dtype == cache.values.dtype == dtype and cache.lengths.tolist() == [5, 10, 10]
    assert np.array_equal(stored(cache, 0)[0][:, :4], rows[1, :, :4].astype(dtype))
    got = F.scaled_dot_product_attention(
        query[[1, 0, 0]], cache.keys, cache.values, enable_gqa=True, kv_lengths=cache.lengths
    )
    wide = (cache.keys.astype(np.float32), cache.values.astype(np.float32))
    expected = F.scaled_dot_product_attention(query[[1, 0, 0]], *wide, enable_gqa=True, kv_lengths=cache.lengths)
    assert got.dtype == np.float32 and np.array_equal(got, expected)


def test_integers_have_a_scale_for_each_position():
    """Through growth, other rows and a window: what reference.cache_integers makes of each position."""
    cache = KeyValueCache(2, 1, 16, capacity=2, dtype=np.int8)
    rows, query = values(2, 1, 9, 16), values(2, 2, 1, 16)
    rows[0, 0, 3] = 0
    rows[0, 0, 4, 7] = np.nan
    cache.append(rows, -rows, np.array([9, 4]))  # grows
    cache.reorder(np.array([1, 0, 0]))
    cache.append(rows[[0, 1, 1], :, :1], rows[[0, 1, 1], :, :1])
    assert cache.keys.dtype == cache.values.dtype == np.int8 and cache.lengths.tolist() == [5, 10, 10]
    for b, row in enumerate([np.r_[rows[1, 0, :4], rows[0, 0, :1]], np.r_[rows[0, 0], rows[1, 0, :1]]]):
        integers, scale = reference.cache_integers(row)
        np.testing.assert_array_equal(cache.keys[b, 0, : len(row)], integers)
        np.testing.assert_array_equal(cache.scales()["key_scale"][b, 0, : len(row)], scale)
    got = F.scaled_dot_product_attention(
        query[[1, 0, 0]],
        cache.keys,
        cache.values,
        enable_gqa=True,
        kv_lengths=cache.lengths,
        **cache.scales(),
    )
    assert np.isfinite(got[0]).all() and np.isnan(got[1:]).all()

    trimmed = KeyValueCache(1, 1, 16, capacity=100, window=3, dtype=np.int8)
    for i in range(9):
        trimmed.append(rows[1:, :, i : i + 1], rows[1:, :, i : i + 1])
    integers, scale = reference.cache_integers(rows[1, 0])
    n = int(trimmed.lengths[0])
    assert n < 9 and np.array_equal(trimmed.keys[0, 0, :n], integers[9 - n :])
    assert np.array_equal(trimmed.scales()["value_scale"][0, 0, :n], scale[9 - n :])


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda c: KeyValueCache(2, 1, 4, -1), ValueError, "capacity=-1"),
        (lambda c: KeyValueCache(2, 1, 4, 8, window=0), ValueError, "window is 0"),
        (lambda c: KeyValueCache(2, 1, 4, 8, dtype=np.float64), TypeError, "dtype is float64; needed: float32"),
        (lambda c: c.append(values(2, 1, 3, 5), values(2, 1, 3, 4)), ValueError, r"key has shape \(2, 1, 3, 5\)"),
        (lambda c: c.append(values(3, 1, 3, 4), values(2, 1, 3, 4)), ValueError, r"key has shape \(3, 1, 3, 4\)"),
        (lambda c: c.append(values(2, 1, 3, 4), values(2, 2, 3, 4)), ValueError, r"value has shape \(2, 2, 3, 4\)"),
        (lambda c: c.append(values(2, 1, 3, 4), values(2, 1, 2, 4)), ValueError, "key has 3 positions, value has 2"),
        (lambda c: c.append(values(2, 1, 3, 4), values(2, 1, 3, 4), [4, 0]), ValueError, "needed: 2 numbers from 0"),
        (lambda c: c.append(values(2, 1, 3, 4), values(2, 1, 3, 4), [1]), ValueError, "counts is"),
        (lambda c: c.append_packed(values(3, 1, 4), values(3, 1, 4), np.array([0, 3])), ValueError, "cu_seqlens has"),
        (lambda c: c.reorder(np.array([0, 2])), IndexError, "out of bounds"),
    ],
)
def test_bad_input(call, error, text):
    cache = KeyValueCache(2, 1, 4, 8)
    with pytest.raises(error, match=text):
        call(cache)
    assert cache.lengths.tolist() == [0, 0]

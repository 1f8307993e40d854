"""nn/paged_cache.py: what is stored where, pages that rows share and copy, pages that go back to the pool."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transformer_fast.nn.cache import StackCache, Store
from transformer_fast.nn.page_pool import PagePool
from transformer_fast.nn.paged_cache import PagedCache


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def filled(cache, counts, seed):
    """Rows get counts[b] more positions -> what they got, (B, most, Hkv, D) for keys."""
    counts = np.asarray(counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    keys = values(int(starts[-1]), 2, 4, seed=seed)
    cache.reserve(counts)
    for layer in range(2):
        cache.write_packed(layer, keys + layer, -keys[..., :3] - layer, starts, counts)
    cache.advance(counts)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
@pytest.mark.parametrize("page_size", [16, 48])
def test_holds_what_a_cache_in_one_piece_holds(dtype, page_size):
    paged = PagedCache(2, 3, 2, 4, page_size, 3, dtype=dtype)
    plain = StackCache(2, 3, 2, 4, 8, 3, dtype=dtype)
    for step, counts in enumerate([[17, 0, 50], [1, 1, 1], [31, 40, 2]]):
        for cache in (paged, plain):
            filled(cache, counts, step)
    for cache in (paged, plain):
        cache.reorder(np.array([2, 2, 0, 1]))
        cache.crop(np.array([20, 99, 30, 41]))
        filled(cache, [5, 1, 40, 0], 9)
    assert paged.lengths.tolist() == plain.lengths.tolist() and paged.uniform == plain.uniform
    for name, array in plain.held().items():
        given = paged.held()[name]
        for b, length in enumerate(plain.lengths):
            assert np.array_equal(given[b, :, :length], array[b, :, :length]), (name, b)


def test_pages_are_copied_when_rows_part_and_freed_when_none_holds_them():
    cache = PagedCache(2, 1, 2, 4, 16, 3)
    filled(cache, [40], 0)
    assert cache.pages == 3
    cache.reorder(np.zeros(4, np.int64))
    assert cache.pages == 3 and cache.shared.tolist() == [32] * 4
    filled(cache, [1, 0, 1, 1], 1)
    assert cache.pages == 2 + 4  # the third row that writes may keep the page of the one that does not: it is not alone
    assert len({int(page) for page in cache.table[:, 2]}) == 4
    cache.reorder(np.array([3]))
    assert cache.pages == 3
    cache.crop(np.array([10]))
    assert cache.pages == 1 and cache.shared.tolist() == [0]
    cache.reorder(np.array([], np.int64))
    assert cache.pages == 0 and len(cache) == 0


def test_pages_behind_a_failed_call_are_not_shared():
    """Reserved, never counted: rows made of one such row must not write to the same page."""
    cache = PagedCache(2, 1, 2, 4, 16, 3)
    filled(cache, [16], 0)
    cache.reserve(1)
    cache.reorder(np.array([0, 0]))
    filled(cache, [1, 1], 1)
    assert cache.table[0, 0] == cache.table[1, 0] and cache.table[0, 1] != cache.table[1, 1]


def test_no_memory_for_a_page_leaves_every_row_as_it_was(monkeypatch):
    """Rows share a partly filled page, and the pool cannot grow: once it can, each writes to a page of its own."""
    paged, plain = PagedCache(2, 1, 2, 4, 16, 3), StackCache(2, 1, 2, 4, 8, 3)
    for cache in (paged, plain):
        filled(cache, [20], 0)
        cache.reorder(np.zeros(7, np.int64))
    grow = Store.grow
    for grown in range(2):  # no store grows; the keys do, the values do not
        left = iter(range(grown))

        def grows_until(self, pages, left=left):
            if next(left, None) is None:
                raise MemoryError
            grow(self, pages)

        monkeypatch.setattr(Store, "grow", grows_until)
        with pytest.raises(MemoryError):
            paged.reserve(np.full(7, 40))
    monkeypatch.setattr(Store, "grow", grow)
    for cache in (paged, plain):
        filled(cache, np.arange(34, 41), 1)
    used = paged.table[:, 1:4]
    assert len(np.unique(used)) == used.size and paged.pages == 1 + used.size
    for layer in range(2):
        for given, array in zip(paged.seen(layer), plain.seen(layer), strict=True):
            for b, length in enumerate(plain.lengths):
                assert np.array_equal(given[b, :, :length], array[b, :, :length]), b


def test_whole_pages_part_without_a_copy():
    cache = PagedCache(2, 1, 2, 4, 16, 3)
    filled(cache, [32], 0)
    cache.reorder(np.array([0, 0]))
    filled(cache, [1, 1], 1)
    assert cache.pages == 4 and np.array_equal(cache.table[0, :2], cache.table[1, :2])


def test_rows_move_between_caches_of_one_pool():
    pool = PagePool(2, 2, 4, 16, 3)
    running, reading = PagedCache.over(pool, 0), PagedCache.over(pool, 1)
    filled(reading, [40], 0)
    expected, pages = reading.held(), reading.table[0, :2].copy()
    running.join(reading)
    assert len(reading) == 0 and running.lengths.tolist() == [40] and pool.held == 3
    other = PagedCache.over(pool, 1)
    other.adopt(0, pages)
    filled(other, [3], 1)
    running.join(other)
    assert running.shared.tolist() == [0, 0] and pool.held == 4 and pool.holders[pages].tolist() == [2, 2]
    filled(running, [1, 1], 2)
    running.crop(np.array([40, 32]))
    for name, array in running.held().items():
        assert np.array_equal(array[0], expected[name][0]) and np.array_equal(
            array[1, :, :32], expected[name][0, :, :32]
        )
    running.reorder(np.array([1]))
    assert pool.held == 2
    running.reorder(np.zeros(0, np.int64))
    assert pool.held == 0
    with pytest.raises(ValueError, match="another pool"):
        running.join(PagedCache(2, 1, 2, 4, 16, 3))
    filled(reading := PagedCache.over(pool, 1), [5], 0)
    with pytest.raises(ValueError, match="row 0 has 5 positions; needed: whole pages"):
        reading.adopt(0, pages)


def test_a_pool_that_is_full_asks_for_pages():
    pool = PagePool(1, 1, 4, 16, limit=9)
    pages = [pool.take() for _ in range(9)]
    with pytest.raises(MemoryError, match="all 9 pages of 16 positions are held"):
        pool.take()
    pool.reclaim = lambda: pool.drop(np.array(pages[3:5]))
    assert pool.take() == 3 and pool.held == 8 and pool.keys.arrays[0].shape[0] == 9


@pytest.mark.parametrize("rounds", range(3))
def test_any_order_of_calls(rounds):
    """Against a cache in one piece, step after step: nothing that one row writes is seen by another."""
    rng = np.random.default_rng(rounds)
    paged, plain = PagedCache(2, 2, 2, 4, 16, 3), StackCache(2, 2, 2, 4, 8, 3)
    for step in range(40):
        B = len(plain)
        action = rng.integers(5)
        if action < 2:
            counts = rng.integers(0, 20, B)
            for cache in (paged, plain):
                filled(cache, counts, 100 * rounds + step)
        elif action == 2:
            index = rng.integers(0, B, rng.integers(1, 5))
            for cache in (paged, plain):
                cache.reorder(index)
        elif action == 3:  # a call that fails after it has made room, and perhaps written
            counts = rng.integers(0, 40, B)
            starts, new = np.concatenate([[0], np.cumsum(counts)]), np.full((int(counts.sum()), 2, 4), 99, np.float32)
            for cache in (paged, plain):
                cache.reserve(counts)
                if step % 2:
                    cache.write_packed(0, new, new[..., :3], starts, counts)
        else:
            lengths = np.maximum(plain.lengths - rng.integers(0, 30, B), 0)
            for cache in (paged, plain):
                cache.crop(lengths)
        assert paged.lengths.tolist() == plain.lengths.tolist()
        assert (paged.shared <= paged.lengths).all()
        held = paged.table[paged.table >= 0]
        assert paged.pages == len(np.unique(held)) and (paged.shared % 16 == 0).all()
        for layer in range(2):
            for given, array in zip(paged.seen(layer), plain.seen(layer), strict=True):
                for b, length in enumerate(plain.lengths):
                    assert np.array_equal(given[b, :, :length], array[b, :, :length]), (step, b)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((1, 1, 1, 4, 24), ValueError, "page_size is 24; needed: a multiple of 16"),
        ((1, 1, 1, 4, 0), ValueError, "page_size is 0"),
        ((1, -1, 1, 4, 16), ValueError, "B=-1"),
    ],
)
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        PagedCache(*arguments)
    with pytest.raises(TypeError, match="dtype is float64"):
        PagedCache(1, 1, 1, 4, 16, dtype=np.float64)

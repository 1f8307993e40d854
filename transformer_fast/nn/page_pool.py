"""`PagePool`: pages of keys and values of layers of one shape, and who holds them.

`paged_cache.PagedCache` takes its pages from one; several caches may share a pool, and others (an index of prompts
that are known, serving.prompts) hold pages in it. Types of stored numbers are those of `cache.Store`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transformer_fast.functional import arrays
from transformer_fast.functional.paged import PAGE_UNIT
from transformer_fast.nn.cache import DTYPES, Store

# Pages that a pool has when it first grows.
_FIRST_PAGES = 8


def check_page_size(page_size: int) -> None:
    """Raises TypeError where it is no integer, ValueError where pages cannot have that size."""
    if arrays.integer(page_size, "page_size") < 1 or page_size % PAGE_UNIT:
        raise ValueError(f"page_size is {page_size}; needed: a multiple of {PAGE_UNIT}")


class PagePool:
    """Keys (pages, Hkv, page_size, D) and values (pages, Hkv, page_size, Dv) of `layers` layers, counted by holder.

    A page is free, or held so often as `holders` says. The pool grows by doubling, up to `limit` pages (None: without
    a limit). Where it is full, `reclaim()` is called, which may drop pages that can be had again.

    Raises:
        ValueError: a size is negative, or page_size is not a multiple of 16.
        TypeError: dtype is not float32, float16, bfloat16 (`functional.bfloat16_dtype`) or int8.

    Example:
        >>> from transformer_fast.nn.page_pool import PagePool
        >>> pool = PagePool(1, 2, 4, page_size=16)
        >>> pages = [pool.take(), pool.take()]
        >>> pool.drop(pages[:1])
        >>> pages, pool.held
        ([0, 1], 1)
    """

    def __init__(
        self,
        layers: int,
        Hkv: int,
        D: int,
        page_size: int,
        Dv: int | None = None,
        *,
        dtype: np.dtype | type = np.float32,
        limit: int | None = None,
    ) -> None:
        Dv = D if Dv is None else Dv
        if min(Hkv, D, Dv) < 0:
            raise ValueError(f"Hkv={Hkv}, D={D}, Dv={Dv}; needed: sizes that are not negative")
        check_page_size(page_size)
        dtype = np.dtype(dtype)
        if dtype.name not in DTYPES:
            raise TypeError(f"dtype is {dtype}; needed: {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
        self.page_size, self.dtype, self.limit = page_size, dtype, limit
        self.code = DTYPES.index(dtype.name)
        self.keys = Store(layers, (0, Hkv, page_size, D), dtype)
        self.values = Store(layers, (0, Hkv, page_size, Dv), dtype)
        self.holders = np.zeros(0, np.int64)  # of each page
        self.reclaim: Callable[[], None] | None = None
        self._free: list[int] = []

    @property
    def held(self) -> int:
        """How many pages are held, each counted once."""
        return len(self.holders) - len(self._free)

    def take(self) -> int:
        """A page that was free, held once.

        Raises:
            MemoryError: the limit is reached, or the system gives no memory; nothing has changed then.
        """
        if not self._free:
            self._grow()
        if not self._free and self.reclaim is not None:
            self.reclaim()
        if not self._free:
            raise MemoryError(f"all {self.limit} pages of {self.page_size} positions are held")
        page = self._free.pop()
        self.holders[page] = 1
        return page

    def copied(self, page: int) -> int:
        """A copy of a page in place of it, which is held once less."""
        copy = self.take()
        self.holders[page] -= 1
        for array in (*self.keys.parts, *self.values.parts):
            array[copy] = array[page]
        return copy

    def hold(self, pages: np.ndarray) -> None:
        """One holder more for each of `pages`, which are held; a page that is in them twice gets two."""
        np.add.at(self.holders, pages, 1)

    def drop(self, pages: np.ndarray) -> None:
        """One holder less for each of `pages`; those that have none then are free."""
        np.subtract.at(self.holders, pages, 1)
        pages = np.unique(pages)
        # The lowest is taken first: what is used stays together.
        self._free.extend(pages[self.holders[pages] == 0][::-1].tolist())

    def _grow(self) -> None:
        pages = len(self.holders)
        grown = pages + max(_FIRST_PAGES, pages)
        grown = grown if self.limit is None else min(grown, self.limit)
        if grown <= pages:
            return
        for store in (self.keys, self.values):
            store.grow(grown)
        self.holders = np.concatenate([self.holders, np.zeros(grown - pages, np.int64)])
        self._free = list(range(grown - 1, pages - 1, -1))

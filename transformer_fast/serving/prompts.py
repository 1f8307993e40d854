"""`PromptIndex`: the beginnings of prompts whose keys and values are in pages already.

`rows.PagedRows` has one: it asks for each piece of a prompt before it computes it, and adds what it has computed. The
index holds pages of the rows' pools as a row does (nn.page_pool), and lets go of the least recently used when a pool is
full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transformer_fast.nn.page_pool import PagePool


@dataclass(frozen=True, eq=False)
class KnownPiece:
    """A piece of a prompt, after all pieces before it: ids, and for each pool the pages that hold it."""

    number: int
    ids: bytes
    before: KnownPiece | None
    pages: tuple[np.ndarray, ...]

    @property
    def key(self) -> tuple[int, bytes]:
        return (0 if self.before is None else self.before.number), self.ids


class PromptIndex:
    """Pieces by their ids and by the piece before them, so that a piece is found only behind the same beginning.

    The ids themselves are the key: two prompts with the same hash are never mistaken for each other. For one thread.
    """

    def __init__(self, pools: Sequence[PagePool]) -> None:
        self._pools = pools
        self._pieces: OrderedDict[tuple[int, bytes], KnownPiece] = OrderedDict()  # the least recently used first
        self._made = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def find(self, before: KnownPiece | None, ids: np.ndarray) -> KnownPiece | None:
        """The piece with these ids behind `before`, or None."""
        found = self._pieces.get((0 if before is None else before.number, ids.tobytes()))
        if found is not None:
            self._use(found)
        return found

    def add(self, before: KnownPiece | None, ids: np.ndarray, pages: Sequence[np.ndarray]) -> KnownPiece:
        """Holds the pages of a piece; where the index has the piece already, that one stays."""
        found = self.find(before, ids)
        if found is None:
            self._made += 1
            found = KnownPiece(self._made, ids.tobytes(), before, tuple(pages))
            for pool, own in zip(self._pools, found.pages, strict=True):
                pool.hold(own)
            self._pieces[found.key] = found
            self._use(found)
        return found

    def spare(self) -> int:
        """How many pages of a pool the index alone holds. Another thread may ask, too."""
        holders = self._pools[0].holders
        return sum(int((holders[piece.pages[0]] == 1).sum()) for piece in list(self._pieces.values()))

    def reclaim(self) -> None:
        """Lets go of the least recently used piece that no row reads; of none where there is none.

        It has none behind it that is kept: `_use` makes a piece older than those before it, and a row that reads a
        piece reads all before it.
        """
        for piece in self._pieces.values():
            if (self._pools[0].holders[piece.pages[0]] == 1).all():
                self._drop(piece)
                return

    def clear(self) -> None:
        """Lets go of all pieces."""
        for piece in list(self._pieces.values()):
            self._drop(piece)

    def _drop(self, piece: KnownPiece) -> None:
        del self._pieces[piece.key]
        for pool, own in zip(self._pools, piece.pages, strict=True):
            pool.drop(own)

    def _use(self, piece: KnownPiece | None) -> None:
        while piece is not None and piece.key in self._pieces:
            self._pieces.move_to_end(piece.key)
            piece = piece.before

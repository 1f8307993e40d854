"""`FairQueue`: which texts of which requests run next, so that a long request does not delay a short one.

`TextEngine` keeps one and guards it with its lock. An entry has the lengths of its texts, in tokens, and a
`group`: texts of equal groups may run in one batch. Another order of requests is another key in `add` and `take`.

Each request has a clock that its texts advance by their tokens; the next text is always of the request whose clock is
furthest behind, and a new request starts at the clock of the last text taken (start-time fair queueing; Goyal, Vin and
Cheng 1996, without weights). A request of one text therefore waits for one text of each other request at most,
whatever they still have.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """A request that waits. ended: it has been cancelled or has failed, and what it has left is not to run."""

    group: Hashable
    ended: bool
    lengths: list[int]  # tokens of each text
    begun: int  # how many of the texts have been taken


_E = TypeVar("_E", bound=Entry)


class FairQueue(Generic[_E]):
    """Requests whose texts wait."""

    def __init__(self) -> None:
        self._heaps: dict[Hashable, list[tuple[int, int, _E]]] = {}  # group -> (clock, number, entry)
        self._clock = self._number = 0

    def add(self, entry: _E) -> None:
        """An entry with at least one text."""
        heapq.heappush(self._heaps.setdefault(entry.group, []), (self._clock, self._number, entry))
        self._number += 1

    def take(self, tokens: int) -> list[tuple[_E, int]]:
        """Texts of one group, as entry and index, with so many tokens together at most, or one text; [] if none waits.

        Of each entry the texts are taken in their order.
        """
        taken: list[tuple[_E, int]] = []
        heap, total = self._first(), 0
        while heap:
            clock, number, entry = heap[0]
            length = 0 if entry.ended else entry.lengths[entry.begun]
            if taken and total + length > tokens:
                break
            heapq.heappop(heap)
            if entry.ended:
                continue
            self._clock = max(self._clock, clock)  # a group that had to wait is behind
            taken.append((entry, entry.begun))
            total += length
            entry.begun += 1
            if entry.begun < len(entry.lengths):
                heapq.heappush(heap, (clock + length, number, entry))
        return taken

    def __bool__(self) -> bool:
        """Does a text wait?"""
        return self._first() is not None

    def _first(self) -> list[tuple[int, int, _E]] | None:
        """The heap whose first entry is next; what has ended is dropped on the way."""
        for group, heap in list(self._heaps.items()):
            while heap and heap[0][2].ended:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[group]
        return min(self._heaps.values(), key=lambda heap: heap[0][:2], default=None)

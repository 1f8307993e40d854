"""`FairQueue`: which texts of which requests run next, so that a long request does not delay a short one.

`TextEngine` keeps one and guards it with its lock. An entry has the lengths of its texts, in tokens, and a
`group`: texts of equal groups may run in one batch. Another order of requests is another key in `add` and `take`.

Each request has a clock that its texts advance by their tokens. The next is the request whose clock is furthest behind;
it may run a quantum of tokens before others have their turn, so that short requests are done in the order in which they
came and not all at the end. A new request starts at the queue's own clock, which tokens of any request advance by their
number over that of waiting requests (weighted fair queueing; Demers, Keshav and Shenker 1989, with equal weights): it
comes before those that had more than their share, and a stream of new ones does not keep a long one from its share.
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
    """Requests whose texts wait. quantum: tokens of one request that may run before others have their turn."""

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._heaps: dict[Hashable, list[tuple[float, int, _E, int]]] = {}  # group -> (clock, number, entry, used)
        self._clock, self._number = 0.0, 0

    def add(self, entry: _E) -> None:
        """An entry with at least one text."""
        heapq.heappush(self._heaps.setdefault(entry.group, []), (self._clock, self._number, entry, 0))
        self._number += 1

    def take(self, tokens: int) -> list[tuple[_E, int]]:
        """Texts of one group, as entry and index, with so many tokens together at most, or one text; [] if none waits.

        Of each entry the texts are taken in their order.
        """
        taken: list[tuple[_E, int]] = []
        heap, total, full = self._first(), 0, False
        while heap and not full:
            clock, number, entry, used = heapq.heappop(heap)
            if entry.ended:
                continue
            waiting, before = 1 + sum(map(len, self._heaps.values())), total
            while entry.begun < len(entry.lengths) and used < self._quantum:
                length = entry.lengths[entry.begun]
                full = bool(taken) and total + length > tokens
                if full:
                    break
                taken.append((entry, entry.begun))
                entry.begun += 1
                used, total = used + length, total + length
            self._clock = max(self._clock, clock) + (total - before) / waiting
            if entry.begun < len(entry.lengths):  # its turn goes on in the next batch, or is over
                heapq.heappush(heap, (clock, number, entry, used) if full else (clock + used, number, entry, 0))
        return taken

    def __bool__(self) -> bool:
        """Does a text wait?"""
        return self._first() is not None

    def _first(self) -> list[tuple[float, int, _E, int]] | None:
        """The heap whose first entry is next; what has ended is dropped on the way."""
        for group, heap in list(self._heaps.items()):
            while heap and heap[0][2].ended:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[group]
        return min(self._heaps.values(), key=lambda heap: heap[0][:2], default=None)

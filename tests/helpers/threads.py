"""`storm`: calls by many Python threads at once give the bits that they give alone. tests/*/test_threads.py use it.

Python switches between threads all the time here, so that what two calls share for a moment shows within a few of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

THREADS = 8
# Calls in each thread: a number that shows races most times, and one that leaves few hidden.
FEW, MANY = 20, 200


@contextmanager
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def frozen(value: Any) -> Any:
    """A result in a form that is equal only to the same bits: arrays, outputs of models, and lists of such."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (float, np.floating)):
        return float(value).hex()
    if hasattr(value, "keys"):
        return {name: frozen(value[name]) for name in value.keys()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return repr(value)


def storm(make: Callable[[], Sequence[Callable[[], Any]]], turns: int) -> None:
    """make() gives calls on objects that have not been used: one set is called alone, another by all threads.

    Each thread makes `turns` calls, one after the other of them, from a place of its own.
    """
    alone = [frozen(call()) for call in make()]
    calls = make()
    start, wrong = threading.Barrier(THREADS), []

    def caller(first: int) -> None:
        start.wait()
        for turn in range(turns):
            i = (first + turn) % len(calls)
            try:
                if frozen(calls[i]()) != alone[i]:
                    wrong.append(f"call {i} gives something else")
            except Exception as error:
                wrong.append(f"call {i}: {type(error).__name__}: {error}")
            if wrong:
                return

    with often_switching():
        threads = [threading.Thread(target=caller, args=(i,)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong

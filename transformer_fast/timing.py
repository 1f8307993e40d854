"""How long a call takes: one definition for `transformer-fast bench` (bench.py) and for benchmarks/.

Imports the standard library alone: the processes in which benchmarks/ measures other libraries load this file without
the package, so that nothing of its engine is in there with them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def seconds_a_call(call: Callable[[], object], repeat: int) -> float:
    """The mean of `repeat` calls, one after the other."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def repeats_to_fill(call: Callable[[], object], seconds: float) -> int:
    """How many calls last about `seconds`, at least 1; makes one call to find out."""
    return max(1, math.ceil(seconds / max(seconds_a_call(call, 1), 1e-7)))

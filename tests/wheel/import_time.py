"""Prints what `import transformer_fast` takes in a fresh process, and fails where it is more than 0.1 s.

Run by run.sh with the Python that has the wheel alone: the median of nine processes, after one that fills the disk
cache. NumPy's own import is shown beside it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

# The longest delay of a command that its user does not notice (Nielsen, Usability Engineering, 1993).
MAX_SECONDS = 0.1
CODE = """
import time
start = time.perf_counter()
import numpy
middle = time.perf_counter()
import transformer_fast
print(middle - start, time.perf_counter() - middle)
"""


def times() -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-I", "-c", CODE], check=True, capture_output=True, text=True)
    numpys, own = map(float, done.stdout.split())
    return numpys, own


if __name__ == "__main__":
    times()
    numpys, own = map(statistics.median, zip(*(times() for _ in range(9)), strict=True))
    print(f"import: {own * 1e3:.0f} ms, beside NumPy's {numpys * 1e3:.0f} ms")
    sys.exit(f"importing takes {own:.3f} s; needed: {MAX_SECONDS} s at most" if own > MAX_SECONDS else None)

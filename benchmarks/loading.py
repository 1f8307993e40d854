"""How long a model takes to load and what it holds then: `python -m benchmarks.loading <checkpoint>`.

Started by models.py, in a fresh process each time, since both figures are those of a process that did nothing else.
On one thread, as a program that embeds one text at a time would.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def resident_bytes() -> int:
    """Of this process, pages of mapped files included."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")) * 1024


def main() -> None:
    checkpoint = Path(sys.argv[1])
    start = time.perf_counter()
    import transformer_fast as tf

    imported = time.perf_counter()
    model = tf.load_model(checkpoint)
    model(np.full((1, 16), 1000, np.int64))  # whatever is packed lazily belongs to loading
    loaded = time.perf_counter()
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    resident = resident_bytes()
    figures = {
        "import_seconds": imported - start,
        "seconds": loaded - imported,
        "resident_bytes": resident,
        "memory_of_weights": resident / weights,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

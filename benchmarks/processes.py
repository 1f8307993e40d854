"""What a second process costs, and when a pool pays: `python -m benchmarks.processes <folder of a sentence encoder>`.

Started by hand; prints JSON. "loads": fresh processes that have imported all they need, without and with a packed_cache
that another process maps, in turns: seconds of loading and of the first text, and the memory that only this process
has. "tokenizer": the same of the tokenizer alone, which no file shares. "pool": texts a second of one process with all
threads, and of a pool of one-thread processes, in turns. To add a figure, add it to `_load` or `_pools`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_TURNS = 7
_TEXTS = [" ".join(["the quick brown fox jumps over the lazy dog"] * (1 + i % 8)) for i in range(4000)]


def own_bytes() -> int:
    """Memory that only this process has, of Linux: pages that it wrote, and those of files that nobody else maps."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")) * 1024


def _load(folder: str, cache: str | None) -> dict[str, Any]:
    """The figures of this process."""
    import tokenizers

    import transformer_fast as tf
    from transformer_fast.files.folder import open_source
    from transformer_fast.files.tokenizer import Tokenizer
    from transformer_fast.models import find_class

    tf.set_num_threads(1)
    find_class(open_source(folder), head=False)  # imports the family
    tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="a")).encode("a")
    before, start, cpu = own_bytes(), time.perf_counter(), time.process_time()
    encoder = tf.SentenceEncoder.from_pretrained(folder, packed_cache=cache)
    loaded, loaded_cpu = time.perf_counter(), time.process_time()
    encoder.encode("one text", show_progress_bar=False)
    figures = {
        "load_seconds": loaded - start,
        "load_cpu_seconds": loaded_cpu - cpu,
        "first_text_seconds": time.perf_counter() - loaded,
        "own_megabytes": (own_bytes() - before) / 1e6,
    }
    before, start = own_bytes(), time.perf_counter()
    tokenizer = Tokenizer(open_source(folder))
    figures |= {"tokenizer_seconds": time.perf_counter() - start, "tokenizer_megabytes": (own_bytes() - before) / 1e6}
    del tokenizer
    return figures


def _fresh(folder: str, cache: str | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.processes", folder, "--load", json.dumps(cache)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in found), 4) for name in found[0]}


def _pools(folder: str, cache: str) -> dict[str, float]:
    import transformer_fast as tf

    encoder, found = tf.SentenceEncoder.from_pretrained(folder, packed_cache=cache), {"threads": [], "pool": []}
    with encoder.start_multi_process_pool(["cpu"] * tf.get_num_threads()) as pool:
        for _ in range(_TURNS):
            for name, options in (("threads", {}), ("pool", {"pool": pool})):
                start = time.perf_counter()
                encoder.encode(_TEXTS, show_progress_bar=False, **options)
                found[name].append(len(_TEXTS) / (time.perf_counter() - start))
    ratios = [b / a for a, b in zip(*found.values(), strict=True)]
    speeds = {f"{name}_texts_per_second": round(statistics.median(rates)) for name, rates in found.items()}
    return speeds | {"processes": tf.get_num_threads(), "pool_per_threads": round(statistics.median(ratios), 3)}


def main() -> None:
    folder = sys.argv[1]
    if sys.argv[2:3] == ["--load"]:
        print(json.dumps(_load(folder, json.loads(sys.argv[3]))))
        return
    import transformer_fast as tf

    with tempfile.TemporaryDirectory() as cache:
        holder = tf.SentenceEncoder.from_pretrained(folder, packed_cache=cache)  # so that pages of files are shared
        holder.encode("one text", show_progress_bar=False)
        found: dict[str, list] = {"packed": [], "mapped": []}
        for _ in range(_TURNS):
            found["packed"].append(_fresh(folder, None))
            found["mapped"].append(_fresh(folder, cache))
        loads = {name: _medians(figures) for name, figures in found.items()}
        print(json.dumps({"loads": loads, "pool": _pools(folder, cache)}, indent=2))


if __name__ == "__main__":
    main()

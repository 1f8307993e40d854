"""Which backend keeps threads best: `python -m benchmarks.threads [--quick] [--out FILE]`.

A process for each backend and number of threads, in turns; a figure is the median of the rounds, a ratio the median of
the rounds' ratios, time with "openmp" / time with "native": above 1 native is faster. Measured are calls one after the
other ("warm"), calls with some Python between them ("gap 50 us", ...), one call after 50 ms of sleep ("cold"), four
Python threads that call at once beside one that has the team alone ("callers"), the share of a core that a process
takes for a call every 10 ms ("load"), and from one second after its last call on ("idle"). Lines are printed as they
come. A case is a line in `CASES`, another way to call a function in `_WAYS`. Let nothing else run meanwhile; --quick
says whether everything works, in two minutes.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, runner

BACKENDS = ("openmp", "native")
THREADS = (1, 2)
_CALLERS = 4
_COLD_SECONDS = 0.05
_LONG_ROUNDS = 5  # of callers, whose turns last ten times as long
_GAPS = {"gap 10 us": 10e-6, "gap 50 us": 50e-6, "gap 200 us": 200e-6, "gap 1 ms": 1e-3}


def _attention(L: int) -> Callable[[], object]:
    from transformer_fast import functional

    query, key, value = (np.random.default_rng(s).standard_normal((1, 12, L, 64), dtype=np.float32) for s in range(3))
    out = np.empty_like(query)
    return lambda: functional.scaled_dot_product_attention(query, key, value, out=out)


def _linear(M: int, K: int, N: int) -> Callable[[], object]:
    from transformer_fast import functional

    rng = np.random.default_rng(0)
    x = rng.standard_normal((M, K), dtype=np.float32)
    weight = functional.pack_weight(rng.standard_normal((N, K), dtype=np.float32))
    out = np.empty((M, N), np.float32)
    return lambda: functional.linear(x, weight, out=out)


def _encoder(B: int, L: int) -> Callable[[], object]:
    """Six layers of MiniLM's shape."""
    from transformer_fast import nn

    layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6).eval()
    x = np.random.default_rng(0).standard_normal((B, L, 384), dtype=np.float32)
    return lambda: encoder(x)


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "attention 1 x 12 x 64 x 64": lambda: _attention(64),
    "attention 1 x 12 x 512 x 64": lambda: _attention(512),
    "linear 1 x 384 -> 1536": lambda: _linear(1, 384, 1536),
    "linear 24 x 384 -> 1536": lambda: _linear(24, 384, 1536),
    "linear 1024 x 768 -> 3072": lambda: _linear(1024, 768, 3072),
    "encoder 1 x 16": lambda: _encoder(1, 16),
    "encoder 8 x 128": lambda: _encoder(8, 128),
}
_SMALL = ("attention 1 x 12 x 64 x 64", "linear 24 x 384 -> 1536", "encoder 1 x 16")


# In a process of its own ----------------------------------------------------------------------------------------------


def _busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _mean_seconds(call: Callable[[], object], seconds: float, gap: float = 0.0) -> float:
    """Of a call alone, without the gap before it."""
    call()
    spent, n, end = 0.0, 0, time.perf_counter() + seconds
    while time.perf_counter() < end or n < 3:
        _busy(gap)
        start = time.perf_counter()
        call()
        spent += time.perf_counter() - start
        n += 1
    return spent / n


def _cold(call: Callable[[], object], seconds: float) -> float:
    """The median of calls after a pause; so many as fit into ten times the seconds."""
    took = []
    for _ in range(max(3, int(10 * seconds / _COLD_SECONDS))):
        time.sleep(_COLD_SECONDS)
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def _calls_a_second(call: Callable[[], object], callers: int, seconds: float) -> dict[str, float]:
    """Calls a second of all callers together, and the fewest calls of one by the most: 1 is fair."""
    start, counts, ends = threading.Barrier(callers + 1), [0] * callers, [0.0] * callers

    def caller(i: int) -> None:
        start.wait()
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            call()
            counts[i] += 1
        ends[i] = now

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"rate": sum(counts) / (max(ends) - begin), "fairness": min(counts) / max(counts)}


def _idle(call: Callable[[], object], seconds: float) -> float:
    """Share of a core that the process takes, from a second after a call on."""
    call()
    time.sleep(1)
    cpu, start = time.process_time(), time.perf_counter()
    time.sleep(max(1.0, seconds))
    return (time.process_time() - cpu) / (time.perf_counter() - start)


def _load(call: Callable[[], object], seconds: float) -> float:
    """Share of a core that the process takes for a call every 10 ms, as a server makes them."""
    cpu, start = time.process_time(), time.perf_counter()
    while time.perf_counter() - start < max(1.0, seconds):
        call()
        time.sleep(0.01)
    return (time.process_time() - cpu) / (time.perf_counter() - start)


_WAYS: dict[str, Callable[[Callable[[], object], float], Any]] = {
    "warm": _mean_seconds,
    **{name: functools.partial(_mean_seconds, gap=gap) for name, gap in _GAPS.items()},
    "cold": _cold,
    "callers": lambda call, seconds: _calls_a_second(call, _CALLERS, 10 * seconds),
    "one caller": lambda call, seconds: _calls_a_second(call, 1, 10 * seconds),
    "load": _load,
    "idle": _idle,
}


def _serve() -> None:
    """Answers a line {"case", "way", "seconds"} with a line."""
    from transformer_fast import functional

    calls: dict[str, Callable[[], object]] = {}
    print(json.dumps(functional.show_config()), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["case"] not in calls:
            calls[asked["case"]] = CASES[asked["case"]]()
        answer = _WAYS[asked["way"]](calls[asked["case"]], asked["seconds"])
        time.sleep(0.02)  # its helpers have stopped spinning when the next one has its turn
        print(json.dumps(answer), flush=True)


# In the process that asks ---------------------------------------------------------------------------------------------


class Lane:
    """The process of a backend with a number of threads."""

    def __init__(self, backend: str, threads: int) -> None:
        environment = os.environ | {"TRANSFORMER_FAST_THREADS": backend, "TRANSFORMER_FAST_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.threads", "--serve"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.config = self._answer()

    def ask(self, case: str, way: str, seconds: float) -> Any:
        self.process.stdin.write(json.dumps({"case": case, "way": way, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a process of the library ended; its last words are above")
        return json.loads(line)


def _turns(lanes: dict[str, Lane], case: str, way: str, rounds: int, seconds: float) -> dict[str, list[Any]]:
    """What each lane measured in each round; who begins changes."""
    names, found = list(lanes), {name: [] for name in lanes}
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            found[name].append(lanes[name].ask(case, way, seconds))
    return found


def _ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _times(lanes: dict[str, Lane], case: str, way: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    found = _turns(lanes, case, way, rounds, seconds)
    row: dict[str, Any] = {"case": case, "way": way, "threads": threads}
    row |= {f"{name}_us": round(1e6 * statistics.median(times), 2) for name, times in found.items()}
    return row | {"ratio": round(_ratio(found["openmp"], found["native"]), 3)}


def _callers(lanes: dict[str, Lane], case: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Per backend: throughput of four callers by that of one that has the team alone, and how fair they share."""
    at_once = _turns(lanes, case, "callers", rounds, seconds)
    alone = _turns(lanes, case, "one caller", rounds, seconds)
    row: dict[str, Any] = {"case": case, "way": f"{_CALLERS} callers", "threads": max(THREADS)}
    for name in lanes:
        rates = [answer["rate"] for answer in at_once[name]]
        row[f"{name}_by_one_caller"] = round(_ratio(rates, [answer["rate"] for answer in alone[name]]), 3)
        row[f"{name}_fairness"] = round(statistics.median(answer["fairness"] for answer in at_once[name]), 3)
    return row


def measure(rounds: int, seconds: float, cases: tuple[str, ...], say: Callable[[str], None]) -> dict[str, Any]:
    started, rows = time.time(), []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        say(", ".join(f"{name} {value}" if i > 1 else str(value) for i, (name, value) in enumerate(row.items())))

    for threads in THREADS:
        lanes = {name: Lane(name, threads) for name in BACKENDS}
        config = lanes["native"].config
        try:
            for case in cases:
                add(_times(lanes, case, "warm", threads, rounds, seconds))
            if threads == 1:
                continue
            for case in [case for case in cases if case in _SMALL]:
                for way in (*_GAPS, "cold"):
                    add(_times(lanes, case, way, threads, rounds, seconds))
            for case in cases:
                add(_callers(lanes, case, min(rounds, _LONG_ROUNDS), seconds))
            for way in ("load", "idle"):
                share = _turns(lanes, cases[0], way, 1, seconds)
                add({"case": cases[0], "way": way, "threads": threads} | {name: share[name][0] for name in share})
        finally:
            for lane in lanes.values():
                lane.close()
    about = {"versions": {"transformer_fast": config["version"]}, "settings": config}
    return runner.head("threads", about, max(THREADS), started) | {"rounds": rounds, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some cases, three short rounds")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each backend a case (default: 15)")
    parser.add_argument("--sample", type=float, default=0.1, help="seconds a turn lasts (default: 0.1)")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
        return
    rounds, seconds, cases = (3, 0.05, _SMALL) if options.quick else (options.rounds, options.sample, tuple(CASES))
    result = measure(rounds, seconds, cases, lambda line: print(line, flush=True))
    result["quick"] = options.quick
    if options.out:
        options.out.write_text(runner.to_text(result), encoding="utf-8")


if __name__ == "__main__":
    main()

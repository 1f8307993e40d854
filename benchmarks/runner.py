"""Measures cases on all peers: one process each, in turns within one run, beside what the processor can do.

The questions' files (attention.py, sparse.py, linear.py, ...) hand their work to `Run`; __main__.py writes what it
returns. In each round every peer has one turn, and before the first, between the rounds and after the last the FMA
peak (and, where memory is the limit, the streaming read) is sampled: a change of clock frequency or a busy neighbour
meets all alike. A figure is the median of the rounds; median and quartiles are stored (`to_text` writes the file).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, wire
from benchmarks.backends import FLOAT32

RESULTS = ROOT / "benchmarks" / "results"
_PEAK_SECONDS = 0.02
_DRAM_BYTES = 256 << 20
# A peer that does not answer for that long is ended, and is missing from then on.
_PATIENCE = 600
# Seconds that one round of a case lasts -> rounds at most: what long calls lose in rounds they have in length.
_FEWER_ROUNDS = ((15.0, 2), (4.0, 3))


@dataclass(frozen=True)
class Lane:
    """Who has a turn: a peer on a number of threads; `isa` forces a level of ours.

    compute_type: the numbers that its products work with; backends/__init__.py has the names.
    python, path: the executable and the PYTHONPATH of its process, where another build of ours has its turn.
    """

    label: str
    backend: str
    threads: int
    isa: str | None = None
    python: str = sys.executable
    path: str | None = None
    compute_type: str = FLOAT32


@dataclass(frozen=True)
class Work:
    """One case, and what measuring it needs.

    flops: useful ones. stream_bytes: what the call has to read, if that and not arithmetic is its limit; else 0.
    rows: indices of the result's rows that are compared; expected: writes what they should be to a .npy of the path
    that it gets, and says whether it could. peers: False measures ours alone; or the labels of those that take part.
    extra: labels of lanes of ours beyond the usual one that take part. rounds: at most so many turns, if that is fewer
    than the run's.
    tolerance: the largest error allowed. least_cosine: where it is given, cosines are stored beside the error, and for
    lanes whose compute_type is narrower than float32 it takes the place of the tolerance. pooled: so many rows in turn,
    the tokens of a sequence, are one vector (their mean) of which the cosine is taken.
    instead: labels of lanes that measure another case in the same rounds -> its work: what this one is compared with
    (attention without the mask), or the same in another way.
    """

    case: wire.Case
    group: str
    flops: int
    rows: list[int]
    expected: Callable[[Run, str], bool]
    tolerance: float
    stream_bytes: int = 0
    peers: bool | tuple[str, ...] = True
    extra: tuple[str, ...] = ()
    rounds: int | None = None
    least_cosine: float | None = None
    pooled: int = 1
    artifacts: dict[str, Any] = field(default_factory=dict)
    instead: dict[str, Work] = field(default_factory=dict)

    def of(self, lane: Lane) -> Work:
        """What this lane measures."""
        return self.instead.get(lane.label, self)


class WorkerDied(Exception):
    pass


class Worker:
    """The process of one lane."""

    def __init__(self, lane: Lane, isa: str | None) -> None:
        self.lane = lane
        counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        environment = os.environ | {name: str(lane.threads) for name in counts}
        environment |= {"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment.pop("TRANSFORMER_FAST_NUM_THREADS", None)
        if lane.isa or isa:
            environment["TRANSFORMER_FAST_ISA"] = lane.isa or isa
        if lane.path is not None:
            environment["PYTHONPATH"] = lane.path
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [lane.python, "-m", "benchmarks.worker", lane.backend, *self._arguments(lane)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    @staticmethod
    def _arguments(lane: Lane) -> list[str]:
        return ["--threads", str(lane.threads), "--compute-type", lane.compute_type]

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer to a request. Raises WorkerDied with the last words of a process that is gone."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied(self._last_words()) from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        timer = threading.Timer(_PATIENCE, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise WorkerDied(self._last_words())
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # what a dead process did not read
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def _last_words(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        words = self.log.read().strip().splitlines()[-1:]
        return f"its process ended with code {code}{': ' + words[0] if words else ''}"


class Run:
    """The processes of one run. Use as a context manager; `measure` as often as there is work, `result` at the end."""

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        *,
        isa: str | None,
        rounds: int,
        sample_seconds: float,
        report: Callable[[str], None],
    ) -> None:
        self.name, self.lanes = name, list(lanes)
        self.isa, self.rounds, self.sample_seconds, self.report = isa, rounds, sample_seconds, report
        self.workers: dict[str, Worker] = {}
        self.backends: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.extra: dict[str, Any] = {}
        self.stream: list[float] = []
        self.started = time.time()

    def __enter__(self) -> Run:
        started = {lane.label: Worker(lane, self.isa) for lane in self.lanes}
        for lane in self.lanes:
            worker = started[lane.label]
            about = {"backend": lane.backend, "threads": lane.threads, "isa": lane.isa}
            about |= {} if lane.compute_type == FLOAT32 else {"compute_type": lane.compute_type}
            try:
                hello = worker.answer()
            except WorkerDied as error:
                hello = {"missing": str(error)}
            if "missing" in hello:
                self.report(f"{lane.label} is missing and skipped: {hello['missing']}")
                worker.close()
            else:
                self.workers[lane.label] = worker
            self.backends[lane.label] = about | hello
        if "ours" not in self.workers:
            self.__exit__()
            raise SystemExit("the library itself does not start; see the line above")
        self._sample_stream()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()

    def ask(self, label: str, do: str, **fields: Any) -> dict[str, Any]:
        """A request to a lane; {"unsupported": why} from one that is not there (any more)."""
        if label not in self.workers:
            return {"unsupported": self.backends.get(label, {}).get("missing", "not in this run")}
        try:
            return self.workers[label].ask(do, **fields)
        except WorkerDied as error:
            self.report(f"{label}: {error}")
            self.workers.pop(label).close()
            if self.backends[label]["backend"] == "ours":
                raise SystemExit(f"the library itself died: {error}") from None
            self.backends[label]["missing"] = str(error)
            return {"unsupported": str(error)}

    def measure(self, work: Work) -> None:
        """Adds the row of this case to the result."""
        self.report(f"{self.name}: {work.case.name}")
        lanes = [lane for lane in self.lanes if self._takes_part(lane, work)]
        prepared = self._prepare(work, lanes)
        ready = [lane for lane in lanes if "unsupported" not in prepared[lane.label]]
        # Each kind of ours has its own ceiling: other threads, another instruction set.
        ceilings = [lane for lane in ready if lane.backend == "ours"]
        peaks: dict[str, list[float]] = {lane.label: [] for lane in ceilings}
        reads: dict[str, list[float]] = {lane.label: [] for lane in ceilings}
        samples: dict[str, list[dict[str, Any]]] = {lane.label: [] for lane in ready}
        rounds, turn = min(self.rounds, work.rounds or self.rounds), 0
        while turn < rounds:
            self._sample_ceilings(work, peaks, reads)
            start = time.perf_counter()
            for i in range(len(ready)):
                lane = ready[(i + turn) % len(ready)]
                answer = self.ask(lane.label, "time")
                if "seconds" in answer:
                    samples[lane.label].append(answer)
            lasted = time.perf_counter() - start
            rounds = min([rounds, *(most for seconds, most in _FEWER_ROUNDS if lasted > seconds)])
            turn += 1
        self._sample_ceilings(work, peaks, reads)
        for lane in lanes:
            self.ask(lane.label, "forget")
        entries = {}
        for lane in lanes:
            label = lane.label
            entries[label] = prepared[label]
            if label in work.instead:
                entries[label]["instead"] = wire.to_json(work.of(lane).case)
            if samples.get(label):
                ceiling = label if label in peaks else "ours"
                entries[label] |= _figures(work.of(lane), samples[label], peaks.get(ceiling), reads.get(ceiling))
        self.rows.append(
            {
                "case": wire.to_json(work.case),
                "group": work.group,
                "flops": work.flops,
                "stream_bytes": work.stream_bytes,
                "peaks": {label: _summary(values, "gflops") for label, values in peaks.items()},
                "reads": {label: _summary(values, "gbs") for label, values in reads.items() if values},
                "lanes": entries,
            }
        )

    def result(self) -> dict[str, Any]:
        """All that the result file holds but the verdicts."""
        self._sample_stream()
        for label in list(self.workers):
            answer = self.ask(label, "hello")
            self.backends[label] |= {name: answer[name] for name in ("versions", "settings") if name in answer}
        threads = next(lane.threads for lane in self.lanes if lane.label == "ours")
        return {
            **head(self.name, self.backends["ours"], threads, self.started),
            "rounds": self.rounds,
            "sample_seconds": self.sample_seconds,
            "backends": self.backends,
            "memory_read_gbs": self.stream,
            "rows": self.rows,
            **self.extra,
        }

    def _takes_part(self, lane: Lane, work: Work) -> bool:
        if lane.label == "ours":
            return True
        if lane.backend == "ours":
            return lane.label in work.extra
        return work.peers if isinstance(work.peers, bool) else lane.label in work.peers

    def _prepare(self, work: Work, lanes: Sequence[Lane]) -> dict[str, dict[str, Any]]:
        answers = {}
        with tempfile.TemporaryDirectory() as folder:
            requests: dict[int, dict[str, Any]] = {}
            for lane in lanes:
                one = work.of(lane)
                if id(one) not in requests:
                    requests[id(one)] = self._request(one, str(Path(folder) / f"expected{len(requests)}.npy"))
                narrow = one.least_cosine is not None and lane.compute_type != FLOAT32
                tolerance = None if narrow else one.tolerance
                answers[lane.label] = self.ask(lane.label, "prepare", tolerance=tolerance, **requests[id(one)])
        for label, answer in answers.items():
            if "unsupported" in answer and label in self.workers:
                self.report(f"  {label}: {answer['unsupported']}")
        return answers

    def _request(self, work: Work, path: str) -> dict[str, Any]:
        """What every lane is told about this work; path: where what should come out is written."""
        return {
            "case": wire.to_json(work.case),
            "rows": work.rows,
            "expected": path if work.expected(self, path) else None,
            "sample_seconds": self.sample_seconds,
            "artifacts": work.artifacts,
            "least_cosine": work.least_cosine,
            "pooled": work.pooled,
        }

    def _sample_ceilings(self, work: Work, peaks: dict[str, list[float]], reads: dict[str, list[float]]) -> None:
        for label in peaks:
            peaks[label].append(self.ask(label, "fma_peak", seconds=_PEAK_SECONDS)["gflops"])
            if work.stream_bytes:
                reads[label].append(self.ask(label, "streaming_read", nbytes=work.stream_bytes)["gbs"])

    def _sample_stream(self) -> None:
        self.stream.append(self.ask("ours", "streaming_read", nbytes=_DRAM_BYTES)["gbs"])


def head(benchmark: str, ours: dict[str, Any], threads: int, started: float) -> dict[str, Any]:
    """What every result file begins with. ours: our `versions` and `settings`; started: time.time() of the start."""
    config = ours["settings"]
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.time() - started),
        "version": ours["versions"]["transformer_fast"],
        "machine": {
            "cpu": config["cpu"],
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "cache_bytes": config["cache_bytes"],
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": list(os.getloadavg()),
        },
        "isa": config["isa"],
        "threads": threads,
        "python": platform.python_version(),
    }


def machine_folder(machine: str) -> str:
    """ "Zen 4" -> "zen4", the folder of a machine's results; "" where no letter or digit is left."""
    return re.sub(r"[^a-z0-9]", "", machine.lower())


def place(result: dict[str, Any]) -> str:
    """The result's path in the folder of all: one current result a machine, question, level and number of threads."""
    machine = machine_folder(result["machine"].get("name", "")) or "unnamed"
    threads = f"{result['threads']}thread{'s' * (result['threads'] > 1)}"
    return f"{machine}/{result['benchmark']}-{result['isa']}-{threads}.json"


def to_text(result: dict[str, Any]) -> str:
    """The result file: JSON with a line a case, floats with six digits."""
    brief = _rounded(result)
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in brief.pop("rows"))
    return f'{json.dumps(brief, indent=1)[:-2]},\n "rows": [\n{rows}\n]\n}}\n'


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_rows(path: str, rows: np.ndarray) -> bool:
    """For `Work.expected`: the rows are there."""
    np.save(path, rows)
    return True


def _figures(work: Work, samples: list[dict[str, Any]], peaks: list[float] | None, reads: list[float] | None) -> dict:
    times = [sample["seconds"] for sample in samples]
    entry = _summary(times, "seconds")
    seconds = entry["seconds"]
    entry |= {
        "turns": len(times),
        "gflops": work.flops / seconds / 1e9,
        "processors": statistics.median(sample["processors"] for sample in samples),
        "at_rest": all(sample["at_rest"] for sample in samples),
    }
    if peaks:
        entry["of_peak"] = entry["gflops"] / statistics.median(peaks)
    if reads:
        entry["gbs"] = work.stream_bytes / seconds / 1e9
        entry["of_read"] = entry["gbs"] / statistics.median(reads)
    return entry


def _summary(values: Sequence[float], name: str) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {name: values[0], "q1": values[0], "q3": values[0]}
    q1, median, q3 = statistics.quantiles(values, method="inclusive")
    return {name: median, "q1": q1, "q3": q3}

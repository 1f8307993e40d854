"""One peer in a process of its own: requests as JSON lines on stdin, answers as JSON lines on stdout.

Started by runner.py as `python -m benchmarks.worker <peer> --threads N`; loads backends/<peer>.py and nothing of the
other peers, whose thread pools and BLAS would disturb it. It answers when the peer's threads have come to rest, so
that only one process computes at a time. A new request is a method of `Session`.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import wire
from benchmarks.backends import FLOAT32, NAMES, Unsupported, Variant

# Pools spin for some milliseconds after a call; they count as asleep when they use less than a tenth of a processor.
_REST_WINDOW = 0.004
_REST_SHARE = 0.1
_REST_LIMIT = 2.0
# A call that lasts longer is its own warm-up: what the others left in the caches is a small part of it.
_LONG_CALL = 0.1
# From here on even the first call of all, with whatever it sets up, says which variant is faster.
_VERY_LONG_CALL = 0.5
_ERROR_LENGTH = 200


def _load_timing() -> Any:
    """transformer_fast/timing.py without the package, whose engine has no business in a peer's process."""
    folders = importlib.util.find_spec("transformer_fast").submodule_search_locations
    spec = importlib.util.spec_from_file_location("timing", Path(folders[0]) / "timing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


timing = _load_timing()


@dataclass(frozen=True)
class _Bounds:
    """How far a result may be from what it should be; `Session.prepare` says what the fields mean."""

    tolerance: float | None
    least_cosine: float | None
    pooled: int

    def measure(self, got: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
        """max_error and, where a cosine is bounded, mean_cosine and least_cosine; "error", if a bound is not kept."""
        found: dict[str, Any] = {"max_error": float(np.max(np.abs(got - expected), initial=0.0))}
        # Written so that NaN is an error, too.
        if self.tolerance is not None and not found["max_error"] <= self.tolerance:
            found["error"] = "beyond the tolerance"
        if self.least_cosine is not None:
            cosines = _cosines(*(x.reshape(-1, self.pooled, x.shape[-1]).mean(axis=1) for x in (got, expected)))
            found |= {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
            if not found["least_cosine"] >= self.least_cosine:
                found["error"] = f"a cosine of {found['least_cosine']:.3g}, needed: at least {self.least_cosine:g}"
        return found


class Session:
    """What the runner may ask of a backend; each method is a request, and returns the answer's fields."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.variant: Variant | None = None
        self.repeat = 1
        self.warm_up = True

    def hello(self) -> dict[str, Any]:
        """Asked at the start and once more at the end: some peers settle what they use while they work."""
        return {"versions": self.backend.versions(), "settings": self.backend.settings()}

    def prepare(
        self,
        case: dict[str, Any],
        rows: list[int],
        expected: str | None,
        tolerance: float | None,
        sample_seconds: float,
        artifacts: dict[str, Any],
        only: str | None = None,
        least_cosine: float | None = None,
        pooled: int = 1,
    ) -> dict[str, Any]:
        """Chooses the fastest variant that gives the expected rows within `tolerance`; `time` then times it.

        rows: indices into the result, seen as rows of its last axis. expected: a .npy with what they should be;
        without it nothing is checked. only: the variant of this name is the only one.
        tolerance: None: any error will do. least_cosine: no cosine of a result with what it should be may be smaller,
        and the mean and the least one are in the answer; `pooled` rows in turn are one vector of it, their mean.
        """
        self.forget()
        case = wire.from_json(case)
        prepare = getattr(self.backend, wire.operation(case))
        variants = prepare(case, artifacts) if wire.needs_artifacts(case) else prepare(case)
        variants = [variant for variant in variants if only in (None, variant.name)]
        expected = None if expected is None else np.load(expected)
        bounds = _Bounds(tolerance, least_cosine, pooled)
        report = {}
        for variant in variants:
            try:
                report[variant.name] = self._try(variant, rows, expected, bounds, sample_seconds)
            except Exception as error:  # whatever a peer raises, its other variants may work
                report[variant.name] = {"error": _text(error)}
        right = [variant for variant in variants if "seconds" in report[variant.name]]
        if not right:
            return {"unsupported": "; ".join(f"{name}: {why}" for name, why in report.items())}
        self.variant = min(right, key=lambda variant: report[variant.name]["seconds"])
        chosen = report[self.variant.name]
        self.repeat = max(1, math.ceil(sample_seconds / chosen["seconds"]))
        self.warm_up = chosen["seconds"] < _LONG_CALL
        tried = {name: one.get("seconds") or one["error"] for name, one in report.items()}
        accuracy = {name: value for name, value in chosen.items() if name != "seconds"}
        return {"variant": self.variant.name, **accuracy, "variants": tried}

    @staticmethod
    def _try(variant: Variant, rows: list[int], expected, bounds: _Bounds, sample_seconds: float) -> dict[str, Any]:
        """The variant's error and, if that is within the bounds, its time."""
        results: list[Any] = []
        seconds = timing.seconds_a_call(lambda: results.append(variant.call()), 1)
        accuracy: dict[str, Any] = {"max_error": None}
        if expected is not None:
            accuracy = bounds.measure(_rows(variant.read(results[0]), rows), expected)
            if "error" in accuracy:
                return accuracy
        if seconds < _VERY_LONG_CALL:
            seconds = timing.seconds_a_call(variant.call, timing.repeats_to_fill(variant.call, sample_seconds))
        return {**accuracy, "seconds": seconds}

    def time(self) -> dict[str, Any]:
        """Seconds of the prepared case, mean of enough calls to fill a sample, and the processors used."""
        call = self.variant.call
        if self.warm_up:
            call()
        processor = time.process_time()
        seconds = timing.seconds_a_call(call, self.repeat)
        processors = (time.process_time() - processor) / (seconds * self.repeat)
        return {"seconds": seconds / self.variant.parts, "processors": processors}

    def reference(
        self, case: dict[str, Any], artifacts: dict[str, Any], picked: list[int], path: str
    ) -> dict[str, Any]:
        """Writes what all peers are compared with: the rows that the backend's `reference` gives."""
        result = self.backend.reference(wire.from_json(case), artifacts, picked)
        np.save(path, result.reshape(-1, result.shape[-1]).astype(np.float64))
        return {}

    def digest(self) -> dict[str, Any]:
        """A digest of all bits of the prepared case's result."""
        result = np.ascontiguousarray(self.variant.read(self.variant.call()))
        return {"digest": hashlib.sha256(result.tobytes()).hexdigest(), "shape": list(result.shape)}

    def place(self) -> dict[str, Any]:
        """Where this process has transformer_fast from."""
        return {"place": str(Path(importlib.util.find_spec("transformer_fast").origin).parent)}

    def fma_peak(self, seconds: float) -> dict[str, Any]:
        return {"gflops": self.backend.fma_peak(seconds)}

    def streaming_read(self, nbytes: int) -> dict[str, Any]:
        return {"gbs": self.backend.streaming_read(nbytes)}

    def workspace(self, case: dict[str, Any]) -> dict[str, Any]:
        return {"bytes": self.backend.workspace_bytes(wire.from_json(case))}

    def growth(self, case: dict[str, Any]) -> dict[str, Any]:
        """Bytes that a call of the case takes at most, beside its operands."""
        (variant,) = getattr(self.backend, wire.operation(wire.from_json(case)))(wire.from_json(case))
        variant.call()  # what stays from the first call on belongs to the library
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins at what is resident now
        before = _status("VmRSS")
        variant.call()
        return {"bytes": _status("VmHWM") - before}

    def forget(self) -> dict[str, Any]:
        """Gives the prepared case's memory back."""
        self.variant = None
        gc.collect()
        return {}


def _rows(result: np.ndarray, rows: list[int]) -> np.ndarray:
    return result.reshape(-1, result.shape[-1])[rows].astype(np.float64)


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status. Raises Unsupported on systems without that file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise Unsupported(f"memory is not measured here ({error})") from None
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]


def _come_to_rest() -> bool:
    """Waits until no thread of this process computes any more; False if one never stops."""
    deadline = time.perf_counter() + _REST_LIMIT
    while time.perf_counter() < deadline:
        wall, processor = time.perf_counter(), time.process_time()
        time.sleep(_REST_WINDOW)
        if time.process_time() - processor < _REST_SHARE * (time.perf_counter() - wall):
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=NAMES)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--compute-type", default=FLOAT32)
    options = parser.parse_args()
    # Libraries write to stdout as they please; that goes to stderr, and the answers have the real one.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        backend = import_module(f"benchmarks.backends.{options.peer}").BACKEND(options.threads)
        if options.compute_type not in backend.compute_types:
            answer({"missing": f"no compute type {options.compute_type!r} here"})
            return
        backend.compute_type = options.compute_type
        session = Session(backend)
        answer(session.hello())
        gc.freeze()  # else each collection walks through all modules of the peer
    except ImportError as error:
        answer({"missing": _text(error)})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            fields = getattr(session, request.pop("do"))(**request)
        except Unsupported as error:
            fields = {"unsupported": str(error)}
        except Exception as error:  # the runner names it beside the case and goes on
            fields = {"unsupported": _text(error)}
        answer({**fields, "at_rest": _come_to_rest()})


if __name__ == "__main__":
    main()

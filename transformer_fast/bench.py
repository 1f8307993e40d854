"""How fast attention and linear layers are here, next to NumPy and to what the processor can do at all.

Called by commands/bench.py. The two implementations and the processor's FMA peak are measured in turns, so that a
change of clock frequency or a busy neighbour meets all three alike; every figure is the median of the rounds. Ratios
can be compared between machines, GFLOP/s cannot. A new size is a line in `QUICK` or `FULL`; a new operation is a class
with the methods of `Attention`.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from transformer_fast import functional
from transformer_fast.timing import repeats_to_fill, seconds_a_call

# One sample runs the call as often as fills this time: short enough to interleave, long enough for the clock.
_SAMPLE_SECONDS = 0.03
_PEAK_SECONDS = 0.03


class Case(Protocol):
    """One operation at one size."""

    @property
    def operation(self) -> str: ...

    @property
    def shape(self) -> str: ...

    @property
    def flops(self) -> int: ...

    def calls(self, random: np.random.Generator) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
        """The same work by this library and by NumPy, on the same random operands."""
        ...


@dataclass(frozen=True, slots=True)
class Attention:
    """Scaled dot-product attention, all heads with keys of their own. L is Lq and Lk."""

    B: int
    H: int
    L: int
    D: int
    causal: bool = False

    @property
    def operation(self) -> str:
        return "attention, causal" if self.causal else "attention"

    @property
    def shape(self) -> str:
        return f"B={self.B} H={self.H} L={self.L} D={self.D}"

    @property
    def flops(self) -> int:
        """Of the two products, 4 a score and feature; with `causal` only the scores that exist are counted."""
        scores = self.L * (self.L + 1) // 2 if self.causal else self.L * self.L
        return 4 * self.B * self.H * scores * self.D

    def calls(self, random: np.random.Generator) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
        shape = (self.B, self.H, self.L, self.D)
        query, key, value = (random.standard_normal(shape, dtype=np.float32) for _ in range(3))
        return (
            lambda: functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal),
            lambda: numpy_attention(query, key, value, causal=self.causal),
        )


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + bias, x (M, K), W (N, K). The weight is packed beforehand, as a loaded model has it."""

    M: int
    K: int
    N: int

    @property
    def operation(self) -> str:
        return "linear"

    @property
    def shape(self) -> str:
        return f"M={self.M} K={self.K} N={self.N}"

    @property
    def flops(self) -> int:
        return 2 * self.M * self.N * self.K

    def calls(self, random: np.random.Generator) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
        x = random.standard_normal((self.M, self.K), dtype=np.float32)
        weight = random.standard_normal((self.N, self.K), dtype=np.float32) / np.float32(math.sqrt(self.K))
        bias = random.standard_normal(self.N, dtype=np.float32)
        packed = functional.pack_weight(weight)
        return (
            lambda: functional.linear(x, packed, bias),
            lambda: numpy_linear(x, weight, bias),
        )


QUICK: tuple[Case, ...] = (
    Attention(8, 12, 128, 64),
    Attention(1, 12, 512, 64),
    Attention(1, 12, 2048, 64),
    Linear(512, 768, 3072),
    Linear(512, 3072, 768),
    Linear(16, 768, 768),
)
FULL: tuple[Case, ...] = (
    *QUICK,
    Attention(32, 12, 32, 32),
    Attention(1, 12, 512, 64, causal=True),
    Attention(1, 12, 2048, 64, causal=True),
    Attention(1, 8, 4096, 128),
    Linear(1, 768, 3072),
    Linear(1024, 384, 1536),
    Linear(1024, 1536, 384),
    Linear(512, 4096, 4096),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one case showed. Times are seconds a call; `ratio` is NumPy's time over this library's."""

    operation: str
    shape: str
    seconds: float
    numpy_seconds: float
    gflops: float
    numpy_gflops: float
    ratio: float
    fma_peak_gflops: float
    share_of_peak: float
    max_difference: float


def run(
    cases: Sequence[Case],
    *,
    num_threads: int = 1,
    rounds: int = 5,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measures the cases and returns what `transformer-fast bench --json` prints.

    `num_threads` holds for this library, for NumPy's BLAS (through threadpoolctl) and for the FMA peak. `report` gets
    one line before each case, and a warning where threadpoolctl is missing and NumPy takes as many threads as it likes.
    """
    with _threads(num_threads, report) as numpy_limited:
        rows = [_measure(case, num_threads, rounds, report) for case in cases]
    return {
        "config": functional.show_config(),
        "numpy": {"version": np.__version__, "num_threads": num_threads if numpy_limited else None},
        "python": sys.version.split()[0],
        "num_threads": num_threads,
        "rounds": rounds,
        "rows": [asdict(row) for row in rows],
    }


def table(result: dict[str, Any]) -> str:
    """The result of `run` for a reader: a line a case, the machine above it."""
    config, rows = result["config"], result["rows"]
    numpy_threads = result["numpy"]["num_threads"] or "its own number of"
    head = ("operation", "shape", "GFLOP/s", "of FMA peak", "NumPy GFLOP/s", "vs NumPy", "FMA peak")
    body = [
        (
            row["operation"],
            row["shape"],
            f"{row['gflops']:.1f}",
            f"{row['share_of_peak']:.0%}",
            f"{row['numpy_gflops']:.1f}",
            f"{row['ratio']:.2f}x",
            f"{row['fma_peak_gflops']:.0f}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        return "  ".join(left + right)

    about = (
        f"{config['cpu']}, ISA {config['isa']}, {result['num_threads']} thread(s); "
        f"NumPy {result['numpy']['version']} on {numpy_threads} thread(s); "
        f"median of {result['rounds']} interleaved rounds"
    )
    if config["isa"] == "amx":
        about += " (the tile unit of linear layers may pass the peak of multiply-adds)"
    return "\n".join([about, line(head), line(["-" * width for width in widths]), *map(line, body)])


def numpy_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, *, causal: bool = False, bias: np.ndarray | None = None
) -> np.ndarray:
    """Attention as a careful NumPy user writes it, (B, H, L, D) each, in float32: matmul, exp(score - maximum), matmul.

    Head by head, in place, with the division moved behind the second product: on one thread that was 1.1-1.5 times
    as fast as the same on whole (B, H, L, L) arrays (L = 128 to 2048), since one head's scores stay in a cache.
    `bias` broadcasts to (B, H, Lq, Lk) and is added to the scores; in it, -inf hides a key.
    """
    B, H, L, D = query.shape
    scale = np.float32(1 / math.sqrt(D))
    out = np.empty((B, H, L, value.shape[-1]), np.float32)
    scores = np.empty((L, key.shape[-2]), np.float32)
    hidden = np.triu(np.full(scores.shape, -np.inf, np.float32), 1) if causal else None
    if bias is not None:
        bias = np.broadcast_to(bias, (B, H, *scores.shape))
    for b, h in np.ndindex(B, H):
        np.matmul(query[b, h] * scale, key[b, h].T, out=scores)
        if hidden is not None:
            scores += hidden
        if bias is not None:
            scores += bias[b, h]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.matmul(scores, value[b, h], out=out[b, h])
        out[b, h] /= scores.sum(axis=-1, keepdims=True)
    return out


def numpy_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (M, K) times weight (N, K) transposed, plus bias (N,)."""
    y = x @ weight.T
    y += bias
    return y


def _measure(case: Case, num_threads: int, rounds: int, report: Callable[[str], None]) -> Row:
    report(f"measuring {case.operation} {case.shape}")
    ours, numpys = case.calls(np.random.default_rng(0))
    max_difference = float(np.max(np.abs(ours() - numpys())))  # the first calls are the warm-up as well
    repeats = [repeats_to_fill(call, _SAMPLE_SECONDS) for call in (ours, numpys)]
    times: tuple[list[float], list[float]] = ([], [])
    peaks = []
    for _ in range(rounds):
        peaks.append(functional.measure_fma_peak(num_threads, _PEAK_SECONDS))
        for samples, call, repeat in zip(times, (ours, numpys), repeats, strict=True):
            samples.append(seconds_a_call(call, repeat))
    seconds, numpy_seconds = (statistics.median(samples) for samples in times)
    peak = statistics.median(peaks)
    gflops = case.flops / seconds / 1e9
    return Row(
        operation=case.operation,
        shape=case.shape,
        seconds=seconds,
        numpy_seconds=numpy_seconds,
        gflops=gflops,
        numpy_gflops=case.flops / numpy_seconds / 1e9,
        ratio=numpy_seconds / seconds,
        fma_peak_gflops=peak,
        share_of_peak=gflops / peak,
        max_difference=max_difference,
    )


@contextmanager
def _threads(num_threads: int, report: Callable[[str], None]) -> Iterator[bool]:
    """Sets the number of threads of this library and of NumPy's BLAS; yields whether NumPy's could be set."""
    before = functional.get_num_threads()
    functional.set_num_threads(num_threads)
    try:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            report("threadpoolctl is not installed (extra `bench`): NumPy runs on as many threads as it likes")
            yield False
        else:
            with threadpool_limits(num_threads, user_api="blas"):
                yield True
    finally:
        functional.set_num_threads(before)

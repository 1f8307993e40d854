"""Linear layers: the sizes of BERT-like encoders, from one row to a batch of a thousand tokens.

Run as `python -m benchmarks linear --threads 1 --out ...`. To add a size, add it to `SIZES` or `ROWS`.
"""

from __future__ import annotations

import numpy as np
from cases import LinearCase, generator

from benchmarks import claims
from benchmarks.claims import Claim, Results, Value
from benchmarks.runner import Run, Work, write_rows

# (K, N) of MiniLM, BERT-base and BERT-large; M rows.
SIZES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768), (1024, 4096))
ROWS = (1, 4, 24, 96, 1024)
_GELU = ((384, 1536), (768, 3072), (1024, 4096))
_AVX2 = ((384, 1536), (768, 3072), (3072, 768), (1024, 4096))
# One row (and a few) has to read the whole weight for that many products: memory is the limit.
_STREAMING_ROWS = 4
_CHECKED_ROWS = 16
# Sums of up to 3,072 products of N(0,1) numbers with weights of 1/sqrt(K): far beyond rounding, far below an error.
_TOLERANCE = 1e-3


def _name(M: int, K: int, N: int, gelu: bool = False) -> str:
    return f"{M} x {K} -> {N}{', GELU' if gelu else ''}"


def _cases():
    for K, N in SIZES:
        for M in ROWS:
            yield LinearCase(_name(M, K, N), M, N, K, bias=True)
    for K, N in _GELU:
        for M in (96, 1024):
            yield LinearCase(_name(M, K, N, gelu=True), M, N, K, bias=True, activation="gelu")


CASES = tuple(_cases())


def _smallest(cases: list[str], figure: str, lane: str = "ours"):
    """The smallest figure of these cases, with the case's name; all of them have to be measured."""

    def value(results: Results) -> Value:
        return min((results.figure(case, figure, lane), case) for case in cases)

    return value


def _at_rows(rows: tuple[int, ...], sizes=SIZES, gelu: bool = False) -> list[str]:
    return [_name(M, K, N, gelu) for M in rows for K, N in sizes]


_ONE_THREAD = dict(threads=1, isas=claims.AVX512)
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "M >= 96, bias: smallest share of the FMA peak", _smallest(_at_rows((96, 1024)), "of_peak"), 0.93, **_ONE_THREAD
    ),
    Claim(
        "M >= 96, bias and GELU: smallest share of the FMA peak",
        _smallest(_at_rows((96, 1024), _GELU, gelu=True), "of_peak"),
        0.90,
        **_ONE_THREAD,
    ),
    Claim("M = 24: smallest share of the FMA peak", _smallest(_at_rows((24,)), "of_peak"), 0.85, **_ONE_THREAD),
    Claim("M = 1: smallest share of the streaming read", _smallest(_at_rows((1,)), "of_read"), 0.85, **_ONE_THREAD),
    Claim(
        "M = 1024, AVX2 forced: smallest share of the AVX2 FMA peak",
        _smallest(_at_rows((1024,), _AVX2), "of_peak", "ours, avx2"),
        0.90,
        threads=1,
    ),
    claims.two_threads(1.9, least_seconds=0.0, cases=_at_rows((1024,))),
    *(claims.never_slower(peer) for peer in ("torch", "onnxruntime", "numpy", "openvino")),
)


def expected(case: LinearCase) -> np.ndarray:
    """The rows in float64."""
    from transformer_fast import reference

    (x, weight), options = case.make_inputs(np.float64)
    return reference.linear(x[_rows(case)], weight, **options)


def _rows(case: LinearCase) -> list[int]:
    if case.M <= _CHECKED_ROWS:
        return list(range(case.M))
    return sorted(int(i) for i in generator(f"rows of {case.name}").choice(case.M, _CHECKED_ROWS, replace=False))


def work_of(case: LinearCase) -> Work:
    avx2 = case.M == 1024 and (case.K, case.N) in _AVX2 and case.activation is None
    return Work(
        case=case,
        group="GELU" if case.activation else f"{case.M} row{'s' * (case.M > 1)}",
        flops=case.flops(),
        rows=_rows(case),
        expected=lambda run, path: write_rows(path, expected(case)),
        tolerance=_TOLERANCE,
        stream_bytes=4 * case.K * case.N if case.M <= _STREAMING_ROWS else 0,
        extra=("ours, 1 thread", "ours, avx512", *(["ours, avx2"] if avx2 else [])),
    )


def works(quick: bool) -> list[Work]:
    """What is to be measured; quick leaves out what takes longest."""
    return [work_of(case) for case in CASES if not quick or case.M <= 96 and case.K * case.N <= 384 * 1536]


def run(session: Run, quick: bool) -> None:
    for work in works(quick):
        session.measure(work)

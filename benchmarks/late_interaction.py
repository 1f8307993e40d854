"""MaxSim: queries and documents that have a vector a token, as ColBERT's, beside what NumPy and torch make of it.

Run as `python -m benchmarks late_interaction --threads 1`. Sizes: the cases of tests/helpers/cases.py tagged "speed".
"""

from __future__ import annotations

import numpy as np
from cases import MaxSimCase, max_sim_cases

from benchmarks import claims
from benchmarks.claims import Claim
from benchmarks.runner import Run, Work, write_rows

CASES = tuple(max_sim_cases("speed"))
# Sums of up to 32 products of vectors of length 1.
_TOLERANCE = 1e-3

CLAIMS: tuple[Claim, ...] = (
    claims.faster_than("numpy", [CASES[0].name], 5, "1 query, 1,000 documents", threads=1),
    claims.of_peak("16 queries, 1,000 documents: share of the FMA peak", CASES[1].name, 0.8),
    *(claims.never_slower(peer) for peer in ("numpy", "torch")),
)


def expected(case: MaxSimCase, rows: list[int]) -> np.ndarray:
    """The scores of these queries in float64."""
    from transformer_fast import reference

    inputs = {
        name: array.astype(float) if array.dtype.kind == "f" else array for name, array in case.make_inputs().items()
    }
    return reference.max_sim(**inputs)[rows]


def works(quick: bool) -> list[Work]:
    """What is to be measured; quick takes a tenth of the documents."""
    found = []
    for case in CASES:
        if quick:
            case = MaxSimCase(case.name, case.queries[:4], case.documents[:100], case.D)
        rows = list(range(min(len(case.queries), 4)))
        found.append(
            Work(
                case=case,
                group="max_sim",
                flops=case.flops(),
                rows=rows,
                expected=lambda run, path, case=case, rows=rows: write_rows(path, expected(case, rows)),
                tolerance=_TOLERANCE,
                stream_bytes=4 * sum(case.documents) * case.D if len(case.queries) == 1 else 0,
                extra=("ours, 1 thread",),
            )
        )
    return found


def run(session: Run, quick: bool) -> None:
    for work in works(quick):
        session.measure(work)

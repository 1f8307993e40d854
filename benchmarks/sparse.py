"""Masks: whether attention costs what is visible, beside the same call without a mask, torch and FlexAttention.

Run as `python -m benchmarks masks --threads 1`. The structures are those of structures.py; a length is a line in
`mask_cases`. Pages and keys that sequences share are measured here, too (`PAGED`): ours alone, in three layouts of the
same keys, which take turns as lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from cases import AttentionCase, generator

from benchmarks import attention, claims, structures, wire
from benchmarks.claims import Claim, Results, Value
from benchmarks.runner import Lane, Run, Work, write_rows
from benchmarks.wire import MaskCase, PagedCase

# Lanes of ours, each a process of its own.
DENSE, IN_THE_CALL, PAGES, SHARED = "ours, dense", "ours, compiled in the call", "ours, pages", "ours, shared"
LABELS = ("ours", DENSE, IN_THE_CALL, PAGES, SHARED, "torch", "flex_attention")
# FlexAttention is compiled anew for each of these, which takes longer than measuring it.
_COMPILED = ("window and globals", "documents", "prefix", "bigbird")
_LONG = ("window and globals", "random blocks", "documents")
_LONGEST = 131072
_ROWS = 48
_TOLERANCE = 1e-3


def _name(structure: str, L: int) -> str:
    return f"{structure} {L}"


def mask_cases(quick: bool = False) -> list[MaskCase]:
    """All structures at a length that peers can hold a mask of, some at one where only what is seen fits."""
    short, long, longest = (1024, 2048, 4096) if quick else (4096, 16384, _LONGEST)
    cases = [MaskCase(_name(structure, short), structure, 4, short, 64) for structure in structures.STRUCTURES]
    cases += [MaskCase(_name(structure, long), structure, 1, long, 64) for structure in _LONG]
    return [*cases, MaskCase(_name("window and globals", longest), "window and globals", 1, longest, 64)]


def paged_cases(quick: bool = False) -> list[PagedCase]:
    """One query each of sequences that have most of their keys in common."""
    B, common = (4, 128) if quick else (32, 2048)
    return [
        PagedCase(f"{B} x ({common} common + 64), {H} heads on {Hkv}, D {D}", "separate", B, H, Hkv, D, common, 64)
        for H, Hkv, D in ((12, 12, 64), (32, 32, 128), (32, 8, 128))
    ]


@cache
def visible_share(case: MaskCase) -> float:
    return structures.mask(case).ranges(case.L, case.L).visible / case.L**2


def _costs(L: int):
    """The largest cost of the structures at this length."""

    def value(results: Results) -> Value:
        found = []
        for case in mask_cases():
            if case.L == L:
                dense = results.seconds(case.name, DENSE)
                found.append((results.seconds(case.name) / (visible_share(case) * dense), case.name))
        return max(found)

    return value


# Names of mask_cases() that FlexAttention is held against.
_FLEX = ("window and globals 4096", "documents 4096", "prefix 4096")

CLAIMS: tuple[Claim, ...] = (
    Claim("L = 16,384: largest cost, time by visible share x dense time", _costs(16384), 1.25, at_most=True, threads=1),
    claims.never_slower("torch"),
    claims.faster_than("flex_attention", _FLEX, 1.5, "window, documents, prefix at 4,096", threads=1),
)


def lanes(peers: Sequence[str], threads: int) -> list[Lane]:
    found = [Lane(label, "ours", threads) for label in LABELS if label.startswith("ours")]
    return found + [Lane(name, name, threads) for name in ("torch", "flex_attention") if name in peers]


def mask_work(case: MaskCase, peers: bool | tuple[str, ...], dense: bool) -> Work:
    """dense: the lane without a mask takes part."""
    artifacts = structures.tables(case)
    rows, expected = _expected(case, artifacts)
    work = Work(
        case=case,
        group=f"{case.L:,} queries and keys",
        flops=round(4 * case.D * case.H * visible_share(case) * case.L**2),
        rows=rows,
        expected=lambda run, path: write_rows(path, expected),
        tolerance=_TOLERANCE,
        peers=peers,
        extra=(IN_THE_CALL, DENSE) if dense else (IN_THE_CALL,),
        artifacts=artifacts,
    )
    whole = AttentionCase(f"dense {case.L}", 1, case.H, case.L, case.L, case.D)
    in_the_call = replace(work, case=replace(case, compiled=False))
    return replace(work, instead={IN_THE_CALL: in_the_call, **({DENSE: attention.work_of(whole, "")} if dense else {})})


def paged_work(case: PagedCase) -> Work:
    rows, expected = _expected_of_pages(case)
    pairs = case.B * case.H * (case.common + case.own)
    bytes_a_key = 2 * 4 * case.Hkv * case.D
    work = Work(
        case=case,
        group="Pages and shared keys",
        flops=4 * pairs * case.D,
        rows=rows,
        expected=lambda run, path: write_rows(path, expected),
        tolerance=_TOLERANCE,
        stream_bytes=case.B * (case.common + case.own) * bytes_a_key,
        peers=False,
        extra=(PAGES, SHARED),
    )
    pages = replace(work, case=replace(case, layout="pages"))
    read_once = (case.common + case.B * case.own) * bytes_a_key
    shared = replace(work, case=replace(case, layout="shared"), stream_bytes=read_once)
    return replace(work, instead={PAGES: pages, SHARED: shared})


def works(quick: bool) -> list[Work]:
    cases = mask_cases(quick)
    short, longest = cases[0].L, cases[-1].L
    found = []
    for case in cases:
        peers = ("torch", *(["flex_attention"] if case.structure in _COMPILED else [])) if case.L == short else False
        found.append(mask_work(case, peers, dense=case.L < longest))
    return found + [paged_work(case) for case in paged_cases(quick)]


def run(session: Run, quick: bool) -> None:
    for work in works(quick):
        session.measure(work)
    # What the engine holds beside the operands and the lists.
    session.extra["workspace_bytes"] = {
        case.name: session.ask("ours", "workspace", case=wire.to_json(case))["bytes"] for case in mask_cases(quick)
    }


def _expected(case: MaskCase, artifacts: dict) -> tuple[list[int], np.ndarray]:
    """Rows of (H*L) that see a key, and what they are in float64: by the formula, one query at a time."""
    query, key, value = (x[0] for x in case.make_inputs())
    formula, arrays = structures.STRUCTURES[case.structure].formula, structures.arrays_of(case, artifacts)
    drawn = generator(f"rows of {case.name}").choice(case.H * case.L, _ROWS, replace=False)
    rows, expected = [], []
    for row in sorted(map(int, drawn)):
        h, i = divmod(row, case.L)
        seen = formula(np.array(i), np.arange(case.L), arrays)
        if seen.any():
            rows.append(row)
            expected.append(_attend(query[h, i], key[h, seen], value[h, seen]))
    return rows, np.array(expected).reshape(len(rows), case.D)


def _expected_of_pages(case: PagedCase) -> tuple[list[int], np.ndarray]:
    """The same for rows of (B*H)."""
    query, common, own = case.make_inputs()
    drawn = generator(f"rows of {case.name}").choice(case.B * case.H, min(_ROWS, case.B * case.H), replace=False)
    rows, expected = sorted(map(int, drawn)), []
    for row in rows:
        b, h = divmod(row, case.H)
        kv = h // (case.H // case.Hkv)
        expected.append(_attend(query[b, h, 0], *np.concatenate([common[:, kv], own[:, b, kv]], axis=1)))
    return rows, np.array(expected)


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """query (D,), key and value (L, D) -> (D,) float64."""
    from transformer_fast import reference

    q, k, v = (np.atleast_2d(x).astype(np.float64)[None, None] for x in (query, key, value))
    return reference.scaled_dot_product_attention(q, k, v)[0, 0, 0]

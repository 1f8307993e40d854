"""Attention: the sizes that must show a share of the peak, and a grid of sizes at which no peer may be faster.

Run as `python -m benchmarks attention --threads 1 --out ...`. `MUST_SHOW` is named in `CLAIMS`; `GRID` is judged as a
whole, and its curves are what plots.py draws. To add a point, add a line to `_grid`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cases import AttentionCase, generator

from benchmarks import claims
from benchmarks.claims import Claim, Results, of_avx2_peak, of_peak, of_read, time_ratio
from benchmarks.runner import Run, Work, write_rows

# Rows of the result that are compared with float64, drawn by the case's name.
_ROWS = 48
_TOLERANCE = 1e-3
# Peers build the scores as an array, and some of them a mask of that size: beyond this many only ours is measured.
_MOST_SCORES = 1 << 28

CURVE_LENGTHS = (16, 64, 128, 256, 512, 1024, 2048, 4096)
CURVE_KINDS = ("full", "causal", "window", "decode")
_CURVE_WINDOW = (127, 0)


def _square(name: str, B: int, H: int, L: int, D: int, **options) -> AttentionCase:
    return AttentionCase(name, B, H, L, L, D, **options)


_DECODE = AttentionCase("decode 32x2048x128", 1, 32, 1, 2048, 128)
_GROUPED = AttentionCase("decode 32/4x8192x128", 1, 32, 1, 8192, 128, Hkv=4)
_LONG = dict(B=8, H=12, L=512, D=64)

MUST_SHOW = (
    _square("D64 L128", 8, 12, 128, 64),
    _square("D64 L512", 1, 12, 512, 64),
    _square("D64 L2048", 1, 12, 2048, 64),
    _square("D64 L8192", 1, 2, 8192, 64),
    _square("D128 L512", 1, 8, 512, 128),
    _square("D128 L4096", 1, 2, 4096, 128),
    _square("D32 L128", 8, 12, 128, 32),
    _square("D64 L512 causal", 1, 12, 512, 64, is_causal=True),
    _square("D64 L2048 causal", 1, 12, 2048, 64, is_causal=True),
    _square("D64 L8192 causal", 1, 2, 8192, 64, is_causal=True),
    _square("D64 L16384 window", 1, 2, 16384, 64, is_causal=True, window=(255, 0)),
    _square("D64 L197", 4, 12, 197, 64),
    _square("D64 L577", 1, 12, 577, 64),
    _square("8 x L512", **_LONG),
    _square("8 x L512, lengths", **_LONG, ragged=True),
    _square("8 x L512, boolean mask", **_LONG, mask="padding"),
    _square("D64 L512, additive mask", 1, 12, 512, 64, mask="float"),
    _DECODE,
    replace(_DECODE, name="decode 32x8192x128", Lk=8192),
    _GROUPED,
    replace(_GROUPED, name="decode 4x8192x128", H=4),
    _square("call overhead", 1, 1, 1, 64),
)


def _curve_case(kind: str, L: int) -> AttentionCase:
    name = f"curve {kind} {L}"
    if kind == "decode":
        return AttentionCase(name, 1, 8, 1, L, 64)
    window = _CURVE_WINDOW if kind == "window" else (-1, -1)
    return _square(name, 1, 8, L, 64, is_causal=kind != "full", window=window)


def _grid():
    for kind in CURVE_KINDS:
        for L in CURVE_LENGTHS:
            yield _curve_case(kind, L)
    for B, H, D in ((1, 1, 64), (1, 12, 64), (8, 12, 32), (32, 12, 64)):
        for L in (1, 4, 16, 32):
            yield _square(f"small {B}x{H}x{L}x{D}", B, H, L, D)
            yield _square(f"small {B}x{H}x{L}x{D} causal", B, H, L, D, is_causal=True)
    for D in (16, 40, 72, 80, 96, 128, 256):
        yield _square(f"head size {D}", 1, 8, 256, D)
    for B, H, Lq, Lk, D in ((1, 8, 64, 1500, 64), (1, 8, 16, 1500, 64), (8, 8, 77, 1024, 40), (1, 16, 1024, 77, 64)):
        yield AttentionCase(f"cross {B}x{H}x{Lq}x{Lk}x{D}", B, H, Lq, Lk, D)
    for L in (128, 512):
        yield _square(f"boolean mask {L}", 4, 12, L, 64, mask="padding")
        yield _square(f"additive mask {L}", 1, 12, L, 64, mask="float")
        yield _square(f"key lengths {L}", 4, 12, L, 64, ragged=True)
        yield _square(f"groups, causal {L}", 1, 32, L, 128, Hkv=8, is_causal=True)
    for L in (512, 2048):
        yield AttentionCase(f"decode, groups {L}", 1, 32, 1, L, 128, Hkv=8)
        yield AttentionCase(f"decode, batch {L}", 8, 12, 1, L, 64)
        yield AttentionCase(f"decode, 4 queries {L}", 1, 32, 4, L, 128)
    yield _square("batch 32x128x32", 32, 12, 128, 32)
    yield _square("batch 16x64x64", 16, 12, 64, 64)


GRID = tuple(_grid())


def _overhead(results: Results) -> float:
    return results.seconds("call overhead") * 1e6


def _largest_error(results: Results) -> claims.Value:
    errors = [(row["lanes"]["ours"].get("max_error"), name) for name, row in results.rows.items()]
    if any(error is None for error, _ in errors) or not errors:
        raise claims.Unmeasured("not every case has a result")
    return max(errors)


CLAIMS: tuple[Claim, ...] = (
    of_peak("D=64, L=128 (8 x 12 heads)", "D64 L128", 0.74),
    of_peak("D=64, L=512", "D64 L512", 0.86),
    of_peak("D=64, L=2048", "D64 L2048", 0.88),
    of_peak("D=64, L=8192", "D64 L8192", 0.88),
    of_peak("D=128, L=512", "D128 L512", 0.89),
    of_peak("D=128, L=4096", "D128 L4096", 0.92),
    of_peak("D=32, L=128 (8 x 12 heads)", "D32 L128", 0.66),
    of_peak("causal, D=64, L=512", "D64 L512 causal", 0.75),
    of_peak("causal, D=64, L=2048", "D64 L2048 causal", 0.84),
    of_peak("causal, D=64, L=8192", "D64 L8192 causal", 0.87),
    of_peak("window (255, 0), causal, L=16384, D=64", "D64 L16384 window", 0.70),
    of_peak("L=197, D=64", "D64 L197", 0.78),
    of_peak("L=577, D=64", "D64 L577", 0.84),
    time_ratio("half of the keys hidden by kv_lengths: time against all", "8 x L512, lengths", "8 x L512", 0.55),
    time_ratio("boolean mask (B,1,1,Lk): time against none", "8 x L512, boolean mask", "8 x L512", 1.05),
    time_ratio("additive mask (1,H,L,L): time against none", "D64 L512, additive mask", "D64 L512", 1.15),
    of_read("decode, 32 heads x 2048 keys x 128", "decode 32x2048x128", 0.85),
    of_read("decode, 32 heads x 8192 keys x 128", "decode 32x8192x128", 0.85),
    time_ratio(
        "decode, 32 query heads on 4 kv heads: time against 4", "decode 32/4x8192x128", "decode 4x8192x128", 1.3
    ),
    of_avx2_peak("D=64, L=2048", "D64 L2048", 0.80),
    Claim("one query and one key: microseconds a call", _overhead, 5.0, at_most=True, threads=1),
    Claim("largest difference from float64, N(0,1) data, sampled rows", _largest_error, 2e-6, at_most=True),
    claims.two_threads(1.9, least_seconds=0.002),
    *(claims.never_slower(peer) for peer in ("torch", "onnxruntime", "numpy", "openvino")),
)


def works(quick: bool) -> list[Work]:
    """What is to be measured; quick leaves out what takes longest."""
    most = 2e8 if quick else float("inf")
    chosen = [(case, "Must show") for case in MUST_SHOW] + [(case, "Grid") for case in GRID]
    return [work_of(case, group) for case, group in chosen if useful_flops(case) <= most]


def useful_flops(case: AttentionCase) -> int:
    """The two products over the pairs that structure leaves; masks that are arrays count as none."""
    if case.ragged:
        return 2 * case.H * case.Lq * int(_lengths(case).sum()) * (case.D + case.Dv)
    return case.flops()


def _lengths(case: AttentionCase) -> np.ndarray:
    """(B,), as `make_inputs` draws them."""
    return np.linspace(case.Lk, 0, case.B).astype(np.int64)


def work_of(case: AttentionCase, group: str) -> Work:
    decode = case.Lq == 1 and case.Lk > 1
    scores = case.B * case.H * case.Lq * case.Lk
    return Work(
        case=case,
        group=group,
        flops=useful_flops(case),
        rows=_rows(case),
        expected=lambda run, path: write_rows(path, expected(case)),
        tolerance=_TOLERANCE,
        # What one query reads: keys and values. The query and the result are nothing beside them.
        stream_bytes=4 * case.B * case.Hkv * case.Lk * (case.D + case.Dv) if decode else 0,
        peers=scores <= _MOST_SCORES,
        extra=("ours, 1 thread", *(["ours, avx2"] if case.name == "D64 L2048" else [])),
    )


def _rows(case: AttentionCase) -> list[int]:
    """Rows of (B*H*Lq), sorted; of batch entries without keys none, for peers disagree on what comes out there."""
    B = case.B if not case.ragged else int((_lengths(case) > 0).sum())
    total = B * case.H * case.Lq
    if total <= _ROWS:
        return list(range(total))
    return sorted(int(i) for i in generator(f"rows of {case.name}").choice(total, _ROWS, replace=False))


def expected(case: AttentionCase) -> np.ndarray:
    """The rows in float64, (rows, Dv): one query at a time, so that no Lq x Lk array is needed."""
    from transformer_fast import reference

    (query, key, value), options = case.make_inputs()
    lengths = options.pop("kv_lengths", None)
    mask = options.pop("attn_mask", None)
    if mask is not None:
        mask = np.broadcast_to(mask, (case.B, case.H, case.Lq, case.Lk))
    options.pop("enable_gqa", None)
    rows = []
    for row in _rows(case):
        b, h, i = np.unravel_index(row, (case.B, case.H, case.Lq))
        kv = h // (case.H // case.Hkv)
        keys = slice(None if lengths is None else lengths[b])
        q = query[b, h, i].astype(np.float64)[None, None, None]
        k, v = (x[b, kv, keys].astype(np.float64)[None, None] for x in (key, value))
        row_mask = None
        if mask is not None:
            row_mask = mask[b, h, i, keys]
            row_mask = row_mask if row_mask.dtype == bool else row_mask.astype(np.float64)
        out = reference.scaled_dot_product_attention(q, k, v, row_mask, causal_offset=int(i), **options)
        rows.append(out[0, 0, 0])
    return np.array(rows)


def run(session: Run, quick: bool) -> None:
    for work in works(quick):
        session.measure(work)

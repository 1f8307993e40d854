"""Narrow numbers: int8, int8_a16 and bfloat16 of ours beside its float32, and beside peers in int8.

Run as `python -m benchmarks low_precision --threads 1 --out ...`. Every compute type of every library is a lane of its
own, so that all take turns in the same rounds and their ratios mean something. Rounded results are compared by cosines:
with float64 (linear layers), with torch in float64 (models: means over the tokens of a sequence) and with
sentence-transformers (texts); the mean and the least one stand in the result. A new size is a line in `LINEAR` or
`SHAPES`, a new peer a line in `PEERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cases import LinearCase

from benchmarks import artifacts, claims, linear, models
from benchmarks.backends import FLOAT32
from benchmarks.claims import Claim, Results, Value, faster_than
from benchmarks.runner import Lane, Run, Work
from benchmarks.wire import ModelCase

NARROW = ("int8", "int8_a16", "bfloat16")
# (M, K, N): M rows from K to N features.
LINEAR = ((1024, 768, 3072), (1024, 384, 1536), (1024, 1536, 384), (16, 384, 1536), (1, 4096, 4096))
SHAPES = {"minilm": ((8, 128), (32, 128), (1, 16)), "bert-base": ((8, 128),)}
# (backend, compute type, forms of artifacts.py that it reads); torch in float32 is also what models are compared with.
PEERS = (
    ("onnxruntime", "int8", ("onnx_int8", "onnx_int8_reduced")),
    ("openvino", "int8", ("openvino_int8",)),
    ("openvino", "int8_weights", ("openvino_int8_weights",)),
    ("ctranslate2", "int8", ("ctranslate2",)),
    ("torch", FLOAT32, ()),
)
# Measured on texts alone, where it is the only peer.
_TEXTS_PEER = "sentence_transformers"
# Far below what 8 bits give (0.99 and more), far above what a wrong result gives.
_LEAST_COSINE = 0.9
_SEQUENCES = 8
_QUICK_ROWS, _QUICK_TOKENS = 16, 16


def label(backend: str, compute_type: str) -> str:
    """What a lane is called: "ours, int8"; the plain name for float32."""
    return backend if compute_type == FLOAT32 else f"{backend}, {compute_type}"


OURS = tuple(label("ours", name) for name in NARROW)
_MODEL_PEERS = tuple(label(backend, compute_type) for backend, compute_type, _ in PEERS)
LABELS = ("ours", *OURS, *_MODEL_PEERS, _TEXTS_PEER)
_INT8 = OURS[0]


def lanes(chosen: Sequence[str], threads: int) -> list[Lane]:
    """Ours in every compute type, and the peers whose backends are chosen."""
    found = [Lane("ours", "ours", threads)]
    found += [Lane(label("ours", name), "ours", threads, compute_type=name) for name in NARROW]
    found += [Lane(label(peer, name), peer, threads, compute_type=name) for peer, name, _ in PEERS if peer in chosen]
    if _TEXTS_PEER in chosen:
        found.append(Lane(_TEXTS_PEER, _TEXTS_PEER, threads))
    return found


def linear_cases(quick: bool = False) -> list[LinearCase]:
    """With a bias, as layers of encoders have one."""
    small = (size for size in LINEAR if not quick or size[0] == _QUICK_ROWS)
    return [LinearCase(_linear_name(M, K, N), M, N, K, bias=True) for M, K, N in small]


def model_cases(quick: bool = False) -> list[ModelCase]:
    return [
        ModelCase(_model_name(model, B, L), model, B, L)
        for model, shapes in SHAPES.items()
        for B, L in shapes
        if not quick or B * L <= _QUICK_TOKENS
    ]


def _linear_name(M: int, K: int, N: int) -> str:
    return f"{M} x {K} -> {N}"


def _model_name(model: str, B: int, L: int) -> str:
    return f"{model} {B}x{L}"


_TEXTS_NAME = models.texts_case().name
_ABOUT: dict[str, Any] = {"threads": 1, "isas": ("avx2",)}


def _over_float32(case: str, compute_type: str, bound: float, text: str) -> Claim:
    def value(results: Results) -> float:
        return results.seconds(case) / results.seconds(case, label("ours", compute_type))

    return Claim(f"{text}, {compute_type}: times as fast as our float32", value, bound, **_ABOUT)


def _over_int8_of(peer: str, bound: float) -> Claim:
    """At the worst of MiniLM's shapes; a peer with several lanes counts with the fastest one that was measured."""
    labels = [label(backend, name) for backend, name, _ in PEERS if backend == peer]

    def ratio(results: Results, case: str) -> Value:
        found = []
        for one in labels:
            try:
                found.append((results.seconds(case, one), one))
            except claims.Unmeasured as error:
                missing = error
        if not found:
            raise missing
        seconds, fastest = min(found)
        return seconds / results.seconds(case, _INT8), f"{case}, {fastest}"

    def value(results: Results) -> Value:
        return min(ratio(results, _model_name("minilm", B, L)) for B, L in SHAPES["minilm"])

    shapes = ", ".join(f"{B} x {L}" for B, L in SHAPES["minilm"])
    return Claim(f"all-MiniLM-L6-v2, {shapes}, int8: times as fast as {peer} in int8", value, bound, **_ABOUT)


CLAIMS: tuple[Claim, ...] = (
    _over_float32(_linear_name(1024, 768, 3072), "int8", 1.9, "linear, 1024 rows 768 -> 3072"),
    _over_float32(_model_name("minilm", 8, 128), "int8", 1.6, "all-MiniLM-L6-v2, 8 x 128"),
    _over_float32(_model_name("minilm", 8, 128), "int8_a16", 1.3, "all-MiniLM-L6-v2, 8 x 128"),
    _over_float32(_model_name("bert-base", 8, 128), "int8", 1.65, "BERT-base shape, 8 x 128"),
    _over_int8_of("onnxruntime", 1.4),
    _over_int8_of("ctranslate2", 1.4),
    _over_int8_of("openvino", 1.1),
    replace(faster_than(_TEXTS_PEER, [_TEXTS_NAME], 3.0, f"{models.TEXTS:,} texts, int8", lane=_INT8), **_ABOUT),
)


def linear_work(case: LinearCase) -> Work:
    # Nothing is said of a share of the streaming read: each compute type reads another number of bytes.
    return replace(
        linear.work_of(case),
        group="Linear layers",
        stream_bytes=0,
        peers=False,
        extra=OURS,
        least_cosine=_LEAST_COSINE,
    )


def model_work(case: ModelCase, found: dict[str, Any]) -> Work:
    """`found`: what artifacts.prepare gave for the model."""
    return replace(
        models.model_work(case, found, range(min(case.B, _SEQUENCES))),
        peers=_MODEL_PEERS,
        extra=OURS,
        least_cosine=_LEAST_COSINE,
        pooled=case.L,
    )


def run(session: Run, quick: bool) -> None:
    for case in linear_cases(quick):
        session.measure(linear_work(case))
    for model in SHAPES:
        cases = [case for case in model_cases(quick) if case.model == model]
        if cases:
            found = artifacts.prepare(model, _forms(session), session.report)
            for case in cases:
                session.measure(model_work(case, found))
    case = models.texts_case(quick)
    work = models.texts_work(case, artifacts.prepare("minilm", (), session.report, case.count))
    extra = tuple(label("ours", name) for name in ("int8", "int8_a16"))
    session.measure(replace(work, peers=(_TEXTS_PEER,), extra=extra, least_cosine=_LEAST_COSINE))


def _forms(session: Run) -> list[str]:
    """What the peers of this run read."""
    return [form for peer, name, forms in PEERS if label(peer, name) in session.workers for form in forms]

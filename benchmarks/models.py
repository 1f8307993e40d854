"""Whole encoders: all-MiniLM-L6-v2 with its real weights, BERT-base's shape with random ones, and real texts.

Run as `python -m benchmarks models --threads 1 --out ...`. A new model is a line in `MODELS` and in artifacts.py.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import ROOT, artifacts, claims, wire
from benchmarks.claims import Claim, Results, Value, faster_than, of_peak
from benchmarks.runner import Run, Work
from benchmarks.wire import ModelCase, TextsCase

MODELS = {"minilm": "all-MiniLM-L6-v2", "bert-base": "BERT-base shape"}
SHAPES = ((1, 16), (8, 128), (32, 128), (1, 512))
TEXTS = 2000
_QUICK_TEXTS = 100
_FORMS_OF = {
    "onnxruntime": ("onnx", "onnx_optimized"),
    "openvino": ("openvino",),
    "ctranslate2": ("ctranslate2",),
}
PEERS = ("torch", "onnxruntime", "openvino", "ctranslate2")
# Hidden states are of the size of 1; float32 ends 1e-6 to 1e-5 away from float64 after a dozen layers.
_TOLERANCE = 1e-2
# Of a batch so many sequences are compared, and of each all tokens; texts: every so many.
_SEQUENCES = 2
_COMPARED_TEXTS = 200
_LOADS = 5


def _name(model: str, B: int, L: int) -> str:
    return f"{model} {B}x{L}"


def _names(model: str, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[str]:
    return [_name(model, B, L) for B, L in shapes]


_TEXTS_NAME = f"minilm {TEXTS} texts"


def _of_best_peer(results: Results) -> Value:
    """The best peer's time over ours, on texts in padded, sorted batches."""
    found = []
    for peer in PEERS:
        try:
            found.append((results.seconds(_TEXTS_NAME, peer), peer))
        except claims.Unmeasured:
            continue
    if not found:
        raise claims.Unmeasured("no peer embedded the texts")
    seconds, peer = min(found)
    return seconds / results.seconds(_TEXTS_NAME), peer


def _load_figure(name: str):
    def value(results: Results) -> float:
        return results.extra["loading"]["minilm"][name]

    return value


def _two_threads(results: Results) -> float:
    case = _name("minilm", 8, 128)
    return results.seconds(case, "ours, 1 thread") / results.seconds(case)


def _ratio_claims():
    for model, text in MODELS.items():
        at_8x128 = [_name(model, 8, 128)]
        for peer, bound in (("openvino", 1.10), ("ctranslate2", 1.15), ("onnxruntime", 1.5), ("torch", 2.4)):
            yield faster_than(peer, at_8x128, bound, f"{text}, 8 x 128", threads=1)
        yield faster_than("openvino", [_name(model, 1, 16)], 1.3, f"{text}, 1 x 16", threads=1)
        for peer in PEERS:
            yield faster_than(peer, _names(model, ((32, 128), (1, 512))), 1.0, f"{text}, 32 x 128, 1 x 512", threads=1)
            yield faster_than(peer, _names(model), 1.0, f"{text}, all shapes", threads=2)


CLAIMS: tuple[Claim, ...] = (
    of_peak("all-MiniLM-L6-v2, 8 x 128", _name("minilm", 8, 128), 0.86),
    *_ratio_claims(),
    Claim("all-MiniLM-L6-v2, 8 x 128: two threads against one", _two_threads, 1.85, threads=2),
    faster_than("sentence_transformers", [_TEXTS_NAME], 6.0, f"{TEXTS:,} texts"),
    Claim(f"{TEXTS:,} texts: times as fast as the best peer", _of_best_peer, 1.5),
    Claim(
        f"{TEXTS:,} texts: largest difference from sentence-transformers",
        lambda r: r.figure(_TEXTS_NAME, "max_error"),
        1e-5,
        at_most=True,
    ),
    Claim("MiniLM: seconds to load", _load_figure("seconds"), 0.3, at_most=True),
    Claim("MiniLM: resident memory in units of the weights", _load_figure("memory_of_weights"), 2.2, at_most=True),
)


def flops(config: dict[str, Any], tokens: int, pairs: int) -> int:
    """Of the products of an encoder: `tokens` real ones, `pairs` the sum of the sequences' squared lengths."""
    h, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return layers * (2 * tokens * (4 * h * h + 2 * h * inner) + 4 * pairs * h)


def model_cases(model: str, quick: bool = False) -> list[ModelCase]:
    return [ModelCase(_name(model, B, L), model, B, L) for B, L in SHAPES if not quick or B * L <= 16]


def texts_case(quick: bool = False) -> TextsCase:
    count = _QUICK_TEXTS if quick else TEXTS
    return TextsCase(f"minilm {count} texts", "minilm", count)


def run(session: Run, quick: bool) -> None:
    session.extra["loading"] = {}
    for model in MODELS:
        found = artifacts.prepare(model, _forms(session), session.report)
        session.extra["loading"][model] = _measure_loading(found["checkpoint"])
        for case in model_cases(model, quick):
            session.measure(model_work(case, found))
    case = texts_case(quick)
    found = artifacts.prepare("minilm", _forms(session), session.report, case.count)
    session.measure(texts_work(case, found))


def _forms(session: Run) -> list[str]:
    """What the peers of this run read."""
    return [form for peer, forms in _FORMS_OF.items() if peer in session.workers for form in forms]


def model_work(case: ModelCase, found: dict[str, Any], sequences: Sequence[int] | None = None) -> Work:
    """sequences: those of the batch that are compared; by default the first and the last."""
    sequences = sorted({0, case.B - 1})[:_SEQUENCES] if sequences is None else list(sequences)

    def expected(session: Run, path: str) -> bool:
        request = {"case": wire.to_json(case), "artifacts": found, "picked": sequences, "path": path}
        return "unsupported" not in session.ask("torch", "reference", **request)

    return Work(
        case=case,
        group=MODELS.get(case.model, case.model),
        flops=flops(found["config"], case.B * case.L, case.B * case.L**2),
        rows=[b * case.L + i for b in sequences for i in range(case.L)],
        expected=expected,
        tolerance=_TOLERANCE,
        extra=("ours, 1 thread", "ours, avx512"),
        artifacts=found,
    )


def texts_work(case: TextsCase, found: dict[str, Any]) -> Work:
    """`found` has "texts" of the case's count."""
    from transformer_fast import SentenceEncoder

    with open(found["texts"], encoding="utf-8") as file:
        texts = json.load(file)
    encoder = SentenceEncoder.from_pretrained(found["checkpoint"])
    lengths = [encoder.count_tokens(text) for text in texts]
    rows = list(range(0, case.count, max(1, case.count // _COMPARED_TEXTS)))

    def expected(session: Run, path: str) -> bool:
        """What sentence-transformers gives, which is what the embeddings have to agree with."""
        request = {"case": wire.to_json(case), "artifacts": found, "picked": rows, "path": path}
        return "unsupported" not in session.ask("sentence_transformers", "reference", **request)

    return Work(
        case=case,
        group="Real texts",
        flops=flops(found["config"], sum(lengths), sum(n * n for n in lengths)),
        rows=rows,
        expected=expected,
        tolerance=_TOLERANCE,
        extra=("ours, 1 thread", "ours, avx512"),
        artifacts=found,
    )


def _measure_loading(checkpoint: str) -> dict[str, float]:
    """Medians over fresh processes; the first one, which may read from the disk, is not counted."""
    command = [sys.executable, "-m", "benchmarks.loading", checkpoint]
    environment = os.environ | {"TRANSFORMER_FAST_NUM_THREADS": "1"}
    found = []
    for _ in range(_LOADS + 1):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}

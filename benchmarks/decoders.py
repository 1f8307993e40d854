"""Language models: prompts and steps of ours in every format, beside llama.cpp on the same GGUF files, and others.

Run as `python -m benchmarks decoders --threads 1 --out ...`. Weights are random, in the shapes of SmolLM2-135M,
Qwen3-0.6B and Llama-3.2-1B: safetensors, and GGUF files of the same numbers that llama.cpp's own quantiser makes. A
format is a lane of its own, so that all take turns in the same rounds (the models of all lanes at once are some 25 GB
for the largest shape: --compute-types and --peers choose lanes, --only cases). A narrow lane's logits are compared by
their cosine to torch's in float32. A step reads every weight once: the figure beside a lane's time is the share of the
streaming read of the bytes that it keeps (`of_read` of `ours` is that of float32). A new shape is a line in `MODELS`,
a format one in `FORMATS`, a peer one in `PEERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import artifacts, wire
from benchmarks.backends import FLOAT32
from benchmarks.claims import AVX512, Claim, Results
from benchmarks.runner import Lane, Run, Work
from benchmarks.wire import Case, DecodeCase, PrefillCase

# Formats of GGUF that ours and llama.cpp both read -> the form of artifacts.py.
FORMATS = {"Q8_0": "gguf_q8_0", "Q4_0": "gguf_q4_0", "Q4_K": "gguf_q4_k"}
A8 = tuple(f"{name}_a8" for name in FORMATS)
NARROW = ("bfloat16", "int8", "int8_a16", "int4", *FORMATS, *A8)
# (backend, compute type, forms of artifacts.py that it reads)
PEERS = (
    *(("llama_cpp", name, (form,)) for name, form in FORMATS.items()),
    ("ctranslate2", "int8", ("ctranslate2",)),
    ("torch", FLOAT32, ()),
)
MODELS = ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b")
_PROMPTS = (512, 2048)
_CONTEXTS = (64, 2048)
_STEPS = 8
_ROWS = (1, 4, 8)
# Blocks of 4 bits, of random weights: cosines of 0.98 and more; far above what a wrong result gives.
_LEAST_COSINE = 0.8
_TOLERANCE = 1e-2
_QUICK = "smollm2-135m"


def label(backend: str, compute_type: str) -> str:
    """What a lane is called: "ours, Q4_K"; the plain name for float32."""
    return backend if compute_type == FLOAT32 else f"{backend}, {compute_type}"


OURS = tuple(label("ours", name) for name in NARROW)
_PEERS = tuple(label(backend, compute_type) for backend, compute_type, _ in PEERS)
LABELS = ("ours", *OURS, *_PEERS)


def lanes(chosen: Sequence[str], threads: int) -> list[Lane]:
    """Ours in every format, and the peers whose backends are chosen."""
    found = [Lane("ours", "ours", threads)]
    found += [Lane(label("ours", name), "ours", threads, compute_type=name) for name in NARROW]
    return found + [
        Lane(label(peer, name), peer, threads, compute_type=name) for peer, name, _ in PEERS if peer in chosen
    ]


def _prompt_name(model: str, L: int) -> str:
    return f"{model} prompt {L}"


def _step_name(model: str, B: int, L: int) -> str:
    return f"{model} step {B} at {L}"


def cases(quick: bool = False) -> list[Case]:
    """Prompts of every model, steps at two contexts, several rows at the short one."""
    found: list[Case] = []
    for model in MODELS if not quick else (_QUICK,):
        found += [PrefillCase(_prompt_name(model, L), model, 1, L) for L in (_PROMPTS if not quick else (64,))]
        found += [DecodeCase(_step_name(model, 1, L), model, 1, L, _STEPS) for L in (_CONTEXTS if not quick else (64,))]
        if not quick:
            found += [DecodeCase(_step_name(model, B, 64), model, B, 64, _STEPS) for B in _ROWS[1:]]
    return found


# What is counted ------------------------------------------------------------------------------------------------------


def _layer_numbers(config: dict[str, Any]) -> int:
    h, H, Hkv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    D = config.get("head_dim") or h // H
    return 2 * h * H * D + 2 * h * Hkv * D + 3 * h * config["intermediate_size"]


def _numbers(config: dict[str, Any]) -> int:
    """Of the matrices that a step reads."""
    return config["num_hidden_layers"] * _layer_numbers(config) + config["hidden_size"] * config["vocab_size"]


def _flops(case: Case, config: dict[str, Any]) -> int:
    """Causal: what is hidden is not counted. The head gives the last token's logits."""
    prompt = isinstance(case, PrefillCase)
    tokens = case.L if prompt else 1
    pairs = case.L * (case.L + 1) // 2 if prompt else case.L + 1
    H = config["num_attention_heads"]
    D = config.get("head_dim") or config["hidden_size"] // H
    layers = config["num_hidden_layers"] * (2 * tokens * _layer_numbers(config) + 4 * pairs * H * D)
    return case.B * (layers + 2 * config["hidden_size"] * config["vocab_size"])


# The claims -----------------------------------------------------------------------------------------------------------

_LARGE = "llama-3.2-1b"


def _over_float32(compute_type: str, bound: float) -> Claim:
    case = _step_name(_LARGE, 1, 64)

    def value(results: Results) -> float:
        return results.seconds(case) / results.seconds(case, label("ours", compute_type))

    return Claim(f"{_LARGE}, one step, {compute_type}: times as fast as our float32", value, bound, threads=1)


def _over_llama_cpp(case: str, compute_type: str, bound: float, text: str, **runs: Any) -> Claim:
    """Of the same file: llama.cpp rounds activations to 8 bits, too, where compute_type is one of `A8`. runs: threads
    and isas of the claim."""

    def value(results: Results) -> float:
        theirs = results.seconds(case, label("llama_cpp", compute_type.removesuffix("_a8")))
        return theirs / results.seconds(case, label("ours", compute_type))

    return Claim(f"{_LARGE}, {text}, {compute_type}: times as fast as llama.cpp", value, bound, **runs)


def _claims():
    step, prompt, rows = _step_name(_LARGE, 1, 64), _prompt_name(_LARGE, 512), _step_name(_LARGE, 8, 64)
    yield Claim(
        f"{_LARGE}, one step, float32: share of the streaming read",
        lambda results: results.figure(step, "of_read"),
        0.9,
    )
    for name, bound in (("bfloat16", 1.85), ("int8", 3.4), ("Q8_0", 3.4), ("int4", 6.0), ("Q4_0", 6.0), ("Q4_K", 5.5)):
        yield _over_float32(name, bound)
    for name, bound in (("Q8_0", 1.3), ("Q4_0", 1.2), ("Q4_K", 1.2)):
        for ours in (name, f"{name}_a8"):
            yield _over_llama_cpp(step, ours, bound, "one step", threads=1)
            yield _over_llama_cpp(step, ours, 1.1, "one step", threads=2)
            yield _over_llama_cpp(prompt, ours, 2.0, "prompt of 512", isas=("avx2", "avxvnni"))
            yield _over_llama_cpp(prompt, ours, 1.3, "prompt of 512", isas=AVX512)
            yield _over_llama_cpp(rows, ours, 1.5, "step of 8 rows")

    def over_ctranslate2(results: Results) -> float:
        return results.seconds(prompt, "ctranslate2, int8") / results.seconds(prompt, "ours, int8")

    yield Claim(f"{_LARGE}, prompt of 512, int8: times as fast as ctranslate2 in int8", over_ctranslate2, 1.3)


CLAIMS: tuple[Claim, ...] = tuple(_claims())


# Measuring them -------------------------------------------------------------------------------------------------------


def run(session: Run, quick: bool, only: str = "") -> None:
    for case in cases(quick):
        if not any(text in case.name for text in only.split(",")):
            continue
        found = artifacts.prepare(case.model, _forms(session), session.report)
        if not found:
            session.report(f"decoders: {case.name} is left out")
            continue
        session.measure(work(case, found))


def _forms(session: Run) -> list[str]:
    """What the lanes of this run read."""
    forms = [form for peer, name, forms in PEERS if label(peer, name) in session.workers for form in forms]
    of_ours = [name for name in (*FORMATS, *A8) if label("ours", name) in session.workers]
    forms += [FORMATS[name.removesuffix("_a8")] for name in of_ours]
    return list(dict.fromkeys(forms))


def work(case: Case, found: dict[str, Any]) -> Work:
    """`found`: what artifacts.prepare gave for the model."""
    config = found["config"]
    step = isinstance(case, DecodeCase)

    def expected(session: Run, path: str) -> bool:
        request = {"case": wire.to_json(case), "artifacts": found, "picked": [0], "path": path}
        return "unsupported" not in session.ask("torch", "reference", **request)

    return Work(
        case=case,
        group=case.model,
        flops=_flops(case, config),
        rows=[0],
        expected=expected,
        tolerance=_TOLERANCE,
        stream_bytes=4 * _numbers(config) if step else 0,
        peers=_PEERS,
        extra=OURS,
        least_cosine=_LEAST_COSINE,
        artifacts=found,
    )

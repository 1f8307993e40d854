"""Other families: GPT-2 (prefill, decoding, generation), T5 with beams, ViT, Whisper's encoder, BigBird on long texts,
modules of torch.nn.

Run as `python -m benchmarks families --threads 1 --out ...`. Weights are random, shapes those of GPT-2 small, T5 small,
ViT base, Whisper tiny and BigBird base. A new case is an entry of `measured()`; a new model is also a line in
artifacts.py, a new module one in modules.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import artifacts, models, wire
from benchmarks.claims import Claim, faster_than, of_peak, of_read
from benchmarks.runner import Run, Work
from benchmarks.wire import Case, DecodeCase, FeaturesCase, GenerateCase, ModelCase, ModuleCase, PrefillCase

_FORMS_OF = {
    "gpt2": {"ctranslate2": ("ctranslate2",)},
    "t5": {"ctranslate2": ("ctranslate2",)},
    "vit": {"onnxruntime": ("onnx",), "openvino": ("openvino",)},
    "whisper": {},
    "big_bird": {},
}
# Logits and hidden states are of the size of 1; two float32 results end 1e-6 to 1e-5 apart. Of ids none may differ.
_TOLERANCE = 1e-3
_SAME_IDS = 0.5
# Calls of some seconds: two turns of each peer, so that the whole question stays below four minutes.
_ROUNDS_OF_LONG_CALLS = 2
_LONG_FLOPS = 2e11

# Shapes that the counts below need; those of artifacts.py.
_GPT2 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_GPT2_VOCABULARY = 50257
_T5 = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
_T5_VOCABULARY = 32128
_VIT = _GPT2
_VIT_TOKENS, _PATCH = 197, 3 * 16 * 16
_WHISPER = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4}
_FRAMES, _MEL_BINS = 3000, 80
_BIG_BIRD = _GPT2 | {"num_hidden_layers": 2}
_BLOCK = 64


@dataclass(frozen=True)
class Measured:
    """A case and what is known of it beforehand."""

    case: Case
    group: str
    flops: int
    stream_bytes: int = 0


# What is counted ------------------------------------------------------------------------------------------------------


def _matrices(shape: dict[str, int]) -> int:
    """Numbers in the matrices of a stack of self-attention and feed-forward."""
    return models.flops(shape, 1, 0) // 2


def _gpt2_flops(B: int, past: int, new: int, scored: int) -> int:
    """`new` tokens a row after `past` ones, logits of `scored` of them; causal: what is hidden is not counted."""
    pairs = new * past + new * (new + 1) // 2
    head = 2 * scored * _GPT2["hidden_size"] * _GPT2_VOCABULARY
    return B * (models.flops(_GPT2, new, pairs) + head)


def _gpt2_stream_bytes() -> int:
    """Of the matrices of the layers and of the head, all of which a step reads."""
    return 4 * (_matrices(_GPT2) + _GPT2["hidden_size"] * _GPT2_VOCABULARY)


def _t5_flops(B: int, L: int, new: int, beams: int) -> int:
    """The encoder, and `new` steps of the decoder for every beam; keys and values of the source once a row."""
    h, layers = _T5["hidden_size"], _T5["num_hidden_layers"]
    encoder = models.flops(_T5, L, L * L)
    source = layers * 2 * L * 2 * h * h
    crossing = layers * (2 * new * 2 * h * h + 4 * new * L * h)
    decoder = models.flops(_T5, new, new * (new + 1) // 2) + crossing + 2 * new * h * _T5_VOCABULARY
    return B * (encoder + source + beams * decoder)


def _vit_flops(B: int) -> int:
    patches = 2 * (_VIT_TOKENS - 1) * _PATCH * _VIT["hidden_size"]
    return B * (patches + models.flops(_VIT, _VIT_TOKENS, _VIT_TOKENS**2))


def _whisper_flops(B: int) -> int:
    h, tokens = _WHISPER["hidden_size"], _FRAMES // 2
    convolutions = 2 * 3 * h * (_FRAMES * _MEL_BINS + tokens * h)
    return B * (convolutions + models.flops(_WHISPER, tokens, tokens**2))


def _big_bird_flops(L: int) -> int:
    """The first and the last block see all blocks, the others five, but the second and the last but one four."""
    blocks = L // _BLOCK
    return models.flops(_BIG_BIRD, L, (2 * blocks + 5 * (blocks - 2) - 2) * _BLOCK**2)


def _module_flops(case: ModuleCase) -> int:
    h, tokens, pairs = case.width, case.B * case.L, case.B * case.L**2
    if case.module == "encoder":
        return models.flops({"hidden_size": h, "intermediate_size": 4 * h, "num_hidden_layers": 6}, tokens, pairs)
    if case.module in ("lstm", "gru"):
        gates = {"lstm": 4, "gru": 3}[case.module]
        return 2 * tokens * gates * 2 * h * h
    memory = 512 if case.module == "attention, kdim" else h
    return 2 * tokens * (2 * h * h + 2 * memory * h) + 4 * pairs * h


# The cases ------------------------------------------------------------------------------------------------------------

_PROMPT, _STEPS = 512, 8
_GENERATE = GenerateCase("gpt2, 32 tokens after 64", "gpt2", 1, 64, 32)
_TRANSLATE = GenerateCase("t5, 32 tokens of 32, beam 4", "t5", 1, 32, 32, beams=4)
_WHISPER_CASE = FeaturesCase("whisper encoder 1", "whisper", (1, _MEL_BINS, _FRAMES))
_BIG_BIRD_CASES = tuple(ModelCase(f"big_bird 1 x {L}", "big_bird", 1, L) for L in (1024, 4096))
# Module and times that it has to be as fast as torch's.
_MODULES = (
    (ModuleCase("MultiheadAttention", "attention", 768, 4, 512), 2.0),
    (ModuleCase("MultiheadAttention, need_weights", "attention, weights", 768, 4, 512), 2.0),
    (ModuleCase("MultiheadAttention, key_padding_mask", "attention, padding", 768, 4, 512), 2.5),
    (ModuleCase("MultiheadAttention, add_bias_kv", "attention, bias_kv", 768, 4, 512), 2.5),
    (ModuleCase("MultiheadAttention, kdim=vdim=512", "attention, kdim", 768, 4, 512), 2.5),
    (ModuleCase("TransformerEncoder, 6 layers", "encoder", 512, 8, 128), 2.2),
    (ModuleCase("LSTM 256, 8 x 100", "lstm", 256, 8, 100), 1.0),
    (ModuleCase("LSTM 512, 1 x 50", "lstm", 512, 1, 50), 1.0),
    (ModuleCase("GRU 256, 8 x 100", "gru", 256, 8, 100), 1.0),
    (ModuleCase("GRU 512, 1 x 50", "gru", 512, 1, 50), 1.0),
)


def _prefill_name(B: int) -> str:
    return f"gpt2 prefill {B} x {_PROMPT}"


def _decode_name(B: int) -> str:
    return f"gpt2 decode {B}, {_PROMPT} in the cache"


def _vit_name(B: int) -> str:
    return f"vit {B}"


# Where a tile unit has something to do: measured without it, too.
_BELOW = (_prefill_name(1), _vit_name(1), _WHISPER_CASE.name)


def measured() -> list[Measured]:
    """Everything, in order; modules last, since ours needs torch in its process for their weights."""
    found = []
    for B in (1, 8):
        case = PrefillCase(_prefill_name(B), "gpt2", B, _PROMPT)
        found.append(Measured(case, "GPT-2 small", _gpt2_flops(B, 0, _PROMPT, 1)))
    for B in (1, 8):
        step = DecodeCase(_decode_name(B), "gpt2", B, _PROMPT, _STEPS)
        found.append(Measured(step, "GPT-2 small", _gpt2_flops(B, _PROMPT, 1, 1), _gpt2_stream_bytes()))
    case = _GENERATE
    found.append(Measured(case, "GPT-2 small", _gpt2_flops(case.B, 0, case.L + case.new, case.new)))
    case = _TRANSLATE
    found.append(Measured(case, "T5 small", _t5_flops(case.B, case.L, case.new, case.beams)))
    for B in (1, 8):
        found.append(Measured(FeaturesCase(_vit_name(B), "vit", (B, 3, 224, 224)), "ViT base", _vit_flops(B)))
    found.append(Measured(_WHISPER_CASE, "Whisper tiny", _whisper_flops(1)))
    found += [Measured(case, "BigBird base, 2 layers", _big_bird_flops(case.L)) for case in _BIG_BIRD_CASES]
    found += [Measured(case, "Modules of torch.nn", _module_flops(case)) for case, _ in _MODULES]
    return found


def _claims():
    one, eight = _prefill_name(1), _prefill_name(8)
    yield of_read("GPT-2, one step at batch 1", _decode_name(1), 0.80)
    for name, text in ((one, "batch 1"), (eight, "batch 8")):
        yield of_peak(f"GPT-2, prefill of {_PROMPT} at {text}", name, 0.85)
    yield faster_than("torch", [one, eight], 1.5, "GPT-2, prefill at batch 1 and 8")
    yield faster_than("ctranslate2", [one, eight], 1.0, "GPT-2, prefill at batch 1 and 8")
    yield faster_than("torch", [_decode_name(1), _decode_name(8)], 1.5, "GPT-2, one step at batch 1 and 8")
    yield faster_than("torch", [_GENERATE.name], 1.5, "GPT-2, 32 tokens after 64")
    yield faster_than("ctranslate2", [_GENERATE.name], 1.0, "GPT-2, 32 tokens after 64")
    for peer in ("torch", "ctranslate2"):
        yield faster_than(peer, [_TRANSLATE.name], 1.0, "T5, beam 4")
    yield faster_than("torch", [_vit_name(1), _vit_name(8)], 2.0, "ViT, batch 1 and 8")
    yield faster_than("openvino", [_vit_name(1), _vit_name(8)], 1.0, "ViT, batch 1 and 8")
    yield faster_than("torch", [_WHISPER_CASE.name], 2.0, "Whisper's encoder")
    yield faster_than("torch", [_BIG_BIRD_CASES[1].name], 3.0, "BigBird, 4,096 tokens")
    for case, bound in _MODULES:
        yield faster_than("torch", [case.name], bound, case.name)


CLAIMS: tuple[Claim, ...] = tuple(_claims())


# Measuring them -------------------------------------------------------------------------------------------------------


def run(session: Run, quick: bool) -> None:
    for one in measured():
        if quick and not is_small(one):
            continue
        found: dict[str, Any] = {}
        if isinstance(one.case, ModuleCase) and importlib.util.find_spec("torch") is None:
            session.report(f"families: {one.case.name} is left out, since torch is not installed")
            continue
        if wire.needs_artifacts(one.case):
            found = artifacts.prepare(one.case.model, _forms(session, one.case.model), session.report)
            if not found:
                session.report(f"families: {one.case.name} is left out")
                continue
        session.measure(work(one, found))


def is_small(one: Measured) -> bool:
    """What a quick run measures: every kind of case, at batch 1."""
    return one.flops < 1e11 and rows(one.case) == 1 or one.case == _MODULES[0][0]


def rows(case: Case) -> int:
    return case.shape[0] if isinstance(case, FeaturesCase) else case.B


def _forms(session: Run, model: str) -> list[str]:
    """What the peers of this run read."""
    return [form for peer, forms in _FORMS_OF[model].items() if peer in session.workers for form in forms]


def work(one: Measured, found: dict[str, Any]) -> Work:
    """Compared are the first row and the last, with what torch gives in float32."""
    B = rows(one.case)
    picked = sorted({0, B - 1})
    tokens = _rows_of_a_result(one.case) // B
    return Work(
        case=one.case,
        group=one.group,
        flops=one.flops,
        rows=[b * tokens + i for b in picked for i in range(tokens)],
        expected=_expected(one.case, found, picked),
        tolerance=_SAME_IDS if isinstance(one.case, GenerateCase) else _TOLERANCE,
        stream_bytes=one.stream_bytes,
        extra=("ours, 1 thread", "ours, avx512") if one.case.name in _BELOW else ("ours, 1 thread",),
        rounds=_ROUNDS_OF_LONG_CALLS if one.flops > _LONG_FLOPS else None,
        artifacts=found,
    )


def _rows_of_a_result(case: Case) -> int:
    """How many rows the last axis of the result has: hidden states one a token, all others one a sequence."""
    if isinstance(case, FeaturesCase):
        return case.shape[0] * (_VIT_TOKENS if case.model == "vit" else case.shape[2] // 2)
    return case.B * case.L if isinstance(case, ModelCase) else case.B


def _expected(case: Case, found: dict[str, Any], picked: list[int]) -> Callable[[Run, str], bool]:
    def expected(session: Run, path: str) -> bool:
        request = {"case": wire.to_json(case), "artifacts": found, "picked": picked, "path": path}
        return "unsupported" not in session.ask("torch", "reference", **request)

    return expected

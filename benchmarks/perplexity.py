"""What narrow numbers cost a language model: perplexity of a small one, trained here on Python's own source.

Run as `python -m benchmarks.perplexity` (torch trains for some minutes the first time; llama-cpp-python writes the GGUF
files). A Llama of bytes, 4 layers of width 256, is trained on the standard library of the running Python and judged on
files that it has not seen: perplexity a byte in float32, and by how many percent each format and each type of cache
changes it. The table is printed, and written to build/benchmarks/bytes/perplexity.json. A new format is a line in
`FORMATS`; models of other sizes and texts change the figures, not their order.
"""

from __future__ import annotations

import json
import math
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, artifacts

FORMATS = ("float32", "bfloat16", "int8", "int8_a16", "int4")
GGUF_FORMATS = {"Q8_0": "gguf_q8_0", "Q6_K": "gguf_q6_k", "Q4_K": "gguf_q4_k", "Q4_0": "gguf_q4_0"}
CACHES = ("float16", "bfloat16", "int8")
_FOLDER = ROOT / "build" / "benchmarks" / "bytes"
_CONFIG = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
# 600 steps of 8 rows of 256 bytes: some 5 minutes on two cores.
_STEPS, _ROWS, _LENGTH = 600, 8, 256
_LEARNING_RATE, _WARM_UP = 2e-3, 50
# All formats predict the same 64 x 255 bytes, so that their differences need no larger sample.
_JUDGED_ROWS = 64


def text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on, and bytes of other files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    judged = [path for i, path in enumerate(files) if i % 10 == 0]
    parts = ([path for path in files if path not in judged], judged)
    return tuple(np.frombuffer(b"".join(path.read_bytes() for path in part), np.uint8) for part in parts)


def _train(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**_CONFIG))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    source, rng = text()[0], np.random.default_rng(0)
    for step in range(_STEPS):
        share = min((step + 1) / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / _STEPS))
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * share
        first = rng.integers(0, len(source) - _LENGTH, _ROWS)
        ids = torch.from_numpy(source[first[:, None] + np.arange(_LENGTH)].astype(np.int64))
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


def _perplexity(model: Any, ids: np.ndarray, **options: Any) -> float:
    """Of the bytes of ids (B, L) but for each row's first; options: of `forward`."""
    losses = []
    for row in ids:
        logits = model(row[None], **options).logits[0, :-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(row) - 1), row[1:]])
    return float(np.exp(np.mean(losses)))


def _with_cache(model: Any, ids: np.ndarray, dtype: str) -> float:
    """Perplexity of the second half of each row, whose first half is read from a cache of that type."""
    half, losses = ids.shape[1] // 2, []
    for row in ids:
        state = model.body.new_state(1, len(row), trimmed=False, dtype=dtype)
        model(row[None, :half], past_key_values=state, use_cache=True)
        logits = []
        for i in range(half, len(row) - 1):
            logits.append(model(row[None, i : i + 1], past_key_values=state, use_cache=True).logits[0])
        logits = np.concatenate(logits).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), row[half + 1 :]])
    return float(np.exp(np.mean(losses)))


def main() -> None:
    import transformer_fast as tf

    checkpoint = _FOLDER / "checkpoint"
    if not checkpoint.exists():
        partial = checkpoint.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        _train(partial)
        partial.rename(checkpoint)
    judged = text()[1]
    first = np.random.default_rng(1).integers(0, len(judged) - _LENGTH, _JUDGED_ROWS)
    ids = judged[first[:, None] + np.arange(_LENGTH)].astype(np.int64)
    found = {name: _perplexity(tf.load_model(checkpoint, compute_type=name), ids) for name in FORMATS}
    forms = artifacts.convert(checkpoint, _FOLDER, list(GGUF_FORMATS.values()), print)
    for name, form in GGUF_FORMATS.items():
        if form in forms:
            found[name] = _perplexity(tf.load_model(forms[form]), ids)
    whole = found["float32"]
    for name, value in found.items():
        print(f"{name:12} {value:.4f}  {100 * (value / whole - 1):+.3f} %")
    model = tf.load_model(checkpoint)
    caches = {name: _with_cache(model, ids[:16], name) for name in ("float32", *CACHES)}
    for name, value in caches.items():
        print(f"cache {name:9} {value:.4f}  {100 * (value / caches['float32'] - 1):+.3f} %")
    result = {"perplexity": found, "caches": caches, "config": _CONFIG, "steps": _STEPS}
    (_FOLDER / "perplexity.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

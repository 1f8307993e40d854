"""A small language model of bytes, which torch trains on Python's own source: what formats are judged by.

perplexity.py and greedy.py judge a Llama of 4 layers of width 256, trained on the standard library of the running
Python, by files of it that the model has not seen; tests/oracle/test_trained_model.py trains a smaller one. Random
models will not do: their perplexity says nothing, and their best tokens are ties. Another model is another `config`
for `train`; widths that are multiples of 256 let every matrix have every format of GGUF.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
# 600 steps of 8 rows of 256 bytes: some 450 s of processor time on Zen 4 (0.75 s a step, busy).
STEPS = 600
LENGTH = 256
_ROWS = 8
_LEARNING_RATE, _WARM_UP = 2e-3, 50


def text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on, and bytes of other files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    judged = [path for i, path in enumerate(files) if i % 10 == 0]
    parts = ([path for path in files if path not in judged], judged)
    return tuple(np.frombuffer(b"".join(path.read_bytes() for path in part), np.uint8) for part in parts)


def judged_rows(count: int, length: int, seed: int) -> np.ndarray:
    """Ids (count, length) from random places of the text that no model is trained on."""
    judged = text()[1]
    first = np.random.default_rng(seed).integers(0, len(judged) - length, count)
    return judged[first[:, None] + np.arange(length)].astype(np.int64)


def train(
    folder: Path,
    config: dict[str, Any] = CONFIG,
    steps: int = STEPS,
    length: int = LENGTH,
    report: Callable[[str], None] = print,
) -> None:
    """Writes a checkpoint of a model of that config into the folder, which is there in the end or not at all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    source, rng = text()[0], np.random.default_rng(0)
    for step in range(steps):
        share = min((step + 1) / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * share
        first = rng.integers(0, len(source) - length, _ROWS)
        ids = torch.from_numpy(source[first[:, None] + np.arange(length)].astype(np.int64))
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            report(f"step {step}: loss {loss.item():.3f}")
    partial = folder.with_suffix(".partial")
    model.save_pretrained(partial)
    partial.rename(folder)

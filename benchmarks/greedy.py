"""Greedy tokens of a GGUF file: ours, those of float32 on the file's values, and llama.cpp's.

Called by perplexity.py on the model that byte_model.py trains, and by tests/oracle/test_trained_model.py. llama.cpp
runs in a process of its own, `python -m benchmarks.greedy`, with keys and values in float32 and without flash
attention: what differs is then how each library multiplies by the file's matrices. llama.cpp rounds activations to
8 bits in blocks (for F16 files to float16), ours to 16 bits a token (for F16 files not at all). So "float32", the
file's values multiplied in float32, tells how much of a difference is whose.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT

# Format of GGUF -> the form of artifacts.py.
FORMATS = {"F32": "gguf_f32", "F16": "gguf_f16", "Q8_0": "gguf_q8_0", "Q4_0": "gguf_q4_0", "Q4_K": "gguf_q4_k"}


def compare(name: str, path: str | Path, prompts: np.ndarray, new: int, threads: int) -> dict[str, Any]:
    """How many rows of prompts (B, L) two have the same `new` greedy tokens for; name: the file's, of `FORMATS`.

    Of each two of ours, llama.cpp's and float32's; and, where the file has blocks, of ours with activations in 8 bits
    ("auto_a8") and float32's. `largest_gap`: over the rows for which ours and llama.cpp's differ, how far apart
    float32's logits of the two tokens are at the first difference, at most (0 if none differ): near-ties have a small
    one.

    Raises:
        subprocess.CalledProcessError: llama.cpp's process failed.
    """
    import transformer_fast as tf

    exact = tf.load_model(path, compute_type="float32")
    own, whole = (_generated(model, prompts, new) for model in (tf.load_model(path), exact))
    peer = llama_cpp_tokens(path, prompts, new, threads)

    def same(a: np.ndarray, b: np.ndarray) -> int:
        return int((a == b).all(axis=1).sum())

    found = {
        "prompts": len(prompts),
        "ours_llama_cpp": same(own, peer),
        "ours_float32": same(own, whole),
        "llama_cpp_float32": same(peer, whole),
        "largest_gap": max(_gaps(exact, prompts, own, peer), default=0.0),
    }
    if name not in ("F32", "F16"):
        own_a8 = _generated(tf.load_model(path, compute_type="auto_a8"), prompts, new)
        found["ours_a8_float32"] = same(own_a8, whole)
    return found


def llama_cpp_tokens(path: str | Path, prompts: np.ndarray, new: int, threads: int) -> np.ndarray:
    """llama.cpp's greedy tokens (B, new) after each row of prompts (B, L), computed by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "prompts.npy", Path(folder) / "tokens.npy"
        np.save(given, prompts)
        arguments = [str(path), str(given), str(found), "--new", str(new), "--threads", str(threads)]
        subprocess.run([sys.executable, "-m", "benchmarks.greedy", *arguments], cwd=ROOT, check=True)
        return np.load(found)


def _generated(model: Any, prompts: np.ndarray, new: int) -> np.ndarray:
    return model.generate(prompts, max_new_tokens=new, eos_token_id=None)[:, prompts.shape[1] :]


def _gaps(model: Any, prompts: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[float]:
    """For each row that differs, how far apart the model's logits of the first two tokens that differ are."""
    found = []
    for prompt, first, second in zip(prompts, a, b, strict=True):
        if (first != second).any():
            at = int(np.flatnonzero(first != second)[0])
            logits = model(np.concatenate([prompt, first[:at]])[None]).logits[0, -1]
            found.append(abs(float(logits[first[at]]) - float(logits[second[at]])))
    return found


def main() -> None:
    from benchmarks.backends.llama_cpp import Session

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    prompts = np.load(options.prompts)
    L = prompts.shape[1]
    session = Session(options.path, options.threads, 1, L + options.new, exact_attention=True)
    tokens = np.empty((len(prompts), options.new), np.int64)
    for prompt, row in zip(prompts, tokens, strict=True):
        session.clear()
        logits = session.decode(prompt[None], np.zeros(1, np.int64), last=True)
        for i in range(options.new):
            row[i] = logits[0].argmax()
            if i + 1 < options.new:
                logits = session.decode(row[None, i : i + 1], np.array([L + i]), last=True)
    np.save(options.tokens, tokens)


if __name__ == "__main__":
    main()

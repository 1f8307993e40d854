"""sentence-transformers' own `encode`: what users of the same checkpoints have today.

As its documentation advises for a CPU: inference through torch on as many threads, attn_implementation="sdpa", float32,
the batch size of the case (32 is its default). It sorts by length and pads by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.backends import Backend, Variant
from benchmarks.wire import TextsCase


class SentenceTransformers(Backend):
    packages = ("sentence-transformers", "transformers", "torch")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def settings(self) -> dict[str, Any]:
        return {"set_num_threads": self.threads, "set_num_interop_threads": 1, "attn_implementation": "sdpa"}

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        encode, texts = self._load(case, artifacts)
        return [Variant(f"SentenceTransformer.encode, batch_size={case.batch_size}", lambda: encode(texts))]

    def reference(self, case: TextsCase, artifacts: dict[str, Any], picked: list[int]) -> np.ndarray:
        """The embeddings of these texts of the case, (len(picked), h)."""
        encode, texts = self._load(case, artifacts)
        return encode([texts[i] for i in picked])

    def _load(self, case: TextsCase, artifacts: dict[str, Any]) -> tuple[Callable[[list[str]], np.ndarray], list[str]]:
        model = SentenceTransformer(
            artifacts["checkpoint"], device="cpu", model_kwargs={"attn_implementation": "sdpa"}, local_files_only=True
        )
        # The folder's Normalize has no file of its own, and some releases leave it out then: asking twice is harmless.
        options = {"batch_size": case.batch_size, "show_progress_bar": False, "normalize_embeddings": True}
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return lambda chosen: model.encode(chosen, **options), texts


BACKEND = SentenceTransformers

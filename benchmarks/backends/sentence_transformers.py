"""sentence-transformers' own classes and `semantic_search`: what users of the same checkpoints have today.

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
from sentence_transformers import (
    CrossEncoder,
    MultiVectorEncoder,
    SentenceTransformer,
    SparseEncoder,
    util,
)

from benchmarks.backends import Backend, Variant
from benchmarks.wire import EncodeCase, SearchCase, TextsCase

_OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "model_kwargs": {"attn_implementation": "sdpa"},
    "local_files_only": True,
}


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

    def encode(self, case: EncodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        documents, options = texts["documents"], {"batch_size": case.batch_size, "show_progress_bar": False}
        if case.task == "rank":
            ranker, pairs = CrossEncoder(artifacts["checkpoint"], **_OPTIONS), [(texts["query"], d) for d in documents]
            return [Variant("CrossEncoder.predict", lambda: ranker.predict(pairs, **options), lambda x: x[:, None])]
        if case.task == "sparse":
            sparse = SparseEncoder(artifacts["checkpoint"], **_OPTIONS)
            call, read = sparse.encode_document, lambda x: x.to_dense().numpy()
        else:
            multi = MultiVectorEncoder(artifacts["checkpoint"], **_OPTIONS)
            call, read = multi.encode_document, lambda x: np.concatenate([np.asarray(one) for one in x])
        return [
            Variant(f"{call.__self__.__class__.__name__}.encode_document", lambda: call(documents, **options), read)
        ]

    def search(self, case: SearchCase) -> list[Variant]:
        queries, corpus = map(torch.from_numpy, case.make_inputs())
        return [
            Variant(
                "util.semantic_search",
                lambda: util.semantic_search(queries, corpus, top_k=case.k),
                lambda found: np.array([[hit["score"] for hit in hits] for hits in found]),
            )
        ]

    def reference(self, case: TextsCase | EncodeCase, artifacts: dict[str, Any], picked: list[int]) -> np.ndarray:
        """The embeddings of these texts of the case, (len(picked), h); of an EncodeCase these rows of the result."""
        if isinstance(case, EncodeCase):
            (variant,) = self.encode(case, artifacts)
            return variant.read(variant.call())[picked]
        encode, texts = self._load(case, artifacts)
        return encode([texts[i] for i in picked])

    def _load(self, case: TextsCase, artifacts: dict[str, Any]) -> tuple[Callable[[list[str]], np.ndarray], list[str]]:
        model = SentenceTransformer(artifacts["checkpoint"], **_OPTIONS)
        # The folder's Normalize has no file of its own, and some releases leave it out then: asking twice is harmless.
        options = {"batch_size": case.batch_size, "show_progress_bar": False, "normalize_embeddings": True}
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return lambda chosen: model.encode(chosen, **options), texts


BACKEND = SentenceTransformers

"""transformer_fast itself, through its public functions; also what the processor and its memory can do at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import transformer_fast as tf
from benchmarks.backends import Backend, Variant
from benchmarks.wire import AttentionCase, LinearCase, ModelCase, TextsCase
from transformer_fast import functional

# As a decoder packs them: batches of so many rows are its steps.
_FEW_ROWS = 24


class Ours(Backend):
    packages = ("numpy",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        tf.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"transformer_fast": tf.__version__, **super().versions()}

    def settings(self) -> dict[str, Any]:
        return {"set_num_threads": self.threads, **functional.show_config()}

    def fma_peak(self, seconds: float) -> float:
        """GFLOP/s of this process's instruction set and number of threads."""
        return functional.measure_fma_peak(self.threads, seconds)

    def streaming_read(self, nbytes: int) -> float:
        """GB/s, from whichever cache (or memory) holds that many bytes."""
        return functional.measure_streaming_read(nbytes, self.threads)

    def attention(self, case: AttentionCase) -> list[Variant]:
        (query, key, value), options = case.make_inputs()
        return [
            Variant(
                "scaled_dot_product_attention",
                lambda: functional.scaled_dot_product_attention(query, key, value, **options),
            )
        ]

    def linear(self, case: LinearCase) -> list[Variant]:
        (x, weight), options = case.make_inputs()
        packed = functional.pack_weight(weight, few_rows=case.M <= _FEW_ROWS)
        return [Variant("linear, packed weight", lambda: functional.linear(x, packed, **options))]

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = tf.load_model(artifacts["checkpoint"])
        ids = case.make_ids(model.config.vocab_size)
        packed, starts = ids.reshape(-1), np.arange(0, ids.size + 1, case.L)

        def read(hidden: np.ndarray) -> np.ndarray:
            return hidden.reshape(case.B, case.L, -1)

        return [
            Variant("load_model(...)(input_ids)", lambda: model(ids)[0]),
            Variant("encode_packed", lambda: model.encode_packed(packed, starts), read),
        ]

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        encoder = tf.SentenceEncoder.from_pretrained(artifacts["checkpoint"])
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return [
            Variant(
                f"SentenceEncoder.encode, batch_size={case.batch_size}",
                lambda: encoder.encode(texts, batch_size=case.batch_size, show_progress_bar=False),
            )
        ]


BACKEND = Ours

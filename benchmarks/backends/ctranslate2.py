"""CTranslate2: BERT encoders, GPT-2 and T5 through its converter from transformers.

As its documentation advises for latency: intra_threads is the number of threads, inter_threads 1, float32; or, of the
same converted model, compute_type="int8" (weights with a scale a row, activations rounded by row). Left alone it chose
AVX2 on a processor with AVX-512; CT2_FORCE_CPU_ISA names the best level that the processor has instead, and what came
of it is read back from the library's own log. A level set in the environment stays.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from benchmarks.artifacts import ct2_id, ct2_token
from benchmarks.backends import Backend, Variant, converted
from benchmarks.texts import PaddedEncoder
from benchmarks.wire import GenerateCase, ModelCase, PrefillCase, TextsCase


class CTranslate2(Backend):
    packages = ("ctranslate2",)
    compute_types = ("float32", "int8")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
        # Its AVX-512 code is compiled for F, CD, VL, BW and DQ; without all of them its own choice is kept.
        needed = {"avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq"}
        if needed <= set(flags.split()):
            os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
        os.environ["CT2_VERBOSE"] = "1"
        self.chosen: dict[str, str] = {}

    def settings(self) -> dict[str, Any]:
        return {
            "intra_threads": self.threads,
            "inter_threads": 1,
            "compute_type": self.compute_type,
            "CT2_FORCE_CPU_ISA": os.environ.get("CT2_FORCE_CPU_ISA"),
            **self.chosen,
        }

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        encoder = self._load(artifacts)
        ids = case.make_ids(artifacts["config"]["vocab_size"]).astype(np.int32)
        lengths = np.full(case.B, case.L, np.int32)
        tokens, counts = map(ctranslate2.StorageView.from_array, (ids, lengths))
        return [
            Variant(
                "Encoder.forward_batch",
                lambda keep=(ids, lengths): encoder.forward_batch(tokens, counts),  # the views do not own the arrays
                lambda output: np.array(output.last_hidden_state),
            )
        ]

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        encoder = self._load(artifacts)

        def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            ids, lengths = ids.astype(np.int32), mask.sum(axis=1, dtype=np.int32)
            views = map(ctranslate2.StorageView.from_array, (ids, lengths))
            return np.array(encoder.forward_batch(*views).last_hidden_state)

        encode = PaddedEncoder(artifacts["checkpoint"], forward, case.batch_size)
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return [Variant("Encoder.forward_batch, sorted padded batches", lambda: encode(texts))]

    def prefill(self, case: PrefillCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load(artifacts, ctranslate2.Generator)
        ids = case.make_ids(artifacts["config"]["vocab_size"])
        prompts = [[ct2_token(i) for i in row] for row in ids.tolist()]
        # Its forward_batch gives the logits of all tokens; one generated token has those of the last alone.
        options = {"min_length": 0, "max_length": 1, "include_prompt_in_result": False, "return_logits_vocab": True}
        return [
            Variant(
                "generate_batch, max_length=1",
                lambda: model.generate_batch(prompts, beam_size=1, **options),
                lambda results: np.array([np.array(result.logits[0][0]) for result in results]),
            )
        ]

    def generate(self, case: GenerateCase, artifacts: dict[str, Any]) -> list[Variant]:
        source = case.model == "t5"
        model = self._load(artifacts, ctranslate2.Translator if source else ctranslate2.Generator)
        ids = case.make_ids(artifacts["config"]["vocab_size"])
        prompts = [[ct2_token(i) for i in row] for row in ids.tolist()]
        options: dict[str, Any] = {"beam_size": case.beams}
        if source:
            options |= {"min_decoding_length": case.new, "max_decoding_length": case.new}
            return [Variant("translate_batch", lambda: model.translate_batch(prompts, **options), _translated)]
        options |= {"min_length": case.new, "max_length": case.new, "include_prompt_in_result": False}
        return [Variant("generate_batch", lambda: model.generate_batch(prompts, **options), _generated)]

    def _load(self, artifacts: dict[str, Any], kind: type = ctranslate2.Encoder) -> Any:
        path = converted(artifacts, "ctranslate2")
        threads = {"inter_threads": 1, "intra_threads": self.threads}
        with _captured_stderr() as log:
            model = kind(path, device="cpu", compute_type=self.compute_type, **threads)
        # It says what it chose when the first model is loaded.
        found = re.findall(r"- (Selected ISA|Use Intel MKL|SGEMM backend|GEMM_S8 backend): (.+)", log())
        self.chosen |= {name.lower().replace(" ", "_"): value.strip() for name, value in found}
        return model


def _generated(results: list[Any]) -> np.ndarray:
    return np.array([result.sequences_ids[0] for result in results])


def _translated(results: list[Any]) -> np.ndarray:
    """Of the best hypotheses, words into ids."""
    return np.array([[ct2_id(word) for word in result.hypotheses[0]] for result in results])


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """What C++ code writes to file descriptor 2 meanwhile; the function reads it afterwards."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        text = ""
        try:
            yield lambda: text
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text = file.read().decode(errors="replace")


BACKEND = CTranslate2

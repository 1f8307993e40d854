"""llama.cpp through llama-cpp-python, built from its sdist with the flags of this machine, on GGUF files.

As its documentation advises: n_threads and n_threads_batch are the number of threads, weights repacked at load where it
has a kernel for that, flash attention as it chooses. Batches go through llama_decode itself; Llama.eval, its Python
wrapper, copies all logits.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.backends import Backend, Variant, converted
from benchmarks.wire import DecodeCase, PrefillCase

_FORMS = {"Q8_0": "gguf_q8_0", "Q4_0": "gguf_q4_0", "Q4_K": "gguf_q4_k"}
# Tokens that it takes together at most, as its own command-line programs do.
_UBATCH = 512


class LlamaCpp(Backend):
    packages = ("llama_cpp_python",)
    compute_types = tuple(_FORMS)

    def settings(self) -> dict[str, Any]:
        system = llama_cpp.llama_print_system_info().decode()
        return {"n_threads": self.threads, "n_threads_batch": self.threads, "n_ubatch": _UBATCH, "system": system}

    def prefill(self, case: PrefillCase, artifacts: dict[str, Any]) -> list[Variant]:
        session = Session(converted(artifacts, _FORMS[self.compute_type]), self.threads, case.B, case.B * case.L)
        ids = case.make_ids(artifacts["config"]["vocab_size"])

        def call() -> np.ndarray:
            session.clear()
            return session.decode(ids, np.zeros(case.B, np.int64), last=True)

        return [Variant("llama_decode", call)]

    def decode(self, case: DecodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        room = case.B * (case.L + case.steps)
        session = Session(converted(artifacts, _FORMS[self.compute_type]), self.threads, case.B, room)
        ids = case.make_ids(artifacts["config"]["vocab_size"])
        session.decode(ids[:, : case.L], np.zeros(case.B, np.int64), last=True)

        def call() -> np.ndarray:
            session.crop(case.L)
            for i in range(case.L, case.L + case.steps):
                logits = session.decode(ids[:, i : i + 1], np.full(case.B, i), last=True)
            return logits

        return [Variant("llama_decode", call, parts=case.steps)]


class Session:
    """A model and a context for B sequences of `room` tokens in all.

    exact_attention: keys and values are kept as float32 (float16 by default), and attended without flash attention.
    """

    def __init__(self, path: str, threads: int, B: int, room: int, exact_attention: bool = False) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = room + 256 * B, B
        options.n_batch, options.n_ubatch = max(_UBATCH, room), _UBATCH
        options.n_threads = options.n_threads_batch = threads
        options.kv_unified = True
        if exact_attention:
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.width = llama_cpp.llama_vocab_n_tokens(vocab)
        self.batch = llama_cpp.llama_batch_init(max(_UBATCH, room), 0, B)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def crop(self, length: int) -> None:
        """All sequences forget what comes after that many tokens."""
        llama_cpp.llama_memory_seq_rm(self.memory, -1, length, -1)

    def decode(self, ids: np.ndarray, first: np.ndarray, last: bool) -> np.ndarray:
        """ids (B, n) at positions first[b] on -> the logits (B, V) after the last of each row."""
        B, n = ids.shape
        batch = self.batch
        batch.n_tokens = B * n
        for b in range(B):
            for i in range(n):
                at = b * n + i
                batch.token[at], batch.pos[at] = int(ids[b, i]), int(first[b]) + i
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, b
                batch.logits[at] = last and i == n - 1
        status = llama_cpp.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode gives {status}")
        rows = [llama_cpp.llama_get_logits_ith(self.context, b * n + n - 1) for b in range(B)]
        return np.stack([np.ctypeslib.as_array(row, (self.width,)).copy() for row in rows])


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    pass


BACKEND = LlamaCpp

"""transformer_fast itself, through its public functions; also what the processor and its memory can do at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import transformer_fast as tf
from benchmarks import structures
from benchmarks.backends import FLOAT32, Backend, Unsupported, Variant, converted
from benchmarks.wire import (
    AttentionCase,
    DecodeCase,
    EncodeCase,
    FeaturesCase,
    GenerateCase,
    LinearCase,
    MaskCase,
    MaxSimCase,
    ModelCase,
    ModuleCase,
    PagedCase,
    PrefillCase,
    SearchCase,
    TextsCase,
)
from transformer_fast import functional

# As a decoder packs them: batches of so many rows are its steps.
_FEW_ROWS = 24
# Keys of a page; the numbers of keys in a PagedCase are multiples of it.
_PAGE = 64
# Formats of GGUF files -> the form of artifacts.py; with _a8 behind the name activations have 8 bits.
_GGUF_FORMS = {"Q8_0": "gguf_q8_0", "Q4_0": "gguf_q4_0", "Q4_K": "gguf_q4_k"}


class Ours(Backend):
    packages = ("numpy",)
    compute_types = ("float32", "int8", "int8_a16", "bfloat16", "int4", "int4_a8", *_GGUF_FORMS)
    compute_types += tuple(f"{name}_a8" for name in _GGUF_FORMS)

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

    def workspace_bytes(self, case: MaskCase) -> int:
        """What the engine holds for a case of `masked`, beside its operands, its result and the lists."""
        operands = case.make_inputs()
        return functional.explain_attention(*operands, mask=structures.mask(case))["workspace_bytes"]

    def attention(self, case: AttentionCase) -> list[Variant]:
        (query, key, value), options = case.make_inputs()
        return [
            Variant(
                "scaled_dot_product_attention",
                lambda: functional.scaled_dot_product_attention(query, key, value, **options),
            )
        ]

    def masked(self, case: MaskCase, artifacts: dict[str, Any]) -> list[Variant]:
        query, key, value = case.make_inputs()
        mask = structures.mask(case)
        given = mask.ranges(case.L, case.L) if case.compiled else mask
        return [
            Variant(
                "mask=KeyRanges" if case.compiled else "mask=, compiled in the call",
                lambda: functional.scaled_dot_product_attention(query, key, value, mask=given),
            )
        ]

    def paged(self, case: PagedCase) -> list[Variant]:
        query, common, own = case.make_inputs()
        gqa = case.H != case.Hkv
        if case.layout == "separate":
            shape = (2, case.B, case.Hkv, case.common, case.D)
            key, value = np.concatenate([np.broadcast_to(common[:, None], shape), own], axis=3)
            return [
                Variant(
                    "scaled_dot_product_attention",
                    lambda: functional.scaled_dot_product_attention(query, key, value, enable_gqa=gqa),
                )
            ]
        key, value, table = _in_pages(case, common, own)
        lengths = np.full(case.B, case.common + case.own)
        shared = case.common if case.layout == "shared" else 0
        return [
            Variant(
                f"paged_attention, pages of {_PAGE}, shared_keys={shared}",
                lambda: functional.paged_attention(
                    query, key, value, table, lengths, shared_keys=shared, enable_gqa=gqa
                ),
            )
        ]

    def linear(self, case: LinearCase) -> list[Variant]:
        (x, weight), options = case.make_inputs()
        packed = functional.pack_weight(weight, for_decode=case.M <= _FEW_ROWS, **self._narrow("format"))
        return [Variant("linear, packed weight", lambda: functional.linear(x, packed, **options))]

    def max_sim(self, case: MaxSimCase) -> list[Variant]:
        inputs = case.make_inputs()
        return [Variant("max_sim", lambda: functional.max_sim(**inputs))]

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = tf.load_model(artifacts["checkpoint"], **self._narrow("compute_type"))
        ids = case.make_ids(model.config.vocab_size)
        packed, starts = ids.reshape(-1), np.arange(0, ids.size + 1, case.L)

        def read(hidden: np.ndarray) -> np.ndarray:
            return hidden.reshape(case.B, case.L, -1)

        return [
            Variant("load_model(...)(input_ids)", lambda: model(ids)[0]),
            Variant("encode_packed", lambda: model.encode_packed(packed, starts), read),
        ]

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        encoder = tf.SentenceEncoder.from_pretrained(artifacts["checkpoint"], **self._narrow("compute_type"))
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return [
            Variant(
                f"SentenceEncoder.encode, batch_size={case.batch_size}",
                lambda: encoder.encode(texts, batch_size=case.batch_size, show_progress_bar=False),
            )
        ]

    def prefill(self, case: PrefillCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._decoder(artifacts)
        ids = case.make_ids(model.config.vocab_size)
        return [Variant("start", lambda: model.start(ids, None, capacity=case.L + 1)[0])]

    def decode(self, case: DecodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._decoder(artifacts)
        ids = case.make_ids(model.config.vocab_size)
        _, state = model.start(ids[:1, : case.L], None, capacity=case.L + case.steps)
        state.reorder(np.zeros(case.B, np.int64))
        columns = [np.ascontiguousarray(ids[:, case.L + i]) for i in range(case.steps)]

        def call() -> np.ndarray:
            # No user goes back to the prompt, but each call has to begin there.
            for cache in state.caches:
                cache.lengths[:] = case.L
                cache._count()
            state.positions = np.full(case.B, case.L)
            for column in columns:
                logits = model.step(column, state)
            return logits

        return [Variant("step", call, parts=case.steps)]

    def generate(self, case: GenerateCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = tf.load_model(artifacts["checkpoint"])
        ids = case.make_ids(model.config.vocab_size)
        mask = np.ones_like(ids)
        options = {"min_new_tokens": case.new, "max_new_tokens": case.new, "num_beams": case.beams}
        return [
            Variant("generate", lambda: model.generate(ids, mask, **options), lambda result: result[:, -case.new :])
        ]

    def features(self, case: FeaturesCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = tf.load_model(artifacts["checkpoint"])
        features = case.make_features()
        if case.model == "whisper":
            return [Variant("encode", lambda: model.encode(features).last_hidden_state)]
        return [Variant("load_model(...)(pixel_values)", lambda: model(features).last_hidden_state)]

    def module(self, case: ModuleCase) -> list[Variant]:
        # torch's arithmetic is at rest here: it only makes the weights.
        try:
            from benchmarks import modules
            from transformer_fast.integrations import from_torch
        except ImportError as error:
            raise Unsupported(f"from_torch needs torch ({error})") from None
        module = from_torch(modules.build(case))
        arrays, options = modules.inputs(case)
        return [Variant("from_torch", lambda: module(*arrays, **options), modules.read)]

    def encode(self, case: EncodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        documents, options = texts["documents"], {"batch_size": case.batch_size, "show_progress_bar": False}
        kind = getattr(tf, {"rank": "CrossEncoder", "sparse": "SparseEncoder"}.get(case.task, "MultiVectorEncoder"))
        model = kind.from_pretrained(artifacts["checkpoint"], **self._narrow("compute_type"))
        if case.task == "rank":
            pairs = [(texts["query"], document) for document in documents]
            return [Variant("CrossEncoder.predict", lambda: model.predict(pairs, **options), lambda x: x[:, None])]
        read = (lambda x: x.toarray()) if case.task == "sparse" else np.concatenate
        name = f"{kind.__name__}.encode_document"
        return [Variant(name, lambda: model.encode_document(documents, **options), read)]

    def search(self, case: SearchCase) -> list[Variant]:
        queries, corpus = case.make_inputs()
        return [
            Variant(
                "util.semantic_search",
                lambda: tf.util.semantic_search(queries, corpus, top_k=case.k),
                lambda found: np.array([[hit["score"] for hit in hits] for hits in found]),
            )
        ]

    def _decoder(self, artifacts: dict[str, Any]) -> Any:
        form = _GGUF_FORMS.get(self.compute_type.removesuffix("_a8"))
        if form is not None:
            a8 = self.compute_type.endswith("_a8")
            return tf.load_model(converted(artifacts, form), compute_type="auto_a8" if a8 else "auto")
        return tf.load_model(artifacts["checkpoint"], **self._narrow("compute_type"))

    def _narrow(self, name: str) -> dict[str, str]:
        """The compute type as an argument of that name, which is left out for float32: older builds do not know it."""
        return {} if self.compute_type == FLOAT32 else {name: self.compute_type}


def _in_pages(case: PagedCase, common: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values (N, Hkv, 64, D) in random order, and the table (B, n) of them."""

    def cut(x: np.ndarray) -> np.ndarray:
        """(2, ..., Hkv, L, D) -> (2, pages, Hkv, 64, D)."""
        x = np.moveaxis(x.reshape(*x.shape[:-2], -1, _PAGE, case.D), -3, -4)
        return x.reshape(2, -1, case.Hkv, _PAGE, case.D)

    first, last = case.common // _PAGE, case.own // _PAGE
    copies = 1 if case.layout == "shared" else case.B
    pages = np.concatenate([np.tile(cut(common), (1, copies, 1, 1, 1)), cut(own)], axis=1)
    order = np.random.default_rng(0).permutation(pages.shape[1])  # where page i goes
    table = np.concatenate(
        [
            np.broadcast_to(np.arange(copies * first).reshape(copies, first), (case.B, first)),
            copies * first + np.arange(case.B * last).reshape(case.B, last),
        ],
        axis=1,
    )
    key, value = pages[:, np.argsort(order)]
    return key, value, order[table]


BACKEND = Ours

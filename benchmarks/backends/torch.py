"""torch: scaled_dot_product_attention, F.linear, torch.nn, and transformers' models on attn_implementation="sdpa".

As PyTorch's performance guide advises for inference on a CPU: `inference_mode`, `set_num_threads` to the number of
threads, one inter-op thread, contiguous float32 tensors. torch.compile needs a C++ compiler at run time and is left
out here; flex_attention.py, a peer of its own, cannot do without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import masks, structures
from benchmarks.backends import Backend, Unsupported, Variant
from benchmarks.texts import PaddedEncoder
from benchmarks.wire import (
    AttentionCase,
    Case,
    DecodeCase,
    FeaturesCase,
    GenerateCase,
    LinearCase,
    MaskCase,
    MaxSimCase,
    ModelCase,
    ModuleCase,
    PrefillCase,
    TextsCase,
    operation,
)


class Configured(Backend):
    """torch's settings, which all of its backends share."""

    packages = ("torch",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        # The mode is this thread's, which makes every call, and lasts as long as the object.
        self._mode = torch.inference_mode()
        self._mode.__enter__()

    def settings(self) -> dict[str, Any]:
        return {
            "set_num_threads": torch.get_num_threads(),
            "set_num_interop_threads": torch.get_num_interop_threads(),
            "inference_mode": torch.is_inference_mode_enabled(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "mkl": torch.backends.mkl.is_available(),
            "mkldnn": torch.backends.mkldnn.is_available(),
        }


class Torch(Configured):
    def versions(self) -> dict[str, str]:
        return {**super().versions(), **_optional_version("transformers")}

    def attention(self, case: AttentionCase) -> list[Variant]:
        arrays, options = case.make_inputs()
        unknown = set(options) - {"is_causal", "window", "kv_lengths", "attn_mask", "enable_gqa"}
        if unknown:
            raise Unsupported(f"scaled_dot_product_attention has no {', '.join(sorted(unknown))}")
        query, key, value = map(torch.from_numpy, arrays)
        causal = case.is_causal and set(options) <= {"is_causal", "enable_gqa"}  # torch refuses it beside a mask
        bias, allowed = masks.additive(case, options, not causal), masks.visible(case, options, not causal)
        plain = {"is_causal": causal, "enable_gqa": case.Hkv != case.H}
        named = {"scaled_dot_product_attention": plain | {"attn_mask": None}}
        if bias is not None:
            named = {"scaled_dot_product_attention, float mask": plain | {"attn_mask": torch.from_numpy(bias)}}
        if allowed is not None and ("attn_mask" not in options or options["attn_mask"].dtype == bool):
            named["scaled_dot_product_attention, bool mask"] = plain | {"attn_mask": torch.from_numpy(allowed)}
        variants = [
            Variant(name, lambda o=o: F.scaled_dot_product_attention(query, key, value, **o), torch.Tensor.numpy)
            for name, o in named.items()
        ]
        if case.Hkv != case.H and not causal and bias is None:
            grouped = query.reshape(case.B, case.Hkv, -1, case.D)
            variants.append(
                Variant(
                    "scaled_dot_product_attention, a group's queries as rows",
                    lambda: F.scaled_dot_product_attention(grouped, key, value),
                    lambda result: result.numpy().reshape(case.B, case.H, case.Lq, case.Dv),
                )
            )
        return variants

    def masked(self, case: MaskCase, artifacts: dict[str, Any]) -> list[Variant]:
        query, key, value = map(torch.from_numpy, case.make_inputs())
        formula, arrays = formula_of(case, artifacts)
        positions = torch.arange(case.L)
        allowed = formula(positions[:, None], positions, arrays)
        named = {"bool mask": allowed, "float mask": torch.zeros(allowed.shape).masked_fill_(~allowed, -torch.inf)}
        return [
            Variant(
                f"scaled_dot_product_attention, {name}",
                lambda mask=mask: F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
                torch.Tensor.numpy,
            )
            for name, mask in named.items()
        ]

    def max_sim(self, case: MaxSimCase) -> list[Variant]:
        inputs = {name: torch.from_numpy(array) for name, array in case.make_inputs().items()}
        queries = inputs["queries"].reshape(len(case.queries), -1, case.D)
        documents = inputs["documents"].reshape(len(case.documents), -1, case.D)

        def einsum() -> torch.Tensor:  # as sentence_transformers.util.maxsim
            return torch.einsum("ash,bth->abst", queries, documents).amax(dim=-1).sum(dim=-1)

        def matmul() -> torch.Tensor:
            return torch.stack([(documents @ query.T).amax(dim=1).sum(dim=1) for query in queries])

        return [Variant("einsum", einsum, torch.Tensor.numpy), Variant("each query", matmul, torch.Tensor.numpy)]

    def linear(self, case: LinearCase) -> list[Variant]:
        from torch.utils.mkldnn import to_mkldnn

        (x, weight), options = case.make_inputs()
        x = torch.from_numpy(x)
        layer = torch.nn.Linear(case.K, case.N).eval()
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(options["bias"]))
        activation = {None: lambda y: y, "gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}
        act = activation[case.activation]
        weight, bias = layer.weight, layer.bias
        variants = [Variant("F.linear", lambda: act(F.linear(x, weight, bias)), torch.Tensor.numpy)]
        if torch.backends.mkldnn.is_available():
            prepacked = to_mkldnn(layer)
            variants.append(Variant("to_mkldnn(Linear), prepacked", lambda: act(prepacked(x)), torch.Tensor.numpy))
        return variants

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load_encoder(case, artifacts)
        ids = torch.from_numpy(case.make_ids(model.config.vocab_size))
        name = f"transformers.{type(model).__name__}, {model.config._attn_implementation}"
        return [Variant(name, lambda: model(input_ids=ids).last_hidden_state, torch.Tensor.numpy)]

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load(artifacts)

        def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(**inputs).last_hidden_state.numpy()

        encode = PaddedEncoder(artifacts["checkpoint"], forward, case.batch_size)
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return [Variant("transformers.BertModel, sorted padded batches", lambda: encode(texts))]

    def prefill(self, case: PrefillCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load_family(case, artifacts)
        ids = torch.from_numpy(case.make_ids(model.config.vocab_size))
        return [Variant("use_cache, logits_to_keep=1", lambda: _prefill(model, ids)[0], torch.Tensor.numpy)]

    def decode(self, case: DecodeCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load_family(case, artifacts)
        call = _decoding(model, torch.from_numpy(case.make_ids(model.config.vocab_size)), case.L)
        return [Variant("past_key_values", call, torch.Tensor.numpy, parts=case.steps)]

    def generate(self, case: GenerateCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load_family(case, artifacts)
        ids = torch.from_numpy(case.make_ids(model.config.vocab_size))
        options = {
            "attention_mask": torch.ones_like(ids),
            "min_new_tokens": case.new,
            "max_new_tokens": case.new,
            "num_beams": case.beams,
            "do_sample": False,
            "pad_token_id": 0,
        }
        return [
            Variant(
                "transformers' generate",
                lambda: model.generate(ids, **options),
                lambda result: result[:, -case.new :].numpy(),
            )
        ]

    def features(self, case: FeaturesCase, artifacts: dict[str, Any]) -> list[Variant]:
        model = self._load_family(case, artifacts)
        part = model.encoder if case.model == "whisper" else model
        features = torch.from_numpy(case.make_features())
        return [
            Variant(
                f"transformers.{type(model).__name__}", lambda: part(features).last_hidden_state, torch.Tensor.numpy
            )
        ]

    def module(self, case: ModuleCase) -> list[Variant]:
        from benchmarks import modules

        module = modules.build(case)
        arrays, options = modules.inputs(case)
        tensors = [torch.from_numpy(array) for array in arrays]
        options = {name: torch.from_numpy(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
        return [Variant(f"torch.nn.{type(module).__name__}", lambda: module(*tensors, **options), modules.read)]

    def reference(self, case: Case, artifacts: dict[str, Any], picked: list[int]) -> np.ndarray:
        """What the case's method gives for these sequences of the case; models of operation "model" in float64.

        The others in float32, by the plainest way: torch is what they have to agree with.
        """
        kind = operation(case)
        if kind == "model":
            return self._hidden(case, artifacts, picked)
        if kind in ("prefill", "decode"):
            model = self._load_family(case, artifacts)
            ids = torch.from_numpy(case.make_ids(model.config.vocab_size)[picked])
            return _prefill(model, ids)[0].numpy()
        variants = self.module(case) if kind == "module" else getattr(self, kind)(case, artifacts)
        return variants[0].read(variants[0].call())[picked]

    def _hidden(self, case: ModelCase, artifacts: dict[str, Any], picked: list[int]) -> np.ndarray:
        """Hidden states, (len(picked), L, h)."""
        model = self._load_encoder(case, artifacts).double()
        ids = torch.from_numpy(case.make_ids(model.config.vocab_size)[picked])
        return model(input_ids=ids).last_hidden_state.numpy()

    def _load(self, artifacts: dict[str, Any]) -> torch.nn.Module:
        try:
            from transformers import BertModel
        except ImportError as error:
            raise Unsupported(f"transformers is not installed ({error})") from None
        return BertModel.from_pretrained(
            artifacts["checkpoint"], attn_implementation="sdpa", add_pooling_layer=False, dtype=torch.float32
        ).eval()

    def _load_encoder(self, case: ModelCase, artifacts: dict[str, Any]) -> torch.nn.Module:
        bert = artifacts["config"]["model_type"] == "bert"
        return self._load(artifacts) if bert else self._load_family(case, artifacts)

    def _load_family(self, case: Case, artifacts: dict[str, Any]) -> torch.nn.Module:
        try:
            import transformers
        except ImportError as error:
            raise Unsupported(f"transformers is not installed ({error})") from None
        options = {"attn_implementation": "sdpa", "dtype": torch.float32}
        if case.model in ("t5", "big_bird", "deberta-v3-base"):  # whose biases or blocks leave it no choice
            del options["attn_implementation"]
        model_class = getattr(transformers, artifacts["config"]["architectures"][0])
        return model_class.from_pretrained(artifacts["checkpoint"], **options).eval()


def formula_of(case: MaskCase, artifacts: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The structure's formula, and its arrays as tensors."""
    arrays = structures.arrays_of(case, artifacts)
    tensors = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in arrays.items()}
    return structures.STRUCTURES[case.structure].formula, tensors


def _prefill(model: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Logits (B, V) after ids (B, L), and the cache."""
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1], output.past_key_values


def _decoding(model: torch.nn.Module, ids: torch.Tensor, L: int) -> Callable[[], torch.Tensor]:
    """A call that goes through the columns of ids from L on, one step each, and gives the last one's logits.

    The first L columns are the same in all rows.
    """
    cache = _prefill(model, ids[:1, :L])[1]
    cache.batch_repeat_interleave(len(ids))

    def call() -> torch.Tensor:
        # Without what came after the prompt in the last call. A negative number is how many go.
        further = cache.get_seq_length() - L
        if further:
            cache.crop(-further)
        for i in range(L, ids.shape[1]):
            output = model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]

    return call


def _optional_version(name: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {name: version(name)}
    except PackageNotFoundError:
        return {}


BACKEND = Torch

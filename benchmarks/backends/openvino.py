"""OpenVINO's CPU plugin: its ScaledDotProductAttention and MatMul, and models converted from transformers.

As its documentation advises for latency: PERFORMANCE_HINT=LATENCY, one stream, INFERENCE_NUM_THREADS, precision
forced to float32 (it would take bfloat16 where the processor has it), inputs and outputs shared with NumPy. A fixed
shape is also compiled as such; the faster of the static and the dynamic model counts. The compute types "int8" and
"int8_weights" are models that nncf made (artifacts.py); what they leave in floating point is float32, too, and the
plugin's dynamic quantisation of activations is left as it comes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops

from benchmarks import masks
from benchmarks.backends import Backend, Unsupported, Variant, converted
from benchmarks.texts import PaddedEncoder
from benchmarks.wire import AttentionCase, FeaturesCase, LinearCase, ModelCase, TextsCase

_FORMS = {"float32": "openvino", "int8": "openvino_int8", "int8_weights": "openvino_int8_weights"}


class OpenVINO(Backend):
    packages = ("openvino",)
    compute_types = tuple(_FORMS)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.core = ov.Core()
        self.options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def settings(self) -> dict[str, Any]:
        return self.options | ({} if self.compute_type == "float32" else {"model": _FORMS[self.compute_type]})

    def attention(self, case: AttentionCase) -> list[Variant]:
        arrays, options = case.make_inputs()
        unknown = set(options) - {"is_causal", "window", "kv_lengths", "attn_mask"}
        if unknown:
            raise Unsupported(f"ScaledDotProductAttention has no {', '.join(sorted(unknown))}")
        causal = case.is_causal and set(options) == {"is_causal"}
        bias = masks.as_4d(case, masks.additive(case, options, not causal))
        if bias is not None:
            arrays = [*arrays, bias]
        parameters = [ops.parameter(array.shape, np.float32) for array in arrays]
        node = ops.scaled_dot_product_attention(*parameters, causal=causal)
        return [Variant("ScaledDotProductAttention", *self._compiled(ov.Model([node], parameters), arrays))]

    def linear(self, case: LinearCase) -> list[Variant]:
        (x, weight), options = case.make_inputs()
        if case.activation not in (None, "gelu"):
            raise Unsupported(f"no graph here for {case.activation}")
        parameter = ops.parameter(x.shape, np.float32)
        node = ops.matmul(parameter, ops.constant(weight), False, True)
        node = ops.add(node, ops.constant(options["bias"][None]))
        if case.activation == "gelu":
            node = ops.gelu(node, "erf")
        return [Variant("MatMul, constant weight", *self._compiled(ov.Model([node], [parameter]), [x]))]

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        ids = case.make_ids(artifacts["config"]["vocab_size"])
        return self._converted(artifacts, [ids, np.ones_like(ids)])

    def features(self, case: FeaturesCase, artifacts: dict[str, Any]) -> list[Variant]:
        return self._converted(artifacts, [case.make_features()])

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        path = converted(artifacts, _FORMS[self.compute_type])
        request = self.core.compile_model(path, "CPU", self.options).create_infer_request()

        def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]

        encode = PaddedEncoder(artifacts["checkpoint"], forward, case.batch_size)
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        return [Variant("dynamic shape, sorted padded batches", lambda: encode(texts))]

    def _converted(self, artifacts: dict[str, Any], arrays: list[np.ndarray]) -> list[Variant]:
        """The model on these inputs, all of one shape, for that shape and for any."""
        variants = []
        for name in ("static", "dynamic"):
            model = self.core.read_model(converted(artifacts, _FORMS[self.compute_type]))
            if name == "static":
                model.reshape({tensor.get_any_name(): list(arrays[0].shape) for tensor in model.inputs})
            variants.append(Variant(f"{name} shape", *self._compiled(model, arrays)))
        return variants

    def _compiled(self, model: ov.Model, arrays: list[np.ndarray]):
        """(call, read) of a compiled model on these inputs."""
        request = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        return (
            lambda: request.infer(arrays, share_inputs=True, share_outputs=True),
            lambda results: np.array(results[0]),
        )


BACKEND = OpenVINO

"""onnxruntime's CPU provider: its attention operators, Gemm and MatMul, and exported BERT models.

As its documentation advises: intra_op_num_threads is the number of threads, one inter-op thread, sequential
execution, all graph optimisations, spinning as it comes (worker.py waits until it has stopped), inputs and outputs
bound beforehand. Models are the plain export and what onnxruntime.transformers.optimizer made of it; the faster one
counts. In int8 they are what quantize_dynamic made of the optimised one, with its defaults, and with reduce_range and
per_channel as advised for processors without VNNI; again the faster one counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks import masks
from benchmarks.backends import Backend, Unsupported, Variant, converted
from benchmarks.texts import PaddedEncoder
from benchmarks.wire import AttentionCase, FeaturesCase, LinearCase, ModelCase, TextsCase

_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.bool_): TensorProto.BOOL,
}
_MODEL_FORMS = {"float32": ("onnx", "onnx_optimized"), "int8": ("onnx_int8", "onnx_int8_reduced")}
# The newest that both packages know for certain: Attention came with 23, Gelu with 20.
_OPSET, _IR = 23, 10


class OnnxRuntime(Backend):
    packages = ("onnxruntime", "onnx")
    compute_types = tuple(_MODEL_FORMS)

    def settings(self) -> dict[str, Any]:
        return {
            "providers": ["CPUExecutionProvider"],
            "intra_op_num_threads": self.threads,
            "inter_op_num_threads": 1,
            "execution_mode": "ORT_SEQUENTIAL",
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "allow_spinning": "default",
            "io_binding": True,
        }

    def session(self, model: bytes | str) -> ort.InferenceSession:
        """`model`: a serialised graph or the path of one."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def attention(self, case: AttentionCase) -> list[Variant]:
        (query, key, value), options = case.make_inputs()
        unknown = set(options) - {"is_causal", "window", "kv_lengths", "attn_mask", "enable_gqa"}
        if unknown:
            raise Unsupported(f"its attention operators have no {', '.join(sorted(unknown))}")
        variants = [self._standard(case, query, key, value, options)]
        if case.Hkv == case.H:
            variants.append(self._multi_head(case, query, key, value, options))
            padding = masks.visible(case, options, causal=False)
            if padding is not None and padding.shape[1:3] == (1, 1):
                variants.append(self._multi_head(case, query, key, value, options, padding[:, 0, 0]))
        plain = set(options) <= {"is_causal", "window", "enable_gqa"}
        if plain and case.is_causal and case.Lq == case.Lk and case.window[1] in (-1, 0):
            variants.append(self._grouped_prompt(case, query, key, value))
        if set(options) <= {"enable_gqa"} and case.Lq == 1 and case.Lk > 1:
            variants.append(self._grouped_decode(case, query, key, value))
        return variants

    def _multi_head(self, case: AttentionCase, query, key, value, options, padding=None) -> Variant:
        """The contrib operator MultiHeadAttention on (B, L, H*D); padding (B, Lk) says which keys are there."""
        feeds = {"query": _joined(query), "key": _joined(key), "value": _joined(value)}
        names = list(feeds)
        bias = masks.as_4d(case, masks.additive(case, options, causal=False))
        if padding is not None:
            feeds["key_padding_mask"] = padding.astype(np.int32)
            names += ["", "key_padding_mask"]
        elif bias is not None:
            feeds["attention_bias"] = bias
            names += ["", "", "attention_bias"]
        attributes = {"num_heads": case.H, "unidirectional": int(case.is_causal)}
        node = helper.make_node("MultiHeadAttention", names, ["out"], domain="com.microsoft", **attributes)
        run = self._bound([node], feeds, {"out": (case.B, case.Lq, case.H * case.Dv)})
        name = "MultiHeadAttention" + ("" if padding is None else ", key_padding_mask")
        return Variant(name, run, lambda results: _split(results["out"], case))

    def _standard(self, case: AttentionCase, query, key, value, options) -> Variant:
        """The standard operator Attention on (B, H, L, D)."""
        mask = masks.additive(case, options, causal=False)
        if "attn_mask" not in options or options["attn_mask"].dtype == bool:
            mask = masks.visible(case, options, causal=False)
        feeds = {"query": query, "key": key, "value": value}
        if mask is not None:
            feeds["attn_mask"] = masks.as_4d(case, mask)
        node = helper.make_node("Attention", list(feeds), ["out"], is_causal=int(case.is_causal))
        run = self._bound([node], feeds, {"out": (case.B, case.H, case.Lq, case.Dv)})
        return Variant(f"Attention-{_OPSET}", run, lambda results: results["out"])

    def _grouped_prompt(self, case: AttentionCase, query, key, value) -> Variant:
        """The contrib operator GroupQueryAttention, which knows groups and windows, without a past."""
        feeds = {
            "query": _joined(query),
            "key": _joined(key),
            "value": _joined(value),
            "seqlens_k": np.full(case.B, case.Lk - 1, np.int32),
            "total_sequence_length": np.array([case.Lk], np.int32),
        }
        window = case.window[0] + 1 if case.window[0] >= 0 else -1
        node = self._grouped_node(case, ["query", "key", "value", "", "", "seqlens_k", "total_sequence_length"], window)
        cache = (case.B, case.Hkv, case.Lk, case.D)
        outputs = {
            "out": (case.B, case.Lq, case.H * case.Dv),
            "present_key": cache,
            "present_value": (*cache[:3], case.Dv),
        }
        run = self._bound([node], feeds, outputs)
        return Variant("GroupQueryAttention", run, lambda results: _split(results["out"], case))

    def _grouped_decode(self, case: AttentionCase, query, key, value) -> Variant:
        """GroupQueryAttention with a cache that past and present share, so that a step copies one key only."""
        feeds = {
            "query": _joined(query),
            "key": _joined(key[:, :, -1:]),
            "value": _joined(value[:, :, -1:]),
            "past_key": key,
            "past_value": value,
            "seqlens_k": np.full(case.B, case.Lk - 1, np.int32),
            "total_sequence_length": np.array([case.Lk], np.int32),
        }
        outputs = {
            "out": (case.B, 1, case.H * case.Dv),
            "present_key": key.shape,
            "present_value": value.shape,
        }
        shared = {"present_key": "past_key", "present_value": "past_value"}
        run = self._bound([self._grouped_node(case, list(feeds), -1)], feeds, outputs, shared)
        return Variant("GroupQueryAttention, shared cache", run, lambda results: _split(results["out"], case))

    @staticmethod
    def _grouped_node(case: AttentionCase, inputs: list[str], window: int):
        attributes = {"num_heads": case.H, "kv_num_heads": case.Hkv, "local_window_size": window}
        outputs = ["out", "present_key", "present_value"]
        return helper.make_node("GroupQueryAttention", inputs, outputs, domain="com.microsoft", **attributes)

    def linear(self, case: LinearCase) -> list[Variant]:
        (x, weight), options = case.make_inputs()
        if case.activation not in (None, "gelu"):
            raise Unsupported(f"no graph here for {case.activation}")
        last = "out" if case.activation is None else "y"
        end = [] if case.activation is None else [helper.make_node("Gelu", ["y"], ["out"])]
        bias = ("bias", options["bias"])
        graphs = {
            "Gemm": ([helper.make_node("Gemm", ["x", "weight", "bias"], [last], transB=1)], ("weight", weight)),
            "MatMul": (
                [helper.make_node("MatMul", ["x", "weight"], ["xw"]), helper.make_node("Add", ["xw", "bias"], [last])],
                ("weight", np.ascontiguousarray(weight.T)),
            ),
        }
        return [
            Variant(
                name,
                self._bound([*nodes, *end], {"x": x}, {"out": (case.M, case.N)}, constants=dict([packed, bias])),
                lambda results: results["out"],
            )
            for name, (nodes, packed) in graphs.items()
        ]

    def model(self, case: ModelCase, artifacts: dict[str, Any]) -> list[Variant]:
        variants = []
        for name in _MODEL_FORMS[self.compute_type]:
            session = self.session(converted(artifacts, name))
            ids = case.make_ids(artifacts["config"]["vocab_size"])
            feeds = _model_feeds(session, ids, np.ones_like(ids))
            variants.append(_hidden_states(name, session, feeds))
        return variants

    def features(self, case: FeaturesCase, artifacts: dict[str, Any]) -> list[Variant]:
        session = self.session(converted(artifacts, "onnx"))
        return [_hidden_states("onnx", session, {session.get_inputs()[0].name: case.make_features()})]

    def texts(self, case: TextsCase, artifacts: dict[str, Any]) -> list[Variant]:
        texts = json.loads(Path(artifacts["texts"]).read_text(encoding="utf-8"))
        variants = []
        for name in _MODEL_FORMS[self.compute_type]:
            session = self.session(converted(artifacts, name))

            def forward(ids: np.ndarray, mask: np.ndarray, session=session) -> np.ndarray:
                return session.run(["last_hidden_state"], _model_feeds(session, ids, mask))[0]

            encode = PaddedEncoder(artifacts["checkpoint"], forward, case.batch_size)
            variants.append(Variant(f"{name}, sorted padded batches", lambda encode=encode: encode(texts)))
        return variants

    def _bound(
        self,
        nodes: list,
        feeds: dict[str, np.ndarray],
        outputs: dict[str, tuple[int, ...]],
        shared: dict[str, str] | None = None,
        constants: dict[str, np.ndarray] | None = None,
    ) -> Callable[[], dict[str, np.ndarray]]:
        """A call of the graph of these nodes; inputs and outputs stand in arrays that it keeps.

        shared: output -> input whose memory it writes. constants: weights that the session may prepack.
        """

        def info(name: str, shape: tuple[int, ...], dtype=np.float32):
            return helper.make_tensor_value_info(name, _TYPES[np.dtype(dtype)], shape)

        feeds = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        graph = helper.make_graph(
            nodes,
            "case",
            [info(name, array.shape, array.dtype) for name, array in feeds.items()],
            [info(name, shape) for name, shape in outputs.items()],
            [
                helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.tobytes(), raw=True)
                for name, array in (constants or {}).items()
            ],
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        session = self.session(helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString())
        results = {name: np.empty(shape, np.float32) for name, shape in outputs.items()}
        results |= {name: feeds[source] for name, source in (shared or {}).items()}
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

        def run(keep=(feeds, results)) -> dict[str, np.ndarray]:  # the binding holds addresses, not arrays
            session.run_with_iobinding(binding)
            return results

        return run


def _hidden_states(name: str, session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> Variant:
    """An exported model with its inputs bound."""
    binding = session.io_binding()
    for key, array in feeds.items():
        binding.bind_cpu_input(key, array)
    binding.bind_output("last_hidden_state", "cpu")
    return Variant(
        name,
        lambda: (session.run_with_iobinding(binding), binding)[1],
        lambda binding: binding.copy_outputs_to_cpu()[0],
    )


def _joined(array: np.ndarray) -> np.ndarray:
    """(B, H, L, D) -> (B, L, H*D)."""
    B, H, L, D = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(B, L, H * D)


def _split(array: np.ndarray, case: AttentionCase) -> np.ndarray:
    return array.reshape(case.B, case.Lq, case.H, case.Dv).swapaxes(1, 2)


def _model_feeds(session: ort.InferenceSession, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph asks for, in the types that it wants: the optimiser turns some inputs into int32."""
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
    arrays = {"input_ids": ids, "attention_mask": mask}
    return {x.name: arrays[x.name].astype(types[x.type], copy=False) for x in session.get_inputs()}


BACKEND = OnnxRuntime

"""Live comparisons of the ops with torch and with the ONNX operator Attention (marker oracle)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import ATTENTION, LINEAR, ROWS, tagged
from support import assert_close, normal

from transformer_fast import functional, reference
from transformer_fast.functional import scaled_dot_product_attention

pytestmark = pytest.mark.oracle

LENGTHS = (1, 15, 16, 17, 63, 64, 65, 257)


# ---------------------------------------------------------------------------------------------------------------------
# torch, in float32 as a user has it: both sides round, so that the bound is twice that against float64

BOUND = 4e-6


def test_attention_against_torch(torch, isa):
    compared = 0
    for case in tagged(ATTENTION, "small"):
        if "engine" in case.tags or case.ragged or case.mask == "dead" or (case.is_causal and case.mask):
            continue  # torch has no such option, gives NaN, or refuses both together
        if 0 in (case.B, case.H, case.Lq, case.Lk):
            continue
        arrays, options = case.make_inputs()
        mask = options.pop("attn_mask", None)
        tensors = [torch.from_numpy(array.copy()) for array in arrays]
        tensor_mask = None if mask is None else torch.from_numpy(np.atleast_2d(mask))
        expected = torch.nn.functional.scaled_dot_product_attention(*tensors, tensor_mask, **options)
        got = scaled_dot_product_attention(*arrays, mask, **options)
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=BOUND, err_msg=case.name)
        compared += 1
    assert compared > 150


def test_attention_over_all_lengths_against_torch(torch, isa):
    for Lq, Lk, causal in itertools.product(LENGTHS, LENGTHS, (False, True)):
        q, k, v = normal(2, 2, Lq, 32, seed=1), normal(2, 2, Lk, 32, seed=2), normal(2, 2, Lk, 32, seed=3)
        tensors = map(torch.from_numpy, (q, k, v))
        expected = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal).numpy()
        got = scaled_dot_product_attention(q, k, v, is_causal=causal)
        np.testing.assert_allclose(got, expected, rtol=0, atol=BOUND, err_msg=f"{Lq=} {Lk=} {causal=}")


def test_broadcast_of_leading_dimensions_against_torch(torch, isa):
    q, k, v = normal(5, 1, 2, 7, 8), normal(3, 2, 9, 8), normal(1, 2, 9, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v))).numpy()
    got = scaled_dot_product_attention(q, k, v)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=BOUND)


def test_the_lowest_number_against_torch(torch, isa):
    """A row of finfo.min averages the values on both sides."""
    q, k, v = normal(1, 2, 5, 16), normal(1, 2, 33, 16), normal(1, 2, 33, 16)
    mask = np.full((5, 33), np.finfo(np.float32).min)
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v, mask))).numpy()
    np.testing.assert_allclose(scaled_dot_product_attention(q, k, v, mask), expected, rtol=0, atol=BOUND)


def test_linear_against_torch(torch, isa):
    F = torch.nn.functional
    activations = {
        None: lambda y: y,
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
        "silu": F.silu,
        "tanh": torch.tanh,
        "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
    }
    for case in tagged(LINEAR, "small", "long"):
        (x, weight), options = case.make_inputs()
        bias = torch.from_numpy(options["bias"]) if case.bias else None
        y = activations[case.activation](F.linear(torch.from_numpy(x), torch.from_numpy(weight), bias))
        if case.residual:
            y = y + torch.from_numpy(options["residual"])
        got = functional.linear(x, weight, **options)
        np.testing.assert_allclose(got, y.numpy(), rtol=0, atol=2 * BOUND, err_msg=case.name)


def test_rows_against_torch(torch, isa):
    F = torch.nn.functional
    for case in tagged(ROWS, "small", "long"):
        if 0 in case.shape:
            continue
        inputs = case.make_inputs()
        x, weight, bias = (torch.from_numpy(inputs[name]) for name in ("x", "weight", "bias"))
        pairs = {
            "layer_norm": (functional.layer_norm(*(inputs[n] for n in ("x", "weight", "bias"))), (weight, bias)),
            "softmax": (functional.softmax(inputs["x"]), F.softmax(x, -1)),
            "gelu": (functional.gelu(inputs["x"]), F.gelu(x)),
            "gelu_tanh": (functional.gelu(inputs["x"], "tanh"), F.gelu(x, approximate="tanh")),
            "silu": (functional.silu(inputs["x"]), F.silu(x)),
        }
        got, affine = pairs["layer_norm"]
        pairs["layer_norm"] = (got, F.layer_norm(x, x.shape[-1:], *affine))
        for op, (got, expected) in pairs.items():
            np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=BOUND, err_msg=f"{op} {case.name}")


# ---------------------------------------------------------------------------------------------------------------------
# The ONNX operator Attention, opsets 23 to 25

TYPES = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}  # the bound is what one rounding of the result costs


def attend_as_onnx(inputs: dict, attributes: dict, attention=scaled_dot_product_attention):
    """(Y, probabilities) of the operator by means of `attention`, which has scaled_dot_product_attention's arguments.

    What the operator has and the function leaves to its caller: three-dimensional operands (heads are split by a view),
    the cache (past is put before key and value, and its length is the causal offset), masks with too few keys (padded).
    """
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    three = q.ndim == 3
    if three:
        heads = [attributes[name] for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
        q, k, v = (x.reshape(*x.shape[:2], n, -1).swapaxes(1, 2) for x, n in zip((q, k, v), heads, strict=True))
    offset = 0
    if "past_key" in inputs:
        offset = inputs["past_key"].shape[2]
        k = np.concatenate([inputs["past_key"], k], axis=2)
        v = np.concatenate([inputs["past_value"], v], axis=2)
    lengths = inputs.get("nonpad_kv_seqlen")
    if lengths is not None:
        offset = lengths - q.shape[2]
    mask = inputs.get("attn_mask")
    if mask is not None and mask.shape[-1] not in (1, k.shape[2]):
        missing = [(0, 0)] * (mask.ndim - 1) + [(0, k.shape[2] - mask.shape[-1])]
        mask = np.pad(mask, missing, constant_values=False if mask.dtype == bool else -np.inf)
    out, weights = attention(
        q,
        k,
        v,
        mask,
        is_causal=bool(attributes.get("is_causal", 0)),
        scale=attributes.get("scale"),
        enable_gqa=True,
        causal_offset=offset,
        window=(attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)),
        kv_lengths=lengths,
        softcap=attributes.get("softcap", 0.0),
        return_weights="heads",
    )
    if three:
        out = out.swapaxes(1, 2).reshape(*out.shape[:1], out.shape[2], -1)
    return out, weights


def onnx_cases(onnx):
    """(name, inputs by name, attributes, outputs by name) of the operator's own cases, the expanded ones left out."""
    import onnx.backend.test.case.node as node
    import onnx.backend.test.case.node.attention  # noqa: F401  (fills node's list of cases)

    for case in node._NodeTestCases:
        operator = case.model.graph.node[0]
        if operator.op_type != "Attention" or "_expanded" in case.name:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
        values, results = case.data_sets[0]
        inputs = dict(zip([name for name in operator.input if name], values, strict=True))
        outputs = dict(zip([name for name in operator.output if name], results, strict=True))
        yield case.name, inputs, attributes, outputs


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx")


def check_own_cases(onnx, dtype, attention):
    done, wrong = 0, []
    for name, inputs, attributes, outputs in onnx_cases(onnx):
        if inputs["Q"].dtype.name != dtype:
            continue
        done += 1
        try:
            out, weights = attend_as_onnx(inputs, attributes, attention)
            expected = outputs["Y"]
            assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(out.astype(float), expected.astype(float), rtol=0, atol=TYPES[dtype])
            if attributes.get("qk_matmul_output_mode") == 3:
                expected = outputs["qk_matmul_output"].astype(float)
                np.testing.assert_allclose(weights.astype(float), expected, rtol=0, atol=TYPES[dtype])
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    assert not wrong, f"{len(wrong)} of {done} cases:\n" + "\n".join(wrong)
    assert done >= {"float32": 80, "float16": 5, "bfloat16": 4}[dtype]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_operators_own_cases(dtype, onnx, isa):
    check_own_cases(onnx, dtype, scaled_dot_product_attention)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_operators_own_cases_by_the_reference(dtype, onnx):
    """What the tests hold the engine against is held against the operator as well."""
    check_own_cases(onnx, dtype, reference.scaled_dot_product_attention)


ONNX_OPTIONS = {
    "plain": {},
    "causal": dict(is_causal=1),
    "causal with a cache": dict(is_causal=1, past=7),
    "external cache": dict(is_causal=1, nonpad=True),
    "window": dict(left_window_size=5, right_window_size=9),
    "causal window with a cache": dict(is_causal=1, left_window_size=20, past=3),
    "softcap": dict(softcap=1.5),
    "float mask": dict(mask="float"),
    "bool mask": dict(mask="bool", is_causal=1),
    "grouped, scaled": dict(kv_heads=2, scale=0.3, mask="bool"),
}


@pytest.mark.parametrize("option", ONNX_OPTIONS)
def test_the_operators_reference_over_all_lengths(option, onnx, isa):
    from onnx.reference.ops.op_attention import _compute_attention

    for L, S in itertools.product(LENGTHS, LENGTHS):
        settings = dict(ONNX_OPTIONS[option])
        past, nonpad = settings.pop("past", 0), settings.pop("nonpad", False)
        kind, kv_heads = settings.pop("mask", None), settings.pop("kv_heads", 4)
        inputs = dict(
            Q=normal(2, 4, L, 16, seed=1), K=normal(2, kv_heads, S, 16, seed=2), V=normal(2, kv_heads, S, 8, seed=3)
        )
        if past:
            inputs["past_key"] = normal(2, kv_heads, past, 16, seed=4)
            inputs["past_value"] = normal(2, kv_heads, past, 8, seed=5)
        if nonpad:
            inputs["nonpad_kv_seqlen"] = np.array([S, S // 2])
        if kind:
            mask = normal(2, 1, L, S + past, seed=6)
            inputs["attn_mask"] = mask if kind == "float" else mask > -0.5
        wide = {name: x.astype(float) if x.dtype == np.float32 else x for name, x in inputs.items()}
        expected = _compute_attention(**wide, **settings, qk_matmul_output_mode=3)
        out, weights = attend_as_onnx(inputs, settings)
        try:
            assert_close(out, expected[0], 3e-6)
            assert_close(weights, expected[3], 3e-6)
        except AssertionError as error:
            raise AssertionError(f"{L=} {S=} {error}") from error

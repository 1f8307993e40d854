"""The reference itself: against numbers worked out by hand, and (marker oracle) against torch in float64."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cases import ATTENTION, LINEAR, tagged
from support import normal

from transformer_fast import reference
from transformer_fast.reference import scaled_dot_product_attention as attend

E = math.e


def close(got, expected, tolerance=1e-15):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------------------------------
# Attention by hand: one head, D = 1, scale 1; the keys 0 and 1 give a query of 1 the weights 1/(1+e) and e/(1+e)

ONE = np.array([[[1.0]]])
KEYS, VALUES = np.array([[[0.0], [1.0]]]), np.array([[[10.0], [20.0]]])


def test_two_keys():
    out, weights, lse = attend(ONE, KEYS, VALUES, return_weights="heads", return_lse=True)
    close(weights, [[[1 / (1 + E), E / (1 + E)]]])
    close(out, [[[(10 + 20 * E) / (1 + E)]]])
    close(lse, [[math.log(1 + E)]])


def test_scale_defaults_to_one_over_root_d():
    q, k = np.ones((1, 1, 4)), np.stack([np.zeros(4), np.ones(4)])[None]
    close(attend(q, k, VALUES), [[[(10 + 20 * E**2) / (1 + E**2)]]])
    close(attend(q, k, VALUES, scale=0.25), [[[(10 + 20 * E) / (1 + E)]]])


def test_softcap_comes_before_the_mask():
    capped = 0.5 * math.tanh(1 / 0.5)
    expected = (10 * E**3 + 20 * math.exp(capped)) / (E**3 + math.exp(capped))
    close(attend(ONE, KEYS, VALUES, np.array([[3.0, 0.0]]), softcap=0.5), [[[expected]]])


def test_masks():
    close(attend(ONE, KEYS, VALUES, np.array([[True, False]])), [[[10]]])
    close(attend(ONE, KEYS, VALUES, np.array([[0, -np.inf]])), [[[10]]])
    close(attend(ONE, KEYS, VALUES, np.array([[1.0, 0.0]])), [[[15]]])
    lowest = np.finfo(np.float64).min
    close(attend(ONE, KEYS, VALUES, np.array([[lowest, lowest]])), [[[15]]])


def test_a_row_that_sees_nothing():
    for options in (
        dict(attn_mask=np.array([[False, False]])),
        dict(attn_mask=np.array([[-np.inf, -np.inf]])),
        dict(kv_lengths=np.array([0])),
        dict(is_causal=True, causal_offset=-1),
    ):
        out, weights, lse = attend(ONE, KEYS, VALUES, **options, return_weights="heads", return_lse=True)
        assert out == 0 and (weights == 0).all() and np.isneginf(lse).all()
    out, lse = attend(ONE, KEYS[:, :0], VALUES[:, :0], return_lse=True)
    assert out.shape == (1, 1, 1) and out == 0 and np.isneginf(lse)


def shown(Lq, Lk, **options):
    """Which keys each query sees, as rows of text."""
    q, k, v = np.zeros((1, Lq, 1)), np.zeros((1, Lk, 1)), np.zeros((1, Lk, 1))
    weights = attend(q, k, v, **options, return_weights="heads")[1][0]
    return ["".join("x" if weight else "." for weight in row) for row in weights]


def test_structure():
    assert shown(3, 4) == ["xxxx", "xxxx", "xxxx"]
    assert shown(3, 4, is_causal=True) == ["x...", "xx..", "xxx."]
    assert shown(3, 4, is_causal=True, causal_offset=1) == ["xx..", "xxx.", "xxxx"]
    assert shown(3, 4, is_causal=True, causal_offset="bottom_right") == ["xx..", "xxx.", "xxxx"]
    assert shown(3, 2, is_causal=True, causal_offset="bottom_right") == ["..", "x.", "xx"]
    assert shown(3, 4, is_causal=True, causal_offset=-2) == ["....", "....", "x..."]
    assert shown(3, 4, is_causal=True, causal_offset=9) == ["xxxx", "xxxx", "xxxx"]
    assert shown(4, 5, window=(1, 0)) == ["x....", "xx...", ".xx..", "..xx."]
    assert shown(4, 5, window=(0, 2)) == ["xxx..", ".xxx.", "..xxx", "...xx"]
    assert shown(4, 5, window=(-1, 1)) == ["xx...", "xxx..", "xxxx.", "xxxxx"]
    assert shown(2, 5, window=(1, 1), causal_offset=2) == [".xxx.", "..xxx"]
    assert shown(3, 5, window=(1, 5), is_causal=True) == ["x....", "xx...", ".xx.."]
    assert shown(2, 4, kv_lengths=np.array([3])) == ["xxx.", "xxx."]
    assert shown(3, 4, kv_lengths=np.array([1]), is_causal=True) == ["x...", "x...", "x..."]


def test_offset_and_length_of_each_batch_entry():
    q, k, v = np.zeros((2, 1, 2, 1)), np.zeros((2, 1, 3, 1)), np.zeros((2, 1, 3, 1))
    options = dict(is_causal=True, causal_offset=np.array([1, -1]), kv_lengths=np.array([3, 2]))
    weights = attend(q, k, v, **options, return_weights="heads")[1]
    close(weights[0, 0], [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    close(weights[1, 0], [[0, 0, 0], [1, 0, 0]])


def test_relative_bias_is_indexed_by_distance():
    """Lq = 2, Lk = 3: the table holds the distances -1, 0, 1, 2."""
    table = np.log([[1.0, 2.0, 4.0, 8.0]])
    q, k, v = np.zeros((1, 2, 1)), np.zeros((1, 3, 1)), np.zeros((1, 3, 1))
    weights = attend(q, k, v, relative_bias=table, return_weights="heads")[1]
    close(weights[0], [[2 / 14, 4 / 14, 8 / 14], [1 / 7, 2 / 7, 4 / 7]])


def test_alibi_counts_from_the_position():
    q, k, v = np.zeros((1, 1, 1)), np.zeros((1, 3, 1)), np.zeros((1, 3, 1))
    options = dict(alibi_slopes=np.log([2.0]), causal_offset=2)
    weights, lse = attend(q, k, v, **options, return_weights="heads", return_lse=True)[1:]
    close(weights[0], [[1 / 7, 2 / 7, 4 / 7]])
    close(lse, [[math.log(1 / 4 + 1 / 2 + 1)]])


def test_sink_joins_the_denominator():
    out, weights, lse = attend(ONE, KEYS, VALUES, sinks=np.log([3.0]), return_weights="heads", return_lse=True)
    close(weights, [[[1 / (4 + E), E / (4 + E)]]])
    close(out, [[[(10 + 20 * E) / (4 + E)]]])
    close(lse, [[math.log(4 + E)]])


def test_groups_and_mean_of_heads():
    """Query heads 0 and 1 use key head 0, and 2 and 3 use 1; the mean is over query heads."""
    q = np.array([0.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1)
    k = np.concatenate([KEYS, -KEYS])
    v = np.concatenate([VALUES, VALUES + 100])
    out, weights = attend(q, k, v, enable_gqa=True, return_weights="mean")
    a, b = 1 / (1 + E), E / (1 + E)
    close(out[:, 0, 0], [15, 10 * a + 20 * b, 115, 110 * b + 120 * a])
    close(weights, [[(0.5 + a + 0.5 + b) / 4, (0.5 + b + 0.5 + a) / 4]])


def test_hidden_keys_may_hold_anything_and_shown_ones_come_through():
    q, k, v = np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), np.array([[[10.0], [np.nan]]])
    out = attend(q, k, v, is_causal=True)
    assert out[0, 0] == 10 and np.isnan(out[0, 1])
    k[0, 1] = np.inf
    assert attend(q, k, v, is_causal=True)[0, 0] == 10


def test_refusals():
    with pytest.raises(ValueError, match="dropout_p"):
        attend(ONE, KEYS, VALUES, dropout_p=0.5)
    with pytest.raises(ValueError, match="enable_gqa"):
        attend(ONE.repeat(2, axis=0), KEYS, VALUES)
    with pytest.raises(TypeError, match="query.*int64"):
        attend(np.ones((1, 1, 1), int), KEYS, VALUES)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_types(dtype):
    """Half types are computed in float32: q = k = v = 256 at D = 80 would overflow float16."""
    full = np.full((1, 3, 80), 256, dtype)
    out, weights, lse = attend(full, full, full, return_weights="heads", return_lse=True)
    assert out.dtype == weights.dtype == dtype and (out == 256).all()
    assert lse.dtype == (np.float64 if dtype == np.float64 else np.float32) and np.isfinite(lse).all()
    assert reference.layer_norm(full).dtype == reference.softmax(full).dtype == reference.gelu(full).dtype == dtype


def test_varlen_is_attention_of_each_sequence():
    starts_q, starts_k = np.array([0, 2, 2, 5]), np.array([0, 3, 4, 4])
    q, k, v = normal(5, 2, 4).astype(float), normal(4, 2, 4).astype(float), normal(4, 2, 3).astype(float)
    out, lse = reference.varlen_attention(q, k, v, starts_q, starts_k, is_causal=True, return_lse=True)
    first = attend(q[:2].swapaxes(0, 1), k[:3].swapaxes(0, 1), v[:3].swapaxes(0, 1), is_causal=True)
    close(out[:2], first.swapaxes(0, 1))
    assert (out[2:] == 0).all() and np.isneginf(lse[:, 2:]).all()  # the last sequence has queries and no keys


def test_varlen_relative_bias_and_mask_are_those_of_the_longest():
    starts = np.array([0, 2, 5])
    q, k, v = (np.zeros((5, 1, 1)) for _ in range(3))
    v[:, 0, 0] = [1, 2, 4, 8, 16]
    table = np.log([[1.0, 2.0, 4.0, 8.0, 16.0]])  # distances -2 .. 2
    out = reference.varlen_attention(q, k, v, starts, starts, relative_bias=table)[:, 0, 0]
    close(out[0], (1 * 4 + 2 * 8) / 12)
    close(out[4], (4 * 1 + 8 * 2 + 16 * 4) / 7)
    mask = np.array([True, False, True])
    out = reference.varlen_attention(q, k, v, starts, starts, attn_mask=mask)[:, 0, 0]
    close(out, [1, 1, 10, 10, 10])


def test_merging_parts_gives_the_whole():
    q, k, v = (normal(1, 2, n, 8).astype(float) for n in (5, 30, 30))
    mask = np.ones((5, 30), bool)
    mask[3], mask[4, :20] = False, False
    whole = attend(q, k, v, mask, return_lse=True)
    parts = [attend(q, k[:, :, c], v[:, :, c], mask[:, c], return_lse=True) for c in (slice(0, 11), slice(11, 30))]
    out, lse = reference.merge_attention(*zip(*parts, strict=True))
    close(out, whole[0])
    close(lse, whole[1])
    assert (out[:, :, 3] == 0).all()


def test_additive_attention():
    """One query 0.5 and the keys 0 and 1 with v = 2: the scores are 2 tanh(0.5) and 2 tanh(1.5)."""
    q, k, value = np.array([[0.5]]), np.array([[0.0], [1.0]]), np.array([[10.0], [20.0]])
    a, b = math.exp(2 * math.tanh(0.5)), math.exp(2 * math.tanh(1.5))
    close(reference.additive_attention(q, k, value, np.array([2.0])), [[(10 * a + 20 * b) / (a + b)]])
    weights = dict(W_q=np.array([[2.0]]), W_k=np.array([[3.0]]), bias=np.array([-1.0]))
    a, b = math.exp(2 * math.tanh(0.0)), math.exp(2 * math.tanh(3.0))
    close(reference.additive_attention(q, k, value, np.array([2.0]), **weights), [[(10 * a + 20 * b) / (a + b)]])
    close(reference.additive_attention(q, k, value, np.array([2.0]), mask=np.array([[True, False]])), [[10]])
    assert reference.additive_attention(q, k, value, np.array([2.0]), mask=np.array([[False, False]])) == 0


# ---------------------------------------------------------------------------------------------------------------------
# The other ops by hand


def test_linear():
    x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [-5.0, 1.0], [0.0, 1.0]])
    close(reference.linear(x, weight), [[11, -3, 2]])
    close(reference.linear(x, weight, np.array([1.0, 1.0, 1.0])), [[12, -2, 3]])
    # The residual is added after the activation.
    close(reference.linear(x, weight, activation="relu", residual=np.array([[1.0, 1.0, 1.0]])), [[12, 1, 3]])
    with pytest.raises(ValueError, match="activation"):
        reference.linear(x, weight, activation="swish2")


def test_layer_norm():
    x = np.array([[1.0, 3.0]])  # mean 2, variance 1
    close(reference.layer_norm(x, eps=0.0), [[-1, 1]])
    close(reference.layer_norm(x, eps=3.0), [[-0.5, 0.5]])
    close(reference.layer_norm(x, np.array([2.0, 3.0]), np.array([10.0, 20.0]), 0.0), [[8, 23]])
    close(reference.layer_norm(x, eps=0.0, residual=np.array([[0.0, -4.0]])), [[1, -1]])


def test_softmax():
    close(reference.softmax(np.log([[1.0, 2.0, 5.0]])), [[1 / 8, 2 / 8, 5 / 8]])
    close(reference.softmax(np.log([[1.0, 2.0], [3.0, 2.0]]), axis=0), [[1 / 4, 1 / 2], [3 / 4, 1 / 2]])
    close(reference.softmax(np.array([1000.0, 1000.0, -np.inf])), [1 / 2, 1 / 2, 0])
    assert np.isnan(reference.softmax(np.array([-np.inf, -np.inf]))).all()


def test_activations():
    x = np.array([-2.0, 0.0, 0.5])
    close(reference.gelu(x), [z * 0.5 * math.erfc(-z / math.sqrt(2)) for z in x])
    close(reference.gelu(x, "tanh"), [-0.04540230591222494, 0.0, 0.34571400982514394])
    close(reference.relu(x), [0, 0, 0.5])
    close(reference.silu(x), [z / (1 + math.exp(-z)) for z in x])
    close(reference.tanh(x), [math.tanh(z) for z in x])
    close(reference.quick_gelu(x), [z / (1 + math.exp(-1.702 * z)) for z in x])


def test_embedding():
    weight = np.arange(6.0).reshape(3, 2)
    close(reference.embedding(np.array([[2, 0]]), weight), [[[4, 5], [0, 1]]])
    with pytest.raises(IndexError, match="3.*V = 3"):
        reference.embedding(np.array([0, 3]), weight)
    with pytest.raises(IndexError, match="-1"):
        reference.embedding(np.array([-1]), weight)
    with pytest.raises(TypeError, match="float64"):
        reference.embedding(np.array([1.0]), weight)


def test_heads():
    x = np.arange(12).reshape(1, 3, 4)
    heads = reference.split_heads(x, 2)
    np.testing.assert_array_equal(heads[0, 1], [[2, 3], [6, 7], [10, 11]])
    assert heads.flags.c_contiguous
    np.testing.assert_array_equal(reference.concat_heads(heads), x)
    with pytest.raises(ValueError, match="num_heads"):
        reference.split_heads(x, 3)


def test_it_imports_numpy_alone():
    nodes = [
        node
        for path in Path(reference.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= {"numpy", "math", "__future__", "transformer_fast.reference.low_precision"}


# ---------------------------------------------------------------------------------------------------------------------
# Against torch, in float64

TORCH_CASES = [
    case
    for case in tagged(ATTENTION, "small")
    if "engine" not in case.tags
    and not case.ragged
    and case.mask != "dead"
    and 0 not in (case.B, case.H, case.Lq, case.Lk)
]


@pytest.mark.oracle
def test_attention_against_torch(torch):
    for case in TORCH_CASES:
        arrays, options = case.make_inputs(np.float64)
        if case.is_causal and case.mask:
            continue  # torch refuses both together
        mask = options.pop("attn_mask", None)
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(torch.from_numpy(array.copy()) for array in arrays),
            None if mask is None else torch.from_numpy(np.atleast_2d(mask)),
            **options,
        )
        got = attend(*arrays, mask, **options)
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-13, err_msg=case.name)


@pytest.mark.oracle
def test_linear_against_torch(torch):
    functions = dict(
        relu=torch.relu,
        gelu=torch.nn.functional.gelu,
        gelu_tanh=lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
        silu=torch.nn.functional.silu,
        tanh=torch.tanh,
        quick_gelu=lambda y: y * torch.sigmoid(1.702 * y),
    )
    for case in tagged(LINEAR, "small"):
        (x, weight), options = case.make_inputs(np.float64)
        bias = torch.from_numpy(options["bias"]) if case.bias else None
        y = torch.nn.functional.linear(torch.from_numpy(x), torch.from_numpy(weight), bias)
        if case.activation:
            y = functions[case.activation](y)
        if case.residual:
            y = y + torch.from_numpy(options["residual"])
        got = reference.linear(x, weight, **options)
        np.testing.assert_allclose(got, y.numpy(), rtol=1e-12, atol=1e-13, err_msg=case.name)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(5, 33), (2, 3, 4, 8), (7,)])
def test_rows_against_torch(shape, torch):
    F = torch.nn.functional
    x, weight, bias = (
        normal(*shape).astype(float),
        normal(shape[-1]).astype(float),
        normal(shape[-1], seed=1).astype(float),
    )
    t = torch.from_numpy
    close(reference.layer_norm(x, weight, bias, 1e-3), F.layer_norm(t(x), shape[-1:], t(weight), t(bias), 1e-3), 1e-13)
    close(reference.softmax(x), F.softmax(t(x), -1), 1e-13)
    close(reference.softmax(x, 0), F.softmax(t(x), 0), 1e-13)
    wide = np.linspace(-40, 40, 2001)
    close(reference.gelu(wide), F.gelu(t(wide)), 1e-13)
    close(reference.gelu(wide, "tanh"), F.gelu(t(wide), approximate="tanh"), 1e-13)
    close(reference.silu(wide), F.silu(t(wide)), 1e-13)
    close(reference.tanh(wide), torch.tanh(t(wide)), 1e-13)


@pytest.mark.oracle
@pytest.mark.parametrize("op", ["softmax", "gelu", "layer_norm"])
def test_what_is_not_finite_against_torch(op, torch):
    x = normal(6, 20).astype(float)
    x[1], x[2, 3], x[3, 3], x[4, 3] = -np.inf, np.inf, np.nan, -np.inf
    options = dict(softmax=dict(dim=-1), gelu={}, layer_norm=dict(normalized_shape=(20,)))[op]
    got, expected = getattr(reference, op)(x), getattr(torch.nn.functional, op)(torch.from_numpy(x), **options).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))

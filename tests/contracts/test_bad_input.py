"""Bad input: the error has the right type and names the argument, what came and what is needed; out stays untouched."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import every_call, normal

from transformer_fast import functional

CALLS = {call.name: call for call in every_call()}
FLOATS = [
    (call.name, name) for call in CALLS.values() for name, array in call.operands.items() if array.dtype.kind == "f"
]
INTEGERS = [
    (call.name, name) for call in CALLS.values() for name, array in call.operands.items() if array.dtype.kind in "iu"
]


def refused(call, error, match, **changes):
    """The call with `changes` raises, says `match`, and leaves out as it was."""
    if call.takes_out:
        out = np.full(call.run().shape, 7, np.float32)
        with pytest.raises(error, match=match):
            call.run(**changes, out=out)
        assert (out == 7).all()
    with pytest.raises(error, match=match):
        call.run(**changes)


def named(array):
    """A pattern for either name that NumPy has for the type of an array."""
    return f"{array.dtype.name}|{re.escape(str(array.dtype))}"


@pytest.mark.parametrize("dtype", ["int32", "complex64", "object", "S4"])
@pytest.mark.parametrize(("name", "operand"), FLOATS)
def test_type_of_a_floating_operand(name, operand, dtype):
    array = CALLS[name].operands[operand].astype(dtype)
    refused(CALLS[name], TypeError, rf"{operand}(?s:.*)({named(array)})", **{operand: array})


@pytest.mark.parametrize("operand", ["query", "key", "value"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble"])
def test_mixed_types_are_refused(operand, dtype):
    array = CALLS["attention"].operands[operand].astype(dtype)
    refused(CALLS["attention"], TypeError, named(array), **{operand: array})


@pytest.mark.parametrize("dtype", ["float32", "complex64", "object", "bool"])
@pytest.mark.parametrize(("name", "operand"), INTEGERS)
def test_type_of_an_integer_operand(name, operand, dtype):
    array = CALLS[name].operands[operand].astype(dtype)
    refused(CALLS[name], TypeError, rf"{operand}(?s:.*){array.dtype.name}", **{operand: array})


@pytest.mark.parametrize(("name", "operand"), FLOATS)
def test_no_array_at_all(name, operand):
    refused(CALLS[name], TypeError, operand, **{operand: object()})
    refused(CALLS[name], (TypeError, ValueError), operand, **{operand: "text"})


# What is wrong with one argument of a call: (call, argument, value, error). The message must name the argument.
Q, K, V = (CALLS["attention"].operands[name] for name in ("query", "key", "value"))
B, H, Lq, D = Q.shape
Lk = K.shape[2]
DISTANCES, APART = functional.DistanceScores, np.clip(np.arange(1 - Lq, Lk) + 2, 0, 3)
X = CALLS["linear"].operands["x"]
WRONG = [
    # attention: shapes
    ("attention", "query", normal(D), ValueError),
    ("attention", "query", normal(Lq, D), ValueError),
    ("attention", "query", normal(B, H, Lq, D + 1), ValueError),
    ("attention", "query", normal(B + 1, H, Lq, D), ValueError),
    ("attention", "query", normal(B, 3 * H, Lq, D), ValueError),
    ("attention", "key", normal(B, H, Lk, D - 1), ValueError),
    ("attention", "key", normal(B, H, Lk + 1, D), ValueError),
    ("attention", "key", normal(B, 1, Lk, D), ValueError),
    ("attention", "value", normal(B, H, Lk - 1, D), ValueError),
    ("attention", "value", normal(B, 2 * H, Lk, D), ValueError),
    ("attention", "attn_mask", normal(B, H, Lq, Lk - 1), ValueError),
    ("attention", "attn_mask", normal(B, H, Lq + 1, Lk), ValueError),
    ("attention", "attn_mask", normal(B, H + 1, 1, Lk), ValueError),
    ("attention", "attn_mask", normal(2, B, H, Lq, Lk), ValueError),
    ("attention", "attn_mask", np.zeros((Lq, Lk), np.int64), TypeError),
    # attention: options
    ("attention", "dropout_p", 0.1, ValueError),
    ("attention", "scale", "large", (TypeError, ValueError)),
    ("attention", "causal_offset", "top_left", ValueError),
    ("attention", "causal_offset", np.array([1, 2, 3]), ValueError),
    ("attention", "causal_offset", 1.5, (TypeError, ValueError)),
    ("attention", "window", (1, 2, 3), ValueError),
    ("attention", "window", (-2, 0), ValueError),
    ("attention", "window", (0, -5), ValueError),
    ("attention", "window", (0.5, 1), (TypeError, ValueError)),
    ("attention", "kv_lengths", np.array([1, 2, 3]), ValueError),
    ("attention", "kv_lengths", np.array([[1, 2]]), ValueError),
    ("attention", "kv_lengths", np.array([-1, 2]), (ValueError, IndexError)),
    ("attention", "kv_lengths", np.array([2, Lk + 1]), (ValueError, IndexError)),
    ("attention", "softcap", -1.0, ValueError),
    ("attention", "softcap", float("nan"), ValueError),
    ("attention", "relative_bias", normal(H, Lq + Lk), ValueError),
    ("attention", "relative_bias", normal(H + 1, Lq + Lk - 1), ValueError),
    ("attention", "relative_bias", normal(Lq + Lk - 1), ValueError),
    ("attention", "distance_scores", normal(H, Lq + Lk - 1), TypeError),
    ("attention", "distance_scores", DISTANCES(None, None, APART), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4).astype(float), None, APART), TypeError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq + 1, 4), None, APART), ValueError),
    ("attention", "distance_scores", DISTANCES(None, normal(H, Lk, 4), APART), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), normal(B, H, Lk, 5), APART), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), None, APART[1:]), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), None, APART / 2), TypeError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), None, APART + 1), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), None, APART - 1), ValueError),
    ("attention", "distance_scores", DISTANCES(normal(B, H, Lq, 4), None, APART * 3 % 4), ValueError),
    ("attention", "alibi_slopes", normal(H + 1), ValueError),
    ("attention", "alibi_slopes", normal(H, 1), ValueError),
    ("attention", "sinks", normal(H + 1), ValueError),
    ("attention", "sinks", normal(1, H), ValueError),
    ("attention", "return_weights", "sum", ValueError),
    # packed attention
    ("varlen", "query", normal(Lq, D), ValueError),
    ("varlen", "query", normal(Lq, H, D + 1), ValueError),
    ("varlen", "key", normal(Lk, H, D + 1), ValueError),
    ("varlen", "value", normal(Lk - 1, H, D), ValueError),
    ("varlen", "cu_seqlens_q", np.array([0, 5, 5, Lq - 1], np.int32), ValueError),
    ("varlen", "cu_seqlens_q", np.array([0, 5, 5, Lq + 1], np.int32), (ValueError, IndexError)),
    ("varlen", "cu_seqlens_q", np.array([1, 5, 5, Lq], np.int32), ValueError),
    ("varlen", "cu_seqlens_q", np.array([0, 6, 5, Lq], np.int32), ValueError),
    ("varlen", "cu_seqlens_q", np.array([0, 5, Lq], np.int32), ValueError),
    ("varlen", "cu_seqlens_q", np.zeros(0, np.int32), ValueError),
    ("varlen", "cu_seqlens_q", np.array([[0, 5, 5, Lq]], np.int32), ValueError),
    ("varlen", "cu_seqlens_k", np.array([0, 3, 10, 2**40]), (ValueError, IndexError)),
    ("varlen", "cu_seqlens_k", np.array([0, -3, 10, Lk]), (ValueError, IndexError)),
    # linear
    ("linear", "x", np.float32(1) * np.ones(()), (TypeError, ValueError)),
    ("linear", "x", normal(21, 36), ValueError),
    ("linear", "weight", normal(37), ValueError),
    ("linear", "weight", normal(1, 43, 37), ValueError),
    ("linear", "bias", normal(42), ValueError),
    ("linear", "bias", normal(1, 43), ValueError),
    ("linear", "residual", normal(21, 42), ValueError),
    ("linear", "residual", normal(2, 43), ValueError),
    ("linear", "residual", normal(1, 21, 43), ValueError),
    ("linear_max", "x", normal(2, 21, 37), ValueError),
    ("linear_max", "cu_seqlens", np.array([0, 5, 5, 20], np.int32), ValueError),
    ("linear_max", "cu_seqlens", np.array([0, 6, 5, 21], np.int32), ValueError),
    ("linear", "activation", "swish2", ValueError),
    ("linear", "activation", 3, (TypeError, ValueError)),
    # rows
    ("layer_norm", "x", np.ones((), np.float32), ValueError),
    ("layer_norm", "weight", normal(36), ValueError),
    ("layer_norm", "weight", normal(1), ValueError),
    ("layer_norm", "bias", normal(21, 37), ValueError),
    ("layer_norm", "residual", normal(20, 37), ValueError),
    ("layer_norm", "eps", "small", (TypeError, ValueError)),
    ("softmax", "axis", 2, (ValueError, IndexError)),
    ("softmax", "axis", -3, (ValueError, IndexError)),
    ("softmax", "axis", 0.5, (TypeError, ValueError)),
    ("softmax", "x", np.ones((), np.float32), (ValueError, IndexError)),
    ("gelu", "approximate", "erf", ValueError),
    # embedding and heads
    ("embedding", "weight", normal(51), ValueError),
    ("embedding", "weight", normal(2, 51, 43), ValueError),
    ("embedding", "ids", np.array([51]), IndexError),
    ("embedding", "ids", np.array([-1]), IndexError),
    ("split_heads", "num_heads", 3, ValueError),
    ("split_heads", "num_heads", 1.5, (TypeError, ValueError)),
]


@pytest.mark.parametrize(
    ("name", "argument", "value", "error"), WRONG, ids=lambda item: item if isinstance(item, str) else ""
)
def test_wrong(name, argument, value, error):
    refused(CALLS[name], error, argument, **{argument: value})


def test_a_weight_of_another_depth():
    """Which of both is wrong nobody knows: the message has both lengths."""
    with pytest.raises(ValueError, match="37(?s:.*)36|36(?s:.*)37"):
        functional.linear(normal(21, 37), normal(43, 36))


@pytest.mark.parametrize("isa_name", ["avx1024", "", "AVX2 "])
def test_isa_that_does_not_exist(isa_name):
    before = functional.get_isa()
    with pytest.raises(ValueError, match=rf"{isa_name}(?s:.*)portable"):
        functional.set_isa(isa_name)
    assert functional.get_isa() == before


def test_isa_that_is_no_name():
    with pytest.raises(TypeError):
        functional.set_isa(2)


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, (TypeError, ValueError)), ("two", (TypeError, ValueError))],
)
def test_number_of_threads(count, error):
    before = functional.get_num_threads()
    with pytest.raises(error):
        functional.set_num_threads(count)
    assert functional.get_num_threads() == before


@pytest.mark.parametrize("weight", [normal(3), normal(2, 3, 4), np.ones((2, 3), np.int32), None])
def test_packing_what_is_no_weight(weight):
    with pytest.raises((TypeError, ValueError), match="weight"):
        functional.pack_weight(weight)


def test_an_error_changes_nothing(isa):
    """After many refused calls the next good one is right."""
    call = CALLS["attention"]
    before = call.run()
    for _ in range(50):
        with pytest.raises(ValueError):
            call.run(kv_lengths=np.array([-5, 2**60]))
    np.testing.assert_array_equal(call.run(), before)

"""linear and pack_weight against the reference."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from cases import ACTIVATIONS, LINEAR, LinearCase, tagged
from support import assert_close, assert_same_bits, both, normal, widened

from transformer_fast import functional, reference
from transformer_fast.functional import linear, pack_weight


def ids(case):
    return case.name


@functools.cache
def expectation(case: LinearCase):
    """The inputs of a case and the reference's result, computed once for all ISAs and threads."""
    arrays, options = case.make_inputs()
    return arrays, options, reference.linear(*widened(arrays), **widened(options))


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("case", tagged(LINEAR, "small", "long"), ids=ids)
def test_case(case, isa, threads):
    (x, weight), options, expected = expectation(case)
    got = linear(x, weight, **options)
    assert_close(got, expected)
    assert_same_bits(linear(x, pack_weight(weight), **options), got)


@pytest.mark.parametrize("shape", [(50,), (1, 50), (2, 3, 50), (2, 1, 3, 50), (0, 3, 50)])
def test_leading_dimensions(shape, isa):
    weight, bias, residual = normal(20, 50) / 7, normal(20), normal(*shape[:-1], 20)
    out = both("linear", normal(*shape), weight, bias, residual=residual, activation="gelu")
    assert out.shape == shape[:-1] + (20,)


@pytest.mark.parametrize("bias", [None, normal(20), normal(20).astype(np.float64), normal(40)[::2]])
@pytest.mark.parametrize(
    "x", [normal(3, 50), normal(50), normal(3, 2, 50)[:, 0], normal(3, 100)[:, ::2], normal(0, 50)]
)
def test_the_short_way_is_the_long_way(x, bias, isa):
    """As in test_attention.py: with an option that says nothing the result has the same bits."""
    packed = pack_weight(normal(20, 50))
    got = linear(x, packed, bias, activation="gelu")
    assert_same_bits(linear(x, packed, bias, activation="gelu", out=np.empty_like(got)), got)


def test_residual_broadcasts(isa):
    for shape in ((20,), (1, 20), (2, 1, 20)):
        both("linear", normal(2, 3, 50), normal(20, 50) / 7, residual=normal(*shape))


def test_packed_weight_knows_itself(isa):
    weight = normal(33, 47)
    packed = pack_weight(weight)
    assert packed.shape == (33, 47)
    assert packed.isa == isa
    assert packed.nbytes >= weight.nbytes


def test_packed_weight_is_a_copy(isa):
    """What happens to the array after packing does not reach the packed weight."""
    x, weight = normal(5, 47), normal(33, 47) / 7
    packed, before = pack_weight(weight), linear(x, weight)
    weight[...] = np.nan
    assert_same_bits(linear(x, packed), before)


def test_packed_weight_of_another_isa_is_refused():
    """Levels of one format have the floats of the level below; amx keeps the kernels of avx512 for few rows."""
    of_floats = {
        "avxvnni": "avx2",
        "avx512vnni": "avx512",
        "avx512bf16": "avx512",
        "neondot": "neon",
        "neoni8mm": "neon",
    }
    isas, before = functional.available_isas(), functional.get_isa()
    if len(isas) == 1:
        pytest.skip("this machine has one ISA")
    x, weight = normal(5, 47), normal(33, 47)
    try:
        for packed_for in isas:
            functional.set_isa(packed_for)
            packed = pack_weight(weight)
            expected = linear(x, packed)
            for other in set(isas) - {packed_for}:
                functional.set_isa(other)
                kinds = of_floats.get(packed_for, packed_for), of_floats.get(other, other)
                if kinds[0] == kinds[1] or kinds == ("avx512", "amx"):
                    np.testing.assert_array_equal(linear(x, packed), expected)
                    continue
                with pytest.raises(RuntimeError, match=other):
                    linear(x, packed)
    finally:
        functional.set_isa(before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_the_op_of_that_name(activation, isa):
    """The fused epilogue gives what the op of the same name gives afterwards, up to rounding."""
    x, weight, bias = normal(9, 40), normal(35, 40) / 6, normal(35)
    fused = linear(x, weight, bias, activation=activation)
    apart = linear(x, weight, bias)
    if activation == "gelu_tanh":
        apart = functional.gelu(apart, "tanh")
    elif activation is not None:
        apart = getattr(functional, activation)(apart)
    np.testing.assert_allclose(fused, apart, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("N", "K"), [(40, 64), (65, 513), (768, 768), (200, 3072)])
def test_row_independence(N, K, isa, threads):
    """A row has the same bits alone, in a small batch and in a large one."""
    x, weight, bias, residual = normal(67, K), normal(N, K) / 20, normal(N), normal(67, N)
    packed = pack_weight(weight)
    whole = linear(x, packed, bias, activation="gelu", residual=residual)
    for rows in (slice(0, 1), slice(66, 67), slice(5, 7), slice(10, 14), slice(3, 16), slice(0, 66), slice(1, 67)):
        part = linear(x[rows], packed, bias, activation="gelu", residual=residual[rows])
        assert_same_bits(part, whole[rows])


def test_residual_is_added_after_the_activation(isa):
    out = linear(
        -np.ones((1, 4), np.float32),
        np.eye(4, dtype=np.float32),
        activation="relu",
        residual=-np.ones((1, 4), np.float32),
    )
    assert (out == -1).all()


def test_nan_stays_in_its_row(isa):
    x, weight = normal(30, 40), normal(50, 40)
    x[13, 7] = np.nan
    out = linear(x, weight)
    assert np.isnan(out[13]).all()
    assert np.isfinite(np.delete(out, 13, axis=0)).all()


def test_nan_in_the_weight_stays_in_its_column(isa):
    x, weight = normal(30, 40), normal(50, 40)
    weight[31, 7] = np.nan
    out = linear(x, weight)
    assert np.isnan(out[:, 31]).all()
    assert np.isfinite(np.delete(out, 31, axis=1)).all()


def test_into_out(isa):
    x, weight = normal(13, 40), normal(35, 40)
    out = np.full((13, 35), np.nan, np.float32)
    assert linear(x, weight, out=out) is out
    assert_same_bits(out, linear(x, weight))


@pytest.mark.parametrize("activation", [None, "silu", "gelu_tanh"])
@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 1), (9, 35, 40), (33, 97, 200), (3, 48, 700)])
def test_gated(M, N, K, activation, isa, threads):
    """The product with another array stands between activation and residual."""
    x, weight, bias, gate, residual = normal(M, K), normal(N, K) / K**0.5, normal(N), normal(M, N), normal(M, N, seed=1)
    for rest in ({}, {"residual": residual}, {"multiply": gate[:1]}):
        both("linear", x, weight, bias, **{"activation": activation, "multiply": gate, **rest})
    expected = linear(x, weight, bias, activation=activation, multiply=gate)
    assert_same_bits(linear(x, weight, bias, activation=activation, multiply=gate, out=gate), expected)


def test_a_gate_of_another_shape():
    with pytest.raises(ValueError, match=r"multiply has shape \(2, 7\); needed: \(2, 8\)"):
        linear(normal(2, 4), normal(8, 4), multiply=normal(2, 7))


@pytest.mark.parametrize("M", [1, 9, 33, 100])
def test_packed_for_decode(M, isa, threads):
    """Another layout on some machines, the same product up to rounding, and a row's bits do not depend on M."""
    x, weight, bias = normal(M, 200), normal(97, 200) / 14, normal(97)
    packed = pack_weight(weight, for_decode=True)
    assert packed.isa == isa
    got = linear(x, packed, bias, activation="gelu")
    assert_close(got, reference.linear(*widened([x, weight, bias]), activation="gelu"))
    assert_same_bits(linear(x[:1], packed, bias, activation="gelu"), got[:1])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38])
def test_rows_that_are_not_finite_leave_the_others_their_bits(value, isa):
    """Where parts of numbers are multiplied, infinity times an empty part must not become NaN."""
    x, weight, residual = normal(70, 200), np.abs(normal(50, 200)) / 14, normal(70, 50)
    plain = linear(x, weight, activation="relu", residual=residual)
    x[[3, 40], 150] = value
    weight[7] = 0.5  # one part is all it has
    plain[:, 7] = linear(x, weight, activation="relu", residual=residual)[:, 7]
    got = linear(x, weight, activation="relu", residual=residual)
    assert_same_bits(np.delete(got, [3, 40], axis=0), np.delete(plain, [3, 40], axis=0))
    expected = reference.linear(*widened([x, weight]), activation="relu", residual=residual.astype(np.float64))
    np.testing.assert_allclose(got[[3, 40]], expected[[3, 40]], rtol=1e-5)


@pytest.mark.parametrize("multiply", [None, 2.0])
def test_products_out_of_range(multiply, isa):
    """Beyond the largest number lies infinity: parts of a product must not become infinities of both signs, and NaN."""
    x, weight, gate = normal(40, 200), normal(50, 200) / 14, multiply and np.full((40, 50), multiply, np.float32)
    x[[3, 17, 39], 150] = 3e38, -3e38, 1.3e30
    weight[9, 150], weight[49, 150] = 3e38, -2.7e20
    weight[[i for i in range(50) if i not in (9, 49)], 150] = 0
    got = linear(x, weight, multiply=gate)
    assert np.isposinf(got[[3, 39], 9]).all() and np.isneginf(got[17, 9])
    assert np.isneginf(got[[3, 39], 49]).all() and np.isposinf(got[17, 49])
    assert np.isfinite(np.delete(got[[3, 17, 39]], [9, 49], axis=1)).all()
    assert_same_bits(linear(x[3:4], weight, multiply=None if gate is None else gate[3:4]), got[3:4])


def test_infinity_in_the_weight(isa):
    x, weight = normal(40, 200), normal(50, 200) / 14
    weight[9, 3], weight[20, 199] = np.inf, -np.inf
    x[:, [3, 199]] = 2.0
    got = linear(x, weight)
    assert np.isposinf(got[:, 9]).all() and np.isneginf(got[:, 20]).all()
    assert np.isfinite(np.delete(got, [9, 20], axis=1)).all()


def test_numbers_next_to_denormals(isa):
    """Parts of such numbers may be lost (AMX), but no more of them than the smallest normal number."""
    x, weight = np.full((20, 40), 1.2345e-36, np.float32), np.ones((7, 40), np.float32)
    np.testing.assert_allclose(linear(x, weight), 40 * 1.2345e-36, rtol=0, atol=40 * 2.0**-126)

"""Numbers at the edge: NaN, infinities, denormals, large logits, the ends of float32; and errors that must not grow."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, assert_same_bits, both, normal, widened

from transformer_fast import reference
from transformer_fast.functional import layer_norm, linear, scaled_dot_product_attention, softmax

SHAPES = [(1, 5), (1, 300), (9, 33), (70, 133), (5, 1500)]  # (Lq, Lk): one row, one block, several blocks


def operands(Lq, Lk, D=16):
    return normal(1, 2, Lq, D, seed=1), normal(1, 2, Lk, D, seed=2), normal(1, 2, Lk, D, seed=3)


# ---------------------------------------------------------------------------------------------------------------------
# Attention


@pytest.mark.parametrize("level", [-80, 80, -1e4, 1e4, 1e30, -1e30])
@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_a_constant_added_to_all_logits_cancels(level, Lq, Lk, isa):
    """exp(80) fits float32 and exp(-80) is tiny, exp(1e4) neither: the maximum must be subtracted before."""
    q, k, v = operands(Lq, Lk)
    mask = np.full((Lq, Lk), level, np.float32)
    expected = reference.scaled_dot_product_attention(
        *widened([q, k, v]), (normal(1, 1, 1) * 0 + mask).astype(np.float64)
    )
    if abs(level) > 1e3:  # adding to a float32 score rounds it: compare with the scores as rounded
        scores = (q @ k.swapaxes(-1, -2) * np.float32(0.25) + mask).astype(np.float64)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        expected = weights / weights.sum(axis=-1, keepdims=True) @ v.astype(np.float64)
    assert_close(scaled_dot_product_attention(q, k, v, mask), expected, 3e-3 if abs(level) == 1e4 else 2e-5)


@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_one_key_far_above_the_others(Lq, Lk, isa):
    """One logit of +80 in each row, the rest around -80: its value comes out, wherever in the row it stands."""
    q, k, v = operands(Lq, Lk)
    chosen = np.random.default_rng(0).integers(0, Lk, Lq)
    mask = np.full((Lq, Lk), -80, np.float32)
    mask[np.arange(Lq), chosen] = 80
    out, lse = both("scaled_dot_product_attention", q, k, v, mask, return_lse=True, tolerance=1e-5)
    np.testing.assert_allclose(out, v[:, :, chosen], atol=2e-6)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_logits_that_rise_along_the_row(order, isa):
    """Each block of keys has a larger maximum than the one before (or a smaller one): every rescale happens."""
    Lk = 1700
    q, k, v = operands(6, Lk)
    mask = np.broadcast_to(np.linspace(-200, 200, Lk, dtype=np.float32), (6, Lk))
    both("scaled_dot_product_attention", q, k, v, mask if order == "rising" else mask[:, ::-1], tolerance=2e-5)


@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_large_products(Lq, Lk, isa):
    """q = k = v = 256 at D = 80: q.k is 5.2e6, finite here (float16 overflows at 65504), and every value is 256."""
    q, k, v = (np.full((1, 1, length, 80), 256, np.float32) for length in (Lq, Lk, Lk))
    np.testing.assert_allclose(scaled_dot_product_attention(q, k, v), 256, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-20, 1e-38, 1e-42])
def test_tiny_operands(size, isa):
    """Denormal queries and keys give equal weights; denormal values are averaged, not flushed to zero."""
    q, k, v = ((array * np.float32(size)).astype(np.float32) for array in operands(9, 33))
    out = scaled_dot_product_attention(q, k, v).astype(np.float64)
    expected = reference.scaled_dot_product_attention(*widened([q, k, v]))
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=max(2e-6 * size, 3e-44))


def test_huge_values(isa):
    """The weighted sum comes before the division: values up to the largest float32 over Lk are averaged."""
    q, k, _ = operands(9, 33)
    v = np.full((1, 2, 33, 16), 1e37, np.float32)
    out = scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(out, np.float32(1e37), rtol=2e-6)


@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_nan_and_infinity_come_through(operand, value, Lq, Lk, isa):
    """What is visible and not finite shows in the result: nothing finite is made of it, except by a weight of zero."""
    arrays = list(operands(Lq, Lk))
    arrays[operand][0, 1, Lq // 2 if operand == 0 else Lk // 2, 3] = value
    out = scaled_dot_product_attention(*arrays)
    assert np.isfinite(out[0, 0]).all()
    if operand == 0:
        assert np.isnan(out[0, 1, Lq // 2]).all()  # scores of both infinite signs, or NaN
    elif operand == 2:
        assert not np.isfinite(out[0, 1, :, 3]).any()
        assert np.isfinite(np.delete(out[0, 1], 3, axis=-1)).all()
    else:
        expected = reference.scaled_dot_product_attention(*widened(arrays))
        np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))


@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_plus_infinity_in_a_mask_is_nan(Lq, Lk, isa):
    """inf - inf, as in torch; the other rows are untouched."""
    q, k, v = operands(Lq, Lk)
    mask = np.zeros((Lq, Lk), np.float32)
    mask[Lq // 2, Lk // 2] = np.inf
    out = scaled_dot_product_attention(q, k, v, mask)
    assert np.isnan(out[:, :, Lq // 2]).all()
    assert np.isfinite(np.delete(out, Lq // 2, axis=2)).all()


@pytest.mark.parametrize(("Lq", "Lk"), SHAPES)
def test_weights_add_up_to_one(Lq, Lk, isa):
    """Values of one give one: numerator and denominator use the same exponentials."""
    q, k, _ = operands(Lq, Lk)
    out = scaled_dot_product_attention(q * 5, k, np.ones((1, 2, Lk, 7), np.float32))
    np.testing.assert_allclose(out, 1, rtol=0, atol=1e-6)


def test_lse_of_large_logits(isa):
    q, k, v = operands(9, 700)
    for level in (-300.0, 300.0):
        mask = np.full((9, 700), level, np.float32)
        _, lse = scaled_dot_product_attention(q, k, v, mask, return_lse=True)
        _, expected = reference.scaled_dot_product_attention(*widened([q, k, v, mask]), return_lse=True)
        np.testing.assert_allclose(lse, expected, rtol=1e-6)


def test_softcap_of_large_scores(isa):
    q, k, v = operands(9, 33)
    for softcap in (0.01, 5.0, 50.0, 1e4):
        both("scaled_dot_product_attention", q * 1000, k, v, softcap=softcap, tolerance=5e-4 if softcap > 100 else 2e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Linear, norm, softmax


def test_linear_at_the_ends_of_the_range(isa):
    x, weight = normal(9, 40), normal(33, 40)
    big = linear(x * np.float32(1e18), weight * np.float32(1e18))
    np.testing.assert_allclose(big / np.float32(1e36), linear(x, weight), rtol=1e-5, atol=1e-5)
    tiny = linear(x * np.float32(1e-20), weight * np.float32(1e-20)).astype(np.float64)
    # The tile unit takes what is below the normal numbers for zero.
    below = np.finfo(np.float32).tiny if isa == "amx" else 1e-43
    np.testing.assert_allclose(tiny, x.astype(np.float64) @ weight.T * 1e-40, rtol=1e-3, atol=below)
    assert np.isposinf(linear(np.full((1, 8), 3e38, np.float32), np.ones((3, 8), np.float32))).all()


def test_linear_on_infinities(isa):
    x, weight = normal(9, 40), np.abs(normal(33, 40)) + np.float32(0.1)
    x[2, 5], x[7, 6] = np.inf, -np.inf
    out = linear(x, weight)
    assert np.isposinf(out[2]).all() and np.isneginf(out[7]).all()
    assert np.isfinite(np.delete(out, [2, 7], axis=0)).all()


def test_linear_error_grows_slowly_with_depth(isa):
    """Within the bound that holds for every op, also where 3072 products are added up."""
    both("linear", normal(40, 3072), (normal(70, 3072, seed=1) / np.sqrt(3072)).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e3, 1e18])
def test_layer_norm_at_every_scale(scale, isa):
    """The result does not depend on the scale of x, as long as float32 can hold its squares."""
    x = (normal(7, 100) * np.float32(scale)).astype(np.float32)
    both("layer_norm", x, eps=0.0)


def test_layer_norm_of_infinity_is_nan(isa):
    x = normal(5, 40)
    x[2, 3] = np.inf
    out = layer_norm(x)
    assert np.isnan(out[2, 3]) and np.isfinite(np.delete(out, 2, axis=0)).all()


def test_softmax_of_nothing_but_minus_infinity_is_nan(isa):
    """As torch.softmax; attention has its own rule for such rows."""
    x = normal(4, 33)
    x[1] = -np.inf
    x[2, 7] = np.inf
    out = softmax(x)
    assert np.isnan(out[1]).all()
    assert np.isnan(out[2, 7])
    assert np.isfinite(out[[0, 3]]).all()


def test_flags_of_the_processor_are_left_alone(isa):
    """No call leaves flush-to-zero or denormals-are-zero behind."""
    scaled_dot_product_attention(*operands(33, 65))
    linear(normal(5, 40), normal(6, 40))
    tiny = np.full(64, 1e-38, np.float32)
    assert (tiny * np.float32(0.1) != 0).all()
    assert_same_bits(tiny + np.float32(0), tiny)

"""additive_attention and merge_attention against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from cases import STRADDLING
from support import both, normal

from transformer_fast.functional import additive_attention, merge_attention, scaled_dot_product_attention


def operands(Lq, Lk, Dq=20, Dk=24, Dv=9, A=33, lead=(2,)):
    """(arrays, weights): the arguments of additive_attention with projections."""
    arrays = (
        normal(*lead, Lq, Dq, seed=1),
        normal(*lead, Lk, Dk, seed=2),
        normal(*lead, Lk, Dv, seed=3),
        normal(A, seed=4) / 4,
    )
    weights = dict(W_q=normal(Dq, A, seed=5) / 4, W_k=normal(Dk, A, seed=6) / 5, bias=normal(A, seed=7))
    return [array.astype(np.float32) for array in arrays], {k: w.astype(np.float32) for k, w in weights.items()}


@pytest.mark.parametrize("n", STRADDLING)
def test_lengths(n, isa, threads):
    for Lq, Lk in ((n, 13), (5, n)):
        arrays, weights = operands(Lq, Lk)
        both("additive_attention", *arrays, **weights)


@pytest.mark.parametrize("A", [1, 7, 8, 15, 16, 17, 64, 65, 130])
def test_widths(A, isa):
    arrays, weights = operands(9, 37, A=A, Dv=A)
    both("additive_attention", *arrays, **weights)
    q, k, v = normal(9, A), normal(37, A), normal(37, 5)
    both("additive_attention", q, k, v, (normal(A) / 4).astype(np.float32))


@pytest.mark.parametrize("left_out", [("W_q",), ("W_k",), ("bias",), ("W_q", "W_k"), ("W_q", "W_k", "bias")])
def test_weights_left_out(left_out, isa):
    arrays, weights = operands(9, 37, Dq=33, Dk=33)
    both("additive_attention", *arrays, **{k: w for k, w in weights.items() if k not in left_out})


@pytest.mark.parametrize("shape", [(37,), (9, 37), (9, 1), (2, 9, 37), (2, 1, 37)])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(shape, kind, isa):
    arrays, weights = operands(9, 37)
    mask = normal(*shape)
    both("additive_attention", *arrays, **weights, mask=mask > 0 if kind == "bool" else mask)


def test_a_row_that_sees_nothing_is_zero(isa):
    arrays, weights = operands(9, 37)
    mask = np.ones((9, 37), bool)
    mask[4] = False
    out = both("additive_attention", *arrays, **weights, mask=mask)
    assert (out[:, 4] == 0).all() and (out[:, 5] != 0).any()


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_leading_dimensions(lead, isa):
    arrays, weights = operands(9, 37, lead=lead)
    assert both("additive_attention", *arrays, **weights).shape == (*lead, 9, 9)


def test_no_queries_and_no_keys(isa):
    for Lq, Lk in ((0, 5), (5, 0)):
        arrays, weights = operands(Lq, Lk)
        out = additive_attention(*arrays, **weights)
        assert out.shape == (2, Lq, 9) and (out == 0).all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("v", normal(32)),
        ("v", normal(33, 1)),
        ("W_q", normal(21, 33)),
        ("W_k", normal(24, 32)),
        ("bias", normal(32)),
        ("value", normal(2, 36, 9)),
        ("mask", normal(9, 36)),
        ("query", normal(20)),
    ],
)
def test_wrong_shapes(argument, value):
    arrays, weights = operands(9, 37)
    arguments = {**dict(zip(("query", "key", "value", "v"), arrays, strict=True)), **weights, argument: value}
    with pytest.raises(ValueError, match="mask" if argument == "mask" else f"{argument}|W_q"):
        additive_attention(**arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Parts put together


@pytest.mark.parametrize("cuts", [(0, 50), (0, 1, 50), (0, 17, 17, 33, 50), tuple(range(51))])
def test_parts_make_the_whole(cuts, isa):
    q, k, v = normal(2, 3, 9, 16), normal(2, 3, 50, 16), normal(2, 3, 50, 8)
    mask = np.random.default_rng(0).random((9, 50)) < 0.5
    mask[4] = False
    whole, whole_lse = scaled_dot_product_attention(q, k, v, mask, return_lse=True)
    parts = [
        scaled_dot_product_attention(q, k[:, :, a:b], v[:, :, a:b], mask[:, a:b], return_lse=True)
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    out, lse = merge_attention(*zip(*parts, strict=True))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, whole, rtol=0, atol=2e-6)
    np.testing.assert_allclose(lse, whole_lse, rtol=0, atol=2e-6)
    assert (out[:, :, 4] == 0).all() and np.isneginf(lse[:, :, 4]).all()


def test_parts_that_do_not_fit():
    out, lse = normal(2, 5, 8), normal(2, 5)
    for outputs, lses in (([], []), ([out], [lse, lse]), ([out, out[:1]], [lse, lse[:1]]), ([out], [lse[:, :4]])):
        with pytest.raises(ValueError, match="lses|outputs"):
            merge_attention(outputs, lses)
    with pytest.raises(TypeError, match="outputs"):
        merge_attention([out, out.astype(np.float64)], [lse, lse])

"""matmul against the reference: shapes, broadcasting, layouts."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, assert_same_bits, normal, widened

from transformer_fast import reference
from transformer_fast.functional import linear, matmul

SHAPES = [
    ((1, 1), (1, 1)),
    ((5, 7), (7, 3)),
    ((70, 300), (300, 100)),
    ((2, 3, 5, 70), (2, 3, 70, 40)),
    ((2, 3, 5, 70), (70, 40)),
    ((3, 5, 70), (2, 1, 70, 49)),
    ((40, 70), (6, 70, 50)),
    ((64, 4, 20), (64, 20, 9)),
    ((1, 400), (400, 700)),
    ((5, 7), (1, 7, 3)),
    ((5, 7), (1, 1, 7, 3)),
    ((1, 5, 7), (7, 3)),
]


def pair(shapes):
    a, b = normal(*shapes[0]), normal(*shapes[1], seed=1)
    return a, b / np.float32(a.shape[-1] ** 0.5)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes(shapes, isa, threads):
    a, b = pair(shapes)
    got = matmul(a, b)
    assert_close(got, reference.matmul(*widened([a, b])))
    turned = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    assert_same_bits(matmul(a, turned), got)
    assert_same_bits(matmul(np.asfortranarray(a), b), got)


def test_views(isa):
    a, b = normal(4, 6, 40), normal(4, 30, 40, seed=1)
    expected = matmul(a[::2, ::-1].copy(), b[::2, ::3].swapaxes(1, 2).copy())
    assert_same_bits(matmul(a[::2, ::-1], b[::2, ::3].swapaxes(1, 2)), expected)


def test_the_bits_of_linear(isa):
    a, b = pair(((33, 200), (200, 65)))
    assert_same_bits(matmul(a, b), linear(a, np.ascontiguousarray(b.T)))


def test_zero_sizes():
    assert matmul(normal(0, 4), normal(4, 3)).shape == (0, 3)
    assert matmul(normal(2, 0, 4), normal(4, 3)).shape == (2, 0, 3)
    assert matmul(normal(0, 2, 4), normal(4, 3)).shape == (0, 2, 3)
    assert (matmul(np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32)) == 0).all()


def test_into_out(isa):
    a, b = pair(((2, 5, 7), (7, 9)))
    out, wide = np.full((2, 5, 9), np.nan, np.float32), np.zeros((2, 5, 18), np.float32)
    assert matmul(a, b, out=out) is out
    matmul(a, b, out=wide[..., ::2])
    assert_same_bits(np.ascontiguousarray(wide[..., ::2]), out)
    assert_same_bits(out, matmul(a, b))


def test_bad_input():
    for a, b, text in [
        (normal(3), normal(3, 2), r"a has shape \(3,\)"),
        (normal(2, 3), normal(4, 2), r"\(\.\.\., M, K\)"),
        (normal(2, 5, 3), normal(3, 3, 2), "do not broadcast"),
    ]:
        with pytest.raises(ValueError, match=text):
            matmul(a, b)
    with pytest.raises(TypeError, match="b has dtype float64"):
        matmul(normal(2, 3), np.zeros((3, 2)))

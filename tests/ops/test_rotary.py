"""rotary_embedding against the reference: both layouts, partial rotation, angles a batch, in place."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_same_bits, both, normal

from transformer_fast.functional import rotary_embedding


def angles(*shape):
    angle = normal(*shape, seed=3) * 9
    return np.cos(angle), np.sin(angle)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("D, R", [(64, 64), (64, 16), (80, 80), (33, 2), (33, 30), (128, 100), (5, 0)])
def test_values(D, R, interleaved, isa, threads):
    x = normal(2, 3, 7, D)
    for shape in ((7, R // 2), (2, 7, R // 2)):
        got = both("rotary_embedding", x, *angles(*shape), interleaved=interleaved)
        assert_same_bits(got[..., R:], x[..., R:])
        copy = x.copy()
        assert rotary_embedding(copy, *angles(*shape), interleaved=interleaved, out=copy) is copy
        assert_same_bits(copy, got)


def test_strided(isa):
    """Heads as views of a fused projection, written over themselves."""
    projected = normal(2, 7, 3, 4, 32)
    heads = projected[:, :, 1].swapaxes(1, 2)
    cos, sin = angles(7, 16)
    expected = rotary_embedding(np.ascontiguousarray(heads), cos, sin)
    rest = projected[:, :, 0].copy()
    rotary_embedding(heads, cos, sin, out=heads)
    assert_same_bits(np.ascontiguousarray(heads), expected)
    assert_same_bits(np.ascontiguousarray(projected[:, :, 0]), rest)


def test_lengths_and_angles_stay(isa):
    x, (cos, sin) = normal(1, 2, 9, 64), angles(9, 32)
    turned = rotary_embedding(x, cos, sin)
    np.testing.assert_allclose(np.square(turned).sum(-1), np.square(x).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(rotary_embedding(turned, cos, -sin), x, atol=2e-6)


def test_zero_sizes():
    assert rotary_embedding(normal(0, 2, 3, 4), *angles(3, 2)).shape == (0, 2, 3, 4)
    assert rotary_embedding(normal(1, 2, 0, 4), *angles(0, 2)).shape == (1, 2, 0, 4)


def test_bad_input():
    x = normal(2, 3, 7, 8)
    for cos, sin, text in [
        (*angles(6, 4), r"cos has shape \(6, 4\); needed: \(7, R/2\)"),
        (*angles(7, 5), r"R <= 8"),
        (*angles(3, 7, 4), r"cos has shape \(3, 7, 4\)"),
        (angles(7, 4)[0], angles(7, 3)[1], r"sin has shape \(7, 3\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            rotary_embedding(x, cos, sin)
    with pytest.raises(ValueError, match=r"x has shape \(7, 8\)"):
        rotary_embedding(x[0, 0], *angles(7, 4))

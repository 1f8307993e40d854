"""nn/norm.py against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close

from transformer_fast import nn, reference


def randomised(norm):
    rng = np.random.default_rng(0)
    norm.load_state_dict({name: rng.standard_normal(array.shape) for name, array in norm.state_dict().items()})
    return norm


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.5}], ids=str)
def test_one_axis(isa, options):
    norm = randomised(nn.LayerNorm(33, **options))
    x, residual = np.random.default_rng(1).standard_normal((2, 4, 5, 33)).astype(np.float32)
    wide = [None if a is None else a.astype(np.float64) for a in (norm.weight, norm.bias)]
    expected = reference.layer_norm(x.astype(np.float64), *wide, norm.eps, residual=residual.astype(np.float64))
    out = np.empty_like(x)
    assert norm(x, residual=residual, out=out) is out
    assert_close(out, expected)


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 0.5}], ids=str)
def test_rms(isa, options):
    for shape in (33, (3, 11)):
        norm = randomised(nn.RMSNorm(shape, **options))
        x, residual = np.random.default_rng(1).standard_normal((2, 4, 5, 33)).astype(np.float32)
        weight = None if norm.weight is None else norm.weight.astype(np.float64).reshape(33)
        eps = options.get("eps", np.finfo(np.float32).eps)
        expected = reference.rms_norm(x.astype(np.float64), weight, eps, residual=residual.astype(np.float64))
        full = (4, 5, *norm.normalized_shape)
        got = norm(x.reshape(full), residual=residual.reshape(full))
        assert got.shape == full
        assert_close(got.reshape(4, 5, 33), expected)


def test_several_axes():
    norm = randomised(nn.LayerNorm((3, 4)))
    x, residual = np.random.default_rng(1).standard_normal((2, 5, 3, 4)).astype(np.float32)
    expected = reference.layer_norm(
        (x + residual).astype(np.float64).reshape(5, 12), norm.weight.reshape(12), norm.bias.reshape(12), norm.eps
    )
    assert_close(norm(x, residual=residual), expected.reshape(5, 3, 4))
    with pytest.raises(ValueError, match=r"input has shape \(5, 4, 3\); needed: \(\.\.\., 3, 4\)"):
        norm(x.swapaxes(1, 2))
    with pytest.raises(NotImplementedError, match="out="):
        norm(x, out=x.copy())
    with pytest.raises(ValueError, match="normalized_shape is empty"):
        nn.LayerNorm(())

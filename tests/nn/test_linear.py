"""nn/linear.py against the reference in float64, and the packed weight's life."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close

from transformer_fast import functional, nn, reference


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 33), (2, 3, 33), (33,), (0, 33)], ids=str)
def test_forward(isa, bias, shape):
    nn.manual_seed(0)
    linear = nn.Linear(33, 17, bias)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    residual = rng.standard_normal((*shape[:-1], 17)).astype(np.float32)
    b = None if linear.bias is None else linear.bias.astype(np.float64)
    expected = reference.linear(
        x.astype(np.float64),
        linear.weight.astype(np.float64),
        b,
        activation="gelu",
        residual=residual.astype(np.float64),
    )
    out = np.empty_like(residual)
    assert linear(x, activation="gelu", residual=residual, out=out) is out
    assert_close(out, expected)
    assert np.array_equal(linear(x, activation="gelu", residual=residual), out)


def test_packs_once_and_again_when_the_isa_changes(monkeypatch):
    calls = []
    pack = functional.pack_weight
    monkeypatch.setattr(
        functional, "pack_weight", lambda weight, **options: calls.append(weight.shape) or pack(weight, **options)
    )
    linear = nn.Linear(8, 6)
    x = np.ones((2, 8), np.float32)
    assert not calls
    linear(x), linear(x)
    assert len(calls) == 1
    linear.load_state_dict(nn.Linear(8, 6).state_dict())
    assert len(calls) == 2, "load_state_dict packs"
    linear(x)
    assert len(calls) == 2
    linear.bias = np.zeros(6, np.float32)
    linear(x)
    assert len(calls) == 2
    before, others = (
        functional.get_isa(),
        [name for name in functional.available_isas() if name != functional.get_isa()],
    )
    try:
        for name in others[:1]:
            functional.set_isa(name)
            linear(x), linear(x)
            assert len(calls) == 3
    finally:
        functional.set_isa(before)


def test_bad_input():
    with pytest.raises((ValueError, TypeError), match="7|8"):
        nn.Linear(8, 6)(np.ones((2, 7), np.float32))
    with pytest.raises(TypeError, match="float64"):
        nn.Linear(8, 6)(np.ones((2, 8)))

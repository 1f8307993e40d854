"""Every tuning record (csrc/tuning/tuning.c) runs here on every level, and gives the same bits.

Fetching ahead, and copying K and V before they are read, are measured to be better on some processors alone. Elsewhere
their code would never run in a test.
"""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import _core, functional, reference

TUNINGS = _core.tunings()


@pytest.fixture(autouse=True)
def own_tuning():
    yield
    _core.set_tuning(None)


def every_tuning(call):
    """What `call` gives, which must be the same under every tuning."""
    expected = call()
    for name in TUNINGS:
        _core.set_tuning(name)
        assert np.array_equal(call(), expected), name
    _core.set_tuning(None)
    return expected


def test_names():
    with pytest.raises(ValueError, match="name is 'zen1'; needed: one of generic, .*zen4.*, or None"):
        _core.set_tuning("zen1")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 70])
@pytest.mark.parametrize("n, k", [(33, 19), (64, 200), (100, 384), (384, 1600)])
def test_linear(isa, rows, n, k):
    x, weight, bias = normal(rows, k), normal(n, k, seed=1) / np.float32(k**0.5), normal(n, seed=2)
    packed = functional.pack_weight(weight)
    y = every_tuning(lambda: functional.linear(x, packed, bias, activation="gelu"))
    assert_close(y, reference.linear(*(a.astype(float) for a in (x, weight, bias)), activation="gelu"))


SHAPES = [
    # B, H, Hkv, Lq, Lk, D: decode of one row and of several, groups, and panels enough for a copy of K and V
    (1, 2, 2, 1, 700, 64),
    (2, 1, 1, 3, 1030, 32),
    (1, 4, 1, 2, 300, 20),
    (1, 2, 2, 150, 150, 64),
    (1, 2, 1, 200, 333, 128),
    (2, 1, 1, 301, 90, 24),
]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_attention(isa, shape, causal, fused):
    """fused: K and V as parts of wider rows, which are copied sooner."""
    B, H, Hkv, Lq, Lk, D = shape
    q = normal(B, H, Lq, D)
    rows = normal(B, Hkv, Lk, 3 * D if fused else 2 * D, seed=1)
    k, v = rows[..., :D], rows[..., D : 2 * D]
    if not fused:
        k, v = k.copy(), v.copy()
    options = {"is_causal": causal, "causal_offset": "bottom_right", "enable_gqa": H != Hkv}
    out = every_tuning(lambda: functional.scaled_dot_product_attention(q, k, v, **options))
    assert_close(out, reference.scaled_dot_product_attention(*(a.astype(float) for a in (q, k, v)), **options))


@pytest.mark.parametrize("lengths", [[130] * 7, [7] * 90, [500, 3, 200]], ids=str)
def test_encoder(isa, threads, lengths):
    """More tokens than go through the layers together under any record."""
    H, inner, starts = 16, 24, np.cumsum([0, *lengths])
    shapes = {"qkv": (3 * H, H), "out": (H, H), "up": (inner, H), "down": (H, inner)}
    layer = {name: functional.pack_weight(normal(*shape) / 4) for name, shape in shapes.items()}
    layer |= {f"{name}_bias": normal(shape[0]) for name, shape in shapes.items()}
    layer |= {f"{norm}_{name}": normal(H) for norm in ("norm1", "norm2") for name in ("weight", "bias")}
    encoder = functional.Encoder([functional.EncoderLayer(**layer)] * 2, 2)
    x = normal(starts[-1], H)
    assert np.isfinite(every_tuning(lambda: encoder(x, starts))).all()

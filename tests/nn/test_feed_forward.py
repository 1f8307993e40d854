"""nn/feed_forward.py against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close

from transformer_fast import functional, nn, reference


@pytest.mark.parametrize("activation", ["relu", "gelu", functional.silu], ids=["relu", "gelu", "silu"])
def test_forward(isa, activation):
    nn.manual_seed(0)
    block = nn.FeedForward(12, 30, activation)
    x, residual = np.random.default_rng(1).standard_normal((2, 5, 12)).astype(np.float32)
    state = {name: array.astype(np.float64) for name, array in block.state_dict().items()}
    name = activation if isinstance(activation, str) else "silu"
    hidden = reference.linear(x.astype(np.float64), state["linear1.weight"], state["linear1.bias"], activation=name)
    expected = reference.linear(hidden, state["linear2.weight"], state["linear2.bias"]) + residual
    hidden, out = np.empty((5, 30), np.float32), np.empty((5, 12), np.float32)
    assert block(x, residual=residual, hidden=hidden, out=out) is out
    assert_close(out, expected)
    assert np.array_equal(block(x, residual=residual), out)

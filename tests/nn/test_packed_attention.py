"""nn/attention/packed.py against a plain computation in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import nn, reference

E, H = 24, 3


def packed_module():
    nn.manual_seed(5)
    module = nn.PackedSelfAttention(E, H)
    module.in_proj.bias = normal(3 * E, seed=1)
    return module


def expected_packed(module, x, starts, keys=None):
    """As `expected`, a sequence at a time; keys: which rows may be attended."""
    keys = np.ones(len(x), bool) if keys is None else keys
    state = {name: array.astype(np.float64) for name, array in module.state_dict().items()}
    rows = []
    for first, last in itertools.pairwise(starts):
        projected = reference.linear(x[first:last].astype(np.float64), state["in_proj.weight"], state["in_proj.bias"])
        q, k, v = (reference.split_heads(projected[None, :, i * E : (i + 1) * E], H) for i in range(3))
        out = reference.scaled_dot_product_attention(q, k, v, keys[first:last])
        rows.append(reference.linear(reference.concat_heads(out)[0], state["out_proj.weight"], state["out_proj.bias"]))
    return np.concatenate(rows)


@pytest.mark.parametrize("starts", [[0, 4, 4, 5, 14], [0, 14], [0, 0]], ids=str)
def test_packed(isa, starts):
    module = packed_module()
    x = normal(starts[-1], E)
    residual = normal(starts[-1], E, seed=2)
    scratch = {"projected": np.empty((len(x), 3 * E), np.float32), "context": np.empty((len(x), E), np.float32)}
    out = np.empty_like(x)
    got = module(x, np.array(starts), residual=residual, out=out, **scratch)
    assert got is out
    assert_close(got, expected_packed(module, x, starts) + residual)
    assert np.array_equal(module(x, np.array(starts), residual=residual), got)


def test_packed_with_rows_that_nobody_attends(isa):
    module = packed_module()
    x, starts = normal(9, E), [0, 4, 9]
    keys = np.array([0, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    got = module(x, np.array(starts), keys=(np.flatnonzero(keys), np.array([0, 3, 6])))
    assert_close(got, expected_packed(module, x, starts, keys))

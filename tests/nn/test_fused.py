"""nn/fused.py: the parts' own products side by side, also after a part has changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from transformer_fast.nn import FusedLinear


@pytest.mark.parametrize("bias", [True, False])
def test_parts_side_by_side(isa, bias):
    module = FusedLinear(9, {"query": 6, "key": 3}, bias)
    x = np.random.default_rng(0).standard_normal((4, 5, 9)).astype(np.float32)

    def expected():
        parts = [x @ module.state_dict()[f"{name}_weight"].T for name in ("query", "key")]
        if bias:
            parts = [p + module.state_dict()[f"{name}_bias"] for p, name in zip(parts, ("query", "key"), strict=True)]
        return np.concatenate(parts, axis=-1)

    np.testing.assert_allclose(module(x), expected(), atol=1e-5)
    module.key_weight = np.ones((3, 9), np.float32)
    np.testing.assert_allclose(module(x), expected(), atol=1e-5)
    assert np.array_equal(copy.deepcopy(module)(x), module(x))
    out = np.empty((4, 5, 9), np.float32)
    assert module(x, out=out) is out and np.array_equal(out, module(x))


def test_names_and_refusals():
    module = FusedLinear(4, {"query": 6, "key": 3})
    assert list(module.state_dict()) == ["query_weight", "query_bias", "key_weight", "key_bias"]
    assert module.out_features == 9 and "'key': 3" in repr(module)
    with pytest.raises(ValueError, match="parts is empty"):
        FusedLinear(4, {})
    with pytest.raises(ValueError, match="weight has shape"):
        module(np.ones((2, 5), np.float32))

"""nn/attention/scores.py against plain computations in float64."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, normal, widened

from transformer_fast import nn, reference


@pytest.mark.parametrize("options", [{}, {"scale": 1.0}, {"window": (2, 1)}, {"softcap": 3.0}], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_scaled_dot_product(isa, options, is_causal):
    q, k, v = normal(2, 4, 5, 8), normal(2, 2, 7, 8, seed=1), normal(2, 2, 7, 6, seed=2)
    mask = np.random.default_rng(0).random((5, 7)) < 0.8
    expected = reference.scaled_dot_product_attention(
        *widened([q, k, v]), mask, is_causal=is_causal, enable_gqa=True, return_weights="heads", **options
    )
    module = nn.ScaledDotProductAttention(**options)
    assert_close(module(q, k, v, mask, is_causal), expected[0])
    assert_close(module(q, k, v, mask, is_causal, need_weights=True), expected)
    assert not module.state_dict()


def additive(bias=True):
    nn.manual_seed(0)
    return nn.AdditiveAttention(6, 8, 10, bias)


def expected_additive(module, query, key, value, allowed=None):
    """(context, weights), with an Lq x Lk x A array."""
    state = {name: array.astype(np.float64) for name, array in module.state_dict().items()}
    queries = query @ state["query_proj.weight"].T + state.get("query_proj.bias", 0)
    keys = key @ state["key_proj.weight"].T
    scores = np.tanh(queries[..., :, None, :] + keys[..., None, :, :]) @ state["v"]
    if allowed is not None:
        scores = np.where(allowed[..., None, :], scores, -np.inf)
    weights = reference.softmax(scores)
    if allowed is not None:
        weights = np.where(allowed[..., None, :], weights, 0)
    return weights @ value.astype(np.float64), weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_additive(isa, bias, shape):
    module = additive(bias)
    query, key, value = normal(*shape, 5, 6), normal(*shape, 7, 8, seed=1), normal(*shape, 7, 4, seed=2)
    got, none = module(query, key, value)
    assert none is None
    assert_close(got, expected_additive(module, query, key, value)[0])
    for padding in (None, np.broadcast_to(np.arange(7) >= 4, (*shape, 7))):
        allowed = None if padding is None else ~padding
        assert_close(
            module(query, key, value, padding, need_weights=True),
            expected_additive(module, query, key, value, allowed),
        )
    assert_close(module(query, key)[0], expected_additive(module, query, key, key)[0])
    again = module(query, key, value, projected_keys=module.project_keys(key))[0]
    assert np.array_equal(again, got)


def test_additive_with_nothing_allowed():
    context, weights = additive()(normal(2, 5, 6), normal(2, 7, 8), None, np.ones((2, 7), bool), need_weights=True)
    assert not context.any() and not weights.any()


def test_additive_parameters():
    assert {name: array.shape for name, array in additive().state_dict().items()} == {
        "v": (10,),
        "query_proj.weight": (10, 6),
        "query_proj.bias": (10,),
        "key_proj.weight": (10, 8),
    }


def test_bad_input():
    with pytest.raises(ValueError, match="attention_dim is 0"):
        nn.AdditiveAttention(6, 8, 0)
    with pytest.raises(TypeError, match="key_padding_mask has dtype int64"):
        additive()(normal(5, 6), normal(7, 8), None, np.zeros(7, int))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(6,\); needed: \(7,\)"):
        additive()(normal(5, 6), normal(7, 8), None, np.zeros(6, bool))
    with pytest.raises(ValueError, match="head size"):
        nn.ScaledDotProductAttention()(normal(1, 5, 6), normal(1, 7, 8), normal(1, 7, 8))

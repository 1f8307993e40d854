"""`mask=` of attention layers: lists of ranges of keys in place of dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, assert_same_bits, normal

from transformer_fast import masks, nn
from transformer_fast.functional import KeyRanges


def structure(Lq: int, Lk: int) -> np.ndarray:
    return np.random.default_rng(0).random((Lq, Lk)) < 0.3


def attention(**options) -> nn.MultiheadAttention:
    np.random.seed(0)
    return nn.MultiheadAttention(24, 3, batch_first=True, **options)


@pytest.mark.parametrize("is_causal", [False, True])
def test_multihead(is_causal):
    layer, x, memory, seen = attention(), normal(2, 30, 24), normal(2, 40, 24, seed=1), structure(30, 40)
    padding = np.zeros((2, 40), bool)
    padding[1, 33:] = True
    options = {"key_padding_mask": padding, "is_causal": is_causal}
    expected, weights = layer(x, memory, memory, attn_mask=~seen, **options)
    got, got_weights = layer(x, memory, memory, mask=KeyRanges.from_dense(seen), **options)
    assert_close(got, expected)
    assert_close(got_weights, weights)
    alone, _ = layer(x[0], memory[0], memory[0], mask=KeyRanges.from_dense(seen), is_causal=is_causal)
    assert_close(alone, layer(x[0], memory[0], memory[0], attn_mask=~seen, is_causal=is_causal)[0])


def test_multihead_refuses_a_mask_beside_a_bias_key():
    x = normal(1, 8, 24)
    with pytest.raises(ValueError, match="mask was given to a module with a bias key"):
        attention(add_bias_kv=True)(x, x, x, mask=KeyRanges.from_dense(structure(8, 8)))


@pytest.mark.parametrize("by_head", [False, True])
def test_sparse_weights(by_head):
    """What mask, causal order and padding leave, with the bits of the dense weights."""
    seen, padding = structure(30, 30), np.zeros((2, 30), bool)
    padding[1, 22:] = True
    options = {"mask": KeyRanges.from_dense(seen), "is_causal": True, "average_attn_weights": not by_head}
    shown = np.tril(seen) & ~padding[:, None]
    for layer in (attention(), nn.SelfAttention(24, 3, num_kv_heads=1)):
        x = normal(2, 30, 24)
        inputs = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
        expected, dense = layer(*inputs, key_padding_mask=padding, need_weights=True, **options)
        got, weights = layer(*inputs, key_padding_mask=padding, need_weights="sparse", **options)
        assert_same_bits(got, expected)
        assert weights.shape == ((2, 3) if by_head else (2,))
        for at in np.ndindex(weights.shape):
            assert_same_bits(weights[at].toarray(), dense[at])
            np.testing.assert_array_equal(np.diff(weights[at].indptr), shown[at[0]].sum(axis=1))
        _, alone = layer(*(y[0] for y in inputs), need_weights="sparse", **options)
        alone, weights = (alone[1], weights[0, 1]) if by_head else (alone, weights[0])
        assert_same_bits(alone.toarray(), weights.toarray())


def test_sparse_weights_that_are_refused():
    x = normal(1, 8, 24)
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        with pytest.raises(ValueError, match='need_weights is "sparse" in a module with a bias key or a zero key'):
            attention(**options)(x, x, x, need_weights="sparse")
    for layer, inputs in ((attention(), (x, x, x)), (nn.SelfAttention(24, 3), (x,))):
        with pytest.raises(ValueError, match="need_weights is 'dense'; needed: True, False or \"sparse\""):
            layer(*inputs, need_weights="dense")


def test_self_attention():
    layer = nn.SelfAttention(32, 4, num_kv_heads=2, window=(12, 12), position=nn.RotaryEmbedding(8))
    x, seen = normal(2, 50, 32), structure(50, 50)
    expected, _ = layer(x, attn_mask=~seen, is_causal=True)
    assert_close(layer(x, mask=KeyRanges.from_dense(seen), is_causal=True)[0], expected)


def test_self_attention_behind_a_cache():
    """A tree of tokens after a past that all of them see."""
    layer = nn.SelfAttention(32, 4, position=nn.RotaryEmbedding(8))
    past, nodes = normal(1, 20, 32), normal(1, 5, 32, seed=1)
    parents, places = [-1, 0, 0, 1, 2], np.array([20, 21, 21, 22, 22])
    seen = np.zeros((5, 25), bool)
    seen[:, :20] = True
    for node in range(5):
        at = node
        while at >= 0:
            seen[node, 20 + at] = True
            at = parents[at]
    cache = nn.KeyValueCache(1, 4, 8, 30)
    layer(past, cache=cache, is_causal=True)
    got, _ = layer(nodes, cache=cache, positions=places, mask=KeyRanges.from_dense(seen))
    for leaf, path in ((3, [0, 1, 3]), (4, [0, 2, 4])):
        line = np.concatenate([past, nodes[:, path]], axis=1)
        assert_close(got[:, leaf], layer(line, is_causal=True)[0][:, -1])


@pytest.mark.parametrize("window", [None, 3])
def test_a_call_that_is_refused_leaves_the_cache(window):
    layer, x = nn.SelfAttention(32, 4), normal(2, 9, 32)
    cache, other = (nn.KeyValueCache(2, 4, 8, 4, window=window) for _ in range(2))
    padding = np.arange(5) >= np.array([[5], [3]])  # rows of different lengths
    for one in (cache, other):
        layer(x[:, :5], padding, is_causal=True, cache=one)
    for wrong in (KeyRanges.from_dense(np.ones((1, 99), bool)), np.ones((1, 6), bool)):
        with pytest.raises((ValueError, TypeError), match="mask"):
            layer(x[:, 5:6], is_causal=True, cache=cache, mask=wrong)
    with pytest.raises(ValueError, match="reshape"):
        layer(x[:, 5:6], is_causal=True, cache=cache, residual=np.zeros(3, np.float32))
    for at in (6, 7, 8):
        step = x[:, at : at + 1]
        got, expected = (layer(step, is_causal=True, cache=one)[0] for one in (cache, other))
        np.testing.assert_array_equal(got, expected)


def test_a_structure_behind_a_cache_says_where_it_counts_from():
    layer, x = nn.SelfAttention(32, 4), normal(1, 6, 32)
    cache = nn.KeyValueCache(1, 4, 8, 30)
    with pytest.raises(TypeError, match="mask is a Causal and a cache was given; needed: KeyRanges"):
        layer(x, cache=cache, mask=masks.causal())
    assert cache.lengths.tolist() == [0]
    layer(x[:, :4], cache=cache, mask=masks.causal().ranges(4, 4))
    got, _ = layer(x[:, 4:], cache=cache, mask=masks.causal().ranges(2, 6, offset=4))
    assert_close(got, layer(x, is_causal=True)[0][:, 4:])

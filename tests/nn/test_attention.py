"""nn/attention.py against a plain computation in float64: every form of call, both masks, packed sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support import assert_close

from transformer_fast import nn, reference

E, H = 24, 3


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def attention(seed=0, **options):
    nn.manual_seed(seed)
    module = nn.MultiheadAttention(E, H, **options)
    if module.in_proj_bias is not None:
        module.in_proj_bias, module.out_proj.bias = values(3 * E, seed=1), values(E, seed=2)
    return module


def expected(module, query, key, value, allowed=None, is_causal=False):
    """(output, weights of each head) in float64 for arrays (B, L, E); allowed is a mask of `reference`."""
    weight, bias = module.in_proj_weight.astype(np.float64), module.in_proj_bias
    bias = np.zeros(3 * E) if bias is None else bias.astype(np.float64)
    heads = []
    for i, x in enumerate((query, key, value)):
        rows = slice(i * E, (i + 1) * E)
        projected = reference.linear(x.astype(np.float64), weight[rows], bias[rows])
        heads.append(reference.split_heads(projected, H))
    allowed = allowed.astype(np.float64) if allowed is not None and allowed.dtype.kind == "f" else allowed
    out, weights = reference.scaled_dot_product_attention(*heads, allowed, is_causal=is_causal, return_weights="heads")
    wide = [None if a is None else a.astype(np.float64) for a in (module.out_proj.weight, module.out_proj.bias)]
    return reference.linear(reference.concat_heads(out), *wide), weights


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["self", "shared key and value", "all different"])
def test_forward(isa, batch_first, bias, form):
    module = attention(batch_first=batch_first, bias=bias)
    query, key, value = values(2, 5, E), values(2, 7, E), values(2, 7, E, seed=3)
    if form == "self":
        query = value = key
    elif form == "shared key and value":
        value = key
    arrays = (query, key, value)
    out, weights = expected(module, *arrays)
    if not batch_first:
        # One array each, so that self-attention is recognised.
        turned = {id(x): np.ascontiguousarray(x.swapaxes(0, 1)) for x in arrays}
        arrays, out = tuple(turned[id(x)] for x in arrays), out.swapaxes(0, 1)
    got, mean = module(*arrays)
    assert_close(got, out)
    assert_close(mean, weights.mean(axis=1))
    _, by_head = module(*arrays, average_attn_weights=False)
    assert_close(by_head, weights)
    quick, none = module(*arrays, need_weights=False)
    assert none is None
    assert_close(quick, out)


@pytest.mark.parametrize("batch_first", [True, False])
def test_without_a_batch(batch_first):
    module = attention(batch_first=batch_first)
    query, key = values(5, E), values(7, E)
    padding = np.arange(7) >= 4
    out, weights = expected(module, query[None], key[None], key[None], ~padding)
    got, mean = module(query, key, key, key_padding_mask=padding)
    assert_close(got, out[0])
    assert_close(mean, weights[0].mean(axis=0))
    assert_close(module(query, query, query, need_weights=False)[0], expected(module, *[query[None]] * 3)[0][0])


MASKS = {
    "none": None,
    "bool": np.random.default_rng(0).random((5, 7)) < 0.4,
    "float": values(5, 7),
    "a row with nothing allowed": np.arange(5)[:, None] + np.zeros((1, 7), int) == 2,
    "bool a head": np.random.default_rng(1).random((2 * H, 5, 7)) < 0.4,
    "float a head": values(2 * H, 5, 7),
}
PADDING = {"none": None, "bool": np.arange(7) >= np.array([[7], [4]]), "float": values(2, 7)}


@pytest.mark.parametrize("mask, padding", list(itertools.product(MASKS, PADDING)))
def test_masks(isa, mask, padding):
    module = attention(batch_first=True)
    query, key = values(2, 5, E), values(2, 7, E)
    total = np.zeros((2, H, 5, 7), np.float32)
    for array in (MASKS[mask], None if PADDING[padding] is None else PADDING[padding][:, None, None, :]):
        if array is not None:
            array = np.where(array, -np.inf, 0) if array.dtype == bool else array
            total = total + (array.reshape(2, H, 5, 7) if array.shape == (2 * H, 5, 7) else array)
    for is_causal in (False, True):
        out, weights = expected(module, query, key, key, total, is_causal)
        got, mean = module(query, key, key, PADDING[padding], True, MASKS[mask], True, is_causal)
        assert_close(got, out)
        assert_close(mean, weights.mean(axis=1))


def test_a_row_with_nothing_allowed_is_the_output_bias():
    module = attention(batch_first=True)
    x = values(1, 4, E)
    got, weights = module(x, x, x, key_padding_mask=np.ones((1, 4), bool))
    assert np.array_equal(got[0], np.broadcast_to(module.out_proj.bias, (4, E))) and not weights.any()


def test_zero_sizes():
    module = attention(batch_first=True)
    assert module(*[values(0, 4, E)] * 3)[0].shape == (0, 4, E)
    got, weights = module(values(2, 3, E), values(2, 0, E), values(2, 0, E))
    assert got.shape == (2, 3, E) and weights.shape == (2, 3, 0)


def test_bad_input():
    x = values(2, 4, E)
    module = attention(batch_first=True)
    for arguments, text in [
        ((x[..., 1:], x, x), r"query has shape \(2, 4, 23\)"),
        ((x, x[0], x[0]), r"key has shape \(4, 24\)"),
        ((x, x, x[:, 1:]), "as many values as keys"),
        ((x, x[:1], x[:1]), "one batch size"),
        ((x, x, x, np.zeros((2, 3), bool)), r"key_padding_mask has shape \(2, 3\); needed: \(2, 4\)"),
        ((x, x, x, None, True, np.zeros((4, 3), bool)), r"attn_mask has shape \(4, 3\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            module(*arguments)
    with pytest.raises(TypeError, match="attn_mask has dtype int64"):
        module(x, x, x, attn_mask=np.zeros((4, 4), np.int64))
    with pytest.raises(TypeError, match="float64"):
        module(*[x.astype(np.float64)] * 3)
    with pytest.raises(ValueError, match="embed_dim=24 and num_heads=5"):
        nn.MultiheadAttention(24, 5)
    for option in ({"kdim": 12}, {"vdim": 12}, {"add_bias_kv": True}, {"add_zero_attn": True}):
        with pytest.raises(NotImplementedError, match=next(iter(option))):
            nn.MultiheadAttention(E, H, **option)


# ----------------------------------------------------------------------------------------------------------------------
# Packed sequences


def packed_module():
    nn.manual_seed(5)
    module = nn.PackedSelfAttention(E, H)
    module.in_proj.bias = values(3 * E, seed=1)
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
    x = values(starts[-1], E)
    residual = values(starts[-1], E, seed=2)
    scratch = {"projected": np.empty((len(x), 3 * E), np.float32), "context": np.empty((len(x), E), np.float32)}
    out = np.empty_like(x)
    got = module(x, np.array(starts), residual=residual, out=out, **scratch)
    assert got is out
    assert_close(got, expected_packed(module, x, starts) + residual)
    assert np.array_equal(module(x, np.array(starts), residual=residual), got)


def test_packed_with_rows_that_nobody_attends(isa):
    module = packed_module()
    x, starts = values(9, E), [0, 4, 9]
    keys = np.array([0, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    got = module(x, np.array(starts), keys=(np.flatnonzero(keys), np.array([0, 3, 6])))
    assert_close(got, expected_packed(module, x, starts, keys))

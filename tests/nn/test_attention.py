"""nn/attention/multihead.py against a plain computation in float64, and against torch (golden/attention.npz)."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import nn, reference

E, H = 24, 3
FURTHER_KEYS = [
    {},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True},
]


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def attention(seed=0, **options):
    nn.manual_seed(seed)
    module = nn.MultiheadAttention(E, H, **options)
    if module.in_proj_bias is not None:
        module.in_proj_bias, module.out_proj.bias = values(3 * E, seed=1), values(E, seed=2)
    if module.bias_k is not None:
        module.bias_k, module.bias_v = values(1, 1, E, seed=3), values(1, 1, E, seed=4)
    return module


def expected(module, query, key, value, allowed=None, is_causal=False):
    """(output, weights of each head) in float64 for arrays (B, L, E); allowed is a mask of `reference`.

    As torch does it: the bias key and the zero key are appended to projected keys and values.
    """
    state = {name: array.astype(np.float64) for name, array in module.state_dict().items()}
    stacked = [f"{name}_proj_weight" for name in "qkv"]
    matrices = [state[name] for name in stacked] if stacked[0] in state else np.split(state["in_proj_weight"], 3)
    biases = np.split(state.get("in_proj_bias", np.zeros(3 * E)), 3)
    rows = [
        reference.linear(x.astype(np.float64), matrix, bias)
        for x, matrix, bias in zip((query, key, value), matrices, biases, strict=True)
    ]
    visible = np.zeros((query.shape[1], key.shape[1])) if allowed is None else allowed
    visible = np.where(visible, 0, -np.inf) if visible.dtype == bool else visible.astype(np.float64)
    if is_causal:
        visible = visible + np.where(np.tri(*visible.shape[-2:], dtype=bool), 0, -np.inf)
    further = [(state["bias_k"], state["bias_v"])] if "bias_k" in state else []
    if module.add_zero_attn:
        further.append((np.zeros(E), np.zeros(E)))
    for pair in further:
        for i, row in enumerate(pair, start=1):
            rows[i] = np.concatenate([rows[i], np.broadcast_to(row, (len(key), 1, E))], axis=1)
        visible = np.concatenate([visible, np.zeros((*visible.shape[:-1], 1))], axis=-1)
    out, weights = reference.scaled_dot_product_attention(
        *(reference.split_heads(x, H) for x in rows), visible, return_weights="heads"
    )
    return reference.linear(reference.concat_heads(out), state["out_proj.weight"], state.get("out_proj.bias")), weights


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


@pytest.mark.parametrize("further", FURTHER_KEYS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("sizes", [{}, {"kdim": 10}, {"vdim": 31}, {"kdim": 7, "vdim": 1}], ids=str)
@pytest.mark.parametrize("batch_first, bias", list(itertools.product([True, False], repeat=2)))
def test_further_keys_and_other_widths(isa, batch_first, bias, sizes, further):
    module = attention(batch_first=batch_first, bias=bias, **sizes, **further)
    query, key, value = values(2, 5, E), values(2, 7, module.kdim), values(2, 7, module.vdim, seed=3)
    out, weights = expected(module, query, key, value)
    if not batch_first:
        query, key, value, out = (np.ascontiguousarray(x.swapaxes(0, 1)) for x in (query, key, value, out))
    got, by_head = module(query, key, value, average_attn_weights=False)
    assert_close(got, out)
    assert_close(by_head, weights)
    assert_close(module(query, key, value, need_weights=False)[0], out)


@pytest.mark.parametrize("form", ["self", "shared key and value"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_further_keys_where_projections_are_one_product(form, batch_first):
    module = attention(batch_first=batch_first, add_bias_kv=True, add_zero_attn=True)
    key = values(2, 7, E)
    query = key if form == "self" else values(2, 5, E)
    out, weights = expected(module, query, key, key)
    if not batch_first:
        turned = np.ascontiguousarray(key.swapaxes(0, 1))
        query = turned if query is key else np.ascontiguousarray(query.swapaxes(0, 1))
        key, out = turned, out.swapaxes(0, 1)
    got, mean = module(query, key, key)
    assert_close(got, out)
    assert_close(mean, weights.mean(axis=1))


def test_parameters():
    """Names and shapes of torch's, in torch's order."""
    assert {name: array.shape for name, array in attention().state_dict().items()} == {
        "in_proj_weight": (3 * E, E),
        "in_proj_bias": (3 * E,),
        "out_proj.weight": (E, E),
        "out_proj.bias": (E,),
    }
    module = attention(kdim=10, bias=False, add_bias_kv=True)
    assert {name: array.shape for name, array in module.state_dict().items()} == {
        "q_proj_weight": (E, E),
        "k_proj_weight": (E, 10),
        "v_proj_weight": (E, E),
        "bias_k": (1, 1, E),
        "bias_v": (1, 1, E),
        "out_proj.weight": (E, E),
    }
    other = nn.MultiheadAttention(E, H, kdim=10, bias=False, add_bias_kv=True)
    other.load_state_dict(module.state_dict())
    x, key = values(5, E), values(5, 10)
    assert np.array_equal(other(x, key, x)[0], module(x, key, x)[0])


@pytest.mark.parametrize(
    "name, options",
    {
        "plain": {},
        "widths": {"kdim": 5, "vdim": 7, "bias": False},
        "further": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    }.items(),
    ids=str,
)
def test_torchs_answers(isa, name, options):
    with np.load(Path(__file__).parents[1] / "golden" / "attention.npz") as golden:
        module = nn.MultiheadAttention(8, 2, **options)
        start = f"{name} state "
        module.load_state_dict({key.removeprefix(start): golden[key] for key in golden if key.startswith(start)})
        arrays = [golden[f"{name} {i}"] for i in range(3)]
        got, weights = module(*arrays, golden["padding"], attn_mask=golden["mask"], average_attn_weights=False)
        assert_close(got, golden[f"{name} output"].astype(np.float64))
        assert_close(weights, golden[f"{name} weights"].astype(np.float64))


@pytest.mark.parametrize(
    "options, padding",
    [
        ({}, None),
        ({}, "at the end"),
        ({}, "anywhere"),
        ({"add_bias_kv": True}, "at the end"),
        ({"add_zero_attn": True}, None),
        ({"add_bias_kv": True, "add_zero_attn": True}, "anywhere"),
        ({"kdim": 8, "vdim": 40, "add_bias_kv": True}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_no_option_makes_an_array_of_scores(options, padding, is_causal):
    L = 3000
    module = attention(batch_first=True, **options)
    x, key, value = normal(1, L, E), normal(1, L, module.kdim), normal(1, L, module.vdim)
    masks = {None: None, "at the end": np.arange(L) > 2000, "anywhere": np.arange(L) % 3 == 1}
    mask = masks[padding]
    tracemalloc.start()
    try:
        module(x, key, value, None if mask is None else mask[None], False, None, True, is_causal)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < L * L / 2, "an array of scores has L * L elements"


def test_inputs_stay_as_they_are():
    module = attention(batch_first=True, add_bias_kv=True, add_zero_attn=True)
    x, mask, padding = values(2, 5, E), MASKS["float"][:, :5].copy(), PADDING["bool"][:, :5].copy()
    before = [array.copy() for array in (x, mask, padding)]
    module(x, x, x, padding, attn_mask=mask)
    for array, copy in zip((x, mask, padding), before, strict=True):
        assert np.array_equal(array, copy)


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
PADDING = {
    "none": None,
    "bool": np.arange(7) >= np.array([[7], [4]]),
    "bool at the front": np.arange(7) < np.array([[0], [3]]),
    "all of a sequence": np.array([[False], [True]]) & np.ones((1, 7), bool),
    "float": values(2, 7),
    "float, -inf at the end": np.where(np.arange(7) >= np.array([[5], [7]]), -np.inf, 0).astype(np.float32),
    "float, -inf anywhere": np.where(np.random.default_rng(2).random((2, 7)) < 0.4, -np.inf, 0).astype(np.float32),
}


@pytest.mark.parametrize("further", FURTHER_KEYS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("mask, padding", list(itertools.product(MASKS, PADDING)))
def test_masks(mask, padding, further):
    module = attention(batch_first=True, **further)
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
        _, by_head = module(query, key, key, PADDING[padding], True, MASKS[mask], False, is_causal)
        assert_close(by_head, weights)
        assert_close(module(query, key, key, PADDING[padding], False, MASKS[mask], True, is_causal)[0], out)


def test_a_row_with_nothing_allowed_is_the_output_bias():
    module = attention(batch_first=True)
    x = values(1, 4, E)
    got, weights = module(x, x, x, key_padding_mask=np.ones((1, 4), bool))
    assert np.array_equal(got[0], np.broadcast_to(module.out_proj.bias, (4, E))) and not weights.any()


def test_zero_sizes():
    module = attention(batch_first=True)
    assert module(*[values(0, 4, E)] * 3)[0].shape == (0, 4, E)
    assert module(*[values(2, 0, E)] * 3)[0].shape == (2, 0, E)
    both = attention(batch_first=True, add_bias_kv=True, add_zero_attn=True)
    got, weights = both(values(2, 3, E), values(2, 0, E), values(2, 0, E))
    assert_close(got, expected(both, values(2, 3, E), values(2, 0, E), values(2, 0, E))[0])
    assert weights.shape == (2, 3, 2)
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
    with pytest.raises(ValueError, match="kdim=None and vdim=0"):
        nn.MultiheadAttention(E, H, vdim=0)
    with pytest.raises(ValueError, match=r"key has shape \(2, 4, 24\).* and 12 in the last"):
        attention(batch_first=True, kdim=12)(x, x, x)
    with pytest.raises(ValueError, match=r"MultiheadAttention.bias_k was given shape \(24,\); needed: \(1, 1, 24\)"):
        attention(add_bias_kv=True).bias_k = values(E)

"""Live comparisons (marker `oracle`): nn.MultiheadAttention with torch.nn's over the product of its options, and
nn.SelfAttention with the attention of T5 and Mistral."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from transformer_fast import nn

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5
SIZES = [(12, 3), (3, 3), (5, 1)]  # embed_dim, num_heads
WIDTHS = [{}, {"kdim": 7, "vdim": 10}, {"vdim": 4}]
SWITCHES = ("batch_first", "bias", "add_bias_kv", "add_zero_attn")
B, LQ, LK = 2, 5, 7


def pair(torch, embed_dim, heads, **options):
    """torch's module with random parameters, and ours with the same ones."""
    theirs = torch.nn.MultiheadAttention(embed_dim, heads, **options).eval()
    for parameter in theirs.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    ours = nn.MultiheadAttention(embed_dim, heads, **options)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    return theirs, ours


def agree(torch, theirs, ours, arrays, **options):
    given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    with torch.no_grad():
        output, weights = theirs(*map(torch.from_numpy, arrays), **given)
    got, got_weights = ours(*arrays, **options)
    assert got.shape == tuple(output.shape)
    np.testing.assert_allclose(got, output.numpy(), atol=TOLERANCE)
    assert (weights is None) == (got_weights is None)
    if weights is not None:
        assert got_weights.shape == tuple(weights.shape)
        np.testing.assert_allclose(got_weights, weights.numpy(), atol=TOLERANCE)


def masks(heads, rng):
    """Pairs (key_padding_mask, attn_mask) that leave every query its first key or its last."""
    at_end = np.arange(LK) >= np.array([[LK], [3]])
    anywhere = np.array([[0, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 0]], bool)
    causal = np.triu(np.ones((LQ, LK), bool), 1)
    scattered = rng.random((B * heads, LQ, LK)) < 0.4
    scattered[..., [0, 2]] = False
    added = rng.standard_normal((LQ, LK)).astype(np.float32)
    added_a_head = rng.standard_normal((B * heads, LQ, LK)).astype(np.float32)
    bool_masks = itertools.product((None, at_end, anywhere), (None, causal & (np.arange(LK) != 2), scattered))
    float_masks = [
        (rng.standard_normal((B, LK)).astype(np.float32), added),
        (None, added_a_head),
        (np.where(at_end, -np.inf, 0).astype(np.float32), np.where(causal, -np.inf, added).astype(np.float32)),
    ]
    return [*bool_masks, *float_masks]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=4)), ids=str)
def test_product_of_options(torch, sizes, widths, switches):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs, ours = pair(torch, *sizes, **widths, **dict(zip(SWITCHES, switches, strict=True)))
    lengths = ((B, LQ), (B, LK), (B, LK)) if switches[0] else ((LQ, B), (LK, B), (LK, B))
    width = (ours.embed_dim, ours.kdim, ours.vdim)
    arrays = [rng.standard_normal((*n, w)).astype(np.float32) for n, w in zip(lengths, width, strict=True)]
    for padding, mask in masks(sizes[1], rng):
        for need_weights, average in ((False, True), (True, True), (True, False)):
            agree(
                torch,
                theirs,
                ours,
                arrays,
                key_padding_mask=padding,
                attn_mask=mask,
                need_weights=need_weights,
                average_attn_weights=average,
            )
    alone = [x[0] if switches[0] else x[:, 0] for x in arrays]
    for padding in (None, np.arange(LK) >= 4):
        agree(torch, theirs, ours, alone, key_padding_mask=padding)
        agree(torch, theirs, ours, alone, attn_mask=masks(sizes[1], rng)[2][1][: sizes[1]], key_padding_mask=padding)


@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=4)), ids=str)
def test_self_attention(torch, isa, switches):
    """One array for all three: one product. Lengths beyond a block of keys, and the hint is_causal."""
    torch.manual_seed(0)
    theirs, ours = pair(torch, 24, 3, **dict(zip(SWITCHES, switches, strict=True)))
    x = np.random.default_rng(0).standard_normal((2, 70, 24) if switches[0] else (70, 2, 24)).astype(np.float32)
    causal = np.triu(np.ones((70, 70), bool), 1)
    padding = np.arange(70) >= np.array([[70], [41]])
    for options in ({}, {"key_padding_mask": padding}, {"attn_mask": causal, "is_causal": True}):
        agree(torch, theirs, ours, [x] * 3, **options)
    agree(torch, theirs, ours, [x] * 3, key_padding_mask=padding, attn_mask=causal, need_weights=False)


def test_fresh_parameters_have_torchs_distributions(torch):
    """Standard deviations, and zeros where torch has zeros."""
    options = {"kdim": 50, "vdim": 70, "add_bias_kv": True}
    for given in ({}, options):
        theirs, ours = torch.nn.MultiheadAttention(200, 4, **given), nn.MultiheadAttention(200, 4, **given)
        for name, tensor in theirs.state_dict().items():
            expected = tensor.numpy().std()
            assert ours.state_dict()[name].std() == pytest.approx(expected, rel=0.3), name


# ----------------------------------------------------------------------------------------------------------------------
# SelfAttention


def stacked(theirs, names):
    """The weights of transformers' separate projections, as in_proj has them."""
    return np.concatenate([getattr(theirs, name).weight.detach().numpy() for name in names])


@pytest.mark.parametrize("is_decoder", [False, True])
def test_t5_attention(torch, isa, is_decoder):
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    torch.manual_seed(0)
    config = T5Config(d_model=24, d_kv=6, num_heads=4, is_decoder=is_decoder)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    position = nn.RelativePositionBias(32, 128, 4, bidirectional=not is_decoder)
    ours = nn.SelfAttention(24, 4, bias=False, scale=1.0, position=position)
    ours.in_proj.weight = stacked(theirs, "qkv")
    ours.out_proj.weight = theirs.o.weight.detach().numpy()
    position.weight = theirs.relative_attention_bias.weight.detach().numpy()
    x = np.random.default_rng(0).standard_normal((2, 150, 24)).astype(np.float32)
    mask = torch.full((150, 150), torch.finfo(torch.float32).min).triu(1)[None, None] if is_decoder else None
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), mask=mask)[0].numpy()
    np.testing.assert_allclose(ours(x, is_causal=is_decoder)[0], expected, atol=TOLERANCE)


@pytest.mark.parametrize("sliding_window", [None, 7])
def test_mistral_attention(torch, isa, sliding_window):
    """Grouped heads, rotary positions and a sliding window that counts the token itself."""
    from transformers import MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralAttention, MistralRotaryEmbedding

    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=8, sliding_window=sliding_window
    )
    config._attn_implementation = "eager"
    theirs = MistralAttention(config, layer_idx=0).eval()
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, 0)
    ours = nn.SelfAttention(
        24, 6, num_kv_heads=2, head_dim=8, bias=False, window=window, position=nn.RotaryEmbedding(8)
    )
    ours.in_proj.weight = stacked(theirs, ("q_proj", "k_proj", "v_proj"))
    ours.out_proj.weight = theirs.o_proj.weight.detach().numpy()
    x = np.random.default_rng(0).standard_normal((2, 90, 24)).astype(np.float32)
    distance = torch.arange(90) - torch.arange(90)[:, None]
    hidden = (distance > 0) | (distance <= -(sliding_window or 90))
    mask = torch.zeros(90, 90).masked_fill(hidden, -torch.inf)[None, None]
    with torch.no_grad():
        tables = MistralRotaryEmbedding(config)(torch.zeros(1), torch.arange(90)[None])
        expected = theirs(torch.from_numpy(x), position_embeddings=tables, attention_mask=mask)[0].numpy()
    np.testing.assert_allclose(ours(x, is_causal=True)[0], expected, atol=TOLERANCE)

"""nn/attention/self_attention.py against a plain computation in float64, and what it takes for long signals."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import functional as F
from transformer_fast import nn, reference

E, H = 24, 6
HUGE = 10**9


def self_attention(**options):
    nn.manual_seed(0)
    return nn.SelfAttention(E, H, **options)


def expected(module, x, forbidden=None, is_causal=False):
    """(output, weights of each head) in float64, with L x L arrays for everything; forbidden broadcasts to them."""
    B, L, _ = x.shape
    state = {name: array.astype(np.float64) for name, array in module.state_dict().items()}
    D, Hkv = module.head_dim, module.num_kv_heads
    projected = reference.linear(x.astype(np.float64), state["in_proj.weight"], state.get("in_proj.bias"))
    heads = projected.reshape(B, L, H + 2 * Hkv, D).swapaxes(1, 2)
    q, k, v = heads[:, :H], heads[:, H : H + Hkv], heads[:, H + Hkv :]
    distance = np.arange(L) - np.arange(L)[:, None]
    left, right = (HUGE if side < 0 else side for side in module.window)
    scores = np.where((distance < -left) | (distance > right), -np.inf, 0.0)
    if is_causal:
        scores = np.where(distance > 0, -np.inf, scores)
    if isinstance(module.position, nn.RotaryEmbedding):
        q, k = turned(q, module.position.dim), turned(k, module.position.dim)
    elif isinstance(module.position, nn.RelativePositionBias):
        buckets = nn.relative_position_bucket(distance, module.position.bidirectional)
        scores = scores + state["position.weight"][buckets].transpose(2, 0, 1)
    elif module.position == "alibi":
        scores = scores - nn.alibi_slopes(H)[:, None, None].astype(np.float64) * np.abs(distance)
    if forbidden is not None:
        scores = scores + np.where(forbidden, -np.inf, 0.0)
    out, weights = reference.scaled_dot_product_attention(
        q, k, v, scores, scale=module.scale, enable_gqa=True, return_weights="heads"
    )
    out = reference.linear(reference.concat_heads(out), state["out_proj.weight"], state.get("out_proj.bias"))
    return out, weights


def turned(x, dim):
    """Rotary positions by complex numbers, pairs (i, i + dim / 2)."""
    half = dim // 2
    angles = np.arange(x.shape[2])[:, None] * 10000.0 ** (-2 * np.arange(half) / dim)
    pairs = (x[..., :half] + 1j * x[..., half:dim]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag, x[..., dim:]], axis=-1)


POSITIONS = {
    "none": lambda: None,
    "rotary": lambda: nn.RotaryEmbedding(4),
    "rotary, in part": lambda: nn.RotaryEmbedding(2),
    "alibi": lambda: "alibi",
    "relative": lambda: nn.RelativePositionBias(num_heads=H),
    "relative, one direction": lambda: nn.RelativePositionBias(num_heads=H, bidirectional=False),
}


@pytest.mark.parametrize("position, is_causal", list(itertools.product(POSITIONS, [False, True])))
@pytest.mark.parametrize("kv_heads, window", [(None, (-1, -1)), (2, (3, 1)), (1, (0, -1)), (6, (4, 0))])
def test_forward(isa, position, is_causal, kv_heads, window):
    module = self_attention(num_kv_heads=kv_heads, window=window, position=POSITIONS[position]())
    x, residual = normal(2, 9, E), normal(2, 9, E, seed=1)
    out, weights = expected(module, x, is_causal=is_causal)
    got, none = module(x, is_causal=is_causal)
    assert none is None
    assert_close(got, out)
    _, by_head = module(x, is_causal=is_causal, need_weights=True, average_attn_weights=False)
    assert_close(by_head, weights)
    _, mean = module(x, is_causal=is_causal, need_weights=True)
    assert_close(mean, weights.mean(axis=1))
    assert_close(module(x, is_causal=is_causal, residual=residual)[0], out + residual)
    assert_close(module(x[0], is_causal=is_causal)[0], out[0])


@pytest.mark.parametrize("position", POSITIONS)
def test_masks(position):
    module = self_attention(num_kv_heads=3, position=POSITIONS[position](), bias=False, scale=1.0)
    x = normal(2, 9, E)
    at_end, anywhere = np.arange(9) >= np.array([[9], [4]]), np.random.default_rng(0).random((2, 9)) < 0.3
    mask = np.random.default_rng(1).random((9, 9)) < 0.3
    for padding in (at_end, anywhere):
        assert_close(module(x, padding)[0], expected(module, x, padding[:, None, None])[0])
        both = padding[:, None, None] | mask
        got, weights = module(x, padding, mask, True, need_weights=True, average_attn_weights=False)
        assert_close(got, expected(module, x, both, True)[0])
        assert_close(weights, expected(module, x, both, True)[1])
        assert_close(module(x[1], padding[1])[0], expected(module, x, padding[:, None, None])[0][1])


def test_a_wider_head(isa):
    module = self_attention(head_dim=10, position=nn.RotaryEmbedding(6, interleaved=False))
    shapes = {name: array.shape for name, array in module.state_dict().items()}
    assert shapes["in_proj.weight"] == (3 * 60, E) and shapes["out_proj.weight"] == (E, 60)
    x = normal(1, 5, E)
    assert_close(module(x)[0], expected(module, x)[0])


def test_positions_are_given():
    """Rotary positions count by their distances; other distances give another result."""
    module = self_attention(position=nn.RotaryEmbedding(4))
    x, positions = normal(2, 5, E), np.stack([np.arange(5) + 11, np.arange(5) + 2])
    assert_close(module(x, positions=positions)[0], module(x)[0].astype(np.float64), 1e-5)
    assert np.abs(module(x, positions=np.arange(5) * 3)[0] - module(x)[0]).max() > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
def test_zero_sizes(position):
    module = self_attention(position=POSITIONS[position]())
    for shape in ((0, 4, E), (2, 0, E), (0, E)):
        got, weights = module(normal(*shape), is_causal=True, need_weights=True)
        assert got.shape == shape and weights.shape == (*shape[:-1], shape[-2])


def test_pair_layouts_differ():
    modules = [self_attention(position=nn.RotaryEmbedding(4, interleaved=i)) for i in (False, True)]
    x = normal(1, 5, E)
    assert np.abs(modules[0](x)[0] - modules[1](x)[0]).max() > 1e-3


def test_state_dict():
    module = self_attention(num_kv_heads=2, position=nn.RelativePositionBias(num_heads=H))
    assert {name: array.shape for name, array in module.state_dict().items()} == {
        "in_proj.weight": (10 * 4, E),
        "in_proj.bias": (10 * 4,),
        "out_proj.weight": (E, E),
        "out_proj.bias": (E,),
        "position.weight": (32, H),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Caches


def make_cache(module, B=2, **options):
    return nn.KeyValueCache(B, module.num_kv_heads, module.head_dim, 4, **options)


def test_a_cache_of_integers():
    module, x = self_attention(num_kv_heads=2), normal(2, 6, E)
    cache = make_cache(module, dtype=np.int8)
    module(x[:, :5], is_causal=True, cache=cache)
    got, _ = module(x[:, 5:], is_causal=True, cache=cache)
    wanted = module(x, is_causal=True)[0][:, 5:]
    assert 0 < np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", [(-1, -1), (3, 0)])
def test_a_piece_at_a_time(isa, position, window):
    """Pieces of a text with a cache give what the whole text gives in causal order."""
    module = self_attention(num_kv_heads=2, window=window, position=POSITIONS[position]())
    x = normal(2, 11, E)
    out, weights = expected(module, x, is_causal=True)
    cache, first = make_cache(module), 0
    for last in (4, 5, 6, 11):
        got, by_head = module(
            x[:, first:last], is_causal=True, cache=cache, need_weights=True, average_attn_weights=False
        )
        assert_close(got, out[:, first:last])
        assert_close(by_head, weights[:, :, first:last, :last])
        first = last
    assert cache.lengths.tolist() == [11, 11]


@pytest.mark.parametrize("position", ["none", "rotary", "alibi"])
def test_rows_of_unequal_lengths(position):
    """Padding at the end of a prompt is not kept: the next token follows the last real one."""
    module = self_attention(position=POSITIONS[position]())
    x = normal(2, 6, E)
    cache = make_cache(module)
    module(x[:, :5], np.arange(5) >= np.array([[5], [3]]), is_causal=True, cache=cache)
    assert cache.lengths.tolist() == [5, 3]
    got = module(x[:, 5:], is_causal=True, cache=cache)[0]
    for row, tokens in enumerate((x[:1], x[1:, [0, 1, 2, 5]])):
        assert_close(got[row, 0], expected(module, tokens, is_causal=True)[0][0, -1])


def test_a_cache_with_a_window_is_told_positions():
    module = self_attention(window=(3, 0), position=nn.RotaryEmbedding(4))
    x = normal(1, 30, E)
    out, _ = expected(module, x, is_causal=True)
    cache = make_cache(module, 1, window=4)
    with pytest.raises(ValueError, match="positions is None"):
        module(x[:, :1], is_causal=True, cache=cache)
    for i in range(30):
        got, _ = module(x[:, i : i + 1], is_causal=True, cache=cache, positions=np.array([i]))
        assert_close(got[:, 0], out[:, i])
    assert cache.lengths[0] < 30


def test_what_a_cache_refuses():
    x, hole = normal(2, 3, E), np.array([[False, True, False]] * 2)
    for position in ("alibi", nn.RelativePositionBias(num_heads=H)):
        module = self_attention(position=position)
        cache = make_cache(module)
        module(x, np.arange(3) >= np.array([[3], [1]]), cache=cache)
        with pytest.raises(ValueError, match="rows of 1 to 3 tokens"):
            module(x, cache=cache)
        assert cache.lengths.tolist() == [3, 1]
        for masks in ((hole,), (None, np.zeros((3, 3), bool))):
            with pytest.raises(ValueError, match="with a cache; needed: None"):
                module(x, *masks, cache=cache)


# ----------------------------------------------------------------------------------------------------------------------
# Long signals


def test_the_work_of_a_window_is_linear():
    """A minute of frames of a millisecond: the scores that are computed are the window's, and scratch stays small."""
    x = np.broadcast_to(np.float32(0), (1, 4, 60_000, 16))
    plan = F.explain_attention(x, x, x, window=(31, 32))
    assert 1 - plan["skipped_fraction"] <= 64 / 60_000
    assert plan["workspace_bytes"] < 2**24
    half = F.explain_attention(x[:, :, :30_000], x[:, :, :30_000], x[:, :, :30_000], window=(31, 32))
    assert plan["score_flops"] == pytest.approx(2 * half["score_flops"], rel=0.01)


@pytest.mark.parametrize("position", ["none", "rotary", "alibi", "relative"])
def test_memory_is_linear(position):
    L = 20_000
    module = self_attention(window=(31, 32), position=POSITIONS[position]())
    x = normal(1, L, E)
    tracemalloc.start()
    try:
        got, _ = module(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * x.nbytes, "an array of L x L bytes would be 200 times the input"
    # A window of the signal, computed alone, gives its middle.
    part = module(x[:, 9_900:10_100], positions=np.arange(9_900, 10_100) if position == "rotary" else None)[0]
    assert_close(got[:, 9_940:10_060], part[:, 40:160].astype(np.float64), 1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    "options, error, text",
    [
        (dict(embed_dim=24, num_heads=5), ValueError, "embed_dim=24 and num_heads=5"),
        (dict(embed_dim=24, num_heads=6, num_kv_heads=4), ValueError, "num_kv_heads=4.*a multiple of num_kv_heads"),
        (dict(embed_dim=24, num_heads=6, num_kv_heads=0), ValueError, "num_kv_heads=0"),
        (dict(embed_dim=24, num_heads=6, position="rope"), TypeError, "position is 'rope'"),
        (dict(embed_dim=24, num_heads=6, position=nn.RotaryEmbedding(8)), ValueError, "rotates 8 columns.*head_dim=4"),
        (dict(embed_dim=24, num_heads=6, position=nn.RelativePositionBias(num_heads=8)), ValueError, "has 8 heads"),
    ],
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        nn.SelfAttention(**options)


def test_bad_input():
    module = self_attention()
    with pytest.raises(ValueError, match=r"input has shape \(2, 9, 23\); needed: \(B, L, 24\)"):
        module(normal(2, 9, 23))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(2, 8\)"):
        module(normal(2, 9, E), np.zeros((2, 8), bool))
    with pytest.raises(ValueError, match=r"positions has shape \(8,\); needed: \(9,\) or \(2, 9\)"):
        self_attention(position=nn.RotaryEmbedding(4))(normal(2, 9, E), positions=np.arange(8))
    with pytest.raises(ValueError, match="window is"):
        self_attention(window=(1, -2))(normal(2, 9, E))

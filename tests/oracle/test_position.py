"""Live comparisons (marker `oracle`) of nn/position.py with transformers: every kind of rotary scaling, T5's buckets,
ALiBi, the sinusoids of ViTMAE and Marian."""

from __future__ import annotations

import numpy as np
import pytest
from rope_cases import MAX_POSITION, SCALINGS

from transformer_fast import nn

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_tables(torch, name):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=MAX_POSITION,
        rope_parameters=dict(SCALINGS[name]),
    )
    ours = nn.RotaryEmbedding(32, scaling=SCALINGS[name], max_position_embeddings=MAX_POSITION)
    for positions in (np.arange(40)[None], np.arange(700)[None], np.array([[5, 9, 2], [0, 60, 300]])):
        theirs = LlamaRotaryEmbedding(config)
        expected = theirs(torch.zeros(1), torch.from_numpy(positions))
        for got, other in zip(ours.tables(positions), expected, strict=True):
            np.testing.assert_allclose(got, other.numpy()[..., :16], atol=1e-6)


@pytest.mark.parametrize("dim, heads", [(16, 16), (8, 16)])
def test_rotations(torch, dim, heads):
    """Both pairings, and heads of which a part is rotated."""
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as interleaved
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as halves

    x = np.random.default_rng(0).standard_normal((2, 3, 5, heads)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 9, 11, 2, 2]])
    cos, sin = (torch.from_numpy(table) for table in nn.RotaryEmbedding(dim).tables(positions))
    front = torch.from_numpy(x[..., :dim])
    wide = [torch.cat([table, table], -1) for table in (cos, sin)]
    expected = halves(front, front, *wide)[0]
    got = nn.RotaryEmbedding(dim)(x, positions)
    np.testing.assert_allclose(got[..., :dim], expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(got[..., dim:], x[..., dim:])
    expected = interleaved(front.transpose(1, 2), sin, cos).transpose(1, 2)
    got = nn.RotaryEmbedding(dim, interleaved=True)(x, positions)
    np.testing.assert_allclose(got[..., :dim], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("buckets, distance", [(8, 20), (32, 20), (32, 128), (32, 777), (64, 128), (64, 777), (9, 50)])
def test_relative_position_bucket(torch, buckets, distance, both):
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = np.arange(-1500, 1500)
    expected = T5Attention._relative_position_bucket(torch.from_numpy(relative), both, buckets, distance)
    np.testing.assert_array_equal(nn.relative_position_bucket(relative, both, buckets, distance), expected.numpy())


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_position_bias(torch, bidirectional):
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(d_model=8, d_kv=2, num_heads=4, is_decoder=not bidirectional)
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = nn.RelativePositionBias(32, 128, 4, bidirectional)
    ours.weight = theirs.relative_attention_bias.weight.detach().numpy()
    expected = theirs.compute_bias(9, 200).detach().numpy()[0]
    i, j = np.ogrid[:9, :200]
    np.testing.assert_array_equal(ours.table(9, 200)[:, j - i + 8], expected)
    i = i[:3]
    np.testing.assert_array_equal(ours.table(3, 200, offset=6)[:, j - i + 2], expected[:, 6:])


def test_alibi_slopes(torch):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for heads in range(1, 40):
        expected = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
        np.testing.assert_allclose(nn.alibi_slopes(heads), expected.numpy(), rtol=1e-6)


def test_sinusoids(torch):
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding as sinusoids_2d

    for width in (16, 17):
        theirs = MarianSinusoidalPositionalEmbedding(50, width)
        theirs.weight.data = theirs.create_weight()
        ours = nn.SinusoidalPositionalEncoding(width, interleaved=False).table(np.arange(50))
        np.testing.assert_allclose(ours, theirs.weight.numpy(), atol=1e-6)
    expected = sinusoids_2d(5, 3, 16)
    ours = nn.SinusoidalPositionalEncoding2d(16).table(5, 3)
    np.testing.assert_allclose(ours.reshape(15, 16), expected.numpy(), atol=1e-6)

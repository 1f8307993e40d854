"""nn/position.py against closed forms, and against transformers' answers (golden/position.npz)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from rope_cases import MAX_POSITION, POSITIONS, SCALINGS
from support import assert_close, normal

from transformer_fast import functional as F
from transformer_fast import nn


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "position.npz") as arrays:
        return dict(arrays)


# ----------------------------------------------------------------------------------------------------------------------
# Added to the input


@pytest.mark.parametrize("width", [1, 6, 7])
def test_sinusoids(width):
    table = nn.SinusoidalPositionalEncoding(width).table(np.array([0, 3, 100_000]))
    for row, position in zip(table, (0, 3, 100_000), strict=True):
        for column, value in enumerate(row):
            angle = position / 10000 ** (2 * (column // 2) / width)
            assert value == pytest.approx((math.cos if column % 2 else math.sin)(angle), abs=1e-7)
    halves = nn.SinusoidalPositionalEncoding(width, interleaved=False).table(np.array([0, 3, 100_000]))
    assert np.array_equal(halves, np.concatenate([table[:, 0::2], table[:, 1::2]], axis=1))


def test_sinusoids_are_added():
    module, x = nn.SinusoidalPositionalEncoding(6), normal(2, 5, 6)
    assert np.array_equal(module(x), x + module.table(np.arange(5)))
    positions = np.array([[0, 1, 2, 3, 4], [9, 9, 0, 1, 2]])
    assert np.array_equal(module(x, positions), x + module.table(positions))
    assert module(x)[0].dtype == np.float32 and not module.state_dict()


def test_sinusoids_of_images(golden):
    module, x = nn.SinusoidalPositionalEncoding2d(8), normal(2, 3, 4, 8)
    assert_close(module.table(3, 4).reshape(12, 8), golden["image"].astype(np.float64))
    assert np.array_equal(module(x), x + module.table(3, 4))


@pytest.mark.parametrize("offset", [0, 2])
def test_learned(offset):
    module, x = nn.LearnedPositionalEmbedding(7, 6, offset=offset), normal(2, 5, 6)
    assert {name: array.shape for name, array in module.state_dict().items()} == {"weight": (7 + offset, 6)}
    assert np.array_equal(module(x), x + module.weight[offset : 5 + offset])
    positions = np.array([[6, 0, 1, 2, 3], [1, 2, 3, 4, 5]])
    assert np.array_equal(module(x, positions), x + module.weight[positions + offset])
    with pytest.raises(IndexError, match="from 0 to 7; needed: 0 to 6"):
        module(normal(1, 8, 6))
    with pytest.raises(IndexError, match="from -1 to 3"):
        module(x, np.arange(-1, 4))


# ----------------------------------------------------------------------------------------------------------------------
# Rotations


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_tables(golden, name):
    rope = nn.RotaryEmbedding(32, scaling=SCALINGS[name], max_position_embeddings=MAX_POSITION)
    cos, sin = rope.tables(POSITIONS)
    assert_close(cos, golden[f"cos {name}"].astype(np.float64))
    assert_close(sin, golden[f"sin {name}"].astype(np.float64))
    batch = rope.tables(np.stack([POSITIONS, POSITIONS[::-1]]))
    assert np.array_equal(batch[0], np.stack([cos, cos[::-1]]))
    assert np.array_equal(batch[1], np.stack([sin, sin[::-1]]))


def test_older_names_of_the_type():
    new, old = ({name: "linear", "factor": 2.0} for name in ("rope_type", "type"))
    for a, b in zip(*(nn.RotaryEmbedding(8, scaling=s).tables(POSITIONS) for s in (new, old)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_length(name):
    """These kinds rotate the first tokens of a long text otherwise than those of a short one."""
    rope = nn.RotaryEmbedding(32, scaling=SCALINGS[name], max_position_embeddings=MAX_POSITION)
    front = np.arange(10)
    for other, same in ((np.arange(700), 700), (np.arange(60), None)):
        expected = rope.tables(other)[0][:10]
        assert np.array_equal(rope.tables(front, length=same)[0], expected)
    assert not np.array_equal(rope.tables(front, length=700)[0], rope.tables(front)[0])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim, D", [(6, 6), (4, 7), (2, 2)])
def test_rotation(isa, interleaved, dim, D):
    """Each pair is a complex number, multiplied by exp(i * position * frequency)."""
    rope = nn.RotaryEmbedding(dim, 100.0, interleaved=interleaved)
    x = normal(2, 3, 5, D)
    positions = np.array([[0, 1, 2, 3, 4], [7, 3, 5, 0, 11]])
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + dim // 2) for i in range(dim // 2)]
    expected = x.astype(np.float64)
    for i, (first, second) in enumerate(pairs):
        angle = positions[:, None] * 100.0 ** (-2 * i / dim)
        turned = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle)
        expected[..., first], expected[..., second] = turned.real, turned.imag
    assert_close(rope(x, positions), expected)
    assert_close(rope(x.swapaxes(1, 2).copy().swapaxes(1, 2), positions), expected)
    assert_close(rope(x[1], positions[1]), expected[1])
    assert np.array_equal(rope(x), rope(x, np.arange(5)))
    own = x.copy()
    assert rope(own, positions, out=own) is own
    assert_close(own, expected)


def test_scores_depend_on_distances_alone():
    rope = nn.RotaryEmbedding(16)
    q, k = normal(1, 1, 16), normal(1, 1, 16, seed=1)
    near = rope(q, np.array([7]))[0, 0] @ rope(k, np.array([3]))[0, 0]
    far = rope(q, np.array([107]))[0, 0] @ rope(k, np.array([103]))[0, 0]
    assert near == pytest.approx(far, abs=1e-4)


@pytest.mark.parametrize(
    "arguments, text",
    [
        (dict(dim=7), "dim is 7; needed: a positive even number"),
        (dict(dim=8, base=0), "base .rope_theta. is 0"),
        (dict(dim=8, scaling={"rope_type": "mrope"}), "type 'mrope'; needed: one of .*'yarn'"),
        (dict(dim=8, scaling={"type": "linear"}), r"'linear' lacks \['factor'\]"),
        (dict(dim=8, scaling={"type": "linear", "factor": 0}), "factor=0; needed: a positive"),
        (dict(dim=8, scaling={"type": "linear", "factor": 2, "alpha": 1}), r"unknown fields \['alpha'\]"),
        (dict(dim=8, scaling={"factor": 2}), r"'default' has the unknown fields \['factor'\]"),
        (dict(dim=8, scaling={"type": "dynamic", "factor": 2}), "max_position_embeddings is None"),
        (dict(dim=8, scaling={"type": "yarn", "factor": 2}), r"lacks \['original_max_position_embeddings'\]"),
        (dict(dim=8, scaling=SCALINGS["longrope"]), "16 values in short_factor; needed: dim / 2 = 4"),
    ],
)
def test_bad_rotary_options(arguments, text):
    with pytest.raises(ValueError, match=text):
        nn.RotaryEmbedding(**arguments)


def test_original_context_defaults_to_max_position_embeddings():
    scaling = {name: value for name, value in SCALINGS["yarn"].items() if not name.startswith("original")}
    tables = [
        nn.RotaryEmbedding(32, scaling=scaling, max_position_embeddings=64),
        nn.RotaryEmbedding(32, scaling=SCALINGS["yarn"]),
    ]
    assert np.array_equal(*(rope.tables(POSITIONS)[0] for rope in tables))


def test_factor_defaults_to_the_growth_of_the_context():
    scaling = {name: value for name, value in SCALINGS["longrope"].items() if name != "factor"}
    rope = nn.RotaryEmbedding(32, scaling=scaling, max_position_embeddings=MAX_POSITION)
    assert np.array_equal(
        rope.tables(POSITIONS)[0], nn.RotaryEmbedding(32, scaling=SCALINGS["longrope"]).tables(POSITIONS)[0]
    )
    with pytest.raises(ValueError, match="no factor"):
        nn.RotaryEmbedding(32, scaling=scaling)


# ----------------------------------------------------------------------------------------------------------------------
# Biases


def test_alibi_slopes(golden):
    for heads in (1, 8, 12, 20):
        np.testing.assert_allclose(nn.alibi_slopes(heads), golden[f"slopes {heads}"], rtol=1e-6)
    assert nn.alibi_slopes(3).tolist() == [2**-4, 2**-8, 2**-2]


def test_buckets(golden):
    relative = np.arange(-200, 200)
    for both in (True, False):
        assert np.array_equal(nn.relative_position_bucket(relative, both), golden[f"buckets {both}"])
    assert nn.relative_position_bucket(np.array([[5, -5]]), num_buckets=4, max_distance=2).tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="num_buckets=3"):
        nn.relative_position_bucket(relative, num_buckets=3)
    with pytest.raises(ValueError, match="max_distance=8"):
        nn.relative_position_bucket(relative, max_distance=8)
    with pytest.raises(TypeError, match="relative_position has dtype float64"):
        nn.relative_position_bucket(np.zeros(3))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("Lq, Lk, offset", [(5, 5, 0), (1, 9, 8), (4, 9, 5), (3, 7, 0)])
def test_relative_position_bias(isa, bidirectional, Lq, Lk, offset):
    """The table gives attention what the full array of biases gives."""
    bias = nn.RelativePositionBias(8, 6, 3, bidirectional)
    distances = np.arange(Lk) - (np.arange(Lq)[:, None] + offset)
    full = bias.weight[nn.relative_position_bucket(distances, bidirectional, 8, 6)].transpose(2, 0, 1)
    q, k, v = normal(2, 3, Lq, 4), normal(2, 3, Lk, 4, seed=1), normal(2, 3, Lk, 4, seed=2)
    got = F.scaled_dot_product_attention(q, k, v, relative_bias=bias.table(Lq, Lk, offset))
    assert_close(got, F.scaled_dot_product_attention(q, k, v, full).astype(np.float64))
    assert {name: array.shape for name, array in bias.state_dict().items()} == {"weight": (8, 3)}


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: nn.SinusoidalPositionalEncoding(0), "d_model is 0"),
        (lambda: nn.SinusoidalPositionalEncoding2d(6), "d_model is 6; needed: a positive multiple of 4"),
        (lambda: nn.LearnedPositionalEmbedding(0, 4), "max_length is 0"),
        (lambda: nn.LearnedPositionalEmbedding(4, 4, offset=-1), "offset is -1"),
        (lambda: nn.RelativePositionBias(num_heads=0), "num_heads is 0"),
        (lambda: nn.RelativePositionBias(num_buckets=2), "num_buckets=2"),
        (lambda: nn.alibi_slopes(0), "num_heads is 0"),
        (lambda: nn.SinusoidalPositionalEncoding(4)(normal(3, 5)), r"input has shape \(3, 5\)"),
        (lambda: nn.SinusoidalPositionalEncoding(4)(normal(3, 4), np.arange(4)), r"positions has shape \(4,\)"),
        (lambda: nn.SinusoidalPositionalEncoding2d(4)(normal(3, 4)), "at least 3 axes"),
        (lambda: nn.RotaryEmbedding(8)(normal(1, 3, 6)), r"D >= 8 \(dim\)"),
        (lambda: nn.RotaryEmbedding(4)(normal(2, 1, 3, 6), np.arange(4)), r"positions has shape \(4,\)"),
    ],
)
def test_bad_sizes(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_bad_types():
    for module in (nn.SinusoidalPositionalEncoding(4), nn.LearnedPositionalEmbedding(5, 4), nn.RotaryEmbedding(4)):
        with pytest.raises(TypeError, match="input has dtype float64"):
            module(np.zeros((1, 3, 4)))
        with pytest.raises(TypeError, match="positions has dtype float32"):
            module(normal(1, 3, 4), np.zeros(3, np.float32))


def test_rows_that_are_kept_are_the_rows_that_are_computed():
    """Rotations keep the tables of the first positions; others, and other types of integers, are computed."""
    for scaling in (None, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}):
        rope = nn.RotaryEmbedding(12, 10000.0, scaling=scaling, max_position_embeddings=64)
        for positions in (np.array([0, 5, 3]), np.array([[2, 3], [1500, 7]]), np.arange(0), np.array([20000, 1])):
            for kept, computed in zip(rope.tables(positions), rope.tables(positions.astype(np.int32)), strict=True):
                assert kept.shape == computed.shape and np.array_equal(kept, computed)
    assert len(rope._kept_rows[0]) == 3000

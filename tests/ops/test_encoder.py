"""Whole encoder layers in one call (functional/encoder.py, csrc/ops/encoder.c): right, and the bits of op by op."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import functional, reference
from transformer_fast.functional import Encoder, EncoderLayer

H, HEADS, INNER = 48, 4, 80
VECTORS = ("qkv_bias", "out_bias", "up_bias", "down_bias", "norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")


def arrays_of_a_layer(seed: int, hidden: int = H, inner: int = INNER) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    shapes = {"qkv": (3 * hidden, hidden), "out": (hidden, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    layer = {name: draw(*shape, scale=shape[1] ** -0.5) for name, shape in shapes.items()}
    layer |= {f"{name}_bias": draw(shape[0]) for name, shape in shapes.items()}
    for norm in ("norm1", "norm2"):
        layer |= {f"{norm}_weight": 1 + draw(hidden, scale=0.1), f"{norm}_bias": draw(hidden, scale=0.1)}
    return layer


def packed(layer: dict[str, np.ndarray]) -> EncoderLayer:
    weights = ("qkv", "out", "up", "down")
    return EncoderLayer(**{k: functional.pack_weight(v) if k in weights else v for k, v in layer.items()})


def op_by_op(F, x, starts, layers, activation, norm_first, causal=False):
    """The layers through the ops of F: functional for the bits, reference for the truth."""
    for w in layers:

        def attend(x, residual, w=w):
            qkv = F.linear(x, w["qkv"], w["qkv_bias"])
            heads = (qkv[:, i * H : (i + 1) * H].reshape(-1, HEADS, H // HEADS) for i in range(3))
            context = F.varlen_attention(*heads, starts, starts, is_causal=causal).reshape(-1, H)
            return F.linear(context, w["out"], w["out_bias"], residual=residual)

        def feed_forward(x, residual, w=w):
            inner = F.linear(x, w["up"], w["up_bias"], activation=activation)
            return F.linear(inner, w["down"], w["down_bias"], residual=residual)

        def norm(x, name, w=w):
            return F.layer_norm(x, w[f"{name}_weight"], w[f"{name}_bias"], 1e-5)

        if norm_first:
            x = attend(norm(x, "norm1"), x)
            x = feed_forward(norm(x, "norm2"), x)
        else:
            x = norm(attend(x, x), "norm1")
            x = norm(feed_forward(x, x), "norm2")
    return x


# Lengths of the sequences: one, many small ones (several chunks on two threads), empty ones, one long among short ones.
LENGTHS = ([7], [130], [3, 0, 5, 1], [40] * 12, [1] * 300, [200, 2, 90, 0, 150, 60])


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_tanh"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)}x{max(lengths)}")
def test_same_bits_as_op_by_op(lengths, activation, norm_first, isa, threads):
    layers = [arrays_of_a_layer(seed) for seed in range(2)]
    starts = np.cumsum([0, *lengths])
    x = np.random.default_rng(9).standard_normal((starts[-1], H)).astype(np.float32)
    encoder = Encoder([packed(layer) for layer in layers], HEADS, activation, norm_first=norm_first)
    got = encoder(x, starts)
    np.testing.assert_array_equal(got, op_by_op(functional, x, starts, layers, activation, norm_first))
    wide = [{name: array.astype(np.float64) for name, array in layer.items()} for layer in layers]
    expected = op_by_op(reference, x.astype(np.float64), starts, wide, activation, norm_first)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)}x{max(lengths)}")
def test_causal(lengths, norm_first, causal, isa, threads):
    layers = [arrays_of_a_layer(seed) for seed in range(2)]
    starts = np.cumsum([0, *lengths])
    x = np.random.default_rng(9).standard_normal((starts[-1], H)).astype(np.float32)
    stack = [packed(layer) for layer in layers]
    encoder = Encoder(stack, HEADS, "silu", norm_first=norm_first, causal=causal)
    expected = op_by_op(functional, x, starts, layers, "silu", norm_first, causal)
    np.testing.assert_array_equal(encoder(x, starts), expected)


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("lengths", [[7], [130], [3, 5, 1], [40] * 12, [1] * 300, [200, 2, 90, 150, 60]], ids=len)
@pytest.mark.parametrize("where", ["first", "last", "anywhere"])
def test_pooled_rows(where, lengths, norm_first, causal, isa, threads):
    """As all rows, up to the order of sums: a query alone takes another kernel of the attention."""
    rng = np.random.default_rng(9)
    starts = np.cumsum([0, *lengths])
    places = {"first": 0, "last": np.array(lengths) - 1, "anywhere": rng.integers(0, lengths)}[where]
    x = rng.standard_normal((starts[-1], H)).astype(np.float32)
    before = x.copy()
    layers = [packed(arrays_of_a_layer(seed)) for seed in range(3)]
    encoder = Encoder(layers, HEADS, norm_first=norm_first, causal=causal)
    got = encoder(x, starts, pooled_rows=places)
    assert got.shape == (len(lengths), H)
    np.testing.assert_allclose(got, encoder(x, starts)[starts[:-1] + places], atol=1e-5)
    np.testing.assert_array_equal(x, before)
    own = np.broadcast_to(places, len(lengths))[-1:]
    alone = encoder(x[starts[-2] :], [0, lengths[-1]], pooled_rows=own)
    np.testing.assert_array_equal(alone[0], got[-1])
    out = np.empty_like(got)
    assert encoder(x, starts, pooled_rows=places, out=out) is out
    np.testing.assert_array_equal(out, got)


def test_a_sequence_alone(isa):
    encoder = Encoder([packed(arrays_of_a_layer(0))], HEADS)
    starts = np.array([0, 20, 61, 300, 301])
    x = np.random.default_rng(1).standard_normal((301, H)).astype(np.float32)
    together = encoder(x, starts)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        np.testing.assert_array_equal(encoder(x[first:last], [0, last - first]), together[first:last])


def test_in_place_and_strided():
    encoder = Encoder([packed(arrays_of_a_layer(0))], HEADS)
    x = np.random.default_rng(1).standard_normal((50, H)).astype(np.float32)
    expected = encoder(x, [0, 50])
    wide = np.zeros((50, 2 * H), np.float32)
    wide[:, ::2] = x
    np.testing.assert_array_equal(encoder(wide[:, ::2], [0, 50]), expected)
    assert encoder(wide[:, :H], [0, 50], out=wide[:, H:]) is not None
    assert encoder(x, [0, 50], out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_no_tokens():
    encoder = Encoder([packed(arrays_of_a_layer(0))], HEADS)
    assert encoder(np.zeros((0, H), np.float32), [0]).shape == (0, H)
    assert encoder(np.zeros((0, H), np.float32), [0, 0, 0]).shape == (0, H)


def test_without_biases(isa):
    layer = {name: None if name.endswith("bias") else array for name, array in arrays_of_a_layer(3).items()}
    x = np.random.default_rng(1).standard_normal((30, H)).astype(np.float32)
    got = Encoder([packed(layer)], HEADS)(x, [0, 30])
    np.testing.assert_array_equal(got, op_by_op(functional, x, np.array([0, 30]), [layer], "gelu", False))


def test_bad_input():
    layer = packed(arrays_of_a_layer(0))
    encoder = Encoder([layer], HEADS)
    x = np.zeros((10, H), np.float32)
    with pytest.raises(ValueError, match="layers"):
        Encoder([], HEADS)
    with pytest.raises(ValueError, match="num_heads"):
        Encoder([layer], 5)
    with pytest.raises(ValueError, match="activation"):
        Encoder([layer], HEADS, "sigmoid")
    with pytest.raises(ValueError, match=r"layers\[1\]\.qkv"):
        Encoder([layer, packed(arrays_of_a_layer(0, hidden=64))], HEADS)
    with pytest.raises(ValueError, match=r"layers\[0\]\.up_bias"):
        Encoder([packed(arrays_of_a_layer(0) | {"up_bias": np.zeros(3, np.float32)})], HEADS)
    for starts, rows, wrong in (([0, 4, 4, 10], 0, "0 for sequence 1"), ([0, 4, 10], [3, 6], "6 for sequence 1")):
        with pytest.raises(ValueError, match=f"pooled_rows has {wrong}; needed: a row below its length"):
            encoder(x, starts, pooled_rows=rows)
    with pytest.raises(ValueError, match="pooled_rows has -1"):
        encoder(x, [0, 10], pooled_rows=-1)
    with pytest.raises(ValueError, match=r"pooled_rows has shape \(3,\)"):
        encoder(x, [0, 4, 10], pooled_rows=[0, 0, 0])
    for rows in (0.0, True, "first"):
        with pytest.raises(TypeError, match="pooled_rows"):
            encoder(x, [0, 4, 10], pooled_rows=rows)
    with pytest.raises(ValueError, match="out overlaps x"):
        encoder(x, [0, 4, 10], pooled_rows=0, out=x[:2])
    for starts in ([0, 9], [1, 10], [0, 7, 3, 10], []):
        with pytest.raises(ValueError, match="cu_seqlens"):
            encoder(x, starts)
    with pytest.raises(ValueError, match="x has shape"):
        encoder(np.zeros((10, H + 1), np.float32), [0, 10])
    with pytest.raises(TypeError, match="x has dtype"):
        encoder(x.astype(np.float64), [0, 10])
    with pytest.raises(ValueError, match="out"):
        encoder(x[:-1], [0, 9], out=x[1:])


def test_weights_of_another_isa():
    isas = functional.available_isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    encoder = Encoder([packed(arrays_of_a_layer(0))], HEADS)
    before = functional.get_isa()
    try:
        functional.set_isa(next(name for name in isas if name != before))
        with pytest.raises(RuntimeError, match="level in force"):
            encoder(np.zeros((10, H), np.float32), [0, 10])
    finally:
        functional.set_isa(before)


@pytest.mark.parametrize("B", [1, 40])
def test_a_projection_whose_parts_have_several_formats(B, isa, threads):
    """As GGUF files have them: it is packed as so many weights, and has the bits of op by op."""
    rng, width = np.random.default_rng(3), 64

    def blocks(format, nbytes, rows, columns):
        halves = rng.uniform(-2e-2, 2e-2, (rows, columns // 32, 1)).astype(np.float16).view(np.uint8)
        codes = rng.integers(0, 256, (rows, columns // 32, nbytes - 2), np.uint8)
        return functional.BlockWeight(format, np.concatenate([halves, codes], axis=2).reshape(rows, -1))

    def pack(*weights):
        return functional.pack_weight(list(weights) if len(weights) > 1 else weights[0], format="blocks")

    square = [blocks(format, nbytes, width, width) for format, nbytes in (("Q8_0", 34), ("Q8_0", 34), ("Q4_0", 18))]
    layer = {"qkv": pack(*square), "out": pack(square[0])}
    layer |= {"up": pack(blocks("Q4_0", 18, 96, width)), "down": pack(blocks("Q8_0", 34, width, 96))}
    starts, x = np.arange(B + 1) * 12, rng.standard_normal((12 * B, width)).astype(np.float32)
    functional.set_num_threads(threads)
    got = Encoder([EncoderLayer(**layer, **dict.fromkeys(VECTORS))], 4)(x, starts)
    qkv = functional.linear(x, layer["qkv"])
    heads = (qkv[:, i * width : (i + 1) * width].reshape(-1, 4, width // 4) for i in range(3))
    context = functional.varlen_attention(*heads, starts, starts).reshape(-1, width)
    middle = functional.layer_norm(functional.linear(context, layer["out"], residual=x))
    inner = functional.linear(middle, layer["up"], activation="gelu")
    expected = functional.layer_norm(functional.linear(inner, layer["down"], residual=middle))
    assert np.array_equal(got, expected)

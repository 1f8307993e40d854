"""Weights in blocks, "int4" and those of files: values to the bit, products to the bit on every level.

`files.gguf_blocks.expand` says what blocks stand for, `reference.linear_of_blocks` multiplies them in float64; what the
engine adds to that are roundings of float32, one for each group of 16 or 32 k. The same float32 input gives the same
bits on every level, with any company of rows, on any number of threads.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from blocks import random_blocks, values_of
from support import assert_same_bits, normal

from transformer_fast import functional as F
from transformer_fast import reference
from transformer_fast.files.gguf_blocks import BLOCKS
from transformer_fast.functional.block_weight import BLOCK_FORMATS

pytestmark = pytest.mark.formats("int8")
# (M, N, K): one row to the kernels of small M, tiles and their rests, panels that are not full, several blocks of k.
SHAPES = [
    (1, 50, 512),
    (2, 48, 256),
    (3, 70, 256),
    (4, 33, 768),
    (7, 31, 512),
    (8, 9, 256),
    (21, 97, 1024),
    (0, 3, 256),
]
# The same for int4: k that fills no group, none at all.
INT4_SHAPES = [(1, 50, 33), (2, 48, 200), (3, 70, 1), (5, 100, 777), (9, 33, 7), (33, 97, 320), (4, 24, 0), (0, 3, 5)]


A8 = pytest.mark.parametrize("a8", ["", "_a8"], ids=["x_of_16_bits", "x_of_8_bits"])


def group_of(format: str, a8: str) -> int | None:
    """Of `reference.linear_of_blocks`."""
    return None if not a8 else 16 if format == "Q6_K" else 32


def assert_products(got, x, values, group=None):
    """Equal to 2e-6 of what a row and a channel can give at most."""
    expected = reference.linear_of_blocks(x, values, group=group)
    size = np.abs(x.astype(float)) @ np.abs(values.astype(float)).T
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= 2e-6 * size + 1e-37).all()


def packed(format: str, N: int, K: int, a8: str = "", seed: int = 0) -> F.PackedWeight:
    if format == "int4":
        return F.pack_weight(normal(N, K, seed=seed) / 20, format="int4" + a8)
    return F.pack_weight(random_blocks(format, N, K, seed), format="blocks" + a8)


def test_formats_are_those_of_files():
    for name, (_, values, nbytes) in BLOCK_FORMATS.items():
        if name != "Q4_Z":
            assert BLOCKS[name][:2] == (values, nbytes)
    assert set(BLOCKS) - set(BLOCK_FORMATS) == {"Q2_K", "Q3_K"}  # expanded


@pytest.mark.rotate("isa", "threads")
@A8
@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_blocks(shape, format, a8, isa, threads):
    M, N, K = shape
    weight, x = random_blocks(format, N, K), normal(M, K)
    values = values_of(weight)
    one = F.pack_weight(weight, format="blocks" + a8)
    assert (one.shape, one.format) == ((N, K), format + a8)
    assert_same_bits(one.unpack(), values)
    assert_same_bits(weight.dequantised(), values)
    assert_products(F.linear(x, one), x, values, group_of(format, a8))


@pytest.mark.rotate("threads")
@A8
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", INT4_SHAPES, ids=str)
def test_products_of_int4(shape, dtype, a8, isa, threads):
    M, N, K = shape
    x, weight = normal(M, K), normal(N, K, seed=1) / np.float32(max(K, 1) ** 0.5)
    weight = weight.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    one = F.pack_weight(weight, format="int4" + a8)
    assert_same_bits(one.unpack(), reference.rounded_weight(weight.astype(np.float32), "int4"))
    assert_products(F.linear(x, one), x, one.unpack(), group_of("int4", a8))


def test_extreme_weights_of_int4(isa):
    """Zeros, one number alone, one sign, denormals, the ends of the range."""
    weight = np.zeros((9, 70), np.float32)
    weight[1, 3], weight[2, 0], weight[2, 1:] = 3e38, -3e38, 1e-3
    weight[3], weight[4] = np.abs(normal(70)) + 5, -np.abs(normal(70)) - 5
    weight[5], weight[6, 2], weight[7, 1:] = 1e-42, 1e-45, 1e-25
    weight[8, ::2], weight[8, 1::2] = 3.3e38, -3.3e38
    got = F.pack_weight(weight, format="int4").unpack()
    assert_same_bits(got, reference.rounded_weight(weight, "int4"))
    ranges = weight[3:5, :64].reshape(2, 2, 32).max(-1) - weight[3:5, :64].reshape(2, 2, 32).min(-1)
    error = np.abs(got - weight)[3:5, :64].reshape(2, 2, 32).max(-1)
    assert (error <= ranges / 15).all()


@A8
@pytest.mark.parametrize("format", ["int4", *BLOCK_FORMATS])
def test_every_level_gives_the_same_bits(format, a8, isa):
    for M, N, K in SHAPES:
        x, bias, other = normal(M, K), normal(N), normal(M, N)
        got = {}
        for level in ("portable", isa):
            F.set_isa(level)
            weight = packed(format, N, K, a8)
            got[level] = [
                F.linear(x, weight),
                F.linear(x, weight, bias, activation="relu", multiply=other, residual=other),
            ]
        for mine, portable in zip(got[isa], got["portable"], strict=True):
            assert_same_bits(mine, portable)


@pytest.mark.rotate("threads")
@A8
@pytest.mark.parametrize("format", ["int4", *BLOCK_FORMATS])
def test_rows_have_the_same_bits_in_any_company(format, a8, isa, threads):
    x, weight, bias = normal(75, 512), packed(format, 97, 512, a8), normal(97)
    whole = F.linear(x, weight, bias, activation="gelu")
    for rows in (slice(0, 1), slice(5, 7), slice(10, 14), slice(3, 11), slice(3, 36), slice(1, 75)):
        assert_same_bits(F.linear(x[rows], weight, bias, activation="gelu"), whole[rows])


@A8
@pytest.mark.parametrize("format", ["int4", *BLOCK_FORMATS])
def test_rows_that_are_not_finite_give_nan(format, a8, isa):
    x, weight = normal(12, 256), packed(format, 40, 256, a8)
    clean = F.linear(x, weight)
    for row, bad in ((3, np.nan), (7, np.inf), (11, -np.inf)):
        x[row, 7] = bad
    for rows in (slice(0, 12), slice(3, 4), slice(7, 9)):
        got, expected = F.linear(x[rows], weight), clean[rows].copy()
        expected[~np.isfinite(x[rows]).all(1)] = np.nan
        assert np.array_equal(got, expected, equal_nan=True)


@A8
@pytest.mark.parametrize("format", ["Q4_K", "Q8_0", "Q6_K"])
def test_rows_of_every_size(format, a8, isa):
    """Zeros, denormals, one huge number: a row alone decides about its scale."""
    x, weight = np.zeros((12, 256), np.float32), random_blocks(format, 30, 256)
    x[1, 3], x[2, 0], x[2, 1:], x[3], x[4], x[5, ::2] = 3e36, -3e36, 1e-3, 1e-42, 1e-30, 1e30
    x[6], x[7] = 32767, -1
    # Groups of very different sizes, and the ends of what a byte takes: 127.5 of the step, -128, -128.5.
    x[8] = 2.0 ** -(np.arange(256) // 16)
    x[9], x[9, 0], x[9, 32::32] = 1, 32512, -256
    x[10], x[10, 0], x[10, 32::32], x[10, 48::32] = 1, -32512, 255, 256
    x[11], x[11, 0], x[11, 32::32], x[11, 48::32] = 1, 32512, -257, -128
    got = F.linear(x, F.pack_weight(weight, format="blocks" + a8))
    assert_products(got, x, values_of(weight), group_of(format, a8))
    assert_same_bits(got[9], F.linear(x[9:10], F.pack_weight(weight, format="blocks" + a8))[0])


@A8
@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_largest_sums(format, a8, isa):
    """Codes at both ends under the largest integers of x: sums of a group stay within 32 bits."""
    _, _, nbytes = BLOCK_FORMATS[format]
    blocks = np.stack([np.full(2 * nbytes, byte, np.uint8) for byte in (0, 255, 128, 127, 15, 240)])
    for at in (0,) if format == "MXFP4" else (208,) if format == "Q6_K" else (0, 2):
        one = np.array([120], np.uint8) if format == "MXFP4" else np.array([1], np.float16).view(np.uint8)
        for first in (0, nbytes):
            if format in ("MXFP4", "Q6_K", "Q4_1", "Q5_1", "Q4_K", "Q5_K") or at == 0:
                blocks[:, first + at : first + at + len(one)] = one
    weight = F.BlockWeight(format, blocks)
    for sign in (1, -1):
        for rows in (1, 5, 40):
            x = np.full((rows, weight.shape[1]), sign, np.float32)
            x[:, 17::32] *= 128 / 127  # which makes the others of its group 127, or this one -128
            got = F.linear(x, F.pack_weight(weight, format="blocks" + a8))
            assert_products(got, x, values_of(weight), group_of(format, a8))


def test_error_of_x_in_16_bits_and_in_8(isa):
    """16 bits cost a hundredth of what 8 bits do: against the values of the weight with x as it is."""
    x, weight = normal(20, 1024), random_blocks("Q4_K", 64, 1024)
    exact = x.astype(float) @ values_of(weight).astype(float).T
    error = {}
    for format in ("blocks", "blocks_a8", "int8"):
        got = F.linear(x, F.pack_weight(weight, format=format)) - exact
        error[format] = np.sqrt((got**2).mean() / (exact**2).mean())
    assert error["blocks"] < 1e-4 and 50 * error["blocks"] < error["blocks_a8"] < 0.01 < error["int8"]


def test_rows_of_several_formats(isa, threads):
    """A fused projection of a file that mixes formats: products of its parts."""
    parts = [
        random_blocks("Q4_K", 40, 512),
        random_blocks("Q4_K", 9, 512, 1),
        random_blocks("Q6_K", 31, 512),
        normal(5, 512),
    ]
    weight, bias = F.pack_weight(parts, format="blocks"), normal(85)
    assert (weight.shape, weight.format, weight.fits, weight.scale) == ((85, 512), "Q4_K+Q6_K+float32", True, None)
    assert_same_bits(weight.unpack(), np.concatenate([np.asarray(part) for part in parts]))
    for M in (1, 3, 30):
        x, other = normal(M, 512), normal(M, 85)
        got = F.linear(x, weight, bias, activation="relu", multiply=other, residual=other)
        first = 0
        for part in parts:
            here = slice(first, first := first + len(part))
            alone = F.pack_weight(part, format="blocks")
            options = {"activation": "relu", "multiply": other[:, here], "residual": other[:, here]}
            assert_same_bits(got[:, here], F.linear(x, alone, bias[here], **options))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_tables(format, isa):
    table = random_blocks(format, 50, 256)
    ids = np.random.default_rng(0).integers(0, 50, (3, 7))
    assert_same_bits(F.embedding(ids, table), values_of(table)[ids])
    with pytest.raises(IndexError, match=r"ids holds 50; needed: values in \[0, 50\)"):
        F.embedding([50], table)


def test_rows_are_taken_in_any_order(isa):
    weight = random_blocks("Q5_K", 11, 256)
    order = np.array([10, 0, 3])
    assert_same_bits(weight[order].dequantised(), values_of(weight)[order])
    assert_same_bits(np.asarray(weight[2:5]), values_of(weight)[2:5])
    assert len(weight[:0]) == 0 and weight[:0].dequantised().shape == (0, 256)


def test_another_format_takes_the_values(isa):
    weight = random_blocks("Q6_K", 30, 256)
    for format in ("float32", "int8", "int4"):
        assert_same_bits(
            F.pack_weight(weight, format=format).unpack(), F.pack_weight(values_of(weight), format=format).unpack()
        )


def test_bytes(isa):
    """Those of the file, for whole panels: 16-bit scales of MXFP4, sub-scales of Q4_K and Q5_K in whole bytes."""
    for format, (_, values, nbytes) in BLOCK_FORMATS.items():
        one = F.pack_weight(random_blocks(format, 96, 512), format="blocks")
        more = {"MXFP4": 1, "Q4_K": 4, "Q5_K": 4}.get(format, 0)
        assert one.nbytes == 96 * 512 // values * (nbytes + more)
    assert F.pack_weight(normal(96, 512), format="int4").nbytes * 32 == F.pack_weight(normal(96, 512)).nbytes * 5


def test_refusals():
    with pytest.raises(ValueError, match="format is 'Q2_K'; needed: one of Q8_0"):
        F.BlockWeight("Q2_K", np.zeros((1, 84), np.uint8))
    with pytest.raises(TypeError, match="blocks has dtype float32; needed: uint8"):
        F.BlockWeight("Q4_0", np.zeros((1, 18), np.float32))
    with pytest.raises(ValueError, match=r"blocks has shape \(1, 19\); needed for Q4_0: \(N, a multiple of 18 bytes\)"):
        F.BlockWeight("Q4_0", np.zeros((1, 19), np.uint8))
    with pytest.raises(ValueError, match=r"blocks of shapes \[\(2, 256\), \(2, 512\)\]; needed: one width"):
        F.pack_weight([random_blocks("Q4_K", 2, 256), random_blocks("Q4_K", 2, 512)], format="blocks")
    with pytest.raises(ValueError, match=r"blocks of shapes \[\(2, 256\), \(2, 512\)\]; needed: one width"):
        F.pack_weight([random_blocks("Q4_K", 2, 256), random_blocks("Q6_K", 2, 512)], format="blocks")
    with pytest.raises(ValueError, match="scale or smoothing is given and format is 'blocks'"):
        F.pack_weight(random_blocks("Q4_K", 2, 256), format="blocks", scale=np.ones(2))
    with pytest.raises(ValueError, match="blocks are not of the format"):
        F.PackedWeight((np.zeros((1, 18), np.uint8),), 1, "bfloat16", False, None, None, 0)


def test_zeros_beyond_the_codes(isa):
    """Q4_Z: any byte is a zero; of float16's smallest and largest scales values are exact, too."""
    weight = random_blocks("Q4_Z", 30, 64)
    blocks = weight.blocks.copy().reshape(30, 2, 19)
    blocks[:10, :, 2], blocks[10:20, 0, 2], blocks[20:, :, 2] = 255, 128, 0
    scale = np.array([[2.0**-24, -(2.0**-24), 65504, -1, 0]], np.float16).T.view(np.uint8)
    blocks[:5, 0, :2] = scale
    blocks = F.BlockWeight("Q4_Z", blocks.reshape(30, -1))
    packed = F.pack_weight(blocks, format="blocks")
    assert_same_bits(packed.unpack(), values_of(blocks))
    for rows in (1, 3, 20):
        x = normal(rows, 64)
        assert_products(F.linear(x, packed)[:, 3:], x, values_of(blocks)[3:])

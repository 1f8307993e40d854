"""Weights of integers, "int8" and "int8_a16": against the scheme in float64, and to the bit on every level.

`reference.linear_of_integers` rounds as the scheme says and sums in float64; what the engine adds to that is two
roundings of a float32. The same float32 input gives the same bits on every level, with any company of rows, on any
number of threads.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support import assert_same_bits, normal

from transformer_fast import functional as F
from transformer_fast import reference
from transformer_fast.functional.linear import INTEGER_FORMATS

pytestmark = pytest.mark.formats("int8")
# (M, N, K): one row, tiles and their rests, panels that are not full, odd K, groups that are not full, several tiles of
# the tile unit, nothing.
SHAPES = [
    (1, 50, 33),
    (2, 48, 200),
    (3, 70, 1),
    (4, 33, 7),
    (5, 100, 777),
    (7, 31, 384),
    (33, 97, 200),
    (67, 49, 130),
    (2, 30, 5000),
    (4, 24, 0),
    (0, 3, 5),
]


def smoothing_of(K: int) -> np.ndarray:
    return np.exp(normal(K, seed=7))


def assert_scheme(got, x, weight, format, scale=None, smoothing=None):
    """Equal to 1e-6 of what a row and a channel can give at most."""
    expected = reference.linear_of_integers(x, weight, format, scale=scale, smoothing=smoothing)
    if scale is None:
        weight, scale = reference.weight_integers(weight, format, smoothing)
    *_, row_scale = reference.row_integers(x, format, weight, smoothing)
    most = 204 if format == "int8" else 32767
    size = row_scale[:, None].astype(float) * scale * np.abs(weight.astype(float)).sum(1) * most
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    inside = np.abs(expected) < 3.4e38
    assert np.isfinite(got[inside]).all()
    assert (np.abs(got[inside] - expected[inside]) <= np.maximum(1e-6 * size[inside], 1e-37)).all()


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_scheme(shape, format, isa, threads):
    M, N, K = shape
    x, weight = normal(M, K), normal(N, K, seed=1) / np.float32(max(K, 1) ** 0.5)
    packed = F.pack_weight(weight, format=format)
    assert_same_bits(packed.unpack(), reference.rounded_weight(weight, format))
    assert_scheme(F.linear(x, packed), x, weight, format)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smoothing(shape, isa, threads):
    M, N, K = shape
    x, weight, smoothing = normal(M, K), normal(N, K, seed=1), smoothing_of(K)
    packed = F.pack_weight(weight, format="int8", smoothing=smoothing)
    assert_same_bits(packed.unpack(), reference.rounded_weight(weight, "int8", smoothing))
    assert_scheme(F.linear(x, packed), x, weight, "int8", smoothing=smoothing)


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_types(dtype, format, isa):
    x, weight = normal(5, 77), normal(50, 77, seed=1).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    got = F.linear(x, F.pack_weight(weight, format=format))
    assert_same_bits(got, F.linear(x, F.pack_weight(weight.astype(np.float32), format=format)))


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("low", [-127, -128], ids=str)
@pytest.mark.parametrize("shape", [(1, 50, 33), (6, 25, 130), (40, 70, 513)], ids=str)
def test_integers_of_others(shape, low, format, isa, threads):
    """No bound holds for their pairs; each row has a scale."""
    M, N, K = shape
    rng = np.random.default_rng(3)
    integers = rng.integers(low, 128, (N, K)).astype(np.int8)
    integers[:, :2], integers[0] = 127, low
    scale = rng.random(N).astype(np.float32) + np.float32(0.01)
    x = normal(M, K)
    x[0] = np.abs(x[0])  # all of the sum on one side
    packed = F.pack_weight(integers, format=format, scale=scale)
    assert_same_bits(packed.unpack(), integers.astype(np.float32) * scale[:, None])
    assert_scheme(F.linear(x, packed), x, integers, format, scale)
    halves = F.pack_weight([integers[:7], integers[7:]], format=format, scale=scale)
    assert_same_bits(F.linear(x, halves), F.linear(x, packed))


def extreme_rows(K: int) -> np.ndarray:
    """Rows of zeros, of one huge or tiny number, of one sign, of denormals, near the end of the range."""
    x = np.zeros((9, K), np.float32)
    x[1, 3], x[2, 0], x[2, 1:] = 3e38, -3e38, 1e-3
    x[3], x[4] = np.abs(normal(K)) + 5, -np.abs(normal(K)) - 5
    x[5], x[6, 2], x[7] = 1e-42, 1e-45, 1e-30
    x[8, ::2], x[8, 1::2] = 3.4e38, -3.4e38
    return x


@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_extreme_rows(format, isa):
    """A row alone decides about its scale; numbers below 2^-126 times 127 lose digits, never the row."""
    x, weight = extreme_rows(70), normal(30, 70, seed=1)
    assert_scheme(F.linear(x, F.pack_weight(weight, format=format)), x, weight, format)


def test_numbers_that_round_to_more_than_the_range(isa):
    """132.50002 and 71.5 steps: the highest number and the zero both go up, to 205, which no sum of 16 bits holds."""
    high, low = np.float32(1.6309846639633179), np.float32(-0.8801161646842957)
    steps = np.float32(1) / (high / np.float32(204) - low / np.float32(204))
    assert np.rint(high * steps) + np.rint(-low * steps) == 205
    x = np.full((2, 16), high)
    x[0, 15], x[1, 4:8], x[1, 12:] = low, low, low
    weight = np.ones((2, 16), np.float32)
    weight[1, 4:8] = weight[1, 12:] = -1
    foreign, scale = (weight * 127).astype(np.int8), np.ones(2, np.float32)
    assert_scheme(F.linear(x, F.pack_weight(weight, format="int8")), x, weight, "int8")
    assert_scheme(F.linear(x, F.pack_weight(foreign, format="int8", scale=scale)), x, foreign, "int8", scale)


@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_extreme_weights(format, isa):
    """Rows of zeros, denormals and huge numbers: as rows of x. Runs that rounding lifts over the bound go back."""
    x, weight = normal(6, 70), extreme_rows(70)
    weight[8] = 0
    weight[8, [0, 1, 4, 5]], weight[8, [2, 3, 6, 7]] = [39.5, 40.5, 41.5, 38.5], [-39.5, -39.5, -40.5, -40.5]
    packed = F.pack_weight(weight, format=format)
    assert_same_bits(packed.unpack(), reference.rounded_weight(weight, format))
    assert_scheme(F.linear(x, packed), x, weight, format)


def largest_run(integers: np.ndarray) -> int:
    """The largest sum of positive, or of negative, integers of a run of four."""
    runs = integers.reshape(len(integers), -1, 8)[:, :, [[0, 1, 4, 5], [2, 3, 6, 7]]].astype(int)
    return max(np.maximum(runs, 0).sum(-1).max(), np.maximum(-runs, 0).sum(-1).max())


def test_runs_are_bounded(isa):
    """What one kernel sums in 16 bits; rounding alone would lift some runs over the bound."""
    weight = normal(200, 256)
    for format, bounded in (("int8", True), ("int8_a16", False)):
        packed = F.pack_weight(weight, format=format)
        _, scale = reference.weight_integers(weight, format)
        integers = np.rint(packed.unpack() / scale[:, None])
        assert (largest_run(integers) == 160) if bounded else (largest_run(integers) > 160)
    rounded = np.rint(weight / reference.weight_integers(weight, "int8")[1][:, None])
    assert largest_run(rounded) > 160


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_gives_nan(bad, format, isa):
    x, weight = normal(30, 40), normal(50, 40)
    x[13, 7], weight[31, 8] = bad, bad
    out = F.linear(x, F.pack_weight(weight, format=format))
    expected = np.zeros(out.shape, bool)
    expected[13], expected[:, 31] = True, True
    assert np.array_equal(np.isnan(out), expected)
    clean = F.linear(np.delete(x, 13, 0), F.pack_weight(np.delete(weight, 31, 0), format=format))
    assert_same_bits(np.delete(np.delete(out, 13, 0), 31, 1), clean)


def test_every_level_gives_the_same_bits(isa):
    """The level at hand next to "portable", with bias, ReLU, gate and residual; smoothed, of others, in 16 bits."""
    rng = np.random.default_rng(5)
    for M, N, K in SHAPES:
        x, weight, bias, other = normal(M, K), normal(N, K, seed=1), normal(N), normal(M, N)
        foreign = {"weight": rng.integers(-128, 128, (N, K)).astype(np.int8), "scale": np.abs(bias)}
        calls = [{"weight": weight}, {"weight": weight, "smoothing": smoothing_of(K)}, foreign]
        got = {}
        for level in ("portable", isa):
            F.set_isa(level)
            options = {"activation": "relu", "residual": other, "multiply": other}
            got[level] = [
                F.linear(x, F.pack_weight(format="int8", **call, for_decode=decode), bias, **options)
                for call in calls
                for decode in (False, True)
            ]
            got[level] += [F.linear(x, F.pack_weight(format="int8_a16", **call), bias) for call in (calls[0], foreign)]
        for mine, portable in zip(got[isa], got["portable"], strict=True):
            assert_same_bits(mine, portable)


@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_rows_have_the_same_bits_in_any_company(format, isa, threads):
    x, packed, bias = normal(150, 513), F.pack_weight(normal(97, 513) / 20, format=format), normal(97)
    whole = F.linear(x, packed, bias, activation="gelu")
    for rows in (slice(0, 1), slice(5, 7), slice(10, 14), slice(3, 36), slice(1, 150)):
        assert_same_bits(F.linear(x[rows], packed, bias, activation="gelu"), whole[rows])


@pytest.mark.parametrize("format", INTEGER_FORMATS)
def test_a_quarter_of_the_bytes(format, isa):
    weight = normal(192, 768)
    assert F.pack_weight(weight, format=format).nbytes <= 0.26 * F.pack_weight(weight).nbytes


def test_more_k_than_a_sum_holds():
    weight = np.ones((1, 65537), np.float32)
    for format in INTEGER_FORMATS:
        with pytest.raises(ValueError, match=f"weight has K=65537; needed for '{format}': at most 65536"):
            F.pack_weight(weight, format=format)
        x = np.ones((1, 65536), np.float32)
        x[0, 0] = -1  # both ends of the range: sums as large as they become
        got = F.linear(x, F.pack_weight(weight[:, :65536], format=format))
        assert_scheme(got, x, weight[:, :65536], format)


def test_refusals():
    weight, integers = normal(4, 6), np.ones((4, 6), np.int8)
    with pytest.raises(TypeError, match="scale is given and weight has dtype float32; needed: int8"):
        F.pack_weight(weight, format="int8", scale=np.ones(4))
    with pytest.raises(TypeError, match="weight has dtype int8; needed"):
        F.pack_weight(integers, format="int8")
    with pytest.raises(ValueError, match="scale is given and format is 'float32'; needed: one of int8, int8_a16"):
        F.pack_weight(integers, scale=np.ones(4))
    with pytest.raises(ValueError, match=r"scale has shape \(3,\); needed: \(4,\)"):
        F.pack_weight(integers, format="int8", scale=np.ones(3))
    with pytest.raises(ValueError, match="smoothing is given and format is 'int8_a16'; needed: 'int8'"):
        F.pack_weight(weight, format="int8_a16", smoothing=np.ones(6))
    with pytest.raises(ValueError, match=r"smoothing has shape \(4,\); needed: \(6,\)"):
        F.pack_weight(weight, format="int8", smoothing=np.ones(4))
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="smoothing holds numbers that are not positive and finite"):
            F.pack_weight(weight, format="int8", smoothing=np.array([1, 1, bad, 1, 1, 1], np.float32))

"""Weights in formats narrower than float32, in products and in tables: against the reference on the rounded weights.

A new format joins FORMATS and says in `BOUND` how far a result may be from the float64 reference on the values that
`unpack` gives.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from support import assert_same_bits, normal, rounds_x, widened

from transformer_fast import functional as F
from transformer_fast import reference
from transformer_fast.functional.linear import FORMATS as ALL_FORMATS
from transformer_fast.functional.stored_weight import StoredWeight

pytestmark = pytest.mark.formats("bfloat16")

FORMATS = [name for name in ALL_FORMATS if name != "float32"]
# Of the largest result: products and sums are float32. Formats of integers round x, too: test_integer_formats.py.
BOUND = {"float16": 2e-6, "bfloat16": 2e-6, "bfloat16_a32": 2e-6}
# Formats of 16 bits; those whose products have the bits of float32 everywhere.
HALVES = ("float16", "bfloat16", "bfloat16_a32")
EXACT = ("float16", "bfloat16_a32")
TYPES = ("float32", "float16", "bfloat16")
# (M, N, K): one row, the kernel of small M, tiles, more than a block of k, odd k, panels that are not full, nothing.
SHAPES = [(1, 50, 33), (2, 48, 200), (3, 70, 1), (4, 33, 7), (5, 100, 777), (33, 97, 200), (150, 49, 513), (4, 24, 0)]


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("format", BOUND)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape, dtype, format, isa, threads):
    M, N, K = shape
    x, bias, residual, gate = normal(M, K), normal(N), normal(M, N), normal(M, N, seed=1)
    weight = stored(normal(N, K) / np.float32(max(K, 1) ** 0.5), dtype)
    packed = F.pack_weight(weight, format=format)
    options = {"activation": "gelu", "residual": residual, "multiply": gate}
    got = F.linear(x, packed, bias, **options)
    rounded = reference.rounded_weight(weight.astype(np.float32), format)
    assert_same_bits(packed.unpack(), rounded)
    if format == "bfloat16" and rounds_x(isa):
        x = reference.rounded_weight(x, format)
    expected = reference.linear(*widened([x, rounded, bias]), **widened(options))
    assert np.abs(got - expected).max(initial=0) <= BOUND[format] * max(1, np.abs(expected).max(initial=0))


@pytest.mark.parametrize("for_decode", [True, False])
@pytest.mark.parametrize("format", HALVES)
@pytest.mark.parametrize("M", [1, 2, 3, 4, 5, 40, 120])
def test_the_bits_of_float32_on_the_rounded_weight(M, format, for_decode, isa, threads):
    if format == "bfloat16" and rounds_x(isa):
        pytest.skip("this level rounds x, too")
    x, weight, bias = normal(M, 421), normal(75, 421) / 20, normal(75)
    rounded = stored(weight, "float16" if format == "float16" else "bfloat16")
    narrow = F.linear(x, F.pack_weight(rounded, format=format, for_decode=for_decode), bias, activation="silu")
    wide = F.linear(x, F.pack_weight(rounded, for_decode=for_decode), bias, activation="silu")
    assert_same_bits(narrow, wide)


@pytest.mark.parametrize("for_decode", [True, False])
@pytest.mark.parametrize("format", EXACT)
def test_the_bits_of_float32_where_numbers_are_not_finite(format, for_decode, isa):
    """Infinity and NaN in rows of x and of the weight, in several blocks of k, and products beyond the range."""
    x, weight = normal(70, 301), stored(normal(75, 301), "float16" if format == "float16" else "bfloat16")
    x[3, 200], x[9, 5], x[12], x[40, 299], x[69, 0] = np.inf, np.nan, 3e38, -np.inf, np.inf
    for bad in (None, (7, 150, np.inf), (40, 300, np.nan), (74, 0, -np.inf)):
        if bad is not None:
            weight = weight.copy()
            weight[bad[0], bad[1]] = bad[2]
        narrow, wide = (
            F.linear(x, F.pack_weight(weight, format=name, for_decode=for_decode)) for name in (format, "float32")
        )
        assert np.array_equal(narrow, wide, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_are_stored_in_their_type(dtype, isa):
    """The format "blocks" of arrays: no bit is lost, in the weight or in a product."""
    weight, x = stored(normal(70, 130), dtype), normal(9, 130)
    packed = F.pack_weight(weight, format="blocks")
    assert packed.format == {"bfloat16": "bfloat16_a32"}.get(dtype, dtype)
    assert_same_bits(packed.unpack(), weight.astype(np.float32))
    assert_same_bits(F.linear(x, packed), F.linear(x, F.pack_weight(weight)))
    mixed = F.pack_weight([weight, normal(5, 130), weight[:3], weight[3:9]], format="blocks")
    assert mixed.format == ("float32" if dtype == "float32" else f"{packed.format}+float32")
    expected = F.linear(x, F.pack_weight([weight.astype(np.float32), normal(5, 130), weight[:9].astype(np.float32)]))
    assert_same_bits(F.linear(x, mixed), expected)


def test_rounding_of_float16(isa):
    """Ties, both ends of the range, subnormal numbers, infinity, as NumPy rounds them; NaN stays NaN."""
    bits = [0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001, 0x477FEFFF, 0x477FF000, 0xC77FF000, 0x7F800000]
    bits += [0x38800000, 0x387FFFFF, 0x33800000, 0x33000000, 0x33000001, 0x33C00000, 0x80000001, 0x80000000]
    weight = np.array(bits, np.uint32).view(np.float32).reshape(2, 8)
    with np.errstate(over="ignore"):
        expected = weight.astype(np.float16).astype(np.float32)
    assert_same_bits(F.pack_weight(weight, format="float16").unpack(), expected)
    assert_same_bits(reference.rounded_weight(weight, "float16"), expected)
    quiet = np.array([[0x7F800001, 0xFFC00000, 0x7FFFFFFF]], np.uint32).view(np.float32)
    assert np.isnan(F.pack_weight(quiet, format="float16").unpack()).all()


def test_every_float16_is_read_as_it_is(isa):
    """All 63,488 numbers and both infinities, in panels and by the kernel of few rows."""
    numbers = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    numbers[(numbers & 0x7FFF) > 0x7C00] = 0x3C00  # NaN
    weight = numbers.view(np.float16).reshape(-1, 16)
    packed = F.pack_weight(weight, format="float16")
    assert_same_bits(packed.unpack(), weight.astype(np.float32))
    finite = np.where(np.isinf(weight), np.float16(0), weight)
    packed = F.pack_weight(finite, format="float16")
    for rows in (1, 7):
        for k in (0, 15):
            x = np.zeros((rows, 16), np.float32)
            x[:, k] = 1
            got = F.linear(x, packed)
            exact = finite[:, k].astype(np.float32) + np.float32(0)
            if isa == "amx":  # denormals count as 0 in tiles, which those of float16 are not in float32
                exact = F.linear(x, F.pack_weight(finite))[0]
            assert all(np.array_equal(row, exact) for row in got)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("N", "K"), [(40, 64), (65, 513)])
def test_row_independence(N, K, format, isa, threads):
    x, packed, bias = normal(67, K), F.pack_weight(normal(N, K) / 20, format=format), normal(N)
    whole = F.linear(x, packed, bias)
    for rows in (slice(0, 1), slice(5, 7), slice(10, 14), slice(3, 16), slice(1, 67)):
        assert_same_bits(F.linear(x[rows], packed, bias), whole[rows])


@pytest.mark.parametrize("format", ["float32", *FORMATS])
@pytest.mark.parametrize("dtype", TYPES)
def test_row_blocks_are_one_weight(dtype, format, isa):
    """A fused projection: blocks of rows, one of them strided, whose borders are not those of panels."""
    whole = stored(normal(101, 37), dtype)
    wide = stored(normal(40, 80), dtype)
    wide[:, :37] = whole[61:]
    blocks = [whole[:5], whole[5:6], whole[6:6], whole[6:61], wide[:, :37]]
    packed = F.pack_weight(blocks, format=format)
    assert packed.shape == (101, 37)
    assert_same_bits(packed.unpack(), F.pack_weight(whole, format=format).unpack())


class Computed(StoredWeight):
    """Rows that are made when they are asked for; most: of how many values at a time."""

    def __init__(self, values, most):
        self.values, self.most = values, most

    @property
    def shape(self):
        return self.values.shape

    def __getitem__(self, rows):
        return Computed(self.values[rows], self.most)

    def dequantised(self):
        assert self.values.size <= self.most
        return self.values


@pytest.mark.parametrize("format", ["float32", *FORMATS])
@pytest.mark.parametrize("dtype", TYPES)
def test_rows_that_are_computed_while_they_are_packed(format, dtype, isa):
    """A million values at a time, alone and among arrays: the weight is that of all values at once."""
    values, more = stored(normal(1300, 1700), dtype), normal(3, 1700, seed=1)
    weight = Computed(values, 1 << 20)
    x = normal(2, 1700)
    for given, whole in ((weight, values), ([more, weight, more], [more, values.astype(np.float32), more])):
        packed, expected = F.pack_weight(given, format=format), F.pack_weight(whole, format=format)
        assert (packed.shape, packed.nbytes) == (expected.shape, expected.nbytes)
        assert_same_bits(packed.unpack(), expected.unpack())
        assert_same_bits(F.linear(x, packed), F.linear(x, expected))


def test_rows_on_demand_are_counted():
    class Short:
        shape = (5, 3)

        def rows(self, first, last):
            return (np.zeros((4, 3), np.float32),)

    with pytest.raises(ValueError, match="blocks have other rows than were asked for"):
        F.PackedWeight(Short(), 0, "float32", False, None, None, 0)


def test_row_blocks_of_several_types():
    blocks = [stored(normal(7, 16), dtype) for dtype in TYPES]
    expected = np.concatenate([block.astype(np.float32) for block in blocks])
    assert_same_bits(F.pack_weight(blocks).unpack(), expected)


def test_rounding_of_bfloat16(isa):
    """Ties, the largest numbers, denormals, infinity and NaN, as ml_dtypes rounds them."""
    bits = np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x00008001, 0x80000001, 0x7F800000])
    weight = bits.astype(np.uint32).view(np.float32).reshape(2, 4)
    got = F.pack_weight(weight, format="bfloat16").unpack()
    assert_same_bits(got, weight.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert_same_bits(got, reference.rounded_weight(weight, "bfloat16"))
    quiet = np.array([[0x7F800001, 0xFFC00000, 0x7FFFFFFF]], np.uint32).view(np.float32)  # kept by their low bits alone
    assert np.isnan(F.pack_weight(quiet, format="bfloat16").unpack()).all()


@pytest.mark.parametrize("for_decode", [False, True])
@pytest.mark.parametrize("place", [0, 1, 38])
@pytest.mark.parametrize("M", [1, 40])
def test_rounding_of_x(place, M, for_decode, isa):
    """Ties, the ends of the range, denormals and infinity, alone in their rows, at an even and an odd k."""
    bits = [0x3F808000, 0x3F818000, 0xBF808001, 0x7F7F7FFF, 0x7F7F8000, 0x00008001, 0x807FFFFF, 0x7F800000, 0xFF800000]
    values = np.array(bits, np.uint32).view(np.float32)
    x = np.zeros((M, 39), np.float32)
    packed = F.pack_weight(np.eye(39, dtype=np.float32), format="bfloat16", for_decode=for_decode)
    for value in values:
        x[-1, place] = value
        expected = value
        if rounds_x(isa):
            expected = reference.rounded_weight(x[-1:, place], "bfloat16")[0] if abs(value) >= 2.0**-126 else 0 * value
        assert F.linear(x, packed)[-1, place] == expected


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_finite_stays_in_its_row_and_column(format, isa):
    x, weight = normal(30, 40), normal(50, 40)
    x[13, 7], weight[31, 8] = np.nan, np.inf
    out = F.linear(x, F.pack_weight(weight, format=format))
    bad = np.zeros(out.shape, bool)
    bad[13], bad[:, 31] = True, True
    assert not np.isfinite(out[bad]).any() and np.isfinite(out[~bad]).all()


def test_half_the_bytes(isa):
    weight = normal(96, 192)  # whole panels and groups of k everywhere
    for format in HALVES:
        assert F.pack_weight(weight, format=format).nbytes * 2 == F.pack_weight(weight).nbytes


def test_refusals():
    with pytest.raises(
        ValueError, match="format is 'int3'; needed: one of float32, float16, bfloat16, bfloat16_a32, int8"
    ):
        F.pack_weight(normal(2, 3), format="int3")
    with pytest.raises(TypeError, match="weight has dtype float64; needed: float32, float16 or bfloat16"):
        F.pack_weight(normal(2, 3).astype(np.float64))
    with pytest.raises(ValueError, match=r"blocks of shapes \[\(2, 3\), \(2, 4\)\]; needed: one width"):
        F.pack_weight([normal(2, 3), normal(2, 4)])
    with pytest.raises(ValueError, match="two axes"):
        F.pack_weight(normal(2, 3, 4))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("width", [1, 7, 16, 33])
def test_tables_keep_their_type(dtype, width, isa, threads):
    """Rows of half-precision tables are widened as they are read, exactly."""
    table, other = stored(normal(50, width), dtype), normal(9, width, seed=1)
    ids = np.random.default_rng(0).integers(0, 50, (3, 40))
    assert_same_bits(F.embedding(ids, table), table[ids].astype(np.float32))
    low = ids % 9
    got = F.embedding_sum([ids, low], [table, other], normal(width), normal(width))
    assert_same_bits(got, F.embedding_sum([ids, low], [table.astype(np.float32), other], normal(width), normal(width)))

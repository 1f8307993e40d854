"""linear_max against the reference, and its bits against those of linear: sequences around tiles and row blocks."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import random_blocks
from support import assert_same_bits, both, normal

from transformer_fast import functional as F
from transformer_fast.functional.block_weight import BLOCK_FORMATS
from transformer_fast.functional.linear import FORMATS

# Lengths of sequences: the kernel of small M, tiles, an empty sequence at each place, more than one block of rows.
LENGTHS = [(1,), (3,), (1, 1, 1), (0, 5, 0, 7, 0), (8,), (15, 1, 16, 17), (40, 64, 33), (800,), (5, 900, 0, 130)]


def starts(lengths):
    return np.cumsum([0, *lengths])


def maxima(y, cu_seqlens):
    """Of rows in order, so that of -0 and 0 the one that counts is the engine's."""
    pieces = np.split(y, cu_seqlens[1:-1])
    return np.stack([np.maximum.reduce(rows, axis=0, initial=-np.inf) for rows in pieces])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("N", "K"), [(1, 5), (67, 50), (300, 700)])
def test_case(lengths, N, K, isa, threads):
    weight = normal(N, K) / np.float32(K**0.5)
    both("linear_max", normal(sum(lengths), K), weight, normal(N, seed=1), cu_seqlens=starts(lengths))


@pytest.mark.formats("int8")
@pytest.mark.formats("bfloat16")
@pytest.mark.parametrize("for_decode", [True, False])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("lengths", [(2, 1), (9, 0, 30, 131)], ids=str)
def test_the_bits_of_linear(format, lengths, for_decode, isa, threads):
    cu_seqlens = starts(lengths)
    x, bias = normal(cu_seqlens[-1], 544), normal(75)
    packed = F.pack_weight(normal(75, 544) / 20, format=format, for_decode=for_decode)
    got = F.linear_max(x, packed, bias, cu_seqlens=cu_seqlens)
    assert np.array_equal(got, maxima(F.linear(x, packed, bias), cu_seqlens))
    for b, (first, last) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
        assert_same_bits(F.linear_max(x[first:last], packed, bias, cu_seqlens=[0, last - first])[0], got[b])


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_weights_in_blocks_and_in_parts(format, isa):
    x, cu_seqlens = normal(50, 512), [0, 3, 3, 41, 50]
    weight = F.pack_weight([random_blocks(format, 40, 512), normal(9, 512)], format="blocks")
    assert np.array_equal(F.linear_max(x, weight, cu_seqlens=cu_seqlens), maxima(F.linear(x, weight), cu_seqlens))


@pytest.mark.parametrize("rows", [3, 100])
def test_not_a_number_stays_with_its_sequence(rows, isa):
    x, weight = normal(2 * rows, 40), normal(30, 40)
    clean = F.linear_max(x, weight, cu_seqlens=[0, rows, 2 * rows])
    for row in (0, rows - 1):
        spoilt = x.copy()
        spoilt[row] = np.nan
        got = F.linear_max(spoilt, weight, cu_seqlens=[0, rows, 2 * rows])
        assert np.isnan(got[0]).all()
        assert_same_bits(got[1], clean[1])


def test_without_rows_and_without_sequences(isa):
    weight = normal(7, 5)
    assert np.array_equal(F.linear_max(normal(0, 5), weight, cu_seqlens=[0, 0, 0]), np.full((2, 7), -np.inf))
    assert F.linear_max(normal(0, 5), weight, cu_seqlens=[0]).shape == (0, 7)
    assert F.linear_max(normal(4, 5), normal(0, 5), cu_seqlens=[0, 4]).shape == (1, 0)
    assert np.array_equal(
        F.linear_max(normal(4, 0), normal(3, 0), np.ones(3, np.float32), cu_seqlens=[0, 4]), [[1] * 3]
    )

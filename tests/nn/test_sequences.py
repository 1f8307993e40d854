"""nn/sequences.py: packing padded arrays, and putting rows back."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.nn.sequences import PackedSequences, Scratch, unpack_weights

HOLES = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
FULL = np.ones((2, 3), bool)


@pytest.mark.parametrize("tokens", [HOLES, FULL, FULL[:0], np.zeros((2, 3), bool)], ids=["holes", "full", "0", "none"])
def test_packs_and_unpacks(tokens):
    sequences = PackedSequences(tokens)
    array = np.arange(tokens.size * 2, dtype=np.float32).reshape(*tokens.shape, 2)
    packed = sequences.pack(array)
    assert np.array_equal(packed, array[tokens])
    assert np.array_equal(sequences.unpack(packed), array * tokens[:, :, None])
    assert len(sequences) == len(tokens) and sequences.lengths.tolist() == tokens.sum(axis=1).tolist()
    assert sequences.cu_seqlens[0] == 0 and sequences.cu_seqlens[-1] == len(packed)


def test_where_tokens_are():
    sequences = PackedSequences(HOLES)
    assert sequences.cu_seqlens.tolist() == [0, 2, 2, 4] and sequences.longest == 2
    assert sequences.columns.tolist() == [0, 1, 1, 2]


def test_any_type_and_number_of_axes():
    sequences = PackedSequences(HOLES)
    ids = np.arange(9).reshape(3, 3)
    assert sequences.pack(ids).tolist() == [0, 1, 7, 8]
    assert sequences.unpack(sequences.pack(ids)).dtype == ids.dtype


@pytest.mark.parametrize("tokens", [HOLES, FULL])
def test_a_copy_on_request(tokens):
    rows = np.ones((tokens.sum(), 2), np.float32)
    assert not np.shares_memory(PackedSequences(tokens).unpack(rows, copy=True), rows)


def test_unpack_weights():
    keys = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    weights = [np.full((2, q, k), b + 1, np.float32) for b, (q, k) in enumerate([(2, 2), (0, 4), (2, 0)])]
    got = unpack_weights(weights, HOLES, keys, heads=2)
    expected = np.zeros((3, 2, 3, 4), np.float32)
    expected[0] = HOLES[0][:, None] & keys[0]
    assert np.array_equal(got, expected)


def test_scratch_is_used_again():
    scratch = Scratch(3)
    assert scratch("rows", 4) is scratch("rows", 4) and scratch("rows", 4).shape == (3, 4)
    assert scratch("inner", 8).shape == (3, 8)

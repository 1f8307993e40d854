"""embedding and embedding_sum against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_same_bits, both, normal

from transformer_fast import reference
from transformer_fast.functional import embedding, embedding_sum


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("N", [1, 3, 8, 15, 16, 17, 65, 384])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 5), (2, 1, 3), (0,), (3, 0), (1000,)])
def test_rows_are_copied_exactly(N, shape, isa, threads):
    weight = normal(50, N)
    ids = np.random.default_rng(0).integers(0, 50, shape)
    assert_same_bits(embedding(ids, weight), reference.embedding(ids, weight))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integer_types(dtype, isa):
    weight = normal(50, 9)
    ids = np.array([[0, 49, 7], [7, 3, 3]], dtype)
    assert_same_bits(embedding(ids, weight), weight[ids.astype(int)])


def test_every_bit_pattern_survives(isa):
    """NaN payloads, infinities and denormals are copied, not computed with."""
    weight = np.array([[np.nan, np.inf, -np.inf], [1e-45, -0.0, 3e38]], np.float32)
    weight.view(np.uint32)[0, 0] = 0x7F801234  # a signalling NaN
    assert_same_bits(embedding(np.array([1, 0, 1]), weight), weight[[1, 0, 1]])


@pytest.mark.parametrize("wrong", [50, -1, 2**31, -(2**31), 2**62])
def test_an_id_out_of_range_is_named(wrong, isa):
    ids = np.array([[3, 4], [wrong, 5]])
    out = np.full((2, 2, 9), 7, np.float32)
    with pytest.raises(IndexError, match=rf"{wrong}(?s:.*)50"):
        embedding(ids, normal(50, 9), out=out)
    assert (out == 7).all()


def test_an_unsigned_id_out_of_range(isa):
    with pytest.raises(IndexError, match=str(2**64 - 1)):
        embedding(np.array([2**64 - 1], np.uint64), normal(50, 9))


def test_ragged_ids(isa):
    with pytest.raises(ValueError, match=r"ids has rows of different lengths \(row 0 has 2, row 1 has 1\)"):
        embedding([[1, 2], [3]], normal(50, 9))
    with pytest.raises(ValueError, match="ids has lists beside numbers; needed: rows of one length"):
        embedding([[1, 2], 3], normal(50, 9))
    with pytest.raises(ValueError, match="ids has lists of different lengths"):
        embedding([[[1, 2], [3]], [[1, 2], [3]]], normal(50, 9))


def test_no_rows(isa):
    assert embedding(np.zeros(0, int), np.zeros((0, 9), np.float32)).shape == (0, 9)
    with pytest.raises(IndexError):
        embedding(np.zeros(1, int), np.zeros((0, 9), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_ids_that_are_no_integers(dtype, isa):
    with pytest.raises(TypeError, match="ids"):
        embedding(np.zeros(3, dtype), normal(50, 9))


def test_into_out(isa):
    ids, weight = np.array([[1, 2, 3]]), normal(50, 9)
    out = np.full((1, 3, 9), np.nan, np.float32)
    assert embedding(ids, weight, out=out) is out
    assert_same_bits(out, weight[ids])


@pytest.mark.parametrize("N", [1, 15, 33, 384])
@pytest.mark.parametrize("tables", [1, 2, 3, 4, 8])
def test_sum_and_norm(tables, N, isa, threads):
    weights = [normal(20 + t, N, seed=t) for t in range(tables)]
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, len(w), (3, 50)) for w in weights]
    # A row of one number has no variance to divide by: its norm is the bias.
    both("embedding_sum", ids, weights, normal(N), normal(N, seed=9), tolerance=5e-6)
    whole = embedding_sum(ids, weights)
    assert_same_bits(embedding_sum([i[1, 7] for i in ids], weights), whole[1, 7])


def test_sum_broadcasts_ids(isa):
    words, places = normal(20, 33), normal(9, 33)
    got = embedding_sum([np.arange(18).reshape(2, 9), np.arange(9)], [words, places], eps=1e-12)
    assert_same_bits(got[1], embedding_sum([np.arange(9, 18), np.arange(9)], [words, places], eps=1e-12))


def test_sum_of_bad_input():
    table = normal(5, 4)
    for arguments, text in [
        (([[0]], [table, table]), "1 ids and 2 tables"),
        (([], []), "0 ids and 0 tables"),
        (([[0], [0]], [table, normal(5, 3)]), r"tables\[1\] has shape \(5, 3\)"),
        (([[0]], [table], normal(3)), "weight has shape"),
        (([[0]], [table], None, None, -1.0), "eps"),
    ]:
        with pytest.raises(ValueError, match=text):
            embedding_sum(*arguments)
    with pytest.raises(IndexError, match="ids holds 5"):
        embedding_sum([[0], [5]], [table, table])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i8"])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_ids_outside_the_table_wherever_they_stand(dtype, n):
    table = normal(5, 3)
    info = np.iinfo(dtype)
    for bad in {info.min, -1, 5, info.max} - {0}:
        if not info.min <= bad <= info.max:
            continue
        for at in {0, n // 2, n - 1}:
            ids = np.zeros(n, dtype)
            ids[at] = bad
            with pytest.raises(IndexError, match=f"ids holds {bad}; needed: values in \\[0, 5\\)"):
                embedding(ids, table)
    assert np.array_equal(embedding(np.full(n, 4, dtype), table), np.broadcast_to(table[4], (n, 3)))

"""Attention weights as scipy.sparse matrices: the bits of the dense weights at the places that structure shows."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse
from support import assert_same_bits, normal, widened

from transformer_fast import masks, reference
from transformer_fast.functional import KeyRanges, scaled_dot_product_attention, set_num_threads

STRUCTURES = {
    "window": masks.window(30, 5) | masks.global_tokens(3),
    "blocks": masks.random_blocks(16, 0.2, seed=1),
    "documents": masks.documents(cu_seqlens=[0, 3, 40, 41, 400]) & masks.causal(),
    "dilated": masks.window(40, 40, dilation=3),
    "single keys": masks.strided(7),
    "nothing": masks.prefix(0),
    "heads": masks.window([[3, 50, 0, 9]], 0) | masks.strided(11),
    "batch": masks.prefix([20, 150]),
    "both": masks.random_blocks(8, 0.1, seed=[[1, 2, 3, 4], [5, 6, 7, 8]]),
}
OPTIONS = {
    "causal": {"is_causal": True, "causal_offset": "bottom_right"},
    "offsets": {"is_causal": True, "causal_offset": np.array([-20, 70])},
    "far offset": {"window": (3, 3), "causal_offset": 2**50},
    "window": {"window": (30, 2), "causal_offset": 11},
    "lengths": {"kv_lengths": np.array([90, 0])},
    "soft cap": {"softcap": 3.0},
    "mask": {"attn_mask": np.random.default_rng(0).random((1, 1, 61, 160)) < 0.7},
    "bias": {"attn_mask": normal(2, 1, 61, 160, seed=5)},
    "table": {"relative_bias": normal(4, 220, seed=6)},
    "sinks": {"sinks": normal(4, seed=7)},
    "alibi": {"alibi_slopes": np.array([0.01, 0.02, 0.03, 0.04], np.float32)},
    "lse": {"return_lse": True},
}


def operands(dtype=np.float32, Lq=61):
    return normal(2, 4, Lq, 12).astype(dtype), *(normal(2, 2, 160, 12, seed=n).astype(dtype) for n in (1, 2))


def bounds_seen(Lq=61, Lk=160, **options):
    """The pairs that causal order, window and lengths show, (2, 1, Lq, Lk)."""
    bounds = {name: options.get(name, default) for name, default in (("is_causal", False), ("causal_offset", 0))}
    return reference._visible_keys(
        2, Lq, Lk, *bounds.values(), options.get("window", (-1, -1)), options.get("kv_lengths")
    )[0]


def check(matrices, dense, seen):
    """matrices (...) against weights (..., Lq, Lk), of which `seen` says what is stored."""
    assert matrices.shape == dense.shape[:-2]
    seen = np.broadcast_to(seen, dense.shape)
    for at in np.ndindex(matrices.shape):
        matrix = matrices[at]
        assert isinstance(matrix, sparse.csr_array)
        matrix.check_format(full_check=True)
        rows, keys = np.nonzero(seen[at])
        np.testing.assert_array_equal(matrix.indices, keys)
        np.testing.assert_array_equal(np.diff(matrix.indptr), seen[at].sum(axis=1))
        assert_same_bits(matrix.data, dense[at][rows, keys])


@pytest.mark.parametrize("structure", [None, *STRUCTURES])
def test_bits_of_the_dense_weights(structure, isa, threads):
    q, k, v = operands()
    mask = None if structure is None else STRUCTURES[structure]
    seen = np.ones((1, 1, 61, 160), bool) if mask is None else mask.dense(61, 160)
    options = {"enable_gqa": True, "mask": mask}
    for name, given in OPTIONS.items():
        both = {**options, **given}
        expected = scaled_dot_product_attention(q, k, v, return_weights="heads", **both)
        got = scaled_dot_product_attention(q, k, v, return_weights="sparse", **both)
        shown = seen & bounds_seen(**given)
        check(got[1], expected[1], shown)
        mean = scaled_dot_product_attention(q, k, v, return_weights="sparse-mean", **both)
        dense_mean = scaled_dot_product_attention(q, k, v, return_weights="mean", **both)[1]
        check(mean[1], dense_mean, np.broadcast_to(shown, (2, 4, 61, 160)).any(axis=1))
        if isa != "amx" or mask is not None:
            assert_same_bits(got[0], expected[0])
        assert len(got) == len(mean) == 2 + (name == "lse")


@pytest.mark.parametrize("Lq", [1, 5, 49, 300])
def test_rows_of_all_counts(Lq, isa):
    """One row, less than a panel, several panels: with few rows all heads of a group share a panel."""
    q, k, v = operands(Lq=Lq)
    for name in ("window", "heads", "both"):
        mask = STRUCTURES[name].ranges(Lq, 160) if Lq < 160 else KeyRanges.from_dense(np.tri(Lq, 160, 20, dtype=bool))
        expected = scaled_dot_product_attention(q, k, v, enable_gqa=True, mask=mask, return_weights="heads")
        got = scaled_dot_product_attention(q, k, v, enable_gqa=True, mask=mask, return_weights="sparse")
        check(got[1], expected[1], mask.dense())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_give_float32(dtype, isa):
    q, k, v = operands(dtype)
    mask = STRUCTURES["window"]
    _, wide = scaled_dot_product_attention(*(x.astype(np.float32) for x in (q, k, v)), enable_gqa=True, mask=mask,
                                           return_weights="heads")  # fmt: skip
    _, got = scaled_dot_product_attention(q, k, v, enable_gqa=True, mask=mask, return_weights="sparse")
    assert got[0, 0].dtype == np.float32
    check(got, wide, mask.dense(61, 160))


@pytest.mark.parametrize("structure", [None, *STRUCTURES])
def test_float64(structure):
    q, k, v = widened(operands())
    mask = None if structure is None else STRUCTURES[structure]
    seen = np.ones((1, 1, 61, 160), bool) if mask is None else mask.dense(61, 160)
    options = {"is_causal": True, "causal_offset": 60, "enable_gqa": True}
    for name, dense in (("sparse", "heads"), ("sparse-mean", "mean")):
        shown = np.broadcast_to(seen & bounds_seen(**options), (2, 4, 61, 160))
        expected = reference.scaled_dot_product_attention(q, k, v, seen, return_weights=dense, **options)
        for out in (None, np.empty(q.shape)):
            got = scaled_dot_product_attention(q, k, v, mask=mask, return_weights=name, out=out, **options)
            np.testing.assert_array_equal(got[0], expected[0])
            check(got[1], expected[1], shown if name == "sparse" else shown.any(axis=1))


def test_int8_keys(isa):
    q, integers = operands()[0], np.random.default_rng(0).integers(-127, 128, (2, 2, 160, 12)).astype(np.int8)
    scales = {"key_scale": normal(2, 2, 160) / 100, "value_scale": normal(2, 2, 160, seed=1) / 100}
    options = {"enable_gqa": True, "mask": STRUCTURES["blocks"], **scales}
    dense = scaled_dot_product_attention(q, integers, integers, return_weights="heads", **options)[1]
    got = scaled_dot_product_attention(q, integers, integers, return_weights="sparse", **options)[1]
    check(got, dense, STRUCTURES["blocks"].dense(61, 160))


def test_bits_do_not_depend_on_threads(isa, request):
    q, k, v = operands(Lq=160)
    request.addfinalizer(lambda: set_num_threads(None))
    for name in ("sparse", "sparse-mean"):
        options = {"enable_gqa": True, "mask": STRUCTURES["both"], "return_weights": name}
        results = []
        for threads in (1, 2, 3):
            set_num_threads(threads)
            results.append(scaled_dot_product_attention(q, k, v, **options)[1])
        for others in results[1:]:
            for one, other in zip(results[0].flat, others.flat, strict=True):
                assert_same_bits(one.data, other.data)


def test_leading_axes():
    """Those of the call: an array of matrices, or one matrix where there are none."""
    x, mask = normal(3, 2, 4, 20, 8), masks.window(2, 2)
    for lead in ((3, 2), (1,), ()):
        y = x[(0,) * (2 - len(lead))] if len(lead) != 1 else x[0, :1]
        _, heads = scaled_dot_product_attention(y, y, y, mask=mask, return_weights="sparse")
        _, mean = scaled_dot_product_attention(y, y, y, mask=mask, return_weights="sparse-mean")
        assert heads.shape == (*lead, 4)
        assert mean.shape == (lead or (20, 20))
    assert isinstance(mean, sparse.csr_array)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # reference.py: a mean over no heads
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_arrays(dtype):
    for B, H, Lq, Lk in ((0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 0, 3), (2, 2, 3, 0)):
        q, k = np.zeros((B, H, Lq, 4), dtype), np.zeros((B, H, Lk, 4), dtype)
        for mask in (None, KeyRanges.from_dense(np.ones((B, H, Lq, Lk), bool))):
            _, heads = scaled_dot_product_attention(q, k, k, mask=mask, return_weights="sparse")
            _, mean = scaled_dot_product_attention(q, k, k, mask=mask, return_weights="sparse-mean")
            assert (heads.shape, mean.shape) == ((B, H), (B,))
            assert {matrix.shape for matrix in [*heads.flat, *mean.flat]} <= {(Lq, Lk)}


def test_nan_stays_in_its_rows(isa):
    """Rows that see a NaN key have NaN weights, and no place of another row is touched."""
    q, k, v = operands()
    mask, k[0, 0, 50] = STRUCTURES["blocks"], np.nan
    options = {"enable_gqa": True, "mask": mask}
    got = scaled_dot_product_attention(q, k, v, return_weights="sparse", **options)[1]
    seen = mask.dense(61, 160)[0, 0]
    for h in range(4):
        rows = np.repeat(np.arange(61), seen.sum(axis=1))
        np.testing.assert_array_equal(np.isnan(got[0, h].data), seen[rows, 50] if h < 2 else np.zeros(len(rows), bool))


def test_places_are_shared_and_read_only():
    """float32 values, int32 keys once: four bytes a pair and head, and four for all heads together."""
    q, k, v = operands()
    got = scaled_dot_product_attention(q, k, v, enable_gqa=True, mask=masks.window(9, 9), return_weights="sparse")[1]
    assert all(np.shares_memory(matrix.indices, got[0, 0].indices) for matrix in got.flat)
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0].indices[0] = 1
    got[0, 0].data[0] = 0
    copied = got[0, 0].copy()
    copied.eliminate_zeros()
    assert copied.nnz == got[0, 0].nnz - 1


def test_memory_follows_the_visible_pairs():
    """16,384 positions and a window of 257: the whole matrix would take 1 GiB."""
    x = normal(1, 1, 16384, 8)
    visible = 16384 * 257
    for options in ({"mask": masks.window(128, 128).ranges(16384, 16384)}, {"window": (128, 128)}):
        for name in ("sparse", "sparse-mean"):
            tracemalloc.start()
            _, weights = scaled_dot_product_attention(x, x, x, return_weights=name, **options)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            matrix = weights.flat[0]
            assert matrix.nnz == visible - 128 * 129
            assert matrix.data.nbytes + matrix.indices.nbytes == 8 * matrix.nnz
            assert peak < 3 * 8 * visible


def test_wrong_values_are_refused(monkeypatch):
    x = normal(1, 1, 4, 4)
    with pytest.raises(ValueError, match='needed: False, "mean", "heads", "sparse" or "sparse-mean"'):
        scaled_dot_product_attention(x, x, x, return_weights="sparse-heads")
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match=r"needed for sparse arrays: pip install 'transformer-fast\[sparse\]'"):
        scaled_dot_product_attention(x, x, x, return_weights="sparse")

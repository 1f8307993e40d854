"""Attention whose key and value have another type than the query, and the types that are refused.

Half types are widened to float32 where they are read, which is exact: results have the bits that float32 copies of key
and value give.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cases import ATTENTION, arrange
from support import TOLERANCE, assert_close, assert_same_bits, normal, widened

from transformer_fast import reference
from transformer_fast.functional import additive_attention, scaled_dot_product_attention, varlen_attention

HALF = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NAMES = (
    # one panel and several, edges of keys and widths
    *("L1", "L17", "L65-causal", "L257", "Lq1-Lk257", "Lq49-Lk33", "D1", "D33", "D129", "D20-Dv65"),
    # options, groups, rows that see nothing
    *("mask-dead-70x133", "gqa-70x133", "window-offset-70x133", "softcap-70x133", "everything-float-33x100"),
    *("layout-fused", "layout-reversed-long-D", "layout-sparse-gqa", "empty-2-2-3-0"),
    # decoding, with keys in several parts; many rows
    *(
        "decode-1",
        "decode-2",
        "decode-gqa-1",
        "decode-gqa-2",
        "decode-all-3",
        "decode-all-8",
        "long-square",
        "long-window",
    ),
)
CASES = [case for case in ATTENTION if case.name in NAMES]


def split(arrays, dtype):
    """The query, key and value in `dtype`, and the float32 values of those two."""
    query, key, value = arrays
    key, value = key.astype(HALF[dtype]), value.astype(HALF[dtype])
    return query, (key, value), (key.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_half_keys_have_the_bits_of_their_float32_copies(case, dtype, isa, threads):
    arrays, options = case.make_inputs()
    query, half, wide = split(arrays, dtype)
    got = scaled_dot_product_attention(query, *half, **options, return_lse=True)
    assert got[0].dtype == np.float32
    assert_same_bits(got, scaled_dot_product_attention(query, *wide, **options, return_lse=True))
    expected = reference.scaled_dot_product_attention(*widened([query, *wide]), **widened(options), return_lse=True)
    assert_close(got, expected, 1e-5 if case.alibi else 4e-6 if case.softcap else TOLERANCE)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", ["contiguous", "blhd", "fused", "reversed", "sparse"])
@pytest.mark.parametrize(("Lq", "Lk"), [(1, 700), (3, 65), (150, 200)])
def test_views_of_half_keys(layout, Lq, Lk, dtype, isa):
    """Strides of key and value count their own elements, which are half as wide as the query's."""
    query = arrange(normal(2, 4, Lq, 40), layout)
    half = [arrange(normal(2, 2, Lk, width, seed=width).astype(HALF[dtype]), layout) for width in (40, 24)]
    got = scaled_dot_product_attention(query, *half, enable_gqa=True)
    wide = [x.astype(np.float32) for x in half]
    assert_same_bits(got, scaled_dot_product_attention(query, *wide, enable_gqa=True))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("weights", ["mean", "heads"])
def test_weights_over_half_keys(weights, dtype, isa, threads):
    query, half, wide = split([normal(2, 4, 70, 24), normal(2, 2, 133, 24), normal(2, 2, 133, 40)], dtype)
    options = dict(enable_gqa=True, is_causal=True, causal_offset=63, sinks=normal(4), return_weights=weights)
    got = scaled_dot_product_attention(query, *half, **options)
    assert [x.dtype for x in got] == [np.float32, np.float32]
    assert_same_bits(got, scaled_dot_product_attention(query, *wide, **options))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("lengths_k", [(7, 0, 200, 300), (1500, 1, 64, 90)])
def test_packed_sequences_over_half_keys(lengths_k, dtype, isa, threads):
    starts_q, starts_k = np.cumsum([0, 1, 5, 0, 170]), np.cumsum([0, *lengths_k])
    arrays = [normal(starts_q[-1], 4, 64), normal(starts_k[-1], 2, 64), normal(starts_k[-1], 2, 48)]
    query, half, wide = split(arrays, dtype)
    options = dict(is_causal=True, causal_offset="bottom_right", enable_gqa=True, return_lse=True)
    got = varlen_attention(query, *half, starts_q, starts_k, **options)
    assert got[0].dtype == np.float32
    assert_same_bits(got, varlen_attention(query, *wide, starts_q, starts_k, **options))
    assert_close(got, reference.varlen_attention(*widened([query, *wide]), starts_q, starts_k, **options))


@pytest.mark.parametrize("dtype", HALF)
def test_additive_scores_over_half_keys(dtype, isa):
    query, half, wide = split([normal(2, 9, 17), normal(2, 33, 17, seed=1), normal(2, 33, 20, seed=2)], dtype)
    got = additive_attention(query, *half, v=normal(17))
    assert got.dtype == np.float32
    assert_same_bits(got, additive_attention(query, *wide, v=normal(17)))


@pytest.mark.parametrize("dtype", HALF)
def test_non_finite_half_values_stay_with_the_rows_that_see_them(dtype, isa):
    query, half, wide = split([normal(1, 2, 160, 64), normal(1, 2, 160, 64), normal(1, 2, 160, 64)], dtype)
    for x in (*half, *wide):
        x[0, 1, 70, 5] = np.nan
        x[0, 0, 33, 7] = np.inf
    got = scaled_dot_product_attention(query, *half, is_causal=True)
    expected = scaled_dot_product_attention(query, *wide, is_causal=True)
    np.testing.assert_array_equal(got, expected)
    assert np.isfinite(got[0, 1, :70]).all() and np.isnan(got[0, 1, 70:]).all()


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (
            ("float32", "float64", "float64"),
            "key has dtype float64; needed: the query's, float32, float16, bfloat16 or int8",
        ),
        (("float32", "int8", "int8"), "key has dtype int8; needed"),
        (("float32", "float16", "bfloat16"), "value has dtype bfloat16; needed: the key's, float16"),
        (("float32", "float32", "float16"), "value has dtype float16; needed: the key's, float32"),
        (("float32", "float16", "float32"), "value has dtype float32; needed: the key's, float16"),
        (("float16", "float32", "float32"), "key has dtype float32; needed: the query's, float16$"),
        (("float16", "bfloat16", "bfloat16"), "key has dtype bfloat16; needed: the query's, float16$"),
        (("bfloat16", "float16", "float16"), "key has dtype float16; needed: the query's, bfloat16$"),
        (("float64", "float32", "float32"), "key has dtype float32; needed: the query's, float64$"),
        (("float64", "float16", "float16"), "key has dtype float16; needed: the query's, float64$"),
        (("int64", "float32", "float32"), "query has dtype int64; needed: float32, float64, float16 or bfloat16"),
    ],
)
def test_other_pairs_of_types_are_refused(types, message):
    arrays = [np.ones((1, 2, 3, 4), HALF.get(name, name)) for name in types]
    with pytest.raises(TypeError, match=message):
        scaled_dot_product_attention(*arrays)
    starts = np.array([0, 3])
    with pytest.raises(TypeError, match=message):
        varlen_attention(*(x[0].swapaxes(0, 1) for x in arrays), starts, starts)

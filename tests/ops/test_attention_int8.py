"""Attention over int8 keys and values with a scale for each position: `key_scale` and `value_scale`.

Many query rows read float32 copies, integer times scale, and have their bits; few multiply scores and weights by the
scales, which rounds in another place.
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import ATTENTION, arrange
from support import TOLERANCE, assert_close, assert_same_bits, both, normal, widened

from transformer_fast import reference
from transformer_fast.functional import (
    additive_attention,
    explain_attention,
    scaled_dot_product_attention,
    set_num_threads,
    varlen_attention,
)

NAMES = (
    # one panel and several, edges of keys and widths
    *("L1", "L17", "L65-causal", "L257", "Lq1-Lk257", "Lq49-Lk33", "D1", "D33", "D129", "D20-Dv65"),
    # options, groups, rows that see nothing
    *("mask-dead-70x133", "gqa-70x133", "window-offset-70x133", "softcap-70x133", "everything-float-33x100"),
    *("layout-fused", "layout-reversed-long-D", "layout-sparse-gqa", "empty-2-2-3-0"),
    # decoding, with keys in several parts; many rows
    *("decode-1", "decode-2", "decode-gqa-1", "decode-gqa-2", "decode-all-3", "decode-all-8"),
    *("long-square", "long-window"),
)
CASES = [case for case in ATTENTION if case.name in NAMES]


def integers(key, value):
    """int8 key and value, their scales as options, and the values that they stand for."""
    (key, key_scale), (value, value_scale) = reference.cache_integers(key), reference.cache_integers(value)
    wide = (key * key_scale[..., None], value * value_scale[..., None])
    return (key, value), dict(key_scale=key_scale, value_scale=value_scale), wide


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, isa, threads):
    (query, *arrays), options = case.make_inputs()
    narrow, scales, wide = integers(*arrays)
    options["return_lse"] = True
    got = scaled_dot_product_attention(query, *narrow, **scales, **options)
    expected = reference.scaled_dot_product_attention(*widened([query]), *narrow, **widened(scales), **widened(options))
    assert_close(got, expected, 1e-5 if case.alibi else 4e-6 if case.softcap else TOLERANCE)
    kinds = explain_attention(query, *narrow, **scales, **options).get("kinds", ())
    if all(kind["kernel"] != "decode" for kind in kinds):
        assert_same_bits(got, scaled_dot_product_attention(query, *wide, **options))


@pytest.mark.parametrize("H", [2, 4, 8, 16])
@pytest.mark.parametrize("D", [5, 24, 64, 128])
def test_steps(H, D, isa):
    """One token over a long past, in groups of 1 to 8 query heads: the width whole vectors and not."""
    query, lengths = normal(2, H, 1, D), np.array([1100, 517])
    narrow, scales, _ = integers(normal(2, 2, 1200, D, seed=1), normal(2, 2, 1200, 40, seed=2))
    both("scaled_dot_product_attention", query, *narrow, **scales, kv_lengths=lengths, enable_gqa=True)
    shown = dict(causal_offset=lengths - 1, window=(129, 0), softcap=30.0, kv_lengths=lengths, enable_gqa=True)
    both("scaled_dot_product_attention", query, *narrow, **scales, **shown, tolerance=4e-6)


@pytest.mark.parametrize("layout", ["blhd", "fused", "reversed", "sparse"])
@pytest.mark.parametrize("Lq", [1, 3, 150])
def test_views(layout, Lq, isa):
    """Rows and scales of a larger cache: any strides, and the bits of dense copies."""
    narrow, scales, _ = integers(normal(2, 2, 200, 40, seed=1), normal(2, 2, 200, 24, seed=2))
    query = normal(2, 4, Lq, 40)
    views = [arrange(x, layout) for x in narrow]
    cuts = {name: np.repeat(scale, 3, axis=-1)[:, :, ::3] for name, scale in scales.items()}
    got = scaled_dot_product_attention(query, *views, **cuts, enable_gqa=True)
    assert_same_bits(got, scaled_dot_product_attention(query, *narrow, **scales, enable_gqa=True))


def test_leading_axes_broadcast_with_their_scales(isa):
    narrow, scales, _ = integers(normal(3, 2, 9, 8), normal(3, 2, 9, 4))
    out = both("scaled_dot_product_attention", normal(5, 1, 2, 7, 8), *narrow, **scales)
    assert out.shape == (5, 3, 2, 7, 4)


@pytest.mark.parametrize("lengths_k", [(7, 0, 200, 300), (1500, 1, 64, 90)])
def test_packed_sequences(lengths_k, isa, threads):
    starts_q, starts_k = np.cumsum([0, 1, 5, 0, 170]), np.cumsum([0, *lengths_k])
    query = normal(starts_q[-1], 4, 64)
    narrow, scales, _ = integers(normal(starts_k[-1], 2, 64), normal(starts_k[-1], 2, 48))
    options = dict(is_causal=True, causal_offset="bottom_right", enable_gqa=True, return_lse=True)
    both("varlen_attention", query, *narrow, starts_q, starts_k, **scales, **options)


@pytest.mark.parametrize("Lq", [1, 2, 60])
def test_bits_depend_on_neither_threads_nor_the_batch(Lq, isa, restored_threads):
    query = normal(3, 4, Lq, 64)
    narrow, scales, _ = integers(normal(3, 2, 1500, 64, seed=1), normal(3, 2, 1500, 64, seed=2))
    results = []
    for n in (1, 2, 4):
        set_num_threads(n)
        results.append(scaled_dot_product_attention(query, *narrow, **scales, enable_gqa=True))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    row = [x[1:2] for x in (query, *narrow)]
    alone = {name: scale[1:2] for name, scale in scales.items()}
    assert_same_bits(scaled_dot_product_attention(*row, **alone, enable_gqa=True), results[0][1:2])


@pytest.mark.parametrize("Lq", [1, 160])
def test_rows_that_are_not_finite_reach_those_that_see_them(Lq, isa):
    """Their scale is NaN; a hidden one is not looked at."""
    query, key, value = normal(1, 2, Lq, 64), normal(1, 2, 300, 64, seed=1), normal(1, 2, 300, 64, seed=2)
    key[0, 0, 290, 3], value[0, 1, 290, 5] = np.nan, np.inf
    narrow, scales, _ = integers(key, value)
    assert np.isnan(scales["key_scale"][0, 0, 290]) and np.isnan(scales["value_scale"][0, 1, 290])
    hidden = scaled_dot_product_attention(query, *narrow, **scales, kv_lengths=[290])
    assert np.isfinite(hidden).all()
    before = scaled_dot_product_attention(query, *narrow, **scales, is_causal=True, causal_offset=289 - Lq + 1)
    assert np.isfinite(before).all()
    after = scaled_dot_product_attention(query, *narrow, **scales, is_causal=True, causal_offset=290 - Lq + 1)
    assert np.isfinite(after[:, :, : Lq - 1]).all() and np.isnan(after[:, :, Lq - 1]).all()


def test_integers_of_a_cache():
    x = np.array([[127, -63.5, 62.5, 0], [0, 0, 0, 0], [1e-45, 0, 0, 0], [1, np.inf, 0, 0]], np.float32)
    got, scale = reference.cache_integers(x)
    np.testing.assert_array_equal(got, [[127, -64, 62, 0], [0] * 4, [0] * 4, [0] * 4])
    np.testing.assert_array_equal(scale, np.array([1, 0, 0, np.nan], np.float32))
    wide = normal(50, 64)
    got, scale = reference.cache_integers(wide)
    assert np.abs(got * scale[:, None] - wide).max() <= scale.max() * 0.5001


X, I8, SCALE = np.ones((1, 2, 3, 4), np.float32), np.ones((1, 2, 3, 4), np.int8), np.ones((1, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "scales", "error", "message"),
    [
        ((X, I8, I8), (None, None), TypeError, "key has dtype int8; needed: key_scale and value_scale"),
        ((X, I8, I8), (SCALE, None), ValueError, "value_scale is None; needed: the scales of value"),
        ((X, I8, I8), (None, SCALE), ValueError, "key_scale is None; needed"),
        ((X, X, X), (SCALE, SCALE), ValueError, "key_scale is given; needed: None, since key has dtype float32"),
        ((X, I8, X), (SCALE, SCALE), TypeError, "value has dtype float32; needed: the key's, int8"),
        ((X, I8, I8), (SCALE[:, :, :2], SCALE), ValueError, r"key_scale has shape \(1, 2, 2\); needed: \(1, 2, 3\)"),
        ((X, I8, I8), (SCALE, SCALE.astype(np.float64)), TypeError, "value_scale has dtype float64; needed: float32"),
        ((X.astype(np.float16), I8, I8), (SCALE, SCALE), TypeError, "key has dtype int8; needed: the query's"),
        ((X.astype(np.float64), I8, I8), (SCALE, SCALE), TypeError, "key has dtype int8; needed: the query's"),
        ((I8, I8, I8), (SCALE, SCALE), TypeError, "query has dtype int8; needed: float32"),
    ],
)
def test_what_is_refused(arrays, scales, error, message):
    scales = dict(zip(("key_scale", "value_scale"), scales, strict=True))
    with pytest.raises(error, match=message):
        scaled_dot_product_attention(*arrays, **scales)
    if "shape" not in message:
        packed = {name: None if scale is None else scale[0].T for name, scale in scales.items()}
        with pytest.raises(error, match=message):
            varlen_attention(*(x[0].swapaxes(0, 1) for x in arrays), [0, 3], [0, 3], **packed)


def test_additive_scores_take_no_integers():
    with pytest.raises(TypeError, match="key has dtype int8"):
        additive_attention(X[0], I8[0], I8[0], v=np.ones(4))


def test_an_output_may_not_overlap_the_scales():
    scale = np.ones((1, 2, 4), np.float32)
    out = np.lib.stride_tricks.as_strided(scale, (1, 1, 2, 4), (32, 32, 16, 4))
    key = np.ones((1, 2, 4, 4), np.int8)
    with pytest.raises(ValueError, match="key_scale"):
        scaled_dot_product_attention(
            out.copy(), key[:, :1], key[:, :1], key_scale=scale[:, :1], value_scale=scale[:, :1].copy(), out=out
        )

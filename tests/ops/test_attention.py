"""scaled_dot_product_attention and varlen_attention against the reference, and what semantics promise beside values."""

from __future__ import annotations

import contextlib
import functools
import inspect

import ml_dtypes
import numpy as np
import pytest
from cases import ATTENTION, AttentionCase, distance_scores, tagged
from support import TOLERANCE, assert_close, assert_same_bits, both, normal, widened

from transformer_fast import _core, functional, reference
from transformer_fast.functional import KeyRanges, scaled_dot_product_attention, varlen_attention


def ids(case):
    return case.name


@functools.cache
def expectation(case: AttentionCase):
    """The inputs of a case and the reference's result, computed once for all ISAs and threads."""
    arrays, options = case.make_inputs()
    return arrays, options, reference.scaled_dot_product_attention(*widened(arrays), **widened(options))


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("case", tagged(ATTENTION, "small", "long"), ids=ids)
def test_case(case, isa, threads):
    arrays, options, expected = expectation(case)
    # ALiBi makes scores of up to 66 here, which float32 rounds to 4e-6.
    assert_close(scaled_dot_product_attention(*arrays, **options), expected, 1e-5 if case.alibi else TOLERANCE)


@pytest.mark.parametrize("weights", [False, "mean", "heads"])
@pytest.mark.parametrize(
    "name", ["mask-dead-70x133", "both-causal-lengths-dead-33x100", "everything-bool-9x9", "decode-all-2"]
)
def test_weights_and_lse(name, weights, isa, threads):
    case = next(case for case in ATTENTION if case.name == name)
    arrays, options = case.make_inputs()
    both("scaled_dot_product_attention", *arrays, **options, return_weights=weights, return_lse=True)


def test_asking_for_more_does_not_change_the_output(isa):
    q, k, v = (normal(2, 3, 33, 16, seed=s) for s in range(3))
    plain = scaled_dot_product_attention(q, k, v)
    with_lse, lse = scaled_dot_product_attention(q, k, v, return_lse=True)
    assert_same_bits(with_lse, plain)
    assert lse.shape == (2, 3, 33) and lse.dtype == np.float32


@pytest.mark.parametrize("Lq", [1, 40])
def test_lse_is_the_rounded_logarithm(Lq, isa):
    """With equal scores it is that of the number of keys, which every kernel counts exactly."""
    lengths = np.concatenate([np.arange(1, 200), [1000, 4097]])
    B, Lk = len(lengths), lengths.max()
    q, k = np.zeros((B, 1, Lq, 8), np.float32), np.broadcast_to(np.float32(0), (B, 1, Lk, 8))
    lse = scaled_dot_product_attention(q, k, k, kv_lengths=lengths, return_lse=True)[1]
    assert (lse == np.log(lengths.astype(np.float64)).astype(np.float32)[:, None, None]).all()


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
        lambda x: x[:, :, ::-1],
        lambda x: x[..., ::2],
        lambda x: x[0],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">f4"),
    ],
    ids=["dense", "swapped", "backwards", "wide", "no batch", "fortran", "other byte order"],
)
def test_the_short_way_is_the_long_way(view, is_causal, isa):
    """A call without options is made without preparation where the arrays allow it: with an option that says nothing
    (out=) the result has the same bits."""
    q, k, v = (view(x) for x in (normal(2, 3, 5, 16), normal(2, 3, 20, 16), normal(2, 3, 20, 16)))
    got = scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    assert got.flags.c_contiguous and got.dtype == np.float32
    out = np.empty_like(got)
    assert_same_bits(scaled_dot_product_attention(q, k, v, is_causal=is_causal, out=out), got)


def test_the_short_way_knows_every_option(monkeypatch):
    """No option may be lost on the way without options: each, given alone, has to go the long way."""
    given = {
        "attn_mask": np.ones((4, 4), bool),
        "dropout_p": 0.5,
        "scale": 1.0,
        "causal_offset": 1,
        "window": (1, 1),
        "kv_lengths": np.array([3]),
        "softcap": 5.0,
        "relative_bias": normal(2, 7),
        "distance_scores": distance_scores("both", (1, 2, 4), (1, 2, 4), 4, 4, seed=0),
        "alibi_slopes": normal(2),
        "sinks": normal(2),
        "key_scale": np.ones((1, 2, 4), np.float32),
        "value_scale": np.ones((1, 2, 4), np.float32),
        "mask": KeyRanges.from_dense(np.ones((4, 4), bool)),
        "return_weights": "mean",
        "return_lse": True,
        "out": np.empty((1, 2, 4, 8), np.float32),
    }
    names = set(inspect.signature(scaled_dot_product_attention).parameters) - {"query", "key", "value"}
    assert set(given) == names - {"is_causal", "enable_gqa"}  # these two it takes
    x = normal(1, 2, 4, 8)
    monkeypatch.setattr(_core, "plain_attention", lambda *_: pytest.fail("the short way"))
    for name, option in given.items():
        with contextlib.suppress(ValueError):  # dropout
            scaled_dot_product_attention(x, x, x, **{name: option})


def test_leading_dimensions_broadcast(isa):
    q, k, v = normal(5, 1, 2, 7, 8), normal(3, 2, 9, 8), normal(1, 2, 9, 4)
    out = both("scaled_dot_product_attention", q, k, v)
    assert out.shape == (5, 3, 2, 7, 4)


def test_no_batch_dimension(isa):
    assert both("scaled_dot_product_attention", normal(2, 7, 8), normal(2, 9, 8), normal(2, 9, 8)).shape == (2, 7, 8)


def test_many_leading_dimensions_with_lengths_and_mask(isa):
    q, k, v = normal(2, 3, 2, 5, 8), normal(2, 3, 2, 9, 8), normal(2, 3, 2, 9, 8)
    mask = np.random.default_rng(0).random((3, 1, 5, 9)) < 0.8
    both("scaled_dot_product_attention", q, k, v, mask, kv_lengths=np.array([9, 8, 3, 0, 1, 5]))


@pytest.mark.parametrize(
    "shape", [(9,), (5, 9), (1, 9), (5, 1), (2, 5, 9), (1, 5, 9), (3, 1, 1, 9), (3, 2, 1, 9), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_broadcast(shape, kind, isa):
    mask = normal(*shape)
    if kind == "bool":
        mask = mask > -0.5
    both(
        "scaled_dot_product_attention", normal(3, 2, 5, 8), normal(3, 2, 9, 8, seed=1), normal(3, 2, 9, 8, seed=2), mask
    )


def test_group_of_heads_is_the_repeated_head(isa):
    q, k, v = normal(2, 6, 9, 16), normal(2, 2, 21, 16), normal(2, 2, 21, 16)
    grouped = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    repeated = scaled_dot_product_attention(q, k.repeat(3, axis=1), v.repeat(3, axis=1))
    np.testing.assert_allclose(grouped, repeated, rtol=0, atol=1e-6)


def test_zero_sizes_keep_shapes(isa):
    for B, H, Lq, Lk, Dv in ((0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5), (2, 2, 3, 0, 5), (2, 2, 3, 4, 0)):
        q, k, v = (
            np.ones((B, H, Lq, 8), np.float32),
            np.ones((B, H, Lk, 8), np.float32),
            np.ones((B, H, Lk, Dv), np.float32),
        )
        out, lse = scaled_dot_product_attention(q, k, v, return_lse=True)
        assert out.shape == (B, H, Lq, Dv) and lse.shape == (B, H, Lq)
        if Lk == 0:
            assert (out == 0).all() and np.isneginf(lse).all()


# ---------------------------------------------------------------------------------------------------------------------
# Rows that see nothing, and keys that are hidden


HIDING = {
    "bool": lambda: dict(attn_mask=np.zeros((7, 40), bool)),
    "float": lambda: dict(attn_mask=np.full((7, 40), -np.inf, np.float32)),
    "lengths": lambda: dict(kv_lengths=np.array([0, 0])),
    "offset": lambda: dict(is_causal=True, causal_offset=-7),
    "window": lambda: dict(window=(3, 3), causal_offset=100),
}


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("Lq", [1, 7])
def test_a_row_that_sees_nothing_is_zero(hiding, Lq, isa):
    q, k, v = normal(2, 2, 7, 16)[:, :, :Lq], normal(2, 2, 40, 16), normal(2, 2, 40, 16)
    options = HIDING[hiding]()
    if "attn_mask" in options:
        options["attn_mask"] = options["attn_mask"][:Lq]
    out, lse = scaled_dot_product_attention(q, k, v, **options, return_lse=True)
    assert_same_bits(out, np.zeros_like(out))
    assert np.isneginf(lse).all()
    weights = scaled_dot_product_attention(q, k, v, **options, return_weights="heads")[1]
    assert (weights == 0).all()


def test_a_row_of_the_lowest_number_averages_the_values(isa):
    """Only -inf and False mean masked; finfo.min does not (torch does the same)."""
    q, k, v = normal(1, 2, 5, 16), normal(1, 2, 33, 16), normal(1, 2, 33, 16)
    mask = np.full((5, 33), np.finfo(np.float32).min)
    out = scaled_dot_product_attention(q, k, v, mask)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=2, keepdims=True), out.shape), atol=2e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize(("Lq", "Lk"), [(1, 40), (5, 9), (70, 133), (3, 1500)])
def test_keys_hidden_by_structure_are_never_read(poison, Lq, Lk, isa):
    """NaN in a hidden key or value leaves no trace, not even in a tile where other rows see the key."""
    q, k, v = normal(2, 2, Lq, 16), normal(2, 2, Lk, 16, seed=1), normal(2, 2, Lk, 16, seed=2)
    bad_k, bad_v = k.copy(), v.copy()
    at = Lk - 4
    bad_k[:, :, at], bad_v[:, :, at] = poison, poison
    hiding = [
        dict(kv_lengths=np.array([at, at - 3])),
        dict(is_causal=True, causal_offset=at - Lq),
        dict(window=(-1, 0), causal_offset=at - Lq),
        dict(window=(2, -1), causal_offset=at + 3),
    ]
    for options in hiding:
        expected = scaled_dot_product_attention(q, k, v, **options, return_lse=True)
        assert_same_bits(scaled_dot_product_attention(q, bad_k, bad_v, **options, return_lse=True), expected)


@pytest.mark.parametrize("where", ["key", "value"])
def test_nan_reaches_the_rows_that_see_it_and_no_others(where, isa):
    for Lq, Lk, at in ((40, 40, 20), (9, 30, 25), (100, 100, 3)):
        arrays = dict(query=normal(1, 2, Lq, 16), key=normal(1, 2, Lk, 16, seed=1), value=normal(1, 2, Lk, 16, seed=2))
        arrays[where][0, 1, at] = np.nan
        out = scaled_dot_product_attention(**arrays, is_causal=True, causal_offset=Lk - Lq)
        sees = np.arange(Lq) + Lk - Lq >= at
        assert np.isfinite(out[0, 0]).all()
        assert np.isfinite(out[0, 1, ~sees]).all()
        assert np.isnan(out[0, 1, sees]).all()


def test_nan_in_a_query_stays_in_its_row(isa):
    q, k, v = normal(1, 2, 30, 16), normal(1, 2, 50, 16), normal(1, 2, 50, 16)
    q[0, 1, 13, 5] = np.nan
    out = scaled_dot_product_attention(q, k, v)
    assert np.isnan(out[0, 1, 13]).all()
    out[0, 1, 13] = 0
    assert np.isfinite(out).all()


def test_sink_alone_gives_zeros_and_its_own_lse(isa):
    q, k, v = normal(1, 2, 3, 8), normal(1, 2, 5, 8), normal(1, 2, 5, 8)
    sinks = np.array([0.5, -1.5], np.float32)
    out, lse = scaled_dot_product_attention(q, k, v, kv_lengths=np.array([0]), sinks=sinks, return_lse=True)
    assert (out == 0).all()
    np.testing.assert_allclose(lse, np.broadcast_to(sinks[:, None], (2, 3))[None], rtol=1e-6)


def test_nan_and_a_sink(isa):
    """A sink does not hide a visible NaN: neither the row nor its lse is a number."""
    for Lq, Lk in ((1, 40), (9, 33), (30, 1300)):
        q, k, v = normal(1, 2, Lq, 16), normal(1, 2, Lk, 16), normal(1, 2, Lk, 16)
        q[0, 0, Lq // 2] = np.nan
        out, lse = scaled_dot_product_attention(q, k, v, sinks=np.zeros(2, np.float32), return_lse=True)
        assert np.isnan(out[0, 0, Lq // 2]).all() and np.isnan(lse[0, 0, Lq // 2])
        assert np.isfinite(out[0, 1]).all() and np.isfinite(lse[0, 1]).all()


def test_any_byte_but_zero_is_true(isa):
    """A bool array that is a view of other bytes, as comparisons in C make them."""
    q, k, v = normal(1, 2, 9, 16), normal(1, 2, 33, 16), normal(1, 2, 33, 16)
    mask = np.random.default_rng(0).random((9, 33)) < 0.7
    odd = (mask * np.random.default_rng(1).integers(1, 256, mask.shape)).astype(np.uint8).view(bool)
    assert_same_bits(scaled_dot_product_attention(q, k, v, odd), scaled_dot_product_attention(q, k, v, mask))


# ---------------------------------------------------------------------------------------------------------------------
# Options that say the same


def test_offsets_that_are_the_same(isa):
    q, k, v = normal(3, 2, 9, 16), normal(3, 2, 30, 16), normal(3, 2, 30, 16)
    by_name = scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset="bottom_right")
    assert_same_bits(scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=21), by_name)
    assert_same_bits(scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=np.array([21] * 3)), by_name)


@pytest.mark.parametrize("size", [2**31, 2**40, 2**62, 2**63 - 1])
def test_enormous_offsets_and_windows(size, isa):
    """They are compared with, never added up to something that overflows."""
    q, k, v = normal(1, 2, 9, 16), normal(1, 2, 30, 16), normal(1, 2, 30, 16)
    everything = scaled_dot_product_attention(q, k, v)
    assert_same_bits(scaled_dot_product_attention(q, k, v, window=(size, size)), everything)
    assert_same_bits(scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=size), everything)
    assert (scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=-size) == 0).all()
    assert (scaled_dot_product_attention(q, k, v, window=(5, -1), causal_offset=size) == 0).all()


def test_causal_is_a_window_without_a_right_side(isa):
    q, k, v = normal(1, 2, 40, 16), normal(1, 2, 40, 16), normal(1, 2, 40, 16)
    causal = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_same_bits(scaled_dot_product_attention(q, k, v, window=(-1, 0)), causal)


def test_alibi_is_a_relative_bias(isa):
    Lq, Lk, slopes = 20, 33, np.array([0.5, 0.25], np.float32)
    q, k, v = normal(1, 2, Lq, 16), normal(1, 2, Lk, 16), normal(1, 2, Lk, 16)
    table = slopes[:, None] * (np.arange(Lq + Lk - 1) - (Lq - 1)).astype(np.float32)
    expected = scaled_dot_product_attention(q, k, v, relative_bias=table)
    np.testing.assert_allclose(scaled_dot_product_attention(q, k, v, alibi_slopes=slopes), expected, atol=2e-6)


def test_a_cache_continues_what_went_before(isa):
    """Queries in two steps, the second with the first one's keys before its own and the offset P = their number."""
    q, k, v = normal(1, 2, 50, 16), normal(1, 2, 50, 16), normal(1, 2, 50, 16)
    whole = scaled_dot_product_attention(q, k, v, is_causal=True)
    step = scaled_dot_product_attention(q[:, :, 37:], k, v, is_causal=True, causal_offset=37)
    np.testing.assert_allclose(step, whole[:, :, 37:], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Types

HALF = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ROUNDING = {"float64": 1e-13, "float16": 2e-3, "bfloat16": 1.6e-2}  # half a unit in the last place of a result up to 4


def typed(name):
    return HALF.get(name, np.float64)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    "name",
    [
        "L1",
        "L17",
        "L257-causal",
        "gqa-70x133",
        "mask-bool-5x7",
        "everything-float-33x100",
        "decode-gqa-2",
        "empty-2-2-3-0",
    ],
)
def test_types(name, dtype, isa, threads):
    """The result has the query's type, and is the float64 result on the same numbers up to its own rounding."""
    case = next(case for case in ATTENTION if case.name == name)
    arrays, options = case.make_inputs(typed(dtype))
    got = scaled_dot_product_attention(*arrays, **options)
    expected = reference.scaled_dot_product_attention(*widened(arrays), **widened(options))
    assert got.dtype == typed(dtype) and got.shape == expected.shape
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", HALF)
def test_scores_of_half_types_do_not_overflow(dtype, isa):
    """q = k = v = 256 at D = 80: q.k is 5.2e6, where float16 ends at 65504."""
    full = np.full((1, 2, 9, 80), 256, HALF[dtype])
    out, lse = scaled_dot_product_attention(full, full, full, return_lse=True)
    assert (out == 256).all() and out.dtype == HALF[dtype]
    assert lse.dtype == np.float32 and np.isfinite(lse).all()


@pytest.mark.parametrize("dtype", HALF)
def test_out_of_half_types(dtype, isa):
    q, k, v = (normal(1, 2, 9, 16, seed=s).astype(HALF[dtype]) for s in range(3))
    out = np.zeros((1, 9, 2, 16), HALF[dtype]).swapaxes(1, 2)
    assert scaled_dot_product_attention(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, scaled_dot_product_attention(q, k, v))
    with pytest.raises(TypeError, match="out"):
        scaled_dot_product_attention(q, k, v, out=np.zeros((1, 2, 9, 16), np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# A row's bits do not depend on what else is in the batch


@pytest.mark.parametrize(
    ("H", "Hkv", "Lq", "Lk", "D"), [(3, 3, 1, 70, 64), (4, 2, 7, 33, 24), (2, 2, 65, 65, 64), (2, 1, 2, 1300, 32)]
)
def test_batch_independence(H, Hkv, Lq, Lk, D, isa, threads):
    q, k, v = normal(5, H, Lq, D), normal(5, Hkv, Lk, D, seed=1), normal(5, Hkv, Lk, D, seed=2)
    mask = np.random.default_rng(3).random((5, 1, Lq, Lk)) < 0.8
    lengths = np.array([Lk, Lk // 2, 1, 0, Lk - 1])
    options = dict(enable_gqa=True, is_causal=True, causal_offset=Lk - Lq)
    whole = scaled_dot_product_attention(q, k, v, mask, kv_lengths=lengths, **options)
    for b in range(5):
        one = slice(b, b + 1)
        alone = scaled_dot_product_attention(q[one], k[one], v[one], mask[one], kv_lengths=lengths[one], **options)
        assert_same_bits(alone, whole[one])


# ---------------------------------------------------------------------------------------------------------------------
# Packed sequences

PACKS = {
    "mixed": ([5, 0, 1, 64, 17, 130], None),
    "one": ([33], None),
    "none": ([], None),
    "all-empty": ([0, 0, 0], None),
    "single-tokens": ([1] * 20, None),
    "cross": ([5, 0, 1, 64, 3], [7, 4, 0, 33, 257]),
    "long": ([3, 2, 700], [1500, 9, 700]),
}


def packed(name, H=2, Hkv=2, D=16, Dv=16):
    """(query, key, value, cu_seqlens_q, cu_seqlens_k) of a pack."""
    lengths_q, lengths_k = PACKS[name]
    starts_q = np.cumsum([0, *lengths_q]).astype(np.int32)
    starts_k = np.cumsum([0, *(lengths_q if lengths_k is None else lengths_k)]).astype(np.int32)
    Tq, Tk = int(starts_q[-1]), int(starts_k[-1])
    return normal(Tq, H, D), normal(Tk, Hkv, D, seed=1), normal(Tk, Hkv, Dv, seed=2), starts_q, starts_k


@pytest.mark.parametrize("name", PACKS)
def test_varlen(name, isa, threads):
    both("varlen_attention", *packed(name))
    both("varlen_attention", *packed(name, H=4, Hkv=2, D=24, Dv=40), enable_gqa=True, is_causal=True)


CROSS = [sum(lengths) for lengths in PACKS["cross"]]
VARLEN_OPTIONS = {
    "scale": dict(scale=0.3),
    "bottom-right": dict(is_causal=True, causal_offset="bottom_right"),
    "offsets": dict(is_causal=True, causal_offset=np.array([0, 3, -1, 9, 2])),
    "window": dict(window=(4, 2)),
    "lengths": dict(kv_lengths=np.array([7, 1, 0, 20, 200])),
    "softcap": dict(softcap=1.5),
    "alibi": dict(alibi_slopes=np.array([0.5, 0.25], np.float32)),
    "sinks": dict(sinks=np.array([0.5, -0.25], np.float32)),
    "relative-bias": dict(relative_bias=normal(2, 64 + 257 - 1)),
    "distance": dict(distance_scores=distance_scores("both", (CROSS[0], 2), (CROSS[1], 2), 64, 257, seed=0, most=40)),
    "lse": dict(return_lse=True),
}


@pytest.mark.parametrize("option", VARLEN_OPTIONS)
def test_varlen_options(option, isa, threads):
    tolerance = 2e-5 if option == "alibi" else TOLERANCE  # its scores are as large as 128, which float32 rounds to 8e-6
    both("varlen_attention", *packed("cross"), **VARLEN_OPTIONS[option], tolerance=tolerance)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_varlen_takes_both_integer_sizes(dtype, isa):
    q, k, v, starts_q, starts_k = packed("mixed")
    both("varlen_attention", q, k, v, starts_q.astype(dtype), starts_k.astype(dtype))


def test_varlen_on_views_of_a_fused_product(isa, threads):
    T, H, D = 87, 3, 16
    qkv, starts = normal(T, 3 * H * D), np.array([0, 20, 21, 21, 87], np.int32)
    q, k, v = (qkv[:, i * H * D : (i + 1) * H * D].reshape(T, H, D) for i in range(3))
    assert np.shares_memory(q, qkv) and np.shares_memory(v, qkv)
    both("varlen_attention", q, k, v, starts, starts)


@pytest.mark.parametrize("lengths", [[5, 64, 1, 0, 17], [3, 700, 12], [1, 1, 1500]])
def test_varlen_sequences_are_independent(lengths, isa, threads):
    """A sequence in a pack has the bits that it has alone."""
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    q, k, v = (normal(int(starts[-1]), 2, 32, seed=s) for s in range(3))
    whole = varlen_attention(q, k, v, starts, starts)
    for b, length in enumerate(lengths):
        rows = slice(starts[b], starts[b + 1])
        own = np.array([0, length], np.int32)
        assert_same_bits(varlen_attention(q[rows], k[rows], v[rows], own, own), whole[rows])


def test_varlen_into_out(isa):
    arguments = packed("mixed")
    out = np.full(arguments[0].shape, np.nan, np.float32)
    assert varlen_attention(*arguments, out=out) is out
    assert_same_bits(out, varlen_attention(*arguments))


def test_public_names_are_the_functional_ones():
    import transformer_fast

    assert transformer_fast.scaled_dot_product_attention is functional.scaled_dot_product_attention
    assert transformer_fast.varlen_attention is functional.varlen_attention


@pytest.mark.parametrize("which", ["distance without its sign", "up and down"])
@pytest.mark.parametrize("terms", ["query", "key"])
def test_buckets_that_rise_and_fall(which, terms, isa):
    """Neighbours differ by 1 at most, and that is all that buckets must do."""
    H, Lq, Lk, distance = 2, 33, 70, np.arange(1 - 33, 70)
    period = np.abs((distance + 32) % 22 - 11)  # 11 down, 11 up: within a vector of 16 and of 8
    buckets = np.abs(distance) if which == "distance without its sign" else period + 20
    term = normal(H, Lq if terms == "query" else Lk, int(buckets.max()) + 1, seed=4).astype(np.float32)
    scores = functional.DistanceScores(*((term, None) if terms == "query" else (None, term)), buckets)
    q, k, v = (normal(H, length, 16, seed=length) for length in (Lq, Lk, Lk))
    expected = reference.scaled_dot_product_attention(*widened([q, k, v]), distance_scores=scores)
    assert_close(scaled_dot_product_attention(q, k, v, distance_scores=scores), expected)

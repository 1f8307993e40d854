"""What the tile unit could do to attention that a register tile does not: bits that depend on neighbours, NaN that
spreads, hidden keys that are read. Sizes are those from which level amx uses it; the other levels pass as well."""

import numpy as np
import pytest

from transformer_fast.functional import scaled_dot_product_attention, varlen_attention


def operands(Lq=160, Lk=200, D=64, H=2, B=1, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((B, H, n, D)).astype(np.float32) for n in (Lq, Lk, Lk)]


def exact(q, k, v, visible=None):
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if visible is not None:
        scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v.astype(np.float64)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_a_bad_number_changes_no_bit_of_rows_that_do_not_see_it(which, bad, isa):
    q, k, v = operands(Lk=160)
    clean = scaled_dot_product_attention(q, k, v, is_causal=True)
    at = 70
    {"q": q, "k": k, "v": v}[which][0, 1, at, 5] = bad
    with np.errstate(all="ignore"):
        got = scaled_dot_product_attention(q, k, v, is_causal=True)
    touched = np.zeros((1, 2, 160), bool)
    touched[0, 1, at : (at + 1 if which == "q" else None)] = True
    np.testing.assert_array_equal(got[~touched], clean[~touched])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_infinity_in_v_stays_in_its_column(bad, isa):
    q, k, v = operands()
    clean = scaled_dot_product_attention(q, k, v)
    v[0, 0, 33, 7] = bad
    got = scaled_dot_product_attention(q, k, v)
    assert not np.isfinite(got[0, 0, :, 7]).any()
    rest = np.delete(got, 7, axis=-1)
    assert np.isfinite(rest).all()
    np.testing.assert_allclose(rest, np.delete(clean, 7, axis=-1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("D", [32, 40, 64, 72, 80, 128, 200])
@pytest.mark.parametrize("Lq", [288, 260, 300])
def test_rows_have_the_same_bits_in_pieces_of_any_size(Lq, D, isa):
    q, k, v = operands(Lq, 300, D, H=3, B=3)
    one = scaled_dot_product_attention(q, k, v)
    np.testing.assert_array_equal(scaled_dot_product_attention(q[1:2, 2:], k[1:2, 2:], v[1:2, 2:]), one[1:2, 2:])
    np.testing.assert_array_equal(scaled_dot_product_attention(q[:, :, 3:], k, v), one[:, :, 3:])
    np.testing.assert_allclose(one, exact(q, k, v), rtol=0, atol=3e-6)


def test_sequences_of_a_batch_do_not_meet(isa):
    lengths = [5, 130, 64, 300, 1, 200]
    ends = np.cumsum([0, *lengths]).astype(np.int64)
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((ends[-1], 2, 64)).astype(np.float32) for _ in range(3))
    together = varlen_attention(q, k, v, ends, ends)
    for a, b in zip(ends[:-1], ends[1:], strict=True):
        own = np.array([0, b - a], np.int64)
        np.testing.assert_array_equal(together[a:b], varlen_attention(q[a:b], k[a:b], v[a:b], own, own))


@pytest.mark.parametrize("window", [(0, 0), (20, 0), (40, 7), (-1, 3), (200, -1)])
def test_windows(window, isa):
    q, k, v = operands(400, 400)
    got = scaled_dot_product_attention(q, k, v, window=window)
    i, j = np.arange(400)[:, None], np.arange(400)[None]
    left, right = (400 if side < 0 else side for side in window)
    np.testing.assert_allclose(got, exact(q, k, v, (j >= i - left) & (j <= i + right)), rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", [np.float16])
def test_half_precision(dtype, isa):
    q, k, v = (x.astype(dtype) for x in operands(200, 333))
    got = scaled_dot_product_attention(q, k, v)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), exact(q, k, v), rtol=0, atol=1e-3)

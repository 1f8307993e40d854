"""Corners that a reviewer found: each of these once crashed, wrote beyond its memory, or gave another result.

For csrc/kernels/attention, csrc/runtime/workspace.c, csrc/ops and transformer_fast/_core.pyx.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

from transformer_fast import functional, reference
from transformer_fast.functional import scaled_dot_product_attention


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_additive_attention_with_a_long_float_mask(isa):
    arguments = normal(200, 4), normal(4096, 4, seed=1), normal(4096, 1, seed=2), normal(4, seed=3)
    mask = normal(200, 4096, seed=4)
    wide = [array.astype(np.float64) for array in (*arguments, mask)]
    expected = reference.additive_attention(*wide[:4], mask=wide[4])
    np.testing.assert_allclose(functional.additive_attention(*arguments, mask=mask), expected, atol=2e-6)


def test_no_query_heads():
    q, k, v = normal(1, 0, 4, 8), normal(1, 2, 600, 8), normal(1, 2, 600, 8)
    out, lse = scaled_dot_product_attention(q, k, v, enable_gqa=True, return_lse=True)
    assert out.shape == (1, 0, 4, 8) and lse.shape == (1, 0, 4)
    functional.explain_attention(q, k, v, enable_gqa=True)


def test_weights_without_value_columns():
    q, k = normal(1, 2, 5, 8), normal(1, 2, 7, 8, seed=1)
    none = np.zeros((1, 2, 7, 0), np.float32)
    _, weights = scaled_dot_product_attention(q, k, none, return_weights="heads")
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_false_masks_whatever_the_score_is(isa):
    q, v = normal(1, 1, 2, 8), normal(1, 1, 3, 8, seed=1)
    nothing = np.full((1, 1, 3, 8), np.nan, np.float32)
    assert (scaled_dot_product_attention(q, nothing, v, np.zeros((2, 3), bool)) == 0).all()
    k = normal(1, 1, 3, 8, seed=2)
    expected = scaled_dot_product_attention(q, k[:, :, [0, 2]], v[:, :, [0, 2]])
    for rogue in (np.nan, np.inf):
        k[..., 1, :] = rogue
        for mask in (np.array([[True, False, True]]), np.array([[True, False, True]] * 2)):
            np.testing.assert_allclose(scaled_dot_product_attention(q, k, v, mask), expected, atol=1e-6)


def test_neighbours_of_a_row_that_sees_infinity_keep_their_bits(isa):
    q, k, v = normal(1, 1, 96, 64), normal(1, 1, 400, 64, seed=1), normal(1, 1, 400, 64, seed=2)
    before = scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=300)
    v[0, 0, 395] = np.inf  # only the last row sees it
    after = scaled_dot_product_attention(q, k, v, is_causal=True, causal_offset=300)
    np.testing.assert_array_equal(after[:, :, :95], before[:, :, :95])
    assert np.isinf(after[:, :, 95]).all()


def test_mean_weights_do_not_depend_on_threads():
    q, k, v = normal(1, 12, 20, 64), normal(1, 1, 256, 64, seed=1), normal(1, 1, 256, 64, seed=2)
    seen = []
    before = functional.get_num_threads()
    for n in (1, 2, 4):
        functional.set_num_threads(n)
        seen.append(scaled_dot_product_attention(q, k, v, enable_gqa=True, return_weights="mean")[1])
    functional.set_num_threads(before)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


def test_lowest_float64_in_a_mask_is_not_minus_infinity():
    q, k, v = normal(1, 1, 2, 8), normal(1, 1, 5, 8, seed=1), normal(1, 1, 5, 8, seed=2)
    out = scaled_dot_product_attention(q, k, v, np.full((2, 5), np.finfo(np.float64).min))
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(2, keepdims=True), out.shape), atol=1e-6)


def test_out_that_folds_onto_itself_is_refused():
    q = normal(1, 1, 4, 8)
    folded = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (1, 1, 4, 8), (0, 0, 4, 4))
    with pytest.raises(ValueError, match="out"):
        scaled_dot_product_attention(q, q, q, out=folded)


def test_key_without_axes_is_refused():
    q = normal(1, 1, 4, 8)
    with pytest.raises(ValueError, match="key"):
        scaled_dot_product_attention(q, np.float32(1), q)


def test_packed_weight_refuses_what_it_cannot_read():
    for bad in (None, np.ones(8, np.float32), normal(8, 64).T):
        with pytest.raises((TypeError, ValueError)):
            functional.PackedWeight(bad, 0)


def test_encoder_leaves_out_alone_when_it_refuses():
    isas = functional.available_isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    vectors = [None] * 8
    weights = [functional.pack_weight(normal(n, k)) for n, k in ((24, 8), (8, 8), (16, 8), (8, 16))]
    encoder = functional.Encoder([functional.EncoderLayer(*weights, *vectors)], 2)
    out = np.full((4, 8), 7, np.float32)
    before = functional.get_isa()
    functional.set_isa(next(name for name in isas if name != before))
    try:
        with pytest.raises(RuntimeError):
            encoder(normal(4, 8), [0, 4], out=out)
    finally:
        functional.set_isa(before)
    assert (out == 7).all()


@pytest.mark.slow
def test_workspace_under_threads_that_give_it_back():
    """Calls of different sizes beside a thread that releases: no slab is used twice, none is lost."""
    stop, failures = threading.Event(), []

    def call(seed):
        D = (8, 64, 200, 400)[seed]
        q = normal(1, 2, 60, D, seed=seed)
        expected = scaled_dot_product_attention(q, q, q)
        while not stop.is_set():
            if not np.array_equal(scaled_dot_product_attention(q, q, q), expected):
                failures.append(D)

    def release():
        while not stop.is_set():
            functional.release_workspace()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)] + [threading.Thread(target=release)]
    for thread in threads:
        thread.start()
    stop.wait(4)
    stop.set()
    for thread in threads:
        thread.join()
    functional.release_workspace()
    assert not failures
    assert functional.release_workspace() == 0


@pytest.mark.slow
def test_packing_beside_a_change_of_isa():
    isas = functional.available_isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    stop, before = threading.Event(), functional.get_isa()

    def flip():
        while not stop.is_set():
            for name in isas:
                functional.set_isa(name)

    thread = threading.Thread(target=flip)
    thread.start()
    w = normal(1, 4096)
    for _ in range(20000):
        functional.pack_weight(w)
    stop.set()
    thread.join()
    functional.set_isa(before)

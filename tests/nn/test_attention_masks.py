"""nn/attention/masks.py: what masks come to, and that they stay as small as they can be (their effect is tested with
the blocks that call it)."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.nn.attention.masks import visible
from transformer_fast.nn.masks import square_subsequent_mask

B, H, LQ, LK = 2, 3, 4, 5
SHAPE = (B, H, LQ, LK)
AT_END = np.arange(LK) >= np.array([[5], [2]])


@pytest.mark.parametrize("padding", [AT_END, np.where(AT_END, -np.inf, 0).astype(np.float32)], ids=["bool", "float"])
def test_padding_at_the_end_is_lengths(padding):
    seen = visible(None, padding, False, SHAPE)
    assert seen.attn_mask is None and seen.kv_lengths.tolist() == [5, 2]
    assert visible(None, padding, False, SHAPE, front=1).kv_lengths.tolist() == [6, 3]
    mask = np.zeros((LQ, LK), bool)
    mask[1, 2] = True
    seen = visible(mask, padding, False, SHAPE)
    assert np.array_equal(seen.attn_mask, ~mask) and seen.kv_lengths.tolist() == [5, 2]


def test_other_padding_has_no_query_axis():
    for padding in (AT_END[:, ::-1], np.where(AT_END, -1, 0).astype(np.float32)):
        seen = visible(None, padding, False, SHAPE)
        assert seen.kv_lengths is None and seen.attn_mask.shape == (B, 1, 1, LK)


def test_keys_in_front_are_allowed():
    mask = np.ones((LQ, LK), bool)
    assert np.array_equal(
        visible(mask, None, False, SHAPE, front=1).attn_mask, np.arange(LK + 1)[None] < np.ones((LQ, 1))
    )
    added = np.full((B * H, LQ, LK), 2, np.float32)
    assert visible(added, None, False, SHAPE, front=1).attn_mask[0, 0, 0].tolist() == [0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("dtype", [np.bool_, np.float32])
def test_the_causal_mask_is_a_flag(dtype):
    shape = (B, H, LQ, LQ)
    causal = square_subsequent_mask(LQ, dtype)
    assert visible(causal, AT_END[:, 1:], False, shape, front=1)[::2] == (None, True)
    other = causal.copy()
    other[1, 0] = causal[0, 1]
    assert visible(other, None, True, shape).attn_mask.shape == (LQ, LQ)
    assert visible(other, None, True, shape).is_causal and not visible(other, None, False, shape).is_causal
    with pytest.raises(ValueError, match=r"needed: \(4, 5\)"):
        visible(causal, None, False, SHAPE)


def test_nothing_hidden():
    assert visible(None, None, False, SHAPE) == (None, None, False)


def test_bad_masks():
    with pytest.raises(ValueError, match=r"attn_mask has shape \(5, 4\); needed: \(4, 5\) or \(6, 4, 5\)"):
        visible(np.zeros((LK, LQ), bool), None, False, SHAPE)
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(5,\); needed: \(2, 5\)"):
        visible(None, np.zeros(LK, bool), False, SHAPE)
    for name, masks in (("attn_mask", ([[True], []], None)), ("key_padding_mask", (None, [[True], []]))):
        with pytest.raises(ValueError, match=f"{name} has rows of different lengths .row 0 has 1, row 1 has 0"):
            visible(*masks, False, SHAPE)
    with pytest.raises(TypeError, match="key_padding_mask has dtype uint8"):
        visible(None, np.zeros((B, LK), np.uint8), False, SHAPE)

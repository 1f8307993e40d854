"""nn/embedding.py."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import nn


def test_forward(isa):
    table = nn.Embedding(7, 5)
    ids = np.array([[0, 6], [3, 3]])
    out = np.empty((2, 2, 5), np.float32)
    assert table(ids, out=out) is out
    assert np.array_equal(out, table.weight[ids])
    with pytest.raises(IndexError, match="7"):
        table(np.array([7]))


def test_padding_idx():
    assert not nn.Embedding(7, 5, padding_idx=2).weight[2].any()
    with pytest.raises(ValueError, match="padding_idx is 7"):
        nn.Embedding(7, 5, padding_idx=7)

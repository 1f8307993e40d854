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
    counted_back = nn.Embedding(7, 5, padding_idx=-1)
    assert counted_back.padding_idx == 6 and not counted_back.weight[6].any()
    assert repr(counted_back) == "Embedding(7, 5, padding_idx=6)"
    with pytest.raises(ValueError, match="padding_idx is 7"):
        nn.Embedding(7, 5, padding_idx=7)


def test_from_pretrained():
    rows = np.arange(6, dtype=np.float64).reshape(3, 2)
    table = nn.Embedding.from_pretrained(rows, padding_idx=0)
    assert np.array_equal(table([2]), [[4, 5]]) and table.weight.dtype == np.float32 and table.padding_idx == 0
    with pytest.raises(ValueError, match="embeddings has shape"):
        nn.Embedding.from_pretrained(np.zeros(3))


def test_options_of_training_are_accepted_and_max_norm_is_refused():
    nn.Embedding(7, 5, norm_type=1.0, scale_grad_by_freq=True, sparse=True)
    with pytest.raises(NotImplementedError, match="max_norm=1.0 is not supported"):
        nn.Embedding(7, 5, max_norm=1.0)

"""nn/init.py: torch's distributions, repeatable; and modules that are not worth drawing numbers for."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import nn
from transformer_fast.nn import init


def test_distributions():
    nn.manual_seed(3)
    linear = nn.Linear(100, 200)
    for array in (linear.weight, linear.bias):
        assert np.abs(array).max() <= 0.1 and array.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    table = nn.Embedding(50, 100, padding_idx=-1)
    assert table.weight[:-1].std() == pytest.approx(1, rel=0.1) and not table.weight[-1].any()
    attention = nn.MultiheadAttention(64, 4)
    bound = np.sqrt(6 / (64 + 3 * 64))
    assert bound * 0.95 < np.abs(attention.in_proj_weight).max() <= bound
    assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()
    norm = nn.LayerNorm(5)
    assert (norm.weight == 1).all() and not norm.bias.any()


def test_manual_seed_repeats():
    nn.manual_seed(3)
    first = nn.Linear(4, 5).weight
    second = nn.Linear(4, 5).weight
    assert not np.array_equal(first, second)
    nn.manual_seed(3)
    assert np.array_equal(nn.Linear(4, 5).weight, first)


def test_unset_parameters_cost_nothing_and_cannot_be_mistaken_for_weights():
    with init.unset_parameters():
        linear = nn.Linear(10**6, 10**6)
    assert linear.weight.shape == (10**6, 10**6) and np.isnan(linear.weight[0, 0])
    with pytest.raises(KeyError), init.unset_parameters():
        raise KeyError
    assert not np.isnan(nn.Linear(2, 2).weight).any()

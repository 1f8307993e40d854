"""nn/activation.py: each class is its function."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import functional, nn

PAIRS = {
    "relu": (nn.ReLU(inplace=True), functional.relu),
    "gelu": (nn.GELU(), functional.gelu),
    "gelu_tanh": (nn.GELU("tanh"), lambda x: functional.gelu(x, "tanh")),
    "quick_gelu": (nn.QuickGELU(), functional.quick_gelu),
    "silu": (nn.SiLU(), functional.silu),
    "tanh": (nn.Tanh(), functional.tanh),
}


@pytest.mark.parametrize("name", PAIRS)
def test_each_is_its_function_and_says_what_linear_calls_it(name):
    module, function = PAIRS[name]
    x = normal(3, 7)
    assert np.array_equal(module(x), function(x))
    assert module.fused == name
    assert np.array_equal(functional.linear(x, np.eye(7, dtype=np.float32), activation=module.fused), function(x))


def test_sigmoid(isa):
    x = np.concatenate([normal(200) * 5, [-200, -0.0, 0, 200]]).astype(np.float32)
    before = x.copy()
    assert_close(nn.Sigmoid()(x), 1 / (1 + np.exp(-x.astype(np.float64))), 2e-7)
    assert np.array_equal(x, before) and nn.Sigmoid().fused is None


def test_softmax_takes_the_axis():
    x = normal(3, 4, 5)
    assert np.array_equal(nn.Softmax(dim=1)(x), functional.softmax(x, 1))
    with pytest.raises(TypeError, match="dim is None"):
        nn.Softmax(None)


def test_identity_and_dropout_give_their_input_back():
    x = normal(3)
    assert nn.Identity(54, unused=1)(x) is x and nn.Dropout(0.9)(x) is x
    assert repr(nn.Dropout(0.9)) == "Dropout(p=0.9)"
    with pytest.raises(ValueError, match="p is 1.5"):
        nn.Dropout(1.5)


def test_unknown_approximation():
    with pytest.raises(ValueError, match="approximate is 'erf'"):
        nn.GELU("erf")

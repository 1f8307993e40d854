"""nn/module.py: names, state dicts, and parameters that cannot change unseen."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from transformer_fast import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.rest = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.LayerNorm(2)])

    def forward(self, x):
        return self.rest[1](self.rest[0](self.first(x)))


NAMES = ["first.weight", "first.bias", "rest.0.weight", "rest.1.weight", "rest.1.bias"]


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_state_dict_names():
    pair = Pair()
    assert list(pair.state_dict()) == NAMES
    assert [name for name, _ in pair.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert [array.shape for array in pair.parameters()] == [(2, 3), (2,), (2, 2), (2,), (2,)]
    assert len(pair.rest) == 2 and pair.rest[-1] is list(pair.rest)[1]
    assert pair.eval() is pair


def test_load_state_dict_changes_the_result():
    one, other = Pair(), Pair()
    x = values((4, 3))
    assert not np.array_equal(one(x), other(x))
    assert other.load_state_dict(one.state_dict()) == ([], [])
    assert np.array_equal(one(x), other(x))


def test_load_state_dict_names_every_problem():
    pair = Pair()
    before = pair.state_dict()
    state = {**before, "extra": values(1), "rest.1.bias": values(3)}
    del state["first.bias"]
    with pytest.raises(ValueError) as caught:
        pair.load_state_dict(state)
    text = str(caught.value)
    assert "missing: first.bias" in text and "unexpected: extra" in text
    assert "rest.1.bias has shape (3,); needed: (2,)" in text
    assert all(pair.state_dict()[name] is before[name] for name in NAMES)
    with pytest.raises(ValueError, match="misshapen"):
        pair.load_state_dict(state, strict=False)
    del state["rest.1.bias"]
    missing, unexpected = pair.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["first.bias", "rest.1.bias"], ["extra"])
    with pytest.raises(TypeError, match=r"state\['first.bias'\] has dtype int64"):
        pair.load_state_dict({**before, "first.bias": np.zeros(2, np.int64)})


def test_assigning_a_parameter_is_seen_by_the_next_call():
    linear = nn.Linear(3, 2)
    x = values((4, 3))
    linear(x)
    weight = values((2, 3), 1)
    linear.weight = weight
    np.testing.assert_allclose(linear(x), x @ weight.T + linear.bias, atol=1e-6)
    with pytest.raises(ValueError, match=r"Linear.weight was given shape \(3, 2\); needed: \(2, 3\)"):
        linear.weight = weight.T
    with pytest.raises(ValueError, match="bias was left out"):
        nn.Linear(3, 2, bias=False).bias = np.zeros(2, np.float32)


def test_parameters_cannot_change_in_place():
    linear = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="read-only"):
        linear.weight[0] = 1
    mine = values((2, 3))
    linear.weight = mine
    mine[:] = 0
    assert linear.weight.any()


def test_read_only_arrays_are_shared_and_others_converted():
    linear = nn.Linear(3, 2)
    mapped = values((2, 3))
    mapped.flags.writeable = False
    linear.load_state_dict({"weight": mapped, "bias": np.ones(2, np.float64)})
    assert np.shares_memory(linear.weight, mapped)
    assert linear.bias.dtype == np.float32


def test_copies_and_pickles_compute_the_same():
    pair = Pair()
    x = values((4, 3))
    expected = pair(x)
    for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert np.array_equal(other(x), expected)


def test_init_must_come_first_and_forward_must_exist():
    class Broken(nn.Module):
        def __init__(self):
            self.x = 1

    with pytest.raises(AttributeError, match=r"call Module.__init__"):
        Broken()
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()()
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = nn.Module().absent


def test_repr_shows_the_parts():
    text = repr(Pair())
    assert "(first): Linear(in_features=3, out_features=2, bias=True)" in text
    assert "(1): LayerNorm((2,), eps=1e-05" in text

"""nn/container.py and ModuleList: names, indexing, and what Sequential computes."""

from __future__ import annotations

import numpy as np
import pytest
from support import normal

from transformer_fast import nn


def test_sequential_is_its_modules_one_after_the_other(isa):
    nn.manual_seed(0)
    first, last, norm = nn.Linear(5, 8), nn.Linear(8, 3), nn.LayerNorm(3)
    x = normal(4, 5)
    for activation in (nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.QuickGELU(), nn.Sigmoid()):
        mlp = nn.Sequential(first, activation, nn.Dropout(), last, norm)
        assert np.array_equal(mlp(x), norm(last(activation(first(x)))))
    assert nn.Sequential()(x) is x


def test_a_layer_with_a_forward_of_its_own_is_called_as_it_is():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    doubled, x = Doubled(5, 4), normal(3, 5)
    assert np.array_equal(nn.Sequential(doubled, nn.ReLU())(x), nn.ReLU()(doubled(x)))


def test_names_and_indexing_of_sequential():
    mlp = nn.Sequential({"up": nn.Linear(2, 4), "act": nn.ReLU(), "down": nn.Linear(4, 2)})
    assert list(mlp.state_dict()) == ["up.weight", "up.bias", "down.weight", "down.bias"]
    assert mlp[0] is mlp.up and mlp[-1] is mlp.down and len(mlp) == 3
    part = mlp[1:]
    assert type(part) is nn.Sequential and list(part) == [mlp.act, mlp.down]
    assert list(part.state_dict()) == ["down.weight", "down.bias"]
    mlp[1] = nn.GELU()
    assert isinstance(mlp.act, nn.GELU)
    numbered = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    assert list(numbered.append(nn.Tanh()).state_dict()) == ["1.weight", "1.bias"]
    with pytest.raises(ValueError, match="are taken"):
        numbered[1:].append(nn.Tanh()).append(nn.Tanh())
    with pytest.raises(TypeError, match=r"Sequential\['1'\] was given a function; needed: a Module"):
        nn.Sequential(nn.ReLU(), lambda x: x)


def test_module_list_grows_and_is_cut():
    layers = nn.ModuleList(nn.Linear(i + 1, 1) for i in range(3))
    layers.append(nn.ReLU()).extend([nn.Tanh()])
    assert [type(m).__name__ for m in layers] == ["Linear"] * 3 + ["ReLU", "Tanh"]
    assert type(layers[:2]) is nn.ModuleList and layers[1:][0] is layers[1]
    layers[0] = nn.Linear(7, 1)
    assert layers.state_dict()["0.weight"].shape == (1, 7)
    with pytest.raises(IndexError):
        layers[9]


def test_module_dict():
    heads = nn.ModuleDict([("a", nn.Linear(2, 1)), ("b", nn.ReLU())])
    heads["c"] = nn.Tanh()
    heads.update({"b": nn.GELU()})
    assert list(heads) == list(heads.keys()) == ["a", "b", "c"] and len(heads) == 3 and "b" in heads
    assert [type(m).__name__ for m in heads.values()] == ["Linear", "GELU", "Tanh"]
    assert dict(heads.items())["a"] is heads["a"]
    assert list(heads.state_dict()) == ["a.weight", "a.bias"]
    del heads["a"]
    assert "a" not in heads
    with pytest.raises(ValueError, match="'x.y'; needed: a string without dots"):
        heads["x.y"] = nn.ReLU()
    with pytest.raises(KeyError):
        heads["a"]

"""nn/engine.py: layers are looked at again after a change, after every change, and after nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from transformer_fast import functional, nn
from transformer_fast.nn.engine import Description, Engine


@pytest.fixture
def layers():
    nn.manual_seed(0)
    return nn.PackedEncoder(2, 8, 2, 16, "gelu", 1e-5)


@pytest.fixture
def count(layers, monkeypatch):
    """How often the layers have been looked at."""
    found, describe = [], layers._description

    def counted():
        found.append(1)
        return describe()

    monkeypatch.setitem(layers.__dict__, "_description", counted)
    return found


def run(layers, **options):
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    return layers(x, [0, 1, 3], **options)


CHANGES = {
    "parameter": lambda layers: setattr(layers[1].feed_forward.linear2, "bias", np.ones(8, np.float32)),
    "state": lambda layers: layers[0].load_state_dict({"attention_norm.bias": np.ones(8, np.float32)}, strict=False),
    "layer": lambda layers: layers.__setitem__(1, nn.PackedEncoder(1, 8, 2, 16, "gelu", 1e-5)[0]),
    "more layers": lambda layers: layers.append(nn.PackedEncoder(1, 8, 2, 16, "gelu", 1e-5)[0]),
    "part": lambda layers: setattr(layers[0].attention, "out_proj", nn.Linear(8, 8)),
    "option": lambda layers: setattr(layers, "eps", 0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_seen(layers, count, name):
    before = run(layers)
    kept = layers._engine._made.encoders[False]
    assert np.array_equal(run(layers), before) and len(count) == 1
    CHANGES[name](layers)
    after = run(layers)
    assert not np.array_equal(after, before) and len(count) == 2
    assert layers._engine._made.encoders[False] is not kept
    collect = nn.Collector(np.array([[True, False], [True, True]]))
    if name != "option":  # eps of PackedEncoder is what its layers were made with
        assert np.array_equal(after, run(layers, collect=collect)), "the same bits layer by layer"


def test_changes_elsewhere_cost_a_look_and_no_more(layers, count):
    run(layers)
    kept = layers._engine._made.encoders[False]
    nn.Linear(2, 2)
    run(layers)
    assert len(count) == 2 and layers._engine._made.encoders[False] is kept


def test_orders_share_a_look(layers, count):
    assert not np.array_equal(run(layers), run(layers, is_causal=True)) and len(count) == 1
    assert layers._engine._made.encoders.keys() == {False, True}


def test_an_instruction_set_of_its_own(layers, count):
    before = functional.get_isa()
    run(layers)
    functional.set_isa("portable")
    try:
        run(layers)
        assert len(count) == (1 if before == "portable" else 2)
        assert layers._engine._made.encoders[False].isa == "portable"
    finally:
        functional.set_isa(before)


def test_layers_that_the_engine_does_not_know():
    assert Engine().get(lambda: None) is None


def test_copies_begin_anew(layers):
    run(layers)
    other = copy.deepcopy(layers)
    assert other._engine._made is None and np.array_equal(run(other), run(layers))


def test_descriptions():
    a, b = np.zeros(1), np.zeros(1)
    one = Description([(a, None)], (2, "gelu"))
    assert one.same(Description([(a, None)], (2, "gelu"))) and not one.same(None)
    for other in (Description([(b, None)], one.options), Description([(a, None)] * 2, one.options)):
        assert not one.same(other), "identity counts: equal arrays are other weights"
    assert not one.same(Description(one.layers, (3, "gelu")))


def test_every_kind_of_change_is_noted():
    parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    seen = [nn.module.last_change()]
    for change in (
        lambda: parts.__delitem__("a"),
        lambda: setattr(parts["b"], "weight", np.ones((2, 2), np.float32)),
        lambda: parts["b"].load_state_dict(parts["b"].state_dict()),
        lambda: parts.__setitem__("c", nn.Linear(1, 1)),
        lambda: setattr(parts, "name", "x"),
        lambda: parts.expect_few_rows(),
    ):
        change()
        assert all(nn.module.last_change() is not other for other in seen)
        seen.append(nn.module.last_change())

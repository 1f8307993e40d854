"""nn/encoder_stack.py: layers are read again after every change below their root, and after nothing else."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref

import numpy as np
import pytest

from transformer_fast import functional, nn
from transformer_fast.nn.encoder_stack import EncoderStackCache, StackSpec


@pytest.fixture
def layers():
    nn.manual_seed(0)
    return nn.PackedEncoder(2, 8, 2, 16, "gelu", 1e-5)


@pytest.fixture
def count(layers, monkeypatch):
    """How often the layers have been looked at."""
    found, describe = [], layers._spec

    def counted():
        found.append(1)
        return describe()

    monkeypatch.setitem(layers.__dict__, "_spec", counted)
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
    kept = layers._encoder._kept.encoders[False]
    assert np.array_equal(run(layers), before) and len(count) == 1
    CHANGES[name](layers)
    after = run(layers)
    assert not np.array_equal(after, before) and len(count) == 2
    assert layers._encoder._kept.encoders[False] is not kept
    collect = nn.Collector(np.array([[True, False], [True, True]]))
    if name != "option":  # eps of PackedEncoder is what its layers were made with
        assert np.array_equal(after, run(layers, collect=collect)), "the same bits layer by layer"


def test_changes_elsewhere_are_not_seen(layers, count):
    run(layers)
    other = copy.deepcopy(layers)
    other[0].attention_norm.bias = np.ones(8, np.float32)
    nn.Linear(2, 2)
    run(layers)
    assert len(count) == 1


def test_what_changes_nothing_costs_a_look_and_no_more(layers, count):
    run(layers)
    kept = layers._encoder._kept.encoders[False]
    layers.note = "an attribute that no layer reads"
    run(layers)
    assert len(count) == 2 and layers._encoder._kept.encoders[False] is kept


def test_a_part_that_two_roots_share():
    roots = [nn.PackedEncoder(2, 8, 2, 16, "gelu", 1e-5) for _ in range(2)]
    roots[1][0] = roots[0][0]
    before = [run(root) for root in roots]
    roots[0][0].attention.out_proj.bias = np.ones(8, np.float32)
    for root, old in zip(roots, before, strict=True):
        assert not np.array_equal(run(root), old)


def test_a_part_that_moves_to_another_root():
    first, second = (nn.PackedEncoder(2, 8, 2, 16, "gelu", 1e-5) for _ in range(2))
    layer = first[0]
    first[0], second[0] = second[0], layer
    kept, before = run(first), run(second)
    layer.feed_forward.linear1.bias = np.ones(16, np.float32)
    assert np.array_equal(run(first), kept) and not np.array_equal(run(second), before)


def test_a_part_may_come_to_own_its_former_owner():
    outer, inner = nn.ModuleDict(), nn.ModuleDict()
    outer["part"] = inner
    del outer["part"]
    inner["part"] = outer
    version = inner._version
    outer["linear"] = nn.Linear(2, 2)
    assert inner._version is not version


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_changes_of_copies_are_seen(layers, duplicate):
    before, other = run(layers), duplicate(layers)
    assert np.array_equal(run(other), before)
    other[1].attention_norm.bias = np.ones(8, np.float32)
    assert not np.array_equal(run(other), before)
    other[0] = other[1]
    assert layers[0] is not layers[1]


def test_owners_are_not_kept_alive():
    part = nn.Linear(2, 2)
    owners = [weakref.ref(nn.ModuleList([part])) for _ in range(5)]
    assert all(owner() is None for owner in owners) and len(part._owners) == 1


def test_many_threads_see_every_change(layers):
    """One thread replaces a bias of a nested part, others run: after the last change all see the last bias."""
    done, failures = threading.Event(), []

    def keep_running():
        while not done.is_set():
            try:
                run(layers)
            except Exception as error:  # seen by the test below
                failures.append(error)

    threads = [threading.Thread(target=keep_running) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(100):
        layers[1].attention_norm.bias = np.full(8, value, np.float32)
    last = run(layers)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures and np.array_equal(run(layers), last)
    assert np.array_equal(last, run(copy.deepcopy(layers)))


def test_orders_share_a_look(layers, count):
    assert not np.array_equal(run(layers), run(layers, is_causal=True)) and len(count) == 1
    assert layers._encoder._kept.encoders.keys() == {False, True}


def test_an_instruction_set_of_its_own(layers, count):
    before = functional.get_isa()
    run(layers)
    functional.set_isa("portable")
    try:
        run(layers)
        assert len(count) == (1 if before == "portable" else 2)
        assert layers._encoder._kept.encoders[False].isa == "portable"
    finally:
        functional.set_isa(before)


def test_layers_that_the_engine_does_not_know():
    assert EncoderStackCache().get(nn.Linear(2, 2), lambda: None) is None


def test_copies_begin_anew(layers):
    run(layers)
    other = copy.deepcopy(layers)
    assert other._encoder._kept is None and np.array_equal(run(other), run(layers))


def test_descriptions():
    a, b = np.zeros(1), np.zeros(1)
    one = StackSpec([(a, None)], (2, "gelu"))
    assert one.same(StackSpec([(a, None)], (2, "gelu"))) and not one.same(None)
    for other in (StackSpec([(b, None)], one.options), StackSpec([(a, None)] * 2, one.options)):
        assert not one.same(other), "identity counts: equal arrays are other weights"
    assert not one.same(StackSpec(one.layers, (3, "gelu")))


def test_every_kind_of_change_gives_another_version():
    parts = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    root = nn.ModuleList([nn.ModuleList([parts])])
    seen = [root._version]
    for change in (
        lambda: parts.__delitem__("a"),
        lambda: setattr(parts["b"], "weight", np.ones((2, 2), np.float32)),
        lambda: parts["b"].load_state_dict(parts["b"].state_dict()),
        lambda: parts.__setitem__("c", nn.Linear(1, 1)),
        lambda: setattr(parts, "name", "x"),
        lambda: delattr(parts, "name"),
        lambda: parts.pack_for_decode(),
        lambda: parts.set_weight_format("bfloat16"),
    ):
        change()
        assert all(root._version is not other for other in seen)
        seen.append(root._version)

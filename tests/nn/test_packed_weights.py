"""nn/packed_weights.py: when a packed weight is made, kept and remade; copies, pickles, levels and threads."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

from transformer_fast import functional, nn
from transformer_fast.nn.packed_weights import JoinedBias, PackedParameters


class Parts(nn.Module):
    """Two weights whose rows follow each other, and a bias of the first."""

    def __init__(self):
        super().__init__()
        for name in ("a", "b"):
            self.register_parameter(f"{name}_weight", (4, 8), nn.init.uniform(8), half=True)
        self.register_parameter("a_bias", (4,), nn.init.uniform(8))
        self.register_parameter("b_bias", None, nn.init.uniform(8))


@pytest.fixture
def parts():
    nn.manual_seed(0)
    return Parts()


@pytest.fixture
def calls(monkeypatch):
    """The options of each call of pack_weight."""
    found, pack = [], functional.pack_weight

    def counted(weight, **options):
        found.append(options)
        return pack(weight, **options)

    monkeypatch.setattr(functional, "pack_weight", counted)
    return found


def test_rows_of_several_parameters_follow_each_other(parts):
    both = PackedParameters("a_weight", "b_weight").get(parts)
    assert np.array_equal(both.unpack(), np.concatenate([parts.a_weight, parts.b_weight]))
    middle = PackedParameters("a_weight", rows=(1, 3)).get(parts)
    assert np.array_equal(middle.unpack(), parts.a_weight[1:3])
    halves = PackedParameters("a_weight", to_matrix=lambda rows: rows.reshape(-1, 4)).get(parts)
    assert np.array_equal(halves.unpack(), parts.a_weight.reshape(-1, 4))


@pytest.mark.parametrize("name", ["a_weight", "b_weight"])
def test_packs_once_and_again_when_a_parameter_is_replaced(parts, calls, name):
    both = PackedParameters("a_weight", "b_weight")
    assert both.get(parts) is both.get(parts) and len(calls) == 1
    parts.a_bias, parts.note = np.zeros(4, np.float32), "another version of the module, and the same weights"
    both.get(parts)
    assert len(calls) == 1
    setattr(parts, name, np.ones((4, 8), np.float32))
    assert np.array_equal(both.get(parts).unpack(), np.concatenate([parts.a_weight, parts.b_weight]))
    both.get(parts)
    assert len(calls) == 2


def test_options_are_the_module_s_unless_they_are_given(parts, calls):
    own, fixed = PackedParameters("a_weight"), PackedParameters("a_weight", for_decode=False, format="float32")
    fixed.get(parts)
    calls.clear()
    own.get(parts), own.get(parts)
    assert calls == [{"format": "float32", "for_decode": False}]
    parts.set_weight_format("bfloat16").pack_for_decode()
    own.get(parts), own.get(parts)
    assert calls[1:] == [{"format": "bfloat16", "for_decode": True}]
    fixed.get(parts)
    assert len(calls) == 2, "given options do not follow the module"


def test_packs_again_under_another_instruction_set(parts, calls):
    packed, before = PackedParameters("a_weight"), functional.get_isa()
    packed.get(parts)
    try:
        for isa in functional.available_isas():
            functional.set_isa(isa)
            assert packed.get(parts).isa == isa and packed.get(parts) is packed.get(parts)
    finally:
        functional.set_isa(before)
    assert len(calls) == len(functional.available_isas()) + (functional.available_isas()[0] != before)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles_start_empty(parts, calls, duplicate):
    packed = PackedParameters("a_weight", "b_weight", rows=(0, 2), for_decode=True, format="bfloat16")
    bias = JoinedBias(("a_bias", "b_bias"), (4, 4))
    expected, joined = packed.get(parts).unpack(), bias.get(parts)
    other, other_bias = duplicate(packed), duplicate(bias)
    assert other._kept is None and other_bias._kept is None
    assert np.array_equal(other.get(parts).unpack(), expected) and calls[0] == calls[1]
    assert np.array_equal(other_bias.get(parts), joined)


@pytest.mark.thread_unsafe(reason="replaces a parameter of the fixture")
def test_joined_bias(parts):
    bias = JoinedBias(("a_bias", "b_bias"), (4, 4))
    assert np.array_equal(bias.get(parts), np.concatenate([parts.a_bias, np.zeros(4)]))
    assert bias.get(parts) is bias.get(parts)
    parts.a_bias = np.ones(4, np.float32)
    assert np.array_equal(bias.get(parts), [1] * 4 + [0] * 4)
    assert JoinedBias(("b_bias",), (4,)).get(parts) is None


@pytest.mark.thread_unsafe(reason="replaces parameters of the fixture; it has threads of its own")
def test_threads_never_see_a_half_made_state(parts):
    """While one thread replaces both weights, all others get packed weights whose rows all hold one number each."""
    both, done, failures = PackedParameters("a_weight", "b_weight"), threading.Event(), []
    fill = [np.full((4, 8), value, np.float32) for value in range(50)]
    parts.a_weight, parts.b_weight = fill[0], fill[0]

    def keep_getting():
        while not done.is_set():
            try:
                got = both.get(parts).unpack()
                a, b = got[0, 0], got[4, 0]
                if not ((got[:4] == a).all() and (got[4:] == b).all() and a - b in (0, 1)):
                    failures.append(got)
            except Exception as error:  # a thread's error would be lost
                failures.append(error)

    threads = [threading.Thread(target=keep_getting) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in fill:
        parts.a_weight = value
        parts.b_weight = value
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert (both.get(parts).unpack() == 49).all(), "the last weights are seen"

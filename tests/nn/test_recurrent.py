"""nn/recurrent.py: torch's names and shapes, its numbers (golden), layers against the op, states, lengths, errors."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from support import assert_same_bits, normal

from transformer_fast import functional, nn

GOLDEN = Path(__file__).parent.parent / "golden" / "layers.npz"
CELLS = {
    "lstm": lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True),
    "projected": lambda: nn.LSTM(4, 6, proj_size=3),
    "gru": lambda: nn.GRU(4, 6, num_layers=2, bidirectional=True),
}


def flat(result):
    """(output, each of the last states)."""
    output, last = result
    return (output, *(last if isinstance(last, tuple) else (last,)))


@pytest.mark.parametrize("name", CELLS)
def test_golden_numbers_of_torch(name, isa):
    """Made by golden/make_layers.py."""
    cell = CELLS[name]()
    with np.load(GOLDEN) as golden:
        state = {n.removeprefix(f"{name}."): golden[n] for n in golden.files if n.startswith(f"{name}.")}
        assert list(cell.state_dict()) == list(state)
        cell.load_state_dict(state)
        np.testing.assert_allclose(cell(golden["x"])[0], golden[f"{name}_whole"], atol=2e-6)
        got = flat(cell(golden["x"], lengths=golden["lengths"]))
        expected = [golden[f"{name}_output"], *(golden[f"{name}_last_{i}"] for i in range(len(got) - 1))]
        for array, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, other, atol=2e-6)


def test_layers_run_one_after_the_other():
    nn.manual_seed(0)
    cell, x = nn.GRU(5, 7, num_layers=3), normal(4, 2, 5)
    p = cell.state_dict()
    expected, ends = x, []
    for layer in range(3):
        weights = [p[f"{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        expected, end = functional.gru(expected, *weights)
        ends.append(end)
    assert_same_bits(cell(x), (expected, np.concatenate(ends)))


def test_batch_first_and_no_batch():
    nn.manual_seed(0)
    cell = nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    turned = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True)
    turned.load_state_dict(cell.state_dict())
    x, hx = normal(4, 3, 5), (normal(4, 3, 7, seed=1), normal(4, 3, 7, seed=2))
    output, (h, c) = cell(x, hx)
    other, states = turned(np.ascontiguousarray(x.swapaxes(0, 1)), hx)
    assert_same_bits((other.swapaxes(0, 1), *states), (output, h, c))
    for model in (cell, turned):
        alone, (h_1, c_1) = model(x[:, 1], (hx[0][:, 1], hx[1][:, 1]))
        assert_same_bits((alone, h_1, c_1), (output[:, 1], h[:, 1], c[:, 1]))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_last_states_go_on(kind):
    nn.manual_seed(0)
    cell, x = kind(5, 7, num_layers=2), normal(6, 3, 5)
    whole = flat(cell(x))
    first, last = cell(x[:2])
    second = flat(cell(x[2:], last))
    assert_same_bits((np.concatenate([first, second[0]]), *second[1:]), whole)


def test_lengths_are_as_rows_alone():
    nn.manual_seed(0)
    cell, x, lengths = nn.LSTM(5, 7, num_layers=2, bidirectional=True), normal(6, 4, 5), [3, 0, 6, 1]
    output, h, c = flat(cell(x, lengths=lengths))
    for b, length in enumerate(lengths):
        alone = flat(cell(x[:length, b]))
        assert_same_bits((output[:length, b], h[:, b], c[:, b]), alone)
        assert (output[length:, b] == 0).all()


def test_zero_sizes():
    cell = nn.GRU(5, 7, bidirectional=True)
    assert [array.shape for array in cell(np.zeros((0, 2, 5), np.float32))] == [(0, 2, 14), (2, 2, 7)]
    assert [array.shape for array in cell(np.zeros((3, 0, 5), np.float32))] == [(3, 0, 14), (2, 0, 7)]


def test_fresh_parameters():
    nn.manual_seed(0)
    cell = nn.LSTM(50, 100, bias=False)
    assert list(cell.state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    for array in cell.parameters():
        assert 0.095 < np.abs(array).max() <= 0.1


def test_a_new_weight_is_used(isa):
    nn.manual_seed(0)
    cell, other, x = nn.GRU(5, 7), nn.GRU(5, 7), normal(4, 2, 5)
    cell(x)
    for name, array in other.state_dict().items():
        setattr(cell, name, array)
    assert_same_bits(cell(x), other(x))


def test_copies_and_another_isa():
    nn.manual_seed(0)
    cell, x = nn.LSTM(5, 7, 2), normal(4, 2, 5)
    expected = cell(x)[0]
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        np.testing.assert_array_equal(other(x)[0], expected)
    before = functional.get_isa()
    try:
        for isa in functional.available_isas():
            functional.set_isa(isa)
            np.testing.assert_allclose(cell(x)[0], expected, atol=1e-6)
    finally:
        functional.set_isa(before)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"input_size": 0}, "input_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"proj_size": 6}, "proj_size"),
        ({"proj_size": -1}, "proj_size"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(ValueError, match=named):
        nn.LSTM(**{"input_size": 4, "hidden_size": 6} | options)


def test_bad_input():
    lstm, gru, x = nn.LSTM(4, 6), nn.GRU(4, 6, batch_first=True), np.zeros((3, 2, 4), np.float32)
    with pytest.raises(ValueError, match="input has shape"):
        lstm(x[..., :3])
    with pytest.raises(ValueError, match="input has shape"):
        lstm(x[0, 0])
    with pytest.raises(TypeError, match="float64"):
        lstm(x.astype(np.float64))
    with pytest.raises(TypeError, match="hx"):
        lstm(x, np.zeros((1, 2, 6), np.float32))
    with pytest.raises(ValueError, match="c_0"):
        lstm(x, (np.zeros((1, 2, 6), np.float32), np.zeros((1, 3, 6), np.float32)))
    with pytest.raises(ValueError, match="hx"):
        gru(x, np.zeros((1, 2, 6), np.float32))
    with pytest.raises(ValueError, match="lengths"):
        lstm(x, lengths=[4, 1])
    with pytest.raises(ValueError, match="lengths"):
        lstm(x[:, 0], lengths=[3])


def test_repr():
    assert repr(nn.GRU(4, 6)) == "GRU(4, 6, num_layers=1, batch_first=False, bidirectional=False)"

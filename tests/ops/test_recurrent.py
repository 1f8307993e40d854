"""lstm and gru against the reference: sizes that straddle the vectors and the blocks of steps, directions, lengths."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, assert_same_bits, both, normal

from transformer_fast import functional
from transformer_fast.functional import gru, lstm, pack_weight

CELLS = {"lstm": 4, "gru": 3}


def operands(op, L, B, width, units, directions=1, projected=0, seed=0):
    """The arguments up to the first state, all of them given."""
    rows, state = directions * CELLS[op] * units, projected or units
    arrays = [
        normal(L, B, width, seed=seed),
        normal(rows, width, seed=1) / np.float32(np.sqrt(max(width, 1))),
        normal(rows, state, seed=2) / np.float32(np.sqrt(state)),
        normal(rows, seed=3),
        normal(rows, seed=4),
    ]
    if op == "lstm":
        arrays.append(normal(directions * projected, units, seed=5) if projected else None)
    arrays.append(normal(directions, B, state, seed=6))
    return [*arrays, normal(directions, B, units, seed=7)] if op == "lstm" else arrays


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize("units", [1, 7, 8, 9, 15, 16, 17, 31, 33, 64])
def test_units(op, units, isa):
    both(op, *operands(op, 4, 3, 5, units))


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize(("L", "B", "width"), [(1, 1, 1), (3, 9, 17), (129, 1, 4), (67, 2, 3), (3, 130, 2), (2, 4, 97)])
def test_steps_and_rows(op, L, B, width, isa, threads):
    for directions, direction in ((1, "forward"), (1, "backward"), (2, "both")):
        both(op, *operands(op, L, B, width, 10, directions), direction=direction)


@pytest.mark.parametrize("projected", [1, 5, 8, 16])
def test_projected_state(projected, isa, threads):
    both("lstm", *operands("lstm", 5, 6, 7, 19, 2, projected), direction="both", lengths=np.array([5, 1, 0, 2, 5, 3]))


LENGTHS = ([5, 5, 5, 5], [5, 4, 2, 1], [1, 5, 0, 3], [0, 0, 0, 0], [0, 0, 1, 0])


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_lengths(op, lengths, direction, isa, threads):
    arguments = operands(op, 5, 4, 6, 11, 2 if direction == "both" else 1)
    options = dict(lengths=np.array(lengths), direction=direction)
    y, h, *_ = both(op, *arguments, **options)
    first = arguments[-1 if op == "gru" else -2]
    for b, length in enumerate(lengths):
        assert (y[length:, b] == 0).all()
        if length == 0:
            np.testing.assert_array_equal(h[:, b], first[:, b])


@pytest.mark.parametrize("op", CELLS)
def test_what_lies_behind_a_length_is_not_read(op, isa):
    arguments, lengths = operands(op, 5, 4, 6, 11, 2), np.array([2, 5, 0, 3])
    clean = getattr(functional, op)(*arguments, lengths=lengths, direction="both")
    for b, length in enumerate(lengths):
        arguments[0][length:, b] = np.nan
    assert_same_bits(getattr(functional, op)(*arguments, lengths=lengths, direction="both"), clean)


@pytest.mark.parametrize("op", CELLS)
def test_a_row_depends_on_itself_alone(op, isa, threads):
    arguments, lengths = operands(op, 70, 21, 6, 11, 2), np.arange(21) * 3
    together = getattr(functional, op)(*arguments, lengths=lengths, direction="both")
    for b in (0, 4, 20):
        alone = [arguments[0][:, b : b + 1], *arguments[1:5]]
        rest = [a if a is None or a.ndim < 3 else a[:, b : b + 1] for a in arguments[5:]]
        result = getattr(functional, op)(*alone, *rest, lengths=lengths[b : b + 1], direction="both")
        assert_same_bits(result, tuple(array[:, b : b + 1] for array in together))


@pytest.mark.parametrize("op", CELLS)
def test_batch_first_and_strides(op, isa):
    arguments = operands(op, 5, 4, 6, 11, 2)
    expected = getattr(functional, op)(*arguments, direction="both")
    turned = np.ascontiguousarray(arguments[0].swapaxes(0, 1))
    for x in (turned, arguments[0].swapaxes(0, 1)):
        y, *states = getattr(functional, op)(x, *arguments[1:], direction="both", batch_first=True)
        assert_same_bits((y.swapaxes(0, 1), *states), expected)
    wide = np.zeros((10, 8, 12), np.float32)
    wide[::2, ::2, ::2] = arguments[0]
    assert_same_bits(getattr(functional, op)(wide[::2, ::2, ::2], *arguments[1:], direction="both"), expected)


@pytest.mark.parametrize("op", CELLS)
def test_left_out(op, isa):
    x, weight_ih, weight_hh, *_ = operands(op, 5, 4, 6, 11)
    both(op, x, weight_ih, weight_hh)
    both(op, x, weight_ih, weight_hh, None, normal(CELLS[op] * 11))


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize(("L", "B", "width"), [(0, 3, 4), (3, 0, 4), (0, 0, 4), (3, 2, 0)])
def test_zero_sizes(op, L, B, width, isa):
    arguments = operands(op, L, B, width, 5)
    y, h, *_ = both(op, *arguments)
    assert y.shape == (L, B, 5)
    if L == 0:
        np.testing.assert_array_equal(h, arguments[-1 if op == "gru" else -2])


@pytest.mark.parametrize("op", CELLS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(op, value, isa):
    """NaN goes to the end of its row and to no other; an infinite input saturates the gates or makes NaN."""
    arguments = operands(op, 6, 3, 4, 17)
    arguments[0][2, 1, 3] = value
    with np.errstate(invalid="ignore"):
        y, *_ = both(op, *arguments)
    assert np.isfinite(y[:2]).all() and np.isfinite(y[:, [0, 2]]).all()
    assert not np.isnan(value) or np.isnan(y[2:, 1]).all()


@pytest.mark.parametrize("op", CELLS)
def test_large_values_saturate(op, isa):
    arguments = operands(op, 6, 3, 4, 17)
    arguments[0] *= 1e6
    both(op, *arguments)


@pytest.mark.parametrize("op", CELLS)
def test_packed_weights_and_out(op, isa):
    x, weight_ih, weight_hh, *rest = operands(op, 5, 4, 6, 11, 2)
    expected = getattr(functional, op)(x, weight_ih, weight_hh, *rest, direction="both")
    packs = [
        tuple(pack_weight(part, for_decode=few) for part in np.split(weight, 2))
        for weight, few in ((weight_ih, False), (weight_hh, True))
    ]
    out = np.full((5, 4, 44), np.nan, np.float32)[:, :, ::2]
    y, *states = getattr(functional, op)(x, *packs, *rest, direction="both", out=out)
    assert y is out
    assert_same_bits((np.array(y), *states), expected)


def test_the_states_that_come_in_are_left_alone(isa):
    arguments = operands("lstm", 5, 4, 6, 11)
    before = [array.copy() for array in arguments[-2:]]
    lstm(*arguments)
    np.testing.assert_array_equal(arguments[-2:], before)


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("x", normal(5, 6), ValueError),
        ("x", normal(5, 4, 6).astype(np.float64), TypeError),
        ("weight_ih", normal(44, 5), ValueError),
        ("weight_hh", normal(43, 11), ValueError),
        ("weight_hh", normal(44, 10), ValueError),
        ("weight_hr", normal(11, 11, 1), ValueError),
        ("weight_hr", normal(10, 11), ValueError),
        ("bias_ih", normal(43), ValueError),
        ("bias_hh", normal(45), ValueError),
        ("h_0", normal(1, 4, 10), ValueError),
        ("c_0", normal(2, 4, 11), ValueError),
        ("lengths", np.array([1, 2, 3]), ValueError),
        ("lengths", np.array([1, 2, 3, 6]), ValueError),
        ("lengths", np.array([1, 2, 3, -1]), ValueError),
        ("lengths", np.array([1.0, 2, 3, 4]), TypeError),
        ("direction", "sideways", ValueError),
        ("out", np.zeros((5, 4, 10), np.float32), ValueError),
        ("weight_hh", (pack_weight(normal(44, 11)),) * 2, ValueError),
    ],
)
def test_bad_input(argument, value, error):
    names = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "h_0", "c_0")
    arguments = dict(zip(names, operands("lstm", 5, 4, 6, 11), strict=True))
    with pytest.raises(error, match=argument):
        lstm(**arguments | {argument: value})


def test_weights_of_another_isa():
    isas = functional.available_isas()
    if len(isas) < 2:
        pytest.skip("one instruction set only")
    x, weight_ih, weight_hh, *_ = operands("gru", 5, 4, 6, 11)
    packed, before = (pack_weight(weight_hh),), functional.get_isa()
    try:
        functional.set_isa(next(name for name in isas if name != before))
        with pytest.raises(RuntimeError, match="the level in force"):
            gru(x, weight_ih, packed)
    finally:
        functional.set_isa(before)


def test_one_step_after_the_other_is_the_whole(isa):
    """The last states of a part are the first states of the next."""
    x, *weights = operands("lstm", 9, 4, 6, 11)[:5]
    whole = lstm(x, *weights)
    h = c = None
    parts = []
    for first, last in ((0, 1), (1, 5), (5, 9)):
        y, h, c = lstm(x[first:last], *weights, h_0=h, c_0=c)
        parts.append(y)
    assert_close(np.concatenate(parts), whole[0], 0)
    assert_same_bits((h, c), whole[1:])

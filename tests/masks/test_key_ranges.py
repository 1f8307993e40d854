"""`KeyRanges`: what the constructor refuses, from_dense and dense, and that nothing can change."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from transformer_fast.functional import KeyRanges

# Two lists: keys 0 and 1; key 0, and keys 3 and 4.
GOOD = {"list_of_row": [[[0, 0, 1]]], "begin": [0, 1, 3], "bounds": [[0, 2], [0, 1], [3, 5]], "Lk": 5}


def some(seed: int, *shape: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def test_a_built_one_says_what_its_lists_say():
    ranges = KeyRanges(**GOOD)
    dense = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(ranges.dense(), dense[None, None])
    assert (ranges.shape, ranges.n_lists, ranges.n_ranges, ranges.visible) == ((1, 1, 3, 5), 2, 3, 7)
    assert (ranges.list_of_row.dtype, ranges.begin.dtype, ranges.bounds.dtype) == (np.int32, np.int64, np.int32)
    assert eval(repr(ranges)) == ranges


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"Lk": -1}, ValueError, "Lk is -1"),
        ({"Lk": 2**31}, ValueError, "Lk is 2147483648"),
        ({"Lk": 5.0}, TypeError, "Lk is 5.0"),
        ({"Lk": 4}, ValueError, r"bounds\[2\] is \[3, 5\]; needed: 0 <= low and high <= Lk, 4"),
        ({"list_of_row": [[0, 0, 1]]}, ValueError, r"list_of_row has shape \(1, 3\)"),
        ({"list_of_row": [[[0, 0, 2]]]}, ValueError, "list_of_row holds 2; needed: 0 to 1"),
        ({"list_of_row": [[[0, -1, 1]]]}, ValueError, "list_of_row holds -1"),
        ({"list_of_row": [[[0.0, 1.0]]]}, TypeError, "list_of_row has dtype float64"),
        ({"begin": [0, 1, 2]}, ValueError, "begin does not rise from 0 to 3"),
        ({"begin": [1, 1, 3]}, ValueError, "begin does not rise"),
        ({"begin": [0, 4, 3]}, ValueError, "begin does not rise"),
        ({"begin": []}, ValueError, "begin does not rise"),
        ({"begin": [[0, 1, 3]]}, ValueError, "begin has shape"),
        ({"bounds": [0, 2, 5]}, ValueError, "bounds has shape"),
        ({"bounds": [[0, 2], [-1, 1], [3, 5]]}, ValueError, r"bounds\[1\] is \[-1, 1\]"),
        ({"bounds": [[0, 2], [1, 1], [3, 5]]}, ValueError, r"bounds\[1\] is \[1, 1\]; needed: low < high"),
        ({"bounds": [[0, 2], [0, 3], [3, 5]]}, ValueError, r"bounds\[2\] is \[3, 5\] after \[0, 3\] in one list"),
        ({"bounds": [[0, 2], [3, 5], [0, 1]]}, ValueError, r"bounds\[2\] is \[0, 1\] after \[3, 5\] in one list"),
        ({"bounds": np.array([[0, 2], [0, 1], [3, 2**40]], np.uint64)}, ValueError, "bounds reaches 1099511627776"),
    ],
)
def test_the_constructor_names_what_is_wrong(changed, error, message):
    with pytest.raises(error, match=message):
        KeyRanges(**{**GOOD, **changed})


def test_lists_may_be_empty():
    ranges = KeyRanges([[[0, 2, 1, 3]]], [0, 0, 1, 1, 1], [[2, 3]], 3)
    np.testing.assert_array_equal(ranges.dense()[0, 0], [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert ranges.visible == 1
    nothing = KeyRanges([[[]]], [0], [], 0)
    assert (nothing.shape, nothing.n_lists, nothing.visible, nothing.dense().shape) == (
        (1, 1, 0, 0),
        0,
        0,
        (1, 1, 0, 0),
    )


@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 13), (3, 9, 8), (2, 3, 40, 17), (1, 2, 5, 64), (0, 4), (4, 0), (2, 0, 3, 3), (64, 65)]
)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_from_dense_and_back(shape, share):
    mask = some(0, *shape, share=share)
    ranges = KeyRanges.from_dense(mask)
    wide = mask.reshape(*(1,) * (4 - mask.ndim), *shape) if mask.ndim != 3 else mask[:, None]
    assert ranges.shape == wide.shape
    np.testing.assert_array_equal(ranges.dense(), wide)
    assert ranges.visible == mask.sum()
    assert KeyRanges(ranges.list_of_row, ranges.begin, ranges.bounds, ranges.Lk) == ranges


def test_from_dense_shares_equal_rows_and_reads_any_strides():
    mask = np.repeat(some(1, 5, 50), 20, axis=0)
    ranges = KeyRanges.from_dense(mask)
    assert ranges.n_lists == 5
    np.testing.assert_array_equal(ranges.list_of_row[0, 0], np.repeat(np.arange(5), 20))
    assert KeyRanges.from_dense(np.asfortranarray(mask)) == ranges
    assert KeyRanges.from_dense(np.repeat(mask, 2, axis=1)[::-1, ::2]) == KeyRanges.from_dense(mask[::-1].copy())
    assert KeyRanges.from_dense(np.broadcast_to(mask, (4, 6, 100, 50))).n_lists == 5


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones((3, 3)), TypeError), (np.ones(3, bool), ValueError), (np.ones((1,) * 5, bool), ValueError)],
)
def test_from_dense_refuses_what_is_no_mask(mask, error):
    with pytest.raises(error, match="mask has"):
        KeyRanges.from_dense(mask)


def test_nothing_can_change():
    given = {name: np.asfortranarray(value) if name != "Lk" else value for name, value in GOOD.items()}
    ranges = KeyRanges(**given)
    given["bounds"][:] = 0
    given["list_of_row"][:] = 0
    assert ranges == KeyRanges(**GOOD)
    for name in ("list_of_row", "begin", "bounds"):
        array = getattr(ranges, name)
        assert array.flags.c_contiguous
        with pytest.raises(ValueError):
            array[...] = 0
        with pytest.raises(ValueError):
            array.flags.writeable = True
    for name in (*GOOD, "visible", "other"):
        with pytest.raises(AttributeError):
            setattr(ranges, name, 1)


def test_equality_hash_copy_and_pickle():
    ranges = KeyRanges(**GOOD)
    others = [KeyRanges(**{**GOOD, "Lk": 6}), KeyRanges(**{**GOOD, "list_of_row": [[[0, 1, 1]]]})]
    for again in (KeyRanges(**GOOD), copy.deepcopy(ranges), copy.copy(ranges), pickle.loads(pickle.dumps(ranges))):
        assert again == ranges and hash(again) == hash(ranges)
    assert all(other != ranges for other in others) and ranges != "ranges"


def test_a_long_one_says_its_sizes():
    assert repr(KeyRanges.from_dense(np.tri(500, dtype=bool))) == (
        "<KeyRanges of shape (1, 1, 500, 500), 500 lists, 500 ranges, 125250 visible pairs>"
    )


def test_packed_sequences():
    """Rows one after the other, keys within each sequence; what varlen_attention takes."""
    masks = [some(seed, Lq, Lk) for seed, (Lq, Lk) in enumerate([(3, 5), (0, 2), (4, 0), (2, 7)])]
    packed = KeyRanges.packed([KeyRanges.from_dense(mask) for mask in masks])
    assert packed.shape == (1, 1, 9, 7) and packed.visible == sum(mask.sum() for mask in masks)
    expected = np.concatenate([np.pad(mask, ((0, 0), (0, 7 - mask.shape[1]))) for mask in masks])
    np.testing.assert_array_equal(packed.dense()[0, 0], expected)
    assert KeyRanges(packed.list_of_row, packed.begin, packed.bounds, packed.Lk) == packed
    assert KeyRanges.packed([]).shape == (1, 1, 0, 0)
    with pytest.raises(ValueError, match=r"sequences\[1\] has shape \(2, 1, 3, 3\); needed: \(1, 1, Lq, Lk\)"):
        KeyRanges.packed([KeyRanges(**GOOD), KeyRanges.from_dense(some(0, 2, 3, 3))])


@pytest.mark.parametrize("rows", [np.array([5, 0, 0, 3]), np.zeros(0, int), slice(2, 5), slice(0)], ids=str)
def test_some_rows(rows):
    mask = some(0, 2, 3, 6, 9)
    found = KeyRanges.from_dense(mask).of_rows(rows)
    np.testing.assert_array_equal(found.dense(), mask[:, :, rows])
    assert found.visible == mask[:, :, rows].sum()
    with pytest.raises(ValueError):
        found.list_of_row[...] = 0

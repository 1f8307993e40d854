"""Structures of masks against formulas over (i, j), alone and combined at random; arguments, offsets, time and memory.

CASES has the one list of structures: each with a function of (i, j) that says the same without ranges. A new structure
gets its line there, and everything below holds for it.
"""

from __future__ import annotations

import copy
import pickle
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import sparse

from transformer_fast import masks
from transformer_fast.masks import (
    KeyRanges,
    block_local,
    blocks,
    causal,
    documents,
    global_tokens,
    prefix,
    random_blocks,
    rows,
    strided,
    tree,
    window,
)

LONGEST = 200


def draw(seed: int, *shape: int, most: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape)


def heads(x, ndim: int = 0) -> np.ndarray:
    """A number or an array with leading axes () / (B,) / (B, H), as (B, H, 1, 1) + its own axes at the end."""
    x = np.asarray(x)
    lead = x.ndim - ndim
    return x.reshape(*x.shape[:lead], *(1,) * (2 - lead), 1, 1, *x.shape[lead:])


def looked_up(x, at: np.ndarray) -> np.ndarray:
    """x (..., L) at positions `at`: (B or 1, H or 1) and the shape of `at`."""
    x = np.asarray(x)
    return x.reshape(*(1,) * (3 - x.ndim), *x.shape)[..., at] if x.ndim != 2 else x[:, None][..., at]


def ancestors(parents, past: int):
    def seen(i, j):
        result = np.broadcast_to(j < past, np.broadcast_shapes(i.shape, j.shape)).copy()
        for row, node in enumerate(i[:, 0]):
            while node >= 0:
                result[row] |= (j == past + node)[0]
                node = parents[node]
        return result

    return seen


def in_table(table: np.ndarray, size: tuple[int, int]):
    table = table if table.ndim != 3 else table[:, None]
    return lambda i, j: table[..., i // size[0], j // size[1]]


def banded(left, right, dilation=1, offset=0):
    def seen(i, j):
        d = j - (i + heads(offset))
        a, b = heads(left), heads(right)
        near = ((a < 0) | (d >= -a * heads(dilation))) & ((b < 0) | (d <= b * heads(dilation)))
        return near & (d % heads(dilation) == 0)

    return seen


def is_global(positions):
    positions = np.asarray(positions)
    if positions.ndim == 2:
        positions = positions[:, None]

    def member(x):
        return (x[..., None] == positions.reshape(*positions.shape[:-1], 1, 1, positions.shape[-1])).any(-1)

    return member


DOCUMENTS = np.sort(draw(0, LONGEST, most=9))
PIECES = draw(1, 2, LONGEST, most=4) - 1
KEY_PIECES = draw(2, 2, 3, LONGEST, most=4) - 1
PARENTS = np.array([-1, *(draw(3, most=n + 1) for n in range(LONGEST - 1))])
# Nodes in another order: a node may come before its parent.
_order = np.random.default_rng(4).permutation(LONGEST)
SHUFFLED = np.empty(LONGEST, int)
SHUFFLED[_order] = np.where(PARENTS >= 0, _order[PARENTS], -1)
CHAINS = np.where(np.arange(LONGEST) % 7 == 0, np.maximum(np.arange(LONGEST) - 20, -1), np.arange(LONGEST) - 1)
# Numbered from the leaves on: a node's parent has a larger number.
BACKWARDS = np.where(CHAINS < 0, -1, LONGEST - 1 - CHAINS)[::-1]
TABLE = draw(5, 2, 3, 13, 20).astype(bool)
TOKENS = draw(6, LONGEST, LONGEST, most=3) == 0
SOME = sparse.random_array((LONGEST, LONGEST), density=0.1, rng=np.random.default_rng(7), format="csr")


def index_arrays(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As torch's BlockMask holds a table: the visible columns first, in order."""
    return table.sum(-1), np.argsort(~table, axis=-1, kind="stable")


CASES = {
    "causal": (causal(), lambda i, j: j <= i),
    "causal offset": (causal(-7), lambda i, j: j <= i - 7),
    "causal heads": (causal([[3, -2, 50]]), lambda i, j: j <= i + heads([[3, -2, 50]])),
    "window": (window(5, 3), lambda i, j: (j >= i - 5) & (j <= i + 3)),
    "window of itself": (window(0, 0), lambda i, j: i == j),
    "window left": (window(-1, 4, offset=9), lambda i, j: j <= i + 9 + 4),
    "window right": (window(2, -1, offset=-9), lambda i, j: j >= i - 9 - 2),
    "window of all": (window(-1, -1), banded(-1, -1)),
    "window dilated": (window(4, 2, dilation=3), banded(4, 2, 3)),
    "window dilated left": (window(-1, 2, dilation=4, offset=5), banded(-1, 2, 4, 5)),
    "window dilated right": (window(7, -1, dilation=3, offset=-30), banded(7, -1, 3, -30)),
    "window heads": (
        window([[1, 20, -1]], [[2], [0]], dilation=[[1, 5, 2]], offset=[0, 3]),
        banded([[1, 20, -1]], [[2], [0]], [[1, 5, 2]], [0, 3]),
    ),
    "prefix": (prefix(6), lambda i, j: (j < 6) & (i >= 0)),
    "prefix of none": (prefix(0), lambda i, j: (j < 0) & (i >= 0)),
    "prefix batch": (prefix([150, 3]), lambda i, j: (j < heads([150, 3])) & (i > -1)),
    "documents": (documents(DOCUMENTS), lambda i, j: DOCUMENTS[i] == DOCUMENTS[j]),
    "documents cu_seqlens": (
        documents(cu_seqlens=np.concatenate([[0], np.cumsum(np.bincount(DOCUMENTS))])),
        lambda i, j: DOCUMENTS[i] == DOCUMENTS[j],
    ),
    "documents pieces": (
        documents(PIECES, key_ids=KEY_PIECES),
        lambda i, j: (looked_up(PIECES, i) == looked_up(KEY_PIECES, j)) & (looked_up(PIECES, i) >= 0),
    ),
    "documents of keys": (
        documents([5] * 100 + [7] * 100, key_cu_seqlens=[0, 0, 1, 1, 2, 3, 50, 60, LONGEST]),
        lambda i, j: np.where(i < 100, (j >= 3) & (j < 50), j >= 60),
    ),
    "global_tokens": (global_tokens(3), lambda i, j: (i < 3) | (j < 3)),
    "global_tokens of positions": (
        global_tokens([190, 4, 5, 5, 77, 10**6]),
        lambda i, j: is_global([4, 5, 77, 190])(i) | is_global([4, 5, 77, 190])(j),
    ),
    "global_tokens as keys": (
        global_tokens([[0, -1], [30, 9]], as_query=False),
        lambda i, j: is_global([[0, 0], [30, 9]])(j) & (i >= 0),
    ),
    "global_tokens as queries": (
        global_tokens(np.arange(LONGEST) % 11 == 4, as_key=False),
        lambda i, j: (i % 11 == 4) & (j >= 0),
    ),
    "strided": (strided(7), lambda i, j: (i - j) % 7 == 0),
    "strided heads": (
        strided([[1, 300, 9]], [2, -5]),
        lambda i, j: (i + heads([2, -5]) - j) % heads([[1, 300, 9]]) == 0,
    ),
    "block_local": (block_local(16), lambda i, j: i // 16 == j // 16),
    "block_local neighbours": (
        block_local([3, 50], neighbours=([[1, 0, 2]], 1)),
        lambda i, j: (
            (j // heads([3, 50]) >= i // heads([3, 50]) - heads([[1, 0, 2]]))
            & (j // heads([3, 50]) <= i // heads([3, 50]) + 1)
        ),
    ),
    "tree": (tree(PARENTS[:-40], past=40), ancestors(PARENTS, 40)),
    "tree shuffled": (tree(SHUFFLED), ancestors(SHUFFLED, 0)),
    "tree of chains": (tree(CHAINS), ancestors(CHAINS, 0)),
    "tree backwards": (tree(BACKWARDS), ancestors(BACKWARDS, 0)),
    "blocks": (blocks(TABLE[0, 0], (16, 10)), in_table(TABLE[0, 0], (16, 10))),
    "blocks batch": (blocks(TABLE[:, 0], (17, 11)), in_table(TABLE[:, 0], (17, 11))),
    "blocks heads": (blocks(TABLE, (16, 10)), in_table(TABLE, (16, 10))),
    "blocks csr": (blocks(sparse.csr_array(TABLE[0, 1]), (16, 10)), in_table(TABLE[0, 1], (16, 10))),
    "blocks csr heads": (
        blocks([[sparse.csr_array(head) for head in entry] for entry in TABLE], (16, 10)),
        in_table(TABLE, (16, 10)),
    ),
    "blocks csr batch": (
        blocks([sparse.csr_array(entry[0]) for entry in TABLE], (16, 10)),
        in_table(TABLE[:, 0], (16, 10)),
    ),
    "blocks bsr": (blocks(sparse.bsr_array(SOME, blocksize=(20, 25)), 1), in_table(SOME.toarray() != 0, (1, 1))),
    "blocks of index arrays": (blocks(index_arrays(TABLE), (16, 10)), in_table(TABLE, (16, 10))),
    "blocks with a mask": (
        blocks(TABLE[0, 0] & ~TABLE[0, 1], (16, 10), full=index_arrays(TABLE[0, 1]), mask=causal(4)),
        lambda i, j: TABLE[0, 1][i // 16, j // 10] | (TABLE[0, 0][i // 16, j // 10] & (j <= i + 4)),
    ),
    "rows": (rows(TOKENS), lambda i, j: TOKENS[i, j]),
}


def expected(case: str, Lq: int, Lk: int, offset: int = 0) -> np.ndarray:
    i, j = np.arange(Lq)[:, None] + offset, np.arange(Lk)[None]
    seen = CASES[case][1](i, j)
    return seen.reshape(*(1,) * (4 - seen.ndim), *seen.shape)


def check_ranges(ranges: KeyRanges, dense: np.ndarray) -> None:
    """The rules of KeyRanges, which the constructor checks, and the mask that they say."""
    KeyRanges(ranges.list_of_row, ranges.begin, ranges.bounds, ranges.Lk)
    assert (ranges.list_of_row.dtype, ranges.begin.dtype, ranges.bounds.dtype) == (np.int32, np.int64, np.int32)
    assert all(
        x.flags.c_contiguous and not x.flags.writeable for x in (ranges.list_of_row, ranges.begin, ranges.bounds)
    )
    found = ranges.dense()
    assert found.shape == ranges.shape
    np.testing.assert_array_equal(*np.broadcast_arrays(found, dense))
    assert ranges.visible == found.sum()


def test_every_structure_has_a_case():
    functions = {name for name in masks.__all__ if name.islower()} - {"random_blocks"}
    assert functions == {case.split()[0] for case in CASES}


@pytest.mark.parametrize("lengths", [(1, 1), (0, 5), (5, 0), (1, 160), (60, 61), (160, 160), (97, 160), (160, 33)])
@pytest.mark.parametrize("case", CASES)
def test_structure_is_its_formula(case, lengths):
    mask = CASES[case][0]
    dense = expected(case, *lengths)
    check_ranges(mask.ranges(*lengths), dense)
    check_ranges((~mask).ranges(*lengths), ~dense)
    np.testing.assert_array_equal(*np.broadcast_arrays(mask.dense(*lengths), dense))


@pytest.mark.parametrize("case", CASES)
def test_offset_moves_the_queries(case):
    mask = CASES[case][0]
    for Lq, offset in ((1, 159), (40, 100), (3, 0)):
        check_ranges(mask.ranges(Lq, 160, offset=offset), expected(case, Lq, 160, offset))


@pytest.mark.parametrize("first", CASES)
def test_every_two_structures_combine(first):
    lengths = 70, 93
    a = expected(first, *lengths)
    for second in CASES:
        b = expected(second, *lengths)
        check_ranges((CASES[first][0] & CASES[second][0]).ranges(*lengths), a & b)
        check_ranges((CASES[first][0] | CASES[second][0]).ranges(*lengths), a | b)
        check_ranges((~CASES[first][0] & CASES[second][0]).ranges(*lengths), ~a & b)


def composed(rng: np.random.Generator, depth: int, Lq: int, Lk: int) -> tuple[masks.Mask, np.ndarray]:
    if depth == 0 or rng.random() < 0.2:
        case = rng.choice(list(CASES))
        return CASES[case][0], expected(case, Lq, Lk)
    (a, dense_a), (b, dense_b) = (composed(rng, depth - 1, Lq, Lk) for _ in range(2))
    if rng.random() < 0.3:
        a, dense_a = ~a, ~dense_a
    return (a & b, dense_a & dense_b) if rng.random() < 0.5 else (a | b, dense_a | dense_b)


def test_a_table_of_no_columns():
    """A BlockMask of no keys, by its arrays."""
    empty = np.zeros((2, 1, 3), int), np.zeros((2, 1, 3, 0), int)
    assert masks.blocks(empty, 4).ranges(12, 0).shape == (2, 1, 12, 0)


@pytest.mark.parametrize("seed", range(60))
def test_random_compositions(seed):
    rng = np.random.default_rng(seed)
    Lq, Lk = rng.integers(1, 161, 2)
    mask, dense = composed(rng, 4, int(Lq), int(Lk))
    check_ranges(mask.ranges(Lq, Lk), dense)
    if "<" not in repr(mask):
        assert eval(repr(mask), vars(masks).copy()) == mask


# random_blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "count"), [({"fraction": 0.3}, 4), ({"count": 3}, 3), ({"count": 99}, 13)])
def test_random_blocks_sees_whole_blocks_of_the_number_asked_for(arguments, count):
    mask = random_blocks((20, 13), **arguments, seed=5)
    dense = mask.dense(160, 160)[0, 0]
    check_ranges(mask.ranges(160, 160), dense)
    table = dense[::20, ::13]
    np.testing.assert_array_equal(dense, table.repeat(20, axis=0).repeat(13, axis=1)[:160, :160])
    assert (table.sum(axis=1) == count).all()
    assert count == 13 or len(np.unique(table, axis=0)) > 1, "rows are drawn apart"


def test_random_blocks_depends_on_its_arguments_alone():
    mask = random_blocks(8, 0.25, seed=[[1, 2]])
    dense = mask.dense(400, 400)
    np.testing.assert_array_equal(dense, random_blocks((8, 8), fraction=0.25, seed=[[1, 2]]).dense(400, 400))
    assert (dense[0, 0] != dense[0, 1]).any()
    np.testing.assert_array_equal(dense[:, :, :130], mask.dense(130, 400))
    np.testing.assert_array_equal(dense[:, :, 130:300], mask.dense(170, 400, offset=130))
    # Columns 5, 8, ... of a stream that NumPy promises not to change.
    first = random_blocks(1, count=3, seed=0).ranges(2, 16).dense()[0, 0]
    numbers = np.random.PCG64(0).random_raw(32).reshape(2, 16)
    np.testing.assert_array_equal(first, numbers <= np.sort(numbers, axis=1)[:, 2:3])


def test_random_blocks_draws_in_parts_what_it_draws_at_once(monkeypatch):
    dense = random_blocks(1, count=2, seed=3).dense(50, 60)
    monkeypatch.setattr("transformer_fast.masks.tables._DRAWN", 130)
    np.testing.assert_array_equal(random_blocks(1, count=2, seed=3).dense(50, 60), dense)


def test_random_blocks_of_no_and_of_all_blocks():
    assert not random_blocks(8, 0.0, seed=0).dense(30, 30).any()
    assert not random_blocks(8, count=0, seed=0).dense(30, 30).any()
    assert random_blocks(8, 1.0, seed=0).dense(30, 30).all()
    assert random_blocks(8, 1e-9, seed=0).dense(8, 80).sum() == 8 * 8


# masks as objects ----------------------------------------------------------------------------------------------------

SMALL = [
    *(mask for mask, _ in CASES.values() if "<" not in repr(mask)),
    random_blocks((3, 4), 0.5, seed=[1, 2]),
    random_blocks(8, count=2, seed=0),
    (causal() | prefix(3)) & ~window(2, 2) & ~(strided(4) | block_local(2)),
]


@pytest.mark.parametrize("mask", SMALL, ids=repr)
def test_repr_makes_the_mask_again(mask):
    again = eval(repr(mask), vars(masks).copy())
    assert again == mask and hash(again) == hash(mask) and repr(again) == repr(mask)


# Cases that say the same mask in different ways.
SAME = [{"documents", "documents cu_seqlens"}, {"blocks heads", "blocks csr heads", "blocks of index arrays"}]


@pytest.mark.parametrize("case", CASES)
def test_masks_are_copied_pickled_and_compared(case):
    mask = CASES[case][0]
    for again in (copy.copy(mask), copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        assert again == mask and hash(again) == hash(mask)
    same = {other for other in CASES if CASES[other][0] == mask}
    assert same == next((names for names in SAME if case in names), {case})
    assert mask != ~mask and mask != (mask & mask) and (mask & mask) != (mask | mask)


def test_order_of_parentheses_does_not_matter():
    a, b, c = causal(), window(1, 1), prefix(2)
    assert (a & b) & c == a & (b & c) and repr(a & (b & c)) == "causal() & window(1, 1) & prefix(2)"
    assert (a | b) | c == a | (b | c) and a & b != b & a
    assert repr(a & (b | c)) == "causal() & (window(1, 1) | prefix(2))"
    assert ~~a == a and repr(~(a & b)) == "~(causal() & window(1, 1))"


def test_long_arguments_are_told_by_their_shape():
    assert repr(documents(np.arange(3000) // 2 % 1000)) == "documents(<integers (3000,)>)"
    assert repr(documents(np.arange(3000) // 1000)) == "documents(cu_seqlens=[0, 1000, 2000, 3000])"
    assert repr(documents(np.arange(8000) // 2)) == "documents(cu_seqlens=<integers (4001,)>)"
    assert repr(rows(np.eye(500, dtype=bool))).startswith("rows(<KeyRanges of shape (1, 1, 500, 500), ")


@pytest.mark.parametrize("case", CASES)
def test_masks_cannot_be_changed(case):
    mask = CASES[case][0]
    for name in mask.__slots__ or type(mask).__mro__[1].__slots__:
        with pytest.raises((AttributeError, TypeError)):
            setattr(mask, name, 1)


def test_arguments_are_copied():
    ids, parents, table = np.array([0, 0, 1]), np.array([-1, 0, 1]), np.eye(3, dtype=bool)
    made = [documents(ids), tree(parents), blocks(table, 1), global_tokens(ids)]
    before = [mask.dense(3, 3) for mask in made]
    ids[:], parents[:], table[:] = 2, -1, True
    for mask, dense in zip(made, before, strict=True):
        np.testing.assert_array_equal(mask.dense(3, 3), dense)


def test_masks_are_for_operators_of_their_own():
    for wrong in (lambda: causal() and prefix(1), lambda: not causal(), lambda: causal() & 1, lambda: 1 | causal()):
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: causal() & np.eye(3, dtype=bool), lambda: np.eye(3, dtype=bool) | causal()):
        with pytest.raises(TypeError):
            wrong()


def test_bools_are_no_numbers():
    for wrong in (
        lambda: global_tokens(True),
        lambda: random_blocks(2, count=True, seed=0),
        lambda: causal(True),
        lambda: causal().dense(True, 3),
    ):
        with pytest.raises(TypeError, match="needed: (an integer|integers)"):
            wrong()


def test_many_threads_compile_one_mask():
    mask = (window(20, 3) | global_tokens(5)) & documents(DOCUMENTS)
    dense = mask.dense(LONGEST, LONGEST)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: mask.dense(LONGEST, LONGEST), range(20)):
            np.testing.assert_array_equal(found, dense)


def test_lists_are_shared():
    assert block_local(64).ranges(4096, 4096).n_lists == 64
    assert strided(32).ranges(4096, 4096).n_ranges == 4096
    both = (block_local(64) | blocks(np.eye(64, dtype=bool), 64)).ranges(4096, 4096)
    assert (both.n_lists, both.n_ranges) == (64, 64)
    heads = causal([[0, 5, 0, 5]]).ranges(100, 100)
    assert (heads.shape, heads.n_lists) == ((1, 4, 100, 100), 200)
    # The shape follows from the arguments, whether their values are the same or not.
    assert prefix([3, 3]).ranges(4, 4).shape == (2, 1, 4, 4)


# wrong arguments -----------------------------------------------------------------------------------------------------

CSC = sparse.csc_array(np.eye(3))
WRONG = {
    "causal(1.5)": "offset has dtype float64",
    "causal('a')": "offset has dtype",
    "causal(2**31)": "offset is 2147483648",
    "causal(np.zeros((1, 1, 1), int))": r"offset has shape \(1, 1, 1\)",
    "causal([])": r"offset has shape \(0, 1\)",
    "causal([[1], [1, 2]])": "offset has rows of different lengths",
    "window(-2, 0)": "left is -2",
    "window(0, -2)": "right is -2",
    "window(1, 1, dilation=0)": "dilation is 0",
    "prefix(-1)": "n is -1",
    "prefix([3, -1])": "n is -1",
    "strided(0)": "stride is 0",
    "block_local(0)": "size is 0",
    "block_local(2, neighbours=-1)": "neighbours is -1",
    "block_local(2, neighbours=(1, 2, 3))": "neighbours is",
    "documents()": "ids and cu_seqlens are both None",
    "documents([0], cu_seqlens=[0, 1])": "ids and cu_seqlens are both given",
    "documents([0], key_ids=[0], key_cu_seqlens=[0, 1])": "key_ids and key_cu_seqlens are both given",
    "documents([0.5])": "ids has dtype float64",
    "documents(0)": r"ids has shape \(\)",
    "documents(cu_seqlens=[1, 2])": "cu_seqlens does not rise from 0",
    "documents(cu_seqlens=[0, 2, 1])": "cu_seqlens does not rise from 0",
    "documents(cu_seqlens=[[0, 2]])": "cu_seqlens has shape",
    "documents([0], key_cu_seqlens=[])": "key_cu_seqlens has shape",
    "documents(np.zeros(5, int)).ranges(6, 5)": "ids has 5 positions; needed: one for each query from 0 to 6",
    "documents(np.zeros(5, int)).ranges(5, 6)": "ids has 5 positions; needed: one for each key",
    "documents(np.zeros(5, int), key_ids=[1]).ranges(5, 6)": "key_ids has 1 positions",
    "documents(np.zeros(5, int)).ranges(1, 5, offset=-1)": "query from -1",
    "global_tokens(-1)": "positions is -1",
    "global_tokens([-2])": "positions holds -2",
    "global_tokens([2**31])": "positions holds 2147483648",
    "global_tokens([0.5])": "positions has dtype float64",
    "global_tokens(2, as_query=1)": "as_query is 1",
    "global_tokens(2, as_query=False, as_key=False)": "as_query and as_key are False",
    "tree([0])": "node 0 into a circle",
    "tree([-1, 2, 3, 1])": "node 1 into a circle",
    "tree([-1, 2])": "parents holds 2",
    "tree([-2])": "parents holds -2",
    "tree([-1], past=-1)": "past is -1",
    "tree([-1, 0]).ranges(3, 2)": "parents has 2 positions",
    "tree([-1, 0], past=2).ranges(2, 5)": "parents has 2 nodes and past is 2",
    "blocks(np.eye(3), 2)": "array has dtype float64",
    "blocks(np.ones(3, bool), 2)": r"array has shape \(3,\)",
    "blocks(np.eye(3, dtype=bool), 0)": "size is 0",
    "blocks(np.eye(3, dtype=bool), (2, 2, 2))": "size is",
    "blocks(np.eye(3, dtype=bool), 2, full=np.eye(3, dtype=bool))": "full is given and mask is None",
    "blocks(np.eye(3, dtype=bool), 2, mask=np.eye(6, dtype=bool))": "mask is a ndarray",
    "blocks(CSC, 2)": "format csc",
    "blocks([[CSC.tocsr()], [CSC.tocsr(), CSC.tocsr()]], 2)": r"lists of \[1, 2\] arrays",
    "blocks([CSC.tocsr(), sparse.csr_array((2, 3))], 2)": "needed: one shape",
    "blocks((np.ones(3, int), np.ones((2, 2), int)), 2)": "kv_num_blocks of shape",
    "blocks((np.ones(3), np.ones((3, 2), int)), 2)": "kv_num_blocks of array has dtype",
    "blocks(([3], [[0, 1]]), 2)": "kv_num_blocks of array has 3",
    "blocks(([1], [[2, 1]]), 2)": "kv_indices of array holds 2",
    "blocks(([1],), 2)": "array is a tuple of 1",
    "blocks(np.eye(3, dtype=bool), 2).ranges(7, 6)": "the table has 3 rows of blocks of 2 queries",
    "blocks(np.eye(3, dtype=bool), 2).ranges(6, 7)": "the table has 3 columns of blocks of 2 keys",
    "random_blocks(8, seed=0)": "fraction is None and count is None",
    "random_blocks(8, 0.5, count=1, seed=0)": "fraction is 0.5 and count is 1",
    "random_blocks(8, 1.5, seed=0)": "fraction is 1.5",
    "random_blocks(8, count=-1, seed=0)": "count is -1",
    "random_blocks(8, count=1, seed=-1)": "seed is -1",
    "random_blocks(8, count=1, seed=0).ranges(1, 8, offset=-1)": "offset is -1",
    "rows(np.eye(3))": "mask has dtype float64",
    "causal().ranges(-1, 3)": "Lq is -1",
    "causal().ranges(1, 2**31)": "Lk is 2147483648",
    "causal().ranges(1.0, 3)": "Lq is 1.0",
    "(prefix([1, 2]) & prefix([1, 2, 3])).ranges(2, 2)": "batch, heads",
    "window([1, 2], [[1], [2], [3]]).ranges(2, 2)": "batch, heads",
}


@pytest.mark.parametrize("call", WRONG)
def test_wrong_argument_is_named(call):
    with pytest.raises((TypeError, ValueError), match=WRONG[call]):
        eval(call, {**vars(masks), "np": np, "sparse": sparse, "CSC": CSC})


# time and memory -----------------------------------------------------------------------------------------------------


def lengths_of_documents(n: int, L: int) -> np.ndarray:
    return np.concatenate([[0], np.sort(np.random.default_rng(0).choice(np.arange(1, L), n - 1, replace=False)), [L]])


LONG = {
    "window and global": window(256, 256) | global_tokens(64),
    "causal documents": causal() & documents(cu_seqlens=lengths_of_documents(64, 131072)),
    "random": random_blocks(64, 0.02, seed=0) | block_local(64),
    "strided": strided(8192) & causal(),
    "chain": tree(np.arange(131072) - 1),
    "chain backwards": tree(np.append(np.arange(1, 131072), -1)),
    "everything but": ~(window(128, 128) & documents(cu_seqlens=lengths_of_documents(64, 131072))),
}


@pytest.mark.alone
@pytest.mark.parametrize("name", LONG)
def test_long_mask_takes_little_time_and_memory(name):
    """131,072 x 131,072 is 16 GiB of bool. Asked for: 64 MB and 1 s up to 262,144 ranges, and in proportion beyond."""
    ranges = 131072 * 131072 // 8192 // 2 if name == "strided" else 2 * 131072
    tracemalloc.start()
    started = time.perf_counter()
    found = LONG[name].ranges(131072, 131072)
    seconds = time.perf_counter() - started
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.n_ranges <= ranges * 1.07
    assert most < 64e6 * max(1, ranges / 2**18)
    assert seconds < max(1, ranges / 2**18)

"""Structures that an array over positions defines: documents, tree.

The arrays may be longer than the sequence, not shorter: the position of a query is its row plus the `offset` of
`ranges`. Leading axes (B,) or (B, H) give each batch entry, or each head of it, its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.functional import arrays
from transformer_fast.functional.key_ranges import REPR_ELEMENTS
from transformer_fast.masks import arguments
from transformer_fast.masks.arguments import PerHead
from transformer_fast.masks.mask import Mask, Structure
from transformer_fast.masks.row_lists import RowLists, of_ranges


def _runs(x: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin, and at last the length."""
    changes = np.flatnonzero(x[1:] != x[:-1]) + 1
    return np.concatenate([np.zeros(min(len(x), 1), np.int64), changes, [len(x)]])


# documents -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Documents(Structure):
    ids: PerHead
    key_ids: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, ids: np.ndarray, key_ids: np.ndarray) -> RowLists:
        ids = arguments.part(ids, first, Lq, "ids", "query")
        key_ids = arguments.part(key_ids, 0, Lk, "key_ids" if self.key_ids != self.ids else "ids", "key")
        key_runs = _runs(key_ids)
        low, high, names = key_runs[:-1], key_runs[1:], key_ids[key_runs[:-1]]
        low, high, names = (x[names >= 0] for x in (low, high, names))
        documents, of = np.unique(names, return_inverse=True)
        # A list for each document that has keys, and an empty one for queries without.
        n = len(documents)
        runs = _runs(ids)
        own = ids[runs[:-1]]
        at = np.searchsorted(documents, own)
        found = at < n
        found[found] = documents[at[found]] == own[found]
        list_of_row = np.repeat(np.where(found, at, n), np.diff(runs))
        return of_ranges(list_of_row, n + 1, of, low, high, Lk)

    def __repr__(self) -> str:
        texts = [_ids_text("ids", self.ids, "")]
        if self.key_ids != self.ids:
            texts.append(_ids_text("key_ids", self.key_ids, "key_"))
        return f"documents({', '.join(texts).removeprefix('ids=')})"


def _ids_text(name: str, ids: PerHead, side: str) -> str:
    """The argument that gives these ids: cu_seqlens where documents follow each other and that is shorter."""
    array = ids.array
    if array.shape[:2] == (1, 1):
        lengths = _runs(array[0, 0])
        values = array[0, 0][lengths[:-1]]
        if len(lengths) < array.shape[2] and np.array_equal(values, np.arange(len(values))):
            if len(lengths) > REPR_ELEMENTS:
                return f"{side}cu_seqlens=<integers ({len(lengths)},)>"
            return f"{side}cu_seqlens={lengths.tolist()}"
    return f"{name}={ids!r}"


def documents(ids: Any = None, *, cu_seqlens: Any = None, key_ids: Any = None, key_cu_seqlens: Any = None) -> Mask:
    """Query i sees key j if both are of the same document: ids[i] == key_ids[j], and the id is not negative.

    Several texts in one row of a batch so do not see each other. A negative id is padding: it sees nothing, and nobody
    sees it. A document may lie in several pieces.

    ids: (L,), (B, L) or (B, H, L) integers, the document of each position.
    cu_seqlens: instead of ids, (n + 1,) integers that rise from 0: document k has the positions cu_seqlens[k] to
        cu_seqlens[k + 1], as in varlen_attention.
    key_ids, key_cu_seqlens: the same of the keys; those of the queries by default.

    Raises:
        TypeError: an array is not of integers.
        ValueError: ids and cu_seqlens are both given, or none of them; cu_seqlens does not rise from 0; key_ids and
            key_cu_seqlens are both given. `ranges` asks for more positions than there are ids.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.documents([0, 0, 1, 1, 1, -1]), 6, 6))
        ##····
        ##····
        ··###·
        ··###·
        ··###·
        ······
        >>> print(tf.visualize.mask_text(tf.masks.documents(cu_seqlens=[0, 1, 3], key_cu_seqlens=[0, 4, 5]), 3, 5))
        ####·
        ····#
        ····#
    """
    of_queries = _document_ids(ids, cu_seqlens, "", "exactly one of them")
    if of_queries is None:
        raise ValueError("ids and cu_seqlens are both None; needed: one of them")
    of_keys = _document_ids(key_ids, key_cu_seqlens, "key_", "at most one of them")
    return Documents(of_queries, of_queries if of_keys is None else of_keys)


def _document_ids(ids: Any, cu_seqlens: Any, side: str, needed: str) -> PerHead | None:
    name = f"{side}cu_seqlens"
    if ids is not None and cu_seqlens is not None:
        raise ValueError(f"{side}ids and {name} are both given; needed: {needed}")
    if ids is not None:
        return arguments.sequence(ids, f"{side}ids")
    if cu_seqlens is None:
        return None
    ends = arrays.as_array(cu_seqlens, name)
    if ends.ndim != 1 or not len(ends):
        raise ValueError(f"{name} has shape {ends.shape}; needed: (documents + 1,)")
    ends = arrays.integers(ends, name, len(ends))
    lengths = np.diff(ends)
    if ends[0] != 0 or (lengths < 0).any():
        raise ValueError(f"{name} does not rise from 0; needed: where each document begins, and at last the length")
    return PerHead(np.repeat(np.arange(len(lengths)), lengths)[None, None])


# tree ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Tree(Structure):
    parents: PerHead
    past: PerHead

    def of_head(self, first: int, Lq: int, Lk: int, parents: np.ndarray, past: int) -> RowLists:
        node = arguments.part(np.arange(len(parents)), first, Lq, "parents", "query")
        if Lk > past + len(parents):
            raise ValueError(f"parents has {len(parents)} nodes and past is {past}; needed: {Lk} keys, as Lk says")
        # Where each node follows its parent at once, or each precedes it, a node and the ancestors so reached are one
        # range, from `top` to `bottom`; one of these is the node, the other one the `farthest` ancestor.
        nodes = np.arange(len(parents))
        top = np.maximum.accumulate(np.where(parents == nodes - 1, 0, nodes))
        bottom = np.minimum.accumulate(np.where(parents == nodes + 1, len(parents), nodes)[::-1])[::-1]
        farthest = np.where(top < nodes, top, bottom)
        row = np.arange(Lq)
        of, low, high = [row], [np.zeros(Lq, np.int64)], [np.full(Lq, past)]
        while len(row):
            of.append(row)
            low.append(top[node] + past)
            high.append(bottom[node] + (past + 1))
            node = parents[farthest[node]]
            row, node = row[node >= 0], node[node >= 0]
        ends = (np.concatenate(x) for x in (of, low, high))
        return of_ranges(np.arange(Lq), Lq, *ends, Lk)

    def __repr__(self) -> str:
        past = "" if self.past == arguments.number(0, "past") else f", past={self.past!r}"
        return f"tree({self.parents!r}{past})"


def tree(parents: Any, past: Any = 0) -> Mask:
    """The nodes of a tree see themselves and their ancestors, and the first `past` keys, which lie before the tree.

    Query i is node i; key j < past is seen by all, and key past + k is node k. Speculation checks a tree of drafted
    tokens so in one call (SpecInfer, Miao et al. 2024; Medusa, Cai et al. 2024). Rows count nodes, not keys: a window
    beside it takes `offset=past`.

    parents: (N,), (B, N) or (B, H, N) integers: the node that a node hangs on, or -1. Nodes may have any order.
    past: keys before the tree, an integer from 0 on, (B,) or (B, H) integers.

    Raises:
        TypeError: parents or past are not integers.
        ValueError: a parent is not -1 to N - 1, or a node is its own ancestor. `ranges` asks for more than N queries or
            past + N keys.

    Example:
        >>> print(tf.visualize.mask_text(tf.masks.tree([-1, 0, 0, 1, 2], past=3), 5, 8))
        ####····
        #####···
        ####·#··
        #####·#·
        ####·#·#
    """
    by_head = arguments.sequence(parents, "parents", "N")
    array = by_head.array
    N = array.shape[2]
    wrong = (array < -1) | (array >= N)
    if wrong.any():
        raise ValueError(f"parents holds {array[wrong][0]}; needed: -1, or a node from 0 to {N - 1}")
    # The ancestors at distances 1, 2, 4, ...: beyond N there are none, except on a circle.
    ancestor = np.concatenate([array, np.full((*array.shape[:2], 1), -1)], axis=2)  # -1 is its own parent
    for _ in range(N.bit_length()):
        ancestor = np.take_along_axis(ancestor, ancestor, axis=2)
    circle = ancestor[..., :N] >= 0
    if circle.any():
        raise ValueError(
            f"parents lead from node {np.argwhere(circle)[0][2]} into a circle; needed: a tree, or several"
        )
    return Tree(by_head, arguments.number(past, "past", 0))

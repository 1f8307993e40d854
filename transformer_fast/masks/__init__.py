"""Structures of sparse attention: small immutable objects that say which keys each query sees, without an L x L array.

Users combine them with `&`, `|` and `~` and hand them to attention, which compiles them: `ranges(Lq, Lk)` gives
`functional.KeyRanges`, in memory that follows the number of ranges; `dense(Lq, Lk)` gives the bool array.

    mask.py         Mask, what all share; All, Any, Not of masks; Structure: compiled head by head
    row_lists.py    lists of ranges while they are computed, and their union, intersection and complement
    arguments.py    numbers and arrays that may differ by batch entry and head
    positions.py    structures that a formula over positions defines: causal, window, prefix, strided, block_local,
                    global_tokens
    sequences.py    structures that an array over positions defines: documents, tree
    tables.py       structures over a table of blocks: blocks, random_blocks, rows

A new structure is a Structure with one method, `of_head`, in one of the last three files, its function beside it, a
line below, a case in tests/masks/test_masks.py and a picture in docs/howto/masks.md.
"""

from transformer_fast.functional.key_ranges import KeyRanges
from transformer_fast.masks.mask import Mask
from transformer_fast.masks.positions import block_local, causal, global_tokens, prefix, strided, window
from transformer_fast.masks.sequences import documents, tree
from transformer_fast.masks.tables import blocks, random_blocks, rows

__all__ = [
    "KeyRanges",
    "Mask",
    "block_local",
    "blocks",
    "causal",
    "documents",
    "global_tokens",
    "prefix",
    "random_blocks",
    "rows",
    "strided",
    "tree",
    "window",
]

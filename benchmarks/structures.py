"""The structures of sparse attention that sparse.py measures, said twice: as masks of ours, and as a formula for peers.

Used by sparse.py (what the results should be), backends/ours.py (`mask`) and the backends of torch (`formula`). A new
structure is a line in `STRUCTURES`; tests/project/test_benchmarks.py holds its two sides against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import generator

from benchmarks.wire import MaskCase

# Positions of a block of random_blocks and block_local.
BLOCK = 64
# Documents have so many tokens on average: 64 of them at 16,384.
_DOCUMENT = 256
_SEED = 1
_WINDOW, _GLOBAL = 256, 64
_STRIDE, _DILATION = 128, 4
_BIGBIRD_BLOCKS, _BIGBIRD_GLOBAL = 3, 128
_FRACTION = 0.02


@dataclass(frozen=True)
class Structure:
    """text: what tables call it. mask: (transformer_fast.masks, L) -> the mask.

    formula: (i, j, arrays) -> whether query i sees key j, in operators that NumPy and torch share. arrays has L, and
    what the structure asks of `arrays_of`: ids (L,), the document of each position; table (L / BLOCK, L / BLOCK) bool.
    random: (transformer_fast.masks, the size of its blocks) -> the mask's random part, where there is one.
    """

    text: str
    mask: Callable[[Any, int], Any]
    formula: Callable[[Any, Any, dict[str, Any]], Any]
    random: Callable[[Any, int], Any] | None = None


def _random_fraction(masks: Any, size: int) -> Any:
    return masks.random_blocks(size, _FRACTION, seed=_SEED)


def _random_count(masks: Any, size: int) -> Any:
    return masks.random_blocks(size, count=_BIGBIRD_BLOCKS, seed=_SEED)


STRUCTURES = {
    "window and globals": Structure(
        f"window of {_WINDOW} to each side and {_GLOBAL} global tokens (Longformer)",
        lambda masks, L: masks.window(_WINDOW, _WINDOW) | masks.global_tokens(_GLOBAL),
        lambda i, j, arrays: (abs(i - j) <= _WINDOW) | (i < _GLOBAL) | (j < _GLOBAL),
    ),
    "random blocks": Structure(
        f"random blocks of {BLOCK}, {_FRACTION:.0%} of all",
        lambda masks, L: _random_fraction(masks, BLOCK),
        lambda i, j, arrays: arrays["table"][i // BLOCK, j // BLOCK],
        _random_fraction,
    ),
    "documents": Structure(
        f"documents of random lengths, {_DOCUMENT} on average",
        lambda masks, L: masks.documents(cu_seqlens=_cu_seqlens(L)),
        lambda i, j, arrays: arrays["ids"][i] == arrays["ids"][j],
    ),
    "prefix": Structure(
        "causal after a prefix of a quarter (prefix-LM)",
        lambda masks, L: masks.causal() | masks.prefix(L // 4),
        lambda i, j, arrays: (j <= i) | (j < arrays["L"] // 4),
    ),
    "bigbird": Structure(
        f"blocks of {BLOCK} with their neighbours, {_BIGBIRD_BLOCKS} random ones, {_BIGBIRD_GLOBAL} global tokens "
        "(BigBird)",
        lambda masks, L: (
            masks.block_local(BLOCK, 1) | _random_count(masks, BLOCK) | masks.global_tokens(_BIGBIRD_GLOBAL)
        ),
        lambda i, j, arrays: (
            (abs(i // BLOCK - j // BLOCK) <= 1)
            | arrays["table"][i // BLOCK, j // BLOCK]
            | (i < _BIGBIRD_GLOBAL)
            | (j < _BIGBIRD_GLOBAL)
        ),
        _random_count,
    ),
    "strided": Structure(
        f"causal, the last {_STRIDE} keys and one in {_STRIDE} of the others (Sparse Transformer)",
        lambda masks, L: masks.causal() & (masks.window(_STRIDE, 0) | masks.strided(_STRIDE)),
        lambda i, j, arrays: (j <= i) & ((i - j <= _STRIDE) | ((i - j) % _STRIDE == 0)),
    ),
    "dilated": Structure(
        f"window of {_WINDOW} to each side, every {_DILATION}th key",
        lambda masks, L: masks.window(_WINDOW, _WINDOW, dilation=_DILATION),
        lambda i, j, arrays: (abs(i - j) <= _WINDOW * _DILATION) & ((i - j) % _DILATION == 0),
    ),
}


def mask(case: MaskCase) -> Any:
    """The structure as a mask of transformer_fast.masks."""
    from transformer_fast import masks  # here: peers' processes import this file, and must not load our engine

    return STRUCTURES[case.structure].mask(masks, case.L)


def tables(case: MaskCase) -> dict[str, Any]:
    """What the formula needs and only ours can draw, for `Work.artifacts`: {"columns": which blocks of keys each block
    of queries sees} or {}."""
    from transformer_fast import masks

    random = STRUCTURES[case.structure].random
    if random is None:
        return {}
    n = case.L // BLOCK
    table = random(masks, 1).dense(n, n)[0, 0]  # the choice depends on the number of blocks, not on their size
    return {"columns": [np.flatnonzero(row).tolist() for row in table]}


def arrays_of(case: MaskCase, artifacts: dict[str, Any]) -> dict[str, Any]:
    """What the formula reads. artifacts: what `tables` gave."""
    found: dict[str, Any] = {"L": case.L}
    if case.structure == "documents":
        found["ids"] = np.repeat(np.arange(len(_cu_seqlens(case.L)) - 1), np.diff(_cu_seqlens(case.L)))
    if "columns" in artifacts:
        columns = artifacts["columns"]
        found["table"] = np.zeros((len(columns), len(columns)), bool)
        for row, seen in zip(found["table"], columns, strict=True):
            row[seen] = True
    return found


def _cu_seqlens(L: int) -> np.ndarray:
    """Where the documents begin, and the end: lengths are drawn, none is empty."""
    cuts = generator(f"documents of {L}").choice(np.arange(1, L), max(L // _DOCUMENT, 2) - 1, replace=False)
    return np.concatenate([[0], np.sort(cuts), [L]])

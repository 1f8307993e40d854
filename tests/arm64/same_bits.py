"""Prints a digest of products of integers, which every level of every machine has to give.

Called by run.sh, first on the machine at hand and then under qemu: ``same_bits.py LEVELS [DIGEST]``, the levels that
must be there ("any": those that are) and the digest that must come out. No test of pytest, which sees one machine.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "helpers"))
from blocks import random_blocks

from transformer_fast import functional as F
from transformer_fast.functional.block_weight import BLOCK_FORMATS

# (M, N, K): few rows and many, a panel that is not full, k that fills no group.
SHAPES = [(1, 50, 256), (5, 31, 512), (21, 61, 768)]


def fractions(*shape: int) -> np.ndarray:
    """Multiples of 1/256: no function of libm, which may differ between machines, makes them."""
    return (np.random.default_rng(shape).integers(-900, 900, shape) / 256).astype(np.float32)


def digest() -> str:
    """Of products with weights in all formats of integers, on the level in force."""
    found = hashlib.sha256()
    for M, N, K in SHAPES:
        x = fractions(M, K)
        weights = [F.pack_weight(fractions(N, K), format=name) for name in ("int8", "int8_a16", "int4", "int4_a8")]
        integers = np.random.default_rng(K).integers(-128, 128, (N, K)).astype(np.int8)
        weights.append(F.pack_weight(integers, format="int8", scale=np.full(N, 0.125, np.float32)))
        for name in BLOCK_FORMATS:
            blocks = random_blocks(name, N, K)
            weights += [F.pack_weight(blocks, format=kind) for kind in ("blocks", "blocks_a8")]
        for weight in weights:
            found.update(F.linear(x, weight).tobytes())
    return found.hexdigest()


def main(levels: str, expected: str | None = None) -> None:
    if levels != "any" and F.available_isas() != tuple(levels.split(",")):
        raise SystemExit(f"available_isas() is {F.available_isas()}; needed: {levels}")
    for level in F.available_isas():
        F.set_isa(level)
        found = digest()
        expected = expected or found
        if found != expected:
            raise SystemExit(f"products of integers on level {level!r} differ: {found}; needed: {expected}")
    print(expected)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Blocks of all formats for tests: random bytes whose scales are numbers of a weight's size, and their values."""

from __future__ import annotations

import numpy as np

from transformer_fast.files.gguf_blocks import expand
from transformer_fast.functional.block_weight import BLOCK_FORMATS, BlockWeight

# Where a block has float16 numbers: scales, then what multiplies minima or is one.
HALVES = {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}


def random_blocks(format: str, N: int, K: int, seed: int = 0) -> BlockWeight:
    """Every code and every scale of a group may come; values are of the size of some hundredths."""
    rng, (_, values, nbytes) = np.random.default_rng(seed), BLOCK_FORMATS[format]
    blocks = rng.integers(0, 256, (N * (K // values), nbytes), np.uint8)
    if format == "MXFP4":
        blocks[:, 0] = rng.integers(115, 122, len(blocks))
    else:
        for at in HALVES.get(format, (0,)):
            scale = rng.uniform(-1, 1, (len(blocks), 1)) / (1000 if values == 256 else 100)
            blocks[:, at : at + 2] = scale.astype(np.float16).view(np.uint8)
    return BlockWeight(format, blocks.reshape(N, -1))


def values_of(weight: BlockWeight) -> np.ndarray:
    """(N, K) float32."""
    if weight.format != "Q4_Z":
        return expand(weight.format, weight.blocks.reshape(-1)).reshape(weight.shape)
    blocks = weight.blocks.reshape(-1, 19)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[:, 3:] & 15, blocks[:, 3:] >> 4], axis=1).astype(np.float32)
    minus_zero = np.float32(0) - blocks[:, 2:3]
    return (codes * scale + minus_zero * scale).reshape(weight.shape)  # all exact; a 0 has the engine's sign

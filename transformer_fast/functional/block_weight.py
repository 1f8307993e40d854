"""`BlockWeight`: a weight in the blocks of a file.

Models read it where a file has one (models/common/blocks.py); modules keep it as a parameter, pack it as it is, and
look rows up in it. A new format: its line in `BLOCK_FORMATS`, and the rest of docs/adding_a_weight_format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer_fast import _core
from transformer_fast.functional.stored_weight import StoredWeight


class BlockFormat(NamedTuple):
    """The number of a format in the engine, and how many values a block holds in how many bytes."""

    number: int
    values: int
    nbytes: int


# GGUF's name -> tfast_format of csrc/base/types.h, and the block; csrc/kernels/gemm/blocks.h has the same lengths. Q4_Z
# is not GGUF's: a float16 scale, a byte, the zero, and 32 codes as Q4_0 has them; value = (code - zero) * scale.
BLOCK_FORMATS = {
    "Q8_0": BlockFormat(6, 32, 34),
    "Q4_0": BlockFormat(7, 32, 18),
    "Q4_1": BlockFormat(8, 32, 20),
    "Q5_0": BlockFormat(9, 32, 22),
    "Q5_1": BlockFormat(10, 32, 24),
    "Q4_K": BlockFormat(11, 256, 144),
    "Q5_K": BlockFormat(12, 256, 176),
    "Q6_K": BlockFormat(13, 256, 210),
    "IQ4_NL": BlockFormat(14, 32, 18),
    "MXFP4": BlockFormat(15, 32, 17),
    "Q4_Z": BlockFormat(16, 32, 19),
}
# Rows that are expanded together, of some thousand values: the packed form that they pass through stays within some MB.
_TOGETHER = 1024


class BlockWeight(StoredWeight):
    """blocks (N, bytes of a row) uint8: the rows of a weight (N, K) as a GGUF file has them, or Q4_Z. Immutable.

    It is what `state_dict` has for such a parameter; np.asarray gives its values. `functional.pack_weight` with format
    "blocks" packs it without loss; `functional.embedding` takes it for a table.

    format: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL or MXFP4; or Q4_Z: of 32 values a float16 scale, a
    zero (a byte) and codes in the order of Q4_0, for (code - zero) * scale.

    Attributes: format, blocks, shape, ndim, nbytes.

    Raises:
        TypeError: blocks is not uint8.
        ValueError: there is no such format; blocks is not (N, whole blocks).

    Example:
        >>> row = np.array([[0, 0x3C, *range(32)]], np.uint8)  # Q8_0: a scale of 1 in half precision, 32 integers
        >>> weight = F.BlockWeight("Q8_0", row)
        >>> weight.shape, weight.dequantised()[:, :4]
        ((1, 32), array([[0., 1., 2., 3.]], dtype=float32))
    """

    __slots__ = ("_format", "blocks")

    def __init__(self, format: str, blocks: np.ndarray) -> None:
        if format not in BLOCK_FORMATS:
            raise ValueError(f"format is {format!r}; needed: one of {', '.join(BLOCK_FORMATS)}")
        blocks = np.asarray(blocks)
        if blocks.dtype != np.uint8:
            raise TypeError(f"blocks has dtype {blocks.dtype}; needed: uint8")
        if blocks.ndim != 2 or blocks.shape[1] % BLOCK_FORMATS[format].nbytes:
            raise ValueError(
                f"blocks has shape {blocks.shape}; needed for {format}: (N, a multiple of "
                f"{BLOCK_FORMATS[format].nbytes} bytes)"
            )
        self._format = format
        self.blocks = blocks.view() if blocks.strides[1] == 1 else np.ascontiguousarray(blocks)
        self.blocks.flags.writeable = False

    @property
    def format(self) -> str:
        return self._format

    @property
    def shape(self) -> tuple[int, int]:
        _, values, nbytes = BLOCK_FORMATS[self.format]
        return len(self.blocks), self.blocks.shape[1] // nbytes * values

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def __getitem__(self, rows: slice | np.ndarray) -> BlockWeight:
        """Some of the rows, in any order."""
        return BlockWeight(self.format, self.blocks[rows])

    def joined(self, others: Sequence[Any]) -> BlockWeight | None:
        parts = [self, *others]
        if not all(isinstance(part, BlockWeight) and part.format == self.format for part in parts):
            return None
        return BlockWeight(self.format, np.concatenate([part.blocks for part in parts]))

    def dequantised(self) -> np.ndarray:
        """The values, (N, K) float32."""
        values = np.empty(self.shape, np.float32)
        number = BLOCK_FORMATS[self.format].number
        for first in range(0, len(self), _TOGETHER):
            some = self.blocks[first : first + _TOGETHER]
            packed = _core.PackedWeight((some,), number, self.format, False, None, None, 0)
            values[first : first + _TOGETHER] = packed.unpack()
        return values

    def __reduce__(self) -> tuple:
        return BlockWeight, (self.format, self.blocks)

    def __repr__(self) -> str:
        return f"BlockWeight(shape={self.shape}, format={self.format!r})"

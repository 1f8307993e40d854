"""The block formats of GGUF in NumPy: bytes of blocks -> the values that they stand for.

`gguf` calls `expand`, and tests compare kernels with it. A block is 32 or 256 values of a row with their scales; every
function below takes the blocks of one format as rows of bytes and gives their values, float32, in the order of the row.
What is computed in float32, and in which order, is what ggml's own dequantisers do: the values are theirs to the bit.
A new format: its function, and its line in `BLOCKS`.

Formats: https://github.com/ggml-org/ggml (ggml-common.h has the structures).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Blocks that are expanded together: temporaries stay within some MB.
_TOGETHER = 4096
# IQ4_NL: the 16 values that its codes stand for; MXFP4 likewise, twice the values of E2M1. The latter is for
# `models.common.mxfp4`, too.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


class Block(NamedTuple):
    """How many values a block holds in how many bytes, and the function that reads rows of such bytes."""

    values: int
    nbytes: int
    read: Callable[[np.ndarray], np.ndarray]


def expand(code: str, data: np.ndarray) -> np.ndarray:
    """The values of a tensor's bytes, one axis, float32.

    code: a key of `BLOCKS`. data: uint8, whole blocks.

    Example:
        >>> eight = np.array([0, 0x3C, *range(32)], np.uint8)  # Q8_0: a scale of 1 in half precision, 32 integers
        >>> expand("Q8_0", eight)[:4]
        array([0., 1., 2., 3.], dtype=float32)
    """
    values, nbytes, read = BLOCKS[code]
    blocks = data.reshape(-1, nbytes)
    out = np.empty((len(blocks), values), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # scales of a broken file may be infinite
        for first in range(0, len(blocks), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            out[some] = read(blocks[some]).reshape(-1, values)
    return out.reshape(-1)


def _halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """The half-precision number at byte `at` of each block, (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """(..., n) bytes -> (..., 2 n) numbers of 0 to 15: the low halves of all bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """32 bits from byte `at` on as 0 or 16 each."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _q4_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _halves(b, 2)


def _q5_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.float32) - 16)


def _q5_1(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)).astype(np.float32) + _halves(b, 2)


def _q8_0(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _iq4_nl(b: np.ndarray) -> np.ndarray:
    return _halves(b, 0) * _IQ4[_nibbles(b[:, 2:])].astype(np.float32)


def _mxfp4(b: np.ndarray) -> np.ndarray:
    scale = np.ldexp(np.float32(1), b[:, :1].astype(np.int32) - 128)
    return scale * E2M1[_nibbles(b[:, 1:])].astype(np.float32)


def _twos(packed: np.ndarray) -> np.ndarray:
    """(blocks, 64) bytes -> (blocks, 2, 4, 32) numbers of 0 to 3: of each half of the bytes, four shifts."""
    halves = packed.reshape(-1, 2, 1, 32)
    return halves >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3


def _q2_k(b: np.ndarray) -> np.ndarray:
    scales, q = b[:, :16, None], _twos(b[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    d, least = _halves(b, 80)[:, None], _halves(b, 82)[:, None]
    return d * (scales & 15).astype(np.float32) * q - least * (scales >> 4).astype(np.float32)


def _q3_k(b: np.ndarray) -> np.ndarray:
    high, low, packed = b[:, :32], b[:, 32:96], b[:, 96:108]
    fours = _nibbles(packed[:, :8])
    twos = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16)
    scales = (fours | twos << 4).astype(np.float32) - 32
    bits = high[:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1  # bit 4 * half + shift
    q = _twos(low).astype(np.float32) - 4 * (1 - bits.reshape(-1, 2, 4, 32).astype(np.float32))
    return (_halves(b, 108) * scales)[:, :, None] * q.reshape(-1, 16, 16)


def _scales_and_least(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 6-bit scales and minima of eight groups, from 12 bytes: (blocks, 8) each, float32."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    least = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales.astype(np.float32), least.astype(np.float32)


def _of_groups(b: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Q4_K and Q5_K: q (blocks, 8, 32) with the scales of b's first 16 bytes."""
    scales, least = _scales_and_least(b[:, 4:16])
    return (_halves(b, 0) * scales)[:, :, None] * q.astype(np.float32) - (_halves(b, 2) * least)[:, :, None]


def _q4_k(b: np.ndarray) -> np.ndarray:
    return _of_groups(b, _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(b: np.ndarray) -> np.ndarray:
    fifth = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _of_groups(b, _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | fifth << 4)


def _q6_k(b: np.ndarray) -> np.ndarray:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = _twos(b[:, 128:192])
    q = (low | high << 4).astype(np.float32) - 32
    scales = b[:, 192:208].view(np.int8).astype(np.float32)
    return (_halves(b, 208) * scales)[:, :, None] * q.reshape(-1, 16, 16)


BLOCKS = {
    "Q4_0": Block(32, 18, _q4_0),
    "Q4_1": Block(32, 20, _q4_1),
    "Q5_0": Block(32, 22, _q5_0),
    "Q5_1": Block(32, 24, _q5_1),
    "Q8_0": Block(32, 34, _q8_0),
    "Q2_K": Block(256, 84, _q2_k),
    "Q3_K": Block(256, 110, _q3_k),
    "Q4_K": Block(256, 144, _q4_k),
    "Q5_K": Block(256, 176, _q5_k),
    "Q6_K": Block(256, 210, _q6_k),
    "IQ4_NL": Block(32, 18, _iq4_nl),
    "MXFP4": Block(32, 17, _mxfp4),
}

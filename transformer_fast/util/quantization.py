"""Embeddings in smaller types: 8 bits a number, or 1. `SentenceEncoder.encode(precision=...)` calls it, and users.

A further precision is a name in `PRECISIONS` and its computation in `_quantized`.

Source: sentence_transformers.util.quantize_embeddings of sentence-transformers 6, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantize_embeddings(
    embeddings: Any,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> np.ndarray:
    """Vectors (N, D) in a smaller type.

    "int8" and "uint8" (N, D) divide the range of each of the D numbers into 255 steps. "ubinary" (N, D / 8 rounded up),
    uint8, has a bit for each number, set where it is above 0, the first number in the highest bit; "binary" is the same
    less 128, int8. "float32" changes the type alone.

    ranges (2, D): the least and the greatest of each number, for int8 and uint8; beyond them it is clipped. Without
    them they are those of calibration_embeddings (M, D), and without these those of the embeddings themselves: then a
    result depends on what else is in the call, and a hundred vectors are few.

    Raises:
        ValueError: the precision is none of PRECISIONS, shapes do not fit, the embeddings are integers of 8 bits
            already, or ranges would have to come from one vector.

    Example:
        >>> from transformer_fast import util
        >>> util.quantize_embeddings([[0.0, 1.5], [-2.0, 300.0]], "uint8", ranges=[[0, 0], [255, 255]])
        array([[  0,   1],
               [  0, 255]], dtype=uint8)
        >>> util.quantize_embeddings([[-1.0, 0.5], [1.0, 0.0]], "ubinary")
        array([[ 64],
               [128]], dtype=uint8)
    """
    checked_precision(precision)
    embeddings = np.asarray(embeddings)
    if embeddings.ndim not in (1, 2):
        raise ValueError(f"embeddings has shape {embeddings.shape}; needed: (N, D), or (D,)")
    if embeddings.dtype in (np.int8, np.uint8):
        raise ValueError(f"embeddings has dtype {embeddings.dtype}; needed: floating-point numbers")
    if precision in ("int8", "uint8"):
        ranges = calibrated_ranges(embeddings, precision, ranges, calibration_embeddings)
    return _quantized(embeddings, precision, ranges)


def checked_precision(precision: Any) -> None:
    """
    Raises:
        ValueError: it is none of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; needed: one of {', '.join(PRECISIONS)}")


def calibrated_ranges(embeddings: np.ndarray, precision: str, ranges: Any, calibration: Any) -> np.ndarray:
    """The ranges (2, D) float32 that `quantize_embeddings` takes for 8 bits of these embeddings.

    Raises:
        ValueError: they would have to come from one vector, or do not fit.
    """
    if ranges is None:
        ranges = _ranges(embeddings, precision, calibration)
    ranges = np.asarray(ranges).astype(np.float32, copy=False)
    if ranges.shape != (2, embeddings.shape[-1]):
        raise ValueError(f"ranges has shape {ranges.shape}; needed: {(2, embeddings.shape[-1])}")
    return ranges


def _ranges(embeddings: np.ndarray, precision: str, calibration: Any) -> np.ndarray:
    if calibration is None:
        if embeddings.ndim == 1 or len(embeddings) == 1:
            raise ValueError(
                f"embeddings has shape {embeddings.shape}, and {precision} needs the range of each number; "
                "needed: ranges, calibration_embeddings, or several vectors"
            )
        calibration = embeddings
    calibration = np.asarray(calibration)
    if not len(calibration):
        return np.zeros((2, embeddings.shape[-1]), np.float32)
    return np.stack([calibration.min(axis=0), calibration.max(axis=0)])


def _quantized(embeddings: np.ndarray, precision: str, ranges: np.ndarray | None) -> np.ndarray:
    if precision == "float32":
        return embeddings.astype(np.float32)
    if ranges is None or precision in ("binary", "ubinary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    steps = (ranges[1] - ranges[0]) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((embeddings - ranges[0]) / steps), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)

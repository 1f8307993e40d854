"""What pictures are made of: weights checked and made small enough to see, tokens made readable. No matplotlib here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# A label's characters: what fits beside a picture without taking its place.
LABEL_LENGTH = 16


def checked_weights(name: str, weights: Any, dimensions: tuple[int, ...], needed: str) -> Any:
    """The weights as float32; refused unless their number of axes is one of `dimensions` and all of them are finite.

    An array, or of a matrix of scipy.sparse a coo_array.
    """
    array = weights.tocoo() if hasattr(weights, "tocoo") else np.asarray(weights)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} has type {array.dtype}; needed: numbers")
    if array.ndim not in dimensions or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; needed: {needed}, none of them empty")
    array = array.astype(np.float32)
    if not np.isfinite(array.data if hasattr(array, "tocoo") else array).all():
        raise ValueError(f"{name} holds NaN or infinity; needed: finite numbers")
    return array


def max_pooled(weights: Any, most: int) -> tuple[np.ndarray, tuple[int, int]]:
    """(Lq, Lk) -> at most (most, most), and how many rows and columns each cell stands for.

    The maximum, not the mean: one strong link among a thousand weak ones is what a picture has to keep. Of a coo_array
    the array of all pairs is not made; what it does not store is 0.
    """
    blocks = tuple(-(-length // most) for length in weights.shape)
    if hasattr(weights, "tocoo"):
        shape = (-(-length // block) for length, block in zip(weights.shape, blocks, strict=True))
        cells = np.zeros(tuple(shape), np.float32)
        np.maximum.at(cells, (weights.row // blocks[0], weights.col // blocks[1]), weights.data)
        return cells, blocks
    for axis, block in enumerate(blocks):
        if block > 1:
            weights = np.maximum.reduceat(weights, np.arange(0, weights.shape[axis], block), axis=axis)
    return weights, blocks


def checked_tokens(name: str, tokens: Sequence[str] | None, length: int) -> list[str] | None:
    """The tokens as labels; refused unless there is one for each of `length` positions."""
    if tokens is None:
        return None
    if isinstance(tokens, str):
        raise TypeError(f"{name} is a string; needed: a list of {length} of them")
    tokens = list(tokens)
    if len(tokens) != length:
        raise ValueError(f"{name} has {len(tokens)} entries; needed: {length}, one for each position of the weights")
    return [label(token) for token in tokens]


def label(token: Any) -> str:
    """A token as one short line: what is not printable as an escape, the end of a long one as an ellipsis."""
    text = readable(token)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def readable(token: Any) -> str:
    """A token as one line: what is not printable as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(token))


def thinned(length: int, most: int) -> np.ndarray:
    """Positions that get a label: all of them, or every second, third, ... so that there are at most `most`."""
    return np.arange(0, length, -(-length // most))

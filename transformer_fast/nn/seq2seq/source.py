"""Shared by the encoder-decoders of this folder: source tokens without padding, and beams that share a source."""

from __future__ import annotations

import numpy as np

from transformer_fast.functional.arrays import PADDED, as_array


class Tokens:
    """The tokens of input_ids (B, S), padding anywhere dropped: ids (B, n) begin with them, lengths (B,) says how many.

    Raises:
        ValueError, TypeError: no integers (B, S), or a mask of another shape; the text names it.
    """

    def __init__(self, input_ids, attention_mask=None) -> None:
        input_ids = token_ids("input_ids", input_ids)
        mask = (
            np.ones(input_ids.shape, bool)
            if attention_mask is None
            else as_array(attention_mask, "attention_mask") != 0
        )
        if mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask has shape {mask.shape}; needed: {input_ids.shape}, one value a token")
        self.mask = mask
        self.lengths = mask.sum(axis=1)
        order = np.argsort(~mask, axis=1, kind="stable")[:, : self.lengths.max(initial=0)]
        self.columns = order  # (B, n): where each token stood
        self.ids = np.take_along_axis(input_ids, order, 1)
        self.padding = np.arange(order.shape[1]) >= self.lengths[:, None]  # (B, n), True = no token

    def in_place(self, weights: np.ndarray) -> np.ndarray:
        """(B, T, n) over the tokens -> (B, T, S) over the columns of input_ids, 0 where padding is."""
        spread = np.zeros((*weights.shape[:2], self.mask.shape[1]), np.float32)
        columns = np.broadcast_to(self.columns[:, None], weights.shape)
        np.put_along_axis(spread, columns, np.where(self.padding[:, None], np.float32(0), weights), 2)
        return spread


def token_ids(name: str, ids) -> np.ndarray:
    ids = as_array(ids, name, PADDED)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {ids.dtype}; needed: integers")
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"{name} has shape {ids.shape}; needed: (B, L) with L >= 1")
    return ids


class Sources:
    """Arrays with one entry for each of B0 sources, and which of them each of B rows looks at.

    Beams of one source follow each other: they go to attention as more queries of that source, and its keys and
    values exist once.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self._of_row = np.arange(len(arrays[0]))

    def reorder(self, index: np.ndarray) -> None:
        """Row i looks at what row index[i] looked at. Copies only where rows of a source are not side by side."""
        rows, B0 = self._of_row[index], len(self.arrays[0])
        if B0 == 0 or len(rows) % B0 or not np.array_equal(rows, np.repeat(np.arange(B0), len(rows) // B0)):
            self.arrays = [array[rows] for array in self.arrays]
            rows = np.arange(len(rows))
        self._of_row = rows

    def grouped(self, rows: np.ndarray) -> np.ndarray:
        """(B, n, ...) -> (B0, B / B0 * n, ...), a view: the rows of each source one after the other."""
        B0 = len(self.arrays[0])
        return rows.reshape(B0, len(rows) // max(B0, 1) * rows.shape[1], *rows.shape[2:])

"""`PackedSequences`: where the tokens of a padded batch are, and the way from padded arrays to packed rows and back.

Encoders, decoders, encoder-decoders and `nn.Collector` run on packed rows: the tokens of all sequences one after the
other, (T, ...), without padding, told apart by cu_seqlens. All of them pack and unpack here. `Scratch` holds the
intermediate arrays of such a run. A mask that a user gives is checked before (`models.common.inputs.token_mask`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np


class PackedSequences:
    """The sequences of a batch (B, L), of which T places are tokens.

    Attributes:
        tokens: (B, L), True for tokens. It must not change.
        full: whether all places are tokens.
        cu_seqlens: (B + 1,) int64; the tokens of sequence b are the packed rows cu_seqlens[b]:cu_seqlens[b + 1].

    Example:
        >>> sequences = PackedSequences(np.array([[True, True], [False, True]]))
        >>> sequences.pack(np.array([[1, 2], [3, 4]]))
        array([1, 2, 4])
        >>> sequences.unpack(np.array([5, 6, 7]))
        array([[5, 6],
               [0, 7]])
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self.full = bool(tokens.all())
        if self.full:
            self.cu_seqlens = np.arange(len(tokens) + 1) * tokens.shape[1]
        else:
            self.cu_seqlens = np.concatenate([[0], np.cumsum(tokens.sum(axis=1))])

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """(B,): the number of tokens of each sequence."""
        return self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    @property
    def longest(self) -> int:
        return int(self.lengths.max(initial=0))

    @cached_property
    def columns(self) -> np.ndarray:
        """(T,): the column of each token in (B, L), padding counted."""
        return np.nonzero(self.tokens)[1]

    def pack(self, array: np.ndarray) -> np.ndarray:
        """(B, L, ...) -> (T, ...); a view if there is no padding."""
        return array.reshape(-1, *array.shape[2:]) if self.full else array[self.tokens]

    def unpack(self, rows: np.ndarray, *, copy: bool = False) -> np.ndarray:
        """(T, ...) -> (B, L, ...), zeros for padding; a view if there is none, unless copy."""
        shape = (*self.tokens.shape, *rows.shape[1:])
        if self.full:
            return rows.reshape(shape).copy() if copy else rows.reshape(shape)
        array = np.zeros(shape, rows.dtype)
        array[self.tokens] = rows
        return array


def unpack_weights(weights: Sequence[np.ndarray], queries: np.ndarray, keys: np.ndarray, heads: int) -> np.ndarray:
    """Attention weights of each sequence, (H, its queries, its keys) -> (B, H, Lq, Lk), zeros for padding.

    queries (B, Lq) and keys (B, Lk) are True for tokens.
    """
    result = np.zeros((len(queries), heads, queries.shape[1], keys.shape[1]), np.float32)
    for b, own in enumerate(weights):
        result[b][:, np.flatnonzero(queries[b])[:, None], np.flatnonzero(keys[b])] = own
    return result


class Scratch:
    """Arrays (T, width) that all layers of a call use again: new ones would be new pages of memory each time."""

    def __init__(self, T: int) -> None:
        self.T = T
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, name: str, width: int) -> np.ndarray:
        """The array of that name, which has one width throughout; its contents are those of the last use."""
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = np.empty((self.T, width), np.float32)
        return array

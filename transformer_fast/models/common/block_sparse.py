"""`BlockSparse`: which keys each token sees in BigBird's block-sparse attention, for packed texts, padded or not.

`big_bird` makes one for each call and hands its parts to `nn.PackedEncoder`: all layers and heads share them. Another
pattern of blocks is another `_seen_by_blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.encoder import EncoderBatch
from transformer_fast.nn import Collector


@dataclass(frozen=True)
class BlockSparse:
    """Keys, mask and bias of B sequences, as `nn.PackedEncoder` takes them.

    Queries of the first and the last block count each key once; for all others the keys of the first block count
    `weight` times. So each sequence has these keys twice: first copies, which those others see, with a bias of
    log(weight), and then all of its keys, of which those others see none in the first block.

    Attributes:
        cu_seqlens: (B + 1,), of the queries.
        keys: rows that are attended, and their offsets (B + 1,).
        masks: what each sequence's queries see, each of shape (1, 1, its queries, its keys).
        bias: (B, 1, 1, the most keys of a sequence) float32.
        copies: (B,), how many keys of each sequence are copies.
        weight: a number >= 1.
    """

    cu_seqlens: np.ndarray
    keys: tuple[np.ndarray, np.ndarray]
    masks: tuple[F.KeyRanges, ...]
    bias: np.ndarray
    copies: np.ndarray
    weight: int

    @classmethod
    def of(cls, batch: EncoderBatch, widths: np.ndarray, block_size: int, weight: int) -> BlockSparse:
        """widths (B,): places of each sequence, padding counted, more than 4 block_size; its last block ends there.

        A query that is not attended (a first place that is padding) sees nothing.
        """
        cu_seqlens, places = batch.cu_seqlens, batch.places
        if places is None:
            places = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
        attended = np.ones(len(places), bool)
        if batch.keys is not None:
            attended[:] = False
            attended[batch.keys[0]] = True
        blocks = places // block_size
        rows, masks, copies = [], [], []
        for first, end, width in zip(cu_seqlens[:-1], cu_seqlens[1:], widths, strict=True):
            own, is_token, count = blocks[first:end], attended[first:end], -(-int(width) // block_size)
            tokens = np.flatnonzero(is_token)
            starts = np.searchsorted(own[tokens], np.arange(count + 1))
            begin, bounds = _seen_by_blocks(starts)
            list_of_row = np.where(is_token, own % (count - 1), count - 1).astype(np.int32)
            rows.append(first + np.concatenate([tokens[: starts[1]], tokens]))
            masks.append(F.KeyRanges.trusted(list_of_row[None, None], begin, bounds, len(rows[-1])))
            copies.append(starts[1])
        lengths = [len(own) for own in rows]
        bias = np.zeros((len(rows), 1, 1, max(lengths, default=0)), np.float32)
        bias[:, 0, 0][np.arange(bias.shape[-1]) < np.array(copies)[:, None]] = np.log(weight)
        keys = np.concatenate(rows), np.cumsum([0, *lengths])
        return cls(cu_seqlens, keys, tuple(masks), bias, np.array(copies), weight)

    @property
    def mask(self) -> F.KeyRanges:
        """Of all sequences together, as `functional.varlen_attention` takes it."""
        return F.KeyRanges.packed(self.masks)


def _seen_by_blocks(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """begin and bounds of KeyRanges of one sequence; starts (n + 1,): its tokens before each block, and at last all.

    List i is that of block i, with the exception of the last block, whose list is that of the first: all tokens. List
    n - 1 is empty. Keys count from the first copy.
    """
    n, copies, every = len(starts) - 1, starts[1], starts[-1]
    ranges = np.zeros((n, 3, 2), np.int32)
    ranges[0, 0] = copies, copies + every
    middle = np.arange(1, n - 1)
    ranges[1:-1, 0] = 0, copies
    ranges[1:-1, 1, 0] = copies + starts[np.maximum(middle - 1, 1)]
    ranges[1:-1, 1, 1] = copies + starts[middle + 2]
    ranges[1:-1, 2] = copies + starts[-2], copies + every
    joined = ranges[:, 1, 1] >= ranges[:, 2, 0]  # nothing lies between the neighbours and the last block
    ranges[joined, 1, 1] = np.maximum(ranges[joined, 1, 1], ranges[joined, 2, 1])
    ranges[joined, 2] = 0
    filled = ranges[..., 0] < ranges[..., 1]
    return np.concatenate([[0], np.cumsum(filled.sum(axis=1))]), ranges[filled]


class BlockSparseCollector:
    """The `nn.Collector` of a block-sparse run: reports each key once, with the weight that it has if it counts once.

    So a row's weights add up to less than 1, as they do in transformers.
    """

    def __init__(self, collector: Collector, sparse: BlockSparse) -> None:
        self._collector, self._sparse = collector, sparse

    def add_hidden(self, hidden: np.ndarray) -> None:
        self._collector.add_hidden(hidden)

    def add_weights(self, query: np.ndarray, key: np.ndarray, options: dict[str, Any]) -> None:
        """query (T, H, D), key (Tk, H, D): the keys of `BlockSparse`, whose mask and bias are the options."""
        if self._collector.attentions is None:
            return
        sparse, weights = self._sparse, []
        for b, (mask, n) in enumerate(zip(sparse.masks, sparse.copies, strict=True)):
            q = query[slice(*sparse.cu_seqlens[b : b + 2])].swapaxes(0, 1)
            k = key[slice(*sparse.keys[1][b : b + 2])].swapaxes(0, 1)
            bias = sparse.bias[b, ..., : k.shape[1]]
            _, found = F.scaled_dot_product_attention(q, k, k, bias, mask=mask, return_weights="heads")
            found[..., n : 2 * n] += found[..., :n] / sparse.weight
            weights.append(found[..., n:])
        self._collector.add_found(weights, query.shape[1])

"""How a peer that only runs a model embeds texts: padded batches of texts of like length.

`PaddedEncoder` is called by the backends. What ours and sentence-transformers do by themselves is done here for the
others as their users do it: tokenise once, sort by length, pad each batch to its longest text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np


class PaddedEncoder:
    """Texts to embeddings with a function from input_ids and attention_mask, (B, L) int64 each, to states (B, L, h)."""

    def __init__(
        self, folder: str | Path, forward: Callable[[np.ndarray, np.ndarray], np.ndarray], batch_size: int
    ) -> None:
        from tokenizers import Tokenizer

        folder = Path(folder)
        self.forward = forward
        self.batch_size = batch_size
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        limit = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        self.tokenizer.enable_truncation(limit)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """(len(texts), h): the tokens' mean, scaled to length 1."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
        embeddings = None
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            ids = np.zeros((len(batch), len(tokens[batch[0]])), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(tokens[i])] = tokens[i]
                mask[row, : len(tokens[i])] = 1
            states = self.forward(ids, mask)
            weights = mask.astype(np.float32)[:, None, :]
            pooled = (weights @ states)[:, 0] / weights.sum(axis=-1)
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
            if embeddings is None:
                embeddings = np.empty((len(texts), pooled.shape[1]), np.float32)
            embeddings[batch] = pooled
        return embeddings

"""`Embedding`: rows of a table by number. Position embeddings are one too, with positions for numbers."""

from __future__ import annotations

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module


class Embedding(Module):
    """Row `id` of weight (num_embeddings, embedding_dim) for each id, as torch.nn.Embedding.

    Fresh weights are N(0, 1), with zeros in row padding_idx (which has no other effect at inference).

    Example:
        >>> table = nn.Embedding(100, 16, padding_idx=0)
        >>> table(np.array([[5, 7, 0]])).shape
        (1, 3, 16)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx is {padding_idx}; needed: a row of the {num_embeddings} embeddings")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.register_parameter("weight", (num_embeddings, embedding_dim), self._initial)

    def _initial(self, shape: tuple[int, ...]) -> np.ndarray:
        weight = init.normal(shape)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        return weight

    def forward(self, input: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Integers (...) -> (..., embedding_dim); an id outside of the table is an IndexError."""
        return F.embedding(input, self.weight, out=out)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"

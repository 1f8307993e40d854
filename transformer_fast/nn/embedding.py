"""`Embedding`: rows of a table by number. Position embeddings are one too, with positions for numbers."""

from __future__ import annotations

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module


class Embedding(Module):
    """Row `id` of weight (num_embeddings, embedding_dim) for each id, as torch.nn.Embedding.

    Fresh weights are N(0, 1), with zeros in row padding_idx, which has no other effect at inference; it may be counted
    from the end. norm_type, scale_grad_by_freq and sparse are accepted: they steer training. max_norm, by which torch
    rescales rows of the table during a lookup, raises NotImplementedError.

    Example:
        >>> table = nn.Embedding(100, 16, padding_idx=0)
        >>> table(np.array([[5, 7, 0]])).shape
        (1, 3, 16)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx is {padding_idx}; needed: a row of the {num_embeddings} embeddings")
        if max_norm is not None:
            raise NotImplementedError(f"max_norm={max_norm} is not supported; needed: None (scale the rows beforehand)")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.register_parameter("weight", (num_embeddings, embedding_dim), self._initial, half=True)

    @classmethod
    def from_pretrained(cls, embeddings: np.ndarray, padding_idx: int | None = None) -> Embedding:
        """With the rows of a table (num_embeddings, embedding_dim) for weight."""
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings has shape {embeddings.shape}; needed: (num_embeddings, embedding_dim)")
        with init.unset_parameters():
            table = cls(*embeddings.shape, padding_idx)
        table.weight = embeddings
        return table

    def _initial(self, shape: tuple[int, ...]) -> np.ndarray:
        weight = init.normal(shape)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        return weight

    def forward(self, input: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Integers (...) -> (..., embedding_dim); an id outside of the table is an IndexError."""
        return F.embedding(input, self.weight, out=out)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

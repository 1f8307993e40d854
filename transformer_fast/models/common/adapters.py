"""Layers with a low-rank update (LoRA) for each of several tasks: `AdaptedLinear` and `AdaptedEmbedding`.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685: the weight of a task is W + scaling B A. `jina_v3.py` makes
its layers of these; another family does the same, and passes on the number of the task at hand, or None for W alone.

The update is two products of its rank r, next to the one with W: r (1 / in + 1 / out) of its multiplications, 0.8 %
for r = 4 and 1024 columns. So all tasks of a model share one packed weight of any type. With the update added to W,
each task would have the memory of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import Embedding, Linear, init
from transformer_fast.nn.activation import FUNCTIONS


@dataclass(frozen=True)
class Adapters:
    """How many tasks there are (0: no updates), the rank of their updates, and what these are multiplied by."""

    tasks: int
    rank: int
    scaling: float


class AdaptedLinear(Linear):
    """A Linear with lora_A (tasks, rank, in_features) and lora_B (tasks, out_features, rank), where there are tasks.

    Example:
        >>> import numpy as np
        >>> layer = AdaptedLinear(3, 2, Adapters(tasks=5, rank=4, scaling=0.25))
        >>> layer(np.ones((7, 3), np.float32), task=4).shape
        (7, 2)
    """

    def __init__(self, in_features: int, out_features: int, adapters: Adapters) -> None:
        super().__init__(in_features, out_features)
        tasks, rank, self.scaling = adapters.tasks, adapters.rank, np.float32(adapters.scaling)
        self.register_parameter("lora_A", (tasks, rank, in_features) if tasks else None, init.uniform(in_features))
        self.register_parameter("lora_B", (tasks, out_features, rank) if tasks else None, init.zeros)

    def forward(
        self,
        input: np.ndarray,
        *,
        task: int | None = None,
        activation: str | None = None,
        residual: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """activation(input W^T + bias) + residual, as `Linear.forward`, W that of the task."""
        if task is None:
            return super().forward(input, activation=activation, residual=residual, out=out)
        narrow = F.linear(input, self.lora_A[task])
        narrow *= self.scaling
        # The activation is of the sum, the residual is added after it.
        base = super().forward(input, residual=None if activation else residual, out=out)
        result = F.linear(narrow, self.lora_B[task], residual=base, out=base)
        if activation is None:
            return result
        result = FUNCTIONS[activation](result)
        return result if residual is None else np.add(result, residual, out=result)


class AdaptedEmbedding(Embedding):
    """An Embedding with lora_A (tasks, num_embeddings, rank) and lora_B (tasks, rank, embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, adapters: Adapters) -> None:
        super().__init__(num_embeddings, embedding_dim)
        tasks, rank, self.scaling = adapters.tasks, adapters.rank, np.float32(adapters.scaling)
        self.register_parameter("lora_A", (tasks, num_embeddings, rank) if tasks else None, init.zeros)
        self.register_parameter("lora_B", (tasks, rank, embedding_dim) if tasks else None, init.normal)

    def update(self, ids: np.ndarray, task: int) -> np.ndarray:
        """What the task adds to the rows of ids (T,): (T, embedding_dim)."""
        return F.matmul(self.lora_A[task, ids] * self.scaling, self.lora_B[task])

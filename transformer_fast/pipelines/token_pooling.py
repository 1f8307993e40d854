"""Fewer vectors a text: token pooling of a multi-vector encoder, in its folder, in a call, or of what it returned.

`multi_vector_routes` makes a `HierarchicalTokenPooling` of a folder's files; `MultiVectorEncoder.encode` takes any of
these as token_pooling; users call `pool`. Another way of pooling derives from `BaseTokenPooling` and says `pool_one`.

Source: sentence-transformers 6, multi_vector_encoder/modules/token_pooling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from transformer_fast import functional as F
from transformer_fast.util import normalize_embeddings


class BaseTokenPooling:
    """Base of the ways of pooling. tasks: those whose texts are pooled, "document" by default; no task counts as it."""

    def __init__(self, *, tasks: str | Iterable[str] | None = None) -> None:
        self.tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
        if not all(isinstance(task, str) for task in self.tasks):
            raise TypeError(f"tasks is {tasks!r}; needed: names of tasks")

    def applies_to(self, task: str | None) -> bool:
        """Are texts of this task pooled?"""
        return (task or "document") in self.tasks

    def pool(self, embeddings: list[np.ndarray], *, task: str | None = None) -> list[np.ndarray]:
        """The vectors (L_i, D) of each text, pooled if its task is one of `tasks`.

        Raises:
            TypeError, ValueError: they are no list of arrays (L_i, D).
        """
        if not isinstance(embeddings, (list, tuple)):
            raise TypeError(f"embeddings is a {type(embeddings).__name__}; needed: a list of arrays (L_i, D)")
        arrays = [np.asarray(one) for one in embeddings]
        for i, one in enumerate(arrays):
            if one.ndim != 2:
                raise ValueError(f"embeddings[{i}] has shape {one.shape}; needed: (L, D)")
        return [self.pool_one(one) for one in arrays] if self.applies_to(task) else list(embeddings)

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        """(L, D) -> (L', D)."""
        raise NotImplementedError(f"{type(self).__name__} has no pool_one()")


class HierarchicalTokenPooling(BaseTokenPooling):
    """Ward clustering by cosine distance: each cluster of a text's vectors becomes their mean.

    Of L vectors, the first num_protected_tokens (the class token) stay, and the others become
    (L - num_protected_tokens) // pool_factor. Vectors are to have length 1.

    pool_factor: 1 or more; 1 pools nothing. normalize_embeddings: scale all that is returned to length 1.

    Needs the package scipy.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
        >>> HierarchicalTokenPooling(2, num_protected_tokens=0).pool([vectors])[0].shape
        (1, 2)
    """

    def __init__(
        self,
        pool_factor: float = 1.0,
        *,
        num_protected_tokens: int = 1,
        normalize_embeddings: bool = True,
        tasks: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(tasks=tasks)
        if not isinstance(pool_factor, (int, float)) or not pool_factor >= 1:
            raise ValueError(f"pool_factor is {pool_factor!r}; needed: a number >= 1")
        if not isinstance(num_protected_tokens, int) or num_protected_tokens < 0:
            raise ValueError(f"num_protected_tokens is {num_protected_tokens!r}; needed: an integer >= 0")
        self.pool_factor, self.num_protected_tokens = pool_factor, num_protected_tokens
        self.normalize_embeddings = normalize_embeddings

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        kept, rest = embedding[: self.num_protected_tokens], embedding[self.num_protected_tokens :]
        clusters = max(int(len(rest) // self.pool_factor), 1)
        if clusters < len(rest):
            embedding = np.concatenate([kept, _cluster_means(rest, clusters)])
        return normalize_embeddings(embedding) if self.normalize_embeddings else embedding


class LambdaTokenPooling(BaseTokenPooling):
    """A function (L, D) -> (L', D) of the caller's; no folder holds one.

    Example:
        >>> every_second = LambdaTokenPooling(lambda vectors: vectors[::2])
        >>> every_second.pool([np.ones((5, 2), np.float32)])[0].shape
        (3, 2)
    """

    def __init__(
        self, pool_fn: Callable[[np.ndarray], np.ndarray], *, tasks: str | Iterable[str] | None = None
    ) -> None:
        super().__init__(tasks=tasks)
        self.pool_fn = pool_fn

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        return self.pool_fn(embedding)


def _cluster_means(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """The means of about so many clusters of vectors (L, D), by their numbers."""
    try:
        from scipy.cluster import hierarchy
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed; needed for token pooling: pip install 'transformer-fast[sparse]'"
        ) from error
    vectors = np.asarray(vectors, np.float32)
    distances = np.clip(1 - F.linear(vectors, vectors), 0, 2)
    tree = hierarchy.linkage(distances[np.triu_indices(len(vectors), 1)], method="ward")
    labels = hierarchy.fcluster(tree, t=clusters, criterion="maxclust")
    found, members = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(found), vectors.shape[1]), np.float32)
    np.add.at(sums, members, vectors)
    return sums / np.bincount(members)[:, None].astype(np.float32)

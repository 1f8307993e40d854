"""The values that a fresh module starts with: torch's distributions, drawn from one NumPy generator.

The blocks of this folder name one of these functions for each parameter; `manual_seed` makes the draws repeatable, as
in torch (the distributions are torch's, the numbers are not). `unset_parameters` is for models that are about to be
loaded: drawing numbers that a checkpoint replaces takes longer than reading it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

Initializer = Callable[[tuple[int, ...]], np.ndarray]

_generator = np.random.default_rng()
_unset: ContextVar[bool] = ContextVar("transformer_fast_unset_parameters", default=False)


def manual_seed(seed: int) -> None:
    """Makes the parameters of all modules created from now on repeatable.

    Example:
        >>> nn.manual_seed(0)
        >>> first = nn.Linear(3, 2)
        >>> nn.manual_seed(0)
        >>> np.array_equal(nn.Linear(3, 2).weight, first.weight)
        True
    """
    global _generator
    _generator = np.random.default_rng(seed)


@contextmanager
def unset_parameters() -> Iterator[None]:
    """Modules created inside hold NaN in every parameter, at no cost in time or memory, until they are loaded."""
    token = _unset.set(True)
    try:
        yield
    finally:
        _unset.reset(token)


def create(shape: tuple[int, ...], initialize: Initializer) -> np.ndarray:
    """A new parameter: what `initialize` gives, or NaN inside `unset_parameters`."""
    if _unset.get():
        return np.broadcast_to(np.float32(np.nan), shape)
    return initialize(shape)


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, np.float32)


def normal(shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1): torch.nn.Embedding."""
    return _generator.standard_normal(shape, np.float32)


def uniform(fan_in: int) -> Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in): torch.nn.Linear, for its weight and its bias."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return lambda shape: _uniform(shape, bound)


def xavier_uniform(shape: tuple[int, ...]) -> np.ndarray:
    """U(-b, b) with b = sqrt(6 / (rows + columns)): the input projections of torch.nn.MultiheadAttention."""
    return _uniform(shape, math.sqrt(6 / sum(shape)))


def xavier_normal(shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 2 / (fan in + fan out)): bias_k and bias_v of torch.nn.MultiheadAttention.

    As in torch, axes after the first two count for both fans.
    """
    fans = (shape[0] + shape[1]) * math.prod(shape[2:])
    return normal(shape) * np.float32(math.sqrt(2 / fans))


def _uniform(shape: tuple[int, ...], bound: float) -> np.ndarray:
    return _generator.random(shape, np.float32) * np.float32(2 * bound) - np.float32(bound)

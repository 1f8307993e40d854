"""One token at a time: greedy search and sampling.

`generate` and `stream` run `search`. It is a generator, so that whoever consumes it can stop after any token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from transformer_fast.generation.logits import Processor, softmax
from transformer_fast.generation.stopping import Stop

Choice = Callable[[np.ndarray], np.ndarray]


def greedy(scores: np.ndarray) -> np.ndarray:
    """The id with the highest score of each row, (B, V) -> (B,)."""
    return scores.argmax(axis=1)


def sampler(generator: np.random.Generator) -> Choice:
    """A choice by chance: ids have the probabilities softmax(scores), (B, V) -> (B,)."""

    def choose(scores: np.ndarray) -> np.ndarray:
        points = generator.random(len(scores))
        return np.array([_drawn(row, point) for row, point in zip(scores, points, strict=True)], np.int64)

    return choose


def _drawn(row: np.ndarray, point: float) -> int:
    """The id (of scores (V,)) at `point` of the way through the probabilities."""
    places = np.flatnonzero(row > -np.inf)  # after the filters: a few of many
    sums = np.cumsum(softmax(row[places].astype(np.float64)))
    return int(places[np.searchsorted(sums, point * sums[-1], "right")])


def search(
    model: Any,
    logits: np.ndarray,
    state: Any,
    ids: np.ndarray,
    steps: Sequence[Processor],
    choose: Choice,
    stop: Stop,
    pad: int | None,
) -> Iterator[np.ndarray]:
    """Yields the next ids (B,) until all rows have ended; those of rows that have are `pad`, or go on if it is None.

    logits (B, V) and state are what the prompt `ids` (B, n) gave.
    """
    B, prompt = ids.shape
    past = np.empty((B, stop.max_length), np.int64)
    past[:, :prompt] = ids
    running, left = np.ones(B, bool), B
    for length in range(prompt, stop.max_length):
        scores = np.asarray(logits, np.float32)
        for step in steps:
            scores = step(past[:, :length], scores)
        chosen = choose(scores)
        if pad is not None and left < B:
            chosen = np.where(running, chosen, pad)
        past[:, length] = chosen
        ended = stop(past[:, : length + 1])
        if np.count_nonzero(ended):
            running &= ~ended
            left = np.count_nonzero(running)
        yield chosen
        if not left:
            return
        logits = model.step(chosen, state)

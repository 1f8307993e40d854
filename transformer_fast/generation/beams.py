"""Beam search: the most likely continuations of whole sequences, as transformers' search counts them.

`generate` calls `beam_search` when num_beams > 1. A sequence's score is the sum of its log-probabilities divided by
(new tokens) ** length_penalty. With do_sample the candidates of a step are drawn instead of being the best ones.

Source: transformers.generation.utils (`_beam_search`), whose arithmetic in float32 is followed step by step: the
sentinel -1e9 absorbs what is added to it, and ties between sentinels are part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast.generation.config import GenerationConfig
from transformer_fast.generation.logits import Processor, log_softmax
from transformer_fast.generation.stopping import Stop

_OUT = np.float32(-1e9)


class _Beams:
    """Running and finished sequences of B rows with num_beams each; arrays are (B, num_beams, ...)."""

    def __init__(self, ids: np.ndarray, config: GenerationConfig, max_length: int) -> None:
        B, prompt = ids.shape
        self.config, self.prompt, self.max_length = config, prompt, max_length
        beams = config.num_beams
        # As transformers fills: a padding id of 0 counts as none there, and so does one without an ending id.
        fill = (config.pad or config.eos[0]) if config.eos else -1
        self.running = np.full((B, beams, max_length), fill, np.int64)
        self.running[:, :, :prompt] = ids[:, None]
        # Only the first beam counts at first: all of them are the same.
        self.running_scores = np.zeros((B, beams), np.float32)
        self.running_scores[:, 1:] = _OUT
        self.finished = self.running.copy()
        self.finished_scores = np.full((B, beams), _OUT, np.float32)
        self.finished_lengths = np.full((B, beams), prompt)
        self.is_finished = np.zeros((B, beams), bool)
        self.improvable = np.ones((B, 1), bool)

    def advance(self, length: int, scores: np.ndarray, stop: Stop, draw: np.random.Generator | None):
        """Takes the log-probabilities (B, num_beams, V) of the id at `length`.

        Returns which beam each running one continues, (B * num_beams,), and whether the search goes on.
        """
        B, beams, V = scores.shape
        candidates = max(2, 1 + len(self.config.eos)) * beams  # enough that num_beams go on, whatever ends
        total = (scores + self.running_scores[:, :, None]).reshape(B, beams * V)
        picked = _best(total, candidates) if draw is None else _drawn(total, candidates, draw)
        picked_scores = np.take_along_axis(total, picked, 1)
        origin = picked // V
        sequences = np.take_along_axis(self.running, origin[:, :, None], 1)
        sequences[:, :, length] = picked % V
        ended = stop(sequences[:, :, : length + 1].reshape(B * candidates, length + 1)).reshape(B, candidates)

        going = picked_scores + ended.astype(np.float32) * _OUT
        order = _best(going, beams)
        self.running = np.take_along_axis(sequences, order[:, :, None], 1)
        self.running_scores = np.take_along_axis(going, order, 1)
        index = np.take_along_axis(origin, order, 1) + np.arange(B)[:, None] * beams

        self._finish(length + 1, sequences, picked_scores, ended)
        self._judge(length + 1)
        full = self.config.early_stopping is True and self.is_finished.all()
        return index.reshape(-1), bool(self.improvable.any() and not full and not ended.all())

    def _finish(self, length: int, sequences: np.ndarray, scores: np.ndarray, ended: np.ndarray) -> None:
        """Puts candidates that have ended among the finished, as far as they are among the best."""
        beams, config = self.config.num_beams, self.config
        just = ended.copy()
        just[:, beams:] = False  # the others are there to replace beams that end
        scores = scores / np.float32((length - self.prompt) ** config.length_penalty)
        full = self.is_finished.all(axis=1, keepdims=True) & (config.early_stopping is True)
        for excluded in (full, ~self.improvable, ~just):
            scores = scores + excluded.astype(np.float32) * _OUT
        merged = np.concatenate([self.finished_scores, scores], axis=1)
        order = _best(merged, beams)
        self.finished_scores = np.take_along_axis(merged, order, 1)
        lengths = np.concatenate([self.finished_lengths, np.full(scores.shape, length)], axis=1)
        self.finished_lengths = np.take_along_axis(lengths, order, 1)
        self.finished = np.take_along_axis(np.concatenate([self.finished, sequences], axis=1), order[:, :, None], 1)
        self.is_finished = np.take_along_axis(np.concatenate([self.is_finished, just], axis=1), order, 1)

    def _judge(self, length: int) -> None:
        """Whether a running beam may still beat the finished ones."""
        config = self.config
        likely = self.max_length if config.early_stopping == "never" and config.length_penalty > 0 else length
        best = self.running_scores[:, :1] / np.float32((likely - self.prompt) ** config.length_penalty)
        worst = np.where(self.is_finished, self.finished_scores.min(axis=1, keepdims=True), _OUT)
        self.improvable &= (best > worst).any(axis=1, keepdims=True)

    def result(self) -> np.ndarray:
        n = self.config.num_return_sequences
        length = int(self.finished_lengths[:, :n].max(initial=self.prompt))
        return self.finished[:, :n, :length].reshape(-1, length)


def _best(scores: np.ndarray, n: int) -> np.ndarray:
    """The places of the n highest of each row, highest first, the first of equals first."""
    n = min(n, scores.shape[1])
    if n == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    least = np.partition(scores, -n, axis=1)[:, -n, None]
    result = np.empty((len(scores), n), np.int64)
    for row, values, bound in zip(result, scores, least, strict=True):
        places = np.flatnonzero(values >= bound)
        row[:] = places[np.argsort(-values[places], kind="stable")[:n]]
    return result


def _drawn(scores: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """n places of each row, drawn without replacement with probabilities softmax(scores) (by Gumbel's maxima)."""
    return _best(scores + generator.gumbel(size=scores.shape), n)


def beam_search(
    model: Any,
    logits: np.ndarray,
    state: Any,
    ids: np.ndarray,
    steps: Sequence[Processor],
    stop: Stop,
    config: GenerationConfig,
) -> np.ndarray:
    """The num_return_sequences best sequences of each row, (B * num_return_sequences, L + new), best first.

    logits (B, V) and state are what the prompt `ids` (B, L) gave.
    """
    B, prompt = ids.shape
    expand = np.repeat(np.arange(B), config.num_beams)
    logits = logits[expand]
    state.reorder(expand)
    draw = np.random.default_rng(config.seed) if config.do_sample else None
    beams = _Beams(ids, config, stop.max_length)
    for length in range(prompt, stop.max_length):
        scores = log_softmax(np.asarray(logits, np.float32))
        past = beams.running[:, :, :length].reshape(len(expand), length)
        for step in steps:
            scores = step(past, scores)
        index, going_on = beams.advance(length, scores.reshape(B, config.num_beams, scores.shape[1]), stop, draw)
        if not going_on:
            break
        state.reorder(index)
        logits = model.step(beams.running[:, :, length].reshape(-1), state)
    return beams.result()

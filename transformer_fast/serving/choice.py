"""`Choice`: how one request of the language engine chooses its next id; the same ids as `model.generate` chooses.

`language.LanguageEngine.submit` makes one of a request's options; the loop asks it at each step. What changes scores is
in generation.logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_fast.generation.config import GenerationConfig
from transformer_fast.generation.logits import Processor, kth_highest, logit_bias, presence_and_frequency, processors
from transformer_fast.generation.search import greedy, sampler
from transformer_fast.serving.results import TokenLogprobs

# What OpenAI's API reference allows: -100 and 100 ban and force an id.
_MOST_BIAS = 100


class Choice:
    """The options of a request that decide its ids, and the random numbers of that request alone.

    prompt (n,): its ids. max_length: the length at which it ends, prompt included. state: of a constraint, or None.

    Raises:
        ValueError, TypeError: an option is out of range; the text names it.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: np.ndarray,
        max_length: int,
        vocab_size: int,
        *,
        bias: Mapping[int, float] | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logprobs: int | None = None,
        state: Any = None,
    ) -> None:
        self._state, self._logprobs = state, logprobs
        own: list[Processor] = []
        if bias:
            own.append(logit_bias(_checked_bias(bias, vocab_size)))
        for name, value in (("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not -2 <= value <= 2:
                raise ValueError(f"{name} is {value!r}; needed: a number from -2 to 2")
        if presence_penalty or frequency_penalty:
            own.append(presence_and_frequency(presence_penalty, frequency_penalty, len(prompt)))
        if state is not None:
            own.append(lambda ids, scores: np.asarray(state.apply(scores[0]))[None])
        self._steps = processors(config, len(prompt), max_length, None, own or None, source=prompt[None])
        self._choose = sampler(np.random.default_rng(config.seed)) if config.do_sample else greedy
        # Nothing but the highest score counts: the loop chooses for all such rows at once.
        self.plain = not self._steps and not config.do_sample
        self._past = None
        if self._steps:
            self._past = np.empty((1, max_length), np.int64)
            self._past[0, : len(prompt)] = prompt
        self._length = len(prompt)

    def next(self, scores: np.ndarray) -> int:
        """scores (V,) of the model -> the next id."""
        scores = scores[None]
        for step in self._steps:
            scores = step(self._past[:, : self._length], scores)
        id = int(self._choose(scores)[0])
        if self._past is not None:
            self._past[0, self._length] = id
            self._length += 1
        return id

    def accept(self, id: int) -> bool:
        """Tells the constraint of an id that does not end the answer -> whether nothing may follow it."""
        if self._state is None:
            return False
        self._state.accept(id)
        return bool(self._state.ended)

    def logprobs(self, scores: np.ndarray, id: int) -> tuple[TokenLogprobs, ...] | None:
        """What the request wants to know of the model's scores (V,), of which `id` was chosen."""
        if self._logprobs is None:
            return None
        shifted = scores - scores.max()
        total = np.log(np.exp(shifted).sum())
        k = min(self._logprobs, len(scores))
        likely = np.zeros(0, np.int64)
        if k:
            least = kth_highest(shifted, k)
            above = np.flatnonzero(shifted > least)
            # Of equal scores the lowest ids, so that there is one answer.
            likely = np.concatenate([above, np.flatnonzero(shifted == least)[: k - len(above)]])
            likely = likely[np.lexsort((likely, -shifted[likely]))]
        top = tuple((int(i), float(shifted[i] - total)) for i in likely)
        return (TokenLogprobs(id, float(shifted[id] - total), top),)


def _checked_bias(bias: Mapping[int, float], vocab_size: int) -> Mapping[int, float]:
    for id, value in bias.items():
        if isinstance(id, bool) or not isinstance(id, (int, np.integer)) or not 0 <= id < vocab_size:
            raise ValueError(f"logit_bias has the id {id!r}; needed: integers from 0 to {vocab_size - 1}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST_BIAS:
            raise ValueError(f"logit_bias has {value!r} for the id {id}; needed: a number from -100 to 100")
    return bias

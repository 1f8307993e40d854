"""`LanguageEngine`: a decoder that many callers share, in one running batch.

Programs and `transformer_fast.server` submit prompts and read pieces of answers. Options are checked here, in the
caller's thread, and become a request; `language_loop` has the order in which requests run, `rows` what is computed,
`choice` how ids are chosen, `answer_text` how they become text, `results` what callers get.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer_fast.functional.arrays import integer
from transformer_fast.generation.config import FIELDS, GenerationConfig, resolve
from transformer_fast.models.common.decoder import CausalLM
from transformer_fast.models.common.inputs import integers
from transformer_fast.serving.answer_text import AnswerText
from transformer_fast.serving.choice import Choice
from transformer_fast.serving.language_loop import Loop, Request
from transformer_fast.serving.results import Generation
from transformer_fast.serving.rows import rows_of
from transformer_fast.serving.turns import Turns

# Options of GenerationConfig that are for several rows or for beams -> the values that one row may have.
_ONE_ROW = {"num_beams": 1, "num_return_sequences": 1}

# Defaults. 32,768 positions are what a decoder's caches reserve at once (models.common.decoder), 0.8 GB of
# Qwen2.5-0.5B in float32. A queue of 256 answers of 256 tokens is ten minutes' work at 100 tokens a second: whoever
# comes later has better uses for the time. Pieces of 256 read a prompt of 1,024 in 0.66 s, those of
# 512, 128 and 64 in 0.71, 0.76 and 0.89 (Qwen2.5-0.5B's shape in int8, two threads of Granite Rapids), and a running
# row waits for one piece at most, 0.24 s.
_TOKENS, _QUEUE, _PIECE = 32_768, 256, 256


class LanguageEngine:
    """Requests of any length join and leave a running batch of a decoder at every step.

    model: a `CausalLM` of this library. tokenizer: its `load_tokenizer`. turns: shared with other engines of the
    process, so that they compute one after the other.
    max_tokens_in_flight: positions of keys and values that the engine holds at most; a request is admitted when there
    is room for its prompt and all ids that it may get. max_queue: requests that wait for it at most.
    kv_cache_dtype, kv_page_size: as `generate` has them. prompt_piece: prompts are read in pieces of so many tokens,
    one call for prompts between two steps. share_prompts: pieces that several prompts begin with are computed once,
    and kept as long as there is room.

    A request gets the ids and logprobs, bit for bit, that it gets when nothing else runs, whatever was found in shared
    pages: each row has its own bits in a call (docs/numerics.md), and prompts are cut at multiples of prompt_piece. A
    prompt of at most prompt_piece tokens has the logits of `model.generate`; a longer one is read against the cache
    from its second piece on, and rounds in another order than in one call. Models whose rotations depend on the
    length (Phi-3 with long factors, dynamic NTK) run row by row, with prompts in one piece and nothing shared.

    Its methods may be called from many threads. A `with` statement closes it.

    Raises:
        TypeError: model is no decoder that scores all tokens.
        ValueError: a size does not fit.

    Example:
        >>> engine = LanguageEngine(model, tokenizer)                                                 # doctest: +SKIP
        >>> engine.submit(tokenizer.encode("The quick").ids, max_new_tokens=3).result().text          # doctest: +SKIP
        ' brown fox jumps'
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Any,
        *,
        turns: Turns | None = None,
        max_tokens_in_flight: int = _TOKENS,
        max_queue: int = _QUEUE,
        kv_cache_dtype: str | None = None,
        kv_page_size: int = 64,
        prompt_piece: int = _PIECE,
        share_prompts: bool = True,
    ) -> None:
        if not isinstance(model, CausalLM) or model.token_ids is not None:
            raise TypeError(f"model is a {type(model).__name__}; needed: a decoder that scores all tokens (CausalLM)")
        sizes = {"max_tokens_in_flight": max_tokens_in_flight, "max_queue": max_queue, "prompt_piece": prompt_piece}
        for name, value in sizes.items():
            if integer(value, name) < 1:
                raise ValueError(f"{name} is {value}; needed: at least 1")
        self.model, self.tokenizer = model, tokenizer
        rows = rows_of(model, max_tokens_in_flight, prompt_piece, share_prompts, kv_cache_dtype, kv_page_size)
        self._positions = rows.positions
        self._limit = model.body.max_length or getattr(model.config, "max_position_embeddings", None)
        name = f"{type(model).__name__} engine"
        self._loop = Loop(rows, Turns() if turns is None else turns, max_queue, name)
        self._finalizer = weakref.finalize(self, self._loop.stop, 0.0)

    @property
    def max_length(self) -> int:
        """The most tokens of a prompt and its answer: what the model can count to, or what the engine may hold."""
        return self._positions if self._limit is None else min(self._limit, self._positions)

    def submit(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        constraint: Any = None,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        **options: Any,
    ) -> Generation:
        """Puts a prompt (n,) into the queue -> its answer, which comes piece by piece.

        max_new_tokens: as `generate`: without it, and without one in the model's folder, 20. stop: strings that end the
        answer, looked for in the answer alone; they are no part of its text without include_stop. logprobs: of the
        chosen id and of so many likeliest ones (0: of the chosen id alone), from the model's scores before any of the
        other options. logit_bias: what is added to the scores of ids, -100 to 100. presence_penalty,
        frequency_penalty: -2 to 2, as OpenAI defines them, over the ids of the answer. constraint: a
        `generation.constraints.Constraint`.
        options: those of `GenerationConfig` for one row without beams (do_sample, temperature, seed, eos_token_id,
        ...), with its meaning: the ids are those that `model.generate` chooses by the same logits and seed. The
        folder's generation_config.json gives defaults. max_time: seconds from now on, after which the answer ends as
        if it were too long.

        Raises:
            ValueError, TypeError, NotImplementedError: an option does not fit; the text names it. A prompt that can
                never be admitted is one of them.
            IndexError: an id is none of the model's.
            Busy: as many requests wait as may.
            Stopping: the engine is closed.
        """
        shape = np.shape(prompt_ids)
        if len(shape) != 1 or not shape[0]:
            raise ValueError(f"prompt_ids has shape {shape}; needed: (n,) with n >= 1")
        prompt = integers("prompt_ids", prompt_ids, self.model.config.vocab_size).copy()
        config = self._config({**options, "max_new_tokens": max_new_tokens} if max_new_tokens is not None else options)
        stop = _strings(stop, config)
        if logprobs is not None and (isinstance(logprobs, bool) or integer(logprobs, "logprobs") < 0):
            raise ValueError(f"logprobs is {logprobs!r}; needed: an integer >= 0, or None")
        max_length = config.longest(len(prompt), self.max_length)
        if max_length > self.max_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and may get {max_length - len(prompt)} more; needed: at most "
                f"{self.max_length} in all"
            )
        vocab_size = self.model.config.vocab_size
        state = None if constraint is None else constraint.start(self.tokenizer, vocab_size, config.eos)
        choice = Choice(
            config,
            prompt,
            max_length,
            vocab_size,
            bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            logprobs=logprobs,
            state=state,
        )
        request = Request(
            generation=None,
            prompt=prompt,
            longest=max_length - 1,  # the keys of the last id are never needed
            left=max_length - len(prompt),
            eos=frozenset(config.eos),
            choice=choice,
            text=AnswerText(self.tokenizer, prompt.tolist(), stop, include_stop, skip_special_tokens),
            wants_logprobs=logprobs is not None,
            deadline=None if config.max_time is None else time.monotonic() + config.max_time,
        )
        # It refers to the engine, which therefore lives as long as one of its requests.
        request.generation = Generation(len(prompt), functools.partial(self._cancel, request))
        self._loop.submit(request)
        return request.generation

    def stats(self) -> dict[str, float]:
        """Counters since the engine was made, and how things stand.

        requests: accepted; refused: answered by Busy; stop, length, cancelled, errors: how requests ended.
        prompt_tokens: computed; cached_tokens: found in shared pages; generated_tokens. pieces, steps: calls of the
        model for prompts and for running rows, and seconds_prompts, seconds_steps: the time they took, turns of other
        engines included. queue, reading, running: requests in each state. tokens_held: positions of pages in use, of
        which tokens_known are of prompts that no row reads; max_tokens: what may be held.
        """
        return self._loop.stats()

    def close(self, timeout: float | None = None) -> None:
        """Takes no more requests (Stopping), and returns when all accepted ones have ended; after `timeout` seconds it
        cancels those that are left."""
        self._loop.stop(timeout)

    def __enter__(self) -> LanguageEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _cancel(self, request: Request) -> None:
        self._loop.cancel(request)

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        config, unknown = resolve(getattr(self.model, "generation_config", {}), options)
        unknown = [*unknown, *(name for name, value in options.items() if name not in FIELDS and value is not None)]
        if unknown:
            raise TypeError(f"submit() got {', '.join(dict.fromkeys(unknown))}; needed: options of GenerationConfig")
        for name, needed in _ONE_ROW.items():
            if getattr(config, name) != needed:
                raise ValueError(f"{name} is {getattr(config, name)}; needed: {needed}, an engine's rows are requests")
        return config


def _strings(stop: Sequence[str], config: GenerationConfig) -> tuple[str, ...]:
    """The stop strings of a request, or those of the folder, where the request has none."""
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(string, str) and string for string in stop):
        raise ValueError(f"stop is {stop!r}; needed: strings that are not empty")
    given = config.stop_strings or ()
    return stop or ((given,) if isinstance(given, str) else tuple(given))

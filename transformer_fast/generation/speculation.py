"""Speculation: several tokens are drafted cheaply, and the model checks all of them in one call.

`generate` and `stream` run `speculative_search` in place of `search` where `prompt_lookup_num_tokens` or
`assistant_model` is given. The tokens are those of `search`: the model's scores after each drafted token have the bits
that one call a token would give (`extend(every=True)`), and a drafted token is kept where it is the one that those
scores choose. Sampling with an assistant accepts by chance instead, so that tokens have the model's distribution.

Another way to draft: a class with `draft`, and its option in `drafter_of`.

Sources: Leviathan, Kalman, Matias 2023, https://arxiv.org/abs/2211.17192 (the rule of acceptance); Saxena 2023, prompt
lookup decoding; transformers' candidate_generator.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.generation.config import RANGES, GenerationConfig
from transformer_fast.generation.logits import Processor, softmax
from transformer_fast.generation.search import Choice, greedy, sampler
from transformer_fast.generation.stopping import Stop

# Candidates at first: few, since nothing is known of how many will be accepted; then twice as many while all are. Those
# of an assistant cost one of its steps each.
_FIRST, _FIRST_OF_ASSISTANT = 4, 2
# What candidates may have cost more than they brought, as a share of the time of plain steps. Of speculation that never
# helps 0.95 of the speed is asked: the other half is what plain steps take longer here (2 of 80 us, 1 M parameters).
_LOSS = 0.025
# Gains count as this many steps at most, so that candidates rest soon where they stop to help; losses as those that so
# many plain steps make up for, so that one slow call does not end them for good.
_MOST_GAIN, _LONGEST_REST = 1, 128
# After each check in a row that did not pay, plain steps make up for half as much, down to this part of _LOSS: what
# never helps is tried ever less often, and after 2048 plain steps at the latest.
_LEAST_PART = 1 / 16
# After so many failures in a row a look-up must have been right before anything is tried.
_FAILURES = 2
# Plain steps of a rest run together, so many at most, as long as looking after each of them would take more than 1 % of
# the time: it takes some 10 us, and then 1 us a token, since the look-up's tables are no longer in the caches: 14 us
# for 7 tokens (1 M parameters, where a step takes 82).
_STEPS_TOGETHER, _LOOK = 16, 10e-6 / 0.01
# Plain steps before the first candidates: the first one finds cold caches (249 us, the next one 76, 1 M parameters).
_TIMED_STEPS = 2
# Without a clock: what a candidate costs, drafted and checked, as a share of a step.
_CANDIDATE = 0.4
# transformers' defaults.
_NGRAM, _ASSISTANT_TOKENS = 2, 20

# Options that say how an assistant drafts -> values with which tokens are drafted as here.
_ASSISTANT_OPTIONS: dict[str, tuple] = {
    "num_assistant_tokens_schedule": (None, "constant"),
    "assistant_confidence_threshold": (None, 0),
    "assistant_early_exit": (None,),
    "assistant_lookbehind": (None,),
    "target_lookbehind": (None,),
    "assistant_ensemble_weight": (None,),
}
_COUNTS = ("prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens")


class Draft(NamedTuple):
    """Candidates (c,), and, where they were drawn by chance, the probabilities (c, V) that they were drawn from."""

    ids: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class Speculation:
    """The options of speculation, checked: at most one of prompt_lookup_num_tokens and assistant_model is given."""

    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = _NGRAM
    assistant_model: Any = None
    num_assistant_tokens: int = _ASSISTANT_TOKENS

    @property
    def wanted(self) -> bool:
        return self.prompt_lookup_num_tokens is not None or self.assistant_model is not None


def speculation(model: Any, options: Mapping[str, Any], config: GenerationConfig, rows: int) -> Speculation:
    """What the options of a call ask for; the generation has `rows` rows.

    Raises:
        ValueError: an option is out of range, or speculation does not go with the other options.
        NotImplementedError: an option of transformers that is not honoured.
        TypeError: a model cannot draft, or check what is drafted.
    """
    given = {name: options[name] for name in (*_COUNTS, "assistant_model") if options.get(name) is not None}
    for name in _COUNTS:
        holds, needed = RANGES["num_beams"]
        if name in given and not holds(given[name]):
            raise ValueError(f"{name} is {given[name]!r}; needed: {needed}")
    assistant = given.get("assistant_model")
    if assistant is not None:
        if "prompt_lookup_num_tokens" in given:
            raise ValueError("assistant_model and prompt_lookup_num_tokens are given; needed: one of them")
        _check_assistant(model, assistant, options)
        own = getattr(assistant, "generation_config", {}).get("num_assistant_tokens")
        given.setdefault("num_assistant_tokens", own if own is not None else _ASSISTANT_TOKENS)
    asked = Speculation(**given)
    if asked.wanted:
        name = "assistant_model" if assistant is not None else "prompt_lookup_num_tokens"
        if not hasattr(model, "extend"):
            raise TypeError(f"{name} is given and {type(model).__name__} has no extend(); needed: a decoder")
        if config.num_beams > 1 or rows != 1:
            raise ValueError(
                f"{name} is given with num_beams={config.num_beams} and {rows} rows; needed: num_beams=1 and one row"
            )
    return asked


def _check_assistant(model: Any, assistant: Any, options: Mapping[str, Any]) -> None:
    for name, neutral in _ASSISTANT_OPTIONS.items():
        if options.get(name) not in neutral:
            raise NotImplementedError(f"{name} is {options[name]!r}, which is not supported; needed: {neutral[-1]!r}")
    if not all(hasattr(assistant, name) for name in ("extend", "empty_past")):
        raise TypeError(
            f"assistant_model is a {type(assistant).__name__}; needed: a decoder, with extend() and empty_past()"
        )
    sizes = [getattr(getattr(one, "config", None), "vocab_size", None) for one in (assistant, model)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"assistant_model has a vocabulary of {sizes[0]} tokens; needed: the model's, {sizes[1]}")


class PromptLookup:
    """Drafts what followed an earlier occurrence of the last tokens: for texts that repeat their prompt.

    most: tokens at most. ngram: how many last tokens are looked up at first, then one fewer, down to one. Of several
    occurrences the last one that `limit` tokens follow counts, else the first.
    """

    def __init__(self, most: int, ngram: int = _NGRAM) -> None:
        self.most, self.ngram = most, ngram
        self._ids: list[int] = []
        # Tokens that follow each other, up to ngram, as (first, (second, ())) -> where they end, rising, but for an end
        # at the last token of all. Such a tuple is made of the one before in a third of the time of a flat one.
        self._ends: dict[tuple, list[int]] = {}
        self._noted = 0  # tokens of _ids that are in _ends

    def begin(self, ids: np.ndarray) -> None:
        """The prompt (n,): there is nothing to do."""

    def draft(self, ids: np.ndarray, limit: int) -> Draft | None:
        """At most `limit` candidates for what follows ids (n,), which begin with those of the last call; None: there is
        no earlier occurrence."""
        self.note(ids)
        found, n = self._find(len(ids) - 1), len(ids)
        if not found:
            return None
        enough = bisect_left(found, n - limit)
        first = 1 + (found[enough - 1] if enough else found[0])
        return Draft(ids[first : first + limit])

    def note(self, ids: np.ndarray) -> list[bool]:
        """Takes in ids (n,), which begin with those of the last call -> for each new one whether it would have been the
        first candidate."""
        known, ends, right = self._ids, self._ends, []
        known += ids[len(known) :].tolist()
        for end in range(self._noted, len(known) - 1):
            key, candidate = (), None
            for first in range(end, max(end - self.ngram, -1), -1):
                key = known[first], key
                found = ends.get(key)
                if found is None:
                    ends[key] = [end]
                else:
                    candidate = known[found[-1] + 1]
                    found.append(end)
            right.append(candidate == known[end + 1])
        self._noted = max(self._noted, len(known) - 1)
        return right

    def _find(self, end: int) -> list[int]:
        """Where the tokens up to `end`, as many as possible, have ended before."""
        found: list[int] = []
        key: tuple = ()
        for first in range(end, max(end - self.ngram, -1), -1):
            key = self._ids[first], key
            longer = self._ends.get(key)
            if longer is None:
                break
            found = longer
        return found


class Assistant:
    """Drafts with a smaller model of the same vocabulary, which keeps its own past.

    tokens (n,): False where the prompt is padding, or None. steps change the model's scores as they change those of the
    model that checks. generator: tokens are drawn by chance, with it; None: the likeliest are taken.
    """

    def __init__(
        self,
        model: Any,
        most: int,
        tokens: np.ndarray | None,
        steps: Sequence[Processor],
        stop: Stop,
        generator: np.random.Generator | None,
    ) -> None:
        self.model, self.most, self.stop, self.steps, self.generator = model, most, stop, steps, generator
        self._tokens = np.zeros(0, bool) if tokens is None else tokens
        self._state: Any = None
        self._fed = np.zeros(0, np.int64)  # what the state holds
        self._logits: np.ndarray | None = None  # after them, until more is fed

    def begin(self, ids: np.ndarray) -> None:
        """The prompt and what has followed it, (n,), which is computed before anything is drafted."""
        self._fed = self._without_padding(ids)
        # A past of its own kind, which forgets nothing: what was drafted in vain may lie further back than a window.
        own, capacity = self.model.empty_past(1), self.stop.max_length
        self._logits, self._state = self.model.start(self._fed[None], None, capacity=capacity, past_key_values=own)

    def note(self, ids: np.ndarray) -> list[bool]:
        """Nothing: to know what a candidate would have been costs a step of the assistant."""
        return []

    def draft(self, ids: np.ndarray, limit: int) -> Draft:
        """At most `limit` candidates for what follows ids (n,), fewer where one of them ends the row."""
        n, past = len(ids), np.concatenate([ids, np.empty(limit, np.int64)])[None]
        logits = self._catch_up(self._without_padding(ids))
        probabilities = []
        for length in range(n, n + limit):
            scores = np.asarray(logits, np.float32)
            for step in self.steps:
                scores = step(past[:, :length], scores)
            if self.generator is None:
                past[0, length] = greedy(scores)[0]
            else:
                probabilities.append(softmax(scores[0].astype(np.float64)))
                past[0, length] = drawn(probabilities[-1], self.generator)
            if (past[0, length] == self.stop.eos).any() or length + 1 == n + limit:
                break
            logits = self.model.step(past[:, length], self._state)
            self._fed = np.append(self._fed, past[0, length])
        return Draft(past[0, n : length + 1], np.stack(probabilities) if probabilities else None)

    def _without_padding(self, ids: np.ndarray) -> np.ndarray:
        prompt = len(self._tokens)
        return np.concatenate([ids[:prompt][self._tokens], ids[prompt:]])

    def _catch_up(self, ids: np.ndarray) -> np.ndarray:
        """The logits (1, V) after ids; what was fed and is not theirs any more is forgotten."""
        fed, self._fed = self._fed, ids
        logits, self._logits = self._logits, None
        if logits is not None and len(fed) == len(ids):
            return logits  # nothing has followed what `begin` was given
        both = min(len(fed), len(ids) - 1)
        differ = np.flatnonzero(fed[:both] != ids[:both])
        common = int(differ[0]) if len(differ) else both
        if common < len(fed):
            self._state.crop(common - len(fed))
        return self.model.extend(ids[None, common:], self._state)


def drawn(probabilities: np.ndarray, generator: np.random.Generator) -> int:
    """An id by chance, with probabilities (V,), which need not sum to 1."""
    sums = np.cumsum(probabilities)
    return int(np.searchsorted(sums, generator.random() * sums[-1], "right"))


# (scores (1, V), a candidate, the probabilities (V,) that it was drawn from or None) -> the token that is taken.
Decision = Callable[[np.ndarray, int, "np.ndarray | None"], int]


def deciding(choose: Choice) -> Decision:
    """The token that `choose` takes of scores (1, V), whatever the candidate is: a search's own choice."""
    return lambda scores, candidate, probabilities: int(choose(scores)[0])


def accepting(generator: np.random.Generator) -> Decision:
    """A token by chance that has the probabilities p of scores (1, V), and is often the candidate.

    The candidate was drawn with probabilities q: it is kept with probability min(1, p / q), else another one is drawn
    with probabilities proportional to max(0, p - q) (Leviathan et al. 2023, theorem 3.5).
    """

    def decide(scores: np.ndarray, candidate: int, probabilities: np.ndarray) -> int:
        p = softmax(scores[0].astype(np.float64))
        if generator.random() * probabilities[candidate] < p[candidate]:
            return candidate
        rest = np.maximum(p - probabilities, 0)
        return drawn(rest if rest.any() else p, generator)

    return decide


class Pace:
    """How many candidates to ask for: more while they are accepted, none for a while after they have not paid.

    Checks that bring fewer tokens than plain steps would in their time make a debt, which plain steps make up for with
    a share of theirs, less and less of them from failure to failure. The first steps are plain ones, to know the time
    of one. clock=False: times are assumed, so that a generation by chance can be repeated. first: candidates at first.
    guesses: whether plain steps tell what a candidate would have been. Then nothing is tried before a guess was right,
    at first and after checks in a row that did not pay, and a rest ends where guesses in a row were right: text that is
    copied goes on being copied. It takes two of them after one failure, and twice as many after each more.
    """

    def __init__(self, most: int, clock: bool, first: int = _FIRST, guesses: bool = False) -> None:
        self.size, self._most, self._clock = min(most, first), most, clock
        self._step, self._untimed = (0.0, _TIMED_STEPS) if clock else (1.0, 0)
        self._guesses, self._right = guesses, 0  # so many guesses in a row were right
        self._hopeful = not guesses
        self._balance = 0.0  # steps that were gained, or lost
        self._share = _LOSS  # of a plain step, that makes up for losses
        self._failures = 0  # checks in a row that did not pay

    @property
    def ready(self) -> bool:
        return self._hopeful and self._balance >= 0 and not self._untimed

    @property
    def rest(self) -> int:
        """Plain steps until there is something to decide."""
        if self.ready or self._untimed:
            return 1
        together = min(math.ceil(_LOOK / self._step), _STEPS_TOGETHER) if self._clock else 1
        debt = math.ceil(-self._balance / self._share)
        return min(debt, together) if debt > 0 else together

    def stepped(self, seconds: float, count: int = 1) -> None:
        """The first of so many plain steps took so long."""
        if self._clock:
            # What disturbs a step only makes it slower: a shorter time is the better one.
            fastest = self._step == 0 or seconds < self._step
            self._step = seconds if fastest else 0.9 * self._step + 0.1 * seconds
            self._untimed = max(self._untimed - 1, 0)
        self._balance = min(self._balance + count * self._share, _MOST_GAIN)

    def guessed(self, right: Sequence[bool]) -> None:
        """Plain steps have told whether the first of the candidates that there might have been were right."""
        self._hopeful = self._hopeful or any(right)
        for one in right:
            self._right = self._right + 1 if one else 0
        if self._right >= 2**self._failures:
            self._balance = max(self._balance, 0.0)

    def checked(self, candidates: int, accepted: int, seconds: float) -> None:
        """Drafting and checking so many candidates took so long; accepted of them were right."""
        gain = accepted + 1 - (seconds / self._step if self._clock else 1 + _CANDIDATE * candidates)
        self._balance = max(min(self._balance + gain, _MOST_GAIN), -_LOSS * _LONGEST_REST)
        if accepted < candidates and gain < 0:
            self.size = max(1, self.size // 2)
        elif accepted == candidates and gain >= 0:
            self.size = min(self._most, 2 * self.size)
        self._failures = self._failures + 1 if gain < 0 else 0
        self._hopeful, self._right = self._failures < _FAILURES or not self._guesses, 0
        self._share = _LOSS * max(0.5 ** (self._failures - 1), _LEAST_PART) if self._failures else _LOSS


class _Row:
    """The ids of a row as they are chosen, and how: by choose without a candidate, by decide with one."""

    def __init__(
        self, ids: np.ndarray, steps: Sequence[Processor], choose: Choice, decide: Decision, stop: Stop
    ) -> None:
        self.length = ids.shape[1]
        self._past = np.empty((1, stop.max_length), np.int64)
        self._past[:, : self.length] = ids
        self._steps, self._choose, self._decide, self._stop = steps, choose, decide, stop
        self.ended = False

    @property
    def ids(self) -> np.ndarray:
        """(n,), a view."""
        return self._past[0, : self.length]

    def take(self, logits: np.ndarray, draft: Draft | None = None, i: int = 0) -> np.ndarray:
        """Appends the id (1,) that is chosen with logits (1, V), candidate i of draft given or none, and returns it."""
        scores = np.asarray(logits, np.float32)
        for step in self._steps:
            scores = step(self._past[:, : self.length], scores)
        if draft is None:
            chosen = self._choose(scores)
        else:
            probabilities = None if draft.probabilities is None else draft.probabilities[i]
            chosen = np.array([self._decide(scores, int(draft.ids[i]), probabilities)])
        self._past[:, self.length] = chosen
        self.length += 1
        self.ended = bool(self._stop(self._past[:, : self.length])[0])
        return chosen

    def check(self, logits: np.ndarray, draft: Draft) -> int:
        """Appends an id for each of logits (c + 1, V) as long as they are the draft's (c), and the first that is not;
        returns how many of the draft's were right."""
        for i, candidate in enumerate(draft.ids):
            if self.take(logits[i : i + 1], draft, i) != candidate or self.ended:
                return i
        self.take(logits[-1:])
        return len(draft.ids)


def speculative_search(
    model: Any,
    logits: np.ndarray,
    state: Any,
    ids: np.ndarray,
    steps: Sequence[Processor],
    choose: Choice,
    decide: Decision,
    stop: Stop,
    drafter: PromptLookup | Assistant,
    pace: Pace,
) -> Iterator[np.ndarray]:
    """As `search` for one row: yields the next ids (1,).

    Between the ids of one check the state already holds all of them but the last; otherwise all ids but the last.
    """
    row, begun, clock = _Row(ids, steps, choose, decide, stop), False, time.perf_counter
    chosen = row.take(logits)
    yield chosen
    while not row.ended:
        draft, first = None, row.length
        # A check gives one more id than it has candidates.
        limit = min(pace.size, stop.max_length - first - 1) if pace.ready else 0
        if limit > 0 and not begun:
            drafter.begin(row.ids)
            begun = True
        started = clock()
        if limit > 0:
            draft = drafter.draft(row.ids, limit)
        if draft is None:
            count = pace.rest
            for i in range(count):
                logits = model.step(chosen, state)
                chosen = row.take(logits)
                if i == 0:
                    seconds = clock() - started
                yield chosen
                if row.ended:
                    return
            pace.stepped(seconds, count)
            if not pace.ready:
                pace.guessed(drafter.note(row.ids))
            continue
        logits = model.extend(np.concatenate([chosen, draft.ids])[None], state, every=True)
        count, right = len(draft.ids), row.check(logits, draft)
        if right < count:
            state.crop(right - count)
        pace.checked(count, right, clock() - started)
        new = row.ids[first:, None].copy()
        chosen = new[-1]
        yield from new


def run(
    model: Any,
    asked: Speculation,
    logits: np.ndarray,
    state: Any,
    ids: np.ndarray,
    tokens: np.ndarray | None,
    steps: Sequence[Processor],
    config: GenerationConfig,
    stop: Stop,
) -> Iterator[np.ndarray]:
    """The search that the options ask for; tokens (1, n) tells padding of the prompt, or is None.

    Raises:
        NotImplementedError: the past of this text cannot be cropped.
    """
    if not hasattr(state, "crop"):
        raise NotImplementedError(
            f"prompt_lookup_num_tokens or assistant_model is given, and what {type(model).__name__} keeps of this text "
            "cannot be cropped; needed: neither"
        )
    generator = np.random.default_rng(config.seed) if config.do_sample else None
    choose = greedy if generator is None else sampler(generator)
    if asked.assistant_model is None:
        drafter: PromptLookup | Assistant = PromptLookup(asked.prompt_lookup_num_tokens, asked.max_matching_ngram_size)
        decide = deciding(choose)
    else:
        row = None if tokens is None else tokens[0]
        drafter = Assistant(asked.assistant_model, asked.num_assistant_tokens, row, steps, stop, generator)
        decide = deciding(choose) if generator is None else accepting(generator)
    # By chance, an assistant draws numbers of the same generator: a clock would decide how many.
    lookup = asked.assistant_model is None
    first = _FIRST if lookup else _FIRST_OF_ASSISTANT
    pace = Pace(drafter.most, clock=lookup or generator is None, first=first, guesses=lookup)
    return speculative_search(model, logits, state, ids, steps, choose, decide, stop, drafter, pace)

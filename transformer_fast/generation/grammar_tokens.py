"""llguidance beside a vocabulary: grammars are compiled for it once, and then say which tokens may follow.

`constraints` calls `vocabulary_of`; nothing else knows llguidance's matchers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from transformer_fast.files.errors import optional_import

# Compiled grammars that are kept for a vocabulary: 0.1 to 2 MB each.
_KEPT = 32
# A state of a lexer takes up to 2 kB: 50 MB a row at most. Schemas of 100 properties need some hundreds.
_MAX_LEXER_STATES = 25_000
# llguidance follows references by recursion, 10 KB of stack for each: those of the largest schema (grammar_limits), and
# a thread of musl or macOS has 0.5 to 1 MB.
_STACK = 64 * 2**20
_SHOWN = 300  # characters of llguidance's errors, which may quote all of a grammar

# For the eight tokens of a byte of a mask. 150,000 scores take 0.05 ms with them, 0.6 ms with a condition for each.
_BOUNDS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), np.inf, -np.inf
).astype(np.float32)

T = TypeVar("T")

_vocabularies: WeakKeyDictionary[Any, dict[int, Vocabulary]] = WeakKeyDictionary()
_lock = threading.Lock()
_stack_lock = threading.Lock()


class Grammar:
    """A compiled grammar after some tokens of one row."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    @property
    def complete(self) -> bool:
        """The text fits, and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def may_end(self) -> bool:
        return self._matcher.is_accepting()

    def bounds(self) -> tuple[np.ndarray, bool]:
        """(inf for tokens that may follow and -inf for others (V,), whether the text may end here).

        Raises:
            ValueError: the grammar is too involved to tell.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        # One bit a token, and one for the end after the last token.
        found = np.take(_BOUNDS, bits, axis=0).reshape(-1)
        return found[: self._vocab_size], bool(found[self._vocab_size] > 0)

    def take(self, id: int) -> bool:
        """Go on with a token; False: it may not follow.

        Raises:
            ValueError: the grammar is too involved to tell.
        """
        if not 0 <= id < self._vocab_size or not self._matcher.try_consume_tokens([id]):
            self._check()
            return False
        self._check()
        return True

    def take_back(self, count: int) -> None:
        """Forget so many tokens."""
        if count:
            self._matcher.rollback(count)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the constraint cannot go on: {_told(self._matcher.get_error())}")


class Vocabulary:
    """The tokens of a tokenizer for a model with vocab_size scores, and the grammars that were compiled for them."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        library = optional_import("llguidance", "grammar", "for constrained output")
        self._matcher = library.LLMatcher
        self._limits = library.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        self.vocab_size = vocab_size
        found = tokenizer.token_bytes()
        tokens = found.tokens[:vocab_size] + [b""] * (vocab_size - len(found.tokens))
        special = [number for number in found.special if number < vocab_size]
        wrapper = library.TokenizerWrapper(_Tokens(tokens, special, tokenizer.tokenizer))
        self._tokens = library.LLTokenizer(wrapper, n_vocab=vocab_size + 1, eos_token=vocab_size)
        self._compiled: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, constraint: Any) -> Grammar:
        """The constraint's grammar before the first token.

        Raises:
            ValueError: it is malformed or too involved.
        """
        with self._lock:
            matcher = self._compiled.get(constraint)
        if matcher is None:
            matcher = _with_stack(lambda: self._compile(constraint))
        with self._lock:
            matcher = self._compiled.setdefault(constraint, matcher)
            self._compiled.move_to_end(constraint)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return Grammar(matcher.deep_copy(), self.vocab_size)

    def _compile(self, constraint: Any) -> Any:
        matcher = self._matcher(self._tokens, constraint._llguidance(), log_level=0, limits=self._limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first one builds the lexer's first states, for all copies
        if matcher.is_error():
            raise ValueError(f"{constraint}: {_told(matcher.get_error())}")
        return matcher


class _Tokens:
    """What llguidance asks a tokenizer for. The end of a text has a number of its own, after all tokens."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], encoder: Any) -> None:
        self.eos_token_id = len(tokens)
        self.tokens = [*tokens, b"<end of text>"]
        self.special_token_ids = [*special, self.eos_token_id]
        self._encoder = encoder

    def __call__(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids


def vocabulary_of(tokenizer: Any, vocab_size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, made once (0.7 s for 150,000 tokens) and kept as long as the tokenizer is."""
    with _lock:
        sizes = _vocabularies.setdefault(tokenizer, {})
        if vocab_size not in sizes:
            sizes[vocab_size] = Vocabulary(tokenizer, vocab_size)
        return sizes[vocab_size]


def _with_stack(work: Callable[[], T]) -> T:
    """The result of `work`, run by a thread with a stack that is deep enough."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="grammar", daemon=True)
    with _stack_lock:
        before = threading.stack_size(_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _told(error: str) -> str:
    """llguidance's error in one line that is not too long, in words for those that are none."""
    if error.startswith("NoExtension"):
        return "no text fits it"
    # What it does not expect, a rule that never ends for one, is a panic, which comes with the places in its code.
    text = " ".join(error.replace("<non-verbose/>", "").partition("<backtrace>")[0].split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

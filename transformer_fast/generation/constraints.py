"""Constrained output: what a model writes is JSON of a schema, matches a regular expression, or follows a grammar.

Users make a `Constraint` and give `constraint_processor(constraint, tokenizer)` to `generate`, `stream` or a
`GenerationSession` as logits_processor; engines that run many rows hold a `ConstraintState` for each. llguidance (extra
`grammar`) says which tokens may follow; `grammar_limits` bounds what it is asked for, and `grammar_tokens` tells it the
vocabulary. A further kind of constraint is a class method here that makes a grammar of llguidance.

Source: https://github.com/guidance-ai/llguidance (release 1.9): its JSON schemas, regular expressions and grammars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.files.errors import optional_import
from transformer_fast.generation import grammar_limits
from transformer_fast.generation.config import GenerationConfig
from transformer_fast.generation.grammar_tokens import Grammar, vocabulary_of
from transformer_fast.generation.logits import Processor

_NEVER = np.float32(-np.inf)
# llama.cpp's form of grammars: name ::= ...
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_SHOWN = 60  # characters of a constraint in an error text


@dataclass(frozen=True)
class Constraint:
    """What an answer has to be; made by one of the class methods, unchangeable and hashable.

    kind: "json_schema", "regex", "lark". text: the schema, the expression or the grammar. It is compiled for a
    vocabulary when it is first used there, and kept for later uses.

    Raises:
        ValueError: it is malformed as far as that can be told without a vocabulary, or larger than may be compiled.
        ImportError: a class method is called and llguidance is not installed.

    Example:
        >>> from transformer_fast.generation import Constraint
        >>> Constraint.choice(["yes", "no"]).kind                                                     # doctest: +SKIP
        'regex'
    """

    kind: str
    text: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Constraint:
        """JSON that the schema (an object, or its text) describes; keywords that llguidance does not know are refused.

        Objects have the schema's properties in its order, and after them others, unless additionalProperties is False.
        """
        if isinstance(schema, str):
            grammar_limits.check_text_of_schema(schema)
        try:
            plain = json.loads(schema) if isinstance(schema, str) else json.loads(json.dumps(schema))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the JSON schema is malformed: {error}") from None
        grammar_limits.check_schema(plain)
        text = json.dumps(plain, ensure_ascii=False)
        grammar_limits.check_text_of_schema(text)
        return cls("json_schema", text)

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """A text that the expression matches from its start to its end (Rust's syntax: no look-around, no \\1)."""
        if not isinstance(pattern, str):
            raise ValueError(f"the regular expression is {pattern!r:.60}; needed: a string")
        grammar_limits.check_regex(pattern)
        return cls("regex", pattern)

    @classmethod
    def grammar(cls, text: str) -> Constraint:
        """A context-free grammar: Lark's form as llguidance reads it, with a rule `start`, or llama.cpp's GBNF."""
        if not isinstance(text, str):
            raise ValueError(f"the grammar is {text!r:.60}; needed: a string")
        if _GBNF.search(text):
            text = _from_gbnf(text)
        grammar_limits.check_grammar(text)
        return cls("lark", text)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Constraint:
        """One of these texts."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the choices are {texts!r:.60}; needed: at least one string")
        return cls.regex(f"({'|'.join(map(_quoted, texts))})")

    def after(self, end: str) -> Constraint:
        """A text that ends with `end`, its first occurrence, and then what this constraint says: reasoning before JSON.

        Raises:
            ValueError: this is a grammar whose rule `start` is not at its beginning.
        """
        before = f"start: before answer\nbefore[suffix={json.dumps(end)}]: /(?s:.*)/\nspace: /\\s*/\n"
        if self.kind == "json_schema":
            answer = f"answer: space value\nvalue: %json {self.text}\n"
        elif self.kind == "regex":
            to_lark = optional_import("llguidance", "grammar", "for constrained output").regex_to_lark
            answer = f"answer: space PATTERN\nPATTERN: /{to_lark(self.text)}/\n"
        elif self.text.startswith("start:"):
            answer = f"answer: space rest\nrest:{self.text.removeprefix('start:')}"
        else:
            raise ValueError(f"{self} is asked for after {end!r}; needed: a grammar that begins with start:")
        return Constraint.grammar(before + answer)

    def start(self, tokenizer: Any, vocab_size: int, eos: Sequence[int]) -> ConstraintState:
        """The state before the first token.

        tokenizer: of `load_tokenizer`. vocab_size: scores of a step, more than the tokenizer's tokens perhaps; those
        without a token never occur. eos: the ids that end a row.

        Raises:
            ValueError: the constraint is malformed or too involved; eos is empty; a token's bytes are not known.
            ImportError: llguidance is not installed.
        """
        ends = np.array(sorted({int(id) for id in eos if 0 <= id < vocab_size}), np.int64)
        if not len(ends):
            raise ValueError("eos_token_id is None or none of the model's; needed by a constraint: ids that end a row")
        return ConstraintState(self, vocabulary_of(tokenizer, vocab_size).start(self), ends)

    def _llguidance(self) -> str:
        """The grammar in llguidance's form."""
        matcher = optional_import("llguidance", "grammar", "for constrained output").LLMatcher
        try:
            make = {
                "json_schema": matcher.grammar_from_json_schema,
                "regex": matcher.grammar_from_regex,
                "lark": matcher.grammar_from_lark,
            }[self.kind]
            return make(self.text)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None

    def __str__(self) -> str:
        names = {"json_schema": "the JSON schema", "regex": "the regular expression", "lark": "the grammar"}
        shown = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"{names[self.kind]} {shown!r}"


class ConstraintState:
    """Which tokens may follow those of one row; `Constraint.start` makes it, one thread at a time uses it."""

    def __init__(self, constraint: Constraint, grammar: Grammar, eos: np.ndarray) -> None:
        self._constraint, self._grammar, self._eos = constraint, grammar, eos
        self._ends = frozenset(eos.tolist())
        self._ids: list[int] = []
        self._finished = False  # an id that ends the row was accepted

    @property
    def ended(self) -> bool:
        """Nothing but an id that ends the row may follow."""
        return self._finished or self._grammar.complete

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """scores (V,) -> the same, -inf where a token may not follow; ids that end the row only where it may end.

        Raises:
            ValueError: no token may follow: the vocabulary has none, other options ban those, or the grammar is too
                involved to go on.
        """
        bounds, may_end = (np.full_like(scores, _NEVER), True) if self._finished else self._grammar.bounds()
        bounds[self._eos] = -_NEVER if may_end else _NEVER
        kept = np.minimum(scores, bounds)
        if not kept.max() > _NEVER:
            reason = "its vocabulary has" if not (bounds > _NEVER).any() else "other options leave"
            raise ValueError(f"{self._constraint}: {reason} no token that may follow {len(self._ids)} tokens")
        return kept

    def accept(self, id: int) -> None:
        """The row goes on with this token.

        Raises:
            ValueError: it may not follow.
        """
        id = int(id)
        if self._finished or (id in self._ends and not self._grammar.may_end()) or not self._take(id):
            raise ValueError(f"{self._constraint}: token {id} may not follow {len(self._ids)} tokens")

    def follow(self, ids: Sequence[int]) -> None:
        """Become the state after these ids, whatever the row was before; what both share is not read again.

        Raises:
            ValueError: one of them may not follow.
        """
        both = min(len(ids), len(self._ids))
        common = next((i for i in range(both) if ids[i] != self._ids[i]), both)
        if common < len(self._ids):
            self._grammar.take_back(len(self._ids) - common - self._finished)
            self._finished = False
            del self._ids[common:]
        for id in ids[common:]:
            if self._finished:
                return  # what fills up a row that has ended
            self.accept(id)

    def _take(self, id: int) -> bool:
        if id in self._ends:
            self._finished = True
        elif not self._grammar.take(id):
            return False
        self._ids.append(id)
        return True


@dataclass(frozen=True)
class ConstraintProcessor:
    """The logits_processor of `constraint_processor`; each generation has states of its own."""

    constraint: Constraint
    tokenizer: Any

    def for_generation(self, config: GenerationConfig, prompt: int) -> Processor:
        """The changes of scores of one generation, whose rows have `prompt` ids before the first new one.

        Raises:
            ValueError: there are beams, whose rows end in other states than they began in.
        """
        if config.num_beams > 1:
            raise ValueError(f"a constraint is given and num_beams is {config.num_beams}; needed: num_beams=1")
        states: list[ConstraintState] = []

        def apply(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
            if not states:
                states.append(self.constraint.start(self.tokenizer, scores.shape[1], config.eos))
                states.extend(
                    self.constraint.start(self.tokenizer, scores.shape[1], config.eos) for _ in range(1, len(ids))
                )
            for state, row in zip(states, ids[:, prompt:].tolist(), strict=True):
                state.follow(row)
            return np.stack([state.apply(row) for state, row in zip(states, scores, strict=True)])

        return apply


def constraint_processor(constraint: Constraint, tokenizer: Any) -> ConstraintProcessor:
    """A logits_processor for `generate`, `stream` and `GenerationSession`: what follows the prompt fits the constraint.

    Each row is constrained by itself; sampling, several sequences and speculation work as without. A row that reaches
    max_new_tokens is cut off and then fits no more. Beams are refused.

    Example:
        >>> constraint = Constraint.json_schema({"type": "object", "properties": {"age": {"type": "integer"}}})
        >>> model.generate(ids, logits_processor=constraint_processor(constraint, tokenizer))         # doctest: +SKIP
    """
    return ConstraintProcessor(constraint, tokenizer)


def _quoted(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _from_gbnf(text: str) -> str:
    grammar_limits.check_grammar(text)
    convert = optional_import("llguidance.gbnf_to_lark", "grammar", "for constrained output").gbnf_to_lark
    try:
        return convert(text)
    except Exception as error:  # the converter raises Exception itself
        raise ValueError(f"the grammar in GBNF is malformed: {error or type(error).__name__}") from None

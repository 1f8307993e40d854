"""Sequence labelling: a label for every token, from there for every word, and from there spans of words.

`TokenClassifier` puts a layer of scores on any encoder. Tokenizers cut words into several tokens: `aggregate_words`
makes scores of words from those of their tokens. `decode_bio` reads labels such as B-PER, I-PER, O as spans. Users and
pipelines call these; another scheme of labels (BIOES) becomes a function next to `decode_bio`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module


class TokenClassifier(Module):
    """Scores of num_labels labels for every token: classifier(encoder(...)).

    encoder is any module that gives states (..., L, hidden): an array, a tuple that begins with one (as `LSTM` gives),
    or an output with last_hidden_state (as models give). The state dict holds encoder.* and classifier.*.

    Example:
        >>> encoder = nn.Sequential(nn.Embedding(100, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
        >>> tagger = nn.TokenClassifier(encoder, hidden=16, num_labels=3)
        >>> tagger(np.array([[5, 7, 9, 2]])).shape
        (1, 4, 3)
    """

    def __init__(self, encoder: Module, hidden: int, num_labels: int, bias: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = Linear(hidden, num_labels, bias)

    def forward(self, *inputs: Any, **options: Any) -> np.ndarray:
        """The arguments of the encoder -> logits (..., L, num_labels)."""
        states = self.encoder(*inputs, **options)
        states = getattr(states, "last_hidden_state", states)
        return self.classifier(states[0] if isinstance(states, tuple) else states)


def aggregate_words(
    scores: np.ndarray, word_ids: Sequence[int | None], strategy: str = "first"
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of words from those of their tokens.

    scores (L, N) of one sequence; word_ids: for each token the number of its word, None where it belongs to none
    (special tokens), as tokenizers' `Encoding.word_ids` -> (words (W,), scores (W, N)): the numbers of the words that
    have tokens, in their order, and a row for each. strategy: "first" takes the first token's row, "mean" the mean of
    all, "max" the row of the token that holds the highest score (the first of equals).

    Raises ValueError for an unknown strategy, lengths that differ, or a word whose tokens are not neighbours.
    Source: the aggregation strategies of transformers' TokenClassificationPipeline, which calls "mean" "average".

    Example:
        >>> scores = np.array([[9, 0], [2, 1], [0, 4], [5, 6]], np.float32)  # [CLS] em ##bed here
        >>> nn.aggregate_words(scores, [None, 0, 0, 1], "mean")
        (array([0, 1]), array([[1. , 2.5],
               [5. , 6. ]], dtype=float32))
    """
    scores = np.asarray(scores)
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; needed: one of {list(_STRATEGIES)}")
    if scores.ndim != 2 or len(scores) != len(word_ids):
        raise ValueError(f"scores has shape {scores.shape}; needed: ({len(word_ids)}, N), a row for each of word_ids")
    tokens: dict[int, list[int]] = {}
    for token, word in enumerate(word_ids):
        if word is None:
            continue
        own = tokens.setdefault(word, [])
        if own and own[-1] != token - 1:
            raise ValueError(f"word_ids has word {word} at {own[-1]} and again at {token}; needed: neighbours")
        own.append(token)
    choose = _STRATEGIES[strategy]
    rows = [choose(scores[own]) for own in tokens.values()]
    return np.array(list(tokens), np.int64), np.array(rows, scores.dtype).reshape(len(rows), scores.shape[1])


_STRATEGIES = {
    "first": lambda rows: rows[0],
    "mean": lambda rows: rows.mean(axis=0),
    "max": lambda rows: rows[rows.max(axis=1).argmax()],
}


class Span(NamedTuple):
    """Positions start up to but without end, and what they are.

    Example:
        >>> nn.Span(0, 2, "PER").end
        2
    """

    start: int
    end: int
    label: str


def decode_bio(labels: Sequence[str], strict: bool = True) -> list[Span]:
    """The spans that labels of the scheme BIO stand for, in their order.

    "B-X" begins a span of kind X, "I-X" continues it, "O" is outside of all. An "I-X" that follows neither "B-X" nor
    "I-X" is malformed: with strict a ValueError that names its position; without, it begins a span, as in CoNLL-2003's
    evaluation. A label that is none of the three is always a ValueError. Source: Ramshaw, Marcus 1995, cmp-lg/9505040
    (with B before every span, IOB2).

    Example:
        >>> nn.decode_bio(["B-PER", "I-PER", "O", "B-LOC"])
        [Span(start=0, end=2, label='PER'), Span(start=3, end=4, label='LOC')]
    """
    spans: list[Span] = []
    open_end, open_label = -1, ""  # the span that an I may continue
    for position, label in enumerate(labels):
        if label == "O":
            continue
        prefix, _, kind = label.partition("-")
        if prefix not in ("B", "I") or not kind:
            raise ValueError(f'labels[{position}] is {label!r}; needed: "O", "B-..." or "I-..."')
        continues = prefix == "I" and (open_end, open_label) == (position, kind)
        if prefix == "I" and not continues and strict:
            before = labels[position - 1] if position else None
            needed = f"B-{kind} or I-{kind} before it, or strict=False"
            raise ValueError(f"labels[{position}] is {label!r} after {before!r}; needed: {needed}")
        start = spans.pop().start if continues else position
        spans.append(Span(start, position + 1, kind))
        open_end, open_label = position + 1, kind
    return spans

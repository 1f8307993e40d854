"""What differs between two models: a collector for each kind of result, and the numbers that it ends with.

A collector gets a batch's texts and both results by `add`, keeps a few numbers a text or token, and says what they come
to in `result`. `runners` names the collector of each kind of model, `compare` feeds it, `commands/compare.py` prints
the result. A new kind of result is a collector and a dataclass here, a name in `Differences`, and its lines there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from transformer_fast.accuracy.measures import Cosines, cosines, pair_similarities, rank_correlation, summary

# Texts whose similarities are compared in pairs: 2 million of them, some dozens of MB while they are ranked.
_MOST_PAIRED = 2000
# Changed labels that are told one by one.
_TOLD = 10


@dataclass(frozen=True)
class EmbeddingDifferences:
    """Of the vectors of texts.

    Attributes:
        cosine: between the two vectors of each text.
        rank_correlation: Spearman's, of the cosines of all pairs of texts in one model and in the other: 1 where every
            search finds the same in the same order. Of the first 2,000 texts; None below 3 texts, or where all pairs
            are equally similar.
    """

    cosine: Cosines
    rank_correlation: float | None


@dataclass(frozen=True)
class ChangedLabel:
    """A text, or a token of it, with the best label and its probability in each of the two models."""

    text: str
    token: str | None
    labels: tuple[str, str]
    probabilities: tuple[float, float]


@dataclass(frozen=True)
class LabelDifferences:
    """Of the labels of texts, or of tokens (special ones left out).

    Attributes:
        labelled: how many texts or tokens.
        changed: the share of them, 0 to 1, whose best label is another. A model of one label has none to change.
        largest_change, mean_change: of the probabilities of all labels, without sign; of scores where the model gives
            numbers instead (regression).
        examples: the first few that changed.
    """

    labelled: int
    changed: float
    largest_change: float
    mean_change: float
    examples: tuple[ChangedLabel, ...]


@dataclass(frozen=True)
class NextTokenDifferences:
    """Of a language model's next tokens, after each token of the texts as they stand.

    Attributes:
        places: after how many tokens, the last of each text among them.
        agreement: the share of places, 0 to 1, where both hold the same token for the most likely.
        predicted: how many tokens have one before them in their text.
        mean_change: of the natural logarithm of their probability, compared minus reference: below 0 is worse.
        mean_absolute_change: the same without signs.
        reference_perplexity, compared_perplexity: exp of minus the mean logarithm.
    """

    places: int
    agreement: float
    predicted: int
    mean_change: float
    mean_absolute_change: float
    reference_perplexity: float
    compared_perplexity: float


@dataclass(frozen=True)
class MaskedWordDifferences:
    """Of a masked language model, at each token of the texts (special ones left out); nothing is masked.

    Attributes:
        places: how many tokens.
        cosine: between the two hidden states of each token, before the head.
        agreement: the share of places, 0 to 1, where both hold the same word for the most likely.
    """

    places: int
    cosine: Cosines
    agreement: float


Differences: TypeAlias = EmbeddingDifferences | LabelDifferences | NextTokenDifferences | MaskedWordDifferences


class EmbeddingCollector:
    """Of embeddings (N, n)."""

    def __init__(self) -> None:
        self._cosines: list[np.ndarray] = []
        self._paired: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._count = 0

    def add(self, texts: Sequence[str], reference: np.ndarray, compared: np.ndarray) -> None:
        self._cosines.append(cosines(reference, compared))
        for kept, own in zip(self._paired, (reference, compared), strict=True):
            kept.append(own[: max(0, _MOST_PAIRED - self._count)])
        self._count += len(texts)

    def result(self) -> EmbeddingDifferences:
        pairs = (pair_similarities(np.concatenate(kept)) for kept in self._paired)
        return EmbeddingDifferences(summary(np.concatenate(self._cosines)), rank_correlation(*pairs))


class Labelled(NamedTuple):
    """Probabilities (N, labels), and of each row the number of its text and of its token (None: the whole text)."""

    probabilities: np.ndarray
    texts: Sequence[int]
    tokens: Sequence[int | None]


class LabelCollector:
    """Of `Labelled`; labels: their names. token_name: a token's text, by its number."""

    def __init__(self, labels: Sequence[str], token_name: Callable[[int], str | None] = str) -> None:
        self._labels, self._token_name = labels, token_name
        self._count = self._changed = self._numbers = 0
        self._largest = self._sum = 0.0
        self._examples: list[ChangedLabel] = []

    def add(self, texts: Sequence[str], reference: Labelled, compared: Labelled) -> None:
        both = reference.probabilities, compared.probabilities
        change = np.abs(both[1].astype(np.float64) - both[0])
        best = [probabilities.argmax(axis=1) for probabilities in both]
        changed = np.flatnonzero(best[0] != best[1])
        self._count += len(change)
        self._changed += len(changed)
        self._numbers += change.size
        self._sum += float(change.sum())
        self._largest = float(np.maximum(self._largest, change.max(initial=0)))  # NaN stays
        for row in changed[: _TOLD - len(self._examples)]:
            numbers = [int(own[row]) for own in best]
            token = reference.tokens[row]
            self._examples.append(
                ChangedLabel(
                    texts[reference.texts[row]],
                    None if token is None else self._token_name(token),
                    (self._labels[numbers[0]], self._labels[numbers[1]]),
                    (float(both[0][row, numbers[0]]), float(both[1][row, numbers[1]])),
                )
            )

    def result(self) -> LabelDifferences:
        if not self._count:
            raise ValueError("texts have no token; needed: at least one with a token that is not special")
        changed = self._changed / self._count
        return LabelDifferences(self._count, changed, self._largest, self._sum / self._numbers, tuple(self._examples))


class NextTokens(NamedTuple):
    """The most likely next token at each place (T,); logarithms of the probabilities (P,) of those that do follow."""

    best: np.ndarray
    log_probabilities: np.ndarray


class NextTokenCollector:
    """Of `NextTokens`."""

    def __init__(self) -> None:
        self._places = self._agreeing = self._predicted = 0
        self._change = self._absolute_change = 0.0
        self._sums = [0.0, 0.0]

    def add(self, texts: Sequence[str], reference: NextTokens, compared: NextTokens) -> None:
        change = compared.log_probabilities - reference.log_probabilities
        self._places += len(reference.best)
        self._agreeing += int((reference.best == compared.best).sum())
        self._predicted += len(change)
        self._change += float(change.sum())
        self._absolute_change += float(np.abs(change).sum())
        for i, own in enumerate((reference, compared)):
            self._sums[i] += float(own.log_probabilities.sum())

    def result(self) -> NextTokenDifferences:
        if not self._predicted:
            raise ValueError("texts have at most one token each; needed: at least one with two")
        return NextTokenDifferences(
            places=self._places,
            agreement=self._agreeing / self._places,
            predicted=self._predicted,
            mean_change=self._change / self._predicted,
            mean_absolute_change=self._absolute_change / self._predicted,
            reference_perplexity=_exp(-self._sums[0] / self._predicted),
            compared_perplexity=_exp(-self._sums[1] / self._predicted),
        )


class MaskedWords(NamedTuple):
    """Hidden states (T, h), and the most likely word at each place (T,)."""

    hidden: np.ndarray
    best: np.ndarray


class MaskedWordCollector:
    """Of `MaskedWords`."""

    def __init__(self) -> None:
        self._cosines: list[np.ndarray] = []
        self._agreeing = 0

    def add(self, texts: Sequence[str], reference: MaskedWords, compared: MaskedWords) -> None:
        self._cosines.append(cosines(reference.hidden, compared.hidden))
        self._agreeing += int((reference.best == compared.best).sum())

    def result(self) -> MaskedWordDifferences:
        found = np.concatenate(self._cosines)
        if not len(found):
            raise ValueError("texts have no token; needed: at least one with a token that is not special")
        return MaskedWordDifferences(len(found), summary(found), self._agreeing / len(found))


Collector: TypeAlias = Any  # one of the classes above: add(texts, reference, compared) and result()


def _exp(value: float) -> float:
    """Infinite, not an error, where a model is that far off."""
    return math.exp(value) if value < 700 else math.inf

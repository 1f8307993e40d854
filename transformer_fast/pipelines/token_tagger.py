"""`TokenTagger`: names, places, parts of speech: a label for each token or run of tokens, and its place.

Users and `transformer-fast tag` call it. It follows transformers' token-classification pipeline to the letter, the
way in which words are put together included. A new way of aggregation goes into `_WORD_SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.heads import ForTokenClassification
from transformer_fast.pipelines.texts import TextPipeline, is_single, several

# How the scores of a word's tokens (n, labels) become those of the word (labels,).
_WORD_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}
STRATEGIES = ("none", "simple", *_WORD_SCORES)


class TokenTagger(TextPipeline):
    """Texts in; for each a list of what was found in it, with character offsets.

    Attributes:
        labels: the names of the labels, by number.

    Example:
        >>> from transformer_fast.pipelines import TokenTagger
        >>> tagger = TokenTagger.from_pretrained("dslim/bert-base-NER")                               # doctest: +SKIP
        >>> tagger("My name is Wolfgang and I live in Berlin", aggregation_strategy="simple")         # doctest: +SKIP
        [{'entity_group': 'PER', 'score': 0.99, 'word': 'Wolfgang', 'start': 11, 'end': 19},
         {'entity_group': 'LOC', 'score': 0.99, 'word': 'Berlin', 'start': 34, 'end': 40}]
    """

    model_class = ForTokenClassification

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        self.labels = model.config.labels
        unknown = tokenizer.special("unk_token")
        self._unknown = None if unknown is None else unknown[1]

    def __call__(
        self,
        texts,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
    ) -> Any:
        """The findings in one text, a list of dicts, or in each of several.

        Args:
            texts: a string or a list of strings.
            aggregation_strategy: "none" gives every token: entity, score, index, word, start, end. "simple" joins
                neighbours of one label (B- and I- before it are understood): entity_group, score, word, start, end.
                "first", "average" and "max" first give each word one label: its first token's, that of the mean
                scores, or that of its surest token.
            ignore_labels: labels that are left out.
            stride: None cuts off a text that is too long. A number runs it in windows that share this many tokens;
                where findings of two windows overlap, the longer, then the surer one stays. Not with "none".

        Raises:
            TypeError: a text is no string.
            ValueError: another argument is out of range.
        """
        if aggregation_strategy not in STRATEGIES:
            raise ValueError(
                f"aggregation_strategy is {aggregation_strategy!r}; needed: one of {', '.join(STRATEGIES)}"
            )
        self._check_stride(stride, aggregation_strategy)
        inputs = several("texts", texts)
        windows = [
            [encoding, *(encoding.overflowing if stride is not None else ())]
            for encoding in self._encodings(inputs, truncation=True, offsets=True, stride=stride)
        ]
        scores = iter(self._scores([window for own in windows for window in own]))
        results = []
        for text, own in zip(inputs, windows, strict=True):
            found = []
            for window in own:
                entities = self._aggregated(list(self._tokens(text, window, next(scores))), aggregation_strategy)
                found += [e for e in entities if e.get("entity", e.get("entity_group")) not in ignore_labels]
            results.append(_without_overlaps(found) if len(own) > 1 else found)
        return results[0] if is_single(texts) else results

    def _check_stride(self, stride: int | None, strategy: str) -> None:
        if stride is None:
            return
        most = self.max_length - self.tokenizer.tokenizer.num_special_tokens_to_add(False) - 1
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride <= most:
            raise ValueError(f"stride is {stride!r}; needed: an integer from 0 to {most}")
        if strategy == "none":
            raise ValueError("stride is given with aggregation_strategy 'none'; needed: another strategy")

    def _scores(self, windows: list[Any]) -> list[np.ndarray]:
        """The scores (L, labels) of each window."""
        results: list[Any] = [None] * len(windows)
        for indices, rows, cu_seqlens in self._hidden(windows):
            scores = F.softmax(self.model.predictions(rows))
            for i, own in zip(indices, np.split(scores, cu_seqlens[1:-1]), strict=True):
                results[i] = own
        return results

    def _tokens(self, text: str, window: Any, scores: np.ndarray) -> Iterator[dict[str, Any]]:
        """The tokens of a window, special ones left out: word, scores, start, end, index, is_subword."""
        model = self.tokenizer.tokenizer.model
        knows_words = bool(getattr(model, "continuing_subword_prefix", None))
        for index, (start, end) in enumerate(window.offsets):
            if window.special_tokens_mask[index]:
                continue
            word, in_text = window.tokens[index], text[start:end]
            if knows_words:
                is_subword = len(word) != len(in_text)
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            if window.ids[index] == self._unknown:
                word, is_subword = in_text, False
            yield {
                "word": word,
                "scores": scores[index],
                "start": start,
                "end": end,
                "index": index,
                "is_subword": is_subword,
            }

    def _aggregated(self, tokens: list[dict[str, Any]], strategy: str) -> list[dict[str, Any]]:
        if strategy in _WORD_SCORES:
            return self._groups([self._word(word, strategy) for word in _words(tokens)])
        entities = [
            self._labelled(token["scores"]) | {name: token[name] for name in ("index", "word", "start", "end")}
            for token in tokens
        ]
        return entities if strategy == "none" else self._groups(entities)

    def _labelled(self, scores: np.ndarray) -> dict[str, Any]:
        best = int(scores.argmax())
        return {"entity": self.labels[best], "score": float(scores[best])}

    def _word(self, tokens: list[dict[str, Any]], strategy: str) -> dict[str, Any]:
        scores = _WORD_SCORES[strategy](np.stack([token["scores"] for token in tokens]))
        return self._labelled(scores) | {
            "word": self._joined([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _groups(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Neighbours of one label as one; a label that begins with B- begins a new group."""
        groups: list[list[dict[str, Any]]] = []
        for entity in entities:
            begins, label = _label_parts(entity["entity"])
            if groups and not begins and label == _label_parts(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": self._joined([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]

    def _joined(self, words: list[str]) -> str:
        decoder = self.tokenizer.tokenizer.decoder
        return " ".join(words) if decoder is None else decoder.decode(words)


def _words(tokens: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Tokens, grouped: a token that begins no word belongs to the one before it."""
    words: list[list[dict[str, Any]]] = []
    for token in tokens:
        if words and token["is_subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _label_parts(label: str) -> tuple[bool, str]:
    """Does the label say that something begins here; and its name."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of those that begin inside the one before, the longer stays, or of two of one length the surer."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(kept[-1]):
            kept[-1] = entity
    return kept


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]

"""`TextClassifier`: labels for texts. Users and `transformer-fast classify` call it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.heads import ForSequenceClassification
from transformer_fast.pipelines.labels import check_function, check_top_k, function_of, ranked, scores
from transformer_fast.pipelines.texts import Text, TextPipeline, batches, is_single, several


class TextClassifier(TextPipeline):
    """Texts, or pairs of texts, in; labels and their scores out. As transformers' text-classification pipeline.

    Attributes:
        labels: the names of the labels, by number.
        function: how logits become scores, "softmax", "sigmoid" or "none", as config.json says by problem_type.

    Example:
        >>> from transformer_fast.pipelines import TextClassifier
        >>> classifier = TextClassifier.from_pretrained("distilbert-base-uncased-finetuned-sst-2")   # doctest: +SKIP
        >>> classifier(["What a day!", "Director tried too much."])                                   # doctest: +SKIP
        [{'label': 'POSITIVE', 'score': 0.99}, {'label': 'NEGATIVE', 'score': 0.99}]
    """

    model_class = ForSequenceClassification

    def __init__(self, model, tokenizer, function: str = "softmax") -> None:
        super().__init__(model, tokenizer)
        self.labels = model.config.labels
        self.function = function

    @classmethod
    def _settings(cls, source: ModelSource, model) -> dict[str, Any]:
        return {"function": function_of(source, model.config.label_count)}

    def __call__(
        self, texts, *, top_k: int | None = 1, function_to_apply: str | None = None, truncation: bool = True
    ) -> Any:
        """The label of one text, {"label", "score"}, or of each of several.

        Args:
            texts: a string, a pair of strings (a tuple), or a list of such.
            top_k: 1 gives the best label; another number, or None for all, gives a list of them, the best first.
            function_to_apply: "softmax", "sigmoid" or "none"; by default the attribute `function`.
            truncation: cut off what the model cannot take.

        Raises:
            TypeError: a text is no string.
            ValueError: another argument is out of range, or a text is too long with truncation=False.
        """
        check_top_k(top_k)
        job = self.prepared(function_to_apply)
        rows = job.finished(self.logits(texts, truncation=truncation))
        results = [ranked(row, self.labels, top_k) for row in rows]
        if top_k == 1:
            results = [best for (best,) in results]
        return results[0] if is_single(texts) else results

    def logits(self, texts, *, truncation: bool = True) -> np.ndarray:
        """The model's own numbers, (N, labels) float32, in the order of the texts."""
        job, texts = self.prepared(), several("texts", texts, pairs=True)
        encodings = job.tokens(texts, truncation)
        results = np.empty((len(encodings), job.width), np.float32)
        for indices in batches([len(encoding) for encoding in encodings]):
            results[indices] = job.rows([encodings[i] for i in indices])
        return results

    def prepared(self, function_to_apply: str | None = None) -> ClassifyJob:
        """A call whose texts somebody else batches, such as `serving.TextEngine`; the argument as in a call.

        Raises:
            ValueError: the function is not known.
        """
        function = self.function if function_to_apply is None else function_to_apply
        check_function(function)
        return ClassifyJob(self, function)


@dataclass(frozen=True)
class ClassifyJob:
    """The arguments of a call, checked: texts -> `tokens` -> `rows` of those that run together -> `finished`."""

    classifier: TextClassifier
    function: str

    @property
    def together(self) -> Hashable:
        """Texts of jobs of which this is equal may run together."""
        return id(self.classifier)

    @property
    def width(self) -> int:
        """The number of labels."""
        return len(self.classifier.labels)

    def tokens(self, texts: Sequence[Text], truncate: bool = True) -> list[Any]:
        """The `tokenizers.Encoding` of each text; truncate=False refuses those that are too long.

        Raises:
            ValueError: a text is too long, or cannot be written as UTF-8.
        """
        return self.classifier._encodings(texts, truncation=truncate)

    def rows(self, tokens: Sequence[Any]) -> np.ndarray:
        """The logits (B, width) of texts that run together."""
        return self.classifier.model(**self.classifier._arguments(tokens)).logits

    def finished(self, logits: np.ndarray) -> np.ndarray:
        """The scores of logits, (B, width)."""
        return scores(logits, self.function)

"""`TextClassifier`: labels for texts. Users and `transformer-fast classify` call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.heads import ForSequenceClassification
from transformer_fast.pipelines.labels import check_top_k, function_of, ranked, scores
from transformer_fast.pipelines.texts import TextPipeline, is_single, several


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
        logits = self.logits(texts, truncation=truncation)
        rows = scores(logits, self.function if function_to_apply is None else function_to_apply)
        results = [ranked(row, self.labels, top_k) for row in rows]
        if top_k == 1:
            results = [best for (best,) in results]
        return results[0] if is_single(texts) else results

    def logits(self, texts, *, truncation: bool = True) -> np.ndarray:
        """The model's own numbers, (N, labels) float32, in the order of the texts."""
        encodings = self._encodings(several("texts", texts, pairs=True), truncation=truncation)
        results = np.empty((len(encodings), len(self.labels)), np.float32)
        for indices, arguments in self._batches(encodings):
            results[indices] = self.model(**arguments).logits
        return results

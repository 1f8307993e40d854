"""`FillMask`: finds the words for the masks of a text, as transformers' fill-mask pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.common.heads import ForMaskedLM
from transformer_fast.pipelines.labels import check_top_k
from transformer_fast.pipelines.texts import TextPipeline, is_single, several


class FillMask(TextPipeline):
    """Texts with masks in; the most probable words for each mask out.

    Attributes:
        mask: the mask as it is written in a text, such as "[MASK]".

    Example:
        >>> from transformer_fast.pipelines import FillMask
        >>> fill = FillMask.from_pretrained("bert-base-uncased")                                      # doctest: +SKIP
        >>> [found["token_str"] for found in fill("Paris is the [MASK] of France.", top_k=2)]         # doctest: +SKIP
        ['capital', 'heart']
    """

    model_class = ForMaskedLM

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        found = tokenizer.special("mask_token")
        if found is None:
            raise CheckpointError(f"{tokenizer.place}: names no mask_token; FillMask needs one")
        self.mask, self._mask_id = found
        if self._mask_id >= model.config.vocab_size:
            raise CheckpointError(
                f"{tokenizer.place}: mask_token {self.mask!r} is added to the vocabulary as token {self._mask_id}; "
                f"needed by the model: one of its {model.config.vocab_size} tokens"
            )

    def __call__(self, texts, *, top_k: int = 5, targets: str | Sequence[str] | None = None) -> Any:
        """The words for the masks of one text, or of each of several.

        A word is {"score", "token", "token_str", "sequence"}, the text with the word in it. A text with one mask gives
        a list of them, the most probable first; with several masks a list of such lists, where each mask is filled as
        if the others stayed.

        Args:
            texts: a string or a list of strings.
            top_k: how many words for each mask.
            targets: only these words of the vocabulary.

        Raises:
            TypeError: a text is no string.
            ValueError: a text has no mask or is too long, a target is not in the vocabulary, or top_k is out of range.
        """
        check_top_k(top_k)
        among = self._target_ids(targets)
        inputs = several("texts", texts)
        encodings = self._encodings(inputs, truncation=False)
        masks = [np.flatnonzero(np.asarray(encoding.ids) == self._mask_id) for encoding in encodings]
        for i, places in enumerate(masks):
            if not len(places):
                raise ValueError(f"texts[{i}] is {inputs[i][:40]!r}; needed: a text with {self.mask} in it")
        results: list[Any] = [None] * len(inputs)
        for indices, hidden, cu_seqlens in self._hidden(encodings):
            for start, i in zip(cu_seqlens[:-1], indices, strict=True):
                scores = F.softmax(self.model.predictions(hidden[start + masks[i]]))
                rows = [
                    self._words(encodings[i].ids, place, row, top_k, among, len(masks[i]) == 1)
                    for place, row in zip(masks[i], scores, strict=True)
                ]
                results[i] = rows[0] if len(rows) == 1 else rows
        return results[0] if is_single(texts) else results

    def _words(
        self, ids: list[int], place: int, scores: np.ndarray, top_k: int | None, among: np.ndarray, single: bool
    ) -> list[dict[str, Any]]:
        """The best words for one mask; single: is it the only one of its text?"""
        tokenizer, words = self.tokenizer, []
        for token in among[np.argsort(-scores[among], kind="stable")][:top_k].tolist():
            filled = [*ids[:place], token, *ids[place + 1 :]]
            words.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": tokenizer.decode([token], skip_special_tokens=False),
                    # Other masks are special tokens too: they have to stay visible.
                    "sequence": tokenizer.decode(filled, skip_special_tokens=single),
                }
            )
        return words

    def _target_ids(self, targets: str | Sequence[str] | None) -> np.ndarray:
        """The numbers of the words that are asked for; None means all."""
        if targets is None:
            return np.arange(self.model.config.vocab_size)
        numbers = []
        for target in several("targets", targets):
            number = self.tokenizer.tokenizer.token_to_id(target)
            if number is None:
                raise ValueError(f"targets holds {target!r}; needed: words of the vocabulary")
            numbers.append(number)
        if not numbers:
            raise ValueError("targets is empty; needed: at least one word")
        return np.unique(numbers)

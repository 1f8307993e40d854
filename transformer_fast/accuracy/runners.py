"""How each kind of model is loaded for `compare`, and what is kept of what it makes of a batch of texts.

`runner_for` finds the class for a folder; it is called with a source and a compute_type, and then `run` with batches. A
new kind is one more class that derives from `Runner`, and its name in `_RUNNERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from transformer_fast import functional as F
from transformer_fast.accuracy.differences import (
    Collector,
    EmbeddingCollector,
    LabelCollector,
    Labelled,
    MaskedWordCollector,
    MaskedWords,
    NextTokenCollector,
    NextTokens,
)
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.models import PretrainedModel, find_class
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.common.decoder import CausalLM
from transformer_fast.models.common.heads import ForMaskedLM, ForTokenClassification
from transformer_fast.pipelines import SentenceEncoder, TextClassifier
from transformer_fast.pipelines.labels import scores
from transformer_fast.pipelines.sentence_settings import transformer_source
from transformer_fast.pipelines.texts import TextPipeline

# Scores of words that are in memory together, 64 MB: vocabularies have up to 260,000.
_MOST_SCORES = 1 << 24


class Runner(ABC):
    """A loaded model of one kind, with `run`.

    Attributes:
        kind: what the model is for, in words.
        model: the model itself.
    """

    kind: ClassVar[str]
    model: PretrainedModel

    @abstractmethod
    def __init__(self, source: ModelSource, compute_type: ComputeType, ignore_fields: Collection[str]) -> None:
        """Loads the model; the arguments are those of `load_model`."""

    @classmethod
    @abstractmethod
    def takes(cls, model_class: type[PretrainedModel]) -> bool:
        """Is it the runner for models of that class?"""

    @classmethod
    def model_source(cls, source: ModelSource) -> ModelSource:
        """The source that has the model's tensors."""
        return source

    @abstractmethod
    def collector(self) -> Collector:
        """An empty collector of what `run` returns."""

    @abstractmethod
    def run(self, texts: list[str]) -> Any:
        """What the collector takes, in the order of the texts."""

    @abstractmethod
    def count_tokens(self, texts: list[str]) -> int:
        """The tokens that `run` runs."""


class SentenceRunner(Runner):
    """Texts to embeddings, by the folder's own pooling, or the mean of the tokens."""

    kind = "sentence encoder"

    def __init__(self, source: ModelSource, compute_type: ComputeType, ignore_fields: Collection[str]) -> None:
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields}
        self._encoder = SentenceEncoder.from_pretrained(source, **options)
        self.model = self._encoder.model

    @classmethod
    def takes(cls, model_class: type[PretrainedModel]) -> bool:
        return hasattr(model_class, "encode_packed")

    @classmethod
    def model_source(cls, source: ModelSource) -> ModelSource:
        return transformer_source(source)

    def collector(self) -> EmbeddingCollector:
        return EmbeddingCollector()

    def run(self, texts: list[str]) -> np.ndarray:
        return self._encoder.encode(texts, show_progress_bar=False)

    def count_tokens(self, texts: list[str]) -> int:
        return self._encoder.count_tokens(texts)


class _PipelineRunner(Runner):
    """Of a model that a `TextPipeline` loads, which gives it tokens and batches."""

    pipeline_class: ClassVar[type[TextPipeline]]

    def __init__(self, source: ModelSource, compute_type: ComputeType, ignore_fields: Collection[str]) -> None:
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields}
        self._pipeline: Any = self.pipeline_class.from_pretrained(source, **options)
        self.model = self._pipeline.model

    @classmethod
    def takes(cls, model_class: type[PretrainedModel]) -> bool:
        return issubclass(model_class, cls.pipeline_class.model_class)

    def count_tokens(self, texts: list[str]) -> int:
        return sum(map(len, self._pipeline._encodings(texts, truncation=True)))


class TextClassRunner(_PipelineRunner):
    """Texts to the probabilities of labels."""

    kind = "text classifier"
    pipeline_class = TextClassifier

    @classmethod
    def takes(cls, model_class: type[PretrainedModel]) -> bool:
        # Heads for pairs of texts and for choices derive from the same class, but need more than single texts.
        return super().takes(model_class) and model_class.__name__.endswith("ForSequenceClassification")

    def collector(self) -> LabelCollector:
        return LabelCollector(self._pipeline.labels)

    def run(self, texts: list[str]) -> Labelled:
        probabilities = scores(self._pipeline.logits(texts), self._pipeline.function)
        return Labelled(probabilities, range(len(texts)), [None] * len(texts))


class _Tokens(TextPipeline):
    """A pipeline that gives what a head sees of each token."""

    def rows(self, texts: list[str]) -> Iterator[tuple[list[int], list[Any], np.ndarray]]:
        """Numbers of texts that run together, their encodings, and hidden states (T, h) without special tokens."""
        encodings = self._encodings(texts, truncation=True)
        for indices, hidden, _ in self._hidden(encodings):
            own = [encodings[i] for i in indices]
            special = np.fromiter(chain.from_iterable(e.special_tokens_mask for e in own), bool, len(hidden))
            yield indices, own, hidden[~special]


class _TokenLabels(_Tokens):
    model_class = ForTokenClassification


class TokenClassRunner(_PipelineRunner):
    """Texts to the probabilities of each token's labels."""

    kind = "token classifier"
    pipeline_class = _TokenLabels

    def collector(self) -> LabelCollector:
        return LabelCollector(self.model.config.labels, self._pipeline.tokenizer.tokenizer.id_to_token)

    def run(self, texts: list[str]) -> Labelled:
        parts, numbers, tokens = [np.empty((0, self.model.config.label_count), np.float32)], [], []
        for indices, encodings, hidden in self._pipeline.rows(texts):
            parts.append(F.softmax(self.model.predictions(hidden)))
            for i, encoding in zip(indices, encodings, strict=True):
                own = [t for t, s in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if not s]
                tokens += own
                numbers += [i] * len(own)
        return Labelled(np.concatenate(parts), numbers, tokens)


class _Words(_Tokens):
    model_class = ForMaskedLM


class MaskedWordRunner(_PipelineRunner):
    """Texts to hidden states and the most likely word of each token."""

    kind = "masked language model"
    pipeline_class = _Words

    def collector(self) -> MaskedWordCollector:
        return MaskedWordCollector()

    def run(self, texts: list[str]) -> MaskedWords:
        hidden = [np.empty((0, self.model.base.hidden_size), np.float32)]
        best = [np.empty(0, np.int64)]
        for _, _, rows in self._pipeline.rows(texts):
            hidden.append(rows)
            for part in _parts(rows, self.model.config.vocab_size):
                best.append(self.model.predictions(part).argmax(axis=1))
        return MaskedWords(np.concatenate(hidden), np.concatenate(best))


class _LanguageModel(TextPipeline):
    model_class = CausalLM

    def _model_limit(self) -> int | None:
        return getattr(self.model.config, "max_position_embeddings", None)

    def rows(self, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of texts that run together: hidden states (T, h), and the token (T,) that follows each; -1: none does."""
        encodings = [encoding for encoding in self._encodings(texts, truncation=True) if len(encoding)]
        for _, arguments in self._batches(encodings):
            ids, mask = arguments["input_ids"], arguments["attention_mask"].astype(bool)
            following = np.full_like(ids, -1)
            following[:, :-1] = np.where(mask[:, 1:], ids[:, 1:], -1)
            yield self.model.body(ids, mask).last_hidden_state[mask], following[mask]


class NextTokenRunner(_PipelineRunner):
    """Texts to what is expected after each of their tokens."""

    kind = "language model"
    pipeline_class = _LanguageModel

    def collector(self) -> NextTokenCollector:
        return NextTokenCollector()

    def run(self, texts: list[str]) -> NextTokens:
        best, found = [np.empty(0, np.int64)], [np.empty(0)]
        for hidden, following in self._pipeline.rows(texts):
            first = 0
            for part in _parts(hidden, self.model.config.vocab_size):
                logits = self.model.logits(part)
                best.append(logits.argmax(axis=1))
                found.append(_log_probabilities(logits, following[first : first + len(part)]))
                first += len(part)
        return NextTokens(np.concatenate(best), np.concatenate(found))


def _parts(rows: np.ndarray, scores_a_row: int) -> Iterator[np.ndarray]:
    """Rows whose scores may be in memory together."""
    step = max(1, _MOST_SCORES // scores_a_row)
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


def _log_probabilities(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """logits (N, V), which are written over, and a token for each row -> (N,) float64 without those of token -1."""
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(logits)), tokens].astype(np.float64)
    np.exp(logits, out=logits)
    return (own - np.log(logits.sum(axis=1, dtype=np.float64)))[tokens >= 0]


_RUNNERS: tuple[type[Runner], ...] = (
    SentenceRunner,
    TextClassRunner,
    TokenClassRunner,
    NextTokenRunner,
    MaskedWordRunner,
)


def runner_for(source: ModelSource) -> type[Runner]:
    """The runner for a source; one with modules.json is a sentence encoder whatever its model is.

    Raises:
        CheckpointError: its model is of no kind that can be compared.
    """
    if source.json("modules.json") is not None:
        return SentenceRunner
    model_class = find_class(source)
    for runner in _RUNNERS:
        if runner.takes(model_class):
            return runner
    supported = ", ".join(f"{runner.kind}s" for runner in _RUNNERS)
    raise CheckpointError(
        f"{source}: holds a {model_class.__name__}, which cannot be compared; supported: {supported}, and encoders of "
        "text without a head"
    )

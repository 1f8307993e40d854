"""Heads on encoders of text, for all families: masked words, labels for texts and tokens, choices, answers.

A family's file derives one class from each of these and gives it transformers' name, the encoder (`base_class`) and the
checkpoint's names of the head's parameters (`head`). A new kind of head is one more class here and one more output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.base import PretrainedModel, Source, under
from transformer_fast.models.common.encoder import Encoded, TextEncoder
from transformer_fast.models.common.output import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformer_fast.nn import LayerNorm, Linear, Module


class PredictionHead(Module):
    """norm(activation(dense(x))), (..., h) -> (..., width): the layers between an encoder and its output layer.

    width: by default h; another where the output layer shares embeddings of that width.
    """

    def __init__(
        self,
        h: int,
        activation: str,
        eps: float,
        *,
        width: int | None = None,
        dense_bias: bool = True,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        width = h if width is None else width
        self.activation = activation
        self.dense = Linear(h, width, dense_bias)
        self.norm = LayerNorm(width, eps, bias=norm_bias)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self.norm(self.dense(input, activation=self.activation))


class HeadModel(PretrainedModel):
    """An encoder, `base`, and a head on it.

    A family sets base_class; base_options, further arguments of it; head, our parameter -> the checkpoint's tensor, for
    each of the head's; and head_prefixes. `inputs` of a head's forward are what only some encoders take, by name: see
    `TextEncoder.encode`.
    """

    base_class: type[TextEncoder]
    base_options: Mapping[str, Any] = {}
    head: Mapping[str, str] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if hasattr(cls, "base_class"):
            base = cls.base_class
            cls.config_class, cls.model_types, cls.neutral = base.config_class, base.model_types, base.neutral
            cls.stacks, cls.base_prefix, cls.ignored = base.stacks, base.base_prefix, base.ignored + ("pooler.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.base = self.base_class(config, **self.base_options)

    @classmethod
    def canonical(cls, name: str) -> str:
        return cls.base_class.canonical(name)

    @classmethod
    def written_names(cls, names: Collection[str]) -> Collection[str]:
        return cls.base_class.written_names(names)

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        own = {ours: Source(theirs) for ours, theirs in cls.head.items()}
        return under("base", cls.base_class.sources(config, names)) | own

    def _encode(self, arguments: tuple, options: dict[str, Any], first: bool = False, rows: bool = True) -> Encoded:
        return self.base.encode(*arguments, first=first, rows=rows, **options)

    def packed_states(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, token_type_ids: np.ndarray | None = None
    ) -> np.ndarray:
        """What the head reads of packed sequences, (T, h): arguments and errors of `TextEncoder.encode_packed`."""
        return self.base.encode_packed(input_ids, cu_seqlens, token_type_ids)


class ForMaskedLM(HeadModel):
    """Logits (B, L, V) of the words for each place; the output layer's weight is the words' own, if tied.

    The family makes `transform` in its __init__ and calls `_make_decoder`.
    """

    transform: PredictionHead

    def _make_decoder(self, bias: bool = True) -> None:
        words = self.base.word_embeddings
        self.decoder = Linear(words.embedding_dim, words.num_embeddings, bias)
        if self.config.tie_word_embeddings:
            self.decoder.weight = words.weight
        self.decoder.follows(self.transform.norm)

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        sources = super().sources(config, names)
        if config.tie_word_embeddings and cls.head["decoder.weight"] not in names:
            sources["decoder.weight"] = sources["base.word_embeddings.weight"]
        # The output layer's bias counts. Some heads have another one: tied to it, or without effect.
        bias, inner = cls.head["decoder.bias"], cls.head["decoder.weight"].replace(".weight", ".bias")
        if bias != inner and inner in names:
            sources["decoder.bias"] = Source(inner, copies=() if config.tie_word_embeddings else (bias,))
        return sources

    @classmethod
    def tied(cls, config: Any, names: Collection[str]) -> Mapping[str, str]:
        if not config.tie_word_embeddings:
            return {}
        words = cls.base_class.sources(config, names)["word_embeddings.weight"].names[0]
        return {cls.head["decoder.weight"]: words}

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> MaskedLMOutput:
        """Arguments and errors of `TextEncoder.forward` -> logits (B, L, V)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states} | inputs
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options)
        logits = found.unpacked(self.predictions(found.rows))
        return MaskedLMOutput(logits, *found.reports())

    def predictions(self, rows: np.ndarray) -> np.ndarray:
        """Hidden states (N, h) -> logits (N, V)."""
        return self.decoder(self.transform(rows))

    def largest_predictions(self, rows: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Hidden states (T, h) of packed sequences -> each one's largest logit for each word, (B, V).

        As the maximum over the rows of `predictions`, whose (T, V) logits are never in memory.
        """
        return F.linear_max(self.transform(rows), self.decoder.packed(), self.decoder.bias, cu_seqlens=cu_seqlens)


class ForSequenceClassification(HeadModel):
    """Logits (B, num_labels) for each text. The family makes `classifier`, and says in `pooled` what it reads."""

    classifier: Linear

    def pooled(self, found: Encoded) -> np.ndarray:
        """The classifier's input, (B, h); found.first is there if `_reads_first`, else found.rows."""
        raise NotImplementedError(f"{type(self).__name__} has no pooled()")

    def _reads_first(self) -> bool:
        return True

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> SequenceClassifierOutput:
        """Arguments and errors of `TextEncoder.forward` -> logits (B, num_labels)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states} | inputs
        arguments = (input_ids, attention_mask, token_type_ids, position_ids)
        first = self._reads_first()
        found = self._encode(arguments, options, first=first, rows=not first)
        return SequenceClassifierOutput(self.classifier(self.pooled(found)), *found.reports())


class ForMultipleChoice(ForSequenceClassification):
    """Logits (B, C): one for each of C texts, the choices, of a row of (B, C, L).

    The classifier reads the pooler's output; a family without a pooler overrides `pooled`.
    """

    head = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}
    head_prefixes = ("classifier.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = Linear(self.base.hidden_size, 1)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> MultipleChoiceModelOutput:
        """Arguments and errors of `TextEncoder.forward`, but each (B, C, L) -> logits (B, C)."""
        shape = np.shape(input_ids)
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        arguments |= {"position_ids": position_ids} | inputs
        for name, array in arguments.items():
            if array is not None and (len(shape) != 3 or np.shape(array) != shape):
                raise ValueError(f"{name} has shape {np.shape(array)}; needed: (B, C, L), the same for all")
        rows = {
            name: None if a is None else np.reshape(a, (shape[0] * shape[1], shape[2])) for name, a in arguments.items()
        }
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        found = super().forward(**rows, **options)
        reports = found.hidden_states, found.attentions, found.global_attentions
        return MultipleChoiceModelOutput(found.logits.reshape(shape[:2]), *reports)


class ForTokenClassification(HeadModel):
    """Logits (B, L, num_labels) for each token."""

    head = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}
    head_prefixes = ("classifier.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = Linear(self.base.hidden_size, config.label_count)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> TokenClassifierOutput:
        """Arguments and errors of `TextEncoder.forward` -> logits (B, L, num_labels)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states} | inputs
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options)
        logits = found.unpacked(self.predictions(found.rows))
        return TokenClassifierOutput(logits, *found.reports())

    def predictions(self, rows: np.ndarray) -> np.ndarray:
        """Hidden states (N, h) -> logits (N, num_labels)."""
        return self.classifier(self._transformed(rows))

    def _transformed(self, rows: np.ndarray) -> np.ndarray:
        return rows


class ForQuestionAnswering(HeadModel):
    """For each place, the logits (B, L) that the answer starts there, and that it ends there."""

    head = {"outputs.weight": "qa_outputs.weight", "outputs.bias": "qa_outputs.bias"}
    head_prefixes = ("qa_outputs.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.label_count != 2:
            raise ValueError(f"num_labels is {config.label_count}; needed: 2, the start and the end of an answer")
        self.outputs = Linear(self.base.hidden_size, 2)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> QuestionAnsweringModelOutput:
        """Arguments and errors of `TextEncoder.forward` -> start_logits and end_logits (B, L)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states} | inputs
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options)
        logits = found.unpacked(self.predictions(found.rows))
        start, end = (np.ascontiguousarray(logits[..., i]) for i in range(2))
        return QuestionAnsweringModelOutput(start, end, *found.reports())

    def predictions(self, rows: np.ndarray) -> np.ndarray:
        """Hidden states (N, h) -> logits (N, 2) that an answer starts and ends there."""
        return self.outputs(self._transformed(rows))

    def _transformed(self, rows: np.ndarray) -> np.ndarray:
        return rows

"""The results of model calls: the fields of transformers' outputs, by attribute, by name and by place.

Every family returns one of the classes below; a new kind of output is a new dataclass that derives from `ModelOutput`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np


class ModelOutput:
    """As transformers.utils.ModelOutput: o.field, o["field"], o[0], keys(), values(), items(), to_tuple().

    Fields that are None are there as attributes only.
    """

    def keys(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return list(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r}; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


# hidden_states: (B, L, h) of the embeddings and of each layer; attentions: (B, H, Lq, Lk) of each layer. Both are None
# unless the call asked for them. global_attentions: of a call with global tokens (Longformer); `local_global` has the
# shapes, of attentions too.


@dataclasses.dataclass(eq=False)
class BaseModelOutput(ModelOutput):
    """last_hidden_state (B, L, h)."""

    last_hidden_state: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """last_hidden_state (B, L, h); pooler_output (B, h), or None where the model has no pooler."""

    last_hidden_state: np.ndarray
    pooler_output: np.ndarray | None = None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class MaskedLMOutput(ModelOutput):
    """logits (B, L, V): for each place, of each word of the vocabulary."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class SequenceClassifierOutput(ModelOutput):
    """logits (B, num_labels)."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class TokenClassifierOutput(ModelOutput):
    """logits (B, L, num_labels)."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """start_logits and end_logits (B, L): of each place, that the answer starts or ends there."""

    start_logits: np.ndarray
    end_logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class MultipleChoiceModelOutput(ModelOutput):
    """logits (B, C): of each of the choices. hidden_states and attentions have B * C rows."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class NextSentencePredictorOutput(ModelOutput):
    """logits (B, 2): that the second text follows the first, that it does not."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class BertForPreTrainingOutput(ModelOutput):
    """prediction_logits (B, L, V) of masked words; seq_relationship_logits (B, 2) of the second text."""

    prediction_logits: np.ndarray
    seq_relationship_logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class BigBirdForPreTrainingOutput(BertForPreTrainingOutput):
    """As `BertForPreTrainingOutput`."""


@dataclasses.dataclass(eq=False)
class AlbertForPreTrainingOutput(ModelOutput):
    """prediction_logits (B, L, V) of masked words; sop_logits (B, num_labels) of the order of the two texts."""

    prediction_logits: np.ndarray
    sop_logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class ElectraForPreTrainingOutput(ModelOutput):
    """logits (B, L): of each place, that its word was replaced."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class BaseModelOutputWithPast(ModelOutput):
    """A decoder's output: last_hidden_state (B, L, h), and what was asked for.

    past_key_values is the state to go on with; hidden_states has n_layers + 1 arrays (B, L, h), the last one after the
    final norm; attentions has an array (B, H, L, Lk) for each layer.
    """

    last_hidden_state: np.ndarray
    past_key_values: Any = None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class CausalLMOutputWithPast(ModelOutput):
    """logits (B, L or logits_to_keep, V); the others as in `BaseModelOutputWithPast`."""

    logits: np.ndarray
    past_key_values: Any = None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class SequenceClassifierOutputWithPast(ModelOutput):
    """logits (B, num_labels); the others as in `BaseModelOutputWithPast`."""

    logits: np.ndarray
    past_key_values: Any = None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class Seq2SeqModelOutput(ModelOutput):
    """last_hidden_state (B, Ld, h) of the decoder, encoder_last_hidden_state (B, L, h), and what was asked for.

    Hidden states: n_layers + 1 arrays. decoder_attentions (B, H, Ld, Ld), cross_attentions (B, H, Ld, L) and
    encoder_attentions (B, H, L, L): an array for each layer. All are zero where a mask is 0.
    """

    last_hidden_state: np.ndarray
    decoder_hidden_states: tuple[np.ndarray, ...] | None = None
    decoder_attentions: tuple[np.ndarray, ...] | None = None
    cross_attentions: tuple[np.ndarray, ...] | None = None
    encoder_last_hidden_state: np.ndarray | None = None
    encoder_hidden_states: tuple[np.ndarray, ...] | None = None
    encoder_attentions: tuple[np.ndarray, ...] | None = None
    encoder_global_attentions: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(eq=False)
class Seq2SeqLMOutput(ModelOutput):
    """logits (B, Ld, V) of the decoder's next tokens; the others as in `Seq2SeqModelOutput`."""

    logits: np.ndarray
    decoder_hidden_states: tuple[np.ndarray, ...] | None = None
    decoder_attentions: tuple[np.ndarray, ...] | None = None
    cross_attentions: tuple[np.ndarray, ...] | None = None
    encoder_last_hidden_state: np.ndarray | None = None
    encoder_hidden_states: tuple[np.ndarray, ...] | None = None
    encoder_attentions: tuple[np.ndarray, ...] | None = None
    encoder_global_attentions: tuple[np.ndarray, ...] | None = None

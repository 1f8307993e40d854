"""Longformer: RoBERTa for long texts, whose tokens see a window, and whose global tokens see all; and heads.

Source: Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, and transformers' modeling_longformer. `load_model` finds
this file by model_type "longformer". The layers are `common.local_global`'s, which LED shares; embeddings and heads are
RoBERTa's. Which tokens are global is an argument, global_attention_mask; three heads have a default of their own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models import roberta
from transformer_fast.models.bert import BertConfig
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index
from transformer_fast.models.common.encoder import Encoded, EncoderBatch
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.local_global import (
    LocalGlobalCollector,
    LocalGlobalEncoder,
    LocalGlobalTokens,
    check_windows,
    global_sources,
    global_tokens,
    windows,
)


@dataclass(frozen=True)
class LongformerConfig(roberta.RobertaConfig):
    """RoBERTa's fields; the width of the windows, one for all layers or one for each; and the id of the separator."""

    attention_window: int | list[int] = 512
    sep_token_id: Index | None = 2

    without_effect = (
        *BertConfig.without_effect,
        # How the first release attended, and whether its export to ONNX was asked for: transformers reads neither.
        "attention_mode",
        "ignore_attention_mask",
        "onnx_export",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_windows(self, self.num_hidden_layers)


class LongformerModel(roberta.RobertaModel):
    """The encoder, with the pooler if add_pooling_layer.

    A token sees half a window to each side; padding counts in distances, as positions of the padded row. Tokens with 1
    in global_attention_mask (B, L), by default none, see all tokens and are seen by all. Attentions have transformers'
    layout: see `local_global.LocalGlobalCollector`.

    Example:
        >>> model = LongformerModel(LongformerConfig(100, 16, 2, 4, 32, 64, attention_window=4))
        >>> model(np.array([[7, 8, 9]]), global_attention_mask=[[1, 0, 0]]).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = LongformerConfig
    model_types = ("longformer",)
    base_prefix = "longformer."
    collector_class = LocalGlobalCollector

    def _made_layers(self) -> LocalGlobalEncoder:
        config = self.config
        return LocalGlobalEncoder(
            windows(config, config.num_hidden_layers),
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.layer_norm_eps,
        )

    @classmethod
    def sources(cls, config: LongformerConfig, names: Collection[str]) -> dict[str, Source]:
        further = global_sources(config.num_hidden_layers, "layers.", "encoder.layer.", "attention.self")
        return super().sources(config, names) | further

    def _global_tokens(self, global_attention_mask, shape: tuple[int, int]) -> np.ndarray:
        return global_tokens(global_attention_mask, shape)

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: LocalGlobalCollector | None) -> np.ndarray:
        tokens = LocalGlobalTokens(batch.cu_seqlens, batch.places, batch.keys, batch.global_rows)
        return self.layers(hidden, tokens, pooled_rows=batch.pooled_rows, collect=collect)


# ----------------------------------------------------------------------------------------------------------------------
# Heads: RoBERTa's, some of which choose global tokens


class _WithDefault(heads.HeadModel):
    """A head that chooses the global tokens where no global_attention_mask is given."""

    def _default(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Packed ids (T,) -> True for the global ones (T,)."""
        raise NotImplementedError(f"{type(self).__name__} has no _default()")

    def _encode(self, arguments: tuple, options: dict[str, Any], first: bool = False, rows: bool = True) -> Encoded:
        if options.get("global_attention_mask") is None:
            ids = integers("input_ids", arguments[0])
            if ids.ndim == 2:  # else `encode` says what is needed
                starts = np.arange(len(ids) + 1) * ids.shape[1]
                chosen = self._default(ids.reshape(-1), starts).reshape(ids.shape)
                options = options | {"global_attention_mask": chosen}
        return super()._encode(arguments, options, first, rows)

    def packed_states(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, token_type_ids: np.ndarray | None = None
    ) -> np.ndarray:
        chosen = self._default(np.asarray(input_ids), np.asarray(cu_seqlens))
        return self.base.encode_packed(input_ids, cu_seqlens, token_type_ids, global_attention_mask=chosen)

    def _first_separators(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """(T,): for each token, the row of the first separator of its sequence, of which there are three."""
        found = np.flatnonzero(input_ids == self.config.sep_token_id)
        lengths, first = np.diff(cu_seqlens), np.searchsorted(found, cu_seqlens)
        wrong = np.flatnonzero(np.diff(first) != 3)
        if len(wrong):
            raise ValueError(
                f"row {wrong[0]} of input_ids holds sep_token_id={self.config.sep_token_id} "
                f"{np.diff(first)[wrong[0]]} times; needed: 3 times, or a global_attention_mask"
            )
        return np.repeat(found[first[:-1]], lengths)


class LongformerForMaskedLM(roberta.ForMaskedLM):
    """Longformer: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> model = LongformerForMaskedLM(LongformerConfig(100, 16, 2, 4, 32, 64, attention_window=4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = LongformerModel


class LongformerForSequenceClassification(_WithDefault, roberta.ForSequenceClassification):
    """Longformer: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Without a global_attention_mask the first token is global.

    Example:
        >>> model = LongformerForSequenceClassification(LongformerConfig(100, 16, 2, 4, 32, 64, attention_window=4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 2)
    """

    base_class = LongformerModel

    def _default(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(input_ids), bool)
        chosen[cu_seqlens[:-1][np.diff(cu_seqlens) > 0]] = True
        return chosen


class LongformerForMultipleChoice(_WithDefault, heads.ForMultipleChoice):
    """Longformer: logits (B, C) of C choices; see `heads.ForMultipleChoice`.

    Without a global_attention_mask (B, C, L) all tokens after the second of three separators are global: the choice.
    """

    base_class = LongformerModel

    def _default(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return np.arange(len(input_ids)) > self._first_separators(input_ids, cu_seqlens) + 1


class LongformerForTokenClassification(heads.ForTokenClassification):
    """Longformer: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = LongformerModel
    base_options = {"add_pooling_layer": False}


class LongformerForQuestionAnswering(_WithDefault, heads.ForQuestionAnswering):
    """Longformer: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`.

    Without a global_attention_mask all tokens before the first of three separators are global: the question.
    """

    base_class = LongformerModel
    base_options = {"add_pooling_layer": False}

    def _default(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return np.arange(len(input_ids)) < self._first_separators(input_ids, cu_seqlens)

"""MPNet (all-mpnet-base-v2, ...): BERT's layers with a learned bias for each distance, and heads.

Source: Song et al. 2020, https://arxiv.org/abs/2004.09297, and transformers' modeling_mpnet. `load_model` finds this
file by model_type "mpnet". The bias is a table of 2 L - 1 numbers a head, the same in every layer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models import roberta
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_activation, check_fields, check_heads
from transformer_fast.models.common.encoder import EncoderBatch, PoolingEncoder, layer_sources
from transformer_fast.nn import Collector, Embedding, LayerNorm, Linear, PackedEncoder, RelativePositionBias

# Fixed in transformers: config.json has no say.
_PADDING = 1
_BUCKETS = 32
_MAX_DISTANCE = 128


@dataclass(frozen=True)
class MPNetConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = _BUCKETS
    tie_word_embeddings: bool = True

    without_effect = ("is_decoder", "is_encoder_decoder", "add_cross_attention")

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "hidden_act")
        check_heads(self)
        if self.relative_attention_num_buckets != _BUCKETS:
            raise ValueError(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}; "
                f"needed: {_BUCKETS}, the only number that transformers' model computes with"
            )
        if self.max_position_embeddings < _PADDING + 2:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}; needed: at least {_PADDING + 2}"
            )


_EMBEDDINGS = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "embeddings_norm.weight": "embeddings.LayerNorm.weight",
    "embeddings_norm.bias": "embeddings.LayerNorm.bias",
    "relative_bias.weight": "encoder.relative_attention_bias.weight",
}
_POOLER = {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias"}
_PROJECTIONS = ("attention.attn.q", "attention.attn.k", "attention.attn.v")
_LAYER = {
    "attention.out_proj": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
    "feed_forward.linear1": "intermediate.dense",
    "feed_forward.linear2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


class MPNetModel(PoolingEncoder):
    """The encoder, with the pooler if add_pooling_layer. Positions are counted as in RoBERTa, after padding's id 1.

    Example:
        >>> import numpy as np
        >>> model = MPNetModel(MPNetConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[2, 3, 4]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = MPNetConfig
    model_types = ("mpnet",)
    neutral = {"pruned_heads": ({}, None), "quantization_config": (None,)}
    ignored = ("embeddings.position_ids", "lm_head.", "classifier.", "qa_outputs.")
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "mpnet."

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h, H = config.hidden_size, config.num_attention_heads
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.position_embeddings = Embedding(config.max_position_embeddings, h)
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.relative_bias = RelativePositionBias(_BUCKETS, _MAX_DISTANCE, H)
        self.layers = PackedEncoder(
            config.num_hidden_layers,
            h,
            H,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.layer_norm_eps,
        ).follows(self.embeddings_norm)
        self.pooler = Linear(h, h) if add_pooling_layer else None

    @property
    def max_length(self) -> int:
        return self.config.max_position_embeddings - _PADDING - 1

    @classmethod
    def options(cls, config: MPNetConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": any(name in names for name in _POOLER.values())}

    @classmethod
    def sources(cls, config: MPNetConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {ours: Source(theirs) for ours, theirs in (_EMBEDDINGS | _POOLER).items()}
        return sources | layer_sources(config.num_hidden_layers, "encoder.layer.", _PROJECTIONS, _LAYER)

    def _positions(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return roberta.positions_behind(_PADDING, input_ids, cu_seqlens)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.position_embeddings.weight]
        norm = self.embeddings_norm
        return F.embedding_sum([input_ids, positions], tables, norm.weight, norm.bias, norm.eps)

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        if batch.dense():
            M = batch.longest()
            options = {"relative_bias": self.relative_bias.table(M, M)} if M else {}
        else:
            # Padding inside of a sequence counts as distance, so that a table by row will not do.
            distances = batch.distances()
            reach = int(np.abs(distances).max(initial=0)) + 1
            bias = self.relative_bias.table(reach, reach)[:, distances + reach - 1]
            options = {"attn_mask": np.ascontiguousarray(bias.swapaxes(0, 1))}
        return self._layers(hidden, batch, collect, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Heads: RoBERTa's


class MPNetForMaskedLM(roberta.ForMaskedLM):
    """MPNet: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = MPNetForMaskedLM(MPNetConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = MPNetModel


class MPNetForSequenceClassification(roberta.ForSequenceClassification):
    """MPNet: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = MPNetModel


class MPNetForMultipleChoice(heads.ForMultipleChoice):
    """MPNet: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = MPNetModel


class MPNetForTokenClassification(heads.ForTokenClassification):
    """MPNet: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = MPNetModel
    base_options = {"add_pooling_layer": False}


class MPNetForQuestionAnswering(heads.ForQuestionAnswering):
    """MPNet: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = MPNetModel
    base_options = {"add_pooling_layer": False}

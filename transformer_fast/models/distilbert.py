"""DistilBERT: BERT's layers without token types and without a pooler, and heads.

Source: Sanh et al. 2019, https://arxiv.org/abs/1910.01108, and transformers' modeling_distilbert. `load_model` finds
this file by model_type "distilbert".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_activation, check_fields, check_heads
from transformer_fast.models.common.encoder import Encoded, TextEncoder, layer_sources
from transformer_fast.nn import Embedding, LayerNorm, Linear, PackedEncoder

_EPS = 1e-12


@dataclass(frozen=True)
class DistilBertConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    max_position_embeddings: int = 512
    activation: str = "gelu"
    tie_word_embeddings: bool = True

    general_names = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        # The file holds the table of positions, whichever way it was made.
        "sinusoidal_pos_embds",
        # Of older releases: tie_word_embeddings, and a mark of its conversion.
        "tie_weights_",
        "vocab_size_or_config_json_file",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "activation")
        check_heads(self, "n_heads", "dim")


_EMBEDDINGS = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "embeddings_norm.weight": "embeddings.LayerNorm.weight",
    "embeddings_norm.bias": "embeddings.LayerNorm.bias",
}
_PROJECTIONS = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
_LAYER = {
    "attention.out_proj": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "feed_forward.linear1": "ffn.lin1",
    "feed_forward.linear2": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}


class DistilBertModel(TextEncoder):
    """The encoder.

    Example:
        >>> import numpy as np
        >>> model = DistilBertModel(DistilBertConfig(100, 16, 2, 4, 32))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = DistilBertConfig
    model_types = ("distilbert",)
    neutral = {"pruned_heads": ({}, None), "quantization_config": (None,)}
    ignored = ("embeddings.position_ids", "vocab_", "pre_classifier.", "classifier.", "qa_outputs.")
    stacks = {"transformer.layer.": "n_layers"}
    base_prefix = "distilbert."

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.word_embeddings = Embedding(config.vocab_size, config.dim)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.dim)
        self.embeddings_norm = LayerNorm(config.dim, _EPS)
        self.layers = PackedEncoder(
            config.n_layers, config.dim, config.n_heads, config.hidden_dim, ACTIVATIONS[config.activation], _EPS
        ).follows(self.embeddings_norm)

    @property
    def hidden_size(self) -> int:
        return self.config.dim

    @classmethod
    def sources(cls, config: DistilBertConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {ours: Source(theirs) for ours, theirs in _EMBEDDINGS.items()}
        return sources | layer_sources(config.n_layers, "transformer.layer.", _PROJECTIONS, _LAYER)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.position_embeddings.weight]
        norm = self.embeddings_norm
        return F.embedding_sum([input_ids, positions], tables, norm.weight, norm.bias, norm.eps)


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class DistilBertForMaskedLM(heads.ForMaskedLM):
    """DistilBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = DistilBertModel
    head = {
        "transform.dense.weight": "vocab_transform.weight",
        "transform.dense.bias": "vocab_transform.bias",
        "transform.norm.weight": "vocab_layer_norm.weight",
        "transform.norm.bias": "vocab_layer_norm.bias",
        "decoder.weight": "vocab_projector.weight",
        "decoder.bias": "vocab_projector.bias",
    }
    head_prefixes = ("vocab_",)

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.transform = heads.PredictionHead(config.dim, ACTIVATIONS[config.activation], _EPS)
        self._make_decoder()


class DistilBertForSequenceClassification(heads.ForSequenceClassification):
    """DistilBERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = DistilBertForSequenceClassification(DistilBertConfig(100, 16, 2, 4, 32))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 2)
    """

    base_class = DistilBertModel
    head = {
        f"{part}.{kind}": f"{part}.{kind}" for part in ("pre_classifier", "classifier") for kind in ("weight", "bias")
    }
    head_prefixes = ("pre_classifier.", "classifier.")

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.pre_classifier(found.first, activation="relu")


class DistilBertForMultipleChoice(heads.ForMultipleChoice):
    """DistilBERT: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = DistilBertModel
    head = DistilBertForSequenceClassification.head
    head_prefixes = DistilBertForSequenceClassification.head_prefixes

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.pre_classifier = Linear(config.dim, config.dim)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.pre_classifier(found.first, activation="relu")


class DistilBertForTokenClassification(heads.ForTokenClassification):
    """DistilBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = DistilBertModel


class DistilBertForQuestionAnswering(heads.ForQuestionAnswering):
    """DistilBERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`.

    Example:
        >>> import numpy as np
        >>> model = DistilBertForQuestionAnswering(DistilBertConfig(100, 16, 2, 4, 32))
        >>> model(np.array([[7, 8, 9]])).end_logits.shape
        (1, 3)
    """

    base_class = DistilBertModel

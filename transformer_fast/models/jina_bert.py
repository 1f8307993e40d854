"""JinaBERT v2 (jina-embeddings-v2, jina-reranker-v1): BERT with ALiBi to both sides, gated feed-forwards; and heads.

Source: Günther et al. 2023, https://arxiv.org/abs/2310.19923, and the code that the folders name
(jinaai/jina-bert-implementation); transformers has no class for it. `load_model` finds this file by model_type "bert"
with position_embedding_type "alibi". The models whose queries and keys are normalised (jina-embeddings-v2-base-code)
have other tensors, which are refused. A new head is a class below, and a word in `_VARIANTS` in models/__init__.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from transformer_fast.models.common.base import Part, Source
from transformer_fast.models.common.encoder import EncoderBatch, PoolingEncoder, layer_sources
from transformer_fast.models.common.inputs import integers
from transformer_fast.nn import (
    Collector,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    PackedSelfAttention,
    alibi_slopes,
)

# feed_forward_type -> the activation of the gate.
_GATED = {"geglu": "gelu", "reglu": "relu"}


@dataclass(frozen=True)
class JinaBertConfig(BertConfig):
    """BERT's fields, and those of the code that the folders name."""

    position_embedding_type: str = "alibi"
    feed_forward_type: str = "geglu"

    without_effect = (
        *BertConfig.without_effect,
        # Of its encode(), which `SentenceEncoder` does in place of it.
        "emb_pooler",
        "model_max_length",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_embedding_type != "alibi":
            raise ValueError(f"position_embedding_type is {self.position_embedding_type!r}; needed: 'alibi'")
        if self.feed_forward_type not in _GATED:
            raise ValueError(f"feed_forward_type is {self.feed_forward_type!r}; supported: {', '.join(_GATED)}")


class JinaBertLayer(Module):
    """Attention and the gated feed-forward; what each adds is normalised with its input."""

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        h, inner = config.hidden_size, config.intermediate_size
        self.activation = _GATED[config.feed_forward_type]
        self.attention = PackedSelfAttention(h, config.num_attention_heads)
        self.attention_norm = LayerNorm(h, config.layer_norm_eps)
        self.gate_proj = Linear(h, inner, False)
        self.up_proj = Linear(h, inner, False)
        self.down_proj = Linear(inner, h)
        self.feed_forward_norm = LayerNorm(h, config.layer_norm_eps)
        for part in (self.gate_proj, self.up_proj):
            part.follows(self.attention_norm)

    def forward(
        self,
        hidden: np.ndarray,
        batch: EncoderBatch,
        options: dict[str, Any],
        collect: Collector | None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), a new array; options: of varlen_attention. With pooled (B, h)."""
        T, h = hidden.shape
        projected = np.empty((T, 3 * h), np.float32)
        residual = hidden if pooled is None else hidden[pooled]
        attend = {"keys": batch.keys, "pooled": pooled, "residual": residual, "projected": projected}
        hidden = self.attention(hidden, batch.cu_seqlens, **attend, **options)
        if collect is not None:
            heads = (T, self.attention.num_heads, h // self.attention.num_heads)
            query, key = (projected[:, i * h : (i + 1) * h].reshape(heads) for i in range(2))
            collect.add_weights(query, key if batch.keys is None else key[batch.keys[0]], options)
        hidden = self.attention_norm(hidden, out=hidden)
        up, gate = self.up_proj(hidden), self.gate_proj.packed()
        gated = F.linear(hidden, gate, activation=self.activation, multiply=up, out=up)
        hidden = self.down_proj(gated, residual=hidden, out=hidden)
        return self.feed_forward_norm(hidden, out=hidden)


_PROJECTIONS = ("attention.self.query", "attention.self.key", "attention.self.value")
_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "down_proj": "mlp.wo",
    "feed_forward_norm": "mlp.layernorm",
}


class JinaBertModel(PoolingEncoder):
    """The encoder, with the pooler if add_pooling_layer. Texts may be longer than max_position_embeddings.

    Example:
        >>> import numpy as np
        >>> model = JinaBertModel(JinaBertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])).last_hidden_state.shape
        (2, 3, 16)
    """

    config_class = JinaBertConfig
    model_types = ("bert",)
    neutral = {name: values for name, values in BertModel.neutral.items() if name != "position_embedding_type"}
    ignored = BertModel.ignored
    stacks = BertModel.stacks
    base_prefix = "bert."

    def __init__(self, config: JinaBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.token_type_embeddings = Embedding(config.type_vocab_size, h)
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.layers = ModuleList([JinaBertLayer(config) for _ in range(config.num_hidden_layers)])
        norms = [self.embeddings_norm, *(layer.feed_forward_norm for layer in self.layers)]
        for layer, norm in zip(self.layers, norms, strict=False):
            layer.attention.in_proj.follows(norm, parts=3)
        self.pooler = Linear(h, h) if add_pooling_layer else None
        self._slopes = alibi_slopes(config.num_attention_heads)

    @property
    def position_limit(self) -> int | None:
        return None

    @classmethod
    def options(cls, config: JinaBertConfig, names: Collection[str]) -> dict[str, bool]:
        return BertModel.options(config, names)

    @classmethod
    def sources(cls, config: JinaBertConfig, names: Collection[str]) -> dict[str, Source]:
        """BERT's names, but in the feed-forward; of gated_layers the gate's rows come first."""
        n, count = config.intermediate_size, config.num_hidden_layers
        layers = layer_sources(count, "encoder.layer.", _PROJECTIONS, _LAYER)
        for i in range(count):
            name = f"encoder.layer.{i}.mlp.gated_layers.weight"
            for part, first in (("gate_proj", 0), ("up_proj", n)):
                layers[f"layers.{i}.{part}.weight"] = Source(Part(name, of=2 * n, rows=slice(first, first + n)))
        return BertModel.sources(config, names) | layers

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.token_type_embeddings.weight]
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        norm = self.embeddings_norm
        return F.embedding_sum([input_ids, types], tables, norm.weight, norm.bias, norm.eps)

    def _bias(self, batch: EncoderBatch) -> dict[str, np.ndarray]:
        """Options of varlen_attention: -slope * distance. Padding inside of a sequence counts as distance."""
        if batch.dense():
            distances = np.abs(np.arange(1 - batch.longest(), batch.longest()))
            return {"relative_bias": -self._slopes[:, None] * distances.astype(np.float32)}
        distances = np.abs(batch.distances())[:, None].astype(np.float32)
        return {"attn_mask": -self._slopes[:, None, None] * distances}

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        def step(layer, hidden, options, collect, pooled=None):
            return layer(hidden, batch, options, collect, pooled)

        options = self._bias(batch) if len(hidden) else {}
        return self._run_layers(step, hidden, batch, options, collect)


# ----------------------------------------------------------------------------------------------------------------------
# Heads: BERT's


class JinaBertForMaskedLM(BertForMaskedLM):
    """JinaBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = JinaBertModel


class JinaBertForSequenceClassification(BertForSequenceClassification):
    """JinaBERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = JinaBertModel


class JinaBertForMultipleChoice(BertForMultipleChoice):
    """JinaBERT: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = JinaBertModel


class JinaBertForTokenClassification(BertForTokenClassification):
    """JinaBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = JinaBertModel


class JinaBertForQuestionAnswering(BertForQuestionAnswering):
    """JinaBERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = JinaBertModel

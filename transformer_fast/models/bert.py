"""BERT and its sentence-embedding children (MiniLM, BGE, E5, GTE, ...): an encoder with absolute positions.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, and transformers' modeling_bert. `load_model` finds this
file by model_type "bert"; `text` calls `encode_packed`. Tokens run packed, (T, h) without padding, through
everything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.base import PretrainedModel, Source
from transformer_fast.models.config import ACTIVATIONS, check_fields
from transformer_fast.models.inputs import integers, offsets, token_mask
from transformer_fast.models.output import BaseModelOutputWithPooling
from transformer_fast.nn import Embedding, FeedForward, LayerNorm, Linear, Module, ModuleList, PackedSelfAttention


@dataclass(frozen=True)
class BertConfig:
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; supported: {', '.join(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; "
                f"needed: a divisor of hidden_size={self.hidden_size}"
            )


# Where a layer's parameters stand in the checkpoint, except for query, key and value, which are stacked to one.
_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.linear1": "intermediate.dense",
    "feed_forward.linear2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_EMBEDDINGS = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "token_type_embeddings.weight": "embeddings.token_type_embeddings.weight",
    "embeddings_norm.weight": "embeddings.LayerNorm.weight",
    "embeddings_norm.bias": "embeddings.LayerNorm.bias",
}
_POOLER = {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias"}


class BertLayer(Module):
    """Self-attention and feed-forward, each followed by residual and norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        h, eps = config.hidden_size, config.layer_norm_eps
        self.attention = PackedSelfAttention(h, config.num_attention_heads)
        self.attention_norm = LayerNorm(h, eps)
        self.feed_forward = FeedForward(h, config.intermediate_size, ACTIVATIONS[config.hidden_act])
        self.feed_forward_norm = LayerNorm(h, eps)

    def forward(self, hidden: np.ndarray, cu_seqlens: np.ndarray, keys, scratch: _Scratch) -> np.ndarray:
        """hidden (T, h) -> (T, h), written over hidden."""
        rows, attended = scratch.rows, scratch.attended
        self.attention(
            hidden, cu_seqlens, keys=keys, residual=hidden, projected=scratch.projected, context=attended, out=rows
        )
        self.attention_norm(rows, out=attended)
        self.feed_forward(attended, residual=attended, hidden=scratch.inner, out=rows)
        return self.feed_forward_norm(rows, out=hidden)

    def engine_layer(self) -> tuple:
        """The fields of functional.EncoderLayer: what `forward` computes, for the engine's own loop over layers."""
        attention, ffn = self.attention, self.feed_forward
        linears = (attention.in_proj, attention.out_proj, ffn.linear1, ffn.linear2)
        norms = (self.attention_norm, self.feed_forward_norm)
        return (
            *(linear.packed() for linear in linears),
            *(linear.bias for linear in linears),
            *(vector for norm in norms for vector in (norm.weight, norm.bias)),
        )


class _Engine:
    """All layers as one functional.Encoder: made when first needed, and again when a weight or the ISA has changed."""

    def __init__(self) -> None:
        self._parts: list = []
        self._encoder: F.Encoder | None = None

    def get(self, layers: ModuleList, config: BertConfig) -> F.Encoder:
        parts = [part for layer in layers for part in layer.engine_layer()]
        if len(parts) != len(self._parts) or any(a is not b for a, b in zip(parts, self._parts, strict=True)):
            self._encoder = F.Encoder(
                [F.EncoderLayer(*layer.engine_layer()) for layer in layers],
                config.num_attention_heads,
                ACTIVATIONS[config.hidden_act],
                (config.layer_norm_eps, config.layer_norm_eps),
            )
            self._parts = parts
        return self._encoder

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Engine, ()  # packed weights belong to this process and ISA


class _Scratch:
    """The intermediate arrays of a layer; all layers of one call use the same ones."""

    def __init__(self, T: int, config: BertConfig) -> None:
        h = config.hidden_size
        self.projected = np.empty((T, 3 * h), np.float32)
        self.attended = np.empty((T, h), np.float32)
        self.rows = np.empty((T, h), np.float32)
        self.inner = np.empty((T, config.intermediate_size), np.float32)


class BertModel(PretrainedModel):
    """The encoder, with the pooler if add_pooling_layer."""

    config_class = BertConfig
    model_types = ("bert",)
    neutral = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
    }
    # The position numbers of old files, and the heads for pre-training and fine-tuning (BertForPreTraining, MaskedLM,
    # NextSentencePrediction; SequenceClassification, TokenClassification; QuestionAnswering).
    ignored = ("embeddings.position_ids", "cls.", "classifier.", "qa_outputs.")
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "bert."

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.position_embeddings = Embedding(config.max_position_embeddings, h)
        self.token_type_embeddings = Embedding(config.type_vocab_size, h)
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.layers = ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])
        self.pooler = Linear(h, h) if add_pooling_layer else None
        self._engine = _Engine()

    @classmethod
    def canonical(cls, name: str) -> str:
        """Old files call LayerNorm's parameters gamma and beta."""
        name = super().canonical(name)
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    @classmethod
    def options(cls, config: BertConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": any(name in names for name in _POOLER.values())}

    @classmethod
    def sources(cls, config: BertConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {ours: Source(theirs) for ours, theirs in (_EMBEDDINGS | _POOLER).items()}
        for i in range(config.num_hidden_layers):
            layer = f"encoder.layer.{i}"
            for kind in ("weight", "bias"):
                parts = (f"{layer}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
                sources[f"layers.{i}.attention.in_proj.{kind}"] = Source(*parts)
                for ours, theirs in _LAYER.items():
                    sources[f"layers.{i}.{ours}.{kind}"] = Source(f"{layer}.{theirs}.{kind}")
        return sources

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
    ) -> BaseModelOutputWithPooling:
        """As transformers.BertModel: integers (B, L) in, last_hidden_state (B, L, h) and pooler_output (B, h) out.

        attention_mask (B, L) holds 1 (or True) for tokens and 0 for padding, which may stand anywhere; by default all
        are tokens. position_ids (L,), (1, L) or (B, L), by default 0, 1, ... in each row, padding counted.
        **Where the mask is 0, last_hidden_state is 0** (transformers computes values that nobody should use).

        Raises:
            ValueError, TypeError: shapes or types do not fit, or L > max_position_embeddings.
            IndexError: an id is outside of its table.
        """
        config = self.config
        input_ids = integers("input_ids", input_ids, config.vocab_size)
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids has shape {input_ids.shape}; needed: (B, L) with L >= 1")
        B, L = input_ids.shape
        if L > config.max_position_embeddings and position_ids is None:
            raise ValueError(
                f"input_ids has shape {input_ids.shape}; "
                f"needed: L <= max_position_embeddings={config.max_position_embeddings}"
            )
        tokens = token_mask(attention_mask, (B, L))
        # The pooler reads the first place of each row, so that runs even where it is padding; but nobody attends it.
        computed = tokens.copy()
        if self.pooler is not None:
            computed[:, 0] = True
        keys = None
        if not np.array_equal(computed, tokens):
            keys = np.flatnonzero(tokens[computed]), offsets(tokens)
        positions = np.arange(L) if position_ids is None else position_ids
        positions = integers("position_ids", positions, config.max_position_embeddings, (B, L))[computed]
        if token_type_ids is not None:
            token_type_ids = integers("token_type_ids", token_type_ids, config.type_vocab_size, (B, L))[computed]
        hidden = self._encode(input_ids[computed], positions, token_type_ids, offsets(computed), keys)
        if computed.all():
            state = hidden.reshape(B, L, config.hidden_size)
        else:
            state = np.zeros((B, L, config.hidden_size), np.float32)
            state[computed] = hidden
        pooled = None if self.pooler is None else self.pooler(state[:, 0], activation="tanh")
        if keys is not None:
            state[~tokens] = 0
        return BaseModelOutputWithPooling(state, pooled)

    def encode_packed(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, token_type_ids: np.ndarray | None = None
    ) -> np.ndarray:
        """Packed sequences: input_ids (T,), sequence b at cu_seqlens[b]:cu_seqlens[b + 1] -> hidden states (T, h).

        A sequence's rows do not depend on what else is in the call, bit for bit.

        Raises:
            ValueError, TypeError, IndexError: as in `forward`.
        """
        config = self.config
        input_ids = integers("input_ids", input_ids, config.vocab_size)
        cu_seqlens = integers("cu_seqlens", cu_seqlens)
        lengths = np.diff(cu_seqlens)
        if input_ids.ndim != 1 or cu_seqlens.ndim != 1 or not len(cu_seqlens) or cu_seqlens[0] or (lengths < 0).any():
            raise ValueError("needed: input_ids (T,) and cu_seqlens (B + 1,) that starts at 0 and never falls")
        if cu_seqlens[-1] != len(input_ids):
            raise ValueError(f"cu_seqlens ends at {cu_seqlens[-1]}; needed: T={len(input_ids)}")
        longest = int(lengths.max(initial=0))
        if longest > config.max_position_embeddings:
            raise ValueError(
                f"a sequence has {longest} tokens; "
                f"needed: at most max_position_embeddings={config.max_position_embeddings}"
            )
        if token_type_ids is not None:
            token_type_ids = integers("token_type_ids", token_type_ids, config.type_vocab_size, input_ids.shape)
        positions = np.arange(len(input_ids)) - np.repeat(cu_seqlens[:-1], lengths)
        return self._encode(input_ids, positions, token_type_ids, cu_seqlens, None)

    def _encode(self, input_ids, positions, token_type_ids, cu_seqlens, keys) -> np.ndarray:
        """All arrays packed and checked; keys as in `PackedSelfAttention`."""
        words = self.word_embeddings(input_ids)
        if token_type_ids is None:
            words += self.token_type_embeddings.weight[0]
        else:
            words += self.token_type_embeddings(token_type_ids)
        hidden = self.embeddings_norm(words, residual=self.position_embeddings(positions))
        if keys is None:
            return self._engine.get(self.layers, self.config)(hidden, cu_seqlens, out=hidden)
        scratch = _Scratch(len(hidden), self.config)
        for layer in self.layers:
            hidden = layer(hidden, cu_seqlens, keys, scratch)
        return hidden

"""NomicBERT: BERT with rotary positions and a gated feed-forward, without biases; nomic-embed-text v1 and v1.5.

Source: Nussbaum et al. 2024, https://arxiv.org/abs/2402.01613, and transformers' modeling_nomic_bert. `load_model`
finds this file by model_type "nomic_bert". config.json has transformers' names, or those of the code that the first
folders came with, which are GPT-2's and FlashAttention's; tensors likewise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS
from transformer_fast.models.common.encoder import Encoded, EncoderBatch, PoolingEncoder
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.rotary_attention import rotary_attention
from transformer_fast.models.common.rotary_config import RotaryConfig
from transformer_fast.nn import Collector, Embedding, LayerNorm, Linear, Module, ModuleList

# Names of fields in the first folders -> transformers'.
_FIRST_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}
# The gated feed-forwards of that code -> the activation of the gate.
_GATED = {"swiglu": "silu", "geglu": "gelu"}


@dataclass(frozen=True)
class NomicBertConfig(RotaryConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 30528
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    rope_theta: float = 1000.0
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    tie_word_embeddings: bool = True

    without_effect = (
        *RotaryConfig.without_effect,
        # `translated` reads them.
        *_FIRST_NAMES,
        "activation_function",
        # How the first code computed, what it trained on, how it filled up its vocabulary, and a loss' choice of rows.
        "dense_seq_output",
        "fused_bias_fc",
        "fused_dropout_add_ln",
        "max_trained_positions",
        "pad_vocab_size_multiple",
        "reorder_and_upcast_attn",
        "use_flash_attn",
        "use_xentropy",
        # Of GPT-2's config, from which the first one derives: nothing reads them.
        "summary_activation",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    )

    @staticmethod
    def translated(content: Mapping[str, Any]) -> dict[str, Any]:
        """Where a file has both names of a field, transformers' counts."""
        first = {name: content[theirs] for theirs, name in _FIRST_NAMES.items() if content.get(theirs) is not None}
        gated = content.get("activation_function")
        if gated is not None and "hidden_act" not in content:
            if gated not in _GATED:
                raise ValueError(f"activation_function is {gated!r}; supported: {', '.join(_GATED)}")
            first["hidden_act"] = _GATED[gated]
        return first | dict(content)


class NomicBertLayer(Module):
    """Attention with rotary positions and the gated feed-forward; what each adds is normalised with its input.

    bias: of all linear layers but gate and up, which have none.
    """

    def __init__(self, config: NomicBertConfig, bias: bool = False) -> None:
        super().__init__()
        h, width = config.hidden_size, config.num_attention_heads * config.width_of_head
        self.num_heads, self.activation = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
        self.Wqkv = Linear(h, 3 * width, bias)
        self.out_proj = Linear(width, h, bias)
        self.attention_norm = LayerNorm(h, config.layer_norm_eps)
        self.gate_proj = Linear(h, config.intermediate_size, False)
        self.up_proj = Linear(h, config.intermediate_size, False)
        self.down_proj = Linear(config.intermediate_size, h, bias)
        self.feed_forward_norm = LayerNorm(h, config.layer_norm_eps)
        for part in (self.gate_proj, self.up_proj):
            part.follows(self.attention_norm)

    def forward(
        self,
        hidden: np.ndarray,
        batch: EncoderBatch,
        angles: tuple[np.ndarray, np.ndarray],
        options: dict[str, Any],
        collect: Collector | None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), a new array; arguments of `rotary_attention`: with pooled (B, h)."""
        context = rotary_attention(self.Wqkv(hidden), self.num_heads, batch, angles, options, collect, pooled)
        hidden = self.out_proj(context, residual=hidden if pooled is None else hidden[pooled])
        hidden = self.attention_norm(hidden, out=hidden)
        up, gate = self.up_proj(hidden), self.gate_proj.packed()
        gated = F.linear(hidden, gate, activation=self.activation, multiply=up, out=up)
        hidden = self.down_proj(gated, residual=hidden, out=hidden)
        return self.feed_forward_norm(hidden, out=hidden)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


# Our parts of a layer -> the first code's, which is what folders have.
_LAYER = {
    "Wqkv": "attn.Wqkv",
    "out_proj": "attn.out_proj",
    "attention_norm": "norm1",
    "up_proj": "mlp.fc11",
    "gate_proj": "mlp.fc12",
    "down_proj": "mlp.fc2",
    "feed_forward_norm": "norm2",
}
# transformers' own names, if it was told to write them -> the first code's.
_OWN_NAMES = {
    r"^layers\.": "encoder.layers.",
    r"^embeddings\.LayerNorm\.": "emb_ln.",
    r"\.self_attn\.o_proj\.": ".attn.out_proj.",
    r"\.up_proj\.": ".fc11.",
    r"\.gate_proj\.": ".fc12.",
    r"\.down_proj\.": ".fc2.",
    r"\.post_attention_layernorm\.": ".norm1.",
    r"\.post_mlp_layernorm\.": ".norm2.",
}


class NomicBertModel(PoolingEncoder):
    """The encoder. Positions beyond max_position_embeddings are computed, too; they are not trained.

    Example:
        >>> import numpy as np
        >>> model = NomicBertModel(NomicBertConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    layer_bias = False  # of `NomicBertLayer`: GTE has biases

    config_class = NomicBertConfig
    model_types = ("nomic_bert",)
    neutral = {
        "is_causal": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
        # Of the first code: biases, norms before, another order of the parts, a mixture of experts (v2-moe), scores
        # that are scaled otherwise, and positions that turn in part, in pairs, or stretched.
        "causal": (False, None),
        "mlp_fc1_bias": (False, None),
        "mlp_fc2_bias": (False, None),
        "moe_every_n_layers": (0, None),
        "parallel_block": (False, None),
        "parallel_block_tied_norm": (False, None),
        "prenorm": (False, None),
        "qkv_proj_bias": (False, None),
        "rotary_emb_fraction": (1.0,),
        "rotary_emb_interleaved": (False, None),
        "rotary_emb_scale_base": (None,),
        "rotary_scaling_factor": (None,),
        "scale_attn_by_inverse_layer_idx": (False, None),
        "scale_attn_weights": (True, None),
        "use_rms_norm": (False, None),
    }
    ignored = ("cls.", "classifier.", "pooler.")
    stacks = {"encoder.layers.": "num_hidden_layers"}
    base_prefix = "nomic_bert."

    def __init__(self, config: NomicBertConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        h = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.token_type_embeddings = Embedding(config.type_vocab_size, h) if config.type_vocab_size else None
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.layers = ModuleList([NomicBertLayer(config, self.layer_bias) for _ in range(config.num_hidden_layers)])
        norms = [self.embeddings_norm, *(layer.feed_forward_norm for layer in self.layers)]
        for layer, norm in zip(self.layers, norms, strict=False):
            layer.Wqkv.follows(norm, parts=3)
        self.pooler = Linear(h, h) if add_pooling_layer else None
        self._rotation = config.rotation("all")

    @property
    def position_limit(self) -> int | None:
        return None

    @classmethod
    def canonical(cls, name: str) -> str:
        """The first code's names; there the prefix was BERT's."""
        name = super().canonical(name).removeprefix("bert.")
        for own, first in _OWN_NAMES.items():
            name = re.sub(own, first, name)
        return name

    @classmethod
    def sources(cls, config: NomicBertConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {f"pooler.{kind}": Source(f"pooler.dense.{kind}") for kind in ("weight", "bias")}
        for table in ("word_embeddings", "token_type_embeddings"):
            sources[f"{table}.weight"] = Source(f"embeddings.{table}.weight")
        for kind in ("weight", "bias"):
            sources[f"embeddings_norm.{kind}"] = Source(f"emb_ln.{kind}")
            for i in range(config.num_hidden_layers):
                for ours, theirs in _LAYER.items():
                    sources[f"layers.{i}.{ours}.{kind}"] = Source(f"encoder.layers.{i}.{theirs}.{kind}")
        for i in range(config.num_hidden_layers):
            parts = [f"encoder.layers.{i}.self_attn.{part}_proj.weight" for part in "qkv"]
            if f"encoder.layers.{i}.attn.Wqkv.weight" not in names and parts[0] in names:
                sources[f"layers.{i}.Wqkv.weight"] = Source(*parts)
        return sources

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        ids, tables, norm = [input_ids], [self.word_embeddings.weight], self.embeddings_norm
        if self.token_type_embeddings is not None:
            ids.append(np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids)
            tables.append(self.token_type_embeddings.weight)
        return F.embedding_sum(ids, tables, norm.weight, norm.bias, norm.eps)

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        angles = self._rotation.tables(batch.positions)

        def step(layer, hidden, options, collect, pooled=None):
            return layer(hidden, batch, angles, options, collect, pooled)

        return self._run_layers(step, hidden, batch, {}, collect)


# ----------------------------------------------------------------------------------------------------------------------
# Heads

_PREDICTIONS = "cls.predictions"


class NomicBertForMaskedLM(heads.ForMaskedLM):
    """NomicBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    bias: of the dense layer and of the output layer; the first folders have neither.

    Example:
        >>> import numpy as np
        >>> model = NomicBertForMaskedLM(NomicBertConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = NomicBertModel
    head = {
        "transform.dense.weight": f"{_PREDICTIONS}.transform.dense.weight",
        "transform.dense.bias": f"{_PREDICTIONS}.transform.dense.bias",
        "transform.norm.weight": f"{_PREDICTIONS}.transform.layer_norm.weight",
        "transform.norm.bias": f"{_PREDICTIONS}.transform.layer_norm.bias",
        "decoder.weight": f"{_PREDICTIONS}.decoder.weight",
        "decoder.bias": f"{_PREDICTIONS}.bias",
    }
    head_prefixes = ("cls.",)

    def __init__(self, config: NomicBertConfig, bias: bool = True) -> None:
        super().__init__(config)
        activation, eps = ACTIVATIONS[config.hidden_act], config.layer_norm_eps
        self.transform = heads.PredictionHead(config.hidden_size, activation, eps, dense_bias=bias)
        self._make_decoder(bias)

    @classmethod
    def options(cls, config: NomicBertConfig, names: Collection[str]) -> dict[str, bool]:
        return {"bias": cls.head["transform.dense.bias"] in names}


class NomicBertForSequenceClassification(heads.ForSequenceClassification):
    """NomicBERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = NomicBertForSequenceClassification(NomicBertConfig(100, 16, 24, 2, 4, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 5)
    """

    base_class = NomicBertModel
    base_options = {"add_pooling_layer": True}
    head = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}
    head_prefixes = ("classifier.",)

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)


class NomicBertForTokenClassification(heads.ForTokenClassification):
    """NomicBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`.

    Example:
        >>> import numpy as np
        >>> model = NomicBertForTokenClassification(NomicBertConfig(100, 16, 24, 2, 4, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 5)
    """

    base_class = NomicBertModel

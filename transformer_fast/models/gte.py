"""GTE (gte-base-en-v1.5, gte-multilingual-base and its reranker, snowflake-arctic-embed-m-v2.0): NomicBERT with biases.

Source: Zhang et al. 2024, https://arxiv.org/abs/2407.19669, and transformers' modeling_gte; for stretched positions the
code that the folders came with (Alibaba-NLP/new-impl). `load_model` finds this file by model_type "gte", or "new", as
those folders say. A new head is a class below, and a word in the family's lines in models/__init__.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Part, Source
from transformer_fast.models.common.config import Index
from transformer_fast.models.common.encoder import Encoded
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.rotary_config import RotaryConfig
from transformer_fast.models.nomic_bert import NomicBertModel
from transformer_fast.nn import Linear


@dataclass(frozen=True)
class GteConfig(RotaryConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 250048
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 8192
    type_vocab_size: Index = 1
    layer_norm_eps: float = 1e-12
    rope_theta: float = 160_000.0
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    tie_word_embeddings: bool = True

    without_effect = (
        *RotaryConfig.without_effect,
        # How the first code computed, and to what widths an embedding may be cut.
        "unpad_inputs",
        "use_memory_efficient_attention",
        "matryoshka_dimensions",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "head_dim", self.width_of_head)

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        """With the first code's "ntk" the base is `factor` times as large, and positions are factor^(2 / D) closer."""
        scaling = self.rope_scaling or self.rope_parameters or {}
        if "ntk" not in (scaling.get("rope_type"), scaling.get("type")):
            return super().rotations()
        unknown = {name for name, value in scaling.items() if value is not None}
        unknown -= {"type", "rope_type", "factor", "rope_theta"}
        factor, theta = scaling.get("factor"), scaling.get("rope_theta", self.rope_theta)
        if unknown or type(factor) not in (int, float) or factor <= 1:
            field = "rope_scaling" if self.rope_scaling else "rope_parameters"
            raise ValueError(f"{field} is {scaling!r}; needed: with ntk a factor above 1, and nothing else")
        return {"all": (theta * factor, {"rope_type": "linear", "factor": factor ** (2 / self.width_of_head)})}


# Our parts of a layer -> the first code's, which is what folders have, and what transformers writes.
_LAYER = {
    "Wqkv": "attention.qkv_proj",
    "out_proj": "attention.o_proj",
    "attention_norm": "attn_ln",
    "down_proj": "mlp.down_proj",
    "feed_forward_norm": "mlp_ln",
}
# transformers' own names, if it was told to write them -> the first code's.
_OWN_NAMES = {
    r"^layers\.": "encoder.layer.",
    r"\.self_attn\.": ".attention.",
    r"\.post_attention_layernorm\.": ".attn_ln.",
    r"\.post_mlp_layernorm\.": ".mlp_ln.",
    r"^lm_head\.layer_norm\.": "lm_head.norm.",
}


class GteModel(NomicBertModel):
    """The encoder. Positions beyond max_position_embeddings are computed, too; they are not trained.

    Example:
        >>> import numpy as np
        >>> model = GteModel(GteConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    layer_bias = True

    config_class = GteConfig
    model_types = ("gte", "new")
    neutral = {
        "is_causal": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
        # Of the first code: positions of another kind, other norms, scores that are scaled by the length, and three
        # tensors in place of one.
        "position_embedding_type": ("rope", None),
        "layer_norm_type": ("layer_norm", None),
        "logn_attention_scale": (False, None),
        "logn_attention_clip1": (False, None),
        "pack_qkv": (True, None),
    }
    ignored = ("lm_head.", "classifier.", "qa_outputs.", "pooler.")
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "gte."

    @classmethod
    def canonical(cls, name: str) -> str:
        """The first code's names; there the prefix was "new."."""
        name = name.removeprefix(cls.base_prefix).removeprefix("new.")
        for own, first in _OWN_NAMES.items():
            name = re.sub(own, first, name)
        return name

    @classmethod
    def sources(cls, config: GteConfig, names: Collection[str]) -> dict[str, Source]:
        n = config.intermediate_size
        sources = {
            f"{table}.weight": Source(f"embeddings.{table}.weight")
            for table in ("word_embeddings", "token_type_embeddings")
        }
        for kind in ("weight", "bias"):
            sources[f"pooler.{kind}"] = Source(f"pooler.dense.{kind}")
            sources[f"embeddings_norm.{kind}"] = Source(f"embeddings.LayerNorm.{kind}")
        for i in range(config.num_hidden_layers):
            ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
            for kind in ("weight", "bias"):
                for part, name in _LAYER.items():
                    sources[f"{ours}.{part}.{kind}"] = Source(f"{theirs}.{name}.{kind}")
                apart = [f"{theirs}.attention.{part}_proj.{kind}" for part in "qkv"]
                if f"{theirs}.attention.qkv_proj.{kind}" not in names and apart[0] in names:
                    sources[f"{ours}.Wqkv.{kind}"] = Source(*apart)
            both = f"{theirs}.mlp.up_gate_proj.weight"
            joined = both in names or f"{theirs}.mlp.up_proj.weight" not in names
            for part, first in (("up_proj", 0), ("gate_proj", n)):
                rows = Part(both, of=2 * n, rows=slice(first, first + n))
                sources[f"{ours}.{part}.weight"] = Source(rows if joined else f"{theirs}.mlp.{part}.weight")
        return sources

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        """Without a table of them any are allowed, as in transformers."""
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size or None, shape)


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class GteForMaskedLM(heads.ForMaskedLM):
    """GTE: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = GteForMaskedLM(GteConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = GteModel
    head = {
        "transform.dense.weight": "lm_head.dense.weight",
        "transform.dense.bias": "lm_head.dense.bias",
        "transform.norm.weight": "lm_head.norm.weight",
        "transform.norm.bias": "lm_head.norm.bias",
        "decoder.weight": "lm_head.decoder.weight",
        "decoder.bias": "lm_head.decoder.bias",
    }
    head_prefixes = ("lm_head.",)

    def __init__(self, config: GteConfig) -> None:
        super().__init__(config)
        # The activation is fixed in transformers, whatever hidden_act says.
        self.transform = heads.PredictionHead(config.hidden_size, "gelu", config.layer_norm_eps)
        self._make_decoder()


class GteForSequenceClassification(heads.ForSequenceClassification):
    """GTE: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = GteForSequenceClassification(GteConfig(100, 16, 24, 2, 4, num_labels=1))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 1)
    """

    base_class = GteModel
    base_options = {"add_pooling_layer": True}
    head = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}
    head_prefixes = ("classifier.",)

    def __init__(self, config: GteConfig) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)


class GteForTokenClassification(heads.ForTokenClassification):
    """GTE: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = GteModel

"""Gemma: Llama with norms that multiply by 1 + weight, scaled embeddings, and a feed-forward with GELU.

Source: Gemma Team 2024, https://arxiv.org/abs/2403.08295, and transformers' modeling_gemma. `load_model` finds this
file by model_type "gemma" (bge-reranker-v2-gemma is one); `common.decoder_blocks` has the layers. gemma2.py and
gemma3.py have what came after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.config import Number
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)


@dataclass(frozen=True)
class GemmaConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    head_dim: int | None = 256
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    pad_token_id: Number | None = 0

    # Some folders hold it beside hidden_act, which counts.
    without_effect = (*GatedConfig.without_effect, "hidden_activation")

    @staticmethod
    def translated(content: dict[str, Any]) -> dict[str, Any]:
        """The first folders call the tanh formula "gelu"."""
        return content | {"hidden_act": "gelu_pytorch_tanh"} if content.get("hidden_act") == "gelu" else content

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            offset_norms=True,
        )


class GemmaModel(GatedDecoder):
    """The stack without a head.

    Example:
        >>> config = GemmaConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> GemmaModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = GemmaConfig
    model_types = ("gemma",)
    neutral: Mapping[str, tuple] = GatedDecoder.neutral | {"use_bidirectional_attention": (False, None)}

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        hidden = self.embed_tokens(ids)
        hidden *= np.float32(self.width**0.5)
        return hidden


class GemmaForCausalLM(GatedCausalLM):
    """Gemma with the head that scores the next token.

    Example:
        >>> config = GemmaConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> GemmaForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = GemmaConfig
    model_types = ("gemma",)
    neutral = GemmaModel.neutral
    body_class = GemmaModel
    generation_config = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}


class GemmaForSequenceClassification(GatedClassifier):
    """Gemma with a head that scores labels by the last token.

    Example:
        >>> config = GemmaConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> GemmaForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = GemmaConfig
    model_types = ("gemma",)
    neutral = GemmaModel.neutral
    body_class = GemmaModel

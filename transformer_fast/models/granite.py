"""Granite 3: Llama with factors of embeddings, scores, residuals and logits.

Source: https://github.com/ibm-granite/granite-3.0-language-models (factors as in Yang et al. 2022,
https://arxiv.org/abs/2203.03466), and transformers' modeling_granite. `load_model` finds this file by model_type
"granite"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transformer_fast.models.common.config import Number
from transformer_fast.models.common.decoder_blocks import BlockOptions, GatedCausalLM, GatedConfig, GatedDecoder


@dataclass(frozen=True)
class GraniteConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: Number = 1.0
    logits_scaling: Number = 1.0
    residual_multiplier: Number = 1.0
    attention_multiplier: Number = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits_scaling == 0:
            raise ValueError(f"logits_scaling is {self.logits_scaling}; needed: a number that logits are divided by")

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.attention_multiplier,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            residual_scale=self.residual_multiplier,
        )


class GraniteModel(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = GraniteConfig(50, 8, 16, 1, num_attention_heads=2, residual_multiplier=0.2)
        >>> GraniteModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = GraniteConfig
    model_types = ("granite",)

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        hidden = self.embed_tokens(ids)
        hidden *= np.float32(self.config.embedding_multiplier)
        return hidden


class GraniteForCausalLM(GatedCausalLM):
    """Granite with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = GraniteConfig(50, 8, 16, 1, num_attention_heads=2, logits_scaling=8.0)
        >>> GraniteForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = GraniteConfig
    model_types = ("granite",)
    body_class = GraniteModel
    generation_config = {"bos_token_id": 1, "eos_token_id": 2}

    def scores(self, logits: np.ndarray) -> np.ndarray:
        logits /= np.float32(self.config.logits_scaling)
        return logits

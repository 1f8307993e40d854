"""Llama: RMS norms, rotary positions, grouped heads, gated feed-forward.

Source: Touvron et al. 2023, https://arxiv.org/abs/2302.13971, and transformers' modeling_llama. `load_model` finds this
file by model_type "llama"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)


@dataclass(frozen=True)
class LlamaConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    # Of SmolLM's folders and of fine-tunings of Llama 2.
    without_effect = (*GatedConfig.without_effect, "is_llama_config", "max_sequence_length")

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )


class LlamaModel(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = LlamaModel(LlamaConfig(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = LlamaConfig
    model_types = ("llama",)


class LlamaForCausalLM(GatedCausalLM):
    """Llama with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> model = LlamaForCausalLM(LlamaConfig(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = LlamaConfig
    model_types = ("llama",)
    body_class = LlamaModel
    generation_config = {"bos_token_id": 1, "eos_token_id": 2}


class LlamaForSequenceClassification(GatedClassifier):
    """Llama with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = LlamaConfig(50, 8, 16, 1, num_attention_heads=2, num_labels=3)
        >>> LlamaForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = LlamaConfig
    model_types = ("llama",)
    body_class = LlamaModel

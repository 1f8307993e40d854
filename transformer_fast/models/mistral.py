"""Mistral: Llama with a sliding window in every layer.

Source: Jiang et al. 2023, https://arxiv.org/abs/2310.06825, and transformers' modeling_mistral. `load_model` finds this
file by model_type "mistral"; `common.decoder_blocks` has the layers.
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
class MistralConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    hidden_act: str = "silu"
    sliding_window: int | None = 4096

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(scale=self.width_of_head**-0.5, window=self.sliding_window)


class MistralModel(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = MistralConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, sliding_window=2)
        >>> MistralModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = MistralConfig
    model_types = ("mistral",)


class MistralForCausalLM(GatedCausalLM):
    """Mistral with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = MistralConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, sliding_window=2)
        >>> MistralForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = MistralConfig
    model_types = ("mistral",)
    body_class = MistralModel
    generation_config = {"bos_token_id": 1, "eos_token_id": 2}


class MistralForSequenceClassification(GatedClassifier):
    """Mistral with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = MistralConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> MistralForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = MistralConfig
    model_types = ("mistral",)
    body_class = MistralModel

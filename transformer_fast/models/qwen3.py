"""Qwen 3: Qwen 2 with normalised queries and keys, and without their biases.

Source: Yang et al. 2025, https://arxiv.org/abs/2505.09388, and transformers' modeling_qwen3. `load_model` finds this
file by model_type "qwen3"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_fast.models.common.decoder_blocks import BlockOptions, GatedCausalLM, GatedClassifier, GatedDecoder
from transformer_fast.models.qwen2 import Qwen2Config


@dataclass(frozen=True)
class Qwen3Config(Qwen2Config):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    head_dim: int | None = 128
    attention_bias: bool = False

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            window=self.window(number),
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            qk_norm=True,
        )


class Qwen3Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Qwen3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, head_dim=6)
        >>> Qwen3Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Qwen3Config
    model_types = ("qwen3",)


class Qwen3ForCausalLM(GatedCausalLM):
    """Qwen 3 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = Qwen3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, head_dim=6)
        >>> Qwen3ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = Qwen3Config
    model_types = ("qwen3",)
    body_class = Qwen3Model


class Qwen3ForSequenceClassification(GatedClassifier):
    """Qwen 3 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Qwen3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> Qwen3ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Qwen3Config
    model_types = ("qwen3",)
    body_class = Qwen3Model

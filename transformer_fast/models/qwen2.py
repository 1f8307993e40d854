"""Qwen 2 and 2.5: Llama with biases of query, key and value; some layers may have a sliding window.

Source: Yang et al. 2024, https://arxiv.org/abs/2407.10671, and transformers' modeling_qwen2. `load_model` finds this
file by model_type "qwen2"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_fast.models.common.config import Index
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
    window_of,
)


@dataclass(frozen=True)
class Qwen2Config(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    hidden_act: str = "silu"
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: Index = 28
    layer_types: list[str] | None = None

    def window(self, number: int) -> int | None:
        """Windows need use_sliding_window; without layer_types, layers from max_window_layers on have one."""
        if not self.use_sliding_window:
            return None
        if self.layer_types is not None:
            return window_of(self, number)
        return self.sliding_window if number >= self.max_window_layers else None

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(scale=self.width_of_head**-0.5, window=self.window(number), qkv_bias=True)


class Qwen2Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Qwen2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> Qwen2Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Qwen2Config
    model_types = ("qwen2",)


class Qwen2ForCausalLM(GatedCausalLM):
    """Qwen 2 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = Qwen2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> Qwen2ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = Qwen2Config
    model_types = ("qwen2",)
    body_class = Qwen2Model


class Qwen2ForSequenceClassification(GatedClassifier):
    """Qwen 2 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Qwen2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> Qwen2ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Qwen2Config
    model_types = ("qwen2",)
    body_class = Qwen2Model

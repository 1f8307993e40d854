"""SmolLM3: Llama in which every fourth layer has no positions; such layers may have a sliding window.

Source: https://huggingface.co/blog/smollm3 (NoPE: Yang et al. 2025, https://arxiv.org/abs/2501.18795), and
transformers' modeling_smollm3. `load_model` finds this file by model_type "smollm3"; `common.decoder_blocks` has the
layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_fast.models.common.config import Index, Number
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
    window_of,
)


@dataclass(frozen=True)
class SmolLM3Config(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'.

    no_rope_layers says of each layer whether it is rotated: 1, or 0 where it is not.
    """

    vocab_size: int = 128256
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    rope_theta: float = 2000000.0
    pad_token_id: Number | None = 128004
    hidden_act: str = "silu"
    use_sliding_window: bool = False
    sliding_window: int | None = None
    no_rope_layers: list[Index] | None = None
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    # Of Qwen 2, whose windows begin at a layer.
    without_effect = (*GatedConfig.without_effect, "max_window_layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_rope_layers is not None and len(self.no_rope_layers) < self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers is {self.no_rope_layers!r}; needed: a number for each of the "
                f"{self.num_hidden_layers} layers"
            )
        if "sliding_attention" in (self.layer_types or ()) and self.sliding_window is None:
            raise ValueError("sliding_window is None and layer_types names sliding_attention; needed: a number")

    def is_rotated(self, number: int) -> bool:
        """Without no_rope_layers, each no_rope_layer_interval-th layer is not."""
        if self.no_rope_layers is not None:
            return self.no_rope_layers[number] != 0
        return (number + 1) % self.no_rope_layer_interval != 0

    def window(self, number: int) -> int | None:
        """layer_types counts, whatever use_sliding_window says; without it, layers that are not rotated have one."""
        if self.layer_types is not None:
            return window_of(self, number)
        return self.sliding_window if self.use_sliding_window and not self.is_rotated(number) else None

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            window=self.window(number),
            rotation="all" if self.is_rotated(number) else None,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )


class SmolLM3Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = SmolLM3Config(50, 8, 16, 4, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
        >>> SmolLM3Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = SmolLM3Config
    model_types = ("smollm3",)


class SmolLM3ForCausalLM(GatedCausalLM):
    """SmolLM3 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = SmolLM3Config(50, 8, 16, 4, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
        >>> SmolLM3ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = SmolLM3Config
    model_types = ("smollm3",)
    body_class = SmolLM3Model
    generation_config = {"pad_token_id": 128004, "bos_token_id": 128000, "eos_token_id": 128001}


class SmolLM3ForSequenceClassification(GatedClassifier):
    """SmolLM3 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = SmolLM3Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> SmolLM3ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = SmolLM3Config
    model_types = ("smollm3",)
    body_class = SmolLM3Model

"""OLMo 2: Llama with norms behind attention and feed-forward instead of before them, and normalised queries and keys.

Source: OLMo Team 2024, https://arxiv.org/abs/2501.00656, and transformers' modeling_olmo2. `load_model` finds this file
by model_type "olmo2"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformer_fast.models.common.config import Number
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)


@dataclass(frozen=True)
class Olmo2Config(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50304
    rms_norm_eps: float = 1e-5
    pad_token_id: Number | None = 1
    hidden_act: str = "silu"
    attention_bias: bool = False

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            joint_qk_norm=True,
            pre_norms=False,
            sandwich=True,
        )


class Olmo2Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = Olmo2Model(Olmo2Config(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Olmo2Config
    model_types = ("olmo2",)


class Olmo2ForCausalLM(GatedCausalLM):
    """OLMo 2 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> model = Olmo2ForCausalLM(Olmo2Config(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4, eos_token_id=2).shape
        (1, 7)
    """

    config_class = Olmo2Config
    model_types = ("olmo2",)
    body_class = Olmo2Model
    generation_config = {"pad_token_id": 1, "eos_token_id": 50279}


class Olmo2ForSequenceClassification(GatedClassifier):
    """OLMo 2 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Olmo2Config(50, 8, 16, 1, num_attention_heads=2, num_labels=3)
        >>> Olmo2ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Olmo2Config
    model_types = ("olmo2",)
    body_class = Olmo2Model

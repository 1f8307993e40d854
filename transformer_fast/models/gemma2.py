"""Gemma 2: every second layer with a sliding window, norms around each half, soft caps, scaled embeddings.

Source: Gemma Team 2024, https://arxiv.org/abs/2408.00118, and transformers' modeling_gemma2. `load_model` finds this
file by model_type "gemma2"; `common.decoder_blocks` has the layers. gemma3.py derives from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.config import Number
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
    window_of,
)


@dataclass(frozen=True)
class Gemma2Config(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    query_pre_attn_scalar: float = 256
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    pad_token_id: Number | None = 0

    # The first folders hold them beside hidden_activation and sliding_window, which count.
    without_effect = (*GatedConfig.without_effect, "hidden_act", "sliding_window_size")

    @property
    def activation(self) -> str:
        return self.hidden_activation

    def is_sliding(self, number: int) -> bool:
        """Without layer_types, layers 0, 2, 4, ... have the window."""
        return number % 2 == 0 if self.layer_types is None else window_of(self, number) is not None

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.query_pre_attn_scalar**-0.5,
            softcap=self.attn_logit_softcapping or 0.0,
            window=self.sliding_window if self.is_sliding(number) else None,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            offset_norms=True,
            sandwich=True,
        )


class Gemma2Model(GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Gemma2Config(50, 8, 16, 2, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> Gemma2Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Gemma2Config
    model_types = ("gemma2",)
    neutral: Mapping[str, tuple] = GatedDecoder.neutral | {"use_bidirectional_attention": (False, None)}

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        hidden = self.embed_tokens(ids)
        hidden *= np.float32(self.width**0.5)
        return hidden


class Gemma2ForCausalLM(GatedCausalLM):
    """Gemma 2 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = Gemma2Config(50, 8, 16, 2, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> Gemma2ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = Gemma2Config
    model_types = ("gemma2",)
    neutral = Gemma2Model.neutral
    body_class = Gemma2Model
    generation_config = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}

    def scores(self, logits: np.ndarray) -> np.ndarray:
        cap = self.config.final_logit_softcapping
        if cap is None:
            return logits
        logits /= np.float32(cap)
        F.tanh(logits, out=logits)
        logits *= np.float32(cap)
        return logits


class Gemma2ForSequenceClassification(GatedClassifier):
    """Gemma 2 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Gemma2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> Gemma2ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Gemma2Config
    model_types = ("gemma2",)
    neutral = Gemma2Model.neutral
    body_class = Gemma2Model

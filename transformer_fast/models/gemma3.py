"""Gemma 3, text only: Gemma 2 with normalised queries and keys, two rotations, and a full layer after five windowed.

EmbeddingGemma is the model without a head, with attention in both directions (use_bidirectional_attention).

Source: Gemma Team 2025, https://arxiv.org/abs/2503.19786, and transformers' modeling_gemma3 (Gemma3Text...).
`load_model` finds this file by model_type "gemma3_text"; `common.decoder_blocks` has the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformer_fast.models.common.decoder_blocks import BlockOptions, GatedDecoder, window_of
from transformer_fast.models.gemma2 import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2Model,
)


@dataclass(frozen=True)
class Gemma3TextConfig(Gemma2Config):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    rope_theta: float = 1000000.0
    rope_local_base_freq: float = 10000.0
    sliding_window_pattern: int = 6
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: None = None
    use_bidirectional_attention: bool | None = False

    # Transformers writes down what it has made layer_types of.
    without_effect = (*Gemma2Config.without_effect, "_sliding_window_pattern")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_bidirectional_attention and (self.sliding_window is None or not self.is_causal):
            raise ValueError(
                f"use_bidirectional_attention is true, sliding_window {self.sliding_window} and is_causal "
                f"{self.is_causal}; needed with it: a window, and no is_causal of false besides"
            )

    def is_sliding(self, number: int) -> bool:
        """Without layer_types, every layer has the window except each sliding_window_pattern-th."""
        if self.layer_types is not None:
            return window_of(self, number) is not None
        return (number + 1) % self.sliding_window_pattern != 0

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        """Layers with a window have a base of their own, and no scaling in older files.

        rope_scaling goes over what rope_parameters says of the others, as in transformers.
        """
        given = self.rope_parameters or {}
        if not all(isinstance(part, dict) or part is None for part in given.values()):
            raise ValueError(
                f"rope_parameters is {given!r}; needed: full_attention and sliding_attention, an object each"
            )
        full = (given.get("full_attention") or {"rope_type": "default"}) | (self.rope_scaling or {})
        return {
            "full": (self.rope_theta, full),
            "sliding": (self.rope_local_base_freq, given.get("sliding_attention")),
        }

    def block(self, number: int) -> BlockOptions:
        sliding = self.is_sliding(number)
        options = replace(super().block(number), rotation="sliding" if sliding else "full", qk_norm=True)
        if not self.use_bidirectional_attention:
            return options
        if not sliding:
            return replace(options, ahead=None)
        # sliding_window is what both sides have together, in training and in the file.
        side = self.sliding_window // 2
        return replace(options, window=side + 1, ahead=side)


class Gemma3TextModel(Gemma2Model):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Gemma3TextConfig(50, 8, 16, 2, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> Gemma3TextModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    config_class = Gemma3TextConfig
    model_types = ("gemma3_text",)
    neutral = GatedDecoder.neutral


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    """Gemma 3 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = Gemma3TextConfig(50, 8, 16, 2, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
        >>> Gemma3ForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    config_class = Gemma3TextConfig
    model_types = ("gemma3_text",)
    neutral = GatedDecoder.neutral
    body_class = Gemma3TextModel


class Gemma3TextForSequenceClassification(Gemma2ForSequenceClassification):
    """Gemma 3 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Gemma3TextConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> Gemma3TextForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    config_class = Gemma3TextConfig
    model_types = ("gemma3_text",)
    neutral = GatedDecoder.neutral
    body_class = Gemma3TextModel

"""StarCoder2: grouped heads with rotary positions, layer norms, a plain feed-forward, and perhaps a sliding window.

Source: Lozhkov et al. 2024, https://arxiv.org/abs/2402.19173, and transformers' modeling_starcoder2. `load_model` finds
this file by model_type "starcoder2"; `common.layer_norm_blocks` has the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformer_fast.models.common.decoder import CausalLM
from transformer_fast.models.common.decoder_blocks import Gated
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.layer_norm_blocks import PlainConfig, PlainDecoder, PlainOptions


@dataclass(frozen=True)
class Starcoder2Config(PlainConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 49152
    hidden_size: int = 3072
    intermediate_size: int = 12288
    num_hidden_layers: int = 30
    num_attention_heads: int = 24
    num_key_value_heads: int = 2
    head_dim: int | None = None
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    rope_theta: float = 10000.0
    hidden_act: str = "gelu_pytorch_tanh"
    norm_epsilon: float = 1e-5
    sliding_window: int | None = None
    use_bias: bool = True

    # Of training.
    without_effect = (*PlainConfig.without_effect, "residual_dropout")

    def block(self) -> PlainOptions:
        """The options of the layers."""
        return PlainOptions(
            eps=self.norm_epsilon,
            qkv_bias=self.use_bias,
            out_bias=self.use_bias,
            mlp_bias=self.use_bias,
            window=self.sliding_window,
        )


class _Starcoder2(Gated):
    """The parts that the model has with and without a head."""

    config_class = Starcoder2Config
    model_types = ("starcoder2",)
    # The first folders name their feed-forward and norms; there is one kind of each.
    neutral: Mapping[str, tuple] = Gated.neutral | {"mlp_type": ("default",), "norm_type": ("layer_norm",)}


class Starcoder2Model(_Starcoder2, PlainDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = Starcoder2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> Starcoder2Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    ignored = ("rotary.", "lm_head.", "score.")
    stack_names = {"embed_tokens": "embed_tokens", "final_norm": "norm"}
    layer_names = {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "qkv_proj.q": "self_attn.q_proj",
        "qkv_proj.k": "self_attn.k_proj",
        "qkv_proj.v": "self_attn.v_proj",
        "out_proj": "self_attn.o_proj",
        "linear1": "mlp.c_fc",
        "linear2": "mlp.c_proj",
    }


class Starcoder2ForCausalLM(_Starcoder2, CausalLM):
    """StarCoder2 with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = Starcoder2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> model = Starcoder2ForCausalLM(config)
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4, eos_token_id=2).shape
        (1, 7)
    """

    body_class = Starcoder2Model
    body_name = "model"
    embedding_name = "embed_tokens.weight"
    ignored = ("rotary.", "lm_head.")
    generation_config = {"bos_token_id": 50256, "eos_token_id": 50256}


class Starcoder2ForSequenceClassification(_Starcoder2, DecoderClassifier):
    """StarCoder2 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = Starcoder2Config(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> Starcoder2ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = Starcoder2Model
    body_name = "model"
    ignored = ("rotary.", "lm_head.")

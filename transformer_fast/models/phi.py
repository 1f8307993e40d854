"""Phi-1, Phi-1.5 and Phi-2: attention and feed-forward side by side behind one norm, partly rotated heads.

Source: Li et al. 2023, https://arxiv.org/abs/2309.05463, and transformers' modeling_phi. `load_model` finds this file
by model_type "phi"; `common.layer_norm_blocks` has the layers. Phi-3 is in phi3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformer_fast.models.common.decoder_blocks import Gated
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.layer_norm_blocks import BiasedCausalLM, PlainConfig, PlainDecoder, PlainOptions


@dataclass(frozen=True)
class PhiConfig(PlainConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 51200
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.5
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-5
    qk_layernorm: bool = False

    def block(self) -> PlainOptions:
        """The options of the layers."""
        return PlainOptions(eps=self.layer_norm_eps, parallel=True, shared_norm=True, qk_norm=self.qk_layernorm)


class _Phi(Gated):
    """The parts that the model has with and without a head."""

    config_class = PhiConfig
    model_types = ("phi",)
    neutral: Mapping[str, tuple] = {
        name: values for name, values in Gated.neutral.items() if name != "partial_rotary_factor"
    }


class PhiModel(_Phi, PlainDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = PhiModel(PhiConfig(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    ignored = ("rotary.", "lm_head.", "score.")
    stack_names = {"embed_tokens": "embed_tokens", "final_norm": "final_layernorm"}
    layer_names = {
        "attention_norm": "input_layernorm",
        "qkv_proj.q": "self_attn.q_proj",
        "qkv_proj.k": "self_attn.k_proj",
        "qkv_proj.v": "self_attn.v_proj",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "out_proj": "self_attn.dense",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
    }


class PhiForCausalLM(_Phi, BiasedCausalLM):
    """Phi with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> model = PhiForCausalLM(PhiConfig(50, 8, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = PhiModel
    body_name = "model"
    embedding_name = "embed_tokens.weight"
    ignored = ("rotary.", "lm_head.")
    generation_config = {"bos_token_id": 1, "eos_token_id": 2}


class PhiForSequenceClassification(_Phi, DecoderClassifier):
    """Phi with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = PhiConfig(50, 8, 16, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
        >>> PhiForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = PhiModel
    body_name = "model"
    ignored = ("rotary.", "lm_head.")

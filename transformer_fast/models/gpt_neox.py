"""GPT-NeoX, and Pythia with it: attention and feed-forward side by side, layer norms, partly rotated heads.

Source: Black et al. 2022, https://arxiv.org/abs/2204.06745; Biderman et al. 2023, https://arxiv.org/abs/2304.01373; and
transformers' modeling_gpt_neox. `load_model` finds this file by model_type "gpt_neox"; `common.layer_norm_blocks` has
the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformer_fast.models.common.decoder import CausalLM
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.layer_norm_blocks import PlainConfig, PlainDecoder, PlainOptions


@dataclass(frozen=True)
class GPTNeoXConfig(PlainConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50432
    hidden_size: int = 6144
    intermediate_size: int = 24576
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    rotary_emb_base: float = 10000.0
    rotary_pct: float = 0.25
    use_parallel_residual: bool = True
    attention_bias: bool = True

    # Transformers 4 wrote the two of rotations under the names of other families beside their own, which count.
    without_effect = (*PlainConfig.without_effect, "partial_rotary_factor", "rope_theta")

    @property
    def rotary_field(self) -> str:
        return "rotary_pct"

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        return {"all": (self.rotary_emb_base, self.rope_scaling or self.rope_parameters)}

    def block(self) -> PlainOptions:
        """The options of the layers."""
        return PlainOptions(
            eps=self.layer_norm_eps,
            parallel=self.use_parallel_residual,
            by_head=True,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
        )


class _GPTNeoX:
    """The parts that the model has with and without a head."""

    config_class = GPTNeoXConfig
    model_types = ("gpt_neox",)
    neutral: Mapping[str, tuple] = {"quantization_config": (None,), "is_causal": (True,)}
    stacks = {"layers.": "num_hidden_layers"}
    base_prefix = "gpt_neox."

    @classmethod
    def canonical(cls, name: str) -> str:
        name = name.removeprefix("gpt_neox.")
        if name.startswith("embed_out."):  # the head, as files have it
            return f"lm_head.{name.removeprefix('embed_out.')}"
        # Old files hold each layer's triangular mask, and the frequencies.
        ends = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
        return f"constant.{name}" if name.endswith(ends) else name


class GPTNeoXModel(_GPTNeoX, PlainDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = GPTNeoXModel(GPTNeoXConfig(50, 16, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    ignored = ("constant.", "lm_head.", "score.")
    stack_names = {"embed_tokens": "embed_in", "final_norm": "final_layer_norm"}
    layer_names = {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
        "qkv_proj": "attention.query_key_value",
        "out_proj": "attention.dense",
        "linear1": "mlp.dense_h_to_4h",
        "linear2": "mlp.dense_4h_to_h",
    }


class GPTNeoXForCausalLM(_GPTNeoX, CausalLM):
    """GPT-NeoX with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> model = GPTNeoXForCausalLM(GPTNeoXConfig(50, 16, 16, num_hidden_layers=1, num_attention_heads=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = GPTNeoXModel
    body_name = "gpt_neox"
    embedding_name = "embed_tokens.weight"
    ignored = ("constant.", "lm_head.")
    generation_config = {"bos_token_id": 0, "eos_token_id": 2}

    @classmethod
    def _written(cls, name: str) -> str:
        return f"embed_out.{name.removeprefix('lm_head.')}" if name.startswith("lm_head.") else super()._written(name)


class GPTNeoXForSequenceClassification(_GPTNeoX, DecoderClassifier):
    """GPT-NeoX with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = GPTNeoXConfig(50, 16, 16, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
        >>> GPTNeoXForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = GPTNeoXModel
    body_name = "gpt_neox"
    ignored = ("constant.", "lm_head.")

"""gpt-oss: a mixture of experts with biases, every second layer with a sliding window, and a sink for each head.

Source: OpenAI 2025, https://arxiv.org/abs/2508.10925, and transformers' modeling_gpt_oss. `load_model` finds this file
by model_type "gpt_oss"; `common.decoder_blocks` has the layers, `common.experts` the experts, and `common.mxfp4` reads
the 4-bit numbers in which the experts are stored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)
from transformer_fast.models.common.experts import ExpertOptions, check_chosen, single_experts, stacked_experts

# What transformers' config class has where the file does not speak of rotations.
_ROTATION = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class GptOssConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8
    head_dim: int | None = 64
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    attention_bias: bool = True
    sliding_window: int | None = 128
    layer_types: list[str] | None = None
    num_experts_per_tok: int = 4
    num_local_experts: int = 128
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    general_names = {"num_experts": "num_local_experts"}
    without_effect = (
        *GatedConfig.without_effect,
        # The experts' function is fixed, whatever this says.
        "hidden_act",
        # Other programs' names of num_experts_per_tok and of a field of the rotation.
        "experts_per_token",
        "initial_context_length",
        # Of a loss.
        "router_aux_loss_coef",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chosen(self)
        if self.swiglu_alpha == 0:
            raise ValueError(f"swiglu_alpha is {self.swiglu_alpha}; needed: a positive number")
        if self.sliding_window is None and any(self.is_sliding(i) for i in range(self.num_hidden_layers)):
            raise ValueError("sliding_window is None, but there are layers with a window; needed: a number")

    @property
    def activation(self) -> str:
        return "silu"

    def rotations(self) -> Mapping[str, tuple[float, dict | None]]:
        parameters = _ROTATION if self.rope_parameters is None else self.rope_parameters
        return {"all": (self.rope_theta, self.rope_scaling or parameters)}

    def is_sliding(self, number: int) -> bool:
        """Without layer_types, layers 0, 2, 4, ... have the window."""
        return number % 2 == 0 if self.layer_types is None else self.layer_types[number] == "sliding_attention"

    @property
    def experts(self) -> ExpertOptions:
        return ExpertOptions(
            count=self.num_local_experts,
            chosen=self.num_experts_per_tok,
            inner=self.intermediate_size,
            normalised=True,
            bias=True,
            swiglu=(self.swiglu_alpha, self.swiglu_limit),
        )

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            window=self.sliding_window if self.is_sliding(number) else None,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            sinks=True,
            experts=self.experts,
        )


class _GptOss:
    """The parts that the model has with and without a head."""

    config_class = GptOssConfig
    model_types = ("gpt_oss",)
    neutral: Mapping[str, tuple] = GatedDecoder.neutral | {"output_router_logits": (False, None)}

    @classmethod
    def written_names(cls, names: Collection[str]) -> Collection[str]:
        """Without experts by number, as GGUF files have them: transformers' files stack them."""
        return [name for name in names if not re.search(r"\.experts\.\d+\.", name)]


class GptOssModel(_GptOss, GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_local_experts": 4}
        >>> GptOssModel(GptOssConfig(50, 8, 4, 2, **sizes))(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    @classmethod
    def sources(cls, config: GptOssConfig, names: Collection[str]) -> dict[str, Source]:
        sources = super().sources(config, names)
        for i in range(config.num_hidden_layers):
            ours, theirs = f"layers.{i}", f"layers.{i}.mlp"
            sources[f"{ours}.sinks"] = Source(f"{ours}.self_attn.sinks")
            for kind in ("weight", "bias"):
                sources[f"{ours}.experts.router.{kind}"] = Source(f"{theirs}.router.{kind}")
            names_of = f"{ours}.experts", f"{theirs}.experts"
            if f"{theirs}.experts.gate_up_proj" in names or f"{theirs}.experts.0.gate_proj.weight" not in names:
                sources |= stacked_experts(*names_of, config.hidden_size, config.experts, neighbours=True)
            else:  # of a GGUF file
                sources |= single_experts(*names_of, config.num_local_experts, bias=True)
        return sources


class GptOssForCausalLM(_GptOss, GatedCausalLM):
    """gpt-oss with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_local_experts": 4}
        >>> model = GptOssForCausalLM(GptOssConfig(50, 8, 4, 2, **sizes))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = GptOssModel


class GptOssForSequenceClassification(_GptOss, GatedClassifier):
    """gpt-oss with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_local_experts": 4}
        >>> config = GptOssConfig(50, 8, 4, 2, **sizes, num_labels=3)
        >>> GptOssForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = GptOssModel

"""Qwen 3 with a mixture of experts: Qwen 3's attention, and a router with many small feed-forwards.

Source: Yang et al. 2025, https://arxiv.org/abs/2505.09388, and transformers' modeling_qwen3_moe. `load_model` finds
this file by model_type "qwen3_moe"; `common.decoder_blocks` has the layers, `common.experts` the experts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)
from transformer_fast.models.common.experts import ExpertOptions, check_chosen, single_experts, stacked_experts


@dataclass(frozen=True)
class Qwen3MoeConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'.

    intermediate_size is the width of the feed-forwards without experts, of the layers in mlp_only_layers and those that
    decoder_sparse_step leaves out.
    """

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_key_value_heads: int = 4
    max_position_embeddings: int = 32768
    hidden_act: str = "silu"
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    decoder_sparse_step: int = 1
    moe_intermediate_size: int = 768
    num_experts_per_tok: int = 8
    num_local_experts: Index = 128
    norm_topk_prob: bool = False
    mlp_only_layers: list[Index] | None = None

    general_names = {"num_experts": "num_local_experts"}
    # Of a loss; and Qwen 2's way to say which layers have a window: here all have one, or none.
    without_effect = (*GatedConfig.without_effect, "router_aux_loss_coef", "max_window_layers")

    @staticmethod
    def translated(content: Mapping[str, Any]) -> dict[str, Any]:
        """Where a file has both names of the number of experts, the field's counts here, as in transformers."""
        if "num_local_experts" in content and "num_experts" in content:
            return {**content, "num_experts": content["num_local_experts"]}
        return dict(content)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_local_experts:
            check_chosen(self)

    def has_experts(self, number: int) -> bool:
        """Has layer `number` experts?"""
        among = self.num_local_experts > 0 and (number + 1) % self.decoder_sparse_step == 0
        return among and number not in (self.mlp_only_layers or ())

    @property
    def experts(self) -> ExpertOptions:
        """Of a layer that has them."""
        return ExpertOptions(
            count=self.num_local_experts,
            chosen=self.num_experts_per_tok,
            inner=self.moe_intermediate_size,
            normalised=self.norm_topk_prob,
            activation=ACTIVATIONS[self.hidden_act],
        )

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(
            scale=self.width_of_head**-0.5,
            window=self.sliding_window if self.use_sliding_window else None,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            qk_norm=True,
            experts=self.experts if self.has_experts(number) else None,
        )


class _Qwen3Moe:
    """The parts that the model has with and without a head."""

    config_class = Qwen3MoeConfig
    model_types = ("qwen3_moe",)
    neutral: Mapping[str, tuple] = GatedDecoder.neutral | {"output_router_logits": (False, None)}


class Qwen3MoeModel(_Qwen3Moe, GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
        >>> config = Qwen3MoeConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, **experts)
        >>> Qwen3MoeModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    @classmethod
    def sources(cls, config: Qwen3MoeConfig, names: Collection[str]) -> dict[str, Source]:
        sources = super().sources(config, names)
        for i in filter(config.has_experts, range(config.num_hidden_layers)):
            ours, theirs = f"layers.{i}.experts", f"layers.{i}.mlp"
            sources[f"{ours}.router.weight"] = Source(f"{theirs}.gate.weight")
            if f"{theirs}.experts.0.gate_proj.weight" in names:
                sources |= single_experts(ours, f"{theirs}.experts", config.num_local_experts)
            else:
                sources |= stacked_experts(ours, f"{theirs}.experts", config.hidden_size, config.experts)
        return sources


class Qwen3MoeForCausalLM(_Qwen3Moe, GatedCausalLM):
    """Qwen 3 with experts and the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
        >>> config = Qwen3MoeConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, **experts)
        >>> Qwen3MoeForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = Qwen3MoeModel


class Qwen3MoeForSequenceClassification(_Qwen3Moe, GatedClassifier):
    """Qwen 3 with experts and a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
        >>> config = Qwen3MoeConfig(50, 8, 16, 1, num_attention_heads=2, num_key_value_heads=1, **experts, num_labels=3)
        >>> Qwen3MoeForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = Qwen3MoeModel

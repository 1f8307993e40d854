"""Mixtral: Mistral with a mixture of experts in every layer.

Source: Jiang et al. 2024, https://arxiv.org/abs/2401.04088, and transformers' modeling_mixtral. `load_model` finds this
file by model_type "mixtral"; `common.decoder_blocks` has the layers, `common.experts` the experts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS
from transformer_fast.models.common.decoder_blocks import (
    BlockOptions,
    GatedCausalLM,
    GatedClassifier,
    GatedConfig,
    GatedDecoder,
)
from transformer_fast.models.common.experts import ExpertOptions, check_chosen, single_experts, stacked_experts


@dataclass(frozen=True)
class MixtralConfig(GatedConfig):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1000000.0
    hidden_act: str = "silu"
    sliding_window: int | None = None
    num_experts_per_tok: int = 2
    num_local_experts: int = 8

    general_names = {"num_experts": "num_local_experts"}
    # Of training.
    without_effect = (*GatedConfig.without_effect, "router_aux_loss_coef", "router_jitter_noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chosen(self)

    @property
    def experts(self) -> ExpertOptions:
        return ExpertOptions(
            count=self.num_local_experts,
            chosen=self.num_experts_per_tok,
            inner=self.intermediate_size,
            normalised=True,
            activation=ACTIVATIONS[self.hidden_act],
        )

    def block(self, number: int) -> BlockOptions:
        return BlockOptions(scale=self.width_of_head**-0.5, window=self.sliding_window, experts=self.experts)


class _Mixtral:
    """The parts that the model has with and without a head."""

    config_class = MixtralConfig
    model_types = ("mixtral",)
    neutral: Mapping[str, tuple] = GatedDecoder.neutral | {"output_router_logits": (False, None)}


class MixtralModel(_Mixtral, GatedDecoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> config = MixtralConfig(50, 8, 4, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> MixtralModel(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    @classmethod
    def sources(cls, config: MixtralConfig, names: Collection[str]) -> dict[str, Source]:
        sources, count = super().sources(config, names), config.num_local_experts
        for i in range(config.num_hidden_layers):
            ours, old, new = f"layers.{i}.experts", f"layers.{i}.block_sparse_moe", f"layers.{i}.mlp"
            single = f"{old}.gate.weight" in names
            sources[f"{ours}.router.weight"] = Source(f"{old if single else new}.gate.weight")
            if single:
                sources |= single_experts(ours, f"{old}.experts", count, ("w1", "w3", "w2"))
            else:
                sources |= stacked_experts(ours, f"{new}.experts", config.hidden_size, config.experts)
        return sources


class MixtralForCausalLM(_Mixtral, GatedCausalLM):
    """Mixtral with the head that scores the next token.

    Example:
        >>> import numpy as np
        >>> config = MixtralConfig(50, 8, 4, 1, num_attention_heads=2, num_key_value_heads=1)
        >>> MixtralForCausalLM(config).generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = MixtralModel
    generation_config = {"bos_token_id": 1, "eos_token_id": 2}


class MixtralForSequenceClassification(_Mixtral, GatedClassifier):
    """Mixtral with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = MixtralConfig(50, 8, 4, 1, num_attention_heads=2, num_key_value_heads=1, num_labels=3)
        >>> MixtralForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = MixtralModel

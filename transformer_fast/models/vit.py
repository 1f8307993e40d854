"""ViT and DeiT: pictures cut into patches, a pre-norm encoder over them, a class read from the first token.

Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, and transformers' modeling_vit; Touvron et al. 2020,
https://arxiv.org/abs/2012.12877, and modeling_deit, which has a second token that a teacher trained. `load_model` finds
this file by model_type "vit" or "deit"; pixel_values come from `vision.ImageProcessor`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.common.base import PretrainedModel, Source, under
from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_fields
from transformer_fast.models.common.image_embedding import ImageEmbedding, encoded, pair
from transformer_fast.models.common.output import BaseModelOutputWithPooling
from transformer_fast.models.common.vision_output import ImageClassifierOutput, TwoHeadedImageClassifierOutput
from transformer_fast.nn import Collector, LayerNorm, Linear, PackedEncoder


@dataclass(frozen=True)
class ViTConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: int | list[int] = 224
    patch_size: int | list[int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"
    head_dim: int | None = None

    # encoder_stride is that of ViTForMaskedImageModeling's decoder.
    without_effect = ("is_decoder", "is_encoder_decoder", "add_cross_attention", "encoder_stride")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("hidden_act", "pooler_act"):
            if getattr(self, name) not in ACTIVATIONS:
                raise ValueError(f"{name} is {getattr(self, name)!r}; supported: {', '.join(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; "
                f"needed: a divisor of hidden_size={self.hidden_size}"
            )
        if self.head_dim not in (None, self.hidden_size // self.num_attention_heads):
            raise ValueError(f"head_dim is {self.head_dim}; supported: hidden_size / num_attention_heads")
        for size, patch in zip(pair(self.image_size), pair(self.patch_size), strict=True):
            if patch > size:
                raise ValueError(f"patch_size is {self.patch_size}; needed: at most image_size={self.image_size}")


# Our names of a layer's parameters -> the checkpoint's, except for query, key and value, which are stacked to one.
_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "layernorm_before",
    "feed_forward.linear1": "intermediate.dense",
    "feed_forward.linear2": "output.dense",
    "feed_forward_norm": "layernorm_after",
}
_POOLER = {f"pooler.{kind}": f"pooler.dense.{kind}" for kind in ("weight", "bias")}
_NEUTRAL = {"quantization_config": (None,)}


class ViTModel(PretrainedModel):
    """The encoder, with the pooler if add_pooling_layer.

    Example:
        >>> config = ViTConfig(16, 2, 4, 32, image_size=32, patch_size=8)
        >>> ViTModel(config)(np.zeros((1, 3, 32, 32), np.float32)).last_hidden_state.shape
        (1, 17, 16)
    """

    config_class = ViTConfig
    model_types = ("vit",)
    neutral = _NEUTRAL
    # The heads, and the further tensors of ViTForMaskedImageModeling.
    ignored = ("embeddings.mask_token", "decoder.", "classifier.", "cls_classifier.", "distillation_classifier.")
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "vit."
    num_tokens = 1

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h, eps = config.hidden_size, config.layer_norm_eps
        sizes = pair(config.image_size), pair(config.patch_size)
        self.embeddings = ImageEmbedding(config.num_channels, h, *sizes, num_tokens=self.num_tokens)
        shape = (config.num_hidden_layers, h, config.num_attention_heads, config.intermediate_size)
        self.layers = PackedEncoder(*shape, ACTIVATIONS[config.hidden_act], eps, norm_first=True)
        if not config.qkv_bias:
            for layer in self.layers:
                layer.attention.in_proj = Linear(h, 3 * h, bias=False).follows(layer.attention_norm, parts=3)
        self.norm = LayerNorm(h, eps)
        self.pooler = Linear(h, config.pooler_output_size or h) if add_pooling_layer else None

    @classmethod
    def options(cls, config: ViTConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": any(name in names for name in _POOLER.values())}

    @classmethod
    def sources(cls, config: ViTConfig, names: Collection[str]) -> dict[str, Source]:
        h = config.hidden_size
        places = [size // patch for size, patch in zip(pair(config.image_size), pair(config.patch_size), strict=True)]
        L = cls.num_tokens + places[0] * places[1]
        sources = {
            "embeddings.class_token": Source("embeddings.cls_token", shape=(1, 1, h)),
            "embeddings.second_token": Source("embeddings.distillation_token", shape=(1, 1, h)),
            "embeddings.positions": Source("embeddings.position_embeddings", shape=(1, L, h)),
        }
        sources |= {ours: Source(theirs) for ours, theirs in _POOLER.items()}
        for kind in ("weight", "bias"):
            sources[f"embeddings.patches.{kind}"] = Source(f"embeddings.patch_embeddings.projection.{kind}")
            sources[f"norm.{kind}"] = Source(f"layernorm.{kind}")
            for i in range(config.num_hidden_layers):
                layer = f"encoder.layer.{i}"
                parts = (f"{layer}.attention.attention.{part}.{kind}" for part in ("query", "key", "value"))
                sources[f"layers.{i}.attention.in_proj.{kind}"] = Source(*parts)
                for ours, theirs in _LAYER.items():
                    sources[f"layers.{i}.{ours}.{kind}"] = Source(f"{layer}.{theirs}.{kind}")
        return sources

    def forward(
        self,
        pixel_values: np.ndarray,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """As transformers.ViTModel: pixel_values (B, C, H, W) -> last_hidden_state (B, L, h), pooler_output (B, p).

        L counts the class token (and DeiT's second token) and the patches. interpolate_pos_encoding admits pictures of
        another size than image_size. hidden_states are those between the layers, before the last norm.

        Raises:
            ValueError, TypeError: the shape or type of the pixel values does not fit.
        """
        tokens = self.embeddings(pixel_values, interpolate_pos_encoding)
        hidden, collect = encoded(self.layers, tokens, output_attentions, output_hidden_states)
        state = self.norm(hidden)
        pooled = None
        if self.pooler is not None:
            pooled = self.pooler(state[:, 0], activation=ACTIVATIONS[self.config.pooler_act])
        return BaseModelOutputWithPooling(state, pooled, collect.hidden_states, collect.attentions)

    def class_states(
        self, pixel_values: np.ndarray, interpolate_pos_encoding: bool, attentions: bool, states: bool
    ) -> tuple[np.ndarray, Collector]:
        """last_hidden_state[:, 0] of `forward` but for the order of its sums, (B, h), without the other tokens' last
        layer; and what is reported."""
        tokens = self.embeddings(pixel_values, interpolate_pos_encoding)
        hidden, collect = encoded(self.layers, tokens, attentions, states, first=True)
        return self.norm(hidden), collect


class ViTForImageClassification(PretrainedModel):
    """The encoder and a linear head on the class token.

    Example:
        >>> config = ViTConfig(16, 2, 4, 32, image_size=32, patch_size=8, id2label={"0": "cat", "1": "dog", "2": "owl"})
        >>> ViTForImageClassification(config)(np.zeros((1, 3, 32, 32), np.float32)).logits.shape
        (1, 3)
    """

    config_class = ViTConfig
    model_types = ("vit",)
    neutral = _NEUTRAL
    ignored = ("embeddings.mask_token", "pooler.")
    stacks = ViTModel.stacks
    base_prefix = "vit."
    head_prefixes = ("classifier.",)
    base_class: type[ViTModel] = ViTModel

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.base = self.base_class(config, add_pooling_layer=False)
        for prefix in self.head_prefixes:
            setattr(self, prefix.removesuffix("."), Linear(config.hidden_size, config.label_count))

    @classmethod
    def sources(cls, config: ViTConfig, names: Collection[str]) -> dict[str, Source]:
        heads = (f"{prefix}{kind}" for prefix in cls.head_prefixes for kind in ("weight", "bias"))
        return under("base", cls.base_class.sources(config, names)) | {name: Source(name) for name in heads}

    def forward(
        self,
        pixel_values: np.ndarray,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ImageClassifierOutput:
        """pixel_values (B, C, H, W) -> logits (B, labels); the rest as in `ViTModel`."""
        options = (interpolate_pos_encoding, output_attentions, output_hidden_states)
        states, collect = self.base.class_states(pixel_values, *options)
        return ImageClassifierOutput(self.classifier(states), collect.hidden_states, collect.attentions)


class DeiTModel(ViTModel):
    """ViT with a second token, the distillation token.

    Example:
        >>> config = ViTConfig(16, 2, 4, 32, image_size=32, patch_size=8)
        >>> DeiTModel(config)(np.zeros((1, 3, 32, 32), np.float32)).last_hidden_state.shape
        (1, 18, 16)
    """

    model_types = ("deit",)
    base_prefix = "deit."
    num_tokens = 2


class DeiTForImageClassification(ViTForImageClassification):
    """DeiT and a linear head on the class token; as `ViTForImageClassification`.

    Example:
        >>> config = ViTConfig(16, 2, 4, 32, image_size=32, patch_size=8)
        >>> DeiTForImageClassification(config)(np.zeros((1, 3, 32, 32), np.float32)).logits.shape
        (1, 2)
    """

    model_types = ("deit",)
    base_prefix = "deit."
    base_class = DeiTModel


class DeiTForImageClassificationWithTeacher(DeiTForImageClassification):
    """DeiT and a linear head on each of its two tokens; the logits are the mean of both.

    Example:
        >>> config = ViTConfig(16, 2, 4, 32, image_size=32, patch_size=8)
        >>> output = DeiTForImageClassificationWithTeacher(config)(np.zeros((1, 3, 32, 32), np.float32))
        >>> np.allclose(output.logits, (output.cls_logits + output.distillation_logits) / 2)
        True
    """

    head_prefixes = ("cls_classifier.", "distillation_classifier.")

    def forward(
        self,
        pixel_values: np.ndarray,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> TwoHeadedImageClassifierOutput:
        """pixel_values (B, C, H, W) -> logits, cls_logits, distillation_logits (B, labels)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        base = self.base(pixel_values, interpolate_pos_encoding, **options)
        first, second = (base.last_hidden_state[:, i] for i in range(2))
        logits = self.cls_classifier(first), self.distillation_classifier(second)
        mean = (logits[0] + logits[1]) / np.float32(2)
        return TwoHeadedImageClassifierOutput(mean, *logits, base.hidden_states, base.attentions)

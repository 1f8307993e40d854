"""CLIP: a text tower and a picture tower, whose outputs meet in one space; each also as a model of its own.

Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, and transformers' modeling_clip. `load_model` finds this
file by model_type "clip", "clip_text_model" or "clip_vision_model". Both towers are pre-norm encoders; the text's is
causal and is read at the end-of-text token, the picture's at the class token.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.common.base import PretrainedModel, Source, under
from transformer_fast.models.common.config import ACTIVATIONS, Index, Number, check_fields, read_config
from transformer_fast.models.common.image_embedding import ImageEmbedding, encoded
from transformer_fast.models.common.inputs import integers, token_mask
from transformer_fast.models.common.known_fields import REPORTS
from transformer_fast.models.common.output import BaseModelOutputWithPooling
from transformer_fast.models.common.vision_output import CLIPOutput, CLIPTextModelOutput, CLIPVisionModelOutput
from transformer_fast.nn import Collector, Embedding, LayerNorm, Linear, PackedEncoder
from transformer_fast.nn.sequences import PackedSequences

# Checkpoints from before transformers 4.31 say 2, whatever their vocabulary: the end-of-text token is then the highest.
_LEGACY_END = 2

# A tower is what it is, whatever these say; files of transformers 4 have them.
_OTHER_KINDS = ("is_decoder", "is_encoder_decoder", "add_cross_attention")


def _check_tower(config: CLIPTextConfig | CLIPVisionConfig) -> None:
    check_fields(config)
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {config.hidden_act!r}; supported: {', '.join(ACTIVATIONS)}")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"num_attention_heads is {config.num_attention_heads}; "
            f"needed: a divisor of hidden_size={config.hidden_size}"
        )


@dataclass(frozen=True)
class CLIPTextConfig:
    """The fields of text_config that have an effect; the defaults are transformers'."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512
    eos_token_id: Index = 49407

    without_effect = _OTHER_KINDS

    def __post_init__(self) -> None:
        _check_tower(self)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """The fields of vision_config that have an effect; the defaults are transformers'."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512

    without_effect = _OTHER_KINDS

    def __post_init__(self) -> None:
        _check_tower(self)
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size is {self.patch_size}; needed: at most image_size={self.image_size}")


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers' configs, and the width of the space in which they meet."""

    text_config: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision_config: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    logit_scale_init_value: Number = 2.6592

    # The towers' configs for the second time: `_tower_content` reads them.
    without_effect = (*_OTHER_KINDS, "text_config_dict", "vision_config_dict")

    def __post_init__(self) -> None:
        check_fields(self)


_NEUTRAL = {"quantization_config": (None,)}
# What a tower's own config may not ask of the whole model: further outputs.
_TOWER_NEUTRAL = _NEUTRAL | {name: (False, None) for name in REPORTS}
_TOWERS = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}
_LAYER = {
    "attention.out_proj": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "feed_forward.linear1": "mlp.fc1",
    "feed_forward.linear2": "mlp.fc2",
    "feed_forward_norm": "layer_norm2",
}
_POSITION_IDS = "embeddings.position_ids"  # the numbers 0, 1, ... in files of transformers 4


def _tower_content(name: str, content: dict[str, Any], source: Path) -> dict[str, Any]:
    """The config of the tower `name` in CLIPModel's config."""
    towers = [content.get(name), content.get(f"{name}_dict")]
    for tower in towers:
        if not isinstance(tower, dict | None):
            raise CheckpointError(f"{source}: {name} is {tower!r}; needed: an object")
    # Some files hold the tower's config a second time; transformers lets that one win, defaults included.
    first, second = towers
    if second is None:
        return first or {}
    own = {part.name for part in fields(_TOWERS[name])}
    return {field: value for field, value in (first or {}).items() if field not in own} | second


class _Tower(PretrainedModel):
    """One tower, from its own checkpoint or out of one of CLIPModel, where its config is under `field`."""

    neutral = _NEUTRAL
    field = ""

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **options: Any) -> _Tower:
        """See `PretrainedModel.from_checkpoint`."""
        if checkpoint.config.get("model_type") == "clip":
            content = _tower_content(cls.field, checkpoint.config, checkpoint.source.place("config.json"))
            checkpoint = replace(checkpoint, config={**content, "model_type": cls.model_types[0]})
        return super().from_checkpoint(checkpoint, **options)


def _layer_sources(config: CLIPTextConfig | CLIPVisionConfig, prefix: str) -> dict[str, Source]:
    sources = {}
    for i in range(config.num_hidden_layers):
        layer = f"{prefix}encoder.layers.{i}"
        for kind in ("weight", "bias"):
            parts = (f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
            sources[f"layers.{i}.attention.in_proj.{kind}"] = Source(*parts)
            for ours, theirs in _LAYER.items():
                sources[f"layers.{i}.{ours}.{kind}"] = Source(f"{layer}.{theirs}.{kind}")
    return sources


def _text_sources(config: CLIPTextConfig, prefix: str = "") -> dict[str, Source]:
    sources = _layer_sources(config, prefix)
    for name in ("token_embedding", "position_embedding"):
        sources[f"{name}.weight"] = Source(f"{prefix}embeddings.{name}.weight")
    for kind in ("weight", "bias"):
        sources[f"norm.{kind}"] = Source(f"{prefix}final_layer_norm.{kind}")
    return sources


def _vision_sources(config: CLIPVisionConfig, prefix: str = "") -> dict[str, Source]:
    sources = _layer_sources(config, prefix)
    sources["embeddings.class_token"] = Source(f"{prefix}embeddings.class_embedding")
    sources["embeddings.patches.weight"] = Source(f"{prefix}embeddings.patch_embedding.weight")
    sources["embeddings.positions"] = Source(f"{prefix}embeddings.position_embedding.weight")
    for kind in ("weight", "bias"):
        sources[f"first_norm.{kind}"] = Source(f"{prefix}pre_layrnorm.{kind}")  # so spelled in every file
        sources[f"norm.{kind}"] = Source(f"{prefix}post_layernorm.{kind}")
    return sources


def _encoder(config: CLIPTextConfig | CLIPVisionConfig) -> PackedEncoder:
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    return PackedEncoder(*shape, ACTIVATIONS[config.hidden_act], config.layer_norm_eps, norm_first=True)


class CLIPTextModel(_Tower):
    """The text tower without projection; also out of a checkpoint of the whole CLIPModel.

    Example:
        >>> model = CLIPTextModel(CLIPTextConfig(20, 16, 32, 1, 2, 8, eos_token_id=19))
        >>> model(np.array([[1, 5, 6, 19]])).pooler_output.shape
        (1, 16)
    """

    config_class = CLIPTextConfig
    model_types = ("clip_text_model", "clip")
    field = "text_config"
    ignored = (_POSITION_IDS, "vision_model.", "visual_projection.", "text_projection.", "logit_scale")
    stacks = {"encoder.layers.": "num_hidden_layers"}
    base_prefix = "text_model."

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = _encoder(config)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    @classmethod
    def sources(cls, config: CLIPTextConfig, names: Collection[str]) -> dict[str, Source]:
        return _text_sources(config)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Integers (B, L) in, last_hidden_state (B, L, h) and pooler_output (B, h) out.

        pooler_output is the state of the first end-of-text token of each row (its first token if it has none); with
        eos_token_id 2, of the row's highest id. attention_mask (B, L) holds 1 for tokens and 0 for padding, where
        last_hidden_state is 0. position_ids (L,), (1, L) or (B, L), by default 0, 1, ... in each row.

        Raises:
            ValueError, TypeError: shapes or types do not fit, L > max_position_embeddings, or an end-of-text token that
                would be read is masked.
            IndexError: an id is outside of its table.
        """
        ids, tokens, positions, ends = self._checked(input_ids, attention_mask, position_ids)
        sequences = PackedSequences(tokens)
        collect = Collector(tokens, hidden_states=output_hidden_states, attentions=output_attentions)
        wanted = collect if output_hidden_states or output_attentions else None
        rows = self._embed(sequences.pack(ids), sequences.pack(positions))
        hidden = self.layers(rows, sequences.cu_seqlens, is_causal=True, collect=wanted)
        state = sequences.unpack(self.norm(hidden))
        pooled = state[np.arange(len(ids)), ends]
        return BaseModelOutputWithPooling(state, pooled, collect.hidden_states, collect.attentions)

    def end_states(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """pooler_output of `forward` but for the order of its sums, (B, h), without what it does not depend on: tokens
        behind the end, and the last layer of those before it."""
        ids, tokens, positions, ends = self._checked(input_ids, attention_mask, position_ids)
        sequences = PackedSequences(tokens & (np.arange(ids.shape[1]) <= ends[:, None]))
        rows = self._embed(sequences.pack(ids), sequences.pack(positions))
        options = {"is_causal": True, "pooled_rows": sequences.lengths - 1}
        return self.norm(self.layers(rows, sequences.cu_seqlens, **options))

    def _checked(
        self, input_ids, attention_mask, position_ids
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids, tokens (True) and positions, (B, L), and the place of each row's end-of-text token, (B,)."""
        config = self.config
        ids = integers("input_ids", input_ids, config.vocab_size)
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(f"input_ids has shape {ids.shape}; needed: (B, L) with L >= 1")
        B, L = ids.shape
        if L > config.max_position_embeddings:
            raise ValueError(
                f"input_ids has shape {ids.shape}; "
                f"needed: L <= max_position_embeddings={config.max_position_embeddings}"
            )
        tokens = token_mask(attention_mask, (B, L))
        ends = (ids if config.eos_token_id == _LEGACY_END else ids == config.eos_token_id).argmax(axis=1)
        hidden_ends = np.flatnonzero(~tokens[np.arange(B), ends])
        if len(hidden_ends):
            raise ValueError(f"attention_mask is 0 at the end-of-text token of row {hidden_ends[0]}; needed: 1")
        positions = np.arange(L) if position_ids is None else position_ids
        return ids, tokens, integers("position_ids", positions, config.max_position_embeddings, (B, L)), ends

    def _embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Both (T,) -> (T, h)."""
        return self.token_embedding(ids) + self.position_embedding(positions)


class CLIPVisionModel(_Tower):
    """The picture tower without projection; also out of a checkpoint of the whole CLIPModel.

    Example:
        >>> model = CLIPVisionModel(CLIPVisionConfig(16, 32, 1, 2, image_size=16, patch_size=8))
        >>> model(np.zeros((1, 3, 16, 16), np.float32)).last_hidden_state.shape
        (1, 5, 16)
    """

    config_class = CLIPVisionConfig
    model_types = ("clip_vision_model", "clip")
    field = "vision_config"
    ignored = (_POSITION_IDS, "text_model.", "visual_projection.", "text_projection.", "logit_scale")
    stacks = {"encoder.layers.": "num_hidden_layers"}
    base_prefix = "vision_model."

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        h, eps = config.hidden_size, config.layer_norm_eps
        sizes = ((config.image_size,) * 2, (config.patch_size,) * 2)
        self.embeddings = ImageEmbedding(config.num_channels, h, *sizes, bias=False)
        self.first_norm = LayerNorm(h, eps)
        self.layers = _encoder(config)
        self.norm = LayerNorm(h, eps)

    @classmethod
    def sources(cls, config: CLIPVisionConfig, names: Collection[str]) -> dict[str, Source]:
        return _vision_sources(config)

    def forward(
        self,
        pixel_values: np.ndarray,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """pixel_values (B, C, H, W) in, last_hidden_state (B, 1 + patches, h) and pooler_output (B, h) out.

        last_hidden_state is not normalised, pooler_output (the class token's state) is, as in transformers.

        Raises:
            ValueError, TypeError: the shape or type of the pixel values does not fit.
        """
        tokens = self._embed(pixel_values, interpolate_pos_encoding)
        hidden, collect = encoded(self.layers, tokens, output_attentions, output_hidden_states)
        return BaseModelOutputWithPooling(hidden, self.norm(hidden[:, 0]), collect.hidden_states, collect.attentions)

    def class_states(self, pixel_values: np.ndarray, interpolate_pos_encoding: bool = False) -> np.ndarray:
        """pooler_output of `forward` but for the order of its sums, (B, h), without the other tokens' last layer."""
        hidden, _ = encoded(self.layers, self._embed(pixel_values, interpolate_pos_encoding), first=True)
        return self.norm(hidden)

    def _embed(self, pixel_values: np.ndarray, interpolate: bool) -> np.ndarray:
        """Pictures -> their tokens (B, 1 + patches, h), normalised."""
        return self.first_norm(self.embeddings(pixel_values, interpolate))


class CLIPTextModelWithProjection(_Tower):
    """The text tower and its projection into the common space.

    Example:
        >>> model = CLIPTextModelWithProjection(CLIPTextConfig(20, 16, 32, 1, 2, 8, projection_dim=12))
        >>> model(np.array([[1, 5, 6, 19]])).text_embeds.shape
        (1, 12)
    """

    config_class = CLIPTextConfig
    model_types = CLIPTextModel.model_types
    field = CLIPTextModel.field
    ignored = (_POSITION_IDS, "vision_model.", "visual_projection.", "logit_scale")
    stacks = CLIPTextModel.stacks
    base_prefix = "text_model."
    head_prefixes = ("text_projection.",)

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextModel(config)
        self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    @classmethod
    def sources(cls, config: CLIPTextConfig, names: Collection[str]) -> dict[str, Source]:
        name = "text_projection.weight"
        return under("text_model", _text_sources(config)) | {name: Source(name)}

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> CLIPTextModelOutput:
        """As `CLIPTextModel`, with text_embeds (B, projection_dim) instead of pooler_output."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        base = self.text_model(input_ids, attention_mask, position_ids, **options)
        embeds = self.text_projection(base.pooler_output)
        return CLIPTextModelOutput(embeds, base.last_hidden_state, base.hidden_states, base.attentions)


class CLIPVisionModelWithProjection(_Tower):
    """The picture tower and its projection into the common space.

    Example:
        >>> config = CLIPVisionConfig(16, 32, 1, 2, image_size=16, patch_size=8, projection_dim=12)
        >>> CLIPVisionModelWithProjection(config)(np.zeros((1, 3, 16, 16), np.float32)).image_embeds.shape
        (1, 12)
    """

    config_class = CLIPVisionConfig
    model_types = CLIPVisionModel.model_types
    field = CLIPVisionModel.field
    ignored = (_POSITION_IDS, "text_model.", "text_projection.", "logit_scale")
    stacks = CLIPVisionModel.stacks
    base_prefix = "vision_model."
    head_prefixes = ("visual_projection.",)

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionModel(config)
        self.visual_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    @classmethod
    def sources(cls, config: CLIPVisionConfig, names: Collection[str]) -> dict[str, Source]:
        name = "visual_projection.weight"
        return under("vision_model", _vision_sources(config)) | {name: Source(name)}

    def forward(
        self,
        pixel_values: np.ndarray,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> CLIPVisionModelOutput:
        """As `CLIPVisionModel`, with image_embeds (B, projection_dim) instead of pooler_output."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        base = self.vision_model(pixel_values, interpolate_pos_encoding, **options)
        embeds = self.visual_projection(base.pooler_output)
        return CLIPVisionModelOutput(embeds, base.last_hidden_state, base.hidden_states, base.attentions)


class CLIPModel(PretrainedModel):
    """Both towers with their projections: which text belongs to which picture?

    Example:
        >>> text = CLIPTextConfig(20, 16, 32, 1, 2, 8)
        >>> model = CLIPModel(CLIPConfig(text, CLIPVisionConfig(16, 32, 1, 2, image_size=16, patch_size=8), 12))
        >>> pixels = np.zeros((3, 3, 16, 16), np.float32)
        >>> model(np.array([[1, 5, 19], [1, 6, 19]]), pixels).logits_per_image.shape
        (3, 2)
    """

    config_class = CLIPConfig
    model_types = ("clip",)
    ignored = tuple(f"{tower}.{_POSITION_IDS}" for tower in ("text_model", "vision_model"))
    stacks = {
        "text_model.encoder.layers.": "text_config.num_hidden_layers",
        "vision_model.encoder.layers.": "vision_config.num_hidden_layers",
    }

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextModel(config.text_config)
        self.vision_model = CLIPVisionModel(config.vision_config)
        self.text_projection = Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.register_parameter("logit_scale", (), lambda _: np.array(config.logit_scale_init_value, np.float32))

    @classmethod
    def _reports_of(cls, content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
        """None: in transformers each tower's own config says what it reports."""
        return ()

    @classmethod
    def read_config(cls, content: dict[str, Any], source: Path) -> CLIPConfig:
        towers = {
            name: read_config(tower, _tower_content(name, content, source), f"{source}: {name}", _TOWER_NEUTRAL)
            for name, tower in _TOWERS.items()
        }
        return read_config(CLIPConfig, content | towers, source, _NEUTRAL)

    @classmethod
    def sources(cls, config: CLIPConfig, names: Collection[str]) -> dict[str, Source]:
        sources = under("text_model", _text_sources(config.text_config, "text_model."))
        sources |= under("vision_model", _vision_sources(config.vision_config, "vision_model."))
        sources |= {name: Source(name) for name in ("text_projection.weight", "visual_projection.weight")}
        return sources | {"logit_scale": Source("logit_scale", shape=())}

    def get_text_features(self, input_ids, attention_mask=None, position_ids=None) -> np.ndarray:
        """The texts' places in the common space, (B, projection_dim), not of length 1. Arguments of `CLIPTextModel`.

        transformers 5 returns a whole output, where this array is the pooler_output.
        """
        return self.text_projection(self.text_model.end_states(input_ids, attention_mask, position_ids))

    def get_image_features(self, pixel_values, interpolate_pos_encoding=False) -> np.ndarray:
        """The pictures' places in the common space, (B, projection_dim). Arguments of `CLIPVisionModel`."""
        return self.visual_projection(self.vision_model.class_states(pixel_values, interpolate_pos_encoding))

    def forward(
        self,
        input_ids: np.ndarray,
        pixel_values: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> CLIPOutput:
        """Bt texts (Bt, L) and Bi pictures (Bi, C, H, W) in; how well they fit, logits_per_image (Bi, Bt), out.

        text_embeds and image_embeds are of length 1; the towers' outputs are those of `CLIPTextModel` and
        `CLIPVisionModel`, with the projected states as pooler_output, as in transformers.

        Raises:
            ValueError, TypeError, IndexError: as the towers do.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        vision = self.vision_model(pixel_values, interpolate_pos_encoding, **options)
        vision.pooler_output = self.visual_projection(vision.pooler_output)
        text = self.text_model(input_ids, attention_mask, position_ids, **options)
        text.pooler_output = self.text_projection(text.pooler_output)
        image_embeds, text_embeds = _normalized(vision.pooler_output), _normalized(text.pooler_output)
        logits_per_text = F.linear(text_embeds, image_embeds) * np.exp(self.logit_scale)
        return CLIPOutput(logits_per_text.T, logits_per_text, text_embeds, image_embeds, text, vision)


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt(np.add.reduce(rows * rows, axis=1, keepdims=True))

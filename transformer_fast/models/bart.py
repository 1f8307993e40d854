"""BART: an encoder-decoder with learned positions and norms after each part (summaries, and denoising in general).

Source: Lewis et al. 2019, https://arxiv.org/abs/1910.13461, and transformers' modeling_bart. `load_model` finds this
file by model_type "bart". `common.seq2seq` and `common.seq2seq_blocks` compute. Its relatives
(Marian, Whisper) take from here how their layers are built and named.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index, check_fields
from transformer_fast.models.common.seq2seq import (
    ConditionalGeneration,
    EncoderDecoder,
    attention_sources,
    embedding_sources,
)
from transformer_fast.models.common.seq2seq_blocks import BlockShape, Stack
from transformer_fast.nn import Embedding, LayerNorm, Module

# The first two rows of a table of positions are never used: fairseq counted from padding_idx + 1.
_OFFSET = 2

# Transformers' names of what these families say for the encoder and the decoder apart; it means the encoder.
GENERAL_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}

# Fields of the first files, of fairseq's and Marian's options and of distillation. Transformers reads none of them: the
# tensors say whether there is a bias of the logits, and the rows before the first position are always two.
OLD_FIELDS = (
    "add_bias_logits",
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "replacing_rate",
    "save_step",
    "student_decoder_layers",
    "student_encoder_layers",
)

# Our names of a layer's parameters -> those in checkpoints of BART's relatives; the cross-attention is the decoder's.
_ATTENTION = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
_NORMS = {
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "feed_forward_norm": "final_layer_norm",
}


def bart_shape(config: Any, stack: str, **options: Any) -> BlockShape:
    """The shape of BART's relatives; stack: "encoder" or "decoder"."""
    heads = getattr(config, f"{stack}_attention_heads")
    inner = getattr(config, f"{stack}_ffn_dim")
    activation = ACTIVATIONS[config.activation_function]
    return BlockShape(config.d_model, heads, config.d_model // heads, inner, activation, **options)


def check_bart_fields(config: Any) -> None:
    """check_fields, and what the configs of BART's relatives have in common.

    Raises:
        ValueError: naming the field, its value and what is needed.
    """
    check_fields(config)
    if config.activation_function not in ACTIVATIONS:
        raise ValueError(f"activation_function is {config.activation_function!r}; supported: {', '.join(ACTIVATIONS)}")
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if config.d_model % getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)}; needed: a divisor of d_model={config.d_model}")


def layer_sources(config: Any, biases: str = "qkv") -> dict[str, Source]:
    """The layers of BART's relatives, `encoder.layers.0. ...`; biases: see `attention_sources`."""
    sources = {}
    for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for prefix in (f"{stack}.layers.{i}" for i in range(layers)):
            for ours, theirs in _ATTENTION.items():
                if ours == "self_attention" or stack == "decoder":
                    place = f"{prefix}.{theirs}"
                    sources |= attention_sources(f"{prefix}.{ours}", place, "q_proj", "k_proj", "v_proj", biases)
                    for kind in ("weight", "bias"):
                        sources[f"{prefix}.{ours}.out_proj.{kind}"] = Source(f"{place}.out_proj.{kind}")
            rest = {ours: theirs for ours, theirs in _NORMS.items() if "cross" not in ours or stack == "decoder"}
            rest |= {"feed_forward.linear1": "fc1", "feed_forward.linear2": "fc2"}
            for ours, theirs in rest.items():
                for kind in ("weight", "bias"):
                    sources[f"{prefix}.{ours}.{kind}"] = Source(f"{prefix}.{theirs}.{kind}")
    return sources


@dataclass(frozen=True)
class BartConfig:
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    scale_embedding: bool = False
    decoder_start_token_id: Index | None = 2
    tie_word_embeddings: bool = True

    general_names = GENERAL_NAMES
    without_effect = OLD_FIELDS

    def __post_init__(self) -> None:
        check_bart_fields(self)


class BartModel(EncoderDecoder):
    """The encoder and the decoder, without a head.

    Example:
        >>> model = load_model("bart-large-cnn", head=False)                                          # doctest: +SKIP
        >>> model(np.array([[0, 31414, 2]])).last_hidden_state.shape                                  # doctest: +SKIP
        (1, 3, 1024)
    """

    config_class = BartConfig
    model_types = ("bart",)
    neutral = {
        "is_encoder_decoder": (True, None),
        "is_decoder": (False, None),
        # Of files of fairseq's time: variants that became families of their own (mBART, Pegasus).
        "normalize_before": (False, None),
        "normalize_embedding": (True, None),
        "add_final_layer_norm": (False, None),
        "static_position_embeddings": (False, None),
        "quantization_config": (None,),
    }
    # A shared table besides its copies; the heads for generation and classification; version marks of old files.
    ignored = (
        "shared.",
        "lm_head.",
        "final_logits_bias",
        "classification_head.",
        "qa_outputs.",
        "encoder.version",
        "decoder.version",
    )
    stacks = {"encoder.layers.": "encoder_layers", "decoder.layers.": "decoder_layers"}
    base_prefix = "model."
    source_field = target_field = "max_position_embeddings"
    # The rows of the tables of positions before the first one.
    offset = _OFFSET

    def __init__(self, config: BartConfig) -> None:
        decoder = Stack(bart_shape(config, "decoder"), config.decoder_layers, cross=True)
        super().__init__(config, self._made_encoder(config), decoder)
        h = config.d_model
        self.encoder_embeddings = Embedding(config.vocab_size, h)
        self.encoder_positions = Embedding(getattr(config, self.source_field) + self.offset, h)
        self.encoder_embeddings_norm = LayerNorm(h)
        self.decoder_embeddings = Embedding(config.vocab_size, h)
        self.decoder_positions = Embedding(getattr(config, self.target_field) + self.offset, h)
        self.decoder_embeddings_norm = LayerNorm(h)

    @staticmethod
    def _made_encoder(config: BartConfig) -> Module:
        return Stack(bart_shape(config, "encoder"), config.encoder_layers)

    @classmethod
    def sources(cls, config: BartConfig, names: Collection[str]) -> dict[str, Source]:
        sources = embedding_sources(names) | layer_sources(config)
        for stack in ("encoder", "decoder"):
            sources[f"{stack}_positions.weight"] = Source(f"{stack}.embed_positions.weight")
            for kind in ("weight", "bias"):
                sources[f"{stack}_embeddings_norm.{kind}"] = Source(f"{stack}.layernorm_embedding.{kind}")
        return sources

    def embed_source(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        rows = self.encoder_positions(positions + self.offset)
        return self.encoder_embeddings_norm(self._scaled(self.encoder_embeddings(ids)), residual=rows)

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        rows = self.decoder_positions(positions + self.offset)
        return self.decoder_embeddings_norm(self._scaled(self.decoder_embeddings(ids)), residual=rows)

    def default_target(self, input_ids: np.ndarray | None) -> np.ndarray:
        """input_ids moved right by one place, after decoder_start_token_id: what pre-training gave the decoder."""
        start = self.config.decoder_start_token_id
        if input_ids is None or start is None:
            return super().default_target(input_ids)
        input_ids = np.asarray(input_ids)
        return np.concatenate([np.full((len(input_ids), 1), start), input_ids[:, :-1]], axis=1)

    def _scaled(self, words: np.ndarray) -> np.ndarray:
        return words * np.float32(math.sqrt(self.config.d_model)) if self.config.scale_embedding else words


class BartForConditionalGeneration(ConditionalGeneration):
    """BART with the layer that scores the next token: `generate` writes summaries and the like.

    Example:
        >>> model = load_model("bart-large-cnn")                                                      # doctest: +SKIP
        >>> model.generate(input_ids, num_beams=4, max_length=60)                                     # doctest: +SKIP
    """

    model_class = BartModel
    config_class = BartConfig
    model_types = BartModel.model_types
    neutral = BartModel.neutral
    ignored = ("shared.", "encoder.version", "decoder.version")
    stacks = BartModel.stacks
    base_prefix = BartModel.base_prefix
    head_prefixes = ("lm_head.", "final_logits_bias")
    has_logits_bias = True

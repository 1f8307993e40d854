"""BART: an encoder-decoder with learned positions and norms after each part (summaries, and denoising in general).

Source: Lewis et al. 2019, https://arxiv.org/abs/1910.13461, and transformers' modeling_bart. `load_model` finds this
file by model_type "bart". What is computed stands in `models/seq2seq.py` and `models/seq2seq_blocks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.base import Source
from transformer_fast.models.config import Index
from transformer_fast.models.seq2seq import (
    ConditionalGeneration,
    EncoderDecoder,
    bart_shape,
    check_bart_fields,
    embedding_sources,
    layer_sources,
)
from transformer_fast.models.seq2seq_blocks import Stack
from transformer_fast.nn import Embedding, LayerNorm

# The first two rows of a table of positions are never used: fairseq counted from padding_idx + 1.
_OFFSET = 2


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
    # A shared table beside its copies; the heads for generation and classification; version marks of old files.
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

    def __init__(self, config: BartConfig) -> None:
        encoder = Stack(bart_shape(config, "encoder"), config.encoder_layers)
        decoder = Stack(bart_shape(config, "decoder"), config.decoder_layers, cross=True)
        super().__init__(config, encoder, decoder)
        h, rows = config.d_model, config.max_position_embeddings + _OFFSET
        self.encoder_embeddings = Embedding(config.vocab_size, h)
        self.encoder_positions = Embedding(rows, h)
        self.encoder_embeddings_norm = LayerNorm(h)
        self.decoder_embeddings = Embedding(config.vocab_size, h)
        self.decoder_positions = Embedding(rows, h)
        self.decoder_embeddings_norm = LayerNorm(h)

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
        rows = self.encoder_positions(positions + _OFFSET)
        return self.encoder_embeddings_norm(self._scaled(self.encoder_embeddings(ids)), residual=rows)

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        rows = self.decoder_positions(positions + _OFFSET)
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

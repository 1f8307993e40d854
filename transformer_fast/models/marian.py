"""Marian: the translation models of Helsinki-NLP/opus-mt, encoder-decoders with sinusoidal positions.

Source: Junczys-Dowmunt et al. 2018, https://arxiv.org/abs/1804.00344, and transformers' modeling_marian. `load_model`
finds this file by model_type "marian". It is BART without a norm of the embeddings and without learned positions;
`common.seq2seq` and `common.seq2seq_blocks` compute.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.bart import (
    GENERAL_NAMES,
    OLD_FIELDS,
    bart_shape,
    check_bart_fields,
    layer_sources,
)
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import Index
from transformer_fast.models.common.seq2seq import ConditionalGeneration, EncoderDecoder, embedding_sources
from transformer_fast.models.common.seq2seq_blocks import Stack
from transformer_fast.nn import Embedding


@dataclass(frozen=True)
class MarianConfig:
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
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
    share_encoder_decoder_embeddings: bool = True
    decoder_start_token_id: Index | None = 58100
    tie_word_embeddings: bool = True

    general_names = GENERAL_NAMES
    without_effect = OLD_FIELDS

    def __post_init__(self) -> None:
        check_bart_fields(self)
        if self.decoder_vocab_size is None or self.share_encoder_decoder_embeddings:
            object.__setattr__(self, "decoder_vocab_size", self.vocab_size)


class MarianModel(EncoderDecoder):
    """The encoder and the decoder, without a head.

    Example:
        >>> model = load_model("opus-mt-en-de", head=False)                                           # doctest: +SKIP
        >>> model(input_ids, decoder_input_ids=decoder_ids).last_hidden_state.shape                   # doctest: +SKIP
        (1, 3, 512)
    """

    config_class = MarianConfig
    model_types = ("marian",)
    neutral = {
        "is_encoder_decoder": (True, None),
        "is_decoder": (False, None),
        "normalize_before": (False, None),
        "normalize_embedding": (False, None),
        "add_final_layer_norm": (False, None),
        "static_position_embeddings": (True, None),
        "quantization_config": (None,),
    }
    # A shared table besides its copies; the sinusoids that some files hold, which are computed; the head.
    ignored = (
        "shared.",
        "encoder.embed_positions.",
        "decoder.embed_positions.",
        "lm_head.",
        "final_logits_bias",
    )
    stacks = {"encoder.layers.": "encoder_layers", "decoder.layers.": "decoder_layers"}
    base_prefix = "model."
    source_field = target_field = "max_position_embeddings"

    def __init__(self, config: MarianConfig) -> None:
        encoder = Stack(bart_shape(config, "encoder"), config.encoder_layers)
        decoder = Stack(bart_shape(config, "decoder"), config.decoder_layers, cross=True)
        super().__init__(config, encoder, decoder)
        self.encoder_embeddings = Embedding(config.vocab_size, config.d_model)
        self.decoder_embeddings = Embedding(config.decoder_vocab_size, config.d_model)
        self._positions = _sinusoids(config.max_position_embeddings, config.d_model)

    @staticmethod
    def vocab(config: MarianConfig) -> int:
        """The number of tokens that the decoder knows."""
        return config.decoder_vocab_size

    @classmethod
    def sources(cls, config: MarianConfig, names: Collection[str]) -> dict[str, Source]:
        return embedding_sources(names, config.share_encoder_decoder_embeddings) | layer_sources(config)

    def embed_source(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        return self._placed(self.encoder_embeddings(ids), positions)

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        return self._placed(self.decoder_embeddings(ids), positions)

    def _placed(self, words: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if self.config.scale_embedding:
            words *= np.float32(math.sqrt(self.config.d_model))
        words += self._positions[positions]
        return words


class MarianMTModel(ConditionalGeneration):
    """Marian with the layer that scores the next token: `generate` translates.

    Example:
        >>> model = load_model("opus-mt-en-de")                                                       # doctest: +SKIP
        >>> model.generate(input_ids, num_beams=4)                                                    # doctest: +SKIP
    """

    model_class = MarianModel
    config_class = MarianConfig
    model_types = MarianModel.model_types
    neutral = MarianModel.neutral
    ignored = ("shared.", "encoder.embed_positions.", "decoder.embed_positions.")
    stacks = MarianModel.stacks
    base_prefix = MarianModel.base_prefix
    head_prefixes = ("lm_head.", "final_logits_bias")
    has_logits_bias = True


def _sinusoids(rows: int, h: int) -> np.ndarray:
    """(rows, h): sines in the first half of the columns, cosines in the second (Vaswani et al. interleave them)."""
    angles = np.arange(rows)[:, None] / np.power(10000, 2 * (np.arange(h) // 2) / h)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)

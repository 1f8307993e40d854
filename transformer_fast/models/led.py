"""LED: BART for long sources, whose encoder is Longformer's (summaries of long texts).

Source: Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, and transformers' modeling_led. `load_model` finds this
file by model_type "led". The encoder's layers are `common.local_global`'s, the decoder is BART's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models import bart
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index
from transformer_fast.models.common.encoder import layer_sources
from transformer_fast.models.common.local_global import (
    LocalGlobalCollector,
    LocalGlobalEncoder,
    LocalGlobalTokens,
    check_windows,
    global_sources,
    global_tokens,
    windows,
)
from transformer_fast.models.common.seq2seq import ConditionalGeneration, EncodedSource
from transformer_fast.models.common.seq2seq_blocks import Seq2SeqState

_SELF = "self_attn.longformer_self_attn"
_PROJECTIONS = tuple(f"{_SELF}.{name}" for name in ("query", "key", "value"))
_LAYER = {
    "attention.out_proj": "self_attn.output",
    "attention_norm": "self_attn_layer_norm",
    "feed_forward.linear1": "fc1",
    "feed_forward.linear2": "fc2",
    "feed_forward_norm": "final_layer_norm",
}


@dataclass(frozen=True)
class LEDConfig:
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50265
    max_encoder_position_embeddings: int = 16384
    max_decoder_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    decoder_start_token_id: Index | None = 2
    attention_window: int | list[int] = 512
    tie_word_embeddings: bool = True

    # The last two mean fields that only training reads.
    general_names = bart.GENERAL_NAMES | {
        "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "init_std",
    }
    without_effect = bart.OLD_FIELDS

    def __post_init__(self) -> None:
        bart.check_bart_fields(self)
        check_windows(self, self.encoder_layers)


class LEDModel(bart.BartModel):
    """The encoder and the decoder, without a head.

    Source tokens with 1 in global_attention_mask (B, L), by default none, see all tokens of the source and are seen by
    all; the others see a window. The encoder's attentions have transformers' layout: see
    `local_global.LocalGlobalCollector`.

    Example:
        >>> model = load_model("led-base-16384", head=False)                                          # doctest: +SKIP
        >>> model(np.array([[0, 31414, 2]]), global_attention_mask=[[1, 0, 0]])[0].shape              # doctest: +SKIP
        (1, 3, 768)
    """

    config_class = LEDConfig
    model_types = ("led",)
    base_prefix = "led."
    source_field, target_field = "max_encoder_position_embeddings", "max_decoder_position_embeddings"
    offset = 0

    @staticmethod
    def _made_encoder(config: LEDConfig) -> LocalGlobalEncoder:
        return LocalGlobalEncoder(
            windows(config, config.encoder_layers),
            config.d_model,
            config.encoder_attention_heads,
            config.encoder_ffn_dim,
            ACTIVATIONS[config.activation_function],
            1e-5,
        )

    @classmethod
    def sources(cls, config: LEDConfig, names: Collection[str]) -> dict[str, Source]:
        barts = super().sources(config, names)
        sources = {ours: source for ours, source in barts.items() if not ours.startswith("encoder.")}
        for ours, source in layer_sources(config.encoder_layers, "encoder.layers.", _PROJECTIONS, _LAYER).items():
            sources["encoder" + ours.removeprefix("layers")] = source
        return sources | global_sources(config.encoder_layers, "encoder.", "encoder.layers.", _SELF)

    def _scaled(self, words: np.ndarray) -> np.ndarray:
        return words

    def _encode(
        self,
        input_ids,
        attention_mask,
        output_attentions=False,
        output_hidden_states=False,
        global_attention_mask=None,
    ) -> EncodedSource:
        ids = self._checked("input_ids", input_ids, self.config.vocab_size, self.source_field)
        packing, rows = self._packing("attention_mask", attention_mask, ids.shape), None
        if global_attention_mask is not None:
            rows = np.flatnonzero(packing.pack(global_tokens(global_attention_mask, ids.shape)))
        tokens = LocalGlobalTokens(packing.cu_seqlens, packing.columns, None, rows)
        collect = LocalGlobalCollector(packing.tokens, hidden_states=output_hidden_states, attentions=output_attentions)
        hidden = self.embed_source(packing.pack(ids), packing.columns)
        states = self.encoder(hidden, tokens, collect=collect)
        return EncodedSource(states, packing, collect.hidden_states, collect.attentions, collect.global_attentions)


class LEDForConditionalGeneration(ConditionalGeneration):
    """LED with the layer that scores the next token: `generate` writes summaries and the like.

    Example:
        >>> model = load_model("led-large-16384-arxiv")                                               # doctest: +SKIP
        >>> model.generate(input_ids, global_attention_mask=first, num_beams=4, max_length=256)       # doctest: +SKIP
    """

    model_class = LEDModel
    config_class = LEDConfig
    model_types = LEDModel.model_types
    neutral = LEDModel.neutral
    ignored = bart.BartForConditionalGeneration.ignored
    stacks = LEDModel.stacks
    base_prefix = LEDModel.base_prefix
    head_prefixes = ("lm_head.", "final_logits_bias")
    has_logits_bias = True

    def start(
        self,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        *,
        capacity: int,
        decoder_input_ids: np.ndarray,
        encoder_outputs: Any = None,
        kv_cache_dtype: str | None = None,
        global_attention_mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Seq2SeqState]:
        """As `ConditionalGeneration.start`, with the global tokens of the source."""
        inputs = {"global_attention_mask": global_attention_mask}
        encoded = self.model._encoded(input_ids, attention_mask, encoder_outputs, **inputs)
        return self._started(encoded, capacity, decoder_input_ids, kv_cache_dtype)

"""LongT5: T5 whose encoder attends to near tokens, and in one kind also to sums of the tokens of each block.

Source: Guo et al. 2021, https://arxiv.org/abs/2112.07916, and transformers' modeling_longt5. `load_model` finds this
file by model_type "longt5". encoder_attention_type says what the encoder sees: "local" or "transient-global"
(`common.local_attention`). The decoder, the heads and the names of tensors are T5's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import Index
from transformer_fast.models.common.inputs import token_mask
from transformer_fast.models.common.local_attention import LocalAttention, SideBlock, TransientGlobalAttention, spans
from transformer_fast.models.common.seq2seq import EncodedSource, SourceEncoder
from transformer_fast.models.common.seq2seq_blocks import Block
from transformer_fast.models.t5 import (
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
    position_bias,
)
from transformer_fast.nn.sequences import PackedSequences

# encoder_attention_type -> the name of the encoder's attention in tensors, and its layers.
_KINDS = {
    "local": ("LocalSelfAttention", Block),
    "transient-global": ("TransientGlobalSelfAttention", SideBlock),
}


@dataclass(frozen=True)
class LongT5Config(T5Config):
    """As T5Config, and what the encoder's tokens see.

    encoder_attention_type: "local", tokens at a distance of up to local_radius, or "transient-global", these and sums
    of blocks of global_block_size tokens.
    """

    local_radius: Index = 127
    global_block_size: int = 16
    encoder_attention_type: str = "local"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_attention_type not in _KINDS:
            raise ValueError(
                f"encoder_attention_type is {self.encoder_attention_type!r}; needed: one of {', '.join(_KINDS)}"
            )

    @property
    def encoder_attention(self) -> str:
        return _KINDS[self.encoder_attention_type][0]

    @property
    def has_side_tokens(self) -> bool:
        return self.encoder_attention_type == "transient-global"


class _LongEncoding(SourceEncoder):
    """How LongT5's encoder runs, in both LongT5Model and LongT5EncoderModel."""

    def __init__(self, config: LongT5Config) -> None:
        super().__init__(config)
        self.encoder_side_bias = position_bias(config, bidirectional=True) if config.has_side_tokens else None

    @classmethod
    def encoder_block(cls, config: LongT5Config) -> type[Block]:
        return _KINDS[config.encoder_attention_type][1]

    @classmethod
    def sources(cls, config: LongT5Config, names: Collection[str]) -> dict[str, Source]:
        sources = T5Model.sources(config, names)
        if config.has_side_tokens:
            place = f"layer.0.{config.encoder_attention}"
            bias = f"encoder.block.0.{place}.global_relative_attention_bias.weight"
            sources["encoder_side_bias.weight"] = Source(bias)
            for i in range(config.num_layers):
                norm = f"encoder.block.{i}.{place}.global_input_layer_norm.weight"
                sources[f"encoder.layers.{i}.self_attention.side_norm.weight"] = Source(norm)
        return sources

    def _packing(self, name: str, mask, shape: tuple[int, int]) -> PackedSequences:
        if name == "attention_mask":  # gaps are kept while the encoder runs
            return PackedSequences(token_mask(mask, shape, name))
        return super()._packing(name, mask, shape)

    def _run_encoder(
        self, hidden: np.ndarray, packing: PackedSequences, output_attentions: bool, output_hidden_states: bool
    ) -> EncodedSource:
        config, tokens = self.config, packing.tokens
        rows = spans(tokens)
        gaps = None if packing.full or np.array_equal(rows, tokens) else rows
        run = packing if gaps is None else PackedSequences(gaps)
        options = tokens, run, config.local_radius, self.encoder_bias, output_attentions
        if config.has_side_tokens:
            attend = TransientGlobalAttention(*options, size=config.global_block_size, side_bias=self.encoder_side_bias)
        else:
            attend = LocalAttention(*options)
        collected = [] if output_hidden_states else None
        if gaps is not None:
            hidden = run.pack(packing.unpack(hidden))
        states = self.encoder(hidden, lambda _: attend, collect=collected)
        if gaps is not None:
            own = tokens[gaps]
            states, collected = states[own], collected and [state[own] for state in collected]
        return EncodedSource.of(states, packing, collected, attend.weights)


class LongT5EncoderModel(_LongEncoding, T5EncoderModel):
    """The encoder without the decoder, of a file that may hold the decoder too. Padding as in `LongT5Model`.

    Example:
        >>> model = LongT5EncoderModel.from_pretrained("google/long-t5-local-base")                   # doctest: +SKIP
        >>> model(input_ids).last_hidden_state.shape                                                  # doctest: +SKIP
        (1, 3, 768)
    """

    config_class = LongT5Config
    model_types = ("longt5",)


class LongT5Model(_LongEncoding, T5Model):
    """The encoder and the decoder, without a head.

    attention_mask may be 0 anywhere: distances and blocks count the places between and before a row's tokens, as in
    transformers, so with "transient-global" a row with padding in front has other states than without. Padding between
    tokens costs what tokens cost. The decoder's padding is before or after a row's tokens.
    encoder_attentions have transformers' form: (B, blocks, H, r + 1, 3 * (r + 1)) with r = local_radius, and
    L // global_block_size more keys with "transient-global".

    Example:
        >>> model = load_model("google/long-t5-tglobal-base", head=False)                             # doctest: +SKIP
        >>> model(input_ids, decoder_input_ids=decoder_ids).last_hidden_state.shape                   # doctest: +SKIP
        (1, 3, 768)
    """

    config_class = LongT5Config
    model_types = ("longt5",)
    encoder_class = LongT5EncoderModel


class LongT5ForConditionalGeneration(T5ForConditionalGeneration):
    """LongT5 with the layer that scores the next token: `generate` summarises long texts.

    Example:
        >>> model = load_model("google/long-t5-tglobal-base")                                         # doctest: +SKIP
        >>> model.generate(input_ids, num_beams=4, max_new_tokens=40)                                 # doctest: +SKIP
    """

    model_class = LongT5Model
    config_class = LongT5Config
    model_types = LongT5Model.model_types

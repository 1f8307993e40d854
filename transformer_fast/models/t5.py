"""T5, with v1.1, Flan-T5 and mT5: encoder-decoders whose scores get a bias that depends on the distance alone.

Source: Raffel et al. 2019, https://arxiv.org/abs/1910.10683, and transformers' modeling_t5. `load_model` finds this
file by model_type "t5" or "mt5". RMS norms come before each part, products have no biases, and scores are not scaled.
The bias of a distance is a row of a small table; attention takes it as one value a distance, so that no Lq x Lk array
is made. `common.seq2seq` and `common.seq2seq_blocks` compute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index, check_activation, check_fields
from transformer_fast.models.common.output import BaseModelOutput
from transformer_fast.models.common.seq2seq import (
    ConditionalGeneration,
    EncoderDecoder,
    SourceEncoder,
    attention_sources,
    embedding_sources,
)
from transformer_fast.models.common.seq2seq_blocks import Block, BlockShape, Stack
from transformer_fast.nn import Embedding, RelativePositionBias

_GATED = "gated-"

# Our names of a layer's parameters -> the checkpoint's; the parts of a block are numbered.
_FEED_FORWARD = {False: {"linear1": "wi", "linear2": "wo"}, True: {"gate": "wi_0", "up": "wi_1", "down": "wo"}}
_ENCODER_PARTS = {"feed_forward": (1, "DenseReluDense")}
_DECODER_PARTS = {"cross_attention": (1, "EncDecAttention"), "feed_forward": (2, "DenseReluDense")}


@dataclass(frozen=True)
class T5Config:
    """The fields of config.json that have an effect; the defaults are transformers'.

    scale_decoder_outputs: by default what tie_word_embeddings says, which is how T5 and v1.1 differ. dense_act_fn and
    is_gated_act: by default what feed_forward_proj says.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: Index | None = None
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None

    general_names = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    # Of the first files: the longest training text. Distances have no limit.
    without_effect = ("n_positions",)

    @staticmethod
    def translated(content: dict[str, Any]) -> dict[str, Any]:
        """As transformers reads them: the decoder's layers are counted before general names count, and the output
        layer is tied where the file holds none, for tie_word_embeddings says how outputs are scaled."""
        content = _decoder_layers(content, T5Config.num_layers)
        scaled = content.get("scale_decoder_outputs", content.get("tie_word_embeddings") is not False)
        return content | {"tie_word_embeddings": True, "scale_decoder_outputs": False if scaled is None else scaled}

    def __post_init__(self) -> None:
        check_fields(self)
        if self.feed_forward_proj.removeprefix(_GATED) not in ACTIVATIONS:
            raise ValueError(
                f"feed_forward_proj is {self.feed_forward_proj!r}; "
                f"supported, alone or after {_GATED!r}: {', '.join(ACTIVATIONS)}"
            )
        buckets = self.relative_attention_num_buckets
        if buckets % 2 or buckets < 4 or self.relative_attention_max_distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_num_buckets is {buckets} and relative_attention_max_distance is "
                f"{self.relative_attention_max_distance}; needed: an even number >= 4, and more than its half"
            )
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.tie_word_embeddings)
        if self.is_gated_act is None:
            object.__setattr__(self, "is_gated_act", self.feed_forward_proj.startswith(_GATED))
        if self.dense_act_fn is None:
            # T5 v1.1 was trained with the tanh formula, and its files call it so.
            gated_gelu = self.feed_forward_proj == "gated-gelu"
            name = "gelu_new" if gated_gelu else self.feed_forward_proj.removeprefix(_GATED)
            object.__setattr__(self, "dense_act_fn", name)
        check_activation(self, "dense_act_fn")

    @property
    def encoder_attention(self) -> str:
        """What tensors call the encoder's attention."""
        return "SelfAttention"

    @property
    def gated(self) -> bool:
        return self.is_gated_act

    @property
    def activation(self) -> str:
        """functional.linear's name."""
        return ACTIVATIONS[self.dense_act_fn]


@dataclass(frozen=True)
class MT5Config(T5Config):
    """As T5Config, with mT5's defaults; its outputs are never scaled."""

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    scale_decoder_outputs: bool | None = False
    decoder_start_token_id: Index | None = 0

    @staticmethod
    def translated(content: dict[str, Any]) -> dict[str, Any]:
        """As transformers reads them: the output layer is tied where the file holds none, and scales nothing."""
        content = _decoder_layers(content, MT5Config.num_layers)
        return content | {"tie_word_embeddings": True, "scale_decoder_outputs": False}


def _decoder_layers(content: dict[str, Any], default: int) -> dict[str, Any]:
    """With num_decoder_layers, which num_layers says by default, whatever the file calls num_hidden_layers."""
    given = content.get("num_decoder_layers")
    return content | {"num_decoder_layers": content.get("num_layers", default) if given is None else given}


class _Encoding(SourceEncoder):
    """The parts of both T5Model and T5EncoderModel; they hold encoder_embeddings and encoder_bias."""

    relative_positions = True

    @classmethod
    def encoder_block(cls, config: T5Config) -> type[Block]:
        """The class of the encoder's layers."""
        return Block

    def embed_source(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids (T,) -> (T, h)."""
        return self.encoder_embeddings(ids)

    def source_bias(self, length: int) -> np.ndarray:
        """(H, 2 length - 1): the bias of the distances from -(length - 1) to length - 1."""
        return self.encoder_bias.table(length, length)


class T5EncoderModel(_Encoding):
    """The encoder without the decoder, of a file that may hold the decoder too. Padding as in `T5Model`.

    Example:
        >>> model = T5EncoderModel.from_pretrained("t5-small")                                        # doctest: +SKIP
        >>> model(input_ids).last_hidden_state.shape                                                  # doctest: +SKIP
        (1, 3, 512)
    """

    config_class = T5Config
    model_types = ("t5",)
    neutral = {"is_decoder": (False, None), "is_encoder_decoder": (True, False, None)}
    ignored = ("shared.", "decoder.", "lm_head.")
    stacks = {"encoder.block.": "num_layers"}

    def __init__(self, config: T5Config) -> None:
        super().__init__(config, Stack(_shape(config), config.num_layers, block=self.encoder_block(config)))
        self.encoder_embeddings = Embedding(config.vocab_size, config.d_model)
        self.encoder_bias = position_bias(config, bidirectional=True)

    @classmethod
    def sources(cls, config: T5Config, names: Collection[str]) -> dict[str, Source]:
        return T5Model.sources(config, names)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """As transformers' model: integers (B, L) -> last_hidden_state (B, L, h), 0 where the mask is 0."""
        return self.encode(input_ids, attention_mask, output_attentions, output_hidden_states)


class T5Model(_Encoding, EncoderDecoder):
    """The encoder and the decoder, without a head.

    Padding is before or after a row's tokens, not between them: distances are counted between packed tokens.

    Example:
        >>> model = load_model("t5-small", head=False)                                                # doctest: +SKIP
        >>> model(input_ids, decoder_input_ids=decoder_ids).last_hidden_state.shape                   # doctest: +SKIP
        (1, 3, 512)
    """

    config_class = T5Config
    model_types = ("t5",)
    neutral = {
        "is_encoder_decoder": (True, None),
        "is_decoder": (False, None),
        "quantization_config": (None,),
    }
    encoder_class = T5EncoderModel
    # A shared table besides its copies; a bias that the first files hold and no version has used; the heads.
    ignored = (
        "shared.",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.",
        "lm_head.",
        "classification_head.",
        "qa_outputs.",
    )
    stacks = {"encoder.block.": "num_layers", "decoder.block.": "num_decoder_layers"}

    def __init__(self, config: T5Config) -> None:
        shape = _shape(config)
        encoder = Stack(shape, config.num_layers, block=self.encoder_block(config))
        super().__init__(config, encoder, Stack(shape, config.num_decoder_layers, cross=True))
        self.encoder_embeddings = Embedding(config.vocab_size, config.d_model)
        self.decoder_embeddings = Embedding(config.vocab_size, config.d_model)
        self.encoder_bias = position_bias(config, bidirectional=True)
        self.decoder_bias = position_bias(config, bidirectional=False)

    @classmethod
    def sources(cls, config: T5Config, names: Collection[str]) -> dict[str, Source]:
        sources = embedding_sources(names)
        for stack, layers, attention, parts in (
            ("encoder", config.num_layers, config.encoder_attention, _ENCODER_PARTS),
            ("decoder", config.num_decoder_layers, "SelfAttention", _DECODER_PARTS),
        ):
            parts = {"self_attention": (0, attention)} | parts
            bias = f"{stack}.block.0.layer.0.{attention}.relative_attention_bias.weight"
            sources[f"{stack}_bias.weight"] = Source(bias)
            sources[f"{stack}.final_norm.weight"] = Source(f"{stack}.final_layer_norm.weight")
            for i in range(layers):
                sources |= _layer_sources(f"{stack}.layers.{i}", f"{stack}.block.{i}.layer", parts, config)
        return sources

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids (T,) -> (T, h)."""
        return self.decoder_embeddings(ids)

    def target_bias(self, queries: int, past: int) -> np.ndarray:
        """(H, 2 queries + past - 1): the bias of the distances from -(queries + past - 1) to queries - 1."""
        return self.decoder_bias.table(queries, queries + past, past)


class T5ForConditionalGeneration(ConditionalGeneration):
    """T5 with the layer that scores the next token: `generate` translates, summarises, answers.

    Example:
        >>> model = load_model("t5-small")                                                            # doctest: +SKIP
        >>> model.generate(input_ids, num_beams=4, max_new_tokens=40)                                 # doctest: +SKIP
    """

    model_class = T5Model
    config_class = T5Config
    model_types = T5Model.model_types
    neutral = T5Model.neutral
    ignored = T5Model.ignored[:2]
    stacks = T5Model.stacks

    def logits(self, states: np.ndarray) -> np.ndarray:
        """The decoder's states (T, h) -> the next token's scores (T, V)."""
        if self.config.scale_decoder_outputs:
            states = states * np.float32(self.config.d_model**-0.5)
        return super().logits(states)


class MT5EncoderModel(T5EncoderModel):
    """mT5's encoder without the decoder."""

    config_class = MT5Config
    model_types = ("mt5",)


class MT5Model(T5Model):
    """mT5 without a head: T5 v1.1 in a hundred languages (Xue et al. 2020, https://arxiv.org/abs/2010.11934)."""

    config_class = MT5Config
    model_types = ("mt5",)
    encoder_class = MT5EncoderModel


class MT5ForConditionalGeneration(T5ForConditionalGeneration):
    """mT5 with the layer that scores the next token."""

    model_class = MT5Model
    config_class = MT5Config
    model_types = MT5Model.model_types


def _shape(config: T5Config) -> BlockShape:
    return BlockShape(
        config.d_model,
        config.num_heads,
        config.d_kv,
        config.d_ff,
        config.activation,
        config.layer_norm_epsilon,
        rms=True,
        norm_first=True,
        bias=False,
        gated=config.gated,
        scale=1.0,
    )


def position_bias(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    """The bias of one stack's scores."""
    buckets = config.relative_attention_num_buckets, config.relative_attention_max_distance
    return RelativePositionBias(*buckets, config.num_heads, bidirectional)


def _layer_sources(ours: str, theirs: str, parts: Mapping[str, tuple[int, str]], config: T5Config) -> dict[str, Source]:
    sources = {}
    for part, (number, name) in parts.items():
        place = f"{theirs}.{number}.{name}"
        sources[f"{ours}.{part}_norm.weight"] = Source(f"{theirs}.{number}.layer_norm.weight")
        if part == "feed_forward":
            names = _FEED_FORWARD[config.gated].items()
            sources |= {f"{ours}.{part}.{own}.weight": Source(f"{place}.{their}.weight") for own, their in names}
        else:
            sources |= attention_sources(f"{ours}.{part}", place, "q", "k", "v")
            sources[f"{ours}.{part}.out_proj.weight"] = Source(f"{place}.o.weight")
    return sources

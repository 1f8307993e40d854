"""Encoder-decoder models: the forward pass and the steps of generation that T5, LongT5, BART, Marian and Whisper share.

`EncoderDecoder` is the base of the models without a head, `ConditionalGeneration` of those with one, and
`SourceEncoder` of encoders without a decoder. A family says how
its tokens become vectors, what biases its scores get, and the names of its parameters in a checkpoint. Rows run packed,
without padding; outputs are padded again, zeros where a mask is 0.

Source: transformers' modeling_bart and modeling_t5 (arguments, names of outputs).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.attention_checks import rows_within
from transformer_fast.generation import GenerationMixin
from transformer_fast.models.common.base import PretrainedModel, Source, under
from transformer_fast.models.common.decoding import cache_dtype
from transformer_fast.models.common.inputs import integers, packed_ids, token_mask
from transformer_fast.models.common.output import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformer_fast.models.common.seq2seq_blocks import PackedAttention, Seq2SeqState, Stack
from transformer_fast.nn import Linear, init
from transformer_fast.nn.sequences import PackedSequences


@dataclass
class EncodedSource:
    """An encoder's result: states (T, h) of the places in `packing`; and what was asked for."""

    states: np.ndarray
    packing: PackedSequences
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None

    @classmethod
    def of(
        cls,
        states: np.ndarray,
        packing: PackedSequences,
        hidden_states: list[np.ndarray] | None,
        attentions: list[np.ndarray] | None,
    ) -> EncodedSource:
        """hidden_states: packed, (T, h) each."""
        return cls(states, packing, _padded(packing, hidden_states), _tuple(attentions))

    def output(self) -> BaseModelOutput:
        return BaseModelOutput(self.packing.unpack(self.states), self.hidden_states, self.attentions)


class SourceEncoder(PretrainedModel):
    """Only the encoder: the base of `EncoderDecoder`, and of models that have nothing else (T5EncoderModel).

    A family sets `source_field`, the field of its config that limits the length of input_ids (None: no limit), and
    relative_positions, if a token's place counts by its distance to others alone. It defines `embed_source`, and
    source_bias where scores have a bias.
    """

    source_field: str | None = None
    relative_positions = False

    def __init__(self, config: Any, encoder: Stack) -> None:
        super().__init__(config)
        self.encoder = encoder

    def embed_source(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> the encoder's input (T, h)."""
        raise NotImplementedError(f"{type(self).__name__} has no embed_source()")

    def source_bias(self, length: int) -> np.ndarray | None:
        """functional.varlen_attention's relative_bias of the encoder's rows, the longest of which has `length`."""
        return None

    def encode(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> BaseModelOutput:
        """Run only the encoder: input_ids (B, L) -> last_hidden_state (B, L, h); see `forward`."""
        return self._encode(input_ids, attention_mask, output_attentions, output_hidden_states, **inputs).output()

    def _encode(self, input_ids, attention_mask, output_attentions=False, output_hidden_states=False) -> EncodedSource:
        ids = self._checked("input_ids", input_ids, self.config.vocab_size, self.source_field)
        packing = self._packing("attention_mask", attention_mask, ids.shape)
        hidden = self.embed_source(packing.pack(ids), packing.columns)
        return self._run_encoder(hidden, packing, output_attentions, output_hidden_states)

    def _run_encoder(
        self, hidden, packing: PackedSequences, output_attentions: bool, output_hidden_states: bool
    ) -> EncodedSource:
        bias, scale = self.source_bias(packing.longest), self.encoder.shape.scale
        if bias is None and not output_attentions and not output_hidden_states:
            return EncodedSource(self.encoder.encode(hidden, packing.cu_seqlens), packing)
        attend = PackedAttention(packing, packing, relative_bias=bias, scale=scale, collect=output_attentions)
        collected = [] if output_hidden_states else None
        states = self.encoder(hidden, lambda _: attend, collect=collected)
        return EncodedSource.of(states, packing, collected, attend.weights)

    def encode_packed(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, *, pooled_rows: int | np.ndarray | None = None
    ) -> np.ndarray:
        """Packed texts: input_ids (T,), text b at cu_seqlens[b]:cu_seqlens[b + 1] -> hidden states (T, h).

        As `TextEncoder.encode_packed`: with pooled_rows, an int or (B,), one row of each text, (B, h). A text's rows do
        not depend on what else is in the call, bit for bit.

        Raises:
            ValueError, TypeError, IndexError: shapes or types do not fit, a text is too long or has no such row, or an
                id is outside of its table.
        """
        ids, cu_seqlens = packed_ids(input_ids, cu_seqlens, self.config.vocab_size)
        lengths, limit = np.diff(cu_seqlens), self.max_length
        longest = int(lengths.max(initial=0))
        if limit is not None and longest > limit:
            raise ValueError(f"a text has {longest} tokens; needed: at most {self.source_field}={limit}")
        rows = None if pooled_rows is None else cu_seqlens[:-1] + rows_within(pooled_rows, "pooled_rows", lengths)
        packing = PackedSequences(np.arange(max(longest, 1)) < lengths[:, None])
        states = self._run_encoder(self.embed_source(ids, packing.columns), packing, False, False).states
        return states if rows is None else states[rows]

    @property
    def hidden_size(self) -> int:
        """The length of the vectors that `encode_packed` gives."""
        return self.encoder.shape.width

    @property
    def max_length(self) -> int | None:
        """The most tokens that a text may have; None: no limit."""
        return self._limit(self.source_field)

    def _checked(self, name: str, ids, vocab: int, field: str | None) -> np.ndarray:
        if ids is None:
            raise ValueError(f"{name} is None; needed: integers (B, L)")
        ids = integers(name, ids, vocab)
        limit = self._limit(field)
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(f"{name} has shape {ids.shape}; needed: (B, L) with L >= 1")
        if limit is not None and ids.shape[1] > limit:
            raise ValueError(f"{name} has shape {ids.shape}; needed: L <= {field}={limit}")
        return ids

    def _limit(self, field: str | None) -> int | None:
        return None if field is None else getattr(self.config, field)

    def _packing(self, name: str, mask, shape: tuple[int, int]) -> PackedSequences:
        tokens = token_mask(mask, shape, name)
        if self.relative_positions and not tokens.all():
            # Distances are counted between packed rows.
            edges = np.diff(np.pad(tokens, ((0, 0), (1, 1))).astype(np.int8), axis=1)
            if ((edges == 1).sum(axis=1) > 1).any():
                row = int(np.argmax((edges == 1).sum(axis=1) > 1))
                raise ValueError(f"{name} has a gap in row {row}; needed: padding before or after a row's tokens")
        return PackedSequences(tokens)


class EncoderDecoder(SourceEncoder):
    """An encoder, and a decoder that attends to it.

    Beyond what a SourceEncoder has, a family sets `target_field`, the limit of decoder_input_ids, and defines
    `embed_target`, and target_bias where scores have a bias. encoder_class: the family's encoder without the decoder,
    which sentence encoders take; None: there is none.
    """

    target_field: str | None = None
    encoder_class: type[SourceEncoder] | None = None

    def __init__(self, config: Any, encoder: Stack, decoder: Stack) -> None:
        super().__init__(config, encoder)
        self.decoder = decoder.pack_for_decode()

    # ------------------------------------------------------------------------------------------------------------------
    # For families to define

    @staticmethod
    def vocab(config: Any) -> int:
        """The number of tokens that the decoder knows."""
        return config.vocab_size

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> the decoder's input (T, h)."""
        raise NotImplementedError(f"{type(self).__name__} has no embed_target()")

    def target_bias(self, queries: int, past: int) -> np.ndarray | None:
        """The decoder's relative_bias for `queries` tokens after `past` others."""
        return None

    def default_target(self, input_ids: np.ndarray | None) -> np.ndarray:
        """decoder_input_ids where none are given."""
        raise ValueError("decoder_input_ids is None; needed: integers (B, L)")

    # ------------------------------------------------------------------------------------------------------------------
    # Calls

    def forward(
        self,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        decoder_input_ids: np.ndarray | None = None,
        decoder_attention_mask: np.ndarray | None = None,
        encoder_outputs: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> Seq2SeqModelOutput:
        """As transformers' model: integers (B, L) and (B, Ld) in, last_hidden_state (B, Ld, h) out.

        The masks hold 1 (or True) for tokens and 0 for padding; by default all are tokens. encoder_outputs: what
        `encode` gave for the same attention_mask (or a tuple that starts with last_hidden_state), in place of
        input_ids. **Where a mask is 0, results are 0** (transformers computes values there that have no use). inputs:
        what only some encoders take, global_attention_mask (B, L) of LED.

        Raises:
            ValueError, TypeError: shapes or types do not fit, or a row is too long.
            IndexError: an id is outside of its table.
        """
        collect = output_attentions, output_hidden_states
        encoded = self._encoded(input_ids, attention_mask, encoder_outputs, *collect, **inputs)
        if decoder_input_ids is None:
            decoder_input_ids = self.default_target(input_ids)
        states, packing, rest = self._decode(
            encoded, decoder_input_ids, decoder_attention_mask, output_attentions, output_hidden_states
        )
        return Seq2SeqModelOutput(packing.unpack(states), **rest)

    # ------------------------------------------------------------------------------------------------------------------
    # Parts

    def _encoded(self, input_ids, attention_mask, encoder_outputs, *collect: bool, **inputs) -> EncodedSource:
        """The encoder's result, or a replacement for it; collect: attentions?, hidden states?"""
        if encoder_outputs is None:
            return self._encode(input_ids, attention_mask, *collect, **inputs)
        return self._given(encoder_outputs, attention_mask)

    def _given(self, encoder_outputs: Any, attention_mask) -> EncodedSource:
        """The hidden states that a caller passes as encoder_outputs."""
        if not isinstance(encoder_outputs, (BaseModelOutput, tuple, list)):
            encoder_outputs = (encoder_outputs,)
        state = np.asarray(encoder_outputs[0])
        h = self.decoder.shape.width
        if state.ndim != 3 or state.shape[2] != h or state.dtype != np.float32:
            raise ValueError(f"encoder_outputs[0] is {state.dtype} {state.shape}; needed: float32 (B, L, {h})")
        packing = self._packing("attention_mask", attention_mask, state.shape[:2])
        names = ("hidden_states", "attentions")
        if isinstance(encoder_outputs, BaseModelOutput):
            rest = [getattr(encoder_outputs, name) for name in names]
        else:
            rest = [encoder_outputs[i] if len(encoder_outputs) > i else None for i in (1, 2)]
        return EncodedSource(np.ascontiguousarray(packing.pack(state)), packing, *rest)

    def _decode(self, encoded: EncodedSource, ids, mask, output_attentions: bool, output_hidden_states: bool) -> tuple:
        """States (T, h), their packing, and the output's further fields, for a whole decoder_input_ids."""
        ids = self._target_ids(ids, encoded)
        packing = self._packing("decoder_attention_mask", mask, ids.shape)
        hidden = self.embed_target(packing.pack(ids), packing.columns)
        scale, bias = self.decoder.shape.scale, self.target_bias(packing.longest, 0)
        own = PackedAttention(
            packing, packing, is_causal=True, relative_bias=bias, scale=scale, collect=output_attentions
        )
        cross = PackedAttention(packing, encoded.packing, scale=scale, collect=output_attentions)

        def cross_attend(layer: int):
            key, value = self.decoder.layers[layer].cross_attention.keys_values(encoded.states)
            return lambda query, out: cross(query, key, value, out)

        collected = [] if output_hidden_states else None
        states = self.decoder(hidden, lambda _: own, cross_attend, collected)
        rest = {
            "decoder_hidden_states": _padded(packing, collected),
            "decoder_attentions": _tuple(own.weights),
            "cross_attentions": _tuple(cross.weights),
            "encoder_last_hidden_state": encoded.packing.unpack(encoded.states),
            "encoder_hidden_states": encoded.hidden_states,
            "encoder_attentions": encoded.attentions,
            "encoder_global_attentions": encoded.global_attentions,
        }
        return states, packing, rest

    def start_decoding(self, encoded: EncodedSource, capacity: int, kv_cache_dtype: str | None = None) -> Seq2SeqState:
        """A state with the cross-attention's keys and values, and no tokens yet."""
        layers, dtype = self.decoder.layers, cache_dtype(kv_cache_dtype)
        cross = (layer.cross_attention.keys_values(encoded.states) for layer in layers)
        rows = len(encoded.packing)
        return Seq2SeqState(self.decoder.shape, len(layers), rows, capacity, encoded.packing, cross, dtype)

    def decode_more(self, ids: np.ndarray, state: Seq2SeqState) -> np.ndarray:
        """ids (B', n), the next n tokens of each row -> the decoder's state of the last one, (B', h)."""
        rows, n = ids.shape
        past, limit = state.position, self._limit(self.target_field)
        if limit is not None and past + n > limit:
            raise ValueError(f"decoder_input_ids would have {past + n} tokens a row; needed: at most {limit}")
        positions = np.tile(np.arange(past, past + n), rows)
        bias = self.target_bias(n, past)
        hidden = self.decoder(
            self.embed_target(ids.reshape(-1), positions), lambda i: state.self_attend(i, bias), state.cross_attend
        )
        state.position += n
        return np.ascontiguousarray(hidden.reshape(rows, n, -1)[:, -1])

    def _target_ids(self, ids, encoded: EncodedSource) -> np.ndarray:
        """decoder_input_ids, checked."""
        ids, rows = self._checked("decoder_input_ids", ids, self.vocab(self.config), self.target_field), encoded.packing
        if len(ids) != len(rows):
            raise ValueError(f"decoder_input_ids has {len(ids)} rows; needed: as many as the encoder's, {len(rows)}")
        return ids


class ConditionalGeneration(GenerationMixin, PretrainedModel):
    """An EncoderDecoder (`model_class`) as `model`, and the layer that scores the next token.

    head_tensor: that layer's weight in a checkpoint, where it is not tied to the decoder's embeddings.
    has_logits_bias: checkpoints hold a bias of the logits, final_logits_bias, if it is not zero; logits_bias says
    whether this model has one.
    """

    is_encoder_decoder = True
    model_class: type[EncoderDecoder]
    head_tensor = "lm_head.weight"
    has_logits_bias = False

    def __init__(self, config: Any, logits_bias: bool | None = None) -> None:
        super().__init__(config)
        self.model = self.model_class(config)
        vocab = self.model.vocab(self.config)
        self.lm_head = Linear(self.model.decoder.shape.width, vocab, bias=False).pack_for_decode()
        bias = self.has_logits_bias if logits_bias is None else logits_bias
        self.register_parameter("final_logits_bias", (vocab,) if bias else None, init.zeros)

    @classmethod
    def options(cls, config: Any, names: Collection[str]) -> dict[str, Any]:
        return {"logits_bias": cls.has_logits_bias and "final_logits_bias" in names}

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        sources = under("model", cls.model_class.sources(config, names))
        if cls.head_tensor not in names and config.tie_word_embeddings:
            sources["lm_head.weight"] = sources["model.decoder_embeddings.weight"]
        else:
            sources["lm_head.weight"] = Source(cls.head_tensor)
        sources["final_logits_bias"] = Source("final_logits_bias", shape=(1, cls.model_class.vocab(config)))
        return sources

    @classmethod
    def tied(cls, config: Any, names: Collection[str]) -> Mapping[str, str]:
        if not config.tie_word_embeddings:
            return {}
        return {cls.head_tensor: cls.model_class.sources(config, names)["decoder_embeddings.weight"].names[0]}

    def forward(
        self,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        decoder_input_ids: np.ndarray | None = None,
        decoder_attention_mask: np.ndarray | None = None,
        encoder_outputs: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> Seq2SeqLMOutput:
        """As `EncoderDecoder.forward`, with logits (B, Ld, V) in place of the decoder's last state."""
        model, collect = self.model, (output_attentions, output_hidden_states)
        encoded = model._encoded(input_ids, attention_mask, encoder_outputs, *collect, **inputs)
        if decoder_input_ids is None:
            decoder_input_ids = model.default_target(input_ids)
        states, packing, rest = model._decode(encoded, decoder_input_ids, decoder_attention_mask, *collect)
        return Seq2SeqLMOutput(packing.unpack(self.logits(states)), **rest)

    def encode(self, *args: Any, **options: Any) -> BaseModelOutput:
        """Run only the encoder; see `EncoderDecoder.encode`."""
        return self.model.encode(*args, **options)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """The decoder's states (T, h) -> the next token's scores (T, V)."""
        return F.linear(states, self.lm_head.packed(), self.final_logits_bias)

    def start(
        self,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        *,
        capacity: int,
        decoder_input_ids: np.ndarray,
        encoder_outputs: Any = None,
        kv_cache_dtype: str | None = None,
    ) -> tuple[np.ndarray, Seq2SeqState]:
        """Encoder and first tokens of a generation; see `transformer_fast.generation`.

        kv_cache_dtype: how keys and values are kept, the encoder's among them; see `generate`.
        """
        encoded = self.model._encoded(input_ids, attention_mask, encoder_outputs)
        return self._started(encoded, capacity, decoder_input_ids, kv_cache_dtype)

    def _started(
        self, encoded: EncodedSource, capacity: int, decoder_input_ids: np.ndarray, kv_cache_dtype: str | None
    ) -> tuple[np.ndarray, Seq2SeqState]:
        """`start`, after the encoder."""
        model = self.model
        ids = model._target_ids(decoder_input_ids, encoded)
        state = model.start_decoding(encoded, capacity, kv_cache_dtype)
        return self.logits(model.decode_more(ids, state)), state

    def step(self, ids: np.ndarray, state: Seq2SeqState) -> np.ndarray:
        """One more token a row: ids (B,) -> logits (B, V); see `transformer_fast.generation`."""
        return self.logits(self.model.decode_more(np.asarray(ids)[:, None], state))


def attention_sources(ours: str, theirs: str, query: str, key: str, value: str, biases: str = "") -> dict[str, Source]:
    """An attention's query, key and value, by the names of their tensors; biases: the first letters of those with one.

    ours ends in self_attention or cross_attention.
    """
    sources = {}
    for part, name in (("query", query), ("key", key), ("value", value)):
        for kind in ("weight", "bias")[: 2 if part[0] in biases else 1]:
            if part == "query" and ours.endswith("cross_attention"):
                own = f"{ours}.query.{kind}"
            else:
                own = f"{ours}.in_proj.{part}_{kind}"
            sources[own] = Source(f"{theirs}.{name}.{kind}")
    return sources


def embedding_sources(names: Collection[str], tied: bool = True) -> dict[str, Source]:
    """encoder_embeddings and decoder_embeddings: each its own tensor if the checkpoint has it, else the shared one."""
    sources = {}
    for stack, other in (("encoder", "decoder"), ("decoder", "encoder")):
        own = f"{stack}.embed_tokens.weight"
        shared = ("shared.weight", f"{other}.embed_tokens.weight", "lm_head.weight") if tied else ()
        found = next((name for name in (own, *shared) if name in names), own)
        sources[f"{stack}_embeddings.weight"] = Source(found)
    return sources


def _padded(packing: PackedSequences, collected: list[np.ndarray] | None) -> tuple[np.ndarray, ...] | None:
    return None if collected is None else tuple(packing.unpack(state) for state in collected)


def _tuple(arrays: list[np.ndarray] | None) -> tuple[np.ndarray, ...] | None:
    return None if arrays is None else tuple(arrays)

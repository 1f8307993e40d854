"""`TransformerGenerator`: nn.Transformer from ids to logits, with cached keys and values for generation.

`generation.generate` calls `start` and `step`. A step costs one token: self-attention appends to a `KeyValueCache`,
the keys and values of the source are made once, and beams of one source share them.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn.attention import MultiheadAttention
from transformer_fast.nn.cache import KeyValueCache
from transformer_fast.nn.module import Module
from transformer_fast.nn.seq2seq.source import Sources, Tokens, token_ids
from transformer_fast.nn.transformer import Transformer
from transformer_fast.nn.transformer_decoder import TransformerDecoder, TransformerDecoderLayer


class TransformerGenerator(Module):
    """Source ids -> encoder -> decoder over target ids -> logits (Vaswani et al., 2017, the whole figure 1).

    transformer: its decoder is a `TransformerDecoder` of `TransformerDecoderLayer`, its encoder may be anything.
    source_embedding and target_embedding turn ids into (..., d_model) (they may be one module); embedding_scale
    multiplies both (the paper has sqrt(d_model)). positions adds positions to (B, L, d_model), called with positions
    (L,) as second argument: an `nn.SinusoidalPositionalEncoding` or `nn.LearnedPositionalEmbedding`; target_positions
    is the decoder's, by default the same. output_projection (d_model -> V) gives the logits.

    Raises:
        TypeError: the decoder is another one.

    Example:
        >>> import numpy as np
        >>> from transformer_fast import nn
        >>> from transformer_fast.generation import generate
        >>> nn.manual_seed(0)
        >>> words, positions = nn.Embedding(50, 16), nn.SinusoidalPositionalEncoding(16)
        >>> model = nn.TransformerGenerator(nn.Transformer(16, 2, 1, 1), words, words, nn.Linear(16, 50), positions)
        >>> generate(model, np.array([[5, 6, 7]]), decoder_start_token_id=1, max_new_tokens=4).shape
        (1, 5)
    """

    is_encoder_decoder = True

    def __init__(
        self,
        transformer: Transformer,
        source_embedding: Module,
        target_embedding: Module,
        output_projection: Module,
        positions: Module | None = None,
        target_positions: Module | None = None,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check_decoder(transformer.decoder)
        self.transformer = transformer
        self.source_embedding = source_embedding
        self.target_embedding = target_embedding
        self.output_projection = output_projection
        self.positions = positions
        self.target_positions = positions if target_positions is None else target_positions
        self.embedding_scale = embedding_scale
        # What `generate` asks for: the longest target.
        self.config = SimpleNamespace(max_position_embeddings=getattr(self.target_positions, "max_length", None))

    def forward(self, input_ids: np.ndarray, decoder_input_ids: np.ndarray, attention_mask=None) -> np.ndarray:
        """Logits (B, T, V) after each of decoder_input_ids (B, T), which sees those before it; nothing is cached.

        input_ids (B, S); attention_mask (B, S), 0 for padding, which may be anywhere.

        Raises:
            ValueError, TypeError, IndexError: shapes, types or ids do not fit.
        """
        source = Tokens(input_ids, attention_mask)
        ids = _target(decoder_input_ids, len(source.ids))
        target = self._embed(self.target_embedding, self.target_positions, ids, 0)
        memory = self._encode(source)
        turned = (target, memory) if self.transformer.batch_first else (target.swapaxes(0, 1), memory.swapaxes(0, 1))
        hidden = self.transformer.decoder(*turned, tgt_is_causal=True, memory_key_padding_mask=source.padding)
        return self.output_projection(hidden if self.transformer.batch_first else hidden.swapaxes(0, 1))

    def start(
        self, input_ids: np.ndarray, attention_mask=None, *, decoder_input_ids: np.ndarray, capacity: int
    ) -> tuple[np.ndarray, _State]:
        """The encoder over input_ids (B, S), the decoder over decoder_input_ids (B, n): (logits (B, V), state).

        capacity: how many target positions a row may grow to; more are possible, at the cost of a copy.

        Raises:
            ValueError, TypeError, IndexError: as in `forward`.
        """
        source = Tokens(input_ids, attention_mask)
        ids = _target(decoder_input_ids, len(source.ids))
        state = _State(self.transformer.decoder, self._encode(source), source.lengths, capacity)
        return self._advance(ids, state), state

    def step(self, ids: np.ndarray, state: _State) -> np.ndarray:
        """ids (B,), one more token for each row -> logits (B, V)."""
        return self._advance(np.asarray(ids)[:, None], state)

    def _advance(self, ids: np.ndarray, state: _State) -> np.ndarray:
        decoder = self.transformer.decoder
        x = self._embed(self.target_embedding, self.target_positions, ids, state.length)
        for layer, past, source in zip(decoder.layers, state.past, state.sources, strict=True):
            x = layer.run(x, _cached(layer.self_attn, past), _crossing(layer.multihead_attn, source))
        state.length += ids.shape[1]
        last = np.ascontiguousarray(x[:, -1])
        return self.output_projection(last if decoder.norm is None else decoder.norm(last))

    def _encode(self, source: Tokens) -> np.ndarray:
        """(B, n, d_model), whatever batch_first is."""
        x = self._embed(self.source_embedding, self.positions, source.ids, 0)
        padding = source.padding if source.padding.any() else None
        if self.transformer.batch_first:
            return self.transformer.encoder(x, src_key_padding_mask=padding)
        return self.transformer.encoder(x.swapaxes(0, 1), src_key_padding_mask=padding).swapaxes(0, 1)

    def _embed(self, embedding: Module, positions: Module | None, ids: np.ndarray, first: int) -> np.ndarray:
        x = embedding(ids)
        if self.embedding_scale != 1:
            x = x * np.float32(self.embedding_scale)
        return x if positions is None else positions(x, np.arange(first, first + ids.shape[1]))


class _State:
    """The state of a generation: cached keys and values of the target, and those of the source."""

    def __init__(self, decoder: TransformerDecoder, memory: np.ndarray, lengths: np.ndarray, capacity: int) -> None:
        self.length = 0  # target positions so far, the same for all rows
        self.past, self.sources = [], []
        for layer in decoder.layers:
            attention = layer.self_attn
            self.past.append(KeyValueCache(len(memory), attention.num_heads, attention.head_dim, capacity))
            keys_and_values = layer.multihead_attn._project(memory, 1, 3, axis=1)
            heads = (layer.multihead_attn._heads(projected, 1) for projected in keys_and_values)
            self.sources.append(Sources([*(np.ascontiguousarray(x) for x in heads), lengths]))

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before."""
        index = np.asarray(index)
        for past, source in zip(self.past, self.sources, strict=True):
            past.reorder(index)
            source.reorder(index)


def _cached(attention: MultiheadAttention, past: KeyValueCache):
    """Self-attention as a function of (input (B, n, d), residual): the new positions see the past and each other."""

    def attend(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
        query, key, value = (attention._heads(projected, 1) for projected in attention._project(x, 0, 3, axis=1))
        before = past.keys.shape[2]
        past.append(key, value)
        context = np.empty(x.shape, np.float32)
        F.scaled_dot_product_attention(
            query,
            past.keys,
            past.values,
            is_causal=True,
            causal_offset=before,
            out=attention._heads(context, 1),
        )
        return attention.out_proj(context, residual=residual)

    return attend


def _crossing(attention: MultiheadAttention, source: Sources):
    """Attention to the source as a function of (input (B, n, d), residual)."""

    def attend(x: np.ndarray, residual: np.ndarray) -> np.ndarray:
        keys, values, lengths = source.arrays
        (projected,) = attention._project(x, 0, 1, axis=1)
        context = np.empty(x.shape, np.float32)
        F.scaled_dot_product_attention(
            attention._heads(source.grouped(projected), 1),
            keys,
            values,
            kv_lengths=lengths,
            out=attention._heads(source.grouped(context), 1),
        )
        return attention.out_proj(context, residual=residual)

    return attend


def _check_decoder(decoder: Module) -> None:
    """The cached way through a decoder is written for these classes: others would compute something else."""
    kinds = [(decoder, TransformerDecoder)]
    if type(decoder) is TransformerDecoder:
        for layer in decoder.layers:
            kinds.append((layer, TransformerDecoderLayer))
            if type(layer) is TransformerDecoderLayer:
                kinds += [(layer.self_attn, MultiheadAttention), (layer.multihead_attn, MultiheadAttention)]
    for part, needed in kinds:
        if type(part) is not needed:
            raise TypeError(f"transformer.decoder holds a {type(part).__name__}; needed: {needed.__name__}")


def _target(decoder_input_ids, B: int) -> np.ndarray:
    ids = token_ids("decoder_input_ids", decoder_input_ids)
    if len(ids) != B:
        raise ValueError(f"decoder_input_ids has shape {ids.shape}; needed: {B} rows, as many as input_ids")
    return ids

"""`TextEncoder`: the base of encoders of text. It checks inputs, drops padding, fills it again, and collects outputs.

BERT, RoBERTa, ALBERT, BigBird, DeBERTa, DistilBERT, ELECTRA, GTE, JinaBERT, Longformer, MPNet, ModernBERT and NomicBERT
derive from it and say how tokens become rows (`_embed`) and how rows run through the layers (`_run`); `heads` puts
heads on them; `pipelines.SentenceEncoder` calls `encode_packed`. Tokens run packed, (T, h) without padding, through
everything. A new kind of input to all of them is a new argument of `encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.base import PretrainedModel, Source
from transformer_fast.models.common.inputs import integers, packed_ids, token_mask
from transformer_fast.models.common.output import BaseModelOutput, BaseModelOutputWithPooling
from transformer_fast.nn import Collector, Linear
from transformer_fast.nn.packed import for_pooled_rows
from transformer_fast.nn.sequences import PackedSequences


def layer_sources(count: int, prefix: str, projections: tuple[str, ...], parts: dict[str, str]) -> dict[str, Source]:
    """Sources of an nn.PackedEncoder of `count` layers called "layers", whose tensors have the prefix and its number.

    projections: the names of query, key and value; parts: name in nn.PackedEncoderLayer -> name of the rest.
    """
    return sources_of_layers([f"{prefix}{i}." for i in range(count)], projections, parts)


def sources_of_layers(
    prefixes: Iterable[str], projections: tuple[str, ...], parts: dict[str, str]
) -> dict[str, Source]:
    """As `layer_sources`, with the prefix of the tensors of each layer."""
    sources = {}
    for i, prefix in enumerate(prefixes):
        for kind in ("weight", "bias"):
            rows = (f"{prefix}{name}.{kind}" for name in projections)
            sources[f"layers.{i}.attention.in_proj.{kind}"] = Source(*rows)
            for ours, theirs in parts.items():
                sources[f"layers.{i}.{ours}.{kind}"] = Source(f"{prefix}{theirs}.{kind}")
    return sources


@dataclass(frozen=True)
class EncoderBatch:
    """Rows that run: the tokens of each sequence one after the other, and what else a block may have to know of them.

    positions (T,): what the family makes of input_ids, or the caller's. places (T,): the place of each row in its
    sequence, padding counted; None means that there is no padding. keys: rows that are attended and their offsets, as
    in nn.PackedSelfAttention; None means all. pooled_rows: of nn.PackedEncoder, the one row of each sequence that is
    wanted; None means all. width: L of a padded call; None means that each sequence came in its own length.
    global_rows: those of global tokens, rising; None means none.
    """

    cu_seqlens: np.ndarray
    positions: np.ndarray
    places: np.ndarray | None
    keys: tuple[np.ndarray, np.ndarray] | None = None
    pooled_rows: int | np.ndarray | None = None
    width: int | None = None
    global_rows: np.ndarray | None = None

    def dense(self) -> bool:
        """Are all rows attended, and neighbours in their sequence neighbours here?"""
        return self.keys is None and self._without_gaps()

    def prefixes(self) -> bool:
        """Are neighbours in their sequence neighbours here, and the rows that are attended the first of each?"""
        if self.keys is None or not self._without_gaps():
            return self.dense()
        rows, cu_keys = self.keys
        counts = np.diff(cu_keys)
        first = np.arange(len(rows)) - np.repeat(cu_keys[:-1] - self.cu_seqlens[:-1], counts)
        return bool((rows == first).all())

    def _without_gaps(self) -> bool:
        if self.places is None:
            return True
        neighbours = np.diff(self.places) == 1
        starts = self.cu_seqlens[(self.cu_seqlens > 0) & (self.cu_seqlens < len(self.places))]
        neighbours[starts - 1] = True  # from one sequence to the next
        return bool(neighbours.all())

    def longest(self) -> int:
        return int(np.diff(self.cu_seqlens).max(initial=0))

    def distances(self) -> np.ndarray:
        """(B, Mq, Mk): the place of key j minus that of query i; 0 beyond the ends of a sequence. Needs places."""
        rows, cu_keys = self.keys or (np.arange(len(self.places)), self.cu_seqlens)
        key_places = self.places[rows]
        counts, key_counts = np.diff(self.cu_seqlens), np.diff(cu_keys)
        distances = np.zeros((len(counts), counts.max(initial=0), key_counts.max(initial=0)), np.int64)
        for b, (n, m) in enumerate(zip(counts, key_counts, strict=True)):
            own = key_places[cu_keys[b] :][:m] - self.places[self.cu_seqlens[b] :][:n, None]
            distances[b, :n, :m] = own
        return distances


@dataclass(frozen=True)
class Encoded:
    """The result of `TextEncoder.encode`: rows (N, h) of the tokens of `sequences`.

    first (B, h): the first place of each row. Either is None where it was not asked for. hidden_states, attentions,
    global_attentions: as in the outputs.
    """

    rows: np.ndarray | None
    sequences: PackedSequences
    first: np.ndarray | None
    hidden_states: tuple[np.ndarray, ...] | None = None
    attentions: tuple[np.ndarray, ...] | None = None
    global_attentions: tuple[np.ndarray, ...] | None = None

    def reports(self) -> tuple[tuple[np.ndarray, ...] | None, ...]:
        """The last fields of an output."""
        return self.hidden_states, self.attentions, self.global_attentions

    def unpacked(self, rows: np.ndarray) -> np.ndarray:
        """rows (N, n) of the tokens -> (B, L, n), zeros where padding is."""
        return self.sequences.unpack(rows)


def _attended_keys(attended: Any, cu_seqlens: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """`keys` and `places` of a batch of packed sequences, of whose tokens these (T,) are attended."""
    seen = np.asarray(attended)
    if seen.dtype != np.bool_ or seen.shape != (cu_seqlens[-1],):
        raise ValueError(f"attended has shape {seen.shape} and type {seen.dtype}; needed: ({cu_seqlens[-1]},) booleans")
    cu_keys = np.concatenate([[0], np.cumsum(seen)])[cu_seqlens]
    places = np.arange(len(seen)) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    return (np.flatnonzero(seen), cu_keys), places


class TextEncoder(PretrainedModel):
    """Base of the encoders of text. Where the attention mask is 0, all that is returned is 0.

    runs_unattended: may tokens run that no token attends, `attended` of `encode_packed`?
    """

    collector_class = Collector
    runs_unattended = True

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def max_length(self) -> int:
        """The most tokens that a sequence may have."""
        return self.config.max_position_embeddings

    @property
    def position_limit(self) -> int | None:
        """Positions are below it; None where there is no table of them."""
        return self.config.max_position_embeddings

    # ------------------------------------------------------------------------------------------------------------------
    # For families to define

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        """All (T,), checked -> (T, h)."""
        raise NotImplementedError(f"{type(self).__name__} has no _embed()")

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        """(T, h) -> (T, h), which may be written over hidden; with batch.pooled_rows (B, h)."""
        return self._layers(hidden, batch, collect)

    def _layers(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None, **options: Any) -> np.ndarray:
        """`_run` by `layers`, a nn.PackedEncoder; options: relative_bias or attn_mask."""
        pooled = batch.pooled_rows
        options |= {"pooled_rows": pooled, "collect": collect, "out": hidden if pooled is None else None}
        return self.layers(hidden, batch.cu_seqlens, batch.keys, **options)

    def _run_layers(
        self,
        step: Callable[..., np.ndarray],
        hidden: np.ndarray,
        batch: EncoderBatch,
        options: dict[str, Any],
        collect: Collector | None,
    ) -> np.ndarray:
        """`_run` by `layers` of the family's own.

        step(layer, hidden, options, collect) runs a layer on all rows, (T, h) -> (T, h) of its own, and with
        pooled (B,) besides on these rows of hidden alone -> (B, h). options: of varlen_attention.
        """
        *layers, last = self.layers
        if collect is not None:
            collect.add_hidden(hidden)
        for layer in layers:
            hidden = step(layer, hidden, options, collect)
            if collect is not None:
                collect.add_hidden(hidden)
        if collect is not None:  # with pooled rows all of the last layer's are only reported: the same bits as without
            state = step(last, hidden, options, collect)
            collect.add_hidden(state)
            if batch.pooled_rows is None:
                return state
        if batch.pooled_rows is None:
            return step(last, hidden, options, None)
        pooled, options = for_pooled_rows(batch.pooled_rows, batch.cu_seqlens, batch.keys, options)
        return step(last, hidden, options, None, pooled)

    def _positions(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Positions (T,) of packed input_ids: 0, 1, ... in each sequence."""
        return np.arange(len(input_ids)) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))

    def _own_types(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray | None:
        """Types (T,) of packed input_ids where the caller gives none; None: they are all 0, or there are none."""
        return None

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        """token_type_ids, checked."""
        raise ValueError(f"token_type_ids is given, but {type(self).__name__} knows no token types; needed: None")

    def _global_tokens(self, global_attention_mask, shape: tuple[int, int]) -> np.ndarray:
        """global_attention_mask, checked: booleans (B, L)."""
        name = type(self).__name__
        raise ValueError(f"global_attention_mask is given, but {name} knows no global tokens; needed: None")

    # ------------------------------------------------------------------------------------------------------------------

    def encode(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        first: bool = False,
        rows: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        global_attention_mask: np.ndarray | None = None,
    ) -> Encoded:
        """The hidden states that `forward` and the heads begin with; arguments and errors as in `forward`.

        first: keep the first place of each row. It runs even where it is padding, but no row attends it then. Without
        rows, no other goes through the last layer (and once more with all, if attentions or hidden states show them).
        global_attention_mask (B, L): 1 for tokens that see all and are seen by all, where a family knows such.
        """
        if not (first or rows):
            raise ValueError("first and rows are both False; needed: one of them")
        input_ids = integers("input_ids", input_ids, self.config.vocab_size)
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids has shape {input_ids.shape}; needed: (B, L) with L >= 1")
        B, L = input_ids.shape
        if position_ids is None:
            position_ids = self._positions(input_ids.reshape(-1), np.arange(B + 1) * L).reshape(B, L)
            self._check_length(position_ids, f"input_ids has shape {(B, L)}: ")
        position_ids = integers("position_ids", position_ids, self.position_limit, (B, L))
        tokens = computed = PackedSequences(token_mask(attention_mask, (B, L)))
        keys = None
        if first and not tokens.tokens[:, 0].all():
            runs = tokens.tokens.copy()
            runs[:, 0] = True
            computed = PackedSequences(runs)
            keys = np.flatnonzero(computed.pack(tokens.tokens)), tokens.cu_seqlens
        if token_type_ids is None:
            token_type_ids = self._own_types(input_ids.reshape(-1), np.arange(B + 1) * L)
            token_type_ids = None if token_type_ids is None else token_type_ids.reshape(B, L)
        if token_type_ids is not None:
            token_type_ids = computed.pack(self._token_types(token_type_ids, (B, L)))
        positions, global_rows = computed.pack(position_ids), None
        if global_attention_mask is not None:
            chosen = self._global_tokens(global_attention_mask, (B, L)) & tokens.tokens
            global_rows = np.flatnonzero(computed.pack(chosen))
        pooled_rows = None if rows else 0
        batch = EncoderBatch(computed.cu_seqlens, positions, computed.columns, keys, pooled_rows, L, global_rows)
        collect = None
        if output_attentions or output_hidden_states:
            kept = {"hidden_states": output_hidden_states, "attentions": output_attentions}
            collect = self.collector_class(tokens.tokens, computed.tokens, **kept)
        hidden = self._embed(computed.pack(input_ids), positions, token_type_ids)
        hidden = self._run(hidden, batch, collect)
        states = () if collect is None else (collect.hidden_states, collect.attentions, collect.global_attentions)
        if not rows:
            return Encoded(None, tokens, hidden, *states)
        first_rows = hidden[batch.cu_seqlens[:-1]] if first else None
        return Encoded(hidden if keys is None else hidden[keys[0]], tokens, first_rows, *states)

    def encode_packed(
        self,
        input_ids: np.ndarray,
        cu_seqlens: np.ndarray,
        token_type_ids: np.ndarray | None = None,
        *,
        pooled_rows: int | np.ndarray | None = None,
        global_attention_mask: np.ndarray | None = None,
        attended: np.ndarray | None = None,
    ) -> np.ndarray:
        """Packed sequences: input_ids (T,), sequence b at cu_seqlens[b]:cu_seqlens[b + 1] -> hidden states (T, h).

        pooled_rows, an int or (B,) integers: the one row of each sequence that is wanted, counted from its first
        -> (B, h); the others save their last layer. global_attention_mask (T,): as in `encode`. attended (T,) booleans:
        tokens that are not attended run like the others, but no token sees them (ColBERT's expanded queries). A
        sequence's rows do not depend on what else is in the call, bit for bit.

        Raises:
            ValueError, TypeError, IndexError: as in `forward`.
        """
        input_ids, cu_seqlens = packed_ids(input_ids, cu_seqlens, self.config.vocab_size)
        positions = self._positions(input_ids, cu_seqlens)
        self._check_length(positions)
        if token_type_ids is None:
            token_type_ids = self._own_types(input_ids, cu_seqlens)
        if token_type_ids is not None:
            token_type_ids = self._token_types(token_type_ids, input_ids.shape)
        global_rows = None
        if global_attention_mask is not None:
            chosen = self._global_tokens(np.asarray(global_attention_mask)[None], (1, len(input_ids)))
            global_rows = np.flatnonzero(chosen)
        hidden = self._embed(input_ids, positions, token_type_ids)
        places = keys = None
        if attended is not None:
            if not self.runs_unattended:
                raise ValueError(f"attended is given, but {type(self).__name__} runs no token unseen; needed: None")
            keys, places = _attended_keys(attended, cu_seqlens)
        batch = EncoderBatch(cu_seqlens, positions, places, keys, pooled_rows, global_rows=global_rows)
        return self._run(hidden, batch, None)

    def _check_length(self, positions: np.ndarray, what: str = "") -> None:
        """positions: as `_positions` made them, the first max_length of which there are rows."""
        limit, last = self.position_limit, int(positions.max(initial=-1))
        if limit is not None and last >= limit:
            tokens = last + 1 - (limit - self.max_length)
            raise ValueError(
                f"{what}a sequence has {tokens} tokens; needed: at most {self.max_length} "
                f"(max_position_embeddings={limit})"
            )

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> BaseModelOutput | BaseModelOutputWithPooling:
        """As transformers' model: integers (B, L) in, last_hidden_state (B, L, h) out.

        attention_mask (B, L) holds 1 (or True) for tokens and 0 for padding, which may be anywhere; by default all
        are tokens. position_ids (L,), (1, L) or (B, L), by default what the family gives, padding counted.
        **Where the mask is 0, the results are 0** (transformers computes values there that have no use). inputs: what
        only some families take, global_attention_mask of `encode`.

        Raises:
            ValueError, TypeError: shapes or types do not fit, or a sequence is too long.
            IndexError: an id is outside of its table.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states} | inputs
        found = self.encode(input_ids, attention_mask, token_type_ids, position_ids, **options)
        return BaseModelOutput(found.unpacked(found.rows), found.hidden_states, found.attentions)


class PoolingEncoder(TextEncoder):
    """A TextEncoder with BERT's pooler, a linear layer with tanh on the first place, if add_pooling_layer."""

    pooler: Linear | None

    def pooled(self, first: np.ndarray) -> np.ndarray:
        """first (B, h) of `encode` -> pooler_output (B, h)."""
        return self.pooler(first, activation="tanh")

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **inputs: np.ndarray | None,
    ) -> BaseModelOutputWithPooling:
        """As `TextEncoder.forward`, and pooler_output (B, h) where there is a pooler.

        The pooler reads the first place of each row, which runs even where it is padding.
        """
        found = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            first=self.pooler is not None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            **inputs,
        )
        pooled = None if found.first is None else self.pooled(found.first)
        return BaseModelOutputWithPooling(found.unpacked(found.rows), pooled, *found.reports())

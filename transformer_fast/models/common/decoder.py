"""Decoders: `Decoder` (tokens to hidden states) and `CausalLM` (next token's scores).

GPT-2 and the families of Llama's kind derive from both; `decoder_classifier` has the head for labels. A family's model
says how tokens are embedded, which positions its layers see and what their caches hold; packing, caches and outputs are
here and in `decoding`. Sentence encoders and rerankers call `encode_packed` and `last_logits`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.functional.arrays import as_array
from transformer_fast.functional.attention_checks import rows_within
from transformer_fast.generation import GenerationMixin
from transformer_fast.models.common.base import Part, PretrainedModel, Source, under
from transformer_fast.models.common.decoding import (
    CACHE_TYPES,
    CacheShape,
    DecoderBatch,
    DecoderState,
    DecoderStep,
    DecoderSteps,
    cache_dtype,
)
from transformer_fast.models.common.inputs import integers, packed_ids, token_mask
from transformer_fast.models.common.output import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformer_fast.models.common.saved_state import fill_state, read_header
from transformer_fast.nn import Linear
from transformer_fast.nn.decoder_stack import DecoderStackCache
from transformer_fast.nn.sequences import PackedSequences, unpack_weights

# Positions that a row's caches reserve at most from the beginning: a system may refuse much more memory than it has,
# even if nobody writes to it. Beyond, caches double.
_RESERVED = 32768
# Tokens of a prompt that run through the layers together: what passes between two layers then stays in cache, and in
# memory that the process already has. GPT-2 small, 8 rows of 512: 2 to 5 % faster than all at once, with 512 to 2048.
_PROMPT_TOKENS = 1024


class Decoder(PretrainedModel):
    """The stack of a decoder. A family sets `layers` and `final_norm`, and defines `embed`, `rotary_tables` and
    `cache_spec`.

    A layer is called with (hidden (T, h), batch, its number, tables) and returns what takes the place of hidden; it may
    write it there. Where the family gives `engine_layers`, the engine runs all layers in one call, with the same bits.
    """

    width: int

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._engine = DecoderStackCache()

    def engine_layers(self) -> F.Decoder | None:
        """The layers and the final norm as the engine runs them, or None: it does not know their kind."""
        return None

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The embeddings of ids (T,) at positions (T,), a new array (T, h)."""
        raise NotImplementedError(f"{type(self).__name__} has no embed()")

    def rotary_tables(self, positions: np.ndarray) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """For each kind of rotation among the layers, cosines and sines of positions (T,)."""
        return {}

    def cache_spec(self) -> list[CacheShape]:
        """The shape of each layer's cache."""
        raise NotImplementedError(f"{type(self).__name__} has no cache_spec()")

    def check_capacity(self, capacity: int) -> None:
        """Raises ValueError where rows of that length are too long for the model; rotations know no limit."""

    def rotates_by_length(self) -> bool:
        """Do the rotary tables of a call depend on its longest row?"""
        return False

    @property
    def hidden_size(self) -> int:
        """The length of the vectors that `encode_packed` gives."""
        return self.width

    @property
    def max_length(self) -> int | None:
        """The most tokens that a text may have; None: no limit."""
        return None

    def new_state(
        self,
        B: int,
        capacity: int,
        *,
        trimmed: bool,
        kv_cache_dtype: str | None = None,
        kv_page_size: int | None = None,
    ) -> DecoderState:
        """An empty state; trimmed: layers with a window forget what no later token sees."""
        return DecoderState(
            B,
            self.cache_spec(),
            min(capacity, _RESERVED),
            trimmed=trimmed,
            page_size=kv_page_size,
            dtype=cache_dtype(kv_cache_dtype),
            config=self.config,
        )

    def empty_past(self, rows: int, kv_cache_dtype: str | None = None, kv_page_size: int | None = None) -> DecoderState:
        """A past_key_values of no tokens, kept as kv_cache_dtype and kv_page_size say: see `generate`.

        Raises:
            ValueError: there is no such type, or no such pages.
        """
        return self.new_state(rows, 0, trimmed=False, kv_cache_dtype=kv_cache_dtype, kv_page_size=kv_page_size)

    def load_past(self, path: str | Path) -> DecoderState:
        """The past that `past_key_values.save(path)` wrote, for `forward` and `generate`.

        Raises:
            CheckpointError: the file is no such past, or one of a model with another config.
        """
        header, arrays = read_header(path, self.config)
        if header.get("dtype") not in CACHE_TYPES:
            raise CheckpointError(f"{path}: dtype is {header.get('dtype')!r}; needed: one of {', '.join(CACHE_TYPES)}")
        rows = arrays["positions"].size if "positions" in arrays else 0
        state = self.new_state(rows, 0, trimmed=bool(header.get("trimmed")), kv_cache_dtype=header["dtype"])
        fill_state(state, header, arrays, path)
        return state

    def run(
        self, ids: np.ndarray, positions: np.ndarray, batch: DecoderBatch | DecoderStep, states: list | None = None
    ) -> np.ndarray:
        """ids and positions (T,) -> what the last layer gives, (T, h); states gets a copy of each layer's input."""
        hidden = self.embed(ids, positions)
        tables = self.rotary_tables(positions)
        for number, layer in enumerate(self.layers):
            if states is not None:
                states.append(hidden.copy())
            hidden = layer(hidden, batch, number, tables)
        batch.finish()
        return hidden

    def last_hidden(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        batch: DecoderBatch | DecoderStep,
        rows: np.ndarray | None = None,
        head: Linear | None = None,
    ) -> np.ndarray:
        """ids and positions (T,) -> what the final norm gives for the tokens `rows` (None: all), (n, h), or what head
        makes of it (n, V)."""
        engine = self._engine.get(self, self.engine_layers)
        if engine is None:
            hidden = self.run(ids, positions, batch)
            hidden = self.final_norm(hidden if rows is None else hidden[rows])
            return hidden if head is None else head(hidden)
        state, caches = batch.state, None
        if state is not None:
            caches = tuple(cache.engine_arrays(kept) for cache, kept in zip(state.caches, batch.kept, strict=True))
        result = engine.unchecked(
            self.embed(ids, positions),
            batch.cu_seqlens,
            tuple(self.rotary_tables(positions).values()),
            caches=caches,
            places=engine.without_caches if state is None else state.places,
            fresh=batch.fresh,
            stepwise=batch.stepwise,
            rows=rows,
            head=None if head is None else head.packed(),
            head_bias=None if head is None else head.bias,
        )
        batch.finish()
        return result

    def run_prompt(self, ids: np.ndarray, tokens: np.ndarray, rows: slice, state: DecoderState) -> np.ndarray:
        """Runs the prompts of `rows` (of ids and tokens (B, L)), whose caches are empty -> what the final norm gives
        for the last token of each."""
        own = np.zeros_like(tokens)
        own[rows] = tokens[rows]
        prompts = PackedSequences(own)
        positions = prompts.pack(np.cumsum(own, axis=1) - 1)
        batch = DecoderBatch(prompts.cu_seqlens, state)
        return self.last_hidden(prompts.pack(ids), positions, batch, prompts.cu_seqlens[1:][rows] - 1)

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
        input_ids, cu_seqlens = packed_ids(input_ids, cu_seqlens, self.config.vocab_size)
        lengths = np.diff(cu_seqlens)
        self.check_capacity(int(lengths.max(initial=0)))
        positions = np.arange(len(input_ids)) - np.repeat(cu_seqlens[:-1], lengths)
        wanted = None
        if pooled_rows is not None:
            wanted = cu_seqlens[:-1] + rows_within(pooled_rows, "pooled_rows", lengths)
        found = np.empty((len(input_ids) if wanted is None else len(lengths), self.width), np.float32)
        groups = _groups(lengths, 0 if self.rotates_by_length() else _PROMPT_TOKENS)
        for texts in groups if len(lengths) else ():
            starts = cu_seqlens[texts.start : texts.stop + 1]
            tokens, rows, own = slice(starts[0], starts[-1]), texts, None
            if wanted is None:
                rows = tokens
            else:
                own = wanted[texts] - starts[0]
            batch = DecoderBatch(starts - starts[0], None)
            found[rows] = self.last_hidden(input_ids[tokens], positions[tokens], batch, own)
        return found

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        past_key_values: DecoderState | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPast:
        """Integers (B, L) -> last_hidden_state (B, L, h), as transformers' model of this name.

        attention_mask (B, L), with a past (B, past + L) or (B, L): 0 for padding, which may stand anywhere; what it
        hides is not computed and gives zeros. position_ids (L,), (1, L) or (B, L), by default the column, padding
        counted. use_cache: past_key_values of the output is the state after these tokens; give it back with the tokens
        that follow (a state is changed in place, and may come from a generation). output_attentions and
        output_hidden_states: see the output.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
            IndexError: an id is outside of its table.
            RuntimeError: past_key_values is in use by a call of another thread.
        """
        input_ids = integers("input_ids", input_ids, self.config.vocab_size)
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids has shape {input_ids.shape}; needed: (B, L) with L >= 1")
        B, L = input_ids.shape
        state = past_key_values
        if state is None and use_cache:
            state = self.new_state(B, L, trimmed=False)
        options = attention_mask, position_ids, state, use_cache, output_attentions, output_hidden_states
        if state is None:
            return self._forward(input_ids, *options)
        with state.in_use:
            if len(state.positions) != B:
                raise ValueError(f"past_key_values is of {len(state.positions)} rows; needed: {B}, as input_ids has")
            state.count_columns()
            return self._forward(input_ids, *options)

    def _forward(
        self, input_ids, attention_mask, position_ids, state, use_cache, output_attentions, output_hidden_states
    ) -> BaseModelOutputWithPast:
        """`forward` with the state that past_key_values and use_cache lead to."""
        B, L = input_ids.shape
        seen = np.zeros((B, 0), bool) if state is None else state.tokens
        past = seen.shape[1]
        tokens = self.tokens(attention_mask, (B, L), seen)
        sequences = PackedSequences(tokens)
        if position_ids is None:
            positions = np.zeros((B, 1), np.int64) + np.arange(past, past + L)
        else:
            positions = integers("position_ids", position_ids, None, (B, L))
        positions = sequences.pack(positions)
        weights = [] if output_attentions else None
        states = [] if output_hidden_states else None
        ids = sequences.pack(input_ids)
        if weights is None and states is None:
            step = L == 1 and sequences.full and state is not None and state.holds_some()
            batch = DecoderStep(state) if step else DecoderBatch(sequences.cu_seqlens, state)
            hidden = self.last_hidden(ids, positions, batch)
        else:
            batch = DecoderBatch(sequences.cu_seqlens, state, weights)
            hidden = self.final_norm(self.run(ids, positions, batch, states))
        columns = np.concatenate([seen, tokens], axis=1)
        if state is not None:
            state.tokens = columns
            state.positions = np.where(sequences.lengths > 0, past + L, state.positions)
        return BaseModelOutputWithPast(
            sequences.unpack(hidden),
            state if use_cache else None,
            None if states is None else tuple(map(sequences.unpack, [*states, hidden])),
            None
            if weights is None
            else tuple(unpack_weights(rows, tokens, columns, len(rows[0]) if rows else 0) for rows in weights),
        )

    def tokens(self, attention_mask: Any, shape: tuple[int, int], seen: np.ndarray) -> np.ndarray:
        """The mask of the new tokens as booleans (B, L); seen (B, past) is that of the past."""
        past = seen.shape[1]
        if attention_mask is None and seen.all():
            return np.ones(shape, bool)
        if attention_mask is not None and past:
            attention_mask = as_array(attention_mask, "attention_mask")
            if attention_mask.shape == (shape[0], past + shape[1]):
                attention_mask = attention_mask[:, past:]
        tokens = token_mask(attention_mask, shape)
        columns = np.concatenate([seen, tokens], axis=1)
        spans = columns.shape[1] - np.argmax(columns, axis=1) - np.argmax(columns[:, ::-1], axis=1)
        holes = columns.any(axis=1) & (spans != columns.sum(axis=1))
        if holes.any() and any(shape.window is not None for shape in self.cache_spec()):
            raise ValueError(
                f"attention_mask has padding between tokens in row {int(np.argmax(holes))}; needed by layers with a "
                "sliding window: padding on the left or on the right only"
            )
        return tokens


def _groups(lengths: np.ndarray, most: int = _PROMPT_TOKENS) -> list[slice]:
    """Rows in a row, cut so that each group has `most` tokens at most, or is one row."""
    groups, first, total = [], 0, 0
    for row, length in enumerate(lengths):
        if row > first and total + length > most:
            groups.append(slice(first, row))
            first, total = row, 0
        total += length
    return [*groups, slice(first, len(lengths))]


class CausalLM(GenerationMixin, PretrainedModel):
    """A decoder with a head that gives the scores of the next token; a family sets `body_class` and `body_name`.

    Where config.tie_word_embeddings holds, the head's weight is the embedding's, unless the file holds another one for
    the head: then that one counts, as in transformers.

    token_ids: the tokens that the head scores, in this order; None: all. See `scoring`.
    """

    body_class: type[Decoder]
    body_name: str
    embedding_name: str  # the body's parameter of the embedding
    head_prefixes = ("lm_head.",)
    ignored = ("lm_head.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        body = self.body_class(config)
        setattr(self, self.body_name, body)
        self.lm_head = Linear(body.width, self.scored(config), bias=False).pack_for_decode()
        if config.tie_word_embeddings and self.token_ids is None:
            self.lm_head.weight = body.state_dict()[self.embedding_name]
        self.lm_head.follows(body.final_norm)

    @classmethod
    def scoring(cls, token_ids: Collection[int]) -> type[CausalLM]:
        """This class with a head that scores these tokens alone: rerankers ask for "yes" and "no".

        No other row of the head's weight is read. `last_logits` is to be called, since `generate` needs all tokens.

        Example:
            >>> reranker = Qwen3ForCausalLM.scoring([9693, 2152]).from_pretrained(folder)             # doctest: +SKIP
            >>> reranker.last_logits(ids, [0, 9])                                                     # doctest: +SKIP
            array([[1.5, -0.3]], dtype=float32)
        """
        named = vars(cls).get("scoring_of") or cls
        own = {"token_ids": tuple(token_ids), "scoring_of": named, "__module__": cls.__module__}
        return type(cls.__name__, (named,), own)

    @classmethod
    def scored(cls, config: Any) -> int:
        """The number of tokens that the head scores."""
        return config.vocab_size if cls.token_ids is None else len(cls.token_ids)

    @property
    def body(self) -> Decoder:
        return self._modules[self.body_name]

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        own = cls.body_class.sources(config, names)
        tied = config.tie_word_embeddings and "lm_head.weight" not in names
        head = own[cls.embedding_name] if tied else Source("lm_head.weight")
        return under(cls.body_name, own) | {"lm_head.weight": cls.of_tokens(head, config)}

    @classmethod
    def of_tokens(cls, head: Source, config: Any) -> Source:
        """The part of the head's weight or bias that belongs to the tokens that are scored."""
        if cls.token_ids is None:
            return head
        (name,), V = head.names, config.vocab_size
        bad = [token for token in cls.token_ids if not 0 <= token < V]
        if bad:
            raise CheckpointError(f"token {bad[0]} is to be scored; needed: 0 to {V - 1}, the model's tokens")
        return Source(*(Part(name, of=V, rows=slice(token, token + 1)) for token in cls.token_ids))

    @classmethod
    def tied(cls, config: Any, names: Collection[str]) -> Mapping[str, str]:
        if not config.tie_word_embeddings or cls.token_ids is not None:
            return {}
        return {"lm_head.weight": cls.body_class.sources(config, names)[cls.embedding_name].names[0]}

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        past_key_values: DecoderState | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Integers (B, L) -> logits (B, L, V), as transformers' model of this name.

        logits_to_keep: the number of last columns to compute logits for, 0 for all. The other arguments are those of
        `Decoder.forward`.

        Raises:
            ValueError, TypeError, IndexError: as `Decoder.forward`.
        """
        if isinstance(logits_to_keep, bool) or not isinstance(logits_to_keep, (int, np.integer)) or logits_to_keep < 0:
            raise ValueError(f"logits_to_keep is {logits_to_keep!r}; needed: an integer >= 0 (0: all)")
        output = self.body(
            input_ids, attention_mask, position_ids, past_key_values, use_cache, output_attentions, output_hidden_states
        )
        hidden = output.last_hidden_state[:, -logits_to_keep:]  # 0: all
        if attention_mask is None:
            logits = self.logits(hidden)
        else:
            L = output.last_hidden_state.shape[1]
            kept = PackedSequences((np.asarray(attention_mask)[:, -L:] != 0)[:, -logits_to_keep:])
            logits = kept.unpack(self.logits(kept.pack(hidden)))
        return CausalLMOutputWithPast(logits, output.past_key_values, output.hidden_states, output.attentions)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden (..., h), after the final norm -> scores of the next token (..., V)."""
        return self.scores(self.lm_head(hidden))

    def last_logits(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Packed texts as in `Decoder.encode_packed` -> the scores (B, V) of the token that follows each.

        Raises:
            ValueError, TypeError, IndexError: as `Decoder.encode_packed`, or a text is empty.
        """
        ids, cu_seqlens = packed_ids(input_ids, cu_seqlens, self.config.vocab_size, empty=False)
        return self.logits(self.body.encode_packed(ids, cu_seqlens, pooled_rows=np.diff(cu_seqlens) - 1))

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """What the family makes of the head's result (..., V), which may be overwritten."""
        return logits

    def empty_past(self, rows: int, kv_cache_dtype: str | None = None, kv_page_size: int | None = None) -> DecoderState:
        """See `Decoder.empty_past`."""
        return self.body.empty_past(rows, kv_cache_dtype, kv_page_size)

    def load_past(self, path: str | Path) -> DecoderState:
        """See `Decoder.load_past`."""
        return self.body.load_past(path)

    def start(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        *,
        capacity: int,
        past_key_values: DecoderState | None = None,
        kv_cache_dtype: str | None = None,
        kv_page_size: int | None = None,
    ) -> tuple[np.ndarray, DecoderState]:
        """See `transformer_fast.generation`: input_ids (B, L) -> logits (B, V) that follow each row, and a state.

        past_key_values: a past of the first columns of input_ids, which are not computed again; it becomes the state.
        There may be no padding then. kv_cache_dtype: how keys and values are kept, "float32" (the default), "bfloat16",
        "float16" or "int8" (with a scale for each position of a head); a prompt's own tokens attend each other in
        float32. kv_page_size: positions of a page, where they are kept in pages, which rows that part share.

        Raises:
            ValueError, TypeError, IndexError: shapes, types or ids do not fit, a row has no token, or capacity is more
                than the model has positions for.
        """
        body = self.body
        input_ids = integers("input_ids", input_ids, self.config.vocab_size)
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids has shape {input_ids.shape}; needed: (B, L)")
        tokens = body.tokens(attention_mask, input_ids.shape, np.zeros((len(input_ids), 0), bool))
        if not tokens.any(axis=1).all():
            raise ValueError(
                f"row {int(np.argmin(tokens.any(axis=1)))} of input_ids has no token; needed: at least one"
            )
        body.check_capacity(capacity)
        if past_key_values is not None:
            if kv_page_size is not None and past_key_values.page_size != kv_page_size:
                raise ValueError(
                    f"kv_page_size is {kv_page_size}; needed: {past_key_values.page_size}, that of past_key_values"
                )
            return self._continue(input_ids, tokens, past_key_values, capacity, kv_cache_dtype), past_key_values
        kept = {"kv_cache_dtype": kv_cache_dtype, "kv_page_size": kv_page_size}
        state = body.new_state(len(input_ids), capacity, trimmed=True, **kept)
        state.positions, state.generating, state.padded = tokens.sum(axis=1), True, not tokens.all()
        last = [body.run_prompt(input_ids, tokens, rows, state) for rows in _groups(state.positions)]
        return self.logits(np.concatenate(last)), state

    def _continue(self, input_ids, tokens, state: DecoderState, capacity: int, kv_cache_dtype: str | None):
        """The logits (B, V) after input_ids, of which `state` holds the first columns."""
        B, L = input_ids.shape
        past = state.get_seq_length()
        if len(state.positions) != B or past >= L:
            raise ValueError(
                f"past_key_values holds {len(state.positions)} rows of {past} columns and input_ids has shape "
                f"{input_ids.shape}; needed: as many rows, and more columns than it holds"
            )
        if kv_cache_dtype is not None and state.dtype != cache_dtype(kv_cache_dtype):
            raise ValueError(f"kv_cache_dtype is {kv_cache_dtype!r}; needed: {state.dtype}, that of past_key_values")
        state.count_columns()
        if not (tokens.all() and state.tokens.all()):
            raise ValueError("input_ids or past_key_values have padding; needed with past_key_values: none")
        state.reserve(min(capacity, _RESERVED))
        return self.extend(input_ids[:, past:], state)

    def extend(self, ids: np.ndarray, state: DecoderState, every: bool = False) -> np.ndarray:
        """ids (B, n), more tokens of each row -> logits (B, V) after the last of them; the state is changed in place.

        every, for one row: logits (n, V) after each of them, with the bits that n calls of `step` would give.

        Raises:
            ValueError, TypeError, IndexError: shapes, types or ids do not fit.
            RuntimeError: the state is in use by a call of another thread.
        """
        with state.in_use:
            return self._extend(ids, state, every)

    def _extend(self, ids: np.ndarray, state: DecoderState, every: bool) -> np.ndarray:
        body, positions = self.body, state.positions
        ids = integers("ids", ids, self.config.vocab_size)
        if ids.ndim != 2 or len(ids) != len(positions) or ids.shape[1] == 0 or (every and len(ids) != 1):
            needed = 1 if every else len(positions)
            raise ValueError(f"ids has shape {ids.shape}; needed: ({needed}, n) with n >= 1")
        B, n = ids.shape
        if n == 1:
            return self.step(ids[:, 0], state)
        ids, positions = ids.reshape(-1), (positions[:, None] + np.arange(n)).reshape(-1)
        starts = np.arange(B + 1) * n
        batch, rows = (DecoderSteps(state, n), None) if every else (DecoderBatch(starts, state), starts[1:] - 1)
        logits = body.last_hidden(ids, positions, batch, rows, self.lm_head)
        state.count_step(n)
        return self.scores(logits)

    def step(self, ids: np.ndarray, state: DecoderState) -> np.ndarray:
        """See `transformer_fast.generation`: ids (B,) -> logits (B, V)."""
        ids = integers("ids", ids, self.config.vocab_size)
        with state.in_use:
            positions = state.positions
            if ids.shape != positions.shape:
                raise ValueError(f"ids has shape {ids.shape}; needed: {positions.shape}, one id a row")
            logits = self.body.last_hidden(ids, positions, DecoderStep(state), head=self.lm_head)
            state.count_step(1)
        return self.scores(logits)

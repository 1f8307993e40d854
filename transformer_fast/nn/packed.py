"""Encoders on packed tokens: `PackedEncoder`, its layer, and `Collector`, which keeps what happens inside for users.

Models call these: BERT and its relatives post-norm, ViT and CLIP pre-norm. Sequences follow each other in
(T, h) without padding, told apart by cu_seqlens. Where nothing but the result is asked for, all layers run as one call
of `functional.Encoder`; else layer by layer, to the same bits. An option of attention goes through `forward` to
`functional.varlen_attention`; a block of another build (gated, rotary) becomes a class of its own in its model's file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional import attention_checks as checks
from transformer_fast.functional.arrays import FLOAT32, check_out
from transformer_fast.nn.attention import PackedSelfAttention
from transformer_fast.nn.encoder_stack import EncoderStackCache, StackSpec
from transformer_fast.nn.feed_forward import FeedForward
from transformer_fast.nn.module import Module, ModuleList
from transformer_fast.nn.norm import LayerNorm
from transformer_fast.nn.sequences import PackedSequences, Scratch, unpack_weights


class Collector:
    """Keeps the outputs of each layer of packed tokens, unpacked to (B, L) with zeros for padding.

    tokens (B, L) is True where there are tokens. computed (B, L) is True for the rows that run, by default the tokens;
    further rows (the first place of a row, which a pooler reads) run, but are not reported, nor attended.

    Attributes:
        hidden_states: (B, L, h) for the input and each layer, if asked for, else None.
        attentions: (B, H, L, L) for each layer, if asked for, else None.
        global_attentions: of encoders that have tokens with an attention of their own, else None.

    Example:
        >>> collect = nn.Collector(np.array([[True, True], [True, False]]), hidden_states=True)
        >>> collect.add_hidden(np.array([[1, 2], [3, 4], [5, 6]], np.float32))  # the three tokens
        >>> collect.hidden_states[0][1]
        array([[5., 6.],
               [0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        tokens: np.ndarray,
        computed: np.ndarray | None = None,
        *,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> None:
        self._keys = PackedSequences(np.asarray(tokens))
        self._queries = self._keys if computed is None else PackedSequences(np.asarray(computed))
        self.hidden_states: tuple[np.ndarray, ...] | None = () if hidden_states else None
        self.attentions: tuple[np.ndarray, ...] | None = () if attentions else None
        self.global_attentions: tuple[np.ndarray, ...] | None = None

    def add_hidden(self, hidden: np.ndarray) -> None:
        """hidden (T, h): the rows of `computed`."""
        if self.hidden_states is not None:
            self.hidden_states += (self.unpacked(hidden),)

    def add_weights(self, query: np.ndarray, key: np.ndarray, options: dict[str, Any]) -> None:
        """query (T, H, D) of the rows of `computed`, key (Tk, H, D) of `tokens`; options of varlen_attention."""
        if self.attentions is None:
            return
        longest, weights = self._queries.longest, []
        for b in range(len(self._keys)):
            rows = slice(*self._queries.cu_seqlens[b : b + 2])
            q = query[rows].swapaxes(0, 1)
            k = key[slice(*self._keys.cu_seqlens[b : b + 2])].swapaxes(0, 1)
            if k.shape[1]:
                own = _for_sequence(options, b, longest, rows, k.shape[1])
                _, found = F.scaled_dot_product_attention(q, k, k, return_weights="heads", **own)
                weights.append(found)
            else:
                weights.append(np.zeros((*q.shape[:2], 0), np.float32))
        self.add_found(weights, query.shape[1])

    def add_found(self, weights: Sequence[np.ndarray], num_heads: int) -> None:
        """weights: those of each sequence, (num_heads, its rows of `computed`, its tokens), if they are asked for."""
        if self.attentions is None:
            return
        tokens, computed = self._keys.tokens, self._queries.tokens
        reported = [found[:, tokens[b][computed[b]]] for b, found in enumerate(weights)]
        self.attentions += (unpack_weights(reported, tokens, tokens, num_heads),)

    def unpacked(self, hidden: np.ndarray) -> np.ndarray:
        """hidden (T, h) of the rows of `computed` -> (B, L, h) of its own."""
        if self._queries is not self._keys:
            hidden = hidden[self._queries.pack(self._keys.tokens)]
        return self._keys.unpack(hidden, copy=True)


def _for_sequence(options: dict[str, Any], b: int, longest: int, rows: slice, Lk: int) -> dict[str, Any]:
    """Options of varlen_attention as scaled_dot_product_attention needs them for sequence b; longest: of all."""
    own, Lq = dict(options), rows.stop - rows.start
    if own.get("relative_bias") is not None:
        first = longest - Lq
        own["relative_bias"] = own["relative_bias"][:, first : first + Lq + Lk - 1]
    if own.get("attn_mask") is not None:
        mask = own["attn_mask"]
        own["attn_mask"] = mask[b if len(mask) > 1 else 0][:, :Lq, :Lk]
    if own.get("mask") is not None:
        own["mask"] = F.KeyRanges.from_dense(own["mask"].of_rows(rows).dense()[..., :Lk])
    return own


def for_pooled_rows(
    pooled_rows: int | np.ndarray,
    cu_seqlens: np.ndarray,
    keys: tuple[np.ndarray, np.ndarray] | None,
    options: dict[str, Any],
) -> tuple[np.ndarray, dict[str, Any]]:
    """The row of each sequence that a last layer computes, (B,), counted from row 0, and the options of these rows.

    pooled_rows, cu_seqlens and keys: of `PackedEncoder`. options: of varlen_attention, for all rows, attn_mask with
    all its axes, mask as KeyRanges. All but pooled_rows is checked already. A relative bias becomes a mask, since the
    rows may be at different places.
    """
    B, lengths = len(cu_seqlens) - 1, np.diff(cu_seqlens)
    places = checks.rows_within(pooled_rows, "pooled_rows", lengths)
    key_lengths = lengths if keys is None else np.diff(keys[1])
    own = dict(options)
    if own.get("is_causal") or "window" in own:
        before = checks.offsets(own.get("causal_offset", 0), B, key_lengths - lengths)
        own["causal_offset"] = places if before is None else places + before
    mask, table = own.pop("attn_mask", None), own.pop("relative_bias", None)
    if mask is not None:
        mask = mask[np.arange(B), :, places]
    if table is not None:
        distances = np.arange(key_lengths.max(initial=0)) - places[:, None]
        bias = table[:, distances + lengths.max(initial=0) - 1].swapaxes(0, 1)
        if mask is None:
            mask = bias
        else:
            mask = np.where(mask, bias, np.float32(-np.inf)) if mask.dtype == bool else mask + bias
    if mask is not None:
        own["attn_mask"] = np.ascontiguousarray(mask[:, :, None])
    rows = cu_seqlens[:-1] + places
    if own.get("mask") is not None:
        own["mask"] = own["mask"].of_rows(rows)
    return rows, own


class PackedEncoderLayer(Module):
    """Self-attention and feed-forward, each with residual and norm: post-norm as in BERT, or pre-norm (norm_first)."""

    def __init__(
        self, h: int, num_heads: int, inner: int, activation: str, eps: float, norm_first: bool, bias: bool
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = PackedSelfAttention(h, num_heads, bias)
        self.attention_norm = LayerNorm(h, eps)
        self.feed_forward = FeedForward(h, inner, activation, bias)
        self.feed_forward_norm = LayerNorm(h, eps)

    def forward(
        self,
        hidden: np.ndarray,
        cu_seqlens: np.ndarray,
        keys: tuple[np.ndarray, np.ndarray] | None,
        options: dict[str, Any],
        scratch: Scratch,
        collect: Collector | None,
        out: np.ndarray,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), written to out, which may be hidden.

        pooled (B,): a row of each sequence, counted from row 0 of hidden. Only these are computed then, (B, h), into an
        out other than hidden, and options are those of these rows.
        """
        own = hidden if pooled is None else hidden[pooled]
        h, inner = hidden.shape[1], self.feed_forward.linear1.out_features
        projected, normed = scratch("projected", 3 * h), scratch("attended", h)
        rows, attended, inner = scratch("rows", h)[: len(own)], normed[: len(own)], scratch("inner", inner)[: len(own)]
        buffers = {"projected": projected, "context": attended, "out": rows}
        attend = {"keys": keys, "pooled": pooled, "residual": own} | buffers | options
        if self.norm_first:
            self.attention(self.attention_norm(hidden, out=normed), cu_seqlens, **attend)
            normed = self.feed_forward_norm(rows, out=attended)
            self.feed_forward(normed, residual=rows, hidden=inner, out=out)
        else:
            self.attention(hidden, cu_seqlens, **attend)
            normed = self.attention_norm(rows, out=attended)
            self.feed_forward(normed, residual=normed, hidden=inner, out=rows)
            self.feed_forward_norm(rows, out=out)
        if collect is not None:
            query, key = np.split(projected, 3, axis=1)[:2]
            H = self.attention.num_heads
            heads = (len(hidden), H, hidden.shape[1] // H)
            query, key = query.reshape(heads), key.reshape(heads)
            collect.add_weights(query, key if keys is None else key[keys[0]], options)
            collect.add_hidden(out)
        return out

    def encoder_layer(self) -> tuple:
        """The fields of functional.EncoderLayer, which computes what `forward` does."""
        attention, ffn = self.attention, self.feed_forward
        linears = (attention.in_proj, attention.out_proj, ffn.linear1, ffn.linear2)
        norms = (self.attention_norm, self.feed_forward_norm)
        return (
            *(linear.packed() for linear in linears),
            *(linear.bias for linear in linears),
            *(vector for norm in norms for vector in (norm.weight, norm.bias)),
        )

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


class PackedEncoder(ModuleList):
    """num_layers encoder layers of width h with num_heads heads and a feed-forward of width inner, on packed tokens.

    activation: a name of functional.linear. eps: of the norms. norm_first: pre-norm; the norm after the last layer is
    then the model's. bias: of the linear layers. order: the numbers of the layers in the order in which they run, if
    it is not 0, 1, ...: a layer may run many times (ALBERT). Parameters: those of `PackedEncoderLayer` under "0.", ...
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, with BERT's and ViT's order of norms.

    Example:
        >>> import numpy as np
        >>> encoder = PackedEncoder(2, 16, 4, 32, "gelu", 1e-12)
        >>> encoder(np.zeros((5, 16), np.float32), np.array([0, 2, 5])).shape
        (5, 16)
    """

    def __init__(
        self,
        num_layers: int,
        h: int,
        num_heads: int,
        inner: int,
        activation: str,
        eps: float,
        norm_first: bool = False,
        bias: bool = True,
        order: Sequence[int] | None = None,
    ) -> None:
        layer = (h, num_heads, inner, activation, eps, norm_first, bias)
        super().__init__([PackedEncoderLayer(*layer) for _ in range(num_layers)])
        self.given_order = None if order is None else tuple(order)
        if not set(self.order) <= set(range(num_layers)):
            raise ValueError(f"order is {order}; needed: numbers of the {num_layers} layers")
        self.h, self.num_heads, self.inner = h, num_heads, inner
        self.activation, self.eps, self.norm_first = activation, eps, norm_first
        self._encoder = EncoderStackCache()
        for one in self:
            one.feed_forward.linear1.follows(one.feed_forward_norm if norm_first else one.attention_norm)
            if norm_first:
                one.attention.in_proj.follows(one.attention_norm, parts=3)
        if not norm_first:
            for one, following in itertools.pairwise(self.run()):
                following.attention.in_proj.follows(one.feed_forward_norm, parts=3)

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of the layers in the order in which they run; all of them, where none was given."""
        return tuple(range(len(self))) if self.given_order is None else self.given_order

    def run(self) -> list[PackedEncoderLayer]:
        """The layers in the order in which they run."""
        return [self[i] for i in self.order]

    def follows(self, norm: Module, parts: int = 3) -> PackedEncoder:
        """As `Module.follows`; with norm_first the first layer's own norm stands between."""
        if not self.norm_first and self.order:
            self[self.order[0]].attention.in_proj.follows(norm, parts)
        return self

    def forward(
        self,
        hidden: np.ndarray,
        cu_seqlens: np.ndarray,
        keys: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        is_causal: bool = False,
        relative_bias: np.ndarray | None = None,
        attn_mask: np.ndarray | None = None,
        mask: F.KeyRanges | None = None,
        pooled_rows: int | np.ndarray | None = None,
        collect: Collector | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h), sequence b in the rows cu_seqlens[b]:cu_seqlens[b + 1] -> (T, h).

        keys = (rows, cu_seqlens_k) attends only those rows; by default all. is_causal, relative_bias (H or 1,
        Mq + Mk - 1), attn_mask (B or 1, H or 1, Mq, Mk) and mask (KeyRanges): of varlen_attention, the same in every
        layer. collect keeps attentions and hidden states, the input among them. out may be hidden itself. pooled_rows:
        of functional.Encoder, the one row of each sequence that is wanted -> (B, h), not over hidden.

        Raises:
            ValueError, TypeError: shapes or types do not fit.
        """
        hidden = np.ascontiguousarray(hidden, np.float32)
        options = {"is_causal": is_causal, "relative_bias": relative_bias, "attn_mask": attn_mask, "mask": mask}
        options = {name: value for name, value in options.items() if value is not None and value is not False}
        if keys is None and collect is None and not options.keys() - {"is_causal"} and self.order:
            return self._encoder.get(self, self._spec, is_causal)(hidden, cu_seqlens, pooled_rows=pooled_rows, out=out)
        if hidden.ndim != 2 or hidden.shape[1] != self.h:
            raise ValueError(f"hidden has shape {hidden.shape}; needed: (T, {self.h})")
        cu_seqlens, keys = _checked(cu_seqlens, keys, len(hidden), self.num_heads, options)
        if collect is not None:
            collect.add_hidden(hidden)
        if pooled_rows is not None:
            return self._pooled(hidden, cu_seqlens, keys, options, pooled_rows, collect, out)
        if out is None:
            out = np.empty_like(hidden)
        scratch = Scratch(len(hidden))
        for layer in self.run():
            hidden = layer(hidden, cu_seqlens, keys, options, scratch, collect, out)
        return hidden

    def _pooled(self, hidden, cu_seqlens, keys, options, pooled_rows, collect, out) -> np.ndarray:
        """`forward` with pooled_rows, layer by layer."""
        pooled, own_options = for_pooled_rows(pooled_rows, cu_seqlens, keys, options)
        shape = (len(pooled), self.h)
        if out is None:
            out = np.empty(shape, np.float32)
        else:
            check_out(out, shape, FLOAT32, {"hidden": hidden, "cu_seqlens": cu_seqlens} | options)
        if not self.order:
            out[...] = hidden[pooled]
            return out
        *layers, last = self.run()
        scratch, state = Scratch(len(hidden)), np.empty_like(hidden)
        for layer in layers:
            hidden = layer(hidden, cu_seqlens, keys, options, scratch, collect, state)
        if collect is not None:  # all rows of the last layer are only reported: the result has the bits as without
            last(hidden, cu_seqlens, keys, options, scratch, collect, np.empty_like(hidden))
        return last(hidden, cu_seqlens, keys, own_options, scratch, None, out, pooled)

    def _spec(self) -> StackSpec:
        options = self.num_heads, self.activation, (self.eps, self.eps), self.norm_first
        return StackSpec([layer.encoder_layer() for layer in self.run()], options)

    def extra_repr(self) -> str:
        return f"{self.h}, num_heads={self.num_heads}, inner={self.inner}, norm_first={self.norm_first}"


def _checked(cu_seqlens, keys, T: int, num_heads: int, options: dict[str, Any]) -> tuple[np.ndarray, tuple | None]:
    """cu_seqlens and keys; attn_mask (with all its axes) and relative_bias are put into options."""
    cu_seqlens = cu_keys = checks.starts(cu_seqlens, "cu_seqlens", T, "hidden")
    if keys is not None:
        rows, cu_keys = keys
        cu_keys = checks.starts(cu_keys, "cu_seqlens_k", len(rows), "keys")
        if len(cu_keys) != len(cu_seqlens):
            raise ValueError(
                f"keys have {len(cu_keys) - 1} sequences; needed: as many as hidden, {len(cu_seqlens) - 1}"
            )
        keys = rows, cu_keys
    longest = (int(np.diff(cu).max(initial=0)) for cu in (cu_seqlens, cu_keys))
    shape = (num_heads, *longest)
    if "attn_mask" in options:
        options["attn_mask"] = checks.mask(options["attn_mask"], (len(cu_seqlens) - 1,), shape)
    if "relative_bias" in options:
        options["relative_bias"] = checks.table(options["relative_bias"], *shape)
    return cu_seqlens, keys

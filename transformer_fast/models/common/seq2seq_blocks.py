"""The layers of encoder-decoder models, and how their rows attend: what T5, LongT5, BART, Marian and Whisper share.

`seq2seq` runs stacks of these layers; a family describes its layers with a `BlockShape`. Tokens run packed,
(T, h) without padding; which keys a row sees is not the layer's business but that of the function it is given:
`PackedAttention` for whole sequences, the methods of `Seq2SeqState` for decoding with a cache.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, and transformers' modeling_bart and modeling_t5.
To add a kind of layer: a field of `BlockShape`, and what it changes in `Block`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import FeedForward, FusedLinear, KeyValueCache, LayerNorm, Linear, Module, ModuleList, RMSNorm
from transformer_fast.nn.cache import narrowed
from transformer_fast.nn.encoder_stack import EncoderStackCache, StackSpec
from transformer_fast.nn.sequences import PackedSequences, unpack_weights

Attend = Callable[..., None]


@dataclass(frozen=True)
class BlockShape:
    """The parts of a layer; the defaults are BART's.

    width h; heads H; head_dim D (H * D may differ from h); inner: of the feed-forward; activation: a name that
    functional.linear knows. rms: RMS norms without bias. norm_first: norms come before each part, and once more after
    the last layer. bias: of all products; key_bias=False leaves out that of the keys. gated: the feed-forward is
    down(activation(gate(x)) * up(x)). scale: of the scores, by default 1 / sqrt(D).
    """

    width: int
    heads: int
    head_dim: int
    inner: int
    activation: str
    eps: float = 1e-5
    rms: bool = False
    norm_first: bool = False
    bias: bool = True
    key_bias: bool = True
    gated: bool = False
    scale: float | None = None

    def biases(self) -> tuple[str, ...]:
        """Which of a query's, key's and value's projections have a bias."""
        return ("query", "key", "value") if self.bias and self.key_bias else ("query", "value") if self.bias else ()

    def norm(self) -> Module:
        return RMSNorm(self.width, self.eps) if self.rms else LayerNorm(self.width, self.eps)


class PackedAttention:
    """Attention of packed rows to packed keys: called with query, key, value (T, H, D) and out, which it writes.

    relative_bias (H, Lq + Lk - 1) is for the longest rows, as in functional.varlen_attention. With collect=True each
    call appends its weights (B, H, Lq, Lk) to `weights`, zeros where there is no token.
    """

    def __init__(
        self,
        queries: PackedSequences,
        keys: PackedSequences,
        *,
        is_causal: bool = False,
        relative_bias: np.ndarray | None = None,
        scale: float | None = None,
        collect: bool = False,
    ) -> None:
        self.queries, self.keys = queries, keys
        self.options = {"is_causal": is_causal, "scale": scale}
        self.relative_bias = relative_bias
        self.weights: list[np.ndarray] | None = [] if collect else None

    def __call__(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> None:
        starts = self.queries.cu_seqlens, self.keys.cu_seqlens
        F.varlen_attention(query, key, value, *starts, relative_bias=self.relative_bias, out=out, **self.options)
        if self.weights is not None:
            self.weights.append(self._weights(query, key, value))

    def _weights(self, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
        weights = []
        for b in range(len(self.queries)):
            rows, columns = (slice(*packed.cu_seqlens[b : b + 2]) for packed in (self.queries, self.keys))
            _, own = F.scaled_dot_product_attention(
                *(array.swapaxes(0, 1) for array in (query[rows], key[columns], value[columns])),
                relative_bias=self._bias_of(len(query[rows]), len(key[columns])),
                return_weights="heads",
                **self.options,
            )
            weights.append(own)
        return unpack_weights(weights, self.queries.tokens, self.keys.tokens, query.shape[1])

    def _bias_of(self, Lq: int, Lk: int) -> np.ndarray | None:
        """The table of the longest rows, cut to that of rows with Lq queries and Lk keys."""
        if self.relative_bias is None:
            return None
        middle = self.queries.longest - 1
        return self.relative_bias[:, middle - max(Lq - 1, 0) : middle + Lk]


class Seq2SeqState:
    """The keys and values of the decoder's tokens, and those of the encoder's, between the steps of a generation.

    The latter are kept once for each source, however many rows (beams) continue it: source (B',) says to which one each
    row belongs. rows B', position: how many tokens each row has. Both are stored in the type dtype; cross yields them
    for each layer, float32.
    """

    def __init__(
        self,
        shape: BlockShape,
        layers: int,
        rows: int,
        capacity: int,
        keys: PackedSequences,
        cross: Iterable[Sequence[np.ndarray]],
        dtype: np.dtype,
    ) -> None:
        self.caches = [KeyValueCache(rows, shape.heads, shape.head_dim, capacity, dtype=dtype) for _ in range(layers)]
        self.capacity = capacity
        self.scale = shape.scale
        self.position = 0
        self._cross = [[narrowed(part, dtype) for part in parts] for parts in cross]
        self._cu_keys = keys.cu_seqlens
        self._source = np.arange(rows)

    @property
    def rows(self) -> int:
        return len(self._source)

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before."""
        index = np.asarray(index)
        for cache in self.caches:
            cache.reorder(index)
        self._source = self._source[index]

    def self_attend(self, layer: int, relative_bias: np.ndarray | None) -> Attend:
        """Appends keys and values (B' * n, H, D) to the layer's cache, and attends all keys in it."""
        cache, past, rows, scale = self.caches[layer], self.position, self.rows, self.scale

        def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> None:
            query, key, value, out = (
                array.reshape(rows, -1, *array.shape[1:]).swapaxes(1, 2) for array in (query, key, value, out)
            )
            cache.append(key, value)
            F.scaled_dot_product_attention(
                query,
                cache.keys,
                cache.values,
                is_causal=True,
                causal_offset=past,
                relative_bias=relative_bias,
                scale=scale,
                out=out,
                **cache.scales(),
            )

        return attend

    def cross_attend(self, layer: int) -> Attend:
        """Queries (B' * n, H, D) attend their source's keys: the beams of a source are rows of one sequence."""
        (key, key_scale), (value, value_scale) = self._cross[layer]
        sources, cu_keys = self._source, self._cu_keys
        options = {"scale": self.scale, "key_scale": key_scale, "value_scale": value_scale}

        def attend(query: np.ndarray, out: np.ndarray) -> None:
            owner = np.repeat(sources, len(query) // len(sources))
            order = None
            if (owner[1:] < owner[:-1]).any():
                order = np.argsort(owner, kind="stable")
                owner, query = owner[order], query[order]
            cu_queries = np.searchsorted(owner, np.arange(len(cu_keys)))
            if order is None:
                F.varlen_attention(query, key, value, cu_queries, cu_keys, out=out, **options)
            else:
                out[order] = F.varlen_attention(query, key, value, cu_queries, cu_keys, **options)

        return attend


class SelfAttention(Module):
    """Query, key and value by one product, what `attend` makes of them, and the output projection."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self._heads = (-1, shape.heads, shape.head_dim)
        inner = shape.heads * shape.head_dim
        self.in_proj = FusedLinear(shape.width, {"query": inner, "key": inner, "value": inner}, shape.biases())
        self.out_proj = Linear(inner, shape.width, shape.bias)

    def forward(self, input: np.ndarray, attend: Attend, residual: np.ndarray) -> np.ndarray:
        """input (T, h) -> (T, h), with the residual added; attend(query, key, value, out), each (T, H, D)."""
        context = np.empty((len(input), self.out_proj.in_features), np.float32)
        attend(*self.heads(input), context.reshape(self._heads))
        return self.out_proj(context, residual=residual)

    def heads(self, input: np.ndarray) -> list[np.ndarray]:
        """input (T, h) -> query, key and value, each (T, H, D), views of one array."""
        return [part.reshape(self._heads) for part in np.split(self.in_proj(input), 3, axis=1)]


class CrossAttention(Module):
    """Attention to the encoder's states, whose keys and values are made once."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self._heads = (-1, shape.heads, shape.head_dim)
        inner = shape.heads * shape.head_dim
        self.query = Linear(shape.width, inner, shape.bias)
        self.in_proj = FusedLinear(shape.width, {"key": inner, "value": inner}, shape.biases())
        self.out_proj = Linear(inner, shape.width, shape.bias)

    def forward(self, input: np.ndarray, attend: Attend, residual: np.ndarray) -> np.ndarray:
        """input (T, h) -> (T, h), with the residual added; attend(query, out), each (T, H, D), knows the keys."""
        context = np.empty((len(input), self.out_proj.in_features), np.float32)
        attend(self.query(input).reshape(self._heads), context.reshape(self._heads))
        return self.out_proj(context, residual=residual)

    def keys_values(self, states: np.ndarray) -> list[np.ndarray]:
        """The encoder's states (T, h) -> keys and values, each (T, H, D), views of one array."""
        return [part.reshape(self._heads) for part in np.split(self.in_proj(states), 2, axis=1)]


class GatedFeedForward(Module):
    """down(activation(gate(x)) * up(x)), of T5 v1.1 (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.gate = Linear(shape.width, shape.inner, shape.bias)
        self.up = Linear(shape.width, shape.inner, shape.bias)
        self.down = Linear(shape.inner, shape.width, shape.bias)

    def forward(self, input: np.ndarray, *, residual: np.ndarray | None = None) -> np.ndarray:
        """(T, h) -> (T, h), with the residual added."""
        gate = self.gate
        inner = F.linear(input, gate.packed(), gate.bias, activation=self.activation, multiply=self.up(input))
        return self.down(inner, residual=residual)


class Block(Module):
    """Self-attention, cross-attention (of a decoder's layers) and feed-forward, each with residual and norm."""

    self_attention_class = SelfAttention

    def __init__(self, shape: BlockShape, cross: bool = False) -> None:
        super().__init__()
        self.norm_first = shape.norm_first
        self.self_attention = self.self_attention_class(shape)
        self.self_attention_norm = shape.norm()
        self.cross_attention = CrossAttention(shape) if cross else None
        self.cross_attention_norm = shape.norm() if cross else None
        if shape.gated:
            self.feed_forward = GatedFeedForward(shape)
        else:
            self.feed_forward = FeedForward(shape.width, shape.inner, shape.activation, shape.bias)
        self.feed_forward_norm = shape.norm()
        self._say_what_follows()

    def _say_what_follows(self) -> None:
        inner, cross = self.feed_forward, self.cross_attention
        first = (inner.gate, inner.up) if isinstance(inner, GatedFeedForward) else (inner.linear1,)
        # Each part's norm: before it, or before the next part.
        norms = [self.self_attention_norm, *([self.cross_attention_norm] if cross else []), self.feed_forward_norm]
        before = norms if self.norm_first else [None, *norms[:-1]]
        if self.norm_first:
            self.self_attention.in_proj.follows(self.self_attention_norm)
        if cross:
            cross.query.follows(before[1])
        for linear in first:
            linear.follows(before[-1])

    def forward(self, hidden: np.ndarray, self_attend: Attend, cross_attend: Attend | None = None) -> np.ndarray:
        """hidden (T, h) -> (T, h)."""
        hidden = self._part(
            hidden, self.self_attention_norm, lambda x, residual: self.self_attention(x, self_attend, residual)
        )
        if cross_attend is not None:
            hidden = self._part(
                hidden,
                self.cross_attention_norm,
                lambda x, residual: self.cross_attention(x, cross_attend, residual),
            )
        return self._part(hidden, self.feed_forward_norm, lambda x, residual: self.feed_forward(x, residual=residual))

    def encoder_layer(self) -> tuple:
        """The fields of functional.EncoderLayer, which computes what `forward` does."""
        qkv, qkv_bias = self.self_attention.in_proj.packed()
        linears = (self.self_attention.out_proj, self.feed_forward.linear1, self.feed_forward.linear2)
        norms = (self.self_attention_norm, self.feed_forward_norm)
        return (
            qkv,
            *(linear.packed() for linear in linears),
            qkv_bias,
            *(linear.bias for linear in linears),
            *(vector for norm in norms for vector in (norm.weight, norm.bias)),
        )

    def _part(self, hidden: np.ndarray, norm: Module, part: Callable) -> np.ndarray:
        if self.norm_first:
            return part(norm(hidden), hidden)
        return norm(part(hidden, hidden))


class Stack(Module):
    """The layers of an encoder or a decoder; with norm_first a norm follows the last one."""

    def __init__(self, shape: BlockShape, layers: int, cross: bool = False, block: type[Block] = Block) -> None:
        super().__init__()
        self.shape = shape
        self.layers = ModuleList([block(shape, cross) for _ in range(layers)])
        self.final_norm = shape.norm() if shape.norm_first else None
        if not shape.norm_first:
            for before, layer in zip(self.layers, self.layers[1:], strict=False):
                layer.self_attention.in_proj.follows(before.feed_forward_norm)
        self._encoder = EncoderStackCache()

    def forward(
        self,
        hidden: np.ndarray,
        self_attend: Callable[[int], Attend],
        cross_attend: Callable[[int], Attend] | None = None,
        collect: list[np.ndarray] | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h); the functions of a layer's number give how that layer attends.

        collect gets the input and every layer's output, with the last norm in the last one.
        """
        for i, layer in enumerate(self.layers):
            if collect is not None:
                collect.append(hidden)
            hidden = layer(hidden, self_attend(i), None if cross_attend is None else cross_attend(i))
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        if collect is not None:
            collect.append(hidden)
        return hidden

    def encode(self, hidden: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """`forward` of an encoder whose scores have no bias, in one call of the engine, to the same bits."""
        hidden = self._encoder.get(self, self._spec)(hidden, cu_seqlens)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def _spec(self) -> StackSpec:
        shape = self.shape
        options = shape.heads, shape.activation, (shape.eps, shape.eps), shape.norm_first
        return StackSpec([layer.encoder_layer() for layer in self.layers], options)

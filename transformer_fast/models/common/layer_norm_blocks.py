"""The block of rotary decoders with layer norms and a plain feed-forward, and the models around it.

gpt_neox.py, starcoder2.py, phi.py and gptj.py each give a config class and say how it becomes `PlainOptions`, and what
their tensors are called. One more yes-or-no of this block is a field of `PlainOptions`; decoders with RMS norms and
gates are in `decoder_blocks`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Number
from transformer_fast.models.common.decoder import CausalLM, Decoder
from transformer_fast.models.common.decoding import CacheShape, DecoderBatch, DecoderStep
from transformer_fast.models.common.rotary_config import RotaryConfig
from transformer_fast.nn import Embedding, FusedLinear, LayerNorm, Linear, Module, ModuleList, init


@dataclass(frozen=True)
class PlainConfig(RotaryConfig):
    """The fields of config.json that the families share; each family sets its own defaults and adds its own fields."""

    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    pad_token_id: Number | None = None


@dataclass(frozen=True)
class PlainOptions:
    """In what the families' layers differ.

    eps: of the norms. parallel: attention and feed-forward both read the layer's input, and both are added to it.
    shared_norm: one norm serves both, which needs parallel. by_head: query, key and value of a head follow each other
    in one weight, which needs as many heads of keys as of queries. qk_norm: queries and keys are normalised, head by
    head, before they are rotated. interleaved: pairs of rotated columns are neighbours. window: keys that a query
    sees, its own included; None: all before it.
    """

    eps: float
    parallel: bool = False
    shared_norm: bool = False
    by_head: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    interleaved: bool = False
    window: int | None = None

    def __post_init__(self) -> None:
        if self.shared_norm and not self.parallel:
            raise ValueError("shared_norm is True and parallel is False; needed: both")


class PlainBlock(Module):
    """hidden + attention(norm(hidden)), then + linear2(activation(linear1(norm(...)))), of its input if parallel.

    config: a `PlainConfig`, or another with its properties.
    """

    def __init__(self, config: Any, options: PlainOptions) -> None:
        super().__init__()
        h, D, H, Hkv = config.hidden_size, config.width_of_head, config.num_attention_heads, config.kv_heads
        self.options = options
        self.heads, self.kv_heads, self.head_dim, self.scale = H, Hkv, D, D**-0.5
        self.activation = ACTIVATIONS[config.activation]
        self.attention_norm = LayerNorm(h, options.eps)
        if options.by_head:
            self.qkv_proj = Linear(h, 3 * H * D, options.qkv_bias)
        else:
            self.qkv_proj = FusedLinear(h, {"q": H * D, "k": Hkv * D, "v": Hkv * D}, options.qkv_bias)
        self.q_norm, self.k_norm = (LayerNorm(D, options.eps) if options.qk_norm else None for _ in range(2))
        self.out_proj = Linear(H * D, h, options.out_bias)
        self.feed_forward_norm = None if options.shared_norm else LayerNorm(h, options.eps)
        self.linear1 = Linear(h, config.intermediate_size, options.mlp_bias)
        self.linear2 = Linear(config.intermediate_size, h, options.mlp_bias)
        self.qkv_proj.follows(self.attention_norm)
        self.linear1.follows(self.attention_norm if options.shared_norm else self.feed_forward_norm)

    def forward(
        self,
        hidden: np.ndarray,
        batch: DecoderBatch | DecoderStep,
        number: int,
        tables: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), which may be written over it; tables: the rotation's cosines and sines."""
        options = self.options
        normed = self.attention_norm(hidden, out=batch.scratch("normed", hidden.shape[1]))
        context = self._attend(normed, batch, number, tables["all"])
        if options.parallel:
            if not options.shared_norm:
                normed = self.feed_forward_norm(hidden, out=batch.scratch("normed", hidden.shape[1]))
            inner = self._inner(normed, batch)
            hidden = self.out_proj(context, residual=hidden, out=batch.out_buffer(hidden))
        else:
            hidden = self.out_proj(context, residual=hidden, out=batch.out_buffer(hidden))
            inner = self._inner(self.feed_forward_norm(hidden, out=batch.scratch("normed", hidden.shape[1])), batch)
        return self.linear2(inner, residual=hidden, out=batch.out_buffer(hidden))

    def engine_layer(self) -> F.DecoderLayer:
        """What `forward` computes, as the engine takes it."""
        packed = self.qkv_proj.packed()
        qkv, qkv_bias = (packed, self.qkv_proj.bias) if self.options.by_head else packed
        norms = ("attention_norm", "feed_forward_norm", "q_norm", "k_norm")
        found = {name: getattr(self, name) for name in norms}
        return F.DecoderLayer(
            qkv=(qkv,),
            qkv_bias=qkv_bias,
            out=self.out_proj.packed(),
            out_bias=self.out_proj.bias,
            up=self.linear1.packed(),
            up_bias=self.linear1.bias,
            down=self.linear2.packed(),
            down_bias=self.linear2.bias,
            scale=self.scale,
            window=self.options.window,
            rotation=0,
            **{name: None if norm is None else (norm.weight, norm.bias) for name, norm in found.items()},
        )

    def _inner(self, normed: np.ndarray, batch: DecoderBatch | DecoderStep) -> np.ndarray:
        """(T, h) -> (T, intermediate_size)."""
        return self.linear1(normed, activation=self.activation, out=batch.scratch("inner", self.linear1.out_features))

    def _attend(
        self, normed: np.ndarray, batch: DecoderBatch | DecoderStep, number: int, angles: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """(T, h) -> (T, H * D), before the output projection."""
        T, D, H, options = len(normed), self.head_dim, self.heads, self.options
        projected = self.qkv_proj(normed, out=batch.scratch("projected", self.qkv_proj.out_features))
        if options.by_head:
            heads = projected.reshape(T, H, 3, D)
            query, key, value = (heads[:, :, i] for i in range(3))
            both = heads[:, :, :2].transpose(1, 2, 0, 3)
        else:
            heads = projected.reshape(T, H + 2 * self.kv_heads, D)
            query, key, value = heads[:, :H], heads[:, H : H + self.kv_heads], heads[:, H + self.kv_heads :]
            both = heads[:, : H + self.kv_heads].swapaxes(0, 1)
        if options.qk_norm:
            self.q_norm(query, out=query)
            self.k_norm(key, out=key)
        F.rotary_embedding(both, *angles, interleaved=options.interleaved, out=both)
        return batch.attend(number, query, key, value, self.scale, window=options.window)


class PlainDecoder(Decoder):
    """The stack without a head; a family sets the names below, config_class and model_types.

    stack_names: our part of the stack -> the checkpoint's, layer_names: the same of a layer; the beginning of a layer's
    names is the one of `stacks`.
    """

    stack_names: Mapping[str, str]
    layer_names: Mapping[str, str]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.width = config.hidden_size
        options = config.block()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        blocks = [PlainBlock(config, options) for _ in range(config.num_hidden_layers)]
        self.layers = ModuleList(blocks).pack_for_decode()
        self.final_norm = LayerNorm(config.hidden_size, options.eps)
        self._rotation = config.rotation("all")

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        (layers,) = cls.stacks
        sources = {}
        for kind in ("weight", "bias"):
            for ours, theirs in cls.stack_names.items():
                sources[f"{ours}.{kind}"] = Source(f"{theirs}.{kind}")
            for i in range(config.num_hidden_layers):
                for ours, theirs in cls.layer_names.items():
                    fused = ours.startswith("qkv_proj.")
                    sources[f"layers.{i}.{ours}{'_' if fused else '.'}{kind}"] = Source(f"{layers}{i}.{theirs}.{kind}")
        return sources

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self.embed_tokens(ids)

    def rotary_tables(self, positions: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {"all": self._rotation.tables(positions)}

    def engine_layers(self) -> F.Decoder | None:
        config, norm = self.config, self.final_norm
        if not len(self.layers):
            return None
        options = self.layers[0].options
        return F.Decoder(
            [layer.engine_layer() for layer in self.layers],
            config.num_attention_heads,
            config.kv_heads,
            config.width_of_head,
            ACTIVATIONS[config.activation],
            options.eps,
            layer_norm=True,
            interleaved=options.interleaved,
            parallel=options.parallel,
            by_head=options.by_head,
            final_norm=(norm.weight, norm.bias),
        )

    def cache_spec(self) -> list[CacheShape]:
        config = self.config
        return [CacheShape(config.kv_heads, config.width_of_head, layer.options.window) for layer in self.layers]


class BiasedCausalLM(CausalLM):
    """A `CausalLM` whose head has a bias."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.lm_head.register_parameter("bias", (self.scored(config),), init.uniform(self.lm_head.in_features))

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        return super().sources(config, names) | {"lm_head.bias": cls.of_tokens(Source("lm_head.bias"), config)}

"""The block that decoders of Llama's kind share: RMS norms, rotary positions, grouped heads, a gated feed-forward.

llama.py, mistral.py, qwen2.py, qwen3.py, gemma.py, gemma2.py, gemma3.py, phi3.py, olmo2.py, smollm3.py, granite.py,
qwen3_moe.py, mixtral.py and gpt_oss.py each give a config class and say how it becomes `BlockOptions`; the models
around the blocks are here too (`GatedDecoder` and its heads). A family with another kind of block gets a class of its
own; one more yes-or-no of this block is a field of `BlockOptions`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Number
from transformer_fast.models.common.decoder import CausalLM, Decoder
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.decoding import CacheShape, DecoderBatch, DecoderState, DecoderStep
from transformer_fast.models.common.experts import ExpertOptions, Experts
from transformer_fast.models.common.rotary_config import RotaryConfig
from transformer_fast.nn import Embedding, FusedLinear, Linear, Module, ModuleList, RMSNorm, init


@dataclass(frozen=True)
class GatedConfig(RotaryConfig):
    """The fields of config.json that the families share; each family sets its own defaults and adds its own fields."""

    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    pad_token_id: Number | None = None
    is_causal: bool = True

    def block(self, number: int) -> BlockOptions:
        """The options of layer `number`, of a causal model."""
        return BlockOptions(scale=self.width_of_head**-0.5)

    def layer(self, number: int) -> BlockOptions:
        """The options of layer `number`. Where is_causal is false, a token sees as far ahead as back.

        Source: transformers' masking_utils, by which a window of W is W - 1 tokens back, and W on either side there.
        """
        options = self.block(number)
        if self.is_causal:
            return options
        if options.window is None:
            return replace(options, ahead=None)
        return replace(options, window=options.window + 1, ahead=options.window)


@dataclass(frozen=True)
class BlockOptions:
    """In what the families' layers differ.

    window: keys that a query sees up to its own, that included; None: all before it. ahead: keys after its own that it
    sees; None: all. rotation: see GatedConfig.rotations; None:
    queries and keys are not rotated. qk_norm: queries and keys are normalised, head by head, before they are rotated;
    joint_qk_norm: all heads of a token together. offset_norms: norms multiply by 1 + weight. pre_norms: what attention
    and feed-forward read is normalised. sandwich: their results are normalised, before they are added.
    residual_scale: what they are multiplied by, before they are added. sinks: each head has a score without a value,
    which takes its part of the softmax. experts: of a mixture of experts in place of the one feed-forward.
    """

    scale: float
    softcap: float = 0.0
    window: int | None = None
    ahead: int | None = 0
    rotation: str | None = "all"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    joint_qk_norm: bool = False
    offset_norms: bool = False
    pre_norms: bool = True
    sandwich: bool = False
    residual_scale: float = 1.0
    sinks: bool = False
    experts: ExpertOptions | None = None


class OffsetRMSNorm(RMSNorm):
    """RMSNorm that multiplies by 1 + weight (Gemma); the sum is made once."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        self.weight = np.zeros(size, np.float32)
        self._sum: tuple[np.ndarray, np.ndarray] | None = None

    def forward(
        self, input: np.ndarray, *, residual: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalises input + residual (..., size)."""
        # One tuple, read once: another thread may replace it. Setting the attribute would give the module, and all that
        # it is a part of, another version.
        weight, kept = self.weight, self._sum
        if kept is None or kept[0] is not weight:
            kept = self.__dict__["_sum"] = weight, weight + np.float32(1)
        return F.rms_norm(input, kept[1], self.eps, residual=residual, out=out)

    def factors(self) -> np.ndarray:
        """What normalised numbers are multiplied by, 1 + weight."""
        return self.weight + np.float32(1)

    def output_range(self) -> np.ndarray:
        """As `RMSNorm.output_range`."""
        return 4 * np.abs(self.weight + np.float32(1))


class GatedBlock(Module):
    """hidden + attention(norm(hidden)), then + down(activation(gate(x)) * up(x)) with x = norm(hidden)."""

    def __init__(self, config: GatedConfig, options: BlockOptions) -> None:
        super().__init__()
        h, D, H, Hkv = config.hidden_size, config.width_of_head, config.num_attention_heads, config.kv_heads
        norm, eps = OffsetRMSNorm if options.offset_norms else RMSNorm, config.rms_norm_eps
        self.options = options
        self.heads, self.kv_heads, self.head_dim = H, Hkv, D
        self.activation = ACTIVATIONS[config.activation]
        self.attention_norm = norm(h, eps) if options.pre_norms else None
        self.qkv_proj = FusedLinear(h, {"q": H * D, "k": Hkv * D, "v": Hkv * D}, options.qkv_bias)
        together = (H, Hkv) if options.joint_qk_norm else (1, 1)
        normed = options.qk_norm or options.joint_qk_norm
        self.q_norm, self.k_norm = (norm(heads * D, eps) if normed else None for heads in together)
        self.register_parameter("sinks", (H,) if options.sinks else None, init.zeros)
        self.out_proj = Linear(H * D, h, options.out_bias)
        self.attention_out_norm = norm(h, eps) if options.sandwich else None
        self.feed_forward_norm = norm(h, eps) if options.pre_norms else None
        if options.experts is None:
            self.gate_proj = Linear(h, config.intermediate_size, options.mlp_bias)
            self.up_proj = Linear(h, config.intermediate_size, options.mlp_bias)
            self.down_proj = Linear(config.intermediate_size, h, options.mlp_bias)
        else:
            self.experts = Experts(h, options.experts)
        self.feed_forward_out_norm = norm(h, eps) if options.sandwich else None
        if options.pre_norms:
            self.qkv_proj.follows(self.attention_norm)
            for part in [self.gate_proj, self.up_proj] if options.experts is None else [self.experts]:
                part.follows(self.feed_forward_norm)

    def forward(
        self,
        hidden: np.ndarray,
        batch: DecoderBatch | DecoderStep,
        number: int,
        tables: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), which may be written over it; tables: the rotations' cosines and sines."""
        normed = self._normed(self.attention_norm, hidden, batch)
        context = self._attend(normed, batch, number, tables.get(self.options.rotation))
        hidden = self._added(self.out_proj, context, self.attention_out_norm, hidden, batch)
        normed = self._normed(self.feed_forward_norm, hidden, batch)
        if self.options.experts is not None:
            return self._sum(self.experts(normed), self.feed_forward_out_norm, hidden, batch)
        inner = self.up_proj.out_features
        up = self.up_proj(normed, out=batch.scratch("up", inner))
        gate = self.gate_proj
        gated = F.linear(
            normed,
            gate.packed(),
            gate.bias,
            activation=self.activation,
            multiply=up,
            out=batch.scratch("gated", inner),
        )
        return self._added(self.down_proj, gated, self.feed_forward_out_norm, hidden, batch)

    def engine_layer(self, rotations: list[str]) -> F.DecoderLayer:
        """What `forward` computes, as the engine takes it, without experts; rotations: the names, in the order of the
        tables."""
        options = self.options
        qkv, qkv_bias = self.qkv_proj.packed()
        norms = ("attention_norm", "attention_out_norm", "feed_forward_norm", "feed_forward_out_norm")
        return F.DecoderLayer(
            qkv=(qkv,),
            qkv_bias=qkv_bias,
            out=self.out_proj.packed(),
            out_bias=self.out_proj.bias,
            gate=self.gate_proj.packed(),
            gate_bias=self.gate_proj.bias,
            up=self.up_proj.packed(),
            up_bias=self.up_proj.bias,
            down=self.down_proj.packed(),
            down_bias=self.down_proj.bias,
            scale=options.scale,
            softcap=options.softcap,
            window=options.window,
            ahead=options.ahead,
            rotation=-1 if options.rotation is None else rotations.index(options.rotation),
            whole_qk_norm=options.joint_qk_norm,
            sinks=self.sinks,
            **{name: _factors(getattr(self, name)) for name in (*norms, "q_norm", "k_norm")},
        )

    def _attend(
        self,
        normed: np.ndarray,
        batch: DecoderBatch | DecoderStep,
        number: int,
        angles: tuple[np.ndarray, np.ndarray] | None,
    ) -> np.ndarray:
        """(T, h) -> (T, H * D), before the output projection."""
        T, D, options = len(normed), self.head_dim, self.options
        projected = self.qkv_proj(normed, out=batch.scratch("projected", self.qkv_proj.out_features))
        heads = projected.reshape(T, self.heads + 2 * self.kv_heads, D)
        query, key = heads[:, : self.heads], heads[:, self.heads : self.heads + self.kv_heads]
        if options.qk_norm:
            self.q_norm(query, out=query)
            self.k_norm(key, out=key)
        elif options.joint_qk_norm:
            width = self.heads * D
            queries, keys = projected[:, :width], projected[:, width : width + self.kv_heads * D]
            self.q_norm(queries, out=queries)
            self.k_norm(keys, out=keys)
        if angles is not None:
            both = heads[:, : self.heads + self.kv_heads].swapaxes(0, 1)
            F.rotary_embedding(both, *angles, out=both)
        value = heads[:, self.heads + self.kv_heads :]
        further = {} if options.ahead == 0 else {"ahead": options.ahead}  # steps see nothing ahead
        return batch.attend(
            number, query, key, value, options.scale, options.softcap, options.window, sinks=self.sinks, **further
        )

    def _normed(self, norm: Module | None, hidden: np.ndarray, batch: DecoderBatch | DecoderStep) -> np.ndarray:
        """norm(hidden); hidden itself without a norm."""
        return hidden if norm is None else norm(hidden, out=batch.scratch("normed", hidden.shape[1]))

    def _added(
        self, linear: Linear, x: np.ndarray, norm: Module | None, hidden: np.ndarray, batch: DecoderBatch | DecoderStep
    ) -> np.ndarray:
        """hidden + linear(x), with a norm or a factor of what is added."""
        if norm is None and self.options.residual_scale == 1:
            return linear(x, residual=hidden, out=batch.out_buffer(hidden))
        return self._sum(linear(x, out=batch.scratch("result", hidden.shape[1])), norm, hidden, batch)

    def _sum(
        self, result: np.ndarray, norm: Module | None, hidden: np.ndarray, batch: DecoderBatch | DecoderStep
    ) -> np.ndarray:
        """hidden + result, which is written over, with a norm or a factor of it."""
        scale = self.options.residual_scale
        if norm is not None:
            result = norm(result, out=batch.out_buffer(result))
        if scale != 1:
            result *= np.float32(scale)
        hidden += result
        return hidden


def _factors(norm: RMSNorm | None) -> tuple[np.ndarray, None] | None:
    """A norm as the engine takes it."""
    if norm is None:
        return None
    return norm.factors() if isinstance(norm, OffsetRMSNorm) else norm.weight, None


# Our names of a layer's parameters -> the checkpoint's.
_PARTS = {f"qkv_proj.{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v")}
_LINEARS = {"out_proj": "self_attn.o_proj"} | {f"{part}_proj": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
_NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_SANDWICH = {
    "attention_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_out_norm": "post_feedforward_layernorm",
}


class Gated:
    """The parts that these families' models have with and without a head."""

    neutral: Mapping[str, tuple] = {
        "quantization_config": (None,),
        "partial_rotary_factor": (1, None),
        # Of Llama's and Qwen's relatives, which pair or number the rotated places otherwise.
        "rope_interleaved": (False, None),
        "use_mrope": (False, None),
    }
    stacks = {"layers.": "num_hidden_layers"}
    base_prefix = "model."

    @classmethod
    def canonical(cls, name: str) -> str:
        name = name.removeprefix("model.")
        return f"rotary.{name}" if name.endswith("rotary_emb.inv_freq") else name  # of old files; a constant


class GatedDecoder(Gated, Decoder):
    """The stack without a head; a family sets config_class and model_types."""

    ignored = ("rotary.", "lm_head.", "score.")

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.width = config.hidden_size
        blocks = [config.layer(i) for i in range(config.num_hidden_layers)]
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = ModuleList([GatedBlock(config, options) for options in blocks]).pack_for_decode()
        norm = OffsetRMSNorm if blocks[0].offset_norms else RMSNorm
        self.final_norm = norm(config.hidden_size, config.rms_norm_eps)
        names = {options.rotation for options in blocks} - {None}
        self._rotations = {name: config.rotation(name) for name in sorted(names)}

    @classmethod
    def sources(cls, config: GatedConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {"embed_tokens.weight": Source("embed_tokens.weight"), "final_norm.weight": Source("norm.weight")}
        for i in range(config.num_hidden_layers):
            ours, theirs, options = f"layers.{i}", f"layers.{i}", config.block(i)
            for kind in ("weight", "bias"):
                sources |= {f"{ours}.{a}_{kind}": Source(f"{theirs}.{b}.{kind}") for a, b in _PARTS.items()}
                sources |= {f"{ours}.{a}.{kind}": Source(f"{theirs}.{b}.{kind}") for a, b in _LINEARS.items()}
            for a, b in (_SANDWICH if options.sandwich else _NORMS).items():
                sources[f"{ours}.{a}.weight"] = Source(f"{theirs}.{b}.weight")
            for part in ("q_norm", "k_norm"):
                sources[f"{ours}.{part}.weight"] = Source(f"{theirs}.self_attn.{part}.weight")
        return sources

    def engine_layers(self) -> F.Decoder | None:
        config, rotations = self.config, list(self._rotations)
        options = [layer.options for layer in self.layers]
        if not options or any(option.experts is not None for option in options):
            return None  # experts run one by one, each over the tokens that chose it
        return F.Decoder(
            [layer.engine_layer(rotations) for layer in self.layers],
            config.num_attention_heads,
            config.kv_heads,
            config.width_of_head,
            ACTIVATIONS[config.activation],
            config.rms_norm_eps,
            residual_scale=options[0].residual_scale,
            final_norm=_factors(self.final_norm),
        )

    def new_state(self, B: int, capacity: int, **options: Any) -> DecoderState:
        if any(layer.options.ahead != 0 for layer in self.layers):
            raise ValueError("config.json asks for attention in both directions; needed for a past: a causal model")
        return super().new_state(B, capacity, **options)

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return self.embed_tokens(ids)

    def rotary_tables(self, positions: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: rotation.tables(positions) for name, rotation in self._rotations.items()}

    def rotates_by_length(self) -> bool:
        return any(rotation.scaling.depends_on_length for rotation in self._rotations.values())

    def cache_spec(self) -> list[CacheShape]:
        config = self.config
        return [CacheShape(config.kv_heads, config.width_of_head, layer.options.window) for layer in self.layers]


class GatedCausalLM(Gated, CausalLM):
    """The stack with the head that scores the next token; a family sets config_class, model_types and body_class."""

    body_name = "model"
    embedding_name = "embed_tokens.weight"
    ignored = ("rotary.", "lm_head.")


class GatedClassifier(Gated, DecoderClassifier):
    """The stack with a head that scores labels by the last token; a family sets what `GatedCausalLM` asks for."""

    body_name = "model"
    ignored = ("rotary.", "lm_head.")


def window_of(config: Any, number: int) -> int | None:
    """The window of layer `number` by config.layer_types."""
    return config.sliding_window if config.layer_types[number] == "sliding_attention" else None

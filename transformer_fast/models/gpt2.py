"""GPT-2: a decoder with learned absolute positions and norms before each half of a layer.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and transformers' modeling_gpt2.
`load_model` finds this file by model_type "gpt2"; everything about rows, padding and the past is in `decoder.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Labels, Number, check_fields
from transformer_fast.models.common.decoder import CausalLM, Decoder
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.decoding import CacheShape, DecoderBatch, DecoderStep
from transformer_fast.nn import Embedding, LayerNorm, Linear, Module, ModuleList


@dataclass(frozen=True)
class GPT2Config(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: Number | None = None

    general_names = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        # The first release's name of n_positions, and a mark of its conversion.
        "n_ctx",
        "predict_special_tokens",
        # In which order transformers multiplies, and in what type: float32 is the same either way.
        "reorder_and_upcast_attn",
        # Of GPT2DoubleHeadsModel.
        "summary_activation",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"activation_function is {self.activation_function!r}; supported: {', '.join(ACTIVATIONS)}"
            )
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head is {self.n_head}; needed: a divisor of n_embd={self.n_embd}")

    @property
    def max_position_embeddings(self) -> int:
        return self.n_positions

    @property
    def intermediate_size(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


class GPT2Block(Module):
    """hidden + attention(norm(hidden)), then + feed-forward(norm(...))."""

    def __init__(self, config: GPT2Config, number: int) -> None:
        super().__init__()
        h, eps = config.n_embd, config.layer_norm_epsilon
        self.heads = (-1, config.n_head, h // config.n_head)
        self.scale = self.heads[2] ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= number + 1
        self.attention_norm = LayerNorm(h, eps)
        self.in_proj = Linear(h, 3 * h)
        self.out_proj = Linear(h, h)
        self.feed_forward_norm = LayerNorm(h, eps)
        self.linear1 = Linear(h, config.intermediate_size)
        self.linear2 = Linear(config.intermediate_size, h)
        self.activation = ACTIVATIONS[config.activation_function]
        self.in_proj.follows(self.attention_norm, parts=3)
        self.linear1.follows(self.feed_forward_norm)

    def forward(self, hidden: np.ndarray, batch: DecoderBatch | DecoderStep, number: int, tables: None) -> np.ndarray:
        """hidden (T, h) -> (T, h), which may be written over it."""
        h, scratch = hidden.shape[1], batch.scratch
        normed = self.attention_norm(hidden, out=scratch("normed", h))
        projected = self.in_proj(normed, out=scratch("projected", 3 * h))
        query, key, value = (projected[:, i * h : (i + 1) * h].reshape(self.heads) for i in range(3))
        context = batch.attend(number, query, key, value, self.scale)
        hidden = self.out_proj(context, residual=hidden, out=batch.out_buffer(hidden))
        normed = self.feed_forward_norm(hidden, out=scratch("normed", h))
        inner = self.linear1(normed, activation=self.activation, out=scratch("inner", self.linear1.out_features))
        return self.linear2(inner, residual=hidden, out=batch.out_buffer(hidden))

    def engine_layer(self) -> F.DecoderLayer:
        """What `forward` computes, as the engine takes it."""
        norms = {name: getattr(self, name) for name in ("attention_norm", "feed_forward_norm")}
        return F.DecoderLayer(
            qkv=(self.in_proj.packed(),),
            qkv_bias=self.in_proj.bias,
            out=self.out_proj.packed(),
            out_bias=self.out_proj.bias,
            up=self.linear1.packed(),
            up_bias=self.linear1.bias,
            down=self.linear2.packed(),
            down_bias=self.linear2.bias,
            scale=self.scale,
            rotation=-1,
            **{name: (norm.weight, norm.bias) for name, norm in norms.items()},
        )


# Our names of a layer's parameters -> the checkpoint's. Weights of Conv1D layers are stored transposed.
_NORMS = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
_CONVOLUTIONS = {
    "in_proj": "attn.c_attn",
    "out_proj": "attn.c_proj",
    "linear1": "mlp.c_fc",
    "linear2": "mlp.c_proj",
}


class _GPT2:
    """The parts that the model has with and without a head."""

    config_class = GPT2Config
    model_types = ("gpt2",)
    neutral = {"add_cross_attention": (False, None), "pruned_heads": ({}, None), "is_causal": (True,)}
    stacks = {"h.": "n_layer"}
    base_prefix = "transformer."

    @classmethod
    def canonical(cls, name: str) -> str:
        name = name.removeprefix("transformer.")
        # Old files hold each layer's triangular mask.
        return f"causal_mask.{name}" if name.endswith((".attn.bias", ".attn.masked_bias")) else name


class GPT2Model(_GPT2, Decoder):
    """The stack without a head.

    Example:
        >>> import numpy as np
        >>> model = GPT2Model(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 8)
    """

    ignored = ("causal_mask.", "lm_head.", "score.")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.width = config.n_embd
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.layers = ModuleList([GPT2Block(config, i) for i in range(config.n_layer)]).pack_for_decode()
        self.final_norm = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    @classmethod
    def sources(cls, config: GPT2Config, names: Collection[str]) -> dict[str, Source]:
        sources = {"wte.weight": Source("wte.weight"), "wpe.weight": Source("wpe.weight")}
        for kind in ("weight", "bias"):
            sources[f"final_norm.{kind}"] = Source(f"ln_f.{kind}")
            for i in range(config.n_layer):
                for ours, theirs in _NORMS.items():
                    sources[f"layers.{i}.{ours}.{kind}"] = Source(f"h.{i}.{theirs}.{kind}")
                for ours, theirs in _CONVOLUTIONS.items():
                    sources[f"layers.{i}.{ours}.{kind}"] = Source(f"h.{i}.{theirs}.{kind}", transpose=kind == "weight")
        return sources

    def engine_layers(self) -> F.Decoder | None:
        config, norm = self.config, self.final_norm
        if not len(self.layers):
            return None
        return F.Decoder(
            [layer.engine_layer() for layer in self.layers],
            config.n_head,
            config.n_head,
            config.n_embd // config.n_head,
            ACTIVATIONS[config.activation_function],
            config.layer_norm_epsilon,
            layer_norm=True,
            final_norm=(norm.weight, norm.bias),
        )

    def embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        if positions.size and not 0 <= positions.min() <= positions.max() < self.config.n_positions:
            raise IndexError(
                f"positions reach from {positions.min()} to {positions.max()}; "
                f"needed: 0 to {self.config.n_positions - 1} (n_positions - 1)"
            )
        hidden = self.wte(ids)
        hidden += self.wpe(positions)
        return hidden

    @property
    def max_length(self) -> int:
        return self.config.n_positions

    def check_capacity(self, capacity: int) -> None:
        if capacity > self.config.n_positions:
            raise ValueError(
                f"rows may grow to {capacity} tokens; needed: at most n_positions={self.config.n_positions} "
                "(choose max_length or max_new_tokens accordingly)"
            )

    def cache_spec(self) -> list[CacheShape]:
        config = self.config
        return [CacheShape(config.n_head, config.n_embd // config.n_head)] * config.n_layer


class GPT2LMHeadModel(_GPT2, CausalLM):
    """GPT-2 with the head that scores the next token; its weight is the embedding's unless config.json says otherwise.

    Example:
        >>> import numpy as np
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2))
        >>> model.generate(np.array([[1, 2, 3]]), min_new_tokens=4, max_new_tokens=4).shape
        (1, 7)
    """

    body_class = GPT2Model
    body_name = "transformer"
    embedding_name = "wte.weight"
    ignored = ("causal_mask.", "lm_head.")
    generation_config = {"bos_token_id": 50256, "eos_token_id": 50256}


class GPT2ForSequenceClassification(_GPT2, DecoderClassifier):
    """GPT-2 with a head that scores labels by the last token.

    Example:
        >>> import numpy as np
        >>> config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2, num_labels=3)
        >>> GPT2ForSequenceClassification(config)(np.array([[1, 2, 3]])).logits.shape
        (1, 3)
    """

    body_class = GPT2Model
    body_name = "transformer"
    ignored = ("causal_mask.", "lm_head.")

"""ModernBERT: an encoder with rotary positions, gated feed-forward and layers that see a window only; and heads.

Source: Warner et al. 2024, https://arxiv.org/abs/2412.13663, and transformers' modeling_modernbert. `load_model` finds
this file by model_type "modernbert". Every third layer (by default) attends everything, the others a window.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Index, Labels, check_activation, check_fields
from transformer_fast.models.common.encoder import Encoded, EncoderBatch, TextEncoder
from transformer_fast.models.common.rotary_attention import rotary_attention
from transformer_fast.nn import Collector, Embedding, LayerNorm, Linear, Module, ModuleList, RotaryEmbedding, init
from transformer_fast.nn.packed import for_pooled_rows
from transformer_fast.nn.packed_weights import PackedParameters

_FULL, _WINDOW = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class ModernBertConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'.

    layer_types, or global_attn_every_n_layers of older files, says which layers attend everything; rope_parameters, or
    global_rope_theta and local_rope_theta, how their positions turn.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    layer_types: list[str] | None = None
    global_attn_every_n_layers: int = 3
    local_attention: int = 128
    rope_parameters: dict | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    pad_token_id: Index | None = None
    tie_word_embeddings: bool = True

    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        # How the first releases computed, how training predicts, and a name beside norm_eps that nothing reads.
        "deterministic_flash_attn",
        "layer_norm_eps",
        "reference_compile",
        "repad_logits_with_grad",
        "sparse_pred_ignore_index",
        "sparse_prediction",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "hidden_activation")
        check_activation(self, "classifier_activation")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}; "
                f"needed: heads of an even width, of hidden_size={self.hidden_size}"
            )
        if self.classifier_pooling not in ("cls", "mean"):
            raise ValueError(f"classifier_pooling is {self.classifier_pooling!r}; needed: 'cls' or 'mean'")
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types holds {len(self.layer_types)} names; needed: num_hidden_layers={self.num_hidden_layers}"
            )
        for kind in self.layer_types or ():
            if kind not in (_FULL, _WINDOW):
                raise ValueError(f"layer_types holds {kind!r}; needed: {_FULL!r} or {_WINDOW!r}")
        for kind, parameters in (self.rope_parameters or {}).items():
            if kind not in (_FULL, _WINDOW) or not isinstance(parameters, dict | None):
                raise ValueError(
                    f"rope_parameters holds {kind!r}: {parameters!r}; needed: an object for {_FULL!r} and {_WINDOW!r}"
                )
            try:
                self.rotation(kind)
            except ValueError as error:
                raise ValueError(f"rope_parameters[{kind!r}]: {error}; needed: another kind or other fields") from None

    def kinds(self) -> list[str]:
        """Each layer's kind of attention."""
        every = self.global_attn_every_n_layers
        default = (_WINDOW if i % every else _FULL for i in range(self.num_hidden_layers))
        return list(default if self.layer_types is None else self.layer_types)

    def rotation(self, kind: str) -> RotaryEmbedding:
        """The rotary positions of the layers of one kind."""
        theta = self.global_rope_theta if kind == _FULL else self.local_rope_theta
        parameters = (self.rope_parameters or {}).get(kind)
        dim = self.hidden_size // self.num_attention_heads
        return RotaryEmbedding(dim, theta, scaling=parameters, max_position_embeddings=self.max_position_embeddings)


class ModernBertMLP(Module):
    """Wo(activation(a) * b), where Wi gives a and b: (T, h) -> (T, h)."""

    def __init__(self, h: int, inner: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.inner, self.activation = inner, activation
        self.register_parameter("Wi", (2 * inner, h), init.uniform(h), packed=True)
        self.register_parameter("Wi_bias", (2 * inner,) if bias else None, init.uniform(h))
        self.Wo = Linear(inner, h, bias)
        self._packs = [PackedParameters("Wi", rows=(i * inner, (i + 1) * inner), takes_input=True) for i in range(2)]

    def forward(self, input: np.ndarray, *, residual: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        gate = self._half(input, 1)
        return self.Wo(
            self._half(input, 0, activation=self.activation, multiply=gate, out=gate), residual=residual, out=out
        )

    def _half(self, input: np.ndarray, i: int, **options: Any) -> np.ndarray:
        bias = None if self.Wi_bias is None else self.Wi_bias[i * self.inner : (i + 1) * self.inner]
        return F.linear(input, self._packs[i].get(self), bias, **options)

    def _loaded(self) -> None:
        for pack in self._packs:
            pack.get(self)


class ModernBertLayer(Module):
    """Attention with rotary positions and the gated feed-forward, each after a norm (the first layer lacks one)."""

    def __init__(self, config: ModernBertConfig, kind: str, first: bool) -> None:
        super().__init__()
        h = config.hidden_size
        self.kind, self.num_heads = kind, config.num_attention_heads
        self.attn_norm = None if first else LayerNorm(h, config.norm_eps, bias=config.norm_bias)
        self.Wqkv = Linear(h, 3 * h, config.attention_bias)
        self.Wo = Linear(h, h, config.attention_bias)
        self.mlp_norm = LayerNorm(h, config.norm_eps, bias=config.norm_bias)
        activation = ACTIVATIONS[config.hidden_activation]
        self.mlp = ModernBertMLP(h, config.intermediate_size, activation, config.mlp_bias)
        self.mlp.follows(self.mlp_norm)
        if not first:
            self.Wqkv.follows(self.attn_norm, parts=3)

    def forward(
        self,
        hidden: np.ndarray,
        batch: EncoderBatch,
        angles: tuple[np.ndarray, np.ndarray],
        options: dict[str, Any],
        collect: Collector | None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), a new array; arguments of `rotary_attention`: with pooled (B, h)."""
        projected = self.Wqkv(hidden if self.attn_norm is None else self.attn_norm(hidden))
        context = rotary_attention(projected, self.num_heads, batch, angles, options, collect, pooled)
        hidden = self.Wo(context, residual=hidden if pooled is None else hidden[pooled])
        return self.mlp(self.mlp_norm(hidden), residual=hidden, out=hidden)

    def extra_repr(self) -> str:
        return f"{self.kind}, num_heads={self.num_heads}"


class ModernBertModel(TextEncoder):
    """The encoder. Positions beyond max_position_embeddings are computed, too; they are not trained.

    Example:
        >>> import numpy as np
        >>> model = ModernBertModel(ModernBertConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = ModernBertConfig
    model_types = ("modernbert",)
    neutral = {
        # Whatever the first files called them, positions are rotary.
        "position_embedding_type": ("absolute", "sans_pos", "rope", None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
        "rope_scaling": (None, {}),
        # Of the decoders among Ettin's models, and of its encoders.
        "is_causal": (False, None),
        "causal_mask": (False, None),
    }
    ignored = ("head.", "decoder.", "classifier.")
    stacks = {"layers.": "num_hidden_layers"}
    base_prefix = "model."

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        h, kinds = config.hidden_size, config.kinds()
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.embeddings_norm = LayerNorm(h, config.norm_eps, bias=config.norm_bias)
        self.layers = ModuleList([ModernBertLayer(config, kind, i == 0) for i, kind in enumerate(kinds)])
        self.final_norm = LayerNorm(h, config.norm_eps, bias=config.norm_bias)
        self._rotations = {kind: config.rotation(kind) for kind in sorted(set(kinds))}

    @property
    def position_limit(self) -> int | None:
        return None

    @classmethod
    def sources(cls, config: ModernBertConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {"word_embeddings.weight": Source("embeddings.tok_embeddings.weight")}
        norms = {"embeddings_norm": "embeddings.norm", "final_norm": "final_norm"}
        parts = {"attn_norm": "attn_norm", "Wqkv": "attn.Wqkv", "Wo": "attn.Wo", "mlp_norm": "mlp_norm"}
        for kind in ("weight", "bias"):
            sources |= {f"{ours}.{kind}": Source(f"{theirs}.{kind}") for ours, theirs in norms.items()}
            for i in range(config.num_hidden_layers):
                layer = f"layers.{i}"
                sources |= {
                    f"{layer}.{ours}.{kind}": Source(f"{layer}.{theirs}.{kind}") for ours, theirs in parts.items()
                }
                sources[f"{layer}.mlp.Wo.{kind}"] = Source(f"{layer}.mlp.Wo.{kind}")
                sources[f"{layer}.mlp.Wi" + "_bias" * (kind == "bias")] = Source(f"{layer}.mlp.Wi.{kind}")
        return sources

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        return self.embeddings_norm(self.word_embeddings(input_ids))

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        angles = {kind: rotation.tables(batch.positions) for kind, rotation in self._rotations.items()}
        reach = self.config.local_attention // 2
        options: dict[str, dict[str, Any]] = {_FULL: {}, _WINDOW: {"window": (reach, reach)}}
        if not batch.prefixes():
            # Padding inside of a sequence counts as distance, so that a window of rows alone will not do. It stays
            # beside the mask: a sequence has the same bits whether others of the batch have such padding or not.
            # The first place runs without being a key where it is padding: then rows are one ahead of their keys.
            mask = (np.abs(batch.distances()) <= reach)[:, None]
            options[_WINDOW] |= {"causal_offset": "bottom_right", "attn_mask": mask}
        *layers, last = self.layers
        if batch.pooled_rows is not None:
            pooled, pooled_options = for_pooled_rows(
                batch.pooled_rows, batch.cu_seqlens, batch.keys, options[last.kind]
            )
        if collect is not None:
            collect.add_hidden(hidden)
        for layer in layers:
            hidden = layer(hidden, batch, angles[layer.kind], options[layer.kind], collect)
            if collect is not None:
                collect.add_hidden(hidden)
        if collect is not None or batch.pooled_rows is None:
            state = self.final_norm(last(hidden, batch, angles[last.kind], options[last.kind], collect))
        if collect is not None:
            collect.add_hidden(state)
        if batch.pooled_rows is None:
            return state
        return self.final_norm(last(hidden, batch, angles[last.kind], pooled_options, None, pooled))


# ----------------------------------------------------------------------------------------------------------------------
# Heads

_TRANSFORM = {
    f"transform.{part}.{kind}": f"head.{part}.{kind}" for part in ("dense", "norm") for kind in ("weight", "bias")
}


def _transform(config: ModernBertConfig) -> heads.PredictionHead:
    return heads.PredictionHead(
        config.hidden_size,
        ACTIVATIONS[config.classifier_activation],
        config.norm_eps,
        dense_bias=config.classifier_bias,
        norm_bias=config.norm_bias,
    )


class ModernBertForMaskedLM(heads.ForMaskedLM):
    """ModernBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = ModernBertForMaskedLM(ModernBertConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = ModernBertModel
    head = _TRANSFORM | {"decoder.weight": "decoder.weight", "decoder.bias": "decoder.bias"}
    head_prefixes = ("head.", "decoder.")

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)
        self._make_decoder(config.decoder_bias)


class ModernBertForSequenceClassification(heads.ForSequenceClassification):
    """The classifier reads the first token, or the mean of all (classifier_pooling).

    Example:
        >>> import numpy as np
        >>> model = ModernBertForSequenceClassification(ModernBertConfig(100, 16, 24, 2, 4))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 2)
    """

    base_class = ModernBertModel
    head = _TRANSFORM | heads.ForTokenClassification.head
    head_prefixes = ("head.", "classifier.")

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def _reads_first(self) -> bool:
        return self.config.classifier_pooling == "cls"

    def pooled(self, found: Encoded) -> np.ndarray:
        if self._reads_first():
            return self.transform(found.first)
        counts = np.maximum(found.sequences.lengths[:, None], 1).astype(np.float32)
        return self.transform(found.unpacked(found.rows).sum(axis=1) / counts)


class ModernBertForTokenClassification(heads.ForTokenClassification):
    """ModernBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = ModernBertModel
    head = _TRANSFORM | heads.ForTokenClassification.head
    head_prefixes = ("head.", "classifier.")

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)

    def _transformed(self, rows: np.ndarray) -> np.ndarray:
        return self.transform(rows)


class ModernBertForQuestionAnswering(heads.ForQuestionAnswering):
    """ModernBERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = ModernBertModel
    head = _TRANSFORM | {"outputs.weight": "classifier.weight", "outputs.bias": "classifier.bias"}
    head_prefixes = ("head.", "classifier.")

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)

    def _transformed(self, rows: np.ndarray) -> np.ndarray:
        return self.transform(rows)

"""DeBERTa v2 and v3 (deberta-v3-base, mDeBERTa, mxbai-rerank v1, most NLI models): disentangled attention, and heads.

Source: He et al. 2020, https://arxiv.org/abs/2006.03654, He et al. 2021, https://arxiv.org/abs/2111.09543, and
transformers' modeling_deberta_v2. `load_model` finds this file by model_type "deberta-v2". The model has BERT's layers
with the attention of `common.disentangled_attention`; v2's large ones have a convolution beside the first layer.
A new head is a class below, and a word in the family's line in models/__init__.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source, under
from transformer_fast.models.common.config import (
    ACTIVATIONS,
    Index,
    Labels,
    Number,
    check_activation,
    check_fields,
    check_heads,
)
from transformer_fast.models.common.disentangled_attention import (
    DisentangledAttention,
    Distances,
    Tables,
    TablesCache,
    table,
)
from transformer_fast.models.common.encoder import Encoded, EncoderBatch, TextEncoder, layer_sources
from transformer_fast.models.common.inputs import integers
from transformer_fast.nn import Collector, Conv1d, Embedding, FeedForward, LayerNorm, Linear, Module, ModuleList

_KEY_POSITIONS, _QUERY_POSITIONS = "c2p", "p2c"


@dataclass(frozen=True)
class DebertaV2Config(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'.

    The pooler_... fields, and legacy, have an effect in the heads alone, which check their values. Sizes that are None
    become those of the other fields.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: Index = 0
    layer_norm_eps: float = 1e-7
    relative_attention: bool = False
    max_relative_positions: Number = -1
    position_buckets: Number = -1
    position_biased_input: bool = True
    pos_att_type: str | list[str] | None = None
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    embedding_size: int | None = None
    attention_head_size: int | None = None
    conv_kernel_size: Index = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_hidden_act: str = "gelu"
    pooler_hidden_size: int | None = None
    legacy: bool = True
    tie_word_embeddings: bool = True

    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        # Training.
        "pooler_dropout",
        "cls_dropout",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "hidden_act")
        check_heads(self)
        for name in ("max_relative_positions", "position_buckets"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} is {getattr(self, name)!r}; needed: an integer")
        self._check_kinds()
        width = self.hidden_size // self.num_attention_heads
        sizes = (("embedding_size", self.hidden_size), ("pooler_hidden_size", self.hidden_size))
        for name, default in (*sizes, ("attention_head_size", width)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if self.attention_head_size != width:
            raise ValueError(
                f"attention_head_size is {self.attention_head_size}; needed: {width}, which is "
                "hidden_size / num_attention_heads"
            )
        half = self.position_buckets // 2
        if self.position_buckets > 0 and not 0 < half < self.farthest - 1:
            raise ValueError(
                f"position_buckets is {self.position_buckets}; needed: -1 (none), or 2 to {2 * self.farthest - 3}, so "
                f"that half of it is below the farthest distance, {self.farthest - 1}"
            )
        if self.conv_kernel_size:
            self._check_convolution()

    def _check_kinds(self) -> None:
        unknown = set(self.position_terms) - {_KEY_POSITIONS, _QUERY_POSITIONS}
        if unknown:
            raise ValueError(
                f"pos_att_type is {self.pos_att_type!r}; supported: {_KEY_POSITIONS}, {_QUERY_POSITIONS}, or both"
            )
        if set(self._norms) - {"none", "layer_norm"}:
            raise ValueError(f"norm_rel_ebd is {self.norm_rel_ebd!r}; supported: none, layer_norm")

    def _check_convolution(self) -> None:
        check_activation(self, "conv_act")
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size is {self.conv_kernel_size}; needed: 0 (none), or an odd number")
        if self.hidden_size % self.conv_groups:
            raise ValueError(f"conv_groups is {self.conv_groups}; needed: a divisor of hidden_size={self.hidden_size}")

    @property
    def position_terms(self) -> tuple[str, ...]:
        """The terms of distance in a score: names of pos_att_type."""
        kinds = self.pos_att_type or ()
        return tuple(kind.strip() for kind in kinds.lower().split("|")) if isinstance(kinds, str) else tuple(kinds)

    @property
    def _norms(self) -> list[str]:
        return [name.strip() for name in self.norm_rel_ebd.lower().split("|")]

    @property
    def normalises_relative_embeddings(self) -> bool:
        return "layer_norm" in self._norms

    @property
    def farthest(self) -> int:
        """The distance from which on all are the same, or, with buckets, beyond which there is no new bucket."""
        given = self.max_relative_positions
        return self.max_position_embeddings if given < 1 else given

    @property
    def distances(self) -> Distances | None:
        """None: scores have no terms of distance."""
        if not self.relative_attention or not self.position_terms:
            return None
        buckets = max(self.position_buckets, 0)
        return Distances(buckets or self.farthest, buckets, self.farthest)

    @property
    def scale(self) -> float:
        """Of scores: as many terms as there are make them as much larger, whether distances count or not."""
        return (self.attention_head_size * (1 + len(set(self.position_terms)))) ** -0.5


class DebertaV2Attention(Module):
    """Disentangled self-attention of a layer; position_key and position_query project distances, if not the layer's own
    projections of keys and queries do (share_att_key)."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        h, terms = config.hidden_size, config.position_terms
        self.num_heads, self.scale = config.num_attention_heads, config.scale
        self.terms = terms if config.distances else ()
        own = config.relative_attention and not config.share_att_key
        self.in_proj = Linear(h, 3 * h)
        self.out_proj = Linear(h, h)
        self.position_key = Linear(h, h) if own and _KEY_POSITIONS in terms else None
        self.position_query = Linear(h, h) if own and _QUERY_POSITIONS in terms else None

    def tables(self, relative: np.ndarray) -> Tables:
        """relative (2 span, h): the embeddings of distances."""
        h = relative.shape[1]
        if self.position_key is None and self.position_query is None:
            query, key = np.split(self.in_proj(relative)[:, : 2 * h], 2, axis=1)
        else:
            query, key = (part and part(relative) for part in (self.position_query, self.position_key))
        return Tables(
            table(key, self.num_heads, self.scale) if _KEY_POSITIONS in self.terms else None,
            table(query, self.num_heads, self.scale) if _QUERY_POSITIONS in self.terms else None,
        )

    def forward(
        self,
        hidden: np.ndarray,
        keys: np.ndarray | None,
        attention: DisentangledAttention,
        tables: Tables | None,
        collect: Collector | None,
        pooled: np.ndarray | None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), with the residual added: a new array; with pooled (B, h).

        keys: the rows that are attended; None: all. attention: for the rows of pooled, if given.
        """
        T, h = hidden.shape
        projected = self.in_proj(hidden)
        heads_of = (T, self.num_heads, h // self.num_heads)
        query, key, value = (projected[:, i * h : (i + 1) * h].reshape(heads_of) for i in range(3))
        if keys is not None:
            key, value = key[keys], value[keys]
        if pooled is not None:
            query, hidden = query[pooled], hidden[pooled]
        context = attention.run(query, key, value, tables)
        if collect is not None:
            attention.report(collect, query, key, tables)
        return self.out_proj(context, residual=hidden)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, terms={self.terms}"


class DebertaV2Layer(Module):
    """BERT's layer: attention and feed-forward, each added to its input and normalised."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        h, eps = config.hidden_size, config.layer_norm_eps
        self.attention = DebertaV2Attention(config)
        self.attention_norm = LayerNorm(h, eps)
        self.feed_forward = FeedForward(h, config.intermediate_size, ACTIVATIONS[config.hidden_act])
        self.feed_forward_norm = LayerNorm(h, eps)
        self.feed_forward.linear1.follows(self.attention_norm)

    def forward(
        self,
        hidden: np.ndarray,
        keys: np.ndarray | None,
        attention: DisentangledAttention,
        tables: Tables | None,
        collect: Collector | None = None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `DebertaV2Attention.forward`."""
        hidden = self.attention(hidden, keys, attention, tables, collect, pooled)
        hidden = self.attention_norm(hidden, out=hidden)
        hidden = self.feed_forward(hidden, residual=hidden)
        return self.feed_forward_norm(hidden, out=hidden)


class DebertaV2Convolution(Module):
    """norm(first layer's output + activation(convolution of the embeddings)), over the tokens of each sequence."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        h, size = config.hidden_size, config.conv_kernel_size
        self.activation = ACTIVATIONS[config.conv_act]
        self.conv = Conv1d(h, h, size, padding=size // 2, groups=config.conv_groups)
        self.norm = LayerNorm(h, config.layer_norm_eps)

    def forward(self, embedded: np.ndarray, batch: EncoderBatch) -> np.ndarray:
        """embedded (T, h) -> activated convolution (T, h), in which what is not attended is 0, as padding is."""
        h, starts = embedded.shape[1], batch.cu_seqlens
        places = batch.places
        if places is None:
            places = np.arange(len(embedded)) - np.repeat(starts[:-1], np.diff(starts))
        if batch.keys is not None:
            attended, embedded = embedded[batch.keys[0]], np.zeros_like(embedded)
            embedded[batch.keys[0]] = attended
        result = np.empty_like(embedded)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if start < end:
                at = places[start:end] - places[start]
                spread = np.zeros((at[-1] + 1, h), np.float32)
                spread[at] = embedded[start:end]
                result[start:end] = self.conv(spread.T, activation=self.activation).T[at]
        return result

    def added(self, convolved: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """convolved, of `forward`, and hidden (T, h), the first layer's output -> (T, h), written over hidden."""
        return self.norm(hidden, residual=convolved, out=hidden)


_PROJECTIONS = tuple(f"attention.self.{part}_proj" for part in ("query", "key", "value"))
_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention.position_key": "attention.self.pos_key_proj",
    "attention.position_query": "attention.self.pos_query_proj",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.linear1": "intermediate.dense",
    "feed_forward.linear2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_PARTS = {
    "embeddings_norm": "embeddings.LayerNorm",
    "relative_norm": "encoder.LayerNorm",
    "convolution.conv": "encoder.conv.conv",
    "convolution.norm": "encoder.conv.LayerNorm",
}
_TABLES = {
    "word_embeddings": "embeddings.word_embeddings",
    "position_embeddings": "embeddings.position_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings_project": "embeddings.embed_proj",
    "relative_embeddings": "encoder.rel_embeddings",
}


class DebertaV2Model(TextEncoder):
    """The encoder. Without position_biased_input texts may be longer than max_position_embeddings.

    The projected embeddings of distances are made in the first call and kept: with share_att_key and 256 buckets,
    4 KB x hidden_size a layer. A first place that is padding attends the tokens, as BERT's does, where a head reads it.

    Example:
        >>> import numpy as np
        >>> sizes = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> config = DebertaV2Config(**sizes, intermediate_size=32, relative_attention=True, pos_att_type="c2p|p2c")
        >>> DebertaV2Model(config)(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = DebertaV2Config
    model_types = ("deberta-v2",)
    runs_unattended = False  # transformers runs tokens that are not attended without their embeddings
    neutral = {"pruned_heads": ({}, None), "quantization_config": (None,)}
    # The position numbers of old files; a table of positions, which files hold without position_biased_input too; and
    # the heads: MaskedLM, in both forms; pre-training of v3; SequenceClassification, TokenClassification and
    # MultipleChoice; QuestionAnswering.
    ignored = (
        "embeddings.position_ids",
        "embeddings.position_embeddings.",
        "cls.",
        "lm_predictions.",
        "mask_predictions.",
        "pooler.",
        "classifier.",
        "qa_outputs.",
    )
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "deberta."

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        e, h, types = config.embedding_size, config.hidden_size, config.type_vocab_size
        self.word_embeddings = Embedding(config.vocab_size, e)
        self.position_embeddings = (
            Embedding(config.max_position_embeddings, e) if config.position_biased_input else None
        )
        self.token_type_embeddings = Embedding(types, e) if types else None
        self.embeddings_project = Linear(e, h, False) if e != h else None
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        span = max(config.position_buckets, 0) or config.farthest
        self.relative_embeddings = Embedding(2 * span, h) if config.relative_attention else None
        self.relative_norm = LayerNorm(h, config.layer_norm_eps) if config.normalises_relative_embeddings else None
        self.layers = ModuleList([DebertaV2Layer(config) for _ in range(config.num_hidden_layers)])
        self.convolution = DebertaV2Convolution(config) if config.conv_kernel_size else None
        norms = [self.embeddings_norm, *(layer.feed_forward_norm for layer in self.layers)]
        if self.convolution is not None:
            norms[1] = self.convolution.norm
        for layer, norm in zip(self.layers, norms, strict=False):
            layer.attention.in_proj.follows(norm, parts=3)
        self._tables = TablesCache()

    @property
    def position_limit(self) -> int | None:
        return self.config.max_position_embeddings if self.config.position_biased_input else None

    @classmethod
    def sources(cls, config: DebertaV2Config, names: Collection[str]) -> dict[str, Source]:
        sources = {f"{ours}.weight": Source(f"{theirs}.weight") for ours, theirs in _TABLES.items()}
        for kind in ("weight", "bias"):
            sources |= {f"{ours}.{kind}": Source(f"{theirs}.{kind}") for ours, theirs in _PARTS.items()}
        return sources | layer_sources(config.num_hidden_layers, "encoder.layer.", _PROJECTIONS, _LAYER)

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        """Without a table of them any are allowed, as in transformers: tokenizers of the family make them."""
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size or None, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        given = [
            (input_ids, self.word_embeddings),
            (positions, self.position_embeddings),
            (types, self.token_type_embeddings),
        ]
        ids, tables = zip(*((ids, part) for ids, part in given if part is not None), strict=True)
        norm = self.embeddings_norm
        if self.embeddings_project is None:
            return F.embedding_sum(ids, [part.weight for part in tables], norm.weight, norm.bias, norm.eps)
        rows = self.embeddings_project(sum(part(own) for own, part in zip(ids, tables, strict=True)))
        return norm(rows, out=rows)

    def _read_tables(self) -> list[Tables | None]:
        """The tables of each layer."""
        if self.config.distances is None:
            return [None] * len(self.layers)
        relative = self.relative_embeddings(np.arange(self.relative_embeddings.num_embeddings))
        if self.relative_norm is not None:
            relative = self.relative_norm(relative)
        return [layer.attention.tables(relative) for layer in self.layers]

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        keys = None if batch.keys is None else batch.keys[0]
        tables = dict(zip(self.layers, self._tables.get(self, self._read_tables), strict=True))
        convolved = None if self.convolution is None else self.convolution(hidden, batch)
        options = (self.config.distances, self.config.scale)
        of_all_rows = DisentangledAttention(batch, *options)

        def step(layer, hidden, _, collect, pooled=None):
            attention = of_all_rows if pooled is None else DisentangledAttention(batch, *options, pooled)
            hidden = layer(hidden, keys, attention, tables[layer], collect, pooled)
            if convolved is None or layer is not self.layers[0]:
                return hidden
            return self.convolution.added(convolved if pooled is None else convolved[pooled], hidden)

        return self._run_layers(step, hidden, batch, {}, collect)


# ----------------------------------------------------------------------------------------------------------------------
# Heads

_LEGACY_HEAD = {
    "transform.dense.weight": "cls.predictions.transform.dense.weight",
    "transform.dense.bias": "cls.predictions.transform.dense.bias",
    "transform.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "decoder.weight": "cls.predictions.decoder.weight",
    "decoder.bias": "cls.predictions.bias",
}
_HEAD = {
    "transform.dense.weight": "lm_predictions.lm_head.dense.weight",
    "transform.dense.bias": "lm_predictions.lm_head.dense.bias",
    "transform.norm.weight": "lm_predictions.lm_head.LayerNorm.weight",
    "transform.norm.bias": "lm_predictions.lm_head.LayerNorm.bias",
    "decoder.bias": "lm_predictions.lm_head.bias",
}


class DebertaV2ForMaskedLM(heads.ForMaskedLM):
    """DeBERTa: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    With legacy the head is BERT's. Without, it is the one that the models were trained with (lm_predictions), whose
    output layer always is the words' table.

    Example:
        >>> import numpy as np
        >>> sizes = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> model = DebertaV2ForMaskedLM(DebertaV2Config(**sizes, intermediate_size=32, legacy=False))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = DebertaV2Model
    head = _LEGACY_HEAD
    head_prefixes = ("cls.", "lm_predictions.")

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        h, e = config.hidden_size, config.embedding_size
        if not config.legacy and e != h:
            raise ValueError(f"embedding_size is {e}; needed without legacy: hidden_size={h}")
        self.transform = heads.PredictionHead(h, ACTIVATIONS[config.hidden_act], config.layer_norm_eps, width=e)
        self._make_decoder()
        if not config.legacy:
            self.decoder.weight = self.base.word_embeddings.weight

    @classmethod
    def sources(cls, config: DebertaV2Config, names: Collection[str]) -> dict[str, Source]:
        if config.legacy:
            return super().sources(config, names)
        base = under("base", cls.base_class.sources(config, names))
        own = {ours: Source(theirs) for ours, theirs in _HEAD.items()}
        return base | own | {"decoder.weight": base["base.word_embeddings.weight"]}

    @classmethod
    def tied(cls, config: DebertaV2Config, names: Collection[str]) -> Mapping[str, str]:
        return super().tied(config, names) if config.legacy else {}


_POOLED_HEAD = {
    "pooler.weight": "pooler.dense.weight",
    "pooler.bias": "pooler.dense.bias",
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}


def _pooler(config: DebertaV2Config) -> Linear:
    """transformers' ContextPooler, which is of the heads."""
    check_activation(config, "pooler_hidden_act")
    h = config.hidden_size
    if config.pooler_hidden_size != h:
        raise ValueError(f"pooler_hidden_size is {config.pooler_hidden_size}; needed: hidden_size={h}")
    return Linear(h, h)


class DebertaV2ForSequenceClassification(heads.ForSequenceClassification):
    """DeBERTa: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> sizes = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> model = DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, intermediate_size=32, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 5)
    """

    base_class = DebertaV2Model
    head = _POOLED_HEAD
    head_prefixes = ("pooler.", "classifier.")

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        self.pooler = _pooler(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.pooler(found.first, activation=ACTIVATIONS[self.config.pooler_hidden_act])


class DebertaV2ForMultipleChoice(heads.ForMultipleChoice):
    """DeBERTa: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = DebertaV2Model
    head = _POOLED_HEAD
    head_prefixes = ("pooler.", "classifier.")

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        self.pooler = _pooler(config)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.pooler(found.first, activation=ACTIVATIONS[self.config.pooler_hidden_act])


class DebertaV2ForTokenClassification(heads.ForTokenClassification):
    """DeBERTa: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = DebertaV2Model


class DebertaV2ForQuestionAnswering(heads.ForQuestionAnswering):
    """DeBERTa: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = DebertaV2Model

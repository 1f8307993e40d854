"""ALBERT: BERT's layers, each run many times, after embeddings of a width of their own; and heads.

Source: Lan et al. 2019, https://arxiv.org/abs/1909.11942, and transformers' modeling_albert. `load_model` finds this
file by model_type "albert". The layers are an nn.PackedEncoder with an order. A new head is a class below, and a word
in the family's line in models/__init__.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_activation, check_fields, check_heads
from transformer_fast.models.common.encoder import Encoded, PoolingEncoder, sources_of_layers
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.output import AlbertForPreTrainingOutput
from transformer_fast.nn import Embedding, LayerNorm, Linear, PackedEncoder

# Nothing in a file of weights says how often layers run: a number beyond this (the largest model has 12) is a mistake.
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class AlbertConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int = 30000
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    max_position_embeddings: int = 512
    embedding_size: int = 128
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True

    without_effect = (
        "is_decoder",
        "is_encoder_decoder",
        "add_cross_attention",
        # Training.
        "classifier_dropout_prob",
        # Of Google's conversions: no version of transformers' model has read them.
        "down_scale_factor",
        "gap_size",
        "net_structure_type",
        "num_memory_blocks",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "hidden_act")
        check_heads(self)
        if self.num_hidden_layers > _MOST_LAYERS:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; needed: at most {_MOST_LAYERS}")

    def order(self) -> list[int]:
        """The number of the layer that runs first, second, ...: all of a group's, num_hidden_layers times in all."""
        inner = self.inner_group_num
        # In floating-point numbers as in transformers, which decides where they do not divide.
        groups = [int(i / (self.num_hidden_layers / self.num_hidden_groups)) for i in range(self.num_hidden_layers)]
        return [group * inner + i for group in groups for i in range(inner)]


_EMBEDDINGS = {
    f"{ours}.{kind}": f"{theirs}.{kind}"
    for ours, theirs, kinds in (
        ("word_embeddings", "embeddings.word_embeddings", ("weight",)),
        ("position_embeddings", "embeddings.position_embeddings", ("weight",)),
        ("token_type_embeddings", "embeddings.token_type_embeddings", ("weight",)),
        ("embeddings_norm", "embeddings.LayerNorm", ("weight", "bias")),
        ("embeddings_project", "encoder.embedding_hidden_mapping_in", ("weight", "bias")),
        ("pooler", "pooler", ("weight", "bias")),
    )
    for kind in kinds
}
_GROUPS = "encoder.albert_layer_groups."
_PROJECTIONS = ("attention.query", "attention.key", "attention.value")
_LAYER = {
    "attention.out_proj": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "feed_forward.linear1": "ffn",
    "feed_forward.linear2": "ffn_output",
    "feed_forward_norm": "full_layer_layer_norm",
}


class AlbertModel(PoolingEncoder):
    """The encoder, with the pooler if add_pooling_layer.

    Example:
        >>> import numpy as np
        >>> model = AlbertModel(AlbertConfig(100, 16, 3, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])).last_hidden_state.shape
        (2, 3, 16)
    """

    config_class = AlbertConfig
    model_types = ("albert",)
    neutral = {
        "position_embedding_type": ("absolute", None),
        "is_causal": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
    }
    # The position numbers of old files, and the heads: MaskedLM; PreTraining (with the former); SequenceClassification,
    # TokenClassification and MultipleChoice; QuestionAnswering.
    ignored = ("embeddings.position_ids", "predictions.", "sop_classifier.", "classifier.", "qa_outputs.")
    stacks = {_GROUPS: "num_hidden_groups", f"{_GROUPS}0.albert_layers.": "inner_group_num"}
    base_prefix = "albert."

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        e, h = config.embedding_size, config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, e)
        self.position_embeddings = Embedding(config.max_position_embeddings, e)
        self.token_type_embeddings = Embedding(config.type_vocab_size, e)
        self.embeddings_norm = LayerNorm(e, config.layer_norm_eps)
        self.embeddings_project = Linear(e, h).follows(self.embeddings_norm)
        self.layers = PackedEncoder(
            config.num_hidden_groups * config.inner_group_num,
            h,
            config.num_attention_heads,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.layer_norm_eps,
            order=config.order(),
        )
        self.pooler = Linear(h, h) if add_pooling_layer else None

    @classmethod
    def options(cls, config: AlbertConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": "pooler.weight" in names}

    @classmethod
    def sources(cls, config: AlbertConfig, names: Collection[str]) -> dict[str, Source]:
        prefixes = [
            f"{_GROUPS}{group}.albert_layers.{i}."
            for group in range(config.num_hidden_groups)
            for i in range(config.inner_group_num)
        ]
        sources = {ours: Source(theirs) for ours, theirs in _EMBEDDINGS.items()}
        return sources | sources_of_layers(prefixes, _PROJECTIONS, _LAYER)

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.token_type_embeddings.weight, self.position_embeddings.weight]
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        norm = self.embeddings_norm
        return self.embeddings_project(
            F.embedding_sum([input_ids, types, positions], tables, norm.weight, norm.bias, norm.eps)
        )


# ----------------------------------------------------------------------------------------------------------------------
# Heads

_PREDICTIONS = {
    "transform.dense.weight": "predictions.dense.weight",
    "transform.dense.bias": "predictions.dense.bias",
    "transform.norm.weight": "predictions.LayerNorm.weight",
    "transform.norm.bias": "predictions.LayerNorm.bias",
    "decoder.weight": "predictions.decoder.weight",
    "decoder.bias": "predictions.bias",
}


class AlbertForMaskedLM(heads.ForMaskedLM):
    """ALBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = AlbertModel
    base_options = {"add_pooling_layer": False}
    head = _PREDICTIONS
    head_prefixes = ("predictions.",)

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        activation, eps = ACTIVATIONS[config.hidden_act], config.layer_norm_eps
        self.transform = heads.PredictionHead(config.hidden_size, activation, eps, width=config.embedding_size)
        self._make_decoder()


class AlbertForPreTraining(AlbertForMaskedLM):
    """prediction_logits (B, L, V) of masked words, sop_logits (B, num_labels) of the order of the two texts.

    Example:
        >>> import numpy as np
        >>> model = AlbertForPreTraining(AlbertConfig(100, 16, 3, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[7, 8, 9]])).sop_logits.shape
        (1, 2)
    """

    base_options = {"add_pooling_layer": True}
    head = _PREDICTIONS | {f"order.{kind}": f"sop_classifier.classifier.{kind}" for kind in ("weight", "bias")}
    head_prefixes = ("predictions.", "sop_classifier.")

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        self.order = Linear(config.hidden_size, config.label_count)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> AlbertForPreTrainingOutput:
        """Arguments and errors of `TextEncoder.forward`."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options, first=True)
        return AlbertForPreTrainingOutput(
            found.unpacked(self.predictions(found.rows)),
            self.order(self.base.pooled(found.first)),
            found.hidden_states,
            found.attentions,
        )


class AlbertForSequenceClassification(heads.ForSequenceClassification):
    """ALBERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = AlbertModel
    head = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}
    head_prefixes = ("classifier.",)

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)


class AlbertForMultipleChoice(heads.ForMultipleChoice):
    """ALBERT: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = AlbertModel


class AlbertForTokenClassification(heads.ForTokenClassification):
    """ALBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = AlbertModel
    base_options = {"add_pooling_layer": False}


class AlbertForQuestionAnswering(heads.ForQuestionAnswering):
    """ALBERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = AlbertModel
    base_options = {"add_pooling_layer": False}

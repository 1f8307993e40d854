"""BERT and its sentence-embedding children (MiniLM, BGE, E5, GTE, ...): an encoder with absolute positions, and heads.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, and transformers' modeling_bert. `load_model` finds this
file by model_type "bert"; RoBERTa derives from it. `common.encoder` and `common.heads` have what it
shares with other encoders.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, Labels, check_activation, check_fields, check_heads
from transformer_fast.models.common.encoder import Encoded, PoolingEncoder, layer_sources
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.output import BertForPreTrainingOutput, NextSentencePredictorOutput
from transformer_fast.nn import Embedding, LayerNorm, Linear, PackedEncoder


@dataclass(frozen=True)
class BertConfig(Labels):
    """The fields of config.json that have an effect; the defaults are transformers'."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True

    without_effect = (
        # Of Google's conversions and of older releases: no version of transformers' model has read them.
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "vocab_size_or_config_json_file",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_activation(self, "hidden_act")
        check_heads(self)


# Our names of parameters -> the checkpoint's.
_EMBEDDINGS = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "token_type_embeddings.weight": "embeddings.token_type_embeddings.weight",
    "embeddings_norm.weight": "embeddings.LayerNorm.weight",
    "embeddings_norm.bias": "embeddings.LayerNorm.bias",
}
_POOLER = {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias"}
_PROJECTIONS = ("attention.self.query", "attention.self.key", "attention.self.value")
_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.linear1": "intermediate.dense",
    "feed_forward.linear2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


class BertModel(PoolingEncoder):
    """The encoder, with the pooler if add_pooling_layer.

    Example:
        >>> import numpy as np
        >>> model = BertModel(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])).last_hidden_state.shape
        (2, 3, 16)
    """

    config_class = BertConfig
    model_types = ("bert",)
    neutral = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "is_causal": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
    }
    # The position numbers of old files, and the heads for pre-training and fine-tuning (BertForPreTraining, MaskedLM,
    # NextSentencePrediction; SequenceClassification, TokenClassification; QuestionAnswering).
    ignored = ("embeddings.position_ids", "cls.", "classifier.", "qa_outputs.")
    stacks = {"encoder.layer.": "num_hidden_layers"}
    base_prefix = "bert."

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, h)
        self.position_embeddings = Embedding(config.max_position_embeddings, h)
        self.token_type_embeddings = Embedding(config.type_vocab_size, h)
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.layers = self._made_layers().follows(self.embeddings_norm)
        self.pooler = Linear(h, h) if add_pooling_layer else None

    def _made_layers(self) -> PackedEncoder:
        config = self.config
        return PackedEncoder(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.layer_norm_eps,
        )

    @classmethod
    def canonical(cls, name: str) -> str:
        """Old files call LayerNorm's parameters gamma and beta."""
        name = super().canonical(name)
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    @classmethod
    def options(cls, config: BertConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": any(name in names for name in _POOLER.values())}

    @classmethod
    def sources(cls, config: BertConfig, names: Collection[str]) -> dict[str, Source]:
        sources = {ours: Source(theirs) for ours, theirs in (_EMBEDDINGS | _POOLER).items()}
        return sources | layer_sources(config.num_hidden_layers, "encoder.layer.", _PROJECTIONS, _LAYER)

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.token_type_embeddings.weight, self.position_embeddings.weight]
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        norm = self.embeddings_norm
        return F.embedding_sum([input_ids, types, positions], tables, norm.weight, norm.bias, norm.eps)


# ----------------------------------------------------------------------------------------------------------------------
# Heads

_PREDICTIONS = {
    "transform.dense.weight": "cls.predictions.transform.dense.weight",
    "transform.dense.bias": "cls.predictions.transform.dense.bias",
    "transform.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "decoder.weight": "cls.predictions.decoder.weight",
    "decoder.bias": "cls.predictions.bias",
}
_NEXT_SENTENCE = {"next.weight": "cls.seq_relationship.weight", "next.bias": "cls.seq_relationship.bias"}
_CLASSIFIER = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}


def _transform(config: BertConfig) -> heads.PredictionHead:
    return heads.PredictionHead(config.hidden_size, ACTIVATIONS[config.hidden_act], config.layer_norm_eps)


class BertForMaskedLM(heads.ForMaskedLM):
    """BERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = BertForMaskedLM(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = BertModel
    base_options = {"add_pooling_layer": False}
    head = _PREDICTIONS
    head_prefixes = ("cls.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)
        self._make_decoder()


class BertForSequenceClassification(heads.ForSequenceClassification):
    """BERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = BertForSequenceClassification(BertConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 5)
    """

    base_class = BertModel
    head = _CLASSIFIER
    head_prefixes = ("classifier.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)


class BertForMultipleChoice(heads.ForMultipleChoice):
    """BERT: logits (B, C) of C choices; see `heads.ForMultipleChoice`.

    Example:
        >>> import numpy as np
        >>> model = BertForMultipleChoice(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[[7, 8, 9], [7, 8, 5]]])).logits.shape
        (1, 2)
    """

    base_class = BertModel


class BertForTokenClassification(heads.ForTokenClassification):
    """BERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`.

    Example:
        >>> import numpy as np
        >>> model = BertForTokenClassification(BertConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 5)
    """

    base_class = BertModel
    base_options = {"add_pooling_layer": False}


class BertForQuestionAnswering(heads.ForQuestionAnswering):
    """BERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`.

    Example:
        >>> import numpy as np
        >>> model = BertForQuestionAnswering(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).start_logits.shape
        (1, 3)
    """

    base_class = BertModel
    base_options = {"add_pooling_layer": False}


class BertForNextSentencePrediction(heads.ForSequenceClassification):
    """logits (B, 2): that the second text follows the first, that it does not.

    Example:
        >>> import numpy as np
        >>> model = BertForNextSentencePrediction(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 2)
    """

    base_class = BertModel
    head = {ours.replace("next", "classifier"): theirs for ours, theirs in _NEXT_SENTENCE.items()}
    head_prefixes = ("cls.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.classifier = Linear(config.hidden_size, 2)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.base.pooled(found.first)

    def forward(self, *arguments, **options) -> NextSentencePredictorOutput:
        """Arguments and errors of `TextEncoder.forward` -> logits (B, 2)."""
        found = super().forward(*arguments, **options)
        return NextSentencePredictorOutput(found.logits, found.hidden_states, found.attentions)


class BertForPreTraining(heads.ForMaskedLM):
    """prediction_logits (B, L, V) of masked words, seq_relationship_logits (B, 2) of the second text.

    Example:
        >>> import numpy as np
        >>> model = BertForPreTraining(BertConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).seq_relationship_logits.shape
        (1, 2)
    """

    base_class = BertModel
    head = _PREDICTIONS | _NEXT_SENTENCE
    head_prefixes = ("cls.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.transform = _transform(config)
        self._make_decoder()
        self.next = Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BertForPreTrainingOutput:
        """Arguments and errors of `TextEncoder.forward`."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options, first=True)
        return BertForPreTrainingOutput(
            found.unpacked(self.predictions(found.rows)),
            self.next(self.base.pooled(found.first)),
            found.hidden_states,
            found.attentions,
        )

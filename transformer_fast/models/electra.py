"""ELECTRA: BERT's layers after embeddings of a width of their own, without a pooler; and heads.

Source: Clark et al. 2020, https://arxiv.org/abs/2003.10555, and transformers' modeling_electra. `load_model` finds this
file by model_type "electra". Pre-training makes two models: a generator fills masked words (`ElectraForMaskedLM`), and
a discriminator tells which words were replaced (`ElectraForPreTraining`) and is what fine-tuning starts from. A new
head is a class below, and a word in the family's line in models/__init__.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS, check_activation
from transformer_fast.models.common.encoder import Encoded, TextEncoder
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.output import ElectraForPreTrainingOutput
from transformer_fast.nn import Embedding, LayerNorm, Linear, PackedEncoder


@dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """BERT's fields, the width of the embeddings, and what a choice is read from.

    The summary_... fields have an effect only in `ElectraForMultipleChoice`, which checks their values.
    """

    embedding_size: int = 128
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"

    # Of transformers' summary, which is for other families too: choices have one score whatever it says.
    without_effect = (*BertConfig.without_effect, "summary_proj_to_labels")


def _both(parts: dict[str, str]) -> dict[str, str]:
    """The names of the weight and the bias of each part: ours -> the checkpoint's."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in parts.items() for kind in ("weight", "bias")}


# Our names of its parameters -> the checkpoint's.
_PROJECTION = _both({"embeddings_project": "embeddings_project"})


class ElectraModel(TextEncoder):
    """The encoder. The embeddings, embedding_size wide, are projected if hidden_size is another.

    Example:
        >>> import numpy as np
        >>> model = ElectraModel(ElectraConfig(100, 16, 2, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])).last_hidden_state.shape
        (2, 3, 16)
    """

    config_class = ElectraConfig
    model_types = ("electra",)
    neutral = BertModel.neutral
    # The position numbers of old files, and the heads: PreTraining; MaskedLM (two prefixes); SequenceClassification,
    # TokenClassification and MultipleChoice; MultipleChoice; QuestionAnswering.
    ignored = (
        "embeddings.position_ids",
        "discriminator_predictions.",
        "generator_predictions.",
        "generator_lm_head.",
        "classifier.",
        "sequence_summary.",
        "qa_outputs.",
    )
    stacks = BertModel.stacks
    base_prefix = "electra."

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        e, h = config.embedding_size, config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, e)
        self.position_embeddings = Embedding(config.max_position_embeddings, e)
        self.token_type_embeddings = Embedding(config.type_vocab_size, e)
        self.embeddings_norm = LayerNorm(e, config.layer_norm_eps)
        self.embeddings_project = Linear(e, h) if e != h else None
        self.layers = PackedEncoder(
            config.num_hidden_layers,
            h,
            config.num_attention_heads,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.layer_norm_eps,
        )
        (self.embeddings_project or self.layers).follows(self.embeddings_norm)

    @classmethod
    def sources(cls, config: ElectraConfig, names: Collection[str]) -> dict[str, Source]:
        """BERT's names, and those of the projection."""
        return BertModel.sources(config, names) | {ours: Source(theirs) for ours, theirs in _PROJECTION.items()}

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        tables = [self.word_embeddings.weight, self.token_type_embeddings.weight, self.position_embeddings.weight]
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        norm = self.embeddings_norm
        rows = F.embedding_sum([input_ids, types, positions], tables, norm.weight, norm.bias, norm.eps)
        return rows if self.embeddings_project is None else self.embeddings_project(rows)


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class ElectraForPreTraining(heads.HeadModel):
    """The discriminator: one logit for each place, above 0 where the word was probably replaced.

    Example:
        >>> import numpy as np
        >>> model = ElectraForPreTraining(ElectraConfig(100, 16, 2, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3)
    """

    base_class = ElectraModel
    head = _both(
        {"dense": "discriminator_predictions.dense", "prediction": "discriminator_predictions.dense_prediction"}
    )
    head_prefixes = ("discriminator_predictions.",)

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.prediction = Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        token_type_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ElectraForPreTrainingOutput:
        """Arguments and errors of `TextEncoder.forward` -> logits (B, L)."""
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        found = self._encode((input_ids, attention_mask, token_type_ids, position_ids), options)
        rows = self.dense(found.rows, activation=ACTIVATIONS[self.config.hidden_act])
        logits = found.unpacked(self.prediction(rows))[..., 0]
        return ElectraForPreTrainingOutput(logits, found.hidden_states, found.attentions)


class ElectraForMaskedLM(heads.ForMaskedLM):
    """ELECTRA: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = ElectraForMaskedLM(ElectraConfig(100, 16, 2, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = ElectraModel
    head = _both(
        {
            "transform.dense": "generator_predictions.dense",
            "transform.norm": "generator_predictions.LayerNorm",
            "decoder": "generator_lm_head",
        }
    )
    head_prefixes = ("generator_predictions.", "generator_lm_head.")

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        # GELU, whatever hidden_act is; and as wide as the words' embeddings, which the output layer may share.
        self.transform = heads.PredictionHead(
            config.hidden_size, "gelu", config.layer_norm_eps, width=config.embedding_size
        )
        self._make_decoder()


class ElectraForSequenceClassification(heads.ForSequenceClassification):
    """ELECTRA: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = ElectraForSequenceClassification(ElectraConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 5)
    """

    base_class = ElectraModel
    head = _both({"dense": "classifier.dense", "classifier": "classifier.out_proj"})
    head_prefixes = ("classifier.",)

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.dense(found.first, activation="gelu")


class ElectraForMultipleChoice(heads.ForMultipleChoice):
    """ELECTRA: logits (B, C) of C choices, from each one's first place; see `heads.ForMultipleChoice`.

    Raises:
        ValueError: summary_type, summary_use_proj or summary_activation ask for something else than a linear layer on
        the first place. ("last" and "mean" would read padding, for which nothing is computed here.)

    Example:
        >>> import numpy as np
        >>> model = ElectraForMultipleChoice(ElectraConfig(100, 16, 2, 4, 32, 64, embedding_size=8))
        >>> model(np.array([[[7, 8, 9], [7, 8, 5]]])).logits.shape
        (1, 2)
    """

    base_class = ElectraModel
    head = _both({"summary": "sequence_summary.summary", "classifier": "classifier"})
    head_prefixes = ("sequence_summary.", "classifier.")

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        for field, supported in (("summary_type", "first"), ("summary_use_proj", True)):
            if getattr(config, field) != supported:
                raise ValueError(f"{field} is {getattr(config, field)!r}; supported: {supported!r}")
        if config.summary_activation:
            check_activation(config, "summary_activation")
        self.summary = Linear(config.hidden_size, config.hidden_size)

    def pooled(self, found: Encoded) -> np.ndarray:
        name = self.config.summary_activation
        return self.summary(found.first, activation=ACTIVATIONS[name] if name else None)


class ElectraForTokenClassification(heads.ForTokenClassification):
    """ELECTRA: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`.

    Example:
        >>> import numpy as np
        >>> model = ElectraForTokenClassification(ElectraConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 5)
    """

    base_class = ElectraModel


class ElectraForQuestionAnswering(heads.ForQuestionAnswering):
    """ELECTRA: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`.

    Example:
        >>> import numpy as np
        >>> model = ElectraForQuestionAnswering(ElectraConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).start_logits.shape
        (1, 3)
    """

    base_class = ElectraModel

"""RoBERTa, XLM-RoBERTa (and the multilingual E5, BGE-M3, ...), CamemBERT and data2vec: BERT with another count of
positions, and heads.

Sources: Liu et al. 2019, https://arxiv.org/abs/1907.11692; Conneau et al. 2019, https://arxiv.org/abs/1911.02116;
Martin et al. 2019, https://arxiv.org/abs/1911.03894; Baevski et al. 2022, https://arxiv.org/abs/2202.03555; and
transformers' modeling_roberta, of which the others are copies. `load_model` finds this file by model_type "roberta",
"xlm-roberta", "camembert" and "data2vec-text". The layers are bert.py's. jina-reranker-v2 is an XLM-RoBERTa whose
tensors have the names of the code that its folder names (jinaai/xlm-roberta-flash-implementation).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import Index
from transformer_fast.models.common.encoder import Encoded
from transformer_fast.nn import Linear, Module


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """BERT's fields, and the id of padding, after which positions start."""

    pad_token_id: Index = 1

    without_effect = (
        *BertConfig.without_effect,
        # Of jina-reranker-v2: how its code computed, and the adapters that it does not have.
        "emb_pooler",
        "load_trained_adapters",
        "lora_alpha",
        "lora_dropout_p",
        "lora_main_params_trainable",
        "lora_rank",
        "matryoshka_dimensions",
        "use_flash_attn",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id >= min(self.vocab_size, self.max_position_embeddings - 1):
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; "
                f"needed: less than vocab_size={self.vocab_size} and max_position_embeddings - 1"
            )


class RobertaModel(BertModel):
    """The encoder, with the pooler if add_pooling_layer; XLM-RoBERTa's too.

    A token's position is pad_token_id + its number among the ids of its sequence that are not pad_token_id, whatever
    the attention mask says; pad_token_id itself is at position pad_token_id.

    Example:
        >>> import numpy as np
        >>> model = RobertaModel(RobertaConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = RobertaConfig
    model_types = ("roberta",)
    ignored = ("embeddings.position_ids", "lm_head.", "classifier.", "qa_outputs.")
    base_prefix = "roberta."

    @property
    def max_length(self) -> int:
        return self.config.max_position_embeddings - self.config.pad_token_id - 1

    def _positions(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return positions_behind(self.config.pad_token_id, input_ids, cu_seqlens)


def positions_behind(padding: int, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
    """Positions (T,) of packed ids, as in `RobertaModel`."""
    counted = input_ids != padding
    before = np.concatenate([[0], np.cumsum(counted)])
    numbers = before[1:] - np.repeat(before[cu_seqlens[:-1]], np.diff(cu_seqlens))
    return np.where(counted, numbers, 0) + padding


# ----------------------------------------------------------------------------------------------------------------------
# Heads, of which MPNet has the same


class ClassificationHead(Module):
    """out_proj(tanh(dense(first token))): (B, h) -> (B, num_labels)."""

    def __init__(self, h: int, labels: int) -> None:
        super().__init__()
        self.dense = Linear(h, h)
        self.out_proj = Linear(h, labels)

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self.out_proj(self.dense(input, activation="tanh"))


class ForMaskedLM(heads.ForMaskedLM):
    """The output layer after a linear layer with GELU, which does not depend on the encoder's activation."""

    head = {
        "transform.dense.weight": "lm_head.dense.weight",
        "transform.dense.bias": "lm_head.dense.bias",
        "transform.norm.weight": "lm_head.layer_norm.weight",
        "transform.norm.bias": "lm_head.layer_norm.bias",
        "decoder.weight": "lm_head.decoder.weight",
        "decoder.bias": "lm_head.bias",
    }
    head_prefixes = ("lm_head.",)
    base_options = {"add_pooling_layer": False}

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.transform = heads.PredictionHead(config.hidden_size, "gelu", config.layer_norm_eps)
        self._make_decoder()


class ForSequenceClassification(heads.ForSequenceClassification):
    """Labels of a text, from its first token by `ClassificationHead`."""

    head = {
        f"classifier.{part}.{kind}": f"classifier.{part}.{kind}"
        for part in ("dense", "out_proj")
        for kind in ("weight", "bias")
    }
    head_prefixes = ("classifier.",)
    base_options = {"add_pooling_layer": False}

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.classifier = ClassificationHead(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return found.first


class RobertaForMaskedLM(ForMaskedLM):
    """RoBERTa: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = RobertaForMaskedLM(RobertaConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = RobertaModel


class RobertaForSequenceClassification(ForSequenceClassification):
    """RoBERTa: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = RobertaForSequenceClassification(RobertaConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 2)
    """

    base_class = RobertaModel


class RobertaForMultipleChoice(heads.ForMultipleChoice):
    """RoBERTa: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = RobertaModel


class RobertaForTokenClassification(heads.ForTokenClassification):
    """RoBERTa: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = RobertaModel
    base_options = {"add_pooling_layer": False}


class RobertaForQuestionAnswering(heads.ForQuestionAnswering):
    """RoBERTa: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = RobertaModel
    base_options = {"add_pooling_layer": False}


# ----------------------------------------------------------------------------------------------------------------------
# The same under the names of XLM-RoBERTa, CamemBERT and data2vec, which save_pretrained writes


# Names of tensors in jina-reranker-v2 -> XLM-RoBERTa's; query, key and value are one tensor there.
_FLASH_NAMES = {
    r"^emb_ln\.": "embeddings.LayerNorm.",
    r"^encoder\.layers\.": "encoder.layer.",
    r"\.mixer\.out_proj\.": ".attention.output.dense.",
    r"\.norm1\.": ".attention.output.LayerNorm.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
    r"\.norm2\.": ".output.LayerNorm.",
}


class XLMRobertaModel(RobertaModel):
    """As `RobertaModel`."""

    model_types = ("xlm-roberta",)
    neutral = RobertaModel.neutral | {
        "lora_adaptations": (None,),
        "truncate_dim": (None,),
        "use_reg_tokens": (False, None),
    }

    @classmethod
    def canonical(cls, name: str) -> str:
        name = super().canonical(name)
        for theirs, ours in _FLASH_NAMES.items():
            name = re.sub(theirs, ours, name)
        return name

    @classmethod
    def written_names(cls, names: Collection[str]) -> Collection[str]:
        """transformers' alone."""
        return [name for name in names if ".mixer.Wqkv." not in name]

    @classmethod
    def sources(cls, config: RobertaConfig, names: Collection[str]) -> dict[str, Source]:
        sources = super().sources(config, names)
        for i in range(config.num_hidden_layers):
            for kind in ("weight", "bias"):
                joined = f"encoder.layer.{i}.mixer.Wqkv.{kind}"
                if joined in names and f"encoder.layer.{i}.attention.self.query.{kind}" not in names:
                    sources[f"layers.{i}.attention.in_proj.{kind}"] = Source(joined)
        return sources


class XLMRobertaForMaskedLM(ForMaskedLM):
    """XLM-RoBERTa: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = XLMRobertaModel


class XLMRobertaForSequenceClassification(ForSequenceClassification):
    """XLM-RoBERTa: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = XLMRobertaModel


class XLMRobertaForMultipleChoice(heads.ForMultipleChoice):
    """XLM-RoBERTa: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = XLMRobertaModel


class XLMRobertaForTokenClassification(heads.ForTokenClassification):
    """XLM-RoBERTa: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = XLMRobertaModel
    base_options = {"add_pooling_layer": False}


class XLMRobertaForQuestionAnswering(heads.ForQuestionAnswering):
    """XLM-RoBERTa: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = XLMRobertaModel
    base_options = {"add_pooling_layer": False}


class CamembertModel(RobertaModel):
    """As `RobertaModel`."""

    model_types = ("camembert",)


class CamembertForMaskedLM(ForMaskedLM):
    """CamemBERT: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = CamembertModel


class CamembertForSequenceClassification(ForSequenceClassification):
    """CamemBERT: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = CamembertModel


class CamembertForMultipleChoice(heads.ForMultipleChoice):
    """CamemBERT: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = CamembertModel


class CamembertForTokenClassification(heads.ForTokenClassification):
    """CamemBERT: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = CamembertModel
    base_options = {"add_pooling_layer": False}


class CamembertForQuestionAnswering(heads.ForQuestionAnswering):
    """CamemBERT: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = CamembertModel
    base_options = {"add_pooling_layer": False}


class Data2VecTextModel(RobertaModel):
    """As `RobertaModel`."""

    model_types = ("data2vec-text",)
    base_prefix = "data2vec_text."


class Data2VecTextForMaskedLM(ForMaskedLM):
    """data2vec: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = Data2VecTextModel


class Data2VecTextForSequenceClassification(ForSequenceClassification):
    """data2vec: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = Data2VecTextModel


class Data2VecTextForMultipleChoice(heads.ForMultipleChoice):
    """data2vec: logits (B, C) of C choices; see `heads.ForMultipleChoice`."""

    base_class = Data2VecTextModel


class Data2VecTextForTokenClassification(heads.ForTokenClassification):
    """data2vec: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = Data2VecTextModel
    base_options = {"add_pooling_layer": False}


class Data2VecTextForQuestionAnswering(heads.ForQuestionAnswering):
    """data2vec: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = Data2VecTextModel
    base_options = {"add_pooling_layer": False}

"""jina-embeddings-v3: XLM-RoBERTa with rotary positions and, in the first folders, an adapter for each of five tasks.

Source: Sturua et al. 2024, https://arxiv.org/abs/2409.10173, transformers' modeling_jina_embeddings_v3, and for
adapters the behaviour of the code that the first folders name (jinaai/xlm-roberta-flash-implementation). `load_model`
finds this file by model_type "jina_embeddings_v3", and by "xlm-roberta" with position_embedding_type "rotary", as the
first folders say (jina-colbert-v2 among them, which has no adapters).
The layers are BERT's with rotary positions; their linear layers and tables are of `common.adapters`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models import roberta
from transformer_fast.models.common import heads
from transformer_fast.models.common.adapters import AdaptedEmbedding, AdaptedLinear, Adapters
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.config import ACTIVATIONS
from transformer_fast.models.common.encoder import EncoderBatch, PoolingEncoder
from transformer_fast.models.common.inputs import integers
from transformer_fast.models.common.rotary_attention import rotary_attention
from transformer_fast.models.common.rotary_config import RotaryConfig
from transformer_fast.nn import Collector, LayerNorm, Linear, Module, ModuleList


@dataclass(frozen=True)
class JinaEmbeddingsV3Config(RotaryConfig):
    """The fields of config.json that have an effect; the defaults are transformers'.

    lora_adaptations: the names of the tasks; None: there are no adapters. task_instructions, the prompts of the first
    code's own encode(), have no effect: `SentenceEncoder` has those of config_sentence_transformers.json.
    """

    vocab_size: int = 250002
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    max_position_embeddings: int = 8194
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    rope_theta: float = 20000.0
    rope_scaling: dict | None = None
    rope_parameters: dict | None = None
    tie_word_embeddings: bool = True
    lora_adaptations: list[str] | None = None
    lora_rank: int = 4
    lora_alpha: float = 1.0
    load_trained_adapters: bool = True

    without_effect = (
        *RotaryConfig.without_effect,
        # `translated` reads it.
        "rotary_emb_base",
        # Of training, of the first code's encode(), and how it computed.
        "lora_dropout_p",
        "lora_main_params_trainable",
        "emb_pooler",
        "matryoshka_dimensions",
        "task_instructions",
        "use_flash_attn",
    )

    @staticmethod
    def translated(content: Mapping[str, Any]) -> dict[str, Any]:
        base = content.get("rotary_emb_base")
        return dict(content) if base is None else {"rope_theta": base} | dict(content)

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks = self.lora_adaptations
        if tasks is not None and (not tasks or len(set(tasks)) < len(tasks)):
            raise ValueError(f"lora_adaptations is {tasks!r}; needed: names that differ, or null")
        if tasks and not self.load_trained_adapters:
            raise ValueError("load_trained_adapters is False; needed with lora_adaptations: True")

    @property
    def adapters(self) -> Adapters:
        return Adapters(len(self.lora_adaptations or ()), self.lora_rank, self.lora_alpha / self.lora_rank)


class JinaEmbeddingsV3Layer(Module):
    """Attention with rotary positions and the feed-forward; what each adds is normalised with its input."""

    def __init__(self, config: JinaEmbeddingsV3Config) -> None:
        super().__init__()
        h, inner, adapters = config.hidden_size, config.intermediate_size, config.adapters
        self.num_heads, self.activation = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
        self.Wqkv = AdaptedLinear(h, 3 * h, adapters)
        self.out_proj = AdaptedLinear(h, h, adapters)
        self.attention_norm = LayerNorm(h, config.layer_norm_eps)
        self.linear1 = AdaptedLinear(h, inner, adapters)
        self.linear2 = AdaptedLinear(inner, h, adapters)
        self.feed_forward_norm = LayerNorm(h, config.layer_norm_eps)
        self.linear1.follows(self.attention_norm)

    def forward(
        self,
        hidden: np.ndarray,
        batch: EncoderBatch,
        angles: tuple[np.ndarray, np.ndarray],
        task: int | None,
        options: dict[str, Any],
        collect: Collector | None,
        pooled: np.ndarray | None = None,
    ) -> np.ndarray:
        """hidden (T, h) -> (T, h), a new array; arguments of `rotary_attention`: with pooled (B, h)."""
        projected = self.Wqkv(hidden, task=task)
        context = rotary_attention(projected, self.num_heads, batch, angles, options, collect, pooled)
        hidden = self.out_proj(context, task=task, residual=hidden if pooled is None else hidden[pooled])
        hidden = self.attention_norm(hidden, out=hidden)
        inner = self.linear1(hidden, task=task, activation=self.activation)
        hidden = self.linear2(inner, task=task, residual=hidden)
        return self.feed_forward_norm(hidden, out=hidden)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


# Our parts of a layer -> the first code's, which is what folders have, and what transformers writes.
_LAYER = {
    "Wqkv": "mixer.Wqkv",
    "out_proj": "mixer.out_proj",
    "attention_norm": "norm1",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
    "feed_forward_norm": "norm2",
}
_ADAPTED_PARTS = ("Wqkv", "out_proj", "linear1", "linear2")
# transformers' own names, if it was told to write them -> the first code's.
_OWN_NAMES = {
    r"^layers\.": "encoder.layers.",
    r"^embeddings\.LayerNorm\.": "emb_ln.",
    r"\.self_attn\.o_proj\.": ".mixer.out_proj.",
    r"\.post_attention_layernorm\.": ".norm1.",
    r"\.post_mlp_layernorm\.": ".norm2.",
}


class JinaEmbeddingsV3Model(PoolingEncoder):
    """The encoder, with the pooler if add_pooling_layer. Positions beyond max_position_embeddings are computed, too.

    Without a task it is the model without adapters, as transformers has it; `for_task` has those of a task.

    Example:
        >>> import numpy as np
        >>> model = JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(100, 16, 24, 2, 4, lora_adaptations=["a", "b"]))
        >>> model.for_task("b")(np.array([[1, 2, 3]])).last_hidden_state.shape
        (1, 3, 16)
    """

    config_class = JinaEmbeddingsV3Config
    model_types = ("jina_embeddings_v3", "xlm-roberta")
    neutral = {
        "is_causal": (False, None),
        "pruned_heads": ({}, None),
        "quantization_config": (None,),
        # Of the first code: other positions, tokens that are put before a text, vectors that are cut.
        "position_embedding_type": ("rotary", None),
        "use_reg_tokens": (False, None),
        "truncate_dim": (None,),
    }
    ignored = ("lm_head.", "classifier.", "qa_outputs.", "pooler.")
    stacks = {"encoder.layers.": "num_hidden_layers"}
    base_prefix = "roberta."

    def __init__(self, config: JinaEmbeddingsV3Config, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        h = config.hidden_size
        self.word_embeddings = AdaptedEmbedding(config.vocab_size, h, config.adapters)
        self.token_type_embeddings = AdaptedEmbedding(config.type_vocab_size, h, config.adapters)
        self.embeddings_norm = LayerNorm(h, config.layer_norm_eps)
        self.layers = ModuleList([JinaEmbeddingsV3Layer(config) for _ in range(config.num_hidden_layers)])
        norms = [self.embeddings_norm, *(layer.feed_forward_norm for layer in self.layers)]
        for layer, norm in zip(self.layers, norms, strict=False):
            layer.Wqkv.follows(norm, parts=3)
        self.pooler = Linear(h, h) if add_pooling_layer else None
        self._rotation = config.rotation("all")
        self._task: int | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names that `for_task` takes."""
        return tuple(self.config.lora_adaptations or ())

    def for_task(self, task: str | None) -> JinaEmbeddingsV3Model:
        """The same model with the adapters of a task, or with none: it shares all parameters.

        Raises:
            ValueError: there is no such task.
        """
        if task is not None and task not in self.tasks:
            raise ValueError(f"task is {task!r}; needed: None or {', '.join(map(repr, self.tasks)) or 'nothing else'}")
        model = copy.copy(self)
        model._task = None if task is None else self.tasks.index(task)
        model.note_derived(self, "for_task", task)
        return model

    @property
    def position_limit(self) -> int | None:
        return None

    @classmethod
    def options(cls, config: JinaEmbeddingsV3Config, names: Collection[str]) -> dict[str, bool]:
        """The pooler of a model with adapters has some as well, and is left out: nothing reads it."""
        return {"add_pooling_layer": "pooler.dense.weight" in names}

    @classmethod
    def canonical(cls, name: str) -> str:
        """The first code's names."""
        name = super().canonical(name)
        for own, first in _OWN_NAMES.items():
            name = re.sub(own, first, name)
        return name

    @classmethod
    def sources(cls, config: JinaEmbeddingsV3Config, names: Collection[str]) -> dict[str, Source]:
        adapted = bool(config.lora_adaptations)

        def weights(ours: str, theirs: str) -> dict[str, Source]:
            if not adapted:
                return {f"{ours}.weight": Source(f"{theirs}.weight")}
            theirs = f"{theirs}.parametrizations.weight"
            updates = {f"{ours}.{part}": Source(f"{theirs}.0.{part}") for part in ("lora_A", "lora_B")}
            return {f"{ours}.weight": Source(f"{theirs}.original")} | updates

        sources = {f"pooler.{kind}": Source(f"pooler.dense.{kind}") for kind in ("weight", "bias")}
        for table in ("word_embeddings", "token_type_embeddings"):
            sources |= weights(table, f"embeddings.{table}")
        for kind in ("weight", "bias"):
            sources[f"embeddings_norm.{kind}"] = Source(f"emb_ln.{kind}")
        for i in range(config.num_hidden_layers):
            for part, theirs in _LAYER.items():
                ours, name = f"layers.{i}.{part}", f"encoder.layers.{i}.{theirs}"
                named = weights(ours, name) if part in _ADAPTED_PARTS else {f"{ours}.weight": Source(f"{name}.weight")}
                sources |= named | {f"{ours}.bias": Source(f"{name}.bias")}
            for kind in ("weight", "bias"):
                apart = [f"encoder.layers.{i}.self_attn.{part}_proj.{kind}" for part in "qkv"]
                if apart[0] in names and f"encoder.layers.{i}.mixer.Wqkv.{kind}" not in names:
                    sources[f"layers.{i}.Wqkv.{kind}"] = Source(*apart)
        return sources

    def _token_types(self, token_type_ids, shape: tuple[int, ...]) -> np.ndarray:
        return integers("token_type_ids", token_type_ids, self.config.type_vocab_size, shape)

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        words, types, norm = self.word_embeddings, self.token_type_embeddings, self.embeddings_norm
        type_ids = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        if self._task is None:
            return F.embedding_sum(
                [input_ids, type_ids], [words.weight, types.weight], norm.weight, norm.bias, norm.eps
            )
        rows = words(input_ids) + types(type_ids)
        rows += words.update(input_ids, self._task)
        rows += types.update(type_ids, self._task)
        return norm(rows, out=rows)

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        angles = self._rotation.tables(batch.positions)

        def step(layer, hidden, options, collect, pooled=None):
            return layer(hidden, batch, angles, self._task, options, collect, pooled)

        return self._run_layers(step, hidden, batch, {}, collect)


# ----------------------------------------------------------------------------------------------------------------------
# Heads: RoBERTa's


class JinaEmbeddingsV3ForMaskedLM(roberta.ForMaskedLM):
    """jina-embeddings-v3: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`."""

    base_class = JinaEmbeddingsV3Model


class JinaEmbeddingsV3ForSequenceClassification(roberta.ForSequenceClassification):
    """jina-embeddings-v3: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`."""

    base_class = JinaEmbeddingsV3Model


class JinaEmbeddingsV3ForTokenClassification(heads.ForTokenClassification):
    """jina-embeddings-v3: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`."""

    base_class = JinaEmbeddingsV3Model
    base_options = {"add_pooling_layer": False}


class JinaEmbeddingsV3ForQuestionAnswering(heads.ForQuestionAnswering):
    """jina-embeddings-v3: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`."""

    base_class = JinaEmbeddingsV3Model
    base_options = {"add_pooling_layer": False}

"""BigBird (bigbird-roberta-base, ...): BERT with block-sparse attention for long texts, and heads.

Source: Zaheer et al. 2020, https://arxiv.org/abs/2007.14062, and transformers' modeling_big_bird. `load_model` finds
this file by model_type "big_bird". `common.block_sparse` says which keys a token sees; the decoder
(`BigBirdForCausalLM`) is not here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from transformer_fast import functional as F
from transformer_fast.models import bert
from transformer_fast.models.common import heads
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.block_sparse import BlockSparse, BlockSparseCollector
from transformer_fast.models.common.config import ACTIVATIONS, Index
from transformer_fast.models.common.encoder import Encoded, EncoderBatch
from transformer_fast.models.common.inputs import integers, token_mask
from transformer_fast.models.common.output import BigBirdForPreTrainingOutput, QuestionAnsweringModelOutput
from transformer_fast.nn import Collector, FeedForward, LayerNorm, Linear
from transformer_fast.nn.packed import for_pooled_rows

_ATTENTION_TYPES = ("block_sparse", "original_full")


@dataclass(frozen=True)
class BigBirdConfig(bert.BertConfig):
    """The fields of config.json that have an effect; the defaults are transformers'.

    sep_token_id has an effect only in `BigBirdForQuestionAnswering`, which needs it.
    """

    hidden_act: str = "gelu_new"
    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: Index = 3
    use_bias: bool = True
    rescale_embeddings: bool = False
    sep_token_id: Index | None = 66

    without_effect = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_type not in _ATTENTION_TYPES:
            raise ValueError(f"attention_type is {self.attention_type!r}; supported: {', '.join(_ATTENTION_TYPES)}")

    @property
    def longest_full(self) -> int:
        """Up to this length "block_sparse" attends to all tokens."""
        return (5 + 2 * self.num_random_blocks) * self.block_size


_POOLER = {f"pooler.{kind}": f"pooler.{kind}" for kind in ("weight", "bias")}


class BigBirdModel(bert.BertModel):
    """The encoder, with the pooler if add_pooling_layer.

    With attention_type "block_sparse" a text of more than (5 + 2 num_random_blocks) block_size tokens is cut into
    blocks. A token sees its own block, the two beside it, the first and the last one; tokens of these two see all.
    Random blocks are drawn in training only: in inference transformers takes the first block for each of them, which
    therefore counts num_random_blocks + 1 times. That is followed here.

    A call on (B, L) takes L for the length of each row, padding counted, as transformers does: L decides whether the
    call is sparse, and place L - 1 is in the last block. So a row's results depend on how far it is padded.
    `encode_packed`, and with it `SentenceEncoder` and pipelines of tokens, take each text by its own length: the
    results that transformers has for it alone, in any batch. Pipelines of whole texts pad, and follow their batch's L.
    After a call that is too short for blocks, transformers' model keeps to full attention; here each call decides anew.

    Attention weights are reported as by transformers, those of the first block once: a sparse row's sum is below 1.

    Example:
        >>> import numpy as np
        >>> model = BigBirdModel(BigBirdConfig(100, 16, 2, 4, 32, 64, block_size=2, num_random_blocks=1))
        >>> model(np.arange(20)[None]).last_hidden_state.shape
        (1, 20, 16)
    """

    config_class = BigBirdConfig
    model_types = ("big_bird",)
    # The heads: PreTraining, MaskedLM, CausalLM; SequenceClassification, TokenClassification and MultipleChoice;
    # QuestionAnswering.
    ignored = ("embeddings.position_ids", "cls.", "classifier.", "qa_classifier.")

    def __init__(self, config: BigBirdConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer)
        if not config.use_bias:
            norms = [self.embeddings_norm, *(layer.feed_forward_norm for layer in self.layers)]
            for layer, norm in zip(self.layers, norms, strict=False):
                h = config.hidden_size
                layer.attention.in_proj = Linear(h, 3 * h, bias=False).follows(norm, parts=3)

    @classmethod
    def options(cls, config: BigBirdConfig, names: Collection[str]) -> dict[str, bool]:
        return {"add_pooling_layer": any(name in names for name in _POOLER.values())}

    @classmethod
    def sources(cls, config: BigBirdConfig, names: Collection[str]) -> dict[str, Source]:
        """BERT's names, but the pooler's."""
        return super().sources(config, names) | {ours: Source(theirs) for ours, theirs in _POOLER.items()}

    def _embed(self, input_ids: np.ndarray, positions: np.ndarray, token_type_ids: np.ndarray | None) -> np.ndarray:
        if not self.config.rescale_embeddings:
            return super()._embed(input_ids, positions, token_type_ids)
        words = self.word_embeddings(input_ids) * np.float32(self.config.hidden_size**0.5)
        types = np.zeros(len(input_ids), np.int64) if token_type_ids is None else token_type_ids
        tables = [words, self.token_type_embeddings.weight, self.position_embeddings.weight]
        norm = self.embeddings_norm
        return F.embedding_sum([np.arange(len(words)), types, positions], tables, norm.weight, norm.bias, norm.eps)

    def _run(self, hidden: np.ndarray, batch: EncoderBatch, collect: Collector | None) -> np.ndarray:
        config, lengths = self.config, np.diff(batch.cu_seqlens)
        if batch.width is not None:
            lengths = np.full(len(lengths), batch.width)
        sparse = (lengths > config.longest_full) & (config.attention_type == "block_sparse")
        if not sparse.any():
            return self._layers(hidden, batch, collect)
        if not sparse.all():  # packed texts: each in a call with its like, so that none changes another's bits
            return self._in_two_calls(hidden, batch, sparse)
        seen = BlockSparse.of(batch, lengths, config.block_size, config.num_random_blocks + 1)
        if collect is not None:
            collect = BlockSparseCollector(collect, seen)
        return self._layers(hidden, replace(batch, keys=seen.keys), collect, mask=seen.mask, attn_mask=seen.bias)

    def _in_two_calls(self, hidden: np.ndarray, batch: EncoderBatch, sparse: np.ndarray) -> np.ndarray:
        """`_run` of a packed batch, once for the texts that are sparse (B,) and once for the others."""
        lengths, pooled = np.diff(batch.cu_seqlens), batch.pooled_rows
        if pooled is not None:
            pooled = for_pooled_rows(pooled, batch.cu_seqlens, None, {})[0] - batch.cu_seqlens[:-1]
        result = np.empty_like(hidden if pooled is None else hidden[: len(lengths)])
        for chosen in (sparse, ~sparse):
            rows = np.repeat(chosen, lengths)
            own = EncoderBatch(np.cumsum([0, *lengths[chosen]]), batch.positions[rows], None)
            if pooled is not None:
                own = replace(own, pooled_rows=pooled[chosen])
            result[rows if pooled is None else chosen] = self._run(hidden[rows], own, None)
        return result


# ----------------------------------------------------------------------------------------------------------------------
# Heads


class BigBirdForMaskedLM(bert.BertForMaskedLM):
    """BigBird: logits (B, L, V) of the word in each place; see `heads.ForMaskedLM`.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForMaskedLM(BigBirdConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 100)
    """

    base_class = BigBirdModel
    base_options = {}  # files have a pooler, which nothing reads


class BigBirdForPreTraining(bert.BertForPreTraining):
    """prediction_logits (B, L, V) of masked words, seq_relationship_logits (B, 2) of the second text.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForPreTraining(BigBirdConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 9]])).seq_relationship_logits.shape
        (1, 2)
    """

    base_class = BigBirdModel

    def forward(self, *arguments, **options) -> BigBirdForPreTrainingOutput:
        """Arguments and errors of `TextEncoder.forward`."""
        return BigBirdForPreTrainingOutput(**vars(super().forward(*arguments, **options)))


class BigBirdForSequenceClassification(heads.ForSequenceClassification):
    """BigBird: logits (B, num_labels) of each text; see `heads.ForSequenceClassification`.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForSequenceClassification(BigBirdConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 5)
    """

    base_class = BigBirdModel
    head = {
        f"{ours}.{kind}": f"classifier.{theirs}.{kind}"
        for ours, theirs in (("dense", "dense"), ("classifier", "out_proj"))
        for kind in ("weight", "bias")
    }
    head_prefixes = ("classifier.",)

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.classifier = Linear(config.hidden_size, config.label_count)

    def pooled(self, found: Encoded) -> np.ndarray:
        return self.dense(found.first, activation=ACTIVATIONS[self.config.hidden_act])


class BigBirdForMultipleChoice(heads.ForMultipleChoice):
    """BigBird: logits (B, C) of C choices; see `heads.ForMultipleChoice`.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForMultipleChoice(BigBirdConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[[7, 8, 9], [7, 8, 5]]])).logits.shape
        (1, 2)
    """

    base_class = BigBirdModel


class BigBirdForTokenClassification(heads.ForTokenClassification):
    """BigBird: logits (B, L, num_labels) of each token; see `heads.ForTokenClassification`.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForTokenClassification(BigBirdConfig(100, 16, 2, 4, 32, 64, num_labels=5))
        >>> model(np.array([[7, 8, 9]])).logits.shape
        (1, 3, 5)
    """

    base_class = BigBirdModel


class _QuestionEncoder(BigBirdModel):
    """The encoder of `BigBirdForQuestionAnswering`: unless it is told, tokens behind the question are of type 1."""

    def _own_types(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return self.behind_question(input_ids, cu_seqlens).astype(np.int64)

    def behind_question(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """(T,) bool: what follows each sequence's first separator, or its first token where there is no separator."""
        ends, lengths = input_ids == self.config.sep_token_id, np.diff(cu_seqlens)
        seen = np.concatenate([[0], np.cumsum(ends)])
        before, of_all = seen[cu_seqlens[:-1]], np.diff(seen[cu_seqlens])
        behind = (seen[:-1] > np.repeat(before, lengths)) | np.repeat(of_all == 0, lengths)
        behind[cu_seqlens[:-1][lengths > 0]] = False
        return behind


class BigBirdForQuestionAnswering(heads.ForQuestionAnswering):
    """BigBird: start_logits and end_logits (B, L) of an answer; see `heads.ForQuestionAnswering`.

    The question ends with the first sep_token_id. From the logits of its tokens, but for the first place of a row,
    1e6 is taken, and without token_type_ids those behind it are of type 1.

    Raises:
        ValueError: config has no sep_token_id.

    Example:
        >>> import numpy as np
        >>> model = BigBirdForQuestionAnswering(BigBirdConfig(100, 16, 2, 4, 32, 64))
        >>> model(np.array([[7, 8, 66, 9]])).start_logits.shape
        (1, 4)
    """

    base_class = _QuestionEncoder
    base_options = {"add_pooling_layer": False}
    head = {
        f"{ours}.{kind}": f"qa_classifier.{theirs}.{kind}"
        for ours, theirs in (
            ("feed_forward.linear1", "intermediate.dense"),
            ("feed_forward.linear2", "output.dense"),
            ("norm", "output.LayerNorm"),
            ("outputs", "qa_outputs"),
        )
        for kind in ("weight", "bias")
    }
    head_prefixes = ("qa_classifier.",)

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config)
        if config.sep_token_id is None:
            raise ValueError("sep_token_id is None; needed: the id that ends a question")
        h = config.hidden_size
        self.feed_forward = FeedForward(h, config.intermediate_size, ACTIVATIONS[config.hidden_act])
        self.norm = LayerNorm(h, config.layer_norm_eps)

    def forward(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, *arguments, **options
    ) -> QuestionAnsweringModelOutput:
        """Arguments and errors of `TextEncoder.forward` -> start_logits and end_logits (B, L)."""
        found = super().forward(input_ids, attention_mask, *arguments, **options)
        B, L = found.start_logits.shape
        ids = integers("input_ids", input_ids).reshape(-1)
        question = ~self.base.behind_question(ids, np.arange(B + 1) * L).reshape(B, L)
        question[:, 0] = False
        question &= token_mask(attention_mask, (B, L))
        for logits in (found.start_logits, found.end_logits):
            logits[question] -= np.float32(1e6)
        return found

    def _transformed(self, rows: np.ndarray) -> np.ndarray:
        return self.norm(self.feed_forward(rows, residual=rows))

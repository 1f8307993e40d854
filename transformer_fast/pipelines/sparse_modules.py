"""The modules of sparse encoders: logits of words by a masked-language model, their SPLADE pooling, weights of tokens.

`sparse_routes` makes them. A further way of pooling logits is a name in `STRATEGIES` and its computation in
`SpladePooling`; a further input has the attributes of `TransformerInput`. The SparseAutoEncoder, which works on dense
vectors, is in `sentence_modules`.

Source: sentence-transformers 6, sparse_encoder/modules.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, packed, typed
from transformer_fast.models import load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.common.heads import ForMaskedLM
from transformer_fast.pipelines.sentence_inputs import TextTokens, TransformerInput, read_tokenizer_settings
from transformer_fast.pipelines.sentence_settings import check_fields
from transformer_fast.pipelines.sentence_texts import Text, with_prompt

STRATEGIES = ("max", "sum")
# activation_function -> how often log(1 + x) is applied to logits that are not negative.
_LOGARITHMS = {"relu": 1, "log1p_relu": 2}
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")

# Numbers of dense vectors that are in memory before they become sparse, 16 MB: 137 texts of BERT's vocabulary, whose
# tokens are enough rows for the product's full speed.
_MOST_NUMBERS = 1 << 22
# Rows of logits that the pooling "sum" has in memory, 8 MB for BERT's vocabulary. Sums are cut there, so that it is
# fixed.
_SUM_ROWS = 64


class MaskedLMInput(TransformerInput):
    """A model ForMaskedLM and its tokenizer; rows are those that its head reads.

    Attributes:
        model: the model. vocab_size: the number of its logits.
    """

    def __init__(self, model: ForMaskedLM, tokenizer: Tokenizer, max_seq_length: int | None) -> None:
        super().__init__(model, tokenizer, max_seq_length)
        self.vocab_size = model.decoder.out_features

    @property
    def _encoder(self) -> Any:
        return self.model.base

    @classmethod
    def read(
        cls,
        source: ModelSource,
        compute_type: ComputeType,
        ignore_fields: Collection[str],
        packed_cache: str | Path | None = None,
        plain: bool = False,
        usual_task: str = "feature-extraction",
    ) -> MaskedLMInput:
        """plain, usual_task: as in `read_tokenizer_settings`.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported, or it is a model of another kind.
        """
        settings = read_tokenizer_settings(source, "fill-mask", plain, usual_task=usual_task)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, **options)
        if not isinstance(model, ForMaskedLM):
            raise CheckpointError(
                f"{source}: holds a {type(model).__name__}; SparseEncoder needs a model ForMaskedLM, or modules.json "
                "with a SparseAutoEncoder that has been trained"
            )
        return cls(model, *settings)


class SpladePooling:
    """Logits of words at each token -> one weight for each word of the vocabulary: the maximum or the sum over tokens
    of log(1 + max(logit, 0)), with "log1p_relu" of log(1 + log(1 + max(logit, 0))).

    Since these rise with the logit, the maximum is taken of logits.

    Attributes:
        modes: its strategy, one of STRATEGIES. include_prompt: True, the tokens of a prompt count.
    """

    include_prompt = True

    def __init__(self, strategy: str = "max", activation: str = "relu") -> None:
        self.modes = (strategy,)
        self._logarithms = _LOGARITHMS[activation]

    @classmethod
    def read(cls, source: ModelSource, vocab_size: int) -> SpladePooling:
        """
        Raises:
            CheckpointError: its config is malformed, does not fit, or asks for what is not supported.
        """
        config, place = source.object("config.json"), source.place("config.json")
        check_fields(place, config, {"pooling_strategy", "activation_function", "chunk_size", *_WIDTHS})
        strategy = typed(place, config, "pooling_strategy", str, "max")
        activation = typed(place, config, "activation_function", str, "relu")
        for name, value, known in (
            ("pooling_strategy", strategy, STRATEGIES),
            ("activation_function", activation, tuple(_LOGARITHMS)),
        ):
            if value not in known:
                raise CheckpointError(f"{place}: {name} is {value!r}; supported: {', '.join(known)}")
        for name in _WIDTHS:
            if typed(place, config, name, int, vocab_size) != vocab_size:
                raise CheckpointError(f"{place}: {name} is {config[name]}; needed: {vocab_size}, the model's logits")
        typed(place, config, "chunk_size", int, None)  # of memory there; here logits are never all in memory
        return cls(strategy, activation)

    def dimension(self, input: MaskedLMInput) -> int:
        """The length of the vectors."""
        return input.vocab_size

    def __call__(self, input: MaskedLMInput, tokens: Sequence[TextTokens], skipped: int) -> Any:
        """The vectors of texts: a scipy.sparse.csr_array (B, V). skipped: 0."""
        rows = input.rows(tokens)
        starts = packed([one.ids for one in tokens])[1]
        step = max(1, _MOST_NUMBERS // input.vocab_size)
        parts = []
        for first in range(0, len(tokens), step):
            cut = starts[first : first + step + 1]
            parts.append(self._pooled(input.model, rows[cut[0] : cut[-1]], cut - cut[0]))
        return optional_import("scipy.sparse", "sparse").vstack(parts, format="csr")

    def _pooled(self, model: ForMaskedLM, rows: np.ndarray, cu_seqlens: np.ndarray) -> Any:
        if self.modes == ("sum",):
            return sparse_rows(np.stack([self._sum(model, one) for one in np.split(rows, cu_seqlens[1:-1])]))
        found = sparse_rows(np.maximum(model.largest_predictions(rows, cu_seqlens), 0))
        self._logarithm(found.data)
        return found

    def _sum(self, model: ForMaskedLM, rows: np.ndarray) -> np.ndarray:
        """One text: a sum of its own, whose order does not depend on other texts."""
        total = np.zeros(model.decoder.out_features, np.float32)
        for first in range(0, len(rows), _SUM_ROWS):
            logits = model.predictions(rows[first : first + _SUM_ROWS])
            self._logarithm(np.maximum(logits, 0, out=logits))
            total += np.add.reduce(logits, axis=0)
        return total

    def _logarithm(self, numbers: np.ndarray) -> None:
        """In place."""
        for _ in range(self._logarithms):
            np.log1p(numbers, out=numbers)


class SparseStaticEmbedding:
    """A weight for each token of the vocabulary, the token's IDF for instance; it is its own model.

    Texts have no special tokens, and are cut off where the tokenizer's files say so. It pickles as its files and
    max_seq_length.

    Attributes:
        weight: (V,), read-only. max_seq_length: the most tokens of a text, or infinity; may be set.
    """

    takes_limit = True

    def __init__(self, weight: np.ndarray, tokenizer: Tokenizer) -> None:
        self._weight, self._tokenizer = weight.view(), tokenizer
        self._weight.flags.writeable = False
        self._max_seq_length: float = tokenizer.max_length or math.inf
        self._read_from: tuple | None = None

    @classmethod
    def read(
        cls,
        source: ModelSource,
        compute_type: ComputeType,
        ignore_fields: Collection[str],
        packed_cache: str | Path | None = None,
    ) -> SparseStaticEmbedding:
        """The folder's weights, or those of the JSON file (token -> weight) that its config names as path.

        There is no product, so that compute_type and packed_cache have no effect.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        config, place = source.object("config.json", required=False), source.place("config.json")
        check_fields(place, config, {"frozen", "path"})
        typed(place, config, "frozen", bool, False)
        path = typed(place, config, "path", str, None)
        tokenizer = Tokenizer(source)
        vocabulary = tokenizer.tokenizer.get_vocab(with_added_tokens=True)
        if path is not None and path.endswith(".json"):
            weight = _read_weights(source, path, vocabulary)
        else:
            tensors = Checkpoint(source, config, source.tensors()).take({"weight": (len(vocabulary),)})
            weight = tensors["weight"].astype(np.float32)
        if max(vocabulary.values(), default=-1) >= len(weight):
            raise CheckpointError(
                f"{tokenizer.place}: has the token {max(vocabulary.values())}; needed: less than {len(weight)}"
            )
        made = cls(weight, tokenizer)
        made._read_from = source, compute_type, ignore_fields
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._read_from is None:
            return super().__reduce_ex__(protocol)
        return SparseStaticEmbedding.read, self._read_from, {"_max_seq_length": self._max_seq_length}

    def __copy__(self) -> SparseStaticEmbedding:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseStaticEmbedding:
        return copy.copy(self)  # of all that it has, max_seq_length alone changes

    @property
    def weight(self) -> np.ndarray:
        return self._weight

    @property
    def model(self) -> SparseStaticEmbedding:
        return self

    @property
    def max_seq_length(self) -> float:
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if not isinstance(length, (int, np.integer)) or length < 1:
            raise ValueError(f"max_seq_length is {length}; needed: an integer >= 1")
        self._max_seq_length = int(length)

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        limit = self._limit()
        return self._tokenizer.tokenizer if limit is None else self._tokenizer.limited(limit)

    def tokens(self, texts: Sequence[Text], prompt: str = "") -> list[TextTokens]:
        """The tokens of texts, or of the two texts of pairs, with a prompt, cut off at max_seq_length."""
        texts = with_prompt(prompt, texts)
        encodings = self._tokenizer.encode_batch(texts, max_length=self._limit(), add_special_tokens=False)
        return [TextTokens(encoding.ids, None, bool(encoding.overflowing)) for encoding in encodings]

    def lengths(self, texts: Sequence[Text], prompt: str = "") -> list[int]:
        """The number of tokens of each text with a prompt if nothing were cut off."""
        texts = with_prompt(prompt, texts)
        return [len(encoding) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def prompt_length(self, prompt: str) -> int:
        """0: all tokens count."""
        return 0

    def arguments(self, tokens: Sequence[TextTokens]) -> dict[str, np.ndarray]:
        """input_ids and attention_mask, (B, L) int64 each, padded to the longest with zeros."""
        shape = len(tokens), max(map(len, tokens), default=0)
        input_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, one in enumerate(tokens):
            input_ids[row, : len(one)], mask[row, : len(one)] = one.ids, 1
        return {"input_ids": input_ids, "attention_mask": mask}

    def _limit(self) -> int | None:
        return None if self._max_seq_length == math.inf else int(self._max_seq_length)


class TokenPresence:
    """The vectors of a `SparseStaticEmbedding`: the weight of each token that a text has, once.

    Attributes:
        modes: ("presence",). include_prompt: True, the tokens of a prompt count.
    """

    modes = ("presence",)
    include_prompt = True

    def dimension(self, input: SparseStaticEmbedding) -> int:
        """The length of the vectors."""
        return len(input.weight)

    def __call__(self, input: SparseStaticEmbedding, tokens: Sequence[TextTokens], skipped: int) -> Any:
        """The vectors of texts: a scipy.sparse.csr_array (B, V). skipped: 0."""
        found = [np.unique(np.array(one.ids, np.int32)) for one in tokens]
        found = [ids[input.weight[ids] != 0] for ids in found]
        indices, indptr = packed([ids.tolist() for ids in found])
        shape = len(tokens), len(input.weight)
        return optional_import("scipy.sparse", "sparse").csr_array((input.weight[indices], indices, indptr), shape)


def sparse_rows(vectors: np.ndarray) -> Any:
    """Dense vectors (B, D) as a scipy.sparse.csr_array that stores what is not 0."""
    return optional_import("scipy.sparse", "sparse").csr_array(vectors)


def _read_weights(source: ModelSource, path: str, vocabulary: dict[str, int]) -> np.ndarray:
    """The weights (V,) of a JSON file; tokens that it does not have weigh 0."""
    place = source.place(path)
    if source.json(path) is None:
        raise CheckpointError(
            f"{source.place('config.json')}: path is {path!r}; supported: the name of a JSON file in that folder"
        )
    weights = source.object(path)
    unknown = [token for token in weights if token not in vocabulary]
    if unknown:
        raise CheckpointError(f"{place}: has the token {unknown[0]!r}, which the vocabulary does not have")
    if not all(type(value) in (int, float) for value in weights.values()):
        raise CheckpointError(f"{place}: needed: an object of numbers, the weight of each token")
    found = np.zeros(len(vocabulary), np.float32)
    found[[vocabulary[token] for token in weights]] = list(weights.values())
    return found

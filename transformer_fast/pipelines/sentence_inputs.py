"""The first module of a sentence encoder: texts to tokens, and tokens to rows. A Transformer, or a StaticEmbedding.

`sentence_routes` makes them. A further kind of input is a class with the attributes of `TransformerInput`, and a line
in `INPUTS`.

Source: sentence-transformers 6, base/modules/transformer.py and sentence_transformer/modules/static_embedding.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import PlainTokenizer, Tokenizer, packed, typed
from transformer_fast.models import load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.sentence_settings import check_fields

Text = str | tuple[str, str]

# The settings of a sentence-transformers model's tokens, by the family that it was made for; the first that is there.
_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Names of the padding token in vocabularies; the mask hides it.
_PADS = ("[PAD]", "<pad>")

# Fields with values that change nothing, and what a model's arguments may hold: how torch computes.
_NEUTRAL: Mapping[str, tuple] = {
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
_ARGUMENTS = tuple(
    f"{what}_{name}" for what in ("model", "tokenizer", "processor", "config") for name in ("args", "kwargs")
)
_IMPLEMENTATION = {"attn_implementation", "dtype", "low_cpu_mem_usage", "torch_dtype", "trust_remote_code"}
_FOLLOWED = {"do_lower_case", "max_seq_length", "modality_config", "module_output_name", "transformer_task"}
_WITHOUT_EFFECT = {"unpad_inputs"}
# transformer_task -> what of the model's outputs is taken, and its name.
_TASKS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
}


@dataclass(frozen=True, slots=True)
class TextTokens:
    """The tokens of one text. type_ids: of a pair; None means zeros. cut: has something been cut off?"""

    ids: list[int]
    type_ids: list[int] | None = None
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


class TransformerInput:
    """A model of `models` that encodes text, and its tokenizer.

    Attributes:
        model: the model. hidden_size: the length of its rows.
        max_seq_length: tokens, special ones included, after which a text is cut off; may be lowered.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, max_seq_length: int | None) -> None:
        self.model, self._tokenizer = model, tokenizer
        self.hidden_size = model.hidden_size
        self.max_seq_length = min(max_seq_length or model.max_length, model.max_length)
        self._type_count = getattr(model.config, "type_vocab_size", 0) or 0

    @classmethod
    def read(cls, source: ModelSource, compute_type: ComputeType, ignore_fields: Collection[str]) -> TransformerInput:
        """
        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        model = load_model(source, head=False, compute_type=compute_type, ignore_fields=ignore_fields)
        if not hasattr(model, "encode_packed"):
            raise CheckpointError(f"{source}: {type(model).__name__} encodes no text")
        return cls(model, *read_tokenizer_settings(source, "feature-extraction"))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks for which the model has adapters."""
        return getattr(self.model, "tasks", ())

    def for_task(self, task: str) -> TransformerInput:
        """The same with the model's adapters of a task."""
        twin = copy.copy(self)
        twin.model = self.model.for_task(task)
        return twin

    @property
    def max_seq_length(self) -> int:
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        least, most = self._tokenizer.tokenizer.num_special_tokens_to_add(False), self.model.max_length
        if not isinstance(length, (int, np.integer)) or not least <= length <= most:
            raise ValueError(f"max_seq_length is {length}; needed: {least} to {most} (the model's positions)")
        self._max_seq_length = int(length)

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        return self._tokenizer.limited(self._max_seq_length)

    def tokens(self, texts: Sequence[Text]) -> list[TextTokens]:
        """The tokens of texts and of pairs of texts, cut off at max_seq_length."""
        limit = self._max_seq_length
        return [
            TextTokens(
                encoding.ids,
                encoding.type_ids if isinstance(text, tuple) and self._takes_types() else None,
                len(encoding) == limit and bool(encoding.overflowing),
            )
            for text, encoding in zip(texts, self._tokenizer.encode_batch(texts, max_length=limit), strict=True)
        ]

    def lengths(self, texts: Sequence[Text]) -> list[int]:
        """The number of tokens of each text if nothing were cut off."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch(texts)]

    def prompt_length(self, prompt: str) -> int:
        """The prompt's tokens at the start of a text: its own and the special ones before them, not those after."""
        encoding = self.tokenizer.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)

    def rows(self, tokens: Sequence[TextTokens], pooled_rows: int | np.ndarray | None = None) -> np.ndarray:
        """Hidden states (T, h) of packed tokens; pooled_rows: as `TextEncoder.encode_packed`, (B, h)."""
        arguments = packed([one.ids for one in tokens])
        if any(one.type_ids is not None for one in tokens):
            arguments += (packed([one.type_ids or [0] * len(one) for one in tokens])[0],)
        options = {} if pooled_rows is None else {"pooled_rows": pooled_rows}
        return self.model.encode_packed(*arguments, **options)

    def arguments(self, tokens: Sequence[TextTokens]) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest."""
        longest = max(map(len, tokens), default=0)
        pads = (self.tokenizer.token_to_id(name) for name in _PADS)
        pad = next((number for number in pads if number is not None), 0)
        input_ids = np.full((len(tokens), longest), pad, np.int64)
        mask, types = np.zeros_like(input_ids), np.zeros_like(input_ids)
        for row, one in enumerate(tokens):
            input_ids[row, : len(one)] = one.ids
            mask[row, : len(one)] = 1
            types[row, : len(one)] = one.type_ids or 0
        told = {"token_type_ids": types} if hasattr(self.model.config, "type_vocab_size") else {}
        return {"input_ids": input_ids, **told, "attention_mask": mask}

    def _takes_types(self) -> bool:
        """Is the model to be told which text a token belongs to? RoBERTa has one type of token, others none."""
        return "token_type_ids" in self._tokenizer.input_names and self._type_count > 1


class StaticEmbedding:
    """One vector a token, whatever is around it; the mean of them is a text's. It is its own model.

    The weights are sentence-transformers' (embedding.weight), or model2vec's (embeddings, and perhaps mapping and
    weights). Texts have no special tokens, and nothing is cut off but what tokenizer.json itself cuts off.

    Attributes:
        hidden_size: the length of the vectors. max_seq_length: infinity.
    """

    max_seq_length = math.inf

    def __init__(self, table: np.ndarray, tokenizer: PlainTokenizer) -> None:
        self._table, self._tokenizer = table, tokenizer
        self.hidden_size = table.shape[1]
        self.model = self

    @classmethod
    def read(cls, source: ModelSource, compute_type: ComputeType, ignore_fields: Collection[str]) -> StaticEmbedding:
        """compute_type: "auto" alone keeps the type of the file, any other float32.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        table = _table(source)
        if compute_type != "auto":
            table = table.astype(np.float32)
        return cls(table, PlainTokenizer(source, len(table)))

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return self._tokenizer.tokenizer

    def tokens(self, texts: Sequence[Text]) -> list[TextTokens]:
        """The tokens of texts, or of the two texts of pairs; cut off if tokenizer.json says so."""
        encodings = self._tokenizer.encode_batch(texts)
        limited = self.tokenizer.truncation is not None
        return [TextTokens(encoding.ids, None, limited and bool(encoding.overflowing)) for encoding in encodings]

    def lengths(self, texts: Sequence[Text]) -> list[int]:
        """The number of tokens of each text if nothing were cut off."""
        shared = (self.tokenizer.truncation or {}).get("stride", 0)
        return [
            len(encoding) + sum(len(window) - shared for window in encoding.overflowing)
            for encoding in self._tokenizer.encode_batch(texts)
        ]

    def prompt_length(self, prompt: str) -> int:
        """0: a StaticEmbedding pools all that it is given."""
        return 0

    def rows(self, tokens: Sequence[TextTokens], pooled_rows: None = None) -> np.ndarray:
        """The vectors (T, h) of packed tokens."""
        ids = packed([one.ids for one in tokens])[0] if tokens else np.zeros(0, np.int64)
        return F.embedding(ids, self._table)

    def arguments(self, tokens: Sequence[TextTokens]) -> dict[str, np.ndarray]:
        """input_ids (T,) of all texts, and offsets (B,), where each begins."""
        ids, cu_seqlens = packed([one.ids for one in tokens])
        return {"input_ids": ids, "offsets": cu_seqlens[:-1]}


# The class of an input module -> what makes it from (source, compute_type, ignore_fields).
INPUTS: Mapping[str, Callable[[ModelSource, ComputeType, Collection[str]], Any]] = {
    "Transformer": TransformerInput.read,
    "StaticEmbedding": StaticEmbedding.read,
}


def sentence_config(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The name and the content of the file with the model's max_seq_length and do_lower_case; {} if there is none."""
    for name in _CONFIGS:
        if source.json(name) is not None:
            return name, source.object(name)
    return _CONFIGS[0], {}


def read_tokenizer_settings(source: ModelSource, task: str, plain: bool = False) -> tuple[Tokenizer, int | None]:
    """The tokenizer of a model, and the most tokens of a text; as sentence_bert_config.json asks for.

    task: the transformer_task that the caller runs. plain: there is no modules.json, so that the file does not count.

    Raises:
        CheckpointError: a file is missing, malformed or asks for what is not supported.
    """
    name, config = (_CONFIGS[0], {"transformer_task": task}) if plain else sentence_config(source)
    place = source.place(name)
    _check_config(place, config, task)
    tokenizer = Tokenizer(source, lower_case=typed(place, config, "do_lower_case", bool, False))
    if any(tokenizer.tokenizer.encode("a").type_ids):
        raise CheckpointError(
            f"{source.place('tokenizer.json')}: gives a single text token types other than 0, which is not supported"
        )
    limit = typed(place, config, "max_seq_length", int, None) or tokenizer.max_length
    if limit is not None and limit < tokenizer.tokenizer.num_special_tokens_to_add(False):
        raise CheckpointError(f"{source}: the maximal length of a text is {limit} tokens, less than its special tokens")
    return tokenizer, limit


def _check_config(place: Any, config: Mapping[str, Any], task: str) -> None:
    check_fields(place, config, {*_FOLLOWED, *_WITHOUT_EFFECT, *_NEUTRAL, *_ARGUMENTS})
    found = config.get("transformer_task", "feature-extraction")
    if found != task:
        raise CheckpointError(f"{place}: transformer_task is {found!r}; supported: {task!r}")
    output, output_name = _TASKS[task]
    modality = {"text": {"method": "forward", "method_output_name": output}}
    wanted = {**_NEUTRAL, "modality_config": (None, modality), "module_output_name": (None, output_name)}
    for field, values in wanted.items():
        if config.get(field) not in values:
            raise CheckpointError(f"{place}: {field} is {config[field]!r}; supported: {values[-1]!r}")
    for field in _ARGUMENTS:
        arguments = typed(place, config, field, dict, {})
        known = _IMPLEMENTATION if field.startswith("model_") else {"trust_remote_code"}
        if not arguments.keys() <= known:
            raise CheckpointError(
                f"{place}: {field} is {arguments!r}; supported: {{}}, or of {', '.join(sorted(known))}"
            )


def _table(source: ModelSource) -> np.ndarray:
    """The vectors (V, h) by token."""
    tensors = source.tensors()
    if "embedding.weight" in tensors:
        names, mapping, weights = {"embedding.weight"}, None, None
        table = _integers_too(source, "embedding.weight", 2)
    else:
        names = {"embeddings", "mapping", "weights"}
        table = _integers_too(source, "embeddings", 2)
        mapping = _integers_too(source, "mapping", 1) if "mapping" in tensors else None
        weights = _integers_too(source, "weights", 1) if "weights" in tensors else None
    unused = sorted(tensors.keys() - names)
    if unused:
        raise CheckpointError(f"{source.weights}: tensors that a StaticEmbedding does not use: {', '.join(unused)}")
    if mapping is not None:
        if mapping.dtype.kind not in "iu" or len(mapping) and not 0 <= mapping.min() <= mapping.max() < len(table):
            raise CheckpointError(f"{source.weights}: mapping does not hold rows of embeddings, 0 to {len(table) - 1}")
        table = table[mapping]
    if weights is not None:
        if len(weights) != len(table):
            raise CheckpointError(f"{source.weights}: weights has length {len(weights)}; needed: {len(table)}")
        table = table.astype(np.float32) * weights.astype(np.float32)[:, None]
    # int8 vectors without a scale count as they are, as model2vec takes them.
    return table if table.dtype in (np.float32, np.float16) else table.astype(np.float32)


def _integers_too(source: ModelSource, name: str, ndim: int) -> np.ndarray:
    tensor = source.tensor(name)
    if len(tensor.shape) != ndim:
        raise CheckpointError(f"{tensor.file}: tensor {name!r} has shape {tensor.shape}; needed: {ndim} dimensions")
    return tensor.array()

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
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import PlainTokenizer, Tokenizer, packed, typed
from transformer_fast.models import text_encoder_class
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.sentence_chats import FORMATS, Chats, check_processing, read_chats
from transformer_fast.pipelines.sentence_settings import check_fields
from transformer_fast.pipelines.sentence_texts import Text, with_prompt

# The settings of a sentence-transformers model's tokens, by the family that it was made for; the first that is there.
_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Names of the padding token in vocabularies; the mask hides it.
_PADS = ("[PAD]", "<pad>")

# Fields with values that change nothing, and what a model's arguments may hold: how torch computes.
_NEUTRAL: Mapping[str, tuple] = {
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
_ARGUMENTS = tuple(
    f"{what}_{name}" for what in ("model", "tokenizer", "processor", "config") for name in ("args", "kwargs")
)
_IMPLEMENTATION = {"attn_implementation", "dtype", "low_cpu_mem_usage", "torch_dtype", "trust_remote_code"}
_FOLLOWED = {
    "do_lower_case",
    "max_seq_length",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "transformer_task",
}
_WITHOUT_EFFECT = {"unpad_inputs"}
# transformer_task -> what of the model's outputs is taken, and its name.
_TASKS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "fill-mask": ("logits", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "text-generation": ("logits", "causal_logits"),
}


@dataclass(frozen=True, slots=True)
class TextTokens:
    """The tokens of one text. type_ids: of a pair; None means zeros. cut: has something been cut off?

    attended: that many of the first tokens are attended, those behind them see without being seen; None means all.
    """

    ids: list[int]
    type_ids: list[int] | None = None
    cut: bool = False
    attended: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


class TransformerInput:
    """A model of `models` that encodes text, and its tokenizer.

    Attributes:
        model: the model. hidden_size: the length of its rows.
        max_seq_length: tokens, special ones included, after which a text is cut off; infinity: nothing is. May be set.
    """

    # May max_seq_length be set?
    takes_limit = True

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        max_seq_length: int | None,
        chats: Chats | None = None,
    ) -> None:
        self.model, self._tokenizer, self._chats = model, tokenizer, chats
        self.hidden_size = self._encoder.hidden_size
        limits = [limit for limit in (max_seq_length, self._encoder.max_length) if limit is not None]
        self._max_seq_length: float = math.inf
        if limits:
            self.max_seq_length = min(limits)
        self._type_count = getattr(self._encoder.config, "type_vocab_size", 0) or 0

    @classmethod
    def read(
        cls,
        source: ModelSource,
        compute_type: ComputeType,
        ignore_fields: Collection[str],
        packed_cache: str | Path | None = None,
        plain: bool = False,
    ) -> TransformerInput:
        """plain: there is no modules.json, so that sentence_bert_config.json does not count.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        model = text_encoder_class(source).from_checkpoint(
            Checkpoint.open(source),
            compute_type=compute_type,
            ignore_fields=ignore_fields,
            packed_cache=packed_cache,
            whole_texts=True,
        )
        return cls(model, *read_text_settings(source, "feature-extraction", plain))

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
    def _encoder(self) -> Any:
        """What of the model makes the rows."""
        return self.model

    @property
    def max_seq_length(self) -> float:
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        least, most = max(self._tokenizer.tokenizer.num_special_tokens_to_add(False), 1), self._encoder.max_length
        if not isinstance(length, (int, np.integer)) or length < least or (most is not None and length > most):
            needed = f"at least {least}" if most is None else f"{least} to {most} (the model's positions)"
            raise ValueError(f"max_seq_length is {length}; needed: {needed}")
        self._max_seq_length = int(length)

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        limit = self._limit()
        return self._tokenizer.tokenizer if limit is None else self._tokenizer.limited(limit)

    @property
    def unlimited(self) -> Tokenizer:
        """The tokenizer with what its files say of special tokens; it cuts nothing off."""
        return self._tokenizer

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens that the model knows."""
        return self._encoder.config.vocab_size

    def _limit(self) -> int | None:
        return None if self._max_seq_length == math.inf else int(self._max_seq_length)

    def tokens(self, texts: Sequence[Text], prompt: str = "", limit: int | None = None) -> list[TextTokens]:
        """The tokens of texts and of pairs of texts with a prompt, cut off at the limit, by default max_seq_length."""
        limit = self._limit() if limit is None else limit
        if self._chats is not None:
            return [TextTokens(ids, None, cut) for ids, cut in self._chats.encode(texts, prompt, limit)]
        texts = with_prompt(prompt, texts)
        return [
            TextTokens(
                encoding.ids,
                encoding.type_ids if isinstance(text, tuple) and self._takes_types() else None,
                len(encoding) == limit and bool(encoding.overflowing),
            )
            for text, encoding in zip(texts, self._tokenizer.encode_batch(texts, max_length=limit), strict=True)
        ]

    def lengths(self, texts: Sequence[Text], prompt: str = "") -> list[int]:
        """The number of tokens of each text, with a prompt, if nothing were cut off."""
        if self._chats is not None:
            return [len(ids) for ids, _ in self._chats.encode(texts, prompt)]
        return [len(encoding) for encoding in self._tokenizer.encode_batch(with_prompt(prompt, texts))]

    def prompt_length(self, prompt: str) -> int:
        """The prompt's tokens at the start of a text: its own and the special ones before them, not those after.

        0 for chats, whose prompt is a message of its own and always pooled.
        """
        if self._chats is not None:
            return 0
        encoding = self.tokenizer.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)

    def rows(self, tokens: Sequence[TextTokens], pooled_rows: int | np.ndarray | None = None) -> np.ndarray:
        """Hidden states (T, h) of packed tokens; pooled_rows: as `TextEncoder.encode_packed`, (B, h)."""
        arguments = packed([one.ids for one in tokens])
        if any(one.type_ids is not None for one in tokens):
            arguments += (packed([one.type_ids or [0] * len(one) for one in tokens])[0],)
        options = {} if pooled_rows is None else {"pooled_rows": pooled_rows}
        if any(one.attended is not None for one in tokens):
            counts = [len(one) if one.attended is None else one.attended for one in tokens]
            seen = [np.arange(len(one)) < count for one, count in zip(tokens, counts, strict=True)]
            options["attended"] = np.concatenate(seen)
        return self._encoder.encode_packed(*arguments, **options)

    def arguments(self, tokens: Sequence[TextTokens]) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest."""
        longest = max(map(len, tokens), default=0)
        named = self._tokenizer.special("pad_token")
        pads = (self.tokenizer.token_to_id(name) for name in _PADS)
        pad = next((number for number in pads if number is not None), 0) if named is None else named[1]
        left = self._tokenizer.padding_side == "left"
        input_ids = np.full((len(tokens), longest), pad, np.int64)
        mask, types = np.zeros_like(input_ids), np.zeros_like(input_ids)
        for row, one in enumerate(tokens):
            places = slice(longest - len(one), longest) if left else slice(0, len(one))
            input_ids[row, places] = one.ids
            mask[row, places] = 1
            types[row, places] = one.type_ids or 0
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
    takes_limit = False

    def __init__(self, table: np.ndarray, tokenizer: PlainTokenizer) -> None:
        self._table, self._tokenizer = table, tokenizer
        self.hidden_size = table.shape[1]
        self.model = self
        self._read_from: tuple | None = None

    @classmethod
    def read(
        cls,
        source: ModelSource,
        compute_type: ComputeType,
        ignore_fields: Collection[str],
        packed_cache: str | Path | None = None,
    ) -> StaticEmbedding:
        """compute_type: "auto" alone keeps the type of the file, any other float32. packed_cache: there is no product,
        and nothing to pack.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        table = _table(source)
        if compute_type != "auto":
            table = table.astype(np.float32)
        made = cls(table, PlainTokenizer(source, len(table)))
        made._read_from = source, compute_type, ignore_fields
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Without its table. What has no source takes it along.
        return super().__reduce_ex__(protocol) if self._read_from is None else (StaticEmbedding.read, self._read_from)

    def __copy__(self) -> StaticEmbedding:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: dict[int, Any]) -> StaticEmbedding:
        return self

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return self._tokenizer.tokenizer

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens that have a vector."""
        return len(self._table)

    def tokens(self, texts: Sequence[Text], prompt: str = "") -> list[TextTokens]:
        """The tokens of texts, or of the two texts of pairs, with a prompt; cut off if tokenizer.json says so."""
        encodings = self._tokenizer.encode_batch(with_prompt(prompt, texts))
        limited = self.tokenizer.truncation is not None
        return [TextTokens(encoding.ids, None, limited and bool(encoding.overflowing)) for encoding in encodings]

    def lengths(self, texts: Sequence[Text], prompt: str = "") -> list[int]:
        """The number of tokens of each text, with a prompt, if nothing were cut off."""
        shared = (self.tokenizer.truncation or {}).get("stride", 0)
        return [
            len(encoding) + sum(len(window) - shared for window in encoding.overflowing)
            for encoding in self._tokenizer.encode_batch(with_prompt(prompt, texts))
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


# The class of an input module -> what makes it from (source, compute_type, ignore_fields, packed_cache).
INPUTS: Mapping[str, Callable[..., Any]] = {
    "Transformer": TransformerInput.read,
    "StaticEmbedding": StaticEmbedding.read,
}


def sentence_config(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The name and the content of the file with the model's max_seq_length and do_lower_case; {} if there is none."""
    for name in _CONFIGS:
        if source.json(name) is not None:
            return name, source.object(name)
    return _CONFIGS[0], {}


def read_tokenizer_settings(
    source: ModelSource,
    task: str,
    plain: bool = False,
    followed: Collection[str] = (),
    usual_task: str = "feature-extraction",
) -> tuple[Tokenizer, int | None]:
    """As `read_text_settings`, for callers that know no chats.

    Raises:
        CheckpointError: as there, or the file asks for chats.
    """
    tokenizer, limit, chats = read_text_settings(source, task, plain, followed=followed, usual_task=usual_task)
    if chats is not None and not plain:
        raise CheckpointError(f"{source}: modality_config has message; supported here: text")
    return tokenizer, limit


def read_text_settings(
    source: ModelSource,
    task: str,
    plain: bool = False,
    own_template: bool = False,
    followed: Collection[str] = (),
    usual_task: str = "feature-extraction",
) -> tuple[Tokenizer, int | None, Chats | None]:
    """The tokenizer of a model, the most tokens of a text, and how texts become chats, if they do.

    task: the transformer_task that the caller runs. plain: there is no modules.json, so that sentence_bert_config.json
    does not count, and texts are chats where the model has a template. own_template: the caller has one, and the
    model's does not count. followed: fields that the caller follows, of those that have one value elsewhere.
    usual_task: that of a file that names none.

    Raises:
        CheckpointError: a file is missing, malformed or asks for what is not supported.
    """
    name, config = (_CONFIGS[0], {"transformer_task": task}) if plain else sentence_config(source)
    place = source.place(name)
    message = _check_config(place, {"transformer_task": usual_task, **config}, task, followed)
    own = check_processing(place, typed(place, config, "processing_kwargs", dict, {}))
    tokenizer = Tokenizer(source, lower_case=typed(place, config, "do_lower_case", bool, False))
    if any(tokenizer.tokenizer.encode("a").type_ids):
        raise CheckpointError(
            f"{source.place('tokenizer.json')}: gives a single text token types other than 0, which is not supported"
        )
    trained = typed(source.place("config.json"), source.object("config.json"), "max_position_embeddings", int, None)
    limits = [length for length in (tokenizer.max_length, trained) if length is not None]
    limit = own or typed(place, config, "max_seq_length", int, None) or min(limits, default=None)
    if limit is not None and limit < tokenizer.tokenizer.num_special_tokens_to_add(False):
        raise CheckpointError(f"{source}: the maximal length of a text is {limit} tokens, less than its special tokens")
    chats = None
    if not own_template and (message is not None or (plain and tokenizer.chat_templates)):
        if not tokenizer.chat_templates:
            raise CheckpointError(f"{place}: modality_config has message, and {tokenizer.place} no chat_template")
        chats = read_chats(source, tokenizer, message or {}, config.get("processing_kwargs"))
    return tokenizer, limit, chats


def _check_config(
    place: Any, config: Mapping[str, Any], task: str, followed: Collection[str]
) -> Mapping[str, Any] | None:
    """The entry "message" of modality_config, or None."""
    check_fields(place, config, {*_FOLLOWED, *_WITHOUT_EFFECT, *_NEUTRAL, *_ARGUMENTS})
    found = config["transformer_task"]
    if found != task:
        raise CheckpointError(f"{place}: transformer_task is {found!r}; supported: {task!r}")
    output, output_name = _TASKS[task]
    wanted = {**_NEUTRAL, "module_output_name": (None, output_name)}
    for field, values in wanted.items():
        if field not in followed and config.get(field) not in values:
            raise CheckpointError(f"{place}: {field} is {config[field]!r}; supported: {values[-1]!r}")
    for field in _ARGUMENTS:
        arguments = typed(place, config, field, dict, {})
        known = _IMPLEMENTATION if field.startswith("model_") else {"trust_remote_code"}
        if not arguments.keys() <= known:
            raise CheckpointError(
                f"{place}: {field} is {arguments!r}; supported: {{}}, or of {', '.join(sorted(known))}"
            )
    return _message_modality(place, config.get("modality_config"), output)


def _message_modality(place: Any, modalities: Any, output: str) -> Mapping[str, Any] | None:
    """modality_config, checked: texts, and texts as messages, which count where they are there."""
    method = {"method": "forward", "method_output_name": output}
    if modalities is None:
        return None
    found = modalities if isinstance(modalities, dict) else {}
    message = found.get("message")
    ok = bool(found) and found.keys() <= {"text", "message"} and found.get("text", method) == method
    if message is not None:
        ok = ok and isinstance(message, dict) and message.get("format", FORMATS[0]) in FORMATS
        ok = ok and {name: value for name, value in message.items() if name != "format"} == method
    if not ok:
        raise CheckpointError(
            f"{place}: modality_config is {modalities!r}; supported: text and message, with {method!r}, and for "
            f"message a format of {' or '.join(FORMATS)}"
        )
    return message


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

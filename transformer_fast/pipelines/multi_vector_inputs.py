"""Tokens of queries and documents of a multi-vector encoder: limits of each task, and ColBERT's query expansion.

`multi_vector_routes` makes a `TaskInput`. A further setting of the Transformer's file is a line in `read`.

Source: sentence-transformers 6, base/modules/transformer.py (query_length, document_length, query_expansion).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, typed
from transformer_fast.models import load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.sentence_inputs import (
    Text,
    TextTokens,
    TransformerInput,
    read_tokenizer_settings,
    sentence_config,
)
from transformer_fast.pipelines.sentence_settings import check_fields

_LENGTHS = ("query_length", "document_length", "query_expansion")
_STRATEGIES = ("fixed", "min")


@dataclass(frozen=True, slots=True)
class QueryExpansion:
    """Queries of fewer than `length` tokens get more, all `token_id`, which are scored as well.

    strategy: "fixed" cuts longer queries to that length, "min" does not. attend: do the model's tokens attend those
    that are added? If not, these see the query and nothing of each other.
    """

    strategy: str
    attend: bool
    token: str
    token_id: int
    length: int


@dataclass(frozen=True, slots=True)
class TaskTokens(TextTokens):
    """`added`: that many of the last tokens are an expansion."""

    added: int = 0


class TaskInput(TransformerInput):
    """A model and its tokenizer, whose limit of a text depends on the task.

    Attributes:
        query_length, document_length: the most tokens of a text of the task; None: max_seq_length.
        query_expansion: a `QueryExpansion`, or None.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, max_seq_length: int | None) -> None:
        super().__init__(model, tokenizer, max_seq_length)
        self.query_length: int | None = None
        self.document_length: int | None = None
        self.query_expansion: QueryExpansion | None = None

    @classmethod
    def read_with(
        cls,
        source: ModelSource,
        compute_type: ComputeType,
        ignore_fields: Collection[str],
        packed_cache: str | Path | None,
        lengths: Mapping[str, Any],
        prefixes: Sequence[str],
    ) -> TaskInput:
        """lengths: values of fields that the Transformer's own file does not have. prefixes: markers of one token.

        Raises:
            CheckpointError: a file is malformed or asks for what is not supported.
        """
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, head=False, **options)
        if not hasattr(model, "encode_packed"):
            raise CheckpointError(f"{source}: {type(model).__name__} encodes no text")
        tokenizer, most = read_tokenizer_settings(source, "feature-extraction", followed=_LENGTHS)
        input = cls(model, tokenizer.with_markers(_markers(tokenizer, prefixes)), most)
        name, config = sentence_config(source)
        place, said = source.place(name), {**lengths, **{k: v for k, v in config.items() if k in _LENGTHS}}
        for task in ("query_length", "document_length"):
            limit = typed(place, said, task, int)
            setattr(input, task, None if limit is None else min(limit, model.max_length))
        expansion = typed(place, said, "query_expansion", dict)
        if expansion is not None:
            input.query_expansion = _read_expansion(place, expansion, input)
        _check_lengths(place, input)
        if ((config.get("processing_kwargs") or {}).get("text") or {}).get("max_length") is not None:
            input.query_length = input.document_length = None  # max_seq_length is that one, which goes before
        return input

    @property
    def tasks(self) -> tuple[str, ...]:
        """(): a task is here a query or a document, and no adapter."""
        return ()

    def limit(self, task: str | None) -> int:
        """The most tokens of a text of this task."""
        limit = {"query": self.query_length, "document": self.document_length}.get(task or "")
        expansion = self.query_expansion if task == "query" else None
        if expansion is None:
            return limit or self.max_seq_length
        if expansion.strategy == "fixed":
            return expansion.length
        return max(limit, expansion.length) if limit else self.max_seq_length

    def tokens(self, texts: Sequence[Text], task: str | None = None) -> list[TextTokens]:
        """The tokens of texts and of pairs of texts, cut off at the task's limit, and those of an expansion."""
        limit, expansion = self.limit(task), self.query_expansion if task == "query" else None
        found: list[TextTokens] = []
        for text, encoding in zip(texts, self._tokenizer.encode_batch(texts, max_length=limit), strict=True):
            ids, types = encoding.ids, encoding.type_ids if self._has_types(text) else None
            cut = len(ids) == limit and bool(encoding.overflowing)
            added = 0 if expansion is None else max(0, expansion.length - len(ids))
            if added and expansion is not None:
                seen = None if expansion.attend else len(ids)
                ids, types = ids + [expansion.token_id] * added, None if types is None else types + [0] * added
                found.append(TaskTokens(ids, types, cut, seen, added))
            else:
                found.append(TaskTokens(ids, types, cut))
        return found

    def _has_types(self, text: Text) -> bool:
        return isinstance(text, tuple) and self._takes_types()


def _markers(tokenizer: Tokenizer, prefixes: Sequence[str]) -> list[str]:
    """Markers that the vocabulary has, and that the tokenizer would take apart.

    Stanford's and PyLate's training puts the token itself before a text; here it is a part of the text.
    """
    inner, markers = tokenizer.tokenizer, []
    for prefix in prefixes:
        for marker in (prefix, *prefix.split(None, 1)[:1]) if prefix.strip() else ():
            if inner.token_to_id(marker) is None:
                continue
            if inner.encode(marker, add_special_tokens=False).tokens != [marker]:
                markers.append(marker)
            break
    return markers


def _check_lengths(place: Any, input: TaskInput) -> None:
    least, expansion = input.unlimited.tokenizer.num_special_tokens_to_add(False), input.query_expansion
    lengths = {"query_length": input.query_length, "document_length": input.document_length}
    lengths["query_expansion.length"] = None if expansion is None else expansion.length
    for name, length in lengths.items():
        if length is not None and length < least:
            raise CheckpointError(f"{place}: {name} is {length}; needed: at least {least}, the special tokens")


def _read_expansion(place: Any, config: Mapping[str, Any], input: TaskInput) -> QueryExpansion:
    check_fields(place, config, {"strategy", "attend", "token", "length"})
    strategy, length = typed(place, config, "strategy", str), typed(place, config, "length", int)
    attend, token = typed(place, config, "attend", bool, False), typed(place, config, "token", str)
    if strategy not in _STRATEGIES or length is None:
        raise CheckpointError(
            f"{place}: query_expansion is {dict(config)!r}; needed: length, and strategy: {' or '.join(_STRATEGIES)}"
        )
    if not attend and not getattr(input.model, "runs_unattended", False):
        raise CheckpointError(f"{place}: query_expansion does not attend, which {type(input.model).__name__} cannot do")
    most = input.model.max_length
    if length > most or (input.query_length or most) < length:
        raise CheckpointError(
            f"{place}: query_expansion has length {length} and query_length is {input.query_length}; needed: a length "
            f"of at most query_length and the model's {most} positions"
        )
    tokenizer = input.unlimited
    if token is None:
        found = tokenizer.special("mask_token") or tokenizer.special("eos_token")
        if found is None:
            raise CheckpointError(f"{place}: query_expansion names no token, and there is no mask_token or eos_token")
        return QueryExpansion(strategy, attend, *found, length)
    number = tokenizer.tokenizer.token_to_id(token)
    if number is None:
        raise CheckpointError(f"{place}: query_expansion has the token {token!r}, which the vocabulary does not have")
    return QueryExpansion(strategy, attend, token, number, length)

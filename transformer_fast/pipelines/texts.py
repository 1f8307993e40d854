"""`TextPipeline`: the base of pipelines on texts. It reads model and tokenizer, checks texts, and batches by length.

A pipeline derives from it, names the models that it takes in `model_class`, and calls `_encodings`, and then `_hidden`
or `_batches`. A new argument that models need of a tokenizer goes into both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, packed
from transformer_fast.models import PretrainedModel, load_model
from transformer_fast.models.common.compute_types import ComputeType

Pipeline = TypeVar("Pipeline", bound="TextPipeline")
Text = str | tuple[str, str]

# Tokens that run together for each thread, and at all: as measured for the same encoders, see text_runs.py.
_ENOUGH_TOKENS = 1024
_MOST_TOKENS = 16_384


class TextPipeline:
    """A model on texts and its tokenizer.

    Attributes:
        model: the model (`models`).
        tokenizer: the `files.tokenizer.Tokenizer`.
        max_length: the most tokens that the model takes, special ones included; None without a limit.
    """

    model_class: type[PretrainedModel]

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        limits = [limit for limit in (tokenizer.max_length, self._model_limit()) if limit is not None]
        self.max_length = min(limits, default=None)

    @classmethod
    def from_pretrained(
        cls: type[Pipeline],
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> Pipeline:
        """The pipeline of a model folder, or of a model on the Hugging Face hub.

        compute_type, ignore_fields, packed_cache; hub: revision, cache_dir, token, local_files_only: as in
        `load_model`.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
        """
        source = open_source(path_or_hub_id, **hub)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        model = load_model(source, **options)
        if not isinstance(model, cls.model_class):
            raise CheckpointError(
                f"{source}: holds a {type(model).__name__}; {cls.__name__} needs a model {cls.model_class.__name__}"
            )
        return cls(model, Tokenizer(source), **cls._settings(source, model))

    @classmethod
    def _settings(cls, source: ModelSource, model: PretrainedModel) -> dict[str, Any]:
        """Further arguments of the class, from the source's files."""
        return {}

    def _model_limit(self) -> int | None:
        """The most tokens that the model itself takes."""
        return self.model.base.max_length

    def _encodings(
        self, texts: Sequence[Text], *, truncation: bool, offsets: bool = False, stride: int | None = None
    ) -> list[Any]:
        """The `tokenizers.Encoding` of each text; with a stride, .overflowing holds further windows of a long one.

        Raises:
            ValueError: a text is too long and is not to be cut off.
        """
        most = self.max_length if truncation else None
        encodings = self.tokenizer.encode_batch(texts, offsets, max_length=most, stride=stride or 0)
        for text, encoding in zip(texts, encodings, strict=True):
            if self.max_length is not None and len(encoding) > self.max_length:
                raise ValueError(
                    f"the text {str(text)[:40]!r} has {len(encoding)} tokens; needed: at most {self.max_length}"
                )
        return encodings

    def _hidden(self, encodings: Sequence[Any]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Indices of encodings that run together, their hidden states (T, h), and where each of them starts, (B + 1,).

        For models whose head reads each token; padding is never made.
        """
        for indices in batches([len(encoding) for encoding in encodings]):
            ids, cu_seqlens = packed([encodings[i].ids for i in indices])
            types = packed([encodings[i].type_ids for i in indices])[0] if self._has_token_types() else None
            yield indices, self.model.packed_states(ids, cu_seqlens, types), cu_seqlens

    def _batches(self, encodings: Sequence[Any]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Indices of encodings that run together, the longest first, and the model's arguments for them."""
        for indices in batches([len(encoding) for encoding in encodings]):
            yield indices, self._arguments([encodings[i] for i in indices])

    def _arguments(self, encodings: Sequence[Any]) -> dict[str, np.ndarray]:
        """input_ids, attention_mask and, where the model tells token types apart, token_type_ids; each (B, L)."""
        arguments = dict(zip(("input_ids", "attention_mask"), padded(encodings), strict=True))
        if self._has_token_types():
            arguments["token_type_ids"] = np.zeros_like(arguments["input_ids"])
            for row, encoding in zip(arguments["token_type_ids"], encodings, strict=True):
                row[: len(encoding)] = encoding.type_ids
        return arguments

    def _has_token_types(self) -> bool:
        """Is the model to be told which text a token belongs to? RoBERTa has one type of token, others none."""
        told = "token_type_ids" in self.tokenizer.input_names
        return told and getattr(self.model.config, "type_vocab_size", 1) > 1


def padded(encodings: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """input_ids and attention_mask, each (B, L), of encodings; padding is on the right."""
    ids, mask = np.zeros((2, len(encodings), max(map(len, encodings))), np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        mask[row, : len(encoding)] = 1
    return ids, mask


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences that run together, the longest first: as many tokens as keep all threads busy."""
    enough = min(_ENOUGH_TOKENS * F.get_num_threads(), _MOST_TOKENS)
    batch, total = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if batch and total + lengths[i] > _MOST_TOKENS:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += lengths[i]
        if total >= enough:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def several(name: str, texts: Any, pairs: bool = False) -> list[Text]:
    """The texts, checked; one string (or, with pairs, one tuple of two) is one text.

    Raises:
        TypeError: a text is no string; its index is named.
    """
    needed = "a string or a pair of strings" if pairs else "a string"
    if _is_text(texts, pairs):
        return [texts]
    if isinstance(texts, (bytes, Mapping, tuple if pairs else bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"{name} is a {type(texts).__name__}; needed: {needed}, or a list of them")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not _is_text(text, pairs):
            raise TypeError(f"{name}[{i}] is a {type(text).__name__}; needed: {needed}")
    return texts


def is_single(texts: Any) -> bool:
    """Is that one text (or pair), whose result comes without a list around it?"""
    return _is_text(texts, True)


def _is_text(text: Any, pairs: bool) -> bool:
    if pairs and isinstance(text, tuple):
        return len(text) == 2 and all(isinstance(part, str) for part in text)
    return isinstance(text, str)

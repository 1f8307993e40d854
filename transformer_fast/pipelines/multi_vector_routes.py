"""The modules of a multi-vector encoder in their order: from texts to the vectors of their tokens.

    texts -> TaskInput -> Dense, Normalize: row by row -> MultiVectorMask: which rows count -> token pooling -> vectors

`MultiVectorEncoder` calls `read_task_routes`. A further kind of module is an entry in `_Maker.route`.

Source: sentence-transformers 6, multi_vector_encoder/model.py and modules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import typed
from transformer_fast.models.common.compute_types import ComputeType, weight_format_of
from transformer_fast.pipelines.multi_vector_inputs import TaskInput
from transformer_fast.pipelines.multi_vector_settings import PROJECTION, MultiVectorFolder
from transformer_fast.pipelines.sentence_inputs import TextTokens
from transformer_fast.pipelines.sentence_modules import Dense, FromFiles, Normalize, linear_layer
from transformer_fast.pipelines.sentence_routes import RouteMaker, Routes, read_routes
from transformer_fast.pipelines.sentence_settings import ModuleFiles, check_fields
from transformer_fast.pipelines.token_pooling import BaseTokenPooling, HierarchicalTokenPooling
from transformer_fast.util import normalize_embeddings

_FEATURE = "token_embeddings"
_KINDS = ("Dense", "Normalize", "MultiVectorMask", "HierarchicalTokenPooling")
# Of an encoder of one vector, which is taken without its Pooling, and of PyLate; mask and Normalize are added.
_ADAPTED_KINDS = ("Pooling", "Dense", "Normalize")


class MultiVectorMask:
    """Which tokens of a text count: all but those of the skiplist, or of the ids that alone are kept.

    A word of the skiplist that is no token of the vocabulary has no effect.
    """

    def __init__(
        self,
        skiplist: np.ndarray,
        tasks: Collection[str] = ("document",),
        kept: np.ndarray | None = None,
    ) -> None:
        self._skiplist, self._tasks, self._kept = skiplist, tuple(tasks), kept

    @classmethod
    def read(cls, source: ModelSource, tokenizer: Any) -> MultiVectorMask:
        """
        Raises:
            CheckpointError: its config is malformed or asks for what is not supported.
        """
        config, place = source.object("config.json"), source.place("config.json")
        check_fields(place, config, {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"})
        words, kept = (
            typed(place, config, "skiplist_words", list, []),
            typed(place, config, "keep_only_token_ids", list),
        )
        tasks = config.get("skiplist_tasks")
        tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
        if (
            not all(isinstance(text, str) for text in words)
            or not (isinstance(tasks, list) and all(isinstance(text, str) for text in tasks))
            or not all(type(number) is int for number in kept or ())
        ):
            raise CheckpointError(
                f"{place}: needed: skiplist_words and skiplist_tasks, lists of strings, and "
                "keep_only_token_ids, null or a list of integers"
            )
        return cls(skipped_ids(tokenizer, words), tasks, np.array(kept, np.int64) if kept else None)

    def __call__(self, ids: np.ndarray, counted: np.ndarray, task: str | None) -> np.ndarray:
        """Which of the tokens (L,) count, of those that are counted without it."""
        if len(self._skiplist) and (task or "document") in self._tasks:
            counted = counted & ~np.isin(ids, self._skiplist)
        if task != "query" and self._kept is not None:
            counted = counted & np.isin(ids, self._kept)
        return counted


class Projection(FromFiles):
    """Stanford's projection of tokens, (T, width) -> (T, dimension).

    Raises:
        CheckpointError: there is no such tensor, or it does not fit.
    """

    def __init__(self, source: ModelSource, width: int, weight_format: str) -> None:
        super().__init__(source, width, weight_format)
        tensor = source.tensor(PROJECTION)
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}; needed: (D, {width})"
            )
        self.dimension = tensor.shape[0]
        self._linear = linear_layer({PROJECTION: tensor.floating()}, "linear", weight_format)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self._linear(rows)


class TaskRoute:
    """Texts to the vectors of their tokens.

    Attributes:
        input: a `TaskInput`. dimension: the length of the vectors.
        token_pooling: that of the folder, or None.
    """

    def __init__(
        self, input: TaskInput, modules: Sequence[Any], mask: MultiVectorMask | None, after: Sequence[Any], width: int
    ) -> None:
        self.input, self._modules, self._mask, self._after, self.dimension = input, modules, mask, after, width
        self.pools = any(isinstance(module, BaseTokenPooling) for module in after)

    def tokens(self, texts: list[Any], task: str | None) -> list[TextTokens]:
        """The tokens of texts and pairs of a task."""
        return self.input.tokens(texts, task)

    def vectors(self, tokens: Sequence[TextTokens], task: str | None) -> list[np.ndarray]:
        """The vectors (L_i, dimension) of the tokens of each text that count."""
        counted = [self._counted(one, task) for one in tokens]
        rows = self.input.rows(tokens)
        if not all(one.all() for one in counted):
            rows = rows[np.concatenate(counted)]
        for module in self._modules:
            rows = module(rows)
        texts = np.split(rows, np.cumsum([np.count_nonzero(one) for one in counted])[:-1])
        for module in self._after:
            if isinstance(module, BaseTokenPooling):
                texts = module.pool(texts, task=task)
            else:
                texts = [module(text) for text in texts]
        return texts

    def _counted(self, one: Any, task: str | None) -> np.ndarray:
        counted = np.ones(len(one), bool)
        if self._mask is None:
            counted[len(one) if one.attended is None else one.attended :] = False
            return counted
        return self._mask(np.array(one.ids), counted, task)


def read_task_routes(
    source: ModelSource,
    folder: MultiVectorFolder,
    compute_type: ComputeType,
    ignore_fields: Collection[str],
    packed_cache: str | Path | None = None,
) -> Routes:
    """The routes of a folder; of one without a Router, one.

    Raises:
        CheckpointError: a file is malformed or asks for what is not supported.
    """
    options = compute_type, ignore_fields, packed_cache
    return read_routes(source, folder.settings, *options, maker=lambda *given: _Maker(folder, *given))


def skipped_ids(tokenizer: Any, words: Sequence[str]) -> np.ndarray:
    """The numbers of words that are one token of the vocabulary."""
    unknown = tokenizer.special("unk_token")
    numbers = [tokenizer.tokenizer.token_to_id(word) for word in words if unknown is None or word != unknown[0]]
    numbers += [unknown[1] for word in words if unknown is not None and word == unknown[0]]
    return np.array([number for number in numbers if number is not None], np.int64)


class _Maker(RouteMaker):
    """Makes routes to the vectors of tokens."""

    def __init__(self, folder: MultiVectorFolder, *options: Any) -> None:
        super().__init__(*options)
        self._folder = folder

    def read_input(self, files: ModuleFiles, plain: bool = False) -> TaskInput:
        folder = self._folder
        return TaskInput.read_with(files.part(), *self.options, lengths=folder.lengths, prefixes=folder.prefixes)

    def route(self, modules: Sequence[ModuleFiles], what: str, plain: bool = False) -> TaskRoute:
        folder, kinds = self._folder, [files.kind for files in modules]
        known = _ADAPTED_KINDS if folder.adapted else _KINDS
        if kinds[:1] != ["Transformer"] or not set(kinds[1:]) <= set(known):
            raise CheckpointError(
                f"{what} are {', '.join(kinds) or 'none'}; supported in a folder of {folder.settings.model_type}: "
                f"Transformer and, after it, {', '.join(known)}"
            )
        following = [files for files in modules[1:] if files.kind != "Pooling"]
        input = self.input(modules[0])
        width, weight_format = input.hidden_size, weight_format_of(self.compute_type)
        before: list[Any] = []
        after: list[Any] = []
        mask: MultiVectorMask | None = None
        for files in following:
            if files.kind == "MultiVectorMask":
                if mask is not None or after:
                    raise CheckpointError(
                        f"{what} are {', '.join(kinds)}; supported: one MultiVectorMask, before a pooling"
                    )
                mask = MultiVectorMask.read(files.part(), input.unlimited)
            elif files.kind == "HierarchicalTokenPooling":
                after.append(_read_pooling(files.part()))
            else:
                module = self._row_wise(files, width, weight_format)
                if module is not None:
                    (after or before).append(module)
                    width = module.dimension
        if folder.projection is not None:
            before.append(Projection(folder.projection, width, weight_format))
            width = before[-1].dimension
        if folder.adapted:
            if not before:
                raise CheckpointError(f"{what} are {', '.join(kinds)}; needed: a Dense, the projection of tokens")
            mask = MultiVectorMask(skipped_ids(input.unlimited, folder.skiplist))
            before.append(normalize_embeddings)
        return TaskRoute(input, before, mask, after, width)

    def _row_wise(self, files: ModuleFiles, width: int, weight_format: str) -> Any:
        """A Dense or a Normalize; None if it works on what a multi-vector encoder does not have."""
        if files.kind == "Dense":
            said = files.part().object("config.json").get("module_input_name")
            redirected = self._folder.adapted and said == "sentence_embedding"
            return Dense(files.part, width, weight_format, said if redirected else _FEATURE)
        try:
            said = files.part().object("config.json", required=False).get("module_input_name")
        except CheckpointError:  # a folder of nothing, which a hub does not keep
            return None
        return Normalize(files.part, width, weight_format, _FEATURE) if said == _FEATURE else None


def _read_pooling(source: ModelSource) -> HierarchicalTokenPooling:
    config, place = source.object("config.json"), source.place("config.json")
    check_fields(place, config, {"pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"})
    options = {"normalize_embeddings": False} | {name: value for name, value in config.items() if value is not None}
    try:
        return HierarchicalTokenPooling(options.pop("pool_factor", 1.0), **options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{place}: {error}") from None

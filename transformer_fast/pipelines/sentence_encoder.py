"""Sentence embeddings: `SentenceEncoder` takes texts, and gives vectors whose angles say how alike the texts are.

Users and the commands call it. `sentence_settings` reads the files of sentence-transformers, `sentence_routes` makes
the modules that they name, `text_runs` batches texts, and `util` has what is done with vectors; results follow
sentence-transformers' `encode`. `RoutedEncoder` has what it shares with `SparseEncoder`. To add a module, see
`sentence_routes`; an option of `encode` goes into `EncodeJob`. `serving` takes the job of a call (`prepared`) and
decides itself which texts run together.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import util
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.processes import ProcessPool, in_chunks
from transformer_fast.pipelines.routed_encoder import RoutedEncoder
from transformer_fast.pipelines.sentence_inputs import TextTokens
from transformer_fast.pipelines.sentence_routes import Route, Routes, read_routes
from transformer_fast.pipelines.sentence_settings import SentenceSettings, read_settings
from transformer_fast.pipelines.sentence_texts import (
    Text,
    checked_texts,
    hub_name,
    renamed,
    several,
    take_prompts,
)
from transformer_fast.pipelines.text_runs import (
    check_device,
    check_positive,
    check_without_torch,
    runs,
    show_progress,
)
from transformer_fast.util.quantization import checked_precision
from transformer_fast.util.similarity import checked_name

# Whose models are meant where the hub's name has no "/".
_HUB_ORGANISATION = "sentence-transformers"

# Texts that `encode_stream` reads ahead: enough to sort by length, and for some runs of texts of a few words.
_WINDOW = 1024
# Where a StaticEmbedding's limit stands.
_FILE_LIMIT = "the limit in tokenizer.json"
_OUTPUTS = ("sentence_embedding", "token_embeddings")


class TruncationWarning(UserWarning):
    """Texts were cut off at max_seq_length. `encode(show_truncated=True)` gives it."""


def open_encoder(path_or_hub_id: str | Path | ModelSource, **hub: Any) -> ModelSource:
    """`open_source` where "name" on the hub is sentence-transformers'.

    Raises:
        CheckpointError: as `open_source`.
    """
    return open_source(hub_name(path_or_hub_id, _HUB_ORGANISATION), **hub)


@dataclass(frozen=True)
class EncodeJob:
    """The arguments of `encode`, checked: texts -> `tokens` -> `rows` of those that run together -> `finished`."""

    route: Route
    batch_size: int
    prompt: str
    skipped: int  # tokens of the prompt that are not pooled
    tokens_wanted: bool
    normalize: bool
    truncate_dim: int | None

    @property
    def together(self) -> Hashable:
        """Texts of jobs of which this is equal may run together."""
        return id(self.route), self.skipped

    @property
    def width(self) -> int:
        """The length of a row."""
        return self.route.dimension

    def tokens(self, texts: Sequence[Text], truncate: bool = True) -> list[TextTokens]:
        """The tokens of texts; truncate=False refuses those that would be cut off.

        Raises:
            ValueError: a text is too long, or cannot be written as UTF-8.
        """
        found = self.route.tokens(list(texts), self.prompt)
        if not truncate:
            for i, one in enumerate(found):
                if one.cut:
                    (length,) = self.route.input.lengths([texts[i]], self.prompt)
                    raise ValueError(f"inputs[{i}] has {length} tokens; needed: at most {_limit(self.route)}")
        return found

    def given(self, inputs: Sequence[Sequence[int]]) -> list[TextTokens]:
        """Tokens that a caller gives by number, special ones included: nothing is put around them or cut off.

        Raises:
            TypeError, ValueError: a number is none of the vocabulary, or there are none or too many.
        """
        vocabulary, limit = self.route.input.vocabulary_size, self.route.input.max_seq_length
        found = []
        for i, ids in enumerate(inputs):
            for number in ids:
                if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
                    raise TypeError(f"inputs[{i}] has {number!r:.40}; needed: numbers of tokens")
                if not 0 <= number < vocabulary:
                    raise ValueError(f"inputs[{i}] has the token {number}; needed: 0 to {vocabulary - 1}")
            if not 1 <= len(ids) <= limit:
                raise ValueError(f"inputs[{i}] has {len(ids)} tokens; needed: 1 to {limit}")
            found.append(TextTokens(list(map(int, ids))))
        return found

    def rows(self, tokens: Sequence[TextTokens]) -> np.ndarray:
        """The vectors (B, width) of texts that run together, as the route gives them."""
        return self.route.vectors(tokens, self.skipped)

    def finished(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the call asks for them, (B, dim)."""
        rows = rows[:, : self.truncate_dim]
        return util.normalize_embeddings(rows) if self.normalize else rows


class SentenceEncoder(RoutedEncoder):
    """Texts in, vectors out; made by `from_pretrained`.

    Inputs are a string, or several: any iterable of strings, a NumPy array, a column of pandas or Arrow. A tuple of two
    strings among them is a pair, which the tokenizer puts together.

    Attributes:
        model: the token encoder (`models`), or a StaticEmbedding; of a model with several routes the default one's.
        prompts: name -> text that `encode(prompt_name=...)` puts before each text.
        default_prompt_name: the prompt that is used when none is named, or None.
        truncate_dim: as in `encode`, where that says nothing; or None.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")       # doctest: +SKIP
        >>> a, b = encoder.encode(["A man eats bread.", "Someone is having a meal."])                 # doctest: +SKIP
        >>> float(a @ b) > 0.5                                                                        # doctest: +SKIP
        True
    """

    def __init__(self, routes: Routes, settings: SentenceSettings) -> None:
        super().__init__(routes, settings)
        self.truncate_dim = settings.truncate_dim

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        local_files_only: bool = False,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        device: str | None = None,
        **hub: Any,
    ) -> SentenceEncoder:
        """The encoder in a folder, or on the Hugging Face hub ("org/name"; "name" is sentence-transformers').

        Read are modules.json and what it names, sentence_bert_config.json, config_sentence_transformers.json,
        tokenizer.json and tokenizer_config.json, and the model (see `load_model`). Without modules.json the tokens'
        mean is taken, or it is a folder of model2vec. From the hub only safetensors, JSON and text files are fetched;
        with local_files_only, only what its cache already has.

        Args:
            compute_type, ignore_fields: as in `load_model`. hub: its revision, cache_dir and token.
            packed_cache: a folder for packed weights, which processes share; as in `load_model`.
            prompts, default_prompt_name, similarity_fn_name, truncate_dim: instead of what the folder says; of a prompt
                that is None, the folder's counts.
            device: "cpu".

        Raises:
            CheckpointError: there is no such folder or model, or a file is malformed or asks for what is not supported.
            ValueError: another argument is out of range.
        """
        check_device(device)
        source = open_encoder(path_or_hub_id, local_files_only=local_files_only, **hub)
        settings = read_settings(source)
        take_prompts(settings, prompts, default_prompt_name)
        if truncate_dim is not None:
            check_positive("truncate_dim", truncate_dim)
            settings.truncate_dim = truncate_dim
        if similarity_fn_name is not None:
            settings.similarity = checked_name(similarity_fn_name)
        return cls(read_routes(source, settings, compute_type, ignore_fields, packed_cache), settings)

    def get_embedding_dimension(self) -> int:
        """The length of the vectors that `encode` returns."""
        full = super().get_embedding_dimension()
        return min(full, self.truncate_dim or full)

    # ------------------------------------------------------------------------------------------------------------------
    # Embeddings

    @renamed(sentences="inputs")
    def encode(
        self,
        inputs: str | Iterable[Text],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        show_truncated: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """The embeddings of one text, (dim,), or of several, (N, dim), in their order; as sentence-transformers.

        Args:
            prompt_name, prompt: what is put before each text: one of `prompts`, or a text of its own.
            batch_size: texts of a batch. Batches that follow each other run together until they hold 1,024 tokens for
                each thread; more than 16,384 run in parts. While they run, the next ones are tokenised on a thread of
                its own (not after `set_num_threads(1)`). It changes speed and memory, not one bit of the result.
            show_progress_bar: None shows it in a terminal if the work is long. It goes to stderr.
            output_value: "sentence_embedding", or "token_embeddings" for a list of (L, h) arrays.
            precision: "float32", or "int8", "uint8", "binary", "ubinary", as `util.quantize_embeddings`; the ranges of
                8 bits are those of this call's embeddings.
            convert_to_numpy: False gives a list of vectors instead of one array.
            normalize_embeddings: scale each vector to length 1 (after truncation).
            truncate_dim: keep that many numbers of each vector.
            task: the route of a model that has several, "query" or "document" for instance.
            show_truncated: give a `TruncationWarning` if texts were cut off at max_seq_length, with their number and
                the first of them. `count_truncated_tokens` says how much.
            pool: of `start_multi_process_pool`: its processes compute, with the same bits.
            device: "cpu", or a list, ["cpu", "cpu"], which starts a pool of so many processes for this call.
            chunk_size: texts that a process gets at a time; None: a tenth of its share, 5,000 at most.
            convert_to_tensor: False.

        Raises:
            TypeError: an input is no string and no pair (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
            RuntimeError: a process of the pool has died.
        """
        check_without_torch(convert_to_tensor)
        checked_precision(precision)
        job = self._job(prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task)
        if job.tokens_wanted and precision != "float32":
            raise ValueError(f"precision is {precision!r}; needed: 'float32' with output_value='token_embeddings'")
        texts = list(checked_texts(several(inputs)))
        # All that decides results; names of prompts are this process' business.
        arguments = None, job.prompt, batch_size, output_value, normalize_embeddings, job.truncate_dim, task
        how = batch_size, show_progress_bar, device, pool, chunk_size
        results, cut = self._room(len(texts), job), []
        with closing(in_chunks(self, "_encode_chunk", texts, (arguments, show_truncated), *how)) as parts:
            for chunk, (part, cut_off) in parts:
                if len(part) == len(texts):
                    results = part  # not copied, which would take as much memory again
                else:
                    results[chunk] = part
                cut += [chunk.start + i for i in cut_off]
        if cut:
            warnings.warn(_truncation(cut, texts, job.route.input.max_seq_length), TruncationWarning, stacklevel=3)
        if precision != "float32":
            results = util.quantize_embeddings(results, precision)
        if isinstance(inputs, str):
            return results[0]
        return results if convert_to_numpy else list(results)

    @renamed(sentences="inputs")
    def encode_stream(
        self,
        inputs: Iterable[Text],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        task: str | None = None,
    ) -> Iterator[np.ndarray]:
        """One embedding after the other, (dim,), in the order of the texts: for more of them than memory should hold.

        Texts are read when their results are asked for, at most 1,024 ahead of the last result that was taken; those
        run as in `encode`, sorted by length and in batches. The results are `encode`'s, bit for bit, and so are
        arguments and errors. The call itself raises errors of arguments. An error of a text, or one that `inputs`
        raises, comes when the 1,024 that it belongs to are read: the results of those before them have come.

        Example:
            >>> with open("texts.txt") as file:                                                  # doctest: +SKIP
            ...     for embedding in encoder.encode_stream(line.rstrip() for line in file):
            ...         index.add(embedding)
        """
        job = self._job(prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task)
        total = len(inputs) if isinstance(inputs, Sized) and not isinstance(inputs, str) else None
        return self._stream(checked_texts(several(inputs)), job, total, show_progress_bar)

    def prepared(
        self,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> EncodeJob:
        """A call of `encode` whose texts somebody else batches, such as `serving.TextEngine`; arguments as there.

        Raises:
            ValueError: as `encode`.
        """
        return self._job(prompt_name, prompt, 1, _OUTPUTS[0], normalize_embeddings, truncate_dim, task)

    # ------------------------------------------------------------------------------------------------------------------

    def _job(
        self, prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task=None
    ) -> EncodeJob:
        """The arguments of `encode`, checked."""
        if output_value not in _OUTPUTS:
            raise ValueError(f"output_value is {output_value!r}; needed: 'sentence_embedding' or 'token_embeddings'")
        check_positive("batch_size", batch_size)
        if truncate_dim is not None:
            check_positive("truncate_dim", truncate_dim)
        route, prompt = self._routes.route(task), self._prompt(prompt_name, prompt)
        return EncodeJob(
            route=route,
            batch_size=batch_size,
            prompt=prompt,
            skipped=route.prompt_length(prompt),
            tokens_wanted=output_value == "token_embeddings",
            normalize=normalize_embeddings,
            truncate_dim=truncate_dim or self.truncate_dim,
        )

    def _room(self, count: int, job: EncodeJob) -> Any:
        """A list, or an array, for the results of so many texts."""
        full = job.route.dimension
        shape = (count, min(full, job.truncate_dim or full))
        return [None] * count if job.tokens_wanted else np.empty(shape, np.float32)

    def _encode_chunk(
        self, texts: list[Text], arguments: tuple, show_truncated: bool, progress: Any = None
    ) -> tuple[Any, list[int]]:
        """The results of texts in their order, and the indices of those that were cut off; arguments: of `_job`."""
        job, cut = self._job(*arguments), []
        results = self._room(len(texts), job)
        for indices, part in self._runs(texts, job, cut if show_truncated else None):
            if job.tokens_wanted:
                for i, rows in zip(indices, part, strict=True):
                    results[i] = rows.copy()
            else:
                results[indices] = part
            if progress is not None:
                progress.update(len(indices))
        return results, cut

    def _stream(
        self, texts: Iterator[Text], job: EncodeJob, total: int | None, show: bool | None
    ) -> Iterator[np.ndarray]:
        with show_progress(total, show) as progress:
            while window := list(islice(texts, _WINDOW)):
                results: list[Any] = [None] * len(window)
                for indices, part in self._runs(window, job):
                    for i, result in zip(indices, part, strict=True):
                        results[i] = result.copy()  # of its own: a view would keep all that ran together
                    progress.update(len(indices))
                yield from results

    def _runs(
        self, texts: list[Text], job: EncodeJob, cut: list[int] | None = None
    ) -> Iterator[tuple[list[int], Sequence[np.ndarray]]]:
        """Indices of texts that ran together, and a view of the result of each, until all have run.

        cut: where the indices of texts go that were cut off.
        """

        with closing(runs(texts, job.tokens, job.batch_size)) as together:
            for indices, found in together:
                if cut is not None:
                    cut += [i for i, one in zip(indices, found, strict=True) if one.cut]
                if job.tokens_wanted:
                    yield indices, job.route.token_rows(found)
                else:
                    yield indices, job.finished(job.rows(found))

    def __repr__(self) -> str:
        first = self._routes.first()
        routes = "" if "" in self._routes.routes else f", routes={'+'.join(self._routes.routes)}"
        return (
            f"SentenceEncoder({type(self.model).__name__}, dim={self.get_embedding_dimension()}, "
            f"pooling={'+'.join(first.pooling.modes)}, max_seq_length={self.max_seq_length}{routes})"
        )


def _limit(route: Route) -> str:
    limit = route.input.max_seq_length
    return f"{limit} (max_seq_length), or truncate=True" if limit < float("inf") else f"{_FILE_LIMIT}, or truncate=True"


def _truncation(cut: list[int], texts: Sequence[Text], limit: float) -> str:
    first = min(cut)
    name = f"max_seq_length={limit} tokens" if limit < float("inf") else _FILE_LIMIT
    return (
        f"{len(cut)} of {len(texts)} texts are longer than {name}, and what is beyond was cut off; the first is "
        f"inputs[{first}], {str(texts[first])[:40]!r} ..."
    )

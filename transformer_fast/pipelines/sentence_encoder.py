"""Sentence embeddings: `SentenceEncoder` takes texts, and gives vectors whose angles say how alike the texts are.

Users and the commands call it. `sentence_settings` reads the files of sentence-transformers, `sentence_routes` makes
the modules that they name, `text_runs` batches texts, and `util` has what is done with vectors; results follow
sentence-transformers' `encode`. To add a module, see `sentence_routes`; an option of `encode` goes into `_Job`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transformer_fast import util
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.sentence_routes import Route, Routes, read_routes
from transformer_fast.pipelines.sentence_settings import (
    SentenceSettings,
    checked_prompt,
    chosen_prompt,
    read_settings,
)
from transformer_fast.pipelines.text_runs import (
    check_device,
    check_positive,
    check_without_torch,
    column,
    one_of,
    runs,
    show_progress,
)
from transformer_fast.util.quantization import checked_precision
from transformer_fast.util.similarity import checked_name

_Method = TypeVar("_Method", bound=Callable[..., Any])
Text = str | tuple[str, str]

# Whose models are meant where the hub's name has no "/".
_HUB_ORGANISATION = "sentence-transformers"
_HUB_NAME = re.compile(r"[^./~\\][^/\\]*")

# Texts that `encode_stream` reads ahead: enough to sort by length, and for some runs of texts of a few words.
_WINDOW = 1024
_OUTPUTS = ("sentence_embedding", "token_embeddings")
# Prompts of documents, in the order in which `encode_document` looks for them.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class TruncationWarning(UserWarning):
    """Texts were cut off at max_seq_length. `encode(show_truncated=True)` gives it."""


def open_encoder(path_or_hub_id: str | Path | ModelSource, **hub: Any) -> ModelSource:
    """`open_source` where "name" on the hub is sentence-transformers'.

    Raises:
        CheckpointError: as `open_source`.
    """
    name = path_or_hub_id
    if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists():
        name = f"{_HUB_ORGANISATION}/{name}"
    return open_source(name, **hub)


@dataclass(frozen=True)
class _Job:
    """The arguments of `encode`, checked."""

    route: Route
    batch_size: int
    prompt: str
    skipped: int  # tokens of the prompt that are not pooled
    tokens_wanted: bool
    normalize: bool
    truncate_dim: int | None


def _renamed(**names: str) -> Callable[[_Method], _Method]:
    """Takes arguments under their older names as well; names: older name -> newer name."""

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            for older, newer in names.items():
                if older in options:
                    if arguments or newer in options:
                        raise TypeError(f"{older} and {newer} are both given; needed: {newer}")
                    options[newer] = options.pop(older)
            return method(self, *arguments, **options)

        return call  # type: ignore[return-value]

    return decorate


class SentenceEncoder:
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
        self._routes = routes
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self.truncate_dim = settings.truncate_dim
        self._similarity = settings.similarity

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        local_files_only: bool = False,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
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
        for prompt_name, prompt in (prompts or {}).items():
            if prompt is None:
                settings.prompts.setdefault(prompt_name, "")
            else:
                settings.prompts[prompt_name] = checked_prompt(f"prompts[{prompt_name!r}]", prompt)
        if default_prompt_name is not None:
            one_of("default_prompt_name", default_prompt_name, settings.prompts)
            settings.default_prompt_name = default_prompt_name
        if truncate_dim is not None:
            check_positive("truncate_dim", truncate_dim)
            settings.truncate_dim = truncate_dim
        if similarity_fn_name is not None:
            settings.similarity = checked_name(similarity_fn_name)
        return cls(read_routes(source, settings, compute_type, ignore_fields), settings)

    # ------------------------------------------------------------------------------------------------------------------
    # What the model is

    @property
    def model(self) -> Any:
        return self._routes.first().input.model

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        return self._routes.first().input.tokenizer

    @property
    def device(self) -> str:
        """ "cpu"."""
        return "cpu"

    @property
    def max_seq_length(self) -> float:
        """Tokens, special ones included, after which a text is cut off; may be lowered. A StaticEmbedding has no limit.

        Of several routes it is the greatest; setting it sets all.
        """
        return max(input.max_seq_length for input in self._routes.inputs())

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if self.max_seq_length == float("inf"):
            raise ValueError(f"max_seq_length is {length}; needed: none, a StaticEmbedding cuts nothing off")
        for input in self._routes.inputs():
            input.max_seq_length = length

    @property
    def similarity_fn_name(self) -> str:
        """The measure of `similarity`: "cosine", "dot", "euclidean" or "manhattan"; may be set."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        self._similarity = checked_name(name)

    def get_embedding_dimension(self) -> int:
        """The length of the vectors that `encode` returns."""
        full = self._routes.first().dimension
        return min(full, self.truncate_dim or full)

    def get_sentence_embedding_dimension(self) -> int:
        """As `get_embedding_dimension`: its name before sentence-transformers 5."""
        return self.get_embedding_dimension()

    # ------------------------------------------------------------------------------------------------------------------
    # Embeddings

    @_renamed(sentences="inputs")
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
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: None = None,
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
            convert_to_tensor, device, pool, chunk_size: False; None or "cpu"; None; None.

        Raises:
            TypeError: an input is no string and no pair (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
        """
        check_without_torch(convert_to_tensor, device, pool, chunk_size)
        checked_precision(precision)
        job = self._job(prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task)
        if job.tokens_wanted and precision != "float32":
            raise ValueError(f"precision is {precision!r}; needed: 'float32' with output_value='token_embeddings'")
        texts = list(_checked(_several(inputs)))
        results: Any = [None] * len(texts)
        if not job.tokens_wanted:
            full = job.route.dimension
            results = np.empty((len(texts), min(full, job.truncate_dim or full)), np.float32)
        cut: list[int] = []
        with show_progress(len(texts), show_progress_bar) as progress:
            for indices, part in self._runs(texts, job, cut if show_truncated else None):
                if job.tokens_wanted:
                    for i, rows in zip(indices, part, strict=True):
                        results[i] = rows.copy()
                else:
                    results[indices] = part
                progress.update(len(indices))
        if cut:
            warnings.warn(_truncation(cut, texts, job.route.input.max_seq_length), TruncationWarning, stacklevel=3)
        if precision != "float32":
            results = util.quantize_embeddings(results, precision)
        if isinstance(inputs, str):
            return results[0]
        return results if convert_to_numpy else list(results)

    @_renamed(sentences="inputs")
    def encode_query(
        self, inputs: str | Iterable[Text], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """`encode` with the prompt "query", if no other is named, and on the route "query"."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **{"task": "query", **options})

    @_renamed(sentences="inputs")
    def encode_document(
        self, inputs: str | Iterable[Text], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """`encode` with the prompt "document", "passage" or "corpus", the first that there is, if no other is named.

        It takes the route "document". Every model has a prompt "document", which is empty unless its files say more.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, **{"task": "document", **options})

    @_renamed(sentences="inputs")
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
        return self._stream(_checked(_several(inputs)), job, total, show_progress_bar)

    # ------------------------------------------------------------------------------------------------------------------
    # Tokens

    @_renamed(sentences="inputs")
    def tokenize(self, inputs: str | Iterable[Text], *, task: str | None = None) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest.

        They are input_ids, token_type_ids (if the model knows token types) and attention_mask; of a StaticEmbedding
        input_ids (T,) and offsets (B,).
        """
        route = self._routes.route(task)
        return route.input.arguments(route.tokens(list(_checked(_several(inputs)))))

    @_renamed(sentences="inputs")
    def count_tokens(self, inputs: str | Iterable[Text], *, task: str | None = None) -> int:
        """The number of tokens that `encode` runs for these texts, without a prompt."""
        return sum(map(len, self._routes.route(task).tokens(list(_checked(_several(inputs))))))

    def count_truncated_tokens(
        self,
        inputs: str | Iterable[Text],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        task: str | None = None,
    ) -> np.ndarray:
        """How many tokens of each text `encode` cuts off at max_seq_length: (N,) int64.

        Example:
            >>> encoder.count_truncated_tokens(["short", "long " * 1000])                             # doctest: +SKIP
            array([  0, 746])
        """
        route, start = self._routes.route(task), self._prompt(prompt_name, prompt)
        texts = [_with_prompt(start, text) for text in _checked(_several(inputs))]
        kept = np.array([len(one) for one in route.tokens(texts)], np.int64)
        return np.array(route.input.lengths(texts), np.int64) - kept

    # ------------------------------------------------------------------------------------------------------------------
    # Similarity

    def similarity(self, a: Any, b: Any) -> np.ndarray:
        """The model's own measure, `similarity_fn_name`, between all of a (Na, dim) and all of b (Nb, dim): (Na, Nb).

        A single vector counts as one row. Distances are negative.

        Raises:
            ValueError: shapes do not fit.
        """
        return util.similarity(a, b, self._similarity)

    def similarity_pairwise(self, a: Any, b: Any) -> np.ndarray:
        """The model's own measure of a[i] and b[i], (N, dim) each: (N,).

        Raises:
            ValueError: shapes do not fit.
        """
        return util.pairwise_similarity(a, b, self._similarity)

    # ------------------------------------------------------------------------------------------------------------------

    def _job(
        self, prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim, task=None
    ) -> _Job:
        """The arguments of `encode`, checked."""
        if output_value not in _OUTPUTS:
            raise ValueError(f"output_value is {output_value!r}; needed: 'sentence_embedding' or 'token_embeddings'")
        check_positive("batch_size", batch_size)
        if truncate_dim is not None:
            check_positive("truncate_dim", truncate_dim)
        route, prompt = self._routes.route(task), self._prompt(prompt_name, prompt)
        return _Job(
            route=route,
            batch_size=batch_size,
            prompt=prompt,
            skipped=route.prompt_length(prompt),
            tokens_wanted=output_value == "token_embeddings",
            normalize=normalize_embeddings,
            truncate_dim=truncate_dim or self.truncate_dim,
        )

    def _stream(self, texts: Iterator[Text], job: _Job, total: int | None, show: bool | None) -> Iterator[np.ndarray]:
        with show_progress(total, show) as progress:
            while window := list(islice(texts, _WINDOW)):
                results: list[Any] = [None] * len(window)
                for indices, part in self._runs(window, job):
                    for i, result in zip(indices, part, strict=True):
                        results[i] = result.copy()  # of its own: a view would keep all that ran together
                    progress.update(len(indices))
                yield from results

    def _runs(
        self, texts: list[Text], job: _Job, cut: list[int] | None = None
    ) -> Iterator[tuple[list[int], Sequence[np.ndarray]]]:
        """Indices of texts that ran together, and a view of the result of each, until all have run.

        cut: where the indices of texts go that were cut off.
        """

        def tokens(batch: list[Text]) -> list[Any]:
            return job.route.tokens([_with_prompt(job.prompt, text) for text in batch])

        with closing(runs(texts, tokens, job.batch_size)) as together:
            for indices, found in together:
                if cut is not None:
                    cut += [i for i, one in zip(indices, found, strict=True) if one.cut]
                if job.tokens_wanted:
                    yield indices, job.route.token_rows(found)
                else:
                    yield indices, self._finished(job.route.vectors(found, job.skipped), job)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        return chosen_prompt(self.prompts, self.default_prompt_name, name, prompt)

    def _finished(self, embeddings: np.ndarray, job: _Job) -> np.ndarray:
        embeddings = embeddings[:, : job.truncate_dim]
        return util.normalize_embeddings(embeddings) if job.normalize else embeddings

    def __repr__(self) -> str:
        first = self._routes.first()
        routes = "" if "" in self._routes.routes else f", routes={'+'.join(self._routes.routes)}"
        return (
            f"SentenceEncoder({type(self.model).__name__}, dim={self.get_embedding_dimension()}, "
            f"pooling={'+'.join(first.pooling.modes)}, max_seq_length={self.max_seq_length}{routes})"
        )


def _several(inputs: Any) -> Iterable[Any]:
    """The texts, one by one; one string is one text."""
    return [inputs] if isinstance(inputs, str) else column("inputs", inputs)


def _checked(inputs: Iterable[Any]) -> Iterator[Text]:
    for i, text in enumerate(inputs):
        if not isinstance(text, str) and not _is_pair(text):
            raise TypeError(f"inputs[{i}] is a {type(text).__name__}; needed: a string")
        yield text


def _is_pair(text: Any) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)


def _with_prompt(prompt: str, text: Text) -> Text:
    """A prompt goes before a text, of a pair before the first."""
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])


def _truncation(cut: list[int], texts: Sequence[Text], limit: float) -> str:
    first = min(cut)
    name = f"max_seq_length={limit} tokens" if limit < float("inf") else "the limit in tokenizer.json"
    return (
        f"{len(cut)} of {len(texts)} texts are longer than {name}, and what is beyond was cut off; the first is "
        f"inputs[{first}], {str(texts[first])[:40]!r} ..."
    )

"""Sentence embeddings: `SentenceEncoder` takes texts, and gives vectors whose angles say how alike the texts are.

Users and the commands call it. `sentence_settings` reads the files of sentence-transformers, `files.tokenizer` makes
tokens, a model of `models` runs them, and `_pool` here makes one vector of them; results follow sentence-transformers'
`encode`. To add a way of pooling, see `sentence_settings.POOLING` and `_pool`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, packed
from transformer_fast.models import load_model
from transformer_fast.models.common.compute_types import ComputeType, weight_format_of
from transformer_fast.pipelines.sentence_modules import normalized, read_modules
from transformer_fast.pipelines.sentence_settings import SentenceSettings, read_settings, sentence_tokenizer

_T = TypeVar("_T")

# Whose models are meant where the hub's name has no "/".
_HUB_ORGANISATION = "sentence-transformers"
_HUB_NAME = re.compile(r"[^./~\\][^/\\]*")

# Names of the padding token in vocabularies; the mask hides it.
_PADS = ("[PAD]", "<pad>")

# Seconds of work after which a progress bar appears by itself.
_PROGRESS_DELAY = 1.0

# Batches run together until they hold this many tokens for each thread. Measured: linear layers reach 95 % of their
# speed from about 640 rows on, below that the weights are read too often; and threads wait less for each other at the
# end.
_ENOUGH_TOKENS = 1024
# More never run together: nothing gets faster, and the memory that a run needs grows with its tokens.
_MOST_TOKENS = 16_384
# Texts that `encode_stream` reads ahead: enough to sort by length, and for some runs of texts of a few words.
_WINDOW = 1024


@dataclass(frozen=True)
class _Job:
    """The arguments of `encode`, checked."""

    batch_size: int
    prompt: str
    skipped: int  # tokens of the prompt that are not pooled
    tokens_wanted: bool
    normalize: bool
    truncate_dim: int | None


class SentenceEncoder:
    """Texts in, vectors out; made by `from_pretrained`.

    Attributes:
        model: the token encoder (`models`).
        prompts: name -> text that `encode(prompt_name=...)` puts before each sentence.
        default_prompt_name: the prompt that is used when none is named, or None.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")       # doctest: +SKIP
        >>> a, b = encoder.encode(["A man eats bread.", "Someone is having a meal."])                 # doctest: +SKIP
        >>> float(a @ b) > 0.5                                                                        # doctest: +SKIP
        True
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, settings: SentenceSettings, modules: Sequence[Any] = ()
    ) -> None:
        """modules: what follows the pooling (`sentence_modules`)."""
        self.model = model
        self._modules = tuple(modules)
        self._tokenizer = tokenizer
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self._settings = settings
        self.max_seq_length = min(settings.max_seq_length or model.max_length, model.max_length)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        local_files_only: bool = False,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
    ) -> SentenceEncoder:
        """The encoder in a folder, or on the Hugging Face hub ("org/name"; "name" is sentence-transformers').

        Read are modules.json and what it names, sentence_bert_config.json, config_sentence_transformers.json,
        tokenizer.json and tokenizer_config.json, and the model (see `load_model`). Without modules.json the tokens'
        mean is taken. From the hub only safetensors, JSON and text files are fetched; with local_files_only, only
        what its cache already has. compute_type, ignore_fields: as in `load_model`.

        Raises:
            CheckpointError: there is no such folder or model, or a file is malformed or asks for what is not supported.
        """
        name = path_or_hub_id
        if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists():
            name = f"{_HUB_ORGANISATION}/{name}"
        model_source, settings = read_settings(open_source(name, local_files_only=local_files_only))
        model = load_model(model_source, head=False, compute_type=compute_type, ignore_fields=ignore_fields)
        if not hasattr(model, "encode_packed"):
            raise CheckpointError(f"{model_source}: {type(model).__name__} encodes no text")
        pooled = model.hidden_size * len(settings.pooling)
        modules = read_modules(settings.following, pooled, weight_format_of(compute_type))
        return cls(model, sentence_tokenizer(model_source, settings), settings, modules)

    @property
    def _full_dimension(self) -> int:
        """The length of the vectors before some of their numbers are cut off."""
        return self._modules[-1].dimension if self._modules else self.model.hidden_size * len(self._settings.pooling)

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        return self._tokenizer.limited(self._max_seq_length)

    @property
    def max_seq_length(self) -> int:
        """Tokens, special ones included, after which a text is cut off; may be lowered."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        least, most = self._tokenizer.tokenizer.num_special_tokens_to_add(False), self.model.max_length
        if not least <= length <= most:
            raise ValueError(f"max_seq_length is {length}; needed: {least} to {most} (the model's positions)")
        self._max_seq_length = length

    def get_sentence_embedding_dimension(self) -> int:
        """The length of the vectors that `encode` returns."""
        full = self._full_dimension
        return min(full, self._settings.truncate_dim or full)

    def encode(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """The embeddings of one text, (dim,), or of several, (N, dim), in their order; as sentence-transformers.

        Args:
            prompt_name, prompt: what is put before each text: one of `prompts`, or a text of its own.
            batch_size: texts of a batch. Batches that follow each other run together until they hold 1,024 tokens for
                each thread; more than 16,384 run in parts. While they run, the next ones are tokenised on a thread of
                its own (not after `set_num_threads(1)`). It changes speed and memory, not one bit of the result.
            show_progress_bar: None shows it in a terminal if the work is long. It goes to stderr.
            output_value: "sentence_embedding", or "token_embeddings" for a list of (L, h) arrays.
            convert_to_numpy: False gives a list of vectors instead of one array.
            normalize_embeddings: scale each vector to length 1 (after truncation).
            truncate_dim: keep that many numbers of each vector.

        Raises:
            TypeError: a sentence is no string (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
        """
        job = self._job(prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim)
        texts = list(_checked(_several(sentences)))
        results: Any = [None] * len(texts)
        if not job.tokens_wanted:
            full = self._full_dimension
            results = np.empty((len(texts), min(full, job.truncate_dim or full)), np.float32)
        with _progress(len(texts), show_progress_bar) as progress:
            for indices, part in self._runs(texts, job):
                if job.tokens_wanted:
                    for i, rows in zip(indices, part, strict=True):
                        results[i] = rows.copy()
                else:
                    results[indices] = part
                progress.update(len(indices))
        if isinstance(sentences, str):
            return results[0]
        return results if convert_to_numpy else list(results)

    def encode_stream(
        self,
        sentences: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Iterator[np.ndarray]:
        """One embedding after the other, (dim,), in the order of the texts: for more of them than memory should hold.

        Texts are read when their results are asked for, at most 1,024 ahead of the last result that was taken; those
        run as in `encode`, sorted by length and in batches. The results are `encode`'s, bit for bit, and so are
        arguments and errors. The call itself raises errors of arguments. An error of a text, or one that `sentences`
        raises, comes when the 1,024 that it belongs to are read: the results of those before them have come.

        Example:
            >>> with open("texts.txt") as file:                                                  # doctest: +SKIP
            ...     for embedding in encoder.encode_stream(line.rstrip() for line in file):
            ...         index.add(embedding)
        """
        job = self._job(prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim)
        total = len(sentences) if isinstance(sentences, Sized) and not isinstance(sentences, str) else None
        return self._stream(_checked(_several(sentences)), job, total, show_progress_bar)

    def tokenize(self, sentences: str | Iterable[str]) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest.

        They are input_ids, token_type_ids (if the model knows token types) and attention_mask.
        """
        encodings = self._tokens(list(_checked(_several(sentences))))
        longest = max((len(ids) for ids in encodings), default=0)
        pads = (self.tokenizer.token_to_id(name) for name in _PADS)
        pad = next((number for number in pads if number is not None), 0)
        input_ids = np.full((len(encodings), longest), pad, np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(encodings):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        types = {"token_type_ids": np.zeros_like(input_ids)} if hasattr(self.model.config, "type_vocab_size") else {}
        return {"input_ids": input_ids, **types, "attention_mask": mask}

    def count_tokens(self, sentences: str | Iterable[str]) -> int:
        """The number of tokens that `encode` runs for these sentences, without a prompt."""
        return sum(map(len, self._tokens(list(_checked(_several(sentences))))))

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The model's own measure (cosine, or dot) between all of a (Na, dim) and all of b (Nb, dim): (Na, Nb).

        A single vector counts as one row.
        """
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (a, b))
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise ValueError(f"a and b have shapes {a.shape} and {b.shape}; needed: (Na, dim) and (Nb, dim)")
        measure = self._settings.similarity
        if measure not in ("cosine", "dot"):
            raise NotImplementedError(f"this model's similarity is {measure!r}; supported: cosine, dot")
        return F.linear(*(normalized(x) if measure == "cosine" else x for x in (a, b)))

    def _job(self, prompt_name, prompt, batch_size, output_value, normalize_embeddings, truncate_dim) -> _Job:
        """The arguments of `encode`, checked."""
        if output_value not in ("sentence_embedding", "token_embeddings"):
            raise ValueError(f"output_value is {output_value!r}; needed: 'sentence_embedding' or 'token_embeddings'")
        _check_positive("batch_size", batch_size)
        if truncate_dim is not None:
            _check_positive("truncate_dim", truncate_dim)
        prompt = self._prompt(prompt_name, prompt)
        return _Job(
            batch_size=batch_size,
            prompt=prompt,
            skipped=0 if self._settings.include_prompt or not prompt else self._prompt_length(prompt),
            tokens_wanted=output_value == "token_embeddings",
            normalize=normalize_embeddings,
            truncate_dim=truncate_dim or self._settings.truncate_dim,
        )

    def _stream(self, texts: Iterator[str], job: _Job, total: int | None, show: bool | None) -> Iterator[np.ndarray]:
        with _progress(total, show) as progress:
            while window := list(islice(texts, _WINDOW)):
                results: list[Any] = [None] * len(window)
                for indices, part in self._runs(window, job):
                    for i, result in zip(indices, part, strict=True):
                        results[i] = result.copy()  # of its own: a view would keep all that ran together
                    progress.update(len(indices))
                yield from results

    def _runs(self, texts: list[str], job: _Job) -> Iterator[tuple[list[int], Sequence[np.ndarray]]]:
        """Indices of texts that ran together, and a view of the result of each, until all have run."""
        n_threads = F.get_num_threads()  # asked here: a limit may be the calling thread's own
        together = self._together(texts, job, _ENOUGH_TOKENS * n_threads)
        if n_threads > 1 and len(texts) > job.batch_size:
            together = _made_ahead(together)
        with closing(together):  # the other thread ends even after an error here
            for indices, tokens in together:
                if job.tokens_wanted:
                    ids, cu_seqlens = packed(tokens)
                    yield indices, np.split(self.model.encode_packed(ids, cu_seqlens), cu_seqlens[1:-1])
                else:
                    yield indices, self._finished(self._pooled(tokens, job.skipped), job)

    def _together(self, texts: list[str], job: _Job, enough: int) -> Generator[tuple[list[int], list[list[int]]]]:
        """Indices and tokens of the texts that run together: batches, merged until they hold enough tokens, and cut."""
        # The longest first: the memory needed is known at once, and the progress bar speeds up rather than slows down.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        indices, tokens, total = [], [], 0
        for start in range(0, len(order), job.batch_size):
            batch = order[start : start + job.batch_size]
            for i, ids in zip(batch, self._tokens([job.prompt + texts[i] for i in batch]), strict=True):
                if indices and total + len(ids) > _MOST_TOKENS:
                    yield indices, tokens
                    indices, tokens, total = [], [], 0
                indices.append(i)
                tokens.append(ids)
                total += len(ids)
            if total >= enough:
                yield indices, tokens
                indices, tokens, total = [], [], 0
        if indices:
            yield indices, tokens

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"prompt is a {type(prompt).__name__}; needed: a string")
            return prompt
        name = name if name is not None else self.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"prompt_name is {name!r}; this model has: {', '.join(map(repr, self.prompts))}")
        return self.prompts[name]

    def _prompt_length(self, prompt: str) -> int:
        """The prompt's tokens at the start of a text: its own and the special ones before them, not those after."""
        encoding = self.tokenizer.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch(texts, max_length=self._max_seq_length)
        return [encoding.ids for encoding in encodings]

    def _pooled(self, tokens: list[list[int]], skipped: int) -> np.ndarray:
        """The model's hidden states of each text, pooled; the first `skipped` tokens do not count."""
        if self._settings.pooling in (("cls",), ("lasttoken",)):
            return self._one_row(tokens, skipped)
        ids, cu_seqlens = packed(tokens)
        hidden = self.model.encode_packed(ids, cu_seqlens)
        parts = [_pool(mode, hidden, cu_seqlens, skipped) for mode in self._settings.pooling]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _one_row(self, tokens: list[list[int]], skipped: int) -> np.ndarray:
        """The poolings "cls" and "lasttoken", for which one row of each text goes through the last layer."""
        long_enough = [i for i, ids in enumerate(tokens) if len(ids) > skipped]
        pooled = np.zeros((len(tokens), self.model.hidden_size), np.float32)
        if long_enough:
            ids, cu_seqlens = packed([tokens[i] for i in long_enough])
            rows = skipped if self._settings.pooling == ("cls",) else np.diff(cu_seqlens) - 1
            pooled[long_enough] = self.model.encode_packed(ids, cu_seqlens, pooled_rows=rows)
        return pooled

    def _finished(self, embeddings: np.ndarray, job: _Job) -> np.ndarray:
        for module in self._modules:
            embeddings = module(embeddings)
        embeddings = embeddings[:, : job.truncate_dim]
        return normalized(embeddings) if job.normalize else embeddings

    def __repr__(self) -> str:
        return (
            f"SentenceEncoder({type(self.model).__name__}, dim={self.get_sentence_embedding_dimension()}, "
            f"pooling={'+'.join(self._settings.pooling)}, max_seq_length={self.max_seq_length})"
        )


def _pool(mode: str, hidden: np.ndarray, cu_seqlens: np.ndarray, skipped: int) -> np.ndarray:
    """One row a sequence of its hidden states (T, h), without the first `skipped`; no tokens give zeros.

    A sequence at a time: its result must not depend on its neighbours.
    """
    pooled = np.zeros((len(cu_seqlens) - 1, hidden.shape[1]), np.float32)
    for b, (first, last) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
        rows = hidden[first + skipped : last]
        if not len(rows):
            continue
        if mode in ("mean", "mean_sqrt_len_tokens"):
            np.add.reduce(rows, axis=0, out=pooled[b])
            pooled[b] /= np.float32(len(rows) if mode == "mean" else np.sqrt(len(rows)))
        elif mode == "weightedmean":  # weights 1, 2, 3, ... of the places in the whole text
            weights = np.arange(skipped + 1, skipped + 1 + len(rows), dtype=np.float32)
            np.add.reduce(rows * weights[:, None], axis=0, out=pooled[b])
            pooled[b] /= np.add.reduce(weights)
        elif mode == "max":
            np.maximum.reduce(rows, axis=0, out=pooled[b])
        else:
            pooled[b] = rows[0 if mode == "cls" else -1]
    return pooled


def _made_ahead(items: Iterator[_T]) -> Generator[_T]:
    """The items; each is made by another thread while the one before it is used. Tokenizers work without the GIL."""

    def begin(pool: ThreadPoolExecutor) -> Future[list[_T]] | None:
        try:
            return pool.submit(list, islice(items, 1))
        except RuntimeError:  # the interpreter is ending: the rest runs on this thread
            return None

    with ThreadPoolExecutor(1, "tokenizing") as pool:
        coming = begin(pool)
        while coming is not None:
            try:
                found = coming.result()
            finally:
                coming = None  # an error, which it holds, holds this frame: all would stay until the next collection
            if not found:
                return
            coming = begin(pool)
            yield from found
        yield from items


def _several(sentences: Any) -> Iterable[Any]:
    """The texts, one by one; one string is one text."""
    if isinstance(sentences, str):
        return [sentences]
    if isinstance(sentences, (bytes, Mapping)) or not isinstance(sentences, Iterable):
        raise TypeError(f"sentences is a {type(sentences).__name__}; needed: a string, or several")
    return sentences


def _checked(sentences: Iterable[Any]) -> Iterator[str]:
    for i, text in enumerate(sentences):
        if not isinstance(text, str):
            raise TypeError(f"sentences[{i}] is a {type(text).__name__}; needed: a string")
        yield text


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; needed: an integer >= 1")


def _progress(total: int | None, show: bool | None) -> Any:
    """A tqdm bar on stderr: as asked, and by itself only in a terminal and when the work turns out to be long."""
    tqdm = optional_import("tqdm").tqdm
    if show is None:
        show = sys.stderr.isatty()
        return tqdm(total=total, unit="text", disable=not show, delay=_PROGRESS_DELAY, file=sys.stderr)
    return tqdm(total=total, unit="text", disable=not show, file=sys.stderr)

"""A vector for each token: `MultiVectorEncoder` (ColBERT, late interaction), whose texts are compared by MaxSim.

Users call it. `multi_vector_settings` reads the folder, `multi_vector_routes` makes its modules, `text_runs` batches
texts, and `util.maxsim` compares what is returned; results follow `MultiVectorEncoder` of sentence-transformers 6. An
option of `encode` goes into `_Job`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.multi_vector_inputs import QueryExpansion
from transformer_fast.pipelines.multi_vector_routes import TaskRoute, read_task_routes
from transformer_fast.pipelines.multi_vector_settings import read_folder
from transformer_fast.pipelines.sentence_routes import Routes
from transformer_fast.pipelines.sentence_settings import SentenceSettings, chosen_prompt
from transformer_fast.pipelines.sentence_texts import (
    DOCUMENT_PROMPTS,
    Text,
    checked_texts,
    renamed,
    several,
    take_prompts,
    with_prompt,
)
from transformer_fast.pipelines.text_runs import (
    check_device,
    check_positive,
    check_without_pool,
    check_without_torch,
    runs,
    show_progress,
)
from transformer_fast.pipelines.token_pooling import BaseTokenPooling
from transformer_fast.util import multi_vector_similarity, normalize_embeddings


@dataclass(frozen=True)
class _Job:
    """The arguments of `encode`, checked."""

    route: TaskRoute
    task: str | None
    batch_size: int
    prompt: str
    normalize: bool
    pooling: BaseTokenPooling | None


class MultiVectorEncoder:
    """Texts in, the vectors of their tokens out; made by `from_pretrained`.

    Inputs are those of `SentenceEncoder`. Queries and documents are encoded differently: `encode_query` and
    `encode_document` take the prompts, limits and query expansion that the folder names, and leave the tokens of its
    skiplist out.

    Attributes:
        prompts: name -> text that `encode(prompt_name=...)` puts before each text.
        default_prompt_name: the prompt that is used when none is named, or None.

    Example:
        >>> encoder = MultiVectorEncoder.from_pretrained("colbert-ir/colbertv2.0")                    # doctest: +SKIP
        >>> queries = encoder.encode_query(["Who wrote Emma?"])                                       # doctest: +SKIP
        >>> documents = encoder.encode_document(["Emma is by Jane Austen.", "Dublin is in Ireland."]) # doctest: +SKIP
        >>> encoder.similarity(queries, documents).argmax()                                           # doctest: +SKIP
        0
    """

    def __init__(self, routes: Routes, settings: SentenceSettings) -> None:
        self._routes = routes
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self._similarity = settings.similarity

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
        device: str | None = None,
        **hub: Any,
    ) -> MultiVectorEncoder:
        """The encoder in a folder of sentence-transformers, PyLate or Stanford's ColBERT, or on the Hugging Face hub.

        Also taken is an encoder of one vector of sentence-transformers that has a Dense: its pooling is left out.

        Args:
            compute_type, ignore_fields, packed_cache: as in `load_model`. hub: its revision, cache_dir and token.
            prompts, default_prompt_name, similarity_fn_name: instead of what the folder says; of a prompt that is None,
                the folder's counts.
            device: "cpu".

        Raises:
            CheckpointError: there is no such folder or model, or a file is malformed or asks for what is not supported.
            ValueError: another argument is out of range.
        """
        check_device(device)
        source = open_source(path_or_hub_id, local_files_only=local_files_only, **hub)
        folder = read_folder(source)
        take_prompts(folder.settings, prompts, default_prompt_name)
        if similarity_fn_name is not None:
            multi_vector_similarity(similarity_fn_name)
            folder.settings.similarity = similarity_fn_name
        return cls(read_task_routes(source, folder, compute_type, ignore_fields, packed_cache), folder.settings)

    # ------------------------------------------------------------------------------------------------------------------
    # What the model is

    @property
    def model(self) -> Any:
        """The token encoder (`models`); of a model with several routes the default one's."""
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
    def max_seq_length(self) -> int:
        """Tokens, special ones included, after which a text is cut off where its task has no limit; may be lowered."""
        return max(input.max_seq_length for input in self._routes.inputs())

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        for input in self._routes.inputs():
            input.max_seq_length = length

    @property
    def query_length(self) -> int | None:
        """The most tokens of a query without expansion; None: max_seq_length."""
        return self._routes.first().input.query_length

    @property
    def document_length(self) -> int | None:
        """The most tokens of a document; None: max_seq_length."""
        return self._routes.first().input.document_length

    @property
    def query_expansion(self) -> QueryExpansion | None:
        """How short queries get more tokens, with strategy, attend, token, token_id and length; None: they do not."""
        return self._routes.first().input.query_expansion

    @property
    def similarity_fn_name(self) -> str:
        """The measure of `similarity`: "maxsim" or "meanmaxsim"; may be set."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        multi_vector_similarity(name)
        self._similarity = name

    def get_embedding_dimension(self) -> int:
        """The length of the vectors that `encode` returns."""
        return self._routes.first().dimension

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
        output_value: str = "token_embeddings",
        convert_to_numpy: bool = True,
        device: str | None = None,
        normalize_embeddings: bool = False,
        pool: None = None,
        chunk_size: None = None,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        *,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """The vectors of a text's tokens, (L, dim), or a list of them, one (L_i, dim) for each of several texts.

        Args:
            prompt_name, prompt: what is put before each text: one of `prompts`, or a text of its own.
            batch_size, show_progress_bar: as in `SentenceEncoder.encode`; they change no bit.
            output_value: "token_embeddings".
            normalize_embeddings: scale each vector to length 1, for folders without a Normalize.
            token_pooling: fewer vectors a text, after those of the folder: `HierarchicalTokenPooling`, for instance.
            task: "query" or "document". `encode_query` and `encode_document` name it; None has no limit but
                max_seq_length, and leaves out what documents do.
            convert_to_numpy: either; arrays are returned. device, pool, chunk_size: None or "cpu"; None; None.
            convert_to_tensor: False.

        Raises:
            TypeError: an input is no string and no pair (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
        """
        check_without_torch(convert_to_tensor)
        check_without_pool(device, pool, chunk_size)
        if output_value != "token_embeddings":
            raise ValueError(f"output_value is {output_value!r}; needed: 'token_embeddings'")
        if token_pooling is not None and not isinstance(token_pooling, BaseTokenPooling):
            raise TypeError(f"token_pooling is a {type(token_pooling).__name__}; needed: a BaseTokenPooling")
        check_positive("batch_size", batch_size)
        start = chosen_prompt(self.prompts, self.default_prompt_name, prompt_name, prompt)
        job = _Job(self._routes.route(task), task, batch_size, start, normalize_embeddings, token_pooling)
        texts = list(checked_texts(several(inputs)))
        results: list[Any] = [None] * len(texts)
        with show_progress(len(texts), show_progress_bar) as progress:
            for indices, part in _runs(texts, job):
                for i, vectors in zip(indices, part, strict=True):
                    results[i] = vectors
                progress.update(len(indices))
        return results[0] if isinstance(inputs, str) else results

    @renamed(sentences="inputs")
    def encode_query(
        self, inputs: str | Iterable[Text], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """`encode` as the task "query", with the prompt "query" if no other is named."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, **{"task": "query", **options})

    @renamed(sentences="inputs")
    def encode_document(
        self, inputs: str | Iterable[Text], prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> np.ndarray | list[np.ndarray]:
        """`encode` as the task "document", with the prompt "document", "passage" or "corpus" if no other is named."""
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, **{"task": "document", **options})

    @renamed(sentences="inputs")
    def tokenize(self, inputs: str | Iterable[Text], *, task: str | None = None) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest, with the tokens of an expansion."""
        route = self._routes.route(task)
        return route.input.arguments(route.tokens(list(checked_texts(several(inputs))), task))

    # ------------------------------------------------------------------------------------------------------------------
    # Similarity

    def similarity(self, embeddings1: Any, embeddings2: Any, **options: Any) -> np.ndarray:
        """The model's own measure, `similarity_fn_name`, of all queries with all documents: (Na, Nb).

        Arguments, options and errors as `util.maxsim`.
        """
        return multi_vector_similarity(self._similarity)(embeddings1, embeddings2, **options)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any, **options: Any) -> np.ndarray:
        """The model's own measure of query i and document i: (N,). As `util.maxsim_pairwise`."""
        return multi_vector_similarity(self._similarity, pairwise=True)(embeddings1, embeddings2, **options)

    def __repr__(self) -> str:
        routes = "" if "" in self._routes.routes else f", routes={'+'.join(self._routes.routes)}"
        return (
            f"MultiVectorEncoder({type(self.model).__name__}, dim={self.get_embedding_dimension()}, "
            f"max_seq_length={self.max_seq_length}{routes})"
        )


def _runs(texts: list[Text], job: _Job) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Indices of texts that ran together, and the vectors of each, until all have run."""

    def tokens(batch: list[Text]) -> list[Any]:
        return job.route.tokens(with_prompt(job.prompt, batch), job.task)

    with closing(runs(texts, tokens, job.batch_size)) as together:
        for indices, found in together:
            vectors = job.route.vectors(found, job.task)
            if job.normalize:
                vectors = [normalize_embeddings(one) for one in vectors]
            if job.pooling is not None:
                vectors = job.pooling.pool(vectors, task=job.task)
            yield indices, [np.array(one, np.float32) for one in vectors]  # of its own: a view would keep all that ran

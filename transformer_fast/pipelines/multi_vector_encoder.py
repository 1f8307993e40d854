"""A vector for each token: `MultiVectorEncoder` (ColBERT, late interaction), whose texts are compared by MaxSim.

Users call it. `multi_vector_settings` reads the folder, `multi_vector_routes` makes its modules, `text_runs` batches
texts, and `util.maxsim` compares what is returned; `RoutedEncoder` has what it shares with other encoders of texts.
Results follow `MultiVectorEncoder` of sentence-transformers 6. An option of `encode` goes on to `_encode_chunk`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.multi_vector_inputs import QueryExpansion
from transformer_fast.pipelines.multi_vector_routes import read_task_routes
from transformer_fast.pipelines.multi_vector_settings import read_folder
from transformer_fast.pipelines.processes import ProcessPool, in_chunks
from transformer_fast.pipelines.routed_encoder import RoutedEncoder
from transformer_fast.pipelines.sentence_texts import (
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
    check_without_torch,
    runs,
)
from transformer_fast.pipelines.token_pooling import BaseTokenPooling
from transformer_fast.util import multi_vector_similarity, normalize_embeddings


class MultiVectorEncoder(RoutedEncoder):
    """Texts in, the vectors of their tokens out; made by `from_pretrained`.

    Inputs are those of `SentenceEncoder`. Queries and documents are encoded differently: `encode_query` and
    `encode_document` take the prompts, limits and query expansion that the folder names, and leave the tokens of its
    skiplist out.

    Attributes:
        model: the token encoder (`models`); of a model with several routes the default one's.
        prompts: name -> text that `encode(prompt_name=...)` puts before each text.
        default_prompt_name: the prompt that is used when none is named, or None.
        max_seq_length: tokens, special ones included, after which a text is cut off where its task has no limit; may be
            set.

    Example:
        >>> encoder = MultiVectorEncoder.from_pretrained("colbert-ir/colbertv2.0")                    # doctest: +SKIP
        >>> queries = encoder.encode_query(["Who wrote Emma?"])                                       # doctest: +SKIP
        >>> documents = encoder.encode_document(["Emma is by Jane Austen.", "Dublin is in Ireland."]) # doctest: +SKIP
        >>> encoder.similarity(queries, documents).argmax()                                           # doctest: +SKIP
        0
    """

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
        device: str | Sequence[str] | None = None,
        normalize_embeddings: bool = False,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        *,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """The vectors of a text's tokens, (L, dim), or a list of them, one (L_i, dim) for each of several texts.

        Args:
            prompt_name, prompt: what is put before each text: one of `prompts`, or a text of its own.
            batch_size, show_progress_bar, device, pool, chunk_size: as in `SentenceEncoder.encode`; they change no bit.
            output_value: "token_embeddings".
            normalize_embeddings: scale each vector to length 1, for folders without a Normalize.
            token_pooling: fewer vectors a text, after those of the folder: `HierarchicalTokenPooling`, for instance; in
                a pool one that pickles.
            task: "query" or "document". `encode_query` and `encode_document` name it; None has no limit but
                max_seq_length, and leaves out what documents do.
            convert_to_numpy: either; arrays are returned. convert_to_tensor: False.

        Raises:
            TypeError: an input is no string and no pair (its index is named), or token_pooling does not fit.
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
            RuntimeError: a process of the pool has died.
        """
        check_without_torch(convert_to_tensor)
        if output_value != "token_embeddings":
            raise ValueError(f"output_value is {output_value!r}; needed: 'token_embeddings'")
        if token_pooling is not None and not isinstance(token_pooling, BaseTokenPooling):
            raise TypeError(f"token_pooling is a {type(token_pooling).__name__}; needed: a BaseTokenPooling")
        check_positive("batch_size", batch_size)
        self._routes.route(task)
        texts = list(checked_texts(several(inputs)))
        start = self._prompt(prompt_name, prompt)
        arguments = task, batch_size, start, normalize_embeddings, token_pooling
        how = batch_size, show_progress_bar, device, pool, chunk_size
        results: list[Any] = [None] * len(texts)
        with closing(in_chunks(self, "_encode_chunk", texts, arguments, *how)) as parts:
            for chunk, part in parts:
                results[chunk] = part
        return results[0] if isinstance(inputs, str) else results

    def _encode_chunk(
        self,
        texts: list[Text],
        task: str | None,
        batch_size: int,
        prompt: str,
        normalize: bool,
        pooling: BaseTokenPooling | None,
        progress: Any = None,
    ) -> list[np.ndarray]:
        """The vectors of each text."""
        results: list[Any] = [None] * len(texts)
        with closing(runs(texts, lambda batch: self._tokens(batch, prompt, task), batch_size)) as together:
            for indices, found in together:
                vectors = self._routes.route(task).vectors(found, task)
                if normalize:
                    vectors = [normalize_embeddings(one) for one in vectors]
                if pooling is not None:
                    vectors = pooling.pool(vectors, task=task)
                for i, one in zip(indices, vectors, strict=True):
                    results[i] = np.array(one, np.float32)  # of its own: a view would keep all that ran
                if progress is not None:
                    progress.update(len(indices))
        return results

    def _tokens(self, texts: list[Text], prompt: str, task: str | None) -> list[Any]:
        return self._routes.route(task).tokens(with_prompt(prompt, texts), task)

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

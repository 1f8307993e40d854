"""Sparse embeddings: `SparseEncoder` takes texts, and gives a weight for each of a vocabulary's words, most of them 0.

Users call it. It is sentence-transformers' class of that name (SPLADE, inference-free queries, CSR); results are
scipy.sparse arrays. `sentence_settings` reads the folder, `sparse_routes` makes its modules, `text_runs` batches texts,
and `util` compares and searches sparse vectors as it does dense ones. An option of `encode` goes into `_Job`.

Source: sentence-transformers 6, sparse_encoder/model.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import typed
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.processes import ProcessPool, in_chunks
from transformer_fast.pipelines.routed_encoder import RoutedEncoder
from transformer_fast.pipelines.sentence_routes import Route, Routes, read_routes
from transformer_fast.pipelines.sentence_settings import CONFIG, SentenceSettings, read_settings
from transformer_fast.pipelines.sentence_texts import (
    Text,
    checked_texts,
    hub_name,
    renamed,
    several,
    take_prompts,
)
from transformer_fast.pipelines.sparse_modules import sparse_rows
from transformer_fast.pipelines.sparse_routes import SparseRouteMaker
from transformer_fast.pipelines.text_runs import check_device, check_positive, runs
from transformer_fast.util import SIMILARITIES
from transformer_fast.util import sparse as util_sparse
from transformer_fast.util.similarity import checked_name

# Whose models are meant where the hub's name has no "/".
_HUB_ORGANISATION = "sparse-encoder"
# similarity_fn_name -> measure; the first is that of files without the field.
_SIMILARITIES = {"dot": "dot", **{name: name for name in SIMILARITIES}}


@dataclass(frozen=True)
class _Job:
    """The arguments of `encode`, checked."""

    route: Route
    batch_size: int
    prompt: str
    skipped: int  # tokens of the prompt that are not pooled
    most: int | None  # numbers of a vector that are kept


class SparseEncoder(RoutedEncoder):
    """Texts in, sparse vectors out; made by `from_pretrained`. Inputs are those of `SentenceEncoder`.

    Attributes:
        model: the masked-language model, or the first module of the default route.
        prompts: name -> text that `encode(prompt_name=...)` puts before each text.
        default_prompt_name: the prompt that is used when none is named, or None.
        max_active_dims: as in `encode`, where that says nothing; or None.

    Example:
        >>> encoder = SparseEncoder.from_pretrained("naver/splade-cocondenser-ensembledistil")        # doctest: +SKIP
        >>> embeddings = encoder.encode(["A man eats bread.", "Someone is having a meal."])           # doctest: +SKIP
        >>> embeddings.shape, type(embeddings).__name__                                               # doctest: +SKIP
        ((2, 30522), 'csr_array')
        >>> encoder.decode(embeddings[[0]], top_k=2)                                                  # doctest: +SKIP
        [[('bread', 2.61), ('eat', 2.05)]]
    """

    def __init__(self, routes: Routes, settings: SentenceSettings, max_active_dims: int | None = None) -> None:
        super().__init__(routes, settings)
        self.max_active_dims = max_active_dims
        if max_active_dims is None and len(routes.routes) == 1:
            self.max_active_dims = routes.first().kept

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
        max_active_dims: int | None = None,
        device: str | None = None,
        **hub: Any,
    ) -> SparseEncoder:
        """The encoder in a folder, or on the Hugging Face hub ("org/name"; "name" is of the organisation
        sparse-encoder).

        Read are the files that `SentenceEncoder.from_pretrained` names. Without modules.json it is a masked-language
        model, whose logits' maximum over the tokens is taken.

        Args:
            compute_type, ignore_fields, packed_cache: as in `load_model`. hub: its revision, cache_dir and token.
            prompts, default_prompt_name, similarity_fn_name, max_active_dims: instead of what the folder says; of a
                prompt that is None, the folder's counts.
            device: "cpu".

        Raises:
            CheckpointError: there is no such folder or model, or a file is malformed or asks for what is not supported.
            ValueError: another argument is out of range.
            ImportError: scipy is not installed.
        """
        check_device(device)
        optional_import("scipy.sparse", "sparse", "for sparse embeddings")
        source = open_source(hub_name(path_or_hub_id, _HUB_ORGANISATION), local_files_only=local_files_only, **hub)
        settings = read_settings(source, "SparseEncoder", ("max_active_dims",), _SIMILARITIES)
        place = source.place(CONFIG)
        if settings.truncate_dim is not None:
            raise CheckpointError(f"{place}: truncate_dim is {settings.truncate_dim}; supported for sparse: null")
        take_prompts(settings, prompts, default_prompt_name)
        if similarity_fn_name is not None:
            settings.similarity = checked_name(similarity_fn_name)
        if max_active_dims is not None:
            check_positive("max_active_dims", max_active_dims)
        else:
            max_active_dims = typed(place, settings.further, "max_active_dims", int, None)
            if max_active_dims is not None and max_active_dims < 1:
                raise CheckpointError(f"{place}: max_active_dims is {max_active_dims}; needed: an integer >= 1")
        options = compute_type, ignore_fields, packed_cache
        return cls(read_routes(source, settings, *options, maker=SparseRouteMaker), settings, max_active_dims)

    @renamed(sentences="inputs")
    def encode(
        self,
        inputs: str | Iterable[Text],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | Sequence[str] | None = None,
        max_active_dims: int | None = None,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
    ) -> Any:
        """The sparse embeddings of several texts, a scipy.sparse.csr_array (N, dim) float32, in their order.

        Of one text it is an array (dim,): a scipy.sparse.coo_array.

        Args:
            prompt_name, prompt: what is put before each text: one of `prompts`, or a text of its own.
            batch_size, show_progress_bar, device, pool, chunk_size: as in `SentenceEncoder.encode`; they change no bit
                of the result.
            convert_to_tensor: one array for all texts; False gives a list of one (dim,) each. The name is
                sentence-transformers', nothing is torch's.
            convert_to_sparse_tensor: False gives NumPy arrays.
            save_to_cpu: no effect, results are there.
            max_active_dims: the most numbers of a vector that are not 0: the largest stay, of equal ones those of lower
                index. None: the attribute.
            task: the route of a model that has several, "query" or "document" for instance.

        Raises:
            TypeError: an input is no string and no pair (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
            RuntimeError: a process of the pool has died.
        """
        job = self._job(prompt_name, prompt, batch_size, max_active_dims, task)
        texts = list(checked_texts(several(inputs)))
        # All that decides results; names of prompts are this process' business.
        arguments = None, job.prompt, batch_size, job.most, task
        how = batch_size, show_progress_bar, device, pool, chunk_size
        with closing(in_chunks(self, "_encode_chunk", texts, arguments, *how)) as chunks:
            parts = {chunk.start: part for chunk, part in chunks}
        found = _stacked([parts[start] for start in sorted(parts)], job.route.dimension)
        if isinstance(inputs, str):
            return found[0] if convert_to_sparse_tensor else found.toarray()[0]
        if not convert_to_sparse_tensor:
            found = found.toarray()
        return found if convert_to_tensor else [found[i] for i in range(len(texts))]

    # ------------------------------------------------------------------------------------------------------------------
    # What vectors say

    def decode(self, embeddings: Any, top_k: int | None = None) -> list[Any]:
        """The tokens of sparse vectors, (dim,) or (N, dim), with their weights: a list of (token, weight), the largest
        first, or a list of such lists. Zeros are left out.

        top_k: only so many of each vector. Of equal weights the token of lower index comes first.

        Raises:
            TypeError: it is no array of scipy.sparse or NumPy.
            ValueError: shapes do not fit, or top_k is out of range.
        """
        if top_k is not None:
            check_positive("top_k", top_k)
        rows = _csr("embeddings", embeddings)
        widths = sorted({route.dimension for route in self._routes.routes.values()})
        if rows.shape[1] not in widths:
            known = " or ".join(map(str, widths))
            raise ValueError(f"embeddings has shape {embeddings.shape}; needed: (dim,) or (N, dim) with dim={known}")
        tokenizer = self.tokenizer
        words = []
        for first, last in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
            weights, tokens = rows.data[first:last], rows.indices[first:last]
            order = np.argsort(-weights, kind="stable")[:top_k]
            words.append([(tokenizer.id_to_token(int(tokens[i])), float(weights[i])) for i in order if weights[i] != 0])
        return words[0] if embeddings.ndim == 1 else words

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """{"active_dims": the mean number of values that are not 0, "sparsity_ratio": the share of the others}.

        Raises:
            TypeError: it is no array of scipy.sparse or NumPy.
            ValueError: it has neither one axis nor two.

        Example:
            >>> SparseEncoder.sparsity(np.array([[0, 1, 0, 2], [0, 0, 0, 2]], np.float32))
            {'active_dims': 1.5, 'sparsity_ratio': 0.625}
        """
        rows = _csr("embeddings", embeddings)
        count, width = rows.shape
        if not count or not width:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        active = int(np.count_nonzero(rows.data)) / count
        return {"active_dims": active, "sparsity_ratio": 1.0 - active / width}

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> Any:
        """The products of one vector (dim,) with each of (dim,) or (N, dim), where they are positive.

        It has the shape of embeddings_2; `decode` says which words a text and others share.

        Raises:
            TypeError: one is no array of scipy.sparse or NumPy.
            ValueError: shapes do not fit.

        Example:
            >>> one = np.array([0, 2, 1, 0], np.float32)
            >>> SparseEncoder.intersection(one, np.array([[3, 1, 0, 0], [0, 1, 4, 0]], np.float32)).toarray()
            array([[0., 2., 0., 0.],
                   [0., 2., 4., 0.]], dtype=float32)
        """
        one, others = _csr("embeddings_1", embeddings_1), _csr("embeddings_2", embeddings_2)
        if embeddings_1.ndim != 1 or one.shape[1] != others.shape[1]:
            raise ValueError(
                f"embeddings have shapes {embeddings_1.shape} and {embeddings_2.shape}; needed: (dim,), and (dim,) or "
                "(N, dim)"
            )
        shared = others.multiply(one).tocsr()
        shared.data[~(shared.data > 0)] = 0
        shared.eliminate_zeros()
        return shared[0] if embeddings_2.ndim == 1 else shared

    # ------------------------------------------------------------------------------------------------------------------

    def _job(self, prompt_name, prompt, batch_size, max_active_dims, task) -> _Job:
        check_positive("batch_size", batch_size)
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        if most is not None:
            check_positive("max_active_dims", most)
        route, prompt = self._routes.route(task), self._prompt(prompt_name, prompt)
        return _Job(route, batch_size, prompt, route.prompt_length(prompt), most)

    def _encode_chunk(self, texts: list[Text], *arguments: Any, progress: Any = None) -> Any:
        """A csr_array (N, dim); arguments: of `_job`."""
        job = self._job(*arguments)

        def tokens(batch: list[Text]) -> list[Any]:
            return job.route.tokens(batch, job.prompt)

        order: list[int] = []
        parts = []
        with closing(runs(texts, tokens, job.batch_size)) as together:
            for indices, held in together:
                found = job.route.vectors(held, job.skipped, job.most)
                found = sparse_rows(found) if isinstance(found, np.ndarray) else found
                parts.append(found if job.most is None else _largest(found, job.most))
                order += indices
                if progress is not None:
                    progress.update(len(indices))
        found = _stacked(parts, job.route.dimension)
        return found[np.argsort(order)] if parts else found

    def __repr__(self) -> str:
        first = self._routes.first()
        routes = "" if "" in self._routes.routes else f", routes={'+'.join(self._routes.routes)}"
        return (
            f"SparseEncoder({type(self.model).__name__}, dim={self.get_embedding_dimension()}, "
            f"pooling={'+'.join(first.pooling.modes)}, max_seq_length={self.max_seq_length}{routes})"
        )


def _stacked(parts: Sequence[Any], width: int) -> Any:
    """The rows of csr_arrays (N_i, width) one after the other; of none an empty one."""
    library = optional_import("scipy.sparse", "sparse")
    if len(parts) == 1:
        return parts[0]
    return library.vstack(parts, format="csr") if parts else library.csr_array((0, width), dtype=np.float32)


def _largest(rows: Any, k: int) -> Any:
    """The k numbers of each row of a csr_array that are farthest from 0; of equal ones those of lower index."""
    kept = []
    for first, last in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        order = np.argsort(-np.abs(rows.data[first:last]), kind="stable")[:k]
        kept.append(first + np.sort(order))
    indptr = np.cumsum([0, *map(len, kept)])
    chosen = np.concatenate(kept)
    library = optional_import("scipy.sparse", "sparse")
    return library.csr_array((rows.data[chosen], rows.indices[chosen], indptr), rows.shape)


def _csr(name: str, embeddings: Any) -> Any:
    """Vectors (dim,) or (N, dim) as a csr_array (N, dim) with ascending indices, perhaps the caller's own."""
    library = optional_import("scipy.sparse", "sparse")
    if not isinstance(embeddings, np.ndarray) and not library.issparse(embeddings):
        raise TypeError(f"{name} is a {type(embeddings).__name__}; needed: an array of scipy.sparse or NumPy")
    return util_sparse.rows(name, embeddings)

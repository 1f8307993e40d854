"""bge-m3's three representations of a text at once: `BGEM3Encoder` gives a vector, weights of words, and token vectors.

Users call it. The encoder is an XLM-R; two small layers beside it make weights and token vectors of its rows. A further
representation is a layer in `from_pretrained` and a line in `_represent`.

Source: Chen et al. 2024, arXiv:2402.03216; names and defaults of results: FlagEmbedding's BGEM3FlagModel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.safetensors import read_safetensors
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.compute_types import ComputeType, weight_format_of
from transformer_fast.pipelines.processes import InProcesses, ProcessPool, in_chunks
from transformer_fast.pipelines.sentence_inputs import TextTokens, TransformerInput
from transformer_fast.pipelines.sentence_modules import FromFiles, linear_layer
from transformer_fast.pipelines.sentence_settings import transformer_source
from transformer_fast.pipelines.sentence_texts import checked_texts, several
from transformer_fast.pipelines.text_runs import check_device, check_positive, runs
from transformer_fast.util import mean_maxsim, mean_maxsim_pairwise, normalize_embeddings

Weights = dict[str, float]  # number of a token, as a string -> its weight

_UNWEIGHTED = ("cls_token", "eos_token", "pad_token", "unk_token")
_MODES = ("dense", "sparse", "colbert")  # the order of weights_for_different_modes


class BGEM3Encoder(InProcesses):
    """BAAI/bge-m3 and models like it; made by `from_pretrained`. It pickles as `SentenceEncoder` does.

    Attributes:
        model: the token encoder (`models`).
        normalize_embeddings: are vectors scaled to length 1?

    Example:
        >>> encoder = BGEM3Encoder.from_pretrained("bge-m3")                                          # doctest: +SKIP
        >>> found = encoder.encode(["What is BGE M3?"], return_sparse=True, return_colbert_vecs=True) # doctest: +SKIP
        >>> found["dense_vecs"].shape, found["colbert_vecs"][0].shape                                 # doctest: +SKIP
        ((1, 1024), (8, 1024))
        >>> encoder.convert_id_to_token(found["lexical_weights"][0])                                  # doctest: +SKIP
        {'What': 0.084, 'is': 0.081, 'B': 0.13, 'GE': 0.252, 'M': 0.17, '3': 0.27, '?': 0.041}
    """

    def __init__(
        self, input: TransformerInput, sparse: _TokenLayer, colbert: _TokenLayer, normalize: bool = True
    ) -> None:
        self._input, self._sparse, self._colbert = input, sparse, colbert
        self.model, self.normalize_embeddings = input.model, normalize
        specials = (input.unlimited.special(name) for name in _UNWEIGHTED)
        self._unweighted = frozenset(found[1] for found in specials if found is not None)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        local_files_only: bool = False,
        *,
        normalize_embeddings: bool = True,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        device: str | None = None,
        **hub: Any,
    ) -> BGEM3Encoder:
        """The encoder in a folder, whose weights are safetensors.

        Beside the model's files there are sparse_linear.safetensors, of a layer (1, h), and colbert_linear.safetensors,
        (dim, h), each with the tensors weight and bias. The model's own repository has pickles (.pt, .bin), which are
        not read: docs/howto/sentence_transformers.md has the lines that convert them.

        compute_type, ignore_fields, packed_cache: as in `load_model`. device: "cpu". hub: its revision, cache_dir and
        token.

        Raises:
            CheckpointError: a file is missing, malformed or asks for what is not supported.
        """
        check_device(device)
        source = open_source(path_or_hub_id, local_files_only=local_files_only, **hub)
        input = TransformerInput.read(transformer_source(source), compute_type, ignore_fields, packed_cache)
        weight_format = weight_format_of(compute_type)
        sparse = _TokenLayer(source, "sparse_linear", input.hidden_size, weight_format)
        colbert = _TokenLayer(source, "colbert_linear", input.hidden_size, weight_format)
        if sparse.dimension != 1:
            place = source.place("sparse_linear.safetensors")
            raise CheckpointError(f"{place}: weight has {sparse.dimension} rows; needed: 1, the weight of a token")
        return cls(input, sparse, colbert, normalize_embeddings)

    @property
    def max_seq_length(self) -> int:
        """Tokens, special ones included, after which a text is cut off; may be lowered."""
        return self._input.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self._input.max_seq_length = length

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, which cuts off at max_seq_length."""
        return self._input.tokenizer

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int = 32,
        max_length: int | None = None,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        *,
        show_progress_bar: bool | None = None,
        device: str | Sequence[str] | None = None,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
    ) -> dict[str, Any]:
        """The representations of N texts, or of one, by name; one that is not asked for is None.

        - dense_vecs (N, h): the row of the first token.
        - lexical_weights, a dict a text: number of a token, as a string -> its largest weight, if that is above 0;
          special tokens have none.
        - colbert_vecs, (L_i - 1, dim) a text: a vector for each token but the first.

        max_length: tokens after which a text is cut off, by default max_seq_length. batch_size, show_progress_bar,
        device, pool, chunk_size: as in `SentenceEncoder.encode`.

        Raises:
            TypeError, ValueError: an input is no string, or another argument is out of range.
            RuntimeError: a process of the pool has died.
        """
        if not (return_dense or return_sparse or return_colbert_vecs):
            raise ValueError("return_dense, return_sparse and return_colbert_vecs are all False; needed: one of them")
        check_positive("batch_size", batch_size)
        limit = self._limit("max_length", max_length)
        texts: list[Any] = list(checked_texts(several(sentences)))
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"sentences[{i}] is a {type(text).__name__}; needed: a string")
        wanted = {"dense_vecs": return_dense, "lexical_weights": return_sparse, "colbert_vecs": return_colbert_vecs}
        found: dict[str, Any] = {name: [None] * len(texts) if asked else None for name, asked in wanted.items()}
        how = batch_size, show_progress_bar, device, pool, chunk_size
        with closing(in_chunks(self, "_encode_chunk", texts, (wanted, limit, batch_size), *how)) as chunks:
            for chunk, parts in chunks:
                for name, part in parts.items():
                    found[name][chunk] = part
        if isinstance(sentences, str):
            return {name: None if parts is None else parts[0] for name, parts in found.items()}
        if return_dense:
            empty = np.empty((0, self._input.hidden_size), np.float32)
            found["dense_vecs"] = np.stack(found["dense_vecs"]) if texts else empty
        return found

    def compute_lexical_matching_score(
        self, lexical_weights_1: Weights | Sequence[Weights], lexical_weights_2: Weights | Sequence[Weights]
    ) -> float | np.ndarray:
        """The sum of products of the weights of tokens that both texts have; of two lists of texts all pairs, (Na, Nb).

        Raises:
            TypeError: one is a text and the other a list.
        """
        if isinstance(lexical_weights_1, Mapping) and isinstance(lexical_weights_2, Mapping):
            return _matching(lexical_weights_1, lexical_weights_2)
        if isinstance(lexical_weights_1, Mapping) or isinstance(lexical_weights_2, Mapping):
            raise TypeError("one of the lexical weights is a dict and the other is not; needed: both, or two lists")
        scores = [[_matching(one, other) for other in lexical_weights_2] for one in lexical_weights_1]
        return np.array(scores, np.float64).reshape(len(lexical_weights_1), len(lexical_weights_2))

    def colbert_score(self, q_reps: np.ndarray, p_reps: np.ndarray) -> float:
        """The mean, over a query's vectors, of the largest dot product with a passage's: (Lq, dim), (Lp, dim) -> float.

        Raises:
            ValueError: shapes do not fit.
        """
        return float(mean_maxsim([q_reps], [p_reps])[0, 0])

    def compute_score(
        self,
        sentence_pairs: tuple[str, str] | Sequence[tuple[str, str]],
        batch_size: int = 32,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
        *,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
    ) -> dict[str, Any]:
        """The scores of pairs of query and passage, name -> list, or of one pair, name -> number.

        The names are colbert, sparse, dense, and the weighted means sparse+dense and colbert+sparse+dense;
        weights_for_different_modes: those of dense, sparse and colbert, by default 1 each. pool, chunk_size: of
        `encode`. Unlike in FlagEmbedding, the padding of a batch is no token that a query may match.

        Raises:
            TypeError, ValueError: they are no pairs of strings, or another argument is out of range.
        """
        weights = np.asarray([1, 1, 1] if weights_for_different_modes is None else weights_for_different_modes, float)
        if weights.shape != (3,) or not np.isfinite(weights).all() or not weights[:2].sum() or not weights.sum():
            raise ValueError(
                f"weights_for_different_modes is {weights_for_different_modes!r}; needed: three numbers, of "
                f"{', '.join(_MODES)}, whose sums are not 0"
            )
        if isinstance(sentence_pairs, str) or not isinstance(sentence_pairs, (Sequence, np.ndarray)):
            raise TypeError(f"sentence_pairs is a {type(sentence_pairs).__name__}; needed: pairs, or one pair")
        single = len(sentence_pairs) == 2 and all(isinstance(text, str) for text in sentence_pairs)
        pairs: list[Any] = [tuple(sentence_pairs)] if single else [tuple(pair) for pair in sentence_pairs]
        for i, pair in enumerate(pairs):
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise TypeError(f"sentence_pairs[{i}] is {pair!r}; needed: two strings")
        limits, running = (max_query_length, max_passage_length), {"pool": pool, "chunk_size": chunk_size}
        queries, passages = (
            self.encode([pair[side] for pair in pairs], batch_size, limits[side], True, True, True, **running)
            for side in (0, 1)
        )
        lexical = zip(queries["lexical_weights"], passages["lexical_weights"], strict=True)
        dense = np.add.reduce(queries["dense_vecs"] * passages["dense_vecs"], axis=1).astype(float)
        sparse = np.array([_matching(one, other) for one, other in lexical], float)
        colbert = mean_maxsim_pairwise(queries["colbert_vecs"], passages["colbert_vecs"]).astype(float)
        scores = {
            "colbert": colbert,
            "sparse": sparse,
            "dense": dense,
            "sparse+dense": (weights[0] * dense + weights[1] * sparse) / weights[:2].sum(),
            "colbert+sparse+dense": (weights @ np.stack([dense, sparse, colbert])) / weights.sum(),
        }
        return {name: float(values[0]) if single else values.tolist() for name, values in scores.items()}

    def convert_id_to_token(self, lexical_weights: Weights | Sequence[Weights]) -> Any:
        """The lexical weights of a text, or of several, by the texts of their tokens."""
        if isinstance(lexical_weights, Mapping):
            decode = self._input.unlimited.decode
            return {decode([int(number)]): weight for number, weight in lexical_weights.items()}
        return [self.convert_id_to_token(one) for one in lexical_weights]

    def _limit(self, name: str, length: int | None) -> int:
        if length is None:
            return self.max_seq_length
        check_positive(name, length)
        return min(int(length), self.max_seq_length)

    def _encode_chunk(
        self, texts: list[str], wanted: Mapping[str, bool], limit: int, batch_size: int, progress: Any = None
    ) -> dict[str, list[Any]]:
        """What is wanted of each text, by name."""
        found: dict[str, list[Any]] = {name: [None] * len(texts) for name, asked in wanted.items() if asked}
        batches = runs(texts, lambda batch: self._input.tokens(batch, limit=limit), batch_size)
        with closing(batches):
            for indices, tokens in batches:
                for name, parts in self._represent(tokens, wanted).items():
                    for i, part in zip(indices, parts, strict=True):
                        found[name][i] = part
                if progress is not None:
                    progress.update(len(indices))
        return found

    def _represent(self, tokens: Sequence[TextTokens], wanted: Mapping[str, bool]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        rows = self._input.rows(tokens)  # all of them, whatever is wanted: first rows alone would round otherwise
        starts = np.cumsum([0, *map(len, tokens)])
        if wanted["dense_vecs"]:
            found["dense_vecs"] = list(self._vectors(rows[starts[:-1]]))
        if wanted["lexical_weights"]:
            weights = np.split(self._sparse(rows)[:, 0], starts[1:-1])
            found["lexical_weights"] = [self._lexical(one.ids, own) for one, own in zip(tokens, weights, strict=True)]
        if wanted["colbert_vecs"]:
            vectors = np.split(self._vectors(self._colbert(rows)), starts[1:-1])
            found["colbert_vecs"] = [own[1:].copy() for own in vectors]
        return found

    def _vectors(self, rows: np.ndarray) -> np.ndarray:
        return normalize_embeddings(rows) if self.normalize_embeddings else rows.copy()

    def _lexical(self, ids: Sequence[int], weights: np.ndarray) -> Weights:
        """Token -> the largest of its weights, of those above 0."""
        found: Weights = {}
        for at in np.flatnonzero(weights > 0):
            if ids[at] not in self._unweighted:
                token, weight = str(ids[at]), float(weights[at])
                found[token] = max(weight, found.get(token, 0.0))
        return found

    def __repr__(self) -> str:
        return (
            f"BGEM3Encoder({type(self.model).__name__}, dim={self._input.hidden_size}, "
            f"colbert_dim={self._colbert.dimension}, max_seq_length={self.max_seq_length})"
        )


def _matching(one: Weights, other: Weights) -> float:
    return float(sum(weight * other[token] for token, weight in one.items() if token in other))


class _TokenLayer(FromFiles):
    """A layer beside the encoder, (T, width) -> (T, dimension), from name.safetensors.

    Raises:
        CheckpointError: there is no such file, or it does not fit.
    """

    def __init__(self, source: ModelSource, name: str, width: int, weight_format: str) -> None:
        super().__init__(source, name, width, weight_format)
        place = source.place(f"{name}.safetensors")
        if not place.is_file():
            pickled = source.place(f"{name}.pt").is_file()
            hint = f", converted from {name}.pt: pickles are not read (docs/howto/sentence_transformers.md)"
            raise CheckpointError(
                f"{place}: there is no such file; needed: the tensors weight and bias of that layer{hint * pickled}"
            )
        tensors = read_safetensors(place)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        weight = shapes.get("weight", ())
        if len(weight) != 2 or weight[1] != width or shapes != {"weight": weight, "bias": weight[:1]}:
            raise CheckpointError(f"{place}: holds {shapes}; needed: weight (n, {width}) and bias (n,)")
        self.dimension = weight[0]
        named = {f"linear.{key}": tensor.floating() for key, tensor in tensors.items()}
        self._linear = linear_layer(named, "linear", weight_format)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self._linear(rows)

"""What encoders of whole texts share: routes and their limits, prompts, tokens, similarity.

`SentenceEncoder`, `SparseEncoder` and `MultiVectorEncoder` derive from `RoutedEncoder` and add `from_pretrained` and
`encode`. What all do with a model goes here; what is done with texts and arguments before a model is known, into
`sentence_texts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from transformer_fast import util
from transformer_fast.pipelines.processes import InProcesses
from transformer_fast.pipelines.sentence_routes import Routes
from transformer_fast.pipelines.sentence_settings import SentenceSettings, chosen_prompt
from transformer_fast.pipelines.sentence_texts import (
    DOCUMENT_PROMPTS,
    Text,
    checked_texts,
    renamed,
    several,
)
from transformer_fast.util.similarity import checked_name


class RoutedEncoder(InProcesses):
    """A folder's routes and settings, and what does not depend on the kind of vectors that come out.

    It pickles as the path and options that it was made from, and what has been set since; other processes read the
    files again.

    Attributes:
        model: the token encoder (`models`), or a StaticEmbedding; of a model with several routes the default one's.
        prompts: name -> text that `encode(prompt_name=...)` puts before each text.
        default_prompt_name: the prompt that is used when none is named, or None.
    """

    def __init__(self, routes: Routes, settings: SentenceSettings) -> None:
        self._routes = routes
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self._similarity = settings.similarity

    def encode(self, inputs: str | Iterable[Text], *arguments: Any, **options: Any) -> Any:
        """The embeddings of one text, or of several."""
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

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
        """Tokens, special ones included, after which a text is cut off; may be set. A StaticEmbedding has no limit.

        Of several routes it is the greatest; setting it sets all that have one, or all that may have one.
        """
        return max(input.max_seq_length for input in self._routes.inputs())

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        inputs = [input for input in self._routes.inputs() if input.takes_limit]
        limited = [input for input in inputs if input.max_seq_length < float("inf")] or inputs
        if not limited:
            raise ValueError(f"max_seq_length is {length}; needed: none, a StaticEmbedding cuts nothing off")
        for input in limited:
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
        return self._routes.first().dimension

    def get_sentence_embedding_dimension(self) -> int:
        """As `get_embedding_dimension`: its name before sentence-transformers 5."""
        return self.get_embedding_dimension()

    # ------------------------------------------------------------------------------------------------------------------
    # Embeddings of queries and documents

    @renamed(sentences="inputs")
    def encode_query(
        self,
        inputs: str | Iterable[Text],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """`encode` with the prompt "query", if no other is named, and on the route "query"."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(inputs, prompt_name, prompt, *arguments, **{"task": "query", **options})

    @renamed(sentences="inputs")
    def encode_document(
        self,
        inputs: str | Iterable[Text],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """`encode` with the prompt "document", "passage" or "corpus", the first that there is, if no other is named.

        It takes the route "document". Every model has a prompt "document", which is empty unless its files say more.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, *arguments, **{"task": "document", **options})

    # ------------------------------------------------------------------------------------------------------------------
    # Tokens

    @renamed(sentences="inputs")
    def tokenize(self, inputs: str | Iterable[Text], *, task: str | None = None) -> dict[str, np.ndarray]:
        """The model's arguments by name, each (B, L) int64, padded to the longest.

        They are input_ids, token_type_ids (if the model knows token types) and attention_mask; of a StaticEmbedding
        input_ids (T,) and offsets (B,).
        """
        return self._routes.route(task).input.arguments(self._tokens(list(checked_texts(several(inputs))), "", task))

    @renamed(sentences="inputs")
    def count_tokens(self, inputs: str | Iterable[Text], *, task: str | None = None) -> int:
        """The number of tokens that `encode` runs for these texts, without a prompt."""
        return sum(map(len, self._tokens(list(checked_texts(several(inputs))), "", task)))

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
        start, texts = self._prompt(prompt_name, prompt), list(checked_texts(several(inputs)))
        kept = np.array([len(one) for one in self._tokens(texts, start, task)], np.int64)
        lengths = np.array(self._routes.route(task).input.lengths(texts, start), np.int64)
        return np.maximum(lengths - kept, 0)  # a query may get tokens beyond its own

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

    def _tokens(self, texts: list[Text], prompt: str, task: str | None) -> list[Any]:
        """The tokens of checked texts with a prompt."""
        return self._routes.route(task).tokens(texts, prompt)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        return chosen_prompt(self.prompts, self.default_prompt_name, name, prompt)

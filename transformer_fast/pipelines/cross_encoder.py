"""`CrossEncoder`: scores for pairs of texts that a model reads together, such as a question and an answer.

Users call it. It is sentence-transformers' class of that name: `predict` and `rank`. Folders are a model with a head
for sequence classification, or a language model whose next token, "yes" or "no", is the score; with or without
modules.json. `pair_models` reads them and computes logits, `sentence_settings` and `sentence_inputs` read
sentence-transformers' files, `activations` has what is done with logits, `text_runs` batches pairs.

Source: sentence-transformers 6, cross_encoder/model.py.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.pipelines.activations import ACTIVATIONS, Activation, activation_of, as_activation
from transformer_fast.pipelines.pair_models import PairModel, read_pair_model
from transformer_fast.pipelines.processes import InProcesses, ProcessPool, in_chunks
from transformer_fast.pipelines.sentence_settings import CONFIG, SentenceSettings, chosen_prompt, read_settings
from transformer_fast.pipelines.text_runs import (
    check_device,
    check_positive,
    check_without_torch,
    column,
    runs,
)

# Fields of config_sentence_transformers.json that only this kind of model has; the second says how torch computes.
_FIELDS = ("activation_fn", "keep_in_fp32_modules")
Pair = Sequence[str]


@dataclass(frozen=True)
class PairJob:
    """The arguments of `predict`, checked: pairs -> `tokens` -> `rows` of those that run together -> `finished`."""

    pairs: PairModel
    prompt: str
    activation: Activation
    apply_softmax: bool

    @property
    def together(self) -> Hashable:
        """Pairs of jobs of which this is equal may run together."""
        return id(self.pairs)

    @property
    def width(self) -> int:
        """The number of logits of a pair."""
        return self.pairs.num_labels

    def tokens(self, pairs: Sequence[tuple[str, str]], truncate: bool = True) -> list[Any]:
        """As `PairModel.tokens`, with the prompt."""
        return self.pairs.tokens(pairs, self.prompt, truncate)

    def rows(self, tokens: Sequence[Any]) -> np.ndarray:
        """The logits (B, width) of pairs that run together."""
        return self.pairs.logits(tokens)

    def finished(self, logits: np.ndarray) -> np.ndarray:
        """The scores of all pairs of a call, (N,) or (N, labels).

        Raises:
            ValueError: the activation does not give a row a pair.
        """
        scores = np.asarray(self.activation(logits), np.float32)
        if scores.shape[:1] != logits.shape[:1]:
            raise ValueError(f"activation_fn gives shape {scores.shape} of {logits.shape}; needed: a row a pair")
        if self.width == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        return F.softmax(scores) if self.apply_softmax and scores.ndim > 1 else scores


class CrossEncoder(InProcesses):
    """Pairs of texts in, scores out; made by `from_pretrained`.

    Attributes:
        activation_fn: what makes scores of logits, a function of arrays; as the folder says, else the sigmoid for a
            model of one label, and nothing for one of several.
        prompts, default_prompt_name: as in `SentenceEncoder`; a prompt goes before the first text of a pair, or is the
            instruction of a model with a chat template.

    Example:
        >>> reranker = CrossEncoder.from_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2")            # doctest: +SKIP
        >>> reranker.rank("Who wrote Emma?", ["Emma is by Jane Austen.", "Dublin is in Ireland."])    # doctest: +SKIP
        [{'corpus_id': 0, 'score': 9.1}, {'corpus_id': 1, 'score': -11.2}]
    """

    def __init__(
        self, pairs: PairModel, activation_fn: Activation | None = None, settings: SentenceSettings | None = None
    ) -> None:
        settings = SentenceSettings() if settings is None else settings
        self._pairs = pairs
        self.prompts, self.default_prompt_name = settings.prompts, settings.default_prompt_name
        self.activation_fn = activation_fn or activation_of("Sigmoid" if self.num_labels == 1 else "Identity")

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        max_length: int | None = None,
        activation_fn: Any = None,
        device: str | None = None,
        chat_template: str | None = None,
        score_tokens: Sequence[str] | None = None,
        **hub: Any,
    ) -> CrossEncoder:
        """The model of a folder, or of a model on the Hugging Face hub.

        Args:
            compute_type, ignore_fields, packed_cache; hub: revision, cache_dir, token, local_files_only: as in
                `load_model`.
            max_length: the most tokens of a pair, at most what the model takes.
            activation_fn: as in `predict`, instead of what the folder says.
            device: "cpu".
            chat_template: how a pair becomes a text, instead of what the folder says: a template in Jinja that renders
                the roles "query", "document" and, for prompts, "system"; or the name of a known one, "qwen3-reranker".
            score_tokens: for a language model without modules.json, the token whose logit is the score, or two, whose
                difference is; by default ("yes", "no").

        Example:
            >>> folder = "Qwen/Qwen3-Reranker-0.6B"
            >>> reranker = CrossEncoder.from_pretrained(folder, chat_template="qwen3-reranker")       # doctest: +SKIP
            >>> reranker.rank("Who wrote Emma?", ["Emma is by Jane Austen.", "Dublin is in Ireland."])  # doctest: +SKIP
            [{'corpus_id': 0, 'score': 0.99}, {'corpus_id': 1, 'score': 0.0001}]

        Raises:
            CheckpointError: there is no such folder, a file is malformed or asks for what is not supported, or the
                model is one of another kind.
            ValueError, TypeError: another argument is out of range.
        """
        check_device(device)
        source = open_source(path_or_hub_id, **hub)
        settings, place = SentenceSettings(), source.place("config.json")
        if source.json("modules.json") is not None:
            settings, place = read_settings(source, "CrossEncoder", _FIELDS), source.place(CONFIG)
        pairs = read_pair_model(
            source, settings.modules, compute_type, ignore_fields, packed_cache, chat_template, score_tokens
        )
        if activation_fn is None:
            name = settings.further.get("activation_fn") or _activation_name(pairs.source.object("config.json"))
            activation = None if name is None else _activation_of(place, name)
        else:
            activation = as_activation("activation_fn", activation_fn)
        encoder = cls(pairs, activation, settings)
        if max_length is not None:
            encoder.max_seq_length = max_length
        return encoder

    @property
    def model(self) -> Any:
        """The model (`models`)."""
        return self._pairs.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The `files.tokenizer.Tokenizer`."""
        return self._pairs.tokenizer

    @property
    def num_labels(self) -> int:
        """The number of scores of a pair."""
        return self._pairs.num_labels

    @property
    def device(self) -> str:
        """ "cpu"."""
        return "cpu"

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a pair, special ones included, after which its longer text is cut off; may be set."""
        return self._pairs.max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        least, most = self.tokenizer.tokenizer.num_special_tokens_to_add(True), self._pairs.model_limit
        if not isinstance(length, (int, np.integer)) or length < least or (most is not None and length > most):
            needed = f"at least {least}" if most is None else f"{least} to {most} (the model's positions)"
            raise ValueError(f"max_seq_length is {length}; needed: {needed}")
        self._pairs.max_length = int(length)

    def predict(
        self,
        inputs: Pair | Iterable[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | Sequence[str] | None = None,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """The scores of pairs, (N,) float32, or (N, labels) of a model of several labels; of one pair without N.

        Args:
            inputs: a pair of strings (a list or tuple of two), or several of them, or an array (N, 2).
            prompt_name, prompt: what is put before the first text of each pair, or is the instruction of a model with a
                chat template: one of `prompts`, or a text.
            batch_size: pairs of a batch; batches run together as in `SentenceEncoder.encode`. It changes speed and
                memory, not one bit of the result.
            activation_fn: what makes scores of logits (n, labels): a function of arrays, a name of `ACTIVATIONS`, or
                one of torch's modules without options (`torch.nn.Sigmoid()`). None: the attribute.
            apply_softmax: after it, let the scores of several labels sum to 1.
            convert_to_numpy: False gives a list.
            show_progress_bar, device, pool, chunk_size: as in `SentenceEncoder.encode`. convert_to_tensor: False.

        Raises:
            TypeError: an input is no pair of strings (its index is named).
            ValueError: another argument is out of range, or a string cannot be written as UTF-8.
            RuntimeError: a process of the pool has died.
        """
        check_without_torch(convert_to_tensor)
        check_positive("batch_size", batch_size)
        job = self.prepared(prompt_name, prompt, activation_fn, apply_softmax)
        single, pairs = checked_pairs(inputs)
        logits = np.empty((len(pairs), self.num_labels), np.float32)
        how = batch_size, show_progress_bar, device, pool, chunk_size
        with closing(in_chunks(self, "_logits", pairs, (job.prompt, batch_size), *how)) as parts:
            for chunk, part in parts:
                logits[chunk] = part
        scores = job.finished(logits)
        if single:
            return scores[0]
        return scores if convert_to_numpy else list(scores)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        device: str | Sequence[str] | None = None,
        pool: ProcessPool | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """The top_k documents (None: all) for a query: {"corpus_id", "score"}, and "text", the highest score first.

        Of equal scores the first document comes first. The other options are those of `predict`.

        Raises:
            TypeError: the query or a document is no string.
            ValueError: the model has several labels, or as `predict`.
        """
        if self.num_labels != 1:
            raise ValueError(f"the model has {self.num_labels} labels; needed: 1 (predict gives the scores of several)")
        if top_k is not None:
            check_positive("top_k", top_k)
        if not isinstance(query, str):
            raise TypeError(f"query is a {type(query).__name__}; needed: a string")
        texts = list(column("documents", documents))
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"documents[{i}] is a {type(text).__name__}; needed: a string")
        options = {"device": device, "pool": pool, "chunk_size": chunk_size}
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            **options,
        )
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [
            {"corpus_id": i, "score": float(scores[i]), **({"text": texts[i]} if return_documents else {})}
            for i in order
        ]

    def prepared(
        self,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation_fn: Any = None,
        apply_softmax: bool = False,
    ) -> PairJob:
        """A call of `predict` whose pairs somebody else batches, such as `serving.TextEngine`; arguments as there.

        Raises:
            ValueError, TypeError: as `predict`.
        """
        activation = self.activation_fn if activation_fn is None else as_activation("activation_fn", activation_fn)
        return PairJob(self._pairs, self._prompt(prompt_name, prompt), activation, apply_softmax)

    def _logits(self, pairs: list[tuple[str, str]], start: str, batch_size: int, progress: Any = None) -> np.ndarray:
        """(N, labels) with a prompt; a process of a pool calls it, too."""
        logits = np.empty((len(pairs), self.num_labels), np.float32)
        with closing(runs(pairs, lambda batch: self._pairs.tokens(batch, start), batch_size)) as together:
            for indices, tokens in together:
                logits[indices] = self._pairs.logits(tokens)
                if progress is not None:
                    progress.update(len(indices))
        return logits

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        return chosen_prompt(self.prompts, self.default_prompt_name, name, prompt)


def checked_pairs(inputs: Any) -> tuple[bool, list[tuple[str, str]]]:
    """Is it a single pair, and the pairs.

    Raises:
        TypeError: an input is no pair of strings; its index is named.
    """
    found = list(column("inputs", inputs))
    single = bool(found) and isinstance(found[0], str)
    pairs = []
    for i, pair in enumerate([found] if single else found):
        parts = pair.tolist() if isinstance(pair, np.ndarray) else pair
        if not isinstance(parts, (list, tuple)) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            where = "inputs" if single else f"inputs[{i}]"
            raise TypeError(f"{where} is {pair!r:.60}; needed: a pair of strings")
        pairs.append(tuple(parts))
    return single, pairs


def _activation_of(place: Any, name: Any) -> Activation:
    """The activation that a file names."""
    if not isinstance(name, str) or not name.startswith("torch."):
        raise CheckpointError(f"{place}: activation_fn is {name!r}; supported: torch.nn's {', '.join(ACTIVATIONS)}")
    try:
        return activation_of(name)
    except ValueError as error:
        raise CheckpointError(f"{place}: activation_fn is {error}") from None


def _activation_name(config: dict[str, Any]) -> Any:
    """The activation in a model's config.json, where older releases wrote it; None without one."""
    own = config.get("sentence_transformers")
    if isinstance(own, dict) and "activation_fn" in own:
        return own["activation_fn"]
    return config.get("sbert_ce_default_activation_function")

"""`Served`: a model with the engine that runs it; `load_served`: the one in a folder, of the kind that its files say.

`commands/serve.py` loads what --model names, tests what they write. Another kind of model is a line in `_architecture`
and a branch of `load_served`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.server.token_texts import TokenTexts
from transformer_fast.serving import Turns

KINDS = ("embeddings", "reranker", "classifier", "language")
_CROSS_ENCODER = "CrossEncoder"


@dataclass(frozen=True)
class Served:
    """A model that the server offers under a name.

    Attributes:
        name: what requests call it.
        kind: "embeddings", "reranker", "classifier" or "language".
        engine: a `serving.TextEngine`, of "language" a `serving.LanguageEngine`.
        tokenizer: its `files.tokenizer.Tokenizer`.
        model: the pipeline or the model that the engine runs; read only.
        max_length: the most tokens of a text, or of prompt and answer; None: no limit is known.
        dimensions: of an embedding; None of other kinds.
        turns: what its engine shares with the others; who computes beside the engine takes one.
        chat: a language model's `serving.ChatFormat`; None without a chat template.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    kind: str
    engine: Any
    tokenizer: Any
    model: Any = None
    max_length: int | None = None
    dimensions: int | None = None
    turns: Turns | None = None
    chat: Any = None
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def token_texts(self) -> TokenTexts:
        """Of the vocabulary; made when log probabilities are first asked for."""
        return TokenTexts(self.tokenizer)


def load_served(
    name: str,
    path_or_hub_id: str | ModelSource,
    kind: str | None = None,
    *,
    compute_type: str = "auto",
    turns: Turns | None = None,
    max_tokens_in_flight: int | None = None,
    max_queue: int | None = None,
    kv_cache_dtype: str | None = None,
) -> Served:
    """The model of a folder, a GGUF file or the Hugging Face hub, with a running engine.

    Args:
        kind: one of `KINDS`, instead of what the files say (`kind_of`).
        compute_type: as in `load_model`.
        turns: shared by the engines of one process, which compute one after the other.
        max_tokens_in_flight, max_queue, kv_cache_dtype: the engine's; None is its default.

    Raises:
        CheckpointError: as `from_pretrained` of the pipeline, or the kind cannot be told.
        ValueError: an option is out of range, or does not go with the kind.
    """
    source = open_source(path_or_hub_id)
    kind = kind_of(source) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"{name}: the kind is {kind!r}; needed: one of {', '.join(KINDS)}")
    turns = Turns() if turns is None else turns
    limits = {"max_tokens_in_flight": max_tokens_in_flight, "max_queue": max_queue}
    limits = {option: value for option, value in limits.items() if value is not None}
    if kind == "language":
        return _language(name, source, compute_type, turns, kv_cache_dtype, limits)
    return _texts(name, source, kind, compute_type, turns, limits)


def kind_of(source: ModelSource) -> str:
    """The kind of a model, by modules.json, then by the architecture of config.json.

    modules.json is of sentence-transformers: a CrossEncoder where it says so, else embeddings. A model with a head for
    labels (ForSequenceClassification) is a reranker if it has one, a classifier if it has several; ForCausalLM is a
    language model, with a chat template or without; a model without a head makes embeddings.

    Raises:
        CheckpointError: the architecture is one of another kind: of pictures, of tags, an encoder-decoder.
    """
    from transformer_fast.files.errors import CheckpointError

    if source.json("modules.json") is not None:
        told = source.object("config_sentence_transformers.json", required=False).get("model_type")
        return "reranker" if told == _CROSS_ENCODER else "embeddings"
    config = source.object("config.json")
    if source.json("config_sentence_transformers.json") is not None:
        return "embeddings"
    names = config.get("architectures") or [""]
    kind = _architecture(str(names[0]), config)
    if kind is None:
        wanted = (
            "sentence embeddings, ForSequenceClassification or ForCausalLM; NAME=PATH:KIND says which of them it is"
        )
        raise CheckpointError(f"{source.place('config.json')}: {names[0]} is none of what is served: {wanted}")
    return kind


def _architecture(name: str, config: dict[str, Any]) -> str | None:
    if re.search(r"SequenceClassification$", name):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        return "reranker" if count == 1 else "classifier"
    if re.search(r"(CausalLM|LMHeadModel)$", name):
        return "language"
    return "embeddings" if re.search(r"(Model|MaskedLM|PreTraining)$", name) else None


def _texts(
    name: str, source: ModelSource, kind: str, compute_type: Any, turns: Turns | None, limits: dict[str, Any]
) -> Served:
    from transformer_fast.pipelines import CrossEncoder, SentenceEncoder, load_classifier
    from transformer_fast.serving import TextEngine

    loaders = {
        "embeddings": SentenceEncoder.from_pretrained,
        "reranker": CrossEncoder.from_pretrained,
        "classifier": load_classifier,
    }
    model: Any = loaders[kind](source, compute_type=compute_type)
    engine = TextEngine(model, turns=turns, **limits)
    dimensions = model.get_embedding_dimension() if kind == "embeddings" else None
    length = getattr(model, "max_seq_length", None)
    return Served(name, kind, engine, model.tokenizer, model, length, dimensions, turns)


def _language(
    name: str,
    source: ModelSource,
    compute_type: Any,
    turns: Turns | None,
    kv_cache_dtype: str | None,
    limits: dict[str, Any],
) -> Served:
    from transformer_fast.generation import GenerationMixin, load_tokenizer
    from transformer_fast.models import load_model
    from transformer_fast.serving import ChatFormat, LanguageEngine

    model = load_model(source, compute_type=compute_type)
    if not isinstance(model, GenerationMixin) or model.is_encoder_decoder:
        raise ValueError(f"{source}: {type(model).__name__} is no decoder that generates text")
    tokenizer = load_tokenizer(source)
    engine = LanguageEngine(model, tokenizer, turns=turns, kv_cache_dtype=kv_cache_dtype, **limits)
    chat = ChatFormat(tokenizer) if tokenizer.chat_templates else None
    return Served(name, "language", engine, tokenizer, model, engine.max_length, turns=turns, chat=chat)

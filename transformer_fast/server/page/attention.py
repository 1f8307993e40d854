"""/page/models and /page/attention: what the page asks the server beyond the public interface.

`routes` of this package adds them. Attention weights are computed by `pipelines.text_attention`, in a thread and when
it is the model's turn, and sent as `visualize.explorer` encodes them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from transformer_fast.pipelines.attentions import takes_pair, text_attention
from transformer_fast.server.calls import Body, Call, Endpoint, json_response
from transformer_fast.server.errors import bad_request, engine_errors
from transformer_fast.server.served import Served
from transformer_fast.serving import Busy
from transformer_fast.visualize.explorer.encoding import encoded

# Weights of an answer: 11 MB in 8 bits each and base64, which Chromium shows within 4 s on a busy machine. They let a
# BERT of base size read 241 tokens.
MAX_WEIGHTS = 8 << 20
# Texts that wait or run at once: each holds MAX_WEIGHTS numbers of 4 bytes, some of them twice.
_MAX_RUNNING = 4
# Of a body's text, so that no long one is tokenised to be refused. A token of natural text has 4 to 5 characters.
_MAX_CHARACTERS = 20_000
# Names of prompts for the two sides of a search, as sentence-transformers' encode_query and encode_document take them.
_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")


class AttentionBody(Body):
    model: str
    text: Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
    text_pair: Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)] | None = None


@dataclass(frozen=True)
class Attending:
    """pair: as `takes_pair`. max_tokens: of the page's texts."""

    pair: str
    max_tokens: int


class Models:
    """The models of the page, and which of them give attention weights: known after each has read one letter."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self.served = models
        self._attending: dict[str, Attending | None] = {}
        self._lock = threading.Lock()
        self._running = threading.BoundedSemaphore(_MAX_RUNNING)

    def describe(self) -> list[dict[str, Any]]:
        """An entry for each model. It computes."""
        return [self._entry(served) for served in self.served.values()]

    def _entry(self, served: Served) -> dict[str, Any]:
        attending = self.attending(served)
        prompts = getattr(served.model, "prompts", None) or {}
        return {
            "id": served.name,
            "kind": served.kind,
            "chat": served.chat is not None,
            "max_length": served.max_length,
            "attention": attending and {"pair": attending.pair, "max_tokens": attending.max_tokens},
            "query": _prompt(prompts, _QUERY),
            "document": _prompt(prompts, _DOCUMENT),
        }

    def attending(self, served: Served) -> Attending | None:
        """What the model can do for the explorer; None: nothing. It computes when a model is first asked about."""
        with self._lock:
            if served.name not in self._attending:
                self._attending[served.name] = _tried(served)
            return self._attending[served.name]

    def attention(self, served: Served, text: str, text_pair: str | None) -> dict[str, Any]:
        """The explorer's data. Raises Busy where enough texts wait, ValueError as `text_attention`."""
        if not self._running.acquire(blocking=False):
            raise Busy(f"{_MAX_RUNNING} texts are being looked at")
        try:
            attending = self.attending(served)
            if attending is None:
                raise ValueError(f"the model {served.name!r} gives no attention weights")
            return encoded(_maps(served, text, text_pair, attending.max_tokens))
        finally:
            self._running.release()


def _tried(served: Served) -> Attending | None:
    model = _inner(served)
    try:
        pair = takes_pair(model)
        maps = _maps(served, "a", "a" if pair == "required" else None, None)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None  # a model of other inputs, or without attention
    heads = sum(len(layer) for layers, *_ in maps.values() for layer in layers)
    most = math.isqrt(MAX_WEIGHTS // heads)
    return Attending(pair, most if served.max_length is None else min(most, served.max_length))


def _maps(served: Served, text: str, text_pair: str | None, max_tokens: int | None) -> Any:
    with served.turns or nullcontext():
        return text_attention(_inner(served), served.tokenizer, text, text_pair, max_tokens=max_tokens)


def _inner(served: Served) -> Any:
    """The model of a pipeline; a language model is served as it is."""
    return served.model if served.kind == "language" else served.model.model


def _prompt(prompts: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Parameters of /v1/embeddings for one side of a search."""
    return next(({"prompt_name": name} for name in names if prompts.get(name)), {})


def endpoints(models: Mapping[str, Served]) -> tuple[Endpoint, ...]:
    known = Models(models)

    async def show_models(call: Call) -> Response:
        return json_response({"models": await call.in_thread(known.describe)})

    async def attention(call: Call) -> Response:
        body: AttentionBody = call.body
        served = models.get(body.model)
        if served is None:
            raise bad_request(f"there is no model {body.model!r:.200}", "model", "model_not_found")
        with engine_errors("text"):
            data = await call.in_thread(known.attention, served, body.text, body.text_pair, param="text")
        return json_response(data)

    return (
        Endpoint("/page/models", show_models, "Models of the page", method="GET"),
        Endpoint("/page/attention", attention, "Attention weights of a text", body=AttentionBody, errors=(429, 504)),
    )

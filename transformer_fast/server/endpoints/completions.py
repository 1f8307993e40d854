"""/v1/completions, as OpenAI's older interface: prompts in, what follows them out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.endpoints.answers import Events, Prompt, finished, started, usage
from transformer_fast.server.endpoints.common import Texts, Tokens, check_count
from transformer_fast.server.endpoints.sampling import (
    GenerationUsage,
    SamplingBody,
    constraint_of,
    engine_options,
    new_tokens,
    stop_strings,
)
from transformer_fast.server.errors import bad_request
from transformer_fast.serving import Piece

_DEFAULT_TOKENS = 16  # OpenAI's
_MOST_LOGPROBS = 20


class CompletionsBody(SamplingBody):
    prompt: str | Texts | Tokens | Annotated[list[Tokens], Field(min_length=1)] = Field(
        description="A text, several, the tokens of a text, or those of several."
    )
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = Field(None, description="Of an answer. Default: 16.")
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = Field(
        None, description="Log probabilities of the chosen token and of so many likeliest ones, before all options."
    )
    skip_special_tokens: bool | None = Field(None, description="Extension: leave them out of the text. Default: true.")
    best_of: Annotated[int, Field(ge=1)] | None = Field(None, description="Supported: the same as n.")
    echo: Literal[False] | None = Field(None, description="The prompt is not repeated.")
    suffix: Literal[""] | None = Field(None, description="Filling in between two texts is not supported.")


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionsReply(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: GenerationUsage | None = None


async def complete(call: Call) -> Any:
    body: CompletionsBody = call.body
    model = call.model(body.model, "language")
    count = body.n or 1
    if body.best_of not in (None, count):
        raise bad_request(f"best_of is {body.best_of} and n is {count}; needed: the same number", "best_of")
    one = isinstance(body.prompt, str) or isinstance(body.prompt[0], int)
    prompts: Any = [body.prompt] if one else body.prompt
    check_count(call, range(len(prompts) * count), "prompt")
    options = engine_options(body) | {"stop": stop_strings(body), "logprobs": body.logprobs}
    options["skip_special_tokens"] = body.skip_special_tokens is not False
    options["constraint"] = constraint_of(body)
    if isinstance(prompts[0], str):
        prompts = await call.in_thread(_encoded, model.tokenizer, prompts, param="prompt")

    def prompt(ids: list[int]) -> Prompt:
        if not ids:
            raise bad_request("prompt has no tokens", "prompt")
        return Prompt(ids, options | {"max_new_tokens": new_tokens(model, ids, body.max_tokens, _DEFAULT_TOKENS)})

    running = await started(call, model, [prompt(ids) for ids in prompts], count)
    head = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": int(time.time()), "model": model.name}
    if body.stream:
        return _events(call, model, running, head, body, count)
    answers = await finished(call, model, running)
    choices = []
    for i, answer in enumerate(answers):
        found = None if answer.logprobs is None else model.token_texts.completion(answer.logprobs, 0)[0]
        choices.append(_choice(i, answer.text, found, answer.finish_reason))
    new = sum(len(answer.ids) for answer in answers)
    return json_response({**head, "choices": choices, "usage": usage(running, count, new)})


def _events(call: Call, model: Any, running: Any, head: dict[str, Any], body: CompletionsBody, count: int) -> Events:
    offsets = [0] * len(running)

    def piece(index: int, piece: Piece) -> Iterable[Any]:
        found = None
        if piece.logprobs is not None:
            found, offsets[index] = model.token_texts.completion(piece.logprobs, offsets[index])
        if piece.text or found or piece.finish_reason:
            yield {**head, "choices": [_choice(index, piece.text, found, piece.finish_reason)]}

    def last(new: int) -> Iterable[Any]:
        if body.stream_options is not None and body.stream_options.include_usage:
            yield {**head, "choices": [], "usage": usage(running, count, new)}

    return Events(call, model, running, (), piece, last)


def _choice(index: int, text: str, found: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": found, "finish_reason": reason}


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [list(one.ids) for one in tokenizer.encode_batch(texts)]


ENDPOINTS = (
    Endpoint(
        "/v1/completions",
        complete,
        "What follows prompts",
        body=CompletionsBody,
        reply=CompletionsReply,
        content={"text/event-stream": {"type": "string"}},
        errors=(404, 429, 501, 504),
    ),
)

"""/v1/chat/completions, as OpenAI's: messages in, an answer out, whole or as it comes.

`serving.ChatFormat` makes prompts of messages and reads calls and reasoning out of answers; what of a body reaches
it is in `_begun`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.endpoints.answers import Events, Prompt, Submitted, finished, submitted, usage
from transformer_fast.server.endpoints.chat_bodies import ChatBody, ChatReply
from transformer_fast.server.endpoints.common import check_count
from transformer_fast.server.endpoints.sampling import constraint_of, engine_options, new_tokens, stop_strings
from transformer_fast.server.errors import bad_request, engine_errors
from transformer_fast.server.served import Served
from transformer_fast.serving import Completion, Piece


@dataclass
class _Begun:
    """The running answers of a chat, and what makes a parser for each."""

    running: Submitted
    parser: Callable[[], Any]

    def cancel(self) -> None:
        self.running.cancel()


async def chat(call: Call) -> Response | Events:
    body: ChatBody = call.body
    model = call.model(body.model, "language")
    if model.chat is None:
        raise bad_request(f"the model {model.name!r} has no chat template; /v1/completions takes texts", "model")
    check_count(call, body.messages, "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs goes with logprobs: true", "top_logprobs")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise bad_request("max_tokens and max_completion_tokens differ; needed: one of them", "max_tokens")
    options = engine_options(body)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    limit = call.state.settings.default_max_tokens
    begun = await call.in_thread(_begun, model, body, options, limit, param="messages")
    head = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": model.name}
    if body.stream:
        return _events(call, model, begun, {**head, "object": "chat.completion.chunk"}, body)
    answers = await finished(call, model, begun.running)
    choices = [_choice(model, body, i, answer, begun.parser()) for i, answer in enumerate(answers)]
    new = sum(len(answer.ids) for answer in answers)
    counted = usage(begun.running, len(answers), new)
    return json_response({**head, "object": "chat.completion", "choices": choices, "usage": counted})


def _begun(model: Served, body: ChatBody, options: dict[str, Any], limit: int) -> _Begun:
    """Renders and tokenises the messages, compiles what constrains the answer, and submits; it may take a while."""
    tools = None if body.tools is None else [tool.model_dump(exclude_unset=True) for tool in body.tools]
    choice = body.tool_choice if isinstance(body.tool_choice, (str, type(None))) else body.tool_choice.model_dump()
    wanted = None
    if body.response_format is not None:
        wanted = body.response_format.model_dump(exclude_unset=True, by_alias=True)
    own = constraint_of(body)
    with engine_errors("messages"):
        prompt = model.chat.prompt(body.messages, tools, choice, wanted, **(body.chat_template_kwargs or {}))
    if own is not None and prompt.constraint is not None:
        raise bad_request("structured_outputs does not go with response_format or a forced call", "structured_outputs")
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    options = options | {
        "stop": (*prompt.stop, *stop_strings(body)),
        "constraint": prompt.constraint if own is None else own,
        "skip_special_tokens": prompt.skip_special_tokens,
        "max_new_tokens": new_tokens(model, prompt.ids, asked, limit),
    }
    with engine_errors("messages"):
        running = submitted(model, [Prompt(prompt.ids, options)], body.n or 1)
    return _Begun(running, lambda: model.chat.parser(prompt=prompt))


def _choice(model: Served, body: ChatBody, index: int, answer: Completion, parser: Any) -> dict[str, Any]:
    said = _Said(body)
    for delta in (parser.feed(answer.text), parser.end()):
        said.add(delta)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.content or (None if said.calls else ""),
        "refusal": None,
    }
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.calls:
        message["tool_calls"] = said.calls
    found = None if answer.logprobs is None else {"content": model.token_texts.chat(answer.logprobs)}
    reason = said.finish_reason(answer.finish_reason)
    return {"index": index, "message": message, "logprobs": found, "finish_reason": reason}


class _Said:
    """What an answer holds, as its parser gives it piece by piece."""

    def __init__(self, body: ChatBody) -> None:
        self.content = self.reasoning = ""
        self.calls: list[dict[str, Any]] = []
        self._one_call = body.parallel_tool_calls is False

    def add(self, delta: Any) -> dict[str, Any]:
        """Takes a part in, and returns it as OpenAI's delta; {}: it holds nothing."""
        told: dict[str, Any] = {}
        if delta.content:
            self.content += delta.content
            told["content"] = delta.content
        if delta.reasoning_content:
            self.reasoning += delta.reasoning_content
            told["reasoning_content"] = delta.reasoning_content
        calls = [one for one in delta.tool_calls if not (self._one_call and one.index)]
        if calls:
            named = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in calls
            ]
            self.calls += named
            told["tool_calls"] = [{"index": one.index, **call} for one, call in zip(calls, named, strict=True)]
        return told

    def finish_reason(self, reason: str | None) -> str | None:
        return "tool_calls" if reason == "stop" and self.calls else reason


def _events(call: Call, model: Served, begun: _Begun, head: dict[str, Any], body: ChatBody) -> Events:
    parsers = [begun.parser() for _ in begun.running]
    said = [_Said(body) for _ in begun.running]

    def chunk(index: int, delta: dict[str, Any], found: Any = None, reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "logprobs": found, "finish_reason": reason}]}

    def piece(index: int, piece: Piece) -> Iterable[Any]:
        found = None if piece.logprobs is None else {"content": model.token_texts.chat(piece.logprobs)}
        delta = said[index].add(parsers[index].feed(piece.text)) if piece.text else {}
        if delta or found:
            yield chunk(index, delta, found)
        if piece.finish_reason is not None:
            rest = said[index].add(parsers[index].end())
            if rest:
                yield chunk(index, rest)
            yield chunk(index, {}, None, said[index].finish_reason(piece.finish_reason))

    def last(new: int) -> Iterable[Any]:
        if body.stream_options is not None and body.stream_options.include_usage:
            yield {**head, "choices": [], "usage": usage(begun.running, len(begun.running), new)}

    first = [chunk(i, {"role": "assistant", "content": ""}) for i in range(len(parsers))]
    return Events(call, model, begun.running, first, piece, last)


ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        chat,
        "The answer to messages",
        body=ChatBody,
        reply=ChatReply,
        content={"text/event-stream": {"type": "string"}},
        errors=(404, 429, 501, 504),
    ),
)

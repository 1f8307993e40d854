"""Parts of bodies that several endpoints have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from transformer_fast.server.calls import Body, Call
from transformer_fast.server.errors import bad_request, engine_errors
from transformer_fast.server.served import Served

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Texts = Annotated[list[str], Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
ModelName = Annotated[
    str | None,
    Field(
        description="Name of a model of /v1/models. May be left out where one model alone is of the endpoint's kind."
    ),
]


class Labelled(Body):
    """What clients say about a request, and what changes no answer: accepted."""

    user: str | None = Field(None, description="Accepted, without effect.")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class ListOf(BaseModel):
    object: Literal["list"]


def check_count(call: Call, items: Sequence[Any], param: str) -> None:
    """Refuses more texts than the server's limit.

    Raises:
        ApiError: 400.
    """
    limit = call.state.settings.max_input_texts
    if len(items) > limit:
        raise bad_request(f"{param} has {len(items)} items; a request may have {limit}", param, "too_many")


async def submitted(
    call: Call, model: Served, inputs: Sequence[Any], submit: Callable[[Sequence[Any]], Future[Any]], param: str
) -> Any:
    """The result of a text engine's method; long inputs are tokenised in a thread. It counts the tokens."""
    if model.engine.is_brief(inputs):
        with engine_errors(param):
            future = submit(inputs)
    else:
        future = await call.in_thread(submit, inputs, param=param)
    found = await call.result(future, param)
    call.state.metrics.prompt_tokens.add(model.name, amount=found.tokens)
    return found

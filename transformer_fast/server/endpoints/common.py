"""Parts of bodies that several endpoints have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from transformer_fast.server.calls import Body, Call
from transformer_fast.server.errors import bad_request

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Texts = Annotated[list[str], Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
ModelName = Annotated[
    str | None,
    Field(description="Name of a model of /v1/models. May be left out where one model alone is of the endpoint's kind."),
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

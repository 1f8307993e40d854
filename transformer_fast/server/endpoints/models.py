"""/v1/models and /v1/models/{model}: what is served."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.endpoints.common import ListOf
from transformer_fast.server.errors import ApiError
from transformer_fast.server.served import Served


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["embeddings", "reranker", "classifier", "language"]
    max_model_len: int | None = Field(description="Tokens of a text, or of prompt and answer; null: no limit is known.")
    dimensions: int | None = Field(description="Of an embedding.")
    chat: bool = Field(description="Does /v1/chat/completions take it?")


class ModelList(ListOf):
    data: list[Model]


async def list_models(call: Call) -> Response:
    return json_response({"object": "list", "data": [_entry(one) for one in call.state.models.values()]})


async def show_model(call: Call) -> Response:
    name = call.scope["path_params"]["model"]
    found = call.state.models.get(name)
    if found is None:
        raise ApiError(404, f"there is no model {name!r:.200}", "model", "model_not_found")
    return json_response(_entry(found))


def _entry(model: Served) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "transformer-fast",
        "kind": model.kind,
        "max_model_len": model.max_length,
        "dimensions": model.dimensions,
        "chat": model.chat is not None,
    }


ENDPOINTS = (
    Endpoint("/v1/models", list_models, "The models", method="GET", reply=ModelList),
    # A name may have a "/", as those on the hub do.
    Endpoint("/v1/models/{model:path}", show_model, "A model", method="GET", reply=Model, errors=(404,)),
)

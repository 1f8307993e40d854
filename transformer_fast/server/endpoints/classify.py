"""/v1/classify: labels of texts, in the form of vLLM's /classify with labels and scores added."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.endpoints.common import Labelled, ListOf, ModelName, Texts, Usage, check_count, submitted


class ClassifyBody(Labelled):
    input: str | Texts = Field(description="A text or several.")
    model: ModelName = None
    top_k: Annotated[int, Field(ge=1, lt=1 << 31)] | None = Field(
        None, description="So many labels a text in `scores`, the best first. Default: all."
    )


class Label(BaseModel):
    label: str
    score: float


class Class(BaseModel):
    index: int
    label: str = Field(description="The best one.")
    score: float
    scores: list[Label]
    num_classes: int


class ClassifyReply(ListOf):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Class]
    usage: Usage


async def classify(call: Call) -> Response:
    body: ClassifyBody = call.body
    model = call.model(body.model, "classifier")
    texts = [body.input] if isinstance(body.input, str) else body.input
    check_count(call, texts, "input")
    found = await submitted(call, model, texts, model.engine.classify, "input")
    data = []
    for i, scores in enumerate(found.ranked()):
        best = scores[0]
        one = {"index": i, "label": best["label"], "score": best["score"], "scores": scores[: body.top_k]}
        data.append({**one, "num_classes": len(scores)})
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    content = {"object": "list", "id": call.id, "created": model.created, "model": model.name, "data": data}
    return json_response({**content, "usage": usage})


ENDPOINTS = (
    Endpoint(
        "/v1/classify", classify, "Labels of texts", body=ClassifyBody, reply=ClassifyReply, errors=(404, 429, 504)
    ),
)

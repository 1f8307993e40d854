"""/v1/rerank, /v2/rerank and /rerank: documents in the order in which they answer a query.

One body and one answer for Cohere's interfaces (v1: documents as texts or objects, v2: texts) and Jina's: the answer
has what each of them calls its own (meta, usage).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field
from starlette.responses import Response

from transformer_fast.server.calls import Body, Call, Endpoint, json_response
from transformer_fast.server.endpoints.common import Labelled, ListOf, ModelName, Usage, check_count, submitted
from transformer_fast.server.errors import bad_request

_DOCUMENTS_A_UNIT = 100  # Cohere's search unit: a query with up to so many documents


class Document(Body):
    text: str


class RerankBody(Labelled):
    query: str
    documents: Annotated[list[str | Document], Field(min_length=1)] = Field(
        description="Texts, or objects that have a text."
    )
    model: ModelName = None
    top_n: Annotated[int, Field(ge=1, lt=1 << 31)] | None = Field(None, description="How many results. Default: all.")
    return_documents: bool | None = Field(None, description="Results have their documents' texts. Default: false.")
    rank_fields: list[str] | None = Field(None, description='Cohere v1: ["text"] alone is supported.')
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(
        None, description="Cohere v2: accepted, without effect; all requests are equal."
    )


class Result(BaseModel):
    index: int = Field(description="Of the document in the request.")
    relevance_score: float
    document: Document | None = None


class RerankReply(ListOf):
    id: str
    model: str
    results: list[Result] = Field(description="The highest score first; of equal scores the lower index.")
    meta: dict[str, Any] = Field(description="Cohere's: api_version, billed_units.")
    usage: Usage


async def rerank(call: Call) -> Response:
    body: RerankBody = call.body
    model = call.model(body.model, "reranker")
    check_count(call, body.documents, "documents")
    if body.rank_fields not in (None, ["text"]):
        raise bad_request('rank_fields: ["text"] alone is supported', "rank_fields")
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    pairs = [(body.query, text) for text in texts]
    found = await submitted(call, model, pairs, model.engine.score, "documents")
    if found.scores.ndim != 1:
        raise bad_request(f"the model {model.name!r} has {found.scores.shape[1]} scores a pair; needed: one", "model")
    order = np.argsort(-found.scores, kind="stable")[: body.top_n].tolist()
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(found.scores[i])} for i in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    version = "2" if call.endpoint.path.startswith("/v2") else "1"
    units = {"search_units": -(-len(texts) // _DOCUMENTS_A_UNIT)}
    content = {
        "object": "list",
        "id": call.id,
        "model": model.name,
        "results": results,
        "meta": {"api_version": {"version": version}, "billed_units": units},
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }
    return json_response(content)


_V1 = Endpoint(
    "/v1/rerank",
    rerank,
    "Documents by relevance to a query",
    body=RerankBody,
    reply=RerankReply,
    errors=(404, 429, 504),
)
ENDPOINTS = (_V1, replace(_V1, path="/v2/rerank"), replace(_V1, path="/rerank"))

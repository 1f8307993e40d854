"""/health, /metrics, /openapi.json and /docs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from starlette.responses import Response

from transformer_fast.server.calls import Call, Endpoint, json_response
from transformer_fast.server.errors import stopping
from transformer_fast.server.metrics import MEDIA_TYPE


class Health(BaseModel):
    status: Literal["ok"]


async def health(call: Call) -> Response:
    if call.state.stopping:
        raise stopping()
    return json_response({"status": "ok"})


async def metrics(call: Call) -> Response:
    stats = {name: one.engine.stats() for name, one in call.state.models.items()}
    return Response(call.state.metrics.text(call.state.in_flight, stats), media_type=MEDIA_TYPE)


async def openapi(call: Call) -> Response:
    return json_response(call.scope["app"].state.description)


async def docs(call: Call) -> Response:
    from transformer_fast.server.documents import POLICY, page

    headers = {"Content-Security-Policy": POLICY}
    return Response(page(call.scope["app"].state.description), headers=headers, media_type="text/html")


ENDPOINTS = (
    Endpoint("/health", health, "Is the server ready? 503 while it stops", "GET", reply=Health, open=True),
    Endpoint(
        "/metrics",
        metrics,
        "Counts and times, in Prometheus' text format",
        "GET",
        content={"text/plain": {"type": "string"}},
    ),
    Endpoint(
        "/openapi.json",
        openapi,
        "This description",
        "GET",
        content={"application/json": {"type": "object"}},
        open=True,
    ),
    Endpoint("/docs", docs, "This description as a page", "GET", content={"text/html": {"type": "string"}}, open=True),
)

"""`create_app`: the ASGI application: routes of all endpoints and of the page, behind the guard.

`run` serves it with uvicorn; tests call it through httpx.ASGITransport.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from transformer_fast.server import endpoints, page
from transformer_fast.server.calls import Endpoint, State
from transformer_fast.server.errors import ApiError
from transformer_fast.server.guard import Guard
from transformer_fast.server.metrics import Metrics
from transformer_fast.server.openapi import describe
from transformer_fast.server.served import Served
from transformer_fast.server.settings import Settings


def create_app(models: Mapping[str, Served], settings: Settings | None = None) -> Starlette:
    """The application that offers these models.

    models: what requests call them -> what runs them, as `load_served` gives it. They are not closed with it.

    Example:
        >>> from transformer_fast.server import create_app, load_served
        >>> served = load_served("minilm", "sentence-transformers/all-MiniLM-L6-v2")                  # doctest: +SKIP
        >>> app = create_app({"minilm": served})                                                      # doctest: +SKIP
    """
    settings = Settings() if settings is None else settings
    state = State(dict(models), settings, Metrics())
    routes = [Route(one.path, one, methods=[one.method]) for one in endpoints.ALL] + page.routes(state.models, settings)
    open_paths = [route.path for route in routes if isinstance(route.app, Endpoint) and route.app.open]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, state=state, open_paths=open_paths)],
        exception_handlers={HTTPException: _http_error, Exception: _failure},
    )
    app.router.redirect_slashes = False
    app.state.server = state
    app.state.description = describe(endpoints.ALL, bool(settings.api_keys))
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router answers for paths and methods that it does not know."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}"
    message = {404: f"there is nothing at {text}", 405: f"the path does not take {text}"}.get(
        error.status_code, str(error.detail)
    )
    return ApiError(error.status_code, message, headers=error.headers).response()


async def _failure(request: Request, error: Exception) -> Response:
    """What a route of the page did not mean to raise; uvicorn logs it."""
    return ApiError(500, "the server failed; its log has the reason", None, "internal_error").response()

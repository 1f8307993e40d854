"""The description of the server in OpenAPI 3.1, made of the endpoints and the models of their bodies and answers.

`app` makes it once; /openapi.json gives it, /docs shows it, and tests compare answers with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from transformer_fast import __version__
from transformer_fast.server.calls import Endpoint

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "A parameter is missing, unknown or out of range.",
    401: "No valid key.",
    403: "The header Host or Origin is none that the server knows.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body's type is not application/json.",
    429: "The server has as much to do as it may: come back after the seconds in Retry-After.",
    500: "The server failed.",
    501: "A package that this needs is not installed.",
    503: "The server is stopping.",
    504: "There was no answer in time.",
}
_BODY_ERRORS = (400, 408, 413, 415)


class ErrorContent(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorContent


def describe(endpoints: Iterable[Endpoint], keys: bool) -> dict[str, Any]:
    """The description. keys: does the server ask for one?"""
    endpoints = list(endpoints)
    named = {(one.body, "validation") for one in endpoints if one.body} | {(Error, "serialization")}
    named |= {(one.reply, "serialization") for one in endpoints if one.reply}
    ordered = sorted(named, key=lambda pair: (pair[0].__name__, pair[1]))
    refs, schemas = models_json_schema(ordered, ref_template=_REF)
    paths: dict[str, Any] = {}
    for one in endpoints:
        path = re.sub(r":\w+}", "}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, path, refs, keys)
    components: dict[str, Any] = {"schemas": schemas.get("$defs", {})}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "transformer_fast", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _operation(one: Endpoint, path: str, refs: Any, keys: bool) -> dict[str, Any]:
    statuses = {403, 500, 503, *one.errors, *(_BODY_ERRORS if one.body else ())}
    if keys and not one.open:
        statuses.add(401)
    content = {media: {"schema": schema} for media, schema in one.content.items()}
    if one.reply:
        content["application/json"] = {"schema": refs[one.reply, "serialization"]}
    failed = {"application/json": {"schema": refs[Error, "serialization"]}}
    responses = {"200": {"description": "The answer.", "content": content}}
    for status in sorted(statuses):
        responses[str(status)] = {"description": _ERRORS[status], "content": failed}
    operation: dict[str, Any] = {"summary": one.summary, "operationId": _name(one, path), "responses": responses}
    if one.body:
        schema = {"schema": refs[one.body, "validation"]}
        operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if keys and not one.open:
        operation["security"] = [{"key": []}]
    return operation


def _name(one: Endpoint, path: str) -> str:
    return "_".join([one.method.lower(), *re.findall(r"\w+", path)])

"""/docs: the OpenAPI description as one page of HTML without scripts, fonts or files of other hosts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
code, h2 { font-family: ui-monospace, monospace; }
h2 { border-top: 1px solid; padding-top: 1rem; font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #8884; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# The page runs nothing and loads nothing; the one style is its own.
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def page(description: dict[str, Any]) -> str:
    """The page of a description that `openapi.describe` has made."""
    schemas = description["components"]["schemas"]
    title = f"{description['info']['title']} {description['info']['version']}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}: interface</title><style>{_STYLE}</style></head><body><main>",
        f'<h1>{escape(title)}</h1><p>The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method, operation, schemas)
    return "".join([*parts, "</main></body></html>"])


def _operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterable[str]:
    yield f'<h2 id="{escape(operation["operationId"])}">{method.upper()} {escape(path)}</h2>'
    yield f"<p>{escape(operation['summary'])}.</p>"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        yield from _fields(_resolved(content, schemas))
    yield "<p>Answers: "
    answers = operation["responses"].items()
    yield "; ".join(f"<code>{status}</code> {escape(answer['description'].rstrip('.'))}" for status, answer in answers)
    yield ".</p>"


def _fields(schema: dict[str, Any]) -> Iterable[str]:
    yield "<table><thead><tr><th>Parameter</th><th>Type</th><th>Meaning</th></tr></thead><tbody>"
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        needed = " (required)" if name in required else ""
        yield f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{escape(_kind(field))}</td>"
        yield f"<td>{escape(field.get('description', ''))}</td></tr>"
    yield "</tbody></table>"


def _kind(field: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(one) for one in field["anyOf"] if one.get("type") != "null"))
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if "const" in field:
        return json.dumps(field["const"])
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[-1]
    if field.get("type") == "array":
        return f"list of ({_kind(field.get('items', {}))})"
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum")
    bounds = (
        "" if low is None and high is None else f" ({'' if low is None else low} to {'' if high is None else high})"
    )
    return f"{field.get('type', 'anything')}{bounds}"


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema

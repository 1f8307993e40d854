"""The page at /: search with reranking, chat, and the attention explorer, as plain HTML, CSS and JavaScript.

`app.create_app` adds `routes`. The page is a client of the server's interface: /v1/embeddings, /v1/rerank,
/v1/chat/completions. Two endpoints are its own (attention.py): /page/models and /page/attention.

    index.html, page.css      elements of all tabs
    page.js                   tabs, the key; api.js calls the server, dom.js has what the tabs share
    search.js, passages.js    a tab each: a further one is a section in index.html, a module here,
    chat.js                   and a line in TABS of page.js
    attention.js

Scripts and styles of the explorer are those of `visualize.explorer`. Files are sent by the names below: no path of a
request becomes one of this machine. The policy lets the page run its own scripts and ask its own server, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from transformer_fast.server.calls import Call, Endpoint
from transformer_fast.server.page.attention import endpoints
from transformer_fast.server.served import Served
from transformer_fast.server.settings import Settings
from transformer_fast.visualize import explorer

OWN = ("page.css", "page.js", "api.js", "dom.js", "search.js", "passages.js", "chat.js", "attention.js")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(models: Mapping[str, Served], settings: Settings) -> list[Route]:
    """Routes of the page, each to an `Endpoint`: its files are `open`, its data is not."""
    return [Route(one.path, one, methods=[one.method]) for one in (*_files(), *endpoints(models))]


def _files() -> list[Endpoint]:
    folder = Path(__file__).parent
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in OWN}
    texts |= {name: explorer.asset(name) for name in (*explorer.STYLES, *explorer.SCRIPTS)}
    index = (folder / "index.html").read_text(encoding="utf-8")
    return [_file("/", "index.html", index), *(_file(f"/page/{name}", name, text) for name, text in texts.items())]


def _file(path: str, name: str, text: str) -> Endpoint:
    content = text.encode("utf-8")
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    # no-cache: kept, and asked for again with the tag, so that a new version is never mixed with an old one.
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": tag}
    media_type = _TYPES[Path(name).suffix]

    async def answer(call: Call) -> Response:
        known: Any = dict(call.scope["headers"]).get(b"if-none-match", b"")
        if known.decode("latin-1") == tag:
            return Response(None, 304, headers)
        return Response(content, 200, headers, media_type)

    return Endpoint(path, answer, f"The page: {name}", method="GET", open=True)

"""An interactive view of attention weights: one HTML file that needs nothing else, an output of a notebook, a page.

Users call `explore`; `transformer-fast attend -o attention.html` does. The server's page loads the same scripts
(`SCRIPTS`, in this order) and styles, and sends what `encoding.encoded` makes:

    theme.css, theme.js       colours of both themes, controls
    weights.js                decodes the weights
    overview.js               all heads
    lines.js, heatmap.js      one head: a further view is a file here and a line in `views()` of explorer.js
    explorer.js, explorer.css puts them together
    start.js                  starts it in a file of its own

The scripts are plain ones that a browser runs as they are. Tokens reach the page as JSON and are only set as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformer_fast.visualize.explorer.encoding import encoded
from transformer_fast.visualize.inputs import readable

STYLES = ("theme.css", "explorer.css")
SCRIPTS = ("theme.js", "weights.js", "overview.js", "lines.js", "heatmap.js", "explorer.js")


@cache
def asset(name: str) -> str:
    """The text of one of the files above."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


class Explorer:
    """What `explore` returns: shown by a notebook when it is a cell's value, written by `save`, text by `html`."""

    def __init__(self, data: dict[str, Any], title: str, height: int) -> None:
        self.data = data
        self.title = title
        self.height = height

    def html(self) -> str:
        """One HTML document with its styles, scripts and weights; it asks no host for anything.

        A policy inside lets no other script run, whatever the tokens and the title are.
        """
        style = "\n".join(asset(name) for name in STYLES)
        script = "\n".join(asset(name) for name in (*SCRIPTS, "start.js"))
        # As \u003c a "<" is no end of the script element that the data stands in.
        data = json.dumps(self.data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
        policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
        title = html.escape(self.title)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n'
            f'<main class="explorer-page">\n<h1>{title}</h1>\n<div id="explorer"></div>\n</main>\n'
            f'<script type="application/json" id="attention">{data}</script>\n'
            f"<script>{script}</script>\n</body>\n</html>\n"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `html()` as UTF-8. Raises OSError."""
        Path(path).write_text(self.html(), encoding="utf-8", newline="\n")

    def _repr_html_(self) -> str:
        # A frame without the page's origin: several of them in a notebook share neither names nor styles.
        document = html.escape(self.html(), quote=True)
        return (
            f'<iframe srcdoc="{document}" sandbox="allow-scripts" title="{html.escape(self.title, quote=True)}" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{entry['layers']} x {entry['heads']} heads of {len(entry['queries'])} x {len(entry['keys'])} tokens"
            for entry in self.data["maps"]
        )
        return f"<Explorer: {shapes}; {len(self.html().encode()) / 1000:,.0f} kB>"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def explore(
    attentions: Any,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    special_tokens: Collection[str] | None = None,
    view: str = "lines",
    layer: int | None = None,
    head: int | None = None,
    bits: int | None = None,
    title: str = "Attention",
    height: int = 760,
) -> Explorer:
    """Attention weights to look around in: all heads at once, one as lines or cells, each token's links with numbers.

    The value of a notebook's cell shows it; `save("attention.html")` writes one file that any browser shows without a
    server or a connection. It has keyboard control, labels for screen readers and a dark theme.

    Args:
        attentions: (Lq, Lk) of one head, (H, Lq, Lk) of one layer, or a sequence over layers of (H, Lq, Lk), which may
            have a batch axis of 1: the `attentions` of a model's output. Several kinds of attention, as those of an
            encoder-decoder: a mapping of names to (attentions, tokens) or (attentions, tokens, key_tokens), which
            `pipelines.text_attention` makes.
        tokens: Lq labels of the queries; positions without them.
        key_tokens: Lk labels of the keys. By default `tokens` where Lq = Lk, else positions.
        special_tokens: the tokens that "Hide special tokens" hides; by default those written as [CLS] or <s> are.
            Weights are not scaled when tokens are hidden.
        view: "lines" or "heatmap", what is shown first.
        layer, head: what is shown first; by default head 0 of the last layer.
        bits: of a weight. 16 show three digits; 8 are half the size, within 0.4 % of the largest of their row. By
            default 16 up to 2 million weights (5.3 MB), and 8 beyond.
        title: the document's.
        height: of the frame in a notebook, in pixels.

    Raises:
        ValueError, TypeError: weights are negative or not finite, shapes do not fit, more than 64 million weights, or
            an option has another value than these.

    Example:
        >>> from transformer_fast import visualize
        >>> explorer = visualize.explore([[0.9, 0.1], [0.3, 0.7]], ["it", "rains"])
        >>> explorer.html().startswith("<!DOCTYPE html>")
        True
    """
    if isinstance(attentions, Mapping):
        if tokens is not None or key_tokens is not None:
            raise ValueError("attentions is a mapping, whose entries have their tokens; needed: no tokens beside it")
        maps = attentions
    else:
        maps = {"attention": (attentions, tokens, key_tokens)}
    data = encoded(maps, special_tokens=special_tokens, bits=bits, view=view, layer=layer, head=head)
    return Explorer(data, readable(title), height)

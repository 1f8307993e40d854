"""Links of pages to files outside of docs/, and pages whose text stands there.

Pages are read on the site and in the repository: their links are paths between files. A path that leaves docs/ becomes
the page that shows this file (`PAGES`), or a copy of it to download; a link whose text is a page's file name gets its
title. A page in `PAGES` needs a file in docs/ that says where its text comes from.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Page of the site -> the file of the repository that has its text.
PAGES = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "examples": "examples/README.md",
    "benchmarks/method": "benchmarks/README.md",
    "benchmarks/graniterapids": "benchmarks/results/graniterapids/README.md",
    "benchmarks/zen3": "benchmarks/results/zen3/README.md",
    "benchmarks/zen4": "benchmarks/results/zen4/README.md",
    "benchmarks/zen5": "benchmarks/results/zen5/README.md",
}

_LINK = re.compile(r"\[([^\]\[]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def _rewritten(text: str, file: Path, page: Path, docs: Path, pages: dict[Path, Path]) -> str:
    """The text of `file` with links that lead from `page` to where they are meant to."""

    def replace(match: re.Match) -> str:
        target = (file.parent / match[2]).resolve()
        if target.is_dir():
            target /= "README.md"
        target = pages.get(target, target)
        text = "" if match[1].endswith(".md") and target.is_relative_to(docs) else match[1]
        return f"[{text}]({os.path.relpath(target, page.parent)}{match[3] or ''})"

    return _LINK.sub(replace, text)


def _read(app, docname: str, content: list[str]) -> None:
    docs = Path(app.srcdir).resolve()
    root, page = docs.parent, docs / f"{docname}.md"
    file = root / PAGES[docname] if docname in PAGES else page
    if docname in PAGES:
        app.env.note_dependency(str(file))
        content[0] = file.read_text(encoding="utf-8")
    pages = {root / path: docs / f"{name}.md" for name, path in PAGES.items()}
    content[0] = _rewritten(content[0], file, page, docs, pages)


def setup(app) -> dict:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

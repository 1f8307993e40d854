"""Code of README and docs/ that asks a server: tests/project/test_page_code.py runs the rest."""

from __future__ import annotations

import re

import pytest
from servers import KEY
from subprocesses import ROOT

CLIENTS = re.compile(r"^(?:import|from) (?:openai|langchain_openai|cohere)\b", re.MULTILINE)
# What a page says -> what a test may do.
ADDRESS = "http://127.0.0.1:8080"
ANY_KEY = "a key of --api-key-file, or anything"


def blocks() -> list:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for match in re.finditer(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            if CLIENTS.search(match[1]):
                found.append(pytest.param(match[1], id=f"{path.stem}-{len(found)}"))
    return found


@pytest.mark.parametrize("code", blocks())
def test_block(code, server):
    assert ADDRESS in code, "the address that serve has by default"
    exec(code.replace(ADDRESS, server.url).replace(ANY_KEY, KEY), {"__name__": "__main__"})

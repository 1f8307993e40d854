"""The form of the tutorial's pages; the site's build runs their cells and stops at the first that fails.

Each figure says in words what it shows, each page ends with questions and sources, and what a page states in numbers is
checked by a cell that is not shown. A page that has none of these fails here.
"""

from __future__ import annotations

import re

import pytest
from subprocesses import ROOT

FOLDER = ROOT / "docs" / "tutorial"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
_CELL = re.compile(r"^```\{code-cell\} python\n((?::[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(page: str) -> list[tuple[str, str]]:
    """(options, code) of each cell."""
    return _CELL.findall((FOLDER / f"{page}.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_described(page):
    figures = [code for _, code in cells(page) if re.search(r"^figure = ", code, re.MULTILINE)]
    assert figures
    for code in figures:
        assert "figure.set_label(" in code and code.endswith("\nfigure\n"), code


@pytest.mark.parametrize("page", PAGES)
def test_hidden_cells_check(page):
    hidden = [code for options, code in cells(page) if "remove-cell" in options]
    assert hidden and all("assert " in code for code in hidden)
    shown = [code for options, code in cells(page) if "remove-cell" not in options]
    assert not any(re.search(r"^assert ", code, re.MULTILINE) for code in shown)


@pytest.mark.parametrize("page", PAGES)
def test_page_ends_with_questions_and_sources(page):
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[-2:] == ["Try", "Sources"]
    questions, sources = text.split("\n## Try\n")[1].split("\n## Sources\n")
    assert 2 <= len(re.findall(r"^\d\. ", questions, re.MULTILINE)) <= 3
    assert "arXiv:" in sources

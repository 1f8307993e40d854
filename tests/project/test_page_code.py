"""The code of README and docs/ runs: every block ```python, with small models in place of those that a page names.

Blocks of a page run in order in one namespace, in a folder of their own; so do the cells of pages that the site
executes (docs/conf.py), where plain blocks follow them. Prompts (>>>) are checked by test_doctests.py. What a page
takes as given (texts, queries) stands in `GIVEN`; blocks that need what the suite does not install are run elsewhere
(`ELSEWHERE`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from subprocesses import ROOT

from transformer_fast import weights

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

from hub_models import MODELS, write_llama_gguf  # noqa: E402

TEXTS = ["the cat sat on the mat.", "dog", "The Cat ran, far!", "the dog ran far"]


def _minilm(page: Path) -> dict:
    from transformer_fast import CrossEncoder, SentenceEncoder

    return {
        "encoder": SentenceEncoder.from_pretrained("all-MiniLM-L6-v2"),
        "reranker": CrossEncoder.from_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2"),
        "texts": TEXTS,
        "pairs": [(TEXTS[0], text) for text in TEXTS],
        "SentenceEncoder": SentenceEncoder,
    }


def _loader(page: Path) -> dict:
    from transformer_fast import load_model

    return {"load_model": load_model}


def _pickled(page: Path) -> dict:
    """bge-m3's pickles, which a block turns into safetensors."""
    torch = pytest.importorskip("torch")
    Path("bge-m3").mkdir()
    for name in ("pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt"):
        torch.save({"weight": torch.zeros(2, 2)}, f"bge-m3/{name}")
    return {}


# Page -> a function that gives the names that it takes as given, called in the folder in which its blocks run.
GIVEN = {
    "docs/low_precision.md": _loader,
    "docs/howto/gguf.md": lambda page: {"file": write_llama_gguf(Path("model.gguf"))},
    "docs/howto/models.md": _minilm,
    "docs/howto/processes.md": _minilm,
    "docs/howto/sentence_transformers.md": _pickled,
    "docs/howto/search.md": lambda page: {"np": np, "documents": TEXTS, "question": "cat", "queries": ["dog", "cat"]},
}
# Imports of blocks that tests/oracle/test_indexes.py and, for the clients of a server, tests/clients/test_pages.py run.
ELSEWHERE = ("faiss", "usearch", "hnswlib", "openai", "langchain_openai", "cohere")
# What a page says -> what a test may do.
INSTEAD = {"/var/cache/transformer_fast": "packed", '["cpu"] * 4': '["cpu"] * 2'}
# Pages whose code takes seconds: processes that start.
SLOW = ("docs/howto/processes.md",)

_BLOCK = re.compile(r"^```(?:python|\{code-cell\} python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FOREIGN = re.compile(r"^(?:import|from) (torch|transformers|safetensors\.torch)\b", re.MULTILINE)


def blocks(page: str) -> list[tuple[int, str]]:
    """(line, code) of each block of Python that is no example with prompts."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in _BLOCK.finditer(text)]
    return [(line, re.sub(r"^:tags:.*\n", "", code)) for line, code in found if not code.startswith(">>>")]


def runs_elsewhere(code: str) -> bool:
    return any(f"import {package}" in code or f"from {package}" in code for package in ELSEWHERE)


def pages() -> Iterator:
    """Those that have a plain block to run here; one that imports torch is a live comparison's."""
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in sorted(path.relative_to(ROOT).as_posix() for path in files):
        plain = "```python\n" in re.sub(r"```python\n>>>", "", (ROOT / page).read_text(encoding="utf-8"))
        if plain and not all(runs_elsewhere(code) for _, code in blocks(page)):
            foreign = any(_FOREIGN.search(code) for _, code in blocks(page))
            yield pytest.param(page, marks=[pytest.mark.oracle] * foreign + [pytest.mark.slow] * (page in SLOW))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """`snapshot_download` of the small models; each is written once."""
    root = tmp_path_factory.mktemp("hub")

    def download(name: str, **_) -> str:
        folder = root / name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            MODELS[name](folder)
        return str(folder)

    return download


@pytest.mark.parametrize("page", list(pages()))
def test_code_of_page(page, hub, tmp_path, monkeypatch):
    import huggingface_hub

    if "find_minilm" in (ROOT / page).read_text(encoding="utf-8"):
        try:
            weights.find_minilm()
        except ValueError as error:
            pytest.skip(str(error))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__", **GIVEN.get(page, lambda page: {})(page)}
    ran = 0
    for line, code in blocks(page):
        if runs_elsewhere(code):
            continue
        for said, instead in INSTEAD.items():
            code = code.replace(said, instead)
        # Empty lines before it: an error names the page's own line.
        exec(compile("\n" * (line - 1) + code, page, "exec"), names)
        ran += 1
    assert ran


def test_every_block_says_what_it_is():
    """A block that is not Python says what it is, so that none is left out for want of a word."""
    languages = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        opened = re.findall(r"^(?:```|:::)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        languages |= {info.strip() for info in opened}
    known = {
        "python",
        "{code-cell} python",
        "{eval-rst}",
        "{toctree}",
        "sh",
        "text",
        "dockerfile",
        "ini",
        "yaml",
        "nginx",
    }
    assert languages <= known

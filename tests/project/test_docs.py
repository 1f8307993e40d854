"""The documentation site's sources: every page is reachable, every link leads somewhere, every public name is listed.

`make docs` builds the site and would find dead links, too; this needs no Sphinx. The code of pages: test_page_code.py.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from subprocesses import ROOT

DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"  # which an sdist does not have
# The modules whose `__all__` is public. `integrations` imports torch: its names are compared as they are written.
MODULES = (
    "accuracy",
    "audio",
    "functional",
    "generation",
    "integrations",
    "masks",
    "models",
    "nn",
    "pipelines",
    "server",
    "serving",
    "tokenization",
    "util",
    "vision",
    "visualize",
    "weights",
)

PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not path.relative_to(DOCS).parts[0].startswith("_")]
READ_ON_ITS_OWN = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "benchmarks/README.md")
]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_there(path: Path) -> bool:
    """Is it a part of this tree, which may be that of an sdist?"""
    return RESULTS.is_dir() or not path.is_relative_to(RESULTS)


def toctree(page: Path) -> set[Path]:
    """The pages that the toctrees of a page name."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    entries = [line.strip() for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    named = [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries]
    return {(page.parent / f"{name}.md").resolve() for name in named}


def test_every_page_is_in_one_toctree():
    reached, left = {DOCS / "index.md"}, [DOCS / "index.md"]
    while left:
        for page in toctree(left.pop()):
            assert page not in reached, f"{named(page)} is in two toctrees"
            reached.add(page)
            left.append(page)
    assert reached == set(PAGES)


@pytest.mark.parametrize("page", [*PAGES, *READ_ON_ITS_OWN], ids=named)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", text):
        path = (page.parent / target).resolve()
        assert path.exists() or not is_there(path), f"{named(page)} links to {target}"


def test_readme_fits_a_screen_and_a_half_and_has_its_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 110
    assert re.search(r"^make demo ", text, re.MULTILINE) and re.search(r"^make test ", text, re.MULTILINE)
    assert not re.search(r"^\|", text, re.MULTILINE), "tables of figures are in docs/performance.md"


def test_pages_that_show_a_file_name_it():
    """A page whose text stands elsewhere in the repository links to it, for readers of the repository."""
    source = (DOCS / "_ext" / "repository_links.py").read_text(encoding="utf-8")
    shown = dict(re.findall(r'^    "([\w/]+)": "([\w/.]+)",$', source, re.MULTILINE))
    assert {"changelog", "contributing"} <= set(shown)
    for page, file in shown.items():
        assert (ROOT / file).is_file() or not is_there(ROOT / file)
        assert f"[{file}](" in (DOCS / f"{page}.md").read_text(encoding="utf-8")


def in_the_reference() -> set[str]:
    """The full names that `.. public::` blocks of the reference list."""
    found = set()
    for page in (DOCS / "reference").glob("*.md"):
        for block in re.findall(r"\.\. public:: (.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            module, *names = block.split()
            found |= {f"{module}.{name}" for name in names}
    return found


def objects(names: set[str]) -> set[int]:
    return {id(getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])) for name in names}


def test_every_public_name_is_in_the_reference():
    """Under one of its names: `KeyRanges` is one of functional and of masks."""
    listed = in_the_reference()
    here = {name for name in listed if ".integrations." not in name}
    documented = objects(here)
    for module in MODULES:
        for name in import_module(f"transformer_fast.{module}").__all__:
            full = f"transformer_fast.{module}.{name}"
            assert full in listed or (module != "integrations" and objects({full}) <= documented), full


def test_names_of_the_package_are_in_the_reference():
    package = import_module("transformer_fast")
    modules = {"functional", "masks", "models", "nn", "util", "visualize"}
    documented = objects({name for name in in_the_reference() if ".integrations." not in name})
    for name in set(package.__all__) - modules - {"__version__"}:
        assert id(getattr(package, name)) in documented, name


def test_modules_with_public_names_are_known():
    """A module beside the rooms that gets an `__all__` gets a page, too."""
    package = Path(import_module("transformer_fast").__file__).parent
    paths = [*package.glob("*.py"), *package.glob("*/__init__.py")]
    public = {
        path.stem if path.stem != "__init__" else path.parent.name
        for path in paths
        if path.parent != package or path.stem != "__init__"
        if re.search(r"^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert public == set(MODULES)

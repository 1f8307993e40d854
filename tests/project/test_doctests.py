"""Every example in the package's docstrings and in docs/ runs and prints what stands there; every public block and op
has one.

Examples are short because they may use what stands in `NAMES` without importing it. A module that cannot be imported,
or whose examples cannot run, without something that is not installed gets a line in `NEEDS`.
"""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
from importlib import import_module

import numpy as np
import pytest
from subprocesses import ROOT

import transformer_fast
from transformer_fast import functional, masks, nn

# What an example may use as it is.
NAMES = {"np": np, "tf": transformer_fast, "nn": nn, "F": functional}

# Module -> the packages that it, or its examples, cannot do without; where they are missing it is left out. torch is
# loaded by tests marked `oracle` alone.
NEEDS = {
    "transformer_fast.integrations.huggingface": ("torch", "transformers"),
    "transformer_fast.integrations.torch": ("torch",),
    "transformer_fast.files.pictures": ("PIL",),
}

PACKAGE = transformer_fast.__name__
MODULES = [PACKAGE, *sorted(found.name for found in pkgutil.walk_packages(transformer_fast.__path__, f"{PACKAGE}."))]


@pytest.fixture(autouse=True)
def settings():
    """NumPy prints four digits, whatever other tests have set."""
    with np.printoptions(precision=4, suppress=True, linewidth=120, legacy=False):
        yield


def marked(name):
    return pytest.param(name, marks=pytest.mark.oracle) if "torch" in NEEDS.get(name, ()) else name


@pytest.mark.parametrize("name", [marked(name) for name in MODULES])
def test_examples_of_module(name):
    missing = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(import_module(name), name):
        test.globs.update(NAMES)
        nn.manual_seed(0)  # a model with other weights may write a shorter text
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


PAGES = sorted(
    page.relative_to(ROOT / "docs").as_posix()
    for page in (ROOT / "docs").rglob("*.md")
    if ">>> " in page.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_page(page):
    # A code block ends at its fence, which doctest would take for output.
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, dict(NAMES), page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert test.examples and not runner.failures, "".join(report)


def test_needs_names_modules_that_are_there():
    assert set(NEEDS) <= set(MODULES)


PUBLIC = [(module, name) for module in (nn, functional, masks) for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_public_name_has_an_example(module, name):
    text = getattr(module, name).__doc__ or ""
    assert "Example:\n" in text and ">>> " in text, f"{module.__name__}.{name}: its docstring needs `Example:` with >>>"

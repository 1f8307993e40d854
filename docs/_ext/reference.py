"""Directives of the reference pages, for {eval-rst} blocks; what they list comes from the package.

`.. public:: MODULE` and names, one a line: autodoc's entry of each. `.. families::`: the classes of all model families.
`.. exported:: MODULE`: links to the entries of its `__all__`. `.. commands::`: the help text of each command.
tests/project/test_docs.py checks that no public name is missing.
"""

from __future__ import annotations

import argparse
import inspect
from importlib import import_module
from itertools import groupby
from typing import Any

from docstrings import targets
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.autodoc.mock import mock
from sphinx.util.docutils import SphinxDirective

from transformer_fast import cli, models

# What `integrations` imports. Where it is not installed, signatures and docstrings can be read all the same.
FOREIGN = ["torch", "transformers"]
# Columns of help texts: those of the text's width on the site.
_HELP_WIDTH = 84


def _entry(module: str, name: str, members: bool = True) -> list[str]:
    """The autodoc directive of one name."""
    with mock(FOREIGN):
        obj: Any = getattr(import_module(module), name)
    if not inspect.isclass(obj):
        return [f".. auto{'function' if callable(obj) else 'data'}:: {module}.{name}", ""]
    kind = "exception" if issubclass(obj, BaseException) else "class"
    return [f".. auto{kind}:: {module}.{name}", *(["   :members:"] if members else []), ""]


class _Written(SphinxDirective):
    """A directive that stands for the reStructuredText of `lines`."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        node = nodes.section()
        node.document = self.state.document
        content = StringList(self.lines(), source=self.get_source_info()[0])
        self.state.nested_parse(content, self.content_offset, node, match_titles=True)
        return node.children


class Public(_Written):
    required_arguments = 1
    has_content = True

    def lines(self) -> list[str]:
        return [line for name in self.content if name.strip() for line in _entry(self.arguments[0], name.strip())]


class Families(_Written):
    def lines(self) -> list[str]:
        classes = sorted(models._FILES.items(), key=lambda item: (item[1], item[0]))
        written: list[str] = []
        for file, names in groupby(classes, key=lambda item: item[1]):
            written += [f".. rubric:: {file}", ""]
            for name, _ in names:
                written += _entry("transformer_fast.models", name, members=False)
        return written


class Exported(_Written):
    required_arguments = 1

    def lines(self) -> list[str]:
        names = [name for name in import_module(self.arguments[0]).__all__ if name != "__version__"]
        known = targets()
        linked = [f":py:obj:`{name} <{known[name]}>`" if name in known else f"``{name}``" for name in names]
        return [", ".join(linked) + "."]


class Commands(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        parser = cli._parser()
        (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        found: list[nodes.Node] = []
        for name, command in subparsers.choices.items():
            command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=_HELP_WIDTH)
            text = command.format_help()
            section = nodes.section(ids=[f"command-{name}"])
            section += nodes.title(text=name)
            section += nodes.literal_block(text, text, language="text")
            found.append(section)
        return found


def setup(app) -> dict:
    for directive in (Public, Families, Exported, Commands):
        app.add_directive(directive.__name__.lower(), directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

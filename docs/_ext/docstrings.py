"""The reference from docstrings as this project writes them, which are plain text and no reStructuredText.

`.. public:: MODULE` (in an {eval-rst} block) lists names, one a line, and puts autodoc's entry of each there.
`_process` turns a docstring into reStructuredText: `x` is code, or a link where x is a public name; lines that begin with
an argument's name and a colon become a list; blocks under a line that ends in a colon ("Args:", "Raises:", "Example:")
become a field; other indented blocks stay as they are. A new form of docstring goes into `_blocks`.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.autodoc.mock import mock
from sphinx.util.docutils import SphinxDirective

# The modules whose `__all__` is public; a name that several have is documented where it comes first here.
MODULES = (
    "functional",
    "nn",
    "masks",
    "models",
    "generation",
    "pipelines",
    "util",
    "visualize",
    "integrations",
)
# What `integrations` imports. Where it is not installed, signatures and docstrings can be read all the same.
FOREIGN = ["torch", "transformers"]

_CODE = re.compile(r"`([^`]+)`")
_SPECIAL = re.compile(r"[\\*|`]|_(?!\w)")
_SECTION = re.compile(r"([A-Z][^:]*):$")
_ITEM = re.compile(r"(\w+(?:, \w+)*)( \([^)]*\))?: ")


def _targets() -> dict[str, str]:
    """Public name -> the full name under which the reference has it."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name in import_module(f"transformer_fast.{module}").__all__:
            found.setdefault(name, f"transformer_fast.{module}.{name}")
            found.setdefault(f"{module}.{name}", f"transformer_fast.{module}.{name}")
    return found


def _inline(text: str, targets: dict[str, str]) -> str:
    """One paragraph's text: code in backticks, and nothing else that reStructuredText would interpret."""

    def code(match: re.Match) -> str:
        target = targets.get(match[1])
        return f":py:obj:`{match[1]} <{target}>`" if target else f"``{match[1]}``"

    pieces = re.split(r"(`[^`]+`)", text)  # text, code, text, ...
    plain = [_SPECIAL.sub(r"\\\g<0>", piece) for piece in pieces[::2]]
    written = [_CODE.sub(code, piece) for piece in pieces[1::2]]
    return "".join(part for pair in zip(plain, [*written, ""], strict=True) for part in pair)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _items(lines: list[str], targets: dict[str, str]) -> list[str]:
    """A list of what begins at the least indentation; deeper lines go on with the item before."""
    items: list[list[str]] = []
    for line in inspect.cleandoc("\n" + "\n".join(lines)).splitlines():
        if items and (not line or line.startswith(" ")):
            items[-1].append(line.strip())
        else:
            items.append([line])
    written = []
    for item in items:
        text = " ".join(item).strip()
        match = _ITEM.match(text)
        if match:
            names = ", ".join(f"``{name}``" for name in match[1].split(", "))
            text = f"{names}{_inline(match[2] or '', targets)}: {_inline(text[match.end() :], targets)}"
        else:
            text = _inline(text, targets)
        written.append(f"* {text}")
    return written


def _blocks(lines: list[str], names: set[str], targets: dict[str, str]) -> list[str]:
    """The docstring's paragraphs and blocks, each followed by an empty line."""
    written: list[str] = []
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        end = i + 1
        section = _SECTION.match(lines[i])
        if section or lines[i].startswith(" "):
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
                end += 1
            block = lines[i:end] if not section else lines[i + 1 : end]
            block = inspect.cleandoc("\n" + "\n".join(block)).splitlines()
            if section and block and section[1] == "Example":
                written += [".. rubric:: Example", "", ".. code-block:: python", "", *_indented(block), ""]
            elif section and block:
                written += [f":{_inline(section[1], targets)}:", *_indented(_items(block, targets)), ""]
            elif section:
                written += [_inline(lines[i], targets), ""]
            else:
                written += ["::", "", *_indented(block), ""]
        else:
            while end < len(lines) and lines[end].strip() and not _SECTION.match(lines[end]):
                end += 1
            written += [*_paragraph(lines[i:end], names, targets), ""]
        i = end
    return written


def _paragraph(lines: list[str], names: set[str], targets: dict[str, str]) -> list[str]:
    """Text as it is, and lists where lines begin with "- " or with the names of arguments and a colon."""
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        match = _ITEM.match(line)
        if line.startswith("- "):
            groups.append(("*", [line[2:]]))
        elif match and set(match[1].split(", ")) <= names:
            groups.append(("argument", [line]))
        elif groups:
            groups[-1][1].append(line.strip())
        else:
            groups.append(("", [line]))
    written: list[str] = []
    for kind, group in groups:
        if written and not (kind and written[-1].startswith("* ")):
            written.append("")
        text = " ".join(group)
        if kind == "argument":
            written += _items([text], targets)
        else:
            written.append(f"* {_inline(text, targets)}" if kind else _inline(text, targets))
    return written


def _argument_names(obj: Any) -> set[str]:
    try:
        return set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return set()


class Public(SphinxDirective):
    """`.. public:: MODULE`, and names one a line: the entries of these names."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        lines: list[str] = []
        for name in filter(None, map(str.strip, self.content)):
            with mock(FOREIGN):
                obj = getattr(import_module(module), name)
            if inspect.isclass(obj):
                kind = "exception" if issubclass(obj, BaseException) else "class"
                lines += [f".. auto{kind}:: {module}.{name}", "   :members:", ""]
            else:
                lines += [f".. auto{'function' if callable(obj) else 'data'}:: {module}.{name}", ""]
        return self.parse_content_to_nodes() if not lines else self._parsed(lines)

    def _parsed(self, lines: list[str]) -> list[nodes.Node]:
        node = nodes.Element()
        node.document = self.state.document
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, node)
        return node.children


def _process(app, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _blocks(list(lines), _argument_names(obj), app.transformer_fast_targets)


def setup(app) -> dict:
    app.transformer_fast_targets = _targets()
    app.add_directive("public", Public)
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

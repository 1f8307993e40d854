"""Docstrings as this project writes them, which are plain text, turned into reStructuredText for autodoc.

`x` is code, or a link where x is a public name; docs/x.md is a link; lines that begin with an argument's name and a
colon become a list; blocks under a line that ends in a colon ("Args:", "Raises:", "Example:") become a field; other
indented blocks stay as they are. Autodoc calls `_process` for each entry of the reference. A new form of docstring
goes into `_blocks`.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from importlib import import_module
from typing import Any

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
    "tokenization",
    "vision",
    "audio",
    "weights",
    "accuracy",
)

_CODE = re.compile(r"`([^`]+)`")
_PAGE = re.compile(r"(?<![\w/])docs/([\w/]+)\.md")
_SPECIAL = re.compile(r"[\\*|`]|_(?!\w)")
_SECTION = re.compile(r"([A-Z][^:]*):$")
_ITEM = re.compile(r"(\w+(?:, \w+)*)( \([^)]*\))?: ")
_SENTENCE = re.compile(r"(?<=[.;]) (?=\w+(?:, \w+)*(?: \([^)]*\))?: )")


@cache
def targets() -> dict[str, str]:
    """Public name -> the full name under which the reference has it."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name in import_module(f"transformer_fast.{module}").__all__:
            found.setdefault(name, f"transformer_fast.{module}.{name}")
            found.setdefault(f"{module}.{name}", f"transformer_fast.{module}.{name}")
    return found


def _inline(text: str) -> str:
    """One paragraph's text: code in backticks, and nothing else that reStructuredText would interpret."""

    def code(match: re.Match) -> str:
        target = targets().get(match[1])
        return f":py:obj:`{match[1]} <{target}>`" if target else f"``{match[1]}``"

    pieces = re.split(r"(`[^`]+`)", text)  # text, code, text, ...
    plain = [_PAGE.sub(r":doc:`/\1`", _SPECIAL.sub(r"\\\g<0>", piece)) for piece in pieces[::2]]
    written = [_CODE.sub(code, piece) for piece in pieces[1::2]]
    return "".join(part for pair in zip(plain, [*written, ""], strict=True) for part in pair)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _items(lines: list[str]) -> list[str]:
    """A list of what begins with a name and a colon; other lines go on with the item before."""
    items: list[list[str]] = []
    for line in inspect.cleandoc("\n" + "\n".join(lines)).splitlines():
        if items and not _ITEM.match(line):
            items[-1].append(line.strip())
        else:
            items.append([line])
    written = []
    for item in items:
        text = " ".join(item).strip()
        match = _ITEM.match(text)
        if match:
            names = ", ".join(f"``{name}``" for name in match[1].split(", "))
            text = f"{names}{_inline(match[2] or '')}: {_inline(text[match.end() :])}"
        else:
            text = _inline(text)
        written.append(f"* {text}")
    return written


def _blocks(lines: list[str], names: set[str]) -> list[str]:
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
                written += [".. rubric:: Example", "", ".. code-block:: pycon", "", *_indented(block), ""]
            elif section and block:
                written += [f":{_inline(section[1])}:", *_indented(_items(block)), ""]
            elif section:
                written += [_inline(lines[i]), ""]
            else:
                written += ["::", "", *_indented(block), ""]
        else:
            while end < len(lines) and lines[end].strip() and not _SECTION.match(lines[end]):
                end += 1
            written += [*_paragraph(lines[i:end], names), ""]
        i = end
    return written


def _separate(lines: list[str], names: set[str]) -> list[str]:
    """The lines, and a line of its own for an argument that is told in the middle of one."""
    separate: list[str] = []
    for line in lines:
        first, *others = _SENTENCE.split(line)
        separate.append(first)
        for sentence in others:
            if set(_ITEM.match(sentence)[1].split(", ")) <= names:
                separate.append(sentence)
            else:
                separate[-1] += f" {sentence}"
    return separate


def _paragraph(lines: list[str], names: set[str]) -> list[str]:
    """Text as it is, and lists where lines begin with "- " or with the names of arguments and a colon."""
    groups: list[tuple[str, list[str]]] = []
    for line in _separate(lines, names):
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
            written += _items([text])
        else:
            written.append(f"* {_inline(text)}" if kind else _inline(text))
    return written


def _argument_names(obj: Any) -> set[str]:
    try:
        return set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return set()


def _process(app, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _blocks(list(lines), _argument_names(obj))


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

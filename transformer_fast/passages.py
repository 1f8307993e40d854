"""Passages of text with their places: what `transformer-fast search` looks through, and `compare` runs.

Called by commands/search.py, commands/compare.py and benchmarks/artifacts.py. Three sources: the docstrings of Python's
own standard library (real text that every machine has), the docstrings of any Python file, and the paragraphs of any
text file. A new kind of file is a function `path, root -> list of passages` and a line in `_READERS`.
"""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import warnings
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Never what somebody wrote in this folder: caches and installed packages. Hidden folders are left out as well.
_NOT_SOURCES = frozenset(["__pycache__", "site-packages", "dist-packages", "node_modules"])
# Besides these, folders of the standard library that hold no documentation: tests and bundled programs.
_NOT_LIBRARY = _NOT_SOURCES | {"_bundled", "idlelib", "lib-dynload", "lib2to3", "test", "tests", "turtledemo"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PARAGRAPH_BREAK = re.compile(r"\n[ \t\f\v]*\n\s*")


@dataclass(frozen=True, slots=True)
class Passage:
    """One piece of text. `name` is the qualified Python name, or empty for a paragraph; `line` counts from 1."""

    text: str
    name: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """The place of the passage: `gzip.open (gzip.py:29)`, or `notes.txt:12` where there is no name."""
        position = f"{self.file}:{self.line}"
        return f"{self.name} ({position})" if self.name else position


@dataclass(frozen=True, slots=True)
class Collection:
    """Passages, the folder that their `file` is relative to, and the files that could not be read, with the reason."""

    passages: list[Passage]
    root: Path
    skipped: list[tuple[Path, str]]


def standard_library() -> Collection:
    """The docstrings of the public modules, classes and functions of the running Python's standard library.

    Equal docstrings (inherited, or copied between modules) appear once. Raises FileNotFoundError where the library's
    sources are not on the disk, as in some embedded distributions.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = (file for file in _walk(root, {".py"}, _NOT_LIBRARY) if _is_public_module(file.relative_to(root)))
    collection = _collect(files, root)
    passages = [passage for passage in collection.passages if _is_public_name(passage.name)]
    if not passages:
        raise FileNotFoundError(f"no sources of the standard library in {root}; give a file or a folder instead")
    return Collection(_without_repeats(passages), root, collection.skipped)


def sentences(count: int) -> list[str]:
    """`count` different sentences of `standard_library`, spread evenly over it; one Python gives the same each time.

    Raises FileNotFoundError as it does, ValueError where it has fewer.
    """
    found: dict[str, None] = {}
    for passage in standard_library().passages:
        found.update(dict.fromkeys(_SENTENCE_END.split(" ".join(passage.text.split()))))
    if len(found) < count:
        raise ValueError(f"the standard library has {len(found)} sentences; {count} were asked for")
    everything = list(found)
    return [everything[i * len(everything) // count] for i in range(count)]


def from_path(path: str | Path) -> Collection:
    """The passages of a file, or of all files of the known kinds in a folder and its sub-folders.

    Known kinds: .py (docstrings), .txt, .md and .rst (paragraphs). A file that is named directly may have any suffix.
    Raises FileNotFoundError if nothing is there, ValueError if it holds no passage or (a single file) cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        collection = _collect(_walk(path, _READERS, _NOT_SOURCES), path)
    elif path.exists():
        collection = _collect([path], path.parent)
        if collection.skipped:
            raise ValueError(f"{path}: {collection.skipped[0][1]}")
    else:
        raise FileNotFoundError(f"no such file or folder: {path}")
    if not collection.passages:
        raise ValueError(f"{path}: holds no text to search")
    return collection


def docstrings(source: str | bytes, module: str, file: str) -> list[Passage]:
    """The docstrings in one Python source, in their order. `module` and `file` go into the places.

    Raises SyntaxError if this Python cannot parse it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources are not this command's message
        tree = ast.parse(source)
    return list(_docstrings_below(tree, module, file))


def paragraphs(text: str, file: str) -> list[Passage]:
    """The paragraphs of a text: what blank lines separate, each with the line where it starts."""
    found = []
    position, line = 0, 1
    for gap in [*_PARAGRAPH_BREAK.finditer(text), None]:
        end = gap.start() if gap else len(text)
        raw = text[position:end]
        body = raw.strip()
        if body:
            leading = raw[: len(raw) - len(raw.lstrip())]
            found.append(Passage(body, "", file, line + leading.count("\n")))
        if gap:
            line += text.count("\n", position, gap.end())
            position = gap.end()
    return found


def _docstrings_below(node: ast.AST, name: str, file: str) -> Iterator[Passage]:
    text = ast.get_docstring(node)  # type: ignore[arg-type]
    if text and text.strip():
        yield Passage(text.strip(), name, file, getattr(node, "lineno", 1))
    for child in _definitions(node):
        yield from _docstrings_below(child, f"{name}.{child.name}", file)


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of `node`, those under its `if` and `try` included; not those inside another one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
        elif isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from _definitions(child)


def _read_python(path: Path, root: Path) -> list[Passage]:
    relative = path.relative_to(root)
    return docstrings(path.read_bytes(), _module_name(relative), relative.as_posix())


def _read_text(path: Path, root: Path) -> list[Passage]:
    return paragraphs(path.read_text(encoding="utf-8-sig"), path.relative_to(root).as_posix())


_READERS = {".py": _read_python, ".txt": _read_text, ".md": _read_text, ".rst": _read_text}


def _collect(files: Iterable[Path], root: Path) -> Collection:
    passages: list[Passage] = []
    skipped: list[tuple[Path, str]] = []
    for file in files:
        reader = _READERS.get(file.suffix.lower(), _read_text)
        try:
            passages.extend(reader(file, root))
        except UnicodeDecodeError:
            skipped.append((file, "is no text in UTF-8"))
        except (SyntaxError, ValueError, RecursionError) as error:  # ValueError: a source with null bytes
            skipped.append((file, f"cannot be parsed as Python: {error}"))
        except OSError as error:
            skipped.append((file, f"cannot be read: {error.strerror or error}"))
    return Collection(passages, root, skipped)


def _walk(root: Path, suffixes: Container[str], left_out: frozenset[str]) -> Iterator[Path]:
    """The files with these suffixes, in the order of their names; never enters the folders that are left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in left_out)
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix.lower() in suffixes and path.is_file():
                yield path


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def _is_public_module(relative: Path) -> bool:
    return _is_public_name(_module_name(relative))


def _is_public_name(name: str) -> bool:
    return not any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def _without_repeats(passages: list[Passage]) -> list[Passage]:
    first: dict[str, Passage] = {}
    for passage in passages:
        first.setdefault(passage.text, passage)
    return list(first.values())

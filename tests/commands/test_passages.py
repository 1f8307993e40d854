"""Passages: docstrings with their qualified names and lines, paragraphs with theirs, and what is left out."""

from __future__ import annotations

import warnings

import pytest

from transformer_fast import passages
from transformer_fast.passages import Passage, docstrings, paragraphs

SOURCE = '''"""About the module."""

import os


class Reader:
    """Reads."""

    def read(self):
        """Reads all.

        Indented on.
        """

    async def later(self):
        """Reads later."""

    def silent(self):
        pass


if os.name == "posix":

    @staticmethod
    def only_here():
        """Under an if."""

        def inside():
            """Inside a function."""

else:
    try:
        pass
    except ImportError:

        def fallback():
            """Under an except."""
'''


def test_docstrings_have_names_and_lines():
    found = {passage.name: passage for passage in docstrings(SOURCE, "pack.mod", "pack/mod.py")}
    assert list(found) == [
        "pack.mod",
        "pack.mod.Reader",
        "pack.mod.Reader.read",
        "pack.mod.Reader.later",
        "pack.mod.only_here",
        "pack.mod.only_here.inside",
        "pack.mod.fallback",
    ]
    read = found["pack.mod.Reader.read"]
    assert read.text == "Reads all.\n\nIndented on."
    assert SOURCE.splitlines()[read.line - 1].strip() == "def read(self):"
    assert read.place == f"pack.mod.Reader.read (pack/mod.py:{read.line})"
    assert found["pack.mod"].line == 1


def test_docstrings_of_odd_sources():
    assert docstrings("", "m", "m.py") == []
    assert docstrings('"""   """', "m", "m.py") == []
    assert docstrings("b'''no text'''", "m", "m.py") == []
    latin = b"# -*- coding: latin-1 -*-\n'''caf\xe9'''\n"
    assert docstrings(latin, "m", "m.py")[0].text == "café"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert docstrings('"""a"""\nx = "\\d"\n', "m", "m.py")[0].text == "a"
    with pytest.raises(SyntaxError):
        docstrings("def", "m", "m.py")


def test_paragraphs_have_lines():
    text = "\n\n  First,\nstill first.\n\n \t\n\nSecond.\n\nThird\n"
    found = paragraphs(text, "a.txt")
    assert [(passage.text, passage.line) for passage in found] == [
        ("First,\nstill first.", 3),
        ("Second.", 8),
        ("Third", 10),
    ]
    for passage in found:
        assert passage.text.splitlines()[0] in text.splitlines()[passage.line - 1]
    assert found[1].place == "a.txt:8"


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n \n"])
def test_no_paragraphs(text):
    assert paragraphs(text, "a.txt") == []


def test_folder(tmp_path):
    files = {
        "pack/__init__.py": '"""The package."""',
        "pack/mod.py": 'def f():\n    """Does f."""',
        "tests/test_it.py": '"""Tests count in a folder of one\'s own."""',
        "notes.md": "# Notes\n\nA note.",
        "data.bin": "not read",
        "broken.py": "def",
        "latin.txt": None,
        ".hidden/secret.txt": "hidden",
        "pack/__pycache__/mod.py": '"""A cache."""',
        "site-packages/other.py": '"""Somebody else\'s."""',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"caf\xe9" if text is None else text.encode())
    collection = passages.from_path(tmp_path)
    assert collection.root == tmp_path
    assert collection.passages == [
        Passage("# Notes", "", "notes.md", 1),
        Passage("A note.", "", "notes.md", 3),
        Passage("The package.", "pack", "pack/__init__.py", 1),
        Passage("Does f.", "pack.mod.f", "pack/mod.py", 1),
        Passage("Tests count in a folder of one's own.", "tests.test_it", "tests/test_it.py", 1),
    ]
    reasons = {path.name: reason for path, reason in collection.skipped}
    assert sorted(reasons) == ["broken.py", "latin.txt"]
    assert "UTF-8" in reasons["latin.txt"] and "parsed as Python" in reasons["broken.py"]


def test_byte_order_marks_are_no_text(tmp_path):
    for name, content in (("a.txt", "first words\n"), ("b.md", "first words\n"), ("c.py", '"""first words"""\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert [passage.text for passage in passages.from_path(tmp_path / name).passages] == ["first words"]
        assert passages.from_path(tmp_path / name).passages[0].line == 1


def test_single_file_of_any_suffix(tmp_path):
    file = tmp_path / "README"
    file.write_text("One.\n\nTwo.")
    assert [passage.place for passage in passages.from_path(file).passages] == ["README:1", "README:3"]


def test_bad_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        passages.from_path(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no text"):
        passages.from_path(tmp_path)
    (tmp_path / "broken.py").write_bytes(b"x = '\0'")
    with pytest.raises(ValueError, match=r"broken\.py: cannot be parsed"):
        passages.from_path(tmp_path / "broken.py")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.txt: is no text"):
        passages.from_path(tmp_path / "binary.txt")


def test_standard_library():
    collection = passages.standard_library()
    found = {passage.name: passage for passage in collection.passages}
    assert len(collection.passages) >= 2000
    assert len({passage.text for passage in collection.passages}) == len(collection.passages)
    opened = found["gzip.open"]
    line = (collection.root / opened.file).read_text(encoding="utf-8").splitlines()[opened.line - 1]
    assert line.startswith("def open(")
    assert opened.place.startswith("gzip.open (gzip.py:")
    heads = {passage.file.split("/")[0] for passage in collection.passages}
    assert not heads & {"site-packages", "dist-packages", "test", "idlelib"}
    private = [name for name in found for part in name.split(".") if part.startswith("_") and not part.endswith("__")]
    assert not private


def test_standard_library_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(passages.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="no sources of the standard library"):
        passages.standard_library()

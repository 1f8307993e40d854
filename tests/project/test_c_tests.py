"""The C tests (tests/c) call all of the C interface. They are built and run by `make musl` and `make windows`."""

from __future__ import annotations

import re

from subprocesses import ROOT

TESTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "c").glob("*.c")}


def test_every_public_function_is_called():
    header = (ROOT / "csrc" / "tfast.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^[a-z][\w \*]*?\b(tfast_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 40
    called = set(re.findall(r"\b(tfast_\w+)\b", "".join(TESTS.values())))
    assert declared - called == set()


def test_every_group_is_run():
    groups = (ROOT / "tests" / "c" / "groups.h").read_text(encoding="utf-8")
    declared = re.findall(r"void (check_\w+)\(void\);", groups)
    assert re.findall(r'{"\w+", (check_\w+)}', TESTS["main.c"]) == declared

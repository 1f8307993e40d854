"""What setup.py says, without building anything: the extension, and the compiler flags of each instruction set.

Used by the tests that hold the build against the sources: test_layering.py and test_packaging.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import shlex
import sysconfig
from pathlib import Path
from typing import Any

from subprocesses import ROOT


@functools.cache
def _setup_names() -> dict[str, Any]:
    with _chdir(ROOT):
        return runpy.run_path(str(ROOT / "setup.py"))


@contextlib.contextmanager
def _chdir(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def extension() -> Any:
    """The setuptools Extension of transformer_fast._core."""
    return _setup_names()["core"]


def isa_sources() -> list[Path]:
    """The files of csrc/isa that are built on this machine."""
    return [ROOT / source for source in _setup_names()["ISA_SOURCES"].values()]


def optional_isas() -> set[str]:
    """The levels of this machine's kind that a build goes without where the compiler does not know their flags."""
    names = _setup_names()
    return names["OPTIONAL"] & names["ISA_FLAGS"].keys()


def optional_flags() -> set[str]:
    """Of each such level a flag that the levels without which no build succeeds do not have."""
    return {_setup_names()["ISA_FLAGS"][level][-1] for level in optional_isas()}


def compile_command(source: Path, target: Path) -> list[str]:
    """The compiler and flags with which the build compiles a file of csrc/isa."""
    names = _setup_names()
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    flags = [*names["COMMON_FLAGS"], *names["ISA_FLAGS"][source.stem]]
    return [*compiler, "-fPIC", *flags, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(target)]

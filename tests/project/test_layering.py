"""Who may know whom: the rules of docs/architecture.md, held against the import and include lines of the sources.

A new module or folder needs a line in the table here; that is the moment to think about where it belongs.
"""

from __future__ import annotations

import ast
import inspect
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from setup_tables import compile_command, isa_sources, optional_isas
from subprocesses import ROOT

from transformer_fast import _core

PACKAGE = ROOT / "transformer_fast"
CSRC = ROOT / "csrc"

# Room -> the rooms of the package that it may import (a room: a module or a folder of transformer_fast).
PYTHON_ROOMS = {
    "__main__": {"cli"},
    "cli": {"commands"},
    "commands": {
        "commands",
        "accuracy",
        "bench",
        "files",
        "functional",
        "generation",
        "models",
        "passages",
        "util",
        "pipelines",
        "serving",
        "server",
        "visualize",
        "__init__",
    },
    "server": {
        "server",
        "serving",
        "files",
        "functional",
        "generation",
        "models",
        "pipelines",
        "util",
        "visualize",
        "__init__",
    },
    "serving": {"serving", "pipelines", "models", "generation", "nn", "functional", "files", "util"},
    "accuracy": {"accuracy", "pipelines", "models", "nn", "functional", "files"},
    "bench": {"functional", "timing"},
    "visualize": {"visualize"},
    "pipelines": {"pipelines", "models", "nn", "functional", "files", "util"},
    "models": {"models", "generation", "nn", "functional", "files", "masks"},
    "generation": {"generation", "files", "functional"},
    "integrations": {"integrations", "nn", "functional"},
    "files": {"files", "functional"},  # its type of bfloat16
    "nn": {"nn", "functional"},
    "functional": {"functional", "_core", "reference"},  # reference: float64, which only an oracle needs
    "masks": {"masks", "functional"},
    "timing": set(),
    "reference": {"reference"},
    "weights": {"files"},
    "audio": {"files"},
    "vision": {"files"},
    "tokenization": {"files"},
    "passages": {"files"},
    "util": {"util", "functional"},
    "__init__": {"functional", "generation", "masks", "models", "nn", "pipelines", "util", "visualize"},
}
# Imported by one room alone, whose files are imported by nobody else.
FOREIGN_ROOM = "integrations"
FOREIGN = {"torch", "transformers", "sentence_transformers", "onnxruntime", "onnx", "tensorflow", "jax"}

# Folder of csrc -> the folders whose headers it may include; a file's own name narrows that to one header.
C_ROOMS = {
    "base": {"base"},
    "simd": {"simd", "base"},
    "kernels": {"kernels", "simd", "base", "tfast.h"},
    "isa": {"isa", "kernels", "simd", "base"},
    "tuning": {"tuning", "base", "tfast.h"},
    "runtime": {"runtime", "kernels/api.h", "base", "tfast.h"},
    "ops": {"ops", "runtime", "tuning", "kernels/api.h", "base", "tfast.h"},
    "tfast.h": {"base"},
}
INTRINSICS = re.compile(r"(immintrin|x86intrin|[a-z]mmintrin|avx\w*intrin|arm_neon|arm_sve)\.h")
# What differs between systems: their headers, the macros that name them, and functions that not all of them have.
C_HEADERS = {"cpuid.h", "float.h", "limits.h", "math.h", "omp.h", "stddef.h", "stdint.h", "stdlib.h", "string.h"}
SYSTEMS = re.compile(r"\b(__linux__|__linux|__APPLE__|__unix__|_WIN32|_WIN64|__MINGW32__|_MSC_VER|_GNU_SOURCE)\b")
CALLS_OF_SYSTEMS = re.compile(
    r"\b(posix_memalign|aligned_alloc|_aligned_malloc|memalign|setenv|clock_gettime|time|sysconf|sysctlbyname|getauxval|"
    r"syscall|madvise|mmap|fork|usleep|nanosleep|sched_\w+|pthread_\w+|fopen)\s*\("
)
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
C_FILES = sorted(CSRC.rglob("*.[ch]"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(path: Path) -> set[str]:
    """The full names that a file imports, those inside functions included: a module, or a module and a name in it."""
    package = path.parent.relative_to(ROOT).parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports from; a public name of the package itself counts as the room __init__."""
    rooms = set()
    for name in imported_modules(path):
        head, *rest = name.split(".")
        if head == PACKAGE.name and rest != ["__version__"]:
            is_room = rest and (
                rest[0] == "_core" or (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists()
            )
            rooms.add(rest[0] if is_room else "__init__")
    return rooms


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_python_module_imports_only_what_lies_below_it(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in PYTHON_ROOMS, f"{relative(path)}: give the room {room!r} its line in PYTHON_ROOMS"
    allowed = PYTHON_ROOMS[room]
    above = imported_rooms(path) - allowed
    assert not above, f"{relative(path)} may import {sorted(allowed)}, but imports {sorted(above)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models" / "common").glob("*.py")), ids=relative)
def test_what_families_share_knows_no_family(path):
    allowed = (f"{PACKAGE.name}.models.common.",)
    models = f"{PACKAGE.name}.models."
    assert not {name for name in imported_modules(path) if name.startswith(models) and not name.startswith(allowed)}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_other_frameworks_are_imported_in_one_room(path):
    if path.relative_to(PACKAGE).parts[0] == FOREIGN_ROOM:
        return
    heads = {module.split(".")[0] for module in imported_modules(path)}
    assert not heads & FOREIGN


def test_reference_imports_numpy_alone():
    paths = list((PACKAGE / "reference").rglob("*.py"))
    modules = {module for path in paths for module in imported_modules(path)}
    own = {name for name in modules if name.startswith(PACKAGE.name)}
    assert all(name.startswith(f"{PACKAGE.name}.reference.") for name in own)
    standard = {"__future__", "math", "collections", "typing", "functools", "itertools", "transformer_fast"}
    assert {module.split(".")[0] for module in modules} - standard == {"numpy"}


def test_compiled_module_imports_nothing_of_the_package():
    names = ("_core.pyx", "_core_attention.pxi", "_core_linear.pxi", "_core_search.pxi", "_core.pxd")
    source = "".join((PACKAGE / name).read_text(encoding="utf-8") for name in names)
    assert not re.search(r"^\s*(from|import|cimport)\s+transformer_fast", source, re.MULTILINE)
    headers = set(re.findall(r'cdef extern from "([^"]+)"', source))
    # _bfloat16.h is C against NumPy's interface, which csrc does not know.
    assert {Path(header).name for header in headers} == {"tfast.h", "_bfloat16.h"}
    assert "prange" not in source


def test_the_stub_says_what_the_compiled_module_takes():
    stub = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    declared = {node.name: [a.arg for a in node.args.args] for node in stub.body if isinstance(node, ast.FunctionDef)}
    compiled = {
        name: list(inspect.signature(function).parameters)
        for name, function in vars(_core).items()
        if not name.startswith("_") and inspect.isroutine(function)
    }
    assert declared == compiled


def included(path: Path) -> list[tuple[bool, str]]:
    """(of the project, name) of each include; names of the project's headers relative to csrc."""
    found = []
    for bracket, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        if bracket == "<":
            found.append((False, name))
            continue
        candidates = [(path.parent / name).resolve(), (CSRC / name).resolve()]
        target = next((candidate for candidate in candidates if candidate.exists()), None)
        assert target is not None and target.is_relative_to(CSRC), f"{relative(path)} includes {name!r}: not in csrc"
        found.append((True, target.relative_to(CSRC).as_posix()))
    return found


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_c_file_includes_only_what_lies_below_it(path):
    room = path.relative_to(CSRC).parts[0]
    assert room in C_ROOMS, f"{relative(path)}: give the room {room!r} its line in C_ROOMS"
    for own, name in included(path):
        if own:
            assert {name, name.split("/")[0]} & C_ROOMS[room], f"{relative(path)} must not include {name}"


@pytest.mark.parametrize("path", C_FILES, ids=relative)
def test_openmp_and_intrinsics_stand_in_their_rooms(path):
    where = path.relative_to(CSRC).as_posix()
    system = {name for own, name in included(path) if not own}
    if where != "runtime/openmp.c":
        assert "omp.h" not in system
        assert "#pragma omp" not in path.read_text(encoding="utf-8")
    if not where.startswith(("isa/", "simd/")) and where != "base/cpu.c":
        assert not {name for name in system if INTRINSICS.fullmatch(name)}


@pytest.mark.parametrize("path", [path for path in C_FILES if not path.match("base/os*.[ch]")], ids=relative)
def test_what_differs_between_systems_stands_in_base_os(path):
    system = {name for own, name in included(path) if not own}
    assert not {name for name in system if not INTRINSICS.fullmatch(name)} - C_HEADERS
    code = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not SYSTEMS.findall(code) + CALLS_OF_SYSTEMS.findall(code)
    assert "constructor" not in code, "tfast_initialise calls what has to be done once"


def test_cython_knows_no_system():
    for path in sorted(PACKAGE.glob("_core*.p[yx][xdi]")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"cimport\s+posix|from\s+posix|libc\.(time|signal)", text), relative(path)
        assert not re.search(r"\blong\b(?!\s+long)", text), f"{relative(path)}: long has 32 bits on Windows"


def test_every_isa_file_is_compiled():
    assert set(isa_sources()) <= set((CSRC / "isa").rglob("*.c"))
    if platform.machine() in ("x86_64", "AMD64"):
        assert {path.stem for path in isa_sources()} == {
            "portable",
            "avx2",
            "avxvnni",
            "avx512",
            "avx512vnni",
            "avx512bf16",
            "amx",
        }
    if platform.machine() in ("aarch64", "arm64"):
        assert {path.stem for path in isa_sources()} == {"portable", "neon", "neondot", "neoni8mm"}


@pytest.fixture(scope="module", params=isa_sources(), ids=lambda path: path.stem)
def isa_object(request, tmp_path_factory):
    """One isa/<isa>.c compiled with the flags that the build gives it; at -O1, which inlines what has to be inlined."""
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    target = tmp_path_factory.mktemp("isa") / f"{request.param.stem}.o"
    command = [*compile_command(request.param, target), "-O1"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"the compiler {command[0]} is not installed")
    built = subprocess.run(command, check=False)
    if built.returncode and request.param.stem in optional_isas():
        pytest.skip(f"the compiler does not know the flags of {request.param.stem}")
    assert built.returncode == 0
    return request.param.stem, target


def symbols(target: Path, option: str) -> set[str]:
    lines = subprocess.run(["nm", option, str(target)], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1] for line in lines}


def test_isa_object_exports_one_symbol(isa_object):
    isa, target = isa_object
    exported = {line for line in symbols(target, "-g") if line not in symbols(target, "-u")}
    assert exported == {f"tfast_level_{isa}"}, "what leaks may be linked in place of the baseline's"


def test_kernels_neither_allocate_nor_call_upwards(isa_object):
    _, target = isa_object
    needed = symbols(target, "-u")
    forbidden = {"malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign"}
    assert not needed & forbidden
    assert not {name for name in needed if name.startswith(("tfast_", "omp_", "GOMP_", "pthread_", "Py"))}

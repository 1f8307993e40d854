"""Holds a wheel and an sdist against what they must be: tag, size, files, and what the module asks of a system.

Run by run.sh with the Python of its tools: check.py WHEEL SDIST FOLDER...; no byte of the wheel may name one of the
folders, which are those of the build. It needs readelf and objdump (Debian: binutils). Each check is one function that
raises Fault.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# A release's limit: 2.2 MB of it is the compiled module, with six levels of x86-64, the rest Python, HTML and scripts.
MAX_BYTES = 3_250_000
MAX_GLIBC = (2, 28)
# The last three: the page of the server and the attention explorer.
SUFFIXES = (".py", ".pyi", ".so", ".typed", ".html", ".js", ".css")
# All that a Linux system has without a package of a compiler: no libgomp, no libstdc++.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


class Fault(Exception):
    """What is wrong with the file, for the one who released it."""


def said(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def check_tag(wheel: Path) -> str:
    """manylinux_2_28 or older, or any musllinux: platforms joined by dots, the oldest of which counts."""
    platforms = wheel.stem.split("-")[4].split(".")
    glibcs = [tuple(map(int, found)) for p in platforms for found in re.findall(r"^manylinux_(\d+)_(\d+)_", p)]
    if not any(p.startswith("musllinux") for p in platforms) and (not glibcs or min(glibcs) > MAX_GLIBC):
        raise Fault(f"the platform is {'.'.join(platforms)}; needed: manylinux_2_28 or older")
    return ".".join(platforms)


def check_files(wheel: Path, sdist: Path) -> list[str]:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    for name in names:
        top = name.split("/")[0]
        if top != "transformer_fast" and not re.fullmatch(r"transformer_fast-[^/]+\.dist-info", top):
            raise Fault(f"the wheel holds {name}; needed: the package and nothing else, no library of others")
        if top == "transformer_fast" and Path(name).suffix not in SUFFIXES:
            raise Fault(f"the wheel holds {name}; needed: Python files, stubs, the module, and pages")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        raise Fault("the wheel holds no license")
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    for name in members:
        if name.startswith("/") or ".." in name.split("/") or name.endswith((".so", ".o", ".pyc", "_core.c")):
            raise Fault(f"the sdist holds {name}")
    return names


def check_paths(content: bytes, name: str, folders: list[str]) -> None:
    """No folder of the machine that built it: neither in messages of assertions nor in an rpath."""
    for folder in [*folders, "/home/", "/root/", "/tmp/"]:
        if folder.encode() in content:
            raise Fault(f"{name} holds the path {folder}")


def check_module(module: Path) -> set[str]:
    """What the dynamic linker sees of it; returns the libraries it needs."""
    dynamic = said("readelf", "-dW", module)
    if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
        raise Fault(f"{module.name} has an rpath")
    libraries = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    if libraries - LIBRARIES:
        raise Fault(f"{module.name} needs {sorted(libraries - LIBRARIES)}; needed: {sorted(LIBRARIES)} at most")
    if "NOW" not in dynamic:
        raise Fault(f"{module.name} binds symbols late, so that its table of addresses stays writable (-z now)")
    segments = said("readelf", "-lW", module)
    if not re.search(r"GNU_STACK.*\sRW\s", segments):
        raise Fault(f"{module.name} asks for a stack that is executable")
    if "GNU_RELRO" not in segments:
        raise Fault(f"{module.name} has no segment that is read-only after relocation (-z relro)")
    if re.search(r"x86-64-v[234]", said("readelf", "-nW", module)):
        raise Fault(f"{module.name} is marked as for processors beyond x86-64's baseline")
    for line in said("objdump", "-T", module).splitlines():
        if "*UND*" not in line or line.split()[1] == "w":
            continue
        name = line.split()[-1]
        version = re.search(r"GLIBC_(\d+)\.(\d+)", line)
        if version and tuple(map(int, version.groups())) > MAX_GLIBC:
            raise Fault(f"{module.name} asks for {name} of {version[0]}; needed: 2.28 at most")
        if not version and not name.startswith(("Py", "_Py")) and "musl" not in module.name:
            raise Fault(f"{module.name} asks for {name}, which no library that it names has")
    return libraries


def main(wheel: Path, sdist: Path, folders: list[str]) -> None:
    tag = check_tag(wheel)
    size = wheel.stat().st_size
    if size > MAX_BYTES:
        raise Fault(f"{wheel.name} has {size} bytes; needed: {MAX_BYTES} at most")
    names = check_files(wheel, sdist)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in names:
            check_paths(archive.read(name), name, folders)
        (inner,) = [name for name in names if name.endswith(".so")]
        libraries = check_module(Path(archive.extract(inner, folder)))
    print(f"{wheel.name}: {tag}, {size / 1e6:.2f} MB, {len(names)} files, needs {', '.join(sorted(libraries))}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except Fault as fault:
        sys.exit(f"check.py: {fault}")

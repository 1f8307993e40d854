"""Builds the C core and its tests into one program, with the files and flags of setup.py and without Python in it.

    python tests/c/build.py PROGRAM --cc "musl-gcc" [--ld "..."] [--platform win-amd64] [flags of the compiler ...]

Called by run.sh. --platform is the name that sysconfig gives the system that the program is for; without it, this one.
--ld: what links, if it is not the compiler. Flags come last: they win over those of setup.py (-O1), and are given to
the linker, too (-static, -fsanitize=address).
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Build:
    """One compiler and its flags; objects go to the folder of the program."""

    def __init__(self, program: Path, cc: list[str], ld: list[str], flags: list[str], setup: dict):
        self.program, self.cc, self.ld, self.flags, self.setup = program, cc, ld, flags, setup
        self.openmp = setup["openmp_flags"](self.compiles)
        self.objects = program.parent / "objects"
        self.objects.mkdir(parents=True, exist_ok=True)

    def compiles(self, source: str, flags: list[str]) -> bool:
        """Whether the compiler takes a file of this content, with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            command = [*self.cc, *flags, "-c", path, "-o", Path(folder, "probe.o")]
            return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def compile_all(self) -> list[Path]:
        """The objects of the core and of its tests, the slowest files first."""
        setup = self.setup
        missing = setup["missing_levels"](self.compiles)
        for level in missing:
            print(f"without the level {level}: the compiler does not know its flags")
        levels = {source: level for level, source in setup["ISA_SOURCES"].items()}
        sources = [source for source in setup["sources"]() if levels.get(source) not in missing]
        sources.sort(key=setup["place"])
        common = [*setup["COMMON_FLAGS"], *setup["system_flags"](self.compiles), *self.openmp, "-Icsrc"]
        here = [level for level in setup["ISA_FLAGS"] if level not in missing]
        common += ["-D{}={}".format(*setup["level_macro"](level)) for level in here]
        tests = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "c").glob("*.c"))

        def compile_one(source: str) -> Path:
            target = self.objects / (source.replace("/", "_") + ".o")
            flags = setup["ISA_FLAGS"].get(levels.get(source), [])
            command = [*self.cc, *common, *flags, *self.flags, "-MMD", "-c", source, "-o", str(target)]
            if is_up_to_date(target, command):
                return target
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"not compiled: {shlex.join(command)}")
            target.with_suffix(".command").write_text(shlex.join(command))
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, sources + tests))

    def link(self, objects: list[Path]) -> None:
        libraries = ["-l" + name for name in self.setup["SYSTEM_LIBRARIES"]]
        threads = self.openmp or self.setup["THREAD_FLAGS"]
        command = [*self.ld, *threads, *self.flags, *map(str, objects), "-o", str(self.program), *libraries]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"not linked: {shlex.join(command)}")


def is_up_to_date(target: Path, command: list[str]) -> bool:
    """Whether this command made the object after the last change of all that it read, which -MMD has listed."""
    made_by, read = target.with_suffix(".command"), target.with_suffix(".d")
    if not (target.exists() and read.exists() and made_by.exists()) or made_by.read_text() != shlex.join(command):
        return False
    files = [Path(name) for name in read.read_text().replace("\\\n", " ").partition(": ")[2].split()]
    return all(file.exists() and file.stat().st_mtime < target.stat().st_mtime for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), type=shlex.split)
    parser.add_argument("--ld", type=shlex.split)
    parser.add_argument("--platform")
    arguments, flags = parser.parse_known_args()
    if arguments.platform:
        os.environ["_PYTHON_HOST_PLATFORM"] = arguments.platform
    os.chdir(ROOT)
    sys.argv = ["setup.py"]  # which looks for a wheel among its arguments
    program, cc, ld = arguments.program.absolute(), arguments.cc, arguments.ld or arguments.cc
    build = Build(program, cc, ld, flags, runpy.run_path("setup.py"))
    build.link(build.compile_all())


if __name__ == "__main__":
    main()

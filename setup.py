"""Builds the one extension, transformer_fast._core. Everything that is not about compiling stands in pyproject.toml.

Each level's file in csrc/isa is compiled with the flags of its own level, all other C with the baseline's: the table
ISA_FLAGS is the only place that knows them. To add a level: a file in csrc/isa/, its flags and its
probe here, and the rest of the list in docs/adding_a_kernel.md.

TRANSFORMER_FAST_OPENMP=0 leaves OpenMP out: the library's own threads are the default then (docs/threading.md).

TRANSFORMER_FAST_EMULATE=1 makes a test build, never a wheel: in it the levels that a machine lacks run on vectors of
the compiler (csrc/isa/emulated). "all" emulates those that the machine has as well.
"""

import glob
import os
import shlex
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# sysconfig's name and not platform.machine(): in a cross build it is that of the machine the build is for.
TARGET = sysconfig.get_platform().lower()
X86_64 = TARGET.endswith(("x86_64", "amd64"))
ARM64 = TARGET.endswith(("aarch64", "arm64"))
ISA_FLAGS = {"portable": []}
if ARM64:
    # dotprod is allowed from Armv8.1 on: the atomics that the flag implies are there, too.
    ISA_FLAGS |= {"neon": ["-march=armv8-a"], "neondot": ["-march=armv8.2-a+dotprod"]}
    ISA_FLAGS["neoni8mm"] = ["-march=armv8.2-a+dotprod+i8mm"]
if X86_64:
    ISA_FLAGS |= {"avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}
    ISA_FLAGS["avxvnni"] = [*ISA_FLAGS["avx2"], "-mavxvnni"]
    ISA_FLAGS["avx512vnni"] = [*ISA_FLAGS["avx512"], "-mavx512vnni"]
    ISA_FLAGS["avx512bf16"] = [*ISA_FLAGS["avx512"], "-mavx512bf16"]
    ISA_FLAGS["amx"] = [*ISA_FLAGS["avx512vnni"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"]

# Levels with files of their own have a folder.
ISA_SOURCES = {
    level: f"csrc/isa/{level}/{level}.c" if os.path.isdir(f"csrc/isa/{level}") else f"csrc/isa/{level}.c"
    for level in ISA_FLAGS
}

EMULATE = os.environ.get("TRANSFORMER_FAST_EMULATE", "0")
if EMULATE != "0" and any(argument.endswith("wheel") for argument in sys.argv):
    raise SystemExit(f"TRANSFORMER_FAST_EMULATE is {EMULATE}, needed: 0 for a wheel, since emulation is for tests")
EMULATED_LEVELS = ("neon", "neondot", "neoni8mm", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx")
EMULATED_SOURCES = [f"csrc/isa/emulated/{level}.c" for level in EMULATED_LEVELS]
# -O1: vectors of several registers take minutes to optimise. -Wno-psabi: no such vector is handed to another file.
EMULATED_FLAGS = ["-O1", "-Wno-psabi"]
# The machine's own levels are in a test build for what emulated ones leave to them; their tests and their warnings (gcc
# has others at -O1) are those of a wheel's build.
TEST_BUILD_FLAGS = ["-O1", "-w"]

# Files by the processor time that they take to compile, so that no processor waits for a long one at the end: 32, 28,
# 19, 17, 12, 9, 5 and 4 seconds (gcc 12, Zen 4). All others together take 2. For arm64 neon takes 43, neondot 27.
SLOWEST_FIRST = ("neon", "portable", "neondot", "avx512", "avx2", "amx", "avx512vnni", "avxvnni", "_core", "avx512bf16")

# What a level's flag has to make compile: a real intrinsic, since a compiler may know a flag and not the header.
ISA_PROBES = {
    "neon": "#include <arm_neon.h>\nfloat32x4_t f(float32x4_t a) { return vfmaq_f32(a, a, a); }",
    "neondot": "#include <arm_neon.h>\nint32x4_t f(int32x4_t a, int8x16_t b) { return vdotq_s32(a, b, b); }",
    "neoni8mm": "#include <arm_neon.h>\nint32x4_t f(int32x4_t a, int8x16_t b) { return vmmlaq_s32(a, b, b); }",
    "avx2": "#include <immintrin.h>\n__m256 f(__m256 a) { return _mm256_fmadd_ps(a, a, a); }",
    "avx512": "#include <immintrin.h>\n__m512 f(__m512 a) { return _mm512_reduce_ps(a, 1); }",
    "avxvnni": "#include <immintrin.h>\n__m256i f(__m256i a) { return _mm256_dpbusd_avx_epi32(a, a, a); }",
    "avx512vnni": "#include <immintrin.h>\n__m512i f(__m512i a) { return _mm512_dpbusd_epi32(a, a, a); }",
    "avx512bf16": "#include <immintrin.h>\n__m512 f(__m512 a, __m512bh b) { return _mm512_dpbf16_ps(a, b, b); }",
    # A tile load as well: gcc 12 for Windows makes an address of a 32-bit stride, which no assembler takes.
    "amx": "#include <immintrin.h>\nvoid f(const void* x, long long stride) "
    "{ _tile_loadd(1, x, stride); _tile_dpbf16ps(0, 1, 2); _tile_dpbusd(0, 1, 2); }",
}
# Levels that the build may go without: their flags are younger than the compilers that are asked for.
OPTIONAL = {"neondot", "neoni8mm", "avxvnni", "avx512vnni", "avx512bf16", "amx"}
# No -ffast-math and no -march=native: the one changes NaN and denormals (of the whole process, when it links), the
# other the machine.
COMMON_FLAGS = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Contraction of a * b + c is the kernels' own decision (v_fma): the result must not depend on the compiler's mood.
COMMON_FLAGS += ["-ffp-contract=off"]
# Without it a tile's loop begins where the code before it ends: on Zen 3 an edit elsewhere moved products of 24 rows by
# 5 % and of 4 rows by 13 %, in opposite directions.
COMMON_FLAGS += ["-falign-loops=64"]
WINDOWS = TARGET.startswith(("win", "mingw"))
# Windows' stack is aligned to 16 bytes, and gcc does not align it further for vectors (its bug 54412): an aligned move
# of 32 or 64 bytes that it spills ends the process. The assembler makes unaligned ones of them, which are as fast on
# aligned addresses since AVX. clang aligns the stack.
UNALIGNED_MOVES = "-Wa,-muse-unaligned-vector-move"
# Before glibc 2.34 threads are a library of their own; Windows' are not, but gcc's own functions are.
THREAD_FLAGS = ["-static-libgcc"] if WINDOWS else ["-pthread"]
# WaitOnAddress, of csrc/base/os_windows.c; without "m" libm is found only where Python itself has loaded it.
SYSTEM_LIBRARIES = ["synchronization"] if WINDOWS else ["m"]
EXTRA_FLAGS = shlex.split(os.environ.get("TRANSFORMER_FAST_CFLAGS", ""))  # sanitizers (make asan), -Werror (make lint)


def place(source):
    """Of a file in the order in which files are compiled."""
    stem = os.path.splitext(os.path.basename(source))[0]
    return SLOWEST_FIRST.index(stem) if stem in SLOWEST_FIRST else len(SLOWEST_FIRST)


def level_macro(level):
    return (f"TFAST_WITH_{level.upper()}", "1")


def missing_levels(compiles):
    """The levels whose flags the compiler does not know; compiles(source, flags): whether it takes such a file."""
    missing = [
        level for level in ISA_PROBES if level in ISA_FLAGS and not compiles(ISA_PROBES[level], ISA_FLAGS[level])
    ]
    for level in missing:
        if level not in OPTIONAL:
            raise SystemExit(
                f"the C compiler does not know the flags {ISA_FLAGS[level]} of the level {level!r}: "
                "gcc >= 9 or clang >= 12 is needed"
            )
    return missing


def openmp_flags(compiles):
    """No flags where the compiler has no OpenMP, and on Windows, where its library would be one more to ship."""
    probe = "#include <omp.h>\nint f(void) { return omp_get_max_threads(); }"
    wanted = os.environ.get("TRANSFORMER_FAST_OPENMP", "0" if WINDOWS else "1") != "0"
    return ["-fopenmp"] if wanted and compiles(probe, ["-fopenmp"]) else []


def system_flags(compiles):
    """What all files of a build for this system need; compiles as in `missing_levels`."""
    if not WINDOWS or compiles("#ifndef __clang__\n#error\n#endif", []):
        return []
    if not compiles("", [UNALIGNED_MOVES]):
        raise SystemExit(
            "gcc for Windows needs binutils >= 2.38, whose assembler has -muse-unaligned-vector-move; or clang"
        )
    return [UNALIGNED_MOVES]


class BuildExt(build_ext):
    """Compiles files of csrc/isa with their level's flags, and with OpenMP where the compiler has it."""

    def finalize_options(self):
        """On Windows setuptools would take MSVC, which has neither the attributes nor the built-ins that csrc uses."""
        super().finalize_options()
        if WINDOWS:
            self.compiler = self.compiler or "mingw32"
            if self.compiler == "msvc":
                raise SystemExit('the compiler is "msvc"; needed: "mingw32", which is gcc, or what CC names (clang)')

    def build_extensions(self):
        (built,) = self.extensions  # not `core`: Cython made another object of it
        for level in missing_levels(self.compiles):
            built.sources.remove(ISA_SOURCES[level])
            built.define_macros.remove(level_macro(level))
        if EMULATE != "0":
            built.sources += EMULATED_SOURCES
            built.define_macros.append(("TFAST_EMULATE", "2" if EMULATE == "all" else "1"))
        openmp = openmp_flags(self.compiles)
        built.extra_compile_args = COMMON_FLAGS + system_flags(self.compiles) + openmp + EXTRA_FLAGS
        built.extra_link_args = (openmp or THREAD_FLAGS) + EXTRA_FLAGS
        self.flags_by_file()
        self.files_in_parallel()
        super().build_extensions()

    def compiles(self, source, flags):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "probe.c")
            with open(path, "w") as file:
                file.write(source)
            try:
                self.compiler.compile([path], output_dir=folder, extra_postargs=flags)
            except Exception:  # distutils' own errors and those of the process: any of them says no
                return False
            return True

    def flags_by_file(self):
        """distutils has one set of flags for an extension; this adds those of the level to each of its files."""
        compile_one = self.compiler._compile
        quick = TEST_BUILD_FLAGS if EMULATE != "0" else []
        flags_of_source = {source: ISA_FLAGS[level] + quick for level, source in ISA_SOURCES.items()}
        flags_of_source |= dict.fromkeys(EMULATED_SOURCES, EMULATED_FLAGS)

        def with_level(obj, src, ext, cc_args, extra_postargs, pp_opts):
            flags = flags_of_source.get(src, [])
            # What Cython writes is not ours to mend: its warnings stay warnings when -Werror is asked for.
            quiet = ["-Wno-unused-function", "-Wno-error"] if src.endswith("_core.c") else []
            compile_one(obj, src, ext, cc_args, extra_postargs + flags + quiet, pp_opts)

        self.compiler._compile = with_level

    def files_in_parallel(self):
        """distutils compiles one file after the other; a level takes up to a quarter of the time, so they go together.

        _setup_compile and _get_cc_args are what distutils' own loop calls.
        """
        compiler = self.compiler

        def compile_all(
            sources, output_dir=None, macros=None, include_dirs=None, debug=False, extra_preargs=None,
            extra_postargs=None, depends=None,
        ):  # fmt: skip
            macros, objects, extra_postargs, pp_opts, build = compiler._setup_compile(
                output_dir, macros, include_dirs, sources, depends, extra_postargs
            )
            cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)

            def compile_object(name):
                source, extension = build[name]
                compiler._compile(name, source, extension, cc_args, extra_postargs, pp_opts)

            slowest_first = sorted(build, key=lambda name: place(build[name][0]))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(compile_object, slowest_first))
            return objects

        compiler.compile = compile_all


def sources():
    files = [
        path for folder in ("base", "tuning", "runtime", "ops") for path in sorted(glob.glob(f"csrc/{folder}/*.c"))
    ]
    return files + list(ISA_SOURCES.values())


core = Extension(
    "transformer_fast._core",
    sources=["transformer_fast/_core.pyx", *sources()],
    # C files of isa/ as well: those of isa/emulated include them.
    depends=sorted(glob.glob("csrc/**/*.h", recursive=True) + glob.glob("csrc/isa/**/*.c", recursive=True))
    + ["transformer_fast/_bfloat16.h"],
    include_dirs=["csrc", "transformer_fast", numpy.get_include()],
    libraries=SYSTEM_LIBRARIES,
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("_FILE_OFFSET_BITS", "64"),
        *(level_macro(level) for level in ISA_FLAGS if level != "portable"),
    ],
)
if "-g" in shlex.split(sysconfig.get_config_var("CFLAGS") or "") and "-g" not in EXTRA_FLAGS:
    COMMON_FLAGS += ["-g0"]  # Python's own build flags ask for debug information: five times the size of the wheel

# Tests and tests/c/build.py read the tables above, and set nothing up.
if __name__ == "__main__":
    setup(ext_modules=cythonize([core], build_dir="build/cython"), cmdclass={"build_ext": BuildExt})

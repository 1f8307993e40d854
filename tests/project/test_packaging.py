"""What is handed out: the sdist, the wheel that is built from it, and the package as it is installed from it.

The builds run on a copy of the checkout. They need a C compiler and, as `pip install` does, a package index.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from setup_tables import extension, optional_flags, optional_isas
from subprocesses import PACKAGE_PARENT, ROOT, SANITIZED, printed

import transformer_fast

MAX_WHEEL_BYTES = 3_250_000
MAX_IMPORT_SECONDS = 0.05  # beyond NumPy's own import
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "*.so", "*.o", "__pycache__", ".*_cache", ".hypothesis", "_core.c"
)


# For a build that only has to work; -O0 does not inline what has to be inlined.
QUICK = "-O1 -g0"


def run(*command: str | Path, cflags: str = "", **options) -> str:
    # pip and the compiler get the caller's environment, but no path of the package under test.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if cflags:
        env["TRANSFORMER_FAST_CFLAGS"] = cflags
    done = subprocess.run(
        [str(part) for part in command], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def sources() -> set[str]:
    """What an sdist must hold to be built and tested."""
    wanted = [
        *(ROOT / "csrc").rglob("*.[ch]"),
        *(
            path
            for suffix in ("py", "pyx", "pxd", "pxi", "pyi", "typed", "html", "js", "css")
            for path in (ROOT / "transformer_fast").rglob(f"*.{suffix}")
        ),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / name for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "Makefile")),
    ]
    return {path.relative_to(ROOT).as_posix() for path in wanted}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    (found,) = folder.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """The Python of an environment that holds nothing."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder / "env")
    return folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="module")
def wheel(sdist, empty, tmp_path_factory) -> Path:
    """Built from the sdist as `pip install` does, with what pyproject.toml says is needed for it and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(empty, "-m", "pip", "wheel", "--quiet", "--no-input", "--no-deps", "-w", folder, sdist, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, empty) -> Path:
    """The Python of an environment that was empty before the wheel of the sdist was installed into it."""
    run(empty, "-m", "pip", "install", "--quiet", "--no-input", wheel, cwd=wheel.parent)
    return empty


@pytest.mark.slow
def test_sdist_holds_all_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources() <= names
    assert not {name for name in names if name.endswith((".so", ".o", ".pyc", "_core.c"))}


@pytest.mark.slow
def test_wheel_is_small_and_holds_the_package_alone(wheel):
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"transformer_fast", f"transformer_fast-{transformer_fast.__version__}.dist-info"}
    suffixes = {Path(name).suffix for name in names if name.startswith("transformer_fast/")}
    assert suffixes == {".py", ".pyi", ".so", ".typed", ".html", ".js", ".css"}
    cython = (".pyx", ".pxd", ".pxi")
    modules = {name for name in sources() if name.startswith("transformer_fast/") and not name.endswith(cython)}
    assert modules <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_install_from_sdist_in_an_empty_environment(installed, tmp_path):
    code = """
import json, sys
import numpy as np
import transformer_fast as tf

weight = np.memmap("weight.bin", np.float32, "w+", shape=(24, 16))
weight[...] = np.eye(24, 16)
weight.flush()
weight = np.memmap("weight.bin", np.float32, "r", shape=(24, 16))
x = np.arange(32, dtype=np.float32).reshape(2, 16)
x.flags.writeable = False
y = tf.linear(x, weight)
q = np.ones((1, 2, 5, 8), np.float32)
o = tf.scaled_dot_product_attention(q, q, q)
print(json.dumps({
    "version": tf.__version__,
    "linear": bool(np.array_equal(y[:, :16], x) and not y[:, 16:].any()),
    "attention": float(np.abs(o - 1).max()),
    "file": tf.__file__,
    "isas": tf.available_isas(),
}))
"""
    said = json.loads(run(installed, "-I", "-c", code, cwd=tmp_path))
    assert said["version"] == transformer_fast.__version__
    assert said["linear"] and said["attention"] < 1e-6
    assert Path(said["file"]).is_relative_to(installed.parent.parent)
    assert said["isas"] == list(transformer_fast.available_isas())
    packages = json.loads(run(installed, "-m", "pip", "list", "--format", "json"))
    names = {package["name"].lower() for package in packages} - {"pip", "setuptools"}
    assert names == {"transformer-fast", "numpy"}, "NumPy is the only dependency"


@pytest.mark.slow
def test_command_in_an_empty_environment(installed, tmp_path):
    """The console script works with NumPy alone, and says which extra a command needs."""
    command = installed.parent / "transformer-fast"
    assert json.loads(run(command, "info", "--json", cwd=tmp_path))["version"] == transformer_fast.__version__
    done = subprocess.run([command, "embed", "a"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the levels that may be missing are x86-64's")
def test_build_with_a_compiler_that_lacks_levels(tmp_path):
    """All that a build may go without is missing; what is left works."""
    checkout, older = tmp_path / "checkout", tmp_path / "cc"
    shutil.copytree(ROOT, checkout, ignore=LEFT_OUT)
    unknown = " | ".join(f'*"{flag} "*' for flag in optional_flags())
    older.write_text(f"""#!/bin/sh
case "$* " in {unknown}) exit 1;; esac
exec {sysconfig.get_config_var("CC") or "cc"} "$@"
""")
    older.chmod(0o755)
    build = (sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")
    run("env", f"CC={older}", *build, cwd=checkout, cflags=QUICK)
    print_isas = "import transformer_fast; print(*transformer_fast.available_isas())"
    isas = run(sys.executable, "-c", print_isas, cwd=checkout).split()
    assert isas == [isa for isa in transformer_fast.available_isas() if isa not in optional_isas()]


def test_headers_are_dependencies_of_the_build():
    """An edited header must cause a build: setuptools knows only what is named in `depends`."""
    named = {(ROOT / path).resolve() for path in [*extension().depends, *extension().sources]}
    needed = {path.resolve() for path in (ROOT / "csrc").rglob("*.[ch]")}
    assert {path.name for path in needed - named if path.suffix == ".h" or path.parent.name != "isa"} == set()


def test_typed_package_has_its_files():
    package = Path(transformer_fast.__file__).parent
    assert (package / "py.typed").exists() and (package / "_core.pyi").exists()


def test_all_public_names_are_there():
    encoders = {"BGEM3Encoder", "CrossEncoder", "MultiVectorEncoder", "SentenceEncoder"}
    for name in transformer_fast.__all__:
        if name not in {*encoders, "load_model", "models", "nn"}:
            assert getattr(transformer_fast, name) is not None
    assert set(transformer_fast.__all__) <= set(dir(transformer_fast))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = transformer_fast.no_such_name


def test_lazy_names_are_there():
    pytest.importorskip("safetensors")
    from transformer_fast.models import load_model
    from transformer_fast.pipelines import SentenceEncoder

    assert transformer_fast.SentenceEncoder is SentenceEncoder
    assert transformer_fast.load_model is load_model
    assert transformer_fast.nn.Linear is not None


@pytest.mark.skipif(SANITIZED, reason="a sanitizer slows everything down")
def test_import_adds_little_to_numpy():
    """NumPy takes most of the 0.15 s that the import may take, all of it on a busy machine: only our share is held."""
    code = """
        import time
        import numpy
        start = time.perf_counter()
        import transformer_fast
        print(time.perf_counter() - start)
    """
    assert min(float(printed(code)) for _ in range(7)) <= MAX_IMPORT_SECONDS


def test_sources_that_are_not_built_say_so(tmp_path):
    """A Python that is started in a checkout finds the sources before the installed package."""
    shutil.copytree(ROOT / "transformer_fast", tmp_path / "transformer_fast", ignore=LEFT_OUT)
    done = subprocess.run(
        [sys.executable, "-c", "import transformer_fast"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: ") and "another current folder" in done.stderr


def test_import_loads_nothing_heavy():
    code = "import sys, transformer_fast; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(printed(code).split())
    heavy = {"torch", "transformers", "onnxruntime", "onnx", "safetensors", "tokenizers", "huggingface_hub"}
    assert not loaded & (heavy | {"ml_dtypes", "tqdm", "scipy", "matplotlib", "sentence_transformers"})
    code = (
        "import sys, transformer_fast; print(*(name for name in sys.modules if name.startswith('transformer_fast.')))"
    )
    rooms = {name.split(".")[1] for name in printed(code).split()}
    assert rooms <= {"functional", "reference", "_core"}


def test_package_under_test_is_complete():
    """The suite runs on one package: the Python files beside the compiled module are the checkout's."""
    for path in (ROOT / "transformer_fast").rglob("*.py"):
        tested = PACKAGE_PARENT / path.relative_to(ROOT)
        assert tested.read_bytes() == path.read_bytes(), f"{path} has changed since the package was installed"


def test_emulated_levels_are_in_no_wheel(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    environment = {**os.environ, "TRANSFORMER_FAST_EMULATE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "needed: 0 for a wheel" in done.stderr
    assert not list(tmp_path.iterdir())

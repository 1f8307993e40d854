"""Fixtures and markers of the whole suite.

``isa``: the test runs once for every ISA that this machine has, or that a test build (TRANSFORMER_FAST_EMULATE in
setup.py) emulates; ``threads``: once on one thread and once on several.
Both restore what was set before. Where the product with the cases would be large, ``rotate("isa", "threads")`` runs
each case on one of their values, in turn; ``rotate("threads")`` runs it on every ISA, with the numbers of threads in
turn. Marker ``formats(name)``: the test's ``isa`` are also the levels that improve products in this weight format alone
(``int8``, ``bfloat16``). Marker ``oracle``: compares with torch, onnx or transformers (extra ``oracle``), skipped where
they are missing; ``clients``: the same for clients of a server (extra ``clients``). Marker ``thread_unsafe``: `make
parallel`, where each test runs in several threads at once (pytest-run-parallel), runs it in one; ``OF_THE_PROCESS``
says which tests get it by what they call.
``helpers/`` has what is no fixture (``support.py``) and the shapes (``cases.py``); pytest puts it on sys.path.

    ops/        each op of `functional` against `reference`, and `reference` itself
    contracts/  what holds for every op: threads, layouts, bad input, extents of memory, extreme numbers, processes
    nn/         modules                      models/    families, generation, loading
    files/      checkpoints, pictures, sound pipelines/ sentence encoding and the other pipelines
    commands/   transformer-fast             oracle/    live comparisons with torch, transformers and onnx
    util/       what is done with embeddings
    clients/    `transformer-fast serve` as openai, LangChain, Cohere and schemathesis see it (`make clients`)
    server/     the server's endpoints; soak.py is a program (`make soak`)
    project/    packaging, layering, docstrings, examples, benchmarks
    golden/     other libraries' answers, and the scripts that asked for them
    arm64/      the cross build and its run under qemu (`make arm64`); no tests of pytest
    wheel/      the wheel of a release, and what is checked of it (`make wheel`); no tests of pytest
    freethreaded/  the build for a free-threaded Python and its run (`make freethreaded`); no tests of pytest
"""

from __future__ import annotations

import importlib.util
import os

import pytest

# pytest-xdist's processes share the processors: a helper that spins until the next loop takes one from another process.
# Here since the runtimes of OpenMP and OpenBLAS read it when they are loaded, with torch, NumPy and our module.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Marker -> what its tests import, which the extra of that name brings.
EXTRAS = {
    "oracle": ("torch", "onnx", "transformers"),
    "clients": ("openai", "langchain_openai", "cohere", "schemathesis", "httpx", "uvicorn", "llguidance"),
}
# Levels that have kernels for some weight formats alone: everything else is tested under the levels below.
FORMAT_LEVELS = {
    "neondot": "int8",
    "neoni8mm": "int8",
    "avxvnni": "int8",
    "avx512vnni": "int8",
    "avx512bf16": "bfloat16",
}


# What a test may call or ask for that belongs to the whole process, so that it must not run in several threads at once.
# The fixtures `isa` and `threads` are no such thing: they set up once, before the threads of a test begin.
# pytest-run-parallel knows capsys, monkeypatch, pytest.warns and hypothesis by itself.
OF_THE_PROCESS = {
    *("set_isa", "set_num_threads", "set_tuning", "release_workspace", "manual_seed", "threadpool_limits"),
    *("fork", "chdir", "environ", "sched_setaffinity", "setswitchinterval", "getrusage", "tracemalloc"),
    *("storm", "together", "run"),
    "restored_threads",
}


def _names_used(code) -> set[str]:
    """Global names and attributes in a function, and in those that are written inside it."""
    inner = (const for const in code.co_consts if hasattr(const, "co_names"))
    return set(code.co_names).union(*map(_names_used, inner))


def pytest_generate_tests(metafunc):
    # Here and not in the decorator of a fixture: only tests that ask for an ISA need the compiled module.
    if "isa" in metafunc.fixturenames:
        from transformer_fast import functional

        levels = functional.show_config()["emulated_isas"] or functional.available_isas()
        formats = {mark.args[0] for mark in metafunc.definition.iter_markers("formats")}
        levels = [name for name in levels if name not in FORMAT_LEVELS or FORMAT_LEVELS[name] in formats]
        metafunc.parametrize("isa", levels, indirect=True)
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", [1, max(2, os.cpu_count() or 1)], indirect=True, ids=lambda n: f"{n}t")


def _without_other_turns(items, rotated) -> list:
    """Of all items of one test those at which a combination of its other parameters has its turn.

    A Latin square: the place among the rotated values is the sum of the places of the other ones. So every pair of two
    other values is tested once, and each of them meets the rotated values in turn.
    """
    marks = [mark.args[0] for mark in items[0].iter_markers("parametrize")]
    axes = [tuple(name.strip() for name in (mark.split(",") if isinstance(mark, str) else mark)) for mark in marks]
    alone = set(items[0].callspec.params).difference(rotated, *axes)
    places: dict = {axis: {} for axis in [*axes, *((name,) for name in (*sorted(alone), *rotated))]}

    def place(item, axis) -> int:
        value = tuple(id(item.callspec.params[name]) for name in axis)
        return places[axis].setdefault(value, len(places[axis]))

    found = [{axis: place(item, axis) for axis in places} for item in items]
    kept = []
    for item, at in zip(items, found, strict=True):
        turn = sum(n for axis, n in at.items() if axis[0] not in rotated)
        for name in rotated:
            turn, own = divmod(turn, len(places[name,]))
            if at[name,] != own:
                break
        else:
            kept.append(item)
    return kept


def pytest_collection_modifyitems(config, items):
    tests: dict = {}
    for item in items:
        if item.get_closest_marker("rotate"):
            tests.setdefault(item.function, []).append(item)
        fixtures = set(getattr(item, "fixturenames", ()))
        if hasattr(item, "function") and OF_THE_PROCESS & (fixtures | _names_used(item.function.__code__)):
            item.add_marker("thread_unsafe")
    left_out = set()
    for cases in tests.values():
        left_out |= set(cases).difference(_without_other_turns(cases, cases[0].get_closest_marker("rotate").args))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    # pytest-xdist hands out files in this order (--no-loadscope-reorder): no process waits for a long one at the end.
    long_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long_files)
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            skip = pytest.mark.skip(reason=f"needs the extra `{extra}`: {', '.join(missing)} not installed")
            for item in items:
                if item.get_closest_marker(extra):
                    item.add_marker(skip)


@pytest.fixture
def isa(request):
    """The name of the forced ISA."""
    from transformer_fast import functional

    before = functional.get_isa()
    functional.set_isa(request.param)
    yield request.param
    functional.set_isa(before)


@pytest.fixture
def threads(request):
    """The number of threads that are set."""
    from transformer_fast import functional

    before = functional.get_num_threads()
    functional.set_num_threads(request.param)
    yield request.param
    functional.set_num_threads(before)


@pytest.fixture
def restored_threads():
    """Whatever number of threads the test sets, the next one has that of before."""
    from transformer_fast import functional

    before = functional.get_num_threads()
    yield
    functional.set_num_threads(before)


def _backends() -> list[str]:
    from transformer_fast import _core

    return [name for name in _core.thread_backends() if name != "serial"]


@pytest.fixture(params=_backends())
def backend(request):
    """Runs the test once with each backend of this build that has threads, in this process; the name."""
    from transformer_fast import _core

    before = _core.get_thread_backend()
    _core.set_thread_backend(request.param)
    yield request.param
    _core.set_thread_backend(before)


@pytest.fixture
def torch():
    """torch, imported when an oracle test runs: a suite that was told ``-m "not oracle"`` never loads it."""
    return pytest.importorskip("torch")


@pytest.fixture
def run(capsys):
    """Runs transformer-fast in this process with these arguments: (exit code, stdout, stderr)."""
    from transformer_fast import cli

    def call(*arguments):
        try:
            code = cli.main(list(arguments))
        except SystemExit as leaving:
            code = leaving.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call

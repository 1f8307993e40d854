"""Fixtures and markers of the whole suite.

``isa``: the test runs once for every ISA that this machine has, or in a test build (TRANSFORMER_FAST_EMULATE in
setup.py) for those that it emulates; ``threads``: once on one thread and once on several. Both restore what was set
before. Marker ``oracle``: compares with torch, onnx or transformers (extra ``oracle``) and is skipped where they are
missing. ``helpers/`` has what is no fixture (``support.py``) and the shapes (``cases.py``);
pytest puts that folder on sys.path.

    ops/        each op of `functional` against `reference`, and `reference` itself
    contracts/  what holds for every op: threads, layouts, bad input, extents of memory, extreme numbers, processes
    nn/         modules                      models/    families, generation, loading
    files/      checkpoints, pictures, sound pipelines/ sentence encoding and the other pipelines
    commands/   transformer-fast             oracle/    live comparisons with torch, transformers and onnx
    project/    packaging, layering, docstrings, examples, benchmarks
    golden/     other libraries' answers, and the scripts that asked for them
"""

from __future__ import annotations

import importlib.util
import os

import pytest

ORACLES = ("torch", "onnx", "transformers")


def pytest_generate_tests(metafunc):
    # Here and not in the decorator of a fixture: only tests that ask for an ISA need the compiled module.
    if "isa" in metafunc.fixturenames:
        from transformer_fast import functional

        levels = functional.show_config()["emulated_isas"] or functional.available_isas()
        metafunc.parametrize("isa", levels, indirect=True)
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", [1, max(2, os.cpu_count() or 1)], indirect=True, ids=lambda n: f"{n}t")


def pytest_collection_modifyitems(items):
    missing = [name for name in ORACLES if importlib.util.find_spec(name) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"needs the extra `oracle`: {', '.join(missing)} not installed")
        for item in items:
            if item.get_closest_marker("oracle"):
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

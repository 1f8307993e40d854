"""The runner's cases of attention and linear layers under pytest-benchmark: `pytest benchmarks`.

For a change under work: `pytest benchmarks --benchmark-autosave`, and after it `--benchmark-compare
--benchmark-compare-fail=median:10%`; `-k "linear and ours"` chooses. The cases, the peers' code and the choice of the
fastest right variant are those of `python -m benchmarks`, so a figure here is one of its turns.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import attention, linear, wire
from benchmarks.backends import Unsupported
from benchmarks.backends.numpy import NumPy
from benchmarks.backends.ours import Ours
from benchmarks.runner import Work
from benchmarks.worker import Session
from transformer_fast import functional

_WORKS = [work for work in attention.works(quick=False) if work.group == "Must show"] + linear.works(quick=False)
_SAMPLE_SECONDS = 0.005


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = functional.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
    functional.set_num_threads(before)


@pytest.mark.parametrize("peer", [Ours, NumPy], ids=["ours", "numpy"])
@pytest.mark.parametrize("work", _WORKS, ids=lambda work: f"{wire.operation(work.case)}-{work.case.name}")
def test_case(benchmark, work: Work, peer, tmp_path):
    path = str(tmp_path / "expected.npy")
    assert work.expected(None, path)
    session = Session(peer(1))
    try:
        answer = session.prepare(
            wire.to_json(work.case), work.rows, path, work.tolerance, _SAMPLE_SECONDS, work.artifacts
        )
    except Unsupported as why:
        pytest.skip(f"{peer.__name__} {why}")
    assert peer is NumPy or "unsupported" not in answer, answer
    if "unsupported" in answer:
        pytest.skip(answer["unsupported"])
    benchmark.group = work.case.name
    benchmark.extra_info["variant"] = answer["variant"]
    benchmark(session.variant.call)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["gflops"] = work.flops / benchmark.stats.stats.median / 1e9

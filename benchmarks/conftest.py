"""For `pytest benchmarks`: everybody on one thread, and a benchmark function that both suites use."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import functional
from transformer_fast.timing import seconds_a_call

_TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = functional.get_num_threads()
    functional.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
    functional.set_num_threads(before)


@pytest.fixture
def compare(benchmark):
    """compare(case, chosen, variants of ours, variants of NumPy): times the fastest of the chosen side, if all agree.

    Both sides of a case stand in one group of the table; GFLOP/s go into the result's extra_info.
    """

    def run(case, chosen, ours, numpys):
        sides = {"ours": ours, "numpy": numpys}
        results = [variant.read(variant.call()) for variants in sides.values() for variant in variants]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], atol=_TOLERANCE)
        fastest = min(sides[chosen], key=lambda variant: seconds_a_call(variant.call, 1))
        benchmark.group = case.name
        benchmark.extra_info["variant"] = fastest.name
        benchmark(fastest.call)
        if benchmark.stats is not None:  # None with --benchmark-disable
            benchmark.extra_info["gflops"] = case.flops() / benchmark.stats.stats.median / 1e9

    return run

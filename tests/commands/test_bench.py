"""The benchmark: its NumPy baseline is right, its figures belong together, and both sides run on as many threads."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest

from transformer_fast import bench, functional, reference


def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_numpy_attention_is_attention(causal):
    query, key, value = normal(2, 3, 17, 8), normal(2, 3, 17, 8)[::-1], normal(2, 3, 17, 8) + 1
    expected = reference.scaled_dot_product_attention(query, key, value, is_causal=causal)
    np.testing.assert_allclose(bench.numpy_attention(query, key, value, causal=causal), expected, atol=2e-6)


def test_numpy_linear_is_linear():
    x, weight, bias = normal(5, 16), normal(7, 16)[::-1], normal(7)
    np.testing.assert_allclose(bench.numpy_linear(x, weight, bias), reference.linear(x, weight, bias), atol=1e-5)


@pytest.mark.parametrize("case", bench.FULL, ids=lambda case: f"{case.operation} {case.shape}")
def test_flops(case):
    if isinstance(case, bench.Linear):
        assert case.flops == 2 * case.M * case.K * case.N
    else:
        scores = sum(i + 1 for i in range(case.L)) if case.causal else case.L**2
        assert case.flops == 4 * case.B * case.H * scores * case.D


def test_figures_belong_together():
    lines = []
    cases = (bench.Attention(1, 2, 33, 16), bench.Attention(1, 2, 33, 16, causal=True), bench.Linear(9, 32, 40))
    result = bench.run(cases, rounds=2, report=lines.append)
    assert json.loads(json.dumps(result))["rows"] == result["rows"]
    assert [line.startswith("measuring") for line in lines] == [True] * 3
    for case, row in zip(cases, result["rows"], strict=True):
        assert (row["operation"], row["shape"]) == (case.operation, case.shape)
        assert row["gflops"] == pytest.approx(case.flops / row["seconds"] / 1e9)
        assert row["ratio"] == pytest.approx(row["gflops"] / row["numpy_gflops"])
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / row["fma_peak_gflops"])
        assert row["max_difference"] < 1e-4
    table = bench.table(result).splitlines()
    assert len(table) == 3 + len(cases)
    assert len({len(line) for line in table[1:]}) == 1
    assert result["config"]["isa"] in table[0]


def test_threads_of_both_are_set_and_restored():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = functional.get_num_threads()

    def blas_threads():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    seen = []
    blas_before = blas_threads()
    result = bench.run(
        (bench.Linear(4, 8, 8),),
        num_threads=1,
        rounds=1,
        report=lambda _: seen.append((functional.get_num_threads(), blas_threads())),
    )
    assert seen == [(1, {1})]
    assert result["numpy"]["num_threads"] == 1
    assert functional.get_num_threads() == before and blas_threads() == blas_before


def test_missing_threadpoolctl_is_said(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "threadpoolctl":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    lines = []
    result = bench.run((bench.Linear(4, 8, 8),), rounds=1, report=lines.append)
    assert "threadpoolctl is not installed" in lines[0]
    assert result["numpy"]["num_threads"] is None
    assert "its own number of" in bench.table(result)

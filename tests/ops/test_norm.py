"""layer_norm and rms_norm against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ROWS, tagged
from support import assert_same_bits, both, normal

from transformer_fast.functional import layer_norm, rms_norm

PARTS = [(), ("weight",), ("bias",), ("weight", "bias"), ("weight", "bias", "residual"), ("residual",)]


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("case", tagged(ROWS, "small", "long"), ids=lambda case: case.name)
def test_case(case, isa, threads):
    inputs = case.make_inputs()
    for parts in PARTS:
        both("layer_norm", inputs["x"], **{name: inputs[name] for name in parts})


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-3, 1.0, 0.0])
def test_eps(eps, isa):
    both("layer_norm", normal(7, 33), normal(33), normal(33), eps)


def test_a_constant_row_is_the_bias(isa):
    """The variance is 0 and eps keeps the quotient finite."""
    x, bias = np.full((3, 40), 2.5, np.float32), normal(40)
    np.testing.assert_array_equal(layer_norm(x, normal(40), bias), np.broadcast_to(bias, (3, 40)))


@pytest.mark.parametrize("N", [16, 33, 384, 4096])
def test_a_large_mean_costs_no_digits(N, isa):
    """E[x^2] - E[x]^2 would have no digit left here: the variance is that of the differences from the mean."""
    x = (normal(5, N) + 4096).astype(np.float32)
    both("layer_norm", x, tolerance=2e-3)


def test_row_independence(isa, threads):
    x, weight, bias, residual = normal(41, 100), normal(100), normal(100), normal(41, 100, seed=1)
    whole = layer_norm(x, weight, bias, residual=residual)
    for rows in (slice(0, 1), slice(40, 41), slice(3, 8), slice(1, 41)):
        assert_same_bits(layer_norm(x[rows], weight, bias, residual=residual[rows]), whole[rows])


def test_nan_stays_in_its_row(isa):
    x = normal(9, 40)
    x[4, 39] = np.nan
    out = layer_norm(x)
    assert np.isnan(out[4]).all()
    assert np.isfinite(np.delete(out, 4, axis=0)).all()


def test_into_out(isa):
    x, out = normal(4, 33), np.full((4, 33), np.nan, np.float32)
    assert layer_norm(x, out=out) is out
    assert_same_bits(out, layer_norm(x))


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("case", tagged(ROWS, "small", "long"), ids=lambda case: case.name)
def test_rms_case(case, isa, threads):
    inputs = case.make_inputs()
    for parts in ((), ("weight",), ("weight", "residual"), ("residual",)):
        both("rms_norm", inputs["x"], **{name: inputs[name] for name in parts})


def test_rms_of_rows_alone_and_together(isa, threads):
    x, weight, residual = normal(41, 100), normal(100), normal(41, 100, seed=1)
    x[7, 3] = np.nan
    whole = rms_norm(x, weight, residual=residual)
    assert np.isnan(whole[7]).all() and np.isfinite(np.delete(whole, 7, axis=0)).all()
    for rows in (slice(0, 1), slice(40, 41), slice(3, 7), slice(8, 41)):
        assert_same_bits(rms_norm(x[rows], weight, residual=residual[rows]), whole[rows])
    assert_same_bits(rms_norm(x, weight, residual=residual, out=x), whole)


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 1.0])
def test_rms_eps(eps, isa):
    both("rms_norm", normal(7, 33) * np.float32(1e-2), normal(33), eps)
    assert (rms_norm(np.zeros((2, 40), np.float32), normal(40), eps) == 0).all()

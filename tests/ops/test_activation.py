"""gelu, relu, silu, tanh and quick_gelu against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ROWS, tagged
from support import assert_same_bits, both, normal

from transformer_fast import functional, reference

OPS = {
    "gelu": ("gelu", {}),
    "gelu_tanh": ("gelu", {"approximate": "tanh"}),
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "tanh": ("tanh", {}),
    "quick_gelu": ("quick_gelu", {}),
}


@pytest.fixture(params=OPS)
def activation(request):
    """(name, options) of an activation."""
    return OPS[request.param]


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("case", tagged(ROWS, "small", "long"), ids=lambda case: case.name)
def test_case(case, activation, isa, threads):
    name, options = activation
    both(name, case.make_inputs()["x"], **options)


def test_a_number_without_dimensions(activation, isa):
    name, options = activation
    assert both(name, np.float32(0.7) * np.ones((), np.float32), **options).shape == ()


def test_every_size_of_value(activation, isa):
    """From denormal to huge: the bound of every op, relative where the result is large or nearly linear in x."""
    name, options = activation
    exponents = np.linspace(-44, 4.5, 4001)
    x = np.concatenate([10.0**exponents, -(10.0**exponents), [0.0, -0.0, 3.4e38, -3.4e38]]).astype(np.float32)
    got = getattr(functional, name)(x, **options).astype(np.float64)
    expected = getattr(reference, name)(x.astype(np.float64), **options)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6)
    tiny = np.abs(x) < 1e-3  # where the function is nearly linear, and an absolute bound would say nothing
    np.testing.assert_allclose(got[tiny], expected[tiny], rtol=3e-6, atol=3e-45)


def test_fine_grid(activation, isa):
    name, options = activation
    both(name, np.linspace(-12, 12, 100_003, dtype=np.float32), **options, tolerance=2e-6)


def test_ends(activation, isa):
    """+inf gives the function's limit; NaN stays NaN, in its place."""
    name, options = activation
    x = np.zeros(37, np.float32)
    x[5], x[20], x[36] = np.inf, np.nan, np.inf
    out = getattr(functional, name)(x, **options)
    assert np.isnan(out[20]) and np.isnan(out).sum() == 1
    if name == "tanh":
        assert (out[[5, 36]] == 1).all()
    else:
        assert np.isposinf(out[[5, 36]]).all()


def test_sign_of_zero(isa):
    zeros = np.array([0.0, -0.0], np.float32)
    for name in ("tanh", "silu"):
        assert_same_bits(getattr(functional, name)(zeros), zeros)


@pytest.mark.rotate("threads")
def test_position_does_not_matter(activation, isa, threads):
    """An element has the same bits in the body of a vector and in its tail."""
    name, options = activation
    x = normal(203)
    whole = getattr(functional, name)(x, **options)
    for start in (1, 7, 100, 190, 202):
        assert_same_bits(getattr(functional, name)(x[start:].copy(), **options), whole[start:])


def test_into_out(activation, isa):
    name, options = activation
    x, out = normal(5, 33), np.full((5, 33), np.nan, np.float32)
    assert getattr(functional, name)(x, **options, out=out) is out
    assert_same_bits(out, getattr(functional, name)(x, **options))

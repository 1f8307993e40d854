"""softmax against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ROWS, tagged
from support import assert_same_bits, both, normal

from transformer_fast.functional import softmax


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("case", tagged(ROWS, "small", "long"), ids=lambda case: case.name)
def test_case(case, isa, threads):
    out = both("softmax", case.make_inputs()["x"])
    np.testing.assert_allclose(out.sum(axis=-1), np.ones(case.shape[:-1]) if case.shape[-1] else 0, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 17, 33), (65, 2, 1)])
def test_axis(shape, axis, isa):
    both("softmax", normal(*shape), axis)


@pytest.mark.parametrize("N", [1, 7, 16, 17, 100])
def test_minus_infinity_has_no_share(N, isa):
    x = normal(6, N)
    x[:, 1::2] = -np.inf
    out = both("softmax", x)
    assert (out[:, 1::2] == 0).all()


def test_large_logits(isa):
    both("softmax", np.array([[80, -80, 79, 0], [3e38, 3e38, 0, -3e38], [-3e38, -3e38, -3e38, -3e38]], np.float32))
    both("softmax", normal(20, 50) * 80)


def test_nan_stays_in_its_row(isa):
    x = normal(9, 40)
    x[4, 39] = np.nan
    out = both("softmax", x)
    assert np.isnan(out[4]).all()


def test_row_independence(isa, threads):
    x = normal(41, 100)
    whole = softmax(x)
    for rows in (slice(0, 1), slice(40, 41), slice(3, 8), slice(1, 41)):
        assert_same_bits(softmax(x[rows]), whole[rows])


def test_into_out(isa):
    x, out = normal(4, 33), np.full((4, 33), np.nan, np.float32)
    assert softmax(x, out=out) is out
    assert_same_bits(out, softmax(x))

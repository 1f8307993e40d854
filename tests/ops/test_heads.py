"""split_heads and concat_heads against the reference: they move bits and change none."""

from __future__ import annotations

import numpy as np
import pytest
from cases import HEADS, tagged
from support import assert_same_bits, normal

from transformer_fast import reference
from transformer_fast.functional import concat_heads, split_heads


@pytest.mark.parametrize("case", tagged(HEADS, "small"), ids=lambda case: case.name)
def test_case(case, isa, threads):
    x = case.make_inputs()
    heads = split_heads(x, case.H)
    assert heads.flags.c_contiguous and heads.shape == (case.B, case.H, case.L, case.D)
    assert_same_bits(heads, reference.split_heads(x, case.H))
    back = concat_heads(heads)
    assert back.flags.c_contiguous
    assert_same_bits(back, x)


def test_views(isa):
    """Any strides come in: a slice of a fused product, and heads that lie in memory as (B, L, H, D)."""
    fused = normal(2, 9, 3 * 40)
    assert_same_bits(split_heads(fused[:, ::2, 40:80], 5), reference.split_heads(fused[:, ::2, 40:80], 5))
    heads = normal(2, 9, 5, 8).swapaxes(1, 2)
    assert_same_bits(concat_heads(heads), reference.concat_heads(heads))


def test_every_bit_pattern_survives(isa):
    x = np.arange(2**12, dtype=np.uint32).reshape(2, 32, 64) * np.uint32(0x000FFFFF)
    assert_same_bits(concat_heads(split_heads(x.view(np.float32), 4)), x.view(np.float32))


@pytest.mark.parametrize("num_heads", [0, -1, 5, 41])
def test_heads_that_do_not_divide(num_heads):
    with pytest.raises(ValueError, match="num_heads"):
        split_heads(normal(2, 3, 32), num_heads)


@pytest.mark.parametrize("shape", [(32,), (3, 32), (1, 2, 3, 32)])
def test_wrong_number_of_dimensions(shape):
    with pytest.raises(ValueError, match="x"):
        split_heads(normal(*shape), 4)


def test_concat_wants_four_dimensions():
    with pytest.raises(ValueError, match="x"):
        concat_heads(normal(2, 3, 32))

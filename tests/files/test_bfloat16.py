"""bfloat16 without ml_dtypes: the library's own NumPy type has the bits of that package's, and models run with it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from decoder_cases import tensors, write
from subprocesses import printed
from support import assert_same_bits

from transformer_fast import _core, functional

ml_dtypes = pytest.importorskip("ml_dtypes")
OWN = _core.BFLOAT16


def some_floats(dtype) -> np.ndarray:
    """All exponents, ties, infinities and NaN."""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = np.arange(0x7F7E8000, 0x7F808001, 0x8000, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        return np.concatenate([bits, ties, ties | 0x80000000]).view(np.float32).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_round_as_those_of_ml_dtypes(dtype):
    x = some_floats(dtype)
    with np.errstate(invalid="ignore"):  # some NaN are signalling ones
        got, expected = x.astype(OWN), x.astype(ml_dtypes.bfloat16)
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(got.view(np.uint16)[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(got[~numbers].astype(dtype)).all()
    assert_same_bits(got[numbers].astype(dtype), expected[numbers].astype(dtype))


def test_float64_is_rounded_once():
    """Beside a tie by less than a float32 shows, which alone would make it a tie and the even neighbour the result."""
    half = 2.0**-8
    x = np.array([1 + half + 2.0**-40, 1 + half, 1 + 3 * half - 2.0**-40, 1 + 3 * half, 2.0**128 - 2.0**100])
    expected = [1 + 2 * half, 1, 1 + 2 * half, 1 + 4 * half, np.inf]
    for sign in (1, -1):
        assert (sign * x).astype(OWN).tolist() == [sign * y for y in expected]
        assert np.array((sign * x).tolist(), OWN).tolist() == [sign * y for y in expected]


def test_items_of_the_other_byte_order():
    x = np.array([1.5, -2], OWN.newbyteorder())
    assert x.tolist() == x.astype(np.float32).tolist() == [1.5, -2.0]
    assert x.view(np.uint16).byteswap().tolist() == [0x3FC0, 0xC000]


def test_arrays_behave():
    x = np.array([[1, 0, -2.5]], np.float32).astype(OWN)
    assert x.dtype.name == "bfloat16" and x.tolist() == [[1.0, 0.0, -2.5]]
    assert (x + 1).dtype == np.float32 and np.count_nonzero(x) == 2
    assert np.concatenate([x.T, x.T]).dtype == OWN
    assert x.byteswap().view(np.uint16)[0, 0] == 0x803F
    x[0, 1] = 3
    for copied in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert copied.dtype == OWN and copied.tolist() == x.tolist()
    with pytest.raises(TypeError):
        x[0, 0] = "text"


def test_ops_take_both_types(isa):
    """A weight, keys and values, a table: the bits of the same numbers as ml_dtypes' arrays."""
    rng = np.random.default_rng(1)
    x, table = (rng.standard_normal(shape, np.float32) for shape in ((2, 3, 5, 16), (7, 16)))

    def results(dtype) -> list[np.ndarray]:
        keys, rows = x.astype(dtype), table.astype(dtype)
        return [
            functional.scaled_dot_product_attention(x, keys, keys),
            functional.scaled_dot_product_attention(keys, keys, keys).view(np.uint16),
            functional.linear(x, functional.pack_weight(rows, format="bfloat16")),
            functional.embedding(np.arange(7), rows),
            functional.top_k_products(table, rows, 3)[0],
        ]

    for got, expected in zip(results(OWN), results(ml_dtypes.bfloat16), strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_model_in_an_environment_without_ml_dtypes(tmp_path, case):
    folder = write(tmp_path, case, replaced={n: a.astype(ml_dtypes.bfloat16) for n, a in tensors(case).items()})
    code = f"""
import json, sys
without = {{without}}
if without:
    sys.modules["ml_dtypes"] = None
from transformer_fast import load_model
model = load_model({str(folder)!r}, packed_cache={str(tmp_path / "packed")!r} + str(without))
tokens = model.generate([[1, 2, 3]], max_new_tokens=5, kv_cache_dtype="bfloat16")
types = sorted({{{{a.dtype.name for a in model.state_dict().values()}}}})
print(json.dumps([[list(map(int, row)) for row in tokens], model([[1, 2, 3]]).logits.tolist(), types]))
"""
    without, with_it = (json.loads(printed(code.format(without=flag))) for flag in (True, False))
    assert without == with_it and "bfloat16" in without[2]

"""max_sim against the reference: rows and columns around the tiles, types, and what a score does not depend on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cases import max_sim_cases
from support import assert_close, assert_same_bits, both, normal, widened

from transformer_fast import reference
from transformer_fast.functional import max_sim

CASES = max_sim_cases()


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case, isa, threads):
    inputs = case.make_inputs()
    found = both("max_sim", **inputs, tolerance=2e-6 * max(1, *case.queries, 1))
    assert found.shape == (len(case.queries), len(case.documents))
    if len(case.queries) == 1:
        inputs.pop("cu_queries")
        assert_same_bits(max_sim(**inputs), found[0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_widened(isa, dtype):
    inputs = max_sim_cases("small")[-4].make_inputs()
    half = inputs | {"documents": inputs["documents"].astype(dtype)}
    assert_same_bits(max_sim(**half), max_sim(**half | {"documents": half["documents"].astype(np.float32)}))


def test_pairs(isa, threads):
    queries, documents = [3, 0, 30, 65, 1], [9, 4, 0, 300, 17]
    q, d = normal(sum(queries), 33) / np.float32(33), normal(sum(documents), 33, seed=1)
    starts_q, starts_d = np.cumsum([0, *queries]), np.cumsum([0, *documents])
    found = max_sim(q, d, starts_d, cu_queries=starts_q, pairwise=True)
    assert_close(found, reference.max_sim(*widened([q, d]), starts_d, cu_queries=starts_q, pairwise=True), 1e-5)
    assert_same_bits(found, np.diag(max_sim(q, d, starts_d, cu_queries=starts_q)).copy())


def test_a_score_does_not_depend_on_the_others(isa):
    """Not on the number of columns of a panel, nor on the documents before."""
    queries, documents = [5, 17, 40], [3, 200, 9]
    q, d = normal(62, 70), normal(212, 70, seed=1)
    starts_q, starts_d = np.cumsum([0, *queries]), np.cumsum([0, *documents])
    together = max_sim(q, d, starts_d, cu_queries=starts_q)
    for i in range(3):
        for j in range(3):
            query, document = q[starts_q[i] : starts_q[i + 1]], d[starts_d[j] : starts_d[j + 1]]
            assert_same_bits(max_sim(query, document, [0, len(document)]), together[i, j : j + 1])


@pytest.mark.parametrize("place", [0, 3, 8, 20])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(isa, place, value):
    """A NaN is kept wherever it stands among the rows, and so are infinities; other documents do not see them."""
    q, d = np.abs(normal(4, 24)), normal(42, 24, seed=1)
    d[place, 5] = value
    found = max_sim(q, d, [0, 21, 42])
    with np.errstate(invalid="ignore"):
        expected = reference.max_sim(*widened([q, d]), [0, 21, 42])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(found[1])


def test_views(isa):
    q, d = normal(12, 40), normal(60, 80, seed=1)
    expected = max_sim(q[::3].copy(), d[::2, 10:50].copy(), [0, 7, 30])
    assert_same_bits(max_sim(q[::3], d[::2, 10:50], [0, 7, 30]), expected)
    out = np.zeros(4, np.float32)
    assert max_sim(q[::3], d[::2, 10:50], [0, 7, 30], out=out[::2]).base is out
    assert_same_bits(out[::2].copy(), expected)


def test_bad_input():
    q, d = normal(4, 8), normal(6, 8)
    for error, match, change in [
        (ValueError, r"documents has shape \(6, 7\); needed: rows of length 8", {"documents": normal(6, 7)}),
        (ValueError, r"queries has shape \(8,\)", {"queries": normal(8)}),
        (ValueError, "cu_seqlens reaches from 0 to 5", {"cu_seqlens": [0, 5]}),
        (ValueError, "cu_queries reaches from 1 to 4", {"cu_queries": [1, 4]}),
        (ValueError, "pairwise is True with 1 queries and 2 documents", {"pairwise": True}),
        (TypeError, "pairwise is 'yes'", {"pairwise": "yes"}),
        (TypeError, "queries has dtype float16; needed: float32", {"queries": q.astype(np.float16)}),
        (TypeError, "documents has dtype int8", {"documents": d.astype(np.int8)}),
    ]:
        with pytest.raises(error, match=match):
            max_sim(**{"queries": q, "documents": d, "cu_seqlens": [0, 2, 6]} | change)

"""Linear layers against NumPy, for regressions: `pytest benchmarks`. Cases: those of cases.py tagged "bench"."""

from __future__ import annotations

import pytest
from cases import LINEAR, tagged

from benchmarks.backends import Unsupported
from benchmarks.backends.numpy import NumPy
from benchmarks.backends.ours import Ours


@pytest.mark.parametrize("chosen", ["ours", "numpy"])
@pytest.mark.parametrize("case", tagged(LINEAR, "bench"), ids=lambda case: case.name)
def test_linear(compare, case, chosen):
    try:
        numpys = NumPy(1).linear(case)
    except Unsupported as why:
        if chosen == "numpy":
            pytest.skip(f"NumPy {why}")
        numpys = []
    compare(case, chosen, Ours(1).linear(case), numpys)

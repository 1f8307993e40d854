"""Attention against NumPy, for regressions: `pytest benchmarks`. The cases are those of cases.py tagged "bench".

`pytest benchmarks --benchmark-autosave`, and later `--benchmark-compare --benchmark-compare-fail=median:10%`.
"""

from __future__ import annotations

import pytest
from cases import ATTENTION, tagged

from benchmarks.backends.numpy import NumPy
from benchmarks.backends.ours import Ours


@pytest.mark.parametrize("chosen", ["ours", "numpy"])
@pytest.mark.parametrize("case", tagged(ATTENTION, "bench"), ids=lambda case: case.name)
def test_attention(compare, case, chosen):
    compare(case, chosen, Ours(1).attention(case), NumPy(1).attention(case))

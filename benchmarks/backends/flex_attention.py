"""torch's FlexAttention, compiled: `torch.compile(flex_attention)` with a BlockMask that is made beforehand.

As its documentation advises: compiled, one BlockMask for all calls, which is not timed. torch.compile needs a C++
compiler at run time; where there is none, the result says so. Uses the settings of torch.py. Two sizes of blocks are
tried, torch's default and the one that our random blocks have.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks import ROOT, structures

# Read when torch is imported. The second run finds what the first one compiled; workers would be processes that the
# runner does not see come to rest.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ROOT / "build" / "benchmarks" / "inductor"))
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.backends import Variant
from benchmarks.backends.torch import Configured, formula_of
from benchmarks.wire import MaskCase

_BLOCK_SIZES = (128, structures.BLOCK)


class FlexAttention(Configured):
    def masked(self, case: MaskCase, artifacts: dict[str, Any]) -> list[Variant]:
        query, key, value = map(torch.from_numpy, case.make_inputs())
        formula, arrays = formula_of(case, artifacts)

        def mask_mod(b: Any, h: Any, i: Any, j: Any) -> Any:
            return formula(i, j, arrays)

        # Nothing of the last case: it would be compiled again for any shape, which is slower.
        torch.compiler.reset()
        variants = []
        for size in _BLOCK_SIZES:
            block_mask = create_block_mask(mask_mod, None, None, case.L, case.L, device="cpu", BLOCK_SIZE=size)
            compiled = torch.compile(flex_attention, dynamic=False)
            variants.append(
                Variant(
                    f"torch.compile(flex_attention), blocks of {size}",
                    lambda compiled=compiled, block_mask=block_mask: compiled(query, key, value, block_mask=block_mask),
                    torch.Tensor.numpy,
                )
            )
        return variants


BACKEND = FlexAttention

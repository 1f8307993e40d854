"""A tiny gpt-oss whose experts are stored in 4 bits: for tests/models/test_experts.py and the live comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from decoder_cases import tensors, write

# Blocks are 32 wide: what the case "gpt_oss" has smaller.
SIZES = {"hidden_size": 32, "intermediate_size": 32}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def four_bits(rng, E, N, n):
    """Blocks and scales, and the values of float tensors (E, 32 n, N) that they stand for, number by number."""
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    table += [-value for value in table]
    codes = rng.integers(0, 16, (E, N, n, 32))
    scales = rng.integers(122, 126, (E, N, n)).astype(np.uint8)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    values = np.array(table)[codes] * 2.0 ** (scales[..., None].astype(float) - 127)
    return blocks, scales, np.ascontiguousarray(values.reshape(E, N, 32 * n).swapaxes(1, 2), np.float32)


def expert_tensors() -> tuple[dict, dict]:
    """The tensors of floats; and what replaces the experts' among them in 4 bits (None: removed)."""
    shapes = {name: array.shape for name, array in tensors("gpt_oss").items()}
    rng, floats, packed = np.random.default_rng(0), {}, {}
    for name, shape in shapes.items():
        wide = tuple({16: 32, 20: 32, 40: 64}.get(n, n) for n in shape)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) or ".k_proj." in name or ".v_proj." in name:
            wide = (shape[0], *wide[1:])
        if name.endswith("_proj") and ".experts." in name:
            E, K, N = wide
            blocks, scales, floats[name] = four_bits(rng, E, N, K // 32)
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales, name: None}
        else:
            norm = name.endswith("norm.weight")
            floats[name] = rng.standard_normal(wide, np.float32) * np.float32(0.1 if norm else 0.3) + np.float32(norm)
    return floats, packed


def write_four_bits(folder: Path, changes: dict | None = None, replaced: dict | None = None) -> Path:
    """The folder with experts in 4 bits, with some fields and tensors replaced."""
    floats, packed = expert_tensors()
    fields = SIZES | {"quantization_config": MXFP4} | (changes or {})
    return write(folder, "gpt_oss", fields, floats | packed | (replaced or {}))

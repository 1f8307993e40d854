"""Layers as GPTQ, AWQ and compressed-tensors store them, written with NumPy, and the values that they stand for.

What a number is stored as is told bit by bit here, where the library works on bytes.
"""

from __future__ import annotations

import numpy as np

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers as words of 32 bits: number i begins at bit i * bits."""
    rows, count = numbers.shape
    words = np.zeros((rows, -(-count * bits // 32)), np.uint64)
    for i in range(count):
        for bit in range(bits):
            place = i * bits + bit
            words[:, place // 32] |= (numbers[:, i].astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) << np.uint64(
                place % 32
            )
    return words.astype(np.uint32).view(np.int32)


def layer(rng, shape, bits=4, group_size=8, ordered=False, symmetric=False):
    """(integers (N, K) from 0 on, zeros (N, G) from 0 on, scales (N, G), group of each column (K,))."""
    rows, columns = shape
    count = 1 if group_size is None else -(-columns // group_size)
    groups = np.arange(columns) // (group_size or columns)
    if ordered:
        groups = rng.permutation(groups)
    integers = rng.integers(0, 1 << bits, shape)
    zeros = np.full((rows, count), 1 << bits - 1) if symmetric else rng.integers(1, 1 << bits, (rows, count))
    scales = (rng.uniform(0.5, 1.5, (rows, count)) / (1 << bits)).astype(np.float16)
    return integers, zeros, scales, groups.astype(np.int32)


def values(integers, zeros, scales, groups) -> np.ndarray:
    """float64."""
    return (integers - zeros[:, groups]) * scales.astype(np.float64)[:, groups]


def gptq(name, integers, zeros, scales, groups, bits=4, version=1) -> dict:
    return {
        f"{name}.qweight": packed(integers.T.T, bits).T.copy(),
        f"{name}.qzeros": packed(zeros.T - (version == 1), bits),
        f"{name}.scales": scales.T.copy(),
        f"{name}.g_idx": groups,
    }


def awq(name, integers, zeros, scales, groups, bits=4) -> dict:
    def words(numbers):
        return packed(numbers.reshape(len(numbers), -1, 8)[:, :, AWQ_ORDER].reshape(len(numbers), -1), 4)

    return {f"{name}.qweight": words(integers.T), f"{name}.qzeros": words(zeros.T), f"{name}.scales": scales.T.copy()}


def compressed(name, integers, zeros, scales, groups, bits=4, symmetric=False, ordered=False) -> dict:
    found = {
        f"{name}.weight_packed": packed(integers, bits),
        f"{name}.weight_scale": scales,
        f"{name}.weight_shape": np.array(integers.shape, np.int64),
    }
    if not symmetric:
        found[f"{name}.weight_zero_point"] = packed(zeros.T, bits).T.copy()
    if ordered:
        found[f"{name}.weight_g_idx"] = groups
    return found


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False, "sym": False, "damp_percent": 0.01}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}
AWQ |= {"modules_to_not_convert": ["lm_head"]}


def compressed_settings(bits=4, group_size=8, symmetric=False, strategy="group", actorder=None) -> dict:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": False}
    weights |= {"group_size": group_size, "block_structure": None, "actorder": actorder, "observer": "minmax"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", r"re:.*\.out_norm$"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }

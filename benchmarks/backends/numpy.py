"""NumPy on the BLAS that it brings: attention and MaxSim in three ways, of which the fastest counts; `x @ weight.T`.

OpenBLAS chooses its kernels for the processor by itself; which ones it took stands in the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks import masks
from benchmarks.backends import Backend, Unsupported, Variant
from benchmarks.wire import AttentionCase, LinearCase, MaxSimCase
from transformer_fast import bench

# float32 scores that fit into half a gigabyte: whole (B, H, Lq, Lk) arrays beyond that only page.
_MOST_SCORES = 1 << 27
# Instead of -inf, which makes NaN (and a warning) of a row without keys.
_HIDDEN = np.float32(-1e30)
# Rows of one block where structure leaves most keys out; 128 to 512 differ by less than 10 %.
_BLOCK = 256


class NumPy(Backend):
    packages = ("numpy",)

    def settings(self) -> dict[str, Any]:
        from threadpoolctl import threadpool_info

        keys = ("internal_api", "version", "architecture", "num_threads")
        return {"blas": [{k: pool.get(k) for k in keys} for pool in threadpool_info() if pool["user_api"] == "blas"]}

    def attention(self, case: AttentionCase) -> list[Variant]:
        (query, key, value), options = case.make_inputs()
        unknown = set(options) - {"is_causal", "window", "kv_lengths", "attn_mask", "enable_gqa"}
        if unknown:
            raise Unsupported(f"no NumPy twin for {', '.join(sorted(unknown))}")
        bias = masks.additive(case, options)
        if bias is not None:
            bias = np.maximum(bias, _HIDDEN)
        B, H, Lq, D = query.shape
        if case.Hkv != H:
            # A group's queries are rows of one product with their shared keys: each key is read once.
            query = query.reshape(B, case.Hkv, -1, D)
            if bias is not None:
                bias = np.tile(np.broadcast_to(bias, (B, 1, Lq, case.Lk)), (1, 1, H // case.Hkv, 1))

        def read(result: np.ndarray) -> np.ndarray:
            return result.reshape(B, H, Lq, case.Dv)

        variants = [Variant("head by head", lambda: bench.numpy_attention(query, key, value, bias=bias), read)]
        if B * H * Lq * case.Lk <= _MOST_SCORES:
            variants.append(Variant("whole arrays", lambda: whole_arrays(query, key, value, bias), read))
        if case.Hkv == H and Lq > _BLOCK and (case.is_causal or case.window != (-1, -1)):
            variants.append(Variant(f"blocks of {_BLOCK} queries", lambda: blocks(case, query, key, value)))
        return variants

    def linear(self, case: LinearCase) -> list[Variant]:
        (x, weight), options = case.make_inputs()
        if set(options) - {"bias"}:
            raise Unsupported("has no exact GELU")
        return [Variant("x @ weight.T + bias", lambda: bench.numpy_linear(x, weight, options["bias"]))]

    def max_sim(self, case: MaxSimCase) -> list[Variant]:
        queries, documents, padded = max_sim_arrays(case)

        def each() -> np.ndarray:
            return np.array([[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries])

        def einsum() -> np.ndarray:
            scores = np.einsum("qsh,dth->qdst", np.stack(queries), padded, optimize=True)
            return scores.max(axis=3).sum(axis=2)

        def matmul() -> np.ndarray:
            return np.stack([(padded @ q.T).max(axis=1).sum(axis=1) for q in queries])

        return [Variant("each query and document", each), Variant("einsum", einsum), Variant("each query", matmul)]


def max_sim_arrays(case: MaxSimCase) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The vectors of each query and of each document, and documents (N, L, D), which are of one length."""
    inputs = case.make_inputs()
    queries = np.split(inputs["queries"], inputs["cu_queries"][1:-1])
    documents = np.split(inputs["documents"], inputs["cu_seqlens"][1:-1])
    return queries, documents, inputs["documents"].reshape(len(documents), -1, case.D)


def whole_arrays(query: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """All heads in one product: the fastest for many small heads."""
    scores = (query * np.float32(1 / math.sqrt(query.shape[-1]))) @ key.swapaxes(-1, -2)
    if bias is not None:
        scores += bias
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    out = scores @ value
    out /= scores.sum(axis=-1, keepdims=True)
    return out


def blocks(case: AttentionCase, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Blocks of queries, each with the keys that causal order and window leave it."""
    out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
    left, right = case.window
    if case.is_causal:
        right = 0 if right < 0 else min(right, 0)
    for start in range(0, case.Lq, _BLOCK):
        stop = min(start + _BLOCK, case.Lq)
        first = max(start - left, 0) if left >= 0 else 0
        last = min(stop + right, case.Lk) if right >= 0 else case.Lk
        p, j = np.arange(start, stop)[:, None], np.arange(first, last)
        hidden = np.zeros((stop - start, last - first), np.float32)
        if left >= 0:
            hidden[j < p - left] = -np.inf
        if right >= 0:
            hidden[j > p + right] = -np.inf
        out[:, :, start:stop] = bench.numpy_attention(
            query[:, :, start:stop], key[:, :, first:last], value[:, :, first:last], bias=hidden
        )
    return out


BACKEND = NumPy

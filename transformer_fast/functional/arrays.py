"""Checks of arrays that all ops share: type, layout, output.

Called by the other files of this package. The engine reads any strides of the leading axes; it needs the last axis
dense, native byte order and natural alignment. What comes otherwise is copied here, once, into the layout that the
engine reads.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from transformer_fast import _core

FLOAT32 = np.dtype(np.float32)
# What weights and tables may be stored as: the types of checkpoints. Products and sums are float32.
WEIGHT_TYPES = ("float32", "float16", "bfloat16")
_LARGEST = np.iinfo(np.int64).max


# What rows of token ids need, for `as_array`.
PADDED = "rows padded to one length, with attention_mask to tell padding, or packed sequences"


def as_array(x, name: str, needed: str = "rows of one length") -> np.ndarray:
    """np.asarray(x); where lists differ in length, the ValueError names the argument and two of the rows."""
    try:
        return np.asarray(x)
    except ValueError:
        if not isinstance(x, (list, tuple)):
            raise
        lengths = [len(row) if hasattr(row, "__len__") else None for row in x]
        other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        if other is None:
            what = "lists of different lengths"
        elif None in lengths:
            what = "lists beside numbers"
        else:
            what = f"rows of different lengths (row 0 has {lengths[0]}, row {other} has {lengths[other]})"
        raise ValueError(f"{name} has {what}; needed: {needed}") from None


def dense(x: np.ndarray) -> np.ndarray:
    """`x`, or a copy, with a dense last axis, native byte order, natural alignment and strides of whole elements."""
    return x if _core.readable(x) else np.array(x, dtype=x.dtype.newbyteorder("="), order="C")


def float32(x, name: str, *, last: int | None = None) -> np.ndarray:
    """`x` as a float32 array that the engine can read; `last` is the length that its last axis must have."""
    if type(x) is not np.ndarray:
        x = as_array(x, name)
    if x.dtype != FLOAT32 and x.dtype.name != "float32":
        raise TypeError(f"{name} has dtype {x.dtype}; needed: float32")
    if last is not None and (x.ndim == 0 or x.shape[-1] != last):
        raise ValueError(f"{name} has shape {x.shape}; its last axis must have length {last}")
    return dense(x)


def weight(x, name: str, integers: bool = False) -> np.ndarray:
    """`x` as an array that the engine can read as a weight or a table: float32, float16 or bfloat16, two axes.

    integers: a weight that has scales, int8 alone.
    """
    x = as_array(x, name)
    if integers and x.dtype != np.int8:
        raise TypeError(f"scale is given and {name} has dtype {x.dtype}; needed: int8")
    if not integers and x.dtype != FLOAT32 and x.dtype.name not in WEIGHT_TYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; needed: {', '.join(WEIGHT_TYPES[:-1])} or {WEIGHT_TYPES[-1]}")
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}; needed: two axes")
    return dense(x)


def number(x, name: str) -> float:
    """A finite Python float."""
    if type(x) is float and math.isfinite(x):
        return x
    try:
        value = float(operator.index(x)) if isinstance(x, (int, np.integer)) else x.__float__()
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"{name} is {x!r}; needed: a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {x!r}; needed: a finite number")
    return value


def integer(x, name: str) -> int:
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{name} is {x!r}; needed: an integer") from None


def vector(x, name: str, n: int) -> np.ndarray:
    """A dense float32 vector of n numbers; other float types are converted (biases, slopes, sinks)."""
    x = as_array(x, name)
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {x.dtype}; needed: a float type")
    if x.shape != (n,):
        raise ValueError(f"{name} has shape {x.shape}; needed: ({n},)")
    return np.ascontiguousarray(x if x.flags.aligned else x.copy(), dtype=np.float32)


def integers(x, name: str, n: int) -> np.ndarray:
    """A dense int64 vector of n numbers."""
    x = as_array(x, name)
    if x.dtype.kind not in "iu" and x.size:  # an empty list is an array of float64
        raise TypeError(f"{name} has dtype {x.dtype}; needed: integers")
    if x.shape != (n,):
        raise ValueError(f"{name} has shape {x.shape}; needed: ({n},)")
    if x.dtype.kind == "u" and (x > _LARGEST).any():
        raise ValueError(f"{name} reaches {x.max()}; needed: integers below 2**63")
    return np.ascontiguousarray(x if x.flags.aligned else x.copy(), dtype=np.int64)


def outside(ids: np.ndarray, limit: int) -> int | None:
    """The first of `ids`, an array of integers, that is not in [0, limit); None: all are."""
    at = _core.first_outside(flat_integers(ids), limit)
    return None if at < 0 else int(ids.flat[at])


def flat_integers(x: np.ndarray) -> np.ndarray:
    """An array of integers as a dense int64 vector; what is too large for it becomes negative."""
    return np.ascontiguousarray(x if x.flags.aligned else x.copy(), dtype=np.int64).reshape(-1)


def as_rows(x: np.ndarray) -> np.ndarray:
    """(..., N) as (M, N): a view where the strides allow it."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def overlaps(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays share memory; what takes too long to decide counts as shared."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


def same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether both are the same elements in the same order."""
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.strides == b.strides
        and a.shape == b.shape
    )


def _folds(x: np.ndarray) -> bool:
    """Whether elements of x may share memory: whether a stride is smaller than what lies within one step of it."""
    span = x.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < span:
            return x.size > 0
        span += stride * (length - 1)
    return False


def check_out(
    out, shape: tuple[int, ...], dtype: np.dtype, inputs: dict[str, object], in_place: tuple[str, ...] = ()
) -> None:
    """Raises where `out` cannot take a result of `shape`.

    Those of `inputs` that `in_place` names may be `out` itself; no other overlap is accepted.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; needed: a NumPy array")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out has dtype {out.dtype}; needed: {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; needed: {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; needed: a writable array")
    if not out.flags.aligned:
        raise ValueError("out is misaligned; needed: an array aligned to its element")
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray) or not overlaps(out, array):
            continue
        if name in in_place and same_memory(out, array):
            continue
        raise ValueError(f"out overlaps {name}; needed: memory of its own")
    if not out.flags.c_contiguous and _folds(out):
        raise ValueError(f"out has strides {out.strides}: several results would go to one place")


def result_array(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What the engine writes to: `out` where it can, else an array of its own, which `finish` copies to `out`."""
    if out is None:
        return np.empty(shape, dtype)
    size = out.dtype.itemsize
    if (out.shape[-1] > 1 and out.strides[-1] != size) or any(stride % size for stride in out.strides):
        return np.empty(shape, dtype)
    return out


def finish(out: np.ndarray | None, result: np.ndarray) -> np.ndarray:
    if out is None or out is result:
        return result
    out[...] = result
    return out

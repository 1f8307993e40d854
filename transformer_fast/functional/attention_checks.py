"""Checks of attention's operands and options, and the form in which the engine reads them.

Called by functional.attention and functional.encoder. A function refuses wrong arguments with an error that names the
argument, and returns the option in the engine's own form; None means "not given" throughout, and callers on the fast
path do not call for an option that is None: a call on tiny arrays costs a few microseconds in all.
To add an option: its check here, its attribute in attention.py.
"""

from __future__ import annotations

import math

import numpy as np

from transformer_fast._core import readable
from transformer_fast.functional import arrays
from transformer_fast.functional.key_ranges import KeyRanges

UNLIMITED = 2**63 - 1
_FARTHEST = 2**40  # a window this wide is unlimited: no array is that long

FLOAT64 = -1  # as q_dtype: plain NumPy computes it
INT8 = 3  # as kv_dtype: with scales
_CODES = {"float64": FLOAT64, "float32": 0, "float16": 1, "bfloat16": 2, "int8": INT8}  # tfast_dtype
_SEEN: dict[np.dtype, int | None] = {}


def _code(dtype: np.dtype) -> int | None:
    """tfast_dtype, FLOAT64, or None for other types. Kept by dtype: its name takes microseconds to make."""
    try:
        return _SEEN[dtype]
    except KeyError:
        _SEEN[dtype] = _CODES.get(dtype.name)
        return _SEEN[dtype]


def operands(query, key, value, scaled: bool = False) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray]:
    """The codes of the query's type and of the type of key and value, and the three as arrays.

    scaled: integers with scales are allowed as key and value.
    """
    query = query if type(query) is np.ndarray else np.asarray(query)
    key = key if type(key) is np.ndarray else np.asarray(key)
    value = value if type(value) is np.ndarray else np.asarray(value)
    dtype = query.dtype
    code = kv_code = _code(dtype)
    if code is None or code == INT8:
        raise TypeError(f"query has dtype {dtype}; needed: float32, float64, float16 or bfloat16")
    # NumPy has one object for each native type: mostly there is nothing to look up.
    if key.dtype is not dtype:
        kv_code = _code(key.dtype)
        if kv_code != code and (kv_code is None or kv_code <= 0 or code != 0):
            also = ", float16, bfloat16 or int8" if code == 0 else ""
            raise TypeError(f"key has dtype {key.dtype}; needed: the query's, {dtype}{also}")
        if kv_code == INT8 and not scaled:
            raise TypeError("key has dtype int8; needed: key_scale and value_scale with it")
    if value.dtype is not key.dtype and _code(value.dtype) != kv_code:
        raise TypeError(f"value has dtype {value.dtype}; needed: the key's, {key.dtype}")
    return code, kv_code, query, key, value


def scale(scale, name: str, integers: np.ndarray, lead: tuple[int, ...] | None) -> np.ndarray:
    """float32 scales of the int8 array that is key or value, as the engine reads them.

    (..., Hkv, Lk) -> (B, Hkv, Lk), the leading axes broadcast to `lead`; packed, with lead None, (T, Hkv) as it is.
    """
    if scale is None:
        raise ValueError(f"{name} is None; needed: the scales of {name.removesuffix('_scale')}, which has dtype int8")
    values = arrays.as_array(scale, name)
    if integers.dtype.name != "int8":
        raise ValueError(f"{name} is given; needed: None, since {name[:-6]} has dtype {integers.dtype}, not int8")
    if values.dtype != arrays.FLOAT32:
        raise TypeError(f"{name} has dtype {values.dtype}; needed: float32")
    if values.shape != integers.shape[:-1]:
        raise ValueError(f"{name} has shape {values.shape}; needed: {integers.shape[:-1]}, one for each row")
    if lead is not None:
        values = _broadcast(values[..., None], lead)[..., 0]
    return values if _steps_are_whole(values) else np.array(values, np.float32)


def _steps_are_whole(x: np.ndarray) -> bool:
    return x.dtype.isnative and x.flags.aligned and not any(stride % x.itemsize for stride in x.strides)


def check_heads(H: int, Hkv: int, enable_gqa: bool) -> None:
    if H == Hkv:
        return
    if not enable_gqa:
        raise ValueError(f"query has {H} heads, key and value have {Hkv}; needed: enable_gqa=True where they differ")
    if Hkv == 0 or H % Hkv:
        raise ValueError(f"query has {H} heads, key and value have {Hkv}; needed: a multiple for enable_gqa")


def check_numbers(dropout_p, softcap, scale, D: int) -> float:
    """The scale. What has nothing to do with arrays is refused here."""
    if not (type(dropout_p) is float and dropout_p == 0) and arrays.number(dropout_p, "dropout_p") != 0:
        raise ValueError(
            f"dropout_p is {dropout_p}; needed: 0, since this library is for inference, which applies no dropout"
        )
    if not (type(softcap) is float and softcap == 0) and arrays.number(softcap, "softcap") < 0:
        raise ValueError(f"softcap is {softcap}; needed: a number >= 0 (0: none)")
    if D == 0:
        raise ValueError("query has head size D = 0; needed: at least 1")
    return 1 / math.sqrt(D) if scale is None else arrays.number(scale, "scale")


def flatten(
    query: np.ndarray, key: np.ndarray, value: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray]:
    """The leading axes, and the three as (B, heads, length, width) that the engine can read: views where strides allow.

    Leading axes broadcast together, B is their product. Refuses shapes that do not fit.
    """
    q, k, v = query.shape, key.shape, value.shape
    if len(q) == len(k) == len(v) == 4 and q[0] == k[0] == v[0] and q[3] == k[3] and k[:3] == v[:3]:
        lead = q[:1]
    else:
        check_shapes(q, k, v)
        lead = _leading(q, k, v)
        query, key, value = (_broadcast(x, lead) for x in (query, key, value))
    if not readable(query):
        query = arrays.dense(query)
    if not readable(key):
        key = arrays.dense(key)
    if not readable(value):
        value = arrays.dense(value)
    return lead, query, key, value


def check_shapes(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> None:
    if len(query) < 3 or len(key) < 3 or len(value) < 3:
        name, shape = min((("query", query), ("key", key), ("value", value)), key=lambda item: len(item[1]))
        raise ValueError(f"{name} has shape {shape}; needed: at least three axes (heads, length, head size)")
    if query[-1] != key[-1]:
        raise ValueError(f"key has head size {key[-1]}; needed: the query's, {query[-1]}")
    if key[-3:-1] != value[-3:-1]:
        raise ValueError(f"value has shape {value}; needed: (..., {key[-3]}, {key[-2]}, Dv), as key {key} has it")


def _leading(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> tuple[int, ...]:
    """What the axes before heads, length and width broadcast to, of three shapes."""
    try:
        return np.broadcast_shapes(query[:-3], key[:-3], value[:-3])
    except ValueError:
        raise ValueError(
            f"query has shape {query}, key {key} and value {value}; needed: leading axes that broadcast together"
        ) from None


def _broadcast(x: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    """(..., h, l, d) -> (B, h, l, d)."""
    tail = x.shape[-3:]
    return np.broadcast_to(x, lead + tail).reshape(math.prod(lead), *tail)


def bounds(window, is_causal: bool) -> tuple[int, int]:
    """How far a query sees to the left and to the right of its own place."""
    if type(window) is tuple and window == (-1, -1):
        return UNLIMITED, 0 if is_causal else UNLIMITED
    try:
        left, right = (arrays.integer(side, "window") for side in window)
    except (TypeError, ValueError):
        raise ValueError(f"window is {window!r}; needed: a pair (left, right) of integers, -1 for unlimited") from None
    if left < -1 or right < -1:
        raise ValueError(f"window is {window!r}; needed: sides of at least -1 (unlimited)")
    left = UNLIMITED if left == -1 or left > _FARTHEST else left
    right = UNLIMITED if right == -1 or right > _FARTHEST else right
    return left, min(right, 0) if is_causal else right


def offsets(causal_offset, B: int, bottom_right) -> np.ndarray | None:
    """(B,) int64, or None for 0. `bottom_right` is the value (or the values) of that name."""
    if isinstance(causal_offset, str):
        if causal_offset != "bottom_right":
            raise ValueError(f'causal_offset is {causal_offset!r}; needed: an integer, (B,) integers or "bottom_right"')
        return np.ascontiguousarray(np.broadcast_to(np.asarray(bottom_right, np.int64), (B,)))
    if isinstance(causal_offset, int):
        return None if causal_offset == 0 else np.full(B, min(max(causal_offset, -_FARTHEST), _FARTHEST), np.int64)
    values = np.asarray(causal_offset)
    values = arrays.integers(np.broadcast_to(values, (B,)) if values.ndim == 0 else values, "causal_offset", B)
    return values.clip(-_FARTHEST, _FARTHEST)


def lengths(kv_lengths, B: int, longest) -> np.ndarray | None:
    """(B,) int64; `longest` is Lk, of all or of each."""
    if kv_lengths is None:
        return None
    values = arrays.integers(kv_lengths, "kv_lengths", B)
    if B and ((values < 0).any() or (values > longest).any()):
        raise ValueError(
            f"kv_lengths reaches from {values.min()} to {values.max()}; needed: values in [0, {np.max(longest)}] (Lk)"
        )
    return values


def _narrowed(values: np.ndarray) -> np.ndarray:
    """As float32; what is finite stays finite: only -inf masks, not the lowest float64."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(values)
    if lost.any():
        narrow[lost] = np.copysign(np.finfo(np.float32).max, narrow[lost])
    return narrow


def mask(attn_mask, lead: tuple[int, ...], shape: tuple[int, int, int]) -> np.ndarray | None:
    """bool or float32 of shape (B, H, Lq, Lk), mostly by strides of 0."""
    if attn_mask is None:
        return None
    values = arrays.as_array(attn_mask, "attn_mask")
    if values.dtype != bool:
        if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
            raise TypeError(f"attn_mask has dtype {values.dtype}; needed: bool (True = attend) or a float type (added)")
        if values.dtype != arrays.FLOAT32 or not values.flags.aligned:
            values = _narrowed(values)
    if any(stride % values.dtype.itemsize for stride in values.strides):
        values = values.copy()
    try:
        values = np.broadcast_to(values, lead + shape)
    except ValueError:
        raise ValueError(f"attn_mask has shape {values.shape}; needed: one that broadcasts to {lead + shape}") from None
    return values.reshape(math.prod(lead), *shape)


def key_ranges(mask, B: int, H: int, Lq: int, Lk: int) -> KeyRanges:
    """A structure, compiled where it is not."""
    if not isinstance(mask, KeyRanges):
        if not hasattr(mask, "ranges"):
            raise TypeError(
                f"mask is a {type(mask).__name__}; needed: a structure of transformer_fast.masks, or its KeyRanges "
                "(a dense array is attn_mask)"
            )
        mask = mask.ranges(Lq, Lk)
    if mask.shape[2:] != (Lq, Lk) or mask.shape[0] not in (1, B) or mask.shape[1] not in (1, H):
        raise ValueError(f"mask has shape {mask.shape}; needed: ({B} or 1, {H} or 1, {Lq}, {Lk})")
    return mask


def ranges(found: KeyRanges, B: int, H: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """What AttentionCall.key_ranges takes; visible pairs are those of all B and H."""
    copies = (B / found.shape[0] if found.shape[0] else 0) * (H / found.shape[1] if found.shape[1] else 0)
    return found.list_of_row, found.begin, found.bounds, found.visible * copies


def packed_ranges(mask, H: int, starts_q: np.ndarray, lengths_k: np.ndarray):
    """What AttentionCall.key_ranges takes of packed sequences: lists (H or 1, Tq)."""
    Tq, Mk = int(starts_q[-1]), int(lengths_k.max(initial=0))
    if not isinstance(mask, KeyRanges):
        raise TypeError(f"mask is a {type(mask).__name__}; needed for packed sequences: KeyRanges")
    if mask.shape[0] != 1 or mask.shape[1] not in (1, H) or mask.shape[2:] != (Tq, Mk):
        raise ValueError(f"mask has shape {mask.shape}; needed: (1, {H} or 1, {Tq}, {Mk})")
    copies = H / mask.shape[1] if mask.shape[1] else 0
    return mask.list_of_row[0], mask.begin, mask.bounds, mask.visible * copies


def _both(attn_mask, seen: np.ndarray) -> np.ndarray:
    if attn_mask is None:
        return seen
    given = np.asarray(attn_mask)
    return given & seen if given.dtype == bool else np.where(seen, given, -np.inf)


def with_packed_ranges(attn_mask, mask, starts_q: np.ndarray, Mk: int):
    """attn_mask (B, H, Mq, Mk) and the structure together, as a dense array: what reference.py takes."""
    if mask is None:
        return attn_mask
    packed, lengths = mask.dense()[0], np.diff(starts_q)
    seen = np.zeros((len(lengths), len(packed), lengths.max(initial=0), Mk), bool)
    for b, (start, length) in enumerate(zip(starts_q, lengths, strict=False)):
        seen[b, :, :length] = packed[:, start : start + length]
    return _both(attn_mask, seen)


def with_ranges(attn_mask, mask: KeyRanges | None, lead: tuple[int, ...]):
    """attn_mask and the structure together, as a dense array: what reference.py takes."""
    if mask is None:
        return attn_mask
    seen = mask.dense()
    return _both(attn_mask, seen[0] if len(seen) == 1 else seen.reshape(*lead, *seen.shape[1:]))


def table(relative_bias, H: int, Lq: int, Lk: int) -> np.ndarray | None:
    """(H or 1, Lq + Lk - 1), dense float32."""
    if relative_bias is None:
        return None
    values, width = arrays.as_array(relative_bias, "relative_bias"), max(Lq + Lk - 1, 0)
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise TypeError(f"relative_bias has dtype {values.dtype}; needed: a float type")
    if values.ndim != 2 or values.shape[0] not in (1, H) or values.shape[1] != width:
        raise ValueError(f"relative_bias has shape {values.shape}; needed: (H or 1, Lq + Lk - 1) = ({H} or 1, {width})")
    return np.ascontiguousarray(values if values.flags.aligned else values.copy(), dtype=np.float32)


def starts(cu_seqlens, name: str, total: int, rows: str) -> np.ndarray:
    """(B + 1,) int64 that rise from 0 to `total`, the rows of the operand called `rows`."""
    values = arrays.as_array(cu_seqlens, name)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} has shape {values.shape}; needed: (B + 1,)")
    values = arrays.integers(values, name, len(values))
    if values[0] != 0 or values[-1] != total or (np.diff(values) < 0).any():
        raise ValueError(
            f"{name} reaches from {values[0]} to {values[-1]}, "
            f"needed: rising values from 0 to {total} (the rows of {rows})"
        )
    return values


def rows_within(rows, name: str, lengths: np.ndarray) -> np.ndarray:
    """(B,) int64: a row of each sequence, of lengths (B,); rows: an integer, or (B,) of them."""
    values = np.asarray(rows)
    values = np.broadcast_to(values, lengths.shape) if values.ndim == 0 else values
    values = arrays.integers(values, name, len(lengths))
    wrong = np.flatnonzero((values < 0) | (values >= lengths))
    if len(wrong):
        b = wrong[0]
        raise ValueError(f"{name} has {values[b]} for sequence {b}; needed: a row below its length, {lengths[b]}")
    return values

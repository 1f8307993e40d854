"""The weight formats of `pack_weight` in NumPy: what they round, and products of integers.

Part of `reference`, which has these names, too; tests compare the engine with them. What is rounded is rounded in
float32, step by step as the engine does, so that the integers are the same; sums and the rest are float64. A new
format: its branch in `rounded_weight`, and in `linear_of_integers` if its products are of integers.
"""

from __future__ import annotations

import math

import numpy as np

_TINY = np.float32(np.finfo(np.float32).tiny)
# csrc/base/int8.h
_W_MAX, _RUN_LIMIT, _X_MAX, _A16_X_MAX = (np.float32(n) for n in (127, 160, 204, 32767))
_A8_X_MAX = 127 * 256  # csrc/kernels/gemm/blocks_rows.h
_RUNS = [[0, 1, 4, 5], [2, 3, 6, 7]]  # positions in each eight k
# csrc/kernels/gemm/blocks_pack.h
_INT4_STEPS = [np.float32(14.5 + 0.25 * number) for number in range(7)]
_INT4_LEAST, _INT4_RANGE = np.float32(2.0**-100), np.float32(2.0**-20)


def rounded_weight(weight, format, smoothing=None):
    """The values that products use of a weight (N, K) packed in a format of pack_weight, in weight's own type.

    float16: 11 significant bits, to the nearest, ties to even; what rounds beyond the range (65,520) becomes infinity.
    bfloat16, bfloat16_a32: 8 significant bits, likewise.
    int8, int8_a16: integers of at most 127, times a scale a row; see `weight_integers`. int4, int4_a8: `int4_codes`.
    """
    weight = np.asarray(weight)
    if format == "float32":
        return weight
    if format in ("int8", "int8_a16"):
        integers, scale = weight_integers(weight, format, smoothing)
        values = integers.astype(np.float32) * scale[:, None]
        return (values if smoothing is None else values * _inverse(smoothing)).astype(weight.dtype)
    if format in ("int4", "int4_a8"):
        codes, scale, least = int4_codes(weight)
        with np.errstate(over="ignore"):
            values = codes.astype(np.float32) * scale[:, :, None] + least[:, :, None]
        return values.reshape(len(weight), 32 * scale.shape[1])[:, : weight.shape[1]].astype(weight.dtype)
    if format == "float16":
        with np.errstate(over="ignore"):
            return weight.astype(np.float32).astype(np.float16).astype(weight.dtype)
    if format not in ("bfloat16", "bfloat16_a32"):
        raise ValueError(
            f"format is {format!r}; needed: float32, float16, bfloat16, bfloat16_a32, int8, int8_a16, int4 or int4_a8"
        )
    return _bfloat16(weight).astype(weight.dtype)


def _bfloat16(weight):
    bits = np.ascontiguousarray(weight, np.float32).view(np.uint32).astype(np.uint64)
    up = bits + 0x7FFF + (bits >> 16 & 1)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    kept = np.where(nan, bits | 0x400000, up) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32)


def int4_codes(weight):
    """Codes (N, groups, 32) uint8 of 0 to 15, scale and minimum (N, groups), of a weight (N, K): about scale * code +
    minimum.

    Groups of 32 k, the last one filled up with 0. Codes are tried by 14.5, 14.75, ... 16 steps from the lowest to the
    highest value; of all tries the one whose codes explain the values best by a straight line, which gives scale and
    minimum. Both are rounded to bfloat16, and values are rounded by them. A group of numbers below 2^-100 is 0; one
    with NaN or infinity has the scale NaN.
    """
    weight = np.asarray(weight, np.float32)
    N, K = weight.shape
    groups = -(-K // 32)
    x = np.zeros((N, groups * 32), np.float32)
    x[:, :K] = weight
    x = np.moveaxis(x.reshape(N, groups, 32), -1, 0)
    bad = ~np.isfinite(x)
    x = np.where(bad, np.float32(0), x)
    size = np.abs(x).max(0, initial=0)
    some = size >= _INT4_LEAST
    usable = np.where(some, size, np.float32(1))
    y = x / usable
    low, high, total = y.min(0), y.max(0), np.zeros((N, groups), np.float32)
    for each in y:
        total = total + each
    spread = high - low >= _INT4_RANGE
    best, scale, least, n = np.zeros_like(low), np.zeros_like(low), low, np.float32(32)
    for steps in _INT4_STEPS:
        q = _int4_rounded(y, low, steps / np.where(spread, high - low, np.float32(1)))
        codes, squares, products = np.zeros((3, N, groups), np.float32)
        for each, value in zip(q, y, strict=True):
            codes, squares, products = codes + each, squares + each * each, products + each * value
        with np.errstate(invalid="ignore", divide="ignore"):  # a group of one value
            shared = n * products - codes * total
            slope = shared / (n * squares - codes * codes)
            better = (best < shared * slope) & spread
        best, scale = np.where(better, shared * slope, best), np.where(better, slope, scale)
        least = np.where(better, (total - slope * codes) / n, least)
    scale = _bfloat16(np.where(some, scale * usable, np.float32(0)))
    least = _bfloat16(np.where(some, least * usable, np.float32(0)))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    nan = bad.any(0)
    codes = np.where(nan, 0, _int4_rounded(x, least, inverse)).astype(np.uint8)
    return np.moveaxis(codes, 0, -1), np.where(nan, np.float32(np.nan), scale), least


def _int4_rounded(x, least, inverse):
    with np.errstate(over="ignore"):
        return np.rint(np.clip((x - least) * inverse, np.float32(0), np.float32(15)))


def linear_of_blocks(x, weight, *, group=None):
    """x weight^T as the formats in blocks compute it, float64: x (..., K), weight (N, K), the values -> (..., N).

    x is rounded to 16 bits, with a scale a row: largest |x| / 32,767. With `group`, 16 or 32, as "_a8" rounds it: by
    largest |x| / 32,512, and then in groups of so many k to 8 bits, integer = byte * 2^shift with the least shift that
    takes the group to -128 ... 127; halves are rounded up. A row with NaN or infinity gives NaN.

    Example:
        >>> x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 0.25]])
        >>> linear_of_blocks(x, weight).round(4)
        array([[1., 1.]])
    """
    leading = np.shape(x)[:-1]
    rows = np.reshape(x, (math.prod(leading), np.shape(weight)[1]))
    format = "int8_a16" if group is None else "blocks_a8"
    integers, _, scale = row_integers(rows, format, np.zeros((0, rows.shape[1]), np.int8))
    if group is not None:
        integers = _rounded_to_8_bits(integers, group)
    result = integers.astype(np.float64) @ np.asarray(weight, np.float64).T * scale.astype(np.float64)[:, None]
    return result.reshape(*leading, len(weight))


def _rounded_to_8_bits(integers, group):
    """Integers (M, K) of 16 bits with 8 significant ones in each group of k."""
    M, K = integers.shape
    wide = np.zeros((M, -(-K // group), group), np.int64)
    wide.reshape(M, wide.shape[1] * group)[:, :K] = integers
    most = np.where(wide < 0, ~wide, wide).max(-1, keepdims=True, initial=0)
    shift = np.maximum(np.ceil(np.log2(most + 1)).astype(np.int64) - 7, 0)
    rounded = np.minimum((wide + (1 << shift >> 1)) >> shift, 127) << shift
    return rounded.reshape(M, wide.shape[1] * group)[:, :K]


def weight_integers(weight, format, smoothing=None):
    """(integers (N, K) int8, scale (N,) float32) of a weight (N, K): about integers * scale, and / smoothing.

    int8_a16: scale = max |row| / 127. int8: also at least the largest sum of the positive ones, or of the negative
    ones, of a run of four / 160, so that four products with numbers up to 204 fit in 16 bits. Where rounding lifts such
    a sum over 160, the integer that was lifted most, the first of several, is taken back by one, twice if need be. A
    run: k 0, 1, 4, 5 or 2, 3, 6, 7 of each eight. smoothing (K,): the columns are multiplied by it first. A row with
    NaN or infinity has the scale NaN.
    """
    weight = np.asarray(weight, np.float32)
    N, K = weight.shape
    eights = -(-K // 8)
    wide = np.zeros((N, 8 * eights), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        wide[:, :K] = weight if smoothing is None else weight * np.asarray(smoothing, np.float32)
        finite = np.isfinite(wide)
        runs = np.where(finite, wide, 0).reshape(N, eights, 8)[:, :, _RUNS]
        scale = np.abs(runs).max((1, 2, 3), initial=0) / _W_MAX
        if format == "int8":
            scale = np.maximum(scale, np.maximum(_sum(runs), _sum(-runs)).max((1, 2), initial=0) / _RUN_LIMIT)
        scale = np.maximum(scale, _TINY)
        exact = runs * (np.float32(1) / scale)[:, None, None, None]
    exact = np.where(np.isfinite(scale)[:, None, None, None], exact, 0)
    integers = np.rint(exact)
    if format == "int8":
        for sign in (1, 1, -1, -1):
            lifted = np.where(integers * sign > 0, (integers - exact) * sign, -1)
            first = lifted.argmax(-1)[..., None]
            back = np.where(_sum(integers * sign) > _RUN_LIMIT, sign, 0)[..., None]
            np.put_along_axis(integers, first, np.take_along_axis(integers, first, -1) - back, -1)
    restored = np.zeros((N, eights, 8), np.int8)
    restored[:, :, _RUNS] = integers
    bad = ~finite.all(1) | ~np.isfinite(scale)
    scale = np.where(bad, np.float32(np.nan), scale).astype(np.float32)
    return restored.reshape(N, 8 * eights)[:, :K], scale


def _sum(runs):
    """The positive numbers of each run (..., 4), added in their order in float32."""
    a, b, c, d = np.moveaxis(np.maximum(runs, 0), -1, 0)
    return a + b + c + d


def row_integers(x, format, integers=None, smoothing=None):
    """(integers (M, K), zero (M,), scale (M,)) of rows x (M, K): about (integers - zero) * scale.

    int8: 0 to 204, with scale = (highest - lowest) / 204, 0 counted among the numbers; x is divided by smoothing first.
    int8_a16: symmetric, zero is 0; 32,767 at most, or as much less as keeps the sum with any row of the weight's
    `integers` (N, K) within 32 bits. blocks_a8: the same with 32,512, before groups are rounded. A row with NaN or
    infinity has the scale NaN.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        if smoothing is not None:
            x = x * _inverse(smoothing)
        bad = ~np.isfinite(x).all(1)
        x = np.where(bad[:, None], 0, x)
        low, high = x.min(1, initial=0), x.max(1, initial=0)
        if format == "int8":
            scale = np.maximum(high / _X_MAX - low / _X_MAX, _TINY)
            zero = np.rint(-low * (np.float32(1) / scale))
            rounded = np.minimum(np.rint(x * (np.float32(1) / scale)[:, None]) + zero[:, None], _X_MAX)
        else:
            magnitude = np.abs(integers.astype(np.int64)).sum(1).max(initial=1)
            limit = min(int(_A16_X_MAX if format == "int8_a16" else _A8_X_MAX), (2**31 - 1) // int(max(magnitude, 1)))
            scale = np.maximum(np.maximum(high, -low) / np.float32(limit), _TINY)
            zero = np.zeros(len(x), np.float32)
            rounded = np.rint(x * (np.float32(1) / scale)[:, None])
    return rounded.astype(np.int64), zero.astype(np.int64), np.where(bad, np.float32(np.nan), scale)


def linear_of_integers(x, weight, format, *, scale=None, smoothing=None):
    """x weight^T as the formats of integers compute it, float64: x (..., K), weight (N, K) -> (..., N).

    weight: floats, which `weight_integers` rounds; or int8 with its scale (N,).

    Example:
        >>> x, weight = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 0.25]])
        >>> linear_of_integers(x, weight, "int8_a16").round(3)
        array([[1.   , 1.004]])
    """
    if scale is None:
        integers, scale = weight_integers(weight, format, smoothing)
    else:
        integers, scale = np.asarray(weight), np.asarray(scale, np.float32)
    leading = np.shape(x)[:-1]
    rows = np.reshape(x, (math.prod(leading), integers.shape[1]))
    quantised, zero, row_scale = row_integers(rows, format, integers, smoothing)
    sums = (quantised - zero[:, None]) @ integers.astype(np.int64).T
    result = sums * scale.astype(np.float64) * row_scale.astype(np.float64)[:, None]
    return result.reshape(*leading, len(integers))


def _inverse(smoothing):
    return np.float32(1) / np.asarray(smoothing, np.float32)


def cache_integers(x):
    """(integers (..., D) int8, scale (...) float32) of keys or values (..., D), as a cache of type int8 stores them.

    scale = max |row| / 127 and integers = x * (1 / scale), to the nearest, ties to even, each step in float32; integers
    are 0 where the scale is no normal number. A row with NaN or infinity has the scale NaN and integers of 0, so that
    what attends to it is NaN.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        scale = np.abs(x).max(-1, initial=0) / np.float32(127)
        scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
        inverse = np.where(scale >= _TINY, np.float32(1) / scale, np.float32(0))
        integers = np.where(np.isfinite(x * inverse[..., None]) & (inverse[..., None] > 0), x * inverse[..., None], 0)
    return np.rint(integers).astype(np.int8), scale

"""Linear layers on packed weights, and products of plain matrices.

Called by users and nn.linear; the kernels are csrc/kernels/gemm/, the blocking csrc/ops/linear.c and matmul.c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.attention_checks import starts
from transformer_fast.functional.block_weight import BLOCK_FORMATS, BlockWeight
from transformer_fast.functional.integer_weight import as_floats
from transformer_fast.functional.stored_weight import StoredWeight

PackedWeight = _core.PackedWeight

# tfast_format of csrc/base/types.h; a new weight format has its line here (docs/adding_a_weight_format.md)
A8 = 64  # TFAST_FORMAT_A8
FORMATS = {
    "float32": 0,
    "float16": 17,
    "bfloat16": 1,
    "bfloat16_a32": 18,
    "int8": 2,
    "int8_a16": 3,
    "int4": 5,
    "int4_a8": 5 + A8,
}
# Blocks as they are, and arrays in their type; other forms of StoredWeight as float32. _a8: x has 8 bits, not 16.
AS_STORED, AS_STORED_A8 = "blocks", "blocks_a8"
# The format of an array's type: without loss, and with the bits that the array as float32 gives.
_FORMAT_OF_TYPE = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16_a32"}
# Formats of integers, and the most k that their sums may have (csrc/base/int8.h).
INTEGER_FORMATS = ("int8", "int8_a16")
_MAX_K = 65536

# tfast_activation of csrc/base/types.h
ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "quick_gelu": 4, "silu": 5, "tanh": 6}


def pack_weight(weight, *, format="float32", for_decode=False, scale=None, smoothing=None) -> PackedWeight:
    """A weight (N, K), as torch.nn.Linear has it, in the layout of the level in force: done once, at load.

    weight: float32, float16 or bfloat16, packed from that type without a float32 copy; or a sequence of such arrays
    (n_i, K), whose rows follow each other: a fused projection. The result holds a copy and goes wherever a weight goes;
    it has shape, format, nbytes, isa, and unpack() gives the values that products use. Of a weight that computes its
    values (a StoredWeight) some rows are computed at a time.

    format: "float32", or one of half the bytes, whose products and sums are float32, with the bits that a float32
    weight of the rounded values gives; one row of a weight that comes from memory takes about half the time.
    "float16" rounds a weight to 11 significant bits (to the nearest, ties to even), numbers below 2^-14 to multiples of
    2^-24; from 65,520 on they become infinity. "bfloat16_a32" rounds it to 8 significant bits, an error of at most 2^-8
    of a number; what rounds beyond float32's range becomes infinity. "bfloat16": the same, but on the levels avx512bf16
    and amx, whose products round x so, too.
    "int8": a quarter of the bytes, 8-bit integers with a scale a row; each row of x is rounded to 8 bits in every
    product, whose sums are exact: the same bits under every instruction set (docs/low_precision.md). "int8_a16": the
    same with x in 16 bits, in 1.5 times the time. K is 65,536 at most.
    smoothing (K,), positive, for "int8": the weight is multiplied by it and x is divided by it before they are rounded,
    so that columns of x with large numbers leave the others more of the 8 bits.
    "int4": a sixth of the bytes, 4-bit integers with a scale and a minimum for each 32 of a row; x in 16 bits, exact
    sums of 32 products, added in float32 in the order of k: the same bits under every instruction set.
    "int4_a8": the same weights; x in 8 bits, rounded in each 32 by itself: many rows take 0.6 of the time.
    "blocks": for a BlockWeight, whose blocks are kept without loss and multiplied as those of "int4" are; the result
    has the blocks' format. "blocks_a8": the same with x as for "int4_a8", and "_a8" in the name. Arrays keep their type
    (bfloat16 as "bfloat16_a32"); in a sequence, parts of other formats are products of their own. With any other format
    the values of a BlockWeight are packed.
    weight may be int8 itself, for the formats of integers: with `scale` (N,), by which its rows are multiplied.
    for_decode: the weight will meet a few dozen rows at a time at most, as in a decoder that writes token by token; on
    machines with a matrix engine (AMX) that is another layout, elsewhere the same.

    A weight whose layout the level in force does not read (set_isa) raises RuntimeError when it is used.
    Raises TypeError (another type of numbers) and ValueError (not two axes, blocks of different width, no such format,
    a scale or smoothing that does not fit).

    Example:
        >>> weight = F.pack_weight(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
        >>> F.linear(np.ones((1, 3), np.float32), weight)
        array([[ 6., 15.]], dtype=float32)
        >>> F.pack_weight(np.array([[1.0, 1.001]], np.float32), format="bfloat16").unpack()
        array([[1., 1.]], dtype=float32)
    """
    if format not in FORMATS and format not in (AS_STORED, AS_STORED_A8):
        raise ValueError(f"format is {format!r}; needed: one of {', '.join((*FORMATS, AS_STORED, AS_STORED_A8))}")
    several = isinstance(weight, (list, tuple)) and any(np.ndim(block) == 2 for block in weight)
    given = weight if several else [weight]
    if format in (AS_STORED, AS_STORED_A8):
        if scale is not None or smoothing is not None:
            raise ValueError(f"scale or smoothing is given and format is {format!r}; needed: a format of integers")
        return _pack_as_stored(given, for_decode, a8=format == AS_STORED_A8)
    weights = [_checked(block, integers=scale is not None) for block in given]
    if len({block.shape[1] for block in weights}) > 1:
        raise ValueError(f"weight has blocks of shapes {[block.shape for block in weights]}; needed: one width")
    K = weights[0].shape[1]
    if format in INTEGER_FORMATS and K > _MAX_K:
        raise ValueError(f"weight has K={K}; needed for {format!r}: at most {_MAX_K}")
    if scale is not None:
        if format not in INTEGER_FORMATS:
            raise ValueError(f"scale is given and format is {format!r}; needed: one of {', '.join(INTEGER_FORMATS)}")
        scale = arrays.vector(scale, "scale", sum(len(block) for block in weights))
    if smoothing is not None:
        if format != "int8":
            raise ValueError(f"smoothing is given and format is {format!r}; needed: 'int8'")
        smoothing = arrays.vector(smoothing, "smoothing", K)
        if not (np.isfinite(smoothing) & (smoothing > 0)).all():
            raise ValueError("smoothing holds numbers that are not positive and finite; needed: only such")
    return PackedWeight(_blocks(weights), FORMATS[format], format, for_decode, scale, smoothing, 0)


def _checked(weight: Any, integers: bool = False) -> np.ndarray | StoredWeight:
    if isinstance(weight, StoredWeight) and not integers:
        return weight
    return arrays.weight(as_floats(weight), "weight", integers)


class _Rows:
    """The rows of several weights, which the engine asks for when it packs them: some MB at a time.

    take: weight -> array; arrays of several types become float32.
    """

    def __init__(self, weights: Sequence[Any], take: Callable[[Any], np.ndarray]) -> None:
        self._weights, self._take = weights, take
        self.shape = sum(len(weight) for weight in weights), weights[0].shape[1]

    def rows(self, first: int, last: int) -> tuple[np.ndarray, ...]:
        """Rows [first, last): arrays whose rows follow each other."""
        found = []
        for weight in self._weights:
            if first < len(weight) and last > 0:
                found.append(self._take(weight[max(first, 0) : min(last, len(weight))]))
            first, last = first - len(weight), last - len(weight)
        return _of_one_type(found)


def _of_one_type(blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    if len({block.dtype for block in blocks}) > 1:
        return tuple(block.astype(np.float32) for block in blocks)
    return tuple(blocks)


def _blocks(weights: Sequence[np.ndarray | StoredWeight]) -> tuple[np.ndarray, ...] | _Rows:
    """What PackedWeight takes: arrays, or what makes them of weights whose values are computed."""
    if any(isinstance(weight, StoredWeight) for weight in weights):
        return _Rows(weights, as_floats)
    return _of_one_type(weights)


def _pack_as_stored(given: Sequence[Any], for_decode: bool, a8: bool) -> PackedWeight:
    """Neighbours of one format as one weight."""
    weights = [_checked(weight) for weight in given]
    if len({weight.shape[1] for weight in weights}) > 1:
        raise ValueError(f"weight has blocks of shapes {[weight.shape for weight in weights]}; needed: one width")
    runs: list[tuple[str, list]] = []
    for weight in weights:
        format = _stored_format(weight)
        if not runs or runs[-1][0] != format:
            runs.append((format, []))
        runs[-1][1].append(weight)
    packed = []
    for format, run in runs:
        if format in FORMATS:
            blocks, number = _blocks(run), FORMATS[format]
        elif all(isinstance(weight, BlockWeight) for weight in run):
            blocks, number = tuple(weight.blocks for weight in run), BLOCK_FORMATS[format].number
        else:
            blocks, number = _Rows(run, attrgetter("blocks")), BLOCK_FORMATS[format].number
        if a8 and format not in FORMATS:
            number, format = number + A8, f"{format}_a8"
        packed.append(PackedWeight(blocks, number, format, for_decode, None, None, 0))
    if len(packed) == 1:
        return packed[0]
    formats = "+".join(dict.fromkeys(part.format for part in packed))
    return PackedWeight(tuple(packed), 0, formats, for_decode, None, None, 0)


def _stored_format(weight: np.ndarray | StoredWeight) -> str:
    if isinstance(weight, StoredWeight):
        return weight.format or "float32"
    return _FORMAT_OF_TYPE[weight.dtype.name]


def linear(x, weight, bias=None, *, activation=None, multiply=None, residual=None, out=None) -> np.ndarray:
    """activation(x weight^T + bias) * multiply + residual.

    x (..., K), weight (N, K) or what pack_weight made of it, bias (N,), multiply and residual (..., N), or what
    broadcasts to it, -> (..., N); all float32. A gated feed-forward multiplies by its other half.
    activation: None, "relu", "gelu" (by erf), "gelu_tanh", "quick_gelu", "silu" or "tanh", applied while the result is
    in cache. A weight that is not packed is packed for this one call. out may be `multiply` or `residual` itself, and
    must not overlap x.
    Raises TypeError, ValueError, and RuntimeError for a weight packed under another instruction set. Source:
    torch.nn.functional.linear.

    Example:
        >>> x = np.array([[1, -2, 3]], np.float32)
        >>> F.linear(x, np.eye(3, dtype=np.float32), activation="relu", residual=x)
        array([[ 2., -2.,  6.]], dtype=float32)
    """
    packed = weight if type(weight) is PackedWeight else pack_weight(weight)
    # Without options, and on arrays that are ready to be read, one call of the engine is all there is to do.
    if multiply is None and residual is None and out is None and activation in ACTIVATIONS:
        result = _core.plain_linear(x, packed, bias, ACTIVATIONS[activation], 0)
        if result is not None:
            return result
    N, K = packed.shape
    x = arrays.float32(x, "x")
    if x.ndim == 0 or x.shape[-1] != K:
        raise ValueError(f"weight has shape {packed.shape}, x has shape {x.shape}; needed: (N, K) and (..., K)")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; needed: one of {list(ACTIVATIONS)}")
    if bias is not None:
        bias = arrays.vector(bias, "bias", N)
    shape = (*x.shape[:-1], N)
    multiply = None if multiply is None else _full(multiply, "multiply", shape)
    residual = None if residual is None else _full(residual, "residual", shape)
    if out is not None:
        arrays.check_out(
            out,
            shape,
            arrays.FLOAT32,
            {"x": x, "multiply": multiply, "residual": residual, "weight": weight, "bias": bias},
            in_place=("multiply", "residual"),
        )
    result = arrays.result_array(out, shape, arrays.FLOAT32)
    if result.size:
        rows = arrays.as_rows(result)
        if not np.may_share_memory(rows, result):
            result = np.empty(shape, arrays.FLOAT32)
            rows = arrays.as_rows(result)
        _core.linear(
            arrays.as_rows(x),
            packed,
            bias,
            ACTIVATIONS[activation],
            None if multiply is None else arrays.as_rows(multiply),
            None if residual is None else arrays.as_rows(residual),
            rows,
            0,
        )
    return arrays.finish(out, result)


def linear_max(x, weight, bias=None, *, cu_seqlens, out=None) -> np.ndarray:
    """The maximum over the rows of each packed sequence of linear(x, weight, bias), whose (T, N) are never in memory.

    x (T, K), sequence b in the rows cu_seqlens[b]:cu_seqlens[b + 1], weight (N, K) or what pack_weight made of it,
    bias (N,) -> (B, N) float32. A sequence without rows gives -infinity; one NaN makes the maximum NaN. A sequence's
    maxima are those of linear's rows to the bit, whatever else is in the call. out must not overlap x.
    Raises TypeError, ValueError, and RuntimeError as linear does.

    Example:
        >>> x = np.array([[1, -2], [0, 3], [5, 5]], np.float32)
        >>> F.linear_max(x, np.eye(2, dtype=np.float32), cu_seqlens=[0, 2, 3])
        array([[1., 3.],
               [5., 5.]], dtype=float32)
    """
    packed = weight if type(weight) is PackedWeight else pack_weight(weight)
    N, K = packed.shape
    x = arrays.float32(x, "x", last=K)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; needed: (T, {K})")
    if bias is not None:
        bias = arrays.vector(bias, "bias", N)
    sequences = starts(cu_seqlens, "cu_seqlens", len(x), "x")
    shape = len(sequences) - 1, N
    if out is not None:
        operands = {"x": x, "weight": weight, "bias": bias, "cu_seqlens": cu_seqlens}
        arrays.check_out(out, shape, arrays.FLOAT32, operands)
    result = arrays.result_array(out, shape, arrays.FLOAT32)
    if not len(x):
        result[...] = -np.inf
    elif result.size:
        _core.linear_max(x, packed, bias, sequences, result, 0)
    return arrays.finish(out, result)


def _full(x, name: str, shape: tuple[int, ...]) -> np.ndarray:
    x = arrays.float32(x, name)
    if x.shape == shape:
        return x
    try:
        return arrays.dense(np.broadcast_to(x, shape))
    except ValueError:
        raise ValueError(f"{name} has shape {x.shape}; needed: {shape}") from None


def matmul(a, b, *, out=None) -> np.ndarray:
    """a @ b: a (..., M, K), b (..., K, N) -> (..., M, N); leading axes broadcast; float32, any strides.

    b may be a view `w.swapaxes(-1, -2)`: nothing is copied but into the engine's own layout. A weight that is used more
    than once goes through pack_weight and linear. out must not overlap a or b.
    Raises TypeError and ValueError. Source: numpy.matmul, for arrays of at least two axes.

    Example:
        >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> matmul(a, a.T)
        array([[ 5., 14.],
               [14., 50.]], dtype=float32)
    """
    a, b = arrays.float32(a, "a"), _either_way_dense(b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a has shape {a.shape}, b has shape {b.shape}; needed: (..., M, K) and (..., K, N)")
    try:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"a has shape {a.shape}, b has shape {b.shape}: leading axes do not broadcast") from None
    shape = (*leading, a.shape[-2], b.shape[-1])
    if out is not None:
        arrays.check_out(out, shape, arrays.FLOAT32, {"a": a, "b": b})
    result = out if out is not None and out.flags.c_contiguous else np.empty(shape, arrays.FLOAT32)
    if result.size:
        if b.ndim == 2 and a.flags.c_contiguous:  # one product of many rows
            a, rows, leading = arrays.as_rows(a), result.reshape(1, -1, shape[-1]), ()
        else:
            rows = result.reshape(-1, *shape[-2:])
        _core.matmul(a, b, _offsets(a, leading), _offsets(b, leading), rows, 0)
    return arrays.finish(out, result)


def _either_way_dense(b) -> np.ndarray:
    """`b` as float32, with dense rows or dense columns: the engine packs both."""
    b = np.asarray(b)
    if b.ndim >= 2 and b.dtype.name == "float32" and _core.readable(b.swapaxes(-1, -2)):
        return b
    return arrays.float32(b, "b")


def _offsets(x: np.ndarray, leading: tuple[int, ...]) -> np.ndarray:
    """Where the matrices of x, broadcast to `leading`, begin: elements from the first one."""
    x = np.broadcast_to(x, (*leading, *x.shape[-2:]))
    offsets = np.zeros(leading, np.int64)
    for axis, length in enumerate(leading):
        step = np.arange(length) * (x.strides[axis] // x.itemsize)
        offsets += step.reshape(-1, *[1] * (len(leading) - axis - 1))
    return offsets.reshape(math.prod(leading))

"""Every op on every kind of array that NumPy can make, as operand and as out=."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, assert_same_bits, both, every_call, far_apart, normal

from transformer_fast import functional

CALLS = {call.name: call for call in every_call()}
OPERANDS = [(call.name, operand) for call in CALLS.values() for operand in call.operands]
OUTS = [call.name for call in CALLS.values() if call.takes_out]


# ---------------------------------------------------------------------------------------------------------------------
# Views that have the shape and type of an array


def every_second(array):
    base = np.zeros([2 * n for n in array.shape], array.dtype)
    view = base[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_order(array):
    back = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[back])[back]


def fortran(array):
    return np.array(array, order="F")


def part_of_rows(array):
    """The last axis is contiguous, and each row stands within a longer one: what slicing a fused product gives."""
    base = np.zeros((*array.shape[:-1], array.shape[-1] + 5), array.dtype)
    base[..., 3:-2] = array
    return base[..., 3:-2]


def off_the_vector_grid(array):
    """Aligned for its type but for no vector."""
    raw = np.zeros(array.nbytes + 128, np.uint8)
    start = (-raw.ctypes.data) % 64 + array.itemsize
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape) if array.nbytes else array.copy()
    view[...] = array
    assert array.itemsize == 1 or not view.flags.aligned
    return view


def byte_swapped(array):
    return array.astype(array.dtype.newbyteorder())


def subclass(array):
    return array.view(np.memmap)


VIEWS = (every_second, reversed_order, fortran, part_of_rows, off_the_vector_grid, read_only, subclass)
UNUSUAL = (misaligned, byte_swapped)


def named(function):
    return function.__name__


@pytest.mark.rotate("isa")
@pytest.mark.parametrize("view", VIEWS, ids=named)
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_operand(name, operand, view, isa):
    call = CALLS[name]
    changed = view(call.operands[operand])
    before = changed.copy()
    result = call.run(**{operand: changed})
    assert all(type(array) is np.ndarray for array in (result if isinstance(result, tuple) else (result,)))
    assert_close(result, call.expected())
    np.testing.assert_array_equal(changed, before)  # an operand is only read


@pytest.mark.rotate("threads")
@pytest.mark.parametrize("view", VIEWS, ids=named)
@pytest.mark.parametrize("name", CALLS)
def test_all_operands(name, view, isa, threads):
    call = CALLS[name]
    changed = {operand: view(array) for operand, array in call.operands.items()}
    assert_close(call.run(**changed), call.expected())


@pytest.mark.rotate("isa")
@pytest.mark.parametrize("view", UNUSUAL, ids=named)
@pytest.mark.parametrize(("name", "operand"), OPERANDS)
def test_unusual_operand_is_right_or_refused_by_name(name, operand, view, isa):
    """Byte-swapped and misaligned arrays: the right result, or an error that names the argument."""
    call = CALLS[name]
    try:
        result = call.run(**{operand: view(call.operands[operand])})
    except (TypeError, ValueError) as error:
        assert operand in str(error)
    else:
        assert_close(result, call.expected())


# Operands of which one slice can be repeated without making the call wrong, and their axes.
REPEATABLE = [pair for pair in OPERANDS if not pair[1].startswith("cu_seqlens")]
AXES = [(name, operand, axis) for name, operand in REPEATABLE for axis in range(CALLS[name].operands[operand].ndim)]


@pytest.mark.rotate("isa")
@pytest.mark.parametrize(("name", "operand", "axis"), AXES)
def test_stride_zero(name, operand, axis, isa):
    """An operand that is one slice repeated along an axis, as np.broadcast_to makes it."""
    call = CALLS[name]
    array = call.operands[operand]
    repeated = np.broadcast_to(array.take([0], axis=axis), array.shape)
    assert repeated.strides[axis] == 0
    assert_close(call.run(**{operand: repeated}), call.expected(**{operand: repeated}))


@pytest.mark.rotate("isa")
@pytest.mark.parametrize(("name", "operand"), REPEATABLE)
def test_one_number_everywhere(name, operand, isa):
    """All strides zero."""
    call = CALLS[name]
    array = call.operands[operand]
    repeated = np.broadcast_to(array.flat[0], array.shape)
    assert_close(call.run(**{operand: repeated}), call.expected(**{operand: repeated}))


def test_one_array_as_every_operand(isa):
    x = normal(2, 2, 33, 16)
    both("scaled_dot_product_attention", x, x, x)


# ---------------------------------------------------------------------------------------------------------------------
# Offsets beyond 2^31 elements


def test_attention_over_strides_beyond_31_bits(isa):
    """query, key, value and out whose batch entries, heads and rows lie 2.2e9 elements apart."""
    far = 2_200_000_000 * 4
    for strides in ((far, 64 * 16 * 4, 64, 4), (64 * 16 * 4, far, 64, 4), (2048, 1024, far // 8, 4)):
        arrays = [far_apart((2, 2, 9, 16), strides) for _ in range(4)]
        for array in arrays:
            array[...] = normal(2, 2, 9, 16)
        q, k, v, out = arrays
        functional.scaled_dot_product_attention(q, k, v, out=out)
        expected = functional.scaled_dot_product_attention(q.copy(), k.copy(), v.copy())
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


def test_linear_and_norm_over_strides_beyond_31_bits(isa):
    far = 2_200_000_000 * 4
    x, weight, out = far_apart((3, 40), (far, 4)), far_apart((2, 40), (far, 4)), far_apart((3, 2), (far, 4))
    x[...], weight[...] = normal(3, 40), normal(2, 40)
    functional.linear(x, weight, out=out)
    np.testing.assert_allclose(out, functional.linear(x.copy(), weight.copy()), rtol=0, atol=1e-6)
    np.testing.assert_allclose(functional.layer_norm(x), functional.layer_norm(x.copy()), rtol=0, atol=1e-6)


def test_embedding_of_more_than_31_bits_of_rows(isa):
    """A table of 2^31 + 7 rows (stride 0) takes ids beyond 31 bits; a table of far rows is read at the right place."""
    row = normal(5)
    table = np.broadcast_to(row, (2**31 + 7, 5))
    np.testing.assert_array_equal(functional.embedding(np.array([2**31 + 6, 0]), table), [row, row])
    far = far_apart((3, 5), (2_200_000_000 * 4, 4))
    far[...] = normal(3, 5)
    np.testing.assert_array_equal(functional.embedding(np.array([2, 1]), far), far[[2, 1]])


# ---------------------------------------------------------------------------------------------------------------------
# out=


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("view", (every_second, reversed_order, fortran, part_of_rows, off_the_vector_grid), ids=named)
@pytest.mark.parametrize("name", OUTS)
def test_out(name, view, isa, threads):
    """out may have any strides; what lies between its elements is not touched."""
    call = CALLS[name]
    plain = call.run()
    out = view(np.zeros(plain.shape, np.float32))
    gaps = out.base is not None and out.base.dtype == out.dtype and out.base.size > out.size
    if gaps:
        out.base[...] = 777
    assert call.run(out=out) is out
    assert_close(out.copy(), call.expected())
    if gaps:
        assert (out.base == 777).sum() == out.base.size - out.size


# Not those whose results have other rows than their first operand.
@pytest.mark.parametrize("name", [name for name in OUTS if name not in ("embedding", "linear_max", "max_sim")])
def test_out_beside_an_operand_in_one_buffer(name, isa):
    """Columns of one array, some as operand and some as out, share no element: that is no overlap."""
    call = CALLS[name]
    operand = next(iter(call.operands))
    array, plain = call.operands[operand], call.run()
    assert array.shape[:-1] == plain.shape[:-1]
    buffer = np.zeros((*array.shape[:-1], array.shape[-1] + plain.shape[-1]), np.float32)
    buffer[..., : array.shape[-1]] = array
    out = buffer[..., array.shape[-1] :]
    call.run(**{operand: buffer[..., : array.shape[-1]]}, out=out)
    assert_close(out.copy(), call.expected())


# Where out may be an operand itself, element for element: the op reads each one before it writes it.
IN_PLACE = {
    ("linear", "residual"),
    ("linear-gated", "multiply"),
    ("layer_norm", "x"),
    ("layer_norm", "residual"),
    ("rms_norm", "x"),
    ("rms_norm", "residual"),
    ("rotary", "x"),
    ("rotary-pairs", "x"),
    ("softmax", "x"),
    ("softmax-axis", "x"),
}
IN_PLACE |= {("linear-row", "residual")}
IN_PLACE |= {(name, "x") for name in ("gelu", "gelu_tanh", "relu", "silu", "tanh", "quick_gelu")}


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("view", (np.copy, every_second, reversed_order, fortran, part_of_rows), ids=named)
@pytest.mark.parametrize(("name", "operand"), sorted(IN_PLACE))
def test_in_place(name, operand, view, isa, threads):
    call = CALLS[name]
    array, expected = view(call.operands[operand].copy()), call.expected()
    assert call.run(**{operand: array}, out=array) is array
    assert_close(array.copy(), expected)


@pytest.mark.rotate("isa")
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("name", "operand"), [pair for pair in OPERANDS if pair[0] in OUTS])
def test_out_over_an_operand_is_refused(name, operand, shift, isa):
    if shift == 0 and (name, operand) in IN_PLACE:
        shift = 2
    call = CALLS[name]
    array, plain = call.operands[operand], call.run()
    start = shift * max(array.itemsize, 4)
    room = np.zeros(max(array.nbytes + start, plain.nbytes), np.uint8)
    view = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    out = room[: plain.nbytes].view(np.float32).reshape(plain.shape)
    before = room.copy()
    with pytest.raises(ValueError, match="out"):
        call.run(**{operand: view}, out=out)
    np.testing.assert_array_equal(room, before)


@pytest.mark.rotate("isa")
@pytest.mark.parametrize("name", OUTS)
def test_out_that_does_not_fit_is_refused(name, isa):
    call = CALLS[name]
    plain = call.run()

    def refused(out, error):
        before = out.copy()
        with pytest.raises(error, match="out"):
            call.run(out=out)
        np.testing.assert_array_equal(out, before)

    refused(read_only(np.full_like(plain, 7)), ValueError)
    refused(np.full((*plain.shape[:-1], plain.shape[-1] + 1), 7, np.float32), ValueError)
    refused(np.full((1, *plain.shape), 7, np.float32), ValueError)
    refused(
        np.full(plain.size, 7, np.float32) if plain.ndim > 1 else np.full((2, plain.size), 7, np.float32), ValueError
    )
    refused(np.full(plain.shape, 7, np.float64), TypeError)
    refused(np.full(plain.shape, 7, np.int32), TypeError)
    with pytest.raises(TypeError, match="out"):
        call.run(out=plain.tolist())


@pytest.mark.parametrize("name", OUTS)
def test_a_result_is_an_array_of_its_own(name, isa):
    """Two calls do not share memory with each other or with an operand."""
    call = CALLS[name]
    first, second = call.run(), call.run()
    assert first.flags.c_contiguous and first.flags.writeable and first.flags.aligned
    assert not np.shares_memory(first, second)
    assert not any(np.shares_memory(first, array) for array in call.operands.values())
    assert_same_bits(first, second)

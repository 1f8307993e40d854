# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The compiled module: NumPy arrays to pointers and strides, one C call without the GIL, status codes to exceptions.

Called by transformer_fast.functional alone, which has checked shapes, types and overlap; what is checked here again
would crash the process otherwise. No loops over data, no threads. Functions called plain_* see what users gave: they
check for themselves, and leave all that is not simple to the others. A new op: its prototype in _core.pxd (from
csrc/tfast.h), its function here, its line in _core.pyi.
"""
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

from threading import RLock as _RLock

import numpy as np

cnp.import_array()
tfast_initialise()


cdef extern from "_bfloat16.h":
    object tfast_register_bfloat16(object scalar)


class bfloat16(np.generic):
    """The type of single values of BFLOAT16; they are shown as Python floats."""


BFLOAT16 = tfast_register_bfloat16(bfloat16)  # functional.bfloat16_dtype


cdef class OneCall:
    """What functional.one_call.OneCall derives from. Compiled: Python runs handlers of signals between the lines of a
    Python function, and an exception of one there would leave the lock taken for ever."""

    cdef object lock, what

    def __init__(self, str what):
        self.lock, self.what = _RLock(), what

    def __enter__(self):
        if not self.lock.acquire(False):
            raise RuntimeError(
                f"{self.what} is in use by a call of another thread; needed: one call at a time, or one a thread"
            )

    def __exit__(self, *_):
        self.lock.release()

    def __reduce__(self):
        return type(self), (self.what,)


cdef extern from *:
    """
    #if defined(__clang__)
    #define TFAST_COMPILER "clang " __clang_version__
    #else
    #define TFAST_COMPILER "gcc " __VERSION__
    #endif
    """
    const char *TFAST_COMPILER


PAGE_UNIT = TFAST_PAGE_UNIT  # positions of a page are a multiple of it


cdef int check(tfast_status status) except -1:
    if status == TFAST_OK:
        return 0
    if status == TFAST_NO_MEMORY:
        raise MemoryError("the workspace of the call could not be allocated; nothing was computed")
    if status == TFAST_WRONG_LAYOUT:
        raise RuntimeError(
            f"weight is packed in a layout that the level in force ({get_isa()}) does not read; "
            "needed: pack it again after set_isa(), and no set_isa() in another thread during a call"
        )
    raise RuntimeError(f"internal status {<int>status}")


cdef inline const float *floats(object a) except? NULL:
    """The data of a float32 array, or NULL for None."""
    if a is None:
        return NULL
    if cnp.PyArray_TYPE(<cnp.ndarray>a) != cnp.NPY_FLOAT32:
        raise TypeError(f"float32 array needed, got {a.dtype}")
    return <const float *>cnp.PyArray_DATA(<cnp.ndarray>a)


cdef inline const int64_t *integers(object a) except? NULL:
    if a is None:
        return NULL
    if cnp.PyArray_TYPE(<cnp.ndarray>a) != cnp.NPY_INT64 or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a):
        raise TypeError(f"dense int64 array needed, got {a.dtype}")
    return <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>a)


cdef inline int64_t step(cnp.ndarray a, int axis) noexcept:
    """The stride of an axis in elements."""
    return cnp.PyArray_STRIDE(a, axis) // cnp.PyArray_ITEMSIZE(a)


def readable(cnp.ndarray x):
    """Whether the engine can read x as it is: native, aligned, strides of whole elements, last axis dense.

    Here and not in Python, where the same took half a microsecond.
    """
    cdef int i, n = cnp.PyArray_NDIM(x)
    if not cnp.PyArray_ISBEHAVED_RO(x):
        return False
    if cnp.PyArray_IS_C_CONTIGUOUS(x):
        return True
    for i in range(n):
        if cnp.PyArray_STRIDE(x, i) % cnp.PyArray_ITEMSIZE(x):
            return False
    return cnp.PyArray_DIM(x, n - 1) <= 1 or cnp.PyArray_STRIDE(x, n - 1) == cnp.PyArray_ITEMSIZE(x)


# --- settings ---------------------------------------------------------------------------------------------------------

def set_num_threads(int n):
    tfast_set_num_threads(n)


def get_num_threads():
    return tfast_get_num_threads()


def has_openmp():
    return bool(tfast_has_openmp())


def set_thread_backend(str name):
    """False: this build has no such backend. For the import and for tests: the backend of before keeps its threads."""
    cdef bytes text = name.encode()
    return bool(tfast_set_thread_backend(text))


def get_thread_backend():
    return tfast_get_thread_backend().decode()


def thread_backends():
    """The names of this build's backends."""
    names, i = [], 0
    while tfast_thread_backend_name(i) != NULL:
        names.append(tfast_thread_backend_name(i).decode())
        i += 1
    return tuple(names)


def compiler():
    return TFAST_COMPILER.decode()


def cpu_brand():
    return tfast_cpu_brand().decode(errors="replace").strip()


def cache_bytes():
    cdef int64_t l1d, l2, l3
    tfast_cache_bytes(&l1d, &l2, &l3)
    return l1d, l2, l3


def set_isa(name):
    """False: the level is unknown, None: this machine lacks it, True: it is in force now. None as name: the best."""
    cdef bytes text = b"" if name is None else name.encode()
    cdef const char *chosen = text
    cdef tfast_status status = tfast_set_isa(NULL) if name is None else tfast_set_isa(chosen)
    return None if status == TFAST_ISA_MISSING else status == TFAST_OK


def set_tuning(name):
    """For tests: the tuning record of that microarchitecture, or (None) of this processor."""
    cdef bytes text = b"" if name is None else name.encode()
    cdef const char *chosen = text
    if not (tfast_set_tuning(NULL) if name is None else tfast_set_tuning(chosen)):
        raise ValueError(f"name is {name!r}; needed: one of {', '.join(tunings())}, or None")


def get_tuning():
    return tfast_get_tuning().decode()


def tunings():
    """The names of all tuning records."""
    names, i = [], 0
    while tfast_tuning_name(i) != NULL:
        names.append(tfast_tuning_name(i).decode())
        i += 1
    return tuple(names)


def get_isa():
    return tfast_get_isa().decode()


def available_isas():
    names, i = [], 0
    while tfast_available_isa(i) != NULL:
        names.append(tfast_available_isa(i).decode())
        i += 1
    return tuple(names)


def emulated_isas():
    names, i = [], 0
    while tfast_emulated_isa(i) != NULL:
        names.append(tfast_emulated_isa(i).decode())
        i += 1
    return tuple(names)


def release_workspace():
    cdef size_t freed
    with nogil:
        freed = tfast_workspace_release()
    return freed


# --- attention --------------------------------------------------------------------------------------------------------

include "_core_attention.pxi"


# --- linear layers ----------------------------------------------------------------------------------------------------

include "_core_linear.pxi"


# --- search -----------------------------------------------------------------------------------------------------------

include "_core_search.pxi"


# --- encoder layers ---------------------------------------------------------------------------------------------------

cdef class EncoderStack:
    """The weights of encoder layers as the engine takes them; immutable. Holds what they point to.

    layers: tuples (qkv, out, up, down: PackedWeight; their four biases, then weight and bias of both norms: dense
    float32 vectors or None).
    """
    cdef tfast_encoder_layer *layers
    cdef tuple kept
    cdef int64_t hidden, inner

    def __cinit__(self, tuple layers):
        cdef Py_ssize_t i
        cdef PackedWeight qkv, out, up, down
        self.kept = layers
        self.layers = <tfast_encoder_layer *>calloc(max(len(layers), 1), sizeof(tfast_encoder_layer))
        if self.layers == NULL:
            raise MemoryError("the table of encoder layers could not be allocated")
        for i in range(len(layers)):
            (qkv, out, up, down, qkv_bias, out_bias, up_bias, down_bias, weight1, bias1, weight2, bias2) = layers[i]
            self.layers[i] = tfast_encoder_layer(
                &qkv.packed, &out.packed, &up.packed, &down.packed,
                floats(qkv_bias), floats(out_bias), floats(up_bias), floats(down_bias),
                floats(weight1), floats(bias1), floats(weight2), floats(bias2))
            self.hidden, self.inner = up.packed.K, up.packed.N

    def __dealloc__(self):
        free(self.layers)


def encoder(cnp.ndarray x, cnp.ndarray cu, EncoderStack stack, int64_t heads, int activation, float eps1, float eps2,
            bint norm_first, bint causal, pooled, cnp.ndarray y, int n_threads):
    """x, y (T, hidden) dense, y (B, hidden) with pooled; cu (B + 1,) and pooled (B,), or None, dense int64."""
    cdef tfast_encoder call
    cdef tfast_status status
    call.T = cnp.PyArray_DIM(x, 0)
    call.B = cnp.PyArray_DIM(cu, 0) - 1
    call.hidden = stack.hidden
    call.heads = heads
    call.inner = stack.inner
    call.n_layers = len(stack.kept)
    call.cu = integers(cu)
    call.layers = stack.layers
    call.activation = <tfast_activation>activation
    call.eps1 = eps1
    call.eps2 = eps2
    call.norm_first = norm_first
    call.causal = causal
    call.pooled = integers(pooled)
    call.x = floats(x)
    call.y = <float *>floats(y)
    with nogil:
        status = tfast_encoder_run(&call, n_threads)
    check(status)


# --- decoder layers ---------------------------------------------------------------------------------------------------

include "_core_decoder.pxi"


# --- recurrent layers -------------------------------------------------------------------------------------------------

def recurrent(int cell, bint reverse, cnp.ndarray x, tuple input_weights, tuple weights, input_bias, bias,
              tuple projections, cnp.ndarray order, cnp.ndarray lengths, cnp.ndarray h, c, cnp.ndarray y,
              int n_threads):
    """x (L, B, inputs), y (L, B, directions * width): last axes dense; h (directions, B, width) and c (directions, B,
    hidden), or None, dense, are overwritten; order and lengths (B,) dense int64, already checked.

    input_weights, weights: a PackedWeight (G * hidden, inputs) and (G * hidden, width) for each direction; projections:
    one (width, hidden) each, or none.
    """
    cdef tfast_recurrent call
    cdef tfast_status status
    cdef PackedWeight packed
    cdef int d
    call.cell = <tfast_cell>cell
    call.L = cnp.PyArray_DIM(x, 0)
    call.B = cnp.PyArray_DIM(x, 1)
    call.inputs = cnp.PyArray_DIM(x, 2)
    call.directions = len(weights)
    call.reverse = reverse
    call.x = floats(x)
    call.input_bias = floats(input_bias)
    call.bias = floats(bias)
    call.order = integers(order)
    call.lengths = integers(lengths)
    call.h = <float *>floats(h)
    call.c = <float *>floats(c)
    call.y = <float *>floats(y)
    for d in range(2):
        call.x_stride[d] = step(x, d)
        call.y_stride[d] = step(y, d)
        call.projection[d] = NULL
    for d in range(len(weights)):
        packed = input_weights[d]
        call.input_weight[d] = &packed.packed
        packed = weights[d]
        call.weight[d] = &packed.packed
        call.width = packed.packed.K
        call.hidden = packed.packed.N // (3 if c is None else 4)
        if projections:
            packed = projections[d]
            call.projection[d] = &packed.packed
    with nogil:
        status = tfast_recurrent_run(&call, n_threads)
    check(status)


# --- rows, spans and copies -------------------------------------------------------------------------------------------

def layer_norm(cnp.ndarray x, residual, weight, bias, float eps, cnp.ndarray y, int n_threads):
    """x, residual, y (M, N), last axes dense; weight and bias (N,) dense or None."""
    cdef const float *px = floats(x)
    cdef const float *pr = floats(residual)
    cdef const float *pw = floats(weight)
    cdef const float *pb = floats(bias)
    cdef float *py = <float *>floats(y)
    cdef int64_t m = cnp.PyArray_DIM(x, 0), n = cnp.PyArray_DIM(x, 1), xs = step(x, 0), ys = step(y, 0)
    cdef int64_t rs = 0 if residual is None else step(residual, 0)
    cdef tfast_status status
    with nogil:
        status = tfast_layernorm(m, n, px, xs, pr, rs, pw, pb, eps, py, ys, n_threads)
    check(status)


def rms_norm(cnp.ndarray x, residual, weight, float eps, cnp.ndarray y, int n_threads):
    """x, residual, y (M, N), last axes dense; weight (N,) dense or None."""
    cdef const float *px = floats(x)
    cdef const float *pr = floats(residual)
    cdef const float *pw = floats(weight)
    cdef float *py = <float *>floats(y)
    cdef int64_t m = cnp.PyArray_DIM(x, 0), n = cnp.PyArray_DIM(x, 1), xs = step(x, 0), ys = step(y, 0)
    cdef int64_t rs = 0 if residual is None else step(residual, 0)
    cdef tfast_status status
    with nogil:
        status = tfast_rmsnorm(m, n, px, xs, pr, rs, pw, eps, py, ys, n_threads)
    check(status)


def rope(cnp.ndarray x, cnp.ndarray cos, cnp.ndarray sin, bint interleaved, cnp.ndarray y, int n_threads):
    """x, y (B, H, L, D); cos, sin (B, L, half), of one layout: last axes dense."""
    cdef tfast_rope call
    cdef tfast_status status
    cdef int i
    call.B = cnp.PyArray_DIM(x, 0)
    call.H = cnp.PyArray_DIM(x, 1)
    call.L = cnp.PyArray_DIM(x, 2)
    call.D = cnp.PyArray_DIM(x, 3)
    call.half = cnp.PyArray_DIM(cos, 2)
    call.interleaved = interleaved
    call.x = floats(x)
    call.cos = floats(cos)
    call.sin = floats(sin)
    call.y = <float *>floats(y)
    for i in range(3):
        call.x_stride[i] = step(x, i)
        call.y_stride[i] = step(y, i)
    for i in range(2):
        call.angle_stride[i] = step(cos, i)
    with nogil:
        status = tfast_rope_run(&call, n_threads)
    check(status)


def softmax(cnp.ndarray x, cnp.ndarray y, int n_threads):
    """x, y (M, N), last axes dense."""
    cdef const float *px = floats(x)
    cdef float *py = <float *>floats(y)
    cdef int64_t m = cnp.PyArray_DIM(x, 0), n = cnp.PyArray_DIM(x, 1), xs = step(x, 0), ys = step(y, 0)
    cdef tfast_status status
    with nogil:
        status = tfast_softmax(m, n, px, xs, py, ys, n_threads)
    check(status)


def activate(cnp.ndarray x, cnp.ndarray y, int kind, int n_threads):
    """x, y: dense, of one size."""
    cdef const float *px = floats(x)
    cdef float *py = <float *>floats(y)
    cdef int64_t n = cnp.PyArray_SIZE(x)
    cdef tfast_activation which = <tfast_activation>kind
    cdef tfast_status status
    with nogil:
        status = tfast_activate(n, px, py, which, n_threads)
    check(status)


def first_outside(cnp.ndarray ids, int64_t limit):
    """Where the first of ids (n,), dense int64, stands that is not in [0, limit); -1: nowhere."""
    return tfast_first_outside(cnp.PyArray_DIM(ids, 0), integers(ids), limit)


cdef tfast_table table_of(cnp.ndarray a) except *:
    cdef tfast_table table
    table.dtype = float_dtype(a)
    table.data = cnp.PyArray_DATA(a)
    table.stride = step(a, 0)
    return table


cdef int embed_rows(int64_t n, const int64_t *ids, cnp.ndarray table, float *y, int64_t y_stride,
                    int n_threads) except -1:
    cdef tfast_table rows = table_of(table)
    cdef int64_t width = cnp.PyArray_DIM(table, 1)
    cdef tfast_status status
    with nogil:
        status = tfast_embedding(n, ids, width, &rows, y, y_stride, n_threads)
    return check(status)


def embedding(cnp.ndarray ids, cnp.ndarray table, cnp.ndarray y, int n_threads):
    """ids (n,) dense int64, all in [0, V); table (V, N) float32, float16 or bfloat16, y (n, N), last axes dense."""
    embed_rows(cnp.PyArray_DIM(ids, 0), integers(ids), table, <float *>floats(y), step(y, 0), n_threads)


def plain_embedding(object ids, object table):
    """embedding() of dense int64 ids (...), all in [0, V), into a new array (..., N); None for all others.

    A decoder's step looks up one row: Python's checks took 2 us of the 2.6.
    """
    cdef cnp.ndarray rows, y
    cdef cnp.npy_intp shape[8]
    cdef int i, n, number
    if not cnp.PyArray_CheckExact(ids) or not cnp.PyArray_Check(table):
        return None
    rows = ids
    n = cnp.PyArray_NDIM(rows)
    if n > 7 or cnp.PyArray_TYPE(rows) != cnp.NPY_INT64 or not cnp.PyArray_ISCARRAY_RO(rows):
        return None
    if cnp.PyArray_SIZE(rows) == 0 or cnp.PyArray_NDIM(<cnp.ndarray>table) != 2:
        return None
    number = cnp.PyArray_TYPE(<cnp.ndarray>table)
    if number != cnp.NPY_FLOAT32 and number != cnp.NPY_FLOAT16 and table.dtype.name != "bfloat16":
        return None
    if not readable(table):
        return None
    if tfast_first_outside(cnp.PyArray_SIZE(rows), <const int64_t *>cnp.PyArray_DATA(rows),
                           cnp.PyArray_DIM(<cnp.ndarray>table, 0)) >= 0:
        return None
    for i in range(n):
        shape[i] = cnp.PyArray_DIM(rows, i)
    shape[n] = cnp.PyArray_DIM(<cnp.ndarray>table, 1)
    y = cnp.PyArray_EMPTY(n + 1, shape, cnp.NPY_FLOAT32, 0)
    if shape[n]:
        embed_rows(cnp.PyArray_SIZE(rows), <const int64_t *>cnp.PyArray_DATA(rows), table,
                   <float *>cnp.PyArray_DATA(y), shape[n], 0)
    return y


def embedding_sum(tuple ids, tuple tables, weight, bias, float eps, cnp.ndarray y, int n_threads):
    """ids: dense int64 vectors (n,), checked; tables (V, N) with dense last axes; y (n, N) dense."""
    cdef tfast_embedding_sum call
    cdef tfast_status status
    cdef int t
    if not 1 <= len(ids) == len(tables) <= TFAST_MAX_TABLES:
        raise ValueError(f"there are {len(tables)} tables; needed: 1 to {TFAST_MAX_TABLES}")
    call.n = cnp.PyArray_DIM(y, 0)
    call.width = cnp.PyArray_DIM(y, 1)
    call.n_tables = len(tables)
    for t in range(call.n_tables):
        call.ids[t] = integers(ids[t])
        call.tables[t] = table_of(tables[t])
    call.weight = floats(weight)
    call.bias = floats(bias)
    call.eps = eps
    call.y = <float *>floats(y)
    with nogil:
        status = tfast_embedding_sum_run(&call, n_threads)
    check(status)


def copy_heads(cnp.ndarray x, cnp.ndarray y, int n_threads):
    """x, y (B, H, L, D) of one item size, last axes dense."""
    cdef int64_t B = cnp.PyArray_DIM(x, 0), H = cnp.PyArray_DIM(x, 1), L = cnp.PyArray_DIM(x, 2)
    cdef int64_t row_bytes = cnp.PyArray_DIM(x, 3) * cnp.PyArray_ITEMSIZE(x)
    cdef int64_t[3] xs = [cnp.PyArray_STRIDE(x, 0), cnp.PyArray_STRIDE(x, 1), cnp.PyArray_STRIDE(x, 2)]
    cdef int64_t[3] ys = [cnp.PyArray_STRIDE(y, 0), cnp.PyArray_STRIDE(y, 1), cnp.PyArray_STRIDE(y, 2)]
    cdef const char *px = <const char *>cnp.PyArray_DATA(x)
    cdef char *py = <char *>cnp.PyArray_DATA(y)
    cdef tfast_status status
    with nogil:
        status = tfast_copy_heads(B, H, L, row_bytes, px, xs, py, ys, n_threads)
    check(status)


# --- the machine ------------------------------------------------------------------------------------------------------

def measure_fma(double seconds, int n_threads):
    cdef double gflops
    with nogil:
        gflops = tfast_measure_fma(seconds, n_threads)
    return gflops


def measure_read(cnp.ndarray x, int repeats, int n_threads):
    cdef const float *px = floats(x)
    cdef int64_t n = cnp.PyArray_SIZE(x)
    cdef double rate
    with nogil:
        rate = tfast_measure_read(px, n, repeats, n_threads)
    return rate

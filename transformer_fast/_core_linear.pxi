"""The part of _core.pyx for linear layers and products of matrices, which includes this file.

PackedWeight holds what tfast_pack makes; the functions below fill tfast_linear and tfast_matmul. An option of a linear
layer: its argument of `linear`, and its field in csrc/tfast.h and _core.pxd.
"""

cdef tfast_dtype float_dtype(cnp.ndarray a) except *:
    """The type of a weight or table as the engine names it. bfloat16 is a type of its own in NumPy: it has a name."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT32:
        return TFAST_F32
    if number == cnp.NPY_FLOAT16:
        return TFAST_F16
    if a.dtype.name == "bfloat16":
        return TFAST_BF16
    raise TypeError(f"dtype is {a.dtype}; needed: float32, float16 or bfloat16")


cdef inline tfast_dtype weight_dtype(cnp.ndarray a) except *:
    """That of a weight, which may be of integers, or bytes of blocks."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_UINT8:
        return TFAST_BLOCKS
    return TFAST_I8 if number == cnp.NPY_INT8 else float_dtype(a)


# Values of a weight that are made and packed together where it makes them on demand: some MB.
cdef int64_t VALUES_TOGETHER = 1 << 20


cdef class PackedWeight:
    """A weight (N, K) in the layout of a level; immutable, shared freely between threads.

    Attributes: shape (N, K), format (of pack_weight, or of a file's blocks; "Q4_K+Q6_K" where rows differ), nbytes, isa
    (the level that it was packed under), scale (of each row of a format of integers, else None), parts (the weights
    whose rows follow each other where they are of several formats, else None).

    Example:
        >>> packed = F.pack_weight(np.ones((3, 4), np.float32))
        >>> packed.shape, packed.format, packed.isa == F.get_isa()
        ((3, 4), 'float32', True)
    """
    cdef tfast_packed packed
    cdef readonly tuple parts
    cdef cnp.ndarray mapped
    cdef readonly str isa, format
    cdef readonly size_t nbytes

    def __cinit__(self, object blocks not None, int number, str format not None, bint for_decode, scale, smoothing,
                  int n_threads):
        """blocks: arrays (n, K) of one type with dense last axes, whose rows follow each other; number: of format.

        scale (N,) of int8 blocks, smoothing (K,): dense float32, or None. Blocks of uint8 are rows of a file's blocks.
        Or blocks: PackedWeights (n, K), whose rows follow each other in products; number then says nothing.
        Or blocks: what has a shape (N, K) and makes such arrays of some rows at a time, `rows(first, last)`, not int8.
        Or blocks: a tuple of what `stored` gives, (shape, smoothed, x_limit, bytes): nothing is copied.
        """
        self.isa, self.format = get_isa(), format
        if isinstance(blocks, tuple) and len(blocks) and isinstance(blocks[0], PackedWeight):
            self.join(blocks)
        elif isinstance(blocks, tuple) and len(blocks) and isinstance(blocks[0], tuple):
            shape, smoothed, x_limit, data = blocks[0]
            self.lie_over(shape, smoothed, x_limit, data, number, for_decode)
        else:
            self.pack(blocks, number, for_decode, scale, smoothing, n_threads)

    cdef int join(self, tuple parts) except -1:
        cdef PackedWeight part
        cdef const tfast_packed **c_parts
        cdef Py_ssize_t i, count = len(parts)
        self.parts = parts
        c_parts = <const tfast_packed **>calloc(count, sizeof(tfast_packed *))
        if c_parts == NULL:
            raise MemoryError("the list of parts could not be allocated")
        self.packed.parts = c_parts
        for i in range(count):
            part = parts[i]
            if i and part.packed.K != self.packed.K:
                raise ValueError("parts have several widths: pack_weight() sees to it")
            c_parts[i] = &part.packed
            self.packed.n_parts += 1
            self.packed.N += part.packed.N
            self.packed.K = part.packed.K
        self.nbytes = tfast_packed_bytes(&self.packed)
        return 0

    cdef int lie_over(self, tuple shape, bint smoothed, int32_t x_limit, cnp.ndarray data, int number,
                      bint for_decode) except -1:
        cdef tfast_packed_layout layout
        cdef int64_t N, K
        N, K = shape
        tfast_packed_begin(N, K, <tfast_format>number, for_decode, &self.packed)
        if N < 0 or K < 0 or not tfast_packed_layout_of(&self.packed, &layout):
            raise ValueError("there is no such weight: functional.packed_bytes sees to it")
        self.nbytes = tfast_packed_bytes(&self.packed)
        if (cnp.PyArray_TYPE(data) != cnp.NPY_UINT8 or not cnp.PyArray_IS_C_CONTIGUOUS(data)
                or <size_t>cnp.PyArray_SIZE(data) != self.nbytes or <size_t>cnp.PyArray_DATA(data) % 64):
            raise ValueError(f"packed weight {self.shape}: needed: {self.nbytes} bytes that begin at a multiple of 64")
        self.packed.smoothed, self.packed.x_limit = smoothed, x_limit
        self.mapped = data
        self.packed.data = cnp.PyArray_DATA(data)
        return 0

    cdef int pack(self, object blocks, int number, bint for_decode, scale, smoothing, int n_threads) except -1:
        cdef cnp.ndarray block
        cdef void *memory = NULL
        cdef int64_t N = 0, K, file_k = 0, file_bytes = 0, first, last, together
        cdef bint at_once = isinstance(blocks, tuple)
        tfast_file_block(<tfast_format>number, &file_k, &file_bytes)
        if at_once:
            for block in blocks:
                N += cnp.PyArray_DIM(block, 0)
            K = cnp.PyArray_DIM(<cnp.ndarray?>blocks[0], 1)
            if file_bytes:
                if K % file_bytes:
                    raise ValueError("blocks are not of the format: pack_weight() sees to it")
                K = K // file_bytes * file_k
        else:
            N, K = blocks.shape
        cdef const float *factors = floats(smoothing)
        if (scale is not None and len(scale) != N) or (smoothing is not None and len(smoothing) != K):
            raise ValueError("scale or smoothing does not fit the blocks: pack_weight() sees to it")
        tfast_packed_begin(N, K, <tfast_format>number, for_decode, &self.packed)
        self.nbytes = tfast_packed_bytes(&self.packed)
        memory = tfast_weight_memory(self.nbytes + 64)
        if memory is NULL:
            raise MemoryError(f"packed weight {self.shape}: {self.nbytes} bytes could not be allocated")
        self.packed.data = memory
        if at_once:
            self.fill(blocks, 0, N, number, scale, factors, n_threads)
        else:
            together = tfast_pack_step(&self.packed)
            together *= max(VALUES_TOGETHER // max(K * together, 1), 1)
            for first in range(0, N, together):
                last = min(first + together, N)
                self.fill(blocks.rows(first, last), first, last, number, None, factors, n_threads)
        tfast_pack_end(factors, &self.packed)
        return 0

    cdef int fill(self, tuple blocks, int64_t first, int64_t last, int number, scale, const float *factors,
                  int n_threads) except -1:
        """Packs the rows of all blocks as those from `first` to `last`."""
        cdef tfast_row_block *c_blocks
        cdef cnp.ndarray block = blocks[0]
        cdef tfast_dtype dtype = weight_dtype(block)
        cdef tfast_status status
        cdef int64_t width = self.packed.K, file_k = 0, file_bytes = 0, rows = first
        cdef Py_ssize_t i, n_blocks = len(blocks)
        cdef const float *scales = floats(scale)
        tfast_file_block(<tfast_format>number, &file_k, &file_bytes)
        if (dtype == TFAST_BLOCKS) != (file_bytes != 0):
            raise ValueError("blocks are not of the format: pack_weight() sees to it")
        if (dtype == TFAST_I8) != (scale is not None):
            raise ValueError("scale or smoothing does not fit the blocks: pack_weight() sees to it")
        if file_bytes:
            width = width // file_k * file_bytes
        for block in blocks:
            if (cnp.PyArray_NDIM(block) != 2 or cnp.PyArray_DIM(block, 1) != width or not readable(block)
                    or weight_dtype(block) != dtype):
                raise ValueError("blocks are not (n, K) of one type with dense last axes: pack_weight() makes them so")
            rows += cnp.PyArray_DIM(block, 0)
        if rows != last:
            raise ValueError("blocks have other rows than were asked for")
        c_blocks = <tfast_row_block *>calloc(n_blocks, sizeof(tfast_row_block))
        if c_blocks == NULL:
            raise MemoryError("the list of row blocks could not be allocated")
        for i in range(n_blocks):
            block = blocks[i]
            c_blocks[i] = tfast_row_block(cnp.PyArray_DATA(block), cnp.PyArray_DIM(block, 0), step(block, 0), scales)
            if scales != NULL:
                scales += cnp.PyArray_DIM(block, 0)
        with nogil:
            status = tfast_pack_rows(c_blocks, n_blocks, dtype, factors, first, &self.packed, n_threads)
        free(c_blocks)
        check(status)
        return 0

    def __dealloc__(self):
        if self.mapped is None:
            tfast_weight_free(self.packed.data)
        free(<void *>self.packed.parts)

    @property
    def shape(self):
        return self.packed.N, self.packed.K

    @property
    def fits(self):
        """Whether the level in force reads this layout."""
        return bool(tfast_packed_fits(&self.packed))

    def layout(self):
        """(number of the format, for_decode, panel width, group of k, bytes of a group): how the bytes lie.

        Not of a weight of several parts.
        """
        cdef tfast_packed_layout layout
        if not tfast_packed_layout_of(&self.packed, &layout):
            raise ValueError("the weight has several parts: each has a layout of its own")
        return layout.format, bool(layout.for_decode), layout.panel_width, layout.k_group, layout.k_group_bytes

    def stored(self):
        """(shape, smoothed, x_limit, bytes): all that such a weight is made of again, the bytes as a read-only view."""
        cdef cnp.npy_intp size = self.nbytes
        cdef cnp.ndarray data
        if self.parts is not None:
            raise ValueError("the weight has several parts: each is stored by itself")
        data = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, self.packed.data)
        cnp.set_array_base(data, self)
        data.flags.writeable = False
        return self.shape, bool(self.packed.smoothed), self.packed.x_limit, data

    @property
    def scale(self):
        """The scale of each row of a format of integers, (N,) float32; None for others."""
        cdef const float *scale = tfast_packed_scale(&self.packed)
        cdef cnp.ndarray copy
        cdef cnp.npy_intp N = self.packed.N
        if scale == NULL:
            return None
        copy = cnp.PyArray_EMPTY(1, &N, cnp.NPY_FLOAT32, 0)
        memcpy(cnp.PyArray_DATA(copy), scale, N * sizeof(float))
        return copy

    def unpack(self):
        """The values that products use, (N, K) float32."""
        cdef cnp.ndarray w
        cdef cnp.npy_intp[2] shape = [self.packed.N, self.packed.K]
        cdef tfast_status status
        w = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32, 0)
        cdef float *to = <float *>cnp.PyArray_DATA(w)
        with nogil:
            status = tfast_unpack(&self.packed, to, 0)
        check(status)
        return w

    def __repr__(self):
        return f"PackedWeight(shape={self.shape}, format={self.format!r}, isa={self.isa!r}, nbytes={self.nbytes})"


def linear(cnp.ndarray x, PackedWeight weight, bias, int activation, multiply, residual, cnp.ndarray y,
           int n_threads):
    """x (M, K), multiply, residual and y (M, N): last axes dense."""
    cdef tfast_linear call
    cdef tfast_status status
    memset(&call, 0, sizeof(call))
    call.M = cnp.PyArray_DIM(x, 0)
    call.x = floats(x)
    call.x_stride = step(x, 0)
    call.weight = &weight.packed
    call.bias = floats(bias)
    call.activation = <tfast_activation>activation
    call.multiply = floats(multiply)
    call.multiply_stride = 0 if multiply is None else step(multiply, 0)
    call.residual = floats(residual)
    call.residual_stride = 0 if residual is None else step(residual, 0)
    call.y = <float *>floats(y)
    call.y_stride = step(y, 0)
    with nogil:
        status = tfast_linear_run(&call, n_threads)
    check(status)


def linear_max(cnp.ndarray x, PackedWeight weight, bias, cnp.ndarray cu_seqlens, cnp.ndarray y, int n_threads):
    """x (M, K) and y (B, N): last axes dense; cu_seqlens (B + 1,), dense int64, from 0 to M and never falling."""
    cdef tfast_linear call
    cdef tfast_status status
    memset(&call, 0, sizeof(call))
    call.M = cnp.PyArray_DIM(x, 0)
    call.x = floats(x)
    call.x_stride = step(x, 0)
    call.weight = &weight.packed
    call.bias = floats(bias)
    call.y = <float *>floats(y)
    call.y_stride = step(y, 0)
    call.B = cnp.PyArray_DIM(y, 0)
    call.cu = integers(cu_seqlens)
    with nogil:
        status = tfast_linear_run(&call, n_threads)
    check(status)


def plain_linear(object x, PackedWeight weight, object bias, int activation, int n_threads):
    """linear() of a C-contiguous float32 array (..., K) into a new one; None for all others.

    bias: None, or dense float32 (N,), else None is returned, too. With one row Python's share of the general call is
    half of what the engine takes.
    """
    cdef tfast_linear call
    cdef tfast_status status
    cdef cnp.ndarray a, b, y
    cdef cnp.npy_intp shape[8]
    cdef int i, last
    if not cnp.PyArray_CheckExact(x):
        return None
    a = x
    last = cnp.PyArray_NDIM(a) - 1
    if not 0 <= last < 8 or not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32:
        return None
    if weight.packed.N == 0:
        return None
    if cnp.PyArray_DIM(a, last) != weight.packed.K or cnp.PyArray_SIZE(a) == 0:
        return None
    memset(&call, 0, sizeof(call))
    if bias is not None:
        if not cnp.PyArray_CheckExact(bias):
            return None
        b = bias
        if (cnp.PyArray_NDIM(b) != 1 or cnp.PyArray_DIM(b, 0) != weight.packed.N
                or cnp.PyArray_TYPE(b) != cnp.NPY_FLOAT32 or not cnp.PyArray_ISCARRAY_RO(b)):
            return None
        call.bias = <const float *>cnp.PyArray_DATA(b)
    for i in range(last):
        shape[i] = cnp.PyArray_DIM(a, i)
    shape[last] = weight.packed.N
    y = cnp.PyArray_EMPTY(last + 1, shape, cnp.NPY_FLOAT32, 0)
    call.M = cnp.PyArray_SIZE(a) // weight.packed.K
    call.x = <const float *>cnp.PyArray_DATA(a)
    call.x_stride = weight.packed.K
    call.weight = &weight.packed
    call.activation = <tfast_activation>activation
    call.y = <float *>cnp.PyArray_DATA(y)
    call.y_stride = weight.packed.N
    with nogil:
        status = tfast_linear_run(&call, n_threads)
    check(status)
    return y


def matmul(cnp.ndarray a, cnp.ndarray b, cnp.ndarray a_offsets, cnp.ndarray b_offsets, cnp.ndarray y, int n_threads):
    """a (..., M, K) with dense rows, b (..., K, N) with dense rows or dense columns, y (entries, M, N) dense.

    Entry i begins a_offsets[i] and b_offsets[i] elements (dense int64) from the arrays' first ones.
    """
    cdef tfast_matmul call
    cdef tfast_status status
    cdef int last = cnp.PyArray_NDIM(b) - 1
    call.entries = cnp.PyArray_DIM(y, 0)
    call.M = cnp.PyArray_DIM(y, 1)
    call.N = cnp.PyArray_DIM(y, 2)
    call.K = cnp.PyArray_DIM(b, last - 1)
    call.a = floats(a)
    call.a_offsets = integers(a_offsets)
    call.a_stride = step(a, cnp.PyArray_NDIM(a) - 2)
    call.b = floats(b)
    call.b_offsets = integers(b_offsets)
    call.b_columns = step(b, last) != 1 and call.N > 1
    call.b_stride = step(b, last) if call.b_columns else step(b, last - 1)
    call.y = <float *>floats(y)
    with nogil:
        status = tfast_matmul_run(&call, n_threads)
    check(status)


def max_sim(cnp.ndarray queries, cnp.ndarray cu_queries, cnp.ndarray documents, cnp.ndarray cu_documents, bint pairwise,
            cnp.ndarray scores, int n_threads):
    """queries (Tq, D) float32, documents (T, D) float32, float16 or bfloat16, last axes dense; cu_* dense int64, which
    ascend from 0 to Tq and T. scores (B, N), or (N,) of pairs: dense."""
    cdef tfast_max_sim call
    cdef tfast_status status
    call.B = cnp.PyArray_DIM(cu_queries, 0) - 1
    call.N = cnp.PyArray_DIM(cu_documents, 0) - 1
    call.D = cnp.PyArray_DIM(queries, 1)
    call.queries = floats(queries)
    call.query_stride = step(queries, 0)
    call.dtype = float_dtype(documents)
    call.documents = cnp.PyArray_DATA(documents)
    call.document_stride = step(documents, 0)
    call.cu_queries = integers(cu_queries)
    call.cu_documents = integers(cu_documents)
    call.pairwise = pairwise
    call.scores = <float *>floats(scores)
    with nogil:
        status = tfast_max_sim_run(&call, n_threads)
    check(status)

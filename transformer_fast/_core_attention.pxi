"""Attention's part of _core.pyx, which includes this file: arrays and options to the structure tfast_attention.

To add an option: its attribute of AttentionCall, its line in AttentionCall.fill, and its field in csrc/tfast.h and
_core.pxd.
"""

cdef int set_operand(object a, int packed, int64_t *stride, const void **data) except -1:
    """(B, H, L, D), or (T, H, D) when packed, last axis dense -> strides of batch, head, position."""
    cdef cnp.ndarray x = a
    if cnp.PyArray_NDIM(x) != (3 if packed else 4):
        raise ValueError(f"{3 if packed else 4} dimensions needed, got shape {a.shape}")
    cdef int last = cnp.PyArray_NDIM(x) - 1
    if cnp.PyArray_SIZE(x) > 0 and cnp.PyArray_DIM(x, last) > 1 and step(x, last) != 1:
        raise ValueError("the last axis has to be dense")
    stride[0] = 0 if packed else step(x, 0)
    stride[1] = step(x, 1)
    stride[2] = step(x, 0) if packed else step(x, 2)
    data[0] = cnp.PyArray_DATA(x)
    return 0


cdef const float *set_scale(object scale, int packed, int64_t *stride) except? NULL:
    """(B, Hkv, Lk), or (T, Hkv) when packed, float32 of any strides -> strides of batch, head, position; or None."""
    if scale is None:
        return NULL
    cdef cnp.ndarray x = scale
    stride[0] = 0 if packed else step(x, 0)
    stride[1] = step(x, 1)
    stride[2] = step(x, 0 if packed else 2)
    return floats(x)


cdef int set_mask(object mask, tfast_bias *bias) except -1:
    """A float32 or bool array of shape (B, H, Lq, Lk), broadcast by strides of 0."""
    cdef cnp.ndarray m = mask
    cdef int i
    bias.kind = TFAST_BIAS_BOOL if cnp.PyArray_TYPE(m) == cnp.NPY_BOOL else TFAST_BIAS_FLOAT
    if bias.kind == TFAST_BIAS_FLOAT:
        floats(m)
    bias.data = cnp.PyArray_DATA(m)
    for i in range(4):
        bias.stride[i] = step(m, i)
    return 0


cdef int set_ranges(object key_ranges, int packed, tfast_key_ranges *r) except -1:
    """(list_of_row (B or 1, H or 1, Lq) int32, or (H or 1, Tq) when packed, begin int64, bounds int32, visible)."""
    cdef cnp.ndarray lists = key_ranges[0]
    cdef cnp.ndarray begin = key_ranges[1]
    cdef cnp.ndarray bounds = key_ranges[2]
    cdef int first = 0 if packed else 1
    if cnp.PyArray_TYPE(lists) != cnp.NPY_INT32 or cnp.PyArray_TYPE(begin) != cnp.NPY_INT64 \
            or cnp.PyArray_TYPE(bounds) != cnp.NPY_INT32:
        raise TypeError("int32 lists, int64 begin and int32 bounds needed")
    if not (cnp.PyArray_IS_C_CONTIGUOUS(begin) and cnp.PyArray_IS_C_CONTIGUOUS(bounds)):
        raise ValueError("dense begin and bounds needed")
    r.list_of_row = <const int32_t *>cnp.PyArray_DATA(lists)
    r.stride[0] = 0 if packed or cnp.PyArray_DIM(lists, 0) == 1 else step(lists, 0)
    r.stride[1] = 0 if cnp.PyArray_DIM(lists, first) == 1 else step(lists, first)
    r.stride[2] = step(lists, first + 1)
    r.begin = <const int64_t *>cnp.PyArray_DATA(begin)
    r.bounds = <const int32_t *>cnp.PyArray_DATA(bounds)
    r.visible = key_ranges[3]
    return 0


cdef int set_pages(object table, int64_t size, tfast_pages *pages) except -1:
    """(B, n) int32, whose rows are dense."""
    cdef cnp.ndarray t = table
    if cnp.PyArray_TYPE(t) != cnp.NPY_INT32:
        raise TypeError(f"int32 needed, got {t.dtype}")
    if cnp.PyArray_DIM(t, 1) > 1 and step(t, 1) != 1:
        raise ValueError("dense rows needed")
    pages.table = <const int32_t *>cnp.PyArray_DATA(t)
    pages.stride = step(t, 0)
    pages.size = size
    return 0


cdef int set_sparse_weights(object places, tfast_sparse_weights *s) except -1:
    """(what set_ranges takes, before (n_ranges,) int64, row_begin (B, H, Lq) int64, broadcast by strides of 0)."""
    cdef cnp.ndarray row_begin = places[2]
    cdef int i
    if cnp.PyArray_TYPE(row_begin) != cnp.NPY_INT64:
        raise TypeError("int64 row_begin needed")
    set_ranges(places[0], 0, &s.ranges)
    s.before = integers(places[1])
    s.row_begin = <const int64_t *>cnp.PyArray_DATA(row_begin)
    for i in range(3):
        s.row_stride[i] = step(row_begin, i)
    return 0


cdef int set_table(object table, int64_t centre, tfast_bias *bias) except -1:
    """A table over offsets, (H or 1, n), dense.

    The bias of (i, j) is table[h, j - i + centre]: a bias with strides -1 and 1.
    """
    cdef cnp.ndarray t = table
    bias.kind = TFAST_BIAS_FLOAT
    bias.data = floats(t) + centre
    bias.stride[0] = 0
    bias.stride[1] = step(t, 0) if cnp.PyArray_DIM(t, 0) > 1 else 0
    bias.stride[2] = -1
    bias.stride[3] = 1
    return 0


cdef const float *set_distance_rows(object rows, int packed, int64_t *stride, int64_t *n) except? NULL:
    """(B, H, L, n), or (T, H, n) when packed, float32, last axis dense -> strides of batch, head, position; or None."""
    if rows is None:
        return NULL
    cdef const void *data
    set_operand(rows, packed, stride, &data)
    n[0] = cnp.PyArray_DIM(<cnp.ndarray>rows, cnp.PyArray_NDIM(<cnp.ndarray>rows) - 1)
    return floats(rows)


cdef int set_distance_scores(object given, int packed, int64_t centre, tfast_distance_scores *s) except -1:
    """(of_query, of_key, bucket, bucket_of_minus): both last (Lq + Lk - 1,) dense int32, one the other backwards.

    centre: Lq - 1, where distance 0 is.
    """
    cdef cnp.ndarray bucket = given[2]
    cdef cnp.ndarray backwards = given[3]
    if cnp.PyArray_TYPE(bucket) != cnp.NPY_INT32 or cnp.PyArray_TYPE(backwards) != cnp.NPY_INT32:
        raise TypeError("int32 buckets needed")
    s.of_query = set_distance_rows(given[0], packed, s.query_stride, &s.n_buckets)
    s.of_key = set_distance_rows(given[1], packed, s.key_stride, &s.n_buckets)
    s.bucket = <const int32_t *>cnp.PyArray_DATA(bucket) + centre
    s.bucket_of_minus = <const int32_t *>cnp.PyArray_DATA(backwards) + cnp.PyArray_DIM(backwards, 0) - 1 - centre
    return 0


cdef class AttentionCall:
    """One call of attention, filled by name: set_operands and scale, then the options that are there.

    functional.attention has checked everything. query, out (B, H, Lq, D and Dv) and key, value (B, Hkv, Lk, D and Dv),
    or packed, with cu_seqlens_q and cu_seqlens_k, (T, H, D), or in pages, with page_table and kv_lengths,
    (pages, Hkv, positions, D): last axes dense. Mask (B, H, Lq, Lk) by strides of 0,
    relative_bias (H or 1, Lq + Lk - 1) dense.
    """
    cdef readonly object query, key, value, out
    cdef public int q_dtype, kv_dtype  # codes of tfast_dtype: of query and out, of key and value
    cdef public object key_scale, value_scale  # of int8 key and value: float32, the shape of key without its last axis
    cdef public object cu_seqlens_q, cu_seqlens_k
    cdef public object page_table  # (B, n) int32
    cdef public object shared_keys  # (B,) dense int64, with page_table alone
    cdef public int64_t longest_query  # packed alone: what the index of relative_bias is counted from
    cdef public object kv_lengths, causal_offset  # (B,) dense int64
    cdef public int64_t left, right  # keys that a query sees on each side of its own place
    cdef public double scale, softcap
    cdef public object additive  # (D,) float32
    cdef public object attn_mask, relative_bias
    cdef public object distance_scores  # what set_distance_scores takes
    cdef public object key_ranges  # what set_ranges takes
    cdef public object alibi_slopes, sinks  # (H,) float32
    cdef public object lse, weights  # float32 results
    cdef public object sparse_weights  # what set_sparse_weights takes; weights is then (visible pairs,)
    cdef public bint weights_mean

    def __cinit__(self):
        self.left = self.right = TFAST_UNLIMITED

    def set_operands(self, query, key, value, out):
        """In one call, since a call on tiny arrays would notice four."""
        self.query, self.key, self.value, self.out = query, key, value, out

    cdef int fill(self, tfast_attention *c) except -1:
        cdef int packed = self.cu_seqlens_q is not None
        cdef int packed_keys = self.cu_seqlens_k is not None
        cdef cnp.ndarray x
        cdef int i
        cdef const void *data
        memset(c, 0, sizeof(c[0]))
        c.q_dtype = <tfast_dtype>self.q_dtype
        c.kv_dtype = <tfast_dtype>self.kv_dtype
        set_operand(self.query, packed, c.q_stride, &c.q)
        set_operand(self.key, packed_keys, c.k_stride, &c.k)
        set_operand(self.value, packed_keys, c.v_stride, &c.v)
        set_operand(self.out, packed, c.out_stride, &data)
        c.out = <void *>data
        c.k_scale = set_scale(self.key_scale, packed_keys, c.k_scale_stride)
        c.v_scale = set_scale(self.value_scale, packed_keys, c.v_scale_stride)
        x = self.query
        c.H = cnp.PyArray_DIM(x, 1)
        c.D = cnp.PyArray_DIM(x, 2 if packed else 3)
        c.B = len(self.cu_seqlens_q) - 1 if packed else cnp.PyArray_DIM(x, 0)
        c.Lq = self.longest_query if packed else cnp.PyArray_DIM(x, 2)
        x = self.value
        c.Hkv = cnp.PyArray_DIM(x, 1)
        c.Dv = cnp.PyArray_DIM(x, 2 if packed_keys else 3)
        c.Lk = 0 if packed_keys else cnp.PyArray_DIM(x, 2)
        if self.page_table is not None:
            set_pages(self.page_table, c.Lk, &c.pages)
            c.Lk *= cnp.PyArray_DIM(<cnp.ndarray>self.page_table, 1)
        c.shared = integers(self.shared_keys)
        c.cu_q = integers(self.cu_seqlens_q)
        c.cu_k = integers(self.cu_seqlens_k)
        c.kv_length = integers(self.kv_lengths)
        c.offset = integers(self.causal_offset)
        c.left = self.left
        c.right = self.right
        c.scale = <float>self.scale
        c.softcap = <float>self.softcap
        c.additive = floats(self.additive)
        if self.attn_mask is not None:
            set_mask(self.attn_mask, &c.bias[0])
        if self.relative_bias is not None:
            set_table(self.relative_bias, c.Lq - 1, &c.bias[1])
        if self.distance_scores is not None:
            set_distance_scores(self.distance_scores, packed, c.Lq - 1, &c.distance_scores)
        if self.key_ranges is not None:
            set_ranges(self.key_ranges, packed, &c.ranges)
        c.alibi_slopes = floats(self.alibi_slopes)
        c.sinks = floats(self.sinks)
        c.lse = <float *>floats(self.lse)
        if self.lse is not None:
            x = self.lse
            c.lse_stride[0] = 0 if packed else step(x, 0)
            c.lse_stride[1] = step(x, 0 if packed else 1)
        c.weights = <float *>floats(self.weights)
        c.weights_mean = self.weights_mean
        if self.sparse_weights is not None:
            set_sparse_weights(self.sparse_weights, &c.sparse_weights)
        elif self.weights is not None:
            x = self.weights
            for i in range(4):
                # The mean over heads is one matrix a batch entry: every head adds to the same place.
                c.weights_stride[i] = 0 if self.weights_mean and i == 1 else step(x, i)
        return 0

    def run(self, int n_threads):
        cdef tfast_attention call
        cdef tfast_status status
        self.fill(&call)
        with nogil:
            status = tfast_attention_run(&call, n_threads)
        check(status)

    def explain(self, int n_threads):
        """How run() would do it: a dict, with one dict in "kinds" for each way in which pieces are run."""
        cdef tfast_attention call
        cdef tfast_attention_plan plan
        cdef tfast_attention_kind *kind
        cdef int i
        self.fill(&call)
        with nogil:
            tfast_attention_explain(&call, n_threads, &plan)
        kinds = []
        for i in range(plan.n_kinds):
            kind = &plan.kinds[i]
            kinds.append({
                "kernel": ("full-row", "online", "decode")[<int>kind.kernel],
                "isa": kind.level.decode(),
                "query_panel": kind.query_panel,
                "key_block": kind.key_block,
                "copies_kv": bool(kind.copies_kv),
                "matrix_engine": bool(kind.matrix_engine),
                "pieces": kind.pieces,
            })
        return {
            "kinds": kinds,
            "pieces": plan.pieces,
            "rows_per_piece": plan.rows_per_piece,
            "key_splits": plan.key_splits,
            "threads": plan.threads,
            "skipped_fraction": 1 - plan.visible_fraction,
            "score_flops": plan.score_flops,
            "workspace_bytes": plan.scratch_bytes,
        }


cdef int plain_operand(object x) except -1:
    """Whether it is a float32 array of four axes, none empty, that the engine can read as it is."""
    cdef cnp.ndarray a
    if not cnp.PyArray_CheckExact(x):
        return 0
    a = x
    if cnp.PyArray_NDIM(a) != 4 or cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32 or cnp.PyArray_SIZE(a) == 0:
        return 0
    return readable(a)


def plain_attention(object query, object key, object value, bint is_causal, int n_threads):
    """attention() without any option, on arrays that need no preparation, into a new array; None for all others.

    On tiny arrays Python's share of the general call is twice what the engine takes.
    """
    if not (plain_operand(query) and plain_operand(key) and plain_operand(value)):
        return None
    cdef cnp.npy_intp *q = cnp.PyArray_DIMS(<cnp.ndarray>query)
    cdef cnp.npy_intp *k = cnp.PyArray_DIMS(<cnp.ndarray>key)
    cdef cnp.npy_intp *v = cnp.PyArray_DIMS(<cnp.ndarray>value)
    if q[0] != k[0] or q[0] != v[0] or q[1] != k[1] or q[1] != v[1] or k[2] != v[2] or q[3] != k[3]:
        return None
    cdef cnp.npy_intp shape[4]
    shape[0], shape[1], shape[2], shape[3] = q[0], q[1], q[2], v[3]
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(4, shape, cnp.NPY_FLOAT32, 0)
    cdef tfast_attention c
    cdef const void *data
    cdef tfast_status status
    memset(&c, 0, sizeof(c))
    set_operand(query, 0, c.q_stride, &c.q)
    set_operand(key, 0, c.k_stride, &c.k)
    set_operand(value, 0, c.v_stride, &c.v)
    set_operand(out, 0, c.out_stride, &data)
    c.out = <void *>data
    c.q_dtype = c.kv_dtype = TFAST_F32
    c.B, c.H, c.Hkv, c.Lq, c.Lk, c.D, c.Dv = q[0], q[1], q[1], q[2], k[2], q[3], v[3]
    c.left = TFAST_UNLIMITED
    c.right = 0 if is_causal else TFAST_UNLIMITED
    c.scale = <float>(1 / sqrt(<double>c.D))
    with nogil:
        status = tfast_attention_run(&c, n_threads)
    check(status)
    return out

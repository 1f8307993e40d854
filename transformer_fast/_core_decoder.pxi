"""Decoder layers' part of _core.pyx, which includes this file: weights, caches and one call to tfast_decoder.

functional.decoder and nn.cache have checked all shapes. To add a field of a layer: its line in `set_layer`, and its
field in csrc/tfast.h and _core.pxd.
"""

cdef const tfast_packed *packed_of(object weight) except? NULL:
    """A PackedWeight's structure, or NULL for None."""
    if weight is None:
        return NULL
    return &(<PackedWeight?>weight).packed


cdef int set_layer(tfast_decoder_layer *l, object layer, int cache, int64_t cache_layer) except -1:
    """layer: a functional.DecoderLayer, whose vectors are dense float32 arrays or None."""
    cdef int i
    for i in range(len(layer.qkv)):
        l.qkv[i] = packed_of(layer.qkv[i])
    l.out = packed_of(layer.out)
    l.gate = packed_of(layer.gate)
    l.up = packed_of(layer.up)
    l.down = packed_of(layer.down)
    l.qkv_bias = floats(layer.qkv_bias)
    l.out_bias = floats(layer.out_bias)
    l.gate_bias = floats(layer.gate_bias)
    l.up_bias = floats(layer.up_bias)
    l.down_bias = floats(layer.down_bias)
    set_norm(&l.attention_norm, layer.attention_norm)
    set_norm(&l.feed_forward_norm, layer.feed_forward_norm)
    set_norm(&l.attention_out_norm, layer.attention_out_norm)
    set_norm(&l.feed_forward_out_norm, layer.feed_forward_out_norm)
    set_norm(&l.q_norm, layer.q_norm)
    set_norm(&l.k_norm, layer.k_norm)
    l.whole_qk_norm = layer.whole_qk_norm
    l.sinks = floats(layer.sinks)
    l.scale = layer.scale
    l.softcap = layer.softcap
    l.window = TFAST_UNLIMITED if layer.window is None else layer.window
    l.ahead = TFAST_UNLIMITED if layer.ahead is None else layer.ahead
    l.rotation = layer.rotation
    l.cache = cache
    l.cache_layer = cache_layer
    return 0


cdef int set_norm(tfast_norm *norm, object vectors) except -1:
    """vectors: (weight, bias or None), or None."""
    if vectors is not None:
        norm.weight = floats(vectors[0])
        norm.bias = floats(vectors[1])
    return 0


cdef class DecoderStack:
    """The layers of a decoder as the engine takes them; immutable. Holds what they point to.

    layers: functional.DecoderLayer each; places: (cache, layer of that cache) of each.
    """
    cdef tfast_decoder_layer *layers
    cdef tuple kept
    cdef tfast_norm final_norm
    cdef object norm

    def __cinit__(self, tuple layers, tuple places, final_norm):
        cdef Py_ssize_t i
        self.kept, self.norm = layers, final_norm
        self.layers = <tfast_decoder_layer *>calloc(max(len(layers), 1), sizeof(tfast_decoder_layer))
        if self.layers == NULL:
            raise MemoryError("the table of decoder layers could not be allocated")
        for i in range(len(layers)):
            set_layer(&self.layers[i], layers[i], places[i][0], places[i][1])
        self.final_norm.weight = self.final_norm.bias = NULL
        set_norm(&self.final_norm, final_norm)

    def __dealloc__(self):
        free(self.layers)


cdef enum:
    MOST_CACHES = 8
    MOST_ROTATIONS = 4


cdef int set_cache(tfast_cache *to, object cache) except -1:
    """cache: a functional.CacheArrays."""
    to.dtype = <tfast_dtype><int>cache[0]
    to.capacity = cache[1]
    to.k = <void *const *>integers(cache[2])
    to.v = <void *const *>integers(cache[3])
    to.k_scale = <float *const *>integers(cache[4])
    to.v_scale = <float *const *>integers(cache[5])
    to.lengths = integers(cache[6])
    to.kept = integers(cache[7])
    memset(&to.pages, 0, sizeof(to.pages))
    if cache[8] is not None:
        set_pages(cache[8], to.capacity, &to.pages)
    to.shared = integers(cache[9])
    return 0


def decoder(cnp.ndarray x, cnp.ndarray cu, DecoderStack stack, tuple shape, tuple options, tuple rotations,
            caches, bint fresh, bint stepwise, rows, PackedWeight head, head_bias, cnp.ndarray y, int n_threads):
    """x (T, hidden) dense, overwritten; y dense; cu (B + 1,) and rows, or None, dense int64.

    shape: heads, kv_heads, head_dim, inner. options: activation, layer_norm, by_head, interleaved, parallel, eps,
    residual_scale. rotations: (cos, sin), (T, half) dense each. caches: see set_cache, or None.
    """
    cdef tfast_decoder call
    cdef tfast_cache stored[MOST_CACHES]
    cdef tfast_rotation turns[MOST_ROTATIONS]
    cdef tfast_status status
    cdef int i
    memset(&call, 0, sizeof(call))
    if len(rotations) > MOST_ROTATIONS or (caches is not None and len(caches) > MOST_CACHES):
        raise ValueError(f"needed: at most {MOST_ROTATIONS} rotations and {MOST_CACHES} shapes of caches")
    call.T = cnp.PyArray_DIM(x, 0)
    call.hidden = cnp.PyArray_DIM(x, 1)
    call.B = cnp.PyArray_DIM(cu, 0) - 1
    call.heads, call.kv_heads, call.head_dim, call.inner = shape
    call.n_layers = len(stack.kept)
    call.cu = integers(cu)
    call.layers = stack.layers
    call.activation = <tfast_activation><int>options[0]
    call.layer_norm, call.by_head, call.interleaved, call.parallel = options[1:5]
    call.eps, call.residual_scale = options[5], options[6]
    for i in range(len(rotations)):
        turns[i].half = cnp.PyArray_DIM(<cnp.ndarray>rotations[i][0], 1)
        turns[i].cos = floats(rotations[i][0])
        turns[i].sin = floats(rotations[i][1])
    call.rotations = turns
    if caches is not None:
        for i in range(len(caches)):
            set_cache(&stored[i], caches[i])
        call.caches = stored
    call.fresh, call.stepwise = fresh, stepwise
    call.x = <float *>floats(x)
    call.rows = integers(rows)
    call.n_rows = call.T if rows is None else len(rows)
    call.final_norm = stack.final_norm
    call.head = NULL if head is None else &head.packed
    call.head_bias = floats(head_bias)
    call.y = <float *>floats(y)
    with nogil:
        status = tfast_decoder_run(&call, n_threads)
    check(status)

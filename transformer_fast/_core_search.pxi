"""The part of _core.pyx for the search among vectors, which includes this file after _core_linear.pxi.

A further score: its argument here, and its field of tfast_search in csrc/tfast.h and _core.pxd.
"""

cdef inline tfast_dtype corpus_dtype(cnp.ndarray a) except *:
    """The type of vectors that are searched, which may be of integers."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_UINT8:
        return TFAST_U8
    return TFAST_I8 if number == cnp.NPY_INT8 else float_dtype(a)


cdef bint run_search(tfast_search *call, cnp.ndarray corpus, cnp.ndarray scores, cnp.ndarray indices,
                     int n_threads) except *:
    """Fills in what both scores share, and runs the call; False: a score was NaN."""
    cdef tfast_status status
    cdef int nan = 0
    call.Q, call.k = cnp.PyArray_DIM(scores, 0), cnp.PyArray_DIM(scores, 1)
    call.N, call.K = cnp.PyArray_DIM(corpus, 0), cnp.PyArray_DIM(corpus, 1)
    call.dtype = corpus_dtype(corpus)
    call.corpus = cnp.PyArray_DATA(corpus)
    call.stride = step(corpus, 0)
    call.scores = <float *>floats(scores)
    call.indices = <int64_t *>integers(indices)
    call.nan = &nan
    with nogil:
        status = tfast_search_run(call, n_threads)
    check(status)
    return not nan


def search_products(PackedWeight queries, cnp.ndarray corpus, bint cosine, cnp.ndarray scores, cnp.ndarray indices,
                    int n_threads):
    """queries (Q, K) float32, corpus (N, K) with a dense last axis, scores and indices (Q, k) dense. False: NaN."""
    cdef tfast_search call
    memset(&call, 0, sizeof(call))
    call.queries = &queries.packed
    call.cosine = cosine
    return run_search(&call, corpus, scores, indices, n_threads)


def search_hamming(cnp.ndarray queries, cnp.ndarray corpus, cnp.ndarray scores, cnp.ndarray indices, int n_threads):
    """queries (Q, K) dense uint8, corpus (N, K) uint8 with a dense last axis, scores and indices (Q, k) dense."""
    cdef tfast_search call
    memset(&call, 0, sizeof(call))
    call.query_bits = <const uint8_t *>cnp.PyArray_DATA(queries)
    run_search(&call, corpus, scores, indices, n_threads)

/* Values of smaller types as floats: rows of embedding tables that are kept in the type of their file, and of a corpus
 * that is searched.
 *
 * Called by ops/embedding.c and ops/search.c. */
#ifndef TFAST_KERNELS_WIDEN_H
#define TFAST_KERNELS_WIDEN_H

V_INLINE void widen_values(int64_t n, const uint16_t* x, const tfast_dtype dtype, float* y) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, dtype == TFAST_F16 ? v_load_f16(x + i) : v_load_bf16(x + i));
    if (i == n) return;
    uint16_t last[V_LANES] = {0};
    memcpy(last, x + i, (size_t)(n - i) * sizeof *x);
    v_store_n(y + i, dtype == TFAST_F16 ? v_load_f16(last) : v_load_bf16(last), n - i);
}

static void KERNEL(widen)(int64_t n, const void* x, tfast_dtype dtype, float* y) {
    if (dtype == TFAST_I8) /* compilers make vectors of both of these */
        for (int64_t i = 0; i < n; i++) y[i] = ((const int8_t*)x)[i];
    else if (dtype == TFAST_U8)
        for (int64_t i = 0; i < n; i++) y[i] = ((const uint8_t*)x)[i];
    else if (dtype == TFAST_F16)
        widen_values(n, x, TFAST_F16, y);
    else
        widen_values(n, x, TFAST_BF16, y);
}

#endif

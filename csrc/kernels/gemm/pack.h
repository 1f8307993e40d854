/* Rows of a weight in the type that the caller has them in, widened to floats while they are packed.
 *
 * Used by the `pack` of every format. */
#ifndef TFAST_KERNELS_GEMM_PACK_H
#define TFAST_KERNELS_GEMM_PACK_H

#include "../../base/convert.h"

/* V_LANES values of row i from d on; dtype, the type of w, is a constant. */
V_INLINE vf load_weight(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t i, int64_t d) {
    const int64_t at = i * w->stride + d;
    if (dtype == TFAST_F32) return v_load((const float*)w->data + at);
    const uint16_t* half = (const uint16_t*)w->data + at;
    return dtype == TFAST_F16 ? v_load_f16(half) : v_load_bf16(half);
}

/* The first n of them, the others 0. */
V_INLINE vf load_weight_n(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t i, int64_t d, int64_t n) {
    const int64_t at = i * w->stride + d;
    if (dtype == TFAST_F32) return v_load_n((const float*)w->data + at, n);
    uint16_t some[V_LANES] = {0};
    memcpy(some, (const uint16_t*)w->data + at, (size_t)n * sizeof *some);
    return dtype == TFAST_F16 ? v_load_f16(some) : v_load_bf16(some);
}

/* The rows from `row` on. */
static inline tfast_weight_rows rows_from(const tfast_weight_rows* w, int64_t row) {
    const int64_t bytes = w->dtype == TFAST_F32 ? 4 : 2;
    tfast_weight_rows from = *w;
    from.data = (const char*)w->data + row * w->stride * bytes;
    return from;
}

/* Values of row i from d on, as F16 or BF16 (`to_dtype`, a constant): those of a file of that type keep their bits. */
static inline void round_row(const tfast_weight_rows* w, const tfast_dtype to_dtype, int64_t i, int64_t d, int64_t n,
                             uint16_t to[V_LANES]) {
    const int64_t at = i * w->stride + d;
    if (w->dtype == to_dtype) {
        memcpy(to, (const uint16_t*)w->data + at, (size_t)n * sizeof *to);
        return;
    }
    float wide[V_LANES];
    v_store(wide, w->dtype == TFAST_F32   ? load_weight_n(w, TFAST_F32, i, d, n)
                  : w->dtype == TFAST_F16 ? load_weight_n(w, TFAST_F16, i, d, n)
                                          : load_weight_n(w, TFAST_BF16, i, d, n));
    for (int64_t j = 0; j < n; j++)
        to[j] = to_dtype == TFAST_F16 ? tfast_f16_from_f32(wide[j]) : tfast_bf16_from_f32(wide[j]);
}

#endif

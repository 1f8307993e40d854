/* The end of a product: rows that are cut, and the epilogue of a linear layer: activation, the other half of a gate,
 * the residual.
 *
 * Used by the register tile, and by every weight format after its last block of k. */
#ifndef TFAST_KERNELS_GEMM_EPILOGUE_H
#define TFAST_KERNELS_GEMM_EPILOGUE_H

/* V_LANES values, or, with `cut`, the first n of them. */
V_INLINE vf load_upto(const float* p, int cut, int64_t n) {
    return cut ? v_load_n(p, n) : v_load(p);
}

/* From sums that a tile has just stored, and that still lie in L1, to y: an activation has 6-20 instructions for the
 * K/16 FMAs of each vector, the extra load and store are two. Unrolled into the tile, seven activations would make its
 * code outgrow the instruction cache. Every element of the residual is read before y is written there: the two may be
 * one array. */
static void epilogue_rows(const tfast_gemm_call* p, float* sums, const int64_t sums_stride, int64_t row, int64_t m) {
    const int64_t whole = p->n / V_LANES * V_LANES, rest = p->n - whole;
    for (int64_t i = row; i < row + m; i++, sums += sums_stride) {
        float *y = p->y + i * p->y_stride, *to = p->residual || p->multiply ? sums : y;
        if (p->activation != TFAST_IDENTITY) KERNEL(activation)(p->n, sums, to, p->activation);
        if (p->multiply) {
            const float* f = p->multiply + i * p->multiply_stride;
            to = p->residual ? sums : y;
            for (int64_t j = 0; j < whole; j += V_LANES) v_store(to + j, v_mul(v_load(sums + j), v_load(f + j)));
            if (rest) v_store_n(to + whole, v_mul(v_load_n(sums + whole, rest), v_load_n(f + whole, rest)), rest);
        }
        if (p->residual) {
            const float* r = p->residual + i * p->residual_stride;
            for (int64_t j = 0; j < whole; j += V_LANES) v_store(y + j, v_add(v_load(sums + j), v_load(r + j)));
            if (rest) v_store_n(y + whole, v_add(v_load_n(sums + whole, rest), v_load_n(r + whole, rest)), rest);
        }
    }
}

static inline int has_epilogue(const tfast_gemm_call* p) {
    return p->activation != TFAST_IDENTITY || p->residual || p->multiply;
}

#endif

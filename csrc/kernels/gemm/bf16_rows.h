/* Rows of x in bfloat16: what `prepare` makes on levels that multiply pairs of it, once for all panels of a block of
 * rows.
 *
 * Used by bf16_pairs.h and isa/amx/gemm_bf16.h. A value is rounded to 8 significant bits, to the nearest, ties to even;
 * denormals become 0, numbers from 2^128 (1 - 2^-9) on infinity, NaN stays NaN. Rows lie one after the other, each from
 * a multiple of 64 bytes on; behind the last k stand zeros. */
#ifndef TFAST_KERNELS_GEMM_BF16_ROWS_H
#define TFAST_KERNELS_GEMM_BF16_ROWS_H

/* From one row to the next, bytes. */
static int64_t bf16_row_stride(int64_t k) {
    return tfast_round_up(k * 2, 64);
}

/* Rows come in so many: the tile unit reads whole tiles. What the last ones hold does not matter. */
#if !defined(BF16_ROW_UNIT)
#define BF16_ROW_UNIT 1
#endif

static size_t KERNEL(bf16_prepared_bytes)(int64_t m, int64_t k) {
    return (size_t)(tfast_round_up(m, BF16_ROW_UNIT) * bf16_row_stride(k));
}

/* V_LANES values from x[i] on; those that are missing are 0. */
V_INLINE vf load_padded(const float* x, int64_t i, int64_t k) {
    return i + V_LANES <= k ? v_load(x + i) : v_load_n(x + i, tfast_clamp(k - i, 0, V_LANES));
}

static void KERNEL(bf16_prepare)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                 int32_t x_limit, void* rows) {
    (void)factor, (void)x_limit;
    const int64_t stride = bf16_row_stride(k);
    char* to = rows;
    for (; m > 0; m--, a += a_stride, to += stride)
        for (int64_t i = 0; i < k; i += 2 * V_LANES)
            v_store_bf16(to + 2 * i, load_padded(a, i, k), load_padded(a, i + V_LANES, k));
}
_Static_assert(2 * V_LANES * 2 <= 64 && 64 % (2 * V_LANES * 2) == 0, "rows are filled up to 64 bytes in whole steps");

#endif

/* The weight format "float32": panels of k rows of PANEL floats, read by the tile as they are.
 *
 * Its descriptor is made in level.h. matmul packs its B operand in it; formats that expand a block to floats go through
 * multiply_panel, too. */
#ifndef TFAST_KERNELS_GEMM_F32_H
#define TFAST_KERNELS_GEMM_F32_H

#include "pack.h"
#include "panel.h"
#include "small_m.h"

static void KERNEL(f32_panel)(const tfast_gemm_call* p) {
    multiply_panel(p, p->b, panel_stream(p, PANEL * sizeof(float)));
}

/* Unused where the matrix engine takes the format. */
static __attribute__((unused)) void KERNEL(f32_small_m)(const tfast_gemm_call* p) {
    if (p->prefetch_b)
        small_m_rows(load_f32_group, 1, p, 1);
    else
        small_m_rows(load_f32_group, 1, p, 0);
}

/* One block of V_LANES rows, transposed into columns [0, V_LANES) of the panel; rows from n on are 0. dtype is a
 * constant. */
V_INLINE void pack_block(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n, int64_t k, float* panel) {
    vf x[V_LANES];
    int64_t d = 0;
    for (; n >= V_LANES && d + V_LANES <= k; d += V_LANES) { /* full blocks stay in registers */
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++) x[i] = load_weight(w, dtype, i, d);
        v_transpose(x);
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++) v_store(panel + (d + i) * PANEL, x[i]);
    }
    for (; d < k; d += V_LANES) {
        const int64_t width = TFAST_MIN(V_LANES, k - d);
        for (int64_t i = 0; i < V_LANES; i++)
            x[i] = i >= n             ? v_zero()
                   : width == V_LANES ? load_weight(w, dtype, i, d)
                                      : load_weight_n(w, dtype, i, d, width);
        v_transpose(x);
        for (int64_t i = 0; i < width; i++) v_store(panel + (d + i) * PANEL, x[i]);
    }
}

static void KERNEL(f32_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* to, const tfast_int8_side* side) {
    (void)side;
    float* panel = to;
    for (int64_t j = 0; j < PANEL; j += V_LANES) {
        const tfast_weight_rows rows = rows_from(w, TFAST_MIN(j, n));
        if (w->dtype == TFAST_F32)
            pack_block(&rows, TFAST_F32, n - j, k, panel + j);
        else if (w->dtype == TFAST_F16)
            pack_block(&rows, TFAST_F16, n - j, k, panel + j);
        else
            pack_block(&rows, TFAST_BF16, n - j, k, panel + j);
    }
}

static void KERNEL(f32_pack_rows)(const float* b, int64_t b_stride, int64_t n, int64_t k, void* to) {
    float* panel = to;
    for (int64_t i = 0; i < k; i++, b += b_stride, panel += PANEL)
        for (int64_t j = 0; j < PANEL; j += V_LANES)
            v_store(panel + j, j + V_LANES <= n ? v_load(b + j) : j < n ? v_load_n(b + j, n - j) : v_zero());
}

static void KERNEL(f32_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                               int64_t w_stride) {
    (void)side;
    const float* from = panel;
    for (int64_t d = 0; d < k; d++, from += PANEL)
        for (int64_t j = 0; j < n; j++) w[j * w_stride + d] = from[j];
}

#endif

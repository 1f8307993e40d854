/* Products of a few rows with packed weights: one pass over the panels, each read once, from end to end.
 *
 * Called by ops/linear.c through the slot gemm_f32_few, for up to FEW_ROWS rows; more go through gemm.h, whose tile
 * leaves the sums of a block of k in memory. Here they stay in registers beside the total: a token of a decoder waits
 * for nothing but the weights. The order of every sum is that of gemm.h: block by block, each from 0, so that a row has
 * the same bits whatever comes with it. */
#ifndef TFAST_KERNELS_GEMM_FEW_H
#define TFAST_KERNELS_GEMM_FEW_H

#include "gemm.h"

/* The block's sums and the total take the registers of one tile. */
#define FEW_ROWS (TILE_ROWS / 2)

/* One block of k of one panel. `fetch`, a constant: the weights STREAM_AHEAD bytes further on. Zen 4 reads a stream as
 * fast by itself, GB/s with and without: one row, 2.4 MB in L3 61 and 73, 134 MB from memory 24 and 26; four rows from
 * memory 26 and 30. */
V_INLINE void few_block(const float* a, int64_t a_stride, const float* b, int64_t k, const int m, const int fetch,
                        vf acc[FEW_ROWS][TILE_VECTORS]) {
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = v_zero();
    for (; k > 0; k--, a++, b += PANEL) {
        vf bk[TILE_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            if (fetch) __builtin_prefetch((const char*)(b + j * V_LANES) + STREAM_AHEAD);
            bk[j] = v_load(b + j * V_LANES);
        }
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            const vf x = v_set1(a[i * a_stride]);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = v_fma(x, bk[j], acc[i][j]);
        }
    }
}

/* One panel, n <= PANEL of its columns, all of k: sums plus bias to c. */
V_INLINE void few_panel(const tfast_gemm_panel* p, const float* b, const float* bias, int64_t n, const int m,
                        const int fetch, float* c, int64_t c_stride) {
    vf total[FEW_ROWS][TILE_VECTORS], acc[FEW_ROWS][TILE_VECTORS];
    few_block(p->a, p->a_stride, b, TFAST_MIN(p->k_block, p->k), m, fetch, total);
#pragma GCC unroll 4
    for (int j = 0; j < TILE_VECTORS && bias; j++) {
        const vf x = v_load_n(bias + j * V_LANES, tfast_clamp(n - j * V_LANES, 0, V_LANES));
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) total[i][j] = v_add(total[i][j], x);
    }
    for (int64_t k = p->k_block; k < p->k; k += p->k_block) {
        few_block(p->a + k, p->a_stride, b + k * PANEL, TFAST_MIN(p->k_block, p->k - k), m, fetch, acc);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) total[i][j] = v_add(acc[i][j], total[i][j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            const int64_t left = n - j * V_LANES;
            if (left >= V_LANES)
                v_store(c + i * c_stride + j * V_LANES, total[i][j]);
            else if (left > 0)
                v_store_n(c + i * c_stride + j * V_LANES, total[i][j], left);
        }
}

V_INLINE void few_panels(const tfast_gemm_panel* p, const int m, const int fetch) {
    const int epilogue = p->activation != TFAST_IDENTITY || p->residual || p->multiply;
    tfast_gemm_panel one = *p; /* what epilogue_rows reads */
    for (int64_t n = 0; n < p->n; n += PANEL) {
        one.n = TFAST_MIN(PANEL, p->n - n);
        one.y = p->y + n;
        float* c = epilogue ? p->sums : one.y;
        few_panel(p, p->b + n * p->k, p->bias ? p->bias + n : NULL, one.n, m, fetch, c, epilogue ? PANEL : p->y_stride);
        if (!epilogue) continue;
        one.multiply = p->multiply ? p->multiply + n : NULL;
        one.residual = p->residual ? p->residual + n : NULL;
        epilogue_rows(&one, p->sums, 0, m);
    }
}

V_INLINE void few_rows(const tfast_gemm_panel* p, const int fetch) {
    switch (p->m) {
    case 1:
        few_panels(p, 1, fetch);
        break;
    case 2:
        few_panels(p, 2, fetch);
        break;
#if FEW_ROWS == 4
    case 3:
        few_panels(p, 3, fetch);
        break;
    case 4:
        few_panels(p, 4, fetch);
        break;
#endif
    }
}

static void KERNEL(gemm_f32_few)(const tfast_gemm_panel* p) {
    if (p->fetch)
        few_rows(p, 1);
    else
        few_rows(p, 0);
}

#endif

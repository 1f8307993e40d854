/* The largest of each column of a product A (m x k) * B (k x n), without the product: the contract of `maxima`
 * (kernels/api.h) for panels of floats. Put into its descriptor by level.h; called by ops/max_sim.c.
 *
 *   B: a panel of query vectors, one a column          b0 b1 | the tile of tile.h, whose sums stay in registers:
 *   A: rows of a document, in place               a0 | c00 c01   max over i of c[i][j], lane by lane,
 *                                                 a1 | c10 c11   into maxima[j], once for each tile of rows
 *
 * No score is ever stored, and nothing is reduced across lanes: for k = 128 the maxima are 3 of 128 operations. A NaN
 * stays: v_max gives its second operand where one is NaN, which keeps one that is there, and the select takes in a new
 * one.
 *
 * Register budget: that of tile.h. What comes next is fetched between the steps of the tiles: 1,000 documents of 180
 * rows of 128 (92 MB, from memory) with 32 columns took 18.8 ms without it and 10.6 with it, of which the FMAs are 7
 * (AVX-512, Granite Rapids; 4, 8, 16 and 32 KB ahead are within 5 % of each other). */
#ifndef TFAST_KERNELS_GEMM_MAXIMA_H
#define TFAST_KERNELS_GEMM_MAXIMA_H

#include "tile.h"

/* m and nv are constants after inlining. */
V_INLINE void maxima_body(const tile_args* t, float* maxima, const int m, const int nv) {
    vf acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++) acc[i][j] = v_zero();
    if (t->stream.at)
        tile_sums_streaming(t, m, nv, acc);
    else
        tile_sums(t, m, nv, acc);
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        vf most = v_load(maxima + j * V_LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) most = v_select(v_le(acc[i][j], acc[i][j]), v_max(acc[i][j], most), acc[i][j]);
        v_store(maxima + j * V_LANES, most);
    }
}

typedef void (*maxima_fn)(const tile_args* t, float* maxima);
#define MAXIMA(m, nv)                                                                                    \
    static __attribute__((noinline)) void KERNEL(maxima_##m##x##nv)(const tile_args* t, float* maxima) { \
        maxima_body(t, maxima, m, nv);                                                                   \
    }
#define MAXIMA_NAMES_4(nv) KERNEL(maxima_1x##nv), KERNEL(maxima_2x##nv), KERNEL(maxima_3x##nv), KERNEL(maxima_4x##nv)
#define MAXIMA_4(nv)       MAXIMA(1, nv) MAXIMA(2, nv) MAXIMA(3, nv) MAXIMA(4, nv)
#if TILE_ROWS == 8
#define MAXIMA_ROWS(nv) MAXIMA_4(nv) MAXIMA(5, nv) MAXIMA(6, nv) MAXIMA(7, nv) MAXIMA(8, nv)
#define MAXIMA_NAMES(nv) \
    {MAXIMA_NAMES_4(nv), KERNEL(maxima_5x##nv), KERNEL(maxima_6x##nv), KERNEL(maxima_7x##nv), KERNEL(maxima_8x##nv)}
#else
#define MAXIMA_ROWS(nv)  MAXIMA_4(nv)
#define MAXIMA_NAMES(nv) {MAXIMA_NAMES_4(nv)}
#endif
MAXIMA_ROWS(1)
MAXIMA_ROWS(2)
#if TILE_VECTORS == 3
MAXIMA_ROWS(3)
static const maxima_fn maxima_tiles[TILE_VECTORS][TILE_ROWS] = {MAXIMA_NAMES(1), MAXIMA_NAMES(2), MAXIMA_NAMES(3)};
#else
static const maxima_fn maxima_tiles[TILE_VECTORS][TILE_ROWS] = {MAXIMA_NAMES(1), MAXIMA_NAMES(2)};
#endif

static void KERNEL(f32_maxima)(const tfast_maxima_call* p) {
    const maxima_fn* by_rows = maxima_tiles[tfast_ceil_div(p->n, V_LANES) - 1];
    const int64_t steps = TFAST_MAX(p->k, 1) * tfast_ceil_div(p->m, TILE_ROWS);
    tile_args t = {.k = p->k, .a = p->a, .row_stride = p->a_stride, .col_stride = 1, .b = p->b};
    if (p->next) t.stream = (stream_t){.at = p->next, .step = tfast_ceil_div(p->next_bytes, steps)};
    for (int64_t m = p->m; m > 0; m -= TILE_ROWS) {
        by_rows[TFAST_MIN(m, TILE_ROWS) - 1](&t, p->maxima);
        t.a += TILE_ROWS * p->a_stride;
        if (p->next) t.stream.at += t.stream.step * p->k;
    }
}

#endif

/* A block of k of one panel times any number of rows, through the register tile: the contract of `panel`
 * (kernels/api.h) for formats whose values are floats, or as long as floats, when the tile reads them.
 *
 * Used by f32.h, half.h and bf16_pairs.h, which say what stands in B. */
#ifndef TFAST_KERNELS_GEMM_PANEL_H
#define TFAST_KERNELS_GEMM_PANEL_H

#include "epilogue.h"
#include "tile.h"

/* A sum of 192 products has less than half the rounding error of one of 1,024. */
enum { MAX_K_BLOCK = 192 };
/* Blocks of k are multiples of it, and it is a multiple of the k_group of every format in level.h, so that a weight has
 * the same cut in all of them. */
enum { K_UNIT = 8 };
/* Of 48 columns: 96 rows compute 2.7 times as long as their panel takes to arrive from L3. */
enum { MIN_ROW_BLOCK = 96 };
_Static_assert(MAX_K_BLOCK % K_UNIT == 0, "the longest block of k must be one that the cut can give");

/* The contract of `panel` with B as floats, and what is fetched while the tiles run. */
static void multiply_panel(const tfast_gemm_call* p, const float* b, stream_t stream) {
    const int64_t nv = tfast_ceil_div(p->n, V_LANES);
    const int epilogue = p->last && has_epilogue(p), direct = p->last && !epilogue;
    tile_args t = {.k = p->k,
                   .a = p->a,
                   .row_stride = p->a_stride,
                   .col_stride = 1,
                   .a_step = TILE_ROWS * p->a_stride,
                   .b = b,
                   .from = p->sums,
                   .from_stride = PANEL,
                   .c = direct ? p->y : p->sums,
                   .c_stride = direct ? p->y_stride : PANEL,
                   .end = !p->first ? END_ADD_C
                          : p->bias ? END_ADD_ROW
                                    : END_STORE,
                   .row = p->bias,
                   .n = p->n,
                   .stream = stream,
                   .y = p->last ? p->y : NULL,
                   .y_stride = p->y_stride};
    if (!epilogue) {
        tile_rows(&t, p->m, nv);
        return;
    }
    for (int64_t i = 0; i < p->m; i += TILE_ROWS) {
        const int64_t m = TFAST_MIN(TILE_ROWS, p->m - i);
        float* sums = t.c;
        tile_rows(&t, m, nv);
        epilogue_rows(p, sums, PANEL, i, m);
    }
}

/* The next block, evenly over the steps of all tiles; with a single tile of rows, whose loads are what takes the time,
 * the weights STREAM_AHEAD bytes further on. */
static stream_t panel_stream(const tfast_gemm_call* p, int64_t k_bytes) {
    if (p->m <= TILE_ROWS) return (stream_t){.at = (const char*)p->b + STREAM_AHEAD, .step = k_bytes};
    if (!p->next_k) return (stream_t){NULL, 0, 0, 0};
    const int64_t steps = p->k * tfast_ceil_div(p->m, TILE_ROWS);
    return (stream_t){.at = p->next, .step = tfast_ceil_div(p->next_k * k_bytes, steps)};
}

#endif

/* The weight format "int8" on AMX: the products of integers by the tile unit, the sums of every other level.
 *
 * Included by isa/amx/amx.c alone, after kernels/gemm/int8.h, whose rows of x, packed weights and end of a sum it uses:
 * a panel is [k / 4][32 columns][4], of which 16 k-groups are the B operand of two tiles as they lie in memory, and 16
 * rows of x are an A operand.
 *
 *     C: 32 rows x 32 columns in 0 to 3 | A: two tiles of rows in 4, 5 | B: columns 0-15, 16-31 in 6, 7
 *
 * A step of 64 k takes 4 products of 16 cycles and 4 loads of 8. Fewer rows than FEWEST_TILE_ROWS are left to vpdpbusd:
 * a tile of one row takes it 16 cycles where the vector unit takes 16 a row, and the tile has to be set up and stored.
 * The same layout, the same bits. Not measured: the machines at hand have no tile unit; the emulated level runs it in
 * tests. */
#ifndef TFAST_ISA_AMX_GEMM_INT8_H
#define TFAST_ISA_AMX_GEMM_INT8_H

#include "gemm.h"

enum { INT8_TILE_K = 64, INT8_TILE_BYTES = INT8_TILE_K * INT8_PANEL, FEWEST_TILE_ROWS = 4 };
_Static_assert((int)INT8_K_GROUP == (int)INT8_TILE_K && (int)INT8_TILE_K == (int)T_ROW_BYTES,
               "a row of a tile must be one group of k");
_Static_assert((int)INT8_PANEL == 2 * T_ROWS && INT8_ROW_UNIT == T_ROWS, "a panel must be the columns of two tiles");

static void KERNEL(begin_int8_tiles)(int64_t m, void* work) {
    (void)work;
    configure_tiles(m);
}

/* One or two tiles of rows (a constant) times both tiles of columns -> sums. */
V_INLINE void multiply_int8_tiles(const char* x, int64_t x_stride, const char* w, int64_t steps, int32_t sums[4][256],
                                  ahead_list* ahead, const int tiles) {
    tile_zero(0);
    tile_zero(1);
    if (tiles == 2) {
        tile_zero(2);
        tile_zero(3);
    }
    for (; steps > 0; steps--, x += INT8_TILE_K, w += INT8_TILE_BYTES) {
        TILES_READ_MEMORY(w);
        tile_load(6, w, INT8_GROUP_BYTES);
        tile_load(7, w + T_ROW_BYTES, INT8_GROUP_BYTES);
        tile_load(4, x, x_stride);
        tile_dot_bytes(0, 4, 6);
        tile_dot_bytes(1, 4, 7);
        if (tiles == 2) {
            tile_load(5, x + T_ROWS * x_stride, x_stride);
            tile_dot_bytes(2, 5, 6);
            tile_dot_bytes(3, 5, 7);
        }
        fetch_ahead(ahead);
    }
    tile_store(0, sums[0], 64);
    tile_store(1, sums[1], 64);
    if (tiles == 2) {
        tile_store(2, sums[2], 64);
        tile_store(3, sums[3], 64);
    }
}

static void KERNEL(int8_panel_tiles)(const tfast_gemm_call* p) {
    int32_t sums[4][256] __attribute__((aligned(64)));
    const int64_t steps = tfast_ceil_div(p->k, INT8_TILE_K), pairs = tfast_ceil_div(p->m, 2 * T_ROWS);
    const int64_t next_bytes = tfast_ceil_div(p->next_k, INT8_TILE_K) * INT8_TILE_BYTES;
    ahead_list ahead = {.lines_per_tile = tfast_ceil_div(next_bytes / 64, TFAST_MAX(1, steps * pairs))};
    add_ahead(&ahead, p->next, 1, next_bytes, next_bytes);
    int8_tile_args t = {.x = p->rows,
                        .x_stride = int8_row_stride(p->k, 1),
                        .row = int8_rows_of(p->rows, p->m, p->k, 1),
                        .side = &p->side};
    finish_to(p, &t);
    for (int64_t i = 0; i < p->m; i += 2 * T_ROWS) {
        const int64_t m = TFAST_MIN(2 * T_ROWS, p->m - i);
        if (m > T_ROWS)
            multiply_int8_tiles(t.x, t.x_stride, p->b, steps, sums, &ahead, 2);
        else
            multiply_int8_tiles(t.x, t.x_stride, p->b, steps, sums, &ahead, 1);
        for (int half = 0; half < 2; half++) {
            const int8_columns columns = columns_of(&t, half);
            for (int row = 0; row < m; row++)
                finish_int8(&t, &columns, row, vi_load(sums[row / T_ROWS * 2 + half] + row % T_ROWS * V_LANES), 1, 0);
        }
        finish_rows_of_tile(p, &t, i, m);
    }
}

#endif

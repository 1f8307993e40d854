/* Products with weights in bfloat16 on AMX: the tile unit's own type. x is rounded to it, too.
 *
 * Included by isa/amx/amx.c alone, after isa/amx/gemm.h, whose rules for tiles and end of a row it shares. Its
 * descriptor stands in amx.c; weights and rows of x are laid out as elsewhere (gemm/half_pack.h, gemm/bf16_rows.h): 16
 * pairs of a panel are the B operand of two tiles as they lie in memory, 16 rows of x an A operand.
 *
 *     C: 32 rows x 32 columns in 0 to 3 | A: two tiles of rows in 4, 5 | B: columns 0-15, 16-31 in 6, 7
 *
 * A step of 32 k takes 4 products of 16 cycles and 4 loads of 8; float32 takes 24 products for the same. A block of k
 * is 384: its B, 24 KB, stays in L1 beside two steps of A, which come from L2. The unit adds the even and the odd
 * elements of a step apart, then both, then C, in fp32; denormals count as 0. Infinities and NaN come out as the
 * formula has them. Not measured: the machines at hand have no tile unit; the emulated level runs it in tests. */
#ifndef TFAST_ISA_AMX_GEMM_BF16_H
#define TFAST_ISA_AMX_GEMM_BF16_H

#include "gemm.h"

enum { BF16_TILE_BYTES = T_K * PANEL * 2, BF16_PAIR_BYTES = PANEL * 4, MAX_BF16_STEPS = 12 };
_Static_assert((int)BF16_K_GROUP == (int)T_K && (int)BF16_PAIR_BYTES == 2 * (int)T_ROW_BYTES,
               "a group of k must be the rows of two tiles");
_Static_assert(BF16_ROW_UNIT == T_ROWS, "rows of x must be whole tiles");
_Static_assert(MAX_BF16_STEPS* BF16_TILE_BYTES + 2 * 2 * T_BYTES <= 32 * 1024,
               "a block of B and two steps of A must fit in L1");

static void KERNEL(begin_bf16_tiles)(int64_t m, void* work) {
    (void)work;
    configure_tiles(m);
}

/* One or two tiles of rows (a constant) times both tiles of columns -> sums. */
V_INLINE void multiply_bf16_tiles(const char* x, int64_t x_stride, const char* w, int64_t steps, float sums[4][256],
                                  ahead_list* ahead, const int tiles) {
    tile_zero(0);
    tile_zero(1);
    if (tiles == 2) {
        tile_zero(2);
        tile_zero(3);
    }
    for (; steps > 0; steps--, x += T_ROW_BYTES, w += BF16_TILE_BYTES) {
        TILES_READ_MEMORY(w);
        tile_load(6, w, BF16_PAIR_BYTES);
        tile_load(7, w + T_ROW_BYTES, BF16_PAIR_BYTES);
        tile_load(4, x, x_stride);
        tile_dot_bf16(0, 4, 6);
        tile_dot_bf16(1, 4, 7);
        if (tiles == 2) {
            tile_load(5, x + T_ROWS * x_stride, x_stride);
            tile_dot_bf16(2, 5, 6);
            tile_dot_bf16(3, 5, 7);
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

static void KERNEL(bf16_panel_tiles)(const tfast_gemm_call* p) {
    /* Two of them: one is finished while the tile unit works on the other. */
    float sums[2][4][256] __attribute__((aligned(64)));
    const int64_t steps = tfast_ceil_div(p->k, T_K), pairs = tfast_ceil_div(p->m, 2 * T_ROWS);
    const int64_t next_bytes = tfast_ceil_div(p->next_k, T_K) * BF16_TILE_BYTES, x_stride = bf16_row_stride(p->k);
    ahead_list ahead = {.lines_per_tile = tfast_ceil_div(next_bytes / 64, TFAST_MAX(1, steps * pairs))};
    add_ahead(&ahead, p->next, 1, next_bytes, next_bytes);
    const char* x = p->rows;
    int64_t i = 0, now = 0;
    for (; i < p->m; i += 2 * T_ROWS, x += 2 * T_ROWS * x_stride, now = !now) {
        if (p->m - i > T_ROWS)
            multiply_bf16_tiles(x, x_stride, p->b, steps, sums[now], &ahead, 2);
        else
            multiply_bf16_tiles(x, x_stride, p->b, steps, sums[now], &ahead, 1);
        if (i) finish_rows(p, sums[!now], i - 2 * T_ROWS, 2 * T_ROWS, NULL, NULL);
    }
    i -= 2 * T_ROWS;
    finish_rows(p, sums[!now], i, p->m - i, NULL, NULL);
}

#endif

/* bfloat16 weights on AMX: the tile unit's own type, so that a panel needs no splitting.
 *
 * Included by isa/amx/amx.c alone, after isa/amx/gemm.h, whose parts of A, tiles, epilogue and rules for what is not
 * finite it shares. Its descriptor stands in amx.c.
 *
 *     a b = a3 b + a2 b + a1 b         exactly, a in three bfloat16 parts: three tile products where float32 takes six
 *
 * A panel is [step of 32 k][half of the columns][16 pairs of k: (i, i + 16)][16 columns][2], the B operand as the unit
 * reads it; k behind the end is 0. The products with a3 and a2 of all steps come first, as in gemm.h. Not measured: the
 * machines at hand have no tile unit; the emulated level runs it in tests. */
#ifndef TFAST_ISA_AMX_GEMM_BF16_H
#define TFAST_ISA_AMX_GEMM_BF16_H

#include "gemm.h"

enum { BF16_STEP_BYTES = 2 * T_BYTES, BF16_PRODUCTS = 3 };

/* Scratch of a task: a block of a panel as floats. */
enum { BF16_WORK_BYTES = MAX_STEPS * T_K * PANEL * 4 };

static void KERNEL(begin_bf16_tiles)(int64_t m, void* work) {
    (void)work;
    configure_tiles(m);
}

/* The place of W[column][k] in a panel, in values. */
V_INLINE int64_t bf16_place(int64_t column, int64_t k) {
    const int64_t i = k % T_K;
    return k / T_K * (BF16_STEP_BYTES / 2) + column / T_ROWS * (T_BYTES / 2) + i % T_ROWS * 2 * T_ROWS +
           column % T_ROWS * 2 + i / T_ROWS;
}

static void KERNEL(bf16_tiles_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                                    const tfast_int8_side* side) {
    (void)side;
    uint16_t* to = panel;
    for (int64_t d = 0; d < tfast_round_up(k, T_K); d += V_LANES)
        for (int64_t j = 0; j < PANEL; j++) {
            uint16_t x[V_LANES] = {0};
            if (j < n && d < k) round_row(w, j, d, TFAST_MIN(V_LANES, k - d), x);
            for (int64_t i = 0; i < V_LANES; i++) to[bf16_place(j, d + i)] = x[i];
        }
}

static void KERNEL(bf16_tiles_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                                      int64_t w_stride) {
    (void)side;
    const uint16_t* from = panel;
    for (int64_t j = 0; j < n; j++)
        for (int64_t d = 0; d < k; d++) w[j * w_stride + d] = tfast_f32_from_bf16(from[bf16_place(j, d)]);
}

static void widen_tiles(const tfast_gemm_call* p, float* room) {
    const uint16_t* from = p->b;
    for (int64_t d = 0; d < p->k; d++)
        for (int64_t j = 0; j < PANEL; j++) room[d * PANEL + j] = tfast_f32_from_bf16(from[bf16_place(j, d)]);
}

/* One or two tiles of rows (a constant) times both tiles of columns. */
V_INLINE void multiply_bf16_tiles(const char* a, int64_t a_tile, const char* b, int64_t steps, tiles_to to,
                                  const meanwhile_t meanwhile, const int tiles) {
    const char *a0 = a, *b0 = b;
    tile_zero(0);
    tile_zero(1);
    if (tiles == 2) {
        tile_zero(2);
        tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++, a += A_STEP_BYTES, b += BF16_STEP_BYTES) {
        TILES_READ_MEMORY(b);
        LOAD_B(0, 2);
        LOAD_A(tiles, 2);
        MULTIPLY(tiles, 2);
        LOAD_A(tiles, 1);
        MULTIPLY(tiles, 2);
    }
    for (a = a0, b = b0; steps > 0; steps--, a += A_STEP_BYTES, b += BF16_STEP_BYTES) {
        LOAD_B(0, 2);
        LOAD_A(tiles, 0);
        MULTIPLY(tiles, 2);
    }
    tile_store(0, to.at, to.stride * 4);
    tile_store(1, to.at + to.columns, to.stride * 4);
    if (tiles == 2) {
        tile_store(2, to.at + to.rows, to.stride * 4);
        tile_store(3, to.at + to.rows + to.columns, to.stride * 4);
    }
}

static void KERNEL(bf16_panel_tiles)(const tfast_gemm_call* p) {
    /* Two of them: one is finished while the tile unit works on the other. */
    float sums[2][4][256] __attribute__((aligned(64)));
    fallback_b b = {p->work, widen_tiles, 0};
    const int64_t steps = tfast_ceil_div(p->k, T_K), tiles = tfast_ceil_div(p->m, T_ROWS);
    const int64_t next_bytes = tfast_ceil_div(p->next_k, T_K) * BF16_STEP_BYTES;
    ahead_list ahead = {.lines_per_tile = tfast_ceil_div(next_bytes / 64, TFAST_MAX(1, steps * BF16_PRODUCTS))};
    add_ahead(&ahead, p->next, 1, next_bytes, next_bytes);
    const meanwhile_t meanwhile = {NULL, 0, &ahead};
    const char* a = p->rows;
    const uint8_t* nonfinite = (const uint8_t*)a + tiles * steps * A_STEP_BYTES;
    int64_t i = 0, now = 0;
    for (; i < p->m; i += 2 * T_ROWS, a += 2 * steps * A_STEP_BYTES, now = !now) {
        const tiles_to to = {sums[now][0], 16, 256, 512};
        if (p->m - i > T_ROWS)
            multiply_bf16_tiles(a, steps * A_STEP_BYTES, p->b, steps, to, meanwhile, 2);
        else
            multiply_bf16_tiles(a, steps * A_STEP_BYTES, p->b, steps, to, meanwhile, 1);
        if (i) finish_rows(p, sums[!now], i - 2 * T_ROWS, 2 * T_ROWS, nonfinite, &b);
    }
    i -= 2 * T_ROWS;
    finish_rows(p, sums[!now], i, p->m - i, nonfinite, &b);
}

#endif

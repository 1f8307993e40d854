/* The weight format "bfloat16": half the bytes of float32, widened in registers, summed in fp32.
 *
 * Its descriptor is made in level.h. A panel is [k / 2][column][2]: pairs of k, the even one in the low half, so that
 * one load gives two vectors by a shift and a mask (1.5 instructions a vector; values of one k side by side take 2 on
 * AVX2, a widening load and a shift), and so that VDPBF16PS can read it. An odd k is followed by a 0.
 *
 *   up to SMALL_M rows   small_m.h: both vectors of a pair meet their FMAs in registers; memory is the limit
 *   more rows            a block of k of a panel is widened into scratch (L1), then multiplied by the tile of float32:
 *                        2 loads and stores for the TILE_ROWS FMAs of each tile of rows
 *
 * Products run in the order of k, so that a result has the bits of a float32 weight of the same values. */
#ifndef TFAST_KERNELS_GEMM_BF16_H
#define TFAST_KERNELS_GEMM_BF16_H

#include "f32.h"

enum { BF16_GROUP = 2 };
_Static_assert(K_UNIT % BF16_GROUP == 0, "a block of k must not split a pair");
_Static_assert((int)BF16_GROUP <= (int)MAX_GROUP, "small_m.h has room for MAX_GROUP vectors of a group");

/* k rows of PANEL floats; with an odd k, one more of zeros. */
static void widen_panel(const uint16_t* b, int64_t k, float* to) {
    for (; k > 0; k -= BF16_GROUP, b += PANEL * BF16_GROUP, to += PANEL * BF16_GROUP)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            vf even, odd;
            v_load_bf16_pairs(b + j * V_LANES * BF16_GROUP, &even, &odd);
            v_store(to + j * V_LANES, even);
            v_store(to + PANEL + j * V_LANES, odd);
        }
}

static void KERNEL(bf16_panel)(const tfast_gemm_call* p) {
    float* b = p->work;
    widen_panel(p->b, p->k, b);
    multiply_panel(p, b, panel_stream(p, PANEL * sizeof(uint16_t)));
}

V_INLINE void load_bf16_group(const void* from, vf value[MAX_GROUP]) {
    v_load_bf16_pairs(from, &value[0], &value[1]);
}

static void KERNEL(bf16_small_m)(const tfast_gemm_call* p) {
    if (p->prefetch_b)
        small_m_rows(load_bf16_group, BF16_GROUP, p, 1);
    else
        small_m_rows(load_bf16_group, BF16_GROUP, p, 0);
}

static void KERNEL(bf16_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                              const tfast_int8_side* side) {
    (void)side;
    uint16_t* to = panel;
    for (int64_t d = 0; d < k; d += V_LANES, to += V_LANES * PANEL) {
        const int64_t width = TFAST_MIN(V_LANES, k - d);
        for (int64_t j = 0; j < PANEL; j++) {
            uint16_t x[V_LANES] = {0};
            if (j < n) round_row(w, j, d, width, x);
            for (int64_t i = 0; i < tfast_round_up(width, BF16_GROUP); i += BF16_GROUP)
                memcpy(to + (i / BF16_GROUP * PANEL + j) * BF16_GROUP, x + i, BF16_GROUP * sizeof *x);
        }
    }
}
_Static_assert(V_LANES % BF16_GROUP == 0, "pack takes whole pairs");

static void KERNEL(bf16_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                                int64_t w_stride) {
    (void)side;
    const uint16_t* from = panel;
    for (int64_t d = 0; d < k; d++)
        for (int64_t j = 0; j < n; j++)
            w[j * w_stride + d] = tfast_f32_from_bf16(from[(d / BF16_GROUP * PANEL + j) * BF16_GROUP + d % BF16_GROUP]);
}

#endif

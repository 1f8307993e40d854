/* The weight format "bfloat16" where floats are multiplied: widened in registers, summed in fp32.
 *
 * Its descriptor is made in level.h; the layout: bf16_pack.h.
 *
 *   up to SMALL_M rows   small_m.h: both vectors of a pair meet their FMAs in registers; memory is the limit
 *   more rows            a block of k of a panel is widened into scratch (L1), then multiplied by the tile of float32:
 *                        2 loads and stores for the TILE_ROWS FMAs of each tile of rows
 *
 * x stays float32, and products run in the order of k, so that a result has the bits of a float32 weight of the same
 * values. */
#ifndef TFAST_KERNELS_GEMM_BF16_H
#define TFAST_KERNELS_GEMM_BF16_H

#include "bf16_pack.h"
#include "f32.h"

_Static_assert(K_UNIT % BF16_K_GROUP == 0, "a block of k must not split a pair");
_Static_assert((int)BF16_PAIR <= (int)MAX_GROUP, "small_m.h has room for MAX_GROUP vectors of a group");

/* k rows of PANEL floats; with an odd k, one more of zeros. */
static void widen_panel(const uint16_t* b, int64_t k, float* to) {
    for (; k > 0; k -= BF16_PAIR, b += PANEL * BF16_PAIR, to += PANEL * BF16_PAIR)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            vf even, odd;
            v_load_bf16_pairs(b + j * V_LANES * BF16_PAIR, &even, &odd);
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
        small_m_rows(load_bf16_group, BF16_PAIR, p, 1);
    else
        small_m_rows(load_bf16_group, BF16_PAIR, p, 0);
}

#endif

/* The weight formats of 16 bits where floats are multiplied: widened in registers, summed in fp32.
 *
 * "float16" and "bfloat16_a32" on every level, and "bfloat16" where the processor does not multiply it. The descriptors
 * are made in level.h (isa/amx/amx.c has those of its tiles); the layout: half_pack.h. A format is its `load`, which
 * widens a pair of k of a vector of columns.
 *
 *   up to SMALL_M rows   small_m.h: both vectors of a pair meet their FMAs in registers; memory is the limit
 *   more rows            a block of k of a panel is widened into scratch (L1), then multiplied by the tile of float32:
 *                        2 loads and stores for the TILE_ROWS FMAs of each tile of rows
 *
 * x stays float32, and products run in the order of k, so that a result has the bits of a float32 weight of the same
 * values. */
#ifndef TFAST_KERNELS_GEMM_HALF_H
#define TFAST_KERNELS_GEMM_HALF_H

#include "f32.h"
#include "half_pack.h"

_Static_assert((int)HALF_PAIR <= (int)MAX_GROUP, "small_m.h has room for MAX_GROUP vectors of a group");

V_INLINE void load_bf16_group(const void* from, vf value[MAX_GROUP]) {
    v_load_bf16_pairs(from, &value[0], &value[1]);
}

V_INLINE void load_f16_group(const void* from, vf value[MAX_GROUP]) {
    value[0] = v_load_f16(from);
    value[1] = v_load_f16((const uint16_t*)from + V_LANES);
}

/* k rows of PANEL floats; with an odd k, one more of zeros. */
V_INLINE void widen_panel(const load_group_fn load, const uint16_t* b, int64_t k, float* to) {
    for (; k > 0; k -= HALF_PAIR, b += PANEL * HALF_PAIR, to += PANEL * HALF_PAIR)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            vf value[MAX_GROUP];
            load(b + j * V_LANES * HALF_PAIR, value);
            v_store(to + j * V_LANES, value[0]);
            v_store(to + PANEL + j * V_LANES, value[1]);
        }
}

/* A format's `panel`, whose work is MAX_K_BLOCK rows of PANEL floats, and its `small_m`. */
#define HALF_KERNELS(name)                                                                 \
    static void KERNEL(name##_panel)(const tfast_gemm_call* p) {                           \
        float* b = p->work;                                                                \
        widen_panel(load_##name##_group, p->b, p->k, b);                                   \
        multiply_panel(p, b, panel_stream(p, PANEL * sizeof(uint16_t)));                   \
    }                                                                                      \
    static __attribute__((unused)) void KERNEL(name##_small_m)(const tfast_gemm_call* p) { \
        if (p->prefetch_b)                                                                 \
            small_m_rows(load_##name##_group, HALF_PAIR, p, 1);                            \
        else                                                                               \
            small_m_rows(load_##name##_group, HALF_PAIR, p, 0);                            \
    }
HALF_KERNELS(bf16)
HALF_KERNELS(f16)

#define HALF_WORK_BYTES (MAX_K_BLOCK * PANEL * sizeof(float))

#endif

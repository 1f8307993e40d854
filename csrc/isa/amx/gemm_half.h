/* Products with weights in float16 and "bfloat16_a32" on AMX: those of float32 (gemm.h) with another load.
 *
 * Included by isa/amx/amx.c alone, which makes the descriptors. A block of a panel is widened while it is split into
 * parts, beside the products of the block before, as one of float32 is; so x is in three parts, too, and a result has
 * the bits of a float32 weight of the same values. The layout: kernels/gemm/half_pack.h. Not measured. */
#ifndef TFAST_ISA_AMX_GEMM_HALF_H
#define TFAST_ISA_AMX_GEMM_HALF_H

#include "../../kernels/gemm/half.h"
#include "gemm.h"

_Static_assert(T_K % BF16_K_GROUP == 0 && T_K % HALF_PAIR == 0, "a block of k must not split a pair");
_Static_assert(MAX_STEPS* T_K <= MAX_K_BLOCK, "a block must fit in the scratch of half.h");

V_INLINE vf load_f16_row(const void* panel, int64_t k, const int half) {
    return v_load_f16((const uint16_t*)panel + half_place(TFAST_F16, half * V_LANES, k));
}

/* Of the pairs of a vector of columns one half: which is known where k is, but for its step. */
V_INLINE vf load_bf16_row(const void* panel, int64_t k, const int half) {
    vf even, odd;
    v_load_bf16_pairs((const uint16_t*)panel + half_place(TFAST_BF16, half * V_LANES, k - k % HALF_PAIR), &even, &odd);
    return k % HALF_PAIR ? odd : even;
}

static void KERNEL(f16_panel_tiles)(const tfast_gemm_call* p) {
    multiply_split_panel(load_f16_row, sizeof(uint16_t), p, KERNEL(f16_panel));
}

static void KERNEL(bf16_a32_panel_tiles)(const tfast_gemm_call* p) {
    multiply_split_panel(load_bf16_row, sizeof(uint16_t), p, KERNEL(bf16_panel));
}

#endif

/* The weight format "bfloat16" where the processor multiplies pairs of it (VDPBF16PS): x is rounded to bfloat16, too.
 *
 * Used by isa/avx512bf16.c, which makes the descriptor. Weights are laid out as on the level below (half_pack.h), rows
 * of x in pairs (bf16_rows.h). A pair is as long as a float, so panels and few rows go through the tiles of float32
 * with another product: half as many steps of k. Sums are fp32; the odd element of a pair is added first, then the even
 * one, each rounded; denormals count as 0. Blocks of k are twice as long as those of float32: as many bytes, as many
 * roundings.
 *
 * Not measured: the machines at hand have no VDPBF16PS, or were not there when this was written; the emulated level
 * runs it in tests. By its instructions, a step of the tile 8 x 3 has 24 products of 32 and 11 loads, as float32 has
 * for 16. */
#ifndef TFAST_KERNELS_GEMM_BF16_PAIRS_H
#define TFAST_KERNELS_GEMM_BF16_PAIRS_H

#define TILE_PRODUCT(a, b, c) v_dot_bf16(c, a, b)

#include "half_pack.h"
#include "bf16_rows.h"
#include "panel.h"
#include "small_m.h"

enum { MAX_PAIRS_K_BLOCK = HALF_PAIR * MAX_K_BLOCK };
_Static_assert(MAX_PAIRS_K_BLOCK % K_UNIT == 0 && K_UNIT % BF16_K_GROUP == 0, "a block of k must be whole pairs");
_Static_assert(HALF_PAIR * sizeof(uint16_t) == sizeof(float), "a pair must be as long as a float");

/* The same call with pairs for floats. */
static tfast_gemm_call in_pairs(const tfast_gemm_call* p) {
    tfast_gemm_call pairs = *p;
    pairs.a = p->rows;
    pairs.a_stride = bf16_row_stride(p->k) / (int64_t)sizeof(float);
    pairs.k = tfast_ceil_div(p->k, HALF_PAIR);
    pairs.next_k = tfast_ceil_div(p->next_k, HALF_PAIR);
    pairs.k_block = p->k_block / HALF_PAIR;
    return pairs;
}

static void KERNEL(bf16_pairs_panel)(const tfast_gemm_call* p) {
    const tfast_gemm_call pairs = in_pairs(p);
    multiply_panel(&pairs, pairs.b, panel_stream(&pairs, PANEL * sizeof(float)));
}

static void KERNEL(bf16_pairs_small_m)(const tfast_gemm_call* p) {
    const tfast_gemm_call pairs = in_pairs(p);
    if (p->prefetch_b)
        small_m_rows(load_f32_group, 1, &pairs, 1);
    else
        small_m_rows(load_f32_group, 1, &pairs, 0);
}

#endif

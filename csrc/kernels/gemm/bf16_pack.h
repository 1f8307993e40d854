/* The weight format "bfloat16": half the bytes of float32. Its layout, packing and unpacking.
 *
 * Used by the files that multiply it: bf16.h, which widens it in registers; bf16_pairs.h and isa/amx/gemm_bf16.h, whose
 * levels multiply pairs. A panel is [k / 2][column][2]: pairs of k, the even one in the low half, so that one load
 * gives two vectors by a shift and a mask (1.5 instructions a vector; values of one k side by side take 2 on AVX2, a
 * widening load and a shift), and so that VDPBF16PS and the tile unit read it as it is. A last BF16_K_GROUP of k is
 * filled up with zeros. */
#ifndef TFAST_KERNELS_GEMM_BF16_PACK_H
#define TFAST_KERNELS_GEMM_BF16_PACK_H

#include "pack.h"
#include "tile.h"

enum { BF16_PAIR = 2 };
/* What a kernel reads at once: a pair, or a row of tiles. */
#if !defined(BF16_K_GROUP)
#define BF16_K_GROUP BF16_PAIR
#endif
enum { BF16_GROUP_BYTES = BF16_K_GROUP * PANEL * 2 };
_Static_assert(V_LANES % BF16_PAIR == 0 && BF16_K_GROUP % BF16_PAIR == 0, "packing takes whole pairs");

/* Groups of k are filled up where the last vector of them ends: one that is longer than a vector is a whole number of
 * vectors. */
_Static_assert(V_LANES % BF16_K_GROUP == 0 || BF16_K_GROUP % V_LANES == 0, "a group must not end inside a vector");

static void KERNEL(bf16_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                              const tfast_int8_side* side) {
    (void)side;
    uint16_t* to = panel;
    const int64_t end = tfast_round_up(k, BF16_K_GROUP);
    for (int64_t d = 0; d < end; d += V_LANES, to += V_LANES * PANEL) {
        const int64_t width = tfast_clamp(k - d, 0, V_LANES), filled = TFAST_MIN(V_LANES, end - d);
        for (int64_t j = 0; j < PANEL; j++) {
            uint16_t x[V_LANES] = {0};
            if (j < n && width) round_row(w, j, d, width, x);
            for (int64_t i = 0; i < filled; i += BF16_PAIR)
                memcpy(to + (i / BF16_PAIR * PANEL + j) * BF16_PAIR, x + i, BF16_PAIR * sizeof *x);
        }
    }
}

static void KERNEL(bf16_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                                int64_t w_stride) {
    (void)side;
    const uint16_t* from = panel;
    for (int64_t d = 0; d < k; d++)
        for (int64_t j = 0; j < n; j++)
            w[j * w_stride + d] = tfast_f32_from_bf16(from[(d / BF16_PAIR * PANEL + j) * BF16_PAIR + d % BF16_PAIR]);
}

#endif

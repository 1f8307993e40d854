/* The weight formats of 16 bits, "float16" and "bfloat16": half the bytes of float32. Layout, packing and unpacking.
 *
 * Used by the files that multiply them: half.h, which widens them in registers; bf16_pairs.h and isa/amx/gemm_bf16.h,
 * whose levels multiply pairs of bfloat16; isa/amx/gemm_half.h. A panel is [k / 2][vector of columns][2 vectors of 16
 * bits]: a pair of k for each column of a vector, so that one step of small_m.h reads as many bytes as of float32.
 *
 *   bfloat16   [column][2]: the even k in the low half, so that one load gives two vectors by a shift and a mask (1.5
 *              instructions a vector; values of one k side by side take 2 on AVX2, a widening load and a shift), and so
 *              that VDPBF16PS and the tile unit read it as it is
 *   float16    [2][column]: a conversion (vcvtph2ps) reads the values of one k side by side from memory
 *
 * A last BF16_K_GROUP of k is filled up with zeros. */
#ifndef TFAST_KERNELS_GEMM_HALF_PACK_H
#define TFAST_KERNELS_GEMM_HALF_PACK_H

#include "pack.h"
#include "tile.h"

enum { HALF_PAIR = 2 };
/* What a kernel of bfloat16 reads at once: a pair, or a row of tiles. */
#if !defined(BF16_K_GROUP)
#define BF16_K_GROUP HALF_PAIR
#endif
enum { BF16_GROUP_BYTES = BF16_K_GROUP * PANEL * 2, F16_GROUP_BYTES = HALF_PAIR * PANEL * 2 };
_Static_assert(V_LANES % HALF_PAIR == 0 && BF16_K_GROUP % HALF_PAIR == 0, "packing takes whole pairs");

/* Groups of k are filled up where the last vector of them ends: one that is longer than a vector is a whole number of
 * vectors. */
_Static_assert(V_LANES % BF16_K_GROUP == 0 || BF16_K_GROUP % V_LANES == 0, "a group must not end inside a vector");

/* Where value d of column j stands in a panel. dtype, F16 or BF16, is a constant, as below. */
V_INLINE int64_t half_place(const tfast_dtype dtype, int64_t j, int64_t d) {
    const int64_t pair = d / HALF_PAIR * PANEL * HALF_PAIR, i = d % HALF_PAIR;
    if (dtype == TFAST_BF16) return pair + j * HALF_PAIR + i;
    return pair + j / V_LANES * V_LANES * HALF_PAIR + i * V_LANES + j % V_LANES;
}

V_INLINE void pack_half(const tfast_dtype dtype, const int k_group, const tfast_weight_rows* w, int64_t n, int64_t k,
                        uint16_t* to) {
    const int64_t end = tfast_round_up(k, k_group);
    for (int64_t d = 0; d < end; d += V_LANES, to += V_LANES * PANEL) {
        const int64_t width = tfast_clamp(k - d, 0, V_LANES), filled = TFAST_MIN(V_LANES, end - d);
        for (int64_t j = 0; j < PANEL; j++) {
            uint16_t x[V_LANES] = {0};
            if (j < n && width) round_row(w, dtype, j, d, width, x);
            for (int64_t i = 0; i < filled; i += HALF_PAIR) {
                uint16_t* at = to + half_place(dtype, j, i);
                at[0] = x[i];
                at[dtype == TFAST_BF16 ? 1 : V_LANES] = x[i + 1];
            }
        }
    }
}

static void KERNEL(bf16_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                              const tfast_int8_side* side) {
    (void)side;
    pack_half(TFAST_BF16, BF16_K_GROUP, w, n, k, panel);
}

static void KERNEL(bf16_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                                int64_t w_stride) {
    (void)side;
    const uint16_t* from = panel;
    for (int64_t d = 0; d < k; d++)
        for (int64_t j = 0; j < n; j++) w[j * w_stride + d] = tfast_f32_from_bf16(from[half_place(TFAST_BF16, j, d)]);
}

/* Only the levels that widen weights have float16. */
static __attribute__((unused)) void KERNEL(f16_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                                                     const tfast_int8_side* side) {
    (void)side;
    pack_half(TFAST_F16, HALF_PAIR, w, n, k, panel);
}

static __attribute__((unused)) void KERNEL(f16_unpack)(const void* panel, const tfast_int8_side* side, int64_t n,
                                                       int64_t k, float* w, int64_t w_stride) {
    (void)side;
    const uint16_t* from = panel;
    for (int64_t d = 0; d < k; d++)
        for (int64_t first = 0; first < n; first += V_LANES) {
            float wide[V_LANES];
            v_store(wide, v_load_f16(from + half_place(TFAST_F16, first, d)));
            for (int64_t j = first; j < TFAST_MIN(n, first + V_LANES); j++) w[j * w_stride + d] = wide[j - first];
        }
}

#endif

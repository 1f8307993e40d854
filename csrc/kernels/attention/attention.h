/* Fused attention: out = softmax(Q K^T * scale + ...) V for one piece of a call, without an Lq x Lk matrix.
 *
 * Included by a level after its matrix engine's hooks, or no_matrix_engine.h. Many query rows: qblock.h; few: decode.h;
 * what was split over keys: merge.h. Lanes and their ranges: panel.h; what happens to scores: scores.h.
 *
 *   for each superblock of keys (its K and V stay in L2)              K, V: in place, or staged there as fp32
 *     for each panel of PANEL query rows                              Q^T packed once: [D][PANEL]
 *       for each block of KEY_BLOCK keys
 *         S[key][lane]  = K (keys x D)      * Q^T          register tile of gemm/tile.h: A = rows of K
 *         S            -> weights, max, sum, alpha         lanes are queries: no horizontal operation
 *         O^T[dv][lane] = alpha * O^T + V^T (Dv x keys) * S     the same tile: A = columns of V
 *   O^T -> rows of out, times 1 / sum
 *
 * S of a block is 128 x 48 floats: 24 KB of a 48 KB L1 (AVX-512), 12 KB on AVX2. docs/kernels.md has the block sizes
 * that lost. */
#ifndef TFAST_KERNELS_ATTENTION_ATTENTION_H
#define TFAST_KERNELS_ATTENTION_ATTENTION_H

#include "qblock.h"
#if DECODE_ROWS
#include "decode.h"
#endif
#include "merge.h"

static size_t KERNEL(attention_scratch_bytes)(const tfast_attention* c, int64_t max_rows) {
    const layout_t l = layout_of(c, max_rows);
    const size_t bytes = l.bytes + engine_bytes(c, &l);
#if DECODE_ROWS
    return TFAST_MAX(bytes, decode_bytes(c));
#else
    return bytes;
#endif
}

#endif

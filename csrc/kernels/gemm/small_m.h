/* Products of a few rows (small M) with packed weights: one pass over the panels, each read once, from end to end.
 *
 * Used by the formats that multiply floats, or what is as long (f32.h, half.h, bf16_pairs.h), for their `small_m`, up
 * to SMALL_M rows; more rows go through `panel`, whose tile leaves the sums of a block of k in memory. Here they stay
 * in registers beside the total: a token of a decoder waits for nothing but the weights. The order of every sum is that
 * of `panel`: block by block, each from 0, so that a row has the same bits whatever comes with it.
 *
 * A format gives `group`, the values of k that it packs together (1 or 2), and `load`, which widens one group of a
 * vector of columns; both are constants after inlining. A group must be as long as a vector of floats: a format whose
 * groups are not brings a kernel of its own. */
#ifndef TFAST_KERNELS_GEMM_SMALL_M_H
#define TFAST_KERNELS_GEMM_SMALL_M_H

#include "epilogue.h"
#include "tile.h"

/* The block's sums and the total take the registers of one tile. */
#define SMALL_M (TILE_ROWS / 2)
enum { MAX_GROUP = 2 };
_Static_assert(SMALL_M == 2 || SMALL_M == 4,
               "small_m_rows() has cases for 1 to 2 or 1 to 4 rows: SMALL_M must be one of them");

/* sizeof(vf) bytes at `from` -> value[0] to value[group - 1]: one vector for each k. */
typedef void (*load_group_fn)(const void* from, vf value[MAX_GROUP]);

V_INLINE void load_f32_group(const void* from, vf value[MAX_GROUP]) {
    value[0] = v_load(from);
}

/* The panel at `b`, one group of k: acc += a * values; k: how many values of the group exist. `prefetch`, a constant:
 * the weights STREAM_AHEAD bytes further on. Zen 4 reads a stream as fast by itself, GB/s with and without: one
 * row, 2.4 MB in L3 61 and 73, 134 MB from memory 24 and 26; four rows from memory 26 and 30. */
V_INLINE void small_m_step(const load_group_fn load, const float* a, int64_t a_stride, const char* b, const int k,
                           const int m, const int prefetch, vf acc[SMALL_M][TILE_VECTORS]) {
    vf value[TILE_VECTORS][MAX_GROUP];
#pragma GCC unroll 4
    for (int j = 0; j < TILE_VECTORS; j++) {
        const char* at = b + j * (int)sizeof(vf);
        if (prefetch) __builtin_prefetch(at + STREAM_AHEAD);
        load(at, value[j]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < k; i++)
#pragma GCC unroll 8
        for (int row = 0; row < m; row++) {
            const v_factor x = v_load_factor(a + row * a_stride + i);
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) acc[row][j] = TILE_PRODUCT(x, value[j][i], acc[row][j]);
        }
}

/* One block of k of one panel. */
V_INLINE void small_m_block(const load_group_fn load, const int group, const float* a, int64_t a_stride, const char* b,
                            int64_t k, const int m, const int prefetch, vf acc[SMALL_M][TILE_VECTORS]) {
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = v_zero();
    for (; k >= group; k -= group, a += group, b += PANEL * 4)
        small_m_step(load, a, a_stride, b, group, m, prefetch, acc);
    if (group > 1 && k > 0) small_m_step(load, a, a_stride, b, 1, m, 0, acc);
}

/* One panel, n <= PANEL of its columns, all of k: sums plus bias to c. */
V_INLINE void small_m_panel(const load_group_fn load, const int group, const tfast_gemm_call* p, const char* b,
                            const float* bias, int64_t n, const int m, const int prefetch, float* c, int64_t c_stride) {
    const int64_t k_bytes = PANEL * 4 / group;
    vf total[SMALL_M][TILE_VECTORS], acc[SMALL_M][TILE_VECTORS];
    small_m_block(load, group, p->a, p->a_stride, b, TFAST_MIN(p->k_block, p->k), m, prefetch, total);
#pragma GCC unroll 4
    for (int j = 0; j < TILE_VECTORS && bias; j++) {
        const vf x = v_load_n(bias + j * V_LANES, tfast_clamp(n - j * V_LANES, 0, V_LANES));
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) total[i][j] = v_add(total[i][j], x);
    }
    for (int64_t k = p->k_block; k < p->k; k += p->k_block) {
        small_m_block(load, group, p->a + k, p->a_stride, b + k * k_bytes, TFAST_MIN(p->k_block, p->k - k), m, prefetch,
                      acc);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < TILE_VECTORS; j++) total[i][j] = v_add(acc[i][j], total[i][j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < TILE_VECTORS; j++) {
            const int64_t left = n - j * V_LANES;
            if (left >= V_LANES)
                v_store(c + i * c_stride + j * V_LANES, total[i][j]);
            else if (left > 0)
                v_store_n(c + i * c_stride + j * V_LANES, total[i][j], left);
        }
}

V_INLINE void small_m_panels(const load_group_fn load, const int group, const tfast_gemm_call* p, const int m,
                             const int prefetch) {
    const int epilogue = has_epilogue(p);
    const int64_t groups = tfast_ceil_div(p->k, group);
    const char* b = p->b;
    tfast_gemm_call one = *p; /* what epilogue_rows reads */
    for (int64_t n = 0; n < p->n; n += PANEL, b += groups * PANEL * 4) {
        one.n = TFAST_MIN(PANEL, p->n - n);
        one.y = p->y + n;
        float* c = epilogue ? p->sums : one.y;
        small_m_panel(load, group, p, b, p->bias ? p->bias + n : NULL, one.n, m, prefetch, c,
                      epilogue ? PANEL : p->y_stride);
        if (!epilogue) continue;
        one.multiply = p->multiply ? p->multiply + n : NULL;
        one.residual = p->residual ? p->residual + n : NULL;
        epilogue_rows(&one, p->sums, PANEL, 0, m);
    }
}

V_INLINE void small_m_rows(const load_group_fn load, const int group, const tfast_gemm_call* p, const int prefetch) {
    switch (p->m) {
    case 1:
        small_m_panels(load, group, p, 1, prefetch);
        break;
    case 2:
        small_m_panels(load, group, p, 2, prefetch);
        break;
#if TILE_ROWS == 8
    case 3:
        small_m_panels(load, group, p, 3, prefetch);
        break;
    case 4:
        small_m_panels(load, group, p, 4, prefetch);
        break;
#endif
    }
}

#endif

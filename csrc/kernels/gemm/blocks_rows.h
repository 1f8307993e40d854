/* Rows of x in 16 bits with the sums of their groups: what `prepare` of the formats in blocks makes.
 *
 * Used by gemm/blocks.h. x[k] = integer * scale, |integer| <= 32,767, one scale a row, as "int8_a16" rounds it
 * (int8_rows.h). Laid out: rows of integers, 32 k after 32 k, zeros behind the last; then the sums of each group of
 * each row, by which an offset (as integers) or a minimum (as floats, exact) counts; then the scales. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_ROWS_H
#define TFAST_KERNELS_GEMM_BLOCKS_ROWS_H

#include "blocks_layout.h"
#include "int8_rows.h"

typedef struct {
    const char* x;
    int64_t stride;   /* bytes */
    const void* sums; /* int32_t or float */
    int64_t groups;   /* sums of a row */
    const float* scale;
} block_rows;

static block_rows block_rows_at(const void* rows, int64_t m, int64_t k, int group) {
    block_rows r = {.x = rows, .stride = tfast_round_up(k, BLOCK_SUB) * 2};
    r.groups = r.stride / 2 / group;
    r.sums = r.x + m * r.stride;
    r.scale = (const float*)r.sums + m * r.groups;
    return r;
}

static block_rows block_rows_from(block_rows r, int64_t row) {
    r.x += row * r.stride;
    r.sums = (const float*)r.sums + row * r.groups;
    r.scale += row;
    return r;
}

static size_t block_rows_bytes(int64_t m, int64_t k, int group) {
    const int64_t stride = tfast_round_up(k, BLOCK_SUB) * 2, groups = stride / 2 / group;
    return (size_t)tfast_round_up(m * (stride + (groups + 1) * (int64_t)sizeof(float)), 64);
}

/* Pairs are added by vpmaddwd, lanes one by one: some 20 instructions for 32 k, once for all panels. */
V_INLINE int32_t sum_group(const char* x, const int group) {
    const vi ones = vi_set1(0x10001);
    int32_t lanes[V_LANES], sum = 0;
    vi s = vi_zero();
    if (2 * group < 4 * V_LANES) {
        for (int i = 0; i < group; i++) sum += ((const int16_t*)x)[i];
        return sum;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 2 * group; i += 4 * V_LANES) s = vi_dot_shorts(s, vi_load(x + i), ones);
    vi_store(lanes, s);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++) sum += lanes[i];
    return sum;
}

V_INLINE void prepare_block_rows(int64_t m, int64_t k, const float* a, int64_t a_stride, const int group,
                                 const int floats, void* rows) {
    const block_rows all = block_rows_at(rows, m, k, group);
    for (int64_t i = 0; i < m; i++) {
        const block_rows r = block_rows_from(all, i);
        char* to = (char*)r.x;
        const int8_row row = quantise_row_to_16_bits(a + i * a_stride, k, INT8_A16_X_MAX, to);
        memset(to + 2 * k, 0, (size_t)(r.stride - 2 * k));
        for (int64_t g = 0; g < r.groups; g++) {
            const int32_t sum = sum_group(to + g * 2 * group, group);
            if (floats)
                ((float*)r.sums)[g] = (float)sum;
            else
                ((int32_t*)r.sums)[g] = sum;
        }
        *(float*)r.scale = row.scale;
    }
}
/* A row of int8_rows.h ends at a multiple of 64 bytes, which is one of 32 k: nothing is written behind it. */
_Static_assert(BLOCK_SUB * 2 % 64 == 0 && 4 * V_LANES <= 64, "rows must be whole groups and whole vectors");

#define BLOCK_PREPARE(kind, group, floats)                                                           \
    static size_t KERNEL(block_prepared_bytes_##kind)(int64_t m, int64_t k) {                        \
        return block_rows_bytes(m, k, group);                                                        \
    }                                                                                                \
    static void KERNEL(block_prepare_##kind)(int64_t m, int64_t k, const float* a, int64_t a_stride, \
                                             const float* factor, int32_t x_limit, void* rows) {     \
        (void)factor, (void)x_limit;                                                                 \
        prepare_block_rows(m, k, a, a_stride, group, floats, rows);                                  \
    }
BLOCK_PREPARE(of_32, 32, 0)
BLOCK_PREPARE(of_16, 16, 0)
BLOCK_PREPARE(with_min, 32, 1)

#endif

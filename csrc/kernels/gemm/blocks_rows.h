/* Rows of x in 16 bits with the sums of their groups: what `prepare` of the formats in blocks makes.
 *
 * Used by gemm/blocks.h. x[k] = integer * scale, |integer| <= 32,767, one scale a row, as "int8_a16" rounds it
 * (int8_rows.h). Laid out: rows of integers, 32 k after 32 k, zeros behind the last; then the sums of each group of
 * each row, by which an offset or a minimum counts; then the scales. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_ROWS_H
#define TFAST_KERNELS_GEMM_BLOCKS_ROWS_H

#include "blocks_layout.h"
#include "int8_rows.h"

typedef struct {
    const char* x;
    int64_t stride; /* bytes */
    const int32_t* sums;
    int64_t groups; /* sums of a row */
    const float* scale;
} block_rows;

static block_rows block_rows_at(const void* rows, int64_t m, int64_t k, int group) {
    block_rows r = {.x = rows, .stride = tfast_round_up(k, BLOCK_SUB) * 2};
    r.groups = r.stride / 2 / group;
    r.sums = (const int32_t*)(r.x + m * r.stride);
    r.scale = (const float*)(r.sums + m * r.groups);
    return r;
}

static size_t block_rows_bytes(int64_t m, int64_t k, int group) {
    const block_rows r = block_rows_at(NULL, 1, k, group);
    return (size_t)tfast_round_up(m * (r.stride + (r.groups + 1) * (int64_t)sizeof(float)), 64);
}

/* The sum of 32 k, or of each 16, of V_LANES / 2 and more lanes: pairs are added by vpmaddwd. */
V_INLINE void sum_groups(const char* x, int64_t groups, const int group, int32_t* sums) {
    const vi ones = vi_set1(0x10001);
    for (int64_t g = 0; g < groups; g++, x += 2 * group) {
        int32_t lanes[V_LANES], sum = 0;
        if (group * 2 >= 4 * V_LANES) {
            vi s = vi_zero();
            for (int i = 0; i < 2 * group; i += 4 * V_LANES) s = vi_dot_shorts(s, vi_load(x + i), ones);
            vi_store(lanes, s);
#pragma GCC unroll 16
            for (int i = 0; i < V_LANES; i++) sum += lanes[i];
        } else {
            for (int i = 0; i < group; i++) sum += ((const int16_t*)x)[i];
        }
        sums[g] = sum;
    }
}

V_INLINE void prepare_block_rows(int64_t m, int64_t k, const float* a, int64_t a_stride, const int group, void* rows) {
    const block_rows r = block_rows_at(rows, m, k, group);
    for (int64_t i = 0; i < m; i++) {
        char* to = (char*)r.x + i * r.stride;
        const int8_row row = quantise_row_to_16_bits(a + i * a_stride, k, INT8_A16_X_MAX, to);
        memset(to + 2 * k, 0, (size_t)(r.stride - 2 * k));
        sum_groups(to, r.groups, group, (int32_t*)r.sums + i * r.groups);
        ((float*)r.scale)[i] = row.scale;
    }
}

static size_t KERNEL(block_prepared_bytes_32)(int64_t m, int64_t k) {
    return block_rows_bytes(m, k, 32);
}

static size_t KERNEL(block_prepared_bytes_16)(int64_t m, int64_t k) {
    return block_rows_bytes(m, k, 16);
}

static void KERNEL(block_prepare_32)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                     int32_t x_limit, void* rows) {
    (void)factor, (void)x_limit;
    prepare_block_rows(m, k, a, a_stride, 32, rows);
}

static void KERNEL(block_prepare_16)(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* factor,
                                     int32_t x_limit, void* rows) {
    (void)factor, (void)x_limit;
    prepare_block_rows(m, k, a, a_stride, 16, rows);
}
/* A row of int8_rows.h ends at a multiple of 64 bytes, which is one of 32 k: nothing is written behind it. */
_Static_assert(BLOCK_SUB * 2 % 64 == 0 && 4 * V_LANES <= 64, "rows must be whole groups and whole vectors");

#endif

/* Rows of x as integers with the sums of their groups: what `prepare` of the formats in blocks makes.
 *
 * Used by gemm/blocks.h. In 16 bits: x[k] = integer * scale, |integer| <= 32,767, one scale a row, as "int8_a16" rounds
 * it (int8_rows.h). In 8 bits: those integers (|integer| <= 32,512 = 127 * 256) have 8 significant bits in each group,
 *
 *     integer = byte * 2^shift      the least shift with which -128 * 2^shift <= integers of the group < 128 * 2^shift
 *     byte = min(127, (integer + 2^shift / 2) >> shift)
 *
 * so that a sum of bytes, shifted, is the sum of 16-bit integers: a kernel may read either. A power of two a group
 * costs half a bit over a scale of its own, and no multiplication of floats.
 *
 * Laid out: rows of integers, 32 k after 32 k, zeros behind the last (bytes: of 8 k in the order 0 4 1 5 2 6 3 7, as
 * block_codes() has them); then the sums of each group of each row, by which an offset (as integers, of bytes where x
 * is of bytes) or a minimum (as floats, exact, of 16-bit integers) counts; of bytes the shifts; then the scales. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_ROWS_H
#define TFAST_KERNELS_GEMM_BLOCKS_ROWS_H

#include "blocks_layout.h"
#include "int8_rows.h"

typedef struct {
    const char* x;
    int64_t stride;        /* bytes */
    const void* sums;      /* int32_t or float */
    const int32_t* shifts; /* of bytes; else not read */
    int64_t groups;        /* sums of a row */
    const float* scale;
} block_rows;

enum { BLOCK_A8_X_MAX = 127 * 256 };
_Static_assert(BLOCK_A8_X_MAX + 128 <= INT16_MAX, "rounding by half of the largest shift must stay in 16 bits");

/* bytes: 1 or 2, of an integer. */
static block_rows block_rows_at(const void* rows, int64_t m, int64_t k, int group, int bytes) {
    block_rows r = {.x = rows, .stride = tfast_round_up(k, BLOCK_SUB) * bytes};
    r.groups = r.stride / bytes / group;
    r.sums = r.x + m * r.stride;
    r.shifts = (const int32_t*)r.sums + (bytes == 1 ? m * r.groups : 0);
    r.scale = (const float*)r.sums + (bytes == 1 ? 2 : 1) * m * r.groups;
    return r;
}

static block_rows block_rows_from(block_rows r, int64_t row) {
    r.x += row * r.stride;
    r.sums = (const float*)r.sums + row * r.groups;
    r.shifts += row * r.groups;
    r.scale += row;
    return r;
}

/* Behind rows of bytes stands one of 16 bits, which they are made of. */
static int64_t block_scratch_row(int64_t m, int64_t k, int group) {
    const int64_t stride = tfast_round_up(k, BLOCK_SUB), groups = stride / group;
    return tfast_round_up(m * (stride + (2 * groups + 1) * (int64_t)sizeof(float)), 64);
}

static size_t block_rows_bytes(int64_t m, int64_t k, int group, int bytes) {
    const int64_t stride = tfast_round_up(k, BLOCK_SUB) * 2, groups = stride / 2 / group;
    if (bytes == 1) return (size_t)tfast_round_up(block_scratch_row(m, k, group) + stride, 64);
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

typedef int16_t shorts_of_16 __attribute__((vector_size(32)));
enum { SHORTS_OF_16 = 16 };
_Static_assert(BLOCK_LEAST_GROUP % SHORTS_OF_16 == 0, "round_group() takes whole vectors");

/* Rounds a group to 8 significant bits, integers >> shift; the shift. */
V_INLINE int32_t round_group(int16_t* a, const int group) {
    shorts_of_16 v[BLOCK_SUB / SHORTS_OF_16], magnitudes = {0};
    for (int i = 0; i < group / SHORTS_OF_16; i++) {
        memcpy(&v[i], a + i * SHORTS_OF_16, sizeof v[i]);
        magnitudes |= v[i] ^ (v[i] >> 15); /* of -128 it is that of 127, as the range of bytes has it */
    }
    uint64_t bits[sizeof magnitudes / 8], all = 0;
    memcpy(bits, &magnitudes, sizeof bits);
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) all |= bits[i];
    all |= all >> 32;
    const uint32_t most = (uint32_t)((all | all >> 16) & 0xffff);
    const int shift = most < 128 ? 0 : 25 - __builtin_clz(most);
    for (int i = 0; i < group / SHORTS_OF_16; i++) {
        v[i] = (v[i] + (int16_t)((1 << shift) >> 1)) >> shift;
        v[i] += v[i] == 128; /* -1 where it is so */
        memcpy(a + i * SHORTS_OF_16, &v[i], sizeof v[i]);
    }
    return shift;
}

/* A group of 16-bit integers within a byte in the order of block_codes(). */
V_INLINE void put_group_of_bytes(const int16_t* a, const int group, char* to) {
    for (int i = 0; i < group; i += BLOCK_CHUNK) {
        uint64_t half[2];
        memcpy(half, a + i, sizeof half);
        const uint64_t low = 0x00ff00ff00ff00ffu, bytes = (half[0] & low) | (half[1] & low) << 8;
        memcpy(to + i, &bytes, sizeof bytes);
    }
}

/* What becomes of the integers of `prepare`. */
typedef enum { ROWS_OF_SHORTS, ROWS_OF_BYTES, ROWS_ROUNDED /* shorts of 8 significant bits */ } block_rows_kind;

V_INLINE void prepare_block_rows(int64_t m, int64_t k, const float* a, int64_t a_stride, const int group,
                                 const int floats, const block_rows_kind kind, void* rows) {
    const int bytes = kind == ROWS_OF_BYTES ? 1 : 2;
    const block_rows all = block_rows_at(rows, m, k, group, bytes);
    char* scratch = (char*)rows + (bytes == 1 ? block_scratch_row(m, k, group) : 0);
    const int32_t limit = kind == ROWS_OF_SHORTS ? INT8_A16_X_MAX : BLOCK_A8_X_MAX;
    for (int64_t i = 0; i < m; i++) {
        const block_rows r = block_rows_from(all, i);
        char* to = bytes == 1 ? scratch : (char*)r.x;
        const int8_row row = quantise_row_to_16_bits(a + i * a_stride, k, limit, to);
        memset(to + 2 * k, 0, (size_t)(2 * (tfast_round_up(k, BLOCK_SUB) - k)));
        for (int64_t g = 0; g < r.groups; g++) {
            int16_t* integers = (int16_t*)to + g * group;
            const int32_t shift = kind == ROWS_OF_SHORTS ? 0 : round_group(integers, group);
            int32_t sum = sum_group((const char*)integers, group);
            if (bytes == 1) {
                put_group_of_bytes(integers, group, (char*)r.x + g * group);
                ((int32_t*)r.shifts)[g] = shift;
            } else if (kind == ROWS_ROUNDED) {
                for (int j = 0; j < group; j++) integers[j] = (int16_t)(integers[j] * (1 << shift));
            }
            if (floats || kind == ROWS_ROUNDED) sum *= 1 << shift;
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

#define BLOCK_PREPARE(name, group, floats, kind)                                                     \
    static size_t KERNEL(block_prepared_bytes_##name)(int64_t m, int64_t k) {                        \
        return block_rows_bytes(m, k, group, kind == ROWS_OF_BYTES ? 1 : 2);                         \
    }                                                                                                \
    static void KERNEL(block_prepare_##name)(int64_t m, int64_t k, const float* a, int64_t a_stride, \
                                             const float* factor, int32_t x_limit, void* rows) {     \
        (void)factor, (void)x_limit;                                                                 \
        prepare_block_rows(m, k, a, a_stride, group, floats, kind, rows);                            \
    }
BLOCK_PREPARE(of_32, 32, 0, ROWS_OF_SHORTS)
BLOCK_PREPARE(of_16, 16, 0, ROWS_OF_SHORTS)
BLOCK_PREPARE(with_min, 32, 1, ROWS_OF_SHORTS)
BLOCK_PREPARE(of_32_bytes, 32, 0, ROWS_OF_BYTES)
BLOCK_PREPARE(of_16_bytes, 16, 0, ROWS_OF_BYTES)
BLOCK_PREPARE(with_min_bytes, 32, 1, ROWS_OF_BYTES)
#if VI_CODES_IN_SHORTS
BLOCK_PREPARE(of_32_rounded, 32, 0, ROWS_ROUNDED)
#endif

#endif

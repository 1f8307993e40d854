/* Weights in blocks: the format "int4", those of GGUF files (Q8_0, Q4_K, ...) and that of codes with a scale and a zero
 * (Q4_Z: GPTQ, AWQ, compressed-tensors), from one template.
 *
 * Included by level.h and integers.h; the descriptors are made at the end. The layout, and what a format says of
 * itself: blocks_layout.h; rows of x: blocks_rows.h; codes as vectors: blocks_values.h; packing: blocks_pack.h. A new
 * format: its reader in blocks_pack.h, its BLOCK_FORMAT and its names in BLOCK_GEMMS below.
 *
 *     y = (sum over groups, in order of k, of float(sum of integer products) * scale + float(sum of x) * minimum)
 *         * scale of the row + bias
 *
 * A sum of 16 or 32 products is exact in 32 bits (16 bits of x, 8 of a code: 2^28); what follows are single
 * multiplications and additions of float32 in one order, so that every level, kernel and number of rows gives the same
 * bits. An offset is taken from the sum beforehand: offset times the sum of x, which every column shares.
 *
 *   up to BLOCK_SMALL_M rows   codes become pairs of 16 bits in registers and meet x there: for 64 products of a column
 *                              vector of 4-bit codes a load, 6 masks and shifts, 4 vpmaddwd and 4 vpaddd. Up to
 *                              BLOCK_WIDE_ROWS rows take all vectors of a panel at once, so that they share each
 *                              broadcast of x; more take a vector after the other, so that sums stay in registers
 *   more rows                  256 k of a panel are expanded once to pairs, float scales and minima in scratch (L1); a
 *                              tile of BLOCK_TILE_ROWS rows reads them, and leaves its float sums in `sums`
 *
 * With x in 8 bits (formats with TFAST_FORMAT_A8) codes stay bytes in both (vi_dot_codes), and the sum of a group is
 * shifted by what its x was; the layout of the weight is the same. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_H
#define TFAST_KERNELS_GEMM_BLOCKS_H

#include "blocks_layout.h"
#include "blocks_rows.h"
#include "epilogue.h"
#include "prefetch.h"

#if V_LANES == 16
enum { BLOCK_VECTORS = 2, BLOCK_TILE_ROWS = 8 };
#elif V_REGISTERS == 32
enum { BLOCK_VECTORS = 3, BLOCK_TILE_ROWS = 8 };
#elif V_LANES == 8
enum { BLOCK_VECTORS = 3, BLOCK_TILE_ROWS = 4 };
#else
enum { BLOCK_VECTORS = 2, BLOCK_TILE_ROWS = 4 };
#endif
enum { BLOCK_PANEL = BLOCK_VECTORS * V_LANES, BLOCK_SMALL_M = 8, BLOCK_MOST_AT_ONCE = 4 };
/* Where x is no operand from memory, gcc 12 loads that of eight steps first, and spills the sums. */
#if defined(VI_DOT_TAKES_FACTOR)
enum { BLOCK_STEPS_UNROLLED = 1 };
#else
enum { BLOCK_STEPS_UNROLLED = 8 };
#endif
/* Rows that take all vectors of a panel at once: sums, totals and codes of four fit in 32 registers, of two in 16. */
enum { BLOCK_WIDE_ROWS = V_REGISTERS == 32 ? 4 : 2 };

_Static_assert(BLOCK_TILE_ROWS* BLOCK_VECTORS + 4 <= V_REGISTERS,
               "the sums of the tile, two vectors of weights, a value of x and a product must fit in the registers");
_Static_assert(BLOCK_MOST_AT_ONCE == 4, "small_block_panels() has kernels for 1, 2 and 4 rows");
_Static_assert(BLOCK_WIDE_ROWS* BLOCK_VECTORS * 2 + 4 <= V_REGISTERS,
               "sums and totals of all vectors, and four codes, must fit in the registers");
_Static_assert((int64_t)BLOCK_SUB* INT8_A16_X_MAX * 255 <= INT32_MAX, "the sum of a group must fit in 32 bits");

#include "blocks_values.h"

/* --- products of bytes ----------------------------------------------------------------------------------------------
 * Where vi_dot_codes sums in 16 bits, as many of its steps, of four k, go together as cannot leave them; formats whose
 * codes are too large for one chunk meet 16-bit integers there. */
#if VI_CODES_IN_SHORTS
enum { CODES_IN_SHORTS = 1 };
#else
enum { CODES_IN_SHORTS = 0 };
#endif
#define STEPS_IN_SHORTS(most) (32767 / (2 * 128 * (most)))
#define TOGETHER_OF(most) \
    (STEPS_IN_SHORTS(most) >= 8 ? 8 : STEPS_IN_SHORTS(most) >= 4 ? 4 : STEPS_IN_SHORTS(most) >= 2 ? 2 : 0)
#define TAKES_BYTES(most) (!CODES_IN_SHORTS || TOGETHER_OF(most) > 0)

/* What a section of steps starts from, and its end. */
V_INLINE vi section_start(vi acc) {
    return CODES_IN_SHORTS ? vi_zero() : acc;
}
V_INLINE vi section_end(vi acc, vi part) {
    return CODES_IN_SHORTS ? vi_add_shorts(acc, part) : part;
}

/* --- a few rows -----------------------------------------------------------------------------------------------------
 */

/* Products of one group of `vectors` vectors of columns from `first` on, added to acc. x: of the group, of the first
 * row.
 */
V_INLINE void small_block_shorts(const block_format f, const block_rows* r, const char* sub, const char* x,
                                 const int half, const int m, const int first, const int vectors,
                                 vi acc[][BLOCK_VECTORS]) {
    const int chunks = BLOCK_GROUP(f) / BLOCK_CHUNK;
#pragma GCC unroll 4
    for (int c = 0; c < chunks; c++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            vi pair[4];
            block_pairs(f, sub, first + j, half * chunks + c, pair);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++)
#pragma GCC unroll 4
                for (int i = 0; i < m; i++)
                    acc[i][j] = vi_dot_shorts(acc[i][j], vi_repeat_4(x + i * r->stride + (c * 4 + q) * 4), pair[q]);
        }
}

V_INLINE void small_block_bytes(const block_format f, const block_rows* r, const char* sub, const char* x,
                                const int half, const int m, const int first, const int vectors,
                                vi acc[][BLOCK_VECTORS]) {
    const int chunks = BLOCK_GROUP(f) / BLOCK_CHUNK;
    const int together = CODES_IN_SHORTS ? TFAST_MIN(TOGETHER_OF(f.most) / 2, chunks) : chunks;
#pragma GCC unroll 4
    for (int first_chunk = 0; first_chunk < chunks; first_chunk += together) {
        vi part[BLOCK_MOST_AT_ONCE][BLOCK_VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) part[i][j] = section_start(acc[i][j]);
#pragma GCC unroll 4
        for (int c = first_chunk; c < first_chunk + together; c++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                vi code[2];
                block_dot_codes(f, sub, first + j, half * chunks + c, code);
#pragma GCC unroll 2
                for (int q = 0; q < 2; q++)
#pragma GCC unroll 4
                    for (int i = 0; i < m; i++)
                        part[i][j] =
                            vi_dot_by(part[i][j], code[q], vi_load_factor(x + i * r->stride + (c * 2 + q) * 4));
            }
#pragma GCC unroll 4
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) acc[i][j] = section_end(acc[i][j], part[i][j]);
    }
}

/* One group, added to the totals. sums and shifts: of the group, of the first row; bytes, a constant: of an integer of
 * x. */
V_INLINE void small_block_group(const block_format f, const int bytes, const block_rows* r, const char* head,
                                const char* sub, const char* x, const void* sums, const int32_t* shifts, const int half,
                                const int m, const int first, const int vectors, vf total[][BLOCK_VECTORS]) {
    vi acc[BLOCK_MOST_AT_ONCE][BLOCK_VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < m; i++) {
        const int offset = bytes == 1 ? BLOCK_DOT_OFFSET(f) : f.offset;
        const vi start = offset ? vi_set1(-offset * ((const int32_t*)sums)[i * r->groups]) : vi_zero();
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) acc[i][j] = start;
    }
    if (bytes == 1) {
        small_block_bytes(f, r, sub, x, half, m, first, vectors, acc);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            const vi shift = vi_repeat_4(shifts + i * r->groups);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) acc[i][j] = vi_left_by(acc[i][j], shift);
        }
    } else {
        small_block_shorts(f, r, sub, x, half, m, first, vectors, acc);
    }
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
        const vf scale = block_scale(f, head, sub, first + j, half);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            vf* t = &total[i][first + j];
            *t = v_add(*t, v_mul(v_from_int(acc[i][j]), scale));
        }
        if (!BLOCK_HAS_MIN(f)) continue;
        const vf least = block_min(f, head, sub, first + j);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            vf* t = &total[i][first + j];
            *t = v_add(*t, v_mul(v_set1(((const float*)sums)[i * r->groups]), least));
        }
    }
}

/* m rows from r on, all of k of one panel at `b`, n of its columns -> c, with the bias. */
V_INLINE void small_block_panel(const block_format f, const int bytes, const block_rows* r, const char* b, int64_t k,
                                const float* bias, int64_t n, const int m, float* to, int64_t to_stride) {
    const int vectors = m <= BLOCK_WIDE_ROWS ? BLOCK_VECTORS : 1, groups = BLOCK_SUB / BLOCK_GROUP(f);
    vf total[BLOCK_MOST_AT_ONCE][BLOCK_VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK_VECTORS; j++) total[i][j] = v_zero();
    const char* x = r->x;
    const char* sums = r->sums;
    const int32_t* shifts = r->shifts;
    for (; k > 0; k -= FORMAT_K(f)) {
        const char* head = b;
        b += BLOCK_HEAD_BYTES(f) * BLOCK_PANEL;
        for (int64_t i = 0; i < FORMAT_K(f); i += BLOCK_SUB) {
            for (int line = 0; line < BLOCK_SUB_BYTES(f) * BLOCK_PANEL; line += 64)
                __builtin_prefetch(b + STREAM_AHEAD + line);
#pragma GCC unroll 4
            for (int first = 0; first < BLOCK_VECTORS; first += vectors)
#pragma GCC unroll 2
                for (int half = 0; half < groups; half++)
                    small_block_group(f, bytes, r, head, b, x + half * bytes * BLOCK_GROUP(f), sums + half * 4,
                                      shifts + half, half, m, first, vectors, total);
            b += BLOCK_SUB_BYTES(f) * BLOCK_PANEL;
            x += bytes * BLOCK_SUB;
            sums += groups * 4;
            shifts += groups;
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < BLOCK_VECTORS; j++) {
        const int64_t left = n - j * V_LANES;
        if (left <= 0) break;
        const int cut = left < V_LANES;
        const vf add = bias ? load_upto(bias + j * V_LANES, cut, left) : v_set1(-0.0f);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            const vf y = v_add(v_mul(total[i][j], v_set1(r->scale[i])), add);
            if (cut)
                v_store_n(to + i * to_stride + j * V_LANES, y, left);
            else
                v_store(to + i * to_stride + j * V_LANES, y);
        }
    }
}

typedef void (*small_block_fn)(const tfast_gemm_call* p, const block_rows* r, const char* b, const float* bias,
                               int64_t n, float* to, int64_t to_stride);

/* All panels, 4 rows at a time, then 2, then 1: a panel is in L2 when the next rows come. by_rows: for 1, 2 and 4. */
static void small_block_panels(const tfast_gemm_call* p, const small_block_fn* by_rows, const int group,
                               const int bytes, int64_t panel_bytes) {
    const int epilogue = has_epilogue(p);
    const block_rows all = block_rows_at(p->rows, p->m, p->k, group, bytes);
    const char* b = p->b;
    tfast_gemm_call one = *p; /* what epilogue_rows reads */
    for (int64_t n = 0; n < p->n; n += BLOCK_PANEL, b += panel_bytes) {
        one.n = TFAST_MIN(BLOCK_PANEL, p->n - n);
        one.y = p->y + n;
        one.multiply = p->multiply ? p->multiply + n : NULL;
        one.residual = p->residual ? p->residual + n : NULL;
        for (int64_t i = 0, m; i < p->m; i += m) {
            m = p->m - i >= BLOCK_MOST_AT_ONCE ? BLOCK_MOST_AT_ONCE : p->m - i >= 2 ? 2 : 1;
            const block_rows r = block_rows_from(all, i);
            by_rows[m / 2](p, &r, b, p->bias ? p->bias + n : NULL, one.n, epilogue ? p->sums : one.y + i * p->y_stride,
                           epilogue ? BLOCK_PANEL : p->y_stride);
            if (epilogue) epilogue_rows(&one, p->sums, BLOCK_PANEL, i, m);
        }
    }
}

/* --- many rows ------------------------------------------------------------------------------------------------------
 */

/* What 256 k of a panel, or fewer at the end, expand to. */
typedef struct {
    union {
        int32_t pairs[BLOCK_MOST_K / 2][BLOCK_PANEL]; /* 16-bit integers, without the offset */
        int32_t codes[BLOCK_MOST_K / 4][BLOCK_PANEL]; /* bytes, in the order of block_codes() */
    };
    float scale[BLOCK_MOST_K / BLOCK_LEAST_GROUP][BLOCK_PANEL];
    float least[BLOCK_MOST_K / BLOCK_SUB][BLOCK_PANEL];
} block_scratch;

/* k, a multiple of 32 and at most 256, of the panel at b. */
V_INLINE void expand_blocks(const block_format f, const int bytes, const char* b, int64_t k, block_scratch* to) {
    const int groups = BLOCK_SUB / BLOCK_GROUP(f);
    const vi offset = vi_set1(f.offset * 0x10001);
    const char* head = b;
    b += BLOCK_HEAD_BYTES(f) * BLOCK_PANEL;
    for (int64_t sub = 0; sub < k / BLOCK_SUB; sub++, b += BLOCK_SUB_BYTES(f) * BLOCK_PANEL)
        for (int j = 0; j < BLOCK_VECTORS; j++) {
#pragma GCC unroll 4
            for (int c = 0; c < BLOCK_CHUNKS; c++) {
                vi pair[4];
                if (bytes == 1) {
                    block_dot_codes(f, b, j, c, pair);
                    int32_t* code = to->codes[sub * 8 + c * 2] + j * V_LANES;
                    vi_store(code, pair[0]);
                    vi_store(code + BLOCK_PANEL, pair[1]);
                    continue;
                }
                block_pairs(f, b, j, c, pair);
                int32_t* p = to->pairs[sub * 16 + c * 4] + j * V_LANES;
#pragma GCC unroll 4
                for (int q = 0; q < 4; q++)
                    vi_store(p + q * BLOCK_PANEL, f.offset ? vi_sub_shorts(pair[q], offset) : pair[q]);
            }
#pragma GCC unroll 2
            for (int half = 0; half < groups; half++)
                v_store(to->scale[sub * groups + half] + j * V_LANES, block_scale(f, head, b, j, half));
            if (BLOCK_HAS_MIN(f)) v_store(to->least[sub] + j * V_LANES, block_min(f, head, b, j));
        }
}

typedef void (*expand_blocks_fn)(const char* b, int64_t k, block_scratch* to);

typedef struct {
    const block_scratch* b;
    int64_t groups; /* that b has */
    const char* x;
    int64_t x_stride;
    const void* sums;      /* float where there are minima; int32_t with bytes and an offset */
    const int32_t* shifts; /* of bytes; else not read */
    int64_t sums_stride;   /* of both */
    int32_t offset;        /* of bytes */
    float* total;          /* (m, BLOCK_PANEL) */
} block_tile_args;

/* Sums of one group of m rows, and what follows in the scratch: `from`, pairs or codes. All ints are constants. */
V_INLINE void block_tile_shorts(const block_tile_args* t, const char* x, const char* from, const int m, const int group,
                                vi acc[][BLOCK_VECTORS]) {
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK_VECTORS; j++) acc[i][j] = vi_zero();
#pragma GCC unroll 2
    for (int q = 0; q < group / 2; q++, x += 4, from += 4 * BLOCK_PANEL) {
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            const vi a = vi_repeat_4(x + i * t->x_stride);
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK_VECTORS; j++)
                acc[i][j] = vi_dot_shorts(acc[i][j], a, vi_load(from + j * 4 * V_LANES));
        }
    }
}

/* `together` steps of four k make a section, which ends in 32 bits. */
V_INLINE void block_tile_bytes(const block_tile_args* t, const char* x, const char* from, const int32_t* sums,
                               const int32_t* shifts, const int m, const int group, const int has_min,
                               const int together, vi acc[][BLOCK_VECTORS]) {
#pragma GCC unroll 8
    for (int i = 0; i < m; i++) {
        const vi start = has_min ? vi_zero() : vi_set1(-t->offset * sums[i * t->sums_stride]);
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK_VECTORS; j++) acc[i][j] = start;
    }
    const int sections = CODES_IN_SHORTS ? group / 4 / together : 1;
#pragma GCC unroll 2
    for (int section = 0; section < sections; section++) {
        vi part[BLOCK_TILE_ROWS][BLOCK_VECTORS];
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK_VECTORS; j++) part[i][j] = section_start(acc[i][j]);
#pragma GCC unroll BLOCK_STEPS_UNROLLED
        for (int q = 0; q < group / 4 / sections; q++, x += 4, from += 4 * BLOCK_PANEL) {
            vi code[BLOCK_VECTORS];
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK_VECTORS; j++) code[j] = vi_load(from + j * 4 * V_LANES);
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) {
                const vi_factor a = vi_load_factor(x + i * t->x_stride);
#pragma GCC unroll 4
                for (int j = 0; j < BLOCK_VECTORS; j++) part[i][j] = vi_dot_by(part[i][j], code[j], a);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK_VECTORS; j++) acc[i][j] = section_end(acc[i][j], part[i][j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++) {
        const vi shift = vi_repeat_4(shifts + i * t->sums_stride);
#pragma GCC unroll 4
        for (int j = 0; j < BLOCK_VECTORS; j++) acc[i][j] = vi_left_by(acc[i][j], shift);
    }
}

/* m rows times b, added to the totals. All ints are constants; together: 0 for integers of 16 bits. */
V_INLINE void block_tile(const block_tile_args* t, const int m, const int group, const int has_min,
                         const int together) {
    const int bytes = together ? 1 : 2;
    const char *x = t->x, *from = (const char*)t->b->pairs;
    const float *scale = t->b->scale[0], *least = t->b->least[0];
    const int64_t groups = t->groups, sums_stride = t->sums_stride;
    float* totals = t->total;
    for (int64_t g = 0; g < groups; g++, scale += BLOCK_PANEL, least += BLOCK_PANEL) {
        vi acc[BLOCK_TILE_ROWS][BLOCK_VECTORS];
        if (together)
            block_tile_bytes(t, x, from, (const int32_t*)t->sums + g, t->shifts + g, m, group, has_min, together, acc);
        else
            block_tile_shorts(t, x, from, m, group, acc);
        x += bytes * group;
        from += bytes * group * BLOCK_PANEL;
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            const vf sum = has_min ? v_set1(((const float*)t->sums)[i * sums_stride + g]) : v_zero();
#pragma GCC unroll 4
            for (int j = 0; j < BLOCK_VECTORS; j++) {
                float* at = totals + i * BLOCK_PANEL + j * V_LANES;
                vf total = v_add(v_load(at), v_mul(v_from_int(acc[i][j]), v_load(scale + j * V_LANES)));
                if (has_min) total = v_add(total, v_mul(sum, v_load(least + j * V_LANES)));
                v_store(at, total);
            }
        }
    }
}

typedef void (*block_tile_fn)(const block_tile_args* t);
#define BLOCK_TILE(m, kind, ...)                                                                      \
    static __attribute__((noinline)) void KERNEL(block_tile_##kind##_##m)(const block_tile_args* t) { \
        block_tile(t, m, __VA_ARGS__);                                                                \
    }
#define BLOCK_TILES_4(kind, ...)     \
    BLOCK_TILE(1, kind, __VA_ARGS__) \
    BLOCK_TILE(2, kind, __VA_ARGS__) \
    BLOCK_TILE(3, kind, __VA_ARGS__) \
    BLOCK_TILE(4, kind, __VA_ARGS__)
#define BLOCK_TILE_NAMES_4(kind)                                                                 \
    KERNEL(block_tile_##kind##_1), KERNEL(block_tile_##kind##_2), KERNEL(block_tile_##kind##_3), \
        KERNEL(block_tile_##kind##_4)
/* kind, then what block_tile() takes: group, has_min, together. */
#if V_REGISTERS == 32
#define BLOCK_TILES(kind, ...)                                                                                       \
    BLOCK_TILES_4(kind, __VA_ARGS__)                                                                                 \
    BLOCK_TILE(5, kind, __VA_ARGS__)                                                                                 \
    BLOCK_TILE(6, kind, __VA_ARGS__)                                                                                 \
    BLOCK_TILE(7, kind, __VA_ARGS__)                                                                                 \
    BLOCK_TILE(8, kind, __VA_ARGS__)                                                                                 \
    static const block_tile_fn block_tiles_##kind[] = {BLOCK_TILE_NAMES_4(kind), KERNEL(block_tile_##kind##_5),      \
                                                       KERNEL(block_tile_##kind##_6), KERNEL(block_tile_##kind##_7), \
                                                       KERNEL(block_tile_##kind##_8)};
#else
#define BLOCK_TILES(kind, ...)       \
    BLOCK_TILES_4(kind, __VA_ARGS__) \
    static const block_tile_fn block_tiles_##kind[] = {BLOCK_TILE_NAMES_4(kind)};
#endif
BLOCK_TILES(of_32, 32, 0, 0)
BLOCK_TILES(of_16, 16, 0, 0)
BLOCK_TILES(with_min, 32, 1, 0)
/* Of bytes, by the steps that go together: where all do, one of each kind is enough. */
BLOCK_TILES(of_32_bytes_8, 32, 0, 8)
BLOCK_TILES(of_16_bytes_2, 16, 0, 2)
BLOCK_TILES(with_min_bytes_8, 32, 1, 8)
#if VI_CODES_IN_SHORTS
BLOCK_TILES(of_32_bytes_4, 32, 0, 4)
BLOCK_TILES(with_min_bytes_4, 32, 1, 4)
#else
#define block_tiles_of_32_bytes_4    block_tiles_of_32_bytes_8
#define block_tiles_with_min_bytes_4 block_tiles_with_min_bytes_8
#endif
_Static_assert(sizeof block_tiles_of_32 / sizeof *block_tiles_of_32 == BLOCK_TILE_ROWS,
               "there must be a tile for each number of rows");

/* The totals of one panel to y: scale of the row, bias, epilogue. */
static void finish_block_panel(const tfast_gemm_call* p, const float* scale) {
    const int epilogue = has_epilogue(p);
    for (int64_t i = 0; i < p->m; i++) {
        float *from = p->sums + i * BLOCK_PANEL, *to = epilogue ? from : p->y + i * p->y_stride;
        const vf s = v_set1(scale[i]);
        for (int j = 0; j < BLOCK_PANEL && j < p->n; j += V_LANES) {
            const int cut = p->n - j < V_LANES;
            const vf add = p->bias ? load_upto(p->bias + j, cut, p->n - j) : v_set1(-0.0f);
            const vf y = v_add(v_mul(v_load(from + j), s), add);
            if (cut)
                v_store_n(to + j, y, p->n - j);
            else
                v_store(to + j, y);
        }
    }
    if (epilogue) epilogue_rows(p, p->sums, BLOCK_PANEL, 0, p->m);
}

static void multiply_blocks(const tfast_gemm_call* p, expand_blocks_fn expand, const block_tile_fn* tiles,
                            const int group, const int bytes, const int32_t offset, int64_t bytes_of_256) {
    const block_rows r = block_rows_at(p->rows, p->m, p->k, group, bytes);
    const int64_t padded = tfast_round_up(p->k, BLOCK_SUB);
    const char* b = p->b;
    memset(p->sums, 0, (size_t)p->m * BLOCK_PANEL * sizeof *p->sums);
    for (int64_t k = 0; k < padded; k += BLOCK_MOST_K, b += bytes_of_256) {
        const int64_t width = TFAST_MIN(BLOCK_MOST_K, padded - k);
        expand(b, width, p->work);
        block_tile_args t = {.b = p->work,
                             .groups = width / group,
                             .x = r.x + bytes * k,
                             .x_stride = r.stride,
                             .sums = (const float*)r.sums + k / group,
                             .shifts = r.shifts + k / group,
                             .sums_stride = r.groups,
                             .offset = offset,
                             .total = p->sums};
        for (int64_t i = 0; i < p->m; i += BLOCK_TILE_ROWS) {
            tiles[TFAST_MIN(BLOCK_TILE_ROWS, p->m - i) - 1](&t);
            t.x += BLOCK_TILE_ROWS * r.stride;
            t.sums = (const float*)t.sums + BLOCK_TILE_ROWS * r.groups;
            t.shifts += BLOCK_TILE_ROWS * r.groups;
            t.total += BLOCK_TILE_ROWS * BLOCK_PANEL;
        }
    }
    finish_block_panel(p, r.scale);
}

#include "blocks_pack.h"

/* --- formats --------------------------------------------------------------------------------------------------------
 */

#define SMALL_BLOCK(m, name, f, bytes)                                                                           \
    static __attribute__((noinline)) void KERNEL(name##_rows_##m)(const tfast_gemm_call* p, const block_rows* r, \
                                                                  const char* b, const float* bias, int64_t n,   \
                                                                  float* to, int64_t to_stride) {                \
        small_block_panel(f, bytes, r, b, p->k, bias, n, m, to, to_stride);                                      \
    }

/* Both kernels for one width of x; tiles: of it, group and has_min. */
#define BLOCK_KERNELS(name, f, kind, group, bytes, tiles)                                                              \
    SMALL_BLOCK(1, name, f, bytes)                                                                                     \
    SMALL_BLOCK(2, name, f, bytes)                                                                                     \
    SMALL_BLOCK(4, name, f, bytes)                                                                                     \
    static void KERNEL(name##_small_m)(const tfast_gemm_call* p) {                                                     \
        static const small_block_fn by_rows[] = {KERNEL(name##_rows_1), KERNEL(name##_rows_2), KERNEL(name##_rows_4)}; \
        small_block_panels(p, by_rows, group, bytes,                                                                   \
                           tfast_ceil_div(p->k, FORMAT_K(f)) * BLOCK_BYTES(f) * BLOCK_PANEL);                          \
    }                                                                                                                  \
    static void KERNEL(name##_expand)(const char* b, int64_t k, block_scratch* to) {                                   \
        expand_blocks(f, bytes, b, k, to);                                                                             \
    }                                                                                                                  \
    static void KERNEL(name##_panel)(const tfast_gemm_call* p) {                                                       \
        multiply_blocks(p, KERNEL(name##_expand), tiles, group, bytes, BLOCK_DOT_OFFSET(f),                            \
                        BLOCK_MOST_K / FORMAT_K(f) * BLOCK_BYTES(f) * BLOCK_PANEL);                                    \
    }

/* All of k at once: rows of x have one scale. */
enum { BLOCK_MAX_K = 1 << 30, BLOCK_MIN_ROW_BLOCK = 96 };

/* kernels: of the products; packer: of the panels. */
#define BLOCK_GEMM(name, kernels, packer, number, bits, scales, prepared, file_k_, file_bytes_)       \
    static const tfast_gemm name##_gemm = {                                                           \
        .layout = {number, BLOCK_PANEL, SPAN_OF(scales), BLOCK_BYTES_OF(bits, scales) * BLOCK_PANEL}, \
        .tile_rows = BLOCK_TILE_ROWS,                                                                 \
        .k_unit = SPAN_OF(scales),                                                                    \
        .max_k_block = BLOCK_MAX_K,                                                                   \
        .min_row_block = BLOCK_MIN_ROW_BLOCK,                                                         \
        .file_k = file_k_,                                                                            \
        .file_bytes = file_bytes_,                                                                    \
        .panel = KERNEL(kernels##_panel),                                                             \
        .max_small_m = BLOCK_SMALL_M,                                                                 \
        .small_m = KERNEL(kernels##_small_m),                                                         \
        .work_bytes = sizeof(block_scratch),                                                          \
        .prepared_bytes = KERNEL(block_prepared_bytes_##prepared),                                    \
        .prepare = KERNEL(block_prepare_##prepared),                                                  \
        .pack = KERNEL(packer##_pack),                                                                \
        .unpack = KERNEL(packer##_unpack),                                                            \
    };

/* Name and number; what blocks_layout.h says of it; `kind` and group of its tiles, steps of bytes that go together, and
 * A8_BYTES or A8_LARGE; its reader in blocks_pack.h, k and bytes of a block in the file. */
#define BLOCK_FORMAT(name, number, bits, offset, table, most, scales, kind, group, together, A8, file_k, file_bytes)  \
    BLOCK_KERNELS(name, ((block_format){bits, offset, table, most, scales}), kind, group, 2, block_tiles_##kind)      \
    static void KERNEL(name##_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,                    \
                                    const tfast_int8_side* side) {                                                    \
        (void)side;                                                                                                   \
        pack_##name((block_format){bits, offset, table, most, scales}, w, n, k, panel);                               \
    }                                                                                                                 \
    static void KERNEL(name##_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w, \
                                      int64_t w_stride) {                                                             \
        (void)side;                                                                                                   \
        unpack_blocks((block_format){bits, offset, table, most, scales}, KERNEL(name##_expand), panel, n, k, w,       \
                      w_stride);                                                                                      \
    }                                                                                                                 \
    BLOCK_GEMM(name, name, name, number, bits, scales, kind, file_k, file_bytes)                                      \
    A8(name, number, bits, offset, table, most, scales, kind, group, together, file_k, file_bytes)                    \
    _Static_assert(group == GROUP_OF(scales) && (file_k == 0 || file_k == SPAN_OF(scales)),                           \
                   "tiles and blocks of a file must be those of the scales");

/* The same weight, met by x in 8 bits: as bytes, */
#define A8_BYTES(name, number, bits, offset, table, most, scales, kind, group, together, file_k, file_bytes)           \
    BLOCK_KERNELS(name##_a8, ((block_format){bits, offset, table, most, scales}), kind, group, 1,                      \
                  block_tiles_##kind##_bytes_##together)                                                               \
    BLOCK_GEMM(name##_a8, name##_a8, name, (number) | TFAST_FORMAT_A8, bits, scales, kind##_bytes, file_k, file_bytes) \
    _Static_assert(TAKES_BYTES(most) && (!CODES_IN_SHORTS || TOGETHER_OF(most) >= together),                           \
                   "so many steps of bytes must fit in 16 bits");
/* or, where their codes are too large for that, as 16-bit integers of the same values. */
#if VI_CODES_IN_SHORTS
#define A8_LARGE(name, number, bits, offset, table, most, scales, kind, group, together, file_k, file_bytes) \
    BLOCK_GEMM(name##_a8, name, name, (number) | TFAST_FORMAT_A8, bits, scales, kind##_rounded, file_k, file_bytes)
#else
#define A8_LARGE A8_BYTES
#endif

BLOCK_FORMAT(int4, TFAST_FORMAT_INT4, 4, 0, NULL, 15, SCALES_BF16_MIN, with_min, 32, 8, A8_BYTES, 0, 0)
BLOCK_FORMAT(q8_0, TFAST_FORMAT_Q8_0, 8, 128, NULL, 255, SCALES_F16, of_32, 32, 8, A8_LARGE, 32, 34)
BLOCK_FORMAT(q4_0, TFAST_FORMAT_Q4_0, 4, 8, NULL, 15, SCALES_F16, of_32, 32, 8, A8_BYTES, 32, 18)
BLOCK_FORMAT(q4_1, TFAST_FORMAT_Q4_1, 4, 0, NULL, 15, SCALES_F16_MIN, with_min, 32, 8, A8_BYTES, 32, 20)
BLOCK_FORMAT(q5_0, TFAST_FORMAT_Q5_0, 5, 16, NULL, 31, SCALES_F16, of_32, 32, 4, A8_BYTES, 32, 22)
BLOCK_FORMAT(q5_1, TFAST_FORMAT_Q5_1, 5, 0, NULL, 31, SCALES_F16_MIN, with_min, 32, 4, A8_BYTES, 32, 24)
BLOCK_FORMAT(q4_k, TFAST_FORMAT_Q4_K, 4, 0, NULL, 15, SCALES_K_MIN, with_min, 32, 8, A8_BYTES, 256, 144)
BLOCK_FORMAT(q5_k, TFAST_FORMAT_Q5_K, 5, 0, NULL, 31, SCALES_K_MIN, with_min, 32, 4, A8_BYTES, 256, 176)
BLOCK_FORMAT(q6_k, TFAST_FORMAT_Q6_K, 6, 32, NULL, 63, SCALES_K_16, of_16, 16, 2, A8_BYTES, 256, 210)
BLOCK_FORMAT(iq4_nl, TFAST_FORMAT_IQ4_NL, 4, 128, iq4_codes, 241, SCALES_F16, of_32, 32, 8, A8_LARGE, 32, 18)
BLOCK_FORMAT(q4_z, TFAST_FORMAT_Q4_Z, 4, 0, NULL, 15, SCALES_F16_ZERO, with_min, 32, 8, A8_BYTES, 32, 19)
BLOCK_FORMAT(mxfp4, TFAST_FORMAT_MXFP4, 4, 12, e2m1_codes, 24, SCALES_BF16, of_32, 32, 4, A8_BYTES, 32, 17)
#define BLOCK_GEMMS                                                                                                \
    &int4_gemm, &q8_0_gemm, &q4_0_gemm, &q4_1_gemm, &q5_0_gemm, &q5_1_gemm, &q4_k_gemm, &q5_k_gemm, &q6_k_gemm,    \
        &iq4_nl_gemm, &q4_z_gemm, &mxfp4_gemm, &int4_a8_gemm, &q8_0_a8_gemm, &q4_0_a8_gemm, &q4_1_a8_gemm,         \
        &q5_0_a8_gemm, &q5_1_a8_gemm, &q4_k_a8_gemm, &q5_k_a8_gemm, &q6_k_a8_gemm, &iq4_nl_a8_gemm, &q4_z_a8_gemm, \
        &mxfp4_a8_gemm

#endif

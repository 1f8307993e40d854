/* Packing of weights in blocks: from blocks of files, as they are, and of "int4" from floats.
 *
 * Used by gemm/blocks.h. A reader takes one block of a row apart (`file_block`), `put_block` puts it into the column of
 * a panel; no value is computed, so that what products use is what the file says. Formats of the blocks:
 * https://github.com/ggml-org/ggml (ggml-common.h); transformer_fast/files/gguf_blocks.py has them in NumPy. Those of
 * Q4_Z are made by functional/block_weight.py. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_PACK_H
#define TFAST_KERNELS_GEMM_BLOCKS_PACK_H

#include "blocks_layout.h"
#include "int8_pack.h"
#include "pack.h"

/* 32 or 256 codes of a row; scales and minima as the panel stores them: 16 bits of each 32 k, or the bytes of groups
 * with d. */
typedef struct {
    uint8_t code[BLOCK_MOST_K];
    uint16_t scale, least; /* of the 32 k, or d of the 256 */
    uint8_t scales[BLOCK_MOST_K / BLOCK_LEAST_GROUP], minima[BLOCK_MOST_K / BLOCK_SUB];
} file_block;

/* 32 codes: their low bits, of which 8 k are a word, and their high ones. */
V_INLINE void put_codes(const block_format f, const uint8_t code[BLOCK_SUB], int64_t column, char* sub) {
    char* high = sub + BLOCK_SCALE_BYTES(f) * BLOCK_PANEL;
    char* low = high + BLOCK_HIGH_BYTES(f) * BLOCK_PANEL + column * 4;
    uint32_t bits[2] = {0, 0};
    for (int c = 0; c < BLOCK_CHUNKS; c++) {
        uint32_t vector[2] = {0, 0}; /* even pairs, odd pairs */
        for (int v = 0; v < 2; v++)
            for (int y = 0; y < 4; y++) {
                const uint32_t q = code[c * BLOCK_CHUNK + 4 * (y & 1) + 2 * v + (y >> 1)];
                const int t = 2 * c + v;
                vector[v] |= (f.bits == 8 ? q : q & 15) << 8 * y;
                if (f.bits == 5) bits[0] |= (q >> 4) << (8 * y + t);
                if (f.bits == 6) bits[t >> 2] |= (q >> 4) << (8 * y + 2 * (t & 3));
            }
        if (f.bits == 8) {
            memcpy(low + 2 * c * 4 * BLOCK_PANEL, &vector[0], 4);
            memcpy(low + (2 * c + 1) * 4 * BLOCK_PANEL, &vector[1], 4);
        } else {
            const uint32_t word = vector[0] | vector[1] << 4;
            memcpy(low + c * 4 * BLOCK_PANEL, &word, 4);
        }
    }
    if (f.bits > 4 && f.bits < 8) memcpy(high + column * 4, &bits[0], 4);
    if (f.bits == 6) memcpy(high + 4 * BLOCK_PANEL + column * 4, &bits[1], 4);
}

/* A block into column `column` of the panel's block at `to`. */
V_INLINE void put_block(const block_format f, const file_block* b, int64_t column, char* to) {
    uint16_t* d = (uint16_t*)to; /* of 256 k, or of the 32 */
    d[column] = b->scale;
    if (f.scales == SCALES_F16_ZERO)
        to[2 * BLOCK_PANEL + column] = (char)b->minima[0];
    else if (BLOCK_HAS_MIN(f))
        d[BLOCK_PANEL + column] = b->least;
    to += BLOCK_HEAD_BYTES(f) * BLOCK_PANEL;
    for (int g = 0; g < FORMAT_K(f) / BLOCK_SUB; g++, to += BLOCK_SUB_BYTES(f) * BLOCK_PANEL) {
        if (f.scales == SCALES_K_MIN) {
            to[column] = (char)b->scales[g];
            to[BLOCK_PANEL + column] = (char)b->minima[g];
        } else if (f.scales == SCALES_K_16) {
            to[column] = (char)b->scales[2 * g];
            to[BLOCK_PANEL + column] = (char)b->scales[2 * g + 1];
        }
        put_codes(f, b->code + g * BLOCK_SUB, column, to);
    }
}

/* --- readers --------------------------------------------------------------------------------------------------------
 */
static uint16_t half_at(const uint8_t* p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

/* 2 n codes of n bytes: low halves, then high ones. */
V_INLINE void split_nibbles(const uint8_t* p, const int n, uint8_t* code) {
    for (int i = 0; i < n; i++) {
        code[i] = p[i] & 15;
        code[n + i] = p[i] >> 4;
    }
}

V_INLINE void add_fifth_bits(const uint8_t* p, uint8_t* code) {
    for (int i = 0; i < 32; i++) code[i] |= (uint8_t)((p[i / 8] >> i % 8 & 1) << 4);
}

V_INLINE void read_q8_0(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    for (int i = 0; i < 32; i++) b->code[i] = (uint8_t)(p[2 + i] + 128);
}

V_INLINE void read_q4_0(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    split_nibbles(p + 2, 16, b->code);
}

V_INLINE void read_q4_1(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    b->least = half_at(p + 2);
    split_nibbles(p + 4, 16, b->code);
}

V_INLINE void read_q5_0(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    split_nibbles(p + 6, 16, b->code);
    add_fifth_bits(p + 2, b->code);
}

V_INLINE void read_q5_1(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    b->least = half_at(p + 2);
    split_nibbles(p + 8, 16, b->code);
    add_fifth_bits(p + 4, b->code);
}

/* A scale, a zero, and codes as those of Q4_0. */
V_INLINE void read_q4_z(const uint8_t* p, file_block* b) {
    b->scale = half_at(p);
    b->minima[0] = p[2];
    split_nibbles(p + 3, 16, b->code);
}

/* A power of two from 2^-128 on, half of what e stands for, since codes are twice their values; as bfloat16. */
V_INLINE void read_mxfp4(const uint8_t* p, file_block* b) {
    b->scale = p[0] > 1 ? (uint16_t)((p[0] - 1) << 7) : p[0] ? 0x40 : 0x20;
    split_nibbles(p + 1, 16, b->code);
}

/* d, the negated d of minima, and eight scales and minima of 6 bits in 12 bytes. */
V_INLINE void read_k_scales(const uint8_t* p, file_block* b) {
    const uint8_t* s = p + 4;
    b->scale = half_at(p);
    b->least = half_at(p + 2) ^ 0x8000;
    for (int i = 0; i < 4; i++) {
        b->scales[i] = s[i] & 63;
        b->minima[i] = s[4 + i] & 63;
        b->scales[4 + i] = (uint8_t)((s[8 + i] & 15) | s[i] >> 6 << 4);
        b->minima[4 + i] = (uint8_t)(s[8 + i] >> 4 | s[4 + i] >> 6 << 4);
    }
}

V_INLINE void read_q4_k(const uint8_t* p, file_block* b) {
    read_k_scales(p, b);
    for (int i = 0; i < 4; i++) split_nibbles(p + 16 + 32 * i, 32, b->code + 64 * i);
}

V_INLINE void read_q5_k(const uint8_t* p, file_block* b) {
    read_k_scales(p, b);
    for (int i = 0; i < 4; i++) split_nibbles(p + 48 + 32 * i, 32, b->code + 64 * i);
    for (int i = 0; i < 256; i++) b->code[i] |= (uint8_t)((p[16 + i % 32] >> i / 32 & 1) << 4);
}

V_INLINE void read_q6_k(const uint8_t* p, file_block* b) {
    b->scale = half_at(p + 208);
    memcpy(b->scales, p + 192, 16);
    for (int i = 0; i < 2; i++) split_nibbles(p + 64 * i, 64, b->code + 128 * i);
    for (int i = 0; i < 256; i++)
        b->code[i] |= (uint8_t)((p[128 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3) << 4);
}

/* Of columns that do not exist: values of 0. */
V_INLINE file_block zero_block(const block_format f) {
    file_block b;
    memset(&b, 0, sizeof b);
    int zero = f.offset;
    for (int i = 0; f.table && i < 16; i++)
        if (f.table[i] == f.offset) zero = i;
    memset(b.code, f.table && zero > 15 ? 0 : zero, sizeof b.code);
    return b;
}

#define PACK_BLOCKS(name, k_, bytes)                                                                                 \
    V_INLINE void pack_##name(const block_format f, const tfast_weight_rows* w, int64_t n, int64_t k, char* panel) { \
        for (int64_t d = 0; d < k; d += k_, panel += BLOCK_BYTES(f) * BLOCK_PANEL)                                   \
            for (int64_t column = 0; column < BLOCK_PANEL; column++) {                                               \
                file_block b;                                                                                        \
                if (column < n)                                                                                      \
                    read_##name((const uint8_t*)w->data + column * w->stride + d / k_ * bytes, &b);                  \
                else                                                                                                 \
                    b = zero_block(f);                                                                               \
                put_block(f, &b, column, panel);                                                                     \
            }                                                                                                        \
    }
PACK_BLOCKS(q8_0, 32, 34)
PACK_BLOCKS(q4_0, 32, 18)
PACK_BLOCKS(q4_1, 32, 20)
PACK_BLOCKS(q5_0, 32, 22)
PACK_BLOCKS(q5_1, 32, 24)
PACK_BLOCKS(q4_k, 256, 144)
PACK_BLOCKS(q5_k, 256, 176)
PACK_BLOCKS(q6_k, 256, 210)
PACK_BLOCKS(q4_z, 32, 19)
PACK_BLOCKS(mxfp4, 32, 17)
#define pack_iq4_nl pack_q4_0

/* --- "int4" ---------------------------------------------------------------------------------------------------------
 * value = scale * code + minimum, codes 0 to 15. Of INT4_TRIES codings of a group, by 15 steps from its lowest to its
 * highest value and by a little more or less, the one whose codes explain the values best as a straight line: a
 * regression gives scale and minimum, which are rounded to bfloat16; then values are rounded by these. Relative error
 * of MiniLM's weights 0.0727; 1 try 0.078, 5 0.0735; a scale alone, which saves half a bit a weight, 0.0846 searched
 * and 0.0894 by the largest value (Q4_0); scale and minimum for 64 k each 0.0862. */
enum { INT4_TRIES = 7 };
#define INT4_FIRST 14.5f     /* steps of the first try, */
#define INT4_STEP  0.25f     /* and what each has more */
#define INT4_LEAST 0x1p-100f /* a group without a number of this size is of zeros: */
#define INT4_RANGE 0x1p-20f  /* with it, one whose range is less than this of its size has one value: */
                             /* so that scales have an inverse */

typedef struct {
    vf scale, least;
} int4_scales;

V_INLINE vf int4_code(vf x, vf least, vf inverse) {
    const vf q = v_mul(v_sub(x, least), inverse);
    return v_from_int(v_to_int(v_max(v_min(q, v_set1(15.0f)), v_zero())));
}

/* Of each lane's 32 values. Tries see values relative to the largest one: squares stay within the range. */
V_INLINE int4_scales int4_fit(const vf x[BLOCK_SUB]) {
    vf size = v_zero(), y[BLOCK_SUB];
    for (int i = 0; i < BLOCK_SUB; i++) size = v_max(v_abs(x[i]), size);
    const vm some = v_le(v_set1(INT4_LEAST), size);
    const vf usable = v_select(some, size, v_set1(1.0f));
    for (int i = 0; i < BLOCK_SUB; i++) y[i] = v_div(x[i], usable);
    vf low = y[0], high = y[0], sum = v_zero();
    for (int i = 0; i < BLOCK_SUB; i++) {
        low = v_min(y[i], low);
        high = v_max(y[i], high);
        sum = v_add(sum, y[i]);
    }
    const vm spread = v_le(v_set1(INT4_RANGE), v_sub(high, low));
    const vf range = v_select(spread, v_sub(high, low), v_set1(1.0f)), n = v_set1(BLOCK_SUB);
    vf best = v_zero(), scale = v_zero(), least = low;
    for (int try = 0; try < INT4_TRIES; try++) {
        const vf inverse = v_div(v_set1(INT4_FIRST + (float)try * INT4_STEP), range);
        vf codes = v_zero(), squares = v_zero(), products = v_zero();
        for (int i = 0; i < BLOCK_SUB; i++) {
            const vf q = int4_code(y[i], low, inverse);
            codes = v_add(codes, q);
            squares = v_add(squares, v_mul(q, q));
            products = v_add(products, v_mul(q, y[i]));
        }
        const vf shared = v_sub(v_mul(n, products), v_mul(codes, sum));
        const vf slope = v_div(shared, v_sub(v_mul(n, squares), v_mul(codes, codes))), gain = v_mul(shared, slope);
        const vm better = v_and(v_lt(best, gain), spread);
        best = v_select(better, gain, best);
        scale = v_select(better, slope, scale);
        least = v_select(better, v_div(v_sub(sum, v_mul(slope, codes)), n), least);
    }
    return (int4_scales){v_select(some, v_mul(scale, usable), v_zero()),
                         v_select(some, v_mul(least, usable), v_zero())};
}

/* As bfloat16 to `to`; returns them widened. */
V_INLINE vf store_bf16(vf x, uint16_t* to) {
    float wide[V_LANES];
    v_store(wide, x);
    for (int i = 0; i < V_LANES; i++) {
        to[i] = tfast_bf16_from_f32(wide[i]);
        wide[i] = tfast_f32_from_bf16(to[i]);
    }
    return v_load(wide);
}

V_INLINE void pack_int4_columns(const block_format f, const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n,
                                int64_t k, int64_t column, char* panel) {
    for (int64_t d = 0; d < k; d += BLOCK_SUB, panel += BLOCK_BYTES(f) * BLOCK_PANEL) {
        vf x[BLOCK_SUB], nan = v_zero();
        for (int i = 0; i < BLOCK_SUB; i += BLOCK_K) load_columns(w, dtype, n, d + i, k, x + i);
        for (int i = 0; i < BLOCK_SUB; i++) {
            nan = v_add(nan, v_sub(x[i], x[i]));
            x[i] = v_select(v_le(v_abs(x[i]), v_set1(FLT_MAX)), x[i], v_zero());
        }
        const int4_scales s = int4_fit(x);
        uint16_t* scales = (uint16_t*)panel + column;
        const vf scale = store_bf16(v_add(s.scale, nan), scales), least = store_bf16(s.least, scales + BLOCK_PANEL);
        const vm usable = v_lt(v_zero(), scale);
        const vf inverse = v_select(usable, v_div(v_set1(1.0f), v_select(usable, scale, v_set1(1.0f))), v_zero());
        uint8_t code[V_LANES][BLOCK_SUB];
        for (int i = 0; i < BLOCK_SUB; i++) {
            int32_t q[V_LANES];
            vi_store(q, v_to_int(int4_code(x[i], least, inverse)));
            for (int j = 0; j < V_LANES; j++) code[j][i] = (uint8_t)q[j];
        }
        for (int j = 0; j < V_LANES; j++) put_codes(f, code[j], column + j, panel);
    }
}

V_INLINE void pack_int4(const block_format f, const tfast_weight_rows* w, int64_t n, int64_t k, char* panel) {
    for (int64_t j = 0; j < BLOCK_PANEL; j += V_LANES) {
        const tfast_weight_rows rows = rows_from(w, TFAST_MIN(j, n));
        if (w->dtype == TFAST_F32)
            pack_int4_columns(f, &rows, TFAST_F32, n - j, k, j, panel);
        else if (w->dtype == TFAST_F16)
            pack_int4_columns(f, &rows, TFAST_F16, n - j, k, j, panel);
        else
            pack_int4_columns(f, &rows, TFAST_BF16, n - j, k, j, panel);
    }
}

/* The values that products use. */
static void unpack_blocks(const block_format f, void (*expand)(const char*, int64_t, block_scratch*), const char* panel,
                          int64_t n, int64_t k, float* w, int64_t w_stride) {
    const int group = BLOCK_GROUP(f);
    const int64_t step = FORMAT_K(f), bytes = BLOCK_BYTES(f) * BLOCK_PANEL;
    block_scratch s __attribute__((aligned(64)));
    for (int64_t d = 0; d < k; d += step, panel += bytes) {
        expand(panel, step, &s);
        for (int64_t i = 0; i < step && d + i < k; i++)
            for (int64_t j = 0; j < n; j++) {
                const float q = (float)((const int16_t*)s.pairs[i / 2])[2 * j + i % 2];
                const float value = s.scale[i / group][j] * q;
                w[j * w_stride + d + i] = BLOCK_HAS_MIN(f) ? value + s.least[i / BLOCK_SUB][j] : value;
            }
    }
}

#endif

/* Packing of weights in blocks: from the blocks of a GGUF file, as they are, and of "int4" from floats.
 *
 * Used by gemm/blocks.h. A reader takes one block of a row apart (`file_block`), `put_block` puts it into the column of
 * a panel; no value is computed, so that what products use is what the file says. Formats of the blocks:
 * https://github.com/ggml-org/ggml (ggml-common.h); transformer_fast/files/gguf_blocks.py has them in NumPy. */
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
    if (BLOCK_HAS_MIN(f)) d[BLOCK_PANEL + column] = b->least;
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
PACK_BLOCKS(mxfp4, 32, 17)
#define pack_iq4_nl pack_q4_0

/* --- "int4" ---------------------------------------------------------------------------------------------------------
 * A group's scale, bfloat16, is negative where its number of the largest magnitude is positive: codes reach from -8 to
 * 7, and that number becomes -8 or near it. Of INT4_TRIES scales around -largest / 8 the one whose rounded values,
 * scaled best, leave the least squared error; then values are rounded once more by the scale as it is stored. */
enum { INT4_TRIES = 7 };
#define INT4_STEP 0.25f /* between tries, of the 8 */
#define INT4_LEAST                                                                                     \
    0x1p-100f /* a group without a number of this size is of zeros: the inverse of its scale is finite \
               */

V_INLINE vf int4_rounded(vf x, vf inverse) {
    const vf q = v_from_int(v_to_int(v_max(v_min(v_mul(x, inverse), v_set1(8.0f)), v_set1(-9.0f))));
    return v_max(v_min(q, v_set1(7.0f)), v_set1(-8.0f));
}

/* The scale of each lane's 32 values. Tries see values relative to the largest one: squares stay within the range. */
V_INLINE vf int4_scale(const vf x[BLOCK_SUB]) {
    vf size = v_zero(), largest = v_zero();
    for (int i = 0; i < BLOCK_SUB; i++) {
        const vm more = v_lt(size, v_abs(x[i]));
        size = v_select(more, v_abs(x[i]), size);
        largest = v_select(more, x[i], largest);
    }
    const vm some = v_le(v_set1(INT4_LEAST), size);
    const vf usable = v_select(some, largest, v_set1(1.0f));
    vf relative[BLOCK_SUB], best = v_zero(), scale = v_zero();
    for (int i = 0; i < BLOCK_SUB; i++) relative[i] = v_div(x[i], usable);
    for (int try = 0; try < INT4_TRIES; try++) {
        const vf inverse = v_set1(-8.0f + (float)(try - INT4_TRIES / 2) * INT4_STEP);
        vf products = v_zero(), squares = v_zero();
        for (int i = 0; i < BLOCK_SUB; i++) {
            const vf q = int4_rounded(relative[i], inverse);
            products = v_add(products, v_mul(q, relative[i]));
            squares = v_add(squares, v_mul(q, q));
        }
        const vf part = v_div(products, squares), gain = v_mul(part, products);
        const vm better = v_lt(best, gain);
        best = v_select(better, gain, best);
        scale = v_select(better, part, scale);
    }
    return v_select(some, v_mul(scale, usable), v_zero());
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
        float scale[V_LANES], exact[V_LANES];
        uint8_t code[V_LANES][BLOCK_SUB];
        v_store(scale, v_add(int4_scale(x), nan));
        for (int i = 0; i < V_LANES; i++) {
            const uint16_t stored = tfast_bf16_from_f32(scale[i]);
            memcpy((uint16_t*)panel + column + i, &stored, sizeof stored);
            exact[i] = tfast_f32_from_bf16(stored);
            exact[i] = exact[i] != 0 && exact[i] == exact[i] ? 1.0f / exact[i] : 0;
        }
        const vf inverse = v_load(exact);
        for (int i = 0; i < BLOCK_SUB; i++) {
            int32_t q[V_LANES];
            vi_store(q, v_to_int(int4_rounded(x[i], inverse)));
            for (int j = 0; j < V_LANES; j++) code[j][i] = (uint8_t)(q[j] + f.offset);
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

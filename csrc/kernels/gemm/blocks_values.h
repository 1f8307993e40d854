/* Values of a panel of a weight in blocks: scales, minima and codes as vectors of columns.
 *
 * Used by gemm/blocks.h: codes as pairs of 16 bits for x in 16 bits, as bytes for x in 8. `head` and `sub`: the bytes
 * of a block, and of 32 k of it. f, c, half are constants; j: the vector of columns. The layout: blocks_layout.h. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_VALUES_H
#define TFAST_KERNELS_GEMM_BLOCKS_VALUES_H

#include "blocks_layout.h"

V_INLINE vf block_scale(const block_format f, const char* head, const char* sub, const int j, const int half) {
    const int at = j * V_LANES;
    switch (f.scales) {
    case SCALES_BF16:
    case SCALES_BF16_MIN:
        return v_load_bf16((const uint16_t*)sub + at);
    case SCALES_K_MIN:
        return v_mul(v_load_f16((const uint16_t*)head + at), v_from_int(vi_load_u8(sub + at)));
    case SCALES_K_16:
        return v_mul(v_load_f16((const uint16_t*)head + at), v_from_int(vi_load_s8(sub + half * BLOCK_PANEL + at)));
    default:
        return v_load_f16((const uint16_t*)sub + at);
    }
}

/* What is added: the minus of a minimum that is taken away lies in d. */
V_INLINE vf block_min(const block_format f, const char* head, const char* sub, const int j) {
    const int at = BLOCK_PANEL + j * V_LANES;
    if (f.scales == SCALES_F16_MIN) return v_load_f16((const uint16_t*)sub + at);
    if (f.scales == SCALES_BF16_MIN) return v_load_bf16((const uint16_t*)sub + at);
    if (f.scales == SCALES_F16_ZERO)
        return v_mul(v_load_f16((const uint16_t*)sub + at - BLOCK_PANEL),
                     v_from_int(vi_sub(vi_zero(), vi_load_u8(sub + BLOCK_PANEL + at))));
    return v_mul(v_load_f16((const uint16_t*)head + at), v_from_int(vi_load_u8(sub + at)));
}

/* The high bits of vector t of eight, at bit 4 of each byte. */
V_INLINE vi block_high_bits(const block_format f, const char* high, const int j, const int t) {
    const int width = f.bits - 4, shift = f.bits == 5 ? t : 2 * (t & 3);
    const vi mask = vi_set1(f.bits == 5 ? 0x10101010 : 0x30303030);
    const vi word = vi_load(high + (width * t / 8) * 4 * BLOCK_PANEL + j * 4 * V_LANES);
    return vi_and(shift < 4 ? vi_left_shorts(word, 4 - shift) : vi_right_shorts(word, shift - 4), mask);
}

/* Where the low bits of vector j begin. */
#define BLOCK_LOW_BITS(f, sub, j) \
    ((sub) + (BLOCK_SCALE_BYTES(f) + BLOCK_HIGH_BYTES(f)) * BLOCK_PANEL + (j) * 4 * V_LANES)

/* Codes of 8 k as bytes: code[0] those of k 0, 4, 1, 5, code[1] those of k 2, 6, 3, 7. */
V_INLINE void block_codes(const block_format f, const char* sub, const int j, const int c, vi code[2]) {
    const char *high = sub + BLOCK_SCALE_BYTES(f) * BLOCK_PANEL, *low = BLOCK_LOW_BITS(f, sub, j);
    if (f.bits == 8) {
        code[0] = vi_load(low + 2 * c * 4 * BLOCK_PANEL);
        code[1] = vi_load(low + (2 * c + 1) * 4 * BLOCK_PANEL);
        return;
    }
    const vi word = vi_load(low + c * 4 * BLOCK_PANEL), nibbles = vi_set1(0x0f0f0f0f);
    code[0] = vi_and(word, nibbles);
    code[1] = vi_and(vi_right_shorts(word, 4), nibbles);
    if (f.table) {
        code[0] = vi_lookup(f.table, code[0]);
        code[1] = vi_lookup(f.table, code[1]);
    }
    if (f.bits > 4) {
        code[0] = vi_or(code[0], block_high_bits(f, high, j, 2 * c));
        code[1] = vi_or(code[1], block_high_bits(f, high, j, 2 * c + 1));
    }
}

/* The same as vi_dot_by() takes them: where its bytes are signed, codes that may be above 127 are 128 less, and so is
 * what a code of the value 0 is. */
#define BLOCK_CODES_ARE_LESS(f) (VI_SIGNED_BYTES && (f).most > 127)
#define BLOCK_DOT_OFFSET(f)     ((f).offset - (BLOCK_CODES_ARE_LESS(f) ? 128 : 0))

V_INLINE void block_dot_codes(const block_format f, const char* sub, const int j, const int c, vi code[2]) {
    block_codes(f, sub, j, c, code);
#if VI_SIGNED_BYTES
    if (!BLOCK_CODES_ARE_LESS(f)) return;
    code[0] = vi_less_128(code[0]);
    code[1] = vi_less_128(code[1]);
#endif
}

/* Codes of 8 k as pairs in the order of k. */
V_INLINE void block_pairs(const block_format f, const char* sub, const int j, const int c, vi pair[4]) {
    if (f.bits == 4 && !f.table) {
        const vi word = vi_load(BLOCK_LOW_BITS(f, sub, j) + c * 4 * BLOCK_PANEL), nibble = vi_set1(0x000f000f);
        pair[0] = vi_and(word, nibble);
        pair[1] = vi_and(vi_right_shorts(word, 4), nibble);
        pair[2] = vi_and(vi_right_shorts(word, 8), nibble);
        pair[3] = vi_right_shorts(word, 12);
        return;
    }
    vi code[2];
    block_codes(f, sub, j, c, code);
    const vi byte = vi_set1(0x00ff00ff);
    pair[0] = vi_and(code[0], byte);
    pair[1] = vi_and(code[1], byte);
    pair[2] = vi_right_shorts(code[0], 8);
    pair[3] = vi_right_shorts(code[1], 8);
}

#endif

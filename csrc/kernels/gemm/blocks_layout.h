/* Weights in blocks of k with scales of their own: what a format says of itself, and where the parts of its panels lie.
 *
 * Used by gemm/blocks.h, which multiplies them, and blocks_pack.h, which writes them. A value is
 *
 *     W[n][k] = scale * (code - offset) + minimum          scale and minimum: of a group of 32 k, or of 16
 *
 * and a format is one `block_format`: the bits of its codes, and where scales come from. A panel of P columns is, for
 * each block of 32 or 256 k, so that a kernel reads it from end to end:
 *
 *     of formats of 256 k:  d, 16 bits [P] | d of the minima, negated [P]
 *     for each 32 k:        scales [P] | minima or zeros [P] | high bits of the codes | low bits of the codes
 *
 * Low bits, 4: for each 8 k, a 32-bit word [P]; its upper half is of the odd k, its lower half of the even ones, and
 * nibble i of a half is pair i (k = 8 c + 2 i + half). So masks and shifts give pairs of 16-bit codes, side by side in
 * the lane of their column, in the order in which x lies in memory. Byte b of a half of `word & 0x0f0f0f0f` is pair 2
 * b, of `word >> 4 & 0x0f0f0f0f` pair 2 b + 1: those two vectors, "low" and "high", are what tables and high bits meet.
 * Codes of 8 bits are stored as the two vectors. High bits, 1 or 2 a code: a word, or two, for the 32 k, whose byte y
 * holds those of byte y of the eight vectors (low and high of each 8 k), the first ones lowest. */
#ifndef TFAST_KERNELS_GEMM_BLOCKS_LAYOUT_H
#define TFAST_KERNELS_GEMM_BLOCKS_LAYOUT_H

#include "../../base/types.h"

/* Where the scale of a group comes from. */
typedef enum {
    SCALES_F16,      /* float16 a group */
    SCALES_F16_MIN,  /* and a minimum */
    SCALES_BF16,     /* bfloat16 a group */
    SCALES_BF16_MIN, /* and a minimum */
    SCALES_F16_ZERO, /* float16, and a zero, a byte: the minimum is -zero * scale, exact */
    SCALES_K_MIN,    /* 6 bits a group times d of 256 k, and a minimum likewise */
    SCALES_K_16      /* 8 signed bits a group of 16 times d of 256 k */
} block_scales;

typedef struct {
    int bits;             /* of a code: 4, 5, 6 or 8 */
    int offset;           /* what a code of the value 0 is */
    const uint8_t* table; /* of 16: code -> code + offset; NULL: a code is itself */
    int most;             /* the largest code, behind the table */
    block_scales scales;
} block_format;

enum { BLOCK_SUB = 32, BLOCK_CHUNK = 8, BLOCK_CHUNKS = BLOCK_SUB / BLOCK_CHUNK };
enum { BLOCK_MOST_K = 256, BLOCK_LEAST_GROUP = 16 }; /* of any format */

/* Values plus 128 of IQ4_NL; twice those of E2M1 plus 12. */
static const uint8_t iq4_codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t e2m1_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/* All of these are constants where bits and scales are. k of a block in a panel and of a group. */
#define SPAN_OF(scales)  ((scales) >= SCALES_K_MIN ? BLOCK_MOST_K : BLOCK_SUB)
#define GROUP_OF(scales) ((scales) == SCALES_K_16 ? BLOCK_LEAST_GROUP : BLOCK_SUB)
/* Bytes of a column: before the 32 k of a block; in 32 k scales and minima, high bits, low bits. */
#define HEAD_BYTES_OF(scales) ((scales) == SCALES_K_MIN ? 4 : (scales) == SCALES_K_16 ? 2 : 0)
#define SCALE_BYTES_OF(scales) \
    ((scales) == SCALES_F16_MIN || (scales) == SCALES_BF16_MIN ? 4 : (scales) == SCALES_F16_ZERO ? 3 : 2)
#define HIGH_BYTES_OF(bits)          ((bits) == 5 ? 4 : (bits) == 6 ? 8 : 0)
#define LOW_BYTES_OF(bits)           ((bits) == 8 ? 32 : 16)
#define SUB_BYTES_OF(bits, scales)   (SCALE_BYTES_OF(scales) + HIGH_BYTES_OF(bits) + LOW_BYTES_OF(bits))
#define BLOCK_BYTES_OF(bits, scales) (HEAD_BYTES_OF(scales) + SPAN_OF(scales) / BLOCK_SUB * SUB_BYTES_OF(bits, scales))

#define BLOCK_HAS_MIN(f)                                                                               \
    ((f).scales == SCALES_F16_MIN || (f).scales == SCALES_BF16_MIN || (f).scales == SCALES_F16_ZERO || \
     (f).scales == SCALES_K_MIN)
#define BLOCK_GROUP(f)       GROUP_OF((f).scales)
#define FORMAT_K(f)          SPAN_OF((f).scales)
#define BLOCK_HEAD_BYTES(f)  HEAD_BYTES_OF((f).scales)
#define BLOCK_SCALE_BYTES(f) SCALE_BYTES_OF((f).scales)
#define BLOCK_HIGH_BYTES(f)  HIGH_BYTES_OF((f).bits)
#define BLOCK_SUB_BYTES(f)   SUB_BYTES_OF((f).bits, (f).scales)
#define BLOCK_BYTES(f)       BLOCK_BYTES_OF((f).bits, (f).scales)

#endif

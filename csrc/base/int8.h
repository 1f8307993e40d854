/* The scheme of the weight formats "int8" and "int8_a16": its constants, and where what is beside the integers lies.
 *
 * Used by kernels/gemm/int8*.h and ops/pack.c. A weight (N, K) has one scale a row, which is a column, or channel, of
 * the product; x has one a row:
 *
 *     W[n][k] = integer * scale[n],    |integer| <= 127
 *     int8:      x[k] * factor[k] = (integer - zero) * scale,  0 <= integer <= INT8_X_MAX
 *     int8_a16:  x[k] = integer * scale,                       |integer| <= x_limit
 *
 * The integers of both are multiplied and added exactly, so that a product has the same bits on every level, on any
 * number of threads and in any company. docs/low_precision.md has the formulas and the errors.
 *
 * Bounded runs: AVX2 multiplies unsigned by signed bytes into sums of two in 16 bits (vpmaddubsw); adding two of those
 * before they are widened saves a sixth of the instructions. It stays exact where, in a run of four k, the positive
 * weights of a channel sum to at most INT8_RUN_LIMIT, and the negative ones to at least -INT8_RUN_LIMIT. So the scale
 * of a channel is what both its largest weight and its largest run need, and x goes to INT8_X_MAX. What the two of them
 * share is 2^15: all-MiniLM-L6-v2 on 2,000 sentences, mean cosine to float32, x to 192 and runs to 170 0.99901, 204 and
 * 160 0.99903, 224 and 145 0.99904, the scale of a channel 1.27, 1.34 and 1.48 times what its largest weight needs;
 * with the exponents of nn/smoothing.py 204 and 160 0.99913. Runs of two to 128 with x to 255, a fifth more
 * instructions, 0.99932. Integers that others have made are not bounded (INT8_UNBOUNDED): kernels that need the bound
 * leave them to those for 16-bit x, to the same bits.
 *
 * A run: k 0, 1, 4, 5 or 2, 3, 6, 7 of each eight, since two neighbouring groups of four k are added. */
#ifndef TFAST_BASE_INT8_H
#define TFAST_BASE_INT8_H

#include "types.h"

enum { INT8_W_MAX = 127, INT8_X_MAX = 204, INT8_RUN_LIMIT = 160, INT8_A16_X_MAX = 32767 };
_Static_assert(INT8_X_MAX* INT8_RUN_LIMIT <= INT16_MAX, "the sum of a run of products must fit in 16 bits");
_Static_assert(INT8_X_MAX < 256 && INT8_A16_X_MAX <= INT16_MAX, "x must fit in its 8 or 16 bits");
enum { INT8_RUN_SPAN = 8 }; /* k that hold two runs */

/* Whether position i of the eight is in the first run. */
static inline int tfast_int8_first_run(int i) {
    return (i & 2) == 0;
}

/* A sum over all of K must fit in 32 bits. */
enum { INT8_MAX_K = 65536 };
_Static_assert((int64_t)INT8_MAX_K* INT8_X_MAX*(INT8_W_MAX + 1) <= INT32_MAX, /* -128 is in files of others */
               "a sum over all of K must fit in 32 bits");

/* What stands behind the panels of a packed weight: for each channel, and 0 up to whole panels, its scale, the sum of
 * its integers and that of their absolute values; for each k the factor that x is multiplied by while it is quantised
 * (the weight was divided by it), or NULL. */
typedef struct {
    float* scale;
    int32_t *sum, *magnitude;
    float* factor;
} tfast_int8_side;

/* Of so many channels (whole panels) and k. */
static inline size_t tfast_int8_side_bytes(int64_t channels, int64_t k) {
    return (size_t)channels * (sizeof(float) + 2 * sizeof(int32_t)) + (size_t)k * sizeof(float);
}

static inline tfast_int8_side tfast_int8_side_at(void* memory, int64_t channels) {
    float* scale = memory;
    int32_t* sum = (int32_t*)(scale + channels);
    return (tfast_int8_side){scale, sum, sum + channels, (float*)(sum + 2 * channels)};
}

/* The side of the channels from n on. */
static inline tfast_int8_side tfast_int8_side_from(tfast_int8_side side, int64_t n) {
    if (!side.scale) return side;
    return (tfast_int8_side){side.scale + n, side.sum + n, side.magnitude + n, side.factor};
}

/* The largest |x| of int8_a16 with which no sum leaves 32 bits, where no channel's absolute values sum to more. */
static inline int32_t tfast_int8_x_limit(int32_t magnitude) {
    return TFAST_MIN(INT8_A16_X_MAX, INT32_MAX / TFAST_MAX(magnitude, 1));
}

#endif

/* The scheme of the weight formats "int8" and "int8_a16": its constants, and where what is beside the integers lies.
 *
 * Used by kernels/gemm/int8*.h and ops/pack.c. A weight (N, K) has one scale a row, which is a column, or channel, of the
 * product; x has one a row:
 *
 *     W[n][k] = integer * scale[n],    |integer| <= 127
 *     int8:      x[k] * factor[k] = (integer - zero) * scale,  0 <= integer <= 255
 *     int8_a16:  x[k] = integer * scale,                       |integer| <= x_limit
 *
 * The integers of both are multiplied and added exactly, so that a product has the same bits on every level, on any
 * number of threads and in any company. docs/low_precision.md has the formulas and the errors.
 *
 * Bounded pairs: vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits. It stays exact where
 * |w[2i] + w[2i + 1]| <= PAIR_LIMIT for weights of one sign; for two signs the sum is below one of them. So the scale of
 * a channel is what both its largest weight and its largest pair need: 1.27 times the former in all-MiniLM-L6-v2, where
 * 7-bit weights would cost 2. Integers that others have made are not bounded (INT8_UNBOUNDED): kernels that need the
 * bound leave them to those for 16-bit activations, to the same bits. */
#ifndef TFAST_BASE_INT8_H
#define TFAST_BASE_INT8_H

#include "types.h"

enum { INT8_W_MAX = 127, INT8_X_MAX = 255, INT8_PAIR_LIMIT = 128, INT8_A16_X_MAX = 32767 };
_Static_assert(INT8_X_MAX * INT8_PAIR_LIMIT <= INT16_MAX, "the sum of two products must fit in 16 bits");
_Static_assert(INT8_X_MAX < 256 && INT8_A16_X_MAX <= INT16_MAX, "x must fit in its 8 or 16 bits");
/* A sum over all of K must fit in 32 bits. */
enum { INT8_MAX_K = 65536 };
_Static_assert((int64_t)INT8_MAX_K * INT8_X_MAX * (INT8_W_MAX + 1) <= INT32_MAX, /* -128 is in files of others */
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

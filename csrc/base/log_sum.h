/* The natural logarithm of a sum of exponentials that is kept as a maximum in base 2 and a sum: what attention calls
 * lse.
 *
 * Called once a row by kernels/attention/finish.h and by ops/shared_keys.c. Other functions of libm that need a version
 * of their own belong here, too. */
#ifndef TFAST_BASE_LOG_SUM_H
#define TFAST_BASE_LOG_SUM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* log(total * 2^top), total > 0; NaN and infinity go through.
 *
 * total = mantissa * 2^exponent with a mantissa from sqrt(1/2) on, whose logarithm is 2 artanh(s), s = (mantissa - 1) /
 * (mantissa + 1). |s| <= 0.172, so that the first term left out, 2 s^21 / 21, is below 2^-56. The rounded result is
 * that of log2 in double, which glibc 2.29 gave a new symbol version: with it no wheel could be manylinux_2_28. log1p
 * and frexp have an old one and took two to three times as long. */
static inline float tfast_log_sum(float top, float total) {
    if (!(total < INFINITY)) return top + total;
    double mantissa = total;
    uint64_t bits;
    memcpy(&bits, &mantissa, sizeof bits);
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcd; /* the bits of sqrt(1/2) */
    const int64_t exponent = (int64_t)(bits - sqrt_half) >> 52;
    bits -= (uint64_t)exponent << 52;
    memcpy(&mantissa, &bits, sizeof bits);
    const double s = (mantissa - 1) / (mantissa + 1), square = s * s;
    double sum = 1.0 / 19;
#pragma GCC unroll 9
    for (int i = 17; i > 0; i -= 2) sum = sum * square + 1.0 / i;
    return (float)(((double)top + (double)exponent) * M_LN2 + 2 * s * sum);
}

#endif

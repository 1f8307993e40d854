/* The natural logarithm of a sum of exponentials that is kept as a maximum in base 2 and a sum: what attention calls
 * lse.
 *
 * Called by kernels/attention/finish.h and by ops/shared_keys.c. Other functions of libm that need a version of their
 * own belong here, too. */
#ifndef TFAST_BASE_LOG_SUM_H
#define TFAST_BASE_LOG_SUM_H

#include <math.h>

/* log(total * 2^top), total > 0. log and log2 in double got a new symbol version in glibc 2.29, with which no wheel
 * could be manylinux_2_28; log1p and frexp have theirs from 2.2.5. log1p of the mantissa less 1, which is exact, loses
 * nothing. */
static inline float tfast_log_sum(float top, float total) {
    int exponent;
    const double mantissa = frexp((double)total, &exponent);
    return (float)(((double)top + exponent) * M_LN2 + log1p(mantissa - 1));
}

#endif

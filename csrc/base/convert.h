/* bfloat16 and half precision, one number at a time: the rules that every vectorised conversion follows.
 *
 * Used by kernels that pack or unpack weights, by attention's stores, and by the caches of decoders (ops/cache.h). */
#ifndef TFAST_BASE_CONVERT_H
#define TFAST_BASE_CONVERT_H

#include <stdint.h>
#include <string.h>

static inline float tfast_f32_from_bf16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* Exact. A subnormal's mantissa under the exponent of 2^-14 is that number plus 2^-14. */
static inline float tfast_f32_from_f16(uint16_t x) {
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = x & 0x7c00u,
                   mantissa = (uint32_t)(x & 0x3ffu) << 13;
    uint32_t bits = mantissa | (exponent == 0x7c00u ? 0x7f800000u : (exponent << 13) + (112u << 23));
    float y;
    if (exponent == 0) {
        bits = mantissa | 113u << 23;
        memcpy(&y, &bits, sizeof y);
        y -= 6.103515625e-05f; /* 2^-14 */
        memcpy(&bits, &y, sizeof bits);
    }
    bits |= sign;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest, ties to even; NaN stays NaN (quiet), what rounds beyond the range becomes infinity. */
static inline uint16_t tfast_bf16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* To the nearest, ties to even; from 65520 on infinity. A subnormal result: adding 1/2 leaves steps of 2^-24 in the
 * mantissa, rounded by the addition. */
static inline uint16_t tfast_f16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        float y;
        memcpy(&y, &magnitude, sizeof y);
        y += 0.5f;
        memcpy(&bits, &y, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | rounded >> 13);
}

#endif

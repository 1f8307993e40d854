/* bfloat16, one number at a time: the rule that every vectorised conversion follows.
 *
 * Used by kernels that pack or unpack weights, and by attention's stores. */
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

/* To the nearest, ties to even; NaN stays NaN (quiet), what rounds beyond the range becomes infinity. */
static inline uint16_t tfast_bf16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif

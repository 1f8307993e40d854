/* Keys and values of decoders: where they lie, and how new ones are stored. Included by ops/decoder.c; its Python twin,
 * to the bit, is transformer_fast/nn/cache.py. Another type of a cache: its case in store_values here, `Store` there.
 */
#ifndef TFAST_OPS_CACHE_H
#define TFAST_OPS_CACHE_H

#include <math.h>
#include <string.h>

#include "../base/convert.h"
#include "../tfast.h"

static inline int64_t cache_element_bytes(tfast_dtype dtype) {
    return dtype == TFAST_F32 ? 4 : dtype == TFAST_I8 ? 1 : 2;
}

/* Which of the rows of D values of a layer's array a position of row b and head g is. */
static inline int64_t cache_row(const tfast_cache* cache, int64_t Hkv, int64_t b, int64_t g, int64_t position) {
    const tfast_pages* pages = &cache->pages;
    if (!pages->table) return (b * Hkv + g) * cache->capacity + position;
    return (pages->table[b * pages->stride + position / pages->size] * Hkv + g) * pages->size + position % pages->size;
}

/* n floats -> int8 with one scale: the greatest |x| / 127; 0 for zeros. A float with NaN or infinity gives a scale that
 * is one, and so attention a row of NaN. */
static inline void store_int8(const float* x, int64_t n, int8_t* to, float* scale) {
    float most = 0;
    int finite = 1;
    for (int64_t i = 0; i < n; i++) {
        const float magnitude = fabsf(x[i]);
        finite &= magnitude <= 3.402823466e38f;
        most = magnitude > most ? magnitude : most;
    }
    if (!finite) {
        memset(to, 0, (size_t)n);
        *scale = NAN;
        return;
    }
    *scale = most / 127;
    /* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, as rint does, which is a call without SSE4.1. A
     * scale that is 0 or has no inverse (a denormal) stores zeros. */
    const float inverse = *scale >= 1.17549435e-38f ? 1 / *scale : 0, magic = 12582912;
    for (int64_t i = 0; i < n; i++) {
        const float rounded = x[i] * inverse + magic;
        to[i] = (int8_t)(int32_t)(rounded - magic);
    }
}

/* n floats of one head and position in the type of the cache; scale: I8 alone. */
static inline void store_values(const float* x, int64_t n, tfast_dtype dtype, void* to, float* scale) {
    uint16_t* half = to;
    switch (dtype) {
    case TFAST_F32:
        memcpy(to, x, (size_t)n * sizeof *x);
        break;
    case TFAST_BF16:
        for (int64_t i = 0; i < n; i++) half[i] = tfast_bf16_from_f32(x[i]);
        break;
    case TFAST_F16:
        for (int64_t i = 0; i < n; i++) half[i] = tfast_f16_from_f32(x[i]);
        break;
    case TFAST_I8:
        store_int8(x, n, to, scale);
        break;
    case TFAST_BLOCKS: /* of weights alone */
    case TFAST_U8:     /* of vectors that are searched alone */
        break;
    }
}

#endif

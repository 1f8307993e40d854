/* clang-format off
 * The baseline: four lanes by GCC's and clang's portable vectors. It compiles for any machine (SSE2 on x86-64, NEON on
 * arm64) and is the specification of the names that every simd/<isa>.h has:
 *
 *   vf, vm                    V_LANES floats; a mask of as many lanes
 *   v_load_n, v_store_n       the first n lanes only (0 <= n <= V_LANES); what lies behind is neither read nor written;
 *                             other lanes read as 0
 *   v_fma(a, b, c)            a * b + c (one rounding where the machine has it)
 *   v_max, v_min(a, b)        the second operand where one of them is NaN
 *   v_select(m, a, b)         a where m, else b
 *   v_exp2_clamp, v_frac, v_scale2    2^x = v_scale2(polynomial(v_frac(c)), c) with c = v_exp2_clamp(x); see math.h
 *   v_from_mask_bytes(p, n)   0 where the byte is not 0, -infinity where it is 0 (n bytes are read)
 *   v_load_f16, v_load_bf16   V_LANES half-precision numbers, widened
 *   v_load_bf16_pairs         2 * V_LANES of them: the even ones in one vector, the odd ones in the other
 *   v_transpose(x)            the V_LANES x V_LANES block, in place
 *   v_sums(x)                 one vector: lane i is the sum of x[i]
 *
 * Included by isa/scalar.c alone.
 * clang-format on */
#ifndef TFAST_SIMD_SCALAR_H
#define TFAST_SIMD_SCALAR_H

#include <math.h>
#include <string.h>

#include "../base/types.h"

#define V_LANES 4
typedef float vf __attribute__((vector_size(16), aligned(16)));
typedef int32_t vm __attribute__((vector_size(16), aligned(16)));

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vf v_zero(void) {
    return (vf){0, 0, 0, 0};
}
V_INLINE vf v_set1(float x) {
    return (vf){x, x, x, x};
}
V_INLINE vf v_load(const float* p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
V_INLINE void v_store(float* p, vf x) {
    memcpy(p, &x, sizeof x);
}
V_INLINE vf v_load_n(const float* p, int64_t n) {
    vf x = v_zero();
    for (int64_t i = 0; i < n && i < V_LANES; i++) x[i] = p[i];
    return x;
}
V_INLINE void v_store_n(float* p, vf x, int64_t n) {
    for (int64_t i = 0; i < n && i < V_LANES; i++) p[i] = x[i];
}
V_INLINE vf v_add(vf a, vf b) {
    return a + b;
}
V_INLINE vf v_sub(vf a, vf b) {
    return a - b;
}
V_INLINE vf v_mul(vf a, vf b) {
    return a * b;
}
V_INLINE vf v_div(vf a, vf b) {
    return a / b;
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return a * b + c;
}
V_INLINE vm v_lt(vf a, vf b) {
    return a < b;
}
V_INLINE vm v_le(vf a, vf b) {
    return a <= b;
}
V_INLINE vm v_and(vm a, vm b) {
    return a & b;
}
V_INLINE int v_all(vm m) {
    return m[0] && m[1] && m[2] && m[3];
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return (vf)(((vm)a & m) | ((vm)b & ~m));
}
V_INLINE vf v_max(vf a, vf b) {
    return v_select(a > b, a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return v_select(a < b, a, b);
}
V_INLINE vf v_abs(vf a) {
    return (vf)((vm)a & (vm){0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff});
}
V_INLINE float v_sum(vf a) {
    return (a[0] + a[2]) + (a[1] + a[3]);
}
V_INLINE float v_hmax(vf a) {
    const float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
}
V_INLINE vf v_exp2_clamp(vf x) {
    return v_min(v_set1(128.0f), v_max(v_set1(-127.0f), x));
}
/* Conversion cuts towards zero; one less where that was above x. NaN gives any integer here and NaN by the subtraction.
 */
V_INLINE vm v_floor_(vf x) {
    const vm n = __builtin_convertvector(v_select(x == x, x, v_zero()), vm);
    return n + (__builtin_convertvector(n, vf) > x);
}
V_INLINE vf v_frac(vf x) {
    return x - __builtin_convertvector(v_floor_(x), vf);
}
V_INLINE vf v_scale2(vf p, vf x) {
    return p * (vf)((v_floor_(x) + 127) << 23);
}
V_INLINE vf v_from_mask_bytes(const uint8_t* p, int64_t n) {
    vf x = v_zero();
    for (int64_t i = 0; i < V_LANES; i++) x[i] = i < n && p[i] ? 0.0f : -INFINITY;
    return x;
}
V_INLINE vf v_load_f16(const uint16_t* p) {
    vf x;
    for (int i = 0; i < V_LANES; i++) {
        const uint32_t h = p[i], sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
        uint32_t bits;
        if (rest >= 0x7c00u) {
            bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
        } else if (rest >= 0x400u) {
            bits = sign | ((rest << 13) + (112u << 23));
        } else {
            const float tiny = (float)rest * 0x1p-24f; /* subnormal: the mantissa counts steps of 2^-24 */
            memcpy(&bits, &tiny, 4);
            bits |= sign;
        }
        memcpy((float*)&x + i, &bits, 4);
    }
    return x;
}
V_INLINE vf v_load_bf16(const uint16_t* p) {
    vm x = {p[0], p[1], p[2], p[3]};
    return (vf)(x << 16);
}
/* Element 2 i of p widened to lane i of even, 2 i + 1 of odd. */
V_INLINE void v_load_bf16_pairs(const uint16_t* p, vf* even, vf* odd) {
    vm x;
    memcpy(&x, p, sizeof x);
    *even = (vf)(x << 16);
    *odd = (vf)(x & (vm){-65536, -65536, -65536, -65536});
}
V_INLINE void v_transpose(vf x[4]) {
    for (int i = 0; i < 4; i++)
        for (int j = i + 1; j < 4; j++) {
            const float t = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = t;
        }
}

V_INLINE vf v_sums(const vf x[4]) {
    return (vf){v_sum(x[0]), v_sum(x[1]), v_sum(x[2]), v_sum(x[3])};
}

#endif

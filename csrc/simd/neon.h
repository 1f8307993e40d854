/* NEON (arm64: Armv8-A and later, Apple's processors) spelling of the vector names; see portable.h for what each one
 * means.
 *
 * Included by isa/neon.c, isa/neondot.c and isa/neoni8mm.c. TFAST_NEON_DOT says that the level has sdot, which
 * multiplies four bytes of a lane at once, TFAST_NEON_I8MM that it has smmla, too.
 *
 * A vector is 16 bytes, and there are 32 of them. Multiplications take one operand from a lane of a register
 * (`v_fma_by`, `vi_dot_by`): the value is then loaded as a scalar, by the load units alone, where a load that repeats
 * it (ld1r) takes a slot of the vector units as well on Neoverse N1. */
#ifndef TFAST_SIMD_NEON_H
#define TFAST_SIMD_NEON_H

#define V_LANES     4
#define V_REGISTERS 32
/* There is no product of unsigned and signed bytes before i8mm: bytes of x and codes are signed, too. */
#define VI_SIGNED_BYTES 1
/* Without sdot pairs of products are added in 16 bits. With it x is a factor: a load of weights serves all rows. */
#if defined(TFAST_NEON_DOT)
#define VI_DOT_TAKES_FACTOR
#if defined(TFAST_NEON_I8MM)
#define VI_DOT_TAKES_MATRICES
#endif
#define VI_DOT_BYTES_IS_BOUNDED 0
#define VI_CODES_IN_SHORTS      0
#else
#define VI_DOT_BYTES_IS_BOUNDED 1
#define VI_CODES_IN_SHORTS      1
#endif

#if defined(TFAST_EMULATED)
#include "portable.h"
#else

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "../base/types.h"

typedef float32x4_t vf;
typedef uint32x4_t vm;
typedef int32x4_t vi;

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vf v_zero(void) {
    return vdupq_n_f32(0.0f);
}
V_INLINE vf v_set1(float x) {
    return vdupq_n_f32(x);
}
V_INLINE vf v_load(const float* p) {
    return vld1q_f32(p);
}
V_INLINE void v_store(float* p, vf x) {
    vst1q_f32(p, x);
}
V_INLINE vf v_load_n(const float* p, int64_t n) {
    if (n >= 4) return vld1q_f32(p);
    vf x = vdupq_n_f32(0.0f);
    if (n >= 2) x = vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
    if (n == 3) return vld1q_lane_f32(p + 2, x, 2);
    return n == 1 ? vld1q_lane_f32(p, x, 0) : x;
}
V_INLINE void v_store_n(float* p, vf x, int64_t n) {
    if (n >= 4) {
        vst1q_f32(p, x);
        return;
    }
    if (n >= 2) vst1_f32(p, vget_low_f32(x));
    if (n == 3) vst1q_lane_f32(p + 2, x, 2);
    if (n == 1) vst1q_lane_f32(p, x, 0);
}
V_INLINE vf v_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
#define V_BY_LANE
typedef float v_factor;
V_INLINE v_factor v_load_factor(const float* p) {
    return *p;
}
/* Left to itself gcc 12 repeats one of eight factors by ld1r and spills three sums of the tile 8 x 3. */
V_INLINE vf v_fma_by(v_factor a, vf b, vf c) {
#if defined(__clang__)
    return vfmaq_n_f32(c, b, a);
#else
    __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(b), "w"(a));
    return c;
#endif
}
/* fmax gives NaN where either operand is, fmaxnm where both are: neither is the second operand. */
V_INLINE vf v_max(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
V_INLINE vf v_abs(vf a) {
    return vabsq_f32(a);
}
V_INLINE vm v_lt(vf a, vf b) {
    return vcltq_f32(a, b);
}
V_INLINE vm v_le(vf a, vf b) {
    return vcleq_f32(a, b);
}
V_INLINE vm v_and(vm a, vm b) {
    return vandq_u32(a, b);
}
V_INLINE int v_all(vm m) {
    return vminvq_u32(m) != 0;
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return vbslq_f32(m, a, b);
}
V_INLINE float v_sum(vf a) {
    return vaddvq_f32(a);
}
V_INLINE float v_hmax(vf a) {
    return vmaxvq_f32(a);
}
/* -127 has the exponent bits 0, which read as the number 0; 128 has those of infinity. NaN stays NaN, which is all that
 * is asked here: one instruction each. */
V_INLINE vf v_exp2_clamp(vf x) {
    return vminq_f32(vmaxq_f32(x, vdupq_n_f32(-127.0f)), vdupq_n_f32(128.0f));
}
V_INLINE vf v_frac(vf x) {
    return vsubq_f32(x, vrndmq_f32(x));
}
V_INLINE vf v_scale2(vf p, vf x) {
    const int32x4_t n = vaddq_s32(vcvtmq_s32_f32(x), vdupq_n_s32(127));
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(n, 23)));
}
V_INLINE int16x8_t vi_widen_4_(const void* p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)));
}
V_INLINE uint16x8_t vi_widen_4_unsigned_(const void* p, size_t n) {
    uint32_t bytes = 0;
    memcpy(&bytes, p, n);
    return vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
}
V_INLINE vf v_from_mask_bytes(const uint8_t* p, int64_t n) {
    const uint32x4_t wide = vmovl_u16(vget_low_u16(vi_widen_4_unsigned_(p, (size_t)n)));
    return vreinterpretq_f32_u32(vandq_u32(vceqzq_u32(wide), vreinterpretq_u32_f32(vdupq_n_f32(-INFINITY))));
}
V_INLINE vf v_load_f16(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
V_INLINE vf v_load_bf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
V_INLINE vf v_load_i8(const int8_t* p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vi_widen_4_(p))));
}
V_INLINE void v_load_bf16_pairs(const uint16_t* p, vf* even, vf* odd) {
    const uint32x4_t x = vreinterpretq_u32_u16(vld1q_u16(p));
    *even = vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
    *odd = vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u)));
}
V_INLINE void v_transpose(vf x[4]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1])),
                      b = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1])),
                      c = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3])),
                      d = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
    x[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    x[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    x[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    x[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
/* The four bytes of each lane: those from 4 * at on. */
V_INLINE vf v_permute(vf x, vi at) {
    const vi bytes = vmlaq_n_s32(vdupq_n_s32(0x03020100), at, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(x), vreinterpretq_u8_s32(bytes)));
}
V_INLINE vf v_sums(const vf x[4]) {
    return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
}

V_INLINE vi vi_zero(void) {
    return vdupq_n_s32(0);
}
V_INLINE vi vi_set1(int32_t x) {
    return vdupq_n_s32(x);
}
V_INLINE vi vi_add(vi a, vi b) {
    return vaddq_s32(a, b);
}
V_INLINE vi v_to_int(vf x) {
    return vcvtnq_s32_f32(x);
}
V_INLINE vf v_from_int(vi x) {
    return vcvtq_f32_s32(x);
}
V_INLINE vi vi_load(const void* p) {
    return vreinterpretq_s32_u8(vld1q_u8(p));
}
V_INLINE void vi_store(void* p, vi x) {
    vst1q_u8(p, vreinterpretq_u8_s32(x));
}
V_INLINE vi vi_sub(vi a, vi b) {
    return vsubq_s32(a, b);
}
V_INLINE vi vi_mul(vi a, vi b) {
    return vmulq_s32(a, b);
}
V_INLINE vi vi_abs(vi a) {
    return vabsq_s32(a);
}
V_INLINE vi vi_min(vi a, vi b) {
    return vminq_s32(a, b);
}
V_INLINE vi vi_repeat_4(const void* p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return vdupq_n_s32(x);
}
V_INLINE vi vi_repeat_8(const void* p) {
    int64_t x;
    memcpy(&x, p, sizeof x);
    return vreinterpretq_s32_s64(vdupq_n_s64(x));
}
V_INLINE vi vi_join_bytes(vi a, vi b, vi c, vi d) {
    return vsliq_n_s32(vsliq_n_s32(vsliq_n_s32(a, b, 8), c, 16), d, 24);
}
V_INLINE vi vi_shorts_(vi a, vi b) {
    return vreinterpretq_s32_s16(vqmovn_high_s32(vqmovn_s32(a), b));
}
V_INLINE void vi_store_bytes(void* p, vi a, vi b, vi c, vi d) {
    const int16x8_t ab = vreinterpretq_s16_s32(vi_shorts_(a, b)), cd = vreinterpretq_s16_s32(vi_shorts_(c, d));
    vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(ab), cd));
}
V_INLINE void vi_store_shorts(void* p, vi a, vi b) {
    vi_store(p, vi_shorts_(a, b));
}
#if defined(TFAST_NEON_DOT)
#define VI_BY_LANE
typedef float vi_factor; /* its four bytes */
V_INLINE vi_factor vi_load_factor(const void* p) {
    vi_factor x;
    memcpy(&x, p, sizeof x);
    return x;
}
V_INLINE vi vi_dot_by(vi sum, vi w, vi_factor x) {
#if defined(__clang__)
    return vdotq_lane_s32(sum, vreinterpretq_s8_s32(w), vreinterpret_s8_f32(vdup_n_f32(x)), 0);
#else
    __asm__("sdot %0.4s, %1.16b, %2.4b[0]" : "+w"(sum) : "w"(w), "w"(x));
    return sum;
#endif
}
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    sum = vdotq_s32(sum, vreinterpretq_s8_s32(w0), vreinterpretq_s8_s32(x0));
    return vdotq_s32(sum, vreinterpretq_s8_s32(w1), vreinterpretq_s8_s32(x1));
}
#else
/* Two products of bytes fit in 16 bits, and so do the four of a run (base/int8.h). */
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    const int8x16_t a0 = vreinterpretq_s8_s32(x0), b0 = vreinterpretq_s8_s32(w0), a1 = vreinterpretq_s8_s32(x1),
                    b1 = vreinterpretq_s8_s32(w1);
    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a0), vget_low_s8(b0)), vget_low_s8(a1), vget_low_s8(b1));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(a0, b0), a1, b1);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}
V_INLINE vi vi_dot_codes(vi shorts, vi codes, vi x) {
    const int8x16_t a = vreinterpretq_s8_s32(codes), b = vreinterpretq_s8_s32(x);
    const int16x8_t products = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
    return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(shorts), products));
}
#endif
#if defined(VI_DOT_TAKES_MATRICES)
/* As v_fma_by: gcc 12 loads all columns of a step first, and spills. */
V_INLINE vi vi_dot_matrices(vi sum, vi rows, vi columns) {
#if defined(__clang__)
    return vmmlaq_s32(sum, vreinterpretq_s8_s32(rows), vreinterpretq_s8_s32(columns));
#else
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(rows), "w"(columns));
    return sum;
#endif
}
V_INLINE vi vi_low_halves(vi a, vi b) {
    return vcombine_s32(vget_low_s32(a), vget_low_s32(b));
}
V_INLINE vi vi_high_halves(vi a, vi b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
V_INLINE vi vi_zip_low(vi a, vi b) {
    return vzip1q_s32(a, b);
}
V_INLINE vi vi_zip_high(vi a, vi b) {
    return vzip2q_s32(a, b);
}
#endif
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    const int16x8_t a = vreinterpretq_s16_s32(x), b = vreinterpretq_s16_s32(w);
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
}
V_INLINE vi vi_add_shorts(vi sum, vi shorts) {
    return vpadalq_s16(sum, vreinterpretq_s16_s32(shorts));
}
V_INLINE vi vi_left_by(vi x, vi n) {
    return vshlq_s32(x, n);
}
V_INLINE vi vi_widen_bytes(const void* p) {
    return vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p)));
}
V_INLINE vi vi_and(vi a, vi b) {
    return vandq_s32(a, b);
}
V_INLINE vi vi_or(vi a, vi b) {
    return vorrq_s32(a, b);
}
V_INLINE vi vi_less_128(vi bytes) {
    return vreinterpretq_s32_s8(veorq_s8(vreinterpretq_s8_s32(bytes), vdupq_n_s8(-128)));
}
V_INLINE vi vi_left_shorts(vi x, const int n) {
    return vreinterpretq_s32_u16(vreinterpretq_u16_s32(x) << n);
}
V_INLINE vi vi_right_shorts(vi x, const int n) {
    return vreinterpretq_s32_u16(vreinterpretq_u16_s32(x) >> n);
}
V_INLINE vi vi_sub_shorts(vi a, vi b) {
    return vreinterpretq_s32_s16(vsubq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}
V_INLINE vi vi_lookup(const uint8_t table[16], vi index) {
    return vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_s32(index)));
}
V_INLINE vi vi_load_u8(const void* p) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vi_widen_4_unsigned_(p, 4))));
}
V_INLINE vi vi_load_s8(const void* p) {
    return vmovl_s16(vget_low_s16(vi_widen_4_(p)));
}
V_INLINE vi vi_add_pairs(vi a, vi b) {
    return vpaddq_s32(a, b);
}

#endif
#endif

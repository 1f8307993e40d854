/* AVX-512 (x86-64-v4) spelling of the vector names that all kernels are written in.
 *
 * Included by isa/avx512*.c and isa/amx/amx.c, before the kernels. Every simd/<isa>.h defines the same names;
 * portable.h, the shortest, says what each one means, and takes this file's place in a test build on machines without
 * AVX-512. A name that a kernel needs is added to all of them at once. */
#ifndef TFAST_SIMD_AVX512_H
#define TFAST_SIMD_AVX512_H

#define V_LANES         16
#define V_REGISTERS     32
#define VI_SIGNED_BYTES 0
/* Without VNNI vi_dot_bytes saturates where weights are not bounded (base/int8.h). */
#if defined(TFAST_VNNI)
#define VI_DOT_BYTES_IS_BOUNDED 0
#define VI_CODES_IN_SHORTS      0
#else
#define VI_DOT_BYTES_IS_BOUNDED 1
#define VI_CODES_IN_SHORTS      1
#endif

#if defined(TFAST_EMULATED)
#include "portable.h"
#else

#include <immintrin.h>
#include <math.h>

#include "../base/types.h"

typedef __m512 vf;
typedef __mmask16 vm;
typedef __m512i vi;

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vf v_zero(void) {
    return _mm512_setzero_ps();
}
V_INLINE vf v_set1(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE vf v_load(const float* p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float* p, vf x) {
    _mm512_storeu_ps(p, x);
}
V_INLINE __mmask16 v_first_(int64_t n) {
    return (__mmask16)_bzhi_u32(0xffffu, (unsigned)n);
}
V_INLINE vf v_load_n(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(v_first_(n), p);
}
V_INLINE void v_store_n(float* p, vf x, int64_t n) {
    _mm512_mask_storeu_ps(p, v_first_(n), x);
}
V_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
V_INLINE vf v_abs(vf a) {
    return _mm512_abs_ps(a);
}
V_INLINE vm v_lt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
V_INLINE vm v_le(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
V_INLINE vm v_and(vm a, vm b) {
    return (vm)(a & b);
}
V_INLINE int v_all(vm m) {
    return m == 0xffff;
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return _mm512_mask_blend_ps(m, b, a);
}
V_INLINE float v_sum(vf a) {
    return _mm512_reduce_add_ps(a);
}
V_INLINE float v_hmax(vf a) {
    return _mm512_reduce_max_ps(a);
}
/* vreduceps gives x - floor(x), and 0 for an infinity; vscalefps takes the floor by itself: no clamp is needed. */
V_INLINE vf v_exp2_clamp(vf x) {
    return x;
}
V_INLINE vf v_frac(vf x) {
    return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
V_INLINE vf v_scale2(vf p, vf x) {
    return _mm512_scalef_ps(p, x);
}
V_INLINE vf v_from_mask_bytes(const uint8_t* p, int64_t n) {
    const __mmask16 allowed = _mm_test_epi8_mask(_mm_maskz_loadu_epi8(v_first_(n), p), _mm_set1_epi8(-1));
    return _mm512_mask_blend_ps(allowed, _mm512_set1_ps(-INFINITY), _mm512_setzero_ps());
}
V_INLINE vf v_load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
V_INLINE vf v_load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
V_INLINE vf v_load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}

V_INLINE void v_load_bf16_pairs(const uint16_t* p, vf* even, vf* odd) {
    const __m512i x = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-65536)));
}

/* x[i] lane j -> x[j] lane i, in four rounds: 32-bit pairs, 64-bit pairs, 128-bit blocks twice. */
V_INLINE void v_transpose(vf x[16]) {
    vf t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 2]);
        const __m512d c = _mm512_castps_pd(t[4 * i + 1]), d = _mm512_castps_pd(t[4 * i + 3]);
        x[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        x[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        x[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        x[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(x[i], x[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(x[i], x[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        x[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        x[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        x[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* Lane i of the result: the sum of x[i]. A transpose that adds on the way: 30 shuffles where transposing first
 * takes 64. */
V_INLINE vf v_sums(const vf x[16]) {
    vf s[8], u[4], w[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(s[2 * i]), b = _mm512_castps_pd(s[2 * i + 1]);
        u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        w[i] = _mm512_add_ps(_mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(w[0], w[1], 0x88), _mm512_shuffle_f32x4(w[0], w[1], 0xdd));
}

V_INLINE vi v_bits(vf x) {
    return _mm512_castps_si512(x);
}
V_INLINE vf v_from_bits(vi x) {
    return _mm512_castsi512_ps(x);
}
V_INLINE unsigned v_nan_lanes(vf x) {
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
}
V_INLINE int v_both_finite(vf a, vf b) {
    enum { NOT_FINITE = 0x99 }; /* NaN of both kinds, infinity of both signs */
    return _kortestz_mask16_u8(_mm512_fpclass_ps_mask(a, NOT_FINITE), _mm512_fpclass_ps_mask(b, NOT_FINITE));
}
V_INLINE vi vi_zero(void) {
    return _mm512_setzero_si512();
}
V_INLINE vi vi_set1(int32_t x) {
    return _mm512_set1_epi32(x);
}
V_INLINE vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
V_INLINE vi vi_shift_right(vi x, const int n) {
    return _mm512_srli_epi32(x, n);
}
V_INLINE void vi_store_aligned(void* p, vi x) {
    _mm512_store_si512(p, x);
}
V_INLINE vi vi_halves(vi low, vi high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, vi_shift_right(low, 16), high);
}

V_INLINE vi v_to_int(vf x) {
    return _mm512_cvtps_epi32(x);
}
V_INLINE vf v_from_int(vi x) {
    return _mm512_cvtepi32_ps(x);
}
V_INLINE vi vi_load(const void* p) {
    return _mm512_loadu_si512((const vi*)p);
}
V_INLINE void vi_store(void* p, vi x) {
    _mm512_storeu_si512((vi*)p, x);
}
V_INLINE vf v_permute(vf x, vi at) {
    return _mm512_permutexvar_ps(at, x);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
V_INLINE vi vi_mul(vi a, vi b) {
    return _mm512_mullo_epi32(a, b);
}
V_INLINE vi vi_abs(vi a) {
    return _mm512_abs_epi32(a);
}
V_INLINE vi vi_min(vi a, vi b) {
    return _mm512_min_epi32(a, b);
}
V_INLINE vi vi_repeat_4(const void* p) {
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}
V_INLINE vi vi_repeat_8(const void* p) {
    int64_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm512_set1_epi64(x);
}
V_INLINE vi vi_join_bytes(vi a, vi b, vi c, vi d) {
    const vi low = _mm512_set1_epi32(255);
    const vi ab = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(_mm512_and_si512(b, low), 8));
    return _mm512_or_si512(ab,
                           _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(c, low), 16), _mm512_slli_epi32(d, 24)));
}
V_INLINE void vi_store_bytes(void* p, vi a, vi b, vi c, vi d) {
    __m128i* to = p;
    _mm_storeu_si128(to, _mm512_cvtusepi32_epi8(a));
    _mm_storeu_si128(to + 1, _mm512_cvtusepi32_epi8(b));
    _mm_storeu_si128(to + 2, _mm512_cvtusepi32_epi8(c));
    _mm_storeu_si128(to + 3, _mm512_cvtusepi32_epi8(d));
}
V_INLINE void vi_store_shorts(void* p, vi a, vi b) {
    __m256i* to = p;
    _mm256_storeu_si256(to, _mm512_cvtepi32_epi16(a));
    _mm256_storeu_si256(to + 1, _mm512_cvtepi32_epi16(b));
}
/* As in avx2.h. */
#define VI_KEEP_(x) __asm__ volatile("" : "+v"(x))
#if defined(TFAST_VNNI)
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, x0, w0), x1, w1);
}
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    return _mm512_dpwssd_epi32(sum, x, w);
}
V_INLINE vi vi_dot_codes(vi sum, vi codes, vi x) {
    return _mm512_dpbusd_epi32(sum, codes, x);
}
#else
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    const vi products = _mm512_add_epi16(_mm512_maddubs_epi16(x0, w0), _mm512_maddubs_epi16(x1, w1));
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(products, _mm512_set1_epi16(1)));
    VI_KEEP_(sum);
    return sum;
}
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
    VI_KEEP_(sum);
    return sum;
}
V_INLINE vi vi_dot_codes(vi shorts, vi codes, vi x) {
    shorts = _mm512_add_epi16(shorts, _mm512_maddubs_epi16(codes, x));
    VI_KEEP_(shorts);
    return shorts;
}
#endif
V_INLINE vi vi_add_shorts(vi sum, vi shorts) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(shorts, _mm512_set1_epi16(1)));
}
V_INLINE vi vi_left_by(vi x, vi n) {
    return _mm512_sllv_epi32(x, n);
}
V_INLINE vi vi_widen_bytes(const void* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
V_INLINE vi vi_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
V_INLINE vi vi_left_shorts(vi x, const int n) {
    return _mm512_slli_epi16(x, (unsigned)n);
}
V_INLINE vi vi_right_shorts(vi x, const int n) {
    return _mm512_srli_epi16(x, (unsigned)n);
}
V_INLINE vi vi_sub_shorts(vi a, vi b) {
    return _mm512_sub_epi16(a, b);
}
V_INLINE vi vi_lookup(const uint8_t table[16], vi index) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), index);
}
V_INLINE vi vi_load_u8(const void* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}
V_INLINE vi vi_load_s8(const void* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
}
V_INLINE vi vi_add_pairs(vi a, vi b) {
    const vi even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b),
                            _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b));
}

#if defined(TFAST_DOT_BF16)
V_INLINE void v_store_bf16(void* p, vf a, vf b) {
    _mm512_storeu_si512(p, (vi)_mm512_cvtne2ps_pbh(b, a));
}
V_INLINE vf v_dot_bf16(vf sum, vf a, vf b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

#endif
#endif

/* AVX2 + FMA + F16C (x86-64-v3) spelling of the vector names; see portable.h for what each one means.
 *
 * Included by isa/avx2.c alone. */
#ifndef TFAST_SIMD_AVX2_H
#define TFAST_SIMD_AVX2_H

#define V_LANES         8
#define V_REGISTERS     16
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

typedef __m256 vf;
typedef __m256 vm;
typedef __m256i vi;

#define V_INLINE static inline __attribute__((always_inline))

V_INLINE vf v_zero(void) {
    return _mm256_setzero_ps();
}
V_INLINE vf v_set1(float x) {
    return _mm256_set1_ps(x);
}
V_INLINE vf v_load(const float* p) {
    return _mm256_loadu_ps(p);
}
V_INLINE void v_store(float* p, vf x) {
    _mm256_storeu_ps(p, x);
}
V_INLINE __m256i v_first_(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
V_INLINE vf v_load_n(const float* p, int64_t n) {
    return _mm256_maskload_ps(p, v_first_(n));
}
V_INLINE void v_store_n(float* p, vf x, int64_t n) {
    _mm256_maskstore_ps(p, v_first_(n), x);
}
V_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
V_INLINE vf v_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
V_INLINE vm v_lt(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
V_INLINE vm v_le(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
V_INLINE vm v_and(vm a, vm b) {
    return _mm256_and_ps(a, b);
}
V_INLINE int v_all(vm m) {
    return _mm256_movemask_ps(m) == 0xff;
}
V_INLINE vf v_select(vm m, vf a, vf b) {
    return _mm256_blendv_ps(b, a, m);
}
V_INLINE float v_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
V_INLINE float v_hmax(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
/* -127 has the exponent bits 0, which read as the number 0; 128 has those of infinity. maxps and minps return their
 * second operand where one is NaN, so that NaN passes. */
V_INLINE vf v_exp2_clamp(vf x) {
    return _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), x));
}
V_INLINE vf v_frac(vf x) {
    return _mm256_sub_ps(x, _mm256_floor_ps(x));
}
V_INLINE vf v_scale2(vf p, vf x) {
    const __m256i n = _mm256_cvtps_epi32(_mm256_floor_ps(x));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)));
}
V_INLINE vf v_from_mask_bytes(const uint8_t* p, int64_t n) {
    uint64_t bytes = 0;
    __builtin_memcpy(&bytes, p, (size_t)n);
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
    const __m256i masked = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
    return _mm256_and_ps(_mm256_castsi256_ps(masked), _mm256_set1_ps(-INFINITY));
}
V_INLINE vf v_load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
V_INLINE vf v_load_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
V_INLINE vf v_load_i8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}

V_INLINE void v_load_bf16_pairs(const uint16_t* p, vf* even, vf* odd) {
    const __m256i x = _mm256_loadu_si256((const __m256i*)p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536)));
}

V_INLINE void v_transpose(vf x[8]) {
    vf t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        x[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        x[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        x[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        x[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) x[i] = t[i];
}

/* As in avx512.h: a transpose that adds on the way. */
V_INLINE vf v_sums(const vf x[8]) {
    vf s[4], u[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        s[i] = _mm256_add_ps(_mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        u[i] = _mm256_add_ps(_mm256_shuffle_ps(s[2 * i], s[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(s[2 * i], s[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_permute2f128_ps(u[0], u[1], 0x20), _mm256_permute2f128_ps(u[0], u[1], 0x31));
}

V_INLINE vi vi_zero(void) {
    return _mm256_setzero_si256();
}
V_INLINE vi vi_set1(int32_t x) {
    return _mm256_set1_epi32(x);
}
V_INLINE vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
V_INLINE vi v_to_int(vf x) {
    return _mm256_cvtps_epi32(x);
}
V_INLINE vf v_from_int(vi x) {
    return _mm256_cvtepi32_ps(x);
}
V_INLINE vi vi_load(const void* p) {
    return _mm256_loadu_si256((const vi*)p);
}
V_INLINE void vi_store(void* p, vi x) {
    _mm256_storeu_si256((vi*)p, x);
}
V_INLINE vf v_permute(vf x, vi at) {
    return _mm256_permutevar8x32_ps(x, at);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
V_INLINE vi vi_mul(vi a, vi b) {
    return _mm256_mullo_epi32(a, b);
}
V_INLINE vi vi_abs(vi a) {
    return _mm256_abs_epi32(a);
}
V_INLINE vi vi_min(vi a, vi b) {
    return _mm256_min_epi32(a, b);
}
V_INLINE vi vi_repeat_4(const void* p) {
    int32_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}
V_INLINE vi vi_repeat_8(const void* p) {
    int64_t x;
    __builtin_memcpy(&x, p, sizeof x);
    return _mm256_set1_epi64x(x);
}
V_INLINE vi vi_join_bytes(vi a, vi b, vi c, vi d) {
    const vi low = _mm256_set1_epi32(255);
    const vi ab = _mm256_or_si256(_mm256_and_si256(a, low), _mm256_slli_epi32(_mm256_and_si256(b, low), 8));
    return _mm256_or_si256(ab,
                           _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(c, low), 16), _mm256_slli_epi32(d, 24)));
}
/* The packs work on halves of the vector: the permutation puts them in order. */
V_INLINE void vi_store_bytes(void* p, vi a, vi b, vi c, vi d) {
    const vi bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    vi_store(p, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
V_INLINE void vi_store_shorts(void* p, vi a, vi b) {
    vi_store(p, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
}
/* Left to itself gcc 12 moves vpmaddwd out of the loop of a tile and spills the sums; it cannot where the addition is
 * spelled out. */
#if defined(TFAST_VNNI)
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, x0, w0), x1, w1);
}
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    return _mm256_dpwssd_avx_epi32(sum, x, w);
}
V_INLINE vi vi_dot_codes(vi sum, vi codes, vi x) {
    return _mm256_dpbusd_avx_epi32(sum, codes, x);
}
#else
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    const vi products = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1));
    const vi wide = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(wide));
    return sum;
}
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    const vi products = _mm256_madd_epi16(x, w);
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
    return sum;
}
V_INLINE vi vi_dot_codes(vi shorts, vi codes, vi x) {
    const vi products = _mm256_maddubs_epi16(codes, x);
    __asm__("vpaddw %1, %0, %0" : "+x"(shorts) : "x"(products));
    return shorts;
}
#endif
V_INLINE vi vi_add_shorts(vi sum, vi shorts) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(shorts, _mm256_set1_epi16(1)));
}
V_INLINE vi vi_left_by(vi x, vi n) {
    return _mm256_sllv_epi32(x, n);
}
V_INLINE vi vi_widen_bytes(const void* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
}
V_INLINE vi vi_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
V_INLINE vi vi_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
V_INLINE vi vi_left_shorts(vi x, const int n) {
    return _mm256_slli_epi16(x, n);
}
V_INLINE vi vi_right_shorts(vi x, const int n) {
    return _mm256_srli_epi16(x, n);
}
V_INLINE vi vi_sub_shorts(vi a, vi b) {
    return _mm256_sub_epi16(a, b);
}
V_INLINE vi vi_lookup(const uint8_t table[16], vi index) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), index);
}
V_INLINE vi vi_load_u8(const void* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
V_INLINE vi vi_load_s8(const void* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
V_INLINE vi vi_add_pairs(vi a, vi b) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

#endif
#endif

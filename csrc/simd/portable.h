/* clang-format off
 * Vectors of the compiler (GCC and clang): they compile for any machine, and are the specification of the names that
 * every simd/<isa>.h has:
 *
 *   vf, vm, vi                V_LANES floats; a mask of as many lanes; V_LANES 32-bit integers
 *   v_load_n, v_store_n       the first n lanes only (0 <= n <= V_LANES); memory after them is neither read nor written;
 *                             other lanes read as 0
 *   v_fma(a, b, c)            a * b + c (one rounding where the machine has it)
 *   v_load_factor(p)          the float at p, to meet every lane: v_fma_by(factor, b, c) is v_fma with it. Vectors in
 *                             math.h, where no instruction takes a lane of a register for them
 *   v_max, v_min(a, b)        the second operand where one of them is NaN
 *   v_select(m, a, b)         a where m, else b
 *   v_exp2_clamp, v_frac, v_scale2    2^x = v_scale2(polynomial(v_frac(c)), c) with c = v_exp2_clamp(x); see math.h
 *   v_from_mask_bytes(p, n)   0 where the byte is not 0, -infinity where it is 0 (n bytes are read)
 *   v_load_f16, v_load_bf16   V_LANES half-precision numbers, widened
 *   v_load_i8                 V_LANES signed bytes, as floats
 *   v_load_bf16_pairs         2 * V_LANES of them: the even ones in one vector, the odd ones in the other
 *   v_permute(x, at)          lane i is lane at[i] of x, 0 <= at[i] < V_LANES
 *   v_transpose(x)            the V_LANES x V_LANES block, in place
 *   v_sums(x)                 one vector: lane i is the sum of x[i]
 *
 * for kernels of integers (gemm/int8.h):
 *
 *   v_to_int(x)               the nearest integers, ties to even, of |x| < 2^22; v_from_int: integers as floats
 *   vi_zero, vi_set1, vi_load, vi_store, vi_add, vi_sub, vi_mul, vi_abs, vi_min      modulo 2^32
 *   vi_repeat_4(p), vi_repeat_8(p)    4 or 8 bytes at p, again and again
 *   vi_join_bytes(a, b, c, d) the low bytes of four vectors: those of a lane side by side
 *   vi_store_bytes(p, a, b, c, d)     4 * V_LANES integers >= 0 as bytes in order, those above 255 as 255; with
 *                             VI_SIGNED_BYTES signed ones, those above 127 as 127
 *   vi_store_shorts(p, a, b)  2 * V_LANES integers of 16 bits in order
 *   vi_dot_bytes(sum, x0, w0, x1, w1)    each lane: sum + the products of its four bytes of x0, unsigned (signed with
 *                             VI_SIGNED_BYTES), and of w0, signed, + those of x1 and w1; with VI_DOT_BYTES_IS_BOUNDED
 *                             only weights that are bounded as base/int8.h says
 *   vi_dot_matrices(sum, rows, columns)  with VI_DOT_TAKES_MATRICES alone, and four lanes: sum + the 2 x 2 products of two
 *                             rows and two columns of eight signed bytes, row by row. With it:
 *                             vi_low_halves, vi_high_halves(a, b)   the lower or upper lanes of a, then those of b
 *                             vi_zip_low, vi_zip_high(a, b)   lanes of the lower or upper halves in turn
 *   vi_dot_shorts(sum, x, w)  each lane: sum + the products of its two 16-bit integers of x and of w
 *   vi_widen_bytes(p)         2 * V_LANES signed bytes as 16-bit integers
 *   vi_add_pairs(a, b)        lane i: the sum of lanes 2i and 2i + 1 of a and b, one after the other
 *
 * for weights in blocks (gemm/blocks.h):
 *
 *   vi_dot_codes(sum, codes, x)    each lane: sum + the products of its four unsigned bytes of codes (signed with
 *                             VI_SIGNED_BYTES) and signed ones of x; with VI_CODES_IN_SHORTS, sums of two of them in 16
 *                             bits, modulo 2^16
 *   vi_load_factor(p)         4 bytes at p, to meet every lane: vi_dot_by(sum, codes, factor) is vi_dot_codes with them.
 *                             Vectors in math.h, where no instruction takes a lane of a register for them
 *   vi_less_128(x)            each byte less 128, signed; with VI_SIGNED_BYTES alone
 *   vi_add_shorts(sum, shorts)     each lane: sum + its two 16-bit integers: the end of such sums
 *   vi_left_by(x, n)          each 32 bits by those of n
 *   vi_and, vi_or             of all bits
 *   vi_left_shorts, vi_right_shorts(x, n)    each 16 bits by themselves, zeros come in; vi_sub_shorts(a, b) likewise
 *   vi_lookup(table, index)   each byte of index, 0 to 15, becomes table[byte]
 *   vi_load_u8, vi_load_s8    V_LANES bytes, unsigned or signed, as integers
 *
 * and, for kernels that work on bits, which avx512.h has as well (avx2.h gets them with the first kernel that asks):
 *
 *   v_bits, v_from_bits       a float's bits as an integer, and back
 *   v_nan_lanes(x)            bit i is set where lane i is NaN
 *   v_both_finite(a, b)       no lane of either is NaN or infinite
 *   vi_shift_right            each 32 bits; zeros come in
 *   vi_store_aligned(p, x)    p is aligned to the vector
 *   vi_halves(low, high)      the upper 16 bits of `low`, moved down, under the upper 16 bits of `high`
 *
 * and, for levels that multiply bfloat16 (gemm/bf16_pairs.h, isa/amx/), which avx512.h has as well:
 *
 *   v_store_bf16(p, a, b)     2 * V_LANES floats in order, rounded to bfloat16; denormals become 0
 *   v_dot_bf16(sum, a, b)     each lane: sum + the product of the odd bfloat16 of a and b, then + that of the even ones,
 *                             each rounded; denormals count as 0 and become 0
 *
 * Included by isa/portable.c with 4 lanes (SSE2 on x86-64, NEON on arm64), and by neon.h, avx2.h and avx512.h with 4, 8
 * and 16 where a test build emulates them: V_LANES, V_REGISTERS (how many vectors the machine holds), VI_SIGNED_BYTES,
 * VI_DOT_BYTES_IS_BOUNDED and VI_CODES_IN_SHORTS are defined before.
 * clang-format on */
#ifndef TFAST_SIMD_PORTABLE_H
#define TFAST_SIMD_PORTABLE_H

#include <math.h>
#include <string.h>

#include "../base/convert.h"
#include "../base/types.h"

typedef float vf __attribute__((vector_size(4 * V_LANES), aligned(4 * V_LANES)));
typedef int32_t vm __attribute__((vector_size(4 * V_LANES), aligned(4 * V_LANES)));
typedef vm vi;
typedef uint32_t vu_ __attribute__((vector_size(4 * V_LANES), aligned(4 * V_LANES))); /* wraps, shifts in zeros */

#define V_INLINE static inline __attribute__((always_inline))
/* Operations of many instructions. Where a vector takes four registers, kernels with all of them inlined are megabytes.
 */
#if !defined(TFAST_EMULATED)
#define V_LONG V_INLINE
#else
#define V_LONG static __attribute__((noinline, unused))
#endif

V_INLINE vf v_zero(void) {
    return (vf){0};
}
V_INLINE vf v_set1(float x) {
    return x - (vf){0}; /* the compiler's way to broadcast; -0 - 0 is -0 */
}
V_INLINE vf v_load(const float* p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
V_INLINE void v_store(float* p, vf x) {
    memcpy(p, &x, sizeof x);
}
V_LONG vf v_load_n(const float* p, int64_t n) {
    vf x = v_zero();
    for (int64_t i = 0; i < n && i < V_LANES; i++) x[i] = p[i];
    return x;
}
V_LONG void v_store_n(float* p, vf x, int64_t n) {
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
#if !defined(TFAST_EMULATED)
V_INLINE vf v_fma(vf a, vf b, vf c) {
    return a * b + c;
}
#else
/* What it emulates rounds once. The product is exact in double precision; the sum is rounded to it and then to single
 * precision, which differs from one rounding in about one of 2^29 cases. */
V_LONG vf v_fma(vf a, vf b, vf c) {
    typedef float four __attribute__((vector_size(16)));
    typedef double wide __attribute__((vector_size(32)));
    four x, y, z;
#pragma GCC unroll 4
    for (int i = 0; i < V_LANES / 4; i++) {
        memcpy(&x, (const char*)&a + 16 * i, sizeof x);
        memcpy(&y, (const char*)&b + 16 * i, sizeof y);
        memcpy(&z, (const char*)&c + 16 * i, sizeof z);
        z = __builtin_convertvector(__builtin_convertvector(x, wide) * __builtin_convertvector(y, wide) +
                                        __builtin_convertvector(z, wide),
                                    four);
        memcpy((char*)&c + 16 * i, &z, sizeof z);
    }
    return c;
}
#endif
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
    int all = 1;
    for (int i = 0; i < V_LANES; i++) all &= m[i] != 0;
    return all;
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
    return (vf)((vm)a & 0x7fffffff);
}
/* Halves are laid over each other until one lane is left. */
V_LONG float v_sum(vf a) {
#pragma GCC unroll 4
    for (int n = V_LANES / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) a[i] += a[i + n];
    return a[0];
}
V_LONG float v_hmax(vf a) {
#pragma GCC unroll 4
    for (int n = V_LANES / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) a[i] = a[i] > a[i + n] ? a[i] : a[i + n];
    return a[0];
}
V_INLINE vf v_exp2_clamp(vf x) {
    return v_min(v_set1(128.0f), v_max(v_set1(-127.0f), x));
}
/* Conversion cuts towards zero; one less where that was above x. NaN gives any integer here and NaN by the subtraction.
 */
V_LONG vm v_floor_(vf x) {
    const vm n = __builtin_convertvector(v_select(x == x, x, v_zero()), vm);
    return n + (__builtin_convertvector(n, vf) > x);
}
V_INLINE vf v_frac(vf x) {
    return x - __builtin_convertvector(v_floor_(x), vf);
}
V_INLINE vf v_scale2(vf p, vf x) {
    return p * (vf)((v_floor_(x) + 127) << 23);
}
V_LONG vf v_from_mask_bytes(const uint8_t* p, int64_t n) {
    vf x = v_zero();
    for (int64_t i = 0; i < V_LANES; i++) x[i] = i < n && p[i] ? 0.0f : -INFINITY;
    return x;
}
V_LONG vf v_load_f16(const uint16_t* p) {
    vm x = {0};
    for (int i = 0; i < V_LANES; i++) x[i] = p[i];
    const vm rest = x & 0x7fff, tiny = rest < 0x400, special = rest >= 0x7c00; /* infinity, NaN */
    const vm wide = (rest << 13) + (112 << 23) + (special & 112 << 23);
    const vm counted = (vm)(__builtin_convertvector(rest, vf) * 0x1p-24f); /* subnormals count steps of 2^-24 */
    return (vf)((wide & ~tiny) | (counted & tiny) | (vm)((vu_)(x & 0x8000) << 16));
}
V_LONG vf v_load_bf16(const uint16_t* p) {
    vm x = {0};
    for (int i = 0; i < V_LANES; i++) x[i] = p[i];
    return (vf)(x << 16);
}
V_INLINE vf v_load_i8(const int8_t* p) {
    typedef int8_t lanes_t __attribute__((vector_size(V_LANES)));
    lanes_t x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(__builtin_convertvector(x, vm), vf);
}
/* Element 2 i of p widened to lane i of even, 2 i + 1 of odd. */
V_INLINE void v_load_bf16_pairs(const uint16_t* p, vf* even, vf* odd) {
    vm x;
    memcpy(&x, p, sizeof x);
    *even = (vf)(x << 16);
    *odd = (vf)(x & -65536);
}
V_LONG void v_transpose(vf x[V_LANES]) {
    for (int i = 0; i < V_LANES; i++)
        for (int j = i + 1; j < V_LANES; j++) {
            const float t = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = t;
        }
}

V_LONG vf v_permute(vf x, vi at) {
    vf y;
    for (int i = 0; i < V_LANES; i++) y[i] = x[at[i]];
    return y;
}
V_LONG vf v_sums(const vf x[V_LANES]) {
    vf sums = v_zero();
    for (int i = 0; i < V_LANES; i++) sums[i] = v_sum(x[i]);
    return sums;
}

V_INLINE vi v_bits(vf x) {
    return (vi)x;
}
V_INLINE vf v_from_bits(vi x) {
    return (vf)x;
}
V_INLINE unsigned v_nan_lanes(vf x) {
    unsigned lanes = 0;
    for (int i = 0; i < V_LANES; i++) lanes |= (unsigned)(x[i] != x[i]) << i;
    return lanes;
}
V_INLINE int v_both_finite(vf a, vf b) {
    const vf inf = v_set1(INFINITY);
    return v_all(v_and(v_abs(a) < inf, v_abs(b) < inf));
}
V_INLINE vi vi_zero(void) {
    return (vi){0};
}
V_INLINE vi vi_set1(int32_t x) {
    return (vi){0} + x;
}
V_INLINE vi vi_add(vi a, vi b) {
    return (vi)((vu_)a + (vu_)b);
}
V_INLINE vi vi_and(vi a, vi b) {
    return a & b;
}
V_INLINE vi vi_shift_right(vi x, int n) {
    return (vi)((vu_)x >> n);
}
V_INLINE void vi_store_aligned(void* p, vi x) {
    memcpy(p, &x, sizeof x);
}
V_INLINE vi vi_halves(vi low, vi high) {
    return vi_shift_right(low, 16) | (high & -65536);
}

typedef int16_t vs_ __attribute__((vector_size(4 * V_LANES)));
typedef uint16_t vsu_ __attribute__((vector_size(4 * V_LANES)));

/* Adding 1.5 * 2^23 leaves the integer in the low bits, rounded by the addition. */
V_INLINE vi v_to_int(vf x) {
    const float magic = 12582912.0f;
    return (vi)(x + magic) - (vi)v_set1(magic);
}
V_INLINE vf v_from_int(vi x) {
    return __builtin_convertvector(x, vf);
}
V_INLINE vi vi_load(const void* p) {
    vi x;
    memcpy(&x, p, sizeof x);
    return x;
}
V_INLINE void vi_store(void* p, vi x) {
    memcpy(p, &x, sizeof x);
}
V_INLINE vi vi_sub(vi a, vi b) {
    return (vi)((vu_)a - (vu_)b);
}
V_INLINE vi vi_mul(vi a, vi b) {
    return (vi)((vu_)a * (vu_)b);
}
V_INLINE vi vi_abs(vi a) {
    return vi_sub(a ^ (a >> 31), a >> 31);
}
V_INLINE vi vi_min(vi a, vi b) {
    const vi less = a < b;
    return (a & less) | (b & ~less);
}
V_INLINE vi vi_repeat_4(const void* p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return vi_set1(x);
}
V_INLINE vi vi_repeat_8(const void* p) {
    vi x = {0};
    for (int i = 0; i < V_LANES; i += 2) memcpy((char*)&x + 4 * i, p, 8);
    return x;
}
V_INLINE vi vi_join_bytes(vi a, vi b, vi c, vi d) {
    return (vi)((vu_)(a & 255) | (vu_)(b & 255) << 8 | (vu_)(c & 255) << 16 | (vu_)d << 24);
}
V_LONG void vi_store_bytes(void* p, vi a, vi b, vi c, vi d) {
    const vi* x[4] = {&a, &b, &c, &d};
    uint8_t* to = p;
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < V_LANES; i++)
            to[j * V_LANES + i] = (uint8_t)TFAST_MIN((*x[j])[i], VI_SIGNED_BYTES ? 127 : 255);
}
V_LONG void vi_store_shorts(void* p, vi a, vi b) {
    int16_t to[2 * V_LANES];
    for (int i = 0; i < V_LANES; i++) to[i] = (int16_t)a[i], to[V_LANES + i] = (int16_t)b[i];
    memcpy(p, to, sizeof to);
}
/* The low and the high 16 bits of each lane, with their signs, together. */
V_INLINE vi vi_add_halves_(vs_ x) {
    return ((vi)((vu_)x << 16) >> 16) + ((vi)x >> 16);
}
/* A product of a byte of x and one of w fits in 16 bits, bounded or not. */
V_INLINE vi vi_dot_four_bytes_(vi sum, vi x, vi w) {
#if VI_SIGNED_BYTES
    const vs_ x_even = (vs_)((vsu_)x << 8) >> 8, x_odd = (vs_)x >> 8;
#else
    const vs_ x_even = (vs_)((vsu_)x & 255), x_odd = (vs_)((vsu_)x >> 8);
#endif
    const vs_ w_even = (vs_)((vsu_)w << 8) >> 8, w_odd = (vs_)w >> 8;
    return sum + vi_add_halves_(x_even * w_even) + vi_add_halves_(x_odd * w_odd);
}
V_INLINE vi vi_dot_bytes(vi sum, vi x0, vi w0, vi x1, vi w1) {
    return vi_dot_four_bytes_(vi_dot_four_bytes_(sum, x0, w0), x1, w1);
}
#if defined(VI_DOT_TAKES_MATRICES)
V_INLINE vi vi_dot_matrices(vi sum, vi rows, vi columns) {
    int8_t x[16], w[16];
    memcpy(x, &rows, sizeof x);
    memcpy(w, &columns, sizeof w);
    for (int i = 0; i < 32; i++) sum[i / 8] += x[i / 16 * 8 + i % 8] * w[i % 16];
    return sum;
}
V_INLINE vi vi_low_halves(vi a, vi b) {
    return (vi){a[0], a[1], b[0], b[1]};
}
V_INLINE vi vi_high_halves(vi a, vi b) {
    return (vi){a[2], a[3], b[2], b[3]};
}
V_INLINE vi vi_zip_low(vi a, vi b) {
    return (vi){a[0], b[0], a[1], b[1]};
}
V_INLINE vi vi_zip_high(vi a, vi b) {
    return (vi){a[2], b[2], a[3], b[3]};
}
#endif
V_INLINE vi vi_dot_shorts(vi sum, vi x, vi w) {
    return sum + ((vi)((vu_)x << 16) >> 16) * ((vi)((vu_)w << 16) >> 16) + (x >> 16) * (w >> 16);
}
#if VI_CODES_IN_SHORTS
V_INLINE vi vi_dot_codes(vi shorts, vi codes, vi x) {
    const vs_ even = (vs_)((vsu_)codes & 255) * ((vs_)((vsu_)x << 8) >> 8);
    const vs_ odd = (vs_)((vsu_)codes >> 8) * ((vs_)x >> 8);
    return (vi)((vsu_)shorts + (vsu_)even + (vsu_)odd);
}
#else
V_INLINE vi vi_dot_codes(vi sum, vi codes, vi x) {
    return vi_dot_four_bytes_(sum, codes, x);
}
#endif
V_INLINE vi vi_add_shorts(vi sum, vi shorts) {
    return sum + vi_add_halves_((vs_)shorts);
}
V_INLINE vi vi_left_by(vi x, vi n) {
    return (vi)((vu_)x << (vu_)n);
}
V_INLINE vi vi_widen_bytes(const void* p) {
    typedef int8_t bytes_t __attribute__((vector_size(2 * V_LANES)));
    bytes_t x;
    memcpy(&x, p, sizeof x);
    return (vi) __builtin_convertvector(x, vs_);
}
V_INLINE vi vi_or(vi a, vi b) {
    return a | b;
}
V_INLINE vi vi_less_128(vi bytes) {
    return bytes ^ (int32_t)0x80808080;
}
V_INLINE vi vi_left_shorts(vi x, int n) {
    return (vi)((vsu_)x << n);
}
V_INLINE vi vi_right_shorts(vi x, int n) {
    return (vi)((vsu_)x >> n);
}
V_INLINE vi vi_sub_shorts(vi a, vi b) {
    return (vi)((vsu_)a - (vsu_)b);
}
V_LONG vi vi_lookup(const uint8_t table[16], vi index) {
    uint8_t bytes[4 * V_LANES];
    memcpy(bytes, &index, sizeof bytes);
    for (int i = 0; i < 4 * V_LANES; i++) bytes[i] = table[bytes[i] & 15];
    memcpy(&index, bytes, sizeof bytes);
    return index;
}
V_INLINE vi vi_load_u8(const void* p) {
    typedef uint8_t bytes_t __attribute__((vector_size(V_LANES)));
    bytes_t x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vi);
}
V_INLINE vi vi_load_s8(const void* p) {
    typedef int8_t bytes_t __attribute__((vector_size(V_LANES)));
    bytes_t x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vi);
}
V_LONG vi vi_add_pairs(vi a, vi b) {
    vi sums = a;
    for (int i = 0; i < V_LANES / 2; i++) {
        sums[i] = a[2 * i] + a[2 * i + 1];
        sums[V_LANES / 2 + i] = b[2 * i] + b[2 * i + 1];
    }
    return sums;
}

/* 0 in lanes that hold a denormal. */
V_INLINE vf v_flush_(vf x) {
    return v_select(v_lt(v_abs(x), v_set1(0x1p-126f)), v_zero(), x);
}
V_LONG void v_store_bf16(void* p, vf a, vf b) {
    const vf x[2] = {v_flush_(a), v_flush_(b)};
    uint16_t to[2 * V_LANES];
    for (int i = 0; i < 2 * V_LANES; i++) to[i] = tfast_bf16_from_f32(x[i / V_LANES][i % V_LANES]);
    memcpy(p, to, sizeof to);
}
/* A product of two bfloat16 is exact in fp32 unless it leaves the range, so that a multiplication and an addition round
 * once. */
V_LONG vf v_dot_bf16(vf sum, vf a, vf b) {
    const vi x = (vi)a, y = (vi)b;
    sum = v_flush_(v_flush_(sum) + v_flush_((vf)(x & -65536)) * v_flush_((vf)(y & -65536)));
    return v_flush_(sum + v_flush_((vf)(x << 16)) * v_flush_((vf)(y << 16)));
}

/* The same holds for kernels that are inlined for the sake of their constants: emulated, they read them at run time. */
#if defined(TFAST_EMULATED)
#undef V_INLINE
#define V_INLINE static inline
#endif

#endif

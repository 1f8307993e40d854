/* Rows of x as integers: what `prepare` of the formats of integers makes, once for all panels of a block of rows.
 *
 * Used by gemm/int8.h. A row is read twice, from L1 the second time: for its extremes, then to be rounded. Some 12
 * instructions for 8 k, where the product with N channels has 5 N / 8: 5 % of one with 384 channels, and therefore
 * not part of the kernels that make x (norm, GELU, attention), which would each have to know of it.
 *
 * Laid out: rows of bytes (or 16-bit integers), each from a multiple of 64 bytes on, then an int8_row for each. Behind
 * the last k stands anything: the weights there are 0. With VI_DOT_TAKES_MATRICES two rows of bytes share their place,
 * eight k of one and of the other in turn. */
#ifndef TFAST_KERNELS_GEMM_INT8_ROWS_H
#define TFAST_KERNELS_GEMM_INT8_ROWS_H

#include "../../base/int8.h"

/* Where the bytes of vi_dot_bytes() are signed, those of x are so much less than the integers, and so is their zero:
 * from -102 to 102. */
enum { INT8_X_LESS = VI_SIGNED_BYTES ? INT8_X_MAX / 2 : 0 };
_Static_assert(2 * (INT8_X_MAX - INT8_X_LESS) * INT8_RUN_LIMIT <= INT16_MAX || !VI_SIGNED_BYTES,
               "the sum of a run of products must fit in 16 bits");

#if defined(VI_DOT_TAKES_MATRICES)
enum { INT8_ROWS_TOGETHER = 2 };
#else
enum { INT8_ROWS_TOGETHER = 1 };
#endif

/* x[k] * factor[k] = (integer - zero) * scale. A row that holds NaN or infinity has a scale of NaN. */
typedef struct {
    float scale;
    int32_t zero;
} int8_row;

/* Rows of integers `bytes` wide, from one to the next. */
static int64_t int8_row_stride(int64_t k, int bytes) {
    return tfast_round_up(k * bytes, 64);
}

static int8_row* int8_rows_of(const void* rows, int64_t m, int64_t k, int bytes) {
    return (int8_row*)((char*)rows + tfast_round_up(m, INT8_ROW_UNIT) * int8_row_stride(k, bytes));
}

static size_t int8_rows_bytes(int64_t m, int64_t k, int bytes) {
    const int64_t rows = tfast_round_up(m, INT8_ROW_UNIT);
    return (size_t)tfast_round_up(rows * int8_row_stride(k, bytes) + m * (int64_t)sizeof(int8_row), 64);
}

V_INLINE vf load_scaled(const float* x, const float* factor, int64_t i, int64_t k) {
    if (i + V_LANES <= k) return factor ? v_mul(v_load(x + i), v_load(factor + i)) : v_load(x + i);
    const int64_t n = tfast_clamp(k - i, 0, V_LANES);
    return factor ? v_mul(v_load_n(x + i, n), v_load_n(factor + i, n)) : v_load_n(x + i, n);
}

/* Where row i of bytes begins. */
static inline int64_t int8_row_at(int64_t i, int64_t k) {
    const int64_t in_pair = i % INT8_ROWS_TOGETHER;
    return (i - in_pair) * int8_row_stride(k, 1) + in_pair * 8;
}

/* 4 * V_LANES integers as bytes of a row; where the next ones go. */
V_INLINE char* store_row_bytes(char* to, vi a, vi b, vi c, vi d) {
    if (INT8_ROWS_TOGETHER == 1) {
        vi_store_bytes(to, a, b, c, d);
        return to + 4 * V_LANES;
    }
    char bytes[4 * V_LANES];
    vi_store_bytes(bytes, a, b, c, d);
    for (int i = 0; i < 4 * V_LANES; i += 8) memcpy(to + 2 * i, bytes + i, 8);
    return to + 8 * V_LANES;
}

/* The extremes of x * factor and 0. */
typedef struct {
    float low, high;
    int finite;
} extremes_t;

static int all_finite(const float* x, const float* factor, int64_t k) {
    for (int64_t i = 0; i < k; i++)
        if (!(fabsf(factor ? x[i] * factor[i] : x[i]) <= FLT_MAX)) return 0;
    return 1;
}

/* NaN passes v_min and v_max, but stays in the sum; a sum of numbers near the end of the range may leave it, too. */
V_INLINE extremes_t find_extremes(const float* x, const float* factor, int64_t k) {
    vf low = v_zero(), high = low, sum = low;
    for (int64_t i = 0; i < k; i += V_LANES) {
        const vf v = load_scaled(x, factor, i, k);
        low = v_min(v, low);
        high = v_max(v, high);
        sum = v_add(sum, v);
    }
    extremes_t e = {-v_hmax(v_sub(v_zero(), low)), v_hmax(high), 1};
    if (!(fabsf(v_sum(sum)) <= FLT_MAX)) e.finite = all_finite(x, factor, k);
    return e;
}

/* Nearest, ties to even, as v_to_int. */
static int32_t nearest_int(float x) {
    const float magic = 12582912.0f;
    const float moved = x + magic;
    return (int32_t)(moved - magic);
}

/* The scale, and 1 / scale. A scale below FLT_MIN would have no inverse: such rows are rounded to multiples of FLT_MIN.
 */
static int8_row row_of(const extremes_t* e, float* inverse) {
    const float scale = TFAST_MAX(e->high / INT8_X_MAX - e->low / INT8_X_MAX, FLT_MIN);
    *inverse = 1.0f / scale;
    return (int8_row){scale, nearest_int(-e->low * *inverse)};
}

static int8_row symmetric_row_of(const extremes_t* e, int32_t limit, float* inverse) {
    const float scale = TFAST_MAX(TFAST_MAX(e->high, -e->low) / (float)limit, FLT_MIN);
    *inverse = 1.0f / scale;
    return (int8_row){scale, 0};
}

static int8_row nonfinite_row_of(void* to, int64_t stride) {
    if (INT8_ROWS_TOGETHER == 1) memset(to, 0, (size_t)stride); /* any integers will do: the scale is NaN */
    return (int8_row){NAN, 0};
}

V_INLINE vi round_scaled(const float* x, const float* factor, int64_t i, int64_t k, vf inverse, vi zero) {
    return vi_add(v_to_int(v_mul(load_scaled(x, factor, i, k), inverse)), zero);
}

/* What row_of rounds: where the highest number and the zero are both rounded up, their sum is INT8_X_MAX + 1, in one of
 * 200,000 rows of random numbers. */
V_INLINE vi round_upto(const float* x, const float* factor, int64_t i, int64_t k, vf inverse, vi zero, vi most) {
    return vi_min(round_scaled(x, factor, i, k, inverse, zero), most);
}

/* `bytes`, a constant: 1 or 2. */
V_INLINE int8_row quantise_row(const float* x, const float* factor, int64_t k, const int bytes, char* to) {
    const extremes_t e = find_extremes(x, factor, k);
    if (!e.finite) return nonfinite_row_of(to, int8_row_stride(k, bytes));
    const int32_t less = bytes == 1 ? INT8_X_LESS : 0;
    float inverse;
    int8_row row = row_of(&e, &inverse);
    row.zero -= less;
    const vf by = v_set1(inverse);
    const vi zero = vi_set1(row.zero), most = vi_set1(INT8_X_MAX - less);
    if (bytes == 1)
        for (int64_t i = 0; i < k; i += 4 * V_LANES)
            to = store_row_bytes(to, round_upto(x, factor, i, k, by, zero, most),
                                 round_upto(x, factor, i + V_LANES, k, by, zero, most),
                                 round_upto(x, factor, i + 2 * V_LANES, k, by, zero, most),
                                 round_upto(x, factor, i + 3 * V_LANES, k, by, zero, most));
    else
        for (int64_t i = 0; i < k; i += 2 * V_LANES, to += 4 * V_LANES)
            vi_store_shorts(to, round_upto(x, factor, i, k, by, zero, most),
                            round_upto(x, factor, i + V_LANES, k, by, zero, most));
    return row;
}

static int8_row quantise_row_to_16_bits(const float* x, int64_t k, int32_t limit, char* to) {
    const extremes_t e = find_extremes(x, NULL, k);
    if (!e.finite) return nonfinite_row_of(to, int8_row_stride(k, 2));
    float inverse;
    const int8_row row = symmetric_row_of(&e, limit, &inverse);
    const vf by = v_set1(inverse);
    for (int64_t i = 0; i < k; i += 2 * V_LANES, to += 4 * V_LANES)
        vi_store_shorts(to, round_scaled(x, NULL, i, k, by, vi_zero()),
                        round_scaled(x, NULL, i + V_LANES, k, by, vi_zero()));
    return row;
}

#endif

/* Weights as integers: `pack` and `unpack` of the formats of integers.
 *
 * Used by gemm/int8.h. A panel is [k / 4][column][4]: four k of a column side by side, as vpdpbusd and vpmaddubsw read
 * them; k behind the end are 0. V_LANES columns are packed at once, so that each lane is a column and all its sums are
 * vertical. The same operations in the same order on every level: the same integers.
 *
 * With VI_DOT_TAKES_MATRICES eight k of a column lie side by side: of the four columns of a vector, two in the place of
 * the first four k, two in that of the last. */
#ifndef TFAST_KERNELS_GEMM_INT8_PACK_H
#define TFAST_KERNELS_GEMM_INT8_PACK_H

#include "../../base/int8.h"
#include "pack.h"

#if defined(VI_DOT_TAKES_MATRICES)
enum { INT8_COLUMN_PAIRS = 1 };
#else
enum { INT8_COLUMN_PAIRS = 0 };
#endif

/* Where value d of column j stands in a panel. */
V_INLINE int64_t int8_place(int64_t d, int64_t j) {
    if (!INT8_COLUMN_PAIRS) return (d / 4 * INT8_PANEL + j) * 4 + d % 4;
    const int64_t vector = j / 4, column = j % 4;
    return (d / 8 * 2 + column / 2) * INT8_PANEL * 4 + vector * 16 + column % 2 * 8 + d % 8;
}

/* Eight k of a vector of columns, which are given four by four. */
V_INLINE void store_eight_k(int8_t* to, vi first, vi last) {
#if defined(VI_DOT_TAKES_MATRICES)
    vi_store(to, vi_zip_low(first, last));
    vi_store(to + INT8_PANEL * 4, vi_zip_high(first, last));
#else
    vi_store(to, first);
    vi_store(to + INT8_PANEL * 4, last);
#endif
}

enum { BLOCK_K = V_LANES > INT8_RUN_SPAN ? V_LANES : INT8_RUN_SPAN };
_Static_assert(BLOCK_K % V_LANES == 0 && BLOCK_K % INT8_RUN_SPAN == 0, "a block must be whole vectors and whole runs");

/* The block of BLOCK_K values from d on of V_LANES rows, one k in each vector, smoothed; what does not exist is 0.
 * dtype is a constant. */
V_INLINE void load_columns(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n, int64_t d, int64_t k,
                           vf x[BLOCK_K]) {
#pragma GCC unroll 2
    for (int b = 0; b < BLOCK_K; b += V_LANES) {
        const int64_t at = d + b, width = tfast_clamp(k - at, 0, V_LANES);
#pragma GCC unroll 16
        for (int i = 0; i < V_LANES; i++)
            x[b + i] = i >= n || width == 0 ? v_zero()
                       : width == V_LANES   ? load_weight(w, dtype, i, at)
                                            : load_weight_n(w, dtype, i, at, width);
        v_transpose(x + b);
        if (w->smoothing)
            for (int i = 0; i < width; i++) x[b + i] = v_mul(x[b + i], v_set1(w->smoothing[at + i]));
    }
}

/* The positive ones of a run in eight vectors; of -x: the negative ones. */
V_INLINE vf positive_sum(const vf x[INT8_RUN_SPAN], const int first) {
    vf sum = v_zero();
#pragma GCC unroll 8
    for (int i = 0; i < INT8_RUN_SPAN; i++)
        if (tfast_int8_first_run(i) == first) sum = v_add(sum, v_max(x[i], v_zero()));
    return sum;
}

V_INLINE vf negative_sum(const vf x[INT8_RUN_SPAN], const int first) {
    vf sum = v_zero();
#pragma GCC unroll 8
    for (int i = 0; i < INT8_RUN_SPAN; i++)
        if (tfast_int8_first_run(i) == first) sum = v_add(sum, v_max(v_sub(v_zero(), x[i]), v_zero()));
    return sum;
}

/* NaN in the lanes of columns that hold NaN or infinity, else 0. */
typedef struct {
    vf largest, largest_run, nan;
} column_extremes;

V_INLINE column_extremes find_column_extremes(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n,
                                              int64_t k) {
    column_extremes e = {v_zero(), v_zero(), v_zero()};
    vf x[BLOCK_K];
    for (int64_t d = 0; d < k; d += BLOCK_K) {
        load_columns(w, dtype, n, d, k, x);
        for (int i = 0; i < BLOCK_K; i += INT8_RUN_SPAN) {
            for (int j = i; j < i + INT8_RUN_SPAN; j++) {
                e.largest = v_max(v_abs(x[j]), e.largest);
                e.nan = v_add(e.nan, v_sub(x[j], x[j]));
            }
#pragma GCC unroll 2
            for (int first = 0; first < 2; first++)
                e.largest_run = v_max(v_max(positive_sum(x + i, first), negative_sum(x + i, first)), e.largest_run);
        }
    }
    return e;
}

/* Takes one from the integer of the run's positive ones (sign 1), or adds it to a negative one (sign -1), that rounding
 * moved furthest out, in the lanes where they sum to more than the bound; of several the first. */
V_INLINE void take_one_back(const vf exact[INT8_RUN_SPAN], const float sign, const int first, vf q[INT8_RUN_SPAN]) {
    const vf s = v_set1(sign), sum = sign > 0 ? positive_sum(q, first) : negative_sum(q, first);
    const vm over = v_lt(v_set1(INT8_RUN_LIMIT), sum);
    vf lift[INT8_RUN_SPAN], most = v_set1(-1.0f), left = v_set1(1.0f);
#pragma GCC unroll 8
    for (int i = 0; i < INT8_RUN_SPAN; i++) {
        if (tfast_int8_first_run(i) != first) continue;
        lift[i] = v_select(v_lt(v_zero(), v_mul(q[i], s)), v_mul(v_sub(q[i], exact[i]), s), v_set1(-1.0f));
        most = v_max(lift[i], most);
    }
#pragma GCC unroll 8
    for (int i = 0; i < INT8_RUN_SPAN; i++) {
        if (tfast_int8_first_run(i) != first) continue;
        const vf one = v_select(v_and(over, v_le(most, lift[i])), left, v_zero());
        left = v_sub(left, one);
        q[i] = v_sub(q[i], v_mul(one, s));
    }
}

/* Rounding may lift the sum of a run, which was within the bound, by half for each of its four. */
V_INLINE void keep_runs_bounded(const vf exact[INT8_RUN_SPAN], vf q[INT8_RUN_SPAN]) {
    const vf limit = v_set1(INT8_RUN_LIMIT);
#pragma GCC unroll 2
    for (int first = 0; first < 2; first++) {
        if (!v_all(v_le(positive_sum(q, first), limit)))
            for (int round = 0; round < 2; round++) take_one_back(exact, 1.0f, first, q);
        if (!v_all(v_le(negative_sum(q, first), limit)))
            for (int round = 0; round < 2; round++) take_one_back(exact, -1.0f, first, q);
    }
}

/* Up to V_LANES columns of a panel. `bounded` and dtype are constants. */
V_INLINE void pack_columns(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n, int64_t k, const int bounded,
                           int8_t* to, const tfast_int8_side* side) {
    const column_extremes e = find_column_extremes(w, dtype, n, k);
    vf scale = v_div(e.largest, v_set1(INT8_W_MAX));
    if (bounded) scale = v_max(scale, v_div(e.largest_run, v_set1(INT8_RUN_LIMIT)));
    scale = v_max(scale, v_set1(FLT_MIN)); /* of a column of zeros, too: its inverse is finite */
    const vf inverse = v_div(v_set1(1.0f), scale), most = v_set1(FLT_MAX);
    const vm usable = v_le(scale, most);
    vi sum = vi_zero(), magnitude = vi_zero();
    vf x[BLOCK_K];
    for (int64_t d = 0; d < k; d += BLOCK_K) {
        load_columns(w, dtype, n, d, k, x);
        for (int i = 0; i < BLOCK_K && d + i < tfast_round_up(k, INT8_RUN_SPAN); i += INT8_RUN_SPAN) {
            vf exact[INT8_RUN_SPAN], r[INT8_RUN_SPAN];
            for (int j = 0; j < INT8_RUN_SPAN; j++) {
                const vm finite = v_and(usable, v_le(v_abs(x[i + j]), most));
                exact[j] = v_mul(v_select(finite, x[i + j], v_zero()), inverse);
                r[j] = v_from_int(v_to_int(exact[j]));
            }
            if (bounded) keep_runs_bounded(exact, r);
            vi four[INT8_RUN_SPAN / 4];
            for (int j = 0; j < INT8_RUN_SPAN; j += 4) {
                const vi q[4] = {v_to_int(r[j]), v_to_int(r[j + 1]), v_to_int(r[j + 2]), v_to_int(r[j + 3])};
#pragma GCC unroll 4
                for (int l = 0; l < 4; l++) {
                    sum = vi_add(sum, q[l]);
                    magnitude = vi_add(magnitude, vi_abs(q[l]));
                }
                four[j / 4] = vi_join_bytes(q[0], q[1], q[2], q[3]);
            }
            store_eight_k(to, four[0], four[1]);
            to += INT8_RUN_SPAN * INT8_PANEL;
        }
    }
    v_store(side->scale, v_add(scale, e.nan));
    vi_store(side->sum, sum);
    vi_store(side->magnitude, magnitude);
}

/* Integers as they are. */
static void copy_columns(const tfast_weight_rows* w, int64_t n, int64_t k, int8_t* to, const tfast_int8_side* side) {
    for (int64_t j = 0; j < INT8_PANEL; j++) {
        const int8_t* from = (const int8_t*)w->data + j * w->stride;
        int32_t sum = 0, magnitude = 0;
        for (int64_t d = 0; d < tfast_round_up(k, INT8_RUN_SPAN); d++) {
            const int8_t q = j < n && d < k ? from[d] : 0;
            to[int8_place(d, j)] = q;
            sum += q;
            magnitude += q < 0 ? -q : q;
        }
        side->scale[j] = j < n ? w->scale[j] : 0;
        side->sum[j] = sum;
        side->magnitude[j] = magnitude;
    }
}

/* `bounded` is a constant. */
V_INLINE void pack_int8_panel(const tfast_weight_rows* w, int64_t n, int64_t k, const int bounded, int8_t* panel,
                              const tfast_int8_side* side) {
    const int64_t written = tfast_round_up(k, INT8_RUN_SPAN), padded = tfast_round_up(k, INT8_K_GROUP);
    memset(panel + written * INT8_PANEL, 0, (size_t)((padded - written) * INT8_PANEL));
    if (w->dtype == TFAST_I8) {
        copy_columns(w, n, k, panel, side);
        return;
    }
    for (int64_t j = 0; j < INT8_PANEL; j += V_LANES) {
        const tfast_weight_rows rows = rows_from(w, TFAST_MIN(j, n));
        const tfast_int8_side own = tfast_int8_side_from(*side, j);
        if (w->dtype == TFAST_F32)
            pack_columns(&rows, TFAST_F32, n - j, k, bounded, panel + j * 4, &own);
        else if (w->dtype == TFAST_F16)
            pack_columns(&rows, TFAST_F16, n - j, k, bounded, panel + j * 4, &own);
        else
            pack_columns(&rows, TFAST_BF16, n - j, k, bounded, panel + j * 4, &own);
    }
}

static void KERNEL(int8_pack)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                              const tfast_int8_side* side) {
    pack_int8_panel(w, n, k, 1, panel, side);
}

static void KERNEL(int8_pack_unbounded)(const tfast_weight_rows* w, int64_t n, int64_t k, void* panel,
                                        const tfast_int8_side* side) {
    pack_int8_panel(w, n, k, 0, panel, side);
}

static void KERNEL(int8_unpack)(const void* panel, const tfast_int8_side* side, int64_t n, int64_t k, float* w,
                                int64_t w_stride) {
    const int8_t* from = panel;
    for (int64_t d = 0; d < k; d++)
        for (int64_t j = 0; j < n; j++) {
            const float value = (float)from[int8_place(d, j)] * side->scale[j];
            w[j * w_stride + d] = side->factor ? value * side->factor[d] : value;
        }
}

#endif

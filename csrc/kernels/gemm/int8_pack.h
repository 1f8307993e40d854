/* Weights as integers: `pack` and `unpack` of the formats of integers.
 *
 * Used by gemm/int8.h. A panel is [k / 4][column][4]: four k of a column side by side, as vpdpbusd and vpmaddubsw read
 * them; k behind the end are 0. V_LANES columns are packed at once, so that each lane is a column and all its sums are
 * vertical. The same operations in the same order on every level: the same integers. */
#ifndef TFAST_KERNELS_GEMM_INT8_PACK_H
#define TFAST_KERNELS_GEMM_INT8_PACK_H

#include "../../base/int8.h"
#include "pack.h"

/* The block of V_LANES values from d on of V_LANES rows, one k in each vector, smoothed; what does not exist is 0.
 * dtype is a constant. */
V_INLINE void load_columns(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n, int64_t d, int64_t k,
                           vf x[V_LANES]) {
    const int64_t width = TFAST_MIN(V_LANES, k - d);
#pragma GCC unroll 16
    for (int i = 0; i < V_LANES; i++)
        x[i] = i >= n             ? v_zero()
               : width == V_LANES ? load_weight(w, dtype, i, d)
                                  : load_weight_n(w, dtype, i, d, width);
    v_transpose(x);
    if (w->smoothing)
        for (int i = 0; i < width; i++) x[i] = v_mul(x[i], v_set1(w->smoothing[d + i]));
}

/* NaN in the lanes of columns that hold NaN or infinity, else 0. */
typedef struct {
    vf largest, largest_pair, nan;
} column_extremes;

V_INLINE column_extremes find_column_extremes(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n,
                                              int64_t k) {
    column_extremes e = {v_zero(), v_zero(), v_zero()};
    vf x[V_LANES];
    for (int64_t d = 0; d < k; d += V_LANES) {
        load_columns(w, dtype, n, d, k, x);
        for (int i = 0; i < V_LANES; i += 2) {
            e.largest = v_max(v_abs(x[i]), v_max(v_abs(x[i + 1]), e.largest));
            e.largest_pair = v_max(v_abs(v_add(x[i], x[i + 1])), e.largest_pair);
            e.nan = v_add(e.nan, v_add(v_sub(x[i], x[i]), v_sub(x[i + 1], x[i + 1])));
        }
    }
    return e;
}

V_INLINE vf nearest(vf x) {
    return v_from_int(v_to_int(x));
}

/* Rounding may lift the sum of a pair by 1 over the bound: the one that was lifted more goes back. */
V_INLINE void keep_pair_bounded(vf exact0, vf exact1, vf* q0, vf* q1) {
    const vf sum = v_add(*q0, *q1);
    const vm over = v_lt(v_set1(INT8_PAIR_LIMIT), v_abs(sum));
    const vm first = v_le(v_sub(v_abs(*q1), v_abs(exact1)), v_sub(v_abs(*q0), v_abs(exact0)));
    const vf one = v_select(v_lt(v_zero(), sum), v_set1(1.0f), v_set1(-1.0f));
    const vf lower0 = v_sub(*q0, one), lower1 = v_sub(*q1, one);
    const vf kept0 = v_select(first, lower0, *q0), kept1 = v_select(first, *q1, lower1);
    *q0 = v_select(over, kept0, *q0);
    *q1 = v_select(over, kept1, *q1);
}

/* Up to V_LANES columns of a panel. `bounded` and dtype are constants. */
V_INLINE void pack_columns(const tfast_weight_rows* w, const tfast_dtype dtype, int64_t n, int64_t k,
                           const int bounded, int8_t* to, const tfast_int8_side* side) {
    const column_extremes e = find_column_extremes(w, dtype, n, k);
    vf scale = v_div(e.largest, v_set1(INT8_W_MAX));
    if (bounded) scale = v_max(scale, v_div(e.largest_pair, v_set1(INT8_PAIR_LIMIT)));
    scale = v_max(scale, v_set1(FLT_MIN)); /* of a column of zeros, too: its inverse is finite */
    const vf inverse = v_div(v_set1(1.0f), scale), most = v_set1(FLT_MAX);
    const vm usable = v_le(scale, most);
    vi sum = vi_zero(), magnitude = vi_zero();
    vf x[V_LANES];
    for (int64_t d = 0; d < k; d += V_LANES) {
        load_columns(w, dtype, n, d, k, x);
        for (int i = 0; i < V_LANES && d + i < tfast_round_up(k, 4); i += 4, to += INT8_PANEL * 4) {
            vi q[4];
#pragma GCC unroll 2
            for (int j = 0; j < 4; j += 2) {
                vf exact[2], r[2];
#pragma GCC unroll 2
                for (int l = 0; l < 2; l++) {
                    const vf v = x[i + j + l];
                    const vf finite = v_select(v_and(usable, v_le(v_abs(v), most)), v, v_zero());
                    exact[l] = v_mul(finite, inverse);
                    r[l] = nearest(exact[l]);
                }
                if (bounded) keep_pair_bounded(exact[0], exact[1], &r[0], &r[1]);
                q[j] = v_to_int(r[0]);
                q[j + 1] = v_to_int(r[1]);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                sum = vi_add(sum, q[j]);
                magnitude = vi_add(magnitude, vi_abs(q[j]));
            }
            vi_store(to, vi_join_bytes(q[0], q[1], q[2], q[3]));
        }
    }
    v_store(side->scale, v_add(scale, e.nan));
    vi_store(side->sum, sum);
    vi_store(side->magnitude, magnitude);
}
_Static_assert(V_LANES % 4 == 0, "a block of k must be whole groups");

/* Integers as they are. */
static void copy_columns(const tfast_weight_rows* w, int64_t n, int64_t k, int8_t* to, const tfast_int8_side* side) {
    for (int64_t j = 0; j < INT8_PANEL; j++) {
        const int8_t* from = (const int8_t*)w->data + j * w->stride;
        int32_t sum = 0, magnitude = 0;
        for (int64_t d = 0; d < tfast_round_up(k, 4); d++) {
            const int8_t q = j < n && d < k ? from[d] : 0;
            to[(d / 4 * INT8_PANEL + j) * 4 + d % 4] = q;
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
    const int64_t groups = tfast_ceil_div(k, 4), padded = tfast_round_up(k, INT8_K_GROUP) / 4;
    memset(panel + groups * INT8_PANEL * 4, 0, (size_t)((padded - groups) * INT8_PANEL * 4));
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
            const float value = (float)from[(d / 4 * INT8_PANEL + j) * 4 + d % 4] * side->scale[j];
            w[j * w_stride + d] = side->factor ? value * side->factor[d] : value;
        }
}

#endif

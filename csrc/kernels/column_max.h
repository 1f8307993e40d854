/* The maximum of each column of some rows. Called by ops/linear.c on a tile of a product that is still in L2.
 *
 * A vector of columns at a time, all rows of it: one load, one maximum, and a comparison and a selection that let NaN
 * through, which v_max passes over in its first operand. Rows come in order, so that the zero that stays of -0 and 0
 * does not depend on how they are cut into calls. */
#ifndef TFAST_KERNELS_COLUMN_MAX_H
#define TFAST_KERNELS_COLUMN_MAX_H

V_INLINE vf max_or_nan(vf x, vf most) {
    return v_select(v_le(x, x), v_max(x, most), x);
}

static void KERNEL(column_max)(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y) {
    int64_t j = 0;
    for (; j + V_LANES <= n; j += V_LANES) {
        vf most = v_load(y + j);
        for (int64_t i = 0; i < m; i++) most = max_or_nan(v_load(x + i * x_stride + j), most);
        v_store(y + j, most);
    }
    if (j == n) return;
    vf most = v_load_n(y + j, n - j);
    for (int64_t i = 0; i < m; i++) most = max_or_nan(v_load_n(x + i * x_stride + j, n - j), most);
    v_store_n(y + j, most, n - j);
}

#endif

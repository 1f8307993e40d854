/* Softmax of rows, for callers that have scores of their own (attention has its softmax fused). Called by
 * ops/softmax.c.
 *
 * y = 2^((x - max) * log2(e)) / sum. A row of -infinity alone gives NaN, as in torch (attention's own
 * softmax gives zeros there). */
#ifndef TFAST_KERNELS_SOFTMAX_H
#define TFAST_KERNELS_SOFTMAX_H

static float row_max(int64_t n, const float* x) {
    vf m0 = v_set1(-INFINITY), m1 = m0;
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        m0 = v_max(v_load(x + i), m0); /* NaN is passed over here and comes back through exp */
        m1 = v_max(v_load(x + i + V_LANES), m1);
    }
    for (; i + V_LANES <= n; i += V_LANES) m0 = v_max(v_load(x + i), m0);
    float m = v_hmax(v_max(m0, m1));
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

static float exp_row(int64_t n, const float* x, float max, float* y) {
    const vf m = v_set1(max), log2e = v_set1(V_LOG2E);
    vf s = v_zero();
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) {
        const vf e = v_exp2(v_mul(v_sub(v_load(x + i), m), log2e));
        v_store(y + i, e);
        s = v_add(s, e);
    }
    float tail = 0;
    if (i < n) {
        float last[V_LANES];
        v_store(last, v_exp2(v_mul(v_sub(v_load_n(x + i, n - i), m), log2e)));
        for (int64_t j = 0; i + j < n; j++) {
            y[i + j] = last[j];
            tail += last[j];
        }
    }
    return v_sum(s) + tail;
}

static void KERNEL(softmax)(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    for (int64_t row = 0; row < m; row++) {
        const float* xr = x + row * x_stride;
        float* yr = y + row * y_stride;
        const vf inverse = v_set1(1.0f / exp_row(n, xr, row_max(n, xr), yr));
        int64_t i = 0;
        for (; i + V_LANES <= n; i += V_LANES) v_store(yr + i, v_mul(v_load(yr + i), inverse));
        if (i < n) v_store_n(yr + i, v_mul(v_load_n(yr + i, n - i), inverse), n - i);
    }
}

#endif

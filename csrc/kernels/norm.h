/* Layer norm and RMS norm of rows, with the residual added on the way. Called by ops/norm.c and ops/embedding.c.
 *
 * y = (z - mean(z)) / sqrt(var(z) + eps) * weight + bias,   z = x + r,   var with 1/n.
 * RMS norm is the same with 0 in place of the mean.
 * Two passes over the row, which lies in L1 after the first: the mean, then the squared distances from it (the
 * textbook's one-pass sum of squares loses half the digits where the mean is large against the deviation). */
#ifndef TFAST_KERNELS_NORM_H
#define TFAST_KERNELS_NORM_H

/* z into y, and its sum. */
static float add_and_sum(int64_t n, const float* x, const float* r, float* y) {
    vf s0 = v_zero(), s1 = v_zero();
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        vf a = v_load(x + i), b = v_load(x + i + V_LANES);
        if (r) a = v_add(a, v_load(r + i)), b = v_add(b, v_load(r + i + V_LANES));
        v_store(y + i, a);
        v_store(y + i + V_LANES, b);
        s0 = v_add(s0, a);
        s1 = v_add(s1, b);
    }
    for (; i < n; i += V_LANES) {
        const int64_t w = TFAST_MIN(V_LANES, n - i);
        vf a = v_load_n(x + i, w);
        if (r) a = v_add(a, v_load_n(r + i, w));
        v_store_n(y + i, a, w);
        s0 = v_add(s0, a);
    }
    return v_sum(v_add(s0, s1));
}

static float squared_distances(int64_t n, const float* y, float mean) {
    const vf m = v_set1(mean);
    vf s0 = v_zero(), s1 = v_zero();
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        const vf a = v_sub(v_load(y + i), m), b = v_sub(v_load(y + i + V_LANES), m);
        s0 = v_fma(a, a, s0);
        s1 = v_fma(b, b, s1);
    }
    float tail = 0;
    for (; i + V_LANES <= n; i += V_LANES) {
        const vf a = v_sub(v_load(y + i), m);
        s0 = v_fma(a, a, s0);
    }
    for (; i < n; i++) tail += (y[i] - mean) * (y[i] - mean);
    return v_sum(v_add(s0, s1)) + tail;
}

/* `centred` is a constant after inlining. */
V_INLINE void norm_rows(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                        const float* weight, const float* bias, float eps, float* y, int64_t y_stride,
                        const int centred) {
    for (int64_t row = 0; row < m; row++) {
        const float* xr = x + row * x_stride;
        float* yr = y + row * y_stride;
        const float sum = add_and_sum(n, xr, r ? r + row * r_stride : NULL, yr), mean = centred ? sum / (float)n : 0.0f;
        const float inverse = 1.0f / sqrtf(squared_distances(n, yr, mean) / (float)n + eps);
        const vf mu = v_set1(mean), s = v_set1(inverse);
        for (int64_t i = 0; i < n; i += V_LANES) {
            const int64_t w = n - i;
            if (w >= V_LANES) {
                vf a = v_load(yr + i);
                a = v_mul(centred ? v_sub(a, mu) : a, s);
                if (weight) a = v_mul(a, v_load(weight + i));
                if (bias) a = v_add(a, v_load(bias + i));
                v_store(yr + i, a);
            } else {
                vf a = v_load_n(yr + i, w);
                a = v_mul(centred ? v_sub(a, mu) : a, s);
                if (weight) a = v_mul(a, v_load_n(weight + i, w));
                if (bias) a = v_add(a, v_load_n(bias + i, w));
                v_store_n(yr + i, a, w);
            }
        }
    }
}

static void KERNEL(layernorm)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                              const float* weight, const float* bias, float eps, float* y, int64_t y_stride) {
    norm_rows(m, n, x, x_stride, r, r_stride, weight, bias, eps, y, y_stride, 1);
}

static void KERNEL(rmsnorm)(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* r, int64_t r_stride,
                            const float* weight, float eps, float* y, int64_t y_stride) {
    norm_rows(m, n, x, x_stride, r, r_stride, weight, NULL, eps, y, y_stride, 0);
}

#endif

/* Rotary position embedding of rows. Called by ops/rope.c.
 *
 * A pair (a, b) becomes (a cos - b sin, b cos + a sin). Pairs stand `half` apart (Llama) or side by side (GPT-J): the
 * former is two vector streams, the latter is left to the compiler, since the vector names have no such shuffle and no
 * model that is run often needs it. */
#ifndef TFAST_KERNELS_ROPE_H
#define TFAST_KERNELS_ROPE_H

static void rope_halves(int64_t half, const float* x, const float* cos, const float* sin, float* y) {
    for (int64_t i = 0; i < half; i += V_LANES) {
        const int64_t w = TFAST_MIN(V_LANES, half - i);
        const vf a = v_load_n(x + i, w), b = v_load_n(x + half + i, w);
        const vf c = v_load_n(cos + i, w), s = v_load_n(sin + i, w);
        v_store_n(y + i, v_sub(v_mul(a, c), v_mul(b, s)), w);
        v_store_n(y + half + i, v_fma(a, s, v_mul(b, c)), w);
    }
}

static void rope_pairs(int64_t half, const float* x, const float* cos, const float* sin, float* y) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cos[i] - b * sin[i];
        y[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

static void KERNEL(rope)(int64_t m, int64_t n, int64_t half, int interleaved, const float* x, int64_t x_stride,
                         const float* cos, const float* sin, int64_t angle_stride, float* y, int64_t y_stride) {
    for (int64_t row = 0; row < m; row++, x += x_stride, y += y_stride, cos += angle_stride, sin += angle_stride) {
        (interleaved ? rope_pairs : rope_halves)(half, x, cos, sin, y);
        if (x != y) memcpy(y + 2 * half, x + 2 * half, (size_t)(n - 2 * half) * sizeof(float));
    }
}

#endif

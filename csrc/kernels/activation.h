/* Element-wise functions over a span. Called by ops/activation.c and as the epilogue of a linear layer
 * (gemm/epilogue.h). A new activation: a value of tfast_activation (base/types.h), its formula in simd/math.h and a
 * line in the switch below. */
#ifndef TFAST_KERNELS_ACTIVATION_H
#define TFAST_KERNELS_ACTIVATION_H

V_INLINE void activate_span(int64_t n, const float* x, float* y, const tfast_activation kind) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, v_activate(v_load(x + i), kind));
    if (i < n) v_store_n(y + i, v_activate(v_load_n(x + i, n - i), kind), n - i);
}

static void KERNEL(activation)(int64_t n, const float* x, float* y, tfast_activation kind) {
    switch (kind) {
    case TFAST_IDENTITY:
        activate_span(n, x, y, TFAST_IDENTITY);
        break;
    case TFAST_RELU:
        activate_span(n, x, y, TFAST_RELU);
        break;
    case TFAST_GELU:
        activate_span(n, x, y, TFAST_GELU);
        break;
    case TFAST_GELU_TANH:
        activate_span(n, x, y, TFAST_GELU_TANH);
        break;
    case TFAST_QUICK_GELU:
        activate_span(n, x, y, TFAST_QUICK_GELU);
        break;
    case TFAST_SILU:
        activate_span(n, x, y, TFAST_SILU);
        break;
    case TFAST_TANH:
        activate_span(n, x, y, TFAST_TANH);
        break;
    }
}

#endif

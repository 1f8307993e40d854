/* Elementary functions, written once on the names of simd/<isa>.h: exp2, tanh, erf and the activations made of them.
 *
 * Included by kernels/level.h after a simd/<isa>.h. The coefficients are minimax fits made for this file (iteratively
 * reweighted least squares on Chebyshev points); errors are against double precision, over the whole interval,
 * evaluated in fp32. */
#ifndef TFAST_SIMD_MATH_H
#define TFAST_SIMD_MATH_H

/* Where no instruction takes a value from a lane of a register, a factor of whole vectors is one itself. */
#if !defined(V_BY_LANE)
typedef vf v_factor;
V_INLINE v_factor v_load_factor(const float* p) {
    return v_set1(*p);
}
V_INLINE vf v_fma_by(v_factor a, vf b, vf c) {
    return v_fma(a, b, c);
}
#endif
#if !defined(VI_BY_LANE)
typedef vi vi_factor;
V_INLINE vi_factor vi_load_factor(const void* p) {
    return vi_repeat_4(p);
}
V_INLINE vi vi_dot_by(vi sum, vi w, vi_factor x) {
    return vi_dot_codes(sum, w, x);
}
#endif

#define V_LOG2E 1.44269504088896340736f

/* 2^x; 0 below -126 and infinity from 128 on. 2^f on [0, 1) by degree 5 with p(0) = 1 exactly, so that an unchanged
 * maximum rescales by exactly one: relative error 8.3e-8. */
V_INLINE vf v_exp2(vf x) {
    const vf c = v_exp2_clamp(x), f = v_frac(c);
    vf p = v_set1(1.867130213e-3f);
    p = v_fma(p, f, v_set1(9.017030019e-3f));
    p = v_fma(p, f, v_set1(5.579991332e-2f));
    p = v_fma(p, f, v_set1(2.401644501e-1f));
    p = v_fma(p, f, v_set1(6.931513118e-1f));
    p = v_fma(p, f, v_set1(1.0f));
    return v_scale2(p, c);
}

/* x * P(x^2) / Q(x^2) on |x| <= 9, and exactly 1 from there on, as fp32's tanh is: relative error 3.6e-7. NaN passes
 * the clamp. */
V_INLINE vf v_tanh(vf x) {
    const vm high = v_le(v_set1(9.0f), x), low = v_le(x, v_set1(-9.0f));
    x = v_min(v_set1(9.0f), v_max(v_set1(-9.0f), x));
    const vf t = v_mul(x, x);
    vf p = v_set1(1.335446924e-8f);
    p = v_fma(p, t, v_set1(2.060894017e-5f));
    p = v_fma(p, t, v_set1(3.495579447e-3f));
    p = v_fma(p, t, v_set1(1.338101835e-1f));
    p = v_fma(p, t, v_set1(9.999999795e-1f));
    vf q = v_set1(7.776478447e-7f);
    q = v_fma(q, t, v_set1(3.285620629e-4f));
    q = v_fma(q, t, v_set1(2.587694922e-2f));
    q = v_fma(q, t, v_set1(4.671433395e-1f));
    q = v_fma(q, t, v_set1(1.0f));
    return v_select(high, v_set1(1.0f), v_select(low, v_set1(-1.0f), v_div(v_mul(x, p), q)));
}

/* x * P(x^2) / Q(x^2) on |x| <= 3.92, where fp32's erf is 1: relative error 3.8e-7. */
V_INLINE vf v_erf(vf x) {
    x = v_min(v_set1(3.92f), v_max(v_set1(-3.92f), x));
    const vf t = v_mul(x, x);
    vf p = v_set1(2.050089656e-6f);
    p = v_fma(p, t, v_set1(2.848820399e-4f));
    p = v_fma(p, t, v_set1(3.765591483e-3f));
    p = v_fma(p, t, v_set1(5.274864103e-2f));
    p = v_fma(p, t, v_set1(1.904058911e-1f));
    p = v_fma(p, t, v_set1(1.128379146e+0f));
    vf q = v_set1(3.809170517e-5f);
    q = v_fma(q, t, v_set1(1.162529193e-3f));
    q = v_fma(q, t, v_set1(1.496916450e-2f));
    q = v_fma(q, t, v_set1(1.141088687e-1f));
    q = v_fma(q, t, v_set1(5.020755684e-1f));
    q = v_fma(q, t, v_set1(1.0f));
    return v_div(v_mul(x, p), q);
}

V_INLINE vf v_sigmoid(vf x) {
    return v_div(v_set1(1.0f), v_add(v_exp2(v_mul(x, v_set1(-V_LOG2E))), v_set1(1.0f)));
}

V_INLINE vf v_sigmoid_times(vf x, float slope) {
    const vf e = v_exp2(v_mul(x, v_set1(-slope * V_LOG2E)));
    return v_div(x, v_add(e, v_set1(1.0f)));
}

/* GELU is x/2 + x/2 * erf(...): for a large negative x the rounding of erf near -1 would be multiplied by x/2. Below x
 * = -6, where GELU is above -6e-9, x/2 stays at -3, and the error below 2e-7. */
#define GELU_LOWEST_HALF -3.0f

/* `kind` is a constant at every hot call, so that the switch disappears. */
V_INLINE vf v_activate(vf x, tfast_activation kind) {
    switch (kind) {
    case TFAST_RELU:
        return v_max(v_zero(), x);
    case TFAST_GELU: {
        const vf half = v_max(v_set1(GELU_LOWEST_HALF), v_mul(x, v_set1(0.5f)));
        return v_fma(half, v_erf(v_mul(x, v_set1(0.70710678118654752440f))), half);
    }
    case TFAST_GELU_TANH: {
        const vf half = v_max(v_set1(GELU_LOWEST_HALF), v_mul(x, v_set1(0.5f))), x2 = v_mul(x, x);
        const vf u = v_mul(x, v_fma(x2, v_set1(0.7978845608028654f * 0.044715f), v_set1(0.7978845608028654f)));
        return v_fma(half, v_tanh(u), half);
    }
    case TFAST_QUICK_GELU:
        return v_sigmoid_times(x, 1.702f);
    case TFAST_SILU:
        return v_sigmoid_times(x, 1.0f);
    case TFAST_TANH:
        return v_tanh(x);
    case TFAST_IDENTITY:
        break;
    }
    return x;
}

#endif

/* What the machine can do at best, measured beside every benchmark: independent FMAs from registers, and reads in
 * order. Called by ops/probe.c. Twelve accumulators cover two FMA units with a latency of four cycles one and a half
 * times. */
#ifndef TFAST_KERNELS_PROBE_H
#define TFAST_KERNELS_PROBE_H

enum { PROBE_ACCUMULATORS = 12 };

static double KERNEL(fma_probe)(int64_t rounds) {
    vf acc[PROBE_ACCUMULATORS];
    const vf x = v_set1(0.999f), y = v_set1(0.001f);
#pragma GCC unroll 12
    for (int i = 0; i < PROBE_ACCUMULATORS; i++) acc[i] = v_set1(0.1f * (float)i);
    for (int64_t k = 0; k < rounds; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < PROBE_ACCUMULATORS; i++) acc[i] = v_fma(acc[i], x, y);
        __asm__ volatile("" ::: "memory");
    }
    vf s = acc[0];
#pragma GCC unroll 12
    for (int i = 1; i < PROBE_ACCUMULATORS; i++) s = v_add(s, acc[i]);
    volatile float sink = v_sum(s);
    (void)sink;
    return (double)rounds * PROBE_ACCUMULATORS * V_LANES * 2;
}

static float KERNEL(read_probe)(const float* x, int64_t n) {
    vf s0 = v_zero(), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * V_LANES <= n; i += 4 * V_LANES) {
        s0 = v_add(s0, v_load(x + i));
        s1 = v_add(s1, v_load(x + i + V_LANES));
        s2 = v_add(s2, v_load(x + i + 2 * V_LANES));
        s3 = v_add(s3, v_load(x + i + 3 * V_LANES));
    }
    float tail = 0;
    for (; i < n; i++) tail += x[i];
    return v_sum(v_add(v_add(s0, s1), v_add(s2, s3))) + tail;
}

#endif

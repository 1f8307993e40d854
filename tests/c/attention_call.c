/* Operands, the run and the comparison for attention_call.h. */
#include "attention_call.h"

#include <math.h>

#include "check.h"
#include "data.h"
#include "reference.h"

static void set_strides(int64_t* stride, int64_t heads, int64_t positions, int64_t width) {
    stride[0] = heads * positions * width;
    stride[1] = positions * width;
    stride[2] = width;
}

tfast_attention attention_call(attention_shape s) {
    tfast_attention c = {.B = s.B, .H = s.H, .Hkv = s.Hkv, .Lq = s.Lq, .Lk = s.Lk, .D = s.D, .Dv = s.Dv};
    c.q = data_normal(s.B * s.H * s.Lq * s.D, 1);
    c.k = data_normal(s.B * s.Hkv * s.Lk * s.D, 1);
    c.v = data_normal(s.B * s.Hkv * s.Lk * s.Dv, 1);
    set_strides(c.q_stride, s.H, s.Lq, s.D);
    set_strides(c.k_stride, s.Hkv, s.Lk, s.D);
    set_strides(c.v_stride, s.Hkv, s.Lk, s.Dv);
    set_strides(c.out_stride, s.H, s.Lq, s.Dv);
    c.lse_stride[0] = s.H * s.Lq;
    c.lse_stride[1] = s.Lq;
    c.left = c.right = TFAST_UNLIMITED;
    c.scale = (float)(1 / sqrt((double)s.D));
    return c;
}

static int64_t rows_of(const tfast_attention* c) {
    return c->B * c->H * c->Lq;
}

int64_t attention_results(const tfast_attention* c) {
    return rows_of(c) * (c->Dv + 1);
}

tfast_status attention_run(const void* arguments, float* y, int n_threads) {
    tfast_attention call = *(const tfast_attention*)arguments;
    call.out = y;
    call.lse = y + rows_of(&call) * call.Dv;
    return tfast_attention_run(&call, n_threads);
}

void attention_check(const char* name, const tfast_attention* c, const double* k, const double* v) {
    const int64_t n = attention_results(c), kv_rows = c->B * c->Hkv * c->Lk;
    double* expected = data_room((size_t)n * sizeof *expected);
    const double* q = data_widened(rows_of(c) * c->D, c->q);
    if (!k) k = data_widened(kv_rows * c->D, c->k);
    if (!v) v = data_widened(kv_rows * c->Dv, c->v);
    reference_attention(c, q, k, v, expected, expected + rows_of(c) * c->Dv);
    check_call(&(check_t){name, attention_run, c, n, expected, TOLERANCE, NULL, 0});
}

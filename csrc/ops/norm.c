/* Layer norm and RMS norm over rows. Called by transformer_fast/_core.pyx, ops/encoder.c and ops/decoder.c; the kernels
 * are kernels/norm.h. */
#include "../runtime/dispatch.h"
#include "../tfast.h"
#include "rows.h"

typedef struct {
    rows_plan plan;
    const tfast_row_kernels* kernels;
    int64_t n, x_stride, r_stride, y_stride;
    const float *x, *r, *weight, *bias;
    float eps, *y;
    int centred;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t m = rows_of_task(&c->plan, task, &i);
    const float *x = c->x + i * c->x_stride, *r = c->r ? c->r + i * c->r_stride : NULL;
    float* y = c->y + i * c->y_stride;
    if (c->centred)
        c->kernels->layernorm(m, c->n, x, c->x_stride, r, c->r_stride, c->weight, c->bias, c->eps, y, c->y_stride);
    else
        c->kernels->rmsnorm(m, c->n, x, c->x_stride, r, c->r_stride, c->weight, c->eps, y, c->y_stride);
}

tfast_status tfast_layernorm(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* residual,
                             int64_t residual_stride, const float* weight, const float* bias, float eps, float* y,
                             int64_t y_stride, int n_threads) {
    call_t c = {rows_plan_for(m, n),
                tfast_kernels_now()->rows,
                n,
                x_stride,
                residual_stride,
                y_stride,
                x,
                residual,
                weight,
                bias,
                eps,
                y,
                1};
    return rows_run(&c.plan, n, 0.3, n_threads, run, &c);
}

tfast_status tfast_rmsnorm(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* residual,
                           int64_t residual_stride, const float* weight, float eps, float* y, int64_t y_stride,
                           int n_threads) {
    call_t c = {rows_plan_for(m, n),
                tfast_kernels_now()->rows,
                n,
                x_stride,
                residual_stride,
                y_stride,
                x,
                residual,
                weight,
                NULL,
                eps,
                y,
                0};
    return rows_run(&c.plan, n, 0.3, n_threads, run, &c);
}

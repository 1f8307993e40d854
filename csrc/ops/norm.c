/* Layer norm over rows. Called by transformer_fast/_core.pyx; the kernel is kernels/norm.h. */
#include "../runtime/dispatch.h"
#include "../tfast.h"
#include "rows.h"

typedef struct {
    rows_plan plan;
    const tfast_kernels* kernels;
    int64_t n, x_stride, r_stride, y_stride;
    const float *x, *r, *weight, *bias;
    float eps, *y;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t m = rows_of_task(&c->plan, task, &i);
    c->kernels->layernorm_f32_rows(m, c->n, c->x + i * c->x_stride, c->x_stride, c->r ? c->r + i * c->r_stride : NULL,
                                   c->r_stride, c->weight, c->bias, c->eps, c->y + i * c->y_stride, c->y_stride);
}

tfast_status tfast_layernorm(int64_t m, int64_t n, const float* x, int64_t x_stride, const float* residual,
                             int64_t residual_stride, const float* weight, const float* bias, float eps, float* y,
                             int64_t y_stride, int n_threads) {
    call_t c = {rows_plan_for(m, n),
                tfast_kernels_now(),
                n,
                x_stride,
                residual_stride,
                y_stride,
                x,
                residual,
                weight,
                bias,
                eps,
                y};
    return rows_run(&c.plan, n, 0.3, n_threads, run, &c);
}

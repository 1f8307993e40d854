/* Softmax over rows. Called by transformer_fast/_core.pyx; the kernel is kernels/softmax.h. */
#include "../runtime/dispatch.h"
#include "../tfast.h"
#include "rows.h"

typedef struct {
    rows_plan plan;
    const tfast_row_kernels* kernels;
    int64_t n, x_stride, y_stride;
    const float* x;
    float* y;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t m = rows_of_task(&c->plan, task, &i);
    c->kernels->softmax(m, c->n, c->x + i * c->x_stride, c->x_stride, c->y + i * c->y_stride, c->y_stride);
}

tfast_status tfast_softmax(int64_t m, int64_t n, const float* x, int64_t x_stride, float* y, int64_t y_stride,
                           int n_threads) {
    call_t c = {rows_plan_for(m, n), tfast_kernels_now()->rows, n, x_stride, y_stride, x, y};
    return rows_run(&c.plan, n, 0.5, n_threads, run, &c);
}

/* Element-wise functions of an array. Called by transformer_fast/_core.pyx; the kernel is kernels/activation.h. */
#include "../runtime/dispatch.h"
#include "../tfast.h"
#include "rows.h"

typedef struct {
    rows_plan plan;
    const tfast_row_kernels* kernels;
    const float* x;
    float* y;
    tfast_activation kind;
} call_t;

static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const call_t* c = ctx;
    int64_t i;
    const int64_t n = rows_of_task(&c->plan, task, &i);
    c->kernels->activation(n, c->x + i, c->y + i, c->kind);
}

tfast_status tfast_activate(int64_t n, const float* x, float* y, tfast_activation kind, int n_threads) {
    call_t c = {rows_plan_for(n, 1), tfast_kernels_now()->rows, x, y, kind};
    return rows_run(&c.plan, 1, 0.5, n_threads, run, &c);
}

/* Rotary position embedding over heads. Called by transformer_fast/_core.pyx and ops/decoder.c; the kernel is
 * kernels/rope.h. */
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../tfast.h"

typedef struct {
    const tfast_rope* call;
    const tfast_row_kernels* kernels;
} run_t;

/* One head of one batch entry: all positions. */
static void run(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const run_t* r = ctx;
    const tfast_rope* c = r->call;
    const int64_t b = task / c->H, h = task % c->H;
    const int64_t angles = b * c->angle_stride[0];
    r->kernels->rope(c->L, c->D, c->half, c->interleaved, c->x + b * c->x_stride[0] + h * c->x_stride[1],
                     c->x_stride[2], c->cos + angles, c->sin + angles, c->angle_stride[1],
                     c->y + b * c->y_stride[0] + h * c->y_stride[1], c->y_stride[2]);
}

tfast_status tfast_rope_run(const tfast_rope* call, int n_threads) {
    run_t r = {call, tfast_kernels_now()->rows};
    /* As a norm: some 0.3 ns a number. */
    const tfast_parallel loop = {
        .n_tasks = call->B * call->H, .task_ns = 0.3 * (double)(call->L * call->D), .n_threads = n_threads};
    return tfast_parallel_for(&loop, run, &r);
}

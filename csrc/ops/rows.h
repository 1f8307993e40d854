/* What the row-wise ops share: cutting rows into tasks of about equal size. Included by the files of ops/ alone. */
#ifndef TFAST_OPS_ROWS_H
#define TFAST_OPS_ROWS_H

#include "../base/types.h"
#include "../runtime/parallel.h"

/* A task of about 16,000 numbers (64 KB): some microseconds of work, and it fits in L2. */
#define NUMBERS_PER_TASK 16384

typedef struct {
    int64_t rows, per_task;
} rows_plan;

static inline rows_plan rows_plan_for(int64_t rows, int64_t width) {
    const int64_t per_task = TFAST_MAX(1, NUMBERS_PER_TASK / TFAST_MAX(width, 1));
    return (rows_plan){rows, per_task};
}

/* The rows of a task: returns how many, *first is where they begin. */
static inline int64_t rows_of_task(const rows_plan* p, int64_t task, int64_t* first) {
    *first = task * p->per_task;
    return TFAST_MIN(p->per_task, p->rows - *first);
}

/* `ns` is what one number costs, scratch_bytes what each thread gets. */
static inline tfast_status rows_run_with_scratch(const rows_plan* p, int64_t width, double ns, size_t scratch_bytes,
                                                 int n_threads, tfast_task_fn fn, void* ctx) {
    const tfast_parallel loop = {.n_tasks = tfast_ceil_div(p->rows, p->per_task),
                                 .n_threads = n_threads,
                                 .scratch_bytes = scratch_bytes,
                                 .task_ns = ns * (double)(p->per_task * width)};
    return tfast_parallel_for(&loop, fn, ctx);
}

static inline tfast_status rows_run(const rows_plan* p, int64_t width, double ns, int n_threads, tfast_task_fn fn,
                                    void* ctx) {
    return rows_run_with_scratch(p, width, ns, 0, n_threads, fn, ctx);
}

#endif

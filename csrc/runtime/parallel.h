/* The one way to run work on several threads.
 *
 * Called by ops/ alone; kernels never see it. What decides the number of threads is said in docs/threading.md. How the
 * threads are kept, woken and joined is the business of a backend (backend.h): "openmp", "native" or "serial". */
#ifndef TFAST_RUNTIME_PARALLEL_H
#define TFAST_RUNTIME_PARALLEL_H

#include "../base/types.h"

/* One task of a parallel loop; `scratch` is 64-byte aligned, private to the running thread, and holds what the last
 * task left. */
typedef void (*tfast_task_fn)(void* ctx, int64_t task, void* scratch);

typedef struct {
    int64_t n_tasks;
    double task_ns;       /* what one task costs on one thread, roughly: small loops stay serial */
    size_t scratch_bytes; /* for each thread */
    int n_threads;        /* 0: the setting */
} tfast_parallel;

/* Runs fn(ctx, 0 .. n_tasks-1, scratch), in any order, each task exactly once. TFAST_NO_MEMORY before any task has run,
 * else TFAST_OK. Serial when it is called inside another parallel loop, when the whole costs less than a fork and join
 * is worth, and where the backend has no threads to give (backend.h). */
tfast_status tfast_parallel_for(const tfast_parallel* loop, tfast_task_fn fn, void* ctx);

/* How many threads a loop of this much work would get; ops use it to choose how finely to cut. */
int tfast_threads_for(double total_ns, int n_threads);

/* Once, before the first loop. */
void tfast_start_threads(void);

#endif

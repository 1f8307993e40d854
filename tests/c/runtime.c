/* Settings, the tasks of parallel loops, and the memory between calls: what has no reference. Headers of runtime/ are
 * included, since the C interface says nothing of tasks and scratch. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "data.h"
#include "groups.h"
#include "runtime/parallel.h"
#include "runtime/workspace.h"

static void check_levels(void) {
    const char* level;
    int n = 0;
    check_that(tfast_set_isa("no such level") == TFAST_UNKNOWN_ISA, "a level of a wrong name is refused");
    for (; (level = tfast_available_isa(n)); n++) {
        check_that(tfast_set_isa(level) == TFAST_OK, "the level %s is there", level);
        check_that(strcmp(tfast_get_isa(), level) == 0, "the level %s is in force", level);
    }
    check_that(tfast_set_isa(NULL) == TFAST_OK && strcmp(tfast_get_isa(), tfast_available_isa(n - 1)) == 0,
               "the highest level is in force");
    check_that(tfast_emulated_isa(0) == NULL, "no level is emulated in a build like a wheel's");
}

void check_settings(void) {
    check_levels();
    const char *name, *before = tfast_get_tuning();
    for (int i = 0; (name = tfast_tuning_name(i)); i++)
        check_that(tfast_set_tuning(name) && strcmp(tfast_get_tuning(), name) == 0, "the tuning %s is there", name);
    check_that(!tfast_set_tuning("no such record"), "a tuning record of a wrong name is refused");
    tfast_set_tuning(NULL);
    check_that(strcmp(tfast_get_tuning(), before) == 0, "the processor's own tuning record is in force again");
    int64_t l1, l2, l3;
    tfast_cache_bytes(&l1, &l2, &l3);
    check_that(l1 > 0 && l2 > l1 && l3 > 0, "caches have sizes: %lld, %lld", (long long)l1, (long long)l2);
    check_that(tfast_cpu_brand()[0] != 0, "the processor has a name");
    for (int i = 0; check_threads[i]; i++) {
        tfast_set_num_threads(check_threads[i]);
        const int n = tfast_get_num_threads();
        check_that(n == check_threads[i] || n == 1, "%d threads are set, or there is 1: %d", check_threads[i], n);
    }
    tfast_set_num_threads(0);
    check_that(tfast_get_num_threads() > 0, "there is a number of threads");
    check_that(tfast_measure_fma(1e-3, 1) > 0, "products take time");
    const int64_t n = 1 << 20;
    check_that(tfast_measure_read(data_normal(n, 1), n, 2, 2) > 0, "reading takes time");
}

enum { TASKS = 1000, SCRATCH = 5000 };

typedef struct {
    int runs[TASKS];
    int wrong_scratch, nested_runs;
} tasks_t;

static void add_one(void* context, int64_t task, void* scratch) {
    (void)task;
    (void)scratch;
    __atomic_fetch_add((int*)context, 1, __ATOMIC_RELAXED);
}

/* Fills its scratch with its own number, and finds it again: no other thread has this memory. */
static void count_task(void* context, int64_t task, void* scratch) {
    tasks_t* t = context;
    unsigned char* bytes = scratch;
    int wrong = (uintptr_t)scratch % 64 != 0;
    memset(bytes, (int)(task & 255), SCRATCH);
    if (task % 100 == 0) { /* a loop in a loop is serial */
        const tfast_parallel inner = {.n_tasks = 3, .task_ns = 1e6, .n_threads = 4};
        wrong |= tfast_parallel_for(&inner, add_one, &t->nested_runs) != TFAST_OK;
    }
    for (int i = 0; i < SCRATCH; i++) wrong |= bytes[i] != (task & 255);
    __atomic_fetch_add(&t->runs[task], 1, __ATOMIC_RELAXED);
    __atomic_fetch_or(&t->wrong_scratch, wrong, __ATOMIC_RELAXED);
}

static void check_tasks(int64_t n_tasks, int n_threads) {
    tasks_t* t = data_room(sizeof *t);
    const tfast_parallel loop = {.n_tasks = n_tasks, .task_ns = 1e6, .scratch_bytes = SCRATCH, .n_threads = n_threads};
    check_that(tfast_parallel_for(&loop, count_task, t) == TFAST_OK, "%lld tasks run", (long long)n_tasks);
    int64_t once = 0;
    for (int i = 0; i < TASKS; i++) once += t->runs[i] == (i < n_tasks);
    check_that(once == TASKS, "each of %lld tasks runs once on %d threads", (long long)n_tasks, n_threads);
    check_that(!t->wrong_scratch, "scratch is private on %d threads", n_threads);
    check_that(t->nested_runs == 3 * tfast_ceil_div(n_tasks, 100), "tasks of inner loops run once");
}

static void check_workspace(void) {
    enum { SLABS = 80 }; /* more than are kept */
    unsigned char* slabs[SLABS];
    int wrong = 0;
    for (int i = 0; i < SLABS; i++) {
        slabs[i] = tfast_workspace_take((size_t)(1 + 700 * i));
        wrong |= !slabs[i] || (uintptr_t)slabs[i] % 4096 != 0;
        if (slabs[i]) memset(slabs[i], i, (size_t)(1 + 700 * i));
    }
    for (int i = 0; i < SLABS; i++)
        for (int n = 0; n < 1 + 700 * i; n++) wrong |= slabs[i][n] != i;
    check_that(!wrong, "slabs are aligned to pages and do not overlap");
    for (int i = 0; i < SLABS; i++) tfast_workspace_give(slabs[i]);
    void* again = tfast_workspace_take(100);
    tfast_workspace_give(again);
    check_that(tfast_workspace_release() > 0, "memory is given back");
    check_that(tfast_workspace_release() == 0, "and only once");
}

void check_runtime(void) {
    const int64_t numbers[] = {0, 1, 2, 3, 7, TASKS};
    const char *backend, *own = tfast_get_thread_backend();
    int has_openmp = 0;
    for (int b = 0; (backend = tfast_thread_backend_name(b)); b++) {
        has_openmp |= strcmp(backend, "openmp") == 0;
        check_that(tfast_set_thread_backend(backend), "the backend %s is there", backend);
        check_that(strcmp(tfast_get_thread_backend(), backend) == 0, "the backend %s is in force", backend);
        for (int t = 0; check_threads[t]; t++)
            for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) check_tasks(numbers[i], check_threads[t]);
    }
    check_that(has_openmp == tfast_has_openmp(), "OpenMP is a backend where it is compiled in");
    check_that(!tfast_set_thread_backend("no such backend"), "a backend of a wrong name is refused");
    tfast_set_thread_backend(own);
    check_workspace();
}

/* Callers at once on the backend "native", for ThreadSanitizer: `make tsan` builds and runs it. Also a check without
 * it: each task of a loop runs once, scratch is one thread's alone, and loops inside tasks are serial.
 *
 * Stands on runtime/ and base/ alone, without kernels, so that it is built in a second. A rule of the loop that can
 * break when threads meet: a check in `one_loop`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "runtime/backend.h"
#include "runtime/workspace.h"
#include "tfast.h"

enum { CALLERS = 4, MAX_TASKS = 40, SCRATCH = 64 };

static int loops_each;
static uint32_t callers_done; /* atomic */
static int64_t helped;        /* tasks that another thread than the caller ran; atomic */

static void fail(const char* what) {
    fprintf(stderr, "races: %s\n", what);
    exit(1);
}

/* Not atomic on purpose: what hands these over between threads is the loop alone. */
typedef struct {
    int runs[MAX_TASKS];
    int inner[MAX_TASKS];
    int nested, n_threads;
    const char* stack_of_caller;
} work_t;

static void count_inner(void* ctx, int64_t task, void* scratch) {
    (void)task, (void)scratch;
    ++*(int*)ctx;
}

static void one_task(void* ctx, int64_t task, void* scratch) {
    work_t* work = ctx;
    char here;
    const int64_t away = &here - work->stack_of_caller;
    if (away > 1 << 16 || away < -(1 << 16)) __atomic_fetch_add(&helped, 1, __ATOMIC_RELAXED);
    memset(scratch, (int)task, SCRATCH);
    if (work->nested) {
        const tfast_parallel inner = {.n_tasks = 3, .task_ns = 1e6, .n_threads = work->n_threads};
        if (tfast_parallel_for(&inner, count_inner, &work->inner[task]) != TFAST_OK) fail("no memory");
    }
    for (int i = 0; i < SCRATCH; i++)
        if (((char*)scratch)[i] != (char)task) fail("scratch of two threads");
    work->runs[task]++;
}

/* Some loops follow each other at once, others after helpers have gone to sleep. */
static void one_loop(unsigned* random) {
    *random = *random * 1664525u + 1013904223u;
    const unsigned r = *random >> 8;
    work_t work = {.nested = r & 1, .n_threads = 1 + (int)(r / 64 % 6), .stack_of_caller = (char*)&r};
    const tfast_parallel loop = {
        .n_tasks = 2 + r % (MAX_TASKS - 1), .task_ns = 1e5, .scratch_bytes = SCRATCH, .n_threads = work.n_threads};
    if (tfast_parallel_for(&loop, one_task, &work) != TFAST_OK) fail("no memory");
    for (int i = 0; i < loop.n_tasks; i++)
        if (work.runs[i] != 1 || work.inner[i] != 3 * work.nested) fail("a task did not run once");
    if (r % 16 == 0) tfast_set_num_threads(1 + (int)(r / 16 % 5));
    if (r % 64 == 0) tfast_workspace_release();
    if (r % 32 == 0)
        for (const int64_t until = tfast_os_now() + 1000000; tfast_os_now() < until;) tfast_os_yield();
}

/* Scratch that no machine has: an error before any task, and nothing stays taken. */
static void check_no_memory(void) {
    work_t work = {.stack_of_caller = (char*)&work};
    tfast_parallel loop = {.n_tasks = 4, .task_ns = 1e6, .scratch_bytes = (size_t)1 << 60, .n_threads = 2};
    if (tfast_parallel_for(&loop, one_task, &work) != TFAST_NO_MEMORY) fail("2^60 bytes of scratch were found");
    for (int i = 0; i < loop.n_tasks; i++)
        if (work.runs[i]) fail("a task ran without scratch");
    loop.scratch_bytes = SCRATCH;
    if (tfast_parallel_for(&loop, one_task, &work) != TFAST_OK) fail("a loop fails after one without memory");
}

static void caller(void) {
    static unsigned seeds; /* atomic */
    unsigned random = __atomic_add_fetch(&seeds, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < loops_each; i++) one_loop(&random);
    __atomic_fetch_add(&callers_done, 1, __ATOMIC_RELEASE);
    tfast_os_wake(&callers_done, 1);
}

int main(int n, char** arguments) {
    static const tfast_os_thread thread = {caller};
    loops_each = n > 1 ? atoi(arguments[1]) : 2000;
    tfast_start_threads();
    if (!tfast_set_thread_backend("native")) fail("no backend \"native\"");
    tfast_set_num_threads(3);
    check_no_memory();
    for (int i = 0; i < CALLERS; i++)
        if (!tfast_os_start_thread(&thread)) fail("no more threads");
    for (uint32_t done; (done = __atomic_load_n(&callers_done, __ATOMIC_ACQUIRE)) < CALLERS;)
        tfast_os_wait(&callers_done, done);
    printf("races: %d loops, %lld tasks by helpers\n", CALLERS * loops_each, (long long)helped);
    return 0;
}

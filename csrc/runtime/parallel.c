/* The parallel loop: how many threads, scratch for each of them, and the backend that has them. See parallel.h. */
#include "parallel.h"

#include <string.h>

#include "../tfast.h"
#include "backend.h"
#include "workspace.h"

/* Where TRANSFORMER_FAST_THREADS says nothing. "openmp" was faster at no case (docs/threading.md). */
#define DEFAULT_BACKEND &tfast_native

static const tfast_backend* now; /* atomic */

/* The i-th backend of this build; NULL behind the last. */
static const tfast_backend* backend(int i) {
    const tfast_backend* const all[] = {tfast_openmp(), &tfast_native, &tfast_serial};
    const int missing = all[0] == NULL;
    return i + missing < (int)(sizeof all / sizeof all[0]) ? all[i + missing] : NULL;
}

const tfast_backend* tfast_backend_now(void) {
    return __atomic_load_n(&now, __ATOMIC_RELAXED);
}

int tfast_set_thread_backend(const char* name) {
    for (int i = 0; backend(i); i++)
        if (strcmp(backend(i)->name, name) == 0) {
            __atomic_store_n(&now, backend(i), __ATOMIC_RELAXED);
            return 1;
        }
    return 0;
}

const char* tfast_get_thread_backend(void) {
    return tfast_backend_now()->name;
}

const char* tfast_thread_backend_name(int i) {
    return backend(i) ? backend(i)->name : NULL;
}

int tfast_has_openmp(void) {
    return tfast_openmp() != NULL;
}

static void after_fork_in_child(void) {
    tfast_workspace_after_fork();
    for (int i = 0; backend(i); i++) backend(i)->after_fork_in_child();
}

void tfast_start_threads(void) {
    tfast_start_openmp();
    __atomic_store_n(&now, DEFAULT_BACKEND, __ATOMIC_RELAXED);
    tfast_os_at_fork(tfast_workspace_before_fork, tfast_workspace_after_fork, after_fork_in_child);
}

int tfast_team_take_place(tfast_team* team) {
    const int cpu = tfast_os_current_processor();
    if (cpu < 0 || cpu >= TFAST_OS_MAX_PROCESSORS) return 1;
    const uint64_t bit = (uint64_t)1 << cpu % 64;
    return !(__atomic_fetch_or(&team->taken.word[cpu / 64], bit, __ATOMIC_RELAXED) & bit);
}

/* After a pause Linux was seen to wake the helper where the caller runs, with the other processor idle, and both then
 * waited for each other by turns of a time slice: a call of 26 us took 1.4 to 4 ms, for as long as the calls went on
 * (two processors, Linux 6.18). */
void tfast_team_settle(tfast_team* team) {
    if (tfast_team_take_place(team)) return;
    tfast_os_leave_processors(&team->taken);
    tfast_team_take_place(team);
}

static size_t round_to_page(size_t bytes) {
    return (bytes + 4095) / 4096 * 4096;
}

tfast_status tfast_parallel_for(const tfast_parallel* loop, tfast_task_fn fn, void* ctx) {
    if (loop->n_tasks <= 0) return TFAST_OK;
    const int limit = tfast_threads_for(loop->task_ns * (double)loop->n_tasks, loop->n_threads);
    const int wanted = limit < loop->n_tasks ? limit : (int)loop->n_tasks;
    const tfast_backend* backend = limit > 1 ? tfast_backend_now() : &tfast_serial;
    const int n = backend->begin(wanted);
    const size_t stride = round_to_page(loop->scratch_bytes);
    char* scratch = stride ? tfast_workspace_take(stride * (size_t)n) : NULL;
    const int enough = scratch != NULL || stride == 0;
    if (enough) {
        tfast_team team = {
            .loop = loop, .fn = fn, .ctx = ctx, .scratch = scratch, .stride = stride, .n_threads = n, .limit = limit};
        backend->run(&team);
    }
    backend->end(n);
    tfast_workspace_give(scratch);
    return enough ? TFAST_OK : TFAST_NO_MEMORY;
}

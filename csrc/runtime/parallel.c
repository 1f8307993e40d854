/* OpenMP behind one function; the only file that includes omp.h. Without OpenMP the loop is serial and everything else
 * is the same.
 *
 * Why it is not a bare `omp parallel for`:
 * - several Python threads that call at once would each start a team of their own: only one loop of the process is
 * parallel at a time, the others run serial beside it;
 * - libgomp's threads do not survive a fork, and a parallel region in the child would wait for them for ever: such a
 * child is serial;
 * - the number of threads has to follow affinity, cgroup quota, the library's own setting and threadpoolctl;
 * - Linux may wake a helper on the processor of the thread that calls, and leave it there: see `settle`. */
#include "parallel.h"

#include <stdlib.h>

#include "../base/os.h"
#include "workspace.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Fork and join of two threads measured at 1-3 us warm (docs/threading.md): below this much work a loop stays serial.
 */
#define SERIAL_BELOW_NS 20e3

/* A helper that is awake begins within 0.3 us. */
#define SPINS_BEFORE_YIELD 1000

static int configured_threads; /* set_num_threads; 0: none */

static int positive_env(const char* name) {
    const char* text = getenv(name);
    if (!text || !*text) return 0;
    char* end;
    const long n = strtol(text, &end, 10);
    return (*end == '\0' || *end == ',') && n > 0 && n < 4096 ? (int)n : 0;
}

static int environment_threads(void) {
    static int cached;
    if (!cached) {
        int n = positive_env("TRANSFORMER_FAST_NUM_THREADS");
        if (!n) n = positive_env("OMP_NUM_THREADS");
        if (!n) n = tfast_os_usable_processors();
        cached = n;
    }
    return cached;
}

#ifdef _OPENMP
static char region_busy;           /* a parallel region of the process is running */
static int pool_started, orphaned; /* orphaned: this is a forked child whose parent had the pool */
static int initial_omp_max = -1;
#endif

static void after_fork_in_child(void) {
    tfast_workspace_after_fork();
#ifdef _OPENMP
    if (pool_started) orphaned = 1;
    __atomic_clear(&region_busy, __ATOMIC_RELAXED);
#endif
}

void tfast_start_threads(void) {
#ifdef _OPENMP
    initial_omp_max = omp_get_max_threads();
#endif
    tfast_os_at_fork(tfast_workspace_before_fork, tfast_workspace_after_fork, after_fork_in_child);
}

#ifdef _OPENMP
/* threadpoolctl and omp_set_num_threads change this thread's OpenMP setting: a value that is no longer the initial one
 * is a limit. */
static int limit_by_openmp(int n) {
    const int now = omp_get_max_threads();
    return now != initial_omp_max && now < n ? now : n;
}
#else
static int limit_by_openmp(int n) {
    (void)n;
    return 1;
}
#endif

void tfast_set_num_threads(int n) {
    configured_threads = n;
}
int tfast_get_num_threads(void) {
    return limit_by_openmp(configured_threads > 0 ? configured_threads : environment_threads());
}

int tfast_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int tfast_threads_for(double total_ns, int n_threads) {
    if (total_ns < SERIAL_BELOW_NS) return 1;
    return n_threads > 0 ? limit_by_openmp(n_threads) : tfast_get_num_threads();
}

static size_t round_to_page(size_t bytes) {
    return (bytes + 4095) / 4096 * 4096;
}

static void run_serial(const tfast_parallel* loop, tfast_task_fn fn, void* ctx, void* scratch) {
    for (int64_t i = 0; i < loop->n_tasks; i++) fn(ctx, i, scratch);
}

#ifdef _OPENMP
/* Takes the calling thread's processor; 0: another thread of the team has it. */
static int take_place(tfast_os_processors* taken) {
    const int cpu = tfast_os_current_processor();
    if (cpu < 0 || cpu >= TFAST_OS_MAX_PROCESSORS) return 1;
    const uint64_t bit = (uint64_t)1 << cpu % 64;
    return !(__atomic_fetch_or(&taken->word[cpu / 64], bit, __ATOMIC_RELAXED) & bit);
}

/* Two threads of the team on one processor: after a pause Linux was seen to wake the helper where the caller runs, with
 * the other processor idle, and both then waited for each other by turns of a time slice: a call of 26 us took 1.4 to
 * 4 ms, for as long as the calls went on (two processors, Linux 6.18). The one that comes second moves. */
static void settle(tfast_os_processors* taken) {
    if (take_place(taken)) return;
    tfast_os_leave_processors(taken);
    take_place(taken);
}

/* A helper that has not begun may be waiting for the caller's processor: it has to run there once in order to leave. */
static void let_begin(const int* begun, int helpers) {
    for (int spins = 0; __atomic_load_n(begun, __ATOMIC_RELAXED) < helpers;)
        if (++spins > SPINS_BEFORE_YIELD) {
            tfast_os_yield();
            spins = 0;
        }
}

/* Tasks are counted out one by one: a thread that the machine slows down takes fewer. No result depends on who runs a
 * task. */
static void run_team(const tfast_parallel* loop, tfast_task_fn fn, void* ctx, char* scratch, size_t stride, int n) {
    int64_t next = 0;
    int begun = 0; /* helpers; OpenMP may have given fewer than were asked for */
    tfast_os_processors places = {0};
    take_place(&places);
    pool_started = 1;
#pragma omp parallel num_threads(n)
    {
        const int id = omp_get_thread_num();
        if (id > 0) {
            settle(&places);
            __atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED);
        }
        void* mine = scratch + stride * (size_t)id;
        for (;;) {
            const int64_t i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (i >= loop->n_tasks) break;
            fn(ctx, i, mine);
        }
        if (id == 0) let_begin(&begun, omp_get_num_threads() - 1);
    }
}
#endif

tfast_status tfast_parallel_for(const tfast_parallel* loop, tfast_task_fn fn, void* ctx) {
    if (loop->n_tasks <= 0) return TFAST_OK;
    int n = tfast_threads_for(loop->task_ns * (double)loop->n_tasks, loop->n_threads);
    if (n > loop->n_tasks) n = (int)loop->n_tasks;
    int team = 0;
#ifdef _OPENMP
    if (n > 1 && !orphaned && !omp_in_parallel()) team = !__atomic_test_and_set(&region_busy, __ATOMIC_ACQUIRE);
#endif
    if (!team) n = 1;
    const size_t stride = round_to_page(loop->scratch_bytes);
    char* scratch = stride ? tfast_workspace_take(stride * (size_t)n) : NULL;
    const int enough = scratch != NULL || stride == 0;
#ifdef _OPENMP
    if (enough && team) run_team(loop, fn, ctx, scratch, stride, n);
    if (team) __atomic_clear(&region_busy, __ATOMIC_RELEASE);
#endif
    if (enough && !team) run_serial(loop, fn, ctx, scratch);
    tfast_workspace_give(scratch);
    return enough ? TFAST_OK : TFAST_NO_MEMORY;
}

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
#define _GNU_SOURCE /* sched_getaffinity, sched_getcpu */
#include "parallel.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workspace.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
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

#if defined(__linux__)
static int cgroup_quota_cpus(void) {
    long quota = 0, period = 0;
    FILE* f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f) { /* version 2: "max 100000" or "150000 100000" */
        const int n = fscanf(f, "%ld %ld", &quota, &period);
        fclose(f);
        if (n != 2) return 0;
    } else { /* version 1 */
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        if (!f) return 0;
        int n = fscanf(f, "%ld", &quota);
        fclose(f);
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (!f || n != 1) {
            if (f) fclose(f);
            return 0;
        }
        n = fscanf(f, "%ld", &period);
        fclose(f);
        if (n != 1) return 0;
    }
    if (quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

static int affinity_cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}
#else
static int cgroup_quota_cpus(void) {
    return 0;
}
static int affinity_cpus(void) {
    return 0;
}
#endif

static int available_cpus(void) {
    int n = affinity_cpus();
    if (n <= 0) n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    const int quota = cgroup_quota_cpus();
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}

static int environment_threads(void) {
    static int cached;
    if (!cached) {
        int n = positive_env("TRANSFORMER_FAST_NUM_THREADS");
        if (!n) n = positive_env("OMP_NUM_THREADS");
        if (!n) n = available_cpus();
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

__attribute__((constructor)) static void prepare(void) {
#ifdef _OPENMP
    initial_omp_max = omp_get_max_threads();
#endif
    pthread_atfork(NULL, NULL, after_fork_in_child);
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
#if defined(__linux__)
typedef struct {
    uint64_t taken[CPU_SETSIZE / 64]; /* a bit for each processor that a thread of the team runs on */
} places_t;

static int take_place(places_t* p) {
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE) return 1;
    const uint64_t bit = (uint64_t)1 << cpu % 64;
    return !(__atomic_fetch_or(&p->taken[cpu / 64], bit, __ATOMIC_RELAXED) & bit);
}

/* Two threads of the team on one processor: after a pause Linux was seen to wake the helper where the caller runs, with
 * the other processor idle, and both then waited for each other by turns of a time slice: a call of 26 us took 1.4 to
 * 4 ms, for as long as the calls went on (two processors, Linux 6.18). The one that comes second moves: its affinity
 * goes without the processors that are taken, and is what it was again at once. */
static void settle(places_t* p) {
    if (take_place(p)) return;
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (__atomic_load_n(&p->taken[cpu / 64], __ATOMIC_RELAXED) >> cpu % 64 & 1) CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    take_place(p);
    sched_setaffinity(0, sizeof allowed, &allowed);
}

/* A helper that has not begun may be waiting for the caller's processor: it has to run there once in order to leave. */
static void let_begin(const int* begun, int helpers) {
    for (int spins = 0; __atomic_load_n(begun, __ATOMIC_RELAXED) < helpers;)
        if (++spins > SPINS_BEFORE_YIELD) {
            sched_yield();
            spins = 0;
        }
}
#else
typedef struct {
    char none;
} places_t;
static int take_place(places_t* p) {
    (void)p;
    return 1;
}
static void settle(places_t* p) {
    (void)p;
}
static void let_begin(const int* begun, int helpers) {
    (void)begun;
    (void)helpers;
}
#endif

/* Tasks are counted out one by one: a thread that the machine slows down takes fewer. No result depends on who runs a
 * task. */
static void run_team(const tfast_parallel* loop, tfast_task_fn fn, void* ctx, char* scratch, size_t stride, int n) {
    int64_t next = 0;
    int begun = 0; /* helpers; OpenMP may have given fewer than were asked for */
    places_t places = {0};
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

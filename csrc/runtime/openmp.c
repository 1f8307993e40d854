/* The backend "openmp": a team of the compiler's OpenMP runtime for each loop; the only file that includes omp.h. See
 * backend.h.
 *
 * Why it is not a bare `omp parallel for`:
 * - several Python threads that call at once would each start a team of their own: only one loop of the process is
 * parallel at a time, the others run serial beside it;
 * - libgomp's threads do not survive a fork, and a parallel region in the child would wait for them for ever: such a
 * child is serial;
 * - Linux may wake a helper on the processor of the thread that calls, and leave it there: see tfast_team_settle. */
#include "backend.h"

#ifdef _OPENMP
#include <omp.h>

/* A helper that is awake begins within 0.3 us. */
#define SPINS_BEFORE_YIELD 1000

static char region_busy;           /* a parallel region of the process is running; atomic */
static int pool_started, orphaned; /* orphaned: this is a forked child whose parent had the pool; both atomic */
static int initial_max;            /* not changed once there are loops */

void tfast_start_openmp(void) {
    initial_max = omp_get_max_threads();
}

static int begin(int n) {
    if (n == 1 || __atomic_load_n(&orphaned, __ATOMIC_RELAXED) || omp_in_parallel()) return 1;
    return __atomic_test_and_set(&region_busy, __ATOMIC_ACQUIRE) ? 1 : n;
}

static void end(int n) {
    if (n > 1) __atomic_clear(&region_busy, __ATOMIC_RELEASE);
}

/* A helper that has not begun may be waiting for the caller's processor: it has to run there once in order to leave. */
static void let_begin(const int* begun, int helpers) {
    for (int spins = 0; __atomic_load_n(begun, __ATOMIC_RELAXED) < helpers;)
        if (++spins > SPINS_BEFORE_YIELD) {
            tfast_os_yield();
            spins = 0;
        }
}

static void run(tfast_team* team) {
    if (team->n_threads == 1) {
        tfast_serial.run(team);
        return;
    }
    int begun = 0; /* helpers; OpenMP may have given fewer than were asked for */
    tfast_team_take_place(team);
    __atomic_store_n(&pool_started, 1, __ATOMIC_RELAXED);
#pragma omp parallel num_threads(team->n_threads)
    {
        const int id = omp_get_thread_num();
        if (id > 0) {
            tfast_team_settle(team);
            __atomic_fetch_add(&begun, 1, __ATOMIC_RELAXED);
        }
        while (tfast_team_step(team, id)) {
        }
        if (id == 0) let_begin(&begun, omp_get_num_threads() - 1);
    }
}

static void after_fork_in_child(void) {
    if (__atomic_load_n(&pool_started, __ATOMIC_RELAXED)) __atomic_store_n(&orphaned, 1, __ATOMIC_RELAXED);
    __atomic_clear(&region_busy, __ATOMIC_RELAXED);
}

const tfast_backend* tfast_openmp(void) {
    static const tfast_backend openmp = {"openmp", begin, run, end, after_fork_in_child};
    return &openmp;
}

/* A value that is no longer the initial one is a limit. */
int tfast_limit_by_openmp(int n) {
    const int now = omp_get_max_threads();
    return now != initial_max && now < n ? now : n;
}
#else
const tfast_backend* tfast_openmp(void) {
    return NULL;
}

void tfast_start_openmp(void) {}

int tfast_limit_by_openmp(int n) {
    return n;
}
#endif

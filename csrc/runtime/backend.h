/* What keeps threads: one descriptor a backend, in a file of its own.
 *
 * Called by parallel.c, which decides how many threads a loop gets and has its scratch. openmp.c leaves all to the
 * OpenMP runtime of the compiler, native.c has threads of its own, serial.c none. A backend is added to the list in
 * parallel.c; tests/contracts/test_threads.py and test_process.py run over all of them. */
#ifndef TFAST_RUNTIME_BACKEND_H
#define TFAST_RUNTIME_BACKEND_H

#include "../base/os.h"
#include "parallel.h"

/* One loop while it runs; lives on the stack of the thread that called. */
typedef struct {
    const tfast_parallel* loop;
    tfast_task_fn fn;
    void* ctx;
    char* scratch; /* thread i's begins at scratch + i * stride */
    size_t stride;
    int n_threads;             /* the calling thread included; not more than there are tasks */
    int limit;                 /* threads that may work in the whole process while this loop does */
    tfast_os_processors taken; /* where its threads run; atomic */
    _Alignas(64) int64_t next; /* the first task that nobody has; atomic */
} tfast_team;

/* Runs the next task that nobody has; 0: there is none. Tasks are counted out one by one, so that a thread that the
 * machine slows down takes fewer. No result depends on who runs a task. */
static inline int tfast_team_step(tfast_team* team, int id) {
    const int64_t task = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
    if (task >= team->loop->n_tasks) return 0;
    team->fn(team->ctx, task, team->scratch + team->stride * (size_t)id);
    return 1;
}

/* Takes the calling thread's processor for it; 0: another thread of the team has that one. */
int tfast_team_take_place(tfast_team* team);
/* The same, and moves a thread that comes second to a processor of its own. */
void tfast_team_settle(tfast_team* team);

typedef struct {
    const char* name;
    /* How many threads a loop of the calling thread may have now, 1 to n. */
    int (*begin)(int n);
    /* All tasks, on up to team->n_threads threads; the calling one is number 0. */
    void (*run)(tfast_team* team);
    /* After run, or in its place where there is no memory: `n` is what begin gave. */
    void (*end)(int n);
    void (*after_fork_in_child)(void);
} tfast_backend;

extern const tfast_backend tfast_serial, tfast_native;

/* The backend in force; a loop that runs keeps the one it began with. */
const tfast_backend* tfast_backend_now(void);

/* openmp.c has these in a build without OpenMP, too: then there is no such backend (NULL), and no limit. */
const tfast_backend* tfast_openmp(void);
/* Once, before the first loop: notes the number of threads that OpenMP has from the start. */
void tfast_start_openmp(void);
/* n, or fewer where threadpoolctl or omp_set_num_threads limit the calling thread. */
int tfast_limit_by_openmp(int n);

#endif

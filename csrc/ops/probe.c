/* The machine's own limits, measured with the kernels of kernels/probe.h, and what base/cpu.c found out. Called by
 * transformer_fast/_core.pyx for benchmarks and show_config(). */
#include "../base/cpu.h"
#include "../base/os.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../tfast.h"

const char* tfast_cpu_brand(void) {
    return tfast_cpu_info()->brand;
}

void tfast_cache_bytes(int64_t* l1d, int64_t* l2, int64_t* l3) {
    const tfast_cpu* cpu = tfast_cpu_info();
    *l1d = cpu->l1d_bytes;
    *l2 = cpu->l2_bytes;
    *l3 = cpu->l3_bytes;
}

static double now(void) {
    return 1e-9 * (double)tfast_os_now();
}

typedef struct {
    const tfast_row_kernels* kernels;
    const float* x;
    int64_t n, parts, rounds;
} probe_t;

static void run_fma(void* ctx, int64_t task, void* scratch) {
    (void)task, (void)scratch;
    const probe_t* p = ctx;
    p->kernels->fma_probe(p->rounds);
}

static void run_read(void* ctx, int64_t task, void* scratch) {
    (void)scratch;
    const probe_t* p = ctx;
    const int64_t first = p->n * task / p->parts, last = p->n * (task + 1) / p->parts;
    volatile float sink = p->kernels->read_probe(p->x + first, last - first);
    (void)sink;
}

static double best_seconds(const tfast_parallel* loop, tfast_task_fn fn, probe_t* p, double seconds, int repeats) {
    double best = 1e30;
    const double end = now() + seconds;
    for (int i = 0; i < repeats || now() < end; i++) {
        const double t = now();
        tfast_parallel_for(loop, fn, p);
        const double took = now() - t;
        if (i > 0 && took < best) best = took; /* the first round wakes threads and clock */
    }
    return best;
}

/* About 5 ms a task: waking a sleeping thread can take a millisecond on a virtual machine. */
#define FMA_ROUNDS 3000000

double tfast_measure_fma(double seconds, int n_threads) {
    const int threads = n_threads > 0 ? n_threads : tfast_get_num_threads();
    probe_t p = {.kernels = tfast_kernels_now()->rows, .rounds = FMA_ROUNDS};
    const tfast_parallel loop = {.n_tasks = threads, .task_ns = 1e6, .n_threads = threads};
    const double flops = p.kernels->fma_probe(1) * (double)p.rounds * threads;
    return flops / best_seconds(&loop, run_fma, &p, seconds, 3) * 1e-9;
}

double tfast_measure_read(const float* x, int64_t n, int repeats, int n_threads) {
    const int threads = n_threads > 0 ? n_threads : tfast_get_num_threads();
    probe_t p = {.kernels = tfast_kernels_now()->rows, .x = x, .n = n, .parts = threads};
    const tfast_parallel loop = {.n_tasks = threads, .task_ns = 1e6, .n_threads = threads};
    return (double)n * 4 / best_seconds(&loop, run_read, &p, 0, repeats + 1) * 1e-9;
}

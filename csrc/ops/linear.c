/* Linear layers: packing of weights, and blocks of rows and columns over the threads.
 *
 * Called by transformer_fast/_core.pyx. The kernels (kernels/gemm.h; gemm_few.h for a few rows) multiply a block of
 * rows of x, in place, by packed panels of the weight; here is the order of the blocks. Every element of y is a sum
 * over blocks of K, whose lengths depend on K alone, added in order: neither the number of threads nor the other
 * rows change a bit of it. */
#include "../tfast.h"

#include "../base/cpu.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"

/* A row block of x, and of sums where they are kept, stays in L2 while all panels pass by it. */
#define ROWS_SHARE_OF_L2 0.5
#define MAX_BLOCK_ROWS   768
#define TASKS_PER_THREAD 4

typedef struct {
    const tfast_linear* call;
    const tfast_kernels* kernels;
    int64_t k_block, row_block, n_row_blocks, n_panels, panels_per_task, n_col_blocks;
    int64_t rows_bytes; /* of a block of k of x in the kernel's own form; 0: x is read in place */
    int by_k;           /* all panels of a block of k, then the next: every panel keeps its sums */
} plan_t;

void tfast_packed_begin(int64_t N, int64_t K, int few_rows, tfast_packed* p) {
    const tfast_kernels* now = tfast_kernels_now();
    *p = (tfast_packed){.N = N, .K = K, .kernels = few_rows ? now->few_rows : now, .isa = now->isa};
}

int tfast_packed_fits(const tfast_packed* p) {
    return p->isa == tfast_kernels_now()->isa;
}

size_t tfast_packed_bytes(const tfast_packed* p) {
    return (size_t)tfast_round_up(p->N, p->kernels->panel_width) * (size_t)p->K * sizeof(float);
}

typedef struct {
    const tfast_kernels* kernels;
    const float* w;
    int64_t w_stride;
    tfast_packed* p;
} pack_t;

static void pack_panel(void* ctx, int64_t i, void* scratch) {
    (void)scratch;
    const pack_t* t = ctx;
    const int64_t width = t->kernels->panel_width, n = i * width;
    t->kernels->gemm_f32_pack(t->w + n * t->w_stride, t->w_stride, TFAST_MIN(width, t->p->N - n), t->p->K,
                              t->p->panels + n * t->p->K);
}

tfast_status tfast_pack(const float* w, int64_t w_stride, tfast_packed* p, int n_threads) {
    pack_t t = {p->kernels, w, w_stride, p};
    const int64_t panels = tfast_ceil_div(p->N, t.kernels->panel_width);
    const tfast_parallel loop = {
        .n_tasks = panels, .task_ns = (double)(p->K * t.kernels->panel_width) * 0.5, .n_threads = n_threads};
    return tfast_parallel_for(&loop, pack_panel, &t);
}

/* One block of k of rows [row, row + m) of x in the form that the kernel wants. */
static void prepare_rows(const plan_t* p, int64_t row, int64_t m, int64_t k, char* to) {
    const tfast_linear* c = p->call;
    const int64_t n = TFAST_MIN(p->k_block, c->weight->K - k);
    p->kernels->gemm_f32_rows(m, n, c->x + row * c->x_stride + k, c->x_stride, to);
}

/* The panels [first, last) of rows [row, row + m), and where their parts stand. */
typedef struct {
    const plan_t* p;
    int64_t row, m, first, last;
    void* work;
    float* sums;
    char* copied; /* what prepare_rows made */
} block_t;

/* The block's rows, and its columns from n on, all of k. */
static tfast_gemm_panel columns_from(const block_t* b, int64_t n) {
    const tfast_linear* c = b->p->call;
    const int64_t row = b->row, end = TFAST_MIN(b->last * b->p->kernels->panel_width, c->weight->N);
    return (tfast_gemm_panel){.m = b->m,
                              .n = end - n,
                              .k = c->weight->K,
                              .k_block = b->p->k_block,
                              .fetch = tfast_tuning_now() != TFAST_TUNING_ZEN4, /* measured in gemm_few.h */
                              .a = c->x + row * c->x_stride,
                              .a_stride = c->x_stride,
                              .b = c->weight->panels + n * c->weight->K,
                              .sums = b->sums,
                              .y = c->y + row * c->y_stride + n,
                              .y_stride = c->y_stride,
                              .bias = c->bias ? c->bias + n : NULL,
                              .multiply = c->multiply ? c->multiply + row * c->multiply_stride + n : NULL,
                              .multiply_stride = c->multiply_stride,
                              .residual = c->residual ? c->residual + row * c->residual_stride + n : NULL,
                              .residual_stride = c->residual_stride,
                              .activation = c->activation};
}

/* One block of k of one panel; the next call's is that of `next_panel` and `next_k`. */
static void run_step(const block_t* b, int64_t panel, int64_t k, const char* rows, float* sums, int64_t next_panel,
                     int64_t next_k) {
    const plan_t* p = b->p;
    const int64_t width = p->kernels->panel_width, K = p->call->weight->K;
    const int64_t next_rows = next_panel < b->last ? TFAST_MIN(p->k_block, K - next_k) : 0;
    tfast_gemm_panel g = columns_from(b, panel * width);
    g.n = TFAST_MIN(width, g.n);
    g.k = TFAST_MIN(p->k_block, K - k);
    g.a += k;
    g.rows = rows;
    g.b += k * width;
    g.sums = sums;
    g.first = k == 0;
    g.last = k + p->k_block >= K;
    g.work = b->work;
    g.next = p->call->weight->panels + (next_panel * K + next_k) * width;
    g.next_bytes = next_rows * width * (int64_t)sizeof(float);
    p->kernels->gemm_f32_panel(&g);
}

/* A panel after the other, each over all blocks of k: one panel's sums at a time. Blocks of a panel and panels lie one
 * after the other in memory. */
static void run_by_panel(const block_t* b) {
    const plan_t* p = b->p;
    const tfast_packed* w = b->p->call->weight;
    for (int64_t k = 0; p->rows_bytes && k < w->K; k += p->k_block)
        prepare_rows(p, b->row, b->m, k, b->copied + k / p->k_block * p->rows_bytes);
    for (int64_t j = b->first; j < b->last; j++)
        for (int64_t k = 0; k < w->K || k == 0; k += p->k_block) {
            const int ends = k + p->k_block >= w->K;
            run_step(b, j, k, b->copied + k / p->k_block * p->rows_bytes, b->sums, j + ends, ends ? 0 : k + p->k_block);
        }
}

/* A block of k after the other, each for all panels, which keep their sums: x is prepared a block at a time, so that
 * more of its rows stay in L2. */
static void run_by_k(const block_t* b) {
    const plan_t* p = b->p;
    const tfast_packed* w = b->p->call->weight;
    const int64_t width = p->kernels->panel_width;
    for (int64_t k = 0; k < w->K; k += p->k_block) {
        prepare_rows(p, b->row, b->m, k, b->copied);
        for (int64_t j = b->first; j < b->last; j++)
            run_step(b, j, k, b->copied, b->sums + (j - b->first) * b->m * width, j + 1, k);
    }
}

static void run_block(void* ctx, int64_t task, void* scratch) {
    const plan_t* p = ctx;
    const int64_t row = task / p->n_col_blocks * p->row_block, first = task % p->n_col_blocks * p->panels_per_task;
    const int64_t kept = p->by_k ? p->panels_per_task : 1;
    char* work = scratch;
    float* sums = (float*)(work + tfast_align64(p->kernels->gemm_f32_work_bytes));
    const block_t b = {.p = p,
                       .row = row,
                       .m = TFAST_MIN(p->row_block, p->call->M - row),
                       .work = work,
                       .first = first,
                       .last = TFAST_MIN(first + p->panels_per_task, p->n_panels),
                       .sums = sums,
                       .copied = (char*)(sums + kept * p->row_block * p->kernels->panel_width)};
    if (p->kernels->gemm_f32_begin) p->kernels->gemm_f32_begin(b.m, work);
    if (b.m <= p->kernels->most_few) {
        const tfast_gemm_panel all = columns_from(&b, b.first * p->kernels->panel_width);
        p->kernels->gemm_f32_few(&all);
    } else if (p->by_k)
        run_by_k(&b);
    else
        run_by_panel(&b);
    if (p->kernels->gemm_f32_end) p->kernels->gemm_f32_end();
}

/* Rows of a block, of which L2 holds `bytes` each. */
static int64_t rows_within_l2(const plan_t* p, int64_t bytes) {
    const int64_t rows = (int64_t)(ROWS_SHARE_OF_L2 * (double)tfast_cpu_info()->l2_bytes) / bytes;
    return tfast_clamp(rows, p->kernels->rows_block, MAX_BLOCK_ROWS);
}

/* At most so many rows in a block, and p->by_k. */
static int64_t most_rows(plan_t* p, int64_t N, int64_t K) {
    if (!p->kernels->gemm_f32_rows) return rows_within_l2(p, K * 4);
    const int64_t row_bytes =
        (int64_t)p->kernels->gemm_f32_rows_bytes(p->kernels->tile_rows, K) / p->kernels->tile_rows;
    const int64_t by_panel = rows_within_l2(p, row_bytes), by_k = rows_within_l2(p, row_bytes * p->k_block / K + N * 4);
    p->by_k = by_k > by_panel;
    return TFAST_MAX(by_panel, by_k);
}

static void make_plan(plan_t* p, const tfast_linear* c, int threads) {
    const int64_t tile = p->kernels->tile_rows, width = p->kernels->panel_width, K = TFAST_MAX(c->weight->K, 1);
    const int64_t blocks = tfast_ceil_div(K, p->kernels->k_block);
    p->k_block = tfast_round_up(tfast_ceil_div(K, blocks), p->kernels->k_unit);
    const int64_t rows = most_rows(p, c->weight->N, K), wanted = (int64_t)threads * TASKS_PER_THREAD;
    p->n_panels = tfast_ceil_div(c->weight->N, width);
    p->n_row_blocks = tfast_ceil_div(c->M, rows);
    p->n_col_blocks = 1;
    if (threads > 1) {
        const int64_t most = TFAST_MAX(p->n_row_blocks, c->M / p->kernels->rows_block);
        p->n_row_blocks = tfast_clamp(wanted, p->n_row_blocks, most);
        p->n_col_blocks = tfast_clamp(tfast_ceil_div(wanted, p->n_row_blocks), 1, p->n_panels);
    }
    p->row_block = tfast_round_up(tfast_ceil_div(c->M, p->n_row_blocks), tile);
    p->n_row_blocks = tfast_ceil_div(c->M, p->row_block);
    p->panels_per_task = tfast_ceil_div(p->n_panels, p->n_col_blocks);
    p->n_col_blocks = tfast_ceil_div(p->n_panels, p->panels_per_task);
    if (p->kernels->gemm_f32_rows) p->rows_bytes = (int64_t)p->kernels->gemm_f32_rows_bytes(p->row_block, p->k_block);
}

/* Partial sums, and what prepare_rows makes. */
static size_t scratch_bytes(const plan_t* p) {
    const int64_t blocks = tfast_ceil_div(p->call->weight->K, p->k_block);
    const int64_t sums = p->row_block * p->kernels->panel_width * (p->by_k ? p->panels_per_task : 1);
    return tfast_align64(p->kernels->gemm_f32_work_bytes) + (size_t)sums * sizeof(float) +
           (size_t)(p->rows_bytes * (p->by_k ? 1 : blocks));
}

tfast_status tfast_linear_run(const tfast_linear* c, int n_threads) {
    plan_t p = {.call = c, .kernels = c->weight->kernels};
    if (!tfast_packed_fits(c->weight)) return TFAST_WRONG_LAYOUT;
    if (c->M == 0 || c->weight->N == 0) return TFAST_OK;
    const double ns = 2.0 * (double)c->M * (double)c->weight->N * (double)c->weight->K / 50.0; /* 50 GFLOP/s */
    make_plan(&p, c, tfast_threads_for(ns, n_threads));
    const int64_t tasks = p.n_row_blocks * p.n_col_blocks;
    const tfast_parallel loop = {
        .n_tasks = tasks, .task_ns = ns / (double)tasks, .n_threads = n_threads, .scratch_bytes = scratch_bytes(&p)};
    return tfast_parallel_for(&loop, run_block, &p);
}

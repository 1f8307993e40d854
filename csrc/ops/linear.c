/* Linear layers: packing of weights, and blocks of rows and columns over the threads.
 *
 * Called by transformer_fast/_core.pyx. The kernel (kernels/gemm.h) multiplies a block of rows of x, in place, by one
 * packed panel of the weight; here is the order of the blocks. Every element of y is a sum over blocks of K, whose
 * lengths depend on K and L1 alone, added in order: neither the number of threads nor the other rows change a bit of
 * it. */
#include "../tfast.h"

#include <string.h>

#include "../base/cpu.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"

/* A block of a panel stays in L1 while all rows of a row block pass by it: 3/4 of L1, the rest is for x and y. */
#define PANEL_SHARE_OF_L1 0.75
/* Nor longer than this: a sum of 192 products has less than half the rounding error of one of 1,024. */
#define MAX_K_BLOCK 192
/* A row block of x stays in L2 while all panels pass by it. */
#define ROWS_SHARE_OF_L2 0.5
/* A row block below this reads the weights too often for what its rows compute. */
#define MIN_BLOCK_ROWS   96
#define MAX_BLOCK_ROWS   768
#define TASKS_PER_THREAD 4
/* With so many blocks of k or more, and as many panels that read them, x is copied block by block: a tile's rows then
 * lie 768 bytes apart and not K * 4, pages and sets of the L1 apart. */
#define GATHER_K_BLOCKS 3
#define GATHER_PANELS   4

typedef struct {
    const tfast_linear* call;
    const tfast_kernels* kernels;
    int64_t k_block, row_block, n_row_blocks, n_panels, panels_per_task, n_col_blocks;
    int gather; /* rows of x are copied into dense blocks first */
} plan_t;

void tfast_packed_begin(int64_t N, int64_t K, tfast_packed* p) {
    *p = (tfast_packed){.N = N, .K = K, .kernels = tfast_kernels_now()};
}

size_t tfast_packed_bytes(const tfast_packed* p) {
    return (size_t)tfast_round_up(p->N, p->kernels->panel_width) * (size_t)p->K * sizeof(float);
}

const char* tfast_packed_isa(const tfast_packed* p) {
    return p->kernels->isa;
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

/* Rows [row, row + m) of x as dense blocks of k: [K / k_block][m][k_block]. */
static void gather_rows(const plan_t* p, int64_t row, int64_t m, float* to) {
    const tfast_linear* c = p->call;
    const int64_t K = c->weight->K;
    for (int64_t k = 0; k < K; k += p->k_block) {
        const size_t bytes = (size_t)TFAST_MIN(p->k_block, K - k) * sizeof(float);
        for (int64_t i = 0; i < m; i++, to += p->k_block) memcpy(to, c->x + (row + i) * c->x_stride + k, bytes);
    }
}

/* One panel of one row block: all blocks of k. */
static void run_panel(const plan_t* p, int64_t row, int64_t m, int64_t panel, const float* end, const float* gathered,
                      float* sums) {
    const tfast_linear* c = p->call;
    const int64_t width = p->kernels->panel_width, N = c->weight->N, K = c->weight->K, n = panel * width;
    for (int64_t k = 0; k < K || k == 0; k += p->k_block) {
        /* Blocks of a panel and panels lie one after the other: what follows in memory is what the next call reads. */
        const float* next = c->weight->panels + n * K + TFAST_MIN(k + p->k_block, K) * width;
        const tfast_gemm_panel g = {.m = m,
                                    .n = TFAST_MIN(width, N - n),
                                    .k = TFAST_MIN(p->k_block, K - k),
                                    .a = gathered ? gathered + k * m : c->x + row * c->x_stride + k,
                                    .a_stride = gathered ? p->k_block : c->x_stride,
                                    .b = c->weight->panels + n * K + k * width,
                                    .sums = sums,
                                    .y = c->y + row * c->y_stride + n,
                                    .y_stride = c->y_stride,
                                    .bias = c->bias ? c->bias + n : NULL,
                                    .multiply = c->multiply ? c->multiply + row * c->multiply_stride + n : NULL,
                                    .multiply_stride = c->multiply_stride,
                                    .residual = c->residual ? c->residual + row * c->residual_stride + n : NULL,
                                    .residual_stride = c->residual_stride,
                                    .activation = c->activation,
                                    .first = k == 0,
                                    .last = k + p->k_block >= K,
                                    .next = next,
                                    .next_bytes = TFAST_MIN(end - next, p->k_block * width) * (int64_t)sizeof(float)};
        p->kernels->gemm_f32_panel(&g);
    }
}

/* The panels [first, last) of one row block. */
static void run_block(void* ctx, int64_t task, void* scratch) {
    const plan_t* p = ctx;
    const tfast_linear* c = p->call;
    const int64_t width = p->kernels->panel_width, K = c->weight->K;
    const int64_t row = task / p->n_col_blocks * p->row_block, m = TFAST_MIN(p->row_block, c->M - row);
    const int64_t first = task % p->n_col_blocks * p->panels_per_task;
    const int64_t last = TFAST_MIN(first + p->panels_per_task, p->n_panels);
    float *sums = scratch, *gathered = p->gather ? sums + p->row_block * width : NULL;
    if (gathered) gather_rows(p, row, m, gathered);
    for (int64_t j = first; j < last; j++)
        run_panel(p, row, m, j, c->weight->panels + last * width * K, gathered, sums);
}

static void make_plan(plan_t* p, const tfast_linear* c, int threads) {
    const tfast_cpu* cpu = tfast_cpu_info();
    const int64_t tile = p->kernels->tile_rows, width = p->kernels->panel_width, K = TFAST_MAX(c->weight->K, 1);
    const int64_t fits = (int64_t)(PANEL_SHARE_OF_L1 * (double)cpu->l1d_bytes) / (width * 4);
    p->k_block = tfast_round_up(tfast_ceil_div(K, tfast_ceil_div(K, tfast_clamp(fits, 64, MAX_K_BLOCK))), 8);
    const int64_t rows =
        tfast_clamp((int64_t)(ROWS_SHARE_OF_L2 * (double)cpu->l2_bytes) / (K * 4), MIN_BLOCK_ROWS, MAX_BLOCK_ROWS);
    p->n_panels = tfast_ceil_div(c->weight->N, width);
    p->n_row_blocks = tfast_ceil_div(c->M, rows);
    p->n_col_blocks = 1;
    if (threads > 1) {
        const int64_t wanted = (int64_t)threads * TASKS_PER_THREAD;
        p->n_row_blocks = tfast_clamp(wanted, p->n_row_blocks, TFAST_MAX(p->n_row_blocks, c->M / MIN_BLOCK_ROWS));
        p->n_col_blocks = tfast_clamp(tfast_ceil_div(wanted, p->n_row_blocks), 1, p->n_panels);
    }
    p->row_block = tfast_round_up(tfast_ceil_div(c->M, p->n_row_blocks), tile);
    p->n_row_blocks = tfast_ceil_div(c->M, p->row_block);
    p->panels_per_task = tfast_ceil_div(p->n_panels, p->n_col_blocks);
    p->n_col_blocks = tfast_ceil_div(p->n_panels, p->panels_per_task);
    p->gather = K >= GATHER_K_BLOCKS * p->k_block && p->panels_per_task >= GATHER_PANELS && p->row_block > tile;
}

/* Partial sums, and the copy of x. */
static size_t scratch_bytes(const plan_t* p) {
    const int64_t copied = p->gather ? tfast_round_up(p->call->weight->K, p->k_block) : 0;
    return (size_t)(p->row_block * (p->kernels->panel_width + copied)) * sizeof(float);
}

tfast_status tfast_linear_run(const tfast_linear* c, int n_threads) {
    plan_t p = {.call = c, .kernels = tfast_kernels_now()};
    if (c->weight->kernels->layout != p.kernels->layout) return TFAST_WRONG_LAYOUT;
    if (c->M == 0 || c->weight->N == 0) return TFAST_OK;
    const double ns = 2.0 * (double)c->M * (double)c->weight->N * (double)c->weight->K / 50.0; /* 50 GFLOP/s */
    make_plan(&p, c, tfast_threads_for(ns, n_threads));
    const int64_t tasks = p.n_row_blocks * p.n_col_blocks;
    const tfast_parallel loop = {
        .n_tasks = tasks, .task_ns = ns / (double)tasks, .n_threads = n_threads, .scratch_bytes = scratch_bytes(&p)};
    return tfast_parallel_for(&loop, run_block, &p);
}

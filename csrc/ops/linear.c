/* Linear layers: blocks of rows and columns over the threads, for every weight format. Packing: pack.c.
 *
 * Called by transformer_fast/_core.pyx and by the ops that are made of products. The kernels (kernels/gemm/) multiply a
 * block of rows of x by packed panels of the weight; here is the order of the blocks. Every element of y is a sum over
 * blocks of K, whose lengths depend on K alone, added in order: neither the number of threads nor the other rows change
 * a bit of it.
 *
 * Maxima over the rows of sequences (`cu`): a panel's columns of y stay in a tile in L2, and go into the maxima before
 * the next panel. A task has columns of its own and all rows, so that no maximum has two writers. */
#include "../tfast.h"

#include <math.h>
#include <string.h>

#include "../base/cpu.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../tuning/tuning.h"
#include "packed.h"

/* A row block of x, and of sums where they are kept, stays in L2 while all panels pass by it. */
#define ROWS_SHARE_OF_L2 0.5
#define MAX_BLOCK_ROWS   768
#define TASKS_PER_THREAD 4
/* Where x is prepared, each task of columns does it again: with so many columns that takes 9 % of the products of
 * integers (11 instructions for 8 k, and 5 for 64 products), less of the slower ones of other formats. */
#define MIN_PREPARED_COLUMNS 192
/* Of a thread's time that may be idle for it, per cent. */
#define MOST_IDLE 10
/* Panels whose maxima `small_m` makes together: its few rows of y, 32 KB at most, stay in L1. */
#define SMALL_M_PANELS 8

typedef struct {
    const tfast_linear* call;
    const tfast_gemm* gemm;
    const tfast_row_kernels* rows;
    tfast_int8_side side;
    int64_t panel_bytes, block_bytes; /* of a whole panel; of a block of k of it: a division each step costs 10 % of
                                         small calls */
    int64_t k_block, k_blocks, row_block, n_row_blocks, n_panels, panels_per_task, n_col_blocks;
    int64_t prepared_bytes; /* of a block of k of x in the kernel's own form; 0: x is read in place */
    int by_k;               /* all panels of a block of k, then the next: every panel keeps its sums */
} plan_t;

/* n of k, from `k` on, of rows [row, row + m) of x in the form that the kernel wants. */
static void prepare_rows(const plan_t* p, int64_t row, int64_t m, int64_t k, int64_t n, char* to) {
    const tfast_linear* c = p->call;
    const float* factor = c->weight->smoothed ? p->side.factor + k : NULL;
    p->gemm->prepare(m, n, c->x + row * c->x_stride + k, c->x_stride, factor, c->weight->x_limit, to);
}

/* Block number `block` of k. */
static void prepare_block(const plan_t* p, int64_t row, int64_t m, int64_t block, char* to) {
    const int64_t k = block * p->k_block;
    prepare_rows(p, row, m, k, TFAST_MIN(p->k_block, p->call->weight->K - k), to);
}

/* The panels [first, last) of rows [row, row + m), and where their parts stand. */
typedef struct {
    const plan_t* p;
    int64_t row, m, first, last;
    void* work;
    float* sums;
    float* tile;      /* with call->cu: what the kernel writes as y */
    int64_t sequence; /* with call->cu: that of the first row */
    char* copied;     /* what prepare_rows made */
} block_t;

/* The block's rows, and its columns from those of `panel` on, all of k. */
static tfast_gemm_call columns_from(const block_t* b, int64_t panel) {
    const tfast_linear* c = b->p->call;
    const int64_t width = b->p->gemm->layout.panel_width, row = b->row;
    const int64_t n = panel * width, end = TFAST_MIN(b->last * width, c->weight->N);
    return (tfast_gemm_call){.m = b->m,
                             .n = end - n,
                             .k = c->weight->K,
                             .k_block = b->p->k_block,
                             .prefetch_b = tfast_tuning_now()->small_m_prefetches,
                             .a = c->x + row * c->x_stride,
                             .a_stride = c->x_stride,
                             .b = (const char*)c->weight->data + panel * b->p->panel_bytes,
                             .side = tfast_int8_side_from(b->p->side, n),
                             .sums = b->sums,
                             .y = c->cu ? b->tile : c->y + row * c->y_stride + n,
                             .y_stride = c->cu ? width : c->y_stride,
                             .bias = c->bias ? c->bias + n : NULL,
                             .multiply = c->multiply ? c->multiply + row * c->multiply_stride + n : NULL,
                             .multiply_stride = c->multiply_stride,
                             .residual = c->residual ? c->residual + row * c->residual_stride + n : NULL,
                             .residual_stride = c->residual_stride,
                             .activation = c->activation};
}

/* The block's rows of the tile (m, n), whose columns are those of y from those of `panel` on, into the maxima. */
static void add_to_maxima(const block_t* b, int64_t panel, int64_t n, int64_t tile_stride) {
    const tfast_linear* c = b->p->call;
    const int64_t end = b->row + b->m;
    float* y = c->y + panel * b->p->gemm->layout.panel_width;
    for (int64_t i = b->sequence; i < c->B && c->cu[i] < end; i++) {
        const int64_t first = TFAST_MAX(c->cu[i], b->row), last = TFAST_MIN(c->cu[i + 1], end);
        b->p->rows->column_max(last - first, n, b->tile + (first - b->row) * tile_stride, tile_stride,
                               y + i * c->y_stride);
    }
}

/* Block number `block` of k of one panel; the next call's is `next_block` of `next_panel`. */
static void run_step(const block_t* b, int64_t panel, int64_t block, const char* rows, float* sums, int64_t next_panel,
                     int64_t next_block) {
    const plan_t* p = b->p;
    const tfast_packed* w = p->call->weight;
    const int64_t k = block * p->k_block, next_k = next_block * p->k_block;
    tfast_gemm_call g = columns_from(b, panel);
    g.n = TFAST_MIN(p->gemm->layout.panel_width, g.n);
    g.k = TFAST_MIN(p->k_block, w->K - k);
    g.a += k;
    g.rows = rows;
    g.b = (const char*)g.b + block * p->block_bytes;
    g.sums = sums;
    g.first = block == 0;
    g.last = block == p->k_blocks - 1;
    g.work = b->work;
    g.next = (const char*)w->data + next_panel * p->panel_bytes + next_block * p->block_bytes;
    g.next_k = next_panel < b->last ? TFAST_MIN(p->k_block, w->K - next_k) : 0;
    p->gemm->panel(&g);
    if (p->call->cu && g.last) add_to_maxima(b, panel, g.n, g.y_stride);
}

/* A panel after the other, each over all blocks of k: one panel's sums at a time. Blocks of a panel and panels lie one
 * after the other in memory. */
static void run_by_panel(const block_t* b) {
    const plan_t* p = b->p;
    const int64_t blocks = p->k_blocks;
    for (int64_t i = 0; p->prepared_bytes && i < blocks; i++)
        prepare_block(p, b->row, b->m, i, b->copied + i * p->prepared_bytes);
    for (int64_t j = b->first; j < b->last; j++)
        for (int64_t i = 0; i < blocks; i++) {
            const int ends = i == blocks - 1;
            run_step(b, j, i, b->copied + i * p->prepared_bytes, b->sums, j + ends, ends ? 0 : i + 1);
        }
}

/* A block of k after the other, each for all panels, which keep their sums: x is prepared a block at a time, so that
 * more of its rows stay in L2. */
static void run_by_k(const block_t* b) {
    const plan_t* p = b->p;
    const int64_t width = p->gemm->layout.panel_width;
    for (int64_t i = 0; i < p->k_blocks; i++) {
        prepare_block(p, b->row, b->m, i, b->copied);
        for (int64_t j = b->first; j < b->last; j++)
            run_step(b, j, i, b->copied, b->sums + (j - b->first) * b->m * width, j + 1, i);
    }
}

/* Few rows: all panels in one pass, or with maxima some of them. */
static void run_small_m(const block_t* b) {
    const plan_t* p = b->p;
    const int64_t together = p->call->cu ? SMALL_M_PANELS : b->last - b->first;
    if (p->prepared_bytes) prepare_rows(p, b->row, b->m, 0, p->call->weight->K, b->copied);
    for (int64_t j = b->first; j < b->last; j += together) {
        tfast_gemm_call some = columns_from(b, j);
        some.rows = b->copied;
        if (p->call->cu) {
            some.y_stride = together * p->gemm->layout.panel_width;
            some.n = TFAST_MIN(some.n, some.y_stride);
        }
        p->gemm->small_m(&some);
        if (p->call->cu) add_to_maxima(b, j, some.n, some.y_stride);
    }
}

/* Floats of a tile. */
static int64_t tile_size(const plan_t* p) {
    if (!p->call->cu) return 0;
    return TFAST_MAX(p->row_block, (int64_t)p->gemm->max_small_m * SMALL_M_PANELS) * p->gemm->layout.panel_width;
}

/* The sequence that a row is of. */
static int64_t sequence_of(const tfast_linear* c, int64_t row) {
    int64_t low = 0, high = c->B; /* it is in [low, high) */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (c->cu[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Block `i` of rows and block `j` of columns. */
static void run_block(const plan_t* p, int64_t i, int64_t j, void* scratch) {
    const int64_t row = i * p->row_block, first = j * p->panels_per_task;
    const int64_t kept = p->by_k ? p->panels_per_task : 1, width = p->gemm->layout.panel_width;
    char* work = scratch;
    float* tile = (float*)(work + tfast_align64(p->gemm->work_bytes));
    float* sums = tile + tile_size(p);
    const block_t b = {.p = p,
                       .row = row,
                       .m = TFAST_MIN(p->row_block, p->call->M - row),
                       .work = work,
                       .first = first,
                       .last = TFAST_MIN(first + p->panels_per_task, p->n_panels),
                       .sums = sums,
                       .tile = tile,
                       .sequence = p->call->cu ? sequence_of(p->call, row) : 0,
                       .copied = (char*)(sums + kept * p->row_block * width)};
    if (p->gemm->begin) p->gemm->begin(b.m, work);
    if (b.m <= p->gemm->max_small_m)
        run_small_m(&b);
    else if (p->by_k)
        run_by_k(&b);
    else
        run_by_panel(&b);
    if (p->gemm->end) p->gemm->end();
}

/* One block; with maxima, one block of columns of all rows. */
static void run_task(void* ctx, int64_t task, void* scratch) {
    const plan_t* p = ctx;
    const tfast_linear* c = p->call;
    if (!c->cu) {
        run_block(p, task / p->n_col_blocks, task % p->n_col_blocks, scratch);
        return;
    }
    const int64_t columns = p->panels_per_task * p->gemm->layout.panel_width;
    const int64_t end = TFAST_MIN((task + 1) * columns, c->weight->N);
    for (int64_t i = 0; i < c->B; i++)
        for (int64_t n = task * columns; n < end; n++) c->y[i * c->y_stride + n] = -INFINITY;
    for (int64_t i = 0; i < p->n_row_blocks; i++) run_block(p, i, task, scratch);
}

/* Rows of a block, of which L2 holds `bytes` each. */
static int64_t rows_within_l2(const plan_t* p, int64_t bytes) {
    const int64_t rows = (int64_t)(ROWS_SHARE_OF_L2 * (double)tfast_cpu_info()->l2_bytes) / bytes;
    return tfast_clamp(rows, p->gemm->min_row_block, MAX_BLOCK_ROWS);
}

/* At most so many rows in a block, and p->by_k. */
static int64_t most_rows(plan_t* p, int64_t N, int64_t K) {
    if (!p->gemm->prepare) return rows_within_l2(p, K * 4);
    const int64_t row_bytes = (int64_t)p->gemm->prepared_bytes(p->gemm->tile_rows, K) / p->gemm->tile_rows;
    const int64_t by_panel = rows_within_l2(p, row_bytes), by_k = rows_within_l2(p, row_bytes * p->k_block / K + N * 4);
    p->by_k = by_k > by_panel;
    return TFAST_MAX(by_panel, by_k);
}

/* So many blocks of columns that there are `wanted` tasks; where x is prepared, fewer ones that keep the threads as
 * busy. */
static int64_t column_blocks(const plan_t* p, int threads, int64_t wanted, int64_t N) {
    const int64_t most = tfast_ceil_div(wanted, p->n_row_blocks);
    if (!p->gemm->prepare) return most;
    for (int64_t n = TFAST_MAX(1, N / MIN_PREPARED_COLUMNS); n < most; n++) {
        const int64_t tasks = p->n_row_blocks * n, places = tfast_ceil_div(tasks, threads) * threads;
        if (places * 100 <= tasks * (100 + MOST_IDLE)) return n;
    }
    return most;
}

static void make_plan(plan_t* p, const tfast_linear* c, int threads) {
    const int64_t tile = p->gemm->tile_rows, K = TFAST_MAX(c->weight->K, 1);
    const int64_t blocks = tfast_ceil_div(K, p->gemm->max_k_block);
    p->k_block = tfast_round_up(tfast_ceil_div(K, blocks), p->gemm->k_unit);
    p->k_blocks = tfast_ceil_div(K, p->k_block);
    p->panel_bytes = tfast_panel_bytes(&p->gemm->layout, c->weight->K);
    p->block_bytes = tfast_panel_bytes(&p->gemm->layout, p->k_block);
    const int64_t rows = most_rows(p, c->weight->N, K), wanted = (int64_t)threads * TASKS_PER_THREAD;
    p->n_panels = packed_panels(c->weight);
    p->n_row_blocks = tfast_ceil_div(c->M, rows);
    p->n_col_blocks = 1;
    if (threads > 1 && c->cu) {
        const int64_t most = p->gemm->prepare ? c->weight->N / MIN_PREPARED_COLUMNS : p->n_panels;
        p->n_col_blocks = tfast_clamp(wanted, 1, TFAST_MAX(most, 1));
    } else if (threads > 1) {
        const int64_t most = TFAST_MAX(p->n_row_blocks, c->M / p->gemm->min_row_block);
        p->n_row_blocks = tfast_clamp(wanted, p->n_row_blocks, most);
        p->n_col_blocks = tfast_clamp(column_blocks(p, threads, wanted, c->weight->N), 1, p->n_panels);
    }
    p->row_block = tfast_round_up(tfast_ceil_div(c->M, p->n_row_blocks), tile);
    p->n_row_blocks = tfast_ceil_div(c->M, p->row_block);
    p->panels_per_task = tfast_ceil_div(p->n_panels, p->n_col_blocks);
    p->n_col_blocks = tfast_ceil_div(p->n_panels, p->panels_per_task);
    if (p->gemm->prepare) p->prepared_bytes = (int64_t)p->gemm->prepared_bytes(p->row_block, p->k_block);
}

/* A tile, partial sums, and what prepare_rows makes. */
static size_t scratch_bytes(const plan_t* p) {
    const int64_t width = p->gemm->layout.panel_width;
    const int64_t floats = tile_size(p) + p->row_block * width * (p->by_k ? p->panels_per_task : 1);
    size_t prepared = (size_t)(p->prepared_bytes * (p->by_k ? 1 : p->k_blocks));
    if (p->prepared_bytes && p->gemm->max_small_m)
        prepared = TFAST_MAX(prepared, p->gemm->prepared_bytes(p->gemm->max_small_m, p->call->weight->K));
    return tfast_align64(p->gemm->work_bytes) + (size_t)floats * sizeof(float) + prepared;
}

/* Parts of a weight, each a product of its own. */
static tfast_status run_parts(const tfast_linear* c, int n_threads) {
    tfast_linear part = *c;
    for (int64_t i = 0; i < c->weight->n_parts; i++) {
        part.weight = c->weight->parts[i];
        const tfast_status status = tfast_linear_run(&part, n_threads);
        if (status != TFAST_OK) return status;
        const int64_t n = part.weight->N;
        part.y += n;
        if (part.bias) part.bias += n;
        if (part.multiply) part.multiply += n;
        if (part.residual) part.residual += n;
    }
    return TFAST_OK;
}

tfast_status tfast_linear_run(const tfast_linear* c, int n_threads) {
    if (c->weight->n_parts) return run_parts(c, n_threads);
    const tfast_kernels* kernels = tfast_kernels_now();
    plan_t p = {.call = c,
                .gemm = tfast_gemm_that_reads(kernels, c->weight->gemm),
                .rows = kernels->rows,
                .side = packed_side(c->weight)};
    if (!p.gemm) return TFAST_WRONG_LAYOUT;
    p.gemm = tfast_gemm_for_rows(kernels, p.gemm, c->M);
    if (c->M == 0 || c->weight->N == 0) return TFAST_OK;
    const double ns = tfast_flops_ns(2.0 * (double)c->M * (double)c->weight->N * (double)c->weight->K);
    make_plan(&p, c, tfast_threads_for(ns, n_threads));
    const int64_t tasks = c->cu ? p.n_col_blocks : p.n_row_blocks * p.n_col_blocks;
    const tfast_parallel loop = {
        .n_tasks = tasks, .task_ns = ns / (double)tasks, .n_threads = n_threads, .scratch_bytes = scratch_bytes(&p)};
    return tfast_parallel_for(&loop, run_task, &p);
}

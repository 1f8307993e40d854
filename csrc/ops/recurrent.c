/* Recurrent layers (LSTM, GRU): all steps of one layer in one call.
 *
 * Called by transformer_fast/_core.pyx. A step is a product of the state with the packed weight (linear.c) and the
 * gates of each row (kernels/recurrent.h). The input's share of the gates does not depend on the steps before: it is
 * computed for a block of steps together, which is as many rows as the product needs to be fast, and no more than stay
 * in cache until the steps read them. (All steps at once, as one array, measured 0.75 of that speed: 50 MB go to memory
 * and back.)
 *
 * Steps depend on each other, rows and directions do not. So a task is some rows of one direction through all steps, in
 * scratch of its own and without a barrier; where there are too few rows for that, the steps run one after the other
 * and each is split over all threads. A row's bits depend on neither.
 *
 * Rows are taken by falling length: those that still run at a step are the first ones. */
#include "../tfast.h"

#include <string.h>

#include "../base/cpu.h"
#include "../kernels/api.h"
#include "../runtime/dispatch.h"
#include "../runtime/parallel.h"
#include "../runtime/workspace.h"
#include "../tuning/tuning.h"

/* What the gates of one unit cost, in ns: measured at about 2 with AVX-512, next to products of width 1. */
#define GATES_NS 2.0
/* Rows of a block of steps: linear layers reach 0.95 of their speed at 128. */
#define BLOCK_ROWS 128
/* Where the weight does not fit in L2, each task reads all of it at each step: rows are not split below this. A product
 * with a weight of 4 MB measured 105 GFLOP/s at 8 rows, 149 at 16, 169 at 32 and 64 (AVX-512, one thread, L2 2 MB). */
#define MIN_TASK_ROWS 16

typedef struct {
    const tfast_recurrent* call;
    const tfast_row_kernels* kernels;
    int64_t gates, rows_per_task, block_steps, tasks_per_direction;
    tfast_status status;
} plan_t;

/* Some rows of one direction, and their place in scratch. */
typedef struct {
    const plan_t* plan;
    int64_t direction, rows;
    const int64_t* order; /* of these rows */
    int backwards;
    float *inputs, *projected; /* block rows x (inputs, G hidden): the input of a block of steps, and its share */
    float *gates, *h, *c;      /* rows x (G hidden, width, hidden) */
    float* unprojected;        /* rows x hidden, or empty: the state before its projection */
    const float* share;        /* of this step, in projected */
    int n_threads;
    int64_t step;
} rows_t;

static int64_t gates_of(const tfast_recurrent* c) {
    return c->cell == TFAST_LSTM ? 4 : 3;
}

/* The buffers of one task in one area: their size, and, with r set, their places. */
static size_t place_buffers(const plan_t* p, char* area, rows_t* r) {
    const tfast_recurrent* c = p->call;
    const int64_t rows = p->rows_per_task, gates = p->gates * c->hidden, block = rows * TFAST_MIN(c->L, p->block_steps);
    const int64_t sizes[] = {block * c->inputs,
                             block * gates,
                             rows * gates,
                             rows * c->width,
                             c->cell == TFAST_LSTM ? rows * c->hidden : 0,
                             c->projection[0] ? rows * c->hidden : 0};
    float* places[6] = {NULL};
    size_t bytes = 0;
    for (int i = 0; i < 6; i++) {
        if (r) places[i] = (float*)(area + bytes);
        bytes += tfast_align64((size_t)sizes[i] * sizeof(float));
    }
    if (r) {
        r->inputs = places[0], r->projected = places[1], r->gates = places[2];
        r->h = places[3], r->c = places[4], r->unprojected = places[5];
    }
    return bytes;
}

static tfast_status product(int64_t rows, const tfast_packed* weight, const float* bias, const float* x, float* y,
                            int n_threads) {
    const tfast_linear call = {.M = rows,
                               .x = x,
                               .x_stride = weight->K,
                               .weight = weight,
                               .bias = bias,
                               .activation = TFAST_IDENTITY,
                               .y = y,
                               .y_stride = weight->N};
    return tfast_linear_run(&call, n_threads);
}

/* Where the i-th of these rows stands at this step. */
static int64_t time_of(const rows_t* r, int64_t i) {
    return r->backwards ? r->plan->call->lengths[r->order[i]] - 1 - r->step : r->step;
}

static void copy_state(const rows_t* r, int64_t i) {
    const tfast_recurrent* c = r->plan->call;
    float* y = c->y + time_of(r, i) * c->y_stride[0] + r->order[i] * c->y_stride[1] + r->direction * c->width;
    memcpy(y, r->h + i * c->width, (size_t)c->width * sizeof(float));
}

static void run_gates(void* ctx, int64_t i, void* scratch) {
    (void)scratch;
    const rows_t* r = ctx;
    const tfast_recurrent* c = r->plan->call;
    const int64_t width = r->plan->gates * c->hidden;
    const float *x = r->share + i * width, *s = r->gates + i * width;
    if (c->cell == TFAST_GRU)
        r->plan->kernels->gru(c->hidden, x, s, r->h + i * c->width);
    else
        r->plan->kernels->lstm(c->hidden, x, s, r->c + i * c->hidden,
                               (c->projection[0] ? r->unprojected : r->h) + i * c->hidden);
    if (!c->projection[0]) copy_state(r, i);
}

static const float* bias_of(const rows_t* r, const float* bias) {
    return bias ? bias + r->direction * r->plan->gates * r->plan->call->hidden : NULL;
}

static tfast_status run_step(rows_t* r, int64_t rows) {
    const tfast_recurrent* c = r->plan->call;
    const int64_t d = r->direction;
    tfast_status status = product(rows, c->weight[d], bias_of(r, c->bias), r->h, r->gates, r->n_threads);
    if (status != TFAST_OK) return status;
    const tfast_parallel loop = {.n_tasks = rows, .task_ns = GATES_NS * (double)c->hidden, .n_threads = r->n_threads};
    status = tfast_parallel_for(&loop, run_gates, r);
    if (status != TFAST_OK || !c->projection[0]) return status;
    status = product(rows, c->projection[d], NULL, r->unprojected, r->h, r->n_threads);
    for (int64_t i = 0; i < rows; i++) copy_state(r, i);
    return status;
}

/* How many of the first `rows` rows still run at a step. */
static int64_t running(const rows_t* r, int64_t rows, int64_t step) {
    while (rows > 0 && r->plan->call->lengths[r->order[rows - 1]] <= step) rows--;
    return rows;
}

/* The input's share of the gates for the steps [r->step, last), the running rows of each after those of the one before.
 */
static tfast_status project_block(rows_t* r, int64_t rows, int64_t last) {
    const tfast_recurrent* c = r->plan->call;
    const int64_t d = r->direction, first = r->step;
    int64_t total = 0;
    float* to = r->inputs;
    for (; r->step < last; r->step++, total += rows) {
        rows = running(r, rows, r->step);
        for (int64_t i = 0; i < rows; i++, to += c->inputs)
            memcpy(to, c->x + time_of(r, i) * c->x_stride[0] + r->order[i] * c->x_stride[1],
                   (size_t)c->inputs * sizeof(float));
    }
    r->step = first;
    r->share = r->projected;
    return product(total, c->input_weight[d], bias_of(r, c->input_bias), r->inputs, r->projected, r->n_threads);
}

/* The states of these rows between the caller's arrays and scratch. */
static void move_states(const rows_t* r, int out) {
    const tfast_recurrent* c = r->plan->call;
    const size_t h_bytes = (size_t)c->width * sizeof(float), c_bytes = (size_t)c->hidden * sizeof(float);
    for (int64_t i = 0; i < r->rows; i++) {
        const int64_t row = r->direction * c->B + r->order[i];
        float *h = r->h + i * c->width, *cell = r->c + i * c->hidden;
        memcpy(out ? c->h + row * c->width : h, out ? h : c->h + row * c->width, h_bytes);
        if (c->cell == TFAST_LSTM)
            memcpy(out ? c->c + row * c->hidden : cell, out ? cell : c->c + row * c->hidden, c_bytes);
    }
}

static void clear_behind_ends(const rows_t* r) {
    const tfast_recurrent* c = r->plan->call;
    for (int64_t i = 0; i < r->rows; i++)
        for (int64_t t = c->lengths[r->order[i]]; t < c->L; t++)
            memset(c->y + t * c->y_stride[0] + r->order[i] * c->y_stride[1] + r->direction * c->width, 0,
                   (size_t)c->width * sizeof(float));
}

static tfast_status run_steps(rows_t* r) {
    const tfast_recurrent* c = r->plan->call;
    const int64_t width = r->plan->gates * c->hidden, block = r->plan->block_steps;
    move_states(r, 0);
    int64_t rows = r->rows;
    for (r->step = 0; r->step < c->L && (rows = running(r, rows, r->step)) > 0; r->step++, r->share += rows * width) {
        tfast_status status = TFAST_OK;
        if (r->step % block == 0) status = project_block(r, rows, TFAST_MIN(r->step + block, c->L));
        if (status == TFAST_OK) status = run_step(r, rows);
        if (status != TFAST_OK) return status;
    }
    move_states(r, 1);
    clear_behind_ends(r);
    return TFAST_OK;
}

static void run_task(void* ctx, int64_t task, void* scratch) {
    plan_t* p = ctx;
    const tfast_recurrent* c = p->call;
    const int64_t direction = task / p->tasks_per_direction, first = task % p->tasks_per_direction * p->rows_per_task;
    rows_t r = {.plan = p,
                .direction = direction,
                .rows = TFAST_MIN(p->rows_per_task, c->B - first),
                .order = c->order + first,
                .backwards = direction == 1 || c->reverse,
                .n_threads = 1};
    place_buffers(p, scratch, &r);
    const tfast_status status = run_steps(&r);
    if (status != TFAST_OK) __atomic_store_n(&p->status, status, __ATOMIC_RELAXED);
}

/* All rows of one direction after the other, each step over all threads. */
static tfast_status run_whole(const plan_t* p, int n_threads) {
    const tfast_recurrent* c = p->call;
    void* area = tfast_workspace_take(place_buffers(p, NULL, NULL));
    if (!area) return TFAST_NO_MEMORY;
    tfast_status status = TFAST_OK;
    for (int64_t d = 0; d < c->directions && status == TFAST_OK; d++) {
        rows_t r = {.plan = p,
                    .direction = d,
                    .rows = c->B,
                    .order = c->order,
                    .backwards = d == 1 || c->reverse,
                    .n_threads = n_threads};
        place_buffers(p, area, &r);
        status = run_steps(&r);
    }
    tfast_workspace_give(area);
    return status;
}

tfast_status tfast_recurrent_run(const tfast_recurrent* c, int n_threads) {
    plan_t p = {.call = c, .kernels = tfast_kernels_now()->rows, .gates = gates_of(c), .status = TFAST_OK};
    for (int64_t d = 0; d < c->directions; d++)
        if (!tfast_packed_fits(c->weight[d]) || (c->input_weight[d] && !tfast_packed_fits(c->input_weight[d])) ||
            (c->projection[d] && !tfast_packed_fits(c->projection[d])))
            return TFAST_WRONG_LAYOUT;
    if (c->B == 0 || c->L == 0) return TFAST_OK;
    const double weights = (double)(p.gates * c->hidden * (c->inputs + c->width));
    const double ns =
        (double)(c->L * c->B * c->directions) * (tfast_flops_ns(2.0 * weights) + GATES_NS * (double)c->hidden);
    const int threads = tfast_threads_for(ns, n_threads);
    /* Rows are cut into as many tasks as there are threads for each direction, whole tiles each. */
    const int64_t wanted = tfast_ceil_div(threads, c->directions);
    const int64_t tile = c->weight[0]->n_parts ? 1 : c->weight[0]->gemm->tile_rows;
    p.rows_per_task = TFAST_MIN(c->B, tfast_round_up(tfast_ceil_div(c->B, wanted), tile));
    p.tasks_per_direction = tfast_ceil_div(c->B, p.rows_per_task);
    const int64_t tasks = p.tasks_per_direction * c->directions;
    const double bytes = (double)(p.gates * c->hidden * c->width) * (double)sizeof(float);
    const int too_few = p.rows_per_task < MIN_TASK_ROWS && bytes > (double)tfast_cpu_info()->l2_bytes;
    const int whole = tasks < threads || (p.tasks_per_direction > 1 && too_few);
    if (whole) p.rows_per_task = c->B;
    p.block_steps = tfast_ceil_div(BLOCK_ROWS, p.rows_per_task);
    if (whole) return run_whole(&p, n_threads);
    const tfast_parallel loop = {.n_tasks = tasks,
                                 .task_ns = ns / (double)tasks,
                                 .n_threads = n_threads,
                                 .scratch_bytes = place_buffers(&p, NULL, NULL)};
    const tfast_status status = tfast_parallel_for(&loop, run_task, &p);
    return status != TFAST_OK ? status : p.status;
}
